//! Passes over planes of channels: batch norm and ReLU in training.
//!
//! Images run in parallel. What is summed over a batch is summed plane by plane in eight lanes, and then over the images in
//! their order, in `f64`: the same bits at any number of threads.

use rayon::prelude::*;

/// Lanes of a sum.
const LANES: usize = 8;
/// Numbers of a pointwise task.
const PART: usize = 1 << 14;

/// `sum of f(a, b)` over two planes.
fn sum(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f64 {
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f(*a, *b);
        }
    }
    let rest: f32 = rest_a.iter().zip(rest_b).map(|(a, b)| f(*a, *b)).sum();
    f64::from(lanes.iter().sum::<f32>() + rest)
}

/// Mean and variance of every channel of a batch.
#[derive(Debug)]
pub(crate) struct Moments {
    /// `[C]`.
    pub(crate) mean: Vec<f32>,
    /// Biased, `[C]`.
    pub(crate) variance: Vec<f32>,
    /// `1 / sqrt(variance + eps)`, `[C]`.
    scale: Vec<f32>,
    /// Numbers of a plane.
    plane: usize,
    /// Numbers of a channel.
    count: f64,
}

impl Moments {
    /// Those of `x` (`[B, channels, plane]`).
    pub(crate) fn of(x: &[f32], channels: usize, plane: usize, eps: f64) -> Self {
        let image = (channels * plane).max(1);
        let count = (x.len() / channels.max(1)) as f64;
        // Mean of each plane, and the squares about it: `[B * channels]`.
        let one = |x: &[f32]| {
            let mean = sum(x, x, |x, _| x) / plane as f64;
            (mean, sum(x, x, |x, _| (x - mean as f32) * (x - mean as f32)))
        };
        let planes: Vec<(f64, f64)> =
            x.par_chunks(image).flat_map_iter(|x| x.chunks_exact(plane.max(1)).map(one)).collect();
        let of_channel = |c: usize| planes[c.min(planes.len())..].iter().step_by(channels);
        let moments = |c: usize| {
            let mean = of_channel(c).map(|(mean, _)| mean).sum::<f64>() * plane as f64 / count;
            let apart = |&(own, squares): &(f64, f64)| squares + plane as f64 * (own - mean).powi(2);
            (mean, of_channel(c).map(apart).sum::<f64>() / count)
        };
        let moments: Vec<(f64, f64)> = (0..channels).map(moments).collect();
        Self {
            mean: moments.iter().map(|(mean, _)| *mean as f32).collect(),
            variance: moments.iter().map(|(_, variance)| *variance as f32).collect(),
            scale: moments.iter().map(|(_, variance)| (variance + eps).sqrt().recip() as f32).collect(),
            plane,
            count,
        }
    }

    fn image(&self) -> usize {
        (self.mean.len() * self.plane).max(1)
    }

    /// `(x - mean) / sqrt(variance + eps) * gain + bias`.
    pub(crate) fn normalize(&self, x: &[f32], gain: &[f32], bias: &[f32], y: &mut [f32]) {
        let (image, plane) = (self.image(), self.plane.max(1));
        y.par_chunks_mut(image).zip(x.par_chunks(image)).for_each(|(y, x)| {
            for (c, (y, x)) in y.chunks_exact_mut(plane).zip(x.chunks_exact(plane)).enumerate() {
                let (mean, factor, shift) = (self.mean[c], self.scale[c] * gain[c], bias[c]);
                y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - mean) * factor + shift);
            }
        });
    }

    /// Gradients of gain and bias, `[C]` each: `sum dy (x - mean) / sqrt(variance + eps)` and `sum dy`.
    pub(crate) fn gradients(&self, x: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (image, plane, channels) = (self.image(), self.plane.max(1), self.mean.len());
        let planes: Vec<(f64, f64)> = dy
            .par_chunks(image)
            .zip(x.par_chunks(image))
            .flat_map_iter(|(dy, x)| {
                dy.chunks_exact(plane).zip(x.chunks_exact(plane)).enumerate().map(|(c, (dy, x))| {
                    let mean = self.mean[c];
                    (sum(dy, x, |dy, x| dy * (x - mean)), sum(dy, x, |dy, _| dy))
                })
            })
            .collect();
        let of_channel = |c: usize| planes[c.min(planes.len())..].iter().step_by(channels);
        let gain = |c| of_channel(c).map(|(gain, _)| gain).sum::<f64>() * f64::from(self.scale[c]);
        let bias = |c| of_channel(c).map(|(_, bias)| bias).sum::<f64>();
        ((0..channels).map(|c| gain(c) as f32).collect(), (0..channels).map(|c| bias(c) as f32).collect())
    }

    /// From the gradient of the output to that of the input, in place, given the gradients of gain and bias.
    pub(crate) fn step_back(&self, x: &[f32], gain: &[f32], [d_gain, d_bias]: [&[f32]; 2], dy: &mut [f32]) {
        let (image, plane) = (self.image(), self.plane.max(1));
        let factors = |c: usize| {
            let [scale, gain, d_gain, d_bias] = [self.scale[c], gain[c], d_gain[c], d_bias[c]].map(f64::from);
            let factor = scale * gain;
            [factor, -factor * scale * d_gain / self.count, -factor * d_bias / self.count].map(|v| v as f32)
        };
        let factors: Vec<[f32; 3]> = (0..self.mean.len()).map(factors).collect();
        dy.par_chunks_mut(image).zip(x.par_chunks(image)).for_each(|(dy, x)| {
            for (c, (dy, x)) in dy.chunks_exact_mut(plane).zip(x.chunks_exact(plane)).enumerate() {
                let (mean, [own, along, shift]) = (self.mean[c], factors[c]);
                dy.iter_mut().zip(x).for_each(|(dy, x)| *dy = *dy * own + (x - mean) * along + shift);
            }
        });
    }
}

/// `max(x, 0)`; NaN stays.
pub(crate) fn relu(x: &mut [f32]) {
    x.par_chunks_mut(PART).for_each(|x| x.iter_mut().for_each(|x| *x = if *x < 0.0 { 0.0 } else { *x }));
}

/// The gradient of [`relu`] in place, by its output: kept where that is above zero or NaN.
pub(crate) fn relu_back(y: &[f32], dy: &mut [f32]) {
    dy.par_chunks_mut(PART).zip(y.par_chunks(PART)).for_each(|(dy, y)| {
        dy.iter_mut().zip(y).for_each(|(dy, y)| *dy = if *y <= 0.0 { 0.0 } else { *dy });
    });
}
