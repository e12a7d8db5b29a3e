//! Batch normalization (Ioffe and Szegedy, arXiv:1502.03167): by the batch in training, afterwards a fixed scale and shift of
//! every channel.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData, module::batch_norm};
use rayon::prelude::*;

use crate::axis::Axis;
use crate::ctx::{BatchStatistics, Ctx, NormInput};
use crate::differentiable;
use crate::site::Site;
use crate::weight::{Weight, host, on_host};

/// `(x - mean) / sqrt(variance + eps) * gain + bias` per channel of `[B, C, H, W]`, with stored statistics or those of the
/// batch.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// Gain, `[C]`.
    pub gain: Param<Tensor<1>>,
    /// Bias, `[C]`.
    pub bias: Param<Tensor<1>>,
    /// Running mean, `[C]`.
    pub mean: Param<Tensor<1>>,
    /// Running variance, `[C]`.
    pub variance: Param<Tensor<1>>,
    #[module(skip)]
    name: String,
    #[module(skip)]
    eps: f64,
    #[module(skip)]
    axis: Axis,
}

impl BatchNorm {
    /// A batch norm along `axis`; `name` is its module path in the checkpoint.
    pub fn new(
        name: impl Into<String>,
        eps: f64,
        axis: Axis,
        [gain, bias, mean, variance]: [Tensor<1>; 4],
    ) -> Self {
        let [gain, bias, mean, variance] = [gain, bias, mean, variance].map(Param::from_tensor);
        Self { gain, bias, mean, variance, name: name.into(), eps, axis }
    }

    /// The same norm with other numbers: gain, bias, mean and variance.
    pub fn with_parts(&self, parts: [Tensor<1>; 4]) -> Self {
        Self::new(self.name.clone(), self.eps, self.axis.clone(), parts)
    }

    /// Module path in the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The axis that it is a diagonal map on.
    pub fn axis(&self) -> &Axis {
        &self.axis
    }

    /// `[B, C, H, W] -> [B, C, H, W]`.
    pub fn forward(&self, x: Tensor<4>, ctx: &mut Ctx<'_>) -> Tensor<4> {
        if let Some(inputs) = ctx.norm_inputs.as_deref_mut() {
            inputs.push(self.observe(x.clone()));
        }
        if let Some(seen) = ctx.batch_statistics.as_deref_mut() {
            return self.by_batch(x, seen);
        }
        if !on_host(&x.device()) {
            let [gain, bias, mean, variance] =
                [&self.gain, &self.bias, &self.mean, &self.variance].map(Param::val);
            return batch_norm(x, gain, bias, mean, variance, self.eps);
        }
        let (device, dims @ [_, _, h, w]) = (x.device(), x.dims());
        let (scale, shift) = self.scale_and_shift();
        let channels = scale.len();
        let mut values = host(x);
        values.par_chunks_mut((h * w).max(1)).enumerate().for_each(|(i, plane)| {
            let (scale, shift) = (scale[i % channels], shift[i % channels]);
            plane.iter_mut().for_each(|v| *v = *v * scale + shift);
        });
        Tensor::from_data(TensorData::new(values, dims), &device)
    }

    /// What this norm is given.
    fn observe(&self, input: Tensor<4>) -> NormInput {
        let (running_mean, running_variance) = (self.mean.val(), self.variance.val());
        NormInput { norm: self.name.clone(), input, running_mean, running_variance }
    }

    /// Normalizes by the batch, whose statistics are noted with the unbiased variance; the norm itself uses the biased one.
    fn by_batch(&self, x: Tensor<4>, seen: &mut Vec<BatchStatistics>) -> Tensor<4> {
        let [b, c, h, w] = x.dims();
        let n = (b * h * w) as f32;
        let unbiased = n / (n - 1.0).max(1.0);
        if differentiable::is_here(&x) {
            let (y, moments) = differentiable::batch_norm(x, self.gain.val(), self.bias.val(), self.eps);
            let variance = moments.variance.iter().map(|v| v * unbiased).collect();
            seen.push(BatchStatistics { norm: self.name.clone(), mean: moments.mean.clone(), variance });
            return y;
        }
        let mean = over_pixels(x.clone());
        let centred = x - mean.clone();
        let variance = over_pixels(centred.clone().square());
        seen.push(BatchStatistics {
            norm: self.name.clone(),
            mean: host(mean.without_autodiff()),
            variance: host(variance.clone().without_autodiff() * unbiased),
        });
        let gain = self.gain.val().reshape([1, c, 1, 1]);
        centred * ((variance + self.eps).sqrt().recip() * gain) + self.bias.val().reshape([1, c, 1, 1])
    }

    /// The same map as `scale * x + shift`, `[C]` each, computed in `f64`.
    pub fn scale_and_shift(&self) -> (Vec<f32>, Vec<f32>) {
        let [gain, bias, mean, variance] =
            [&self.gain, &self.bias, &self.mean, &self.variance].map(|param| host(param.val()));
        let scale = |c: usize| f64::from(gain[c]) / (f64::from(variance[c]) + self.eps).sqrt();
        let shift = |c: usize| f64::from(bias[c]) - f64::from(mean[c]) * scale(c);
        let n = 0..gain.len();
        (n.clone().map(|c| scale(c) as f32).collect(), n.map(|c| shift(c) as f32).collect())
    }

    /// `site` with this norm, which follows it, taken into its weight and bias: the two together compute what the result
    /// computes, within rounding. The weight becomes a dense parameter.
    ///
    /// # Panics
    ///
    /// If the site has another number of outputs than the norm has channels.
    pub fn fold_into(&self, site: &Site) -> Site {
        let meta = site.meta();
        let (scale, shift) = self.scale_and_shift();
        assert_eq!(scale.len(), meta.rows, "the norm \"{}\" follows \"{}\"", self.name, meta.name);
        let device = self.gain.val().device();
        let mut weight = site.to_f32();
        for (row, scale) in weight.chunks_mut(meta.cols.max(1)).zip(&scale) {
            row.iter_mut().for_each(|w| *w *= scale);
        }
        let old = site.bias.as_ref().map_or_else(|| vec![0.0; meta.rows], |bias| host(bias.val()));
        let bias: Vec<f32> = old.iter().zip(&scale).zip(&shift).map(|((b, s), t)| b * s + t).collect();
        let matrix = Tensor::from_data(TensorData::new(weight, [meta.rows, meta.cols]), &device);
        let bias = Tensor::from_data(TensorData::new(bias, [meta.rows]), &device);
        Site::new(meta.clone(), Weight::dense(matrix), Some(bias)).expect("shapes of the site itself")
    }
}

/// Mean of each channel over batch and pixels: `[B, C, H, W] -> [1, C, 1, 1]`.
fn over_pixels(x: Tensor<4>) -> Tensor<4> {
    let [b, c, h, w] = x.dims();
    x.reshape([b, c, h * w]).mean_dim(2).mean_dim(0).reshape([1, c, 1, 1])
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::conv::ConvGeometry;
    use crate::site::{SiteKind, SiteMeta};

    fn tensor<const D: usize>(seed: usize, shape: [usize; D], device: &Device) -> Tensor<D> {
        let n: usize = shape.iter().product();
        let values = (0..n).map(|i| ((i * 37 + seed * 11) % 29) as f32 / 14.5 - 1.0).collect::<Vec<_>>();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    fn norm(device: &Device) -> BatchNorm {
        let variance = tensor(4, [3], device).abs() + 0.5;
        let parts = [tensor(1, [3], device), tensor(2, [3], device), tensor(3, [3], device), variance];
        BatchNorm::new("bn", 1e-2, Axis::new("stage", 3), parts)
    }

    fn site(bias: bool, device: &Device) -> Site {
        let meta = SiteMeta {
            name: "conv".into(),
            kind: SiteKind::Conv(ConvGeometry::same(3, 1)),
            rows: 3,
            cols: 18,
            transposed: false,
            input: Axis::new("image", 2),
            output: Axis::new("stage", 3),
            reads: "image".into(),
            fused: None,
        };
        let bias = bias.then(|| tensor(7, [3], device));
        Site::new(meta, Weight::dense(tensor(6, [3, 18], device)), bias).unwrap()
    }

    fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn the_loop_equals_the_framework() {
        let (plain, gradients) = (Device::flex(), Device::flex().autodiff());
        let run = |device: &Device| {
            host(norm(device).forward(tensor(5, [2, 3, 4, 5], device), &mut Ctx::default()))
        };
        assert!(largest_difference(&run(&plain), &run(&gradients)) < 2e-6);
    }

    #[test]
    fn in_training_the_batch_is_normalized_and_its_statistics_are_noted() {
        // Two channels of 1, 2, 3, 6 and of 5: means 3 and 5, biased variances 3.5 and 0, unbiased 14/3 and 0.
        let device = Device::flex();
        let x = vec![1.0, 2.0, 5.0, 5.0, 3.0, 6.0, 5.0, 5.0f32];
        let x = Tensor::<4>::from_data(TensorData::new(x, [2, 2, 1, 2]), &device);
        let vector =
            |values: [f32; 2]| Tensor::<1>::from_data(TensorData::new(values.to_vec(), [2]), &device);
        let parts = [[2.0, 3.0], [1.0, -1.0], [9.0, 9.0], [4.0, 4.0]].map(vector);
        let norm = BatchNorm::new("bn", 0.5, Axis::new("stage", 2), parts);
        let mut seen = Vec::new();
        let y = norm.forward(x.clone(), &mut Ctx { batch_statistics: Some(&mut seen), ..Ctx::default() });
        // (x - 3) / sqrt(3.5 + 0.5) * 2 + 1 = x - 2; the other channel is its bias.
        assert!(largest_difference(&host(y), &[-1.0, 0.0, -1.0, -1.0, 1.0, 4.0, -1.0, -1.0]) < 1e-6);
        let [BatchStatistics { norm: name, mean, variance }] = &seen[..] else {
            panic!("one norm, one batch")
        };
        assert_eq!(name, "bn");
        assert!(largest_difference(mean, &[3.0, 5.0]) < 1e-6);
        assert!(largest_difference(variance, &[14.0 / 3.0, 0.0]) < 1e-6);
        // Otherwise the stored statistics count.
        let stored = host(norm.forward(x, &mut Ctx::default()));
        assert!((stored[0] - (2.0 * (1.0 - 9.0) / 4.5f32.sqrt() + 1.0)).abs() < 1e-5);
    }

    #[test]
    fn a_folded_norm_computes_the_same() {
        let device = Device::flex();
        for bias in [false, true] {
            let (site, norm) = (site(bias, &device), norm(&device));
            let x = tensor(8, [2, 2, 6, 5], &device);
            let ctx = &mut Ctx::default();
            let two = host(norm.forward(site.convolve(x.clone(), ctx).unwrap(), ctx));
            let one = host(norm.fold_into(&site).convolve(x.clone(), &mut Ctx::default()).unwrap());
            assert!(largest_difference(&one, &two) < 1e-5);
            // Without the norm the numbers are others: the comparison can fail.
            let bare = host(site.convolve(x, &mut Ctx::default()).unwrap());
            assert!(largest_difference(&bare, &two) > 0.1);
        }
    }
}
