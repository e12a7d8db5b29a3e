//! What single samples must say, from their own gradients.

use burn::tensor::{Device, Tensor, TensorData};
use trimtab::floors::math::random::Stream;
use trimtab::floors::nn::Capture;
use trimtab::floors::train::objectives::{Classify, ImageBatch, Targets};
use trimtab::floors::train::{Gradients, Objective, Pass, SampleStatistics};
use trimtab::training::logits;

use super::{convnet, ramp};
use crate::experiment::Check;
use crate::experiments::pictures::Cause;

/// The gradient of each of some images, and the statistics that the forward pass captures of them.
fn singles() -> Result<(Vec<Vec<f64>>, SampleStatistics), Cause> {
    const N: usize = 6;
    const SIDE: usize = 8;
    let network = convnet(SIDE, 3)?;
    let mut stream = Stream::new(0, "images", 0, 0);
    let pixels: Vec<f32> = (0..N * SIDE * SIDE).map(|_| stream.normal() as f32).collect();
    let device = Device::flex().autodiff();
    let batch = |from: usize, count: usize| {
        let pixels = pixels[from * SIDE * SIDE..(from + count) * SIDE * SIDE].to_vec();
        let images = Tensor::from_data(TensorData::new(pixels, [count, 1, SIDE, SIDE]), &device);
        ImageBatch::new(images, Targets::Classes((from..from + count).collect()))
    };
    let objective = Classify::new(logits);
    let mut all = Vec::new();
    for i in 0..N {
        let loss = objective.loss(&network, &batch(i, 1), &mut Pass { training: true, ..Pass::default() })?;
        let gradients = Gradients::collect(&network, loss.mean.backward(), |_| true, 1);
        let numbers = gradients
            .iter()
            .flat_map(|(_, gradient)| gradient.values.clone().into_data().iter::<f64>().collect::<Vec<_>>());
        all.push(numbers.collect::<Vec<f64>>());
    }
    let mut pass = Pass { training: true, capture: Some(Capture::default()), ..Pass::default() };
    let backward = objective.loss(&network, &batch(0, N), &mut pass)?.mean.backward();
    let resolved = pass.capture.take().unwrap_or_default().resolve(&backward);
    let mean = Gradients::collect(&network, backward, |_| true, N);
    let direction =
        |path: &str| mean.iter().find(|(name, _)| *name == path).map(|(_, gradient)| gradient.values.clone());
    // The loss is a mean: the gradient of one sample in it is 1 / N of its own.
    let n = N as f64;
    let products: Vec<f64> = resolved.products(direction).iter().map(|s| s * n).collect();
    let statistics = SampleStatistics {
        samples: n,
        squared_norms: resolved.squared_norms(|_| true)?.iter().map(|norm| norm * n * n).sum(),
        mean_squared_norm: mean.norm().powi(2),
        products: products.iter().sum(),
        squared_products: products.iter().map(|s| s * s).sum(),
    };
    Ok((all, statistics))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The mean of some rows.
fn middle(rows: &[Vec<f64>]) -> Vec<f64> {
    (0..rows[0].len()).map(|c| rows.iter().map(|row| row[c]).sum::<f64>() / rows.len() as f64).collect()
}

fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

/// The identities of the statistics, and of the ramp.
pub(super) fn checks() -> Result<Vec<Check>, Cause> {
    let (all, seen) = singles()?;
    let n = all.len() as f64;
    let mean = middle(&all);
    let squared = dot(&mean, &mean);
    let variance = all.iter().map(|g| squared_distance(g, &mean)).sum::<f64>() / (n - 1.0);
    let products: Vec<f64> = all.iter().map(|g| dot(g, &mean)).collect();
    let average = products.iter().sum::<f64>() / n;
    let along = products.iter().map(|s| (s - average).powi(2)).sum::<f64>() / (n - 1.0);
    // What is left of each gradient across the mean one, coordinate by coordinate.
    let rest = |(g, s): (&Vec<f64>, &f64)| {
        g.iter().zip(&mean).map(|(g, m)| (g - s / squared * m).powi(2)).sum::<f64>()
    };
    let rests = all.iter().zip(&products).map(rest).sum::<f64>();
    let relative = |found: f64, expected: f64| (found / expected - 1.0).abs();
    // Of captures alone: it holds only where products and norms are those of the same gradients.
    let parts = seen.variance_along() / seen.signal() + seen.variance_across();
    let plan = ramp(10_000, 40, 8000);
    let spent: usize = (0..40).map(|step| plan.at(step)).sum();
    let check = |identity, deviation, tolerance| Check { identity, deviation, tolerance };
    Ok(vec![
        check(
            "S from ghost norms is the variance by coordinates, relative",
            relative(seen.variance(), variance),
            1e-5,
        ),
        check(
            "the variance along the gradient is that of the products, relative",
            relative(seen.variance_along(), along),
            1e-4,
        ),
        check(
            "the variance across the gradient is that of the rests, relative",
            relative(seen.variance_across(), rests / (n - 1.0)),
            1e-5,
        ),
        check(
            "the variances along (over G) and across add up to S, relative",
            relative(parts, seen.variance()),
            1e-4,
        ),
        check(
            "a ramp spends the samples of a run in as many steps, relative",
            relative(spent as f64, 10_000.0),
            0.02,
        ),
    ])
}
