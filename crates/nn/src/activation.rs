//! Activations in few bits: what a site reads is rounded to integer codes before it is multiplied.
//!
//! Codes are unsigned inside, `0 ..= 2^b - 1`, and mean `x̂ = s (q - z)` with a step `s > 0` and an integer zero `z`, so that 0 is a
//! code itself; symmetric codes have `z = 2^(b-1)`. Rounding is half to even. On the CPU and without gradients, where the weight has integer
//! codes with one scale a row and a row of the input has one step, the codes are multiplied as integers, and their sum is exact; elsewhere
//! `x̂` is multiplied in single precision. With gradients, rounding passes them on and clipping stops them.

use std::borrow::Cow;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::kernels::CodeRows;
use crate::straight_through;
use crate::weight::{host, on_host};
use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use trimtab_io::{Checkpoint, read_input_steps};

pub use trimtab_io::{ActivationGranularity, ActivationScheme, ActivationStep, SoftmaxCode, SoftmaxScheme};

/// Rounds numbers where they lie.
fn round(step: ActivationStep, values: &mut [f32], highest: u8) {
    let zero = f32::from(step.zero);
    let (low, high) = (-zero, f32::from(highest) - zero);
    values.iter_mut().for_each(|x| *x = step.scale * whole(*x / step.scale, low, high));
}

/// Between 2^23 and 2^24 floats are the whole numbers: what is added to this one is rounded, as the processor does, half to even.
const WHOLE: f32 = 12_582_912.0;

/// The nearest whole number between two whole numbers, half to even; what is no number stays so.
#[inline(always)]
fn whole(x: f32, low: f32, high: f32) -> f32 {
    x.clamp(low, high) + WHOLE - WHOLE
}

/// [`ActivationStep::code`] of many numbers.
fn encode(step: ActivationStep, values: &[f32], highest: u8, codes: &mut [u8]) {
    let zero = f32::from(step.zero);
    let (low, high) = (-zero, f32::from(highest) - zero);
    for (code, x) in codes.iter_mut().zip(values) {
        // What is no number has the code 0. The low byte of the sum is that of the whole number.
        let sum = (x / step.scale).max(low).min(high) + WHOLE;
        *code = (sum.to_bits() as u8).wrapping_add(step.zero);
    }
}

/// Rows of codes that integers can multiply: each row has one step.
pub(crate) struct CodedRows {
    codes: Vec<u8>,
    steps: Vec<ActivationStep>,
}

impl CodedRows {
    /// As the kernels read them.
    pub(crate) fn view(&self) -> CodeRows<'_> {
        CodeRows { codes: &self.codes, steps: &self.steps }
    }
}

/// What rounds the input of a site.
#[derive(Module, Debug)]
pub struct ActivationQuantizer {
    #[module(skip)]
    parts: Arc<Parts>,
}

#[derive(Clone, Debug, PartialEq)]
struct Parts {
    scheme: ActivationScheme,
    /// Of the tensor, or of each channel; empty where they are found as activations come.
    steps: Vec<ActivationStep>,
}

impl PartialEq for ActivationQuantizer {
    fn eq(&self, other: &Self) -> bool {
        self.parts == other.parts
    }
}

impl ActivationQuantizer {
    /// Steps that are found as activations come.
    ///
    /// # Errors
    ///
    /// A scheme that needs steps, or has other bits than 4 to 8.
    pub fn dynamic(scheme: ActivationScheme) -> Result<Self> {
        Self::new(scheme, Vec::new())
    }

    /// Steps that were found beforehand: one for the tensor, or one a channel.
    ///
    /// # Errors
    ///
    /// Steps that are not positive numbers, zeros that are no codes, another number of steps than the scheme needs, or bits that
    /// are not 4 to 8.
    pub fn new(scheme: ActivationScheme, steps: Vec<ActivationStep>) -> Result<Self> {
        scheme.check()?;
        let fits = match scheme.granularity {
            ActivationGranularity::Tensor => steps.len() == 1,
            ActivationGranularity::Channel => !steps.is_empty(),
            ActivationGranularity::Token | ActivationGranularity::Call => steps.is_empty(),
        };
        if !fits {
            return Err(Error::Activation { message: format!("{scheme} cannot have {} steps", steps.len()) });
        }
        let middle = scheme.middle();
        for ActivationStep { scale, zero } in &steps {
            if !(*scale > 0.0 && scale.is_finite()) {
                return Err(Error::Activation { message: format!("{scheme} has the step {scale}") });
            }
            if *zero > scheme.highest() || (scheme.symmetric && *zero != middle) {
                return Err(Error::Activation { message: format!("{scheme} has the zero {zero}") });
            }
        }
        Ok(Self { parts: Arc::new(Parts { scheme, steps }) })
    }

    /// As the file of a checkpoint has it for a module whose input has so many channels.
    ///
    /// # Errors
    ///
    /// Steps that are missing, have another shape, or are none.
    pub fn read(
        checkpoint: &Checkpoint,
        module: &str,
        scheme: ActivationScheme,
        channels: usize,
    ) -> Result<Self> {
        let count = if scheme.granularity == ActivationGranularity::Channel { channels } else { 1 };
        Self::new(scheme, read_input_steps(checkpoint, module, scheme, count)?)
    }

    /// The codes.
    pub fn scheme(&self) -> ActivationScheme {
        self.parts.scheme
    }

    /// Steps of the tensor or of each channel; empty where they are found as activations come.
    pub fn steps(&self) -> &[ActivationStep] {
        &self.parts.steps
    }

    /// Whether it can round rows of `channels`.
    pub fn fits(&self, channels: usize) -> bool {
        self.parts.scheme.granularity != ActivationGranularity::Channel || self.parts.steps.len() == channels
    }

    /// Codes of rows `[n, channels]`.
    ///
    /// # Panics
    ///
    /// If rows are of another width than its channels.
    pub fn codes(&self, rows: &[f32], channels: usize) -> Vec<u8> {
        if let Some(coded) = self.coded(rows, channels) {
            return coded.codes;
        }
        let (steps, highest) = (&self.parts.steps, self.scheme().highest());
        rows.iter().enumerate().map(|(i, &x)| steps[i % channels].code(x, highest)).collect()
    }

    /// Whether a row has one step for all its channels.
    pub(crate) fn steps_rows(&self) -> bool {
        self.scheme().granularity != ActivationGranularity::Channel
    }

    /// Codes of rows `[n, channels]`, where a row [has one step](Self::steps_rows); that of a row that holds what is no number is none.
    pub(crate) fn coded(&self, rows: &[f32], channels: usize) -> Option<CodedRows> {
        if !self.steps_rows() {
            return None;
        }
        let (width, highest) = (channels.max(1), self.scheme().highest());
        let mut steps = self.steps_of(rows, [channels, 1]).into_owned();
        if self.scheme().granularity != ActivationGranularity::Token {
            steps = vec![steps[0]; rows.len() / width];
        }
        let mut codes = vec![0u8; rows.len()];
        for ((row, codes), step) in rows.chunks(width).zip(codes.chunks_mut(width)).zip(&mut steps) {
            encode(*step, row, highest, codes);
            if row.iter().any(|x| x.is_nan()) {
                step.scale = f32::NAN;
            }
        }
        Some(CodedRows { codes, steps })
    }

    /// Rows `[n, channels]`, rounded.
    pub fn rows(&self, x: Tensor<2>) -> Tensor<2> {
        let [_, channels] = x.dims();
        self.round(x, [channels, 1])
    }

    /// Images `[B, C, H, W]`, rounded: zeros beside them are exact.
    pub fn images(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, channels, h, w] = x.dims();
        self.round(x, [channels, h * w])
    }

    /// An operand of attention, `[B, heads, T, d]`, rounded; a row is that of one head.
    pub fn heads(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, heads, t, d] = x.dims();
        self.round(x.reshape([b * heads * t, d]), [d, 1]).reshape([b, heads, t, d])
    }

    /// Steps of values `[outer, channels, inner]`.
    fn steps_of(&self, values: &[f32], [channels, inner]: [usize; 2]) -> Cow<'_, [ActivationStep]> {
        let Parts { scheme, steps } = &*self.parts;
        let of = |values: &[f32]| {
            let (low, high) =
                values.iter().fold((0.0f32, 0.0f32), |(low, high), &x| (low.min(x), high.max(x)));
            scheme.step(low, high)
        };
        match scheme.granularity {
            ActivationGranularity::Tensor | ActivationGranularity::Channel => Cow::Borrowed(steps),
            ActivationGranularity::Token => {
                Cow::Owned(values.chunks((channels * inner).max(1)).map(of).collect())
            }
            ActivationGranularity::Call => Cow::Owned(vec![of(values)]),
        }
    }

    /// `x` seen as `[outer, channels, inner]`, its second dimension being the channels.
    fn round<const D: usize>(&self, x: Tensor<D>, [channels, inner]: [usize; 2]) -> Tensor<D> {
        let (dims, device, highest) = (x.dims(), x.device(), self.scheme().highest());
        let granularity = self.scheme().granularity;
        if on_host(&device) {
            let mut values = host(x);
            let steps = self.steps_of(&values, [channels, inner]).into_owned();
            match granularity {
                ActivationGranularity::Tensor | ActivationGranularity::Call => {
                    round(steps[0], &mut values, highest);
                }
                ActivationGranularity::Token => {
                    let items = values.chunks_mut((channels * inner).max(1));
                    items.zip(&steps).for_each(|(item, step)| round(*step, item, highest));
                }
                ActivationGranularity::Channel => {
                    let parts = values.chunks_mut(inner.max(1)).zip(steps.iter().cycle());
                    parts.for_each(|(part, step)| round(*step, part, highest));
                }
            }
            return Tensor::from_data(TensorData::new(values, dims), &device);
        }
        let steps = match self.scheme().is_dynamic() {
            true => self.steps_of(&host(x.clone().detach()), [channels, inner]).into_owned(),
            false => self.parts.steps.clone(),
        };
        let mut shape = [1; D];
        match granularity {
            ActivationGranularity::Channel => shape[1] = steps.len(),
            ActivationGranularity::Token => shape[0] = steps.len(),
            ActivationGranularity::Tensor | ActivationGranularity::Call => {}
        }
        let tensor = |values: Vec<f32>| Tensor::<D>::from_data(TensorData::new(values, shape), &device);
        let scale = tensor(steps.iter().map(|step| step.scale).collect());
        let zero = tensor(steps.iter().map(|step| f32::from(step.zero)).collect());
        fake_quantize(x, scale, zero, highest)
    }
}

/// `scale (clip(⟨x / scale⟩, -zero, highest - zero))`, for a `scale` and whole `zero` that broadcast over `x`.
///
/// Gradients: rounding passes them on, clipping stops them. What `scale` gets is that of a learned step (Esser et al.,
/// arXiv:1902.08153), what `zero` gets comes from the clipped values alone.
pub fn fake_quantize<const D: usize>(
    x: Tensor<D>,
    scale: Tensor<D>,
    zero: Tensor<D>,
    highest: u8,
) -> Tensor<D> {
    let dims = x.dims();
    let (low, high) = (-zero.clone(), -zero + f32::from(highest));
    let clipped = (x / scale.clone()).max_pair(low.expand(dims)).min_pair(high.expand(dims));
    straight_through::round(clipped) * scale
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    const EACH: [ActivationGranularity; 4] = [
        ActivationGranularity::Tensor,
        ActivationGranularity::Channel,
        ActivationGranularity::Token,
        ActivationGranularity::Call,
    ];

    fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
    }

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919) % 1009) as f32 / 300.0 - 1.2).collect()
    }

    fn quantizer(scheme: ActivationScheme, channels: usize) -> ActivationQuantizer {
        let step = |i: usize| scheme.step(-0.8 - 0.1 * i as f32, 1.5 + 0.2 * i as f32);
        let steps = match scheme.granularity {
            ActivationGranularity::Tensor => vec![step(0)],
            ActivationGranularity::Channel => (0..channels).map(step).collect(),
            _ => Vec::new(),
        };
        ActivationQuantizer::new(scheme, steps).unwrap()
    }

    #[test]
    fn hand_case_with_ties() {
        // [-1, 14] in 4 bits: step 1, zero 1. Halves go to the even multiple of the step.
        let scheme = ActivationScheme::new(4, ActivationGranularity::Tensor);
        let step = scheme.step(-1.0, 14.0);
        assert_eq!(step, ActivationStep { scale: 1.0, zero: 1 });
        let x = [-7.0, -1.0, -0.5, 0.0, 0.5, 1.5, 2.5, 13.4, 14.0, 99.0];
        let rounded = [-1.0, -1.0, 0.0, 0.0, 0.0, 2.0, 2.0, 13.0, 14.0, 14.0];
        let quantizer = ActivationQuantizer::new(scheme, vec![step]).unwrap();
        assert_eq!(host(quantizer.rows(tensor(&x, [2, 5], &Device::flex()))), rounded);
        let codes = quantizer.codes(&x, 5);
        assert_eq!(codes, [0, 0, 1, 1, 1, 3, 3, 14, 15, 15]);
        assert!(codes.iter().zip(rounded).all(|(&code, value)| step.decode(code) == value));
        let symmetric = ActivationScheme { symmetric: true, ..scheme };
        assert_eq!(symmetric.step(-14.0, 3.0), ActivationStep { scale: 2.0, zero: 8 });
        // Zeros alone, and what is no number.
        assert_eq!(scheme.step(0.0, 0.0), scheme.step(-1.0, 1.0));
        let odd = host(quantizer.rows(tensor(&[f32::NAN, f32::INFINITY], [1, 2], &Device::flex())));
        assert!(odd[0].is_nan() && odd[1] == 14.0);
    }

    #[test]
    fn a_row_is_rounded_by_its_own_range_a_channel_by_its_own_step() {
        let x = [1.0, 2.0, 15.0, 100.0, 200.0, 1500.0];
        let token = ActivationScheme::new(4, ActivationGranularity::Token);
        let token = ActivationQuantizer::dynamic(token).unwrap();
        assert_eq!(host(token.rows(tensor(&x, [2, 3], &Device::flex()))), x, "steps 1 and 100");
        let call = ActivationScheme::new(4, ActivationGranularity::Call);
        let call = ActivationQuantizer::dynamic(call).unwrap();
        assert_eq!(
            host(call.rows(tensor(&x, [2, 3], &Device::flex()))),
            [0.0, 0.0, 0.0, 100.0, 200.0, 1500.0]
        );
        let channel = ActivationScheme::new(4, ActivationGranularity::Channel);
        let steps = [100.0, 200.0, 1500.0].map(|high| channel.step(0.0, 15.0 * high)).to_vec();
        let channel = ActivationQuantizer::new(channel, steps).unwrap();
        assert_eq!(
            host(channel.rows(tensor(&x, [2, 3], &Device::flex()))),
            [0.0, 0.0, 0.0, 100.0, 200.0, 1500.0]
        );
        // Two channels of an image of two pixels.
        let image = tensor(&[60.0, 90.0, 60.0, 900.0], [1, 2, 1, 2], &Device::flex());
        let scheme = ActivationScheme::new(4, ActivationGranularity::Channel);
        let steps = [100.0, 1000.0].map(|high| scheme.step(0.0, 15.0 * high)).to_vec();
        let channel = ActivationQuantizer::new(scheme, steps).unwrap();
        assert_eq!(host(channel.images(image)), [100.0, 100.0, 0.0, 1000.0]);
    }

    #[test]
    fn with_gradients_the_numbers_are_the_same_and_clipping_alone_stops_them() {
        let (host_device, tracked) = (Device::flex(), Device::flex().autodiff());
        let x = values(6 * 5);
        for granularity in EACH {
            for symmetric in [false, true] {
                for bits in 4..=8 {
                    let scheme = ActivationScheme { bits, symmetric, granularity };
                    let quantizer = quantizer(scheme, 5);
                    let plain = host(quantizer.rows(tensor(&x, [6, 5], &host_device)));
                    let leaf = tensor(&x, [6, 5], &tracked).require_grad();
                    let rounded = quantizer.rows(leaf.clone());
                    let gradients =
                        (rounded.clone() * tensor(&values(30), [6, 5], &tracked)).sum().backward();
                    assert_eq!(plain, host(rounded), "{scheme}");
                    let gradient = host(leaf.grad(&gradients).unwrap());
                    let codes = quantizer.codes(&x, 5);
                    let mut stopped = 0;
                    for (i, (&code, gradient)) in codes.iter().zip(gradient).enumerate() {
                        let inner = code > 0 && code < scheme.highest();
                        let expected = values(30)[i];
                        // At an end code a value may lie inside or outside; inside it is passed on.
                        let passes = (gradient - expected).abs() <= 1e-6 * expected.abs().max(1.0);
                        assert!(passes || (!inner && gradient == 0.0), "{scheme} {i}: {gradient} {expected}");
                        stopped += usize::from(!passes);
                    }
                    assert!(scheme.is_dynamic() || stopped > 0, "control: {scheme} clips something");
                    let image = |device| host(quantizer.images(tensor(&x, [1, 5, 3, 2], device)));
                    assert_eq!(image(&host_device), image(&tracked), "{scheme}");
                }
            }
        }
    }

    #[test]
    fn the_gradient_of_a_step_is_that_of_differences_between_ties() {
        let device = Device::flex().autodiff();
        let (x, zero, highest) = ([0.31f32, 1.9, -0.2, 40.0, -9.0], 3.0, 15);
        let fake = |scale: f32, device: &Device| {
            let [scale, zero] = [scale, zero].map(|v| tensor(&[v], [1, 1], device));
            let scale = if device.is_autodiff() { scale.require_grad() } else { scale };
            (fake_quantize(tensor(&x, [1, 5], device), scale.clone(), zero, highest).sum(), scale)
        };
        let (sum, scale) = fake(0.7, &device);
        let found = host(scale.grad(&sum.backward()).unwrap())[0];
        // Codes are 0, 3, 0, 12 and -3: the sum of (code - x / s inside the range).
        let expected = (0.0 - 0.31 / 0.7) + (3.0 - 1.9 / 0.7) + (0.0 + 0.2 / 0.7) + 12.0 - 3.0;
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }

    #[test]
    fn steps_that_fit_no_scheme_are_refused() {
        let scheme = ActivationScheme::new(8, ActivationGranularity::Tensor);
        let step = |scale, zero| ActivationStep { scale, zero };
        for steps in [vec![], vec![step(1.0, 0); 2], vec![step(0.0, 0)], vec![step(f32::NAN, 0)]] {
            assert!(ActivationQuantizer::new(scheme, steps).is_err());
        }
        let narrow = ActivationScheme::new(4, ActivationGranularity::Tensor);
        assert!(ActivationQuantizer::new(narrow, vec![step(1.0, 16)]).is_err());
        let symmetric = ActivationScheme { symmetric: true, ..narrow };
        assert!(ActivationQuantizer::new(symmetric, vec![step(1.0, 7)]).is_err());
        assert!(ActivationQuantizer::dynamic(narrow).is_err());
    }
}
