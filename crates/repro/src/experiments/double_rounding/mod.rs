//! Paper 57: Double Rounding, one integer code for several widths (Huang et al., arXiv:2502.01199).

mod identities;
mod mixed;
mod text;
mod verdict;

use burn::module::Module;
use burn::tensor::Device;
use trimtab::floors::io::ImageSet;
use trimtab::floors::io::augment::{Augment, HorizontalFlip, RandomCrop};
use trimtab::floors::models::Zoo;
use trimtab::floors::nn::Network;
use trimtab::floors::train::objectives::Classify;
use trimtab::floors::train::quantized::{DoubleRounding as Widths, Joint, Rounding, Switchable};
use trimtab::floors::train::{Dataset, Item, OptimizerConfig, Settings, Silent, Trainer};
use trimtab::training::{Pictures, logits};

use super::pictures::{self, Cause, side_by_side};
use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Verdict};
use crate::lab::Lab;
use verdict::{Found, judge};

const BATCH: usize = 100;
const SEEDS: u64 = 3;
/// Channels of the first stage of the ResNet-8.
const WIDTH: usize = 8;
const BITS: [u8; 4] = [8, 6, 4, 2];
const AUGMENT: [Augment; 2] =
    [Augment::RandomCrop(RandomCrop { padding: 2 }), Augment::HorizontalFlip(HorizontalFlip { p: 0.5 })];

/// How much is trained.
#[derive(Clone, Copy)]
struct Size {
    images: usize,
    /// Passes in full precision, then on few bits.
    epochs: [f64; 2],
    seeds: u64,
}

/// One way to serve four widths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    /// Double rounding with a rate for each width.
    Double,
    /// Double rounding with one rate.
    OneRate,
    /// The low bits of the code dropped.
    Truncated,
    /// Weights in full precision, rounded for each width by steps of its own.
    Stored,
    /// A network for each width.
    Separate,
}

impl Arm {
    const ALL: [Self; 5] = [Self::Double, Self::OneRate, Self::Truncated, Self::Stored, Self::Separate];

    fn name(self) -> &'static str {
        match self {
            Self::Double => "double rounding",
            Self::OneRate => "double rounding, one rate for all steps",
            Self::Truncated => "truncation",
            Self::Stored => "weights stored in 32 bits",
            Self::Separate => "four networks, LSQ",
        }
    }

    /// The runs of the arm: widths that are trained together.
    fn runs(self) -> Vec<Widths> {
        let joint = |rounding, alrs| Widths { widths: BITS.to_vec(), rounding, alrs, ..Widths::default() };
        match self {
            Self::Double => vec![joint(Rounding::Double, true)],
            Self::OneRate => vec![joint(Rounding::Double, false)],
            Self::Truncated => vec![joint(Rounding::Truncate, true)],
            Self::Stored => vec![joint(Rounding::Direct, true)],
            Self::Separate => {
                let alone = |bits| Widths { widths: vec![bits], ..joint(Rounding::Direct, false) };
                BITS.map(alone).to_vec()
            }
        }
    }
}

/// Images of one run: to train on, and to test on.
struct Data {
    train: Pictures,
    test: Pictures,
}

impl Data {
    fn new(images: &[ImageSet; 2], seed: u64) -> std::result::Result<Self, Cause> {
        let train = pictures::pictures(&images[0], &AUGMENT, seed)?;
        Ok(Self { train, test: pictures::pictures(&images[1], &[], seed)? })
    }
}

fn settings(seed: u64, epochs: f64, rate: f64) -> Settings {
    let optimizer = OptimizerConfig::Sgd { momentum: 0.9, weight_decay: 1e-4 };
    pictures::passes(seed, BATCH, &[epochs], rate, &optimizer)
}

/// A network in full precision, trained, and its accuracy.
fn begun(images: &[ImageSet; 2], size: Size, seed: u64) -> std::result::Result<(Network, f64), Cause> {
    let data = Data::new(images, seed)?;
    let zoo = Zoo::ResnetCifar { depth: 8, width: WIDTH, classes: 10, channels: 3 };
    pictures::classifier(&zoo, 3, [&data.train, &data.test], &settings(seed, size.epochs[0], 0.1))
}

/// A network in full precision as one that has widths; its inputs are looked at on the first batch.
fn switchable(data: &Data, start: &Network, widths: &Widths) -> std::result::Result<Switchable, Cause> {
    let items: Vec<Item> = (0..BATCH).map(|index| Item { index, epoch: 0 }).collect();
    let first = data.train.batch(&items, &Device::flex())?.images;
    let own = start.clone().fork(&Device::flex().autodiff());
    Ok(Switchable::new(own, widths, |network, ctx| Ok(logits(network, first, ctx).map(drop)?))?)
}

/// Trains a run of an arm; the accuracy of each of its widths.
fn trained(
    images: &[ImageSet; 2],
    start: &Network,
    size: Size,
    widths: &Widths,
    seed: u64,
) -> std::result::Result<Vec<f64>, Cause> {
    let data = Data::new(images, seed + 100)?;
    let (settings, inner) = (settings(seed + 100, size.epochs[1], 0.02), Classify::new(logits));
    let joint = Joint::new(&inner, widths.clone());
    let trainer = Trainer::new(&data.train, &joint, &settings, Device::flex());
    let outcome = trainer.run(switchable(&data, start, widths)?, &mut Silent::default())?;
    let (found, judge) =
        (outcome.module.valid(), Trainer::new(&data.train, &inner, &settings, Device::flex()));
    let right = |width| -> std::result::Result<f64, Cause> {
        Ok(judge.heldout_loss(&found.at(width), &data.test)?.accuracy.unwrap_or(0.0))
    };
    (0..widths.widths.len()).map(right).collect()
}

/// The experiment.
pub struct DoubleRounding;

impl DoubleRounding {
    fn failed(&self, step: &'static str) -> impl Fn(Cause) -> Error + Sync {
        let number = self.paper();
        move |source| Error::Experiment { number, name: "double-rounding", step, source }
    }
}

impl Experiment for DoubleRounding {
    fn paper(&self) -> u8 {
        57
    }

    fn rule(&self) -> &'static str {
        "A ResNet-8 (8 channels) trained on CIFAR-10 at 16 x 16, then trained on at 8, 6, 4 and 2 bits of weights and inputs, 3 seeds, \
         all arms from the same network and for the same passes. Joint: double rounding if at 4 bits its mean accuracy is at least 1 \
         point above that of truncation and not more than 1 point below that of a network of its own (LSQ). Rates: a rate for each \
         width (ALRS) if on every seed the accuracy at 2 bits, or the sum of all four, is above that with one rate, and at 8 bits not \
         more than 0.3 points lower. Mixed: at 2 of 3 budgets of operations the network that is chosen from one trained with HASB has \
         a mean accuracy above that from uniform sampling and above the best uniform width within the budget. Reproduced if all three \
         hold, partly if one or two do. Baselines: truncation, weights stored in 32 bits with steps for each width, four networks, one \
         rate, uniform sampling, uniform widths. On text (wikilm, weights alone at 8, 6, 4 and 3 bits) perplexities are shown beside \
         truncation, rounding to nearest and a network for each width; they decide nothing."
    }

    fn check(&self) -> Result<Vec<Check>> {
        Ok(identities::checks())
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let size = match scale {
            Scale::Quick => Size { images: 2000, epochs: [4.0, 2.0], seeds: 1 },
            Scale::Full => Size { images: 5000, epochs: [6.0, 3.0], seeds: SEEDS },
        };
        let texts = match scale {
            Scale::Quick => text::Size { steps: 2, seeds: 1, judged: 4 },
            Scale::Full => text::Size { steps: 20, seeds: 2, judged: 32 },
        };
        let [train, test] = lab.images("vision/cifar10.safetensors", self.failed("data"))?;
        let shrunk = |set: ImageSet| set.shrunk(2).map_err(|error| self.failed("data")(Box::new(error)));
        let images = [shrunk(pictures::first(&train, size.images))?, shrunk(pictures::first(&test, 2000))?];
        let seeds: Vec<u64> = (0..size.seeds).collect();
        let starts = side_by_side(&seeds, |&seed| {
            lab.tell(&format!("seed {seed}: full precision"))?;
            begun(&images, size, seed).map_err(self.failed("training"))
        })?;
        let runs = |arm: Arm| arm.runs().into_iter().map(move |run| (arm, run));
        let cells: Vec<(u64, Arm, Widths)> = seeds
            .iter()
            .flat_map(|&seed| Arm::ALL.into_iter().flat_map(runs).map(move |(arm, run)| (seed, arm, run)))
            .collect();
        let found = side_by_side(&cells, |(seed, arm, widths)| {
            lab.tell(&format!("seed {seed}: {}, {:?} bits", arm.name(), widths.widths))?;
            let (start, _) = &starts[*seed as usize];
            trained(&images, start, size, widths, *seed).map_err(self.failed("training"))
        })?;
        let of = |arm: Arm, seed: u64| -> Vec<f64> {
            let own = cells.iter().zip(&found).filter(|((s, a, _), _)| (*s, *a) == (seed, arm));
            own.flat_map(|(_, right)| right.iter().copied()).collect()
        };
        let arms = Arm::ALL.map(|arm| (arm, seeds.iter().map(|&seed| of(arm, seed)).collect()));
        let full = starts.iter().map(|(_, right)| *right).collect();
        let mixed = side_by_side(&mixed::cells(&seeds), |&(seed, sampling)| {
            lab.tell(&format!("seed {seed}: mixed widths, {sampling:?}"))?;
            let (start, _) = &starts[seed as usize];
            mixed::trained(&images, start, size, sampling, seed).map_err(self.failed("mixed widths"))
        })?;
        let texts = text::measure(lab, texts).map_err(self.failed("text"))?;
        Ok(judge(&Found { full, arms: arms.to_vec(), mixed, texts: Some(texts) }, size))
    }

    fn recorded(&self) -> Option<Measurement> {
        let figure = "at 4 bits double rounding 41.0 %, truncation 40.9, a network of its own 40.6 (at 2 bits 39.3, 21.4, 38.0); a rate for each width: \
                      +25 points at 2 bits, +21 at 8; mixed widths at three budgets: HASB 22.5, 22.5, 23.1, uniform sampling 22.6, 22.0, 23.9; text at 4 and 3 \
                      bits, perplexity: double rounding 62.0 and 64.4, truncation 2318 and 4536, a network for each 62.6 and 64.7, not rounded 61.4";
        let scale = "ResNet-8, 8 channels, CIFAR-10 at 16 x 16, 5000 images, 6 epochs in full precision, 3 on few \
                      bits, 3 seeds; wikilm, 20 steps of 4 windows of 128 tokens, 2 seeds";
        Some(Measurement::new(Verdict::Partly, figure, scale))
    }
}
