//! What the contrastive losses must be to each other.

use burn::tensor::{Device, Tensor, TensorData};
use trimtab::floors::math::random::Stream;
use trimtab::floors::train::objectives::{Contrastive, info_nce_share};

use super::KINDS;
use crate::experiment::Check;
use crate::experiments::figures::mean;
use crate::experiments::pictures::Cause;

/// The gradient of the mean loss by the embeddings, each anchor with a weight of its own: 1 for the decoupled loss. In f64, by
/// the formula.
fn expected_slope(x: &[f64], n: usize, temperature: f64, weights: &[f64]) -> Vec<f64> {
    let d = x.len() / (2 * n);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let lengths: Vec<f64> = x.chunks_exact(d).map(|row| dot(row, row).sqrt()).collect();
    let z: Vec<Vec<f64>> = x
        .chunks_exact(d)
        .zip(&lengths)
        .map(|(row, length)| row.iter().map(|x| x / length).collect())
        .collect();
    let slopes = |i: usize| -> Vec<f64> {
        let positive = (i + n) % (2 * n);
        let grown = |j: usize| match j == i || j == positive {
            true => 0.0,
            false => (dot(&z[i], &z[j]) / temperature).exp(),
        };
        let sum: f64 = (0..2 * n).map(grown).sum();
        let slope = |j: usize| {
            let own = grown(j) / sum - f64::from(u8::from(j == positive));
            weights[i] * own / (2 * n) as f64
        };
        (0..2 * n).map(slope).collect()
    };
    let by_score: Vec<Vec<f64>> = (0..2 * n).map(slopes).collect();
    let row = |i: usize| -> Vec<f64> {
        let pulled = |c: usize| {
            (0..2 * n).map(|j| (by_score[i][j] + by_score[j][i]) * z[j][c]).sum::<f64>() / temperature
        };
        let pulled: Vec<f64> = (0..d).map(pulled).collect();
        let along = dot(&pulled, &z[i]);
        (0..d).map(|c| (pulled[c] - along * z[i][c]) / lengths[i]).collect()
    };
    (0..2 * n).flat_map(row).collect()
}

/// The identities of the losses.
pub(super) fn checks() -> Result<Vec<Check>, Cause> {
    const N: usize = 6;
    const D: usize = 5;
    let mut stream = Stream::new(0, "embeddings", 0, 0);
    let x: Vec<f32> = (0..2 * N * D).map(|_| stream.normal() as f32).collect();
    let exact: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let device = Device::flex().autodiff();
    let halves = [&x[..N * D], &x[N * D..]]
        .map(|half| Tensor::<2>::from_data(TensorData::new(half.to_vec(), [N, D]), &device).require_grad());
    let [first, second] = &halves;
    let loss =
        |kind, temperature| Contrastive { embed: (), kind, temperature }.of(first.clone(), second.clone());
    let value = |kind, temperature| -> Result<f64, Cause> {
        Ok(f64::from(loss(kind, temperature)?.into_scalar::<f32>()))
    };
    let slope = |kind| -> Result<Vec<f64>, Cause> {
        let backward = loss(kind, 0.2)?.backward();
        let rows = halves.iter().filter_map(|half| half.grad(&backward));
        Ok(rows.flat_map(|half| half.into_data().iter::<f64>().collect::<Vec<_>>()).collect())
    };
    let apart = |a: &[f64], b: &[f64]| match a.len() == b.len() {
        true => a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max),
        false => f64::NAN,
    };
    let [coupled, decoupled, weighted] = KINDS;
    let q = info_nce_share(first.clone(), second.clone(), 0.2);
    let one = apart(&slope(decoupled)?, &expected_slope(&exact, N, 0.2, &[1.0; 2 * N]));
    let shares = apart(&slope(coupled)?, &expected_slope(&exact, N, 0.2, &q));
    let gap = value(coupled, 0.2)? - value(decoupled, 0.2)?;
    let gap = (gap - mean(&q.iter().map(|q| -q.ln()).collect::<Vec<_>>())).abs();
    // Similarities of the positives, and the weights that follow from them.
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let row = |i: usize| &exact[i * D..(i + 1) * D];
    let cosine =
        |i: usize| dot(row(i), row(i + N)) / (dot(row(i), row(i)) * dot(row(i + N), row(i + N))).sqrt();
    let similar: Vec<f64> = (0..N).map(cosine).collect();
    let grown: Vec<f64> = similar.iter().map(|s| (s / 0.5).exp()).collect();
    let weights: Vec<f64> = grown.iter().map(|g| 2.0 - g / mean(&grown)).collect();
    let moved: Vec<f64> = weights.iter().zip(&similar).map(|(w, s)| (1.0 - w) * s / 0.2).collect();
    let difference = value(weighted, 0.2)? - value(decoupled, 0.2)?;
    let weight = (difference - mean(&moved)).abs().max((mean(&weights) - 1.0).abs());
    // At a temperature of 0.005 a score of self is 200, which no added constant would hide.
    let cold = value(decoupled, 0.005)?;
    let unit: Vec<Vec<f64>> =
        (0..2 * N).map(|i| row(i).iter().map(|x| x / dot(row(i), row(i)).sqrt()).collect()).collect();
    let definition = |i: usize| {
        let scores = (0..2 * N).filter(|&j| j % N != i % N).map(|j| dot(&unit[i], &unit[j]) / 0.005);
        let scores: Vec<f64> = scores.collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        most + scores.iter().map(|s| (s - most).exp()).sum::<f64>().ln() - similar[i % N] / 0.005
    };
    let expected = mean(&(0..2 * N).map(definition).collect::<Vec<_>>());
    let check = |identity, deviation, tolerance| Check { identity, deviation, tolerance };
    Ok(vec![
        check("the gradient of DCL is that of the formula", one, 1e-6),
        check("the gradient of InfoNCE is that of DCL times q, anchor by anchor", shares, 1e-6),
        check("InfoNCE - DCL is the mean of -ln q", gap, 2e-6),
        check("DCLW differs by weights whose mean is 1", weight, 2e-6),
        check(
            "at temperature 0.005 self and positive stay out, relative",
            (cold / expected - 1.0).abs(),
            1e-5,
        ),
    ])
}
