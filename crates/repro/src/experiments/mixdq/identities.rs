//! Exact identities: what is kept of the first word, and the allocator with two bounds.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use trimtab::floors::io::{ActivationGranularity, ActivationScheme};
use trimtab::floors::math::random::Stream;
use trimtab::floors::nn::{ActivationQuantizer, Ctx, Flow, Network, Weight, host};
use trimtab::floors::plan::{PriceList, SiteOption, SitePrices, SolveOptions, TwoGroups, solve_within};

use super::super::pictures::Cause;
use super::generator::{self, SIDE, reads_words};
use super::subject::keep_first_word;
use crate::experiment::Check;

type Attempt<T> = std::result::Result<T, Cause>;

pub(super) fn all() -> Attempt<Vec<Check>> {
    let [kept, lost] = first_word()?;
    let (missed, off) = program()?;
    let check = |identity, deviation, tolerance| Check { identity, deviation, tolerance };
    Ok(vec![
        check(
            "a text of the first word alone gives what the original gives, whatever the bits of keys and values",
            kept,
            1e-5,
        ),
        check(
            "control: without the kept word it does not (1 if it does)",
            f64::from(u8::from(lost < 1e-3)),
            0.0,
        ),
        check("the plan of 8 layers within two bounds is that of all combinations", missed, 1e-9),
        check("its size lies within 0.02 bits of the target", off, 0.02 + 1e-9),
    ])
}

/// How far pictures of the first word alone are from the original, with the word kept and without.
fn first_word() -> Attempt<[f64; 2]> {
    let network = generator::network(82).valid();
    let mut stream = Stream::new(82, "mixdq/checks", 0, 0);
    let noise: Vec<f32> = (0..3 * SIDE * SIDE).map(|_| stream.normal() as f32).collect();
    let run = |network: &Network| -> Attempt<Vec<f32>> {
        let noise = Tensor::from_data(TensorData::new(noise.clone(), [3, 1, SIDE, SIDE]), &Device::flex());
        let words = Tensor::from_data(TensorData::new(vec![0i64; 3], [3, 1]), &Device::flex());
        let given = Flow::both(Flow::Image(noise), Flow::Tokens(words));
        Ok(host(network.forward(given, &mut Ctx::default())?.image("check")?))
    };
    let quantized = |keep: bool| -> Attempt<Network> {
        let mut network = network.clone();
        let names: Vec<String> = network.sites().map(|site| site.name().to_string()).collect();
        for name in names.iter().filter(|name| reads_words(name)) {
            let (_, site) = network.site_mut(name).ok_or("a map is gone")?;
            if keep {
                keep_first_word(site)?;
            }
            let scheme = ActivationScheme::new(4, ActivationGranularity::Tensor);
            let quantizer = ActivationQuantizer::new(scheme, vec![scheme.step(-2.0, 2.0)])?;
            site.set_activation(Some(quantizer))?;
            let coarse: Vec<f32> = site.to_f32().iter().map(|w| (50.0 * w).round() / 50.0).collect();
            let shape = [site.meta().rows, site.meta().cols];
            let coarse = Tensor::from_data(TensorData::new(coarse, shape), &Device::flex());
            site.set_weight(Weight::dense(coarse))?;
        }
        Ok(network)
    };
    let original = run(&network)?;
    let apart = |network: &Network| -> Attempt<f64> {
        let found = run(network)?;
        Ok(original.iter().zip(&found).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max))
    };
    Ok([apart(&quantized(true)?)?, apart(&quantized(false)?)?])
}

/// The largest difference to the best of all combinations of 8 layers, and how far sizes lie from their target.
fn program() -> Attempt<(f64, f64)> {
    let mut stream = Stream::new(82, "mixdq/program", 0, 0);
    let (mut missed, mut off) = (0.0f64, 0.0f64);
    for _ in 0..20 {
        let weights: Vec<u64> = (0..8).map(|_| 64 * (1 + stream.below(12) as u64)).collect();
        let total: u64 = weights.iter().sum();
        let sites = weights.iter().enumerate().map(|(i, &n)| {
            let option = |bits: u64| {
                SiteOption::new(format!("{bits}"), n * bits / 8, stream.uniform() / (bits * bits) as f64)
            };
            SitePrices::new(format!("layer {i}"), n, [2, 4, 8].map(option).to_vec())
        });
        let list = PriceList::new("error", sites.collect())?;
        for target in [3.0, 4.0, 5.5] {
            let bytes = |bits: f64| bits * total as f64 / 8.0;
            let band = bytes(target - 0.02).ceil() as u64..=bytes(target + 0.02).floor() as u64;
            let mut least: Option<f64> = None;
            for number in 0..3usize.pow(8) {
                let choice: Vec<usize> = (0..8).map(|i| number / 3usize.pow(i) % 3).collect();
                let (costs, damage) = list.total(&choice)?;
                if band.contains(&costs.bytes) && least.is_none_or(|least| damage < least) {
                    least = Some(damage);
                }
            }
            match (solve_within(&list, band, &SolveOptions::default())?, least) {
                (Some(found), Some(least)) => {
                    missed = missed.max((found.damage - least).abs());
                    off = off.max((8.0 * found.costs.bytes as f64 / total as f64 - target).abs());
                }
                (None, None) => {}
                _ => missed = f64::INFINITY,
            }
        }
        let shares = TwoGroups::shares(4.0, 0.7, [weights[0], total - weights[0]]);
        let whole = shares[0] * weights[0] as f64 + shares[1] * (total - weights[0]) as f64;
        missed = missed.max((whole / total as f64 - 4.0).abs());
    }
    Ok((missed, off))
}
