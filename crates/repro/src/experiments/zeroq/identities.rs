//! What has to hold exactly.

use burn::tensor::Device;
use trimtab::floors::math::random::Stream;
use trimtab::floors::models::Zoo;
use trimtab::floors::plan::{Limits, PriceList, SiteOption, SitePrices, SolveOptions, brute_force, solve};
use trimtab::floors::train::distil::Zeroq;

use super::super::pictures::{Cause, network};
use super::numbers;
use crate::experiment::Check;

pub fn all() -> Result<Vec<Check>, Cause> {
    Ok(vec![again()?, loss_falls()?, front()?])
}

fn small() -> Result<trimtab::floors::nn::Network, Cause> {
    let zoo = Zoo::ResnetCifar { depth: 20, width: 4, classes: 4, channels: 3 };
    use burn::module::Module;
    Ok(network(&zoo, 3, 5)?.valid())
}

/// The same seed gives the same images.
fn again() -> Result<Check, Cause> {
    let network = small()?;
    let run = || -> Result<Vec<f32>, Cause> {
        let how = Zeroq { images: 3, iterations: 5, ..Zeroq::default() };
        let made = how.run(&network, [3, 8, 8], &Device::flex(), &mut |_, _| true)?;
        Ok(numbers(&made.ok_or("stopped")?.images))
    };
    let (first, second) = (run()?, run()?);
    let apart = first.iter().zip(&second).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    Ok(Check { identity: "the same seed gives the same images, numbers", deviation: apart, tolerance: 0.0 })
}

/// A new network has the statistics 0 and 1, which images of its own can have: little of the loss is left.
fn loss_falls() -> Result<Check, Cause> {
    let how = Zeroq { images: 2, iterations: 150, ..Zeroq::default() };
    let made = how.run(&small()?, [3, 8, 8], &Device::flex(), &mut |_, _| true)?.ok_or("stopped")?;
    Ok(Check {
        identity: "the loss falls to a part of the first, share left",
        deviation: made.share_left(),
        tolerance: 0.8,
    })
}

/// The plan is that of brute force, 8 layers of 3 bits, 50 random tables.
fn front() -> Result<Check, Cause> {
    let mut worst = 0.0f64;
    for trial in 0..50 {
        let mut stream = Stream::new(trial, "zeroq/identity", 0, 0);
        let site = |i: usize, stream: &mut Stream| {
            let weights = 100 + stream.below(900) as u64;
            let scale = stream.uniform();
            let option = |bits: u8| {
                let damage = scale * (-f64::from(bits)).exp2();
                SiteOption::new(format!("{bits}"), weights * u64::from(bits), damage)
            };
            SitePrices::new(format!("layer {i}"), weights, [2, 4, 8].map(option).to_vec())
        };
        let list = PriceList::new("kl", (0..8).map(|i| site(i, &mut stream)).collect())?;
        let limits = Limits::bytes(4 * list.weights());
        let found = solve(&list, &limits, &SolveOptions::default())?;
        let best = brute_force(&list, &limits)?.ok_or("no plan")?;
        worst = worst.max((found.damage - best.damage).abs());
    }
    Ok(Check {
        identity: "the plan has the damage of brute force (50 tables of 8 layers)",
        deviation: worst,
        tolerance: 1e-15,
    })
}
