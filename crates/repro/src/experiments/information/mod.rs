//! Paper 50: adaptive estimators show information compression in deep neural networks (Chelombiev et al.,
//! arXiv:1902.09037).

mod checks;
mod runs;
mod task;

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use trimtab::floors::math::random::Stream;
use trimtab::floors::math::stats::spearman;
use trimtab::floors::nn::Activation;
use trimtab::report::{Lines, Series};

use self::runs::{ADAPTIVE, Found, LAYERS, Run};
use self::task::Task;
use super::figures::{mean, spread};
use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Table, Verdict};
use crate::lab::Lab;

/// Initial weights.
const SEEDS: u64 = 6;
/// Passes over the training patterns; the paper has 8,000 at a lower rate.
const EPOCHS: usize = 600;
const FEW: usize = 60;
/// Records of a run, at epochs in geometric progression.
const RECORDS: usize = 25;
/// Permutations behind the p-value.
const SHUFFLES: usize = 10_000;
const ACTIVATIONS: [Activation; 3] = [Activation::Tanh, Activation::Relu, Activation::Elu];

/// The experiment.
pub struct AdaptiveInformation;

impl AdaptiveInformation {
    fn failed(&self, step: &'static str) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Error {
        let number = self.paper();
        move |source| Error::Experiment { number, name: "adaptive-mi-estimators", step, source }
    }
}

impl Experiment for AdaptiveInformation {
    fn paper(&self) -> u8 {
        50
    }

    fn rule(&self) -> &'static str {
        "Networks of 12-10-7-5-4-3-2 on a binary task of 4,096 patterns that is symmetric under rotation, tanh, ReLU and ELU, with and without L2, 6 seeds. The \
         compression of a layer is (max - last) / max of its I(T;X) over training; a score is its mean over the five hidden layers and all seeds. Reproduced if, \
         under EBAB and under aKDE alike, (i) the score of tanh is above that of ReLU, (ii) that of ELU is above 0.05, (iii) L2 raises the score of ReLU on at least 5 \
         of 6 seeds, and (iv) under global bins the entropy of the first ReLU layer is below that under EBAB. Partly if two of the four hold. Baseline: uniform bins \
         over one range for all layers and epochs. Where the estimators disagree on a sign, that is the result."
    }

    fn check(&self) -> Result<Vec<Check>> {
        checks::all().map_err(|error| self.failed("identities")(Box::new(error)))
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let (seeds, epochs) = match scale {
            Scale::Quick => (2, FEW),
            Scale::Full => (SEEDS, EPOCHS),
        };
        let task = Task::new();
        let of = |activation| move |l2| (0..seeds).map(move |seed| Run { activation, l2, seed });
        let runs: Vec<Run> =
            ACTIVATIONS.into_iter().flat_map(|a| [false, true].into_iter().flat_map(of(a))).collect();
        let done = AtomicUsize::new(0);
        let run = |run: &Run| -> Result<Found> {
            let found = run.go(&task, epochs, RECORDS, lab, self.failed("training"))?;
            let count = done.fetch_add(1, Ordering::Relaxed) + 1;
            let accuracy = 100.0 * found.accuracy;
            lab.tell(&format!("{count} of {}: {}, test accuracy {accuracy:.1} %", runs.len(), run.name()))?;
            Ok(found)
        };
        let found = runs.par_iter().with_max_len(1).map(run).collect::<Result<Vec<Found>>>()?;
        judge(&found, seeds, epochs).map_err(self.failed("judging"))
    }

    fn recorded(&self) -> Option<Measurement> {
        let figure = "compression under EBAB | aKDE: tanh 0.066 | 0.067, ReLU 0.049 | 0.029, ELU 0.012 | 0.031; L2 raises that of ReLU on 6 | 6 of 6 seeds; first \
                      ReLU layer 11.02 bits under global bins, 12.00 under EBAB";
        let scale = "12-10-7-5-4-3-2, 4,096 patterns, Adam of rate 0.001, 600 epochs, 25 records, 6 seeds; aKDE on a quarter of the patterns, drawn";
        Some(Measurement::new(Verdict::Partly, figure, scale))
    }
}

/// Scores of the runs of one kind under an estimator, by seed.
fn scores(found: &[Found], activation: Activation, l2: bool, estimator: &str) -> Vec<f64> {
    let of = |each: &&Found| each.run.activation == activation && each.run.l2 == l2;
    found.iter().filter(of).map(|each| mean(&each.compression(estimator)[..LAYERS - 1])).collect()
}

/// The verdict by the rule.
fn judge(
    found: &[Found],
    seeds: u64,
    epochs: usize,
) -> std::result::Result<Measurement, Box<dyn std::error::Error + Send + Sync>> {
    let score = |activation, l2, estimator| mean(&scores(found, activation, l2, estimator));
    let [tanh, relu, elu] = [Activation::Tanh, Activation::Relu, Activation::Elu]
        .map(|activation| ADAPTIVE.map(|estimator| score(activation, false, estimator)));
    let raised = ADAPTIVE.map(|estimator| {
        let pairs = scores(found, Activation::Relu, true, estimator);
        let without = scores(found, Activation::Relu, false, estimator);
        pairs.iter().zip(without).filter(|(with, without)| *with > without).count() as u64
    });
    let first = |estimator: &str| {
        let of = |each: &&Found| each.run.activation == Activation::Relu && !each.run.l2;
        mean(&found.iter().filter(of).map(|each| each.last(estimator, 0)).collect::<Vec<f64>>())
    };
    let (global, ebab) = (first("uniform"), first("ebab"));
    let enough = |n: u64| 6 * n >= 5 * seeds;
    let by_estimator = [
        [0, 1].map(|e| tanh[e] > relu[e]),
        [0, 1].map(|e| elu[e] > 0.05),
        [0, 1].map(|e| enough(raised[e])),
        [global < ebab; 2],
    ];
    let held = by_estimator.map(|[ebab, akde]| ebab && akde);
    let verdict = match held.iter().filter(|held| **held).count() {
        4 => Verdict::Reproduced,
        2 | 3 => Verdict::Partly,
        _ => Verdict::NotReproduced,
    };
    let split: Vec<&str> = ["(i)", "(ii)", "(iii)"]
        .into_iter()
        .zip(by_estimator)
        .filter(|(_, [ebab, akde])| ebab != akde)
        .map(|(name, _)| name)
        .collect();
    let (hidden, output) = (correlation(found, LAYERS - 2)?, correlation(found, LAYERS - 1)?);
    let figure = format!(
        "compression under EBAB | aKDE: tanh {:.3} | {:.3}, ReLU {:.3} | {:.3}, ELU {:.3} | {:.3}; L2 raises that of ReLU on {} | {} of {seeds} seeds; first ReLU layer \
         {global:.2} bits under global bins, {ebab:.2} under EBAB{}",
        tanh[0],
        tanh[1],
        relu[0],
        relu[1],
        elu[0],
        elu[1],
        raised[0],
        raised[1],
        match split.is_empty() {
            true => String::new(),
            false => format!("; the estimators disagree on {}", split.join(", ")),
        }
    );
    let scale = format!(
        "12-10-7-5-4-3-2, 4,096 patterns, Adam of rate {}, {epochs} epochs, {RECORDS} records, {seeds} seeds; aKDE on a quarter of the patterns, drawn",
        runs::RATE
    );
    let tables = vec![by_kind(found, seeds), by_layer(found), accuracy_table([hidden, output])];
    Ok(Measurement { tables, charts: charts(found), ..Measurement::new(verdict, figure, scale) })
}

/// Spearman's correlation of the compression of a layer (under EBAB) and test accuracy over all runs, and how often a
/// permutation is as strong.
fn correlation(found: &[Found], layer: usize) -> trimtab::floors::math::Result<(f64, f64)> {
    let compression: Vec<f64> = found.iter().map(|each| each.compression("ebab")[layer]).collect();
    let mut accuracy: Vec<f64> = found.iter().map(|each| each.accuracy).collect();
    let rho = spearman(&compression, &accuracy)?;
    let mut stream = Stream::new(50, "information/permutations", layer as u64, 0);
    let mut stronger = 0;
    for _ in 0..SHUFFLES {
        stream.shuffle(&mut accuracy);
        stronger += usize::from(spearman(&compression, &accuracy)?.abs() >= rho.abs());
    }
    Ok((rho, (stronger + 1) as f64 / (SHUFFLES + 1) as f64))
}

fn by_kind(found: &[Found], seeds: u64) -> Table {
    let mut rows = Vec::new();
    for activation in ACTIVATIONS {
        for l2 in [false, true] {
            let cells =
                runs::ESTIMATORS.map(|estimator| spread(&scores(found, activation, l2, estimator), 3));
            let of = |each: &&Found| each.run.activation == activation && each.run.l2 == l2;
            let right: Vec<f64> = found.iter().filter(of).map(|each| 100.0 * each.accuracy).collect();
            let name = Run { activation, l2, seed: 0 }.kind();
            rows.push([name].into_iter().chain(cells).chain([format!("{:.1}", mean(&right))]).collect());
        }
    }
    Table {
        title: format!("Compression, mean over hidden layers and {seeds} seeds (least..most)"),
        columns: ["", "global bins", "EBAB", "aKDE", "test accuracy, %"].map(String::from).into(),
        rows,
    }
}

fn by_layer(found: &[Found]) -> Table {
    let mut rows = Vec::new();
    for activation in ACTIVATIONS {
        for l2 in [false, true] {
            for estimator in ADAPTIVE {
                let of = |each: &&Found| each.run.activation == activation && each.run.l2 == l2;
                let all: Vec<Vec<f64>> =
                    found.iter().filter(of).map(|each| each.compression(estimator)).collect();
                let cell =
                    |layer: usize| mean(&all.iter().map(|by_layer| by_layer[layer]).collect::<Vec<f64>>());
                let name = format!("{}, {estimator}", Run { activation, l2, seed: 0 }.kind());
                rows.push([name].into_iter().chain((0..LAYERS).map(|i| format!("{:.3}", cell(i)))).collect());
            }
        }
    }
    let columns = std::iter::once(String::new()).chain((0..LAYERS).map(runs::layer_name));
    Table { title: "Compression by layer, mean over seeds".into(), columns: columns.collect(), rows }
}

fn accuracy_table(found: [(f64, f64); 2]) -> Table {
    let row =
        |(name, (rho, p)): (&str, (f64, f64))| vec![name.into(), format!("{rho:+.2}"), format!("{p:.4}")];
    Table {
        title: "Compression (EBAB) against test accuracy over all runs".into(),
        columns: ["", "Spearman", "p by permutation"].map(String::from).into(),
        rows: ["last hidden layer", "output"].into_iter().zip(found).map(row).collect(),
    }
}

/// `I(T;X)` over training, mean over seeds, one chart an activation and an adaptive estimator.
fn charts(found: &[Found]) -> Vec<Lines> {
    let mut charts = Vec::new();
    for activation in ACTIVATIONS {
        for (estimator, name) in ADAPTIVE.into_iter().zip(["EBAB, 30 bins", "aKDE, variance 0.01 max|h|"]) {
            let runs: Vec<&Found> =
                found.iter().filter(|each| each.run.activation == activation && !each.run.l2).collect();
            let series = |layer: usize| {
                let curves: Vec<Vec<(f64, f64)>> =
                    runs.iter().map(|each| each.curve_of(estimator, layer)).collect();
                let points = curves.first().map_or(0, Vec::len);
                let mean = |i: usize| mean(&curves.iter().map(|curve| curve[i].1).collect::<Vec<f64>>());
                let points = (0..points).map(|i| (curves[0][i].0, mean(i))).collect();
                Series { name: runs::layer_name(layer), points }
            };
            charts.push(Lines {
                title: format!("I(T;X) of {} by {name}", Run { activation, l2: false, seed: 0 }.kind()),
                x: "epoch".into(),
                y: "I(T;X), bits".into(),
                logarithmic_x: true,
                series: (0..LAYERS).map(series).collect(),
            });
        }
    }
    charts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_what_it_says() {
        let verdict = |relu: f64, with: f64, elu: f64, global: f64| {
            let mut found = Vec::new();
            for (activation, l2, fall) in [
                (Activation::Tanh, false, 0.5),
                (Activation::Tanh, true, 0.5),
                (Activation::Relu, false, relu),
                (Activation::Relu, true, with),
                (Activation::Elu, false, elu),
                (Activation::Elu, true, elu),
            ] {
                for seed in 0..6 {
                    let run = Run { activation, l2, seed };
                    let accuracy = 0.9 + seed as f64 / 100.0 + fall / 1000.0;
                    found.push(Found::told(run, accuracy, [10.0, 10.0 * (1.0 - fall)], global));
                }
            }
            judge(&found, 6, 10).unwrap().verdict
        };
        assert_eq!(verdict(0.1, 0.2, 0.1, 0.5), Verdict::Reproduced);
        assert_eq!(verdict(0.1, 0.05, 0.1, 0.5), Verdict::Partly, "L2 lowers it");
        assert_eq!(verdict(0.6, 0.5, 0.01, 0.5), Verdict::NotReproduced, "global bins alone");
    }
}
