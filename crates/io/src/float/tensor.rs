//! A matrix of 8 or 4 bit floats with its scales.

use super::element::{FloatElement, decode_e8m0, encode_e8m0};
use super::scheme::{FloatScheme, ScaleFormat, ScaleGrid};
use crate::bits;
use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::tensor::RawTensor;

const WHAT: &str = "float matrix";

/// A matrix of small floats, `[rows, cols]`; rows are outputs, columns inputs.
///
/// A value is `element * scale` in f32; where scales are E4M3, `element * (scale / global_scale)`. The memory is that of
/// the compressed-tensors formats, so that a mapped file runs as it is. The fields are public for kernels to read;
/// [`Self::new`] and [`Self::from_codes`] keep them consistent.
#[derive(Clone, Debug)]
pub struct FloatTensor {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Element, sharing of scales, type of scales.
    pub scheme: FloatScheme,
    /// Codes, row-major `[rows, row_bytes]`; of 4-bit codes column `2k` is in the low half of byte `k`.
    pub codes: Bytes,
    /// Scales as they are stored, row-major `[scale_rows, scale_cols]` (see [`FloatScheme::scale_shape`]).
    pub scales: Bytes,
    /// What E4M3 scales are divided by; `None` for the other types.
    pub global_scale: Option<f32>,
}

impl FloatTensor {
    /// A matrix over codes and scales as they are stored, for example in a mapped file. Codes are not looked at.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a length does not follow from `rows`, `cols` and `scheme`; if a scale, or its quotient by the
    /// global scale, is not finite; if `global_scale` is given or missing against `scheme`, or not above 0.
    pub fn new(
        rows: usize,
        cols: usize,
        scheme: FloatScheme,
        codes: Bytes,
        scales: Bytes,
        global_scale: Option<f32>,
    ) -> Result<Self> {
        scheme.validate(rows, cols)?;
        expect_len("codes", codes.len(), rows * scheme.row_bytes(cols), [rows, cols])?;
        let [height, width] = scheme.scale_shape(rows, cols);
        expect_len("scales", scales.len(), height * width * scheme.scale.size(), [height, width])?;
        match (global_scale, scheme.scale.has_global()) {
            (Some(scale), true) if scale > 0.0 && scale.is_finite() => {}
            (Some(scale), true) => {
                return Err(Error::invalid(
                    WHAT,
                    format!("global scale {scale} is no finite number above 0"),
                ));
            }
            (None, false) => {}
            (Some(_), false) => {
                return Err(Error::invalid(WHAT, format!("{scheme} has no global scale, but one is given")));
            }
            (None, true) => return Err(Error::invalid(WHAT, format!("{scheme} needs a global scale"))),
        }
        let matrix = Self { rows, cols, scheme, codes, scales, global_scale };
        let values = matrix.scale_values(0, height * width);
        match values.iter().position(|scale| !scale.is_finite()) {
            None => Ok(matrix),
            Some(i) => {
                let stored = matrix.stored_scales(i, 1)[0];
                let global = global_scale.map_or(String::new(), |g| format!(" over global scale {g}"));
                Err(Error::invalid(WHAT, format!("scale {stored}{global} at index {i} is not finite")))
            }
        }
    }

    /// Packs codes, one a byte, row-major `[rows, cols]`, and scales `[scale_rows, scale_cols]`.
    ///
    /// # Errors
    /// As [`Self::new`], and [`Error::Invalid`] for a code of more bits than the element has, or a scale that the type of
    /// scales cannot hold exactly.
    pub fn from_codes(
        rows: usize,
        cols: usize,
        scheme: FloatScheme,
        codes: &[u8],
        scales: &[f32],
        global_scale: Option<f32>,
    ) -> Result<Self> {
        scheme.validate(rows, cols)?;
        expect_len("codes", codes.len(), rows * cols, [rows, cols])?;
        let (bits, len) = (scheme.element.bits(), scheme.row_bytes(cols));
        if let Some(i) = codes.iter().position(|&code| code > u8::MAX >> (8 - bits)) {
            let message = format!("code {} at index {i} has more than {bits} bits", codes[i]);
            return Err(Error::invalid(WHAT, message));
        }
        let mut packed = vec![0; rows * len];
        if cols > 0 {
            for (row, out) in codes.chunks_exact(cols).zip(packed.chunks_exact_mut(len)) {
                bits::pack(row, bits, out);
            }
        }
        let scales = encode_scales(scales, scheme.scale)?;
        Self::new(rows, cols, scheme, packed.into(), scales, global_scale)
    }

    /// Codes of a row, one a byte.
    ///
    /// # Panics
    /// If `row` is not below `rows`, or `out` has not `cols` elements.
    pub fn unpack_row(&self, row: usize, out: &mut [u8]) {
        assert_eq!(out.len(), self.cols, "a row has {} codes", self.cols);
        bits::unpack(self.row_bytes(row), self.scheme.element.bits(), out);
    }

    /// Columns that share a scale in a row, at least 1, and such groups in a row.
    pub fn groups(&self) -> (usize, usize) {
        let [_, width] = self.scheme.extent(self.rows, self.cols);
        (width, self.scheme.scale_shape(self.rows, self.cols)[1])
    }

    /// What the elements of each group of a row are multiplied by; the global scale is in it.
    ///
    /// # Panics
    /// If `row` is not below `rows`.
    pub fn row_scales(&self, row: usize) -> Vec<f32> {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let [height, _] = self.scheme.extent(self.rows, self.cols);
        let groups = self.groups().1;
        self.scale_values(row / height * groups, groups)
    }

    /// Numbers of a row.
    ///
    /// # Panics
    /// If `row` is not below `rows`, or `out` has not `cols` elements.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols, "a row has {} numbers", self.cols);
        let stream = self.row_bytes(row);
        let values = self.scheme.element.values();
        let number = |column: usize| match self.scheme.element {
            FloatElement::E2M1 => values[usize::from(stream[column / 2] >> (column % 2 * 4))],
            _ => values[usize::from(stream[column])],
        };
        let (width, _) = self.groups();
        for (group, (out, scale)) in out.chunks_mut(width).zip(self.row_scales(row)).enumerate() {
            for (i, x) in out.iter_mut().enumerate() {
                *x = number(group * width + i) * scale;
            }
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

    /// Row, column and value of the first number that is NaN or infinite: a code of the element, or a product with a large
    /// scale.
    pub fn first_non_finite(&self) -> Option<(usize, usize, f32)> {
        let [height, width] = self.scheme.scale_shape(self.rows, self.cols);
        let element = self.scheme.element;
        let fits = |scale: &f32| (scale * element.max()).is_finite();
        if self.scale_values(0, height * width).iter().all(fits) && !element.any_special(&self.codes) {
            return None;
        }
        let mut numbers = vec![0.0; self.cols];
        let rows = if self.cols == 0 { 0 } else { self.rows };
        (0..rows).find_map(|row| {
            self.dequantize_row(row, &mut numbers);
            let column = numbers.iter().position(|x| !x.is_finite())?;
            Some((row, column, numbers[column]))
        })
    }

    /// Refuses what [`Self::first_non_finite`] finds.
    pub(crate) fn check_finite(&self) -> Result<()> {
        match self.first_non_finite() {
            None => Ok(()),
            Some((row, column, number)) => {
                Err(Error::invalid(WHAT, format!("number {number} at [{row}, {column}] is not finite")))
            }
        }
    }

    /// Bytes on disk, of all tensors that make up this matrix.
    pub fn bytes(&self) -> u64 {
        self.scheme.bytes(self.rows, self.cols)
    }

    /// The scales as a tensor of the shape that compressed-tensors gives them.
    pub(crate) fn scale_tensor(&self) -> Result<RawTensor> {
        let [height, width] = self.scheme.scale_shape(self.rows, self.cols);
        let shape = if self.scheme.grid == ScaleGrid::Tensor { vec![1] } else { vec![height, width] };
        RawTensor::new(self.scheme.scale.dtype(), shape, self.scales.clone())
    }

    fn row_bytes(&self, row: usize) -> &[u8] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let len = self.scheme.row_bytes(self.cols);
        &self.codes[row * len..(row + 1) * len]
    }

    /// `n` scales from the index `first` on, as stored.
    fn stored_scales(&self, first: usize, n: usize) -> Vec<f32> {
        let size = self.scheme.scale.size();
        let part = &self.scales[first * size..(first + n) * size];
        let pairs = || part.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        match self.scheme.scale {
            ScaleFormat::F32 => part.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect(),
            ScaleFormat::F16 => pairs().map(|bits| half::f16::from_bits(bits).to_f32()).collect(),
            ScaleFormat::BF16 => pairs().map(|bits| half::bf16::from_bits(bits).to_f32()).collect(),
            ScaleFormat::E4M3 => part.iter().map(|&code| FloatElement::E4M3.decode(code)).collect(),
            ScaleFormat::E8M0 => part.iter().map(|&code| decode_e8m0(code)).collect(),
        }
    }

    /// `n` scales from the index `first` on, over the global scale.
    fn scale_values(&self, first: usize, n: usize) -> Vec<f32> {
        let mut scales = self.stored_scales(first, n);
        if let Some(global) = self.global_scale {
            scales.iter_mut().for_each(|scale| *scale /= global);
        }
        scales
    }
}

/// Scales in their stored type; refuses what that type cannot hold exactly.
fn encode_scales(scales: &[f32], format: ScaleFormat) -> Result<Bytes> {
    if let Some(i) = scales.iter().position(|&scale| !scale.is_finite() || format.round(scale) != scale) {
        let message = format!("scale {} at index {i} is no finite number of type {format:?}", scales[i]);
        return Err(Error::invalid(WHAT, message));
    }
    Ok(match format {
        ScaleFormat::E4M3 => scales.iter().map(|&s| FloatElement::E4M3.encode(s)).collect::<Vec<u8>>().into(),
        ScaleFormat::E8M0 => {
            let exponent = |scale: f32| encode_e8m0((scale.to_bits() >> 23) as i32 - 127);
            scales.iter().map(|&scale| exponent(scale)).collect::<Vec<u8>>().into()
        }
        _ => RawTensor::from_f32(vec![scales.len()], scales, format.dtype())?.bytes,
    })
}

fn expect_len(what: &str, found: usize, expected: usize, dims: [usize; 2]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::invalid(WHAT, format!("{what} for {dims:?}: expected {expected}, found {found}")))
}
