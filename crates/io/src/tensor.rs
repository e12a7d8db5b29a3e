//! One tensor as it lies in its file.

use std::borrow::Cow;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::bytes::Bytes;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// A tensor as it lies in its file: row-major, little-endian, not copied.
#[derive(Clone, Debug)]
pub struct RawTensor {
    /// Type of the numbers.
    pub dtype: Dtype,
    /// Lengths, slowest dimension first; empty for a scalar.
    pub shape: Vec<usize>,
    /// The numbers; their count times [`Dtype::size`] bytes.
    pub bytes: Bytes,
}

impl RawTensor {
    /// A tensor over existing bytes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the number of bytes is not that of `shape`.
    pub fn new(dtype: Dtype, shape: Vec<usize>, bytes: Bytes) -> Result<Self> {
        let expected = byte_count(dtype, &shape);
        if expected != Some(bytes.len()) {
            let expected = expected.map_or("more than the address space".into(), |n| n.to_string());
            let message = format!("shape {shape:?} of {dtype} takes {expected} bytes, found {}", bytes.len());
            return Err(Error::invalid("tensor", message));
        }
        Ok(Self { dtype, shape, bytes })
    }

    /// Rounds `values` to a float type, half to even.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `dtype` is no float type or `values` has not as many elements as `shape`.
    pub fn from_f32(shape: Vec<usize>, values: &[f32], dtype: Dtype) -> Result<Self> {
        let bytes = match dtype {
            Dtype::F32 => Bytes::from_numbers(values.to_vec()),
            Dtype::F64 => Bytes::from_numbers(values.iter().map(|&v| f64::from(v)).collect()),
            Dtype::F16 => {
                let mut halves = vec![f16::ZERO; values.len()];
                halves.convert_from_f32_slice(values);
                Bytes::from_numbers(halves)
            }
            Dtype::BF16 => {
                let mut halves = vec![bf16::ZERO; values.len()];
                halves.convert_from_f32_slice(values);
                Bytes::from_numbers(halves)
            }
            other => return Err(not_float(other)),
        };
        Self::new(dtype, shape, bytes)
    }

    /// Number of elements; 1 for a scalar.
    pub fn numel(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// The numbers as `f32`; from `F64` with rounding.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an integer type.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        match self.dtype {
            Dtype::F32 => Ok(numbers::<f32>(&self.bytes).into_owned()),
            Dtype::F64 => Ok(numbers::<f64>(&self.bytes).iter().map(|&v| v as f32).collect()),
            Dtype::F16 => {
                let mut out = vec![0.0; self.numel()];
                numbers::<f16>(&self.bytes).convert_to_f32_slice(&mut out);
                Ok(out)
            }
            Dtype::BF16 => {
                let mut out = vec![0.0; self.numel()];
                numbers::<bf16>(&self.bytes).convert_to_f32_slice(&mut out);
                Ok(out)
            }
            other => Err(not_float(other)),
        }
    }

    /// The numbers as `f32`, borrowed where they are `F32` and aligned.
    ///
    /// # Errors
    /// As [`Self::to_f32`].
    pub fn as_f32_cow(&self) -> Result<Cow<'_, [f32]>> {
        match (self.dtype, self.bytes.as_f32()) {
            (Dtype::F32, Some(values)) => Ok(Cow::Borrowed(values)),
            _ => self.to_f32().map(Cow::Owned),
        }
    }

    /// The numbers as `i64`; booleans become 0 and 1.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a float type.
    pub fn to_i64(&self) -> Result<Vec<i64>> {
        match self.dtype {
            Dtype::I64 => Ok(numbers::<i64>(&self.bytes).into_owned()),
            Dtype::I32 => Ok(numbers::<i32>(&self.bytes).iter().map(|&v| v.into()).collect()),
            Dtype::I16 => Ok(numbers::<i16>(&self.bytes).iter().map(|&v| v.into()).collect()),
            Dtype::I8 => Ok(numbers::<i8>(&self.bytes).iter().map(|&v| v.into()).collect()),
            Dtype::U8 => Ok(self.bytes.iter().map(|&v| v.into()).collect()),
            Dtype::BOOL => Ok(self.bytes.iter().map(|&v| (v != 0).into()).collect()),
            other => Err(Error::invalid("tensor", format!("expected an integer type, found {other}"))),
        }
    }

    /// The first NaN or infinity and its index; `None` where there is none, and for integers.
    pub fn first_non_finite(&self) -> Option<(usize, f32)> {
        match self.dtype {
            Dtype::F32 => first(&numbers::<f32>(&self.bytes), |v| !v.is_finite(), |v| v),
            Dtype::F64 => first(&numbers::<f64>(&self.bytes), |v| !v.is_finite(), |v| v as f32),
            Dtype::F16 => first(&numbers::<f16>(&self.bytes), |v| !v.is_finite(), f16::to_f32),
            Dtype::BF16 => first(&numbers::<bf16>(&self.bytes), |v| !v.is_finite(), bf16::to_f32),
            _ => None,
        }
    }
}

/// Rounds each value to the nearest number of a float type, half to even, as it will be once written and read again.
///
/// # Errors
/// [`Error::Invalid`] if `dtype` is no float type.
pub fn round_floats(values: &mut [f32], dtype: Dtype) -> Result<()> {
    match dtype {
        Dtype::F32 | Dtype::F64 => {}
        Dtype::F16 => values.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32()),
        Dtype::BF16 => values.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32()),
        other => return Err(not_float(other)),
    }
    Ok(())
}

/// Bytes of a tensor; `None` if that overflows.
pub(crate) fn byte_count(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(dtype.size(), |n, &dim| n.checked_mul(dim))
}

fn not_float(found: Dtype) -> Error {
    Error::invalid("tensor", format!("expected a float type (F64, F32, F16 or BF16), found {found}"))
}

/// The numbers, borrowed where aligned.
pub(crate) fn numbers<T: bytemuck::Pod>(bytes: &Bytes) -> Cow<'_, [T]> {
    match bytes.as_numbers() {
        Some(numbers) => Cow::Borrowed(numbers),
        None => Cow::Owned(bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()),
    }
}

/// Looks through blocks first, so that the search of a sound tensor is a plain loop without an exit.
fn first<T: Copy>(values: &[T], bad: impl Fn(T) -> bool, widen: impl Fn(T) -> f32) -> Option<(usize, f32)> {
    const BLOCK: usize = 1024;
    let block = values.chunks(BLOCK).position(|block| block.iter().fold(false, |any, &v| any | bad(v)))?;
    let start = block * BLOCK;
    let index = start + values[start..].iter().position(|&v| bad(v))?;
    Some((index, widen(values[index])))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that 16-bit floats must round: a tie to the even neighbour below, a tie to the one above, plain numbers.
    const VALUES: [f32; 5] = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -2.5, 0.0, 3.0e38];

    #[test]
    fn rounding_is_half_to_even() {
        let tensor = RawTensor::from_f32(vec![5], &VALUES, Dtype::BF16).unwrap();
        let back = tensor.to_f32().unwrap();
        assert_eq!(back[..4], [1.0, 1.0 + 2.0 / 128.0, -2.5, 0.0]);
        let mut rounded = VALUES;
        round_floats(&mut rounded, Dtype::BF16).unwrap();
        assert_eq!(rounded.to_vec(), back, "rounding in place and through a file agree");
        let half = RawTensor::from_f32(vec![5], &VALUES, Dtype::F16).unwrap();
        assert_eq!(half.first_non_finite(), Some((4, f32::INFINITY)), "3e38 overflows a half");
        assert_eq!(tensor.first_non_finite(), None);
    }

    #[test]
    fn every_float_type_reads_the_same_unaligned() {
        for dtype in [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::BF16] {
            let tensor = RawTensor::from_f32(vec![5], &VALUES, dtype).unwrap();
            let mut shifted = vec![0u8];
            shifted.extend_from_slice(&tensor.bytes);
            let shifted = Bytes::from(shifted).slice(1..1 + tensor.bytes.len()).unwrap();
            let shifted = RawTensor::new(dtype, vec![5], shifted).unwrap();
            assert_eq!(shifted.to_f32().unwrap(), tensor.to_f32().unwrap(), "{dtype}");
            assert_eq!(shifted.first_non_finite(), tensor.first_non_finite(), "{dtype}");
            assert!(matches!(shifted.as_f32_cow().unwrap(), Cow::Owned(_)));
        }
        let aligned = RawTensor::from_f32(vec![5], &VALUES, Dtype::F32).unwrap();
        assert!(matches!(aligned.as_f32_cow().unwrap(), Cow::Borrowed(_)));
    }

    #[test]
    fn non_finite_numbers_are_found_past_the_first_block() {
        let mut values = vec![1.0f32; 3000];
        values[2047] = f32::NEG_INFINITY;
        values[2999] = f32::NAN;
        for dtype in [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::BF16] {
            let tensor = RawTensor::from_f32(vec![3000], &values, dtype).unwrap();
            assert_eq!(tensor.first_non_finite(), Some((2047, f32::NEG_INFINITY)), "{dtype}");
        }
    }

    #[test]
    fn integers_widen_and_floats_do_not() {
        let make = |dtype, bytes: Vec<u8>| {
            let n = bytes.len() / Dtype::size(dtype);
            RawTensor::new(dtype, vec![n], bytes.into()).unwrap()
        };
        assert_eq!(make(Dtype::I8, vec![0xff, 1]).to_i64().unwrap(), [-1, 1]);
        assert_eq!(make(Dtype::U8, vec![0xff, 1]).to_i64().unwrap(), [255, 1]);
        assert_eq!(make(Dtype::BOOL, vec![0, 2]).to_i64().unwrap(), [0, 1]);
        assert_eq!(make(Dtype::I16, vec![0xfe, 0xff]).to_i64().unwrap(), [-2]);
        assert!(make(Dtype::F16, vec![0, 0]).to_i64().is_err());
        assert!(make(Dtype::I8, vec![0]).to_f32().is_err());
    }

    #[test]
    fn sizes_are_checked() {
        assert!(RawTensor::new(Dtype::F32, vec![2], vec![0; 7].into()).is_err());
        assert!(RawTensor::new(Dtype::F32, vec![usize::MAX, 8], vec![].into()).is_err());
        assert!(RawTensor::from_f32(vec![3], &[1.0], Dtype::F32).is_err());
        assert!(RawTensor::from_f32(vec![1], &[1.0], Dtype::I32).is_err());
        assert_eq!(RawTensor::from_f32(vec![], &[1.0], Dtype::F32).unwrap().numel(), 1);
    }
}
