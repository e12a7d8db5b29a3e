//! Paper 60: QuantNAS, operations and bits of networks for super-resolution, searched against noise (Shvetsov et al.,
//! arXiv:2208.14839).

mod identities;
mod runs;
mod verdict;

use trimtab::floors::math::random::Stream;
use trimtab::floors::train::search::{Choice, Genotype, Operation, QuantNas, SearchBy};

use super::pictures::{Cause, side_by_side};
use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Verdict};
use crate::lab::Lab;
use runs::{Sets, Task};
use verdict::{Found, judge};

const SEEDS: u64 = 3;
/// Random networks that a found one is compared with, on each seed.
const RANDOM: u64 = 5;
/// How far their cost may be from its cost.
const TOLERANCE: f64 = 0.05;

/// How much is done.
#[derive(Clone, Copy)]
struct Size {
    /// Pictures to train on and to measure on.
    pictures: [usize; 2],
    /// Steps of a search for weights alone, then for both.
    search: [usize; 2],
    /// Steps of the training of a network.
    train: usize,
    seeds: u64,
}

/// One way to search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Noise,
    Rounding,
    /// By noise, without the entropy.
    Unsure,
}

impl Way {
    const ALL: [Self; 3] = [Self::Noise, Self::Rounding, Self::Unsure];

    fn name(self) -> &'static str {
        match self {
            Self::Noise => "noise",
            Self::Rounding => "rounding",
            Self::Unsure => "noise, without entropy",
        }
    }

    fn settings(self) -> QuantNas {
        let by = if self == Self::Rounding { SearchBy::Rounding } else { SearchBy::Noise };
        let entropy = if self == Self::Unsure { 0.0 } else { ENTROPY };
        QuantNas { by, entropy, penalty: PENALTY, ..QuantNas::default() }
    }
}

/// Weights of the cost and of the entropy: ten times the paper's, and rates of logits a hundred times, for a fiftieth of its steps.
const PENALTY: f64 = 1e-2;
const ENTROPY: f64 = 1e-2;
const LOGITS: f64 = 3e-2;

/// A network that is trained in its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Net {
    /// What a search found.
    Of(Way),
    /// A random one of the cost of what noise found.
    Random(u64),
    /// A convolution of 3 by 3 everywhere in so many bits.
    Hand(u8),
}

impl Net {
    fn all() -> Vec<Self> {
        let random = (0..RANDOM).map(Self::Random);
        [Self::Of(Way::Noise), Self::Of(Way::Rounding)]
            .into_iter()
            .chain(random)
            .chain([Self::Hand(4), Self::Hand(8)])
            .collect()
    }
}

/// The experiment.
pub struct QuantNasSearch;

impl QuantNasSearch {
    fn failed(&self, step: &'static str) -> impl Fn(Cause) -> Error + Sync {
        let number = self.paper();
        move |source| Error::Experiment { number, name: "quantnas", step, source }
    }
}

/// The network with this name, on this seed.
fn genotype(net: Net, found: &[(Way, Genotype)], seed: u64) -> std::result::Result<Genotype, Cause> {
    let of = |way: Way| found.iter().find(|(other, _)| *other == way).map(|(_, genotype)| genotype.clone());
    let settings = Way::Noise.settings();
    match net {
        Net::Of(way) => of(way).ok_or_else(|| format!("{way:?} was not searched").into()),
        Net::Hand(bits) => Ok(Genotype::uniform(settings.skeleton(), Choice { op: Operation::Conv3, bits })),
        Net::Random(number) => {
            let cost = of(Way::Noise).ok_or("noise was not searched")?.bit_ops()?;
            let mut stream = Stream::new(seed, "reproduce/quantnas/random", 0, number);
            Genotype::random(settings.skeleton(), &settings.edges(), cost, TOLERANCE, &mut stream)
                .ok_or_else(|| format!("no random network of about {cost} bit operations was met").into())
        }
    }
}

impl Experiment for QuantNasSearch {
    fn paper(&self) -> u8 {
        60
    }

    fn rule(&self) -> &'static str {
        "Networks of 2 cells and 12 channels that make patches of CIFAR-10 pictures twice as large (8 x 8 to 16 x 16), each place one of 5 \
         operations in 4 or 8 bits; 3 seeds. Reproduced if a step of the search by noise takes less time than one by rounding on every \
         seed; and the network it finds, trained anew in its bits, is above the mean of 5 random networks within 5 % of its bit operations on every seed, \
         by more than one standard deviation of these on average; and the largest coefficient of a choice, on average over choices, is above 0.9 on every \
         seed with the penalty on the entropy, and on none without. Partly if one or two of the three hold. Not reproduced otherwise. \
         Baselines: search by rounding, random networks of equal cost, 3 x 3 convolutions in 4 and in 8 bits; all networks are trained for the same steps."
    }

    fn check(&self) -> Result<Vec<Check>> {
        identities::checks().map_err(self.failed("identities"))
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let size = match scale {
            Scale::Quick => Size { pictures: [2000, 200], search: [40, 80], train: 150, seeds: 1 },
            Scale::Full => Size { pictures: [8000, 500], search: [60, 140], train: 500, seeds: SEEDS },
        };
        let [train, test] = lab.images("vision/cifar10.safetensors", self.failed("data"))?;
        let sets = Sets::new([&train, &test], size);
        let searches: Vec<(u64, Way)> =
            (0..size.seeds).flat_map(|seed| Way::ALL.map(|way| (seed, way))).collect();
        let found = side_by_side(&searches, |&(seed, way)| {
            lab.tell(&format!("seed {seed}: search by {}", way.name()))?;
            runs::search(&Task { sets: &sets, size, seed, lab }, &way.settings())
                .map_err(self.failed("search"))
        })?;
        let of_seed = |seed: u64| -> Vec<(Way, Genotype)> {
            let own = searches.iter().zip(&found).filter(|((other, _), _)| *other == seed);
            own.map(|((_, way), found)| (*way, found.genotype.clone())).collect()
        };
        let nets: Vec<(u64, Net)> =
            (0..size.seeds).flat_map(|seed| Net::all().into_iter().map(move |net| (seed, net))).collect();
        let trained = side_by_side(&nets, |&(seed, net)| {
            lab.tell(&format!("seed {seed}: {net:?}"))?;
            let genotype = genotype(net, &of_seed(seed), seed).map_err(self.failed("random networks"))?;
            runs::train(&Task { sets: &sets, size, seed, lab }, &genotype).map_err(self.failed("training"))
        })?;
        let enlarged = runs::repeated_pixels(&sets).map_err(self.failed("data"))?;
        Ok(judge(&Found { searches, found, nets, trained, enlarged }, size))
    }

    fn recorded(&self) -> Option<Measurement> {
        let figure = "found by noise 24.09 dB, by rounding 23.61, random at equal cost 23.49 (deviation 0.20), 3 x 3 in 4 bits 23.90, in 8 bits 23.92; \
                      largest coefficient 0.94, 0.29 without entropy; a step by noise takes 1.42 of one by rounding";
        let scale = "x2, 8 x 8 to 16 x 16, CIFAR-10, 8000 pictures, 500 held out; 60 and 140 steps of 16 to search, \
                      500 to train; 3 seeds";
        Some(Measurement::new(Verdict::Partly, figure, scale))
    }
}
