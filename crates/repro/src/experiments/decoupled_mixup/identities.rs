//! What the decoupled loss must be, and what it costs.

use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use trimtab::floors::math::random::Stream;
use trimtab::floors::train::objectives::{
    DecoupledMixup as Loss, MixedLabel, Mode, Targets, soft_cross_entropy,
};

use crate::experiment::Check;

/// Logits and labels of a batch; classes differ, and no share is an end of its range.
fn batch(n: usize, classes: usize, seed: u64) -> (Tensor<2>, Vec<MixedLabel>) {
    let mut stream = Stream::new(seed, "logits", 0, 0);
    let values: Vec<f32> = (0..n * classes).map(|_| 2.0 * stream.normal() as f32).collect();
    let labels = (0..n).map(|_| {
        let a = stream.below(classes);
        let b = (a + 1 + stream.below(classes - 1)) % classes;
        MixedLabel { a, b, lambda: stream.uniform_in(0.05, 0.95) }
    });
    let labels = labels.collect();
    let device = Device::flex().autodiff();
    (Tensor::from_data(TensorData::new(values, [n, classes]), &device).require_grad(), labels)
}

/// The usual loss of mixed labels.
fn coupled(z: &Tensor<2>, labels: &[MixedLabel]) -> Tensor<1> {
    let targets = Targets::Mixed(labels.to_vec()).distributions(z.dims()[1], 0.0, &z.device());
    soft_cross_entropy(z.clone(), targets)
}

fn numbers(of: Tensor<2>) -> Vec<f64> {
    of.into_data().iter::<f64>().collect()
}

/// Gradient of a loss by the logits.
fn slope(z: &Tensor<2>, loss: Tensor<1>) -> Vec<f64> {
    z.grad(&loss.backward()).map_or_else(Vec::new, numbers)
}

/// Largest distance of two rows of numbers; of different lengths, it is no number.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    if a.len() != b.len() {
        return f64::NAN;
    }
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The gradient of the whole loss by its formula.
fn expected_slope(z: &[f64], labels: &[MixedLabel], eta: f64) -> Vec<f64> {
    let (n, classes) = (labels.len(), z.len() / labels.len());
    let row = |(z, label): (&[f64], &MixedLabel)| -> Vec<f64> {
        let MixedLabel { a, b, lambda } = *label;
        let sum = |without: usize| {
            z.iter().enumerate().filter(|(c, _)| *c != without).map(|(_, z)| z.exp()).sum::<f64>()
        };
        let (all, without_a, without_b) = (sum(usize::MAX), sum(a), sum(b));
        let at = |c: usize, class: usize| f64::from(u8::from(c == class));
        let one = |c: usize| {
            let share = |sum: f64, partner: usize| if c == partner { 0.0 } else { z[c].exp() / sum };
            let mixed = z[c].exp() / all - lambda * at(c, a) - (1.0 - lambda) * at(c, b);
            let apart = share(without_b, b) - at(c, a) + share(without_a, a) - at(c, b);
            (mixed + eta * apart) / n as f64
        };
        (0..classes).map(one).collect()
    };
    z.chunks_exact(classes).zip(labels).flat_map(row).collect()
}

/// Seconds of loss and gradient: coupled, decoupled; medians of several.
pub(super) fn costs(rounds: usize) -> [f64; 2] {
    let (z, labels) = batch(1024, 1000, 1);
    let dm = Loss::default();
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (decoupled, times) in [false, true].into_iter().zip(&mut times) {
            let clock = Instant::now();
            let usual = coupled(&z, &labels);
            let loss = if decoupled { dm.loss(z.clone(), &labels, usual) } else { usual };
            std::hint::black_box(slope(&z, loss).len());
            times.push(clock.elapsed().as_secs_f64());
        }
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    })
}

/// The identities of the loss.
pub(super) fn checks() -> Vec<Check> {
    let (z, labels) = batch(64, 10, 0);
    let with = |eta: f64| Loss { eta, ..Loss::default() };
    let value = |loss: Tensor<1>| f64::from(loss.into_scalar::<f32>());
    let full = |config: Loss, z: &Tensor<2>, labels: &[MixedLabel]| {
        config.loss(z.clone(), labels, coupled(z, labels))
    };
    let none = (value(full(with(0.0), &z, &labels)) - value(coupled(&z, &labels))).abs();
    let (two, pairs) = batch(64, 2, 0);
    let pair = (value(full(with(1.0), &two, &pairs)) - value(coupled(&two, &pairs))).abs();
    // Only the class of the larger share has a term, so the partner's column is that of the usual loss.
    let more = Loss { mode: Mode::More, ..with(1.0) };
    let zero = Tensor::zeros([1], &z.device());
    let alone = slope(&z, more.loss(z.clone(), &labels, zero.clone()));
    let partner =
        |(i, l): (usize, &MixedLabel)| alone[i * 10 + if l.lambda >= 0.5 { l.b } else { l.a }].abs();
    let partners = match alone.is_empty() {
        true => f64::NAN,
        false => labels.iter().enumerate().map(partner).fold(0.0, f64::max),
    };
    // One image at a time, as the loss is a mean.
    let rows = numbers(z.clone().detach());
    let shares = labels.iter().enumerate().map(|(i, l)| {
        let row = &rows[i * 10..(i + 1) * 10];
        let total: f64 = row.iter().map(|z| z.exp()).sum();
        let (own, partner) = if l.lambda >= 0.5 { (l.a, l.b) } else { (l.b, l.a) };
        let one = z.clone().narrow(0, i, 1);
        let q = (-value(more.loss(one, &labels[i..=i], zero.clone()))).exp();
        (q * (1.0 - row[partner].exp() / total) - row[own].exp() / total).abs()
    });
    let shares = shares.fold(0.0, f64::max);
    let gradient = apart(&slope(&z, full(with(1.0), &z, &labels)), &expected_slope(&rows, &labels, 1.0));
    let swapped: Vec<MixedLabel> =
        labels.iter().map(|l| MixedLabel { a: l.b, b: l.a, lambda: 1.0 - l.lambda }).collect();
    let rescaled = Loss { t: 0.5, ..with(1.0) };
    let order = (value(full(rescaled, &z, &labels)) - value(full(rescaled, &z, &swapped))).abs();
    let check = |identity, deviation, tolerance| Check { identity, deviation, tolerance };
    vec![
        check("with eta 0 the loss is MCE", none, 1e-6),
        check("with two classes the decoupled term is 0", pair, 1e-6),
        check("the decoupled gradient of the partner's logit is 0", partners, 0.0),
        check("q of a without b, times 1 - s_b, is s_a", shares, 2e-6),
        check("the gradient is that of the formula", gradient, 1e-6),
        check("exchanging (a, lambda) and (b, 1 - lambda) changes nothing", order, 2e-6),
    ]
}
