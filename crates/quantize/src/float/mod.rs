//! Weights in 8 and 4 bit floats: scales, and round-to-nearest.
//!
//! A region of the weight (tensor, row, group, block) shares a scale `s`; a weight becomes the float nearest to `w / s`.
//! Scales are rounded to their stored type before codes are chosen. Rules for the first candidate:
//!
//! | scales | scale of a region | source |
//! |---|---|---|
//! | F32, F16, BF16 | `absmax / max` (`max` = 448 for E4M3) | compressed-tensors, `calculate_qparams` |
//! | E4M3 (NVFP4) | `absmax / 6 · g` with `g = 448 · 6 / absmax(W)`, and `s = scale / g` | the same, `generate_gparam` |
//! | E8M0 (MXFP4, MXFP8) | `2^(floor(log2 absmax) − floor(log2 max))` | OCP Microscaling Formats (MX) 1.0, section 6.3 |
//!
//! [`ScaleFinder::Mse`] and [`ScaleFinder::MseWeighted`] try scales around it. Larger ones can win too: E2M1 is coarse at its
//! end, so that the largest weight may better be a 4 than a 6.
//!
//! Departure: a scale that would be stored as 0 although its region is not 0 becomes the least positive one.

mod scales;
#[cfg(test)]
mod tests;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use trimtab_io::{FloatScheme, FloatTensor};

pub(crate) use self::scales::{Scaler, check_scales, find_scales};
use crate::error::Result;
use crate::layer::{Layer, LayerReport};

/// How the scale of a region is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleFinder {
    /// From the largest magnitude.
    #[default]
    AbsMax,
    /// The scale around that with the least `Σ (x − x̂)²`.
    Mse,
    /// The same for `Σ h (x − x̂)²`, with `h` the power of the weight's input (the diagonal of `H`).
    MseWeighted,
}

impl ScaleFinder {
    /// Whether it makes no sense without the power of each input.
    pub fn needs_input_power(self) -> bool {
        self == Self::MseWeighted
    }
}

/// A weight in floats.
#[derive(Clone, Debug, PartialEq)]
pub struct FloatQuantized {
    /// Rows of the weight.
    pub d_output: usize,
    /// Columns of the weight.
    pub d_input: usize,
    /// How it is stored.
    pub scheme: FloatScheme,
    /// Codes, one a byte, `[d_output, d_input]`.
    pub codes: Vec<u8>,
    /// Scales as stored, in the shape of [`FloatScheme::scale_shape`].
    pub scales: Vec<f32>,
    /// What E4M3 scales are divided by.
    pub global_scale: Option<f32>,
    /// How it went.
    pub report: LayerReport,
}

impl FloatQuantized {
    /// The weight as it is written to files.
    ///
    /// # Errors
    /// As [`FloatTensor::from_codes`]; none for the result of a solver.
    pub fn pack(&self) -> Result<FloatTensor> {
        let (rows, cols) = (self.d_output, self.d_input);
        Ok(FloatTensor::from_codes(rows, cols, self.scheme, &self.codes, &self.scales, self.global_scale)?)
    }

    /// Scale of each group of columns of a row over the global scale.
    fn row_scales(&self, row: usize) -> impl Iterator<Item = f32> + '_ {
        let [height, _] = self.scheme.extent(self.d_output, self.d_input);
        let width = self.scheme.scale_shape(self.d_output, self.d_input)[1];
        let global = self.global_scale;
        let part = &self.scales[row / height * width..][..width];
        part.iter().map(move |&scale| global.map_or(scale, |global| scale / global))
    }

    /// The weight that the codes stand for, `[d_output, d_input]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let [_, width] = self.scheme.extent(self.d_output, self.d_input);
        let values = self.scheme.element.values();
        let mut weight = vec![0.0; self.codes.len()];
        let columns = self.d_input.max(1);
        let rows = weight.par_chunks_mut(columns).zip(self.codes.par_chunks(columns));
        rows.enumerate().for_each(|(row, (out, codes))| {
            let groups = out.chunks_mut(width).zip(codes.chunks(width)).zip(self.row_scales(row));
            for ((out, codes), scale) in groups {
                for (x, &code) in out.iter_mut().zip(codes) {
                    *x = values[usize::from(code)] * scale;
                }
            }
        });
        weight
    }
}

/// Quantizes a layer to floats by rounding. `report.damage` stays empty: see [`crate::damage`].
///
/// # Errors
/// A scheme that the shape does not allow; a weighted finder without a second moment; a scale that overflows its type.
pub fn float_rtn(layer: &Layer, scheme: &FloatScheme, finder: ScaleFinder) -> Result<FloatQuantized> {
    let (d_output, d_input) = (layer.d_output(), layer.d_input());
    scheme.validate(d_output, d_input)?;
    if finder.needs_input_power() {
        layer.need_hessian("rtn with input-weighted scales")?;
    }
    let scaler = Scaler::new(layer, *scheme, finder);
    let scales = find_scales(layer, &scaler)?;
    let report = LayerReport { method: "rtn".into(), ..LayerReport::default() };
    let global_scale = scaler.global;
    let codes = vec![0; d_output * d_input];
    let mut found =
        FloatQuantized { d_output, d_input, scheme: *scheme, codes, scales, global_scale, report };
    let mut codes = std::mem::take(&mut found.codes);
    let [_, width] = scheme.extent(d_output, d_input);
    let rows = layer.weight().par_chunks(d_input.max(1)).zip(codes.par_chunks_mut(d_input.max(1)));
    rows.enumerate().for_each(|(row, (weights, codes))| {
        let groups = weights.chunks(width).zip(codes.chunks_mut(width)).zip(found.row_scales(row));
        for ((weights, codes), scale) in groups {
            for (code, &x) in codes.iter_mut().zip(weights) {
                *code = scheme.element.code_of(scheme.element.round(x / scale));
            }
        }
    });
    found.codes = codes;
    Ok(found)
}
