//! Borrowed matrices as the kernels read them.

use half::bf16;

use super::decode::{decode_segment, widen};
use super::{Error, Result};

/// Affine integer codes, `W[o, i] = (u[o, i] - z[o, g]) * s[o, g]` with `g = i / group_size`.
///
/// A row is a stream of `bits`-wide unsigned codes, lowest bits first, padded to whole 32-bit little-endian words (the
/// layout of compressed-tensors).
#[derive(Debug, Clone, Copy)]
pub struct PackedView<'a> {
    /// Output channels.
    pub rows: usize,
    /// Inputs of one output channel.
    pub cols: usize,
    /// Bits per code, 1 to 8.
    pub bits: u8,
    /// Consecutive columns that share a scale; the last group of a row may be short.
    pub group_size: usize,
    /// `rows * row_bytes` bytes.
    pub codes: &'a [u8],
    /// `[rows, n_groups]`.
    pub scales: &'a [f32],
    /// `[rows, n_groups]`; `None` means `2^(bits - 1)` everywhere.
    pub zeros: Option<&'a [u8]>,
}

impl<'a> PackedView<'a> {
    /// Bytes of one row of codes.
    pub fn row_bytes(&self) -> usize {
        (self.cols * usize::from(self.bits)).div_ceil(32) * 4
    }

    /// Groups of one row.
    pub fn n_groups(&self) -> usize {
        self.cols.div_ceil(self.group_size.max(1))
    }

    /// Bytes that a product reads: codes, scales and zero points.
    pub fn bytes(&self) -> usize {
        self.codes.len() + size_of_val(self.scales) + self.zeros.map_or(0, <[u8]>::len)
    }

    /// Zero point where none is stored.
    pub(super) fn middle(&self) -> f32 {
        f32::from(1u8 << (self.bits - 1))
    }

    /// Codes from the first byte of row `row` to the end of the matrix.
    pub(super) fn codes_from(&self, row: usize) -> &'a [u8] {
        &self.codes[row * self.row_bytes()..]
    }

    /// Scales of row `row`.
    pub(super) fn row_scales(&self, row: usize) -> &'a [f32] {
        let groups = self.n_groups();
        &self.scales[row * groups..][..groups]
    }

    /// Zero points of row `row`.
    pub(super) fn row_zeros(&self, row: usize) -> Option<&'a [u8]> {
        let groups = self.n_groups();
        self.zeros.map(|zeros| &zeros[row * groups..][..groups])
    }

    /// Decodes row `index` into `row` (`[cols]`).
    ///
    /// # Errors
    ///
    /// An inconsistent view, an index past the end, or a `row` of another length.
    pub fn read_row(&self, index: usize, row: &mut [f32]) -> Result<()> {
        self.check()?;
        check_row(index, self.rows, self.cols, row)?;
        decode_segment(self, index, 0, row);
        Ok(())
    }

    pub(super) fn check(&self) -> Result<()> {
        if !(1..=8).contains(&self.bits) {
            return Err(Error::Bits { found: self.bits });
        }
        if self.group_size == 0 {
            return Err(Error::EmptyGroup);
        }
        if self.cols.checked_mul(8).is_none() {
            return Err(Error::Overflow { what: "W" });
        }
        let per_group = self.rows.checked_mul(self.n_groups());
        expect_len("codes", self.rows.checked_mul(self.row_bytes()), self.codes.len())?;
        expect_len("scales", per_group, self.scales.len())?;
        self.zeros.map_or(Ok(()), |zeros| expect_len("zeros", per_group, zeros.len()))
    }
}

/// Dense rows, `[rows, cols]`.
#[derive(Debug, Clone, Copy)]
pub struct DenseView<'a> {
    rows: usize,
    cols: usize,
    pub(super) values: DenseValues<'a>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum DenseValues<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl<'a> DenseView<'a> {
    /// A matrix of `f32`. Its length is checked where the view is used.
    pub fn f32(rows: usize, cols: usize, values: &'a [f32]) -> Self {
        Self { rows, cols, values: DenseValues::F32(values) }
    }

    /// A matrix of `bf16`. Its length is checked where the view is used.
    pub fn bf16(rows: usize, cols: usize, values: &'a [bf16]) -> Self {
        Self { rows, cols, values: DenseValues::Bf16(values) }
    }

    /// Output channels.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs of one output channel.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that a product reads.
    pub fn bytes(&self) -> usize {
        match self.values {
            DenseValues::F32(values) => size_of_val(values),
            DenseValues::Bf16(values) => size_of_val(values),
        }
    }

    /// Copies row `index` into `row` (`[cols]`).
    ///
    /// # Errors
    ///
    /// A view of another length than its shape needs, an index past the end, or a `row` of another length.
    pub fn read_row(&self, index: usize, row: &mut [f32]) -> Result<()> {
        self.check()?;
        check_row(index, self.rows, self.cols, row)?;
        match self.values {
            DenseValues::F32(values) => row.copy_from_slice(&values[index * self.cols..][..self.cols]),
            DenseValues::Bf16(values) => widen(&values[index * self.cols..][..self.cols], row),
        }
        Ok(())
    }

    pub(super) fn check(&self) -> Result<()> {
        let found = match self.values {
            DenseValues::F32(values) => values.len(),
            DenseValues::Bf16(values) => values.len(),
        };
        expect_len("W", self.rows.checked_mul(self.cols), found)
    }
}

fn check_row(index: usize, rows: usize, cols: usize, row: &[f32]) -> Result<()> {
    if index >= rows {
        return Err(Error::Row { rows, found: index });
    }
    expect_len("row", Some(cols), row.len())
}

pub(super) fn expect_len(what: &'static str, expected: Option<usize>, found: usize) -> Result<()> {
    match expected {
        None => Err(Error::Overflow { what }),
        Some(expected) if expected != found => Err(Error::Length { what, expected, found }),
        Some(_) => Ok(()),
    }
}
