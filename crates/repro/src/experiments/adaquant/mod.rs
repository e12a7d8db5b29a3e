//! Paper 28: AdaQuant, an integer program over bits, and batch-norm tuning (Hubara et al., arXiv:2006.10518).

mod identities;
mod judge;
mod states;

use trimtab::floors::calibrate::Batch;
use trimtab::floors::calibrate::norms::{Pooled, put_vectors};
use trimtab::floors::math::random::Stream;
use trimtab::floors::nn::{Ctx, Network, Task};
use trimtab::floors::plan::{Limits, PriceList, SiteOption, SitePrices, SolveOptions, solve};
use trimtab::measure::Gauge;

use self::judge::{Found, judge};
use self::states::{BITS, States};
use super::few_bits::{FewBits, dense};
use super::pictures::Cause;
use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Verdict};
use crate::lab::Lab;

/// Seeds of the calibration images, of the rows, and of random plans.
const SEEDS: u64 = 3;
/// Calibration images; as many others tell the held-out error of layers.
const IMAGES: usize = 64;
/// Test images.
const TEST: usize = 500;
/// Bits of a weight on average, and of every weight of the uniform arms.
const AVERAGE: u8 = 4;
/// Random plans a seed.
const RANDOM: usize = 7;

/// The experiment.
pub struct AdaQuant;

/// A choice of bits for each treated site, in their order.
type Choice = Vec<u8>;

impl AdaQuant {
    fn failed(step: &'static str) -> impl Fn(Cause) -> Error {
        move |source| Error::Experiment { number: 28, name: "calib-tip", step, source }
    }
}

impl Experiment for AdaQuant {
    fn paper(&self) -> u8 {
        28
    }

    fn rule(&self) -> &'static str {
        "ResNet-20 on CIFAR-10, all layers but the two smallest (first and last): inputs at 4 bits, weights at 4 or, on average, 4 of 3, 4, 5; 64 calibration images without \
         labels, 3 seeds; accuracy on the first 500 test images. Arms: rounding between extremes (min-max); AdaQuant layer by layer on the inputs of the original \
         (parallel mode); its widths chosen by the integer program from KL measured layer by layer; batch-norm tuning after that; the same without AdaQuant (the light pipeline); 7 random plans \
         of the same size a seed. Reproduced if (i) AdaQuant takes at least 30 % off the layer error on held-out images, in the mean over layers, on every seed; (ii) batch-norm \
         tuning recovers at least 20 % of the accuracy that the light pipeline loses, on every seed; (iii) the integer program beats uniform bits and the mean of random plans, both with \
         AdaQuant, in the mean over seeds. Partly if two of the three hold, or one and the whole ladder rises in the mean."
    }

    fn check(&self) -> Result<Vec<Check>> {
        identities::all().map_err(Self::failed("identities"))
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let (seeds, test, random) = match scale {
            Scale::Quick => (1, 250, 2),
            Scale::Full => (SEEDS, TEST, RANDOM),
        };
        let subject = FewBits::open(lab, test).map_err(Self::failed("opening"))?;
        let original = subject.accuracy(&subject.network).map_err(Self::failed("the original"))?;
        let mut found = Vec::new();
        for seed in 0..seeds {
            lab.tell(&format!("seed {seed}: learning layers"))?;
            found.push(one(&subject, seed, random, lab).map_err(Self::failed("measuring"))?);
        }
        Ok(judge(&found, original, test))
    }

    fn recorded(&self) -> Option<Measurement> {
        let figure = "W4A4: min-max 69.6 ± 0.6 %, AdaQuant 71.5 ± 1.7, with the integer program 73.1 ± 0.7, with batch \
                      norms tuned 75.5 ± 1.5; held-out layer error down by 53 %";
        let scale = "ResNet-20, CIFAR-10, 500 test images, 3 seeds (mean ± largest distance)";
        Some(Measurement::new(Verdict::Partly, figure, scale))
    }
}

/// All that one seed finds.
fn one(subject: &FewBits, seed: u64, random: usize, lab: &Lab<'_>) -> std::result::Result<Found, Cause> {
    let calibration = subject.real(IMAGES, "adaquant/images", seed)?;
    let others = subject.real(IMAGES, "adaquant/others", seed)?;
    let states = States::learn(subject, &calibration, &others, seed, lab)?;
    let uniform: Choice = vec![AVERAGE; states.sites.len()];
    let accuracy = |network: &Network| subject.accuracy(network);
    let network = |choice: &Choice, learned: bool| states.network(subject, choice, learned);
    let plan = |learned: bool| -> std::result::Result<Choice, Cause> {
        integer_program(&states, &sensitivities(subject, &states, &calibration, learned)?)
    };
    let (light, whole) = (plan(false)?, plan(true)?);
    let planned = network(&whole, true)?;
    let lightly = network(&light, false)?;
    let mut by_chance = Vec::new();
    for trial in 0..random {
        let choice = random_plan(&states, seed, trial as u64);
        by_chance.push(accuracy(&network(&choice, true)?)?);
    }
    Ok(Found {
        errors: states.errors.clone(),
        min_max: accuracy(&network(&uniform, false)?)?,
        learned: accuracy(&network(&uniform, true)?)?,
        planned: accuracy(&planned)?,
        tuned: accuracy(&tuned(&planned, &calibration)?)?,
        light: accuracy(&lightly)?,
        light_tuned: accuracy(&tuned(&lightly, &calibration)?)?,
        uniform_tuned: accuracy(&tuned(&network(&uniform, false)?, &calibration)?)?,
        by_chance,
    })
}

/// KL of the output with one layer's weights at each of [`BITS`].
fn sensitivities(
    subject: &FewBits,
    states: &States,
    batches: &[Batch],
    learned: bool,
) -> std::result::Result<Vec<Vec<f64>>, Cause> {
    let mut network = subject.network.clone();
    let gauge = Gauge::new(&network, Task::Images, batches)?;
    let mut table = Vec::new();
    for (i, meta) in states.sites.iter().enumerate() {
        let mut row = Vec::new();
        for bits in BITS {
            let weight = dense(meta, states.state(i, bits, learned).weight.clone());
            row.push(gauge.with_site(&mut network, &meta.name, weight)?.max(1e-6));
        }
        table.push(row);
    }
    Ok(table)
}

/// The least summed KL among plans of [`AVERAGE`] bits a weight.
fn integer_program(states: &States, table: &[Vec<f64>]) -> std::result::Result<Choice, Cause> {
    let prices = states.sites.iter().zip(table).map(|(meta, row)| {
        let option = |(&bits, &damage): (&u8, &f64)| {
            SiteOption::new(format!("{bits}"), (meta.numel() * usize::from(bits)) as u64, damage)
        };
        SitePrices::new(&meta.name, meta.numel() as u64, BITS.iter().zip(row).map(option).collect())
    });
    let list = PriceList::new("kl", prices.collect())?;
    let limits = Limits::bytes(list.weights() * u64::from(AVERAGE));
    Ok(solve(&list, &limits, &SolveOptions::default())?.choice.into_iter().map(|i| BITS[i]).collect())
}

/// A plan of at most [`AVERAGE`] bits a weight, by steps up in a random order as long as they fit: as large as plans are.
fn random_plan(states: &States, seed: u64, trial: u64) -> Choice {
    let mut stream = Stream::new(seed, "adaquant/random", trial, 0);
    let mut choice: Choice = states.sites.iter().map(|_| BITS[stream.below(BITS.len())]).collect();
    let size = |choice: &Choice| -> usize {
        states.sites.iter().zip(choice).map(|(meta, &bits)| meta.numel() * usize::from(bits)).sum()
    };
    let limit = states.sites.iter().map(|meta| meta.numel()).sum::<usize>() * usize::from(AVERAGE);
    let mut order: Vec<usize> = (0..choice.len()).collect();
    stream.shuffle(&mut order);
    let mut at = 0;
    while size(&choice) > limit {
        let i = order[at % order.len()];
        choice[i] = choice[i].saturating_sub(1).max(BITS[0]);
        at += 1;
    }
    for i in order {
        while choice[i] < BITS[BITS.len() - 1] {
            choice[i] += 1;
            if size(&choice) > limit {
                choice[i] -= 1;
                break;
            }
        }
    }
    choice
}

/// The network with its batch norms measured anew.
fn tuned(network: &Network, batches: &[Batch]) -> std::result::Result<Network, Cause> {
    let mut pooled = Pooled::default();
    for batch in batches {
        let mut seen = Vec::new();
        let mut ctx = Ctx { batch_statistics: Some(&mut seen), ..batch.ctx() };
        network.forward(batch.input.clone(), &mut ctx)?;
        pooled.add(&seen, batch.rows());
    }
    let mut tuned = network.clone();
    for stage in 0..network.stages().len() {
        let vectors = pooled.buffers(&*network.stages()[stage])?;
        put_vectors(tuned.stage_mut(stage), &vectors)?;
    }
    Ok(tuned)
}
