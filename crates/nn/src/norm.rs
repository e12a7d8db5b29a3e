//! Norms and activations: the diagonal and pointwise maps between sites.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData, activation};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use trimtab_math::vector;

use crate::axis::Axis;
use crate::weight::{host, on_host};

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
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let x = match self.kind {
            NormKind::Rms => x,
            NormKind::Layer => {
                let mean = x.clone().mean_dim(D - 1);
                x - mean
            }
        };
        let power = (x.clone() * x.clone()).mean_dim(D - 1);
        let y = x * (power + self.eps).sqrt().recip() * self.effective_gain().unsqueeze();
        match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        }
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
    /// `x sigmoid(1.702 x)` (CLIP).
    QuickGelu,
    /// Hyperbolic tangent.
    Tanh,
}

impl Activation {
    /// Applies the activation.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Silu if on_host(&x.device()) => {
                let (dims, device) = (x.dims(), x.device());
                let mut values = host(x);
                values.par_chunks_mut(1 << 14).for_each(vector::silu);
                Tensor::from_data(TensorData::new(values, dims), &device)
            }
            Self::Silu => activation::silu(x),
            Self::Gelu => activation::gelu(x),
            Self::GeluNew => activation::gelu_approximate(x),
            Self::Relu => activation::relu(x),
            Self::QuickGelu => x.clone() * activation::sigmoid(x * 1.702),
            Self::Tanh => x.tanh(),
        }
    }
}
