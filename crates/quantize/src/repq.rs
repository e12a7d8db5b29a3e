//! From a step a channel to one step for all of them, without a change of what is computed: RepQ-ViT.
//!
//! Source: Li et al., arXiv:2212.08254. What a norm gives differs between channels by factors of ten and more. Steps `s_d` and zeros
//! `z_d` of single channels fit that, but an integer product wants one step. So the channels are brought to one: with
//! `s̃ = mean s_d`, the whole `z̃ = ⟨mean z_d⟩`, `r_d = s_d/s̃` and `t_d = s_d (z_d - z̃)` the norm gives `x̃_d = (x_d + t_d)/r_d`,
//! and every map behind it takes columns times `r_d` and the bias less `W t`. The function stays, and `x̃` has with the one step the
//! codes that `x` has with the many, for `x̃/s̃ + z̃ = x/s_d + z_d`.
//!
//! The program of the authors takes the mean of the zeros unrounded; codes are then no whole numbers, and it cannot be run.

use trimtab_io::{ActivationScheme, ActivationStep};

/// One step for all channels, and what norm and maps need for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Layerwise {
    /// The step `s̃` and the zero `z̃`.
    pub step: ActivationStep,
    /// `r_d`, positive.
    pub ratios: Vec<f64>,
    /// `t_d`, what is added to a channel before it is divided.
    pub shifts: Vec<f64>,
}

impl Layerwise {
    /// The one step for the steps of all channels, of which there is at least one.
    pub fn of(steps: &[ActivationStep]) -> Self {
        let n = steps.len().max(1) as f64;
        let scale = steps.iter().map(|step| f64::from(step.scale)).sum::<f64>() / n;
        let zero = steps.iter().map(|step| f64::from(step.zero)).sum::<f64>() / n;
        // In the precision that it is stored in, so that the ratios are those of the stored number.
        let step = ActivationStep { scale: scale as f32, zero: zero.round_ties_even() as u8 };
        let ratio = |s: &ActivationStep| f64::from(s.scale) / f64::from(step.scale);
        let shift = |s: &ActivationStep| f64::from(s.scale) * (f64::from(s.zero) - f64::from(step.zero));
        Self { step, ratios: steps.iter().map(ratio).collect(), shifts: steps.iter().map(shift).collect() }
    }

    /// Whether a channel is moved, so that norm and maps need a bias.
    pub fn needs_bias(&self) -> bool {
        self.shifts.iter().any(|&shift| shift != 0.0)
    }

    /// The largest ratio: by how much the loudest channel outdoes the mean.
    pub fn largest_ratio(&self) -> f64 {
        self.ratios.iter().copied().fold(0.0, f64::max)
    }

    /// The gain of the norm, and its bias (zeros where it had none) for the new step; `gain` is what it multiplies with.
    pub fn norm(&self, gain: &[f64], bias: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let gain = gain.iter().zip(&self.ratios).map(|(gain, ratio)| gain / ratio).collect();
        let moved = bias.iter().zip(&self.shifts).zip(&self.ratios);
        (gain, moved.map(|((bias, shift), ratio)| (bias + shift) / ratio).collect())
    }

    /// A map `[rows, channels]` behind the norm, and what its bias loses, for the new step.
    pub fn map(&self, weight: &[f32]) -> (Vec<f32>, Vec<f64>) {
        let channels = self.ratios.len().max(1);
        let lost = weight
            .chunks(channels)
            .map(|row| row.iter().zip(&self.shifts).map(|(&w, shift)| f64::from(w) * shift).sum::<f64>());
        let scaled =
            weight.iter().enumerate().map(|(i, &w)| (f64::from(w) * self.ratios[i % channels]) as f32);
        (scaled.collect(), lost.collect())
    }
}

/// How the steps of channels lie to each other: the largest over the mean, which one step for all of them wastes.
pub fn imbalance(steps: &[ActivationStep]) -> f64 {
    let largest = steps.iter().map(|step| f64::from(step.scale)).fold(0.0, f64::max);
    let mean = steps.iter().map(|step| f64::from(step.scale)).sum::<f64>() / steps.len().max(1) as f64;
    if mean > 0.0 { largest / mean } else { 1.0 }
}

/// Whether codes by the steps of channels and by the one step agree for a row before and after, and how many of its entries lie
/// too close to a tie (`margin`, in steps) to be told.
pub fn codes_agree(
    (before, steps): (&[f64], &[ActivationStep]),
    (after, step): (&[f64], ActivationStep),
    scheme: ActivationScheme,
    margin: f64,
) -> (usize, usize) {
    let highest = f64::from(scheme.highest());
    let code = |x: f64, step: ActivationStep| {
        let zero = f64::from(step.zero);
        (x / f64::from(step.scale)).round_ties_even() + zero
    };
    let (mut differ, mut close) = (0, 0);
    for ((&x, &of), &y) in before.iter().zip(steps).zip(after) {
        let at = x / f64::from(of.scale);
        if ((at - at.floor()) - 0.5).abs() < margin {
            close += 1;
        } else if code(x, of).clamp(0.0, highest) != code(y, step).clamp(0.0, highest) {
            differ += 1;
        }
    }
    (differ, close)
}

#[cfg(test)]
mod tests {
    use trimtab_io::ActivationGranularity;
    use trimtab_math::random::Stream;

    use super::*;

    const D: usize = 24;

    /// Rows with loud channels off the middle, their gain, bias, and the steps that fit each channel.
    fn case(
        bits: u8,
        symmetric: bool,
        seed: u64,
    ) -> (Vec<f64>, Vec<f64>, Vec<f64>, Vec<ActivationStep>, ActivationScheme) {
        let mut stream = Stream::new(seed, "test/repq", u64::from(bits), 0);
        let scheme = ActivationScheme { bits, symmetric, granularity: ActivationGranularity::Channel };
        let gain: Vec<f64> = (0..D).map(|d| if d % 7 == 3 { 20.0 } else { 0.5 + stream.uniform() }).collect();
        let bias: Vec<f64> = gain.iter().map(|gain| gain * stream.normal()).collect();
        let normalized: Vec<f64> = (0..200 * D).map(|_| stream.normal()).collect();
        let steps = (0..D)
            .map(|d| {
                let x = (0..200).map(|t| (normalized[t * D + d] * gain[d] + bias[d]) as f32);
                let (low, high) = x.fold((0.0f32, 0.0f32), |(low, high), x| (low.min(x), high.max(x)));
                scheme.step(0.9 * low, 0.9 * high)
            })
            .collect();
        (normalized, gain, bias, steps, scheme)
    }

    #[test]
    fn codes_stay_and_so_does_the_function() {
        for bits in [4, 6, 8] {
            for symmetric in [false, true] {
                let (normalized, gain, bias, steps, scheme) = case(bits, symmetric, 1);
                let layerwise = Layerwise::of(&steps);
                assert_eq!(layerwise.needs_bias(), !symmetric);
                let (new_gain, new_bias) = layerwise.norm(&gain, &bias);
                let weight: Vec<f32> = (0..5 * D).map(|i| ((i * 37 % 101) as f32 - 50.0) / 60.0).collect();
                let (new_weight, lost) = layerwise.map(&weight);
                let (mut differ, mut close, mut clipped) = (0, 0, 0);
                for row in normalized.chunks(D) {
                    let give = |gain: &[f64], bias: &[f64]| -> Vec<f64> {
                        row.iter().zip(gain).zip(bias).map(|((x, g), b)| x * g + b).collect()
                    };
                    let (before, after) = (give(&gain, &bias), give(&new_gain, &new_bias));
                    let found = codes_agree((&before, &steps), (&after, layerwise.step), scheme, 1e-6);
                    (differ, close) = (differ + found.0, close + found.1);
                    let at = |x: f64, s: &ActivationStep| x / f64::from(s.scale) + f64::from(s.zero);
                    let beyond = |(x, s)| !(0.0..=f64::from(scheme.highest())).contains(&at(x, s));
                    clipped += before.iter().copied().zip(&steps).filter(|&pair| beyond(pair)).count();
                    for (o, lost) in lost.iter().enumerate() {
                        let product = |w: &[f32], x: &[f64]| -> f64 {
                            w[o * D..(o + 1) * D].iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum()
                        };
                        let (y, new_y) = (product(&weight, &before), product(&new_weight, &after) - lost);
                        // Weights are rounded to single precision once.
                        let size: f64 = before.iter().map(|x| x.abs()).sum();
                        assert!((y - new_y).abs() <= 2e-7 * size, "{bits} {symmetric}: {y} {new_y}");
                    }
                }
                assert_eq!(differ, 0, "{bits} {symmetric}");
                assert!(close < normalized.len() / 1000 && clipped > 0);
                // Control: a zero that is not whole, as in the authors' program, moves codes.
                let mean = steps.iter().map(|s| f64::from(s.zero)).sum::<f64>() / D as f64;
                let off = mean - mean.round_ties_even();
                if !symmetric && off.abs() > 0.1 {
                    let moved: usize = normalized
                        .chunks(D)
                        .map(|row| {
                            let before: Vec<f64> =
                                row.iter().zip(&gain).zip(&bias).map(|((x, g), b)| x * g + b).collect();
                            let after: Vec<f64> = before
                                .iter()
                                .zip(&steps)
                                .map(|(x, s)| {
                                    let shift = f64::from(s.scale) * (f64::from(s.zero) - mean);
                                    (x + shift) / (f64::from(s.scale) / f64::from(layerwise.step.scale))
                                })
                                .collect();
                            codes_agree((&before, &steps), (&after, layerwise.step), scheme, 1e-6).0
                        })
                        .sum();
                    assert!(moved > 0, "control {bits}");
                }
            }
        }
    }

    #[test]
    fn equal_channels_stay_as_they_are() {
        let step = ActivationStep { scale: 0.25, zero: 7 };
        let layerwise = Layerwise::of(&[step; 5]);
        assert_eq!((layerwise.step, layerwise.needs_bias(), layerwise.largest_ratio()), (step, false, 1.0));
        assert_eq!(layerwise.norm(&[3.0; 5], &[0.5; 5]), (vec![3.0; 5], vec![0.5; 5]));
        assert_eq!(layerwise.map(&[2.0; 5]), (vec![2.0; 5], vec![0.0]));
        assert_eq!(imbalance(&[step, ActivationStep { scale: 0.75, ..step }]), 1.5);
    }
}
