//! Gaussian noise on the gradient, less and less of it (paper 98).
//!
//! Source: Neelakantan et al., "Adding gradient noise improves learning for very deep networks", arXiv:1511.06807: every
//! coordinate of the gradient gets noise of *variance* `eta / (1 + t)^gamma` (several ports take it for the standard
//! deviation), `t` the step, after clipping.
//!
//! The noise of a coordinate is a function of seed, tensor, step and position alone. So replicas draw the same noise, a run that
//! is resumed goes on with it, and nothing has to be saved.

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};
use trimtab_math::random::Stream;

use crate::error::{Error, Result};
use crate::gradients::Gradients;

/// How much noise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GradientNoise {
    /// Variance at the first step; the paper takes 0.01, 0.3 or 1.
    pub eta: f64,
    /// How fast the variance falls.
    #[serde(default = "gamma")]
    pub gamma: f64,
}

fn gamma() -> f64 {
    0.55
}

impl GradientNoise {
    pub(crate) fn check(&self) -> Result<()> {
        match *self {
            Self { eta, .. } if !(eta >= 0.0 && eta.is_finite()) => {
                Err(Error::setting("noise.eta", format!("must not be negative, found {eta}")))
            }
            Self { gamma, .. } if !gamma.is_finite() => {
                Err(Error::setting("noise.gamma", format!("must be a number, found {gamma}")))
            }
            _ => Ok(()),
        }
    }

    /// Variance at step `t`, from 0.
    pub fn variance(&self, t: usize) -> f64 {
        self.eta / (1.0 + t as f64).powf(self.gamma)
    }

    /// Adds the noise of step `t`.
    pub fn apply(&self, gradients: &mut Gradients, seed: u64, t: usize) {
        if self.eta == 0.0 {
            return;
        }
        let deviation = self.variance(t).sqrt();
        for (path, gradient) in gradients.iter_mut() {
            let [n] = gradient.values.dims();
            let mut stream = Stream::new(seed, &format!("train/noise/{path}"), t as u64, 0);
            let noise: Vec<f32> = (0..n).map(|_| (deviation * stream.normal()) as f32).collect();
            let noise = Tensor::from_data(TensorData::new(noise, [n]), &gradient.values.device());
            gradient.values = gradient.values.clone() + noise;
        }
    }
}
