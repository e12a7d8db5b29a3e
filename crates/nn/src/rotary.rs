//! Rotary position embedding, the half-split form of Llama and its kin.
//!
//! Source: Su et al., arXiv:2104.09864; the `llama3` frequency scaling as in the Llama 3.1 model card.

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

/// How the frequencies are stretched for long contexts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RotaryScaling {
    /// Frequencies as they are.
    None,
    /// All frequencies divided by a factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// The divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_positions / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_positions / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Positions that the model saw before it was stretched.
        original_positions: f64,
    },
}

/// Settings of the rotation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rotary {
    /// Base of the geometric row of frequencies.
    pub theta: f64,
    /// Channels of a head that are rotated (even).
    pub dim: usize,
    /// Stretching.
    pub scaling: RotaryScaling,
}

impl Rotary {
    /// Inverse frequencies, `[dim / 2]`, radians per position.
    pub fn inverse_frequencies(&self) -> Vec<f64> {
        let plain = (0..self.dim / 2).map(|i| self.theta.powf(-(2.0 * i as f64) / self.dim as f64));
        plain.map(|f| self.scaling.apply(f)).collect()
    }

    /// Cosines and sines, each `[1, 1, len, dim / 2]`, for positions `start .. start + len`.
    pub fn tables(&self, start: usize, len: usize, device: &Device) -> (Tensor<4>, Tensor<4>) {
        let frequencies = self.inverse_frequencies();
        let angles: Vec<f32> = (start..start + len)
            .flat_map(|position| frequencies.iter().map(move |&f| position as f32 * f as f32))
            .collect();
        let table =
            |values: Vec<f32>| Tensor::from_data(TensorData::new(values, [1, 1, len, self.dim / 2]), device);
        (table(angles.iter().map(|a| a.cos()).collect()), table(angles.iter().map(|a| a.sin()).collect()))
    }
}

impl RotaryScaling {
    fn apply(&self, frequency: f64) -> f64 {
        match *self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
                let wavelength = std::f64::consts::TAU / frequency;
                if wavelength < original_positions / high_freq_factor {
                    frequency
                } else if wavelength > original_positions / low_freq_factor {
                    frequency / factor
                } else {
                    let ramp = (original_positions / wavelength - low_freq_factor)
                        / (high_freq_factor - low_freq_factor);
                    (1.0 - ramp) * frequency / factor + ramp * frequency
                }
            }
        }
    }
}

/// Rotates the first `2 * half` channels of every head of `x` (`[B, H, T, d]`); the rest passes through.
pub fn rotate(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    let [b, h, t, d] = x.dims();
    let half = cos.dims()[3];
    let first = x.clone().slice([0..b, 0..h, 0..t, 0..half]);
    let second = x.clone().slice([0..b, 0..h, 0..t, half..2 * half]);
    let mut parts =
        vec![first.clone() * cos.clone() - second.clone() * sin.clone(), second * cos + first * sin];
    if 2 * half < d {
        parts.push(x.slice([0..b, 0..h, 0..t, 2 * half..d]));
    }
    Tensor::cat(parts, 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotary(scaling: RotaryScaling) -> Rotary {
        Rotary { theta: 10_000.0, dim: 4, scaling }
    }

    #[test]
    fn a_rotation_keeps_norms_and_depends_on_the_distance_only() {
        let device = Device::flex();
        let (cos, sin) = rotary(RotaryScaling::None).tables(0, 6, &device);
        let head = |v: [f32; 4]| Tensor::<4>::from_data(TensorData::new(v.repeat(6), [1, 1, 6, 4]), &device);
        let q = rotate(head([0.3, -1.0, 0.7, 0.2]), cos.clone(), sin.clone());
        let k = rotate(head([-0.5, 0.1, 0.9, 1.3]), cos, sin);
        let scores: Vec<f32> = q.matmul(k.swap_dims(2, 3)).into_data().try_into_vec().unwrap();
        assert!((scores[6 + 3] - scores[2 * 6 + 4]).abs() < 1e-5, "same distance, same score");
        assert!((scores[6 + 3] - scores[6 + 5]).abs() > 1e-3, "another distance, another score");
    }

    #[test]
    fn llama3_scaling_divides_only_long_wavelengths() {
        let scaling = RotaryScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_positions: 64.0,
        };
        let f = rotary(scaling).inverse_frequencies();
        assert_eq!(f[0], 1.0, "wavelength 6.3 is short");
        assert!((f[1] - 0.01 / 8.0).abs() < 1e-12, "wavelength 628 is long");
    }
}
