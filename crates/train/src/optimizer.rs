//! The update rule of a phase, and its state by parameter path.
//!
//! The rules are the framework's; this file walks the module, keeps the state by path (the framework keeps it by a random
//! id, which no other process knows), and decays matrices only: gains and biases are not decayed.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamConfig, AdamWConfig, DynOptimizer, DynState, SgdConfig, StateSink, StateSource};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::gradients::Gradients;
use crate::parameters::{ParameterInfo, Path};

/// Rule of the update. Defaults are those of PyTorch, except for AdamW's `beta_2` and decay, which are those in use for
/// language models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// Adam with decoupled decay (Loshchilov and Hutter, arXiv:1711.05101).
    #[serde(rename = "adamw")]
    AdamW {
        /// Weight of the old first moment.
        #[serde(default = "beta_1")]
        beta_1: f32,
        /// Weight of the old second moment.
        #[serde(default = "language_beta_2")]
        beta_2: f32,
        /// Added to the root of the second moment.
        #[serde(default = "epsilon")]
        epsilon: f32,
        /// Share of a matrix that a step of rate 1 removes.
        #[serde(default = "language_decay")]
        weight_decay: f32,
    },
    /// Adam (Kingma and Ba, arXiv:1412.6980); the decay is a gradient of `weight_decay / 2 * |w|^2`.
    Adam {
        /// Weight of the old first moment.
        #[serde(default = "beta_1")]
        beta_1: f32,
        /// Weight of the old second moment.
        #[serde(default = "beta_2")]
        beta_2: f32,
        /// Added to the root of the second moment.
        #[serde(default = "epsilon")]
        epsilon: f32,
        /// Coefficient of the decay.
        #[serde(default)]
        weight_decay: f32,
    },
    /// Stochastic gradient descent; with momentum `m`, `v <- m v + g`, `w <- w - rate v`.
    Sgd {
        /// Weight of the old velocity; 0 keeps none.
        #[serde(default)]
        momentum: f64,
        /// Coefficient of the decay.
        #[serde(default)]
        weight_decay: f32,
    },
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self::AdamW {
            beta_1: beta_1(),
            beta_2: language_beta_2(),
            epsilon: epsilon(),
            weight_decay: language_decay(),
        }
    }
}

impl OptimizerConfig {
    /// The rule, with its decay or without.
    fn build(&self, decays: bool) -> Arc<dyn DynOptimizer> {
        let penalty = |decay: f32| (decays && decay != 0.0).then_some(WeightDecayConfig { penalty: decay });
        match *self {
            Self::AdamW { beta_1, beta_2, epsilon, weight_decay } => {
                let decay = if decays { weight_decay } else { 0.0 };
                let config = AdamWConfig::new().with_beta_1(beta_1).with_beta_2(beta_2);
                Arc::new(config.with_epsilon(epsilon).with_weight_decay(decay).build())
            }
            Self::Adam { beta_1, beta_2, epsilon, weight_decay } => {
                let config = AdamConfig::new().with_beta_1(beta_1).with_beta_2(beta_2).with_epsilon(epsilon);
                Arc::new(config.with_weight_decay(penalty(weight_decay)).build())
            }
            Self::Sgd { momentum, weight_decay } => {
                let momentum = (momentum != 0.0)
                    .then(|| MomentumConfig::new().with_momentum(momentum).with_dampening(0.0));
                Arc::new(
                    SgdConfig::new().with_momentum(momentum).with_weight_decay(penalty(weight_decay)).build(),
                )
            }
        }
    }
}

fn beta_1() -> f32 {
    0.9
}

fn beta_2() -> f32 {
    0.999
}

fn language_beta_2() -> f32 {
    0.95
}

fn epsilon() -> f32 {
    1e-8
}

fn language_decay() -> f32 {
    0.1
}

/// An update rule with its state.
pub struct Optimizer {
    decaying: Arc<dyn DynOptimizer>,
    plain: Arc<dyn DynOptimizer>,
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
    /// The rule without state.
    pub fn new(config: &OptimizerConfig) -> Self {
        Self { decaying: config.build(true), plain: config.build(false), states: BTreeMap::new() }
    }

    /// Updates every parameter that has a gradient.
    pub fn step<M: Module>(&mut self, module: M, gradients: Gradients, rate: f64) -> M {
        module.map(&mut Update { path: Path::default(), optimizer: self, gradients, rate })
    }

    fn rule(&self, rank: usize) -> &Arc<dyn DynOptimizer> {
        if rank >= 2 { &self.decaying } else { &self.plain }
    }

    /// The state by name. Fails, with a name, where a rule keeps what is neither a tensor nor a counter.
    pub(crate) fn save(&self) -> Result<SavedState, String> {
        let mut saved = SavedState::default();
        for (path, state) in &self.states {
            let mut sink = StateSink::default();
            self.rule(state.rank()).state_flatten(path, state, &mut sink);
            saved.tensors.append(&mut sink.tensors);
            for (name, value) in sink.scalars {
                let counter = u64::try_from(value).map_err(|_| name.clone())?;
                saved.counters.push((name, counter));
            }
        }
        Ok(saved)
    }

    /// Takes a saved state up. Fails with the path of a parameter whose state is incomplete.
    pub(crate) fn load(
        &mut self,
        saved: SavedState,
        parameters: &[ParameterInfo],
        device: &Device,
    ) -> Result<(), String> {
        let counters = saved.counters.into_iter().map(|(name, counter)| (name, counter.into())).collect();
        let mut source = StateSource::new(counters);
        saved.tensors.into_iter().for_each(|(name, data)| source.insert_tensor(name, data));
        self.states.clear();
        for ParameterInfo { path, shape, .. } in parameters {
            if !source.has_under(path) {
                continue; // not trained so far
            }
            let rule = self.rule(shape.len());
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
    rate: f64,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.take(&param) else { return param };
        let path = self.path.join();
        let state = self.optimizer.states.remove(&path);
        let rule = Arc::clone(self.optimizer.rule(D));
        param.map(|tensor| {
            let strategy = tensor.gradient_checkpointing_strategy();
            let value = tensor.inner().into_bridge();
            let (updated, state) = rule.step_dyn(D, self.rate, value, gradient.into_bridge(), state);
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
