//! GPTQ into 8 and 4 bit floats.

use trimtab_io::FloatScheme;

use super::{ColumnOrder, GptqSettings, GroupFit, Problem, compared, measure, report_of, walk};
use crate::affine::Affine;
use crate::element::ElementQuantizer;
use crate::error::{Error, Result};
use crate::float::{FloatQuantized, ScaleFinder, Scaler, find_scales, float_rtn};
use crate::layer::Layer;

/// Floats with a scale a region; a region of several rows has the scale of the original weights.
struct FloatQuantizer {
    scaler: Scaler,
    /// Scales that were found beforehand, `[scale_rows, across]`, over the global scale.
    shared: Option<Vec<f32>>,
    /// Rows that share a scale, and scales in a row.
    height: usize,
    across: usize,
}

impl ElementQuantizer for FloatQuantizer {
    type Coder = trimtab_io::FloatElement;
    type Parameters = Affine;

    fn coder(&self) -> trimtab_io::FloatElement {
        self.scaler.scheme.element
    }

    fn idle(&self) -> Affine {
        Affine { scale: 1.0, zero: 0 }
    }

    fn fit(&self, row: usize, group: usize, values: &[f32], power: &[f32]) -> Affine {
        let scale = match &self.shared {
            Some(shared) => shared[row / self.height * self.across + group],
            None => self.scaler.effective(self.scaler.fit(&[values], Some(power))),
        };
        Affine { scale, zero: 0 }
    }
}

/// Quantizes a layer to floats with GPTQ. Of the settings, `range` has no meaning here: `finder` takes its place.
///
/// Scales of single rows and groups are found as the settings say; those of blocks and of the whole matrix on the original
/// weights, since their rows are independent here.
///
/// # Errors
/// As [`super::gptq`]; a scheme that the shape does not allow; another column order with groups fitted on the way, which no
/// float format can store.
pub fn gptq_float(
    layer: &Layer,
    scheme: &FloatScheme,
    finder: ScaleFinder,
    settings: &GptqSettings,
) -> Result<FloatQuantized> {
    let (d_output, d_input) = (layer.d_output(), layer.d_input());
    scheme.validate(d_output, d_input)?;
    settings.check()?;
    let hessian = layer.need_hessian("gptq")?;
    let [height, width] = scheme.extent(d_output, d_input);
    let [scale_rows, across] = scheme.scale_shape(d_output, d_input);
    if settings.order != ColumnOrder::Natural && settings.groups == GroupFit::Dynamic && across > 1 {
        let expected = "\"static\" with another column order: float formats have no group index";
        return Err(Error::Setting { what: "gptq: groups", expected, found: "dynamic".into() });
    }
    if d_input == 0 {
        return float_rtn(layer, scheme, finder);
    }
    let scaler = Scaler::new(layer, *scheme, finder);
    let original = match scale_rows == d_output && height == 1 {
        true => None,
        false => Some(find_scales(layer, &scaler)?),
    };
    let shared = original.as_ref().map(|scales| scales.iter().map(|&s| scaler.effective(s)).collect());
    let quantizer = FloatQuantizer { scaler, shared, height, across };
    let problem = Problem::new(hessian, &quantizer, width, settings)?;
    let (codes, parameters, sums) = walk(layer, &problem);
    let scales: Vec<f32> = match original {
        Some(scales) => scales,
        None => parameters.iter().map(|affine| scaler.stored(affine.scale)).collect(),
    };
    crate::float::check_scales(&scales, across, scheme.scale)?;
    let (global_scale, report) = (scaler.global, report_of(&problem, &sums));
    let mut result =
        FloatQuantized { d_output, d_input, scheme: *scheme, codes, scales, global_scale, report };
    if !settings.rtn_check {
        return Ok(result);
    }
    let rounded = float_rtn(layer, scheme, finder)?;
    let values = rounded.dequantize();
    let damage = problem.damage(&sums);
    let rtn_damage = problem.damage(&measure(layer, &problem, |row, column| values[row * d_input + column]));
    result.report.rtn_damage = Some(rtn_damage);
    if damage <= rtn_damage {
        return Ok(result);
    }
    let report = compared(layer, hessian, [&result.dequantize(), &values], &result.report)?;
    Ok(FloatQuantized { report: report.clone(), ..if report.fell_back { rounded } else { result } })
}
