//! Paper 98: adding gradient noise improves learning for very deep networks (Neelakantan et al., arXiv:1511.06807).

use burn::tensor::Device;
use rayon::prelude::*;
use trimtab::floors::train::{
    self, GradientNoise as Noise, OptimizerConfig, Phase, Settings, Silent, Trainer,
};

use super::perceptron::{Classes, Digits, Start, perceptron};
use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Table, Verdict};
use crate::lab::Lab;

/// Hidden layers and their width, as in the paper.
const DEPTH: usize = 20;
const WIDTH: usize = 50;
const BATCH: usize = 128;
/// Passes over the 8,000 digits: 160,000 of them. The specification has 240,000, four passes over all of MNIST.
const EPOCHS: usize = 20;
/// Passes from the normal start, on which the verdict does not rest.
const EARLY: usize = 8;
/// Passes of a quick run.
const FEW: usize = 4;
const GAMMA: f64 = 0.55;
const RATE: f64 = 0.1;
/// Accuracy of always saying the commonest class, with room for chance.
const CHANCE: f64 = 0.13;

/// One way of training.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Arm {
    Plain,
    Clip,
    Noise(f64),
    /// No noise, but a start as far from zero as the noise would have led.
    Matched(f64),
    Adam,
}

impl Arm {
    const ALL: [Self; 8] = [
        Self::Plain,
        Self::Clip,
        Self::Noise(0.01),
        Self::Noise(0.3),
        Self::Noise(1.0),
        Self::Matched(0.3),
        Self::Matched(1.0),
        Self::Adam,
    ];

    fn name(self) -> String {
        match self {
            Self::Plain => "SGD".into(),
            Self::Clip => "SGD, clipped to norm 10".into(),
            Self::Noise(eta) => format!("SGD, noise eta {eta}"),
            Self::Matched(eta) => format!("SGD, start as wide as noise eta {eta}"),
            Self::Adam => "Adam".into(),
        }
    }
}

/// A start, an arm and a rate.
type Cell = (Start, Arm, f64);

/// The experiment.
pub struct GradientNoise;

/// Standard deviation of a weight that only noise has moved for `steps` steps of plain descent.
fn wandered(rate: f64, eta: f64, steps: usize) -> f64 {
    rate * (0..steps).map(|t| Noise { eta, gamma: GAMMA }.variance(t)).sum::<f64>().sqrt()
}

fn settings(arm: Arm, rate: f64, epochs: usize, seed: u64) -> Settings {
    let optimizer = match arm {
        Arm::Adam => OptimizerConfig::Adam { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.0 },
        _ => OptimizerConfig::Sgd { momentum: 0.0, weight_decay: 0.0 },
    };
    let phase = Phase { steps: None, epochs: Some(epochs as f64), ..Phase::new(1, rate, optimizer) };
    let noise = match arm {
        Arm::Noise(eta) => Some(Noise { eta, gamma: GAMMA }),
        _ => None,
    };
    // The paper adds noise after clipping; both arms clip at the same norm.
    let clip_norm = matches!(arm, Arm::Clip | Arm::Noise(_)).then_some(10.0);
    Settings { seed, noise, clip_norm, ..Settings::new(BATCH, vec![phase]) }
}

impl GradientNoise {
    fn failed(&self, step: &'static str) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Error {
        let number = self.paper();
        move |source| Error::Experiment { number, name: "gradient-noise", step, source }
    }

    /// Test accuracy of one run; a run that diverges has that of chance.
    fn accuracy(
        &self,
        data: &[Digits; 2],
        (start, arm, rate): Cell,
        epochs: usize,
        seed: u64,
    ) -> Result<f64> {
        let [train, test] = data;
        let steps = epochs * train::Dataset::len(train).div_ceil(BATCH);
        let start = match (arm, start) {
            (Arm::Matched(eta), Start::Zeros) => Start::Normal(wandered(rate, eta, steps)),
            (_, start) => start,
        };
        let widths: Vec<usize> = std::iter::once(train.width()).chain([WIDTH; DEPTH]).chain([10]).collect();
        let settings = settings(arm, rate, epochs, seed);
        let mut trainer = Trainer::new(train, &Classes, &settings, Device::flex());
        trainer.heldout = Some(test);
        match trainer.run(perceptron(&widths, start, seed), &mut Silent::default()) {
            Ok(outcome) => Ok(outcome.last.and_then(|last| last.heldout?.accuracy).unwrap_or(0.0)),
            Err(train::Error::Diverged { .. }) => Ok(0.1),
            Err(error) => Err(self.failed("training")(Box::new(error))),
        }
    }
}

impl Experiment for GradientNoise {
    fn paper(&self) -> u8 {
        98
    }

    fn rule(&self) -> &'static str {
        "A perceptron of 20 x 50 ReLU on MNIST, SGD of rate 0.1, 160,000 samples (64,000 from the normal start), 10 seeds. Reproduced if all runs from zeros without noise stay at chance, \
         at least 3 in 10 from zeros with noise (best eta, best rate of 0.05 and 0.1) pass 50 %, and with a He start noise of eta 0.01 changes the \
         median by less than 0.3 points. If a start as wide as the noise does as well, the effect is initialization; it is said \
         so. Baselines: no noise, clipping alone, the matched start, Adam."
    }

    fn check(&self) -> Result<Vec<Check>> {
        let ratio =
            |t: usize| Noise { eta: 0.3, gamma: GAMMA }.variance(t) * (1.0 + t as f64).powf(GAMMA) / 0.3;
        let deviation = [0, 9, 999].into_iter().map(|t| (ratio(t) - 1.0).abs()).fold(0.0, f64::max);
        // The sum of the variances is nearly its integral.
        let steps = 2000;
        let integral = 0.1 * ((steps as f64).powf(1.0 - GAMMA) / (1.0 - GAMMA)).sqrt();
        let wander = (wandered(0.1, 1.0, steps) / integral - 1.0).abs();
        Ok(vec![
            Check { identity: "the variance is eta / (1 + t)^gamma", deviation, tolerance: 1e-12 },
            Check {
                identity: "accumulated noise is lr sqrt(eta T^0.45 / 0.45), nearly",
                deviation: wander,
                tolerance: 0.05,
            },
        ])
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let images = lab.images("vision/mnist10k.safetensors", self.failed("data"))?;
        let data = [Digits::new(&images[0]), Digits::new(&images[1])];
        let (seeds, epochs) = match scale {
            Scale::Quick => (2, FEW),
            Scale::Full => (10, EPOCHS),
        };
        let starts = [("zeros", Start::Zeros), ("normal 0.1", Start::Normal(0.1)), ("He", Start::He)];
        let mut cells = Vec::new();
        for (_, start) in starts {
            for arm in Arm::ALL {
                // Adam has a rate of its own. Where noise is to help, it may choose its rate, and so may the start that is as wide.
                let rates: &[f64] = match (start, arm) {
                    (Start::Zeros, Arm::Noise(_)) => &[0.05, RATE],
                    (Start::Zeros, Arm::Matched(0.3)) => &[0.05],
                    (_, Arm::Adam) => &[1e-3],
                    (Start::Normal(_) | Start::He, Arm::Matched(_)) => &[],
                    _ => &[RATE],
                };
                cells.extend(rates.iter().map(|&rate| (start, arm, rate)));
            }
        }
        let mut found: Vec<(Start, Arm, f64, Vec<f64>)> = Vec::new();
        for (i, &(start, arm, rate)) in cells.iter().enumerate() {
            lab.tell(&format!("{} of {}: {start:?}, {}, rate {rate}", i + 1, cells.len(), arm.name()))?;
            let epochs = if matches!(start, Start::Normal(_)) { epochs.min(EARLY) } else { epochs };
            let run = |seed| self.accuracy(&data, (start, arm, rate), epochs, seed);
            let mut all = (0..seeds).into_par_iter().map(run).collect::<Result<Vec<f64>>>()?;
            all.sort_by(f64::total_cmp);
            found.push((start, arm, rate, all));
        }
        Ok(judge(&starts, &found, seeds, epochs))
    }

    fn recorded(&self) -> Option<Measurement> {
        let figure = "from zeros over 50 %: 10 of 10 with noise (median 75.3 %), 0 without, 10 with a matched start (91.5 %): the effect is \
                      initialization; He start: median 87.9 %, with noise of eta 0.01 92.7, clipped 93.4; Adam from zeros 11.5";
        let scale = "20 x 50 ReLU, MNIST 8,000 / 2,000, 20 epochs, rate 0.1 (noise and matched start at 0.05), 10 seeds";
        Some(Measurement::new(Verdict::Partly, figure, scale))
    }
}

fn median(sorted: &[f64]) -> f64 {
    (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0
}

/// The verdict by the rule.
fn judge(
    starts: &[(&str, Start)],
    found: &[(Start, Arm, f64, Vec<f64>)],
    seeds: u64,
    epochs: usize,
) -> Measurement {
    let table = |(name, start): &(&str, Start)| Table {
        title: format!("From {name}: test accuracy over {seeds} seeds, %"),
        columns: ["", "rate", "median", "least", "most", "over 50", "over 90"].map(String::from).into(),
        rows: found
            .iter()
            .filter(|(other, ..)| other == start)
            .map(|(_, arm, rate, all)| {
                let percent = |x: f64| format!("{:.2}", 100.0 * x);
                let over = |limit: f64| all.iter().filter(|x| **x > limit).count().to_string();
                let (least, most) = (percent(all[0]), percent(all[all.len() - 1]));
                vec![arm.name(), rate.to_string(), percent(median(all)), least, most, over(0.5), over(0.9)]
            })
            .collect(),
    };
    let of = |start: Start, keep: fn(Arm) -> bool| -> Vec<&Vec<f64>> {
        found.iter().filter(|(other, arm, ..)| *other == start && keep(*arm)).map(|(.., all)| all).collect()
    };
    let passed = |all: &Vec<f64>| all.iter().filter(|x| **x > 0.5).count();
    let most = |all: Vec<&Vec<f64>>| all.into_iter().map(passed).max().unwrap_or(0);
    let plain = of(Start::Zeros, |arm| arm == Arm::Plain);
    let stuck = plain.iter().all(|all| all.iter().all(|x| *x < CHANCE));
    let noisy = most(of(Start::Zeros, |arm| matches!(arm, Arm::Noise(_))));
    let matched = most(of(Start::Zeros, |arm| matches!(arm, Arm::Matched(_))));
    let (without, with) =
        (of(Start::He, |arm| arm == Arm::Plain), of(Start::He, |arm| arm == Arm::Noise(0.01)));
    let change = without.iter().zip(with).map(|(a, b)| (median(a) - median(b)).abs()).fold(0.0, f64::max);
    let enough = 10 * noisy as u64 >= 3 * seeds;
    let verdict = match (stuck && enough, change < 0.003) {
        (true, true) => Verdict::Reproduced,
        (true, false) => Verdict::Partly,
        (false, _) => Verdict::NotReproduced,
    };
    let cause = match (enough, matched >= noisy) {
        (true, true) => "; a start as wide as the noise does as well: the effect is initialization",
        (true, false) => "; a start as wide as the noise does worse",
        (false, _) => "",
    };
    let figure = format!(
        "from zeros over 50 %: {noisy} of {seeds} with noise, {} without, {matched} with a matched start; He start: median moves by at most {:.2} points{cause}",
        most(plain),
        100.0 * change
    );
    let scale = format!("20 x 50 ReLU, MNIST 8,000 / 2,000, {epochs} epochs, rate {RATE}, {seeds} seeds");
    Measurement { tables: starts.iter().map(table).collect(), ..Measurement::new(verdict, figure, scale) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_what_it_says() {
        let starts = [("zeros", Start::Zeros), ("He", Start::He)];
        let found = |noise: f64, he: f64, matched: f64| {
            vec![
                (Start::Zeros, Arm::Plain, 0.1, vec![0.1135; 10]),
                (Start::Zeros, Arm::Noise(0.01), 0.1, [vec![0.1; 7], vec![noise; 3]].concat()),
                (Start::Zeros, Arm::Matched(1.0), 0.1, vec![matched; 10]),
                (Start::He, Arm::Plain, 0.1, vec![0.95; 10]),
                (Start::He, Arm::Noise(0.01), 0.1, vec![he; 10]),
            ]
        };
        let verdict = |noise, he, matched| judge(&starts, &found(noise, he, matched), 10, 4);
        assert_eq!(verdict(0.6, 0.951, 0.1).verdict, Verdict::Reproduced);
        assert_eq!(verdict(0.6, 0.94, 0.1).verdict, Verdict::Partly);
        assert_eq!(verdict(0.4, 0.951, 0.1).verdict, Verdict::NotReproduced);
        assert!(verdict(0.6, 0.951, 0.9).figure.contains("the effect is initialization"));
    }
}
