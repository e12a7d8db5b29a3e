//! What all rows of a layer share: the column order, the factor of the second moment, the groups.

use std::borrow::Cow;
use std::ops::Range;

use trimtab_math::linalg::{Square, upper_factor};

use super::chunk::Sums;
use super::{ColumnOrder, GptqSettings, GroupFit};
use crate::error::Result;

/// A layer's shared part. A *position* is the place of a column in the order of quantization.
pub(crate) struct Problem<'a, Q> {
    pub(super) n: usize,
    /// Column at each position.
    pub(super) order: Vec<usize>,
    /// `R̃`, column-major by position: ones on the diagonal, zeros below.
    pub(super) unit: Vec<f32>,
    /// `R_jj²` by position, relative to `unit_of_sums`.
    pub(super) pivots: Vec<f32>,
    unit_of_sums: f64,
    /// Added to the diagonal.
    pub(crate) shift: f64,
    pub(crate) damping_used: f64,
    /// By column: the input was always 0.
    pub(crate) dead: Vec<bool>,
    pub(super) quantizer: &'a Q,
    pub(super) fit: GroupFit,
    pub(super) block: usize,
    pub(super) group_width: usize,
    pub(crate) groups: usize,
    /// Power of the input, by column and by position.
    pub(super) power_of_column: Vec<f32>,
    pub(super) power_of_position: Vec<f32>,
}

impl<'a, Q> Problem<'a, Q> {
    /// `group_width` is at least 1.
    pub(crate) fn new(
        hessian: &Square,
        quantizer: &'a Q,
        group_width: usize,
        settings: &GptqSettings,
    ) -> Result<Problem<'a, Q>> {
        let n = hessian.n();
        let (hessian, dead) = revive(hessian);
        let diagonal = hessian.diagonal();
        let order = column_order(&diagonal, settings.order);
        let permutation = (settings.order != ColumnOrder::Natural).then_some(order.as_slice());
        let factor = upper_factor(&hessian, permutation, &settings.damping)?;
        let mean = hessian.mean_diagonal();
        let unit_of_sums = if mean > 0.0 { mean } else { 1.0 };
        let pivots = factor.diagonal().iter().map(|r| (r * r / unit_of_sums) as f32).collect();
        let power_of_column: Vec<f32> = diagonal.iter().map(|&x| x as f32).collect();
        Ok(Problem {
            n,
            unit: factor.unit_f32(),
            pivots,
            unit_of_sums,
            shift: factor.shift,
            damping_used: factor.damping_used,
            dead,
            quantizer,
            fit: settings.groups,
            block: settings.block,
            group_width,
            groups: n.div_ceil(group_width),
            power_of_position: order.iter().map(|&column| power_of_column[column]).collect(),
            power_of_column,
            order,
        })
    }

    /// The same problem for another quantizer: nothing is factored again.
    pub(crate) fn with<P>(self, quantizer: &P) -> Problem<'_, P> {
        let Problem { n, order, unit, pivots, unit_of_sums, shift, damping_used, dead, .. } = self;
        let Problem { fit, block, group_width, groups, power_of_column, power_of_position, .. } = self;
        Problem {
            n,
            order,
            unit,
            pivots,
            unit_of_sums,
            shift,
            damping_used,
            dead,
            quantizer,
            fit,
            block,
            group_width,
            groups,
            power_of_column,
            power_of_position,
        }
    }

    /// Group of the column at a position.
    pub(super) fn group_at(&self, position: usize) -> usize {
        match self.fit {
            GroupFit::Dynamic => position / self.group_width,
            GroupFit::Static => self.order[position] / self.group_width,
        }
    }

    /// Columns, or in dynamic groups positions, of a group.
    pub(super) fn members(&self, group: usize) -> Range<usize> {
        let first = group * self.group_width;
        first..self.n.min(first + self.group_width)
    }

    /// Group of each column where it is not `column / group_width`.
    pub(super) fn g_idx(&self) -> Option<Vec<u32>> {
        let natural = self.order.iter().enumerate().all(|(position, &column)| position == column);
        if natural || self.fit == GroupFit::Static || self.groups < 2 {
            return None;
        }
        let mut g_idx = vec![0; self.n];
        for (position, &column) in self.order.iter().enumerate() {
            g_idx[column] = self.group_at(position) as u32;
        }
        Some(g_idx)
    }

    /// Where a range of positions is cut in two, if it is more than one block: between groups first, so that no later cut
    /// falls across one.
    pub(super) fn cut(&self, range: &Range<usize>) -> Option<usize> {
        let middle = range.start + range.len() / 2;
        let step = match self.fit {
            GroupFit::Dynamic if range.len() > self.group_width => self.group_width,
            _ if range.len() > self.block => self.block,
            _ => return None,
        };
        // The multiple of a step next to the middle, but inside the range.
        let steps = ((middle - range.start + step / 2) / step).max(1);
        Some(range.start + steps * step)
    }

    pub(crate) fn dead_columns(&self) -> usize {
        self.dead.iter().filter(|&&dead| dead).count()
    }

    /// `Σ E² / 2`.
    pub(super) fn loss(&self, sums: &Sums) -> f64 {
        0.5 * self.unit_of_sums * sums.compensated
    }

    /// `tr((W−Q) H (W−Q)ᵀ)`: what the damping added is taken off again.
    pub(super) fn damage(&self, sums: &Sums) -> f64 {
        (self.unit_of_sums * sums.compensated - self.shift * sums.squared).max(0.0)
    }
}

/// The second moment with a usable diagonal at dead inputs, and which those are.
fn revive(hessian: &Square) -> (Cow<'_, Square>, Vec<bool>) {
    let n = hessian.n();
    let dead: Vec<bool> = hessian.diagonal().iter().map(|&x| x == 0.0).collect();
    let live = dead.iter().filter(|&&dead| !dead).count();
    if live == n {
        return (Cow::Borrowed(hessian), dead);
    }
    let mean = if live == 0 { 1.0 } else { hessian.mean_diagonal() * n as f64 / live as f64 };
    let mut revived = hessian.clone();
    for column in (0..n).filter(|&column| dead[column]) {
        revived.as_mut_slice()[column * n + column] = mean;
    }
    (Cow::Owned(revived), dead)
}

fn column_order(diagonal: &[f64], order: ColumnOrder) -> Vec<usize> {
    let mut columns: Vec<usize> = (0..diagonal.len()).collect();
    if order == ColumnOrder::DescendingDiagonal {
        columns.sort_by(|&i, &j| diagonal[j].total_cmp(&diagonal[i]));
    }
    columns
}
