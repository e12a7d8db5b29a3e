//! A decision about levels, made on rank 0 from a window of averaged gradients.

use std::collections::BTreeMap;

use crate::accordion::Accordion;
use crate::error::Result;
use crate::l_greco::{Levels, l_greco};
use crate::named::Matrix;
use crate::policy::{ExchangeConfig, LGrecoConfig, Policy};
use crate::tables::ErrorTable;

/// What was decided, and from what.
#[derive(Clone, Debug, PartialEq)]
pub struct Adjustment {
    /// Steps exchanged before it.
    pub step: u64,
    /// New levels by name. Empty if no choice keeps the budget: then levels stay.
    pub levels: BTreeMap<String, usize>,
    /// What L-GreCo has weighed; `None` for Accordion alone.
    pub choice: Option<Choice>,
}

/// What L-GreCo has weighed.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Errors and sizes, in the order of the compressed tensors.
    pub tables: Vec<ErrorTable>,
    /// Error allowed.
    pub budget: f64,
    /// Sums of the uniform levels.
    pub uniform: Levels,
    /// The choice; `None` if none keeps the budget.
    pub chosen: Option<Levels>,
}

/// Sums of the gradients in the window, on rank 0, and what Accordion remembers of earlier windows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    pub(crate) sums: BTreeMap<String, Vec<f32>>,
    pub(crate) n_steps: u64,
    /// Norm of each tensor's mean gradient at the last decision.
    pub(crate) norms: BTreeMap<String, f64>,
}

impl Window {
    /// Adds one step's matrix.
    pub(crate) fn add(&mut self, name: &str, values: &[f32]) {
        match self.sums.get_mut(name).filter(|sum| sum.len() == values.len()) {
            Some(sum) => sum.iter_mut().zip(values).for_each(|(sum, v)| *sum += v),
            None => {
                self.sums.insert(name.to_string(), values.to_vec());
            }
        }
    }

    /// The mean gradients of `matrices`; the next window begins. `None` if no step was observed.
    fn take(&mut self, matrices: &[Matrix<'_>]) -> Option<Vec<Vec<f32>>> {
        let n = std::mem::take(&mut self.n_steps) as f32;
        let sums = std::mem::take(&mut self.sums);
        let mean = |matrix: &Matrix<'_>| match sums.get(matrix.name) {
            Some(sum) => sum.iter().map(|s| s / n).collect(),
            None => vec![0.0; matrix.n * matrix.m],
        };
        (n > 0.0).then(|| matrices.iter().map(mean).collect())
    }

    /// Accordion's level of one tensor; its norm is remembered.
    fn accordion(&mut self, accordion: &Accordion, uniform: usize, name: &str, mean: &[f32]) -> usize {
        let norm = mean.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        let before = self.norms.insert(name.to_string(), norm);
        accordion.level(uniform, before, norm)
    }
}

/// Decides the levels of `matrices`, and empties the window. `None` if nothing was observed.
pub(crate) fn adjust(
    config: &ExchangeConfig,
    step: u64,
    matrices: &[Matrix<'_>],
    window: &mut Window,
) -> Result<Option<Adjustment>> {
    let Some(means) = window.take(matrices) else { return Ok(None) };
    let uniform = config.family.level();
    let (levels, choice) = match &config.policy {
        Policy::Uniform => return Ok(None),
        Policy::Accordion { accordion, .. } => {
            let level = |(matrix, mean): (&Matrix<'_>, &Vec<f32>)| {
                let level = window.accordion(accordion, uniform, matrix.name, mean);
                (matrix.name.to_string(), level.min(config.family.max_level(matrix.n, matrix.m)))
            };
            (matrices.iter().zip(&means).map(level).collect(), None)
        }
        Policy::LGreco { settings, .. } => {
            let choice = choose(config, settings, matrices, &means, window)?;
            let picks = choice.chosen.as_ref().map_or(&[][..], |chosen| &chosen.picks);
            let level = |(table, &pick): (&ErrorTable, &usize)| (table.name.clone(), table.levels[pick]);
            (choice.tables.iter().zip(picks).map(level).collect(), Some(choice))
        }
    };
    Ok(Some(Adjustment { step, levels, choice }))
}

fn choose(
    config: &ExchangeConfig,
    settings: &LGrecoConfig,
    matrices: &[Matrix<'_>],
    means: &[Vec<f32>],
    window: &mut Window,
) -> Result<Choice> {
    let mut tables = Vec::with_capacity(matrices.len());
    for (matrix, mean) in matrices.iter().zip(means) {
        let levels = config.family.candidates(matrix.n, matrix.m, settings.gamma, settings.beta);
        let (shape, how) = ([matrix.n, matrix.m], settings.low_rank);
        tables.push(ErrorTable::measure(&config.family, matrix.name, mean, shape, levels, how, config.seed)?);
    }
    let uniform = Levels::uniform(&tables)?;
    let allowed = match &settings.accordion {
        None => uniform.error,
        Some(accordion) => {
            let pick = |(table, mean): (&ErrorTable, &Vec<f32>)| {
                table.at_most(window.accordion(accordion, config.family.level(), &table.name, mean))
            };
            Levels::new(&tables, tables.iter().zip(means).map(pick).collect())?.error
        }
    };
    let budget = settings.alpha * allowed;
    let chosen = l_greco(&tables, budget)?;
    Ok(Choice { tables, budget, uniform, chosen })
}
