//! Paper 41: AdAdaGrad, adaptive batch size schemes for adaptive gradient methods (Lau, Liu and Kolar, arXiv:2402.11215).

use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use trimtab::floors::io::ImageSet;
use trimtab::floors::math::random::Stream;
use trimtab::floors::models::Zoo;
use trimtab::floors::models::zoo::BlockNorm;
use trimtab::floors::nn::{Capture, Network};
use trimtab::floors::train::objectives::{Classify, ImageBatch, Targets};
use trimtab::floors::train::{
    Adaptive, BatchSize, Dataset, Gradients, Objective, Observer, OptimizerConfig, Pass, Phase, Ramp,
    SampleStatistics, Settings, StepRecord, Test, Trainer,
};
use trimtab::training::{Pictures, logits};

use super::perceptron::{Classes, Digits, Start, perceptron};
use super::pictures::{self, Cause, mean, percents, side_by_side};
use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Table, Verdict};
use crate::lab::Lab;

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
        // It may grow by less than one sample: every step is tested, none is larger.
        let tested = adaptive(0.5, size, usize::MAX, 1.0 + 1e-12);
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

/// The gradient of each of some images, and the statistics that the forward pass captures of them.
fn singles() -> std::result::Result<(Vec<Vec<f64>>, SampleStatistics), Cause> {
    const N: usize = 6;
    const SIDE: usize = 8;
    let network = convnet(SIDE, 3)?;
    let mut stream = Stream::new(0, "images", 0, 0);
    let pixels: Vec<f32> = (0..N * SIDE * SIDE).map(|_| stream.normal() as f32).collect();
    let device = Device::flex().autodiff();
    let batch = |from: usize, count: usize| {
        let pixels = pixels[from * SIDE * SIDE..(from + count) * SIDE * SIDE].to_vec();
        let images = Tensor::from_data(TensorData::new(pixels, [count, 1, SIDE, SIDE]), &device);
        ImageBatch { images, targets: Targets::Classes((from..from + count).collect()) }
    };
    let objective = Classify::new(logits);
    let mut all = Vec::new();
    for i in 0..N {
        let loss = objective.loss(&network, &batch(i, 1), &mut Pass { training: true, ..Pass::default() })?;
        let gradients = Gradients::collect(&network, loss.mean.backward(), |_| true, 1);
        let numbers = gradients
            .iter()
            .flat_map(|(_, gradient)| gradient.values.clone().into_data().iter::<f64>().collect::<Vec<_>>());
        all.push(numbers.collect::<Vec<f64>>());
    }
    let mut pass = Pass { training: true, capture: Some(Capture::default()), ..Pass::default() };
    let backward = objective.loss(&network, &batch(0, N), &mut pass)?.mean.backward();
    let resolved = pass.capture.take().unwrap_or_default().resolve(&backward);
    let mean = Gradients::collect(&network, backward, |_| true, N);
    let direction =
        |path: &str| mean.iter().find(|(name, _)| *name == path).map(|(_, gradient)| gradient.values.clone());
    // The loss is a mean: the gradient of one sample in it is 1 / N of its own.
    let n = N as f64;
    let products: Vec<f64> = resolved.products(direction).iter().map(|s| s * n).collect();
    let statistics = SampleStatistics {
        samples: n,
        squared_norms: resolved.squared_norms(|_| true)?.iter().map(|norm| norm * n * n).sum(),
        mean_squared_norm: mean.norm().powi(2),
        products: products.iter().sum(),
        squared_products: products.iter().map(|s| s * s).sum(),
    };
    Ok((all, statistics))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The mean of some rows.
fn middle(rows: &[&Vec<f64>]) -> Vec<f64> {
    (0..rows[0].len()).map(|c| rows.iter().map(|row| row[c]).sum::<f64>() / rows.len() as f64).collect()
}

fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

/// All ways to make pairs of these.
fn pairings(of: &[usize]) -> Vec<Vec<[usize; 2]>> {
    let Some((&first, rest)) = of.split_first() else { return vec![Vec::new()] };
    let with = |i: usize| {
        let left: Vec<usize> = rest.iter().copied().filter(|other| *other != rest[i]).collect();
        pairings(&left).into_iter().map(move |pairs| [&[[first, rest[i]]][..], &pairs].concat())
    };
    (0..rest.len()).flat_map(with).collect()
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
         of one rate, 240,000 samples, 3 seeds. Reproduced if on the convnet, for one eta (0.1 or 0.25), AdAdaGrad from batch 16 takes at \
         most a tenth of the steps of constant 16, with a test accuracy within 0.3 points of it and at least 0.5 points above constant \
         2048, and the statistics add less than 30 % to a step of 16, 256 and 2048 samples; partly if it lies between: few enough steps and \
         above constant 2048 by 0.5 points, or few enough steps within 0.3 points of constant 16. A ramp with the same mean batch tells \
         whether adapting matters rather than growing; reported either way."
    }

    fn check(&self) -> Result<Vec<Check>> {
        let (all, seen) = singles().map_err(self.failed("identities"))?;
        let n = all.len() as f64;
        let rows: Vec<&Vec<f64>> = all.iter().collect();
        let mean = middle(&rows);
        let squared = dot(&mean, &mean);
        let variance = all.iter().map(|g| squared_distance(g, &mean)).sum::<f64>() / (n - 1.0);
        let products: Vec<f64> = all.iter().map(|g| dot(g, &mean)).collect();
        let average = products.iter().sum::<f64>() / n;
        let along = products.iter().map(|s| (s - average).powi(2)).sum::<f64>() / (n - 1.0);
        // What is left of each gradient across the mean one, coordinate by coordinate.
        let rest = |(g, s): (&Vec<f64>, &f64)| {
            g.iter().zip(&mean).map(|(g, m)| (g - s / squared * m).powi(2)).sum::<f64>()
        };
        let rests = all.iter().zip(&products).map(rest).sum::<f64>();
        let norms = all.iter().map(|g| dot(g, g)).sum::<f64>();
        let pythagoras = (rests + products.iter().map(|s| s * s).sum::<f64>() / squared) / norms - 1.0;
        let relative = |found: f64, expected: f64| (found / expected - 1.0).abs();
        // Passes of two: the mean over all ways to make them is the variance itself.
        let ways = pairings(&[0, 1, 2, 3, 4, 5]);
        let estimate = |pairs: &Vec<[usize; 2]>| {
            let spread = pairs.iter().map(|&[a, b]| squared_distance(&middle(&[&all[a], &all[b]]), &mean));
            2.0 / (pairs.len() as f64 - 1.0) * spread.sum::<f64>()
        };
        let passes = ways.iter().map(estimate).sum::<f64>() / ways.len() as f64;
        let plan = ramp(10_000, 40, 8000);
        let spent: usize = (0..40).map(|step| plan.at(step)).sum();
        let check = |identity, deviation, tolerance| Check { identity, deviation, tolerance };
        Ok(vec![
            check(
                "S from ghost norms is the variance by coordinates, relative",
                relative(seen.variance(), variance),
                1e-5,
            ),
            check(
                "the variance along the gradient is that of the products, relative",
                relative(seen.variance_along(), along),
                1e-4,
            ),
            check(
                "the variance across the gradient is that of the rests, relative",
                relative(seen.variance_across(), rests / (n - 1.0)),
                1e-5,
            ),
            check("squares along and across add up to the squared norms, relative", pythagoras.abs(), 1e-10),
            check("the estimate from passes of two is unbiased, relative", relative(passes, variance), 1e-10),
            check(
                "a ramp spends the samples of a run in as many steps, relative",
                relative(spent as f64, 10_000.0),
                0.02,
            ),
        ])
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let images = lab.images("vision/mnist10k.safetensors", self.failed("data"))?;
        let (seeds, samples) = match scale {
            Scale::Quick => (1, 32_000),
            Scale::Full => (SEEDS, 240_000),
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
        None
    }
}

fn of(all: &[(Cell, Found)], model: Model, arm: Arm) -> Vec<Found> {
    all.iter().filter(|((m, a, _), _)| (*m, *a) == (model, arm)).map(|(_, found)| *found).collect()
}

fn table(all: &[(Cell, Found)], model: Model, samples: u64) -> Table {
    let row = |arm: Arm| {
        let found = of(all, model, arm);
        let average = |what: fn(&Found) -> f64| mean(&found.iter().map(what).collect::<Vec<_>>());
        let steps = average(|f| f.steps as f64);
        vec![
            arm.name(),
            percents(&found.iter().map(|f| f.accuracy).collect::<Vec<_>>()),
            format!("{steps:.0}"),
            format!("{:.0}", samples as f64 / steps),
            format!("{:.0}", average(|f| f.largest as f64)),
            format!("{:.1}", average(|f| f.seconds)),
        ]
    };
    Table {
        title: format!("{}, AdaGrad of rate {}: {samples} samples", model.name(), model.rate()),
        columns: ["", "accuracy, %", "steps", "mean batch", "largest", "seconds"].map(String::from).into(),
        rows: Arm::ALL.map(row).into(),
    }
}

/// The verdict by the rule.
fn judge(all: &[(Cell, Found)], overheads: &[f64], samples: u64, seeds: u64) -> Measurement {
    let average = |arm: Arm, what: fn(&Found) -> f64| {
        mean(&of(all, Model::Convnet, arm).iter().map(what).collect::<Vec<_>>())
    };
    let accuracy = |arm| 100.0 * average(arm, |f| f.accuracy);
    let (small, large) = (accuracy(Arm::Fixed(SMALL)), accuracy(Arm::Fixed(LARGE)));
    let steps = average(Arm::Fixed(SMALL), |f| f.steps as f64);
    // Few steps; near the small batch; above the large one.
    let parts = ETAS.map(|eta| {
        let (arm, few) = (Arm::Adaptive(eta), average(Arm::Adaptive(eta), |f| f.steps as f64) <= 0.1 * steps);
        (eta, few && (accuracy(arm) - small).abs() <= 0.3, few && accuracy(arm) - large >= 0.5)
    });
    let cheap = !overheads.is_empty() && overheads.iter().all(|share| *share < DEAR);
    let both = parts.iter().find(|(_, near, above)| *near && *above);
    let one = parts.iter().find(|(_, near, above)| *near || *above);
    let verdict = match (both, one) {
        (Some(_), _) if cheap => Verdict::Reproduced,
        (_, Some(_)) => Verdict::Partly,
        _ => Verdict::NotReproduced,
    };
    let best =
        if accuracy(Arm::Adaptive(ETAS[0])) > accuracy(Arm::Adaptive(ETAS[1])) { ETAS[0] } else { ETAS[1] };
    let eta = both.or(one).map_or(best, |(eta, ..)| *eta);
    let shares: Vec<String> = overheads.iter().map(|share| format!("{:.0}", 100.0 * share)).collect();
    let figure = format!(
        "convnet: AdAdaGrad (eta {eta}) {:.2} % in {:.0} steps, constant {SMALL} {small:.2} % in {steps:.0}, constant {LARGE} {large:.2} %, \
         ramp of the same mean batch {:.2} %; statistics add {} % to steps of 16, 256, 2048",
        accuracy(Arm::Adaptive(eta)),
        average(Arm::Adaptive(eta), |f| f.steps as f64),
        accuracy(Arm::Ramp(eta)),
        shares.join(", ")
    );
    let cost = Table {
        title: "What the statistics add to a step of the convnet, %".into(),
        columns: TIMED.map(|size| format!("batch {size}")).into(),
        rows: vec![shares],
    };
    let mut tables: Vec<Table> =
        [Model::Convnet, Model::Logistic].map(|model| table(all, model, samples)).into();
    tables.push(cost);
    let scale = format!(
        "convnet 8-16 with layer norms (group norms in the specification) and logistic regression, MNIST 8,000 / 2,000 at 14 x 14 pixels, \
         {samples} samples, {seeds} seeds"
    );
    Measurement { tables, ..Measurement::new(verdict, figure, scale) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_what_it_says() {
        let verdict = |small: f64, large: f64, adapted: f64, steps: usize, overhead: f64| {
            let found = |accuracy, steps| Found { accuracy, steps, ..Found::default() };
            let all = Arm::ALL.map(|arm| {
                let found = match arm {
                    Arm::Fixed(SMALL) => found(small, 15_000),
                    Arm::Fixed(_) => found(large, 150),
                    Arm::Adaptive(_) | Arm::Ramp(_) => found(adapted, steps),
                };
                ((Model::Convnet, arm, 0), found)
            });
            judge(&all, &[overhead], 240_000, 1).verdict
        };
        assert_eq!(verdict(0.98, 0.97, 0.979, 1000, 0.1), Verdict::Reproduced);
        assert_eq!(verdict(0.98, 0.97, 0.979, 1000, 0.5), Verdict::Partly);
        assert_eq!(verdict(0.98, 0.9, 0.97, 1000, 0.1), Verdict::Partly);
        assert_eq!(verdict(0.98, 0.979, 0.979, 1000, 0.1), Verdict::Partly);
        assert_eq!(verdict(0.98, 0.97, 0.979, 3000, 0.1), Verdict::NotReproduced);
        assert_eq!(verdict(0.98, 0.97, 0.972, 1000, 0.1), Verdict::NotReproduced);
    }

    #[test]
    fn there_are_fifteen_ways_to_pair_six() {
        assert_eq!(pairings(&[0, 1, 2, 3, 4, 5]).len(), 15);
    }
}
