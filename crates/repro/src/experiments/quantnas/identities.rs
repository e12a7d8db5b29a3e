//! What noise, costs, coefficients and the choice must be.

use burn::tensor::{Device, Tensor, TensorData};
use trimtab::floors::math::random::Stream;
use trimtab::floors::nn::host;
use trimtab::floors::train::search::{
    Choice, Genotype, NoiseGradient, NoiseKind, Operation, QuantNas, Skeleton, Supernet, entropy_weight,
    full_share, mixed, noise,
};

use super::runs::{rounding, variance};
use crate::experiment::Check;
use crate::experiments::pictures::Cause;

fn normal(n: usize, purpose: &str) -> Vec<f32> {
    let mut stream = Stream::new(7, purpose, 0, 0);
    (0..n).map(|_| 0.3 * stream.normal() as f32).collect()
}

/// Ratios between the variances of noise and of rounding errors, for 3 to 8 bits.
fn ratios(kind: NoiseKind) -> Vec<f64> {
    let weights = normal(20_000, "weights");
    let of = |bits: u8| {
        let drawn = noise(&weights, &[bits], kind, &mut Stream::new(7, "noise", u64::from(bits), 0));
        variance(&drawn) / rounding(&weights, bits)
    };
    (3..=8).map(of).collect()
}

/// Gradients of a sum over a mixture: to its coefficients, less differences of it; and to a number, `[clean, detached]`.
fn gradients() -> (f64, [f64; 2]) {
    let device = Device::flex().autodiff();
    let (x, errors) = (normal(40, "x"), normal(80, "errors"));
    let tensor =
        |values: &[f32]| Tensor::<1>::from_data(TensorData::new(values.to_vec(), [values.len()]), &device);
    let at = [0.25f32, 0.15];
    let run = |alpha: [f32; 2], gradient: NoiseGradient| {
        let (x, alpha) = (tensor(&x).require_grad(), tensor(&alpha).require_grad());
        let sum = mixed(x.clone(), alpha.clone(), tensor(&errors).reshape([2, 40]), gradient).sum();
        let value = f64::from(sum.clone().into_scalar::<f32>());
        let grads = sum.backward();
        let of = |leaf: &Tensor<1>| leaf.grad(&grads).map(host).unwrap_or_default();
        (value, of(&alpha), of(&x))
    };
    let (_, slope, clean) = run(at, NoiseGradient::Clean);
    let (_, _, detached) = run(at, NoiseGradient::Detached);
    let far = (0..2).map(|i| {
        let moved = |h: f32| {
            let alpha = std::array::from_fn(|j| if i == j { at[j] + h } else { at[j] });
            run(alpha, NoiseGradient::Clean).0
        };
        (f64::from(slope[i]) - (moved(1e-2) - moved(-1e-2)) / 2e-2).abs()
    });
    (far.fold(0.0, f64::max), [f64::from(clean[0]), f64::from(detached[0])])
}

pub(super) fn checks() -> Result<Vec<Check>, Cause> {
    let settings = QuantNas::default();
    let skeleton = Skeleton::default();
    let supernet = Supernet::new(&settings, 0, &Device::flex())?;
    let edges = settings.edges();
    let alphas = supernet.alphas();
    let flat = alphas.iter().flat_map(|alpha| {
        let even = 1.0 / alpha.len() as f64;
        alpha.iter().map(move |a| (f64::from(*a) - even).abs())
    });
    let (uniform, gaussian) = (ratios(NoiseKind::Uniform), ratios(NoiseKind::Normal));
    let (slopes, [clean, detached]) = gradients();
    let shares = 0.4 / (0.4 + f64::from(full_share(2)));
    // Negative coefficients: the last candidate is the largest.
    let negative: Vec<Vec<f32>> =
        alphas.iter().map(|alpha| (0..alpha.len()).map(|i| i as f32 - 100.0).collect()).collect();
    let last = Genotype::derive(skeleton, &edges, &negative);
    let wrong = edges.iter().filter(|edge| edge.candidates().last() != last.edges.get(&edge.name)).count();
    let hand = Genotype::uniform(skeleton, Choice { op: Operation::Conv3, bits: 4 }).bit_ops()?;
    let chains = 2.0 * (4.0 * 9.0 * 144.0 + 3.0 * 9.0 * 72.0) + 9.0 * 144.0 + 4.0 * 81.0;
    let joins = 2.0 * 30.0 * 12.0;
    let ends = entropy_weight(10, 8, 20) + (entropy_weight(19, 8, 20) - 1.0).abs();
    let largest = |all: &[f64], of: &dyn Fn(f64) -> f64| all.iter().map(|v| of(*v)).fold(0.0, f64::max);
    let check = |identity, deviation, tolerance| Check { identity, deviation, tolerance };
    Ok(vec![
        check(
            "uniform noise has the variance of rounding errors, 3 to 8 bits",
            largest(&uniform, &|ratio| (ratio - 1.0).abs()),
            0.2,
        ),
        check("normal noise has at most 3.5 times that", largest(&gaussian, &|ratio| ratio), 3.5),
        check("with frozen noise, gradients of coefficients are differences", slopes, 5e-3),
        check(
            "the gradient of a number is the sum of all shares",
            (clean - shares - f64::from(full_share(2))).abs(),
            1e-6,
        ),
        check(
            "detached, that of the share in full precision",
            (detached - f64::from(full_share(2))).abs(),
            1e-6,
        ),
        check("at first all candidates are alike", flat.fold(0.0, f64::max), 1e-6),
        check("the largest of negative coefficients is chosen", wrong as f64, 0.0),
        check(
            "bit operations are products times both bits",
            (hand - 16.0 * chains - 64.0 * joins).abs(),
            0.0,
        ),
        check("the weight of the entropy is 0, a quarter later, and 1 at the end", ends, 1e-12),
    ])
}
