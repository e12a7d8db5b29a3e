//! Convolutions as linear maps on patches.

use burn::tensor::module::{conv2d, unfold4d};
use burn::tensor::ops::{ConvOptions, UnfoldOptions};
use burn::tensor::{Tensor, TensorData};

use crate::differentiable::{self, numbers, plain};
use crate::kernels::{self, ConvShape};
use crate::weight::{Weight, host, on_host};

/// Geometry of a two-dimensional convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvGeometry {
    /// `[kh, kw]`.
    pub kernel: [usize; 2],
    /// Steps between outputs.
    pub stride: [usize; 2],
    /// Zeros on each side.
    pub padding: [usize; 2],
    /// Groups of channels.
    pub groups: usize,
}

impl ConvGeometry {
    /// A square kernel with padding that keeps the size at stride 1.
    pub fn same(kernel: usize, stride: usize) -> Self {
        Self { kernel: [kernel; 2], stride: [stride; 2], padding: [kernel / 2; 2], groups: 1 }
    }

    /// `[H', W']` for an image of `[H, W]`; `None` if the kernel does not fit into the padded image.
    pub fn output(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        let along = |i: usize| {
            let room = (size[i] + 2 * self.padding[i]).checked_sub(self.kernel[i])?;
            (size[i] > 0 && self.kernel[i] > 0).then_some(room.checked_div(self.stride[i])? + 1)
        };
        Some([along(0)?, along(1)?])
    }

    /// The convolution of `[B, C, H, W]` with a weight of `[rows, in/groups * kh * kw]`, which fit together.
    pub fn convolve(&self, x: Tensor<4>, weight: &Weight, bias: Option<Tensor<1>>, rows: usize) -> Tensor<4> {
        let [kh, kw] = self.kernel;
        let device = x.device();
        if on_host(&device)
            && let Some(shape) = ConvShape::new(x.dims(), rows, *self)
        {
            let mut y = vec![0.0f32; shape.batch * rows * shape.positions()];
            let bias = bias.map(host);
            kernels::conv2d(&shape, &weight.floats(), bias.as_deref(), numbers(&plain(x)), &mut y)
                .expect("the shapes of a site agree since it was built");
            let [h, w] = shape.output;
            return Tensor::from_data(TensorData::new(y, [shape.batch, rows, h, w]), &device);
        }
        let matrix = weight.to_tensor(&device);
        if differentiable::is_here(&x)
            && let Some(shape) = ConvShape::new(x.dims(), rows, *self)
        {
            return differentiable::conv2d(x, matrix, bias, shape);
        }
        let [_, cols] = matrix.dims();
        let kernel = matrix.reshape([rows, cols / (kh * kw), kh, kw]);
        let options = ConvOptions::new(self.stride, self.padding, [1, 1], self.groups);
        conv2d(x, kernel, bias, options)
    }

    /// im2col: `[B, C, H, W] -> [B * groups * H' * W', C/groups * kh * kw]`, image by image and group by group.
    pub fn patches(&self, x: Tensor<4>) -> Tensor<2> {
        let device = x.device();
        let [b, c, ..] = x.dims();
        let groups = self.groups;
        if on_host(&device)
            && let Some(shape) = ConvShape::new(x.dims(), groups, *self)
        {
            let rows = kernels::patches(&shape, numbers(&plain(x))).expect("the shape is that of the tensor");
            let dims = [b * groups * shape.positions(), shape.cols()];
            return Tensor::from_data(TensorData::new(rows, dims), &device);
        }
        let columns = unfold4d(x, self.kernel, UnfoldOptions::new(self.stride, self.padding, [1, 1]));
        let [_, _, positions] = columns.dims();
        let cols = c / groups * self.kernel[0] * self.kernel[1];
        columns.reshape([b, groups, cols, positions]).swap_dims(2, 3).reshape([b * groups * positions, cols])
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn tensor<const D: usize>(step: usize, shape: [usize; D], device: &Device) -> Tensor<D> {
        let n = shape.iter().product();
        let values = (0..n).map(|i: usize| ((i * step) % 11) as f32 - 5.0).collect::<Vec<_>>();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    #[test]
    fn a_convolution_is_its_matrix_on_patches() {
        let device = Device::flex();
        let x = tensor(7, [2, 3, 5, 6], &device);
        let matrix = tensor(3, [4, 27], &device);
        for stride in [1, 2] {
            let geometry = ConvGeometry::same(3, stride);
            let y = geometry.convolve(x.clone(), &Weight::dense(matrix.clone()), None, 4);
            let [b, c, h, w] = y.dims();
            let by_patches = geometry.patches(x.clone()).matmul(matrix.clone().transpose());
            let rows = y.permute([0, 2, 3, 1]).reshape([b * h * w, c]);
            assert_eq!(host(rows), host(by_patches));
        }
    }

    #[test]
    fn plain_tensors_and_those_with_gradients_give_the_same() {
        let device = Device::flex();
        for (stride, groups) in [(1, 1), (2, 1), (1, 2), (2, 4)] {
            let geometry = ConvGeometry { groups, ..ConvGeometry::same(3, stride) };
            let run = |device: &Device| {
                let (x, bias) = (tensor(7, [2, 4, 7, 9], device), tensor(5, [8], device));
                let weight = Weight::dense(tensor(3, [8, 36 / groups], device));
                let y = geometry.convolve(x.clone(), &weight, Some(bias), 8);
                (y.dims(), host(y), host(geometry.patches(x)))
            };
            // Whole numbers, so that both are exact; with gradients, the framework copies patches.
            assert_eq!(run(&device), run(&device.clone().autodiff()), "{stride} {groups}");
        }
    }

    #[test]
    fn outputs_are_counted_and_misfits_seen() {
        assert_eq!(ConvGeometry::same(3, 2).output([5, 8]), Some([3, 4]));
        assert_eq!(ConvGeometry { padding: [0; 2], ..ConvGeometry::same(4, 4) }.output([9, 3]), None);
        assert_eq!(ConvGeometry::same(1, 1).output([0, 3]), None);
        assert_eq!(ConvGeometry { stride: [0; 2], ..ConvGeometry::same(1, 1) }.output([2, 3]), None);
    }
}
