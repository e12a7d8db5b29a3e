//! A matrix in blocks.

use super::types::GgufType;
use super::{decode, encode};
use crate::bytes::Bytes;
use crate::error::{Error, Result};

/// A matrix `[rows, cols]` as a GGUF file stores it: each row a whole number of blocks. Rows are outputs, columns inputs.
#[derive(Clone, Debug)]
pub struct GgufTensor {
    /// How the numbers are stored.
    pub ty: GgufType,
    /// Outputs.
    pub rows: usize,
    /// Inputs; a multiple of [`GgufType::block_len`].
    pub cols: usize,
    /// Blocks, row by row.
    pub data: Bytes,
}

impl GgufTensor {
    /// A matrix over existing blocks, for example in a mapped file.
    ///
    /// # Errors
    /// [`Error::Invalid`] if blocks do not fill a row, or the number of bytes is wrong.
    pub fn new(ty: GgufType, rows: usize, cols: usize, data: Bytes) -> Result<Self> {
        let expected = ty.expect_row(cols)?.checked_mul(rows);
        if expected != Some(data.len()) {
            let expected = expected.map_or("more than the address space".into(), |n| n.to_string());
            let message = format!("[{rows}, {cols}] of {ty} takes {expected} bytes, found {}", data.len());
            return Err(Error::invalid("GGUF matrix", message));
        }
        Ok(Self { ty, rows, cols, data })
    }

    /// Encodes row-major numbers `[rows, cols]`.
    ///
    /// `importance`: a weight for each column, for example the mean square of its inputs. Types of 2 to 6 bits then
    /// minimize the weighted error; the plain types and `Q8_0` do not look at it. A column that was never seen should
    /// have a small weight, not 0.
    ///
    /// # Errors
    /// [`Error::Invalid`] if blocks do not fill a row (nothing is ever stored as another type instead), a length is wrong,
    /// a number is not finite or too large for the half-precision scale, or a weight is negative or not finite.
    pub fn encode(
        values: &[f32],
        rows: usize,
        cols: usize,
        ty: GgufType,
        importance: Option<&[f32]>,
    ) -> Result<Self> {
        let fail = |message: String| Err(Error::invalid("GGUF matrix", message));
        let row_bytes = ty.expect_row(cols)?;
        let bytes = rows.checked_mul(row_bytes);
        if rows.checked_mul(cols) != Some(values.len()) {
            return fail(format!("[{rows}, {cols}] does not have {} numbers", values.len()));
        }
        let Some(bytes) = bytes else {
            return fail(format!("[{rows}, {cols}] is larger than the address space"));
        };
        if let Some(importance) = importance {
            if importance.len() != cols {
                return fail(format!("{} weights of importance for {cols} columns", importance.len()));
            }
            if let Some(i) = importance.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
                return fail(format!("importance of column {i} is {}", importance[i]));
            }
        }
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            return fail(format!("row {}, column {} is {}", i / cols, i % cols, values[i]));
        }
        let mut data = vec![0u8; bytes];
        if cols > 0 {
            for (row, out) in values.chunks_exact(cols).zip(data.chunks_exact_mut(row_bytes)) {
                encode::encode_row(ty, row, importance, out);
            }
        }
        let tensor = Self { ty, rows, cols, data: data.into() };
        tensor.check_range(values)?;
        Ok(tensor)
    }

    /// Scales are half-precision numbers: what is too large for them comes back as infinity or NaN.
    fn check_range(&self, values: &[f32]) -> Result<()> {
        if self.ty == GgufType::F32 || self.ty == GgufType::BF16 || self.cols == 0 {
            return Ok(());
        }
        // A scale is at most the largest number of its row over the smallest divisor, so most rows need no second look.
        const SAFE: f32 = 60_000.0;
        let mut decoded = vec![0.0; self.cols];
        for (r, row) in values.chunks_exact(self.cols).enumerate() {
            if row.iter().all(|v| v.abs() < SAFE) {
                continue;
            }
            self.dequantize_row(r, &mut decoded);
            if let Some(i) = decoded.iter().position(|v| !v.is_finite()) {
                let message = format!("row {r}, column {i} is {}, too large for {}", row[i], self.ty);
                return Err(Error::invalid("GGUF matrix", message));
            }
        }
        Ok(())
    }

    /// Numbers of a row.
    ///
    /// # Panics
    /// If `row` is not below `rows`, or `out` has not `cols` elements.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols, "a row has {} numbers", self.cols);
        decode::decode(self.ty, self.row(row), out);
    }

    /// All numbers, row-major `[rows, cols]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        decode::decode(self.ty, &self.data, &mut out);
        out
    }

    /// Blocks of a row.
    ///
    /// # Panics
    /// If `row` is not below `rows`.
    pub fn row(&self, row: usize) -> &[u8] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let len = self.data.len() / self.rows;
        &self.data[row * len..(row + 1) * len]
    }

    /// Bytes in a file.
    pub fn bytes(&self) -> u64 {
        self.data.len() as u64
    }

    /// The matrix whose row `i` is row `source[i]` of this one; blocks are moved, not decoded.
    ///
    /// # Panics
    /// If `source` has not `rows` elements, each below `rows`.
    pub fn select_rows(&self, source: &[usize]) -> Self {
        assert_eq!(source.len(), self.rows, "one source for each row");
        let mut data = Vec::with_capacity(self.data.len());
        source.iter().for_each(|&row| data.extend_from_slice(self.row(row)));
        Self { data: data.into(), ..*self }
    }
}
