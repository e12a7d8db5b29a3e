//! What formats, histograms and diversities must be.

use trimtab::floors::math::random::Stream;
use trimtab::floors::train::quantized::{Format, divergence, diversity, push_down};

use crate::experiment::Check;

const BINS: u32 = 100;

fn normal(n: usize, purpose: &str) -> Vec<f32> {
    let mut stream = Stream::new(7, purpose, 0, 0);
    (0..n).map(|_| 0.3 * stream.normal() as f32).collect()
}

/// Mean error of stochastic rounding, in standard errors.
fn bias() -> f64 {
    let format = Format { word: 8, fraction: 4 };
    let mut stream = Stream::new(7, "rounding", 0, 0);
    let of = |x: f32, stream: &mut Stream| {
        let n = 50_000;
        let errors: Vec<f64> =
            (0..n).map(|_| f64::from(format.stochastic(x, stream.uniform()) - x)).collect();
        let mean = errors.iter().sum::<f64>() / n as f64;
        let variance = errors.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / n as f64;
        mean.abs() / (variance / n as f64).sqrt()
    };
    [0.017f32, -0.3, 1.01, 3.333].map(|x| of(x, &mut stream)).into_iter().fold(0.0, f64::max)
}

/// Diversity of `n` gradients of norm 1.
fn diverse(gradients: &[Vec<f32>]) -> f64 {
    let mut sum = vec![0.0f32; gradients[0].len()];
    gradients.iter().for_each(|g| sum.iter_mut().zip(g).for_each(|(sum, g)| *sum += g));
    diversity(gradients.len() as f64, &sum)
}

fn unit(g: Vec<f32>) -> Vec<f32> {
    let norm = g.iter().map(|g| g * g).sum::<f32>().sqrt();
    g.into_iter().map(|g| g / norm).collect()
}

pub(super) fn checks() -> Vec<Check> {
    let weights = normal(1200, "weights");
    let start = Format { word: 32, fraction: 27 };
    let found = push_down(&weights, start, BINS);
    let at = |fraction: u8| divergence(&weights, Format { fraction, ..found }, BINS);
    // By brute force: does any format that is one bit coarser pass as well?
    let coarser = f64::from(u8::from(at(found.fraction - 1) == 0.0));
    let word = Format { word: found.word - 1, ..found };
    let shorter = f64::from(u8::from(found.word > found.fraction && divergence(&weights, word, BINS) == 0.0));
    let same: Vec<Vec<f32>> = vec![unit(normal(50, "same")); 20];
    let basis: Vec<Vec<f32>> =
        (0..16).map(|i| (0..16).map(|j| f32::from(u8::from(i == j))).collect()).collect();
    let any: Vec<Vec<f32>> = (0..30).map(|i| unit(normal(40, &format!("any {i}")))).collect();
    let check = |identity, deviation, tolerance| Check { identity, deviation, tolerance };
    vec![
        check("stochastic rounding errs by 0 on average, in standard errors", bias(), 4.0),
        check("after a push down the divergence is 0", at(found.fraction), 0.0),
        check("with one bit less behind the point it is not", coarser, 0.0),
        check("with a word shorter by one bit it is not", shorter, 0.0),
        check("equal gradients have the diversity 1", (diverse(&same) - 1.0).abs(), 1e-5),
        check("sixteen orthogonal gradients have the diversity 4", (diverse(&basis) - 4.0).abs(), 1e-6),
        check("no diversity is below 1", (1.0 - diverse(&any)).max(0.0), 1e-6),
    ]
}
