//! Integer codes with real zero points, and the configuration of checkpoints that hold them.
//!
//! A value is `s·v + z` with a signed code `v = u − 2^(b−1)` and a real `z`, one a group beside its scale and of the same type.
//! No common format stores that: GPTQ, AWQ and compressed-tensors have integer zero points. The codes lie as
//! compressed-tensors packs symmetric ones, `weight_zero` beside them, and `config.json` names a method of its own, so that a
//! program that does not know it refuses the model instead of leaving the zero points out.

use std::fmt;

use crate::affine::{AffineScheme, AffineTensor};
use crate::compressed::to_tensors;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::module::ModuleTensors;
use crate::tensor::{RawTensor, round_floats};

/// Suffix of the zero points.
const ZERO: &str = "weight_zero";

/// How the numbers of a matrix with real zero points are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RealScheme {
    /// Bits of a code, 1 to 8.
    pub bits: u8,
    /// Consecutive columns that share a scale and a zero point; the last group may be short. `None`: one of each a row.
    pub group_size: Option<usize>,
}

impl RealScheme {
    /// The codes without their zero points: those of a symmetric matrix.
    pub fn codes(&self) -> AffineScheme {
        AffineScheme { bits: self.bits, group_size: self.group_size, symmetric: true }
    }

    /// Bytes of a matrix on disk: those of symmetric codes, and a zero point beside each scale.
    pub fn bytes(&self, rows: usize, cols: usize, scale_dtype: Dtype) -> u64 {
        let zeros = scale_dtype.size() * rows * self.codes().n_groups(cols);
        self.codes().bytes(rows, cols, scale_dtype) + zeros as u64
    }
}

impl fmt::Display for RealScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = self.group_size.map_or("row".into(), |g| format!("g{g}"));
        f.pad(&format!("int{} {group} real", self.bits))
    }
}

/// A matrix of packed codes with real zero points, `[rows, cols]`.
#[derive(Clone, Debug)]
pub struct RealTensor {
    codes: AffineTensor,
    zeros: Vec<f32>,
}

impl RealTensor {
    /// Symmetric `codes` with `zeros` `[rows, n_groups]`, representable in the type of their scales.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the codes have zero points or an order of their own, if there are not as many zero points as scales,
    /// or if one is not finite or not representable.
    pub fn new(codes: AffineTensor, zeros: Vec<f32>) -> Result<Self> {
        const WHAT: &str = "matrix with real zero points";
        if !codes.scheme.symmetric || codes.g_idx.is_some() {
            return Err(Error::invalid(WHAT, "expected symmetric codes in the order of their columns"));
        }
        if zeros.len() != codes.scales.len() {
            let message = format!("{} zero points for {} scales", zeros.len(), codes.scales.len());
            return Err(Error::invalid(WHAT, message));
        }
        let mut rounded = zeros.clone();
        round_floats(&mut rounded, codes.scale_dtype)?;
        match zeros.iter().zip(&rounded).position(|(zero, rounded)| !zero.is_finite() || zero != rounded) {
            None => Ok(Self { codes, zeros }),
            Some(i) => {
                let dtype = codes.scale_dtype;
                let message =
                    format!("zero point {} at index {i} is no finite number of type {dtype}", zeros[i]);
                Err(Error::invalid(WHAT, message))
            }
        }
    }

    /// Codes of a checkpoint with their zero points beside them.
    ///
    /// # Errors
    /// [`Error::Tensor`] if there are no codes, or zero points are missing, of another type than the scales, or not finite.
    pub(crate) fn read(codes: Option<AffineTensor>, tensors: &ModuleTensors<'_>) -> Result<Self> {
        let codes =
            codes.ok_or_else(|| tensors.wrong(ZERO, "belongs to integer codes, which are not there"))?;
        let shape = [codes.rows, codes.scheme.n_groups(codes.cols)];
        let (zeros, dtype) = tensors.floats(ZERO, &shape)?;
        if dtype != codes.scale_dtype {
            let message = format!("expected the type of the scales, {}, found {dtype}", codes.scale_dtype);
            return Err(tensors.wrong(ZERO, message));
        }
        Self::new(codes, zeros).map_err(|e| tensors.wrong(ZERO, e.to_string()))
    }

    /// The codes and scales; a value of theirs lacks its zero point.
    pub fn codes(&self) -> &AffineTensor {
        &self.codes
    }

    /// The zero points, `[rows, n_groups]`.
    pub fn zeros(&self) -> &[f32] {
        &self.zeros
    }

    /// Bits and groups.
    pub fn scheme(&self) -> RealScheme {
        RealScheme { bits: self.codes.scheme.bits, group_size: self.codes.scheme.group_size }
    }

    /// Numbers of a row, `(u - 2^(b-1)) * scale + zero` in f32.
    ///
    /// # Panics
    /// If `row` is not below the rows, or `out` has not as many elements as there are columns.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        self.codes.dequantize_row(row, out);
        let groups = self.codes.scheme.n_groups(self.codes.cols);
        let width = self.codes.scheme.group_size.unwrap_or(self.codes.cols).max(1);
        for (out, zero) in out.chunks_mut(width).zip(&self.zeros[row * groups..]) {
            out.iter_mut().for_each(|x| *x += zero);
        }
    }

    /// All numbers, row-major `[rows, cols]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.codes.rows * self.codes.cols];
        out.chunks_mut(self.codes.cols.max(1))
            .enumerate()
            .for_each(|(row, out)| self.dequantize_row(row, out));
        out
    }

    /// Bytes on disk, of all tensors that make up this matrix.
    pub fn bytes(&self) -> u64 {
        self.codes.bytes() + (self.codes.scale_dtype.size() * self.zeros.len()) as u64
    }

    /// The tensors that hold the matrix as the weight of `module`; together they take [`Self::bytes`].
    ///
    /// # Errors
    /// As [`to_tensors`].
    pub fn to_tensors(&self, module: &str) -> Result<Vec<(String, RawTensor)>> {
        let mut tensors = to_tensors(module, &self.codes)?;
        let shape = vec![self.codes.rows, self.codes.scheme.n_groups(self.codes.cols)];
        let zeros = RawTensor::from_f32(shape, &self.zeros, self.codes.scale_dtype)?;
        tensors.push((format!("{module}.{ZERO}"), zeros));
        Ok(tensors)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn codes(symmetric: bool) -> AffineTensor {
        let scheme = AffineScheme { bits: 2, group_size: Some(3), symmetric };
        let zeros = (!symmetric).then(|| vec![1; 4]);
        let scales = vec![0.5, 1.0, 2.0, -0.25];
        AffineTensor::from_codes(
            2,
            5,
            scheme,
            &[0, 1, 2, 3, 0, 3, 2, 1, 0, 3],
            scales,
            zeros,
            None,
            Dtype::BF16,
        )
        .unwrap()
    }

    pub(crate) fn matrix() -> RealTensor {
        RealTensor::new(codes(true), vec![0.125, -1.0, 0.0, 3.0]).unwrap()
    }

    #[test]
    fn a_value_is_the_scaled_code_and_the_zero_point() {
        // Signed codes: [-2 -1 0 | 1 -2], [1 0 -1 | -2 1].
        let expected = [-0.875, -0.375, 0.125, 0.0, -3.0, 2.0, 0.0, -2.0, 3.5, 2.75];
        assert_eq!(matrix().dequantize(), expected);
        assert_eq!(matrix().scheme().to_string(), "int2 g3 real");
        assert_eq!(RealScheme { bits: 4, group_size: None }.to_string(), "int4 row real");
    }

    #[test]
    fn bytes_are_those_of_the_tensors() {
        let tensors = matrix().to_tensors("m").unwrap();
        let written: u64 = tensors.iter().map(|(_, tensor)| tensor.bytes.len() as u64).sum();
        assert_eq!((written, matrix().scheme().bytes(2, 5, Dtype::BF16)), (matrix().bytes(), written));
        assert_eq!(written, codes(true).bytes() + 8);
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let refused = |codes, zeros| RealTensor::new(codes, zeros).unwrap_err().to_string();
        assert!(refused(codes(false), vec![0.0; 4]).contains("symmetric"));
        assert!(refused(codes(true), vec![0.0; 3]).contains("3 zero points for 4 scales"));
        assert!(refused(codes(true), vec![0.0, 0.1, 0.0, 0.0]).contains("0.1 at index 1"));
        assert!(refused(codes(true), vec![f32::NAN; 4]).contains("NaN"));
    }
}
