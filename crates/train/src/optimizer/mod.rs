//! The update rules of a phase, and their state by parameter path.
//!
//! Most rules are the framework's; this folder adds those that it has not, walks the module, gives every group of parameters its
//! rule and rate, and keeps the state by path (the framework keeps it by a random id, which no other process knows).

mod config;
#[cfg(test)]
mod golden;
mod lars;
#[cfg(test)]
mod tests;
mod trust;

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{DynOptimizer, DynState, StateSink, StateSource};
use burn::tensor::{Device, Tensor, TensorData};

pub use config::OptimizerConfig;
pub use trust::LambVariant;

use crate::gradients::Gradients;
use crate::parameters::{ParameterInfo, Path};
use crate::settings::Phase;

/// Suffix of the saved norm of a rule that keeps one for the whole model.
const NORM: &str = "/norm_sum_bits";

/// The rule of one group, for matrices and for vectors.
struct Rule {
    matrix: Arc<dyn DynOptimizer>,
    vector: Arc<dyn DynOptimizer>,
    /// Sum of squared gradient norms, for the rule that keeps one.
    norm_sum: Option<f64>,
}

/// The update rules of a phase with their state.
pub struct Optimizer {
    /// One for each group of the phase, then the phase's own.
    rules: Vec<Rule>,
    phase: Phase,
    states: BTreeMap<String, DynState>,
}

/// The state of an optimizer as named numbers: `path.field`.
#[derive(Default)]
pub(crate) struct SavedState {
    pub tensors: Vec<(String, TensorData)>,
    /// Counters, such as the steps that a bias correction has seen.
    pub counters: Vec<(String, u64)>,
}

impl Optimizer {
    /// The rules of a phase without state.
    pub fn new(phase: &Phase) -> Self {
        let configs = phase.groups.iter().map(|group| group.optimizer.as_ref().unwrap_or(&phase.optimizer));
        let rule = |config: &OptimizerConfig| Rule {
            matrix: config.build(true),
            vector: config.build(false),
            norm_sum: config.initial_norm(),
        };
        let rules = configs.chain([&phase.optimizer]).map(rule).collect();
        Self { rules, phase: phase.clone(), states: BTreeMap::new() }
    }

    /// The rules of another phase with the state of this one, as far as the other trains the same parameters by the same rule.
    /// What it does not train loses its state, and what is new begins without one.
    pub(crate) fn succeed(mut self, phase: &Phase) -> Self {
        let mut next = Self::new(phase);
        for (path, state) in std::mem::take(&mut self.states) {
            if phase.trains(&path) && self.phase.optimizer_of(&path) == phase.optimizer_of(&path) {
                next.states.insert(path, state);
            }
        }
        if self.phase.optimizer == phase.optimizer
            && let (Some(old), Some(new)) = (self.rules.last(), next.rules.last_mut())
        {
            new.norm_sum = old.norm_sum;
        }
        next
    }

    /// Number of parameters with a state.
    pub fn states(&self) -> usize {
        self.states.len()
    }

    /// Updates every parameter that has a gradient. `rates` has one entry for each group of the phase, then the phase's own.
    pub fn step<M: Module>(&mut self, module: M, gradients: Gradients, rates: &[f64]) -> M {
        let mut rates = rates.to_vec();
        for (i, rule) in self.rules.iter_mut().enumerate() {
            let Some(sum) = &mut rule.norm_sum else { continue };
            let squares = gradients.iter().filter(|(path, _)| self.phase.group_of(path) == i);
            *sum += squares.map(|(_, gradient)| gradient.squared_norm()).sum::<f64>();
            rates[i] /= sum.sqrt();
        }
        module.map(&mut Update { path: Path::default(), optimizer: self, gradients, rates })
    }

    fn rule(&self, path: &str, rank: usize) -> &Arc<dyn DynOptimizer> {
        let rule = &self.rules[self.phase.group_of(path)];
        if rank >= 2 { &rule.matrix } else { &rule.vector }
    }

    /// The state by name. Fails, with a name, where a rule keeps what is neither a tensor nor a counter.
    pub(crate) fn save(&self) -> Result<SavedState, String> {
        let mut saved = SavedState::default();
        for (path, state) in &self.states {
            let mut sink = StateSink::default();
            self.rule(path, state.rank()).state_flatten(path, state, &mut sink);
            saved.tensors.append(&mut sink.tensors);
            for (name, value) in sink.scalars {
                let counter = u64::try_from(value).map_err(|_| name.clone())?;
                saved.counters.push((name, counter));
            }
        }
        let sums = self.rules.iter().enumerate().filter_map(|(i, rule)| Some((i, rule.norm_sum?)));
        saved.counters.extend(sums.map(|(i, sum)| (format!("{i}{NORM}"), sum.to_bits())));
        Ok(saved)
    }

    /// Takes a saved state up. Fails with the path of a parameter whose state is incomplete.
    pub(crate) fn load(
        &mut self,
        saved: SavedState,
        parameters: &[ParameterInfo],
        device: &Device,
    ) -> Result<(), String> {
        for (i, rule) in self.rules.iter_mut().enumerate() {
            let Some(sum) = &mut rule.norm_sum else { continue };
            let name = format!("{i}{NORM}");
            let found = saved.counters.iter().find(|(counter, _)| *counter == name);
            *sum = f64::from_bits(found.ok_or(name)?.1);
        }
        let counters = saved.counters.into_iter().map(|(name, counter)| (name, counter.into())).collect();
        let mut source = StateSource::new(counters);
        saved.tensors.into_iter().for_each(|(name, data)| source.insert_tensor(name, data));
        self.states.clear();
        for ParameterInfo { path, shape, .. } in parameters {
            if !source.has_under(path) {
                continue; // not trained so far
            }
            let rule = self.rule(path, shape.len());
            let state =
                rule.state_unflatten(shape.len(), path, &mut source, device).ok_or_else(|| path.clone())?;
            self.states.insert(path.clone(), state);
        }
        Ok(())
    }
}

struct Update<'a> {
    path: Path,
    optimizer: &'a mut Optimizer,
    gradients: Gradients,
    rates: Vec<f64>,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join();
        let Some(gradient) = self.gradients.take::<D>(&path) else { return param };
        let rate = self.rates[self.optimizer.phase.group_of(&path)];
        let state = self.optimizer.states.remove(&path);
        let rule = Arc::clone(self.optimizer.rule(&path, D));
        param.map(|tensor| {
            let strategy = tensor.gradient_checkpointing_strategy();
            let value = tensor.inner().into_bridge();
            let (updated, state) = rule.step_dyn(D, rate, value, gradient.into_bridge(), state);
            if let Some(state) = state {
                self.optimizer.states.insert(path, state);
            }
            let mut updated = Tensor::<D>::from_bridge(updated).autodiff();
            if let Some(strategy) = strategy {
                updated = updated.with_gradient_checkpointing_strategy(strategy);
            }
            updated.require_grad()
        })
    }
}
