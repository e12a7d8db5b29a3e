//! The empirical Fisher information of sites: the squared gradients of single samples, number by number, averaged over the samples.
//!
//! Half of `Σ F δ²` is, to second order and along the axes, by how much a change `δ` of the weights makes the answers of the
//! network diverge, as long as the network is what the samples are drawn from. LQ-LoRA (arXiv 2311.12023) weighs errors by it.
//!
//! The gradient of a batch is no help: squares of sums are no sums of squares. Each sample goes through alone.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use trimtab_nn::{HeldMut, LayerMut, Network, Weight, host};

use crate::batch::Batch;
use crate::error::Error;
use crate::reconstruct::{items, part_of};

/// Fisher information of each number of a weight `[out, in]`, by site.
pub type Fisher = BTreeMap<String, Vec<f32>>;

/// The mean of squared gradients of `loss` for the weights of `sites`, over all samples of `batches`. All weights of `network` are parameters of
/// the framework, on a device with gradients; `loss` maps the network's output for one sample, and that sample, to `[1]`.
/// `go_on` hears how many of how many samples are done; `None` if it says no.
///
/// # Errors
/// [`Error::Fisher`] for a site that the network does not have or that no gradient reaches, and what the network or `loss` meets.
pub fn empirical_fisher<E: From<Error>>(
    network: &Network,
    sites: &[&str],
    batches: &[Batch],
    loss: &mut dyn FnMut(&Network, &Batch) -> std::result::Result<Tensor<1>, E>,
    go_on: &mut dyn FnMut(usize, usize) -> bool,
) -> std::result::Result<Option<Fisher>, E> {
    let network = only(network, sites);
    let samples: usize = batches.iter().map(|batch| items(&batch.input)).sum();
    let (mut sums, mut done): (BTreeMap<&str, Vec<f64>>, usize) = (BTreeMap::new(), 0);
    for batch in batches {
        for index in 0..items(&batch.input) {
            let gradients = loss(&network, &single(batch, index))?.backward();
            for site in network.sites().filter(|site| sites.contains(&site.name())) {
                let Weight::Dense(weight) = &site.weight else { continue };
                let Some(gradient) = weight.val().grad(&gradients) else { continue };
                let gradient = host(gradient);
                let name = sites[sites.iter().position(|name| *name == site.name()).unwrap_or(0)];
                let sums = sums.entry(name).or_insert_with(|| vec![0.0; gradient.len()]);
                sums.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += f64::from(g) * f64::from(g));
            }
            done += 1;
            if !go_on(done, samples) {
                return Ok(None);
            }
        }
    }
    if let Some(site) = sites.iter().find(|site| !sums.contains_key(*site)) {
        return Err(Error::Fisher { site: (*site).into() }.into());
    }
    let mean = |sums: Vec<f64>| sums.into_iter().map(|sum| (sum / samples.max(1) as f64) as f32).collect();
    Ok(Some(sums.into_iter().map(|(site, sums)| (site.to_string(), mean(sums))).collect()))
}

/// One sample of a batch, where gradients are kept.
fn single(batch: &Batch, index: usize) -> Batch {
    let device = Device::flex().autodiff();
    let rows = index..index + 1;
    let input = part_of(&batch.input, &rows).tracked(&device);
    let mask = batch.mask.clone().map(|mask| Tensor::from_data(mask.slice([rows]).into_data(), &device));
    Batch { input, mask, row_weights: None }
}

/// The network with gradients for the weights of these sites alone.
fn only(network: &Network, sites: &[&str]) -> Network {
    let mut network = network.clone();
    for index in 0..network.stages().len() {
        for mut layer in network.stage_mut(index).layers_mut() {
            let wanted = match &mut layer {
                LayerMut::Site(site) => sites.contains(&site.name()),
                _ => false,
            };
            for (path, held) in layer.held() {
                let keep = wanted && path.ends_with(".weight");
                match held {
                    HeldMut::Vector(param) => *param = leaf(param.val(), keep),
                    HeldMut::Matrix(param) => *param = leaf(param.val(), keep),
                }
            }
        }
    }
    network
}

fn leaf<const D: usize>(value: Tensor<D>, keep: bool) -> Param<Tensor<D>> {
    let value = value.without_autodiff().autodiff();
    let value = if keep { value.require_grad() } else { value };
    Param::initialized(burn::module::ParamId::new(), value)
}
