//! Double Rounding (paper 57): one integer code that serves several widths.
//!
//! Source: Huang et al., "Nearly lossless adaptive bit switching", arXiv:2502.01199 (2025).
//!
//! A weight is rounded to the highest width `h`, and that integer is rounded again to `l` bits: `v_h = clip(round(W / s))`,
//! `v_l = clip(floor(v_h / D + 1/2))` with `D = 2^(h-l)`. All widths share the codes and the steps, so the second rounding is an
//! addition, a shift and a clip of integers ([`switch_code`]), and the fake numbers of training, `v_l * D * s`, are those of the
//! switched file bit for bit. Training runs all widths on every batch, from high to low, and adds up their gradients.
//!
//! Not stated by the paper, and chosen here: norms are those of each width; steps begin at the largest number of a row over the
//! largest code; a step counts the numbers of its own row in the factor of LSQ.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use trimtab_nn::straight_through::{clip, floor, lsq, lsq_factor, round, slowed};

use crate::error::{Error, Result};
use crate::settings::Paths;

/// How the lower widths come from the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// The code of the highest width is rounded, halves up.
    #[default]
    Double,
    /// The low bits of that code are dropped.
    Truncate,
    /// Every width rounds the weights themselves, by steps of its own: no code is shared, so nothing can be switched.
    Direct,
}

/// How a random network of mixed widths is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// Every width is as likely as any other.
    Uniform,
    /// A site whose Hessian trace is not below the mean draws width `b` with a probability in proportion to `b`.
    #[default]
    Hasb,
}

/// Training of networks whose sites have different widths, in place of all sites at one width after another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mixed {
    /// How the widths of a step are drawn.
    pub sampling: Sampling,
    /// Whether every step also runs the network at the highest and at the lowest width.
    pub extremes: bool,
}

/// Settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DoubleRounding {
    /// Widths in bits, from high to low, 2 to 8.
    pub widths: Vec<u8>,
    /// Where the lower widths come from.
    pub rounding: Rounding,
    /// Whether each width has a rate of its own for the steps ([`alrs_factor`]).
    pub alrs: bool,
    /// Sites that stay as they are, by parts of their names; the first and the last by default, in recipes for text those outside of the
    /// blocks.
    pub keep: Option<Paths>,
    /// Whether what enters the sites is rounded as well, by steps of every width.
    pub inputs: bool,
    /// Mixed widths; all sites at one width by default.
    pub mixed: Option<Mixed>,
}

impl Default for DoubleRounding {
    fn default() -> Self {
        Self {
            widths: vec![8, 6, 4, 2],
            rounding: Rounding::Double,
            alrs: true,
            keep: None,
            inputs: true,
            mixed: None,
        }
    }
}

impl DoubleRounding {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// [`Error::Setting`] for widths that do not descend within 2 to 8.
    pub fn check(&self) -> Result<()> {
        let inside = self.widths.iter().all(|width| (2..=8).contains(width));
        match inside && !self.widths.is_empty() && self.widths.is_sorted_by(|a, b| a > b) {
            true => Ok(()),
            false => {
                let message = format!("must descend within 8 to 2, found {:?}", self.widths);
                Err(Error::setting("quantization.widths", message))
            }
        }
    }

    /// The highest width.
    pub(super) fn highest(&self) -> u8 {
        self.widths[0]
    }

    /// The weights `[rows, cols]` as the width with this index sees them; `step` is `[rows]`.
    pub(super) fn weights(&self, weight: Tensor<2>, step: Tensor<1>, width: usize) -> Tensor<2> {
        let [rows, cols] = weight.dims();
        let (h, l) = (self.highest(), self.widths[width]);
        let [low, high] = ends(l, true).map(|end| end as f32);
        let step = slowed(step, lsq_factor(cols, high)).reshape([rows, 1]);
        if self.rounding == Rounding::Direct {
            return lsq(weight, step, low, high);
        }
        let [lowest, highest] = ends(h, true).map(|end| end as f32);
        let code = round(clip(weight / step.clone(), lowest, highest));
        if l == h {
            return code * step;
        }
        let parts = f64::from(1u32 << (h - l));
        let up = if self.rounding == Rounding::Double { 0.5 } else { 0.0 };
        clip(floor(code / parts + up), low, high) * parts * step
    }
}

/// The smallest and the largest code of a width.
pub(super) fn ends(bits: u8, signed: bool) -> [i32; 2] {
    match signed {
        true => [-(1 << (bits - 1)), (1 << (bits - 1)) - 1],
        false => [0, (1 << bits) - 1],
    }
}

/// A code of `from` bits as one of `to` bits, `to <= from`: half a part is added, the rest is shifted out, and what would not fit
/// is clipped.
pub fn switch_code(code: i8, from: u8, to: u8) -> i8 {
    if to >= from {
        return code;
    }
    let shift = from - to;
    let [low, high] = ends(to, true);
    ((i32::from(code) + (1 << (shift - 1))) >> shift).clamp(low, high) as i8
}

/// Share of the rate that the steps of a width below the highest by `difference` bits get: `10^(-d/2)`, and `5 * 10^(-(d+1)/2)` for
/// an odd `d`.
pub fn eta(difference: u8) -> f64 {
    match difference % 2 {
        0 => 10f64.powi(-i32::from(difference / 2)),
        _ => 5.0 * 10f64.powi(-i32::from(difference.div_ceil(2))),
    }
}

/// What the gradients of the steps of one width are multiplied with so that they move at its own rate (ALRS):
/// `eta_b * max(rate - mean_i min(max |g_i|, 1), 0) / rate`, every `g_i` clipped to a norm of 1 before.
pub fn alrs_factor<'a>(difference: u8, rate: f64, gradients: impl IntoIterator<Item = &'a [f32]>) -> f64 {
    let largest = |g: &[f32]| {
        let norm = g.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let most = g.iter().fold(0.0f64, |most, g| most.max(f64::from(g.abs())));
        most / norm.max(1.0)
    };
    let all: Vec<f64> = gradients.into_iter().map(|g| largest(g).min(1.0)).collect();
    let mean = all.iter().sum::<f64>() / all.len().max(1) as f64;
    // The last step of a schedule that ends at 0 moves nothing.
    if rate <= 0.0 {
        return 0.0;
    }
    eta(difference) * ((rate - mean).max(0.0) / rate)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use trimtab_math::random::Stream;
    use trimtab_nn::host;

    use super::*;

    const ROWS: usize = 8;
    const COLS: usize = 500;

    fn drawn() -> (Vec<f32>, Vec<f32>) {
        let mut stream = Stream::new(5, "weights", 0, 0);
        let weights: Vec<f32> = (0..ROWS * COLS).map(|_| stream.normal() as f32).collect();
        // Rows that are clipped at the highest width, and others that are not.
        let steps = (0..ROWS).map(|row| 0.005 + 0.006 * row as f32).collect();
        (weights, steps)
    }

    fn seen(settings: &DoubleRounding, width: usize) -> Vec<f32> {
        let (weights, steps) = drawn();
        let device = Device::flex();
        let weights = Tensor::from_data(TensorData::new(weights, [ROWS, COLS]), &device);
        let steps = Tensor::from_data(TensorData::new(steps, [ROWS]), &device);
        host(settings.weights(weights, steps, width))
    }

    fn codes() -> Vec<i8> {
        let (weights, steps) = drawn();
        let code = |(i, w): (usize, &f32)| (w / steps[i / COLS]).clamp(-128.0, 127.0).round_ties_even() as i8;
        weights.iter().enumerate().map(code).collect()
    }

    #[test]
    fn the_integers_are_the_numbers_of_training_bit_for_bit() {
        let (_, steps) = drawn();
        let settings = DoubleRounding { widths: vec![8, 7, 6, 5, 4, 3, 2], ..DoubleRounding::default() };
        for (width, &bits) in settings.widths.iter().enumerate() {
            let parts = (1u32 << (8 - bits)) as f32;
            let switched: Vec<f32> = codes()
                .iter()
                .enumerate()
                .map(|(i, &code)| f32::from(switch_code(code, 8, bits)) * (steps[i / COLS] * parts))
                .collect();
            assert_eq!(seen(&settings, width), switched, "{bits} bits");
            // Control: another width has other numbers.
            assert_ne!(seen(&settings, (width + 1) % settings.widths.len()), switched);
        }
    }

    #[test]
    fn every_code_is_rounded_halves_up() {
        for to in 2..=8u8 {
            let parts = 2f64.powi(i32::from(8 - to));
            let [low, high] = ends(to, true).map(f64::from);
            for code in i8::MIN..=i8::MAX {
                let expected = (f64::from(code) / parts + 0.5).floor().clamp(low, high);
                assert_eq!(f64::from(switch_code(code, 8, to)), expected, "{code} to {to}");
            }
        }
        assert_eq!(
            [-128, -97, -96, -32, 31, 32, 127].map(|code| switch_code(code, 8, 2)),
            [-2, -2, -1, 0, 0, 1, 1]
        );
    }

    #[test]
    fn errors_keep_to_their_bound_and_have_no_mean_but_for_truncation() {
        let (weights, steps) = drawn();
        for (rounding, biased) in [(Rounding::Double, false), (Rounding::Truncate, true)] {
            let settings = DoubleRounding { rounding, ..DoubleRounding::default() };
            for (width, &bits) in settings.widths.iter().enumerate() {
                let parts = f64::from(1u32 << (8 - bits));
                let [low, high] = ends(bits, true).map(f64::from);
                let (mut sum, mut n, mut worst) = (0.0, 0.0, 0.0f64);
                for (i, (seen, w)) in seen(&settings, width).iter().zip(&weights).enumerate() {
                    let s = f64::from(steps[i / COLS]);
                    let (v, error) = (f64::from(*w) / s, f64::from(seen - w) / s);
                    // Neither of the clips: within half a part of the outermost codes.
                    if v > (low - 0.49) * parts && v < (high + 0.49) * parts && v.abs() < 127.0 {
                        (sum, n) = (sum + error, n + 1.0);
                        worst = worst.max(error.abs());
                    }
                }
                let bound = parts / 2.0 + 0.5 + 1e-3;
                match biased && bits < 8 {
                    false => assert!(worst <= bound, "{rounding:?}, {bits} bits: {worst} beyond {bound}"),
                    true => assert!(worst > bound, "truncation errs by up to a whole part"),
                }
                let mean = sum / n;
                // Of whole numbers, halves go up: half a step on average. Truncation errs by half a part.
                let expected = match biased {
                    _ if bits == 8 => 0.0,
                    true => -(parts - 1.0) / 2.0,
                    false => 0.5,
                };
                assert!(
                    (mean - expected).abs() < 0.1 * parts,
                    "{rounding:?}, {bits} bits: mean {mean}, {expected}"
                );
            }
        }
    }

    #[test]
    fn over_all_codes_the_shift_is_unbiased_and_truncation_is_not() {
        // Whole periods of codes around 0: the halves that go up are a part in 2 D.
        for to in [6u8, 4, 2] {
            let parts = 1i32 << (8 - to);
            let codes = || (-parts / 2..parts / 2).map(|code| code as i8);
            let shifted: f64 =
                codes().map(|c| f64::from(i32::from(switch_code(c, 8, to)) * parts - i32::from(c))).sum();
            let dropped: f64 =
                codes().map(|c| f64::from((i32::from(c) >> (8 - to)) * parts - i32::from(c))).sum();
            let n = f64::from(parts);
            assert_eq!(shifted / n, 0.5, "half a step: {to} bits");
            assert_eq!(dropped / n, -(n - 1.0) / 2.0);
        }
    }

    #[test]
    fn the_step_has_the_gradient_of_its_rule() {
        let device = Device::flex().autodiff();
        let (weights, steps) = drawn();
        let settings = DoubleRounding::default();
        for (width, &bits) in settings.widths.iter().enumerate() {
            let w = Tensor::<2>::from_data(TensorData::new(weights.clone(), [ROWS, COLS]), &device)
                .require_grad();
            let s = Tensor::<1>::from_data(TensorData::new(steps.clone(), [ROWS]), &device).require_grad();
            let grads = settings.weights(w.clone(), s.clone(), width).sum().backward();
            let (dw, ds) = (host(w.grad(&grads).unwrap()), host(s.grad(&grads).unwrap()));
            let parts = f64::from(1u32 << (8 - bits));
            let [low, high] = ends(bits, true).map(f64::from);
            for row in 0..ROWS {
                let mut sum = 0.0;
                for i in row * COLS..(row + 1) * COLS {
                    let v = f64::from(weights[i] / steps[row]);
                    let code = v.clamp(-128.0, 127.0).round_ties_even();
                    let second = (code / parts + 0.5).floor();
                    let inside =
                        (-128.0..=127.0).contains(&v) && (bits == 8 || (low..=high).contains(&second));
                    let passes = f32::from(u8::from(inside));
                    // Times a step, over the same step.
                    assert!((dw[i] - passes).abs() < 1e-6, "{bits} bits, {v}: {}", dw[i]);
                    let lower = if bits == 8 { code } else { second.clamp(low, high) * parts };
                    sum += if inside { lower - v } else { lower };
                }
                let expected = sum * lsq_factor(COLS, high as f32);
                assert!(
                    (f64::from(ds[row]) - expected).abs() < 1e-3 * expected.abs().max(1.0),
                    "{bits}: {} {expected}",
                    ds[row]
                );
            }
        }
    }

    #[test]
    fn rates_of_widths() {
        assert_eq!([0, 2, 4, 6].map(eta), [1.0, 0.1, 0.01, 0.001]);
        assert_eq!([1, 3].map(eta), [0.5, 0.05]);
        let g: [&[f32]; 2] = [&[0.01, -0.03], &[0.05]];
        assert!((alrs_factor(2, 0.1, g) - 0.1 * (0.1 - 0.04) / 0.1).abs() < 1e-9);
        assert_eq!(alrs_factor(2, 0.0, g), 0.0, "a schedule may end at 0");
        // A gradient that is large stops the steps; clipping bounds what one can do.
        assert_eq!(alrs_factor(0, 0.1, [&[30.0f32, 40.0][..]]), 0.0);
        assert!((alrs_factor(0, 1.0, [&[30.0f32, 40.0][..]]) - 0.2).abs() < 1e-9);
        let refused = DoubleRounding { widths: vec![4, 8], ..DoubleRounding::default() };
        assert!(refused.check().unwrap_err().to_string().contains("quantization.widths"));
        DoubleRounding::default().check().unwrap();
    }
}
