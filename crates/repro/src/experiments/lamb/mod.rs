//! Paper 33: LAMB, large-batch optimization by layer (You et al., arXiv:1904.00962).

mod identities;
mod judge;

use burn::tensor::Device;
use rayon::prelude::*;
use trimtab::floors::train::{
    self, LambVariant, OptimizerConfig, Phase, Schedule, Settings, Silent, Trainer,
};

use super::perceptron::{Classes, Digits, Start, perceptron};
use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Verdict};
use crate::lab::Lab;
use judge::{Cell, Found};

const HIDDEN: [usize; 2] = [128, 64];
/// The batch at which rates are tuned, and those that follow by rule; the last is all of the data.
const BATCHES: [usize; 4] = [128, 512, 2048, 8000];
/// The batch of the grid of rates.
const GRID_BATCH: usize = 2048;
/// Passes over the digits, whatever the batch. The largest one has as many steps, about those of five passes over 60,000.
const EPOCHS: usize = 40;
const FEW: usize = 8;
/// Share of the run that warms up at the largest batch; it grows with the batch.
const WARMUP: f64 = 0.2;
/// Rates of a grid, each twice the one before.
const RATES: usize = 12;
/// Share of right answers that a run has to reach to count as stable.
const BAR: f64 = 0.93;
/// Share of right answers of guessing, for runs that diverge.
const CHANCE: f64 = 0.1;
/// The seed of the tuning, which none of the runs has that count.
const TUNING: u64 = 1000;

/// An optimizer of the comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    SgdM,
    AdamW,
    Lars,
    Lamb,
}

impl Rule {
    const ALL: [Self; 4] = [Self::SgdM, Self::AdamW, Self::Lars, Self::Lamb];

    fn name(self) -> &'static str {
        match self {
            Self::SgdM => "SGD, momentum 0.9",
            Self::AdamW => "AdamW",
            Self::Lars => "LARS",
            Self::Lamb => "LAMB",
        }
    }

    fn config(self) -> OptimizerConfig {
        let (beta_1, beta_2, weight_decay) = (0.9, 0.999, 0.01);
        match self {
            Self::SgdM => OptimizerConfig::Sgd { momentum: 0.9, weight_decay: 0.0 },
            Self::AdamW => OptimizerConfig::AdamW { beta_1, beta_2, epsilon: 1e-8, weight_decay },
            Self::Lars => OptimizerConfig::Lars { momentum: 0.9, weight_decay: 0.0 },
            Self::Lamb => {
                let variant = LambVariant::Reference;
                OptimizerConfig::Lamb { variant, beta_1, beta_2, epsilon: 1e-6, weight_decay }
            }
        }
    }

    /// The first of the rates that are tried at the smallest batch; each is twice the one before.
    fn first(self) -> f64 {
        match self {
            Self::SgdM => 0.0125,
            Self::AdamW => 2.5e-4,
            Self::Lars | Self::Lamb => 2.5e-3,
        }
    }

    /// The first of the grid of [`RATES`].
    fn grid(self) -> f64 {
        match self {
            Self::AdamW => 1e-4,
            _ => 1e-3,
        }
    }

    /// The rate at another batch than that of the tuning: by its root, or (for SGD) as it.
    fn scaled(self, rate: f64, batch: usize) -> f64 {
        let ratio = batch as f64 / BATCHES[0] as f64;
        rate * if self == Self::SgdM { ratio } else { ratio.sqrt() }
    }
}

/// One run: rule, rate, batch, seed.
#[derive(Clone, Copy, Debug)]
struct Job(Rule, f64, usize, u64);

/// The experiment.
pub struct Lamb;

fn settings(Job(rule, rate, batch, seed): Job, epochs: usize) -> Settings {
    let warmup = WARMUP * batch as f64 / BATCHES[BATCHES.len() - 1] as f64;
    let schedule = Schedule::Polynomial { warmup, power: 1.0, floor: 0.0 };
    let phase =
        Phase { steps: None, epochs: Some(epochs as f64), schedule, ..Phase::new(1, rate, rule.config()) };
    Settings { seed, ..Settings::new(batch, vec![phase]) }
}

fn doubling(first: f64, n: usize) -> Vec<f64> {
    (0..n).map(|i| first * 2f64.powi(i as i32)).collect()
}

impl Lamb {
    fn failed(&self, step: &'static str) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Error {
        let number = self.paper();
        move |source| Error::Experiment { number, name: "lamb", step, source }
    }

    /// Share of right answers on the test digits.
    fn accuracy(&self, [train, test]: &[Digits; 2], job: Job, epochs: usize) -> Result<f64> {
        let settings = settings(job, epochs);
        let mut trainer = Trainer::new(train, &Classes, &settings, Device::flex());
        trainer.heldout = Some(test);
        let widths: Vec<usize> = std::iter::once(train.width()).chain(HIDDEN).chain([10]).collect();
        match trainer.run(perceptron(&widths, Start::He, job.3), &mut Silent::default()) {
            Ok(outcome) => Ok(outcome.last.and_then(|last| last.heldout?.accuracy).unwrap_or(0.0)),
            Err(train::Error::Diverged { .. }) => Ok(CHANCE),
            Err(error) => Err(self.failed("training")(Box::new(error))),
        }
    }

    /// All of these runs, as many at once as there are threads.
    fn all(&self, data: &[Digits; 2], jobs: &[Job], epochs: usize) -> Result<Vec<f64>> {
        jobs.par_iter().map(|job| self.accuracy(data, *job, epochs)).collect()
    }

    /// The best of some rates by one run each; the smaller one of equals.
    fn best(
        &self,
        data: &[Digits; 2],
        rule: Rule,
        rates: &[f64],
        batch: usize,
        epochs: usize,
    ) -> Result<f64> {
        let jobs: Vec<Job> = rates.iter().map(|&rate| Job(rule, rate, batch, TUNING)).collect();
        let found = self.all(data, &jobs, epochs)?;
        let mut best = (f64::NEG_INFINITY, rates[0]);
        for (&rate, accuracy) in rates.iter().zip(found) {
            if accuracy > best.0 {
                best = (accuracy, rate);
            }
        }
        Ok(best.1)
    }
}

impl Experiment for Lamb {
    fn paper(&self) -> u8 {
        33
    }

    fn rule(&self) -> &'static str {
        "A perceptron of 3 layers on MNIST (8,000 digits; the specification has 60,000), batches 128 to 8,000 at equal epochs, rates tuned at 128 and then \
         only scaled: by the root of the batch, for SGD with momentum by the batch; warm-up share in proportion to the batch. 3 seeds. Reproduced if LAMB at \
         8,000 is within 0.5 points of its own result at 128 and not below AdamW's at 8,000 (means); partly if one of the two. Baselines: SGD with momentum, \
         AdamW, LARS; AdamW tuned again at 8,000, of which it is said whether it does as well; 12 rates on a grid of factors of 2."
    }

    fn check(&self) -> Result<Vec<Check>> {
        identities::checks().map_err(|error| self.failed("identities")(Box::new(error)))
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let images = lab.images("vision/mnist10k.safetensors", self.failed("data"))?;
        let data = [Digits::new(&images[0]), Digits::new(&images[1])];
        let (seeds, epochs, tried, step) = match scale {
            Scale::Quick => (1, FEW, 3, 4),
            Scale::Full => (3, EPOCHS, 6, 1),
        };
        let mut found = Found::default();
        let [tuned_at, .., largest] = BATCHES;
        for rule in Rule::ALL {
            lab.tell(&format!("{}: the rate at batch {tuned_at}", rule.name()))?;
            let rates = doubling(rule.first(), tried);
            let rate = self.best(&data, rule, &rates, tuned_at, epochs)?;
            for batch in BATCHES {
                lab.tell(&format!("{}: batch {batch}", rule.name()))?;
                let rate = rule.scaled(rate, batch);
                let jobs: Vec<Job> = (0..seeds).map(|seed| Job(rule, rate, batch, seed)).collect();
                found.cells.push(Cell { rule, batch, rate, right: self.all(&data, &jobs, epochs)? });
            }
        }
        lab.tell(&format!("AdamW, tuned again at batch {largest}"))?;
        let rates = doubling(Rule::AdamW.first(), tried + 4);
        let rate = self.best(&data, Rule::AdamW, &rates, largest, epochs)?;
        let jobs: Vec<Job> = (0..seeds).map(|seed| Job(Rule::AdamW, rate, largest, seed)).collect();
        let right = self.all(&data, &jobs, epochs)?;
        found.again = Some(Cell { rule: Rule::AdamW, batch: largest, rate, right });
        for rule in [Rule::AdamW, Rule::Lamb] {
            lab.tell(&format!("{}: {RATES} rates at batch {GRID_BATCH}", rule.name()))?;
            let rates: Vec<f64> = doubling(rule.grid(), RATES).into_iter().step_by(step).collect();
            let jobs: Vec<Job> = rates.iter().map(|&rate| Job(rule, rate, GRID_BATCH, 0)).collect();
            let right = self.all(&data, &jobs, epochs)?;
            found.grid.push((rule, rates.into_iter().zip(right).collect()));
        }
        let widths = HIDDEN.map(|width| width.to_string()).join("-");
        let scale = format!(
            "perceptron 784-{widths}-10, MNIST 8,000 / 2,000, {epochs} epochs ({epochs} steps at batch {largest}), rates tuned by the test digits, {seeds} seeds"
        );
        Ok(judge::judge(&found, scale))
    }

    fn recorded(&self) -> Option<Measurement> {
        let figure = "LAMB 94.68 % at batch 8000 (97.38 at 128), AdamW 93.85, tuned again 94.60: as good as LAMB; \
                      rates over 93 %: AdamW 7 of 12, LAMB 5 of 12";
        let scale = "perceptron 784-128-64-10, MNIST 8,000 / 2,000, 40 epochs (40 steps at batch 8000), rates tuned by the test digits, \
                     3 seeds";
        Some(Measurement::new(Verdict::Partly, figure, scale))
    }
}
