//! GPTQ: quantize column by column, and let the columns still to come make up for each error.
//!
//! Source: Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: accurate post-training quantization for generative pre-trained
//! transformers", arXiv:2210.17323, algorithm 1, with activation order and static groups as in its reference program.
//!
//! With `U` the upper Cholesky factor of the inverse, `H⁻¹ = Uᵀ U`, the algorithm computes `e_j = (w_j − q_j) / U_jj` on the
//! current weights and subtracts `e_j U_jk` from every later column `k`. Here `U` is never formed. `R = U⁻¹` is upper
//! triangular with `H = R Rᵀ` (one Cholesky factorization, no inverse), and with `R̃ = R diag(R)⁻¹` the same current weights
//! are `w_j + Σ_{k<j} (w_k − q_k) R̃_kj`, where `w` is the *original* weight and `w − q` the error kept in full. So the
//! update of a whole range of columns is one matrix product with a block of `R̃`, and rows are independent. The one place
//! that needs weights corrected for *some* of the columns before them is the fit of a group: a triangular solve within it.
//!
//! `H` is factored in double precision; weights and errors are single precision. The result is the same at any number of
//! threads. `Σ E² = tr((W−Q)(H + shift)(W−Q)ᵀ)` gives the damage without another product.
//!
//! Departures: a dead input (`H_jj = 0`) gets the mean of the live diagonal instead of 1, so that the damping does not depend on
//! the scale of `H`; a group that begins inside a block is fitted on weights that are current in all its columns.

pub(crate) mod chunk;
mod float;
pub(crate) mod problem;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use trimtab_math::linalg::{Damping, Square};

use self::chunk::{Chunk, ROWS, Sums};
pub use self::float::gptq_float;
use self::problem::Problem;
use crate::damage::output_error;
use crate::element::{ElementQuantizer, IntegerQuantizer, RealQuantizer, RealSource};
use crate::error::{Error, Result};
use crate::layer::{Layer, LayerReport, Quantized};
use crate::range::RangeFinder;
use crate::rtn::{RtnSettings, rtn, split_parameters};
use crate::scheme::WeightScheme;

/// Order in which columns are quantized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnOrder {
    /// As they stand.
    #[default]
    Natural,
    /// Most powerful inputs first ("activation order"); equal ones by index.
    DescendingDiagonal,
}

/// When the step and zero of a group are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupFit {
    /// When its first column comes up, on the weights as corrected so far. With another column order, groups follow that
    /// order and the result carries a group index.
    #[default]
    Dynamic,
    /// Beforehand, on the original weights; groups stay consecutive in any column order.
    Static,
}

/// Settings of [`gptq`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GptqSettings {
    /// Damping of the second moment.
    pub damping: Damping,
    /// Columns that are quantized between two matrix products. Changes the result within rounding only.
    pub block: usize,
    /// Order of the columns.
    pub order: ColumnOrder,
    /// When groups are fitted.
    pub groups: GroupFit,
    /// How step and zero of a group are found.
    pub range: RangeFinder,
    /// Compare with round-to-nearest, and return that where it does less damage. Costs about as much as GPTQ itself
    /// without the factorization.
    pub rtn_check: bool,
}

impl Default for GptqSettings {
    fn default() -> Self {
        GptqSettings {
            damping: Damping::default(),
            block: 128,
            order: ColumnOrder::default(),
            groups: GroupFit::default(),
            range: RangeFinder::default(),
            rtn_check: true,
        }
    }
}

impl GptqSettings {
    fn check(&self) -> Result<()> {
        if self.block == 0 {
            let found = "0".to_string();
            return Err(Error::Setting { what: "gptq: block", expected: "at least 1", found });
        }
        Ok(())
    }
}

/// Quantizes a layer with GPTQ.
///
/// The report holds the damping used, GPTQ's loss `Σ E² / 2` (of `H`, without the paper's factor 2), the damage with and without
/// GPTQ, and whether the result fell back to round-to-nearest.
///
/// # Errors
/// A scheme or setting out of range; no second moment; a second moment that no damping makes positive definite; a step that
/// overflows its storage type.
pub fn gptq(layer: &Layer, scheme: &WeightScheme, settings: &GptqSettings) -> Result<Quantized> {
    scheme.check()?;
    settings.range.check()?;
    settings.check()?;
    let hessian = layer.need_hessian("gptq")?;
    let (grid, width) = (scheme.grid(), scheme.group_width(layer.d_input()));
    let dims = [layer.d_output(), layer.d_input()];
    if scheme.real_zero {
        if settings.order != ColumnOrder::Natural && settings.groups == GroupFit::Dynamic {
            let expected = "\"static\" with another column order: codes with real zeros have no group index";
            return Err(Error::Setting { what: "gptq: groups", expected, found: "dynamic".into() });
        }
        let quantizer = RealQuantizer { grid, source: RealSource::Range(&settings.range) };
        let problem = Problem::new(hessian, &quantizer, width, settings)?;
        let (codes, parameters, sums) = walk(layer, &problem);
        let report = report_of(&problem, &sums);
        let result = Quantized::with_real_zeros(dims, scheme, codes, &parameters, report)?;
        return checked(layer, &problem, result, settings);
    }
    let quantizer = IntegerQuantizer { grid, range: &settings.range };
    let problem = Problem::new(hessian, &quantizer, width, settings)?;
    let (codes, parameters, sums) = walk(layer, &problem);
    let (scales, zeros) = split_parameters(&parameters, problem.groups, &quantizer.grid)?;
    let ([d_output, d_input], scheme) = (dims, *scheme);
    let (g_idx, report, real_zeros) = (problem.g_idx(), report_of(&problem, &sums), None);
    let result = Quantized { d_output, d_input, scheme, codes, scales, zeros, real_zeros, g_idx, report };
    checked(layer, &problem, result, settings)
}

/// The result, or round-to-nearest's where that does less damage.
fn checked<Q: Sync>(
    layer: &Layer,
    problem: &Problem<'_, Q>,
    mut result: Quantized,
    settings: &GptqSettings,
) -> Result<Quantized> {
    if !settings.rtn_check {
        return Ok(result);
    }
    let hessian = layer.need_hessian("gptq")?;
    let rounded = rtn(layer, &result.scheme, &RtnSettings { range: settings.range.clone() })?;
    let (n, values) = (layer.d_input(), rounded.dequantize());
    let rtn_damage = problem.damage(&measure(layer, problem, |row, column| values[row * n + column]));
    result.report.rtn_damage = Some(rtn_damage);
    if result.report.damage.is_some_and(|damage| damage <= rtn_damage) {
        return Ok(result);
    }
    let report = compared(layer, hessian, [&result.dequantize(), &values], &result.report)?;
    Ok(Quantized { report: report.clone(), ..if report.fell_back { rounded } else { result } })
}

/// Decides between GPTQ's weight and round-to-nearest's, `[d_output, d_input]` both, in double precision: the report of the
/// better one, which says whether it is round-to-nearest's.
fn compared(
    layer: &Layer,
    hessian: &Square,
    [result, rounded]: [&[f32]; 2],
    report: &LayerReport,
) -> Result<LayerReport> {
    let damage = output_error(layer.weight(), result, hessian)?;
    let rtn_damage = output_error(layer.weight(), rounded, hessian)?;
    let fell_back = damage > rtn_damage;
    Ok(LayerReport {
        damage: Some(damage.min(rtn_damage)),
        rtn_damage: Some(rtn_damage),
        dead_columns: if fell_back { 0 } else { report.dead_columns },
        fell_back,
        ..report.clone()
    })
}

/// The report of a run that was not compared with anything.
fn report_of<Q>(problem: &Problem<'_, Q>, sums: &Sums) -> LayerReport {
    LayerReport {
        method: "gptq".into(),
        damage: Some(problem.damage(sums)),
        rtn_damage: None,
        loss: Some(problem.loss(sums)),
        damping_used: Some(problem.damping_used),
        dead_columns: problem.dead_columns(),
        fell_back: false,
    }
}

/// Runs the columns in order, for all rows: codes `[rows, n]` and parameters `[rows, groups]`.
pub(crate) fn walk<Q: ElementQuantizer>(
    layer: &Layer,
    problem: &Problem<'_, Q>,
) -> (Vec<u8>, Vec<Q::Parameters>, Sums) {
    let (d_output, d_input, groups) = (layer.d_output(), layer.d_input(), problem.groups);
    let mut codes = vec![0u8; d_output * d_input];
    let mut parameters = vec![problem.quantizer.idle(); d_output * groups];
    let sums: Vec<Sums> = layer
        .weight()
        .par_chunks((ROWS * d_input).max(1))
        .zip(codes.par_chunks_mut((ROWS * d_input).max(1)))
        .zip(parameters.par_chunks_mut((ROWS * groups).max(1)))
        .enumerate()
        .map(|(i, ((weights, codes), parameters))| {
            Chunk::new(problem, i * ROWS, weights, codes, parameters).run()
        })
        .collect();
    (codes, parameters, Sums::total(&sums))
}

/// The sums that give the damage of any other `value(row, column)` that stands for the layer's weight.
fn measure<Q: Sync>(
    layer: &Layer,
    problem: &Problem<'_, Q>,
    value: impl Fn(usize, usize) -> f32 + Sync,
) -> Sums {
    let sums: Vec<Sums> = layer
        .weight()
        .par_chunks((ROWS * layer.d_input()).max(1))
        .enumerate()
        .map(|(i, weights)| chunk::measure(problem, weights, |row, column| value(i * ROWS + row, column)))
        .collect();
    Sums::total(&sums)
}
