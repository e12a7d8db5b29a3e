//! Searches and trainings.

use burn::module::Module;
use burn::tensor::Device;
use trimtab::floors::io::ImageSet;
use trimtab::floors::math::random::Stream;
use trimtab::floors::nn::Ctx;
use trimtab::floors::train::search::{
    Bilevel, Cut, Genotype, NoiseKind, Patches, QuantNas, Restore, Supernet, Upscaler, nearest, noise, psnr,
};
use trimtab::floors::train::{
    Group, Observer, OptimizerConfig, Paths, Phase, Schedule, Settings, StepRecord, Trainer,
};

use super::{LOGITS, Size};
use crate::experiments::pictures::{Cause, first};
use crate::lab::Lab;

const BATCH: usize = 16;
const RATE: f64 = 1e-3;
const SIDE: usize = 16;
const SCALE: usize = 2;
/// Patches that are measured at once.
const MEASURED: usize = 50;
/// Weights with fewer numbers say little of their variance.
const NUMBERS: usize = 500;

/// Pictures to train on and to measure on.
pub(super) struct Sets([ImageSet; 2]);

impl Sets {
    pub(super) fn new([train, test]: [&ImageSet; 2], size: Size) -> Self {
        Self([first(train, size.pictures[0]), first(test, size.pictures[1])])
    }

    fn train(&self, seed: u64) -> Result<Patches, Cause> {
        Ok(Patches::new(self.0[0].clone(), [SIDE, SCALE], Cut::Random, seed)?)
    }

    fn test(&self) -> Result<Patches, Cause> {
        Ok(Patches::new(self.0[1].clone(), [SIDE, SCALE], Cut::Middle, 0)?)
    }
}

/// What a run works on.
pub(super) struct Task<'a, 'l> {
    pub(super) sets: &'a Sets,
    pub(super) size: Size,
    pub(super) seed: u64,
    pub(super) lab: &'a Lab<'l>,
}

/// What a search leaves.
pub(super) struct Searched {
    pub(super) genotype: Genotype,
    /// Mean of the largest coefficients.
    pub(super) certainty: f64,
    /// Seconds of a step that learns both, the median.
    pub(super) step: f64,
    /// Smallest and largest ratio between the variances of noise and of rounding errors, over weights that were learned and 3 to 8 bits:
    /// of normal noise, of uniform noise.
    pub(super) ratios: [[f64; 2]; 2],
}

fn adam(beta_1: f32) -> OptimizerConfig {
    OptimizerConfig::Adam { beta_1, beta_2: 0.999, epsilon: 1e-8, weight_decay: 3e-8 }
}

/// Remembers how long steps take.
struct Clock<'a, 'l> {
    lab: &'a Lab<'l>,
    seconds: Vec<f64>,
}

impl<M> Observer<M> for Clock<'_, '_> {
    fn step(&mut self, record: &StepRecord, _: &M) {
        if record.phase == "search" {
            self.seconds.push(2.0 * record.batch as f64 / record.terms_per_s);
        }
    }

    fn interrupted(&self) -> bool {
        self.lab.stops()
    }
}

impl Clock<'_, '_> {
    fn median(mut self) -> f64 {
        self.seconds.sort_by(f64::total_cmp);
        self.seconds.get(self.seconds.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

pub(super) fn search(task: &Task<'_, '_>, settings: &QuantNas) -> Result<Searched, Cause> {
    let [warm_up, both] = task.size.search;
    let cosine = Schedule::Cosine { warmup: 0.0, floor: 0.0 };
    let weights = Phase { trainable: Paths(vec!["network".into()]), ..Phase::new(warm_up, RATE, adam(0.9)) };
    let logits = Group {
        paths: Paths(vec!["logits".into()]),
        optimizer: Some(adam(0.5)),
        rate: Some(LOGITS),
        schedule: Some(Schedule::Constant),
    };
    let both = Phase {
        name: "search".into(),
        groups: vec![logits],
        schedule: cosine,
        ..Phase::new(both, RATE, adam(0.9))
    };
    let training =
        Settings { seed: task.seed, clip_norm: Some(5.0), ..Settings::new(BATCH, vec![weights, both]) };
    let data = task.sets.train(task.seed)?.in_halves()?;
    let share = warm_up as f64 / task.size.search.iter().sum::<usize>() as f64;
    let objective = Bilevel { warm_up: share };
    let trainer = Trainer::new(&data, &objective, &training, Device::flex());
    let supernet = Supernet::new(settings, task.seed, &Device::flex().autodiff())?;
    let mut clock = Clock { lab: task.lab, seconds: Vec::new() };
    let found = trainer.run(supernet, &mut clock)?.module.valid();
    Ok(Searched {
        genotype: found.genotype(),
        certainty: found.certainty(),
        step: clock.median(),
        ratios: [NoiseKind::Normal, NoiseKind::Uniform].map(|kind| ratios(&found, kind)),
    })
}

/// How the variance of noise relates to that of rounding errors.
fn ratios(found: &Supernet, kind: NoiseKind) -> [f64; 2] {
    let mut ends = [f64::INFINITY, f64::NEG_INFINITY];
    for (name, _, weight) in found.tensors() {
        if !name.ends_with(".weight") || weight.len() < NUMBERS {
            continue;
        }
        for bits in 3..=8 {
            let mut stream = Stream::new(0, "reproduce/quantnas/noise", u64::from(bits), 0);
            let ratio = variance(&noise(&weight, &[bits], kind, &mut stream)) / rounding(&weight, bits);
            ends = [ends[0].min(ratio), ends[1].max(ratio)];
        }
    }
    ends
}

/// Mean of the squares around the mean.
pub(super) fn variance(of: &[f32]) -> f64 {
    let mean = of.iter().map(|v| f64::from(*v)).sum::<f64>() / of.len() as f64;
    of.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / of.len() as f64
}

/// Variance of the errors of rounding between the extremes.
pub(super) fn rounding(of: &[f32], bits: u8) -> f64 {
    let low = of.iter().copied().fold(f32::INFINITY, f32::min);
    let high = of.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let step = (high - low) / (2f32.powi(i32::from(bits)) - 1.0);
    let errors: Vec<f32> = of.iter().map(|v| ((v - low) / step).round() * step + low - v).collect();
    variance(&errors)
}

/// A network trained in its bits: PSNR on held-out patches, dB, and bit operations for a pixel.
pub(super) fn train(task: &Task<'_, '_>, genotype: &Genotype) -> Result<[f64; 2], Cause> {
    let schedule = Schedule::Cosine { warmup: 0.05, floor: 0.0 };
    let phase = Phase { schedule, ..Phase::new(task.size.train, RATE, adam(0.9)) };
    let training = Settings { seed: task.seed, clip_norm: Some(5.0), ..Settings::new(BATCH, vec![phase]) };
    let data = task.sets.train(task.seed)?;
    let trainer = Trainer::new(&data, &Restore, &training, Device::flex());
    let network = Upscaler::of(genotype, task.seed, &Device::flex().autodiff())?;
    let mut clock = Clock { lab: task.lab, seconds: Vec::new() };
    let trained = trainer.run(network, &mut clock)?.module.valid();
    let found = psnr(&task.sets.test()?, MEASURED, &Device::flex(), |small| {
        trained.forward(small, &mut Ctx::default())
    })?;
    Ok([found, genotype.bit_ops()?])
}

/// PSNR of patches whose pixels are repeated, dB.
pub(super) fn repeated_pixels(sets: &Sets) -> Result<f64, Cause> {
    Ok(psnr(&sets.test()?, MEASURED, &Device::flex(), |small| nearest(small, SCALE))?)
}
