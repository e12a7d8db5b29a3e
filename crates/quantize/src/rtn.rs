//! Round-to-nearest: every weight goes to the nearest code of its group, one by one.
//!
//! The baseline of every weight quantizer, and exact where inputs are uncorrelated.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::affine::{Affine, Grid, RealZero, nearest_code};
use crate::error::{Error, Result};
use crate::layer::{Layer, LayerReport, Quantized};
use crate::range::RangeFinder;
use crate::scheme::WeightScheme;

/// Settings of [`rtn`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RtnSettings {
    /// How step and zero of a group are found.
    pub range: RangeFinder,
}

/// Quantizes a layer by rounding. `report.damage` stays empty: see [`crate::damage`].
///
/// # Errors
/// A scheme or setting out of range; a weighted range finder without a second moment; a step that overflows its type.
pub fn rtn(layer: &Layer, scheme: &WeightScheme, settings: &RtnSettings) -> Result<Quantized> {
    scheme.check()?;
    settings.range.check()?;
    if settings.range.needs_input_power() {
        layer.need_hessian("rtn with input-weighted ranges")?;
    }
    let (d_output, d_input) = (layer.d_output(), layer.d_input());
    let (grid, groups) = (scheme.grid(), scheme.groups(d_input));
    let power = layer.input_power();
    if scheme.real_zero {
        let fit = |values: &[f32], power: Option<&[f32]>| settings.range.fit_real(values, power, &grid);
        let parameters = fit_groups(layer, scheme, power.as_deref(), fit);
        let codes = nearest_codes(layer, scheme, &parameters);
        let report = LayerReport { method: "rtn".into(), ..LayerReport::default() };
        return Quantized::with_real_zeros([d_output, d_input], scheme, codes, &parameters, report);
    }
    let mut codes = vec![0u8; d_output * d_input];
    let mut parameters = vec![Affine { scale: 1.0, zero: 0 }; d_output * groups];
    layer
        .weight()
        .par_chunks(d_input.max(1))
        .zip(codes.par_chunks_mut(d_input.max(1)))
        .zip(parameters.par_chunks_mut(groups.max(1)))
        .for_each(|((weights, codes), parameters)| {
            quantize_row(weights, power.as_deref(), scheme, &settings.range, codes, parameters);
        });
    let (scales, zeros) = split_parameters(&parameters, groups, &grid)?;
    let report = LayerReport { method: "rtn".into(), ..LayerReport::default() };
    let (g_idx, real_zeros) = (None, None);
    Ok(Quantized { d_output, d_input, scheme: *scheme, codes, scales, zeros, real_zeros, g_idx, report })
}

/// A step and a real zero for every group, `[rows, groups]`: `fit(values, power)`.
pub(crate) fn fit_groups(
    layer: &Layer,
    scheme: &WeightScheme,
    power: Option<&[f32]>,
    fit: impl Fn(&[f32], Option<&[f32]>) -> RealZero + Sync,
) -> Vec<RealZero> {
    let (d_input, groups) = (layer.d_input(), scheme.groups(layer.d_input()));
    let width = scheme.group_width(d_input);
    let mut parameters = vec![RealZero { scale: 1.0, zero: 0.0 }; layer.d_output() * groups];
    let rows = layer.weight().par_chunks(d_input.max(1)).zip(parameters.par_chunks_mut(groups.max(1)));
    rows.for_each(|(weights, parameters)| {
        for (group, (values, found)) in weights.chunks(width).zip(parameters).enumerate() {
            *found = fit(values, power.map(|power| &power[group * width..group * width + values.len()]));
        }
    });
    parameters
}

/// The codes nearest to the weights of a layer for the parameters `[rows, groups]`.
pub(crate) fn nearest_codes(layer: &Layer, scheme: &WeightScheme, parameters: &[RealZero]) -> Vec<u8> {
    let (d_input, groups, grid) = (layer.d_input(), scheme.groups(layer.d_input()), scheme.grid());
    let width = scheme.group_width(d_input);
    let mut codes = vec![0; layer.weight().len()];
    let rows = layer.weight().par_chunks(d_input.max(1)).zip(codes.par_chunks_mut(d_input.max(1)));
    rows.zip(parameters.par_chunks(groups.max(1))).for_each(|((weights, codes), parameters)| {
        for ((values, codes), found) in weights.chunks(width).zip(codes.chunks_mut(width)).zip(parameters) {
            values.iter().zip(codes).for_each(|(&x, code)| *code = found.nearest(x, &grid).0);
        }
    });
    codes
}

fn quantize_row(
    weights: &[f32],
    power: Option<&[f32]>,
    scheme: &WeightScheme,
    range: &RangeFinder,
    codes: &mut [u8],
    parameters: &mut [Affine],
) {
    let (grid, width) = (scheme.grid(), scheme.group_width(weights.len()));
    let slices = weights.chunks(width).zip(codes.chunks_mut(width)).zip(parameters);
    for (group, ((values, codes), affine)) in slices.enumerate() {
        let power = power.map(|power| &power[group * width..group * width + values.len()]);
        *affine = range.fit(values, power, &grid);
        pulp::Arch::new().dispatch(Encode { values, affine, grid: &grid, codes });
    }
}

struct Encode<'a> {
    values: &'a [f32],
    affine: &'a Affine,
    grid: &'a Grid,
    codes: &'a mut [u8],
}

impl pulp::NullaryFnOnce for Encode<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (scale, zero) = (self.affine.scale, f32::from(self.affine.zero));
        let (lowest, highest) = (f32::from(self.grid.lowest()), f32::from(self.grid.highest()));
        for (code, &x) in self.codes.iter_mut().zip(self.values) {
            *code = nearest_code(x, scale, zero, lowest, highest) as u8;
        }
    }
}

/// Steps and zeros of `[rows, groups]` parameters.
pub(crate) fn split_parameters(
    parameters: &[Affine],
    groups: usize,
    grid: &Grid,
) -> Result<(Vec<f32>, Vec<u8>)> {
    if let Some(at) = parameters.iter().position(|affine| !affine.scale.is_finite()) {
        return Err(Error::Scale { row: at / groups, group: at % groups, dtype: grid.scale_dtype });
    }
    Ok(parameters.iter().map(|affine| (affine.scale, affine.zero)).unzip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use trimtab_math::linalg::Square;
    use trimtab_math::random::Stream;

    fn weight(n: usize) -> Vec<f32> {
        let mut stream = Stream::new(0, "test/rtn", n as u64, 0);
        (0..n).map(|_| stream.normal() as f32 * 0.1).collect()
    }

    #[test]
    fn equals_the_quantizer_slice_by_slice() {
        let (rows, columns) = (5, 70);
        let w = weight(rows * columns);
        let layer = Layer::new(&w, rows, columns, None).unwrap();
        for group_size in [None, Some(1), Some(32), Some(70), Some(128)] {
            for symmetric in [false, true] {
                let scheme = WeightScheme { group_size, symmetric, ..WeightScheme::default() };
                let found = rtn(&layer, &scheme, &RtnSettings::default()).unwrap();
                let (grid, width) = (scheme.grid(), group_size.unwrap_or(columns));
                let decoded = found.dequantize();
                for row in 0..rows {
                    for column in 0..columns {
                        let first = column / width * width;
                        let slice = &w[row * columns..][first..columns.min(first + width)];
                        let affine = RangeFinder::MinMax.fit(slice, None, &grid);
                        let at = row * columns + column;
                        assert_eq!(found.codes[at], affine.code(w[at], &grid));
                        assert_eq!(decoded[at], affine.decode(found.codes[at]));
                    }
                }
                assert_eq!(found.scales.len(), rows * scheme.groups(columns));
                assert!(!symmetric || found.zeros.iter().all(|&z| z == 8));
            }
        }
    }

    #[test]
    fn already_quantized_weights_come_back_exactly() {
        // Reachable values: step 0.125 times -8..=7 with both ends present in each group.
        let w: Vec<f32> = (0..64).map(|i| 0.125 * ((i * 5 % 16) as f32 - 8.0)).collect();
        let layer = Layer::new(&w, 2, 32, None).unwrap();
        let scheme = WeightScheme { group_size: Some(16), ..WeightScheme::default() };
        assert_eq!(rtn(&layer, &scheme, &RtnSettings::default()).unwrap().dequantize(), w);
        let fewer = WeightScheme { bits: 3, ..scheme };
        assert_ne!(rtn(&layer, &fewer, &RtnSettings::default()).unwrap().dequantize(), w);
    }

    #[test]
    fn more_bits_and_smaller_groups_err_less() {
        let w = weight(64 * 96);
        let layer = Layer::new(&w, 64, 96, None).unwrap();
        let error = |bits, group_size| {
            let scheme = WeightScheme { bits, group_size, ..WeightScheme::default() };
            let q = rtn(&layer, &scheme, &RtnSettings::default()).unwrap().dequantize();
            w.iter().zip(&q).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
        };
        assert!(error(4, None) < 0.3 * error(3, None));
        assert!(error(4, Some(16)) < 0.8 * error(4, None));
    }

    #[test]
    fn weighted_ranges_need_and_use_the_second_moment() {
        let mut w = weight(64);
        w[3] = 4.0;
        let settings = RtnSettings { range: RangeFinder::mse_weighted() };
        let scheme = WeightScheme::default();
        let without = Layer::new(&w, 1, 64, None).unwrap();
        assert!(matches!(rtn(&without, &scheme, &settings), Err(Error::MissingHessian { .. })));
        let mut power = vec![1.0; 64];
        power[3] = 0.0;
        let (quiet, flat) = (Square::diagonal_matrix(&power), Square::identity(64));
        let step = |h| {
            let layer = Layer::new(&w, 1, 64, Some(h)).unwrap();
            rtn(&layer, &scheme, &settings).unwrap().scales[0]
        };
        assert!(step(&quiet) < 0.5 * step(&flat));
    }

    #[test]
    fn degenerate_weights() {
        let scheme = WeightScheme::default();
        for (rows, columns) in [(0, 0), (0, 3), (3, 0), (1, 1)] {
            let w = vec![0.0; rows * columns];
            let layer = Layer::new(&w, rows, columns, None).unwrap();
            assert_eq!(rtn(&layer, &scheme, &RtnSettings::default()).unwrap().dequantize(), w);
        }
        let loud = [1e9f32, -1e9];
        let layer = Layer::new(&loud, 1, 2, None).unwrap();
        let found = rtn(&layer, &scheme, &RtnSettings::default());
        assert!(matches!(found, Err(Error::Scale { row: 0, group: 0, .. })));
    }
}
