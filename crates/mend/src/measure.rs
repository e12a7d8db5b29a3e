//! What the error of a changed weight is measured by.

use serde::{Deserialize, Serialize};
use trimtab_math::linalg::{LowRank, Metric, Path, Square, low_rank, metric_norm};

use crate::error::{Error, Result};

/// Floor under the weights of rows and columns, in parts of the largest: that of the published code, squared.
const FLOOR: f64 = 1e-16;

/// What of the inputs, or of the loss, is taken into account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// Nothing: the plain decomposition of the error.
    Svd,
    /// How strong each input is.
    ActScale,
    /// All of the second moment: EoRA.
    #[default]
    Eora,
    /// How much the loss of single samples changes with each row and each column (LQ-LoRA): exact where the Fisher information is of
    /// rank one.
    Fisher,
}

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Self::Svd => "svd",
            Self::ActScale => "act_scale",
            Self::Eora => "eora",
            Self::Fisher => "fisher",
        }
    }
}

/// What was observed of a weight.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// Mean of `x xᵀ` over the inputs.
    pub second_moment: Option<&'a Square>,
    /// Empirical Fisher information of each number of the weight, `[rows, columns]`.
    pub fisher: Option<&'a [f32]>,
}

impl<'a> From<Option<&'a Square>> for Evidence<'a> {
    fn from(second_moment: Option<&'a Square>) -> Self {
        Self { second_moment, fisher: None }
    }
}

/// A variant with its evidence.
pub(crate) enum Measure<'a> {
    Plain,
    Power(Vec<f64>),
    Inputs(&'a Square),
    Fisher { each: &'a [f32], rows: Vec<f64>, columns: Vec<f64> },
}

impl<'a> Measure<'a> {
    pub fn of(variant: Variant, evidence: Evidence<'a>, rows: usize) -> Result<Self> {
        let missing = |needs| Error::NoEvidence { variant: variant.name(), needs };
        let moment = || evidence.second_moment.ok_or(missing("the second moment of the inputs"));
        Ok(match variant {
            Variant::Svd => Self::Plain,
            Variant::ActScale => Self::Power(moment()?.diagonal()),
            Variant::Eora => Self::Inputs(moment()?),
            Variant::Fisher => {
                let each = evidence.fisher.ok_or(missing("the Fisher information"))?;
                let width = each.len() / rows.max(1);
                let mean = |sum: f64, n: usize| sum / n.max(1) as f64;
                let by_row = |row: &[f32]| mean(row.iter().map(|&f| f64::from(f)).sum(), width);
                let mut columns = vec![0.0; width];
                for row in each.chunks(width.max(1)) {
                    columns.iter_mut().zip(row).for_each(|(sum, &f)| *sum += f64::from(f));
                }
                columns.iter_mut().for_each(|sum| *sum = mean(*sum, rows));
                let by_rows = each.chunks(width.max(1)).map(by_row).collect();
                Self::Fisher { each, rows: floored(by_rows), columns: floored(columns) }
            }
        })
    }

    /// The branch that is nearest to `error` `[rows, columns]`.
    pub fn branch(&self, error: &[f64], rows: usize, rank: usize, path: Path) -> Result<LowRank> {
        let (left, right) = match self {
            Self::Plain => (None, Metric::Identity),
            Self::Power(power) => (None, Metric::Diagonal(power)),
            Self::Inputs(moment) => (None, Metric::Full(moment)),
            Self::Fisher { rows, columns, .. } => (Some(&rows[..]), Metric::Diagonal(columns)),
        };
        Ok(low_rank(error, rows, left, right, rank, path)?)
    }

    /// The squared error; that of the Fisher information number by number, not only by rows and columns.
    pub fn error(&self, error: &[f64], rows: usize) -> Result<f64> {
        Ok(match self {
            Self::Plain => metric_norm(error, rows, None, Metric::Identity)?,
            Self::Power(power) => metric_norm(error, rows, None, Metric::Diagonal(power))?,
            Self::Inputs(moment) => metric_norm(error, rows, None, Metric::Full(moment))?,
            Self::Fisher { each, .. } => {
                let (expected, found) = (each.len(), error.len());
                if expected != found {
                    return Err(Error::Length { what: "Fisher information: error", expected, found });
                }
                error.iter().zip(*each).map(|(e, &f)| f64::from(f) * e * e).sum()
            }
        })
    }
}

/// Weights of which none is too small to divide by.
fn floored(mut weights: Vec<f64>) -> Vec<f64> {
    let largest = weights.iter().copied().fold(0.0, f64::max);
    let least = if largest > 0.0 { FLOOR * largest } else { 1.0 };
    weights.iter_mut().for_each(|w| *w = w.max(least));
    weights
}
