//! Paper 41: AdAdaGrad, adaptive batch size schemes for adaptive gradient methods (Lau, Liu and Kolar, arXiv:2402.11215).

mod identities;
mod verdict;

use std::time::Instant;

use burn::tensor::Device;
use trimtab::floors::io::ImageSet;
use trimtab::floors::models::Zoo;
use trimtab::floors::models::zoo::BlockNorm;
use trimtab::floors::nn::Network;
use trimtab::floors::train::objectives::Classify;
use trimtab::floors::train::{
    Adaptive, BatchSize, Dataset, Objective, Observer, OptimizerConfig, Phase, Ramp, Settings, StepRecord,
    Test, Trainer,
};
use trimtab::training::{Pictures, logits};

use super::perceptron::{Classes, Digits, Start, perceptron};
use super::pictures::{self, Cause, side_by_side};
use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Verdict};
use crate::lab::Lab;
use verdict::judge;

const SEEDS: u64 = 3;
const SMALL: usize = 16;
const LARGE: usize = 2048;
/// Samples of one forward pass at most.
const PART: usize = 512;
const ETAS: [f64; 2] = [0.1, 0.25];
/// Batches at which the statistics are timed.
const TIMED: [usize; 3] = [16, 256, 2048];
/// Largest share of a step that the statistics may take.
const DEAR: f64 = 0.3;

/// What is trained. Rates are the paper's for the logistic regression, and a round number near it for the network.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Model {
    Logistic,
    Convnet,
}

impl Model {
    fn rate(self) -> f64 {
        match self {
            Self::Logistic => 8e-3,
            Self::Convnet => 1e-2,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Logistic => "logistic regression",
            Self::Convnet => "convnet",
        }
    }
}

/// How large batches are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Arm {
    Fixed(usize),
    Adaptive(f64),
    /// Grows by a plan to the same number of steps as the adaptive one with this eta.
    Ramp(f64),
}

impl Arm {
    const ALL: [Self; 6] = [
        Self::Fixed(SMALL),
        Self::Fixed(LARGE),
        Self::Adaptive(ETAS[0]),
        Self::Adaptive(ETAS[1]),
        Self::Ramp(ETAS[0]),
        Self::Ramp(ETAS[1]),
    ];

    fn name(self) -> String {
        match self {
            Self::Fixed(size) => format!("constant {size}"),
            Self::Adaptive(eta) => format!("AdAdaGrad, eta {eta}"),
            Self::Ramp(eta) => format!("ramp, mean as eta {eta}"),
        }
    }
}

/// What a run ended with.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Found {
    accuracy: f64,
    steps: usize,
    /// Items of the largest step.
    largest: usize,
    seconds: f64,
}

/// One run.
type Cell = (Model, Arm, u64);

/// The data in the forms that the two models take, and the samples of a run.
struct Task {
    pictures: [Pictures; 2],
    digits: [Digits; 2],
    side: usize,
    samples: u64,
}

/// The experiment.
pub struct AdAdaGrad;

fn settings(batch: BatchSize, rate: f64, samples: u64, seed: u64) -> Settings {
    let optimizer = OptimizerConfig::Adagrad { epsilon: 1e-10, weight_decay: 0.0 };
    let phase = Phase { steps: None, samples: Some(samples), ..Phase::new(1, rate, optimizer) };
    Settings { seed, batch, micro_batch: Some(PART), ..Settings::new(1, vec![phase]) }
}

fn convnet(side: usize, seed: u64) -> std::result::Result<Network, Cause> {
    let widths = vec![8, 16];
    let zoo = Zoo::Convnet { widths, norm: BlockNorm::Layer, image: side, classes: 10, channels: 1 };
    pictures::network(&zoo, 1, seed)
}

/// The plan that spends these samples in so many steps: the same mean batch.
fn ramp(samples: u64, steps: usize, max: usize) -> Ramp {
    let of = |growth: f64| Ramp { initial: SMALL, max, growth };
    let seen = |growth: f64| (0..steps).map(|step| of(growth).at(step) as u64).sum::<u64>();
    let (mut low, mut high) = (1.0, 4.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if seen(middle) < samples { low = middle } else { high = middle }
    }
    of(high)
}

fn ran<D: Dataset, O: Objective<Network, D::Batch>>(
    data: &[D; 2],
    objective: &O,
    network: Network,
    settings: &Settings,
) -> std::result::Result<Found, Cause> {
    let clock = Instant::now();
    let trainer = Trainer::new(&data[0], objective, settings, Device::flex());
    let mut largest = 0;
    let outcome = trainer.run(network, &mut Batches(&mut largest))?;
    let seconds = clock.elapsed().as_secs_f64();
    let accuracy = trainer.heldout_loss(&outcome.module, &data[1])?.accuracy.unwrap_or(0.0);
    Ok(Found { accuracy, steps: outcome.step, largest, seconds })
}

/// Remembers the largest batch.
struct Batches<'a>(&'a mut usize);

impl<M> Observer<M> for Batches<'_> {
    fn step(&mut self, record: &StepRecord, _: &M) {
        *self.0 = (*self.0).max(record.batch);
    }
}

impl Task {
    /// Trains with these batches.
    fn run(
        &self,
        model: Model,
        batch: BatchSize,
        samples: u64,
        seed: u64,
    ) -> std::result::Result<Found, Cause> {
        let settings = settings(batch, model.rate(), samples, seed);
        match model {
            Model::Logistic => {
                let network = perceptron(&[self.digits[0].width(), 10], Start::Zeros, seed);
                ran(&self.digits, &Classes, network, &settings)
            }
            Model::Convnet => {
                ran(&self.pictures, &Classify::new(logits), convnet(self.side, seed)?, &settings)
            }
        }
    }

    fn items(&self) -> usize {
        self.pictures[0].len()
    }

    /// Share of a step of this size that the statistics take: the loop with and without them, by turns.
    fn overhead(&self, size: usize) -> std::result::Result<f64, Cause> {
        // It may not grow: every step is tested, none is larger.
        let tested = adaptive(0.5, size, usize::MAX, 1.0);
        let steps = (4096 / size).clamp(4, 60) as u64;
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..5 {
            for (batch, times) in [BatchSize::Fixed(size), tested.clone()].into_iter().zip(&mut times) {
                times.push(self.run(Model::Convnet, batch, steps * size as u64, 0)?.seconds);
            }
        }
        // The shortest of several: what else runs only ever adds.
        let [plain, with] = times.map(|times| times.into_iter().fold(f64::INFINITY, f64::min));
        Ok((with - plain) / plain)
    }
}

fn adaptive(eta: f64, initial: usize, max: usize, growth_cap: f64) -> BatchSize {
    let test = Test::Norm { eta };
    BatchSize::Adaptive(Adaptive { initial, max, test, interval: 1, growth_cap, grid: 1 })
}

impl AdAdaGrad {
    fn failed(&self, step: &'static str) -> impl Fn(Cause) -> Error {
        let number = self.paper();
        move |source| Error::Experiment { number, name: "adadagrad", step, source }
    }

    fn runs(&self, task: &Task, cells: Vec<(Cell, BatchSize)>, lab: &Lab<'_>) -> Result<Vec<(Cell, Found)>> {
        let found = side_by_side(&cells, |((model, arm, seed), batch)| {
            lab.tell(&format!("{}, seed {seed}: {}", model.name(), arm.name()))?;
            task.run(*model, batch.clone(), task.samples, *seed).map_err(self.failed("training"))
        })?;
        Ok(cells.into_iter().map(|(cell, _)| cell).zip(found).collect())
    }
}

impl Experiment for AdAdaGrad {
    fn paper(&self) -> u8 {
        41
    }

    fn rule(&self) -> &'static str {
        "Logistic regression and a small convnet (layer norms in place of group norms) on 8,000 digits of MNIST at 14 x 14 pixels, AdaGrad \
         of one rate, 128,000 samples, 3 seeds. Reproduced if on the convnet, for one eta (0.1 or 0.25), AdAdaGrad from batch 16 takes at \
         most a tenth of the steps of constant 16, with a test accuracy within 0.3 points of it and at least 0.5 points above constant \
         2048, and the statistics add less than 30 % to a step of 16, 256 and 2048 samples; partly if it lies between: few enough steps and \
         above constant 2048 by 0.5 points, or few enough steps within 0.3 points of constant 16. A ramp with the same mean batch tells \
         whether adapting matters rather than growing; reported either way."
    }

    fn check(&self) -> Result<Vec<Check>> {
        identities::checks().map_err(self.failed("identities"))
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let images = lab.images("vision/mnist10k.safetensors", self.failed("data"))?;
        let (seeds, samples) = match scale {
            Scale::Quick => (1, 32_000),
            Scale::Full => (SEEDS, 128_000),
        };
        let shrunk = |set: &ImageSet| set.shrunk(2).map_err(|error| self.failed("data")(Box::new(error)));
        let sets = [shrunk(&images[0])?, shrunk(&images[1])?];
        let pictures = |set: &ImageSet| pictures::pictures(set, &[], 0).map_err(self.failed("data"));
        let task = Task {
            pictures: [pictures(&sets[0])?, pictures(&sets[1])?],
            digits: [Digits::new(&sets[0]), Digits::new(&sets[1])],
            side: sets[0].shape[2],
            samples,
        };
        lab.tell("the cost of the statistics")?;
        let overheads = side_by_side(&[()], |()| {
            TIMED
                .map(|size| task.overhead(size))
                .into_iter()
                .collect::<std::result::Result<Vec<_>, _>>()
                .map_err(self.failed("timing"))
        })?
        .concat();
        let max = task.items();
        let mut cells = Vec::new();
        for model in [Model::Convnet, Model::Logistic] {
            for seed in 0..seeds {
                cells.push(((model, Arm::Fixed(SMALL), seed), BatchSize::Fixed(SMALL)));
                cells.push(((model, Arm::Fixed(LARGE), seed), BatchSize::Fixed(LARGE)));
                cells.extend(
                    ETAS.map(|eta| ((model, Arm::Adaptive(eta), seed), adaptive(eta, SMALL, max, 2.0))),
                );
            }
        }
        let mut found = self.runs(&task, cells, lab)?;
        let adapted = found.iter().filter_map(|&((model, arm, seed), found)| match arm {
            Arm::Adaptive(eta) => {
                let batch = BatchSize::Ramp(ramp(samples, found.steps, max));
                Some(((model, Arm::Ramp(eta), seed), batch))
            }
            _ => None,
        });
        found.extend(self.runs(&task, adapted.collect(), lab)?);
        Ok(judge(&found, &overheads, samples, seeds))
    }

    fn recorded(&self) -> Option<Measurement> {
        let figure = "convnet: AdAdaGrad (eta 0.25) 82.38 % in 43 steps, constant 16 96.83 % in 8000, constant 2048 87.03 %, ramp of the same \
                      mean batch 78.18 %; statistics add 126, 93, 74 % to steps of 16, 256, 2048";
        let scale = "convnet 8-16 with layer norms (group norms in the specification) and logistic regression, MNIST 8,000 / 2,000 at 14 x 14 \
                     pixels, 128000 samples, 3 seeds";
        Some(Measurement::new(Verdict::NotReproduced, figure, scale))
    }
}
