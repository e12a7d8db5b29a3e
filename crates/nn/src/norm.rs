//! Norms and activations: the diagonal and pointwise maps between sites.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData, activation};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use trimtab_math::vector;

use crate::axis::Axis;
use crate::ctx::Ctx;
use crate::differentiable;
use crate::weight::{host, on_host};

/// Numbers that one task maps.
const PART: usize = 1 << 14;

/// Which statistics a norm removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// Divides by the root mean square.
    Rms,
    /// Subtracts the mean and divides by the standard deviation (biased).
    Layer,
}

/// A norm over the last dimension: `x / sqrt(var + eps) * gain + bias`, `eps` inside the root.
#[derive(Module, Debug)]
pub struct Norm {
    /// Gain, `[C]`.
    pub gain: Param<Tensor<1>>,
    /// Bias, `[C]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    name: String,
    #[module(skip)]
    kind: NormKind,
    #[module(skip)]
    eps: f64,
    #[module(skip)]
    axis: Axis,
    #[module(skip)]
    offset: f32,
}

impl Norm {
    /// A norm along `axis`; `name` is its module path in the checkpoint.
    pub fn new(
        name: impl Into<String>,
        (kind, eps): (NormKind, f64),
        axis: Axis,
        gain: Tensor<1>,
        bias: Option<Tensor<1>>,
    ) -> Self {
        let name = name.into();
        Self {
            gain: Param::from_tensor(gain),
            bias: bias.map(Param::from_tensor),
            name,
            kind,
            eps,
            axis,
            offset: 0.0,
        }
    }

    /// The same norm, whose gain is stored less `offset` (1 for Gemma).
    pub fn with_offset(mut self, offset: f32) -> Self {
        self.offset = offset;
        self
    }

    /// What the norm multiplies with, `[C]`.
    pub fn effective_gain(&self) -> Tensor<1> {
        let gain = self.gain.val();
        if self.offset == 0.0 { gain } else { gain + self.offset }
    }

    /// Module path in the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The axis that the gain is a diagonal map on.
    pub fn axis(&self) -> &Axis {
        &self.axis
    }

    /// Normalizes `x` (`[.., C]`).
    pub fn forward<const D: usize>(&self, x: Tensor<D>, ctx: &mut Ctx<'_>) -> Tensor<D> {
        if on_host(&x.device()) {
            return self.forward_on_host(x);
        }
        let x = match self.kind {
            NormKind::Rms => x,
            NormKind::Layer => {
                let mean = x.clone().mean_dim(D - 1);
                x - mean
            }
        };
        let power = (x.clone() * x.clone()).mean_dim(D - 1);
        let normalized = x * (power + self.eps).sqrt().recip();
        let y = normalized.clone() * self.effective_gain().unsqueeze();
        let y = match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        };
        let Some(capture) = ctx.capture.as_deref_mut() else { return y };
        let dims = y.dims();
        let rows = |x: Tensor<D>| x.reshape([-1, dims[D - 1] as isize]);
        capture.norm(&self.name, self.bias.is_some(), dims[0], rows(normalized), rows(y)).reshape(dims)
    }

    /// One pass over the rows, instead of one for each operation.
    fn forward_on_host<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (dims, device) = (x.dims(), x.device());
        let width = dims[D - 1];
        let mut values = host(x);
        let gain = host(self.effective_gain());
        let bias = self.bias.as_ref().map(|bias| host(bias.val()));
        let rows = |rows: &mut [f32]| {
            for row in rows.chunks_exact_mut(width) {
                vector::normalize(row, self.kind == NormKind::Layer, self.eps, &gain, bias.as_deref());
            }
        };
        match values.len() <= PART {
            true => rows(&mut values),
            false => values.par_chunks_mut((PART / width).max(1) * width).for_each(rows),
        }
        Tensor::from_data(TensorData::new(values, dims), &device)
    }
}

/// Pointwise nonlinearities, by their names in `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x sigmoid(x)`.
    #[serde(alias = "swish")]
    Silu,
    /// Exact GELU (error function).
    #[serde(alias = "gelu_python")]
    Gelu,
    /// GELU by the tanh approximation.
    #[serde(alias = "gelu_pytorch_tanh", alias = "gelu_fast")]
    GeluNew,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `relu6(x + 3) / 6`.
    Hardsigmoid,
    /// `x relu6(x + 3) / 6`.
    Hardswish,
    /// `x sigmoid(1.702 x)` (CLIP).
    QuickGelu,
    /// Hyperbolic tangent.
    Tanh,
    /// `x` above 0, `exp(x) - 1` below (Clevert et al., arXiv:1511.07289).
    Elu,
}

impl Activation {
    /// Applies the activation.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        if on_host(&x.device())
            && let Some(f) = self.in_place()
        {
            let (dims, device) = (x.dims(), x.device());
            let mut values = host(x);
            match values.len() <= PART {
                true => f(&mut values),
                false => values.par_chunks_mut(PART).for_each(f),
            }
            return Tensor::from_data(TensorData::new(values, dims), &device);
        }
        match self {
            Self::Silu => activation::silu(x),
            Self::Gelu => activation::gelu(x),
            Self::GeluNew => activation::gelu_approximate(x),
            Self::Relu if differentiable::is_here(&x) => differentiable::relu(x),
            Self::Relu => activation::relu(x),
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::Sigmoid => activation::sigmoid(x),
            Self::Hardsigmoid => (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Self::QuickGelu => x.clone() * activation::sigmoid(x * 1.702),
            Self::Tanh => x.tanh(),
            // The exponential sees no positive number, which could overflow it.
            Self::Elu => x.clone().clamp_min(0.0) + (x.clamp_max(0.0).exp() - 1.0),
            Self::Hardswish => (x.clone() + 3.0).clamp(0.0, 6.0) / 6.0 * x,
        }
    }

    /// A loop over numbers on the host, where the house has one.
    fn in_place(self) -> Option<fn(&mut [f32])> {
        fn each(values: &mut [f32], f: impl Fn(f32) -> f32) {
            values.iter_mut().for_each(|v| *v = f(*v));
        }
        /// Unlike `f32::max`, NaN stays.
        fn clip(v: f32, high: f32) -> f32 {
            let v = if v < 0.0 { 0.0 } else { v };
            if v > high { high } else { v }
        }
        match self {
            Self::Silu => Some(vector::silu),
            Self::Relu => Some(|values| each(values, |v| clip(v, f32::INFINITY))),
            Self::Relu6 => Some(|values| each(values, |v| clip(v, 6.0))),
            Self::Hardsigmoid => Some(|values| each(values, |v| clip(v + 3.0, 6.0) / 6.0)),
            Self::Hardswish => Some(|values| each(values, |v| clip(v + 3.0, 6.0) / 6.0 * v)),
            Self::Gelu | Self::GeluNew | Self::Sigmoid | Self::QuickGelu | Self::Tanh | Self::Elu => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn activations_are_those_of_their_definitions_on_both_paths() {
        let (plain, gradients) = (Device::flex(), Device::flex().autodiff());
        let inputs = [-7.0f32, -3.0, -1.5, -0.0, 0.25, 2.0, 3.0, 5.5, 9.0];
        let relu6 = |x: f64| x.clamp(0.0, 6.0);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        type Definition<'a> = &'a dyn Fn(f64) -> f64;
        let cases: [(Activation, Definition<'_>); 7] = [
            (Activation::Elu, &|x| if x > 0.0 { x } else { x.exp_m1() }),
            (Activation::Relu, &|x| x.max(0.0)),
            (Activation::Relu6, &relu6),
            (Activation::Sigmoid, &sigmoid),
            (Activation::Silu, &|x| x * sigmoid(x)),
            (Activation::Hardsigmoid, &|x| relu6(x + 3.0) / 6.0),
            (Activation::Hardswish, &|x| x * relu6(x + 3.0) / 6.0),
        ];
        for (activation, exact) in cases {
            for device in [&plain, &gradients] {
                let y = host(
                    activation.forward(Tensor::<1>::from_data(TensorData::new(inputs.to_vec(), [9]), device)),
                );
                for (y, x) in y.iter().zip(inputs) {
                    let exact = exact(f64::from(x));
                    assert!(
                        (f64::from(*y) - exact).abs() <= 1e-6 * (1.0 + exact.abs()),
                        "{activation:?} {x}: {y}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for activation in [Activation::Relu, Activation::Relu6, Activation::Hardswish] {
            let x = Tensor::<1>::from_data(TensorData::new(vec![f32::NAN], [1]), &Device::flex());
            assert!(host(activation.forward(x))[0].is_nan(), "{activation:?}");
        }
    }
}
