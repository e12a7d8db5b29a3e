//! Networks whose sites have different widths, chosen within a budget of operations.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use trimtab::floors::io::ImageSet;
use trimtab::floors::math::hutchinson::Probing;
use trimtab::floors::nn::{Network, SiteKind, SiteMeta};
use trimtab::floors::train::objectives::{Classify, soft_cross_entropy};
use trimtab::floors::train::quantized::{
    DoubleRounding as Widths, Joint, Mixed, Sampling, Switchable, renormalized, site_traces,
};
use trimtab::floors::train::{Dataset, Item, Silent, Trainer};
use trimtab::training::logits;

use super::{BATCH, BITS, Cause, Data, Size, settings, switchable};

/// Budgets, as the operations of a uniform network of this many bits: `b^2` a product.
pub(super) const BUDGETS: [f64; 3] = [10.0, 16.0, 26.0];
/// Batches that running statistics are found on once widths are chosen.
const BATCHES: usize = 10;

/// Accuracies of a network of mixed widths: at each budget, and at each uniform width.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub(super) sampling: Sampling,
    pub(super) budgets: Vec<f64>,
    pub(super) uniform: Vec<f64>,
}

pub(super) fn cells(seeds: &[u64]) -> Vec<(u64, Sampling)> {
    seeds.iter().flat_map(|&seed| [(seed, Sampling::Hasb), (seed, Sampling::Uniform)]).collect()
}

/// Multiplications of a site on an image of this network: the side halves where channels double.
fn products(meta: &SiteMeta) -> f64 {
    let side = match &meta.kind {
        SiteKind::Conv(_) => 16.0 * super::WIDTH as f64 / meta.rows as f64,
        _ => 1.0,
    };
    meta.numel() as f64 * side * side
}

/// Widths by index that cost least within a budget of products times squared bits: every assignment is looked at.
pub(super) fn allocate(costs: &[Vec<f64>], products: &[f64], budget: f64) -> Vec<usize> {
    let (n, widths) = (costs.len(), BITS.len());
    let mut best: Option<(f64, usize)> = None;
    for number in 0..widths.pow(n as u32) {
        let width = |site: usize| number / widths.pow(site as u32) % widths;
        let spent: f64 = (0..n).map(|i| products[i] * f64::from(BITS[width(i)]).powi(2)).sum();
        let cost: f64 = (0..n).map(|i| costs[i][width(i)]).sum();
        if spent <= budget && best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, number));
        }
    }
    let number = best.map_or(widths.pow(n as u32) - 1, |(_, number)| number);
    (0..n).map(|site| number / widths.pow(site as u32) % widths).collect()
}

/// Trains a network of mixed widths, chooses widths for each budget, and measures.
pub(super) fn trained(
    images: &[ImageSet; 2],
    start: &Network,
    size: Size,
    sampling: Sampling,
    seed: u64,
) -> std::result::Result<Chosen, Cause> {
    let data = Data::new(images, seed + 200)?;
    let mixed = Some(Mixed { sampling, extremes: true });
    let widths = Widths { widths: BITS.to_vec(), mixed, alrs: false, ..Widths::default() };
    let switchable = switchable(&data, start, &widths)?;
    let items: Vec<Item> = (0..BATCH).map(|index| Item { index, epoch: 0 }).collect();
    let batch = data.train.batch(&items, &Device::flex().autodiff())?;
    let loss = |network: &Network| {
        let said = logits(network, batch.images.clone(), &mut Default::default())?;
        let targets = batch.targets.distributions(10, 0.0, &said.device());
        Ok(soft_cross_entropy(said, targets))
    };
    let probing = Probing { least: 8, most: 16, seed, ..Probing::default() };
    let start = start.clone().fork(&Device::flex().autodiff());
    let traces = site_traces(&start, switchable.sites(), &probing, loss)?;
    let traces: Vec<f64> = traces.iter().map(|trace| trace.trace.max(0.0)).collect();
    // Three parts a step, of which four make one of the joint arms: as many backward passes.
    let settings = settings(seed + 200, size.epochs[1] * 4.0 / 3.0, 0.02);
    let inner = Classify::new(logits);
    let joint = Joint { traces: traces.clone(), ..Joint::new(&inner, widths) };
    let trainer = Trainer::new(&data.train, &joint, &settings, Device::flex());
    let found = trainer.run(switchable, &mut Silent::default())?.module.valid();
    let judge = Trainer::new(&data.train, &inner, &settings, Device::flex());
    let right = |choice: &[usize]| -> std::result::Result<f64, Cause> {
        let batch = |first: usize| -> std::result::Result<Tensor<4>, Cause> {
            let items: Vec<Item> =
                (first * BATCH..(first + 1) * BATCH).map(|index| Item { index, epoch: 0 }).collect();
            Ok(data.train.batch(&items, &Device::flex())?.images)
        };
        let batches: Vec<Tensor<4>> = (0..BATCHES).map(batch).collect::<std::result::Result<_, _>>()?;
        let network = renormalized(found.mixed(choice), batches, |network, images, ctx| {
            Ok(logits(network, images, ctx).map(drop)?)
        })?;
        Ok(judge.heldout_loss(&network, &data.test)?.accuracy.unwrap_or(0.0))
    };
    let costs = costs(&found, &traces);
    let products: Vec<f64> = found.sites().iter().map(products).collect();
    let total: f64 = products.iter().sum();
    let chosen = |&budget: &f64| right(&allocate(&costs, &products, budget * total));
    let budgets = BUDGETS.iter().map(chosen).collect::<std::result::Result<_, _>>()?;
    let uniform = |width: usize| right(&vec![width; costs.len()]);
    let uniform = (0..BITS.len()).map(uniform).collect::<std::result::Result<_, _>>()?;
    Ok(Chosen { sampling, budgets, uniform })
}

/// Trace a number of the site, times the squared error of its weights.
fn costs(found: &Switchable, traces: &[f64]) -> Vec<Vec<f64>> {
    let of = |((meta, errors), trace): ((&SiteMeta, Vec<f64>), &f64)| {
        errors.iter().map(|error| trace / meta.numel() as f64 * error).collect()
    };
    found.sites().iter().zip(found.weight_errors()).zip(traces).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_assignment_within_the_budget() {
        // Two sites of one product: the first suffers more. 16 + 64 = 80 allows 8 and 4 bits.
        let costs = [vec![0.0, 1.0, 10.0, 90.0], vec![0.0, 0.1, 0.5, 3.0]];
        assert_eq!(allocate(&costs, &[1.0, 1.0], 80.0), [0, 2]);
        assert_eq!(allocate(&costs, &[1.0, 1.0], 128.0), [0, 0]);
        assert_eq!(allocate(&costs, &[1.0, 1.0], 8.0), [3, 3]);
    }
}
