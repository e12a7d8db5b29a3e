//! The block stream: calibration data runs through one block at a time.
//!
//! A run holds the embedding (it may be borrowed by the head), one block, that block's statistics, and the hidden
//! states of the calibration set, never the model. Whoever drives the stream gets each block as a [`BlockRun`]: it may
//! observe sites, change them, and observe again; then the stream moves the hidden states on, through the changed
//! block or, where every block is to be seen undisturbed, through the block as it was.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use burn::tensor::Device;
use trimtab_math::linalg::Square;
use trimtab_nn::{Flow, Role, Site, SiteMeta, Stage, StageInfo, StageSource, TapSet};

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::moment::SecondMoment;
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
            let mut run = BlockRun { index, info, stage, hidden: &mut hidden, stream: self };
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

/// One block of a stream, with the inputs that reach it.
pub struct BlockRun<'s> {
    index: usize,
    info: &'s StageInfo,
    stage: Box<dyn Stage>,
    hidden: &'s mut HiddenStore,
    stream: &'s Stream<'s>,
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

    /// Runs all batches through the block as it now is and returns the second moment of each of `sites`, by name.
    /// Sites that read the same rows share one accumulation.
    pub fn second_moments(&mut self, sites: &[&SiteMeta]) -> Result<BTreeMap<String, Arc<Square>>> {
        let mut readers: BTreeMap<&str, (&SiteMeta, Arc<Mutex<SecondMoment>>)> = BTreeMap::new();
        for site in sites {
            let tap = || (*site, Arc::new(Mutex::new(SecondMoment::new(site.cols))));
            readers.entry(&site.reads).or_insert_with(tap);
        }
        let mut taps = TapSet::new();
        for (site, tap) in readers.values() {
            taps.attach(&site.name, Arc::clone(tap));
        }
        self.pass(Some(&mut taps), |_, _, _| Ok(()))?;
        taps.finish()?;
        let mut means = BTreeMap::new();
        for (reads, (site, tap)) in &readers {
            let moment = tap.lock().map_err(|_| Error::Treatment {
                site: site.name.clone(),
                message: "its observer panicked".into(),
            })?;
            let mean = Arc::new(moment.mean()?);
            let same = sites.iter().filter(|site| site.reads == *reads);
            means.extend(same.map(|site| (site.name.clone(), Arc::clone(&mean))));
        }
        Ok(means)
    }

    /// Moves the hidden states on, through the block as it now is.
    fn advance(&mut self) -> Result<()> {
        self.pass(None, |hidden, index, flow| hidden.put(index, flow))
    }

    fn pass(
        &mut self,
        mut taps: Option<&mut TapSet>,
        mut keep: impl FnMut(&mut HiddenStore, usize, Flow) -> Result<()>,
    ) -> Result<()> {
        for (index, batch) in self.stream.batches.iter().enumerate() {
            let flow = self.hidden.get(index, &self.stream.device)?.unwrap_or_else(|| batch.input.clone());
            let mut ctx = batch.ctx();
            ctx.taps = taps.as_deref_mut();
            let out = self.stage.forward(flow, &mut ctx)?;
            keep(self.hidden, index, out)?;
        }
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
