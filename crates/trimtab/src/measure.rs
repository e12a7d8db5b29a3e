//! The gauge: how far the model's output moves, on a fixed set of batches, when weights change.

use std::collections::BTreeMap;

use trimtab_calibrate::Batch;
use trimtab_eval::Reference;
use trimtab_nn::{Flow, Network, Task, Weight};

use crate::error::{Error, Result};

/// Tokens (or images) that a gauge looks at, at most.
const GAUGE_ROWS: usize = 4096;

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

/// Weights that stand in for those of a network, by site.
pub type Overlay = BTreeMap<String, Weight>;

impl Gauge {
    /// Runs the original network on the first batches, up to [`GAUGE_ROWS`] rows.
    pub fn new(network: &Network, task: Task, batches: &[Batch]) -> Result<Self> {
        let mut rows = 0;
        let enough = batches.iter().take_while(|batch| {
            let take = rows < GAUGE_ROWS;
            rows += batch.rows();
            take
        });
        let batches: Vec<Batch> = enough.cloned().collect();
        // An encoder is judged by its hidden states: its head is not run.
        let last = if task == Task::Encoder { network.features() } else { network.stages().len() };
        let mut reference = Reference::new(task);
        let mut before: Vec<Vec<Flow>> = vec![Vec::new(); last];
        for batch in &batches {
            let mut flow = batch.input.clone();
            for (stage, kept) in before.iter_mut().enumerate() {
                kept.push(flow.clone());
                flow = network.forward_range(stage, stage + 1, flow, &mut batch.ctx())?;
            }
            reference.push(flow, &batch.ctx())?;
        }
        Ok(Self { task, batches, reference, before, last })
    }

    /// What the network does.
    pub fn task(&self) -> Task {
        self.task
    }

    /// Bytes that the gauge holds.
    pub fn bytes(&self) -> usize {
        let one = |flow: &Flow| match flow {
            Flow::Tokens(x) => 8 * x.dims().iter().product::<usize>(),
            Flow::Hidden(x) => 4 * x.dims().iter().product::<usize>(),
            Flow::Image(x) => 4 * x.dims().iter().product::<usize>(),
            Flow::Vector(x) => 4 * x.dims().iter().product::<usize>(),
        };
        self.reference.bytes() + self.before.iter().flatten().map(one).sum::<usize>()
    }

    /// Divergence of `network`, as it now is, from the original; stages before `first` must be unchanged.
    fn divergence(&self, network: &Network, first: usize) -> Result<f64> {
        let divergence = self.reference.mean(|i| {
            let batch = &self.batches[i];
            let flow = self.before[first][i].clone();
            let out = network.forward_range(first, self.last, flow, &mut batch.ctx())?;
            self.reference.measure(i, out, &batch.ctx())
        })?;
        Ok(divergence.mean)
    }

    /// Divergence with one site changed; the network is as before afterwards.
    pub fn with_site(&self, network: &mut Network, site: &str, weight: Weight) -> Result<f64> {
        self.with_overlay(network, &Overlay::from([(site.to_string(), weight)]))
    }

    /// Divergence with several sites changed; the network is as before afterwards.
    pub fn with_overlay(&self, network: &mut Network, overlay: &Overlay) -> Result<f64> {
        let (first, undo) = put(network, overlay)?;
        let divergence = self.divergence(network, first.min(self.last.saturating_sub(1)));
        put(network, &undo)?;
        divergence
    }
}

/// Puts weights in place; returns the first stage that changed and the weights that were there.
pub fn put(network: &mut Network, overlay: &Overlay) -> Result<(usize, Overlay)> {
    let mut first = usize::MAX;
    let mut undo = Overlay::new();
    for (name, weight) in overlay {
        let Some((stage, site)) = network.site_mut(name) else {
            return Err(Error::Site { site: name.clone(), message: "the model has no such site".into() });
        };
        undo.insert(name.clone(), site.weight.clone());
        site.set_weight(weight.clone())?;
        first = first.min(stage);
    }
    Ok((if first == usize::MAX { 0 } else { first }, undo))
}
