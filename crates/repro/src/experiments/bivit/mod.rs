//! Paper 75: BiViT, vision transformers of one bit (He et al., ICCV 2023, arXiv:2211.07091).

mod identities;
mod verdict;

use burn::module::Module;
use burn::tensor::Device;
use trimtab::floors::io::ImageSet;
use trimtab::floors::models::Zoo;
use trimtab::floors::nn::Network;
use trimtab::floors::train::objectives::{Classify, Listening, Teach};
use trimtab::floors::train::quantized::{Attention, Binary, Bivit as Bits, InBits, Scales, Stages};
use trimtab::floors::train::{OptimizerConfig, Settings, Silent, Trainer};
use trimtab::training::logits;

use super::pictures::{self, Cause, side_by_side};
use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Verdict};
use crate::lab::Lab;
use verdict::{Found, judge};

const BATCH: usize = 50;
const SEEDS: u64 = 3;
const RATE: f64 = 2e-3;
/// How much of the loss is the teacher's.
const LISTENING: Listening = Listening { share: 0.5, temperature: 1.0 };

/// How much is trained.
#[derive(Clone, Copy)]
struct Size {
    images: usize,
    /// Passes in full precision, then of one bit.
    epochs: [f64; 2],
    seeds: u64,
}

/// One way to make a transformer binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    /// Signs of the scores.
    Signs,
    /// A share of the largest probability.
    Share,
    /// With scales of rows.
    Rows,
    /// With scales of rows, attention first.
    Staged,
}

impl Arm {
    const ALL: [Self; 4] = [Self::Signs, Self::Share, Self::Rows, Self::Staged];

    fn name(self) -> &'static str {
        match self {
            Self::Signs => "signs of scores",
            Self::Share => "SAB",
            Self::Rows => "SAB, PWS",
            Self::Staged => "SAB, PWS, CLB",
        }
    }

    fn settings(self) -> Bits {
        let attention = if self == Self::Signs { Attention::Positive } else { Attention::Share(0.25) };
        let scales = if matches!(self, Self::Signs | Self::Share) { Scales::Matrix } else { Scales::Rows };
        let stages = if self == Self::Staged { Stages::AttentionFirst } else { Stages::Together };
        Bits { attention, scales, stages, rest_inputs: true }
    }
}

fn settings(seed: u64, epochs: &[f64]) -> Settings {
    let optimizer = OptimizerConfig::AdamW { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
    pictures::passes(seed, BATCH, epochs, RATE, &optimizer)
}

/// A transformer in full precision and its accuracy.
fn begun(images: &[ImageSet; 2], size: Size, seed: u64) -> std::result::Result<(Network, f64), Cause> {
    let train = pictures::pictures(&images[0], &[], seed)?;
    let test = pictures::pictures(&images[1], &[], seed)?;
    let [_, channels, image, _] = images[0].shape;
    let zoo = Zoo::Vit {
        image,
        patch: 7,
        width: 64,
        blocks: 4,
        heads: 4,
        hidden: Some(128),
        classes: 10,
        channels,
    };
    pictures::classifier(&zoo, channels, [&train, &test], &settings(seed, &size.epochs[..1]))
}

/// The accuracy of an arm, and its bytes as a share of those of float32 in the matrices that are binary. `taught`: it listens to the
/// network that it starts from, else to the labels alone.
fn trained(
    images: &[ImageSet; 2],
    start: &Network,
    size: Size,
    (arm, taught): (Arm, bool),
    seed: u64,
) -> std::result::Result<[f64; 2], Cause> {
    let train = pictures::pictures(&images[0], &[], seed + 100)?;
    let test = pictures::pictures(&images[1], &[], seed)?;
    let epochs = size.epochs[1];
    // As many passes for all: two phases halve them.
    let epochs = if arm == Arm::Staged { vec![epochs / 2.0; 2] } else { vec![epochs] };
    let settings = settings(seed + 100, &epochs);
    let objective = InBits(Classify { listening: Some(LISTENING), ..Classify::new(logits) });
    let teacher = start.clone().valid();
    let teach = Teach { teacher: &teacher, logits, before: None };
    let mut trainer = Trainer::new(&train, &objective, &settings, Device::flex());
    trainer.transform = taught.then_some(&teach);
    trainer.heldout = Some(&test);
    let outcome = trainer.run(Binary::new(start.clone(), &arm.settings())?, &mut Silent::default())?;
    let right = pictures::accuracy(&outcome.last);
    let (mut packed, mut dense) = (0, 0);
    for site in outcome.module.signs() {
        packed += site.packed()?.bytes();
        dense += 4 * site.positive.len() as u64;
    }
    Ok([right, packed as f64 / dense as f64])
}

/// The experiment.
pub struct Bivit;

impl Bivit {
    fn failed(&self, step: &'static str) -> impl Fn(Cause) -> Error + Sync {
        let number = self.paper();
        move |source| Error::Experiment { number, name: "bivit", step, source }
    }
}

impl Experiment for Bivit {
    fn paper(&self) -> u8 {
        75
    }

    fn rule(&self) -> &'static str {
        "A transformer of 4 blocks and width 64 trained on MNIST in full precision, then trained on with weights, inputs and attention of one \
         bit, 3 seeds, all arms from the same network and for the same passes, half of the loss being the divergence from that network. \
         Reproduced if on every seed attention by a share of the largest probability (SAB) is at least 3 points above attention by signs of \
         scores, and, with scales of rows, two phases (CLB) are at least as good as one; partly if one of the two holds on every seed. Not \
         reproduced otherwise. Baselines: signs of scores, one scale a matrix, everything at once. The same arms by the labels alone stand beside them and are not judged."
    }

    fn check(&self) -> Result<Vec<Check>> {
        Ok(identities::checks())
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let size = match scale {
            Scale::Quick => Size { images: 2000, epochs: [4.0, 4.0], seeds: 1 },
            Scale::Full => Size { images: 4000, epochs: [8.0, 8.0], seeds: SEEDS },
        };
        let [train, test] = lab.images("vision/mnist10k.safetensors", self.failed("data"))?;
        let images = [pictures::first(&train, size.images), test];
        let seeds: Vec<u64> = (0..size.seeds).collect();
        let starts = side_by_side(&seeds, |&seed| {
            lab.tell(&format!("seed {seed}: full precision"))?;
            begun(&images, size, seed).map_err(self.failed("training"))
        })?;
        let ways = [true, false].map(|taught| Arm::ALL.map(|arm| (arm, taught)));
        let cells: Vec<(u64, (Arm, bool))> =
            seeds.iter().flat_map(|&seed| ways.as_flattened().iter().map(move |way| (seed, *way))).collect();
        let found = side_by_side(&cells, |&(seed, way)| {
            let (arm, taught) = way;
            let by = if taught { "with a teacher" } else { "by labels alone" };
            lab.tell(&format!("seed {seed}: {}, {by}", arm.name()))?;
            trained(&images, &starts[seed as usize].0, size, way, seed).map_err(self.failed("training"))
        })?;
        let of = |way: (Arm, bool)| {
            let own = cells.iter().zip(&found).filter(|((_, other), _)| *other == way);
            own.map(|(_, found)| *found).collect()
        };
        let full = starts.iter().map(|(_, right)| *right).collect();
        let [taught, labelled] = ways.map(|ways| ways.map(|way| (way.0, of(way))));
        Ok(judge(&Found { full, arms: taught, labelled }, size))
    }

    fn recorded(&self) -> Option<Measurement> {
        let figure = "signs of scores 67.4 %, SAB 73.0 %, with scales of rows 74.6 %, in two phases 75.7 %, full \
                      precision 83.4 %; binary matrices take 1/16.9 of float32";
        let scale = "ViT, 4 blocks, width 64, MNIST, 4000 images, 8 epochs in full precision, 8 of one bit with it as a \
                     teacher; 3 seeds";
        Some(Measurement::new(Verdict::Partly, figure, scale))
    }
}
