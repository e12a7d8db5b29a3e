//! A decision about levels, made on rank 0 from a window of averaged gradients.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::exchange::Matrix;
use crate::l_greco::{Levels, l_greco};
use crate::policy::{ExchangeConfig, Policy};
use crate::tables::ErrorTable;

/// What was decided, and from what.
#[derive(Clone, Debug, PartialEq)]
pub struct Adjustment {
    /// Steps exchanged before it.
    pub step: u64,
    /// Tables it was made from, in the order of the compressed tensors. Empty for Accordion alone.
    pub tables: Vec<ErrorTable>,
    /// Error allowed.
    pub budget: f64,
    /// Sums of the uniform levels.
    pub uniform: Levels,
    /// The choice; `None` if no choice keeps the budget, and levels stay.
    pub chosen: Option<Levels>,
    /// New level of every compressed tensor, by name; unchanged ones as they were.
    pub levels: BTreeMap<String, usize>,
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

    fn mean(&self, name: &str, len: usize) -> Vec<f32> {
        let n = self.n_steps.max(1) as f32;
        self.sums.get(name).map_or_else(|| vec![0.0; len], |sum| sum.iter().map(|s| s / n).collect())
    }

    /// Starts the next window.
    fn clear(&mut self) {
        self.sums.clear();
        self.n_steps = 0;
    }
}

/// Decides the levels of `matrices`, and empties the window. `None` if nothing was observed.
pub(crate) fn adjust(
    config: &ExchangeConfig,
    step: u64,
    matrices: &[Matrix<'_>],
    old: &BTreeMap<String, usize>,
    window: &mut Window,
) -> Result<Option<Adjustment>> {
    if window.n_steps == 0 || matrices.is_empty() {
        return Ok(None);
    }
    let means: Vec<Vec<f32>> = matrices.iter().map(|m| window.mean(m.name, m.n * m.m)).collect();
    window.clear();
    let adjustment = match &config.policy {
        Policy::Uniform => return Ok(None),
        Policy::Accordion { accordion, .. } => {
            let levels = matrices.iter().zip(&means).map(|(matrix, mean)| {
                let norms = &mut window.norms;
                let level = accordion_level(accordion, config, norms, matrix.name, mean);
                (matrix.name.to_string(), level.min(config.family.max_level(matrix.n, matrix.m)))
            });
            let none = Levels { picks: Vec::new(), bytes: 0, error: 0.0 };
            let levels = levels.collect();
            Adjustment { step, tables: Vec::new(), budget: 0.0, uniform: none, chosen: None, levels }
        }
        Policy::LGreco { range, .. } => {
            let mut tables = Vec::with_capacity(matrices.len());
            for (matrix, mean) in matrices.iter().zip(&means) {
                let candidates = config.family.candidates(matrix.n, matrix.m, range.gamma, range.beta);
                let shape = [matrix.n, matrix.m];
                let (family, how) = (&config.family, range.low_rank);
                tables.push(ErrorTable::measure(
                    family,
                    matrix.name,
                    mean,
                    shape,
                    candidates,
                    how,
                    config.seed,
                )?);
            }
            let uniform = Levels::uniform(&tables)?;
            let allowed = match &range.accordion {
                None => uniform.error,
                Some(accordion) => {
                    let norms = &mut window.norms;
                    let pick = |(table, mean): (&ErrorTable, &Vec<f32>)| {
                        table.at_most(accordion_level(accordion, config, norms, &table.name, mean))
                    };
                    Levels::new(&tables, tables.iter().zip(&means).map(pick).collect())?.error
                }
            };
            let budget = range.alpha * allowed;
            let chosen = l_greco(&tables, budget)?;
            let mut levels = old.clone();
            if let Some(chosen) = &chosen {
                let new = tables.iter().zip(&chosen.picks).map(|(t, &pick)| (t.name.clone(), t.levels[pick]));
                levels.extend(new);
            }
            Adjustment { step, tables, budget, uniform, chosen, levels }
        }
    };
    Ok(Some(adjustment))
}

/// Accordion's level of one tensor; remembers the norm.
fn accordion_level(
    accordion: &crate::accordion::Accordion,
    config: &ExchangeConfig,
    norms: &mut BTreeMap<String, f64>,
    name: &str,
    mean: &[f32],
) -> usize {
    let norm = mean.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    let before = norms.insert(name.to_string(), norm);
    accordion.level(config.family.level(), before, norm)
}
