//! The operands of attention in few bits.
//!
//! Weights of values, what the softmax gives, are mostly tiny and seldom large: codes of their logarithm keep both. Base `√2` (Li
//! et al., RepQ-ViT, arXiv:2212.08254) has twice the levels of base 2, and still costs a shift alone: `2^(-q/2)` is a shift by
//! `⌈q/2⌉` of one of two numbers, `s` and `√2 s`, that the parity of the code chooses.

use std::f32::consts::SQRT_2;

use burn::tensor::{Tensor, TensorData};
use trimtab_io::{AttentionConfig, Checkpoint, read_input_steps};

use crate::activation::{ActivationQuantizer, SoftmaxCode, SoftmaxScheme};
use crate::error::{Error, Result};
use crate::weight::host;

/// What enters the two products of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operand {
    /// Queries.
    Queries,
    /// Keys.
    Keys,
    /// Values.
    Values,
    /// What the softmax gives.
    Weights,
}

/// What rounds the operands of attention.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttentionQuantizer {
    /// Of queries, keys and values; a token is one of one head.
    pub operands: Option<[ActivationQuantizer; 3]>,
    /// Of what the softmax gives.
    pub weights: Option<SoftmaxQuantizer>,
}

impl AttentionQuantizer {
    /// As the file of a checkpoint has it for a block.
    ///
    /// # Errors
    ///
    /// Steps that are missing, have another shape, or are none.
    pub fn read(checkpoint: &Checkpoint, block: &str, config: &AttentionConfig) -> Result<Self> {
        let [of_operands, of_weights] = AttentionConfig::modules(block);
        let operands = config.operands.map(|scheme| -> Result<_> {
            let steps = read_input_steps(checkpoint, &of_operands, scheme, 3)?;
            let one =
                |i: usize| ActivationQuantizer::new(scheme, steps.get(i).copied().into_iter().collect());
            Ok([one(0)?, one(1)?, one(2)?])
        });
        let weights = config.weights.map(|scheme| -> Result<_> {
            let name = format!("{of_weights}.input_scale");
            match checkpoint.tensor(&name)?.to_f32()?[..] {
                [scale] => SoftmaxQuantizer::new(scheme, scale),
                ref other => Err(Error::Activation {
                    message: format!("\"{name}\" has {} numbers, expected one", other.len()),
                }),
            }
        });
        Ok(Self { operands: operands.transpose()?, weights: weights.transpose()? })
    }
}

/// What rounds the weights of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftmaxQuantizer {
    /// The codes.
    pub scheme: SoftmaxScheme,
    /// The largest weight that has a code, positive.
    pub scale: f32,
}

impl SoftmaxQuantizer {
    /// Codes whose largest value is `scale`, at least `1e-8`.
    ///
    /// # Errors
    ///
    /// Bits that are not 2 to 8, and a scale that is no number.
    pub fn new(scheme: SoftmaxScheme, scale: f32) -> Result<Self> {
        if !(2..=8).contains(&scheme.bits) || !scale.is_finite() {
            let message = format!("attention weights in {scheme} have the scale {scale}");
            return Err(Error::Activation { message });
        }
        Ok(Self { scheme, scale: scale.max(1e-8) })
    }

    /// The highest code.
    pub fn highest(&self) -> u8 {
        ((1u16 << self.scheme.bits) - 1) as u8
    }

    /// The code of a weight; `None` is exactly 0, for what is too small for the codes of a logarithm.
    pub fn encode(&self, weight: f32) -> Option<u8> {
        let highest = f32::from(self.highest());
        let code = match self.scheme.code {
            SoftmaxCode::Uniform => (weight * highest / self.scale).round_ties_even().min(highest),
            SoftmaxCode::Log2 => (-(weight / self.scale).log2()).round_ties_even(),
            SoftmaxCode::LogSqrt2 => (-2.0 * (weight / self.scale).log2()).round_ties_even(),
        };
        (code <= highest).then_some(code.max(0.0) as u8)
    }

    /// What a code stands for: for base `√2`, one of two numbers shifted.
    pub fn decode(&self, code: u8) -> f32 {
        let shifted = |number: f32, by: u8| number * (-f32::from(by)).exp2();
        match self.scheme.code {
            SoftmaxCode::Uniform => self.scale / f32::from(self.highest()) * f32::from(code),
            SoftmaxCode::Log2 => shifted(self.scale, code),
            SoftmaxCode::LogSqrt2 => {
                shifted([self.scale, self.scale * SQRT_2][usize::from(code % 2)], code.div_ceil(2))
            }
        }
    }

    /// Rounds weights where they lie; what is no number stays so.
    pub(crate) fn round_row(&self, row: &mut [f32]) {
        for weight in row.iter_mut().filter(|weight| !weight.is_nan() && **weight != 0.0) {
            *weight = self.encode(*weight).map_or(0.0, |code| self.decode(code));
        }
    }

    /// Weights, rounded; gradients pass as if they were not.
    pub fn round(&self, weights: Tensor<4>) -> Tensor<4> {
        let (dims, device) = (weights.dims(), weights.device());
        let mut rounded = host(weights.clone().detach());
        self.round_row(&mut rounded);
        let rounded = Tensor::<4>::from_data(TensorData::new(rounded, dims), &device);
        rounded + (weights.clone() - weights.detach())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::super::{Scoring, Sight, attend, weights};
    use super::*;
    use crate::activation::{ActivationGranularity, ActivationScheme};

    #[test]
    fn base_root_two_is_a_shift_of_one_of_two_numbers_and_its_error_is_bounded() {
        for (code, bound) in
            [(SoftmaxCode::LogSqrt2, 2f32.powf(0.25) - 1.0), (SoftmaxCode::Log2, SQRT_2 - 1.0)]
        {
            for (bits, scale) in [(4, 0.37f32), (4, 1.0), (6, 0.052)] {
                let quantizer = SoftmaxQuantizer::new(SoftmaxScheme { code, bits }, scale).unwrap();
                if code == SoftmaxCode::LogSqrt2 {
                    for q in 0..=quantizer.highest() {
                        let odd = f32::from(q % 2);
                        let direct =
                            scale * 2f32.powi(-i32::from(q.div_ceil(2))) * (1.0 + (SQRT_2 - 1.0) * odd);
                        assert_eq!(quantizer.decode(q).to_bits(), direct.to_bits(), "{bits} {scale} {q}");
                        let exact = f64::from(scale) * 2f64.powf(-f64::from(q) / 2.0);
                        assert!((f64::from(quantizer.decode(q)) - exact).abs() <= 1e-6 * exact);
                    }
                }
                let least = quantizer.decode(quantizer.highest());
                let mut worst = 0.0f32;
                for i in 0..20_000 {
                    let x = scale * (-(i as f32) * 0.002).exp2();
                    match quantizer.encode(x) {
                        Some(q) => worst = worst.max((quantizer.decode(q) - x).abs() / x),
                        None => assert!(x < least, "{x} has a code"),
                    }
                }
                assert!(worst <= bound * 1.0001, "{code:?} {bits} {scale}: {worst}");
                // Control: the bound of base √2 is one that base 2 does not keep.
                assert!(worst > 0.9 * bound);
                assert_eq!((quantizer.encode(0.0), quantizer.encode(2.0 * scale)), (None, Some(0)));
            }
        }
        let uniform = SoftmaxQuantizer::new("int4 uniform".parse().unwrap(), 0.5).unwrap();
        assert_eq!(
            (uniform.encode(0.1), uniform.encode(0.0), uniform.encode(1.0)),
            (Some(3), Some(0), Some(15))
        );
        assert!((uniform.decode(3) - 0.1).abs() < 1e-7);
    }

    #[test]
    fn kernel_and_framework_round_alike_and_queries_that_see_nothing_get_nothing() {
        let value = |i: usize| ((i * 7919 % 1000) as f32 - 500.0) / 300.0;
        let build = |shape: [usize; 4], salt: usize, device: &Device| {
            let n = shape.iter().product();
            let values: Vec<f32> = (0..n).map(|i| value(i + salt)).collect();
            Tensor::<4>::from_data(TensorData::new(values, shape), device)
        };
        let operand = |bits| {
            let scheme = ActivationScheme::new(bits, ActivationGranularity::Tensor);
            ActivationQuantizer::new(scheme, vec![scheme.step(-1.5, 1.6)]).unwrap()
        };
        let rounding = AttentionQuantizer {
            operands: Some([operand(8), operand(8), operand(6)]),
            weights: Some(SoftmaxQuantizer::new("int8 uniform".parse().unwrap(), 0.9).unwrap()),
        };
        for (t, s) in [(1, 1), (1, 9), (70, 70), (5, 12)] {
            for (causal, window) in [(true, None), (false, None), (true, Some(4)), (false, Some(3))] {
                for masked in [false, true] {
                    let sight = Sight { causal, window };
                    let run = |device: &Device, rounding: Option<&AttentionQuantizer>| {
                        let keep = (0..2 * s).map(|i| i % 5 != 2 || !masked).collect::<Vec<_>>();
                        let keep = Tensor::from_data(TensorData::new(keep, [2, s]), device);
                        let scoring =
                            Scoring { quantizer: rounding.cloned().map(Into::into), ..Scoring::default() };
                        let qkv = [
                            build([2, 4, t, 6], 3, device),
                            build([2, 2, s, 6], 11, device),
                            build([2, 2, s, 6], 29, device),
                        ];
                        host(attend(qkv, sight, Some(keep), None, &scoring, None))
                    };
                    let (here, there) = (Device::flex(), Device::flex().autodiff());
                    let (kernel, framework) = (run(&here, Some(&rounding)), run(&there, Some(&rounding)));
                    let far = |a: &[f32], b: &[f32]| {
                        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
                    };
                    // A weight at the middle of two codes may fall to either: one step of one value.
                    let tie = 0.9 / 255.0 * 1.6;
                    assert!(far(&kernel, &framework) < 1.01 * tie, "{t} {s} {sight:?} {masked}");
                    assert!(far(&kernel, &run(&here, None)) > 1e-4, "control: it rounds");
                    // The weights themselves, without rounding.
                    let [q, k] = [build([2, 4, t, 6], 3, &here), build([2, 2, s, 6], 11, &here)];
                    let keep = (0..2 * s).map(|i| i % 5 != 2 || !masked).collect::<Vec<_>>();
                    let keep = Tensor::from_data(TensorData::new(keep, [2, s]), &here);
                    let v = super::super::repeat_heads(build([2, 2, s, 6], 29, &here), 4);
                    let plain = weights([q, k], sight, Some(keep), None, &Scoring::default(), None).matmul(v);
                    let plain = host(plain.swap_dims(1, 2).reshape([2, t, 24]));
                    assert!(far(&plain, &run(&here, None)) < 1e-5, "{t} {s} {sight:?} {masked}");
                }
            }
        }
    }
}
