//! The gauge: how far the model's output moves, on a fixed set of batches, when weights change.

use std::collections::BTreeMap;

use rayon::prelude::*;
use trimtab_calibrate::Batch;
use trimtab_eval::{Measure, Reference};
use trimtab_nn::{Branch, Flow, Network, Site, Task, Weight};

use crate::error::{Error, Result};

/// Tokens (or images) that a gauge looks at, in whole batches, unless something else is asked for.
pub const GAUGE_ROWS: usize = 2048;

/// Outputs of the original network on some batches, and the hidden states before every stage.
///
/// A change of one site is measured from its stage on: what comes before it is remembered.
pub struct Gauge {
    task: Task,
    batches: Vec<Batch>,
    reference: Reference,
    /// `before[stage][batch]`: what reaches the stage in the original network.
    before: Vec<Vec<Flow>>,
    last: usize,
}

/// What stands in for what a site holds.
#[derive(Clone, Debug)]
pub struct Put {
    /// The weight.
    pub weight: Weight,
    /// The branches beside it.
    pub branches: Vec<Branch>,
}

impl Put {
    /// Puts it in place; returns what was there.
    ///
    /// # Errors
    /// Shapes that are not those of the site, which is as before then.
    pub fn into_site(self, site: &mut Site) -> Result<Self> {
        let before = Self { weight: site.weight.clone(), branches: site.branches.clone() };
        site.set_weight(self.weight)?;
        if let Err(error) = site.set_branches(self.branches) {
            site.set_weight(before.weight)?;
            return Err(error.into());
        }
        Ok(before)
    }
}

impl From<Weight> for Put {
    fn from(weight: Weight) -> Self {
        Self { weight, branches: Vec::new() }
    }
}

/// What stands in for what the sites of a network hold, by site.
pub type Overlay = BTreeMap<String, Put>;

impl Gauge {
    /// Runs the original network on the first batches, up to [`GAUGE_ROWS`] rows.
    pub fn new(network: &Network, task: Task, batches: &[Batch]) -> Result<Self> {
        Self::with(network, task, batches, (Measure::default(), GAUGE_ROWS))
    }

    /// [`Self::new`], for another measure of the output, or with another number of rows: so many batches that they have at least those.
    pub fn with(
        network: &Network,
        task: Task,
        batches: &[Batch],
        (measure, most): (Measure, usize),
    ) -> Result<Self> {
        let mut rows = 0;
        let enough = batches.iter().take_while(|batch| {
            let take = rows < most;
            rows += batch.rows();
            take
        });
        let batches: Vec<Batch> = enough.cloned().collect();
        // An encoder is judged by its hidden states: its head is not run.
        let last = if task == Task::Encoder { network.features() } else { network.stages().len() };
        let mut reference = Reference::with(task, measure);
        let (before, outputs) = states(network, last, &batches)?;
        for (output, batch) in outputs.into_iter().zip(&batches) {
            reference.push(output, &batch.ctx())?;
        }
        Ok(Self { task, batches, reference, before, last })
    }

    /// What the network does.
    pub fn task(&self) -> Task {
        self.task
    }

    /// Bytes that the gauge holds.
    pub fn bytes(&self) -> usize {
        fn one(flow: &Flow) -> usize {
            match flow {
                Flow::Tokens(x) => 8 * x.dims().iter().product::<usize>(),
                Flow::Hidden(x) => 4 * x.dims().iter().product::<usize>(),
                Flow::Image(x) => 4 * x.dims().iter().product::<usize>(),
                Flow::Vector(x) => 4 * x.dims().iter().product::<usize>(),
                Flow::Pair(both) => one(&both.0) + one(&both.1),
            }
        }
        self.reference.bytes() + self.before.iter().flatten().map(one).sum::<usize>()
    }

    /// Divergence of `network`, as it now is, from the original; stages before `first` must be those of `before`.
    fn divergence(&self, network: &Network, before: &[Vec<Flow>], first: usize) -> Result<f64> {
        let first = first.min(self.last.saturating_sub(1));
        let divergence = self.reference.mean(|i| -> Result<_> {
            let batch = &self.batches[i];
            let flow = before[first][i].clone();
            let out = network.forward_range(first, self.last, flow, &mut batch.ctx())?;
            Ok(self.reference.measure(i, out, &batch.ctx())?)
        })?;
        Ok(divergence.mean)
    }

    /// Divergence with one site changed; the network is as before afterwards.
    pub fn with_site(&self, network: &mut Network, site: &str, weight: Weight) -> Result<f64> {
        self.with_overlay(network, &Overlay::from([(site.to_string(), weight.into())]))
    }

    /// Divergence with several sites changed; the network is as before afterwards.
    pub fn with_overlay(&self, network: &mut Network, overlay: &Overlay) -> Result<f64> {
        let (first, undo) = put(network, overlay)?;
        let divergence = self.divergence(network, &self.before, first);
        put(network, &undo)?;
        divergence
    }

    /// For every site of an overlay, by how much the divergence falls if this one site is put back as it was.
    ///
    /// `whole` is the divergence with the overlay; `progress` is told how many sites are done.
    pub fn without_each(
        &self,
        network: &mut Network,
        overlay: &Overlay,
        whole: f64,
        mut progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<BTreeMap<String, f64>> {
        let (_, originals) = put(network, overlay)?;
        let falls = states(network, self.last, &self.batches).and_then(|(before, _)| {
            let mut falls = BTreeMap::new();
            for (i, (name, original)) in originals.iter().enumerate() {
                let (first, undo) = put(network, &Overlay::from([(name.clone(), original.clone())]))?;
                let divergence = self.divergence(network, &before, first);
                put(network, &undo)?;
                falls.insert(name.clone(), whole - divergence?);
                progress(i + 1)?;
            }
            Ok(falls)
        });
        put(network, &originals)?;
        falls
    }
}

/// What reaches every stage before `last`, and what the last of them gives, batch by batch.
fn states(network: &Network, last: usize, batches: &[Batch]) -> Result<(Vec<Vec<Flow>>, Vec<Flow>)> {
    let run = |batch: &Batch| -> Result<(Vec<Flow>, Flow)> {
        let mut flow = batch.input.clone();
        let mut before = Vec::with_capacity(last);
        for stage in 0..last {
            before.push(flow.clone());
            flow = network.forward_range(stage, stage + 1, flow, &mut batch.ctx())?;
        }
        Ok((before, flow))
    };
    let mut before: Vec<Vec<Flow>> = vec![Vec::new(); last];
    let mut outputs = Vec::new();
    for (states, output) in batches.par_iter().map(run).collect::<Result<Vec<_>>>()? {
        before.iter_mut().zip(states).for_each(|(kept, flow)| kept.push(flow));
        outputs.push(output);
    }
    Ok((before, outputs))
}

/// Puts weights and branches in place; returns the first stage that changed and what was there.
pub fn put(network: &mut Network, overlay: &Overlay) -> Result<(usize, Overlay)> {
    let mut first = usize::MAX;
    let mut undo = Overlay::new();
    for (name, new) in overlay {
        let Some((stage, site)) = network.site_mut(name) else {
            return Err(Error::Site { site: name.clone(), message: "the model has no such site".into() });
        };
        undo.insert(name.clone(), new.clone().into_site(site)?);
        first = first.min(stage);
    }
    Ok((if first == usize::MAX { 0 } else { first }, undo))
}
