//! Paper 73: decoupled contrastive learning (Yeh et al., ECCV 2022, arXiv:2110.06848).

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use trimtab::floors::io::ImageSet;
use trimtab::floors::io::augment::{
    Augment, ColourJitter, HorizontalFlip, RandomGrayscale, RandomResizedCrop,
};
use trimtab::floors::math::random::Stream;
use trimtab::floors::models::Zoo;
use trimtab::floors::models::zoo::BlockNorm;
use trimtab::floors::nn::{Activation, Axis, Network};
use trimtab::floors::train::objectives::{Contrastive, ContrastiveKind, info_nce_share};
use trimtab::floors::train::{
    Dataset, Item, OptimizerConfig, Pass, Phase, Schedule, Settings, Silent, Trainer,
};
use trimtab::training::logits;

use super::features::Features;
use super::perceptron::{Start, dense};
use super::pictures::{self, Cause, Views, mean, percents, side_by_side};
use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Table, Verdict};
use crate::lab::Lab;

const TEMPERATURE: f64 = 0.1;
const SEEDS: u64 = 3;
const BATCHES: [usize; 3] = [16, 64, 256];
/// The batch at which rates are chosen.
const MIDDLE: usize = 64;
const RATES: [f64; 3] = [5e-4, 1.5e-3, 4.5e-3];
/// Images by which the share q is measured.
const LOOKED_AT: usize = 256;
const FEATURES: usize = 128;
const KINDS: [ContrastiveKind; 3] =
    [ContrastiveKind::InfoNce, ContrastiveKind::Decoupled, ContrastiveKind::DecoupledWeighted { sigma: 0.5 }];

fn name(kind: ContrastiveKind) -> &'static str {
    match kind {
        ContrastiveKind::InfoNce => "InfoNCE",
        ContrastiveKind::Decoupled => "DCL",
        ContrastiveKind::DecoupledWeighted { .. } => "DCLW",
    }
}

/// One run.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cell {
    kind: ContrastiveKind,
    batch: usize,
    rate: f64,
    seed: u64,
}

/// Accuracies of the features, and the mean of q at the start and at the end.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Found {
    neighbours: f64,
    probe: f64,
    q: [f64; 2],
}

/// What is trained on, what features are looked up in and tested on, and for how long.
struct Task {
    train: ImageSet,
    test: ImageSet,
    epochs: f64,
}

/// The experiment.
pub struct Dcl;

/// Crops, jitter and flips of SimCLR (arXiv:2002.05709), for images of this side.
fn augment(side: usize) -> [Augment; 4] {
    [
        Augment::RandomResizedCrop(RandomResizedCrop {
            size: [side, side],
            scale: [0.2, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
        }),
        Augment::HorizontalFlip(HorizontalFlip::default()),
        Augment::ColourJitter(ColourJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 }),
        Augment::RandomGrayscale(RandomGrayscale { p: 0.2 }),
    ]
}

/// An encoder to 128 features, and a projector of two layers as the head.
fn encoder(side: usize, channels: usize, seed: u64) -> std::result::Result<Network, Cause> {
    let widths = vec![16, 32, 64];
    let zoo = Zoo::Convnet { widths, norm: BlockNorm::Batch, image: side, classes: FEATURES, channels };
    let encoder = pictures::network(&zoo, channels, seed)?;
    let axis = |name: &str, size| Axis::new(name, size);
    let (features, hidden, out) =
        (axis("features", FEATURES), axis("projector", FEATURES), axis("embedding", 64));
    let mut stages: Vec<_> = encoder.stages().iter().map(|stage| stage.boxed_clone()).collect();
    stages.push(dense("projector.0", [features, hidden.clone()], Start::He, Some(Activation::Relu), seed));
    stages.push(dense("projector.1", [hidden, out], Start::He, None, seed));
    Ok(Network::new(stages, None, 2))
}

/// Mean of q over some images, in batches of this size, normalized as in training.
fn share(network: &Network, views: &Views, batch: usize) -> std::result::Result<f64, Cause> {
    let network = network.valid();
    let items: Vec<Item> = (0..LOOKED_AT.min(views.len())).map(|index| Item { index, epoch: 0 }).collect();
    let mut all = Vec::new();
    for items in items.chunks_exact(batch.min(items.len())) {
        let (views, n) = (views.batch(items, &Device::flex())?, items.len());
        let mut pass = Pass { training: true, ..Pass::default() };
        let rows = logits(&network, Tensor::cat(vec![views.first, views.second], 0), &mut pass.ctx())?;
        all.extend(info_nce_share(rows.clone().narrow(0, 0, n), rows.narrow(0, n, n), TEMPERATURE));
    }
    Ok(mean(&all))
}

/// Features of a network, judged.
fn judged(network: &Network, task: &Task) -> std::result::Result<[f64; 2], Cause> {
    let features = |set: &ImageSet| -> std::result::Result<Features, Cause> {
        Features::of(network, &pictures::pictures(set, &[], 0)?, &set.labels)
    };
    let (train, test) = (features(&task.train)?, features(&task.test)?);
    Ok([train.neighbours(&test), train.probe(&test)?])
}

/// Trains one encoder and looks at its features.
fn trained(task: &Task, cell: Cell) -> std::result::Result<Found, Cause> {
    let Cell { kind, batch, rate, seed } = cell;
    let [_, channels, side, _] = task.train.shape;
    let views = Views::new(&task.train, &augment(side), seed)?;
    let adam = OptimizerConfig::Adam { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 1e-6 };
    let schedule = Schedule::Cosine { warmup: 0.05, floor: 0.0 };
    // Whole batches only: a last one of fewer images would be another loss.
    let samples = (task.epochs * views.len() as f64) as u64 / batch as u64 * batch as u64;
    let phase = Phase { steps: None, samples: Some(samples), schedule, ..Phase::new(1, rate, adam) };
    let settings = Settings { seed, ..Settings::new(batch, vec![phase]) };
    let objective = Contrastive { embed: logits, kind, temperature: TEMPERATURE };
    let network = encoder(side, channels, seed)?;
    let before = share(&network, &views, batch)?;
    let trainer = Trainer::new(&views, &objective, &settings, Device::flex());
    let module = trainer.run(network, &mut Silent::default())?.module;
    let after = share(&module, &views, batch)?;
    let [neighbours, probe] = judged(&module, task)?;
    Ok(Found { neighbours, probe, q: [before, after] })
}

/// The gradient of the mean loss by the embeddings, each anchor with a weight of its own: 1 for the decoupled loss. In f64, by
/// the formula.
fn expected_slope(x: &[f64], n: usize, temperature: f64, weights: &[f64]) -> Vec<f64> {
    let d = x.len() / (2 * n);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let lengths: Vec<f64> = x.chunks_exact(d).map(|row| dot(row, row).sqrt()).collect();
    let z: Vec<Vec<f64>> = x
        .chunks_exact(d)
        .zip(&lengths)
        .map(|(row, length)| row.iter().map(|x| x / length).collect())
        .collect();
    let mut by_score = vec![vec![0.0; 2 * n]; 2 * n];
    for i in 0..2 * n {
        let positive = (i + n) % (2 * n);
        let grown = |j: usize| match j == i || j == positive {
            true => 0.0,
            false => (dot(&z[i], &z[j]) / temperature).exp(),
        };
        let sum: f64 = (0..2 * n).map(grown).sum();
        for j in 0..2 * n {
            let own = grown(j) / sum - f64::from(u8::from(j == positive));
            by_score[i][j] = weights[i] * own / (2 * n) as f64;
        }
    }
    let row = |i: usize| -> Vec<f64> {
        let pulled = |c: usize| {
            (0..2 * n).map(|j| (by_score[i][j] + by_score[j][i]) * z[j][c]).sum::<f64>() / temperature
        };
        let pulled: Vec<f64> = (0..d).map(pulled).collect();
        let along = dot(&pulled, &z[i]);
        (0..d).map(|c| (pulled[c] - along * z[i][c]) / lengths[i]).collect()
    };
    (0..2 * n).flat_map(row).collect()
}

impl Dcl {
    fn failed(&self, step: &'static str) -> impl Fn(Cause) -> Error {
        let number = self.paper();
        move |source| Error::Experiment { number, name: "dcl", step, source }
    }

    /// For each kind the rate whose features have the best neighbours among images that are neither trained nor tested on.
    fn rates(&self, task: &Task, lab: &Lab<'_>) -> Result<[f64; 3]> {
        let grid = KINDS.into_iter().flat_map(|kind| RATES.map(|rate| (kind, rate)));
        let cell = |(kind, rate)| Cell { kind, batch: MIDDLE, rate, seed: 100 };
        let cells: Vec<Cell> = grid.map(cell).collect();
        let found = self.run(task, &cells, lab)?;
        let best = |kind: ContrastiveKind| {
            let of = cells.iter().zip(&found).filter(|(cell, _)| cell.kind == kind);
            of.max_by(|a, b| a.1.neighbours.total_cmp(&b.1.neighbours))
                .map_or(RATES[1], |(cell, _)| cell.rate)
        };
        Ok(KINDS.map(best))
    }

    fn run(&self, task: &Task, cells: &[Cell], lab: &Lab<'_>) -> Result<Vec<Found>> {
        side_by_side(cells, |cell| {
            let Cell { kind, batch, rate, seed } = *cell;
            lab.tell(&format!("{}, batch {batch}, rate {rate}, seed {seed}", name(kind)))?;
            trained(task, *cell).map_err(self.failed("training"))
        })
    }
}

impl Experiment for Dcl {
    fn paper(&self) -> u8 {
        73
    }

    fn rule(&self) -> &'static str {
        "A small convolutional encoder on CIFAR-10 at 16 x 16 pixels, views by crop, flip and jitter, batches of 16, 64 and 256, the \
         same number of samples, the rate chosen for each loss at batch 64 on images apart, 3 seeds. Reproduced if at batch 16 the \
         neighbours (k = 20) of DCL's features are right at least 1 point more often than those of InfoNCE, that lead is larger than at \
         batch 256, and the mean q of InfoNCE falls in training and ends lower at 16 than at 256; partly if the lead at 16 is that large \
         but the rest does not hold. Baselines: InfoNCE, DCLW, an encoder that is not trained; a linear probe beside the neighbours."
    }

    fn check(&self) -> Result<Vec<Check>> {
        const N: usize = 6;
        const D: usize = 5;
        let failed = self.failed("identities");
        let mut stream = Stream::new(0, "embeddings", 0, 0);
        let x: Vec<f32> = (0..2 * N * D).map(|_| stream.normal() as f32).collect();
        let exact: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        let device = Device::flex().autodiff();
        let halves = [&x[..N * D], &x[N * D..]].map(|half| {
            Tensor::<2>::from_data(TensorData::new(half.to_vec(), [N, D]), &device).require_grad()
        });
        let [first, second] = &halves;
        let loss = |kind, temperature| {
            let loss = Contrastive { embed: (), kind, temperature }.of(first.clone(), second.clone());
            loss.map_err(|error| failed(Box::new(error)))
        };
        let value = |kind, temperature| -> Result<f64> {
            Ok(f64::from(loss(kind, temperature)?.into_scalar::<f32>()))
        };
        let slope = |kind| -> Result<Vec<f64>> {
            let backward = loss(kind, 0.2)?.backward();
            let rows = halves.iter().filter_map(|half| half.grad(&backward));
            Ok(rows.flat_map(|half| half.into_data().iter::<f64>().collect::<Vec<_>>()).collect())
        };
        let apart = |a: &[f64], b: &[f64]| match a.len() == b.len() {
            true => a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max),
            false => f64::NAN,
        };
        let [coupled, decoupled, weighted] = KINDS;
        let q = info_nce_share(first.clone(), second.clone(), 0.2);
        let one = apart(&slope(decoupled)?, &expected_slope(&exact, N, 0.2, &[1.0; 2 * N]));
        let shares = apart(&slope(coupled)?, &expected_slope(&exact, N, 0.2, &q));
        let gap = value(coupled, 0.2)? - value(decoupled, 0.2)?;
        let gap = (gap - mean(&q.iter().map(|q| -q.ln()).collect::<Vec<_>>())).abs();
        // Similarities of the positives, and the weights that follow from them.
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let row = |i: usize| &exact[i * D..(i + 1) * D];
        let cosine =
            |i: usize| dot(row(i), row(i + N)) / (dot(row(i), row(i)) * dot(row(i + N), row(i + N))).sqrt();
        let similar: Vec<f64> = (0..N).map(cosine).collect();
        let grown: Vec<f64> = similar.iter().map(|s| (s / 0.5).exp()).collect();
        let weights: Vec<f64> = grown.iter().map(|g| 2.0 - g / mean(&grown)).collect();
        let moved: Vec<f64> = weights.iter().zip(&similar).map(|(w, s)| (1.0 - w) * s / 0.2).collect();
        let difference = value(weighted, 0.2)? - value(decoupled, 0.2)?;
        let weight = (difference - mean(&moved)).abs().max((mean(&weights) - 1.0).abs());
        // At a temperature of 0.005 a score of self is 200, which no added constant would hide.
        let cold = value(decoupled, 0.005)?;
        let unit: Vec<Vec<f64>> =
            (0..2 * N).map(|i| row(i).iter().map(|x| x / dot(row(i), row(i)).sqrt()).collect()).collect();
        let definition = |i: usize| {
            let scores = (0..2 * N).filter(|&j| j % N != i % N).map(|j| dot(&unit[i], &unit[j]) / 0.005);
            let scores: Vec<f64> = scores.collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            most + scores.iter().map(|s| (s - most).exp()).sum::<f64>().ln() - similar[i % N] / 0.005
        };
        let expected = mean(&(0..2 * N).map(definition).collect::<Vec<_>>());
        let check = |identity, deviation, tolerance| Check { identity, deviation, tolerance };
        Ok(vec![
            check("the gradient of DCL is that of the formula", one, 1e-6),
            check("the gradient of InfoNCE is that of DCL times q, anchor by anchor", shares, 1e-6),
            check("InfoNCE - DCL is the mean of -ln q", gap, 2e-6),
            check("DCLW differs by weights whose mean is 1", weight, 2e-6),
            check(
                "at temperature 0.005 self and positive stay out, relative",
                (cold / expected - 1.0).abs(),
                1e-5,
            ),
        ])
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let [train, test] = lab.images("vision/cifar10.safetensors", self.failed("data"))?;
        let (images, seeds, epochs) = match scale {
            Scale::Quick => (1000, 1, 2.0),
            Scale::Full => (4000, SEEDS, 4.0),
        };
        let shrunk = |set: ImageSet| set.shrunk(2).map_err(|error| self.failed("data")(Box::new(error)));
        let apart: Vec<usize> = (images..images + 1000).collect();
        let validation = Task {
            train: shrunk(pictures::first(&train, images))?,
            test: shrunk(train.select(&apart))?,
            epochs,
        };
        let rates = match scale {
            Scale::Quick => [RATES[1]; 3],
            Scale::Full => self.rates(&validation, lab)?,
        };
        let task = Task { test: shrunk(pictures::first(&test, 2000))?, ..validation };
        let cell = |kind: usize, batch, seed| Cell { kind: KINDS[kind], batch, rate: rates[kind], seed };
        let mut cells = Vec::new();
        for seed in 0..seeds {
            for batch in BATCHES {
                cells.extend([0, 1].map(|kind| cell(kind, batch, seed)));
            }
            cells.push(cell(2, BATCHES[0], seed));
        }
        let found = self.run(&task, &cells, lab)?;
        lab.tell("encoders that are not trained")?;
        let [_, channels, side, _] = task.train.shape;
        let untrained = (0..seeds).map(|seed| judged(&encoder(side, channels, seed)?, &task));
        let untrained =
            untrained.collect::<std::result::Result<Vec<_>, Cause>>().map_err(self.failed("features"))?;
        let all: Vec<(Cell, Found)> = cells.into_iter().zip(found).collect();
        let scale = format!(
            "convnet 16-32-64 with 128 features, CIFAR-10 at 16 x 16 pixels, {images} images, {epochs} epochs, Adam, {seeds} seeds; \
             rates {} for InfoNCE, DCL, DCLW; tested on 2,000 images; other temperatures, queues and NNCLR not run",
            rates.map(|rate| rate.to_string()).join(", ")
        );
        Ok(judge(&all, &untrained, scale))
    }

    fn recorded(&self) -> Option<Measurement> {
        None
    }
}

/// What the runs of one kind found.
fn of(all: &[(Cell, Found)], kind: ContrastiveKind, batch: usize) -> Vec<Found> {
    let own = |cell: &Cell| (cell.kind, cell.batch) == (kind, batch);
    all.iter().filter(|(cell, _)| own(cell)).map(|(_, found)| *found).collect()
}

fn column(found: &[Found], what: fn(&Found) -> f64) -> Vec<f64> {
    found.iter().map(what).collect()
}

fn accuracies(all: &[(Cell, Found)], untrained: &[[f64; 2]]) -> Table {
    let mut rows = Vec::new();
    for batch in BATCHES {
        for kind in KINDS {
            let found = of(all, kind, batch);
            if found.is_empty() {
                continue;
            }
            let q = |what: fn(&Found) -> f64| format!("{:.3}", mean(&column(&found, what)));
            rows.push(vec![
                format!("batch {batch}, {}", name(kind)),
                percents(&column(&found, |f| f.neighbours)),
                percents(&column(&found, |f| f.probe)),
                q(|f| f.q[0]),
                q(|f| f.q[1]),
            ]);
        }
    }
    let [neighbours, probe] = [0, 1].map(|i| untrained.iter().map(|found| found[i]).collect::<Vec<_>>());
    let dash = || "-".to_string();
    rows.push(vec!["not trained".into(), percents(&neighbours), percents(&probe), dash(), dash()]);
    Table {
        title: format!(
            "Accuracy of features, %, mean and spread of {} seeds; mean q before and after",
            untrained.len()
        ),
        columns: ["", "20 neighbours", "linear probe", "q, start", "q, end"].map(String::from).into(),
        rows,
    }
}

/// The verdict by the rule.
fn judge(all: &[(Cell, Found)], untrained: &[[f64; 2]], scale: String) -> Measurement {
    let average = |kind, batch, what: fn(&Found) -> f64| mean(&column(&of(all, kind, batch), what));
    let lead = |batch, what: fn(&Found) -> f64| {
        100.0 * (average(KINDS[1], batch, what) - average(KINDS[0], batch, what))
    };
    let [small, _, large] = BATCHES;
    let leads = BATCHES.map(|batch| lead(batch, |f| f.neighbours));
    let end = |batch| average(KINDS[0], batch, |f| f.q[1]);
    let falls = BATCHES.iter().all(|&batch| end(batch) < average(KINDS[0], batch, |f| f.q[0]));
    let mechanism = falls && end(small) < end(large);
    let verdict = match leads[0] >= 1.0 {
        true if leads[0] > leads[2] && mechanism => Verdict::Reproduced,
        true => Verdict::Partly,
        false => Verdict::NotReproduced,
    };
    let figure = format!(
        "DCL - InfoNCE, neighbours right: {:+.1}, {:+.1}, {:+.1} points at batches 16, 64, 256 (linear probe {:+.1}, {:+.1}, {:+.1}); \
         mean q of InfoNCE at the end {:.2}, {:.2}, {:.2}",
        leads[0],
        leads[1],
        leads[2],
        lead(small, |f| f.probe),
        lead(MIDDLE, |f| f.probe),
        lead(large, |f| f.probe),
        end(small),
        end(MIDDLE),
        end(large)
    );
    Measurement { tables: vec![accuracies(all, untrained)], ..Measurement::new(verdict, figure, scale) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_what_it_says() {
        let verdict = |small: [f64; 2], large: [f64; 2], q: [f64; 2]| {
            let found = |neighbours, q| Found { neighbours, probe: 0.5, q: [0.9, q] };
            let cell = |kind, batch| Cell { kind, batch, rate: 1e-3, seed: 0 };
            let mut all = Vec::new();
            for kind in 0..2 {
                all.push((cell(KINDS[kind], 16), found(small[kind], q[0])));
                all.push((cell(KINDS[kind], 64), found(0.5, 0.5)));
                all.push((cell(KINDS[kind], 256), found(large[kind], q[1])));
            }
            judge(&all, &[[0.3, 0.3]], String::new()).verdict
        };
        assert_eq!(verdict([0.4, 0.42], [0.45, 0.455], [0.3, 0.6]), Verdict::Reproduced);
        assert_eq!(verdict([0.4, 0.42], [0.45, 0.48], [0.3, 0.6]), Verdict::Partly);
        assert_eq!(verdict([0.4, 0.42], [0.45, 0.455], [0.7, 0.6]), Verdict::Partly);
        assert_eq!(verdict([0.4, 0.42], [0.45, 0.455], [0.3, 0.95]), Verdict::Partly);
        assert_eq!(verdict([0.4, 0.405], [0.45, 0.455], [0.3, 0.6]), Verdict::NotReproduced);
    }
}
