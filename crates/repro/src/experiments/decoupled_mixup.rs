//! Paper 5: harnessing hard mixed samples with decoupled regularizer (Liu et al., NeurIPS 2023, arXiv:2203.10761).

use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use trimtab::floors::io::ImageSet;
use trimtab::floors::io::augment::{Augment, HorizontalFlip, Mixer, RandomCrop};
use trimtab::floors::math::random::Stream;
use trimtab::floors::models::Zoo;
use trimtab::floors::models::zoo::BlockNorm;
use trimtab::floors::nn::{Ctx, Network};
use trimtab::floors::train::objectives::{
    Classify, DecoupledMixup as Loss, ImageBatch, MixedLabel, Mode, Targets, soft_cross_entropy,
};
use trimtab::floors::train::{BatchTransform, OptimizerConfig, Phase, Schedule, Settings, Silent, Trainer};
use trimtab::training::{Mix, Pictures, logits};

use super::pictures::{self, Cause, mean, percents, side_by_side};
use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Table, Verdict};
use crate::lab::Lab;

const BATCH: usize = 100;
const SEEDS: u64 = 3;
const RATE: f64 = 0.05;
const SMOOTHING: f64 = 0.1;
/// Most that the time of the loss may grow.
const DEAR: f64 = 1.3;
const MIXUP: Mixer = Mixer::Mixup { alpha: 1.0 };

/// One way of training.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Arm {
    Unmixed,
    Coupled,
    Smoothed,
    Decoupled(f64),
}

impl Arm {
    const ALL: [Self; 5] =
        [Self::Unmixed, Self::Coupled, Self::Smoothed, Self::Decoupled(0.1), Self::Decoupled(1.0)];

    fn name(self) -> String {
        match self {
            Self::Unmixed => "no mixing".into(),
            Self::Coupled => "Mixup, MCE".into(),
            Self::Smoothed => format!("Mixup, MCE, smoothing {SMOOTHING}"),
            Self::Decoupled(eta) => format!("Mixup, DM eta {eta}"),
        }
    }
}

/// Shares of test images: right, and mixed ones of which the best class is one of both, and of which the best two are both.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Found {
    clean: f64,
    one: f64,
    both: f64,
}

/// Images with the network and the passes that fit them.
struct Data {
    name: &'static str,
    file: &'static str,
    widths: &'static [usize],
    augment: &'static [Augment],
    /// Images that are trained on; what is tested on are all of the other split.
    images: usize,
    epochs: usize,
}

const DATA: [Data; 2] = [
    Data {
        name: "CIFAR-10, 16 x 16",
        file: "vision/cifar10.safetensors",
        widths: &[16, 32, 64],
        augment: &[
            Augment::RandomCrop(RandomCrop { padding: 2 }),
            Augment::HorizontalFlip(HorizontalFlip { p: 0.5 }),
        ],
        images: 8000,
        epochs: 8,
    },
    Data {
        name: "MNIST, 14 x 14",
        file: "vision/mnist10k.safetensors",
        widths: &[16, 32],
        augment: &[Augment::RandomCrop(RandomCrop { padding: 1 })],
        images: 8000,
        epochs: 6,
    },
];

/// The experiment.
pub struct DecoupledMixup;

/// Trains one network and looks at it.
fn trained(
    images: &[ImageSet; 2],
    data: &Data,
    epochs: usize,
    arm: Arm,
    seed: u64,
) -> std::result::Result<Found, Cause> {
    let train = pictures::pictures(&images[0], data.augment, seed)?;
    let test = pictures::pictures(&images[1], &[], seed)?;
    let [_, channels, image, _] = images[0].shape;
    let widths = data.widths.to_vec();
    let zoo = Zoo::Convnet { widths, norm: BlockNorm::Batch, image, classes: 10, channels };
    let optimizer = OptimizerConfig::Sgd { momentum: 0.9, weight_decay: 5e-4 };
    let phase = Phase {
        steps: None,
        epochs: Some(epochs as f64),
        schedule: Schedule::Cosine { warmup: 0.0, floor: 0.0 },
        ..Phase::new(1, RATE, optimizer)
    };
    let settings = Settings { seed, ..Settings::new(BATCH, vec![phase]) };
    let decoupled = match arm {
        Arm::Decoupled(eta) => Some(Loss { eta, ..Loss::default() }),
        _ => None,
    };
    let smoothing = if arm == Arm::Smoothed { SMOOTHING } else { 0.0 };
    let objective = Classify { logits, smoothing, decoupled };
    let mix = Mix(&MIXUP);
    let mut trainer = Trainer::new(&train, &objective, &settings, Device::flex());
    trainer.heldout = Some(&test);
    trainer.transform = (arm != Arm::Unmixed).then_some(&mix as &dyn BatchTransform<ImageBatch>);
    let outcome = trainer.run(pictures::network(&zoo, channels, seed)?, &mut Silent::default())?;
    let clean = outcome.last.as_ref().and_then(|last| last.heldout?.accuracy).unwrap_or(0.0);
    let [one, both] = mixed(&outcome.module.valid(), &test, &images[1].labels)?;
    Ok(Found { clean, one, both })
}

/// Shares of even mixtures of two test images of different classes: the best class is one of both, the best two are both.
fn mixed(network: &Network, test: &Pictures, labels: &[i64]) -> std::result::Result<[f64; 2], Cause> {
    let mut partner: Vec<usize> = (0..labels.len()).collect();
    Stream::new(0, "partners", 0, 0).shuffle(&mut partner);
    let images = pictures::all(test)?;
    let index = Tensor::from_data(
        TensorData::from(&partner.iter().map(|&i| i as i64).collect::<Vec<_>>()[..]),
        &images.device(),
    );
    let halves = (images.clone() + images.select(0, index)) / 2.0;
    let mut counts = [0usize; 3];
    for start in (0..labels.len()).step_by(500) {
        let n = 500.min(labels.len() - start);
        let scores = logits(network, halves.clone().narrow(0, start, n), &mut Ctx::default())?;
        let scores: Vec<f32> = scores.into_data().iter::<f32>().collect();
        for (i, row) in scores.chunks_exact(scores.len() / n).enumerate() {
            let pair = [labels[start + i], labels[partner[start + i]]];
            if pair[0] == pair[1] {
                continue;
            }
            let mut order: Vec<i64> = (0..row.len() as i64).collect();
            order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
            let hits = order[..2].iter().filter(|class| pair.contains(class)).count();
            counts[0] += 1;
            counts[1] += usize::from(pair.contains(&order[0]));
            counts[2] += usize::from(hits == 2);
        }
    }
    Ok([1, 2].map(|i| counts[i] as f64 / counts[0].max(1) as f64))
}

/// Logits and labels of a batch; classes differ, and no share is an end of its range.
fn batch(n: usize, classes: usize, seed: u64) -> (Tensor<2>, Vec<MixedLabel>) {
    let mut stream = Stream::new(seed, "logits", 0, 0);
    let values: Vec<f32> = (0..n * classes).map(|_| 2.0 * stream.normal() as f32).collect();
    let labels = (0..n).map(|_| {
        let a = stream.below(classes);
        let b = (a + 1 + stream.below(classes - 1)) % classes;
        MixedLabel { a, b, lambda: stream.uniform_in(0.05, 0.95) }
    });
    let labels = labels.collect();
    let device = Device::flex().autodiff();
    (Tensor::from_data(TensorData::new(values, [n, classes]), &device).require_grad(), labels)
}

/// The usual loss of mixed labels.
fn coupled(z: &Tensor<2>, labels: &[MixedLabel]) -> Tensor<1> {
    let targets = Targets::Mixed(labels.to_vec()).distributions(z.dims()[1], 0.0, &z.device());
    soft_cross_entropy(z.clone(), targets)
}

fn numbers(of: Tensor<2>) -> Vec<f64> {
    of.into_data().iter::<f64>().collect()
}

/// Gradient of a loss by the logits.
fn slope(z: &Tensor<2>, loss: Tensor<1>) -> Vec<f64> {
    z.grad(&loss.backward()).map_or_else(Vec::new, numbers)
}

/// Largest distance of two rows of numbers; of different lengths, it is no number.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    if a.len() != b.len() {
        return f64::NAN;
    }
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The gradient of the whole loss by its formula.
fn expected_slope(z: &[f64], labels: &[MixedLabel], eta: f64) -> Vec<f64> {
    let (n, classes) = (labels.len(), z.len() / labels.len());
    let row = |(z, label): (&[f64], &MixedLabel)| -> Vec<f64> {
        let MixedLabel { a, b, lambda } = *label;
        let sum = |without: usize| {
            z.iter().enumerate().filter(|(c, _)| *c != without).map(|(_, z)| z.exp()).sum::<f64>()
        };
        let (all, without_a, without_b) = (sum(usize::MAX), sum(a), sum(b));
        let at = |c: usize, class: usize| f64::from(u8::from(c == class));
        let one = |c: usize| {
            let share = |sum: f64, partner: usize| if c == partner { 0.0 } else { z[c].exp() / sum };
            let mixed = z[c].exp() / all - lambda * at(c, a) - (1.0 - lambda) * at(c, b);
            let apart = share(without_b, b) - at(c, a) + share(without_a, a) - at(c, b);
            (mixed + eta * apart) / n as f64
        };
        (0..classes).map(one).collect()
    };
    z.chunks_exact(classes).zip(labels).flat_map(row).collect()
}

/// Seconds of loss and gradient: coupled, decoupled; medians of several.
fn costs(rounds: usize) -> [f64; 2] {
    let (z, labels) = batch(1024, 1000, 1);
    let dm = Loss::default();
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (decoupled, times) in [false, true].into_iter().zip(&mut times) {
            let clock = Instant::now();
            let usual = coupled(&z, &labels);
            let loss = if decoupled { dm.loss(z.clone(), &labels, usual) } else { usual };
            std::hint::black_box(slope(&z, loss).len());
            times.push(clock.elapsed().as_secs_f64());
        }
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    })
}

impl DecoupledMixup {
    fn failed(&self, step: &'static str) -> impl Fn(Cause) -> Error {
        let number = self.paper();
        move |source| Error::Experiment { number, name: "decoupled-mixup", step, source }
    }
}

impl Experiment for DecoupledMixup {
    fn paper(&self) -> u8 {
        5
    }

    fn rule(&self) -> &'static str {
        "Convnets with batch norms on CIFAR-10 and MNIST at half the side, Mixup of alpha 1, 3 seeds. Of even mixtures of two test \
         images of different classes it is counted how often both classes are the best two. Reproduced if on both data sets, for \
         one eta (0.1 or 1), this share is at least 2 points above that of the mixed cross-entropy (MCE), with a clean accuracy not more \
         than 0.3 points lower, and the loss takes at most 1.3 times as long (1024 x 1000 logits, with the gradient); partly if the \
         share rises as far on one of them, or accuracy or time do not hold. Not reproduced otherwise, even if clean accuracy moves. \
         Baselines: no mixing, MCE, MCE with smoothing 0.1."
    }

    fn check(&self) -> Result<Vec<Check>> {
        let (z, labels) = batch(64, 10, 0);
        let with = |eta: f64| Loss { eta, ..Loss::default() };
        let value = |loss: Tensor<1>| f64::from(loss.into_scalar::<f32>());
        let full = |config: Loss, z: &Tensor<2>, labels: &[MixedLabel]| {
            config.loss(z.clone(), labels, coupled(z, labels))
        };
        let none = (value(full(with(0.0), &z, &labels)) - value(coupled(&z, &labels))).abs();
        let (two, pairs) = batch(64, 2, 0);
        let pair = (value(full(with(1.0), &two, &pairs)) - value(coupled(&two, &pairs))).abs();
        // Only the class of the larger share has a term, so the partner's column is that of the usual loss.
        let more = Loss { mode: Mode::More, ..with(1.0) };
        let zero = Tensor::zeros([1], &z.device());
        let alone = slope(&z, more.loss(z.clone(), &labels, zero.clone()));
        let partner =
            |(i, l): (usize, &MixedLabel)| alone[i * 10 + if l.lambda >= 0.5 { l.b } else { l.a }].abs();
        let partners = match alone.is_empty() {
            true => f64::NAN,
            false => labels.iter().enumerate().map(partner).fold(0.0, f64::max),
        };
        // One image at a time, as the loss is a mean.
        let rows = numbers(z.clone().detach());
        let shares = labels.iter().enumerate().map(|(i, l)| {
            let row = &rows[i * 10..(i + 1) * 10];
            let total: f64 = row.iter().map(|z| z.exp()).sum();
            let (own, partner) = if l.lambda >= 0.5 { (l.a, l.b) } else { (l.b, l.a) };
            let one = z.clone().narrow(0, i, 1);
            let q = (-value(more.loss(one, &labels[i..=i], zero.clone()))).exp();
            (q * (1.0 - row[partner].exp() / total) - row[own].exp() / total).abs()
        });
        let shares = shares.fold(0.0, f64::max);
        let gradient = apart(&slope(&z, full(with(1.0), &z, &labels)), &expected_slope(&rows, &labels, 1.0));
        let swapped: Vec<MixedLabel> =
            labels.iter().map(|l| MixedLabel { a: l.b, b: l.a, lambda: 1.0 - l.lambda }).collect();
        let rescaled = Loss { t: 0.5, ..with(1.0) };
        let order = (value(full(rescaled, &z, &labels)) - value(full(rescaled, &z, &swapped))).abs();
        let check = |identity, deviation, tolerance| Check { identity, deviation, tolerance };
        Ok(vec![
            check("with eta 0 the loss is MCE", none, 1e-6),
            check("with two classes the decoupled term is 0", pair, 1e-6),
            check("the decoupled gradient of the partner's logit is 0", partners, 0.0),
            check("q of a without b, times 1 - s_b, is s_a", shares, 2e-6),
            check("the gradient is that of the formula", gradient, 1e-6),
            check("exchanging (a, lambda) and (b, 1 - lambda) changes nothing", order, 2e-6),
        ])
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let quick = scale == Scale::Quick;
        let seeds = if quick { 1 } else { SEEDS };
        let (images, epochs) = if quick { (2000, 4) } else { (usize::MAX, usize::MAX) };
        let mut sets = Vec::new();
        for data in &DATA {
            let [train, test] = lab.images(data.file, self.failed("data"))?;
            let shrunk = |set: ImageSet| set.shrunk(2).map_err(|error| self.failed("data")(Box::new(error)));
            let train = pictures::first(&train, data.images.min(images));
            sets.push((data, [shrunk(train)?, shrunk(test)?]));
        }
        let cells: Vec<(usize, Arm, u64)> = (0..sets.len())
            .flat_map(|set| (0..seeds).flat_map(move |seed| Arm::ALL.map(move |arm| (set, arm, seed))))
            .collect();
        let found = side_by_side(&cells, |&(set, arm, seed)| {
            let (data, images) = &sets[set];
            lab.tell(&format!("{}, seed {seed}: {}", data.name, arm.name()))?;
            trained(images, data, data.epochs.min(epochs), arm, seed).map_err(self.failed("training"))
        })?;
        lab.tell("the cost of the loss")?;
        let results = [0, 1].map(|set| {
            Arm::ALL.map(|arm| {
                let own = |cell: &(usize, Arm, u64)| (cell.0, cell.1) == (set, arm);
                let of = cells.iter().zip(&found).filter(|(cell, _)| own(cell)).map(|(_, found)| *found);
                (arm, of.collect())
            })
        });
        Ok(judge(&results, costs(15), seeds, (images, epochs)))
    }

    fn recorded(&self) -> Option<Measurement> {
        None
    }
}

/// What every arm found, over seeds.
type Arms = [(Arm, Vec<Found>); 5];

/// What an eta gains over the coupled loss, in points: mixtures of which both classes are found, clean accuracy.
#[derive(Clone, Copy)]
struct Gain {
    eta: f64,
    both: f64,
    clean: f64,
}

impl Gain {
    fn holds(&self) -> bool {
        self.both >= 2.0 && self.clean >= -0.3
    }
}

fn average(arms: &Arms, arm: Arm, what: fn(&Found) -> f64) -> f64 {
    let of = arms.iter().filter(|(other, _)| *other == arm).flat_map(|(_, found)| found);
    mean(&of.map(what).collect::<Vec<_>>())
}

/// The gain of the eta that the verdict rests on: one that holds, else the one that mixtures gain most by.
fn gain(arms: &Arms) -> Gain {
    let [small, large] = [0.1, 1.0].map(|eta| {
        let difference = |what: fn(&Found) -> f64| {
            100.0 * (average(arms, Arm::Decoupled(eta), what) - average(arms, Arm::Coupled, what))
        };
        Gain { eta, both: difference(|f| f.both), clean: difference(|f| f.clean) }
    });
    match small.holds() || (!large.holds() && small.both >= large.both) {
        true => small,
        false => large,
    }
}

fn table(name: &str, arms: &Arms, seeds: u64) -> Table {
    let rows = arms.iter().map(|(arm, found)| {
        let shares: [fn(&Found) -> f64; 3] = [|f| f.clean, |f| f.one, |f| f.both];
        let column = |of: fn(&Found) -> f64| percents(&found.iter().map(of).collect::<Vec<f64>>());
        std::iter::once(arm.name()).chain(shares.map(column)).collect()
    });
    Table {
        title: format!("{name}: accuracy, %, mean and spread of {seeds} seeds; the best class, the best two"),
        columns: ["", "clean", "mixed, one", "mixed, both"].map(String::from).into(),
        rows: rows.collect(),
    }
}

/// The verdict by the rule.
fn judge(
    results: &[Arms; 2],
    [coupled, decoupled]: [f64; 2],
    seeds: u64,
    most: (usize, usize),
) -> Measurement {
    let ratio = decoupled / coupled;
    let cost = Table {
        title: "Loss and its gradient, 1024 x 1000 logits, ms".into(),
        columns: ["MCE", "DM", "ratio"].map(String::from).into(),
        rows: vec![vec![
            format!("{:.1}", 1e3 * coupled),
            format!("{:.1}", 1e3 * decoupled),
            format!("{ratio:.2}"),
        ]],
    };
    let gains = [gain(&results[0]), gain(&results[1])];
    let verdict = match gains.iter().any(|gain| gain.both >= 2.0) {
        true if gains.iter().all(Gain::holds) && ratio <= DEAR => Verdict::Reproduced,
        true => Verdict::Partly,
        false => Verdict::NotReproduced,
    };
    let parts = DATA.iter().zip(results).zip(&gains).map(|((data, arms), gain)| {
        let Gain { eta, clean, .. } = *gain;
        let both = |arm| 100.0 * average(arms, arm, |f| f.both);
        format!(
            "{}: DM (eta {eta}) {:.1} %, MCE {:.1} %, smoothed {:.1} %, clean {clean:+.2} points",
            data.name,
            both(Arm::Decoupled(eta)),
            both(Arm::Coupled),
            both(Arm::Smoothed)
        )
    });
    let parts: Vec<String> = parts.collect();
    let figure = format!(
        "both classes of a mixture found: {}; the loss takes {ratio:.2} times as long",
        parts.join("; ")
    );
    let parts = DATA.map(|data| {
        let Data { name, widths, images, epochs, .. } = data;
        let widths: Vec<String> = widths.iter().map(usize::to_string).collect();
        let (images, epochs) = (images.min(most.0), epochs.min(most.1));
        format!("{name}, {images} images, {epochs} epochs, convnet {}", widths.join("-"))
    });
    let scale = format!("{}; {seeds} seeds", parts.join("; "));
    let mut tables: Vec<Table> =
        DATA.iter().zip(results).map(|(data, arms)| table(data.name, arms, seeds)).collect();
    tables.push(cost);
    Measurement { tables, ..Measurement::new(verdict, figure, scale) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_what_it_says() {
        let found = |clean, both| vec![Found { clean, one: 0.9, both }; 3];
        let arms = |small: (f64, f64), large: (f64, f64)| -> Arms {
            [
                (Arm::Unmixed, found(0.6, 0.2)),
                (Arm::Coupled, found(0.6, 0.3)),
                (Arm::Smoothed, found(0.6, 0.3)),
                (Arm::Decoupled(0.1), found(small.0, small.1)),
                (Arm::Decoupled(1.0), found(large.0, large.1)),
            ]
        };
        let good = arms((0.6, 0.33), (0.5, 0.4));
        let verdict = |first: Arms, second: Arms, cost| {
            judge(&[first, second], [1.0, cost], 3, (usize::MAX, usize::MAX)).verdict
        };
        let large = arms((0.6, 0.31), (0.599, 0.33));
        assert_eq!(verdict(good.clone(), large, 1.1), Verdict::Reproduced);
        assert_eq!(verdict(good.clone(), good.clone(), 1.5), Verdict::Partly);
        let less = arms((0.6, 0.31), (0.59, 0.33));
        assert_eq!(verdict(good.clone(), less, 1.1), Verdict::Partly);
        let clean = arms((0.65, 0.31), (0.65, 0.31));
        assert_eq!(verdict(good, clean.clone(), 1.1), Verdict::Partly);
        assert_eq!(verdict(clean.clone(), clean, 1.1), Verdict::NotReproduced);
    }
}
