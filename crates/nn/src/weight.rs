//! How a site holds its matrix.

use std::borrow::Cow;
use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use trimtab_io::{AffineTensor, Coded, RawTensor, RealTensor};

use crate::activation::ActivationQuantizer;
use crate::differentiable;
use crate::frozen::Frozen;
use crate::kernels::binary;

/// The matrix of a site, `[out, in]`; a convolution's columns are `in/groups * kh * kw`, in that order.
///
/// A new kind needs [`Weight::to_f32`] to be right and a kernel only to be fast: whatever has no kernel is decoded,
/// then multiplied.
#[derive(Module, Debug)]
pub enum Weight {
    /// A tensor of the framework: what is trained, and what runs on a GPU.
    Dense(Param<Tensor<2>>),
    /// Dense numbers as they lie in the checkpoint, borrowed from the mapped file and read by our own kernels.
    Stored(Stored),
    /// Integer codes with scales and zero points, never unpacked as a whole.
    Packed(Packed),
    /// Any other code of a checkpoint: decoded, then multiplied, except for integers with real zero points, which run packed.
    Coded(Codes),
}

/// Dense numbers in the type and bytes of the checkpoint, shape `[out, in]`.
#[derive(Module, Debug)]
pub struct Stored {
    #[module(skip)]
    tensor: Arc<RawTensor>,
}

/// Packed integer codes.
#[derive(Module, Debug)]
pub struct Packed {
    #[module(skip)]
    tensor: Arc<AffineTensor>,
}

/// A matrix in any other code.
#[derive(Module, Debug)]
pub struct Codes {
    #[module(skip)]
    matrix: Arc<Coded>,
}

impl Weight {
    /// A weight that the training loop may change.
    pub fn dense(values: Tensor<2>) -> Self {
        Self::Dense(Param::from_tensor(values))
    }

    /// A weight in the bytes of its file. `tensor` has two dimensions and a float type.
    pub fn stored(tensor: RawTensor) -> Self {
        Self::Stored(Stored { tensor: Arc::new(tensor) })
    }

    /// A packed weight.
    pub fn packed(tensor: AffineTensor) -> Self {
        Self::Packed(Packed { tensor: Arc::new(tensor) })
    }

    /// A quantized weight in the code of its checkpoint; affine codes run packed.
    pub fn coded(matrix: Coded) -> Self {
        match matrix {
            Coded::Affine(tensor) => Self::packed(tensor),
            other => Self::Coded(Codes { matrix: Arc::new(other) }),
        }
    }

    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(param) => param.val().dims(),
            Self::Stored(stored) => [stored.tensor.shape[0], stored.tensor.shape[1]],
            Self::Packed(packed) => [packed.tensor.rows, packed.tensor.cols],
            Self::Coded(codes) => codes.matrix.dims(),
        }
    }

    /// The packed codes, where the weight is packed.
    pub fn as_packed(&self) -> Option<&AffineTensor> {
        match self {
            Self::Packed(packed) => Some(&packed.tensor),
            _ => None,
        }
    }

    /// Any other codes, where the weight has them.
    pub fn as_coded(&self) -> Option<&Coded> {
        match self {
            Self::Coded(codes) => Some(&codes.matrix),
            _ => None,
        }
    }

    /// The numbers, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::Dense(param) => host(param.val()),
            Self::Stored(stored) => stored.floats().into_owned(),
            Self::Packed(packed) => packed.tensor.dequantize(),
            Self::Coded(codes) => codes.matrix.dequantize(),
        }
    }

    /// The numbers, row-major, without a copy where they lie ready.
    pub(crate) fn floats(&self) -> Cow<'_, [f32]> {
        match self {
            Self::Stored(stored) => stored.floats(),
            _ => Cow::Owned(self.to_f32()),
        }
    }

    /// The matrix as a tensor of the framework.
    pub fn to_tensor(&self, device: &Device) -> Tensor<2> {
        match self {
            Self::Dense(param) => param.val(),
            _ => Tensor::from_data(TensorData::new(self.to_f32(), self.dims()), device),
        }
    }

    /// `x W^T` for rows `x` (`[n, in]`).
    pub fn multiply(&self, x: Tensor<2>) -> Tensor<2> {
        let device = x.device();
        if let Self::Dense(param) = self {
            return x.matmul(param.val().transpose());
        }
        if device != Device::flex() {
            return x.matmul(self.to_tensor(&device).transpose());
        }
        let matrix = self.frozen().expect("dense weights are multiplied by the framework");
        if device.is_autodiff() {
            return differentiable::frozen(x, matrix);
        }
        let ([n, _], [out, _]) = (x.dims(), self.dims());
        let mut y = vec![0.0f32; n * out];
        matrix.multiply(&host(x), n, &mut y);
        Tensor::from_data(TensorData::new(y, [n, out]), &device)
    }

    /// The matrix without the framework; `None` where it is a tensor of it.
    fn frozen(&self) -> Option<Frozen> {
        Some(match self {
            Self::Dense(_) => return None,
            Self::Stored(stored) => Frozen::Stored(Arc::clone(&stored.tensor)),
            Self::Packed(packed) => Frozen::Packed(Arc::clone(&packed.tensor)),
            Self::Coded(codes) => Frozen::Coded(Arc::clone(&codes.matrix)),
        })
    }

    /// Whether [`Weight::multiply_codes`] has a kernel for it.
    pub(crate) fn takes_codes(&self) -> bool {
        self.frozen().is_some_and(|matrix| matrix.takes_codes())
    }

    /// [`Weight::multiply`] for the codes of rows `x` on the host, in integers; only where it [takes codes](Weight::takes_codes) and the
    /// quantizer [steps rows](ActivationQuantizer::steps_rows).
    pub(crate) fn multiply_codes(&self, quantizer: &ActivationQuantizer, x: Tensor<2>) -> Tensor<2> {
        let ([n, cols], [out, _], device) = (x.dims(), self.dims(), x.device());
        let coded = quantizer.coded(&host(x), cols).expect("rows have a step each");
        let mut y = vec![0.0f32; n * out];
        self.frozen().expect("dense weights take no codes").multiply_codes(coded.view(), &mut y);
        Tensor::from_data(TensorData::new(y, [n, out]), &device)
    }

    /// [`Weight::multiply`] for rows of signs; on the host by counting bits where the matrix has signs and a scale a row.
    pub(crate) fn multiply_signs(&self, x: Tensor<2>) -> Tensor<2> {
        let device = x.device();
        let Some(matrix) = self.as_signs().filter(|_| on_host(&device)) else { return self.multiply(x) };
        let ([n, cols], rows) = (x.dims(), matrix.codes().rows);
        // Codes of one bit are 1 where the number is positive, in words of 32 bits a row, whose tail is 0.
        let bytes = 4 * matrix.codes().scheme.row_words(cols);
        let word = |part: &[u8]| part.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
        let signs: Vec<u64> =
            matrix.codes().codes.chunks_exact(bytes.max(1)).flat_map(|row| row.chunks(8).map(word)).collect();
        let mut y = vec![0.0f32; n * rows];
        binary::matmul_signs(&binary::pack_signs(&host(x), cols), &signs, cols, matrix.zeros(), &mut y);
        Tensor::from_data(TensorData::new(y, [n, rows]), &device)
    }

    /// The matrix, where it has one bit a number and its values are plus or minus the zero point of the row.
    fn as_signs(&self) -> Option<&RealTensor> {
        let Some(Coded::Real(matrix)) = self.as_coded() else { return None };
        let (codes, zeros) = (matrix.codes(), matrix.zeros());
        let halves = codes.scales.iter().zip(zeros).all(|(scale, zero)| *scale == 2.0 * zero);
        (codes.scheme.bits == 1 && codes.scheme.group_size.is_none() && halves).then_some(matrix)
    }

    /// Rows of the matrix by index: `[B, T] -> [B, T, in]`.
    pub fn lookup(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        if let Self::Dense(param) = self {
            return burn::tensor::module::embedding(param.val(), ids);
        }
        let device = ids.device();
        let [b, t] = ids.dims();
        let [_, width] = self.dims();
        let mut out = vec![0.0f32; b * t * width];
        for (row, id) in out.chunks_exact_mut(width).zip(ids.into_data().iter::<i64>()) {
            self.read_row(id as usize, row);
        }
        Tensor::from_data(TensorData::new(out, [b, t, width]), &device)
    }

    fn read_row(&self, index: usize, row: &mut [f32]) {
        self.frozen().expect("dense weights are looked up by the framework").read_row(index, row);
    }
}

impl Stored {
    fn floats(&self) -> Cow<'_, [f32]> {
        self.tensor.as_f32_cow().expect("the type of a stored weight was checked when it was loaded")
    }
}

/// Whether tensors on this device are host memory that no gradient flows through.
pub(crate) fn on_host(device: &Device) -> bool {
    *device == Device::flex() && !device.is_autodiff()
}

/// The numbers of a tensor on the host, row-major.
///
/// # Panics
///
/// If the tensor is not of `f32`: the house computes in nothing else.
pub fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_into_vec().expect("the house computes in f32")
}

#[cfg(test)]
mod tests {
    use trimtab_io::{AffineScheme, Dtype, RealTensor};

    use super::*;

    #[test]
    fn matrices_of_one_bit_multiply_signs_by_counting_bits_exactly() {
        let device = Device::flex();
        for cols in [1, 31, 32, 33, 64, 100] {
            let (rows, n) = (5, 3);
            let scheme = AffineScheme { bits: 1, group_size: None, symmetric: true };
            let codes: Vec<u8> = (0..rows * cols).map(|i| (i * 37 % 251) as u8 & 1).collect();
            let zeros: Vec<f32> = (0..rows).map(|row| 0.25 * (row as f32 - 1.5)).collect();
            let scales = zeros.iter().map(|zero| 2.0 * zero).collect();
            let codes =
                AffineTensor::from_codes(rows, cols, scheme, &codes, scales, None, None, Dtype::F32).unwrap();
            let weight = Weight::coded(Coded::Real(RealTensor::new(codes.clone(), zeros).unwrap()));
            let x =
                (0..n * cols).map(|i| if i * 7919 % 101 < 50 { -1.0 } else { 1.0f32 }).collect::<Vec<_>>();
            let x = Tensor::<2>::from_data(TensorData::new(x, [n, cols]), &device);
            assert!(weight.as_signs().is_some());
            let decoded = Weight::dense(weight.to_tensor(&device)).multiply(x.clone());
            let far =
                host(weight.multiply_signs(x) - decoded).into_iter().fold(0.0f32, |far, d| far.max(d.abs()));
            assert!(far < 1e-4, "{cols}: {far}");
            // Control: zero points that are not half the scale mean another matrix.
            let other = RealTensor::new(codes, vec![1.0; rows]).unwrap();
            assert!(Weight::coded(Coded::Real(other)).as_signs().is_none());
        }
    }

    #[test]
    fn codes_with_real_zero_points_run_packed_as_their_numbers_multiply() {
        let device = Device::flex();
        for (bits, group_size, cols) in
            [(2, None, 40), (2, Some(32), 72), (3, Some(5), 33), (4, Some(64), 128), (8, None, 17)]
        {
            let (rows, scheme) = (6, AffineScheme { bits, group_size, symmetric: true });
            let codes: Vec<u8> = (0..rows * cols).map(|i| (i * 37 % 251) as u8 & scheme.max_code()).collect();
            let groups = rows * scheme.n_groups(cols);
            let scales = (0..groups).map(|i| 0.125 * (1 + i % 5) as f32).collect();
            let zeros: Vec<f32> = (0..groups).map(|i| 0.3 * (i % 7) as f32 - 1.0).collect();
            let codes =
                AffineTensor::from_codes(rows, cols, scheme, &codes, scales, None, None, Dtype::F32).unwrap();
            let product = |zeros: Vec<f32>, n: usize| {
                let x: Vec<f32> = (0..n * cols).map(|i| ((i * 7919) % 101) as f32 / 50.0 - 0.7).collect();
                let weight = Weight::coded(Coded::Real(RealTensor::new(codes.clone(), zeros).unwrap()));
                let x = Tensor::<2>::from_data(TensorData::new(x, [n, cols]), &device);
                let decoded = Weight::dense(weight.to_tensor(&device)).multiply(x.clone());
                (host(weight.multiply(x)), host(decoded))
            };
            for n in [1, 5, 70] {
                let (found, expected) = product(zeros.clone(), n);
                let size = expected.iter().fold(0.0f32, |size, y| size.max(y.abs()));
                let far = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                // Two and four bits stream inputs rounded to fixed point.
                assert!(far <= 2e-5 * size, "int{bits} {group_size:?}, {n} rows: {far} of {size}");
                // Control: zero points matter.
                let (without, _) = product(vec![0.0; groups], n);
                let far = without.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(far > 1e-2 * size);
            }
        }
    }
}
