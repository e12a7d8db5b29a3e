//! A trained generator, its maps in few bits, and how good its pictures then are.

use std::sync::{Arc, Mutex};

use burn::module::Module;
use burn::tensor::Device;
use trimtab::floors::calibrate::{ActivationRanges, RangeRule, SiteEvidence};
use trimtab::floors::eval::fidelity::{noise_power, sqnr, ssim_whole};
use trimtab::floors::io::{ActivationScheme, Dtype, ImageSet};
use trimtab::floors::nn::{ConstantRows, Ctx, Flow, Network, SiteMeta, TapSet, Weight, host};
use trimtab::floors::plan::{PriceList, SiteOption, SitePrices, SolveOptions, TwoGroups, solve_within};
use trimtab::floors::train::{OptimizerConfig, Silent, Trainer};
use trimtab::quantizer::{Method, Quantizer};
use trimtab::scheme::Scheme;

use super::super::perceptron::{Classes, Digits, Start, perceptron};
use super::super::pictures::{self, Cause};
use super::generator::{self, Noisy, SIDE, WORDS, is_content, reads_words, word};

type Attempt<T> = std::result::Result<T, Cause>;

/// Widths that a weight may have.
pub(super) const BITS: [u8; 3] = [2, 4, 8];
/// Codes of the activations.
const INPUTS: &str = "int8 tensor";

/// What a layer is priced by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metric {
    /// The output's SQNR, negative, in decibels: as the paper adds them up.
    Sqnr,
    /// The power of the noise in the output.
    Noise,
    /// One less the similarity of the pictures as a whole.
    Ssim,
}

/// What one layer in few bits does to the output, by metric.
type Sensitivity = [f64; 3];

/// A trained generator with what judges it.
pub(super) struct Subject {
    network: Network,
    classifier: Network,
    sites: Vec<SiteMeta>,
    /// Weights by site and width.
    weights: Vec<Vec<Weight>>,
    /// What the choice is made on.
    seen: Judged,
    /// What it is judged on.
    held_out: Judged,
}

/// Pictures to ask for, and what the network gives as it was trained.
struct Judged {
    given: Vec<Flow>,
    labels: Vec<i64>,
    original: Vec<f32>,
}

/// How good pictures are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pictures {
    /// Share in which a classifier finds what was asked for.
    pub consistency: f64,
    /// Mean squared difference from what the network gave as it was trained.
    pub mse: f64,
    /// Similarity to that, as a whole.
    pub ssim: f64,
}

fn forward(network: &Network, given: &[Flow]) -> Attempt<Vec<f32>> {
    let mut pixels = Vec::new();
    for flow in given {
        pixels.extend(host(network.forward(flow.clone(), &mut Ctx::default())?.image("judge")?));
    }
    Ok(pixels)
}

impl Judged {
    fn new(network: &Network, images: &ImageSet, seed: u64) -> Attempt<Self> {
        let data = Noisy::new(images, seed);
        let n = images.len();
        let given =
            (0..n).step_by(64).map(|i| data.given(i..(i + 64).min(n))).collect::<Result<Vec<_>, _>>()?;
        let original = forward(network, &given)?;
        Ok(Self { given, labels: data.labels, original })
    }
}

impl Subject {
    /// Trains a generator on the first half of `train` and a classifier on the other; `seen` and `held_out` images of `test` are asked for.
    pub(super) fn new(
        [train, test]: [&ImageSet; 2],
        epochs: f64,
        [seen, held_out]: [usize; 2],
        seed: u64,
    ) -> Attempt<Self> {
        let half = train.len() / 2;
        let part = |range: std::ops::Range<usize>| train.select(&range.collect::<Vec<_>>());
        let network = generator::trained(&Noisy::new(&part(0..half), seed), epochs, seed)?;
        let digits = Digits::new(&part(half..train.len()));
        let adam = OptimizerConfig::AdamW { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 1e-2 };
        let settings = pictures::passes(seed, 50, &[5.0], 2e-3, &adam);
        let start = perceptron(&[SIDE * SIDE, 128, 10], Start::He, seed);
        let classifier = Trainer::new(&digits, &Classes, &settings, Device::flex());
        let classifier = classifier.run(start, &mut Silent::default())?.module.valid();
        let sites: Vec<SiteMeta> = network.sites().map(|site| site.meta().clone()).collect();
        let weights = network.sites().map(|site| {
            BITS.iter().map(|&bits| rounded(site.meta(), &site.to_f32(), bits)).collect::<Attempt<Vec<_>>>()
        });
        let weights = weights.collect::<Attempt<Vec<_>>>()?;
        let of = |range: std::ops::Range<usize>, seed: u64| {
            Judged::new(&network, &test.select(&range.collect::<Vec<_>>()), seed)
        };
        let (seen, held_out) = (of(0..seen, 1000 + seed)?, of(seen..seen + held_out, 2000 + seed)?);
        Ok(Self { network, classifier, sites, weights, seen, held_out })
    }

    /// How well the generator shows what it is asked for, as it was trained.
    pub(super) fn original(&self) -> Attempt<f64> {
        Ok(self.judge(&self.held_out.original)?.consistency)
    }

    fn judge(&self, pixels: &[f32]) -> Attempt<Pictures> {
        let n = SIDE * SIDE;
        let Judged { labels, original, .. } = &self.held_out;
        let rows = burn::tensor::TensorData::new(pixels.to_vec(), [labels.len(), n]);
        let rows = burn::tensor::Tensor::from_data(rows, &Device::flex());
        let logits = self.classifier.forward(Flow::Vector(rows), &mut Ctx::default())?.vector("judge")?;
        let logits = host(logits);
        let guess = |row: &[f32]| (0..10).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0) as i64;
        let right = logits.chunks(10).zip(labels).filter(|(row, label)| guess(row) == **label).count();
        let pairs = || original.chunks(n).zip(pixels.chunks(n));
        let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
        Ok(Pictures {
            consistency: right as f64 / labels.len() as f64,
            mse: original.iter().zip(pixels).map(square).sum::<f64>() / pixels.len() as f64,
            ssim: pairs().map(|(a, b)| ssim_whole(a, b, 1.0)).sum::<f64>() / labels.len() as f64,
        })
    }

    /// The network with these widths, by index into [`BITS`].
    fn with(&self, choice: &[usize]) -> Attempt<Network> {
        let mut network = self.network.clone();
        for ((meta, weights), &at) in self.sites.iter().zip(&self.weights).zip(choice) {
            let (_, site) = network.site_mut(&meta.name).ok_or("a map is gone")?;
            site.set_weight(weights[at].clone())?;
        }
        Ok(network)
    }

    /// Pictures of the network with these widths, on what it is judged on.
    pub(super) fn pictures(&self, choice: &[usize]) -> Attempt<Pictures> {
        self.judge(&forward(&self.with(choice)?, &self.held_out.given)?)
    }

    /// What each layer alone does at each width.
    pub(super) fn sensitivities(&self) -> Attempt<Vec<Vec<Sensitivity>>> {
        let (n, original) = (SIDE * SIDE, &self.seen.original);
        let one = |meta: &SiteMeta, weight: &Weight| -> Attempt<Sensitivity> {
            let mut network = self.network.clone();
            let (_, site) = network.site_mut(&meta.name).ok_or("a map is gone")?;
            site.set_weight(weight.clone())?;
            let found = forward(&network, &self.seen.given)?;
            let pairs = original.chunks(n).zip(found.chunks(n));
            let similar: f64 = pairs.map(|(a, b)| ssim_whole(a, b, 1.0)).sum();
            let similar = similar / self.seen.labels.len() as f64;
            // At most 200 dB, so that what changes nothing has a price too.
            Ok([-sqnr(original, &found).min(200.0), noise_power(original, &found), 1.0 - similar])
        };
        let row = |(meta, weights): (&SiteMeta, &Vec<Weight>)| -> Attempt<Vec<Sensitivity>> {
            weights.iter().map(|w| one(meta, w)).collect()
        };
        self.sites.iter().zip(&self.weights).map(row).collect()
    }

    /// Which layers decide what is shown.
    fn content(&self) -> Vec<bool> {
        self.sites.iter().map(|site| is_content(&site.name)).collect()
    }

    /// Prices of all layers, with a metric for those of content and one for the rest. Layers of quality have 4 bits at least.
    fn prices(&self, found: &[Vec<Sensitivity>], metrics: [Metric; 2]) -> Attempt<PriceList> {
        let site = |(meta, row): (&SiteMeta, &Vec<Sensitivity>)| {
            let content = is_content(&meta.name);
            let metric = metrics[usize::from(!content)];
            let options = BITS.iter().zip(row).filter(|(bits, _)| content || **bits >= 4);
            let option = |(&bits, of): (&u8, &Sensitivity)| {
                let bytes = (meta.numel() * usize::from(bits)).div_ceil(8) as u64;
                SiteOption::new(format!("{bits}"), bytes, of[metric as usize])
            };
            SitePrices::new(&meta.name, meta.numel() as u64, options.map(option).collect())
        };
        Ok(PriceList::new("mixed", self.sites.iter().zip(found).map(site).collect())?)
    }

    /// The plans of two groups, each priced by its metric, and the one whose pictures are nearest on what was seen.
    pub(super) fn in_groups(
        &self,
        found: &[Vec<Sensitivity>],
        metrics: [Metric; 2],
        groups: &TwoGroups,
    ) -> Attempt<(Vec<usize>, usize)> {
        let prices = self.prices(found, metrics)?;
        let plans = groups.plans(&prices, &self.content(), &SolveOptions::default())?;
        let count = plans.len();
        let mut best: Option<(f64, Vec<usize>)> = None;
        for plan in plans {
            let choice = widths(&prices, &plan.choice)?;
            let error = noise_power(&self.seen.original, &forward(&self.with(&choice)?, &self.seen.given)?);
            if best.as_ref().is_none_or(|(least, _)| error < *least) {
                best = Some((error, choice));
            }
        }
        Ok((best.ok_or("no ratio has a plan of this size")?.1, count))
    }

    /// One problem with one metric.
    pub(super) fn at_once(
        &self,
        found: &[Vec<Sensitivity>],
        metric: Metric,
        [target, tolerance]: [f64; 2],
    ) -> Attempt<Vec<usize>> {
        let prices = self.prices(found, [metric; 2])?;
        let bytes = |bits: f64| bits * prices.weights() as f64 / 8.0;
        let band = bytes(target - tolerance).ceil() as u64..=bytes(target + tolerance).floor() as u64;
        let plan = solve_within(&prices, band, &SolveOptions::default())?.ok_or("no plan of this size")?;
        widths(&prices, &plan.choice)
    }

    /// Every layer at one width.
    pub(super) fn uniform(&self, bits: u8) -> Vec<usize> {
        let at = BITS.iter().position(|&known| known == bits).unwrap_or(0);
        vec![at; self.sites.len()]
    }

    /// Bits a weight.
    pub(super) fn bits(&self, choice: &[usize]) -> f64 {
        let all: usize = self.sites.iter().map(SiteMeta::numel).sum();
        let bits = self.sites.iter().zip(choice).map(|(site, &at)| site.numel() * usize::from(BITS[at]));
        bits.sum::<usize>() as f64 / all as f64
    }

    /// SQNR of the pictures with inputs in 8 bits: those of maps that read words, without and with the first word kept as it is, then
    /// the same with those of all maps.
    pub(super) fn first_word(&self) -> Attempt<[f64; 4]> {
        let mut found = [0.0; 4];
        for (i, (all, aware)) in
            [(false, false), (false, true), (true, false), (true, true)].into_iter().enumerate()
        {
            let network = self.with_inputs(all, aware)?;
            found[i] = sqnr(&self.held_out.original, &forward(&network, &self.held_out.given)?);
        }
        Ok(found)
    }

    fn with_inputs(&self, all: bool, aware: bool) -> Attempt<Network> {
        let scheme: ActivationScheme = INPUTS.parse()?;
        let mut taps = TapSet::new();
        let mut ranges = Vec::new();
        for meta in self.sites.iter().filter(|meta| all || reads_words(&meta.name)) {
            let seen = ActivationRanges::new(meta, scheme, RangeRule::MinMax)?;
            let seen = Arc::new(Mutex::new(seen));
            taps.attach(&meta.name, Arc::clone(&seen));
            ranges.push((meta, seen));
        }
        for flow in &self.seen.given {
            self.network.forward(flow.clone(), &mut Ctx { taps: Some(&mut taps), ..Ctx::default() })?;
        }
        taps.finish()?;
        let mut network = self.network.clone();
        for (meta, seen) in ranges {
            let (_, site) = network.site_mut(&meta.name).ok_or("a map is gone")?;
            let mut found = seen.lock().map_err(|_| "a tap panicked")?.clone();
            if aware && reads_words(&meta.name) {
                keep_first_word(site)?;
                found = ActivationRanges::new(meta, scheme, RangeRule::MinMax)?;
                (1..WORDS).try_for_each(|index| found.see(&word(index), meta.cols, None))?;
            }
            site.set_activation(Some(found.quantizer()?))?;
        }
        Ok(network)
    }
}

/// Answers the first word from now on as the map now does.
pub(super) fn keep_first_word(site: &mut trimtab::floors::nn::Site) -> Attempt<()> {
    let constant = ConstantRows::of(site, &word(0))?;
    Ok(site.set_constant(Some(constant))?)
}

/// Labels of options as places in [`BITS`].
fn widths(prices: &PriceList, choice: &[usize]) -> Attempt<Vec<usize>> {
    let of = |(site, &at): (&SitePrices, &usize)| -> Attempt<usize> {
        let bits: u8 = site.options[at].label.parse()?;
        Ok(BITS.iter().position(|&known| known == bits).ok_or("a width")?)
    };
    prices.sites.iter().zip(choice).map(of).collect()
}

/// A weight in so many bits, symmetric, a range a row from the least to the largest.
fn rounded(meta: &SiteMeta, weight: &[f32], bits: u8) -> Attempt<Weight> {
    let scheme: Scheme = format!("int{bits} row sym").parse()?;
    let method = Quantizer::plain(Method::Rtn).treatment(scheme, Dtype::F32, false).ok_or("no method")?;
    let treated = method.treat(meta, weight, SiteEvidence::default())?.treated;
    Ok(Weight::dense(treated.into_weight(meta)?.to_tensor(&Device::flex())))
}
