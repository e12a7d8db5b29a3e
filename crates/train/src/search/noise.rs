//! Noise of the size of rounding errors, in place of rounding.
//!
//! Source: Shvetsov et al., "QuantNAS for super resolution", arXiv:2208.14839. To round between the extremes of a tensor to `b` bits is
//! to add an error of about a step, `(max - min) / (2^b - 1)`. So a mixture of widths is one tensor: the numbers, and noise for each
//! width, by the coefficient of the width. It takes one convolution, where rounding takes one for each width, and it has a slope in
//! the coefficients.

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};
use trimtab_math::random::Stream;
use trimtab_nn::host;

/// How noise is distributed; in units of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseKind {
    /// Normal with a standard deviation of one half: three times the variance of a rounding error.
    #[default]
    Normal,
    /// Uniform between minus and plus one half, as rounding errors are.
    Uniform,
}

/// What the gradient of a number passes through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseGradient {
    /// All of the mixture: noise alone is a constant.
    #[default]
    Clean,
    /// The share in full precision alone, as in the released code, where number and noise are detached together.
    Detached,
}

/// Noise of some numbers for each width, `[bits, n]` row by row: `(max - min) / (2^bits - 1)` times draws of `kind`.
pub fn noise(values: &[f32], bits: &[u8], kind: NoiseKind, stream: &mut Stream) -> Vec<f32> {
    let (low, high) =
        values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)));
    let mut drawn = Vec::with_capacity(bits.len() * values.len());
    for &bits in bits {
        let step = f64::from(high - low) / (2f64.powi(i32::from(bits)) - 1.0);
        drawn.extend(values.iter().map(|_| match kind {
            NoiseKind::Normal => (0.5 * step * stream.normal()) as f32,
            NoiseKind::Uniform => (step * (stream.uniform() - 0.5)) as f32,
        }));
    }
    drawn
}

/// [`noise`] of the numbers of a tensor, `[bits, n]`, without a gradient.
pub(super) fn noise_of<const D: usize>(
    x: &Tensor<D>,
    bits: &[u8],
    kind: NoiseKind,
    stream: &mut Stream,
) -> Tensor<2> {
    let values = host(x.clone().without_autodiff());
    let drawn = noise(&values, bits, kind, stream);
    Tensor::from_data(TensorData::new(drawn, [bits.len(), values.len()]), &x.device())
}

/// Share of the numbers in full precision in a mixture of so many widths.
pub fn full_share(bits: usize) -> f32 {
    1.0 / (bits as f32 + 1.0)
}

/// `f x + sum_b a_b (x + noise_b)` with `a_b = alpha_b / (sum alpha + f)` and `f` the share in full precision; `alpha` is `[bits]`, noise
/// `[bits, n]` for the `n` numbers of `x`.
pub fn mixed<const D: usize>(
    x: Tensor<D>,
    alpha: Tensor<1>,
    noise: Tensor<2>,
    gradient: NoiseGradient,
) -> Tensor<D> {
    let ([bits, n], dims) = (noise.dims(), x.dims());
    let full = full_share(bits);
    let shares = alpha.clone() / alpha.sum().add_scalar(full);
    let of = |rows: Tensor<2>| shares.clone().reshape([1, bits]).matmul(rows).reshape(dims);
    match gradient {
        NoiseGradient::Clean => x * shares.clone().sum().add_scalar(full).reshape([1; D]) + of(noise),
        NoiseGradient::Detached => {
            let whole = x.clone().detach().reshape([1, n]) + noise;
            x.mul_scalar(full) + of(whole)
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// Numbers as weights are.
    fn normal(n: usize) -> Vec<f32> {
        let mut stream = Stream::new(3, "weights", 0, 0);
        (0..n).map(|_| 0.2 * stream.normal() as f32).collect()
    }

    fn variance(errors: impl Iterator<Item = f32>) -> f64 {
        let errors: Vec<f64> = errors.map(f64::from).collect();
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        errors.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / errors.len() as f64
    }

    /// Variance of what rounding between the extremes does.
    fn rounding(values: &[f32], bits: u8) -> f64 {
        let low = values.iter().copied().fold(f32::INFINITY, f32::min);
        let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let step = (high - low) / (2f32.powi(i32::from(bits)) - 1.0);
        variance(values.iter().map(|v| ((v - low) / step).round() * step + low - v))
    }

    #[test]
    fn noise_varies_as_rounding_errs() {
        let values = normal(20_000);
        for bits in 3..=8 {
            let ratio = |noisy: u8, kind| {
                let drawn = noise(&values, &[noisy], kind, &mut Stream::new(1, "noise", 0, 0));
                variance(drawn.into_iter()) / rounding(&values, bits)
            };
            let uniform = ratio(bits, NoiseKind::Uniform);
            assert!((uniform - 1.0).abs() < 0.2, "{bits}: {uniform}");
            let normal = ratio(bits, NoiseKind::Normal);
            assert!((2.4..3.5).contains(&normal), "{bits}: {normal}");
            // Control: noise of a bit more is four times too small.
            assert!(ratio(bits + 1, NoiseKind::Uniform) < 0.35);
            assert!(ratio(bits + 1, NoiseKind::Normal) < 1.0);
        }
    }

    #[test]
    fn widths_have_noise_of_their_own() {
        let values = normal(100);
        let rows = noise(&values, &[4, 8], NoiseKind::Normal, &mut Stream::new(1, "noise", 0, 0));
        let (four, eight) = rows.split_at(100);
        let ratio = variance(four.iter().copied()) / variance(eight.iter().copied());
        assert!((100.0..900.0).contains(&ratio), "17 squared is 289: {ratio}");
        let flat = noise(&[0.7; 5], &[4], NoiseKind::Normal, &mut Stream::new(1, "noise", 0, 0));
        assert_eq!(flat, [0.0; 5], "what is one number is rounded exactly");
    }

    #[test]
    fn a_mixture_by_hand_and_its_two_gradients() {
        let device = Device::flex().autodiff();
        let row = |values: &[f32]| {
            Tensor::<1>::from_data(TensorData::new(values.to_vec(), [values.len()]), &device)
        };
        let (x, alpha) = ([1.0f32, -2.0], [0.3f32, 0.1]);
        let errors = [0.5, 0.25, -0.125, 0.0625f32];
        let full = 1.0f32 / 3.0;
        let shares = alpha.map(|a| a / (0.4 + full));
        let run = |gradient| {
            let (x, alpha) = (row(&x).require_grad(), row(&alpha).require_grad());
            let y = mixed(x.clone(), alpha.clone(), row(&errors).reshape([2, 2]), gradient);
            let grads = (y.clone() * row(&[1.0, 3.0])).sum().backward();
            (host(y), host(x.grad(&grads).unwrap()), host(alpha.grad(&grads).unwrap()))
        };
        let by_hand: Vec<f32> = (0..2)
            .map(|i| full * x[i] + (0..2).map(|b| shares[b] * (x[i] + errors[2 * b + i])).sum::<f32>())
            .collect();
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        let (clean, detached) = (run(NoiseGradient::Clean), run(NoiseGradient::Detached));
        assert!(close(&clean.0, &by_hand) && close(&detached.0, &by_hand), "{clean:?} {by_hand:?}");
        let whole = full + shares[0] + shares[1];
        assert!(close(&clean.1, &[whole, 3.0 * whole]), "{clean:?}");
        assert!(close(&detached.1, &[full, 3.0 * full]), "only the share in full precision: {detached:?}");
        assert!(close(&clean.2, &detached.2), "coefficients see the same: {clean:?} {detached:?}");
        // By differences in f64.
        let value = |alpha: [f64; 2]| -> f64 {
            let share = |b: usize| alpha[b] / (alpha[0] + alpha[1] + 1.0 / 3.0);
            (0..2)
                .map(|i| {
                    let of = |b: usize| share(b) * f64::from(x[i] + errors[2 * b + i]);
                    [1.0, 3.0][i] * (f64::from(x[i]) / 3.0 + of(0) + of(1))
                })
                .sum()
        };
        let slope = |b: usize| {
            let at =
                |h: f64| value(std::array::from_fn(|i| f64::from(alpha[i]) + if i == b { h } else { 0.0 }));
            (at(1e-5) - at(-1e-5)) / 2e-5
        };
        assert!(close(&clean.2, &[slope(0) as f32, slope(1) as f32]), "{clean:?}");
        assert!(!close(&clean.2, &[slope(1) as f32, slope(0) as f32]), "control: widths differ");
    }
}
