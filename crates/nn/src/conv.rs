//! Convolutions as linear maps on patches.

use burn::tensor::Tensor;
use burn::tensor::module::{conv2d, unfold4d};
use burn::tensor::ops::{ConvOptions, UnfoldOptions};

use crate::weight::Weight;

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

    /// The convolution with a weight of `[out, in/groups * kh * kw]`.
    pub fn convolve(&self, x: Tensor<4>, weight: &Weight, bias: Option<Tensor<1>>, rows: usize) -> Tensor<4> {
        let [kh, kw] = self.kernel;
        let device = x.device();
        let matrix = weight.to_tensor(&device);
        let [_, cols] = matrix.dims();
        let kernel = matrix.reshape([rows, cols / (kh * kw), kh, kw]);
        let options = ConvOptions::new(self.stride, self.padding, [1, 1], self.groups);
        conv2d(x, kernel, bias, options)
    }

    /// im2col: `[B, C, H, W] -> [B * H' * W', C * kh * kw]`.
    pub fn patches(&self, x: Tensor<4>) -> Tensor<2> {
        let columns = unfold4d(x, self.kernel, UnfoldOptions::new(self.stride, self.padding, [1, 1]));
        let [b, width, positions] = columns.dims();
        columns.swap_dims(1, 2).reshape([b * positions, width])
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::weight::host;

    #[test]
    fn a_convolution_is_its_matrix_on_patches() {
        let device = Device::flex();
        let values = |n: usize, k: usize| (0..n).map(|i| ((i * k) % 11) as f32 - 5.0).collect::<Vec<_>>();
        let x = Tensor::<4>::from_data(TensorData::new(values(2 * 3 * 5 * 6, 7), [2, 3, 5, 6]), &device);
        let matrix = Tensor::<2>::from_data(TensorData::new(values(4 * 27, 3), [4, 27]), &device);
        for stride in [1, 2] {
            let geometry = ConvGeometry::same(3, stride);
            let y = geometry.convolve(x.clone(), &Weight::dense(matrix.clone()), None, 4);
            let [b, c, h, w] = y.dims();
            let by_patches = geometry.patches(x.clone()).matmul(matrix.clone().transpose());
            let rows = y.permute([0, 2, 3, 1]).reshape([b * h * w, c]);
            assert_eq!(host(rows), host(by_patches));
        }
    }
}
