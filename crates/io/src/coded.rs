//! A matrix in any of the codes that are read.

use crate::affine::AffineTensor;
use crate::bitsandbytes::CodebookTensor;
use crate::float::FloatTensor;
use crate::gguf::GgufTensor;
use crate::normal_float::NormalFloatTensor;
use crate::real::RealTensor;

/// A quantized matrix `[rows, cols]`, in the code of its file.
///
/// A further code is a variant here, with the same four methods; what uses a [`Coded`] needs nothing else.
#[derive(Clone, Debug)]
pub enum Coded {
    /// Integer codes with scales and zero points.
    Affine(AffineTensor),
    /// Integer codes with scales and real zero points.
    Real(RealTensor),
    /// Indices into quantiles of the normal distribution, scales that are codes too.
    NormalFloat(NormalFloatTensor),
    /// Indices into a table of sixteen numbers.
    Codebook(CodebookTensor),
    /// Floats of 8 or 4 bits with scales.
    Float(FloatTensor),
    /// Blocks of a GGUF file.
    Blocks(GgufTensor),
}

impl Coded {
    /// The integer codes; `None` for any other code.
    pub fn into_affine(self) -> Option<AffineTensor> {
        match self {
            Self::Affine(matrix) => Some(matrix),
            _ => None,
        }
    }

    /// The float codes; `None` for any other code.
    pub fn into_float(self) -> Option<FloatTensor> {
        match self {
            Self::Float(matrix) => Some(matrix),
            _ => None,
        }
    }

    /// The blocks of a GGUF file; `None` for any other code.
    pub fn into_blocks(self) -> Option<GgufTensor> {
        match self {
            Self::Blocks(matrix) => Some(matrix),
            _ => None,
        }
    }

    /// `[rows, cols]`; rows are outputs, columns inputs.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Affine(matrix) => [matrix.rows, matrix.cols],
            Self::Real(matrix) => [matrix.codes().rows, matrix.codes().cols],
            Self::NormalFloat(matrix) => matrix.dims(),
            Self::Codebook(matrix) => matrix.dims(),
            Self::Float(matrix) => [matrix.rows, matrix.cols],
            Self::Blocks(matrix) => [matrix.rows, matrix.cols],
        }
    }

    /// Numbers of a row.
    ///
    /// # Panics
    /// If `row` is not below the rows, or `out` has not as many elements as there are columns.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Affine(matrix) => matrix.dequantize_row(row, out),
            Self::Real(matrix) => matrix.dequantize_row(row, out),
            Self::NormalFloat(matrix) => matrix.dequantize_row(row, out),
            Self::Codebook(matrix) => matrix.dequantize_row(row, out),
            Self::Float(matrix) => matrix.dequantize_row(row, out),
            Self::Blocks(matrix) => matrix.dequantize_row(row, out),
        }
    }

    /// All numbers, row-major `[rows, cols]`.
    pub fn dequantize(&self) -> Vec<f32> {
        match self {
            Self::Affine(matrix) => matrix.dequantize(),
            Self::Real(matrix) => matrix.dequantize(),
            Self::NormalFloat(matrix) => matrix.dequantize(),
            Self::Codebook(matrix) => matrix.dequantize(),
            Self::Float(matrix) => matrix.dequantize(),
            Self::Blocks(matrix) => matrix.dequantize(),
        }
    }

    /// Bytes of the matrix: of an affine one as compressed-tensors would store it, of any other in its own file.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Affine(matrix) => matrix.bytes(),
            Self::Real(matrix) => matrix.bytes(),
            Self::NormalFloat(matrix) => matrix.bytes(),
            Self::Codebook(matrix) => matrix.bytes(),
            Self::Float(matrix) => matrix.bytes(),
            Self::Blocks(matrix) => matrix.bytes(),
        }
    }
}
