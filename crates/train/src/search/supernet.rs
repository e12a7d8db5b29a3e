//! QuantNAS (paper 60): operations and their bits are searched together, against noise of the size of rounding errors.
//!
//! Source: Shvetsov et al., "QuantNAS for super resolution: searching for efficient quantization-friendly architectures against
//! quantization noise", arXiv:2208.14839.
//!
//! Every place of the network is a sum over all that can stand there, by coefficients that are a softmax of logits. Weights are learned from
//! one half of the pictures, logits from the other, with a penalty on the expected cost and, more and more, on the entropy of the
//! coefficients. At the end the largest coefficient of each place counts, and that network is trained anew in its bits.
//!
//! Both halves step at once, from the same point, where the paper takes turns. Costs are multiply-adds times bits of weights times
//! bits of inputs throughout; the released code has one factor of bits in the search and two afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData, activation};
use serde::{Deserialize, Serialize};
use trimtab_nn::host;

use super::edge::{Draws, Named};
use super::genotype::{EdgeSpec, Genotype, Operation, Skeleton, check_bits};
use super::network::Upscaler;
use super::noise::{NoiseGradient, NoiseKind};
use super::patches::{Pairs, PatchBatch, l1};
use crate::error::{Error, Result};
use crate::objective::{Loss, Objective, Pass};

/// What stands for the rounding of a mixture while a network is searched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchBy {
    /// Noise of all widths in one convolution.
    #[default]
    Noise,
    /// Rounding: a convolution for each width. What noise is compared with.
    Rounding,
}

/// Settings of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuantNas {
    /// Channels between operations.
    pub channels: usize,
    /// Cells.
    pub cells: usize,
    /// How many times larger images become.
    pub scale: usize,
    /// Operations to choose from.
    pub ops: Vec<Operation>,
    /// Bits to choose from.
    pub bits: Vec<u8>,
    /// By what is searched.
    pub by: SearchBy,
    /// How noise is distributed.
    pub noise: NoiseKind,
    /// What gradients of noisy numbers pass through.
    pub gradient: NoiseGradient,
    /// Weight of the expected cost, as a share of that at first.
    pub penalty: f64,
    /// Largest weight of the entropy of the coefficients, nats; 0 leaves it out.
    pub entropy: f64,
    /// Passes that the schedule of the entropy is divided into.
    pub epochs: usize,
}

impl Default for QuantNas {
    fn default() -> Self {
        let Skeleton { channels, cells, scale } = Skeleton::default();
        Self {
            channels,
            cells,
            scale,
            ops: Operation::ALL.to_vec(),
            bits: vec![4, 8],
            by: SearchBy::Noise,
            noise: NoiseKind::Normal,
            gradient: NoiseGradient::Clean,
            penalty: 1e-3,
            entropy: 1e-3,
            epochs: 20,
        }
    }
}

impl QuantNas {
    /// The parts that are not searched.
    pub fn skeleton(&self) -> Skeleton {
        Skeleton { channels: self.channels, cells: self.cells, scale: self.scale }
    }

    /// All places with what can stand there.
    pub fn edges(&self) -> Vec<EdgeSpec> {
        self.skeleton().edges(&self.ops, &self.bits)
    }

    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// [`Error::Setting`] with the field.
    pub fn check(&self) -> Result<()> {
        self.skeleton().check()?;
        for &bits in &self.bits {
            check_bits(bits).map_err(|message| Error::setting("search.bits", message))?;
        }
        let twice =
            |n: usize, same: &dyn Fn(usize, usize) -> bool| (0..n).any(|i| (0..i).any(|j| same(i, j)));
        if self.bits.is_empty() || twice(self.bits.len(), &|i, j| self.bits[i] == self.bits[j]) {
            return Err(Error::setting("search.bits", "give each width once, and at least one"));
        }
        if twice(self.ops.len(), &|i, j| self.ops[i] == self.ops[j]) {
            return Err(Error::setting("search.ops", "give each operation once"));
        }
        if let Some(edge) = self.edges().iter().find(|edge| edge.ops.is_empty()) {
            return Err(Error::setting(
                "search.ops",
                format!("none of them fits the place \"{}\"", edge.name),
            ));
        }
        for (name, value) in [("search.penalty", self.penalty), ("search.entropy", self.entropy)] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(Error::setting(name, format!("must not be negative, found {value}")));
            }
        }
        match self.epochs {
            0 => Err(Error::setting("search.epochs", "must be at least 1")),
            _ => Ok(()),
        }
    }
}

/// Weight of the entropy in pass `t` of `epochs`, of which the first `warm_up` learn weights alone; at most 1. It is 0 for a quarter of
/// the rest, then grows by a line times a logarithm.
pub fn entropy_weight(t: usize, warm_up: usize, epochs: usize) -> f64 {
    let rest = epochs.saturating_sub(warm_up);
    let quarter = rest / 4;
    if t < warm_up + quarter {
        return 0.0;
    }
    let line = (t - warm_up) as f64 / rest.saturating_sub(1).max(1) as f64;
    let logarithm = ((t - quarter - warm_up + 2) as f64).ln() / ((rest - quarter + 1) as f64).ln();
    (line * logarithm).min(1.0)
}

/// A network of all that can be chosen, with logits for the choice. Paths of parameters begin with `network` and `logits`.
#[derive(Module, Debug)]
pub struct Supernet {
    /// The network.
    network: Upscaler,
    /// Of each edge, `[ops * bits]`.
    logits: Vec<Param<Tensor<1>>>,
    #[module(skip)]
    plan: Arc<Plan>,
}

#[derive(Clone, Debug)]
struct Plan {
    settings: QuantNas,
    /// Cost of each candidate of each edge, as a share of the expected cost at first.
    costs: Vec<Vec<f32>>,
}

impl Supernet {
    /// A new one, with weights by `seed` and all candidates alike.
    ///
    /// # Errors
    /// Those of [`QuantNas::check`].
    pub fn new(settings: &QuantNas, seed: u64, device: &Device) -> Result<Self> {
        settings.check()?;
        let edges = settings.edges();
        let raw: Vec<Vec<f64>> = edges
            .iter()
            .map(|edge| edge.candidates().iter().map(|&choice| edge.bit_ops(choice)).collect())
            .collect();
        let first: f64 = raw.iter().map(|costs| costs.iter().sum::<f64>() / costs.len() as f64).sum();
        let costs =
            raw.iter().map(|costs| costs.iter().map(|cost| (cost / first) as f32).collect()).collect();
        let logits = edges
            .iter()
            .map(|edge| Param::from_tensor(Tensor::zeros([edge.candidates().len()], device)))
            .collect();
        let stepped = settings.by == SearchBy::Rounding;
        let network = Upscaler::new(settings.skeleton(), edges, stepped, seed, device);
        Ok(Self { network, logits, plan: Arc::new(Plan { settings: settings.clone(), costs }) })
    }

    /// Settings.
    pub fn settings(&self) -> &QuantNas {
        &self.plan.settings
    }

    fn coefficients(&self) -> Vec<Tensor<1>> {
        self.logits.iter().map(|logits| activation::softmax(logits.val(), 0)).collect()
    }

    /// The coefficients of each edge, in the order of [`EdgeSpec::candidates`].
    pub fn alphas(&self) -> Vec<Vec<f32>> {
        self.coefficients().into_iter().map(host).collect()
    }

    /// Expected cost as a share of that at first, `[1]`.
    fn cost(&self, alphas: &[Tensor<1>]) -> Tensor<1> {
        let of = |(alpha, costs): (&Tensor<1>, &Vec<f32>)| {
            let costs = Tensor::from_data(TensorData::new(costs.clone(), [costs.len()]), &alpha.device());
            (alpha.clone() * costs).sum()
        };
        Tensor::cat(alphas.iter().zip(&self.plan.costs).map(of).collect(), 0).sum()
    }

    /// Entropy of the coefficients, summed over edges, nats, `[1]`.
    fn entropy(&self) -> Tensor<1> {
        let of = |logits: &Param<Tensor<1>>| {
            let log = activation::log_softmax(logits.val(), 0);
            (log.clone().exp() * log).sum().neg()
        };
        Tensor::cat(self.logits.iter().map(of).collect(), 0).sum()
    }

    /// The network of the largest coefficients.
    pub fn genotype(&self) -> Genotype {
        let edges: Vec<EdgeSpec> = self.network.specs().cloned().collect();
        Genotype::derive(self.settings().skeleton(), &edges, &self.alphas())
    }

    /// The coefficients of each open edge by its name, those of a candidate by operation and bits.
    pub fn told(&self) -> BTreeMap<String, BTreeMap<String, f32>> {
        let of = |(edge, alphas): (&EdgeSpec, Vec<f32>)| {
            let name = |choice: super::Choice| format!("{} int{}", choice.op, choice.bits);
            (edge.name.clone(), edge.candidates().into_iter().map(name).zip(alphas).collect())
        };
        self.network.specs().zip(self.alphas()).filter(|(edge, _)| edge.is_open()).map(of).collect()
    }

    /// The largest coefficient of each open edge, their mean.
    pub fn certainty(&self) -> f64 {
        let open = self.network.specs().zip(self.alphas()).filter(|(edge, _)| edge.is_open());
        let largest: Vec<f64> =
            open.map(|(_, alphas)| f64::from(alphas.into_iter().fold(0.0, f32::max))).collect();
        largest.iter().sum::<f64>() / largest.len().max(1) as f64
    }

    /// All numbers by their names.
    pub fn tensors(&self) -> Vec<Named> {
        let logits = self.network.specs().zip(&self.logits).map(|(edge, logits)| {
            let values = host(logits.val());
            (format!("logits.{}", edge.name), vec![values.len()], values)
        });
        self.network.tensors().into_iter().chain(logits).collect()
    }
}

/// The two losses of a search: weights on one half of the pictures, logits on the other, in one step.
#[derive(Clone, Copy, Debug)]
pub struct Bilevel {
    /// Share of the run in which weights alone are learned; its phases do not train `logits`.
    pub warm_up: f64,
}

/// Passes over a batch: for weights, for logits, without training.
const WEIGHTS: usize = 0;
const LOGITS: usize = 1;
const HELD_OUT: u64 = 2;

impl Bilevel {
    /// Weight of the entropy at a share of the run.
    fn entropy(&self, settings: &QuantNas, progress: f64) -> f64 {
        let of = |share: f64| share * settings.epochs as f64;
        // A pass that begins at a border is not to fall before it by rounding.
        let pass = (of(progress) + 1e-9) as usize;
        settings.entropy * entropy_weight(pass, of(self.warm_up).round() as usize, settings.epochs)
    }
}

impl Objective<Supernet, PatchBatch> for Bilevel {
    fn parts(&self) -> usize {
        2
    }

    fn loss(&self, model: &Supernet, batch: &PatchBatch, pass: &mut Pass) -> Result<Loss> {
        let settings = model.settings();
        let choosing = pass.training && pass.part == LOGITS;
        if choosing && pass.progress < self.warm_up {
            let nothing = model.logits.iter().map(|logits| logits.val().sum() * 0.0).collect();
            return Ok(Loss::new(Tensor::cat(nothing, 0).sum(), 0));
        }
        let pairs = match (&batch.second, choosing) {
            (Some(second), true) => second,
            (None, true) => return Err(Error::setting("data", "has no second half to choose by")),
            (_, false) => &batch.first,
        };
        let Pairs { small, large } = pairs.clone();
        let (terms, alphas) = (small.dims()[0], model.coefficients());
        // Each half moves its own parameters; what is constant needs no way back.
        let (network, seen) = match choosing {
            true => (model.network.clone().no_grad(), alphas.clone()),
            false => (model.network.clone(), alphas.iter().map(|alpha| alpha.clone().detach()).collect()),
        };
        let draws = (settings.by == SearchBy::Noise).then_some(Draws {
            kind: settings.noise,
            gradient: settings.gradient,
            seed: pass.seed,
            step: if pass.training { pass.step as u64 } else { 0 },
            pass: if pass.training { pass.part as u64 } else { HELD_OUT },
        });
        // A mixture is no network to keep: its norms always go by the batch. By stored statistics, noise and deviations of an unusual
        // image would feed each other from place to place.
        let mut unused = Vec::new();
        let training = pass.training;
        let mut ctx = pass.ctx();
        if !training {
            ctx.batch_statistics = Some(&mut unused);
        }
        let found = network.mixture(small, Some(&seen), draws.as_ref(), &mut ctx);
        drop(ctx);
        for statistics in &mut pass.statistics {
            statistics.norm = format!("network.{}", statistics.norm);
        }
        let mut loss = l1(found, large);
        if choosing {
            loss = loss + model.cost(&alphas) * settings.penalty;
            let weight = self.entropy(settings, pass.progress);
            if weight > 0.0 {
                loss = loss + model.entropy() * weight;
            }
        }
        debug_assert!(pass.part == WEIGHTS || choosing);
        Ok(Loss::new(loss, terms))
    }
}

#[cfg(test)]
mod tests;
