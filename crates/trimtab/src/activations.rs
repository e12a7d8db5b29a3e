//! Activations in few bits: what is quantized, and how its steps are found in a block of the stream.
//!
//! Steps that are found beforehand come from the inputs that the treated sites before really produce, as codes of weights do; codes
//! of weights are then chosen for the quantized inputs. With a reparameterization of scales (RepQ-ViT), a norm and the maps behind it
//! are rewritten first, so that one step for all channels rounds as a step a channel would.

pub mod clip_search;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use trimtab_calibrate::{ActivationRanges, BlockRun, Histogram, RangeRule};
use trimtab_io::{
    ActivationGranularity, ActivationScheme, ActivationStep, AttentionConfig, Checkpoint, Dtype, RawTensor,
    SoftmaxScheme, input_tensors, round_floats,
};
use trimtab_math::gram::GramAccumulator;
use trimtab_math::linalg::Square;
use trimtab_models::Model;
use trimtab_nn::{
    ActivationQuantizer, AttentionQuantizer, LayerMut, Norm, NormEdge, Operand, SiteKind, SiteMeta, Stage,
    Weight, Wiring, host,
};
use trimtab_quantize::qvlm::ClipSearch;
use trimtab_quantize::repq::Layerwise;
use trimtab_quantize::repquant::{ClippingSettings, absorb, clip};

use self::clip_search::Searched;
use crate::error::{Error, Result};
use crate::form::Form;
use crate::inventory::{HEADER_LINE, TreatedSite};

/// What is quantized of the activations of the treated sites, and how.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activations {
    /// The inputs of the sites.
    pub inputs: ActivationScheme,
    /// How their ranges are found.
    pub range: RangeRule,
    /// Queries, keys and values, before they are multiplied.
    pub operands: Option<ActivationScheme>,
    /// What the softmax of the attention gives.
    pub softmax: Option<SoftmaxScheme>,
    /// Whether norms and the maps behind them are rewritten so that one step for all channels does what a step a channel would.
    pub reparameterize: bool,
    /// How the ends of the channels are learned before that; `None`: they are what their range says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clipping: Option<ClippingSettings>,
    /// Whether codes are chosen for the weights that come closest on quantized inputs (RepQuant).
    #[serde(default)]
    pub absorb: bool,
    /// How factors that shrink the ranges are searched once all codes of a block are chosen (Q-VLM); `None`: ranges stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_search: Option<ClipSearch>,
}

/// Damping of what absorbs, in parts of the mean diagonal.
const ABSORB_DAMPING: f64 = 0.01;
/// One row in so many shows whether absorbing helps.
const HELD_OUT: usize = 4;
/// Rows that ends are learned on, at most.
const CLIPPING_ROWS: u64 = 4096;

impl Activations {
    /// The inputs of sites alone.
    pub fn of(inputs: ActivationScheme) -> Self {
        Self {
            inputs,
            range: RangeRule::default(),
            operands: None,
            softmax: None,
            reparameterize: false,
            clipping: None,
            absorb: false,
            clip_search: None,
        }
    }

    /// Checks that the parts fit together, and that a file of this form can hold them.
    ///
    /// # Errors
    /// [`Error::Setting`] or [`Error::Format`]: why not.
    pub fn check(&self, form: Form, sites: &[TreatedSite]) -> Result<()> {
        let wrong = |message: String| Err(Error::Setting { what: "--activations", message });
        self.inputs.check()?;
        if self.reparameterize && self.inputs.granularity != ActivationGranularity::Tensor {
            return wrong(format!(
                "a reparameterization leads from a step a channel to one for all of them, which {} is not\nhint: 'int{} tensor'",
                self.inputs, self.inputs.bits
            ));
        }
        if self.clipping.is_some() && !self.reparameterize {
            return wrong(
                "ends of channels are learned for a reparameterization\nhint: --scale-reparameterization"
                    .into(),
            );
        }
        if let Some(search) = &self.clip_search {
            if let Some(message) = search.problem() {
                return Err(Error::Setting { what: "--clip-search", message });
            }
            if self.inputs.is_dynamic() {
                let message = format!(
                    "steps of {} are found as activations come: no factor can be searched for them\nhint: 'int{} tensor'",
                    self.inputs, self.inputs.bits
                );
                return Err(Error::Setting { what: "--clip-search", message });
            }
        }
        if let Some(operands) = self.operands.filter(|o| o.granularity == ActivationGranularity::Channel) {
            return wrong(format!(
                "{operands} for queries, keys and values: their channels are summed over\nhint: 'int{} tensor'",
                operands.bits
            ));
        }
        if form != Form::Packed {
            let what = format!("inputs as {}: it has no place for their steps", self.inputs);
            return Err(Error::Format {
                format: form.format(),
                what,
                hint: "write --format compressed-tensors",
            });
        }
        let blind = |site: &&TreatedSite| !site.observed && !self.inputs.is_dynamic();
        if let Some(site) = sites.iter().find(blind) {
            return wrong(format!(
                "\"{}\": no data reaches it that could tell the range of its input\nhint: leave it out, or take 'int{} token'",
                site.meta.name, self.inputs.bits
            ));
        }
        Ok(())
    }

    /// [`Self::check`], and that a model can be rewritten as they ask.
    ///
    /// # Errors
    /// Why not.
    pub fn check_model(&self, model: &Model, form: Form, sites: &[TreatedSite]) -> Result<()> {
        self.check(form, sites)?;
        if !self.reparameterize {
            return Ok(());
        }
        let wiring = model.wiring();
        if let Some(message) = no_free_norm(&wiring) {
            return Err(Error::Setting { what: "--scale-reparameterization", message });
        }
        // Zeros of channels differ wherever they may.
        match wiring.free_norms().find(|norm| norm.bias.is_none()).filter(|_| !self.inputs.symmetric) {
            Some(norm) => Err(needs_bias(&norm.name, "")),
            None => Ok(()),
        }
    }

    /// Whether steps, of anything, are found on data.
    pub fn needs_data(&self) -> bool {
        let dynamic = self.operands.is_none_or(|operands| operands.is_dynamic());
        !self.inputs.is_dynamic() || !dynamic || self.softmax.is_some() || self.absorb
    }

    /// Whether weights, norms and biases other than by codes are changed.
    pub fn rewrites(&self) -> bool {
        self.reparameterize || self.absorb
    }

    /// Whether operands of attention are quantized.
    pub fn has_attention(&self) -> bool {
        self.operands.is_some() || self.softmax.is_some()
    }

    /// Bytes at most that the steps of these sites and of the attention beside them take in a file, with their lines in its header:
    /// what [`QuantizedInputs::tensors`] gives for all blocks.
    pub fn bytes(&self, sites: &[TreatedSite]) -> u64 {
        // A scale of four bytes and a zero point of one.
        let steps = |scheme: ActivationScheme, count: usize| match scheme.is_dynamic() {
            true => 0,
            false => 5 * count as u64 + 2 * HEADER_LINE,
        };
        let of_site = |site: &TreatedSite| match self.inputs.granularity {
            ActivationGranularity::Channel => steps(self.inputs, site.meta.input_channels()),
            _ => steps(self.inputs, 1),
        };
        let observed = || sites.iter().filter(|site| site.observed);
        let blocks: BTreeSet<usize> = observed().map(|site| site.stage).collect();
        let operands = self.operands.map_or(0, |scheme| steps(scheme, 3));
        let weights = self.softmax.map_or(0, |_| 4 + HEADER_LINE);
        observed().map(of_site).sum::<u64>() + blocks.len() as u64 * (operands + weights)
    }

    /// What a configuration says of the attention of these blocks.
    pub fn attention_config(&self, blocks: impl IntoIterator<Item = String>) -> AttentionConfig {
        let blocks = blocks.into_iter().collect();
        AttentionConfig { operands: self.operands, weights: self.softmax, blocks }
    }
}

/// What was found for a block.
#[derive(Clone, Debug, Default)]
pub struct QuantizedInputs {
    /// What rounds the inputs, by site.
    pub inputs: BTreeMap<String, ActivationQuantizer>,
    /// What rounds the operands of the attention.
    pub attention: Option<Arc<AttentionQuantizer>>,
    /// Norms whose maps were rewritten, with the ratio of the loudest channel's step to the mean.
    pub rewritten: Vec<(String, f64)>,
    /// Layers whose factors were searched together, and what was found.
    pub searched: Vec<Searched>,
    /// Maps whose weights absorb the rounding of their inputs: those for which that helps on rows that were held out.
    pub absorbed: Vec<String>,
}

/// New numbers of vectors, by tensor: gains and biases of norms, biases of maps.
pub type Vectors = BTreeMap<String, Vec<f32>>;

impl QuantizedInputs {
    /// Finds and puts in place what rounds the rows that all sites of `group` read; before that, rewrites the norm that gives
    /// them where that is asked for and `wiring` allows it. The vectors that were rewritten.
    pub fn quantize(
        &mut self,
        block: &mut BlockRun<'_>,
        group: &[&SiteMeta],
        settings: &Activations,
        wiring: Option<&Wiring>,
        dtypes: &dyn Fn(&str) -> Result<Dtype>,
    ) -> Result<Vectors> {
        let mut vectors = Vectors::new();
        let edge = wiring.and_then(|wiring| edge_of(wiring, group));
        let scheme = match &edge {
            Some(_) => ActivationScheme { granularity: ActivationGranularity::Channel, ..settings.inputs },
            None => settings.inputs,
        };
        let [first, ..] = group else { return Ok(vectors) };
        let mut quantizer = found(block, first, scheme, settings.range)?;
        if let Some(edge) = edge {
            let steps = match &settings.clipping {
                Some(clipping) => clipped(block, group, &quantizer, clipping)?,
                None => quantizer.steps().to_vec(),
            };
            let layerwise = Layerwise::of(&steps);
            vectors.extend(rewrite(block, edge, group, &layerwise, dtypes)?);
            self.rewritten.push((edge.name.clone(), layerwise.largest_ratio()));
            quantizer = ActivationQuantizer::new(settings.inputs, vec![layerwise.step])?;
        }
        if settings.absorb && group.iter().all(|meta| meta.kind == SiteKind::Linear) {
            vectors.extend(self.absorb(block, group, &quantizer, dtypes)?);
        }
        for meta in group {
            block.site_mut(&meta.name)?.set_activation(Some(quantizer.clone()))?;
            self.inputs.insert(meta.name.clone(), quantizer.clone());
        }
        Ok(vectors)
    }

    /// Weights and biases of the maps that come closest on what `quantizer` makes of their input.
    fn absorb(
        &mut self,
        block: &mut BlockRun<'_>,
        group: &[&SiteMeta],
        quantizer: &ActivationQuantizer,
        dtypes: &dyn Fn(&str) -> Result<Dtype>,
    ) -> Result<Vectors> {
        let mut vectors = Vectors::new();
        let width = group[0].cols;
        let fail =
            |e: &dyn std::fmt::Display| Error::Site { site: group[0].name.clone(), message: e.to_string() };
        // One row in so many is held out: few rows for many inputs would only be learned by heart.
        let mut both = [(); 2].map(|()| GramAccumulator::new(2 * width));
        let (mut seen, mut at) = (Ok(()), 0usize);
        block.each_input(&[&group[0].name], |_, rows, weights| {
            let device = burn::tensor::Device::flex();
            let n = rows.len() / width;
            let x = Tensor::<2>::from_data(TensorData::new(rows.to_vec(), [n, width]), &device);
            let rounded = host(quantizer.rows(x));
            for (held, gram) in both.iter_mut().enumerate() {
                let own = (0..n).filter(|i| usize::from((at + i) % HELD_OUT == HELD_OUT - 1) == held);
                let own: Vec<usize> = own.collect();
                let part = |rows: &[f32], i: usize| rows[i * width..(i + 1) * width].to_vec();
                let pairs: Vec<f32> =
                    own.iter().flat_map(|&i| [part(rows, i), part(&rounded, i)].concat()).collect();
                let weights: Option<Vec<f64>> = weights.map(|w| own.iter().map(|&i| w[i]).collect());
                if seen.is_ok() {
                    seen = gram.add(&pairs, weights.as_deref());
                }
            }
            at += n;
        })?;
        seen.map_err(|e| fail(&e))?;
        if both.iter().any(|gram| gram.sum_w() == 0.0) {
            return Ok(vectors);
        }
        let [fitted, held] = &both;
        let (moment, means) = (fitted.mean().map_err(math)?, fitted.mean_x().map_err(math)?);
        let (held, held_means) = (held.mean().map_err(math)?, held.mean_x().map_err(math)?);
        let part = |row: usize| -> Result<Square> {
            let data = (0..width * width).map(|i| moment.at(row + i / width, width + i % width)).collect();
            Square::new(width, data).map_err(math)
        };
        let (cross, quantized) = (part(0)?, part(width)?);
        for meta in group {
            let site = block.site_mut(&meta.name)?;
            let (weight, bias) = (site.to_f32(), site.bias.as_ref().map(|bias| host(bias.val())));
            let (found, _) = absorb(&weight, &quantized, &cross, ABSORB_DAMPING).map_err(|e| fail(&e))?;
            // Mean squared output error on the rows that were held out, the means of the others taken off.
            let error = |new: &[f32], centered: bool| -> f64 {
                let rows = weight.par_chunks(width).zip(new.par_chunks(width)).map(|(old, new)| {
                    let v: Vec<f64> =
                        old.iter().map(|&w| w.into()).chain(new.iter().map(|&w| -f64::from(w))).collect();
                    let dot = |x: &[f64]| v.iter().zip(x).map(|(v, x)| v * x).sum::<f64>();
                    let square: f64 = (0..2 * width).map(|i| v[i] * dot(held.row(i))).sum();
                    let off = if centered { dot(&means) } else { 0.0 };
                    square - 2.0 * off * dot(&held_means) + off * off
                });
                // In the order of the rows, at any number of threads.
                rows.collect::<Vec<f64>>().iter().sum()
            };
            if error(&found, bias.is_some()) >= error(&weight, false) {
                continue;
            }
            if let Some(bias) = bias {
                let mean =
                    |w: &[f32], x: &[f64]| w.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum::<f64>();
                let rows = weight.chunks(width).zip(found.chunks(width)).zip(bias);
                let mut bias: Vec<f32> = rows
                    .map(|((old, new), bias)| {
                        (f64::from(bias) + mean(old, &means[..width]) - mean(new, &means[width..])) as f32
                    })
                    .collect();
                let tensor = format!("{}.bias", meta.name);
                round_floats(&mut bias, dtypes(&tensor)?)?;
                vectors.insert(tensor, bias);
            }
            site.set_branches(Vec::new())?;
            site.set_weight(Weight::stored(RawTensor::from_f32(
                vec![meta.rows, meta.cols],
                &found,
                Dtype::F32,
            )?))?;
            self.absorbed.push(meta.name.clone());
        }
        block.put_vectors(&vectors)?;
        Ok(vectors)
    }

    /// Finds and puts in place what rounds the operands of the attention of the block.
    pub fn quantize_attention(&mut self, block: &mut BlockRun<'_>, settings: &Activations) -> Result<()> {
        if !block.stage_mut().set_attention(None) {
            return Ok(());
        }
        let mut seen: BTreeMap<Operand, Histogram> = BTreeMap::new();
        block.each_operand(|operand, values| {
            let histogram = seen.entry(operand).or_insert_with(Histogram::of_tensor);
            let add = histogram.add(values.iter().copied());
            add.map_err(|message| trimtab_calibrate::Error::Treatment { site: "attention".into(), message })
        })?;
        let empty = Histogram::of_tensor();
        let of = |operand: Operand| seen.get(&operand).unwrap_or(&empty);
        let one = |scheme: ActivationScheme, operand: Operand| {
            let steps = match scheme.is_dynamic() {
                true => Vec::new(),
                false => vec![of(operand).step(scheme, settings.range)],
            };
            ActivationQuantizer::new(scheme, steps)
        };
        let operands = settings.operands.map(|scheme| -> Result<_> {
            Ok([one(scheme, Operand::Queries)?, one(scheme, Operand::Keys)?, one(scheme, Operand::Values)?])
        });
        let weights = settings.softmax.map(|scheme| of(Operand::Weights).softmax(scheme)).transpose()?;
        let quantizer = Arc::new(AttentionQuantizer { operands: operands.transpose()?, weights });
        block.stage_mut().set_attention(Some(Arc::clone(&quantizer)));
        self.attention = Some(quantizer);
        Ok(())
    }

    /// Puts all in place, as it was found.
    pub fn put(&self, stage: &mut dyn Stage) -> Result<()> {
        for site in stage.sites_mut() {
            if let Some(quantizer) = self.inputs.get(site.name()) {
                site.set_activation(Some(quantizer.clone()))?;
            }
        }
        if let Some(attention) = &self.attention {
            stage.set_attention(Some(Arc::clone(attention)));
        }
        Ok(())
    }

    /// The tensors that hold the steps, as they go into a file; `block` is its name.
    pub fn tensors(&self, block: &str) -> Result<Vec<(String, RawTensor)>> {
        let mut tensors = Vec::new();
        for (site, quantizer) in &self.inputs {
            tensors.extend(input_tensors(site, quantizer.scheme(), quantizer.steps())?);
        }
        let [of_operands, of_weights] = AttentionConfig::modules(block);
        let Some(attention) = &self.attention else { return Ok(tensors) };
        if let Some(operands) = &attention.operands {
            let steps: Vec<_> = operands.iter().flat_map(|one| one.steps().iter().copied()).collect();
            tensors.extend(input_tensors(&of_operands, operands[0].scheme(), &steps)?);
        }
        if let Some(weights) = &attention.weights {
            let scale = RawTensor::from_f32(vec![1], &[weights.scale], Dtype::F32)?;
            tensors.push((format!("{of_weights}.input_scale"), scale));
        }
        Ok(tensors)
    }

    /// What was found for the sites of a block, and for its attention where it has one, from the file of its unit.
    pub fn read<'m>(
        unit: &Checkpoint,
        block: &str,
        sites: impl Iterator<Item = &'m SiteMeta>,
        settings: &Activations,
        has_attention: bool,
    ) -> Result<Self> {
        let mut all = Self::default();
        for meta in sites {
            let quantizer =
                ActivationQuantizer::read(unit, &meta.name, settings.inputs, meta.input_channels())?;
            all.inputs.insert(meta.name.clone(), quantizer);
        }
        if has_attention {
            let config = settings.attention_config([block.to_string()]);
            all.attention = Some(Arc::new(AttentionQuantizer::read(unit, block, &config)?));
        }
        Ok(all)
    }
}

fn needs_bias(norm: &str, place: &str) -> Error {
    let message = format!(
        "has no bias, which zeros of its channels that differ would need{place}\nhint: take zeros that are fixed: 'int8 tensor sym'"
    );
    Error::Site { site: norm.into(), message }
}

/// Norm and maps for one step of all channels.
fn rewrite(
    block: &mut BlockRun<'_>,
    edge: &NormEdge,
    group: &[&SiteMeta],
    layerwise: &Layerwise,
    dtypes: &dyn Fn(&str) -> Result<Dtype>,
) -> Result<Vectors> {
    let mut vectors = Vectors::new();
    if layerwise.needs_bias() && edge.bias.is_none() {
        return Err(needs_bias(&edge.name, ""));
    }
    let (name, offset) = (edge.name.clone(), edge.offset);
    let norm = norm_of(block.stage_mut(), &name)
        .ok_or_else(|| Error::Site { site: name.clone(), message: "is no norm of this block".into() })?;
    let gain: Vec<f64> = host(norm.effective_gain()).into_iter().map(f64::from).collect();
    let bias = norm.bias.as_ref().map(|bias| host(bias.val()));
    let old: Vec<f64> = match &bias {
        Some(bias) => bias.iter().map(|&b| f64::from(b)).collect(),
        None => vec![0.0; gain.len()],
    };
    let (gain, new) = layerwise.norm(&gain, &old);
    let stored = |tensor: &str, values: Vec<f64>| -> Result<Vec<f32>> {
        let mut values: Vec<f32> = values.into_iter().map(|x| x as f32).collect();
        round_floats(&mut values, dtypes(tensor)?)?;
        Ok(values)
    };
    let gain = stored(&edge.gain, gain.into_iter().map(|gain| gain - offset).collect())?;
    vectors.insert(edge.gain.clone(), gain);
    if let Some(tensor) = edge.bias.as_ref().filter(|_| layerwise.needs_bias() || bias.is_some()) {
        vectors.insert(tensor.clone(), stored(tensor, new)?);
    }
    for meta in group {
        let site = block.site_mut(&meta.name)?;
        let (weight, lost) = layerwise.map(&site.to_f32());
        let tensor = format!("{}.bias", meta.name);
        if layerwise.needs_bias() {
            let bias = site.bias.as_ref().map(|bias| host(bias.val()));
            let bias = bias.ok_or_else(|| needs_bias(&edge.name, &format!(" in \"{}\"", meta.name)))?;
            let bias = bias.into_iter().zip(lost).map(|(bias, lost)| f64::from(bias) - lost);
            vectors.insert(tensor.clone(), stored(&tensor, bias.collect())?);
        }
        site.set_branches(Vec::new())?;
        site.set_weight(Weight::stored(RawTensor::from_f32(
            vec![meta.rows, meta.cols],
            &weight,
            Dtype::F32,
        )?))?;
    }
    block.put_vectors(&vectors)?;
    Ok(vectors)
}

/// The ranges of the rows that `site` reads of the block as it now is.
fn seen_by(
    block: &mut BlockRun<'_>,
    site: &SiteMeta,
    scheme: ActivationScheme,
    range: RangeRule,
) -> Result<ActivationRanges> {
    let fail = |message: String| Error::Site { site: site.name.clone(), message };
    let mut ranges = ActivationRanges::new(site, scheme, range).map_err(fail)?;
    if !scheme.is_dynamic() {
        let mut seen = Ok(());
        block.each_input(&[&site.name], |_, rows, weights| {
            if seen.is_ok() {
                seen = ranges.see(rows, site.cols, weights);
            }
        })?;
        seen.map_err(fail)?;
    }
    Ok(ranges)
}

/// What rounds the rows that `site` reads of the block as it now is.
fn found(
    block: &mut BlockRun<'_>,
    site: &SiteMeta,
    scheme: ActivationScheme,
    range: RangeRule,
) -> Result<ActivationQuantizer> {
    let ranges = seen_by(block, site, scheme, range)?;
    if !scheme.is_dynamic() && ranges.parts().iter().all(|part| part.count() == 0) {
        let message = "no row of the calibration data reached it that could tell the range of its input\nhint: give more data, or take steps that are found as activations come: 'int8 token'";
        return Err(Error::Site { site: site.name.clone(), message: message.into() });
    }
    Ok(ranges.quantizer()?)
}

/// Steps of the channels that the sites of `group` read, with learned ends.
fn clipped(
    block: &mut BlockRun<'_>,
    group: &[&SiteMeta],
    quantizer: &ActivationQuantizer,
    settings: &ClippingSettings,
) -> Result<Vec<ActivationStep>> {
    let width = group[0].cols;
    let fail =
        |e: &dyn std::fmt::Display| Error::Site { site: group[0].name.clone(), message: e.to_string() };
    let mut count = 0u64;
    block.each_input(&[&group[0].name], |_, rows, _| count += (rows.len() / width) as u64)?;
    // Every so many rows, from all of the data.
    let (every, mut at, mut kept) = (count.div_ceil(CLIPPING_ROWS).max(1), 0u64, Vec::new());
    block.each_input(&[&group[0].name], |_, rows, weights| {
        for (i, row) in rows.chunks(width).enumerate() {
            if at.is_multiple_of(every) && weights.is_none_or(|weights| weights[i] > 0.0) {
                kept.extend_from_slice(row);
            }
            at += 1;
        }
    })?;
    let mut maps = GramAccumulator::new(width);
    for meta in group {
        maps.add(&block.site(&meta.name)?.to_f32(), None).map_err(math)?;
    }
    let outputs = maps.sum_w();
    let maps = maps.mean().map_err(math)?.into_vec().into_iter().map(|x| x * outputs).collect();
    let maps = Square::new(width, maps).map_err(math)?;
    let found = clip(&kept, &maps, quantizer.steps(), quantizer.scheme(), settings).map_err(|e| fail(&e))?;
    Ok(found.steps)
}

fn math(error: trimtab_math::Error) -> Error {
    trimtab_calibrate::Error::from(error).into()
}

/// The norm that gives what the sites of `group` read, if maps of this group read it and nothing else does.
fn edge_of<'w>(wiring: &'w Wiring, group: &[&SiteMeta]) -> Option<&'w NormEdge> {
    let names: Vec<String> = group.iter().map(|site| site.weight_name()).collect();
    let linear = group.iter().all(|site| site.kind == SiteKind::Linear);
    wiring.free_norms().find(|edge| {
        let whole = |part: &trimtab_nn::MatrixPart| {
            names.contains(&part.tensor) && part.rows == (0..part.dims[0]) && part.cols == (0..part.dims[1])
        };
        linear
            && edge.readers.iter().all(whole)
            && names.iter().all(|n| edge.readers.iter().any(|r| r.tensor == *n))
    })
}

/// Why a network has no norm to rewrite; `None` where it has one.
fn no_free_norm(wiring: &Wiring) -> Option<String> {
    if wiring.free_norms().next().is_some() {
        return None;
    }
    let mut blocked = wiring.norms.iter().filter_map(|norm| Some((&norm.name, norm.obstacle.as_ref()?)));
    Some(match blocked.next_back() {
        Some((name, obstacle)) => format!("no norm is read by linear maps alone; \"{name}\": {obstacle}"),
        None => "the model has no norm that linear maps read".into(),
    })
}

fn norm_of<'s>(stage: &'s mut dyn Stage, name: &str) -> Option<&'s mut Norm> {
    stage.layers_mut().into_iter().find_map(|layer| match layer {
        LayerMut::Norm(norm) if norm.name() == name => Some(norm),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
