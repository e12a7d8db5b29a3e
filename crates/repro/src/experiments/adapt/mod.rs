//! Paper 10: AdaPT, fixed-point formats that change during training (Kummer et al., arXiv:2107.13490).

mod cost;
mod identities;
mod verdict;

use burn::module::Module;
use burn::tensor::Device;
use trimtab::floors::io::ImageSet;
use trimtab::floors::io::augment::{Augment, HorizontalFlip, RandomCrop};
use trimtab::floors::models::Zoo;
use trimtab::floors::train::objectives::Classify;
use trimtab::floors::train::quantized::{Adapt as Formats, FixedPoint, Format, InFixedPoint};
use trimtab::floors::train::{Observer, OptimizerConfig, StepRecord, Trainer};
use trimtab::training::logits;

use super::pictures::{self, Cause, side_by_side};
use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Verdict};
use crate::lab::Lab;
use verdict::{Found, judge};

const BATCH: usize = 100;
const SEEDS: u64 = 3;
const WIDTH: usize = 16;
const AUGMENT: [Augment; 2] =
    [Augment::RandomCrop(RandomCrop { padding: 2 }), Augment::HorizontalFlip(HorizontalFlip { p: 0.5 })];
/// Steps between changes: the paper's 25 to 100 for runs of a tenth of its steps and less.
const LOOKBACK: [u32; 2] = [10, 40];

/// How much is trained.
#[derive(Clone, Copy)]
struct Size {
    images: usize,
    epochs: f64,
    seeds: u64,
}

/// One way to train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    Float,
    Adaptive,
    /// A format that stays: bits of a word, bits behind the point.
    Fixed(u8, u8),
}

impl Arm {
    const ALL: [Self; 4] = [Self::Float, Self::Adaptive, Self::Fixed(8, 4), Self::Fixed(16, 8)];

    fn name(self) -> String {
        match self {
            Self::Float => "float32".into(),
            Self::Adaptive => "AdaPT".into(),
            Self::Fixed(word, fraction) => format!("fixed <{word},{fraction}>"),
        }
    }

    fn formats(self) -> Option<Formats> {
        let adapt = Formats { lookback: LOOKBACK, ..Formats::default() };
        match self {
            Self::Float => None,
            Self::Adaptive => Some(adapt),
            Self::Fixed(word, fraction) => {
                Some(Formats { start: Format { word, fraction }, switching: false, ..adapt })
            }
        }
    }
}

/// Sums up the words of a run.
#[derive(Default)]
struct Words {
    sum: f64,
    steps: f64,
}

impl Observer<FixedPoint> for Words {
    fn step(&mut self, _: &StepRecord, module: &FixedPoint) {
        self.sum += module.mean_word();
        self.steps += 1.0;
    }
}

/// Trains one network.
fn trained(images: &[ImageSet; 2], size: Size, arm: Arm, seed: u64) -> std::result::Result<Found, Cause> {
    let train = pictures::pictures(&images[0], &AUGMENT, seed)?;
    let test = pictures::pictures(&images[1], &[], seed)?;
    let zoo = Zoo::ResnetCifar { depth: 8, width: WIDTH, classes: 10, channels: 3 };
    let optimizer = OptimizerConfig::Sgd { momentum: 0.9, weight_decay: 1e-8 };
    let settings = pictures::passes(seed, BATCH, &[size.epochs], 0.1, &optimizer);
    let inner = Classify::new(logits);
    let Some(formats) = arm.formats() else {
        let (_, right) = pictures::classifier(&zoo, 3, [&train, &test], &settings)?;
        return Ok(Found { right, words: 32.0, last_words: 32.0, size: 1.0, faster: 1.0 });
    };
    let objective = InFixedPoint { inner: &inner, l1: formats.l1 };
    let mut trainer = Trainer::new(&train, &objective, &settings, Device::flex());
    trainer.heldout = Some(&test);
    let mut words = Words::default();
    let outcome = trainer.run(FixedPoint::new(pictures::network(&zoo, 3, seed)?, &formats)?, &mut words)?;
    let module = outcome.module.valid();
    let sites = module.formats();
    let products = cost::products(&module.network, WIDTH);
    Ok(Found {
        right: pictures::accuracy(&outcome.last),
        words: words.sum / words.steps,
        last_words: module.mean_word(),
        size: cost::size(&sites),
        faster: cost::faster(&sites, &products, &formats, arm == Arm::Adaptive),
    })
}

/// The experiment.
pub struct Adapt;

impl Adapt {
    fn failed(&self, step: &'static str) -> impl Fn(Cause) -> Error + Sync {
        let number = self.paper();
        move |source| Error::Experiment { number, name: "adaptive-precision", step, source }
    }
}

impl Experiment for Adapt {
    fn paper(&self) -> u8 {
        10
    }

    fn rule(&self) -> &'static str {
        "A ResNet-8 (16 channels) on CIFAR-10 at 16 x 16, the same passes for all, 3 seeds. Reproduced if AdaPT's mean accuracy is not more \
         than 1 point below that of float32, its words have fewer than 24 bits on average over training, and it is above that of the fixed \
         format <8,4> on every seed; partly if two of the three hold. Not reproduced otherwise. Baselines: float32, fixed <8,4>, fixed \
         <16,8>. Size and speed by the paper's cost model are reported and do not count."
    }

    fn check(&self) -> Result<Vec<Check>> {
        Ok(identities::checks())
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let size = match scale {
            Scale::Quick => Size { images: 2000, epochs: 4.0, seeds: 1 },
            Scale::Full => Size { images: 5000, epochs: 8.0, seeds: SEEDS },
        };
        let [train, test] = lab.images("vision/cifar10.safetensors", self.failed("data"))?;
        let shrunk = |set: ImageSet| set.shrunk(2).map_err(|error| self.failed("data")(Box::new(error)));
        let images = [shrunk(pictures::first(&train, size.images))?, shrunk(pictures::first(&test, 2000))?];
        let cells: Vec<(u64, Arm)> =
            (0..size.seeds).flat_map(|seed| Arm::ALL.map(|arm| (seed, arm))).collect();
        let found = side_by_side(&cells, |&(seed, arm)| {
            lab.tell(&format!("seed {seed}: {}", arm.name()))?;
            trained(&images, size, arm, seed).map_err(self.failed("training"))
        })?;
        let of = |arm: Arm| {
            cells
                .iter()
                .zip(&found)
                .filter(|((_, other), _)| *other == arm)
                .map(|(_, found)| *found)
                .collect()
        };
        Ok(judge(&Arm::ALL.map(|arm| (arm, of(arm))), size))
    }

    fn recorded(&self) -> Option<Measurement> {
        let figure = "AdaPT 46.0 %, float32 45.8 %, fixed <8,4> 40.7 %, fixed <16,8> 46.6 %; words of 22.0 bits over \
                      training; size 0.84, speed by the cost model 1.19 of float32";
        let scale = "ResNet-8, 16 channels, CIFAR-10 at 16 x 16, 5000 images, 8 epochs; 3 seeds";
        Some(Measurement::new(Verdict::Reproduced, figure, scale))
    }
}
