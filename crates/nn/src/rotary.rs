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
    /// LongRoPE (Ding et al., arXiv:2402.13753): a divisor a frequency, one list for sequences that the model saw in its
    /// first training and one for longer ones.
    Long {
        /// Divisors up to `original_positions`, `[dim / 2]`.
        short: Vec<f64>,
        /// Divisors beyond, `[dim / 2]`.
        long: Vec<f64>,
        /// Positions that the model saw before it was stretched.
        original_positions: f64,
        /// Factor of cosines and sines.
        magnitude: f64,
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
    /// Whether channels `2 i` and `2 i + 1` are turned together (GPT-J) instead of `i` and `dim / 2 + i`.
    pub interleaved: bool,
}

impl Rotary {
    /// Inverse frequencies for a sequence of `positions`, `[dim / 2]`, radians per position.
    pub fn inverse_frequencies(&self, positions: usize) -> Vec<f64> {
        let plain = (0..self.dim / 2).map(|i| self.theta.powf(-(2.0 * i as f64) / self.dim as f64));
        match &self.scaling {
            RotaryScaling::Long { short, long, original_positions, .. } => {
                let divisors = if positions as f64 > *original_positions { long } else { short };
                plain.zip(divisors).map(|(f, divisor)| f / divisor).collect()
            }
            scaling => plain.map(|f| scaling.apply(f)).collect(),
        }
    }

    fn magnitude(&self) -> f32 {
        match self.scaling {
            RotaryScaling::Long { magnitude, .. } => magnitude as f32,
            _ => 1.0,
        }
    }

    /// Rotates queries or keys (`[B, H, T, d]`) with the [tables](Rotary::tables) of their positions.
    pub fn turn(&self, x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
        if self.interleaved { rotate_pairs(x, cos, sin) } else { rotate(x, cos, sin) }
    }

    /// Cosines and sines, each `[1, 1, len, dim / 2]`, for positions `start .. start + len`.
    pub fn tables(&self, start: usize, len: usize, device: &Device) -> (Tensor<4>, Tensor<4>) {
        let frequencies = self.inverse_frequencies(start + len);
        let magnitude = self.magnitude();
        let angles: Vec<f32> = (start..start + len)
            .flat_map(|position| frequencies.iter().map(move |&f| position as f32 * f as f32))
            .collect();
        let table =
            |values: Vec<f32>| Tensor::from_data(TensorData::new(values, [1, 1, len, self.dim / 2]), device);
        let of = |f: fn(f32) -> f32| table(angles.iter().map(|&a| f(a) * magnitude).collect());
        (of(f32::cos), of(f32::sin))
    }
}

impl RotaryScaling {
    fn apply(&self, frequency: f64) -> f64 {
        match *self {
            // Long has a divisor of its own for each frequency.
            Self::None | Self::Long { .. } => frequency,
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

/// [`rotate`], where neighbours are turned together.
fn rotate_pairs(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    let [b, h, t, d] = x.dims();
    let half = cos.dims()[3];
    let pairs = x.clone().slice([0..b, 0..h, 0..t, 0..2 * half]).reshape([b, h, t, half, 2]);
    let part = |i: usize| pairs.clone().slice([0..b, 0..h, 0..t, 0..half, i..i + 1]).reshape([b, h, t, half]);
    let (even, odd) = (part(0), part(1));
    let turned: Tensor<5> = Tensor::stack(
        vec![even.clone() * cos.clone() - odd.clone() * sin.clone(), odd * cos + even * sin],
        4,
    );
    let turned = turned.reshape([b, h, t, 2 * half]);
    if 2 * half == d {
        return turned;
    }
    Tensor::cat(vec![turned, x.slice([0..b, 0..h, 0..t, 2 * half..d])], 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotary(scaling: RotaryScaling) -> Rotary {
        Rotary { theta: 10_000.0, dim: 4, scaling, interleaved: false }
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
        let f = rotary(scaling).inverse_frequencies(1);
        assert_eq!(f[0], 1.0, "wavelength 6.3 is short");
        assert!((f[1] - 0.01 / 8.0).abs() < 1e-12, "wavelength 628 is long");
    }
}
