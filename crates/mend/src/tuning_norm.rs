//! A batch norm that changes nothing yet, after a convolution whose own was folded: what BN tuning works on there (paper 28).
//!
//! Source: Hubara et al., arXiv:2006.10518, section 3.4. The output of a convolution with a folded norm of gain `g` and bias `β` has, on the
//! training data, the mean `β` and the variance `g²`. A norm with these as statistics, the gain `√(g² + ε)` and the bias `β` is the
//! identity. Its statistics are measured anew on the quantized network; then it is folded too, into bias and steps: its factors are
//! positive, so that every code stays what it was, and least values stay least values.

use crate::error::{Error, Result};

/// Numbers of a norm over `C` channels.
#[derive(Clone, Debug, PartialEq)]
pub struct TuningNorm {
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Variance of each channel.
    pub variance: Vec<f32>,
    /// Gain of each channel, never negative.
    pub gain: Vec<f32>,
    /// Bias of each channel.
    pub bias: Vec<f32>,
    /// Added to the variance.
    pub eps: f64,
}

/// Channels whose folded gain is smaller keep factor 1: their output hardly varies, and its spread says nothing.
const LEAST_GAIN: f32 = 1e-6;

impl TuningNorm {
    /// The norm that changes nothing, from gain and bias of the folded one.
    ///
    /// # Errors
    /// [`Error::Length`].
    pub fn inserted(gain: &[f32], bias: &[f32], eps: f64) -> Result<Self> {
        check("tuning norm: bias", gain.len(), bias.len())?;
        let variance: Vec<f32> = gain.iter().map(|g| g * g).collect();
        let root = |v: &f32| (f64::from(*v) + eps).sqrt() as f32;
        Ok(Self {
            mean: bias.to_vec(),
            gain: variance.iter().map(root).collect(),
            variance,
            bias: bias.to_vec(),
            eps,
        })
    }

    /// Takes statistics that were measured; channels of (almost) no gain keep theirs.
    ///
    /// # Errors
    /// [`Error::Length`].
    pub fn tune(&mut self, mean: &[f32], variance: &[f32]) -> Result<()> {
        check("tuning norm: mean", self.mean.len(), mean.len())?;
        check("tuning norm: variance", self.mean.len(), variance.len())?;
        for c in 0..self.mean.len() {
            if self.variance[c] > LEAST_GAIN * LEAST_GAIN {
                (self.mean[c], self.variance[c]) = (mean[c], variance[c]);
            }
        }
        Ok(())
    }

    /// Factor and shift of each channel: what the norm computes is `factor * x + shift`.
    pub fn factors(&self) -> (Vec<f64>, Vec<f64>) {
        let channels = 0..self.mean.len();
        let factor = |c: usize| f64::from(self.gain[c]) / (f64::from(self.variance[c]) + self.eps).sqrt();
        let shift = |c: usize| f64::from(self.bias[c]) - f64::from(self.mean[c]) * factor(c);
        (channels.clone().map(factor).collect(), channels.map(shift).collect())
    }

    /// Folds the norm into what is before it: `scales` `[C, groups]`, the steps of its codes (or its weights, row by row), and its
    /// bias `[C]`. Codes and zeros stay.
    ///
    /// # Errors
    /// [`Error::Length`].
    pub fn fold_into(&self, scales: &mut [f32], bias: &mut [f32]) -> Result<()> {
        let channels = self.mean.len();
        check("tuning norm: bias of the convolution", channels, bias.len())?;
        let width = scales.len() / channels.max(1);
        check("tuning norm: steps", channels * width, scales.len())?;
        let (factors, shifts) = self.factors();
        for (scales, factor) in scales.chunks_mut(width.max(1)).zip(&factors) {
            scales.iter_mut().for_each(|s| *s = (f64::from(*s) * factor) as f32);
        }
        for ((bias, factor), shift) in bias.iter_mut().zip(&factors).zip(&shifts) {
            *bias = (f64::from(*bias) * factor + shift) as f32;
        }
        Ok(())
    }
}

fn check(what: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}

#[cfg(test)]
mod tests {
    use trimtab_math::random::Stream;

    use super::*;

    const EPS: f64 = 1e-5;

    fn numbers(n: usize, salt: u64) -> Vec<f32> {
        let mut stream = Stream::new(salt, "test/tuning norm", 0, 0);
        (0..n).map(|_| stream.normal() as f32).collect()
    }

    /// `[samples, C]` through factor and shift.
    fn through(norm: &TuningNorm, x: &[f32]) -> Vec<f64> {
        let (factors, shifts) = norm.factors();
        x.iter().enumerate().map(|(i, &x)| f64::from(x) * factors[i % 3] + shifts[i % 3]).collect()
    }

    #[test]
    fn an_inserted_norm_changes_nothing_and_a_tuned_one_restores_mean_and_spread() {
        let (gain, bias) = (vec![0.5, -2.0, 1.5], vec![0.3, -1.0, 4.0]);
        let mut norm = TuningNorm::inserted(&gain, &bias, EPS).unwrap();
        let x = numbers(300, 1);
        let apart = |a: &[f64], b: &[f32]| {
            a.iter().zip(b).map(|(a, &b)| (a - f64::from(b)).abs()).fold(0.0, f64::max)
        };
        assert!(apart(&through(&norm, &x), &x) < 1e-4);
        // What a quantized layer gives: shifted and stretched. Tuned by its statistics, mean and variance are those of before.
        let y: Vec<f32> =
            x.iter().enumerate().map(|(i, x)| x * gain[i % 3] * 1.3 + bias[i % 3] + 0.7).collect();
        let of = |y: &[f64], c: usize| {
            let of: Vec<f64> = y.iter().skip(c).step_by(3).copied().collect();
            let mean = of.iter().sum::<f64>() / of.len() as f64;
            (mean, of.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / of.len() as f64)
        };
        let plain: Vec<f64> = y.iter().map(|&v| f64::from(v)).collect();
        let statistics: Vec<(f64, f64)> = (0..3).map(|c| of(&plain, c)).collect();
        let mean: Vec<f32> = statistics.iter().map(|s| s.0 as f32).collect();
        let variance: Vec<f32> = statistics.iter().map(|s| s.1 as f32).collect();
        norm.tune(&mean, &variance).unwrap();
        let tuned = through(&norm, &y);
        for c in 0..3 {
            let (mean, variance) = of(&tuned, c);
            assert!((mean - f64::from(bias[c])).abs() < 1e-4, "{c}: {mean}");
            assert!((variance - f64::from(gain[c] * gain[c])).abs() < 1e-3, "{c}: {variance}");
            assert!((statistics[c].0 - f64::from(bias[c])).abs() > 0.1, "control");
        }
    }

    #[test]
    fn folding_a_tuned_norm_keeps_the_codes_and_what_comes_out() {
        let gain = [0.5f32, -2.0, 1.5];
        let mut norm = TuningNorm::inserted(&gain, &numbers(3, 5), EPS).unwrap();
        norm.tune(&numbers(3, 6), &[0.3, 5.0, 2.0]).unwrap();
        // Three rows of four codes with zero 2, a step and a bias each.
        let codes = [[0.0f32, 3.0, 1.0, 2.0], [1.0, 1.0, 0.0, 3.0], [3.0, 2.0, 2.0, 0.0]];
        let (mut steps, mut bias) = ([0.1f32, 0.2, 0.3], [1.0f32, -1.0, 0.5]);
        let x = [0.3f32, -0.7, 1.1, 0.4];
        let forward = |steps: &[f32], bias: &[f32]| -> Vec<f32> {
            let row = |c: usize| {
                let sum: f32 = codes[c].iter().zip(x).map(|(q, x)| steps[c] * (q - 2.0) * x).sum();
                sum + bias[c]
            };
            (0..3).map(row).collect()
        };
        let before = forward(&steps, &bias);
        let expected = through(&norm, &before);
        norm.fold_into(&mut steps, &mut bias).unwrap();
        let found = forward(&steps, &bias);
        assert!(steps.iter().all(|&s| s > 0.0), "codes keep their meaning");
        for (found, expected) in found.iter().zip(&expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
        }
        assert!(before.iter().zip(&found).any(|(a, b)| (a - b).abs() > 0.05), "control");
        // A channel without gain keeps its statistics.
        let mut silent = TuningNorm::inserted(&[0.0, 1.0, 1.0], &[0.0; 3], EPS).unwrap();
        silent.tune(&[9.0; 3], &[9.0; 3]).unwrap();
        assert_eq!((silent.mean[0], silent.mean[1]), (0.0, 9.0));
        assert!(silent.fold_into(&mut [1.0; 4], &mut [0.0; 3]).is_err());
    }
}
