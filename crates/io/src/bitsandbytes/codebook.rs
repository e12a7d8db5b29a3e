//! Matrices of 4-bit indices into a table of sixteen numbers.

use crate::bytes::Bytes;
use crate::error::{Error, Result};

/// Entries of a table.
pub(super) const ENTRIES: usize = 16;

/// A matrix of indices into a table, with a scale for each block of consecutive numbers, `[rows, cols]`.
///
/// Codes and blocks run through the matrix as one row-major list: a block may reach from one row into the next.
#[derive(Clone, Debug)]
pub struct CodebookTensor {
    rows: usize,
    cols: usize,
    codes: Bytes,
    block_size: usize,
    absmax: Vec<f32>,
    codebook: [f32; ENTRIES],
    stored_bytes: u64,
}

impl CodebookTensor {
    /// A matrix over packed codes: two a byte, the first in the high nibble.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are no numbers, a length does not follow from `rows`, `cols` and `block_size`, or a
    /// scale or an entry of the table is not finite.
    pub fn new(
        [rows, cols]: [usize; 2],
        codes: Bytes,
        block_size: usize,
        absmax: Vec<f32>,
        codebook: [f32; ENTRIES],
    ) -> Result<Self> {
        let refuse = |message: String| Err(Error::invalid("codebook matrix", message));
        let Some(n) = rows.checked_mul(cols).filter(|&n| n > 0 && block_size > 0) else {
            return refuse(format!("no numbers in [{rows}, {cols}] with blocks of {block_size}"));
        };
        if codes.len() != n.div_ceil(2) {
            return refuse(format!("[{rows}, {cols}] takes {} bytes, found {}", n.div_ceil(2), codes.len()));
        }
        if absmax.len() != n.div_ceil(block_size) {
            let blocks = n.div_ceil(block_size);
            return refuse(format!("blocks of {block_size} need {blocks} scales, found {}", absmax.len()));
        }
        if let Some(i) = absmax.iter().position(|scale| !scale.is_finite()) {
            return refuse(format!("scale {} of block {i} is not finite", absmax[i]));
        }
        if let Some(i) = codebook.iter().position(|entry| !entry.is_finite()) {
            return refuse(format!("entry {} of the table is {}", i, codebook[i]));
        }
        let stored_bytes = codes.len() as u64 + 4 * (absmax.len() + ENTRIES) as u64;
        Ok(Self { rows, cols, codes, block_size, absmax, codebook, stored_bytes })
    }

    /// The same matrix, whose scales take another number of bytes in its file.
    pub(super) fn stored_in(self, stored_bytes: u64) -> Self {
        Self { stored_bytes, ..self }
    }

    /// `[rows, cols]`.
    pub fn dims(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Packed codes: two a byte, the first in the high nibble.
    pub fn codes(&self) -> &Bytes {
        &self.codes
    }

    /// Consecutive numbers that share a scale.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Scales of the blocks.
    pub fn absmax(&self) -> &[f32] {
        &self.absmax
    }

    /// What a code stands for, before it is scaled.
    pub fn codebook(&self) -> &[f32; ENTRIES] {
        &self.codebook
    }

    /// Bytes of its tensors on disk.
    pub fn bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Numbers of a row, `codebook[code] * absmax[block]` in f32.
    ///
    /// # Panics
    /// If `row` is not below the rows, or `out` has not as many elements as there are columns.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "a row has {} numbers", self.cols);
        let mut i = row * self.cols;
        let end = i + self.cols;
        let mut rest = out;
        while i < end {
            let block = i / self.block_size;
            let stop = block.saturating_add(1).saturating_mul(self.block_size).min(end);
            let (part, tail) = rest.split_at_mut(stop - i);
            let scale = self.absmax[block];
            for (x, i) in part.iter_mut().zip(i..) {
                let pair = self.codes[i / 2];
                let code = if i % 2 == 0 { pair >> 4 } else { pair & 15 };
                *x = self.codebook[usize::from(code)] * scale;
            }
            rest = tail;
            i = stop;
        }
    }

    /// All numbers, row-major `[rows, cols]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        for (row, numbers) in out.chunks_exact_mut(self.cols).enumerate() {
            self.dequantize_row(row, numbers);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> [f32; 16] {
        std::array::from_fn(|i| i as f32 - 8.0)
    }

    #[test]
    fn a_case_by_hand() {
        // Codes 0 15 | 8 9 | 1: rows of five across blocks of four; the last nibble is padding.
        let codes = Bytes::from(vec![0x0f, 0x89, 0x10]);
        let matrix = CodebookTensor::new([1, 5], codes, 4, vec![0.5, 2.0], table()).unwrap();
        assert_eq!(matrix.dequantize(), [-4.0, 3.5, 0.0, 0.5, -14.0]);
        let codes = Bytes::from(vec![0x0f, 0x89, 0x10]);
        let turned = CodebookTensor::new([3, 2], codes, 4, vec![0.5, 2.0], table()).unwrap();
        assert_eq!(turned.dequantize(), [-4.0, 3.5, 0.0, 0.5, -14.0, -16.0]);
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let make = |dims, bytes: usize, block, absmax: Vec<f32>, codebook| {
            CodebookTensor::new(dims, Bytes::from(vec![0; bytes]), block, absmax, codebook)
                .unwrap_err()
                .to_string()
        };
        assert!(make([2, 0], 0, 4, vec![], table()).contains("no numbers in [2, 0]"));
        assert!(make([usize::MAX, 2], 0, 4, vec![], table()).contains("no numbers"));
        assert!(make([2, 3], 4, 4, vec![1.0; 2], table()).contains("takes 3 bytes, found 4"));
        assert!(make([2, 3], 3, 0, vec![1.0; 2], table()).contains("blocks of 0"));
        assert!(make([2, 3], 3, 4, vec![1.0; 3], table()).contains("need 2 scales, found 3"));
        assert!(make([2, 3], 3, 4, vec![1.0, f32::NAN], table()).contains("scale NaN of block 1"));
        let mut odd = table();
        odd[3] = f32::INFINITY;
        assert!(make([2, 3], 3, 4, vec![1.0; 2], odd).contains("entry 3 of the table is inf"));
    }
}
