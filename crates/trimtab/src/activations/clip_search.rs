//! The search of Q-VLM ([`trimtab_quantize::qvlm`]) in a block of the stream: which groups of sites go together, and their factors.
//!
//! A layer is a group of sites that read the same rows, and so have one quantizer. Blocks of layers do not cross those of the network:
//! the stream holds one of these at a time. What a block of layers should give is what its last layer gives in the original network on the
//! same inputs; a factor multiplies the steps, zeros stay.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use trimtab_calibrate::stream::reading_groups;
use trimtab_calibrate::{Batch, BlockRun, Inputs, Output, Stream, StreamSettings, outputs};
use trimtab_io::{ActivationGranularity, ActivationStep};
use trimtab_models::Model;
use trimtab_nn::{ActivationQuantizer, SiteKind, SiteMeta, Stage, host};
use trimtab_quantize::qvlm::{ClipSearch, Entropy, partition, powered, search};

use super::{Activations, QuantizedInputs, seen_by};
use crate::error::{Error, Result};
use crate::inventory::TreatedSite;

/// Blocks of layers of a network: for each of its stages, ranges of the groups of treated sites that read the same rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Units {
    stages: BTreeMap<usize, Vec<Range<usize>>>,
    /// The proxy of each layer, in the order of the data; empty where none was needed.
    pub proxies: Vec<f64>,
}

impl Units {
    /// The blocks of a stage.
    pub fn of(&self, stage: usize) -> &[Range<usize>] {
        self.stages.get(&stage).map_or(&[], Vec::as_slice)
    }
}

/// What became of the layers of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct Searched {
    /// The first site of each layer.
    pub sites: Vec<String>,
    /// The factor of each.
    pub factors: Vec<f64>,
    /// Mean `|y - ŷ|^p` of what the block gives, before and after.
    pub error: [f64; 2],
    /// How often it was measured.
    pub evaluations: usize,
}

fn refused(message: String) -> Error {
    Error::Setting { what: "--clip-search", message }
}

/// Batches that hold about so many rows, from all of the data.
fn sample(batches: &[Batch], rows: usize) -> Vec<usize> {
    let (n, all) = (batches.len(), batches.iter().map(Batch::rows).sum::<usize>().max(1));
    let kept = (n * rows / all).clamp(1, n.max(1)).min(n);
    (0..kept).map(|i| i * n / kept).collect()
}

/// Which layers of a model are searched together: by the entropy of their quantized inputs in the original network. Layers that no
/// data reaches have none.
///
/// It depends on model, data and settings alone, so that whoever goes on with a run finds the same.
///
/// # Errors
/// A network that fails.
pub fn units(
    model: &Model,
    sites: &[TreatedSite],
    batches: &[Batch],
    activations: &Activations,
    settings: &ClipSearch,
) -> Result<Units> {
    let mut stages: BTreeMap<usize, Vec<&SiteMeta>> = BTreeMap::new();
    for site in sites.iter().filter(|site| site.observed) {
        stages.entry(site.stage).or_default().push(&site.meta);
    }
    let groups: BTreeMap<usize, Vec<Vec<&SiteMeta>>> =
        stages.into_iter().map(|(stage, metas)| (stage, reading_groups(metas))).collect();
    let mut units = Units::default();
    if settings.longest > 1 {
        let of_stage = entropies(model, &groups, batches, activations, settings)?;
        units.proxies = groups.keys().filter_map(|stage| of_stage.get(stage)).flatten().copied().collect();
    }
    let begins: Vec<bool> = groups.values().flat_map(|groups| (0..groups.len()).map(|i| i == 0)).collect();
    let alone = vec![0.0; begins.len()];
    let proxies = if settings.longest > 1 { &units.proxies } else { &alone };
    let mut blocks = partition(proxies, &begins, settings.longest).into_iter().peekable();
    let mut first = 0;
    for (&stage, groups) in &groups {
        let last = first + groups.len();
        let own = std::iter::from_fn(|| blocks.next_if(|block| block.start < last));
        units.stages.insert(stage, own.map(|block| block.start - first..block.end - first).collect());
        first = last;
    }
    Ok(units)
}

/// The entropy of what each group reads in the original network, rounded, by stage.
fn entropies(
    model: &Model,
    groups: &BTreeMap<usize, Vec<Vec<&SiteMeta>>>,
    batches: &[Batch],
    activations: &Activations,
    settings: &ClipSearch,
) -> Result<BTreeMap<usize, Vec<f64>>> {
    let batches: Vec<Batch> =
        sample(batches, settings.rows).into_iter().map(|i| batches[i].clone()).collect();
    let stream = StreamSettings { inputs: Inputs::Original, ..StreamSettings::default() };
    let mut found = BTreeMap::new();
    Stream::new(model, &batches, model.device().clone(), stream).run(|block| -> Result<()> {
        let index = block.index();
        let Some(groups) = groups.get(&index) else { return Ok(()) };
        bare(block.stage_mut())?;
        let of_group = |group: &Vec<&SiteMeta>| -> Result<f64> {
            let meta = group[0];
            let ranges = seen_by(block, meta, activations.inputs, activations.range)?;
            if ranges.parts().iter().all(|part| part.count() == 0) {
                return Ok(0.0);
            }
            let (quantizer, mut entropy) = (ranges.quantizer()?, Entropy::new(meta.cols));
            block.each_input(&[&meta.name], |_, rows, weights| {
                entropy.see(&rounded(&quantizer, meta, rows), weights);
            })?;
            Ok(entropy.nats())
        };
        found.insert(index, groups.iter().map(of_group).collect::<Result<_>>()?);
        Ok(())
    })?;
    Ok(found)
}

/// Leaves activations as they come.
fn bare(stage: &mut dyn Stage) -> Result<()> {
    stage.set_attention(None);
    for site in stage.sites_mut() {
        site.set_activation(None)?;
    }
    Ok(())
}

/// Rows that a site reads, rounded; of a convolution, patches.
fn rounded(quantizer: &ActivationQuantizer, meta: &SiteMeta, rows: &[f32]) -> Vec<f32> {
    let (n, device) = (rows.len() / meta.cols.max(1), Device::flex());
    let by_channel = quantizer.scheme().granularity == ActivationGranularity::Channel;
    match &meta.kind {
        SiteKind::Conv(conv) | SiteKind::Conv1d(conv) if by_channel => {
            let [h, w] = conv.kernel;
            let shape = [n, meta.cols / (h * w), h, w];
            host(quantizer.images(Tensor::from_data(TensorData::new(rows.to_vec(), shape), &device)))
        }
        _ => {
            let data = TensorData::new(rows.to_vec(), [n, meta.cols]);
            host(quantizer.rows(Tensor::from_data(data, &device)))
        }
    }
}

/// Searches the factors of the layers of `block`, all of whose quantizers are in place, and puts what was found in place. `groups` are
/// its layers, `units` what is searched together, one after the other; a layer may be searched again in a later one.
///
/// # Errors
/// A block that fails, steps that are found as activations come, and sites that other rows reach than in the original: those of experts.
pub fn search_block(
    block: &mut BlockRun<'_>,
    groups: &[Vec<&SiteMeta>],
    units: &[Range<usize>],
    settings: &ClipSearch,
) -> Result<Vec<Searched>> {
    let inputs = block.sampled(&sample(block.batches(), settings.rows))?;
    let original = block.original()?;
    let quantizers: Vec<Vec<ActivationQuantizer>> =
        groups.iter().map(|group| candidates(block, group[0], settings)).collect::<Result<_>>()?;
    let mut current = vec![0; groups.len()];
    let mut all = Vec::new();
    for unit in units {
        let layers = &groups[unit.clone()];
        let Some(last) = layers.last() else { continue };
        let names: Vec<&str> = last.iter().map(|meta| meta.name.as_str()).collect();
        let target = outputs(&*original, &inputs, &names)?;
        let put = |block: &mut BlockRun<'_>, at: &[usize]| -> Result<()> {
            for ((group, quantizers), &candidate) in layers.iter().zip(&quantizers[unit.clone()]).zip(at) {
                for meta in group {
                    block.site_mut(&meta.name)?.set_activation(Some(quantizers[candidate].clone()))?;
                }
            }
            Ok(())
        };
        let found = search(&current[unit.clone()], settings, |at| -> Result<f64> {
            put(block, at)?;
            error(&target, &outputs(block.stage(), &inputs, &names)?, &names, settings.power)
        })?;
        put(block, &found.chosen)?;
        current[unit.clone()].copy_from_slice(&found.chosen);
        all.push(Searched {
            sites: layers.iter().map(|group| group[0].name.clone()).collect(),
            factors: found.chosen.iter().map(|&candidate| settings.factor(candidate)).collect(),
            error: [found.before, found.after],
            evaluations: found.evaluations,
        });
    }
    Ok(all)
}

/// What rounds the input of a layer with every factor; with the first as it is.
fn candidates(
    block: &BlockRun<'_>,
    meta: &SiteMeta,
    settings: &ClipSearch,
) -> Result<Vec<ActivationQuantizer>> {
    let base = block.site(&meta.name)?.activation().cloned();
    let base = base
        .filter(|base| !base.scheme().is_dynamic())
        .ok_or_else(|| refused(format!("\"{}\" has no steps that a factor could multiply", meta.name)))?;
    let with = |candidate: usize| {
        let factor = settings.factor(candidate) as f32;
        let steps = base.steps().iter().map(|step| ActivationStep { scale: factor * step.scale, ..*step });
        Ok(ActivationQuantizer::new(base.scheme(), steps.collect())?)
    };
    (0..settings.count).map(with).collect()
}

/// Mean `|y - ŷ|^p` over all that the sites give.
fn error(target: &[Vec<Output>], found: &[Vec<Output>], names: &[&str], power: f64) -> Result<f64> {
    let (mut sum, mut count) = (0.0, 0);
    for (target, found) in target.iter().zip(found) {
        for ((target, found), name) in target.iter().zip(found).zip(names) {
            if target.rows.len() != found.rows.len() {
                return Err(refused(format!(
                    "\"{name}\": other rows reach it than in the original, as a router sends them: what it gives cannot be compared\n\
                     hint: leave experts out, or search no factors"
                )));
            }
            let (errors, n) =
                powered(&target.rows, &found.rows, target.width, target.weights.as_deref(), power);
            (sum, count) = (sum + errors, count + n);
        }
    }
    let mean = sum / count.max(1) as f64;
    match mean.is_finite() {
        true => Ok(mean),
        false => Err(refused(format!("\"{}\" gives what is no number", names.join("\", \"")))),
    }
}

impl QuantizedInputs {
    /// [`search_block`], and takes over what was found.
    pub fn search(
        &mut self,
        block: &mut BlockRun<'_>,
        groups: &[Vec<&SiteMeta>],
        units: &[Range<usize>],
        settings: &ClipSearch,
    ) -> Result<()> {
        self.searched = search_block(block, groups, units, settings)?;
        for meta in groups.iter().flatten() {
            if let Some(quantizer) = block.site(&meta.name)?.activation() {
                self.inputs.insert(meta.name.clone(), quantizer.clone());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use trimtab_calibrate::RangeRule;
    use trimtab_models::Model;
    use trimtab_plan::Selection;
    use trimtab_quantize::qvlm::Way;

    use super::*;
    use crate::calibration::{Calibration, CalibrationSettings};
    use crate::form::Form;
    use crate::inventory::Inventory;
    use crate::monitor::Quiet;
    use crate::quantizer::{Method, Quantizer};
    use crate::treating::{Assignment, Job};

    fn pico() -> (Model, Calibration, Inventory) {
        let model = Model::open("@pico", None).unwrap();
        let settings =
            CalibrationSettings { samples: Some(2), window: Some(32), ..CalibrationSettings::default() };
        let calibration = Calibration::load(&model, &settings).unwrap();
        let inventory = Inventory::take(&model, &Selection::default(), Form::Packed).unwrap();
        (model, calibration, inventory)
    }

    fn activations(clip_search: Option<ClipSearch>) -> Activations {
        // From the least to the largest, for all channels at once: there is something to clip.
        let range = RangeRule::MinMax;
        Activations { clip_search, range, ..Activations::of("int4 tensor".parse().unwrap()) }
    }

    /// The quantizers of all sites, and what was searched, in the order of the blocks.
    fn treated(
        (model, calibration, inventory): &(Model, Calibration, Inventory),
        clip_search: Option<ClipSearch>,
    ) -> (BTreeMap<String, ActivationQuantizer>, Vec<Searched>) {
        let choice = "int4 g32".parse().unwrap();
        let assignment: Assignment =
            inventory.sites.iter().map(|site| (site.meta.name.clone(), choice)).collect();
        let activations = Some(activations(clip_search));
        let quantizer = Quantizer { method: Method::Rtn, activations, ..Quantizer::default() };
        let job =
            Job { model, inventory, assignment: &assignment, quantizer: &quantizer, form: Form::Packed };
        let found = job.collected(Some(calibration), &mut Quiet::default()).unwrap();
        let (mut inputs, mut searched) = (BTreeMap::new(), Vec::new());
        for stage in found.0.into_values() {
            inputs.extend(stage.quantized.inputs);
            searched.extend(stage.quantized.searched);
        }
        (inputs, searched)
    }

    #[test]
    fn blocks_of_one_layer_are_the_usual_search() {
        let subject = pico();
        let (plain, none) = treated(&subject, None);
        assert!(none.is_empty());
        let (found, searched) = treated(&subject, Some(ClipSearch::layerwise()));
        assert!(searched.iter().all(|unit| unit.sites.len() == 1 && unit.evaluations == 7));
        assert!(searched.iter().all(|unit| unit.error[1] <= unit.error[0]));
        assert!(searched.iter().any(|unit| unit.factors[0] < 1.0), "control: something is clipped");
        assert_ne!(plain, found);
        // Turns in blocks of one layer are the same search, and factors of 1 alone are none.
        let turns = ClipSearch { way: Way::Descend, sweeps: 1, ..ClipSearch::layerwise() };
        assert_eq!(treated(&subject, Some(turns)).0, found);
        assert_eq!(treated(&subject, Some(ClipSearch { count: 1, ..ClipSearch::default() })).0, plain);

        // By hand, for the first layer: the least error of its own output among seven ranges.
        let (model, calibration, inventory) = &subject;
        let first = &inventory.sites[0];
        let names: Vec<&str> = (inventory.sites.iter())
            .filter(|site| site.meta.reads == first.meta.reads && site.stage == first.stage)
            .map(|site| site.meta.name.as_str())
            .collect();
        assert_eq!(names.len(), 3, "queries, keys, values");
        let mut least = (f64::INFINITY, 0);
        let stream =
            Stream::new(model, &calibration.batches, model.device().clone(), StreamSettings::default());
        stream
            .run(|block| -> Result<()> {
                if block.index() != first.stage {
                    return Ok(());
                }
                let all: Vec<usize> = (0..calibration.batches.len()).collect();
                let inputs = block.sampled(&all)?;
                let target = outputs(block.stage(), &inputs, &names)?;
                let overlay = weights(&subject);
                for name in &names {
                    block.site_mut(name)?.set_weight(overlay[*name].clone())?;
                }
                for candidate in 0..7 {
                    let factor = 1.0 - 0.1 * candidate as f32;
                    let steps = plain[names[0]].steps().iter();
                    let steps =
                        steps.map(|step| ActivationStep { scale: step.scale * factor, zero: step.zero });
                    let quantizer =
                        ActivationQuantizer::new(plain[names[0]].scheme(), steps.collect()).unwrap();
                    for name in &names {
                        block.site_mut(name)?.set_activation(Some(quantizer.clone()))?;
                    }
                    let found = outputs(block.stage(), &inputs, &names)?;
                    let pairs = target.iter().flatten().zip(found.iter().flatten());
                    let (sum, n) = pairs
                        .flat_map(|(a, b)| a.rows.iter().zip(&b.rows))
                        .fold((0.0f64, 0.0), |(sum, n), (a, b)| {
                            (sum + f64::from((a - b).abs()).sqrt(), n + 1.0)
                        });
                    if sum / n < least.0 {
                        least = (sum / n, candidate);
                    }
                }
                Ok(())
            })
            .unwrap();
        assert!((searched[0].error[1] - least.0).abs() < 1e-5 * least.0, "{:?} {least:?}", searched[0]);
        assert!((searched[0].factors[0] - (1.0 - 0.1 * least.1 as f64)).abs() < 1e-9);
    }

    /// The weights of the plain treatment, by site.
    fn weights(
        (model, calibration, inventory): &(Model, Calibration, Inventory),
    ) -> BTreeMap<String, trimtab_nn::Weight> {
        let choice = "int4 g32".parse().unwrap();
        let assignment: Assignment =
            inventory.sites.iter().map(|site| (site.meta.name.clone(), choice)).collect();
        let quantizer =
            Quantizer { method: Method::Rtn, activations: Some(activations(None)), ..Quantizer::default() };
        let job =
            Job { model, inventory, assignment: &assignment, quantizer: &quantizer, form: Form::Packed };
        let found = job.collected(Some(calibration), &mut Quiet::default()).unwrap();
        let overlay = found.overlay(inventory).unwrap();
        overlay.into_iter().map(|(name, put)| (name, put.weight)).collect()
    }

    #[test]
    fn what_is_searched_together_is_what_entropy_says_and_never_worse_than_apart() {
        let subject = pico();
        let (model, calibration, inventory) = &subject;
        let settings = ClipSearch { longest: 2, ..ClipSearch::default() };
        let found =
            units(model, &inventory.sites, &calibration.batches, &activations(None), &settings).unwrap();
        // Every group of every block once, in order; the first block is not searched apart throughout.
        let stages: Vec<usize> = found.stages.keys().copied().collect();
        for stage in &stages {
            let metas = inventory.sites.iter().filter(|site| site.stage == *stage).map(|site| &site.meta);
            let covered: Vec<usize> = found.of(*stage).iter().cloned().flatten().collect();
            assert_eq!(covered, (0..reading_groups(metas).len()).collect::<Vec<_>>());
        }
        assert!(found.proxies.iter().all(|&nats| nats > 0.0 && nats <= 64f64.ln() + 1e-9), "{found:?}");
        assert!(found.stages.values().flatten().any(|unit| unit.len() == 2));
        let (joint, searched) = treated(&subject, Some(settings));
        let lengths = |stage: &usize| found.of(*stage).iter().map(Range::len).collect::<Vec<_>>();
        let expected: Vec<usize> = stages.iter().flat_map(lengths).collect();
        assert_eq!(searched.iter().map(|unit| unit.sites.len()).collect::<Vec<_>>(), expected);
        // The first block of layers sees the same inputs in both: together it is no worse at its output.
        let turns = ClipSearch { way: Way::Descend, ..settings };
        let (by_turns, apart) = treated(&subject, Some(turns));
        assert_eq!(searched[0].error[0], apart[0].error[0]);
        assert!(searched[0].error[1] <= apart[0].error[1] && apart[0].error[1] <= apart[0].error[0]);
        assert_ne!(joint, treated(&subject, Some(ClipSearch::layerwise())).0, "control");
        assert_eq!(by_turns.len(), joint.len());
    }

    #[test]
    fn what_has_no_steps_is_refused() {
        let (_, _, inventory) = pico();
        let token = Activations {
            clip_search: Some(ClipSearch::default()),
            ..Activations::of("int8 token".parse().unwrap())
        };
        let message = token.check(Form::Packed, &inventory.sites).unwrap_err().to_string();
        assert!(message.contains("int8 token") && message.contains("int8 tensor"), "{message}");
        let wrong = activations(Some(ClipSearch { count: 0, ..ClipSearch::default() }));
        assert!(wrong.check(Form::Packed, &inventory.sites).is_err());
        assert!(activations(Some(ClipSearch::default())).check(Form::Packed, &inventory.sites).is_ok());
    }
}
