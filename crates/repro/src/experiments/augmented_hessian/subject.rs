//! Networks whose units come in two widths: losses, gradients, traces.

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use rayon::prelude::*;
use trimtab::floors::calibrate::SiteEvidence;
use trimtab::floors::io::ImageSet;
use trimtab::floors::math::hutchinson::{Probing, Trace, block_traces};
use trimtab::floors::models::{Model, Normalization};
use trimtab::floors::nn::{Ctx, Flow, Network, Site, SiteMeta, Stage, Weight};
use trimtab::floors::train::Gradients;
use trimtab::quantizer::{Method, Quantizer};
use trimtab::scheme::Scheme;

use super::super::figures::mean;
use super::{Attempt, Cause, LOW};

/// Sites that get one width, all of one stage.
pub(super) struct Unit {
    pub(super) stage: usize,
    /// Name, shape and numbers of each site.
    pub(super) sites: Vec<(SiteMeta, Vec<f32>)>,
    /// `||Q - W||^2`.
    pub(super) error: f64,
}

impl Unit {
    pub(super) fn numel(&self) -> usize {
        self.sites.iter().map(|(meta, _)| meta.numel()).sum()
    }
}

/// Some inputs and what should come out, `[rows]`; a row without a target has none.
pub(super) struct Sample {
    pub(super) input: Flow,
    pub(super) targets: Vec<i64>,
    /// Rows of a text, whose last has no target.
    pub(super) window: Option<usize>,
}

/// A network with every stage in all its widths.
pub(super) struct Subject {
    /// `[stage][which of its units are low, as bits]`.
    variants: Vec<Vec<Box<dyn Stage>>>,
    pub(super) units: Vec<Unit>,
    tied: Option<Site>,
    trainable: Network,
    samples: Vec<Sample>,
}

/// Mean loss over the rows with a target, nats.
fn nats(output: Flow, sample: &Sample) -> Attempt<Tensor<1>> {
    let rows: Tensor<2> = match (output, sample.window) {
        (Flow::Hidden(logits), Some(window)) => {
            let [b, t, vocab] = logits.dims();
            logits.narrow(1, 0, t.min(window) - 1).reshape([b * (window - 1), vocab])
        }
        (output, _) => output.vector("loss")?,
    };
    let targets = TensorData::new(sample.targets.clone(), [sample.targets.len(), 1]);
    let targets = Tensor::<2, Int>::from_data(targets, &rows.device());
    Ok(activation::log_softmax(rows, 1).gather(1, targets).mean().neg())
}

impl Subject {
    /// `group` tells which sites of a stage belong together, by their names.
    pub(super) fn new(model: &Model, samples: Vec<Sample>, group: fn(&str) -> &'static str) -> Attempt<Self> {
        let (network, low) = (model.network()?, LOW.parse::<Scheme>()?);
        let quantizer = Quantizer { method: Method::Rtn, ..Quantizer::default() };
        let last = network.stages().len() - 1;
        let (mut variants, mut units) = (Vec::new(), Vec::new());
        for (index, stage) in network.stages().iter().enumerate() {
            let mut groups: BTreeMap<&str, Vec<&Site>> = BTreeMap::new();
            // What reads out and what embeds is left as it is.
            for site in stage.sites().into_iter().filter(|_| index < last && stage.owner().is_none()) {
                groups.entry(group(site.name())).or_default().push(site);
            }
            let mut of_stage: Vec<Vec<(String, Weight)>> = Vec::new();
            for sites in groups.values() {
                let (mut error, mut kept, mut put) = (0.0, Vec::new(), Vec::new());
                for site in sites {
                    let (meta, weight) = (site.meta(), site.weight.to_f32());
                    let dtype = trimtab::floors::io::Dtype::F32;
                    let method =
                        quantizer.treatment(low, dtype, false).ok_or("no method for the low width")?;
                    let treated =
                        method.treat(meta, &weight, SiteEvidence::default())?.treated.into_weight(meta)?;
                    error += squared_distance(&treated.to_f32(), &weight);
                    put.push((meta.name.clone(), treated));
                    kept.push((meta.clone(), weight));
                }
                units.push(Unit { stage: index, sites: kept, error });
                of_stage.push(put);
            }
            let variant = |mask: usize| -> Attempt<Box<dyn Stage>> {
                let mut stage = stage.boxed_clone();
                for (_, put) in of_stage.iter().enumerate().filter(|(unit, _)| mask >> unit & 1 == 1) {
                    for (name, weight) in put {
                        let site = stage.sites_mut().into_iter().find(|site| site.name() == name);
                        site.ok_or("a site is gone")?.set_weight(weight.clone())?;
                    }
                }
                Ok(stage)
            };
            variants.push((0..1 << of_stage.len()).map(variant).collect::<Attempt<_>>()?);
        }
        let tied = network.stages().iter().find_map(|stage| stage.owner().cloned());
        let trainable = model.trainable(&Device::flex().autodiff())?;
        Ok(Self { variants, units, tied, trainable, samples })
    }

    /// For each stage the variant in which these units are low.
    fn masks(&self, low: &[usize]) -> Vec<usize> {
        let mut masks = vec![0; self.variants.len()];
        for &unit in low {
            let stage = self.units[unit].stage;
            let before = self.units[..unit].iter().filter(|other| other.stage == stage).count();
            masks[stage] |= 1 << before;
        }
        masks
    }

    fn forward(&self, stage: usize, mask: usize, flow: Flow) -> Attempt<Flow> {
        Ok(self.variants[stage][mask]
            .forward(flow, &mut Ctx { tied: self.tied.clone(), ..Ctx::default() })?)
    }

    /// The losses with each of these sets of units at the low width. A stage is run once for all sets that agree up to it.
    pub(super) fn losses(&self, sets: &[Vec<usize>]) -> Attempt<Vec<f64>> {
        let sets: Vec<Vec<usize>> = sets.iter().map(|low| self.masks(low)).collect();
        let of_sample = |sample: &Sample| -> Attempt<Vec<f64>> {
            let mut losses = vec![0.0; sets.len()];
            let every: Vec<usize> = (0..sets.len()).collect();
            self.descend(0, sample.input.clone(), &every, &sets, sample, &mut losses)?;
            Ok(losses)
        };
        let all = self.samples.par_iter().map(of_sample).collect::<Attempt<Vec<_>>>()?;
        Ok((0..sets.len()).map(|i| mean(&all.iter().map(|losses| losses[i]).collect::<Vec<_>>())).collect())
    }

    /// The sets of `here` agree in what they do to the stages before `stage`, which gave `flow`.
    fn descend(
        &self,
        stage: usize,
        flow: Flow,
        here: &[usize],
        sets: &[Vec<usize>],
        sample: &Sample,
        losses: &mut [f64],
    ) -> Attempt<()> {
        if stage == self.variants.len() {
            let loss = f64::from(nats(flow, sample)?.into_scalar::<f32>());
            here.iter().for_each(|&set| losses[set] = loss);
            return Ok(());
        }
        for mask in 0..self.variants[stage].len() {
            let alike: Vec<usize> = here.iter().copied().filter(|&set| sets[set][stage] == mask).collect();
            if !alike.is_empty() {
                let next = self.forward(stage, mask, flow.clone())?;
                self.descend(stage + 1, next, &alike, sets, sample, losses)?;
            }
        }
        Ok(())
    }

    /// Trace of the loss's Hessian for each unit.
    pub(super) fn traces(&self, probing: &Probing) -> Attempt<Vec<Trace>> {
        let sizes: Vec<usize> = self.units.iter().map(Unit::numel).collect();
        let rms = |unit: &Unit| {
            let squares: f64 = unit.sites.iter().flat_map(|(_, w)| w).map(|&w| f64::from(w).powi(2)).sum();
            (squares / unit.numel() as f64).sqrt()
        };
        let steps: Vec<f64> = self.units.iter().map(|unit| 1e-3 * rms(unit)).collect();
        block_traces(&sizes, &steps, probing, |offsets| self.gradient(offsets)).map_err(Problem::into_cause)
    }

    /// Gradient by the numbers of each unit, with these offsets added to them.
    fn gradient(&self, offsets: &[Vec<f32>]) -> std::result::Result<Vec<Vec<f32>>, Problem> {
        gradient(&self.trainable, &self.units, offsets, &self.samples)
    }
}

/// What a gradient meets: an error of any kind, or one of the estimator.
pub(super) struct Problem(Cause);

impl Problem {
    pub(super) fn into_cause(self) -> Cause {
        self.0
    }
}

impl From<trimtab::floors::math::Error> for Problem {
    fn from(error: trimtab::floors::math::Error) -> Self {
        Self(error.into())
    }
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

/// Gradient of the mean loss of some samples by the numbers of each unit, with offsets added to them.
pub(super) fn gradient(
    network: &Network,
    units: &[Unit],
    offsets: &[Vec<f32>],
    samples: &[Sample],
) -> std::result::Result<Vec<Vec<f32>>, Problem> {
    let device = Device::flex().autodiff();
    let run = || -> Attempt<Vec<Vec<f32>>> {
        let mut network = network.clone();
        for (unit, offset) in units.iter().zip(offsets) {
            let mut rest = offset.as_slice();
            for (meta, weight) in &unit.sites {
                let (own, after) = rest.split_at(weight.len());
                rest = after;
                let moved: Vec<f32> = weight.iter().zip(own).map(|(w, o)| w + o).collect();
                let moved = TensorData::new(moved, [meta.rows, meta.cols]);
                let weight = Weight::dense(Tensor::from_data(moved, &device));
                network.site_mut(&meta.name).ok_or("a site is gone")?.1.set_weight(weight)?;
            }
        }
        let mut sum = None;
        for sample in samples {
            let input = sample.input.clone().tracked(&device);
            let loss = nats(network.forward(input, &mut Ctx::default())?, sample)?;
            sum = Some(sum.map_or(loss.clone(), |sum: Tensor<1>| sum + loss));
        }
        let backward = (sum.ok_or("no samples")? / samples.len() as f32).backward();
        let names: BTreeMap<String, ()> =
            units.iter().flat_map(|unit| &unit.sites).map(|(meta, _)| (meta.weight_name(), ())).collect();
        let found = Gradients::collect(&network, backward, |path| names.contains_key(path), 1);
        let of: BTreeMap<&str, Vec<f32>> = found
            .iter()
            .map(|(path, gradient)| (path, gradient.values.to_data().iter::<f32>().collect()))
            .collect();
        let unit = |unit: &Unit| {
            let sites = unit.sites.iter();
            sites
                .flat_map(|(meta, _)| of.get(meta.weight_name().as_str()).cloned().unwrap_or_default())
                .collect()
        };
        Ok(units.iter().map(unit).collect())
    };
    run().map_err(Problem)
}

/// Images of CIFAR-10 that no other seed looks at.
pub(super) fn images(set: &ImageSet, normal: &Normalization, count: usize, seed: u64) -> Vec<Sample> {
    let (first, part) = (seed as usize * count, 32);
    let [_, c, h, w] = set.shape;
    let sample = |start: usize| {
        let range = start..(start + part).min(first + count);
        let colour = |(i, &value): (usize, &u8)| {
            let channel = i / (h * w) % c;
            (f32::from(value) / 255.0 - normal.mean[channel]) / normal.std[channel]
        };
        let values: Vec<f32> = set.pixels(range.clone()).iter().enumerate().map(colour).collect();
        let input = Tensor::from_data(TensorData::new(values, [range.len(), c, h, w]), &Device::flex());
        let targets = range.map(|i| set.labels[i]).collect();
        Sample { input: Flow::Image(input), targets, window: None }
    };
    (first..first + count).step_by(part).map(sample).collect()
}

/// Windows of a text that no other seed looks at.
pub(super) fn windows(tokens: &[u32], window: usize, count: usize, seed: u64) -> Vec<Sample> {
    let own = tokens.chunks_exact(window).skip(seed as usize * count).take(count);
    let sample = |ids: &[u32]| {
        let all: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let targets = all[1..].to_vec();
        let input = Tensor::from_data(TensorData::new(all, [1, window]), &Device::flex());
        Sample { input: Flow::Tokens(input), targets, window: Some(window) }
    };
    own.map(sample).collect()
}
