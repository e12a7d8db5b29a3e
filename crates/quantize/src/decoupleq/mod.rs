//! decoupleQ: integers and real numbers of a quantized layer as two parts of one least-squares problem.
//!
//! Source: Guo et al., "decoupleQ: towards 2-bit post-training uniform quantization via decoupling parameters into integer and
//! floating points", arXiv:2404.12759, and its program (bytedance/decoupleQ, `moq_quant.py`).
//!
//! Every row `w` of a weight is to become `q = s·v + z` with integers `v` and, in every group, a real step `s` and a real zero `z`, so
//! that `(q − w) H (q − w)ᵀ` is least, `H` damped. From min-max on, rounded to nearest and then by GPTQ, two steps take turns: with
//! `s` and `z` fixed, integers are found ([`Rounding`]); with the integers fixed, `s` and `z` solve a linear system. A row takes what
//! a step found only if its error falls, so errors of rows never rise.
//!
//! `H` is factored once. The quadratic forms behind errors and systems are computed in double precision (`forms`), half of them by
//! symmetry; one evaluation of new integers gives their error *and* the solution of their system.
//!
//! Departures: ties are rounded to even, as everywhere here; where a 2 x 2 system is singular relative to its entries, step and zero
//! stay (the program compares a determinant with 1e-5, whatever the size of `H`); steps and zeros are rounded to their stored type
//! before they are judged, zeros solved again for the rounded steps; the shrunk range is searched from coarse to fine
//! (`shrink`); `H` is damped once and not again inside GPTQ.

mod forms;
mod rounding;
mod shrink;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use trimtab_math::linalg::Damping;

use self::forms::{Forms, Refit};
use self::rounding::round;
use crate::affine::RealZero;
use crate::element::{RealQuantizer, RealSource};
use crate::error::{Error, Result};
use crate::gptq::problem::Problem;
use crate::gptq::{ColumnOrder, GptqSettings, GroupFit, walk};
use crate::layer::{Layer, LayerReport, Quantized};
use crate::range::RangeFinder;
use crate::rtn::{fit_groups, nearest_codes};
use crate::scheme::WeightScheme;

/// How integers are found for fixed steps and zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
pub enum Rounding {
    /// By GPTQ, the paper's second-level approximation.
    #[default]
    Gptq,
    /// By projected gradient descent and rounding column after column, the first-level approximation. Each column costs `between`
    /// products of all columns with `H`: for layers of a few hundred inputs, such as those of convolutions.
    Train {
        /// Steps before the first column is rounded.
        #[serde(default = "default_steps")]
        before: usize,
        /// Steps after each column.
        #[serde(default = "default_steps")]
        between: usize,
        /// Rate of Adam.
        #[serde(default = "default_rate")]
        rate: f64,
    },
}

fn default_steps() -> usize {
    50
}
fn default_rate() -> f64 {
    1e-3
}

impl Rounding {
    /// [`Rounding::Train`] with the settings of the paper's program.
    pub fn train() -> Rounding {
        Rounding::Train { before: default_steps(), between: default_steps(), rate: default_rate() }
    }
}

/// Settings of [`decoupleq`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecoupleqSettings {
    /// GPTQ from min-max, and `iterations − 1` rounds of both steps.
    pub iterations: usize,
    /// How integers are found.
    pub rounding: Rounding,
    /// Damping of the second moment.
    pub damping: Damping,
    /// Order in which columns are rounded.
    pub order: ColumnOrder,
    /// Candidates per unit of shrink of the range that the first round starts from; 0 leaves the search out.
    pub shrink: usize,
    /// The rounds end when a smaller share of the rows than this got better.
    pub tolerance: f64,
}

impl Default for DecoupleqSettings {
    fn default() -> Self {
        DecoupleqSettings {
            iterations: 4,
            rounding: Rounding::Gptq,
            damping: Damping::default(),
            order: ColumnOrder::DescendingDiagonal,
            shrink: 200,
            tolerance: 1e-4,
        }
    }
}

impl DecoupleqSettings {
    fn check(&self) -> Result<()> {
        let bad = |what, expected, found: String| Err(Error::Setting { what, expected, found });
        if self.iterations == 0 {
            return bad("decoupleq: iterations", "at least 1", "0".into());
        }
        if !(0.0..=1.0).contains(&self.tolerance) {
            return bad("decoupleq: tolerance", "0 to 1", self.tolerance.to_string());
        }
        match self.rounding {
            Rounding::Train { rate, .. } if !(rate > 0.0 && rate.is_finite()) => {
                bad("decoupleq: rate", "a finite number > 0", rate.to_string())
            }
            _ => Ok(()),
        }
    }
}

/// What the rows are so far.
struct State {
    /// `[rows, n]`.
    codes: Vec<u8>,
    /// `[rows, groups]`.
    parameters: Vec<RealZero>,
    /// By row.
    errors: Vec<f64>,
    /// The best steps and zeros for the codes.
    refit: Refit,
}

impl State {
    /// Takes the rows whose error falls; says how many.
    fn take(&mut self, codes: &[u8], parameters: &[RealZero], errors: &[f64], refit: &Refit) -> usize {
        let rows = self.errors.len();
        let (n, groups) = (self.codes.len() / rows.max(1), self.parameters.len() / rows.max(1));
        let better: Vec<usize> = (0..rows).filter(|&row| errors[row] < self.errors[row]).collect();
        for &row in &better {
            let (of_codes, of_groups) = (row * n..(row + 1) * n, row * groups..(row + 1) * groups);
            self.codes[of_codes.clone()].copy_from_slice(&codes[of_codes]);
            self.parameters[of_groups.clone()].copy_from_slice(&parameters[of_groups.clone()]);
            self.refit.parameters[of_groups.clone()].copy_from_slice(&refit.parameters[of_groups]);
            self.errors[row] = errors[row];
            self.refit.errors[row] = refit.errors[row];
        }
        better.len()
    }

    /// Takes the solved steps and zeros of the rows whose error falls; says how many.
    fn take_refit(&mut self) -> usize {
        let groups = self.parameters.len() / self.errors.len().max(1);
        let better = |row: &usize| self.refit.errors[*row] < self.errors[*row];
        let better: Vec<usize> = (0..self.errors.len()).filter(better).collect();
        for &row in &better {
            let of_groups = row * groups..(row + 1) * groups;
            self.parameters[of_groups.clone()].copy_from_slice(&self.refit.parameters[of_groups]);
            self.errors[row] = self.refit.errors[row];
        }
        better.len()
    }
}

/// Quantizes a layer with decoupleQ. The scheme has real zeros or is symmetric, which is the same with zeros of 0.
///
/// The report holds the damage, that of round-to-nearest from min-max, and the damping used.
///
/// # Errors
/// A scheme or setting out of range, integer zeros among them; no second moment; a second moment that no damping makes positive
/// definite; a step or a zero that leaves its storage type.
pub fn decoupleq(layer: &Layer, scheme: &WeightScheme, settings: &DecoupleqSettings) -> Result<Quantized> {
    run(layer, scheme, settings, |_| ())
}

/// [`decoupleq`]; `watch` sees the errors of the rows after every step.
fn run(
    layer: &Layer,
    scheme: &WeightScheme,
    settings: &DecoupleqSettings,
    mut watch: impl FnMut(&[f64]),
) -> Result<Quantized> {
    scheme.check()?;
    settings.check()?;
    if !scheme.real_zero && !scheme.symmetric {
        let expected =
            "real zeros, or symmetric codes: decoupleQ solves for a real zero, which integers cannot hold";
        return Err(Error::Setting { what: "decoupleq: scheme", expected, found: "integer zeros".into() });
    }
    let hessian = layer.need_hessian("decoupleq")?;
    let dims = [layer.d_output(), layer.d_input()];
    let (grid, width, groups) = (scheme.grid(), scheme.group_width(dims[1]), scheme.groups(dims[1]));
    let of_gptq = GptqSettings {
        damping: settings.damping,
        order: settings.order,
        groups: GroupFit::Static,
        ..GptqSettings::default()
    };
    let nothing = ();
    let problem = Problem::new(hessian, &nothing, width, &of_gptq)?;
    // Inputs that were never seen: what is done with their weights costs nothing, and they must not draw steps and zeros along.
    let without_dead: Option<Vec<f32>> = problem.dead.contains(&true).then(|| {
        let alive = |(i, &w): (usize, &f32)| if problem.dead[i % dims[1]] { 0.0 } else { w };
        layer.weight().iter().enumerate().map(alive).collect()
    });
    let target =
        Layer::new(without_dead.as_deref().unwrap_or(layer.weight()), dims[0], dims[1], Some(hessian))?;
    let forms = Forms::new(&target, problem.shift, scheme)?;

    let start =
        fit_groups(&target, scheme, None, |values, _| RangeFinder::MinMax.fit_real(values, None, &grid));
    let codes = nearest_codes(&target, scheme, &start);
    let (errors, refit) = forms.evaluate(&codes, &start)?;
    let squares = |codes: &[u8], parameters: &[RealZero]| forms.squares(&target, codes, parameters);
    let damage =
        |errors: &[f64], squares: f64| (errors.iter().sum::<f64>() - problem.shift * squares).max(0.0);
    let rtn_damage = damage(&errors, squares(&codes, &start));
    let mut state = State { codes, parameters: start.clone(), errors, refit };
    watch(&state.errors);

    let (shift, dead_columns, damping_used) = (problem.shift, problem.dead_columns(), problem.damping_used);
    let by_gptq = |problem: Problem<'_, ()>, parameters: &[RealZero]| {
        let quantizer = RealQuantizer { grid, source: RealSource::Fixed { parameters, groups } };
        let problem = problem.with(&quantizer);
        let (codes, _, _) = walk(&target, &problem);
        (codes, problem.with(&()))
    };
    let (codes, mut problem) = by_gptq(problem, &start);
    let (errors, refit) = forms.evaluate(&codes, &start)?;
    state.take(&codes, &start, &errors, &refit);
    watch(&state.errors);
    let enough = |taken: usize| taken as f64 >= settings.tolerance * dims[0] as f64 && taken > 0;
    for round_number in 1..settings.iterations {
        let tried = match round_number == 1 && settings.shrink > 0 {
            true => {
                let shrunk = shrink::search(&target, scheme, &problem, settings.shrink);
                let codes = nearest_codes(&target, scheme, &shrunk);
                let (errors, refit) = forms.evaluate(&codes, &shrunk)?;
                refit.where_better(&errors, &shrunk)
            }
            false => state.parameters.clone(),
        };
        let codes = match settings.rounding {
            Rounding::Gptq => {
                let (codes, same) = by_gptq(problem, &tried);
                problem = same;
                codes
            }
            Rounding::Train { before, between, rate } => {
                round(&target, &forms, scheme, &tried, [before, between], rate)
            }
        };
        let (errors, refit) = forms.evaluate(&codes, &tried)?;
        let taken = state.take(&codes, &tried, &errors, &refit);
        watch(&state.errors);
        if !enough(taken) {
            break;
        }
        let taken = state.take_refit();
        watch(&state.errors);
        if !enough(taken) {
            break;
        }
    }
    let damage =
        (state.errors.iter().sum::<f64>() - shift * squares(&state.codes, &state.parameters)).max(0.0);
    let report = LayerReport {
        method: "decoupleq".into(),
        damage: Some(damage),
        rtn_damage: Some(rtn_damage),
        damping_used: Some(damping_used),
        dead_columns,
        ..LayerReport::default()
    };
    Quantized::with_real_zeros(dims, scheme, state.codes, &state.parameters, report)
}
