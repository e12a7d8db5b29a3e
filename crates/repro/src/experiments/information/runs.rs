//! One training run with records of all layers, and what estimators say of them.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData, activation};
use trimtab::floors::eval::information::bins::{BINS, Edges, Floor};
use trimtab::floors::eval::information::curve::Curve;
use trimtab::floors::eval::information::kde::Kde;
use trimtab::floors::eval::information::{self, Activations};
use trimtab::floors::math::random::Stream;
use trimtab::floors::nn::{self, Activation, Ctx, Flow, Network};
use trimtab::floors::train::{
    Dataset, Group, Observer, OptimizerConfig, Paths, Phase, Settings, StepRecord, Trainer,
};

use super::super::perceptron::{Classes, Start, perceptron_with};
use super::task::{BITS, PATTERNS, Task};
use crate::error::{Error, Result};
use crate::lab::Lab;

/// From patterns to classes.
const WIDTHS: [usize; 7] = [BITS, 10, 7, 5, 4, 3, 2];
/// Layers that are recorded: five hidden ones and the probabilities.
pub(super) const LAYERS: usize = WIDTHS.len() - 1;
const BATCH: usize = 256;
pub(super) const RATE: f64 = 1e-3;
/// Coefficient of the L2 penalty, on all layers but the last.
const L2: f32 = 0.015;
/// Patterns that aKDE sees, a quarter: its cost grows with the square.
const SAMPLE: usize = PATTERNS / 4;
pub(super) const ESTIMATORS: [&str; 3] = ["uniform", "ebab", "akde"];
pub(super) const ADAPTIVE: [&str; 2] = ["ebab", "akde"];

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Run {
    pub(super) activation: Activation,
    pub(super) l2: bool,
    pub(super) seed: u64,
}

/// What came of it.
pub(super) struct Found {
    pub(super) run: Run,
    /// On the patterns that were not trained on.
    pub(super) accuracy: f64,
    curve: Curve,
}

/// The patterns that aKDE sees, drawn once for all runs: every n-th one would leave some inputs at 0 throughout.
fn sample() -> Vec<usize> {
    let mut patterns: Vec<usize> = (0..PATTERNS).collect();
    Stream::new(50, "information/sample", 0, 0).shuffle(&mut patterns);
    patterns.truncate(SAMPLE);
    patterns
}

/// Name of a layer in tables.
pub(super) fn layer_name(layer: usize) -> String {
    if layer + 1 == LAYERS { "output".into() } else { format!("layer {}", layer + 1) }
}

impl Found {
    /// Compression of every layer under an estimator; a layer that never had information has none to lose.
    pub(super) fn compression(&self, estimator: &str) -> Vec<f64> {
        let all = self.curve.compression();
        let of = |layer: usize| {
            let name = layer_name(layer);
            let found = all.iter().find(|each| each.estimator == estimator && each.layer == name);
            found.and_then(|each| each.score).unwrap_or(0.0)
        };
        (0..LAYERS).map(of).collect()
    }

    /// `I(T;X)` of a layer by epoch.
    pub(super) fn curve_of(&self, estimator: &str, layer: usize) -> Vec<(f64, f64)> {
        let name = layer_name(layer);
        let records = self.curve.records.iter();
        let of = records.filter(|record| record.estimator == estimator && record.layer == name);
        of.filter_map(|record| Some((record.epoch as f64, record.i_tx?))).collect()
    }

    /// `I(T;X)` of a layer at the end.
    pub(super) fn last(&self, estimator: &str, layer: usize) -> f64 {
        self.curve_of(estimator, layer).last().map_or(0.0, |point| point.1)
    }

    /// A run whose adaptive estimates are these in every layer, and whose global bins end at `global`.
    #[cfg(test)]
    pub(super) fn told(run: Run, accuracy: f64, values: [f64; 2], global: f64) -> Self {
        let mut curve = Curve::default();
        for (epoch, value) in values.into_iter().enumerate() {
            for layer in 0..LAYERS {
                for estimator in ESTIMATORS {
                    let i_tx = Some(if estimator == "uniform" { global } else { value });
                    let estimate =
                        information::Estimate { estimator, assumption: String::new(), i_tx, i_ty: 0.0 };
                    curve.push(epoch as u64, &layer_name(layer), &estimate);
                }
            }
        }
        Self { run, accuracy, curve }
    }
}

impl Run {
    /// Activation and penalty.
    pub(super) fn kind(&self) -> String {
        format!("{}{}", self.bent(), if self.l2 { ", L2" } else { "" })
    }

    pub(super) fn name(&self) -> String {
        format!("{}, seed {}", self.kind(), self.seed)
    }

    fn bent(&self) -> &'static str {
        match self.activation {
            Activation::Tanh => "tanh",
            Activation::Elu => "ELU",
            _ => "ReLU",
        }
    }

    /// Trains and measures.
    pub(super) fn go(
        self,
        task: &Task,
        epochs: usize,
        records: usize,
        lab: &Lab<'_>,
        failed: impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Error,
    ) -> Result<Found> {
        let factor = if self.activation == Activation::Tanh { 1.0 } else { 2.0 };
        let network = perceptron_with(self.activation, &WIDTHS, Start::Fan(factor), self.seed);
        let settings = self.settings(epochs);
        let mut trainer = Trainer::new(&task.train, &Classes, &settings, Device::flex());
        trainer.heldout = Some(&task.test);
        let mut probe = Probe::new(task, epochs, records, lab);
        let outcome = trainer.run(network, &mut probe).map_err(|error| failed(Box::new(error)))?;
        if !outcome.finished {
            return Err(Error::Stopped);
        }
        if let Some(error) = probe.error {
            return Err(failed(Box::new(error)));
        }
        let accuracy = outcome.last.and_then(|last| last.heldout?.accuracy).unwrap_or(0.0);
        let curve = self.estimate(task, &probe.taken).map_err(|error| failed(Box::new(error)))?;
        Ok(Found { run: self, accuracy, curve })
    }

    fn settings(&self, epochs: usize) -> Settings {
        let adam =
            |weight_decay| OptimizerConfig::Adam { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay };
        let last = Group {
            paths: Paths(vec![format!("layers.{}", LAYERS - 1)]),
            optimizer: Some(adam(0.0)),
            rate: None,
            schedule: None,
        };
        let phase = Phase {
            steps: None,
            epochs: Some(epochs as f64),
            groups: vec![last],
            ..Phase::new(1, RATE, adam(if self.l2 { L2 } else { 0.0 }))
        };
        Settings { seed: self.seed, ..Settings::new(BATCH, vec![phase]) }
    }

    /// All estimates of all records.
    fn estimate(&self, task: &Task, taken: &[Taken]) -> information::Result<Curve> {
        let hidden = taken.iter().flat_map(|taken| &taken.layers[..LAYERS - 1]);
        let most = hidden.flatten().copied().fold(0.0f32, f32::max);
        // The range of global bins, and the value under all of EBAB's.
        let (low, high, floor) = match self.activation {
            Activation::Tanh => (-1.0, 1.0, Floor::BELOW_MINUS_ONE),
            Activation::Elu => (-1.0, most, Floor::BELOW_MINUS_ONE),
            _ => (0.0, most, Floor::At(0.0)),
        };
        let sample = sample();
        let labels: Vec<usize> = sample.iter().map(|&pattern| task.labels[pattern]).collect();
        let mut curve = Curve::default();
        for Taken { epoch, layers } in taken {
            for (i, values) in layers.iter().enumerate() {
                let (name, width) = (layer_name(i), WIDTHS[i + 1]);
                let layer = Activations::new(values, PATTERNS, width)?;
                let output = i + 1 == LAYERS;
                let (low, high) = if output { (0.0, 1.0) } else { (low, high) };
                let global = Edges::uniform(low, high, BINS, "all layers and epochs")?;
                curve.push(*epoch, &name, &global.estimate("uniform", &layer, &task.labels)?);
                let floor = if output { Floor::At(-1e-6) } else { floor };
                let ebab = Edges::ebab(&layer, floor, BINS)?;
                curve.push(*epoch, &name, &ebab.estimate("ebab", &layer, &task.labels)?);
                let rows = sample.iter().flat_map(|&pattern| &values[pattern * width..(pattern + 1) * width]);
                let some: Vec<f32> = rows.copied().collect();
                let some = Activations::new(&some, labels.len(), width)?;
                let [upper, _] = Kde::default().estimate(&some, &labels)?;
                curve.push(*epoch, &name, &upper);
            }
        }
        Ok(curve)
    }
}

/// Activations of all layers on all patterns, `[4096, width]` each.
struct Taken {
    epoch: u64,
    layers: Vec<Vec<f32>>,
}

/// Takes the activations of a network at some epochs.
struct Probe<'a> {
    task: &'a Task,
    /// Epochs that are still to be recorded, the next one last.
    waiting: Vec<u64>,
    taken: Vec<Taken>,
    error: Option<nn::Error>,
    lab: &'a Lab<'a>,
}

impl<'a> Probe<'a> {
    /// Epochs from 1 to the last, in geometric progression.
    fn new(task: &'a Task, epochs: usize, records: usize, lab: &'a Lab<'a>) -> Self {
        let place = |i: usize| (epochs as f64).powf(i as f64 / (records - 1).max(1) as f64).round() as u64;
        let mut waiting: Vec<u64> = (0..records).map(place).collect();
        waiting.dedup();
        waiting.reverse();
        Self { task, waiting, taken: Vec::new(), error: None, lab }
    }

    fn take(&self, network: &Network, epoch: u64) -> nn::Result<Taken> {
        let patterns = TensorData::new(self.task.patterns.clone(), [PATTERNS, BITS]);
        let mut flow = Flow::Vector(Tensor::from_data(patterns, &Device::flex()));
        let mut layers = Vec::with_capacity(LAYERS);
        for stage in network.stages() {
            flow = stage.forward(flow, &mut Ctx::default())?;
            let y = flow.clone().vector("the record")?;
            // Of the last layer the probabilities.
            let y = if layers.len() + 1 == LAYERS { activation::softmax(y, 1) } else { y };
            layers.push(y.into_data().iter::<f32>().collect());
        }
        Ok(Taken { epoch, layers })
    }
}

impl Observer<Network> for Probe<'_> {
    fn step(&mut self, record: &StepRecord, module: &Network) {
        let passes = record.samples / self.task.train.len() as u64;
        while let Some(epoch) = self.waiting.pop_if(|epoch| *epoch <= passes) {
            match self.take(&module.valid(), epoch) {
                Ok(taken) => self.taken.push(taken),
                Err(error) => self.error = Some(error),
            }
        }
    }

    fn interrupted(&self) -> bool {
        self.error.is_some() || self.lab.stops()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_varies_among_the_patterns_of_the_sample() {
        let varying = |patterns: &[usize]| {
            let set = |bit: usize| patterns.iter().filter(|&pattern| pattern >> bit & 1 == 1).count();
            (0..BITS).filter(|&bit| (1..patterns.len()).contains(&set(bit))).count()
        };
        let mut patterns = sample();
        assert_eq!(varying(&patterns), BITS);
        assert_eq!(patterns, sample(), "the same each time");
        patterns.sort_unstable();
        patterns.dedup();
        assert_eq!(patterns.len(), SAMPLE);
        let every_fourth: Vec<usize> = (0..PATTERNS).step_by(4).collect();
        assert_eq!(varying(&every_fourth), BITS - 2, "control");
    }
}
