//! Treating: the block stream with a plan in hand.
//!
//! Blocks are treated in order, and inside a block the sites that read the same rows together: query, key and value;
//! the attention's output; gate and up; down. Each group sees the inputs that the treated sites before it really
//! produce.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use trimtab_calibrate::norms::put_vectors;
use trimtab_calibrate::stream::reading_groups;
use trimtab_calibrate::{
    Batch, BlockRun, Fisher, Inputs, Outcome, Part, ReconstructSettings, SiteEvidence, Steps, Stream,
    StreamSettings, Treated,
};
use trimtab_io::{BranchFactors, RawTensor};
use trimtab_models::Model;
use trimtab_nn::{Branch, Flow, Network, Role, Site, SiteMeta, StageSource};

use crate::activations::clip_search::{self, Units};
use crate::activations::{QuantizedInputs, Vectors};
use crate::branching::{self, evidence_of, mend, numbers};
use crate::calibration::Calibration;
use crate::choice::Choice;
use crate::error::{Error, Result};
use crate::form::Form;
use crate::inventory::{Inventory, TreatedSite};
use crate::measure::Put;
use crate::monitor::Monitor;
use crate::quantizer::{Method, Quantizer};
use crate::source::quantized_input;

/// What becomes of each treated site.
pub type Assignment = BTreeMap<String, Choice>;

/// What happened to a site, for reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteReport {
    /// Name of the site.
    pub site: String,
    /// Label of its scheme, with the rank of the branch beside it.
    pub scheme: String,
    /// Bytes of its weight and branch in the file.
    pub bytes: u64,
    /// Squared output error, on the inputs of the treated prefix.
    pub damage: f64,
    /// The same without the branch, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bare_damage: Option<f64>,
    /// The same for round-to-nearest with the same scheme.
    pub rtn_damage: f64,
    /// Whether round-to-nearest was better and was taken.
    pub fell_back: bool,
    /// Damping that was used.
    pub damping: f64,
}

/// The treated sites of one stage.
#[derive(Clone, Debug, Default)]
pub struct TreatedStage {
    /// New weights by site; sites that stay dense are absent.
    pub weights: BTreeMap<String, Treated>,
    /// Branches beside them, by site.
    pub branches: BTreeMap<String, BranchFactors>,
    /// What rounds activations.
    pub quantized: QuantizedInputs,
    /// What happened.
    pub reports: Vec<SiteReport>,
    /// New vectors, by the name of their tensor: of norms, and biases.
    pub vectors: Vectors,
    /// Mean squared error of the block's output on held-out samples, before and after its scales were trained.
    pub tuned: Option<[f64; 2]>,
}

/// Keeps and returns treated stages: a run that goes on after a kill finds the finished ones here.
pub trait StageSink {
    /// A stage that an earlier run finished.
    fn finished(&mut self, stage: usize) -> Result<Option<TreatedStage>>;

    /// Keeps a stage.
    fn keep(&mut self, stage: usize, treated: TreatedStage) -> Result<()>;
}

/// Keeps everything in memory.
#[derive(Default)]
pub struct Collected(pub BTreeMap<usize, TreatedStage>);

impl Collected {
    /// Puts all of it in place in the network that it was made of: weights, branches, vectors, and what rounds activations.
    pub fn put(self, network: &mut Network, inventory: &Inventory) -> Result<()> {
        for (index, stage) in &self.0 {
            let place = network.stage_mut(*index);
            stage.quantized.put(place)?;
            put_vectors(place, &stage.vectors)?;
        }
        crate::measure::put(network, &self.overlay(inventory)?)?;
        Ok(())
    }

    /// The new weights of all stages, by site.
    pub fn overlay(self, inventory: &Inventory) -> Result<crate::measure::Overlay> {
        let mut overlay = crate::measure::Overlay::new();
        for stage in self.0.into_values() {
            for (name, treated) in stage.weights {
                let site = inventory.sites.iter().find(|site| site.meta.name == name);
                let meta = &site.ok_or_else(|| missing(&name))?.meta;
                let put = of_site(meta, treated, stage.branches.get(&name))?;
                overlay.insert(name, put);
            }
        }
        Ok(overlay)
    }
}

impl StageSink for Collected {
    fn finished(&mut self, _: usize) -> Result<Option<TreatedStage>> {
        Ok(None)
    }

    fn keep(&mut self, stage: usize, treated: TreatedStage) -> Result<()> {
        self.0.insert(stage, treated);
        Ok(())
    }
}

/// A treated weight and its branch as a site holds them.
fn of_site(meta: &SiteMeta, treated: Treated, branch: Option<&BranchFactors>) -> Result<Put> {
    let branches = branch.map(|factors| Branch::of(factors, &burn::tensor::Device::flex()));
    Ok(Put { weight: treated.into_weight(meta)?, branches: branches.into_iter().collect() })
}

fn missing(site: &str) -> Error {
    Error::Site { site: site.into(), message: "the plan says nothing about it".into() }
}

/// What is done to a model.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// The model.
    pub model: &'a Model,
    /// Its treated sites.
    pub inventory: &'a Inventory,
    /// The scheme of each.
    pub assignment: &'a Assignment,
    /// How codes are chosen.
    pub quantizer: &'a Quantizer,
    /// Form of the new weights.
    pub form: Form,
}

impl Job<'_> {
    /// All of it done, and kept in memory.
    ///
    /// # Errors
    /// Those of [`treat`].
    pub fn collected(
        self,
        calibration: Option<&Calibration>,
        monitor: &mut dyn Monitor,
    ) -> Result<Collected> {
        let mut treated = Collected::default();
        treat(self, calibration, &mut treated, monitor)?;
        Ok(treated)
    }
}

/// Treats the model by an assignment, stage after stage.
pub fn treat(
    run: Job<'_>,
    calibration: Option<&Calibration>,
    sink: &mut dyn StageSink,
    monitor: &mut dyn Monitor,
) -> Result<()> {
    let Job { model, inventory, quantizer, .. } = run;
    // Round-to-nearest without branches sees no data: then nothing has to flow.
    let ranges = quantizer.activations.is_some_and(|activations| activations.needs_data());
    let batches = match quantizer.method {
        Method::Rtn if !run.has_branches() && !ranges && !quantizer.tune_batch_norms => &[],
        Method::Rtn | Method::Gptq | Method::Decoupleq | Method::Adaquant => {
            calibration.map_or(&[][..], |c| &c.batches[..])
        }
    };
    if let Some(activations) = &quantizer.activations {
        activations.check_model(model, run.form, &inventory.sites)?;
        if ranges && batches.is_empty() {
            let message = "ranges are found on data\nhint: pass --calibration".into();
            return Err(Error::Setting { what: "--activations", message });
        }
    }
    warn_of_unseen(model, inventory, batches, monitor);
    let fisher = match calibration.filter(|_| quantizer.needs_fisher() && run.has_branches()) {
        Some(calibration) => Some(calibration.fisher(model, inventory, monitor)?),
        None => None,
    };
    let units = match quantizer.activations.as_ref().and_then(|a| Some((a, a.clip_search.as_ref()?))) {
        Some((activations, search)) => {
            Some(clip_search::units(model, &inventory.sites, batches, activations, search)?)
        }
        None => None,
    };
    let mut inputs = model.stages().iter().flat_map(|info| &info.sites);
    if quantizer.activations.is_none()
        && inputs.any(|site| matches!(quantized_input(model, site), Ok(Some(_))))
    {
        monitor.warn(
            "the model quantizes activations, the result will not\nhint: --activations quantizes them anew",
        );
    }
    let blocks: BTreeSet<usize> = inventory.sites.iter().map(|site| site.stage).collect();
    monitor.begin("treating", blocks.len());
    let mut done = 0;
    for stage in blocks.iter().copied().filter(|&stage| model.stages()[stage].role != Role::Block) {
        if sink.finished(stage)?.is_none() {
            sink.keep(stage, run.unobserved(stage)?)?;
        }
        done += 1;
    }
    let settings = StreamSettings { inputs: Inputs::Treated, ..StreamSettings::default() };
    Stream::new(model, batches, model.device().clone(), settings).run(|block| -> Result<()> {
        if monitor.interrupted() {
            return Err(trimtab_calibrate::Error::Interrupted.into());
        }
        if let Some(stage) = sink.finished(block.index())? {
            return run.restore(block, &stage);
        }
        let begun = Instant::now();
        let mut stage =
            run.block(block, !batches.is_empty(), (fisher, units.as_ref()), &|| monitor.interrupted())?;
        if quantizer.tune_batch_norms && !batches.is_empty() {
            stage.vectors.extend(run.tune_norms(block)?);
            run.find_ranges_again(block, &mut stage.quantized)?;
        }
        if !stage.reports.is_empty() {
            done += 1;
            monitor.advance(done, &summary(&block.info().name, &stage, begun.elapsed()));
            warn_of_fallbacks(&stage, monitor);
        }
        sink.keep(block.index(), stage)?;
        model.checkpoint().release();
        Ok(())
    })
}

/// One line a block: its damage beside that of round-to-nearest, and its time.
fn summary(block: &str, stage: &TreatedStage, took: Duration) -> String {
    let sum = |f: fn(&SiteReport) -> f64| stage.reports.iter().map(f).sum::<f64>();
    let (damage, rtn) = (sum(|r| r.damage), sum(|r| r.rtn_damage));
    let share = if rtn > 0.0 { 100.0 * damage / rtn } else { 100.0 };
    let tuned = stage.tuned.map_or(String::new(), |[before, after]| {
        format!(
            ", tuned to {:.0} % of the block's error",
            100.0 * if before > 0.0 { after / before } else { 1.0 }
        )
    });
    let clipped = match &stage.quantized.searched[..] {
        [] => String::new(),
        searched => {
            let least = searched.iter().flat_map(|unit| &unit.factors).copied().fold(1.0, f64::min);
            format!(", ranges clipped in {} searches down to {least:.2}", searched.len())
        }
    };
    format!(
        "{block}: {} sites, damage {damage:.3e}, {share:.0} % of round-to-nearest{clipped}{tuned}, {:.1} s",
        stage.reports.len(),
        took.as_secs_f64()
    )
}

/// Sites that only a second input reaches, where the data have none.
fn warn_of_unseen(model: &Model, inventory: &Inventory, batches: &[Batch], monitor: &mut dyn Monitor) {
    if batches.is_empty() || batches.iter().any(|batch| matches!(batch.input, Flow::Pair(_))) {
        return;
    }
    let unseen = inventory.sites.iter().filter(|site| site.observed && model.stages()[site.stage].optional);
    let unseen: Vec<&str> = unseen.map(|site| site.meta.name.as_str()).collect();
    if let (Some(first), Some(last)) = (unseen.first(), unseen.last()) {
        monitor.warn(&format!(
            "{} sites from {first} to {last} are rounded to nearest: only images reach them, and calibration is on text",
            unseen.len()
        ));
    }
}

fn warn_of_fallbacks(stage: &TreatedStage, monitor: &mut dyn Monitor) {
    for report in stage.reports.iter().filter(|report| report.fell_back) {
        monitor.warn(&format!(
            "{}: what the data said came out worse than round-to-nearest at {}; round-to-nearest was taken",
            report.site, report.scheme
        ));
    }
}

/// What became of one site.
struct One {
    report: SiteReport,
    treated: Option<Treated>,
    branch: Option<BranchFactors>,
}

impl TreatedStage {
    fn take(&mut self, site: &str, one: One) {
        self.reports.push(one.report);
        self.weights.extend(one.treated.map(|treated| (site.to_string(), treated)));
        self.branches.extend(one.branch.map(|branch| (site.to_string(), branch)));
    }
}

impl<'a> Job<'a> {
    fn sites(&self, stage: usize) -> impl Iterator<Item = &'a TreatedSite> + use<'a> {
        self.inventory.sites.iter().filter(move |site| site.stage == stage)
    }

    /// Whether a site gets a branch.
    fn has_branches(&self) -> bool {
        self.assignment.values().any(|choice| choice.rank > 0)
    }

    fn one(&self, site: &TreatedSite, weight: &[f32], evidence: SiteEvidence<'_>) -> Result<One> {
        let name = &site.meta.name;
        let choice = self.assignment.get(name).ok_or_else(|| missing(name))?;
        let mut report = SiteReport {
            site: name.clone(),
            scheme: choice.to_string(),
            bytes: choice.bytes(&site.meta, site.dtype),
            damage: 0.0,
            bare_damage: None,
            rtn_damage: 0.0,
            fell_back: false,
            damping: 0.0,
        };
        let observed = evidence.second_moment.is_some();
        let Some(method) = self.quantizer.treatment(choice.scheme, site.dtype, observed) else {
            return Ok(One { report, treated: None, branch: None });
        };
        let outcome = method.treat(&site.meta, weight, evidence);
        let Outcome { treated, damage, baseline_damage, fell_back, damping } =
            outcome.map_err(|message| Error::Site { site: name.clone(), message })?;
        report = SiteReport { damage, rtn_damage: baseline_damage, fell_back, damping, ..report };
        if choice.rank == 0 {
            return Ok(One { report, treated: Some(treated), branch: None });
        }
        let found = mend(self.quantizer, &*method, (site, choice.rank), weight, evidence, treated)?;
        report.bare_damage = Some(damage);
        report.damage = branching::damage(weight, &found.values, evidence)?;
        Ok(One { report, treated: Some(found.treated), branch: found.branch })
    }

    /// A weight and its branch as the file holds them: dense numbers have the branch in them.
    fn shaped(
        &self,
        site: &TreatedSite,
        treated: &Treated,
        branch: Option<&BranchFactors>,
    ) -> Result<(Treated, Option<BranchFactors>)> {
        match branch {
            Some(branch) if self.form == Form::Dense => {
                let mut mended = numbers(treated);
                branch.merge_into(&mut mended)?;
                Ok((self.form.shape(Treated::Dense(mended), site.dtype)?, None))
            }
            branch => Ok((self.form.shape(treated.clone(), site.dtype)?, branch.cloned())),
        }
    }

    /// Sites that no calibration data reaches (embedding, head).
    fn unobserved(&self, stage: usize) -> Result<TreatedStage> {
        let loaded = self.model.load(stage)?;
        let mut out = TreatedStage::default();
        for site in self.sites(stage) {
            let weight = loaded.sites().into_iter().find(|s| s.name() == site.meta.name).map(Site::to_f32);
            let weight = weight.ok_or_else(|| missing(&site.meta.name))?;
            let mut one = self.one(site, &weight, SiteEvidence::default())?;
            if let Some(treated) = one.treated {
                let (treated, branch) = self.shaped(site, &treated, one.branch.as_ref())?;
                (one.treated, one.branch) = (Some(treated), branch);
            }
            out.take(&site.meta.name, one);
        }
        Ok(out)
    }

    /// The sites of a block, group by group.
    fn block(
        &self,
        block: &mut BlockRun<'_>,
        observe: bool,
        (fisher, units): (Option<&Fisher>, Option<&Units>),
        stop: &dyn Fn() -> bool,
    ) -> Result<TreatedStage> {
        let mut out = TreatedStage::default();
        // What the model itself rounds is not written: what later blocks see must be what the file will hold.
        block.stage_mut().set_attention(None);
        for site in block.stage_mut().sites_mut() {
            site.set_activation(None)?;
        }
        if let Some(importance) = self.quantizer.importance.filter(|_| observe) {
            block.weigh(&importance)?;
        }
        let sites: BTreeMap<&str, &TreatedSite> =
            self.sites(block.index()).map(|s| (s.meta.name.as_str(), s)).collect();
        let activations = self.quantizer.activations.as_ref();
        let wiring = activations.filter(|a| a.reparameterize).map(|_| self.model.wiring());
        let groups = reading_groups(self.sites(block.index()).map(|site| &site.meta));
        for (i, group) in groups.iter().enumerate() {
            if let Some(activations) = activations {
                // Queries, keys and values come from the first group: what is behind them sees them as they will be.
                if i == 1 && activations.has_attention() {
                    out.quantized.quantize_attention(block, activations)?;
                }
                let dtype = |tensor: &str| Ok(self.model.checkpoint().require(tensor)?.dtype);
                let vectors = out.quantized.quantize(block, group, activations, wiring.as_ref(), &dtype)?;
                out.vectors.extend(vectors);
            }
            let group = group.as_slice();
            let moments = if observe { block.second_moments(group)? } else { BTreeMap::new() };
            let originals: Vec<(&str, &Site)> = group
                .iter()
                .map(|meta| Ok((meta.name.as_str(), block.site(&meta.name)?)))
                .collect::<Result<_>>()?;
            let treated = originals
                .par_iter()
                .map(|(name, original)| {
                    let moment = moments.get(*name).map(|h| h.as_ref());
                    let evidence = evidence_of(&sites[name].meta, moment, fisher);
                    self.one(sites[name], &original.to_f32(), evidence)
                })
                .collect::<Result<Vec<_>>>()?;
            let rewritten = activations.is_some_and(|activations| activations.rewrites());
            for (meta, mut one) in group.iter().zip(treated) {
                // A weight that stays dense is no longer that of the model.
                if one.treated.is_none() && rewritten {
                    one.treated = Some(Treated::Dense(block.site(&meta.name)?.to_f32()));
                }
                if let (true, Some(treated)) = (observe, &one.treated) {
                    let (treated, branch) =
                        self.shaped(sites[meta.name.as_str()], treated, one.branch.as_ref())?;
                    of_site(meta, treated, branch.as_ref())?.into_site(block.site_mut(&meta.name)?)?;
                }
                out.take(&meta.name, one);
            }
        }
        if let (Some(activations), [_]) = (activations.filter(|a| a.has_attention()), &groups[..]) {
            out.quantized.quantize_attention(block, activations)?;
        }
        if let (Some(units), Some(search)) = (units, activations.and_then(|a| a.clip_search.as_ref())) {
            out.quantized.search(block, &groups, units.of(block.index()), search)?;
        }
        let tuned = observe && self.quantizer.method != Method::Rtn;
        if let Some(settings) = self.quantizer.tuning.filter(|_| tuned) {
            out.tuned = self.tune(block, &mut out.weights, &out.branches, (&settings, stop))?;
        }
        for (name, treated) in &mut out.weights {
            let site = sites[name.as_str()];
            let (shaped, branch) = self.shaped(site, treated, out.branches.get(name))?;
            *treated = shaped;
            if branch.is_none() {
                out.branches.remove(name);
            }
            if out.tuned.is_some() {
                of_site(&site.meta, treated.clone(), branch.as_ref())?.into_site(block.site_mut(name)?)?;
            }
        }
        Ok(out)
    }

    /// Trains the scales, and real zero points, of a block whose codes are chosen until it gives what the original block gives on
    /// the same inputs; branches stay what they are, beside the codes. The error on held-out samples before and after; `None` where
    /// the block has no such codes.
    fn tune(
        &self,
        block: &mut BlockRun<'_>,
        weights: &mut BTreeMap<String, Treated>,
        branches: &BTreeMap<String, BranchFactors>,
        (settings, stop): (&ReconstructSettings, &dyn Fn() -> bool),
    ) -> Result<Option<[f64; 2]>> {
        let steps: Vec<(String, Steps)> = weights
            .iter()
            .filter_map(|(name, treated)| match treated {
                Treated::Coded(matrix) => Some((name.clone(), Steps::new(name, matrix)?)),
                Treated::Dense(_) => None,
            })
            .collect();
        if steps.is_empty() {
            return Ok(None);
        }
        // Where the file will hold dense numbers, a branch is in the weight that is about to be replaced.
        for (name, factors) in branches.iter().filter(|_| self.form == Form::Dense) {
            let site = block.site_mut(name)?;
            of_site(&site.meta().clone(), weights[name].clone(), Some(factors))?.into_site(site)?;
        }
        let parts: Vec<&dyn Part> = steps.iter().map(|(_, steps)| steps as &dyn Part).collect();
        let found = block.reconstruct(&parts, settings, stop)?;
        for ((name, steps), values) in steps.iter().zip(&found.values) {
            weights.insert(name.clone(), Treated::Coded(steps.matrix(values)?));
        }
        Ok(Some([found.before, found.after]))
    }

    /// Measures the statistics of the batch norms of a treated block anew and puts them in place, rounded as they are stored.
    fn tune_norms(&self, block: &mut BlockRun<'_>) -> Result<Vectors> {
        let mut vectors = block.norm_statistics()?;
        for (name, values) in &mut vectors {
            let dtype = self.model.checkpoint().require(name)?.dtype;
            *values = RawTensor::from_f32(vec![values.len()], values, dtype)?.to_f32()?;
        }
        block.put_vectors(&vectors)?;
        Ok(vectors)
    }

    /// Finds what rounds the inputs of a block once more: its norms give other numbers now.
    fn find_ranges_again(&self, block: &mut BlockRun<'_>, quantized: &mut QuantizedInputs) -> Result<()> {
        let Some(activations) = self.quantizer.activations.as_ref().filter(|a| a.needs_data()) else {
            return Ok(());
        };
        let dtype = |tensor: &str| Ok(self.model.checkpoint().require(tensor)?.dtype);
        for group in reading_groups(self.sites(block.index()).map(|site| &site.meta)) {
            for meta in &group {
                block.site_mut(&meta.name)?.set_activation(None)?;
            }
            quantized.quantize(block, &group, activations, None, &dtype)?;
        }
        Ok(())
    }

    /// Puts the weights of a finished block in place, so that the next block sees what it would have seen.
    fn restore(&self, block: &mut BlockRun<'_>, stage: &TreatedStage) -> Result<()> {
        for (name, treated) in &stage.weights {
            let site = block.site_mut(name)?;
            of_site(&site.meta().clone(), treated.clone(), stage.branches.get(name))?.into_site(site)?;
        }
        block.put_vectors(&stage.vectors)?;
        stage.quantized.put(block.stage_mut())
    }
}

#[cfg(test)]
mod tests;
