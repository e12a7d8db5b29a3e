//! Paper 84: ZeroQ, ranges and sensitivities from images that a network remembers (Cai et al., arXiv:2001.00281).

mod identities;
mod judge;

use burn::tensor::Tensor;
use trimtab::floors::calibrate::Batch;
use trimtab::floors::math::stats::spearman;
use trimtab::floors::nn::{Network, Task};
use trimtab::floors::plan::{Limits, PriceList, SiteOption, SitePrices, SolveOptions, solve};
use trimtab::floors::train::distil::Zeroq;
use trimtab::measure::Gauge;

use self::judge::{Found, judge};
use super::few_bits::{FewBits, dense, rounded, with_inputs, with_weights};
use super::pictures::Cause;
use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Verdict};
use crate::lab::Lab;

/// Seeds of noise, and of the choice of real images.
const SEEDS: u64 = 3;
/// Images of a set, as in the paper.
const IMAGES: usize = 32;
/// Test images.
const TEST: usize = 1000;
/// Bits of weights and inputs that are compared.
const BITS: [u8; 2] = [4, 6];
/// Bits that the planner may choose from, and those on average.
const CHOICES: [u8; 3] = [2, 4, 8];
const AVERAGE: u8 = 4;
/// Bits of the inputs while the weights have mixed ones.
const FIXED: u8 = 8;

/// The experiment.
pub struct ZeroQ;

/// Where images come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    Noise,
    Distilled,
    Real,
}

impl Source {
    pub(crate) const ALL: [Self; 3] = [Self::Noise, Self::Distilled, Self::Real];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Noise => "Gaussian noise",
            Self::Distilled => "distilled",
            Self::Real => "real images",
        }
    }
}

impl ZeroQ {
    fn failed(step: &'static str) -> impl Fn(Cause) -> Error {
        move |source| Error::Experiment { number: 84, name: "zeroq", step, source }
    }
}

impl Experiment for ZeroQ {
    fn paper(&self) -> u8 {
        84
    }

    fn rule(&self) -> &'static str {
        "ResNet-20 on CIFAR-10; weights rounded to nearest between the extremes of each row, inputs of all layers but the first between the extremes that 32 images \
         give: Gaussian noise, images distilled from batch-norm statistics (500 steps of Adam, statistics of single images), real training images; 3 seeds; accuracy on the \
         first 1,000 test images. Reproduced if, at 4 bits for weights and inputs, distilled images recover at least half of the gap between noise and real images on every \
         seed, and the rank correlation of the sensitivities (KL with one layer's weights at 2, 4, 8 bits) measured on them with those on real images is above that of noise on \
         every seed. Partly if one of the two holds on every seed. Beside it, without a say: 6 bits, the loss that is left, mixed bits at 4 on average by these sensitivities \
         against uniform 4 bits, inputs at 8."
    }

    fn check(&self) -> Result<Vec<Check>> {
        identities::all().map_err(Self::failed("identities"))
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let (seeds, test) = if scale == Scale::Quick { (1, 500) } else { (SEEDS, TEST) };
        let subject = FewBits::open(lab, test).map_err(Self::failed("opening"))?;
        let original = subject.accuracy(&subject.network).map_err(Self::failed("the original"))?;
        let mut found = Vec::new();
        for seed in 0..seeds {
            lab.tell(&format!("seed {seed}: distilling"))?;
            found.push(one(&subject, seed, lab).map_err(Self::failed("measuring"))?);
        }
        Ok(judge(&found, original, test))
    }

    fn recorded(&self) -> Option<Measurement> {
        let figure = "W4A4: 72.97 ± 0.17 % with ranges from distilled images, 71.80 ± 1.40 from noise, 72.80 ± 1.30 from real ones; \
                      rank correlation of sensitivities 0.973 ± 0.006 (noise 0.913 ± 0.015)";
        let scale = "ResNet-20, CIFAR-10, 1000 test images, 3 seeds (mean ± largest distance)";
        Some(Measurement::new(Verdict::Partly, figure, scale))
    }
}

/// All that one seed finds.
fn one(subject: &FewBits, seed: u64, lab: &Lab<'_>) -> std::result::Result<Found, Cause> {
    let how = Zeroq { images: IMAGES, seed, ..Zeroq::default() };
    let device = subject.model.device();
    let made = how.run(&subject.network, [3, 32, 32], device, &mut |_, _| !lab.stops())?;
    let made = made.ok_or("stopped")?;
    let left = made.share_left();
    let batches = |source: Source| -> std::result::Result<Vec<Batch>, Cause> {
        Ok(match source {
            Source::Noise => FewBits::made(how.noise([3, 32, 32], device)),
            Source::Distilled => FewBits::made(made.images.clone()),
            Source::Real => subject.real(IMAGES, "zeroq/real", seed)?,
        })
    };
    let mut accuracy = Vec::new();
    for bits in BITS {
        let weights = with_weights(&subject.network, |_| bits)?;
        let mut of = [0.0; 3];
        for (of, source) in of.iter_mut().zip(Source::ALL) {
            let inputs = subject.ranges(&batches(source)?, bits)?;
            *of = subject.accuracy(&with_inputs(&weights, &inputs)?)?;
        }
        accuracy.push((bits, of));
    }
    let mut tables = Vec::new();
    for source in Source::ALL {
        tables.push(sensitivities(subject, &batches(source)?)?);
    }
    let flat = |table: &Table| table.iter().flatten().copied().collect::<Vec<f64>>();
    let real = flat(&tables[2]);
    let correlation = [spearman(&flat(&tables[0]), &real)?, spearman(&flat(&tables[1]), &real)?];
    let inputs = subject.ranges(&batches(Source::Distilled)?, FIXED)?;
    let bits = mixed(subject, &tables[1])?;
    let of = |name: &str| bits.iter().find(|(site, _)| site == name).map_or(AVERAGE, |(_, bits)| *bits);
    let mixed = with_inputs(&with_weights(&subject.network, |meta| of(&meta.name))?, &inputs)?;
    let uniform = with_inputs(&with_weights(&subject.network, |_| AVERAGE)?, &inputs)?;
    let mixed = [subject.accuracy(&mixed)?, subject.accuracy(&uniform)?];
    Ok(Found { left, accuracy, correlation, mixed })
}

/// For each site the KL at each of [`CHOICES`].
type Table = Vec<[f64; 3]>;

fn sensitivities(subject: &FewBits, batches: &[Batch]) -> std::result::Result<Table, Cause> {
    let mut network: Network = subject.network.clone();
    let gauge = Gauge::new(&network, Task::Images, batches)?;
    let mut table = Vec::new();
    for meta in subject.sites() {
        let weight = network.site_mut(&meta.name).map(|(_, site)| site.to_f32()).ok_or("no site")?;
        let mut row = [0.0; 3];
        for (found, bits) in row.iter_mut().zip(CHOICES) {
            let weight = dense(&meta, rounded(&meta, &weight, bits)?);
            *found = gauge.with_site(&mut network, &meta.name, weight)?;
        }
        table.push(row);
    }
    Ok(table)
}

/// Bits of each site: the least summed KL with [`AVERAGE`] bits a weight.
fn mixed(subject: &FewBits, table: &Table) -> std::result::Result<Vec<(String, u8)>, Cause> {
    let sites = subject.sites();
    let prices = sites.iter().zip(table).map(|(meta, row)| {
        let option = |(bits, damage): (u8, f64)| {
            // Bits, as bytes of eight weights.
            SiteOption::new(format!("{bits}"), (meta.numel() * usize::from(bits)) as u64, damage.max(0.0))
        };
        let options = CHOICES.into_iter().zip(*row).map(option).collect();
        SitePrices::new(&meta.name, meta.numel() as u64, options)
    });
    let list = PriceList::new("kl", prices.collect())?;
    let all: usize = sites.iter().map(|meta| meta.numel()).sum();
    let limits = Limits::bytes((all * usize::from(AVERAGE)) as u64);
    let found = solve(&list, &limits, &SolveOptions::default())?;
    let chosen = sites.iter().zip(found.choice).map(|(meta, i)| (meta.name.clone(), CHOICES[i]));
    Ok(chosen.collect())
}

/// The images as rows of numbers, for identities.
pub(crate) fn numbers(images: &Tensor<4>) -> Vec<f32> {
    images.clone().into_data().iter::<f32>().collect()
}
