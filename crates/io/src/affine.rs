//! Integer codes with scales and zero points: the one packed matrix of the house.
//!
//! The memory is the `pack-quantized` layout of compressed-tensors (vllm-project/compressed-tensors,
//! `compressors/pack_quantized`), so that a mapped file runs as it is. Codes here are unsigned, `u = q + 2^(b-1)`, and
//! so are zero points; a value is `(u - z) * scale`.

use std::fmt;

use crate::bits;
use crate::bytes::Bytes;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::tensor::round_floats;

/// Bytes of `weight_shape`: two 64-bit integers.
const SHAPE_BYTES: u64 = 16;
/// Codes that are unpacked at once; a multiple of 8, so that each part begins at a byte.
const PART: usize = 256;

/// How the numbers of a matrix are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct AffineScheme {
    /// Bits of a code, 1 to 8.
    pub bits: u8,
    /// Consecutive columns that share a scale; the last group may be short. `None`: one scale a row.
    pub group_size: Option<usize>,
    /// Whether the zero point is `2^(b-1)` everywhere, and not stored.
    pub symmetric: bool,
}

impl AffineScheme {
    /// Checks that there can be such a matrix.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `bits` is not in `1..=8` or `group_size` is 0.
    pub fn validate(&self) -> Result<()> {
        if !(1..=8).contains(&self.bits) {
            return Err(Error::invalid("scheme", format!("codes have 1 to 8 bits, not {}", self.bits)));
        }
        if self.group_size == Some(0) {
            return Err(Error::invalid("scheme", "group_size must be at least 1, found 0"));
        }
        Ok(())
    }

    /// Groups in a row of `cols` columns.
    pub fn n_groups(&self, cols: usize) -> usize {
        self.group_size.map_or(1, |g| cols.div_ceil(g.max(1)))
    }

    /// 32-bit words in a row of `cols` columns.
    pub fn row_words(&self, cols: usize) -> usize {
        bits::packed_words(cols, self.bits)
    }

    /// The unsigned zero point of symmetric codes, `2^(b-1)`.
    pub fn middle(&self) -> u8 {
        1 << (self.bits - 1)
    }

    /// The largest unsigned code, `2^b - 1`.
    pub fn max_code(&self) -> u8 {
        u8::MAX >> (8 - self.bits)
    }

    /// Bytes of a matrix on disk: packed codes, scales, shape and, where asymmetric, packed zero points.
    pub fn bytes(&self, rows: usize, cols: usize, scale_dtype: Dtype) -> u64 {
        let groups = self.n_groups(cols) as u64;
        let codes = 4 * rows as u64 * self.row_words(cols) as u64;
        let scales = scale_dtype.size() as u64 * rows as u64 * groups;
        let zeros = if self.symmetric { 0 } else { 4 * bits::packed_words(rows, self.bits) as u64 * groups };
        codes + scales + SHAPE_BYTES + zeros
    }
}

impl fmt::Display for AffineScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = self.group_size.map_or("row".into(), |g| format!("g{g}"));
        let zero = if self.symmetric { " sym" } else { "" };
        f.pad(&format!("int{} {group}{zero}", self.bits))
    }
}

/// A matrix of packed codes, `[rows, cols]`; rows are outputs, columns inputs.
///
/// The fields are public for kernels to read; [`Self::from_codes`] and [`Self::from_packed`] keep them consistent.
#[derive(Clone, Debug)]
pub struct AffineTensor {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Bits, groups and symmetry.
    pub scheme: AffineScheme,
    /// Unsigned codes, `[rows, row_words]` 32-bit words, each row one bit stream (see [`bits`]), the tail zero.
    pub codes: Bytes,
    /// Scales, `[rows, n_groups]`, exactly representable in `scale_dtype`.
    pub scales: Vec<f32>,
    /// Type of the scales on disk.
    pub scale_dtype: Dtype,
    /// Unsigned zero points, `[rows, n_groups]`; `None` where symmetric: `2^(b-1)` everywhere.
    pub zeros: Option<Vec<u8>>,
    /// Group of each column; `None`: `column / group_size`.
    pub g_idx: Option<Vec<u32>>,
}

impl AffineTensor {
    /// Packs unsigned codes, one a byte, row-major `[rows, cols]`.
    ///
    /// # Errors
    /// As [`Self::from_packed`], and [`Error::Invalid`] for a code above `2^b - 1` or a wrong number of codes.
    #[allow(clippy::too_many_arguments)]
    pub fn from_codes(
        rows: usize,
        cols: usize,
        scheme: AffineScheme,
        codes: &[u8],
        scales: Vec<f32>,
        zeros: Option<Vec<u8>>,
        g_idx: Option<Vec<u32>>,
        scale_dtype: Dtype,
    ) -> Result<Self> {
        scheme.validate()?;
        expect_len("codes", codes.len(), rows.checked_mul(cols), &[rows, cols])?;
        let max = scheme.max_code();
        if let Some(i) = codes.iter().position(|&code| code > max) {
            let message =
                format!("code {} at index {i} is above {max}, the largest of {} bits", codes[i], scheme.bits);
            return Err(Error::invalid("packed matrix", message));
        }
        let words = scheme.row_words(cols);
        let mut packed = vec![0u32; rows * words];
        if cols > 0 {
            for (row, out) in codes.chunks_exact(cols).zip(packed.chunks_exact_mut(words)) {
                bits::pack(row, scheme.bits, bytemuck::cast_slice_mut(out));
            }
        }
        Self::from_packed(rows, cols, scheme, Bytes::from_numbers(packed), scales, zeros, g_idx, scale_dtype)
    }

    /// A matrix over codes that are packed already, for example in a mapped file.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a length does not follow from `rows`, `cols` and `scheme`; if a scale is not finite or not
    /// representable in `scale_dtype`; if a zero point or a group is out of range; if `zeros` are given or missing
    /// against `scheme.symmetric`.
    #[allow(clippy::too_many_arguments)]
    pub fn from_packed(
        rows: usize,
        cols: usize,
        scheme: AffineScheme,
        codes: Bytes,
        scales: Vec<f32>,
        zeros: Option<Vec<u8>>,
        g_idx: Option<Vec<u32>>,
        scale_dtype: Dtype,
    ) -> Result<Self> {
        scheme.validate()?;
        let words = cols.checked_mul(scheme.bits.into()).map(|bits| bits.div_ceil(32));
        let code_bytes = words.and_then(|words| rows.checked_mul(words)?.checked_mul(4));
        expect_len("packed codes", codes.len(), code_bytes, &[rows, cols])?;
        let groups = scheme.n_groups(cols);
        let expected = rows.checked_mul(groups);
        expect_len("scales", scales.len(), expected, &[rows, groups])?;
        check_scales(&scales, scale_dtype)?;
        if scheme.symmetric == zeros.is_some() {
            let found = if zeros.is_some() { "zero points" } else { "no zero points" };
            return Err(Error::invalid(
                "packed matrix",
                format!("the scheme is {scheme}, but there are {found}"),
            ));
        }
        if let Some(zeros) = &zeros {
            expect_len("zero points", zeros.len(), expected, &[rows, groups])?;
            let max = scheme.max_code();
            if let Some(i) = zeros.iter().position(|&zero| zero > max) {
                let message = format!("zero point {} at index {i} is above {max}", zeros[i]);
                return Err(Error::invalid("packed matrix", message));
            }
        }
        if let Some(g_idx) = &g_idx {
            check_groups(g_idx, cols, groups, scheme)?;
        }
        Ok(Self { rows, cols, scheme, codes, scales, scale_dtype, zeros, g_idx })
    }

    /// Unsigned codes of a row.
    ///
    /// # Panics
    /// If `row` is not below `rows`, or `out` has not `cols` elements.
    pub fn unpack_row(&self, row: usize, out: &mut [u8]) {
        assert_eq!(out.len(), self.cols, "a row has {} codes", self.cols);
        bits::unpack(self.row_bytes(row), self.scheme.bits, out);
    }

    /// Numbers of a row, `(u - z) * scale` in f32.
    ///
    /// # Panics
    /// If `row` is not below `rows`, or `out` has not `cols` elements.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols, "a row has {} numbers", self.cols);
        let stream = self.row_bytes(row);
        let bits = self.scheme.bits;
        let mut codes = [0u8; PART];
        for (part, numbers) in out.chunks_mut(PART).enumerate() {
            let codes = &mut codes[..numbers.len()];
            bits::unpack(&stream[part * PART / 8 * usize::from(bits)..], bits, codes);
            self.scale_part(row, part * PART, codes, numbers);
        }
    }

    /// All numbers, row-major `[rows, cols]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        if self.cols > 0 {
            for (row, numbers) in out.chunks_exact_mut(self.cols).enumerate() {
                self.dequantize_row(row, numbers);
            }
        }
        out
    }

    /// Bytes on disk, of all tensors that make up this matrix.
    pub fn bytes(&self) -> u64 {
        let order = self.g_idx.as_ref().map_or(0, |g_idx| 4 * g_idx.len() as u64);
        self.scheme.bytes(self.rows, self.cols, self.scale_dtype) + order
    }

    fn row_bytes(&self, row: usize) -> &[u8] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let len = 4 * self.scheme.row_words(self.cols);
        &self.codes[row * len..(row + 1) * len]
    }

    /// Scales the codes of columns `first..`.
    fn scale_part(&self, row: usize, first: usize, codes: &[u8], out: &mut [f32]) {
        let groups = self.scheme.n_groups(self.cols);
        let scales = &self.scales[row * groups..(row + 1) * groups];
        let zeros = self.zeros.as_ref().map(|zeros| &zeros[row * groups..(row + 1) * groups]);
        let zero = |group: usize| f32::from(zeros.map_or(self.scheme.middle(), |zeros| zeros[group]));
        if let Some(g_idx) = &self.g_idx {
            for ((x, &code), &group) in out.iter_mut().zip(codes).zip(&g_idx[first..]) {
                *x = (f32::from(code) - zero(group as usize)) * scales[group as usize];
            }
            return;
        }
        let size = self.scheme.group_size.unwrap_or(self.cols);
        let mut start = 0;
        while start < codes.len() {
            let group = (first + start) / size;
            let end = ((group + 1) * size - first).min(codes.len());
            let (scale, zero) = (scales[group], zero(group));
            for (x, &code) in out[start..end].iter_mut().zip(&codes[start..end]) {
                *x = (f32::from(code) - zero) * scale;
            }
            start = end;
        }
    }
}

fn expect_len(what: &str, found: usize, expected: Option<usize>, dims: &[usize]) -> Result<()> {
    if Some(found) == expected {
        return Ok(());
    }
    let expected = expected.map_or("more than the address space".into(), |n| n.to_string());
    let message = format!("{what} for {dims:?}: expected {expected}, found {found}");
    Err(Error::invalid("packed matrix", message))
}

fn check_scales(scales: &[f32], dtype: Dtype) -> Result<()> {
    if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        return Err(Error::invalid("packed matrix", format!("scales are F32, F16 or BF16, not {dtype}")));
    }
    let mut rounded = scales.to_vec();
    round_floats(&mut rounded, dtype)?;
    match scales.iter().zip(&rounded).position(|(scale, rounded)| !scale.is_finite() || scale != rounded) {
        None => Ok(()),
        Some(i) => {
            let message = format!("scale {} at index {i} is no finite number of type {dtype}", scales[i]);
            Err(Error::invalid("packed matrix", message))
        }
    }
}

fn check_groups(g_idx: &[u32], cols: usize, groups: usize, scheme: AffineScheme) -> Result<()> {
    if scheme.group_size.is_none() {
        return Err(Error::invalid(
            "packed matrix",
            "an order of groups needs groups, the scheme has one a row",
        ));
    }
    expect_len("groups of columns", g_idx.len(), Some(cols), &[cols])?;
    match g_idx.iter().position(|&group| group as usize >= groups) {
        None => Ok(()),
        Some(i) => {
            let message = format!("column {i} is in group {}, there are {groups}", g_idx[i]);
            Err(Error::invalid("packed matrix", message))
        }
    }
}
