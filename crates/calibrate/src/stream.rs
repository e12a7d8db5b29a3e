//! The block stream: calibration data runs through one block at a time.
//!
//! A run holds the embedding (it may be borrowed by the head), one block, that block's statistics, and the hidden
//! states of the calibration set, never the model. Whoever drives the stream gets each block as a [`BlockRun`]: it may
//! observe sites, change them, and observe again; then the stream moves the hidden states on, through the changed
//! block or, where every block is to be seen undisturbed, through the block as it was.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use burn::tensor::Device;
use rayon::prelude::*;
use trimtab_nn::{
    BatchStatistics, Ctx, Flow, Operand, Role, Site, SiteMeta, Stage, StageInfo, StageSource, Tap, TapRows,
    TapSet, host,
};

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::importance::{self, Importance, Strategy};
use crate::moment::{Moment, SecondMoment};
use crate::norms::{Pooled, put_vectors};
use crate::reconstruct::{Part, ReconstructSettings, Reconstructed, Reconstruction, reconstruct};
use crate::store::HiddenStore;

/// Which inputs a block sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// Those of the original network.
    Original,
    /// Those that the already treated blocks really produce.
    Treated,
}

/// Settings of a stream.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// Which inputs a block sees.
    pub inputs: Inputs,
    /// Hidden states beyond so many bytes go to disk.
    pub memory_limit: usize,
    /// Where they go.
    pub spill_folder: PathBuf,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self { inputs: Inputs::Treated, memory_limit: 2 << 30, spill_folder: std::env::temp_dir() }
    }
}

/// A network that calibration data runs through, block by block.
pub struct Stream<'a> {
    source: &'a dyn StageSource,
    batches: &'a [Batch],
    settings: StreamSettings,
    device: Device,
}

impl<'a> Stream<'a> {
    /// A stream of `batches` through `source`.
    pub fn new(
        source: &'a dyn StageSource,
        batches: &'a [Batch],
        device: Device,
        settings: StreamSettings,
    ) -> Self {
        Self { source, batches, settings, device }
    }

    /// Runs the stages up to the last block and shows every block to `visit`. The head is not needed and not loaded.
    pub fn run<E: From<Error>>(
        &self,
        mut visit: impl FnMut(&mut BlockRun<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let stages = self.source.stages();
        let last = stages.iter().rposition(|stage| stage.role == Role::Block);
        let mut hidden =
            HiddenStore::new(self.batches.len(), self.settings.memory_limit, &self.settings.spill_folder);
        for (index, info) in stages.iter().enumerate().take(last.map_or(0, |last| last + 1)) {
            let stage = self.source.load(index).map_err(Error::from)?;
            let mut run =
                BlockRun { index, info, stage, hidden: &mut hidden, stream: self, weights: Vec::new() };
            if info.role != Role::Block {
                run.advance()?;
                continue;
            }
            if self.settings.inputs == Inputs::Original {
                visit(&mut run)?;
                run.stage = self.source.load(index).map_err(Error::from)?;
            } else {
                visit(&mut run)?;
            }
            if Some(index) != last {
                run.advance()?;
            }
        }
        Ok(())
    }
}

/// The second moment of a site's inputs, of all data and of their first half.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Of all data.
    pub whole: Arc<Moment>,
    /// Of the first half of the batches; absent where either half has no rows.
    pub first: Option<Arc<FirstHalf>>,
}

/// The second moment over the first half of the batches.
///
/// What is linear in the second moment (an output error, a power) is known of the second half as well: the whole is the
/// mean of both, weighted by their rows.
#[derive(Clone, Debug)]
pub struct FirstHalf {
    /// The second moment.
    pub moment: Moment,
    /// Share of its rows in all, strictly between 0 and 1.
    pub share: f64,
}

impl FirstHalf {
    /// The value on the second half of something linear, from those on the whole and on the first half.
    pub fn second(&self, whole: f64, first: f64) -> f64 {
        ((whole - self.share * first) / (1.0 - self.share)).max(0.0)
    }
}

/// One block of a stream, with the inputs that reach it.
pub struct BlockRun<'s> {
    index: usize,
    info: &'s StageInfo,
    stage: Box<dyn Stage>,
    hidden: &'s mut HiddenStore,
    stream: &'s Stream<'s>,
    /// Weights of the rows of each batch, in place of the batch's own; empty without.
    weights: Vec<Vec<f64>>,
}

impl BlockRun<'_> {
    /// Index of the stage in the network.
    pub fn index(&self) -> usize {
        self.index
    }

    /// What is known of the block.
    pub fn info(&self) -> &StageInfo {
        self.info
    }

    /// One of its sites.
    pub fn site(&self, name: &str) -> Result<&Site> {
        let found = self.stage.sites().into_iter().find(|site| site.name() == name);
        found.ok_or_else(|| Error::NoSite { block: self.info.name.clone(), site: name.into() })
    }

    /// One of its sites, to be changed.
    pub fn site_mut(&mut self, name: &str) -> Result<&mut Site> {
        let found = self.stage.sites_mut().into_iter().find(|site| site.name() == name);
        found.ok_or_else(|| Error::NoSite { block: self.info.name.clone(), site: name.into() })
    }

    /// The block.
    pub fn stage(&self) -> &dyn Stage {
        &*self.stage
    }

    /// The block, to be changed.
    pub fn stage_mut(&mut self) -> &mut dyn Stage {
        &mut *self.stage
    }

    /// Runs all batches through the block as it now is and shows `see` the numbers of the operands of its attention, in the order
    /// of the batches. Whether it has any.
    pub fn each_operand(&mut self, mut see: impl FnMut(Operand, &[f32]) -> Result<()>) -> Result<bool> {
        let mut any = false;
        for indices in self.rounds() {
            let flows = self.inputs(indices.clone())?;
            let run = |(flow, batch): (Flow, &Batch)| -> Result<_> {
                let mut operands = Vec::new();
                let mut ctx = Ctx { attention_operands: Some(&mut operands), ..batch.ctx() };
                self.stage.forward(flow, &mut ctx)?;
                Ok(operands)
            };
            let seen: Result<Vec<_>> =
                flows.into_par_iter().zip(&self.stream.batches[indices]).map(run).collect();
            for (operand, values) in seen?.into_iter().flatten() {
                any = true;
                see(operand, &values)?;
            }
        }
        Ok(any)
    }

    /// Trains `parts` of the block as it now is until it gives what the original block gives on the same inputs, and leaves the
    /// block as it is: whoever brought the parts knows what to make of their numbers.
    pub fn reconstruct(
        &mut self,
        parts: &[&dyn Part],
        settings: &ReconstructSettings,
        stop: &dyn Fn() -> bool,
    ) -> Result<Reconstructed> {
        let target = self.stream.source.load(self.index)?;
        let (block, batches, device) = (&*self.stage, self.stream.batches, &self.stream.device);
        let hidden = RefCell::new(&mut *self.hidden);
        let inputs = |i: usize| -> Result<Flow> {
            let stored = hidden.borrow_mut().get(i, device)?;
            Ok(stored.unwrap_or_else(|| batches[i].input.clone()))
        };
        let of = Reconstruction { block, target: &*target, batches, inputs: &inputs, stop };
        reconstruct(&of, parts, settings)
    }

    /// Runs all batches through the block as it now is, its batch norms going by each batch as in training, and gives their new
    /// statistics by the name of the tensor; the block stays as it is.
    ///
    /// # Errors
    /// A block that fails, and norms that were folded.
    pub fn norm_statistics(&mut self) -> Result<BTreeMap<String, Vec<f32>>> {
        let mut pooled = Pooled::default();
        for indices in self.rounds() {
            let flows = self.inputs(indices.clone())?;
            let run = |(flow, batch): (Flow, &Batch)| -> Result<(Vec<BatchStatistics>, usize)> {
                let mut seen = Vec::new();
                let mut ctx = Ctx { batch_statistics: Some(&mut seen), ..batch.ctx() };
                self.stage.forward(flow, &mut ctx)?;
                Ok((seen, batch.rows()))
            };
            let found: Result<Vec<_>> =
                flows.into_par_iter().zip(&self.stream.batches[indices]).map(run).collect();
            found?.iter().for_each(|(seen, images)| pooled.add(seen, *images));
        }
        pooled.buffers(&*self.stage)
    }

    /// The block as the source has it.
    pub fn original(&self) -> Result<Box<dyn Stage>> {
        Ok(self.stream.source.load(self.index)?)
    }

    /// What reaches the block of some batches, and the batches.
    pub fn sampled(&mut self, batches: &[usize]) -> Result<Vec<(Flow, Batch)>> {
        let one = |&i: &usize| Ok((self.inputs(i..i + 1)?.remove(0), self.stream.batches[i].clone()));
        batches.iter().map(one).collect()
    }

    /// The batches of the stream.
    pub fn batches(&self) -> &[Batch] {
        self.stream.batches
    }

    /// Puts vectors of the block in place, by the names of their tensors.
    ///
    /// # Errors
    /// A name that no vector of the block has, or another length.
    pub fn put_vectors(&mut self, vectors: &BTreeMap<String, Vec<f32>>) -> Result<()> {
        put_vectors(&mut *self.stage, vectors)
    }

    /// Runs all batches through the block as it now is and returns the second moment of each of `sites`, by name.
    /// Sites that read the same rows share one accumulation; a site that no row of positive weight reached has none.
    pub fn second_moments(&mut self, sites: &[&SiteMeta]) -> Result<BTreeMap<String, Arc<Moment>>> {
        let found = self.accumulate(sites, None)?;
        Ok(found.into_iter().map(|(name, moments)| (name, moments.whole)).collect())
    }

    /// [`Self::second_moments`], and beside each that of the first half of the batches.
    ///
    /// The sums of the whole are the same to the last bit: the first half is what they are on the way.
    pub fn second_moments_by_half(&mut self, sites: &[&SiteMeta]) -> Result<BTreeMap<String, Moments>> {
        let half = self.stream.batches.len() / 2;
        self.accumulate(sites, (half > 0).then_some(half))
    }

    /// Weighs the tokens of all batches for what is observed of this block from now on: by the block as it now is and by what
    /// reaches it. Meant to be called once, before anything of the block is changed.
    ///
    /// # Errors
    /// [`Error::Treatment`] where the block is not one that texts flow through, or has no attention to go by.
    pub fn weigh(&mut self, importance: &Importance) -> Result<()> {
        let rarity = Rarity::of(self.stream.batches, importance);
        let mut all = Vec::with_capacity(self.stream.batches.len());
        for indices in self.rounds() {
            let flows = self.inputs(indices.clone())?;
            let name = &self.info.name;
            let run = |(i, (flow, batch)): (usize, (Flow, &Batch))| -> Result<Vec<f64>> {
                let fail = |message: &str| Error::Treatment { site: name.clone(), message: message.into() };
                let Flow::Hidden(x) = &flow else {
                    return Err(fail("token importance is for blocks that one text flows through"));
                };
                let ([b, t, width], rows) = (x.dims(), host(x.clone()));
                let keep: Vec<bool> = match &batch.mask {
                    Some(mask) => mask.clone().into_data().iter::<bool>().collect(),
                    None => vec![true; b * t],
                };
                let mut mass = Vec::new();
                let after = match importance.strategy {
                    Strategy::Attention | Strategy::Change => {
                        let mut ctx = Ctx { attention_mass: Some(&mut mass), ..batch.ctx() };
                        Some(self.stage.forward(flow.clone(), &mut ctx)?)
                    }
                    _ => None,
                };
                let scores = match importance.strategy {
                    Strategy::Uniform | Strategy::First | Strategy::FirstAndLast => vec![0.0; b * t],
                    Strategy::Attention if mass.len() == b * t => mass,
                    Strategy::Attention => return Err(fail("it has no attention between its tokens")),
                    Strategy::Norm => importance::norms(&rows, width),
                    Strategy::Change => {
                        let Some(Flow::Hidden(after)) = after else {
                            return Err(fail("it gives no hidden states"));
                        };
                        let change: Vec<f32> = host(after).iter().zip(&rows).map(|(a, b)| a - b).collect();
                        importance::norms(&change, width).into_iter().map(|norm| -norm).collect()
                    }
                    Strategy::Distance => (rows.chunks_exact(t * width).zip(keep.chunks_exact(t)))
                        .flat_map(|(rows, keep)| importance::distances(rows, width, keep))
                        .collect(),
                    Strategy::Rarity => rarity.scores(batch, b * t),
                };
                let sequence = |(j, (scores, keep)): (usize, (&[f64], &[bool]))| {
                    importance.weights(scores, keep, ((i as u64) << 20) + j as u64)
                };
                let parts = scores.chunks_exact(t.max(1)).zip(keep.chunks_exact(t.max(1)));
                Ok(parts.enumerate().flat_map(sequence).collect())
            };
            let batches = indices.clone().zip(flows.into_iter().zip(&self.stream.batches[indices]));
            let batches: Vec<_> = batches.collect();
            all.extend(batches.into_par_iter().map(run).collect::<Result<Vec<_>>>()?);
        }
        self.weights = all;
        Ok(())
    }

    /// Runs all batches through the block as it now is and shows `see` the rows that enter each of `sites`, with their
    /// weights in the batch, in the order of the batches. Tokens that [`Self::weigh`] takes for unimportant are seen like all others:
    /// they will come, and ranges have to hold them.
    pub fn each_input(
        &mut self,
        sites: &[&str],
        mut see: impl FnMut(&str, &[f32], Option<&[f64]>),
    ) -> Result<()> {
        for indices in self.rounds() {
            for seen in self.look(indices, sites, false)? {
                for (site, rows) in sites.iter().zip(seen) {
                    rows.iter().for_each(|seen| see(site, &seen.rows, seen.weights.as_deref()));
                }
            }
        }
        Ok(())
    }

    /// Sums all batches; a copy is taken after `half` of them.
    fn accumulate(&mut self, sites: &[&SiteMeta], half: Option<usize>) -> Result<BTreeMap<String, Moments>> {
        let mut readers: BTreeMap<&str, (&SiteMeta, SecondMoment)> = BTreeMap::new();
        for site in sites {
            readers.entry(&site.reads).or_insert_with(|| (*site, SecondMoment::of(site)));
        }
        let names: Vec<&str> = readers.values().map(|(site, _)| site.name.as_str()).collect();
        let mut firsts: BTreeMap<&str, (Moment, f64)> = BTreeMap::new();
        let mut seen_batches = 0;
        for indices in self.rounds() {
            for seen in self.look(indices, &names, true)? {
                for ((site, moment), rows) in readers.values_mut().zip(seen) {
                    for Seen { rows, weights, run } in &rows {
                        let (width, weights, run) = (site.cols, weights.as_deref(), *run);
                        let rows = TapRows { rows, width, weights, run };
                        let failed = |message| Error::Treatment { site: site.name.clone(), message };
                        moment.input(site, rows).map_err(failed)?;
                    }
                }
                seen_batches += 1;
                if Some(seen_batches) == half {
                    for (reads, (_, moment)) in readers.iter().filter(|(_, (_, m))| m.sum_w() > 0.0) {
                        firsts.insert(reads, (moment.moment()?, moment.sum_w()));
                    }
                }
            }
        }
        let mut found = BTreeMap::new();
        // An expert that no token was sent to has no second moment; its sites are treated without one.
        for (reads, (_, moment)) in readers.iter().filter(|(_, (_, moment))| moment.sum_w() > 0.0) {
            let total = moment.sum_w();
            // Rows that all lie in one half cannot be held against the other.
            let first = firsts.remove(reads).filter(|(_, weight)| *weight < total);
            let first = first.map(|(moment, weight)| FirstHalf { moment, share: weight / total });
            let moments = Moments { whole: Arc::new(moment.moment()?), first: first.map(Arc::new) };
            let same = sites.iter().filter(|site| site.reads == *reads);
            found.extend(same.map(|site| (site.name.clone(), moments.clone())));
        }
        Ok(found)
    }

    /// Moves the hidden states on, through the block as it now is.
    fn advance(&mut self) -> Result<()> {
        for indices in self.rounds() {
            let flows = self.inputs(indices.clone())?;
            let run = |(flow, batch): (Flow, &Batch)| Ok(self.stage.forward(flow, &mut batch.ctx())?);
            let moved: Result<Vec<Flow>> =
                flows.into_par_iter().zip(&self.stream.batches[indices.clone()]).map(run).collect();
            for (index, flow) in indices.zip(moved?) {
                self.hidden.put(index, flow)?;
            }
        }
        Ok(())
    }

    /// Batches in the portions that run at once.
    fn rounds(&self) -> Vec<Range<usize>> {
        let (n, size) = (self.stream.batches.len(), rayon::current_num_threads());
        (0..n).step_by(size).map(|first| first..(first + size).min(n)).collect()
    }

    /// What reaches the block of some batches.
    fn inputs(&mut self, indices: Range<usize>) -> Result<Vec<Flow>> {
        let device = &self.stream.device;
        indices
            .map(|i| {
                let stored = self.hidden.get(i, device)?;
                Ok(stored.unwrap_or_else(|| self.stream.batches[i].input.clone()))
            })
            .collect()
    }

    /// Runs some batches through the block at once, as far as the inputs of `sites`: the rows that enter each, per batch, with the
    /// weights of [`Self::weigh`] if they are to be `weighed`. Whoever sums them in the order of the batches gets the same bytes at any number of threads.
    fn look(&mut self, indices: Range<usize>, sites: &[&str], weighed: bool) -> Result<Vec<Vec<Rows>>> {
        let flows = self.inputs(indices.clone())?;
        let run = |(index, (flow, batch)): (usize, (Flow, &Batch))| -> Result<Vec<Rows>> {
            let records: Vec<_> = sites.iter().map(|_| Arc::new(Mutex::new(Record::default()))).collect();
            let mut taps = TapSet::new();
            for (site, record) in sites.iter().zip(&records) {
                taps.attach(*site, Arc::clone(record));
            }
            let mut ctx = Ctx { taps: Some(&mut taps), taps_only: true, ..batch.ctx() };
            if let Some(weights) = self.weights.get(index).filter(|_| weighed) {
                ctx.row_weights = Some(weights);
            }
            self.stage.forward(flow, &mut ctx)?;
            taps.finish()?;
            let take =
                |record: Arc<Mutex<Record>>| std::mem::take(&mut record.lock().expect("no tap panics").0);
            Ok(records.into_iter().map(take).collect())
        };
        let batches: Vec<_> =
            indices.clone().zip(flows.into_iter().zip(&self.stream.batches[indices])).collect();
        batches.into_par_iter().map(run).collect()
    }
}

/// How often each token occurs in the calibration data.
struct Rarity(BTreeMap<i64, u64>);

impl Rarity {
    fn of(batches: &[Batch], importance: &Importance) -> Self {
        let mut counts = BTreeMap::new();
        for batch in batches.iter().filter(|_| importance.strategy == Strategy::Rarity) {
            Self::ids(batch).into_iter().for_each(|id| *counts.entry(id).or_default() += 1);
        }
        Self(counts)
    }

    fn ids(batch: &Batch) -> Vec<i64> {
        match &batch.input {
            Flow::Tokens(ids) => ids.clone().into_data().iter::<i64>().collect(),
            _ => Vec::new(),
        }
    }

    /// Less the number of times that each token of a batch occurs; zeros where the batch is no text.
    fn scores(&self, batch: &Batch, n: usize) -> Vec<f64> {
        let ids = Self::ids(batch);
        match ids.len() == n {
            true => ids.iter().map(|id| -(self.0.get(id).copied().unwrap_or(0) as f64)).collect(),
            false => vec![0.0; n],
        }
    }
}

/// Rows that entered a site in one call: [`TapRows`].
struct Seen {
    rows: Vec<f32>,
    weights: Option<Vec<f64>>,
    run: usize,
}

/// Call by call.
type Rows = Vec<Seen>;

/// A tap that keeps the rows of one batch.
#[derive(Default)]
struct Record(Rows);

impl Tap for Record {
    fn input(&mut self, _: &SiteMeta, rows: TapRows<'_>) -> std::result::Result<(), String> {
        let TapRows { rows, weights, run, .. } = rows;
        self.0.push(Seen { rows: rows.to_vec(), weights: weights.map(<[f64]>::to_vec), run });
        Ok(())
    }
}

/// The sites of a block in groups that read the same rows, in the order in which data reaches them.
pub fn reading_groups<'m>(sites: impl IntoIterator<Item = &'m SiteMeta>) -> Vec<Vec<&'m SiteMeta>> {
    let mut groups: Vec<Vec<&SiteMeta>> = Vec::new();
    for site in sites {
        match groups.last_mut() {
            Some(group) if group[0].reads == site.reads => group.push(site),
            _ => groups.push(vec![site]),
        }
    }
    groups
}
