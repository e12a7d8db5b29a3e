//! What has to hold exactly.

use trimtab::floors::math::random::Stream;
use trimtab::floors::mend::tuning_norm::TuningNorm;
use trimtab::floors::plan::{Limits, PriceList, SiteOption, SitePrices, SolveOptions, brute_force, solve};
use trimtab::floors::quantize::adaquant::{AdaquantLayer, AdaquantSettings, adaquant};
use trimtab::floors::quantize::layer::Layer;
use trimtab::floors::quantize::range::RangeFinder;
use trimtab::floors::quantize::rtn::{RtnSettings, rtn};

use super::super::few_bits::scheme;
use super::super::pictures::Cause;
use crate::experiment::Check;

pub fn all() -> Result<Vec<Check>, Cause> {
    Ok(vec![inserted()?, folded()?, at_rest()?, program()?])
}

fn numbers(n: usize, purpose: &str) -> Vec<f32> {
    let mut stream = Stream::new(28, purpose, 0, 0);
    (0..n).map(|_| stream.normal() as f32).collect()
}

/// A norm that was put after a folded convolution changes nothing before it is tuned.
fn inserted() -> Result<Check, Cause> {
    let norm = TuningNorm::inserted(&numbers(32, "gain"), &numbers(32, "bias"), 1e-5)?;
    let (factors, shifts) = norm.factors();
    let off = factors.iter().zip(&shifts).map(|(f, s)| (f - 1.0).abs().max(s.abs())).fold(0.0, f64::max);
    Ok(Check {
        identity: "an inserted norm changes nothing, factor and shift",
        deviation: off,
        tolerance: 1e-4,
    })
}

/// A tuned norm that is folded gives what it gave before.
fn folded() -> Result<Check, Cause> {
    let mut norm = TuningNorm::inserted(&numbers(8, "gain"), &numbers(8, "bias"), 1e-5)?;
    let variance: Vec<f32> = numbers(8, "variance").iter().map(|v| v * v + 0.1).collect();
    norm.tune(&numbers(8, "mean"), &variance)?;
    let (weights, x) = (numbers(8 * 5, "weights"), numbers(5, "input"));
    let forward = |weights: &[f32], bias: &[f32]| -> Vec<f64> {
        let row = |c: usize| weights[c * 5..][..5].iter().zip(&x).map(|(w, x)| f64::from(w * x)).sum::<f64>();
        (0..8).map(|c| row(c) + f64::from(bias[c])).collect()
    };
    let (mut folded, mut bias) = (weights.clone(), numbers(8, "bias of the convolution"));
    let (factors, shifts) = norm.factors();
    let before: Vec<f64> = forward(&weights, &bias);
    norm.fold_into(&mut folded, &mut bias)?;
    let apart = forward(&folded, &bias)
        .iter()
        .enumerate()
        .map(|(c, y)| (y - (before[c] * factors[c] + shifts[c])).abs())
        .fold(0.0, f64::max);
    Ok(Check { identity: "a folded norm gives what it gave before", deviation: apart, tolerance: 1e-5 })
}

/// AdaQuant without a step is rounding between the extremes.
fn at_rest() -> Result<Check, Cause> {
    let (weight, x) = (numbers(6 * 9, "weight"), numbers(40 * 9, "rows"));
    let layer = Layer::new(&weight, 6, 9, None)?;
    let targets = vec![0.0; 40 * 6];
    let of = AdaquantLayer { layer, bias: None, inputs: &x, targets: &targets };
    let how = AdaquantSettings { iterations: 0, ..AdaquantSettings::default() };
    let found = adaquant(&of, &scheme(4), None, &how)?.weight.pack()?.dequantize();
    let plain = rtn(&layer, &scheme(4), &RtnSettings { range: RangeFinder::MinMax })?.pack()?.dequantize();
    let apart = found.iter().zip(&plain).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    Ok(Check { identity: "without a step it is rounding between extremes", deviation: apart, tolerance: 0.0 })
}

/// The integer program finds what brute force finds, 8 layers of 3 widths.
fn program() -> Result<Check, Cause> {
    let mut worst = 0.0f64;
    for trial in 0..50 {
        let mut stream = Stream::new(trial, "adaquant/program", 0, 0);
        let site = |i: usize, stream: &mut Stream| {
            let weights = 50 + stream.below(500) as u64;
            let options = [2u8, 4, 8].map(|bits| {
                let damage = stream.uniform() * (-f64::from(bits)).exp2();
                SiteOption::new(format!("{bits}"), weights * u64::from(bits), damage)
            });
            SitePrices::new(format!("layer {i}"), weights, options.to_vec())
        };
        let list = PriceList::new("loss", (0..8).map(|i| site(i, &mut stream)).collect())?;
        let limits = Limits::bytes(5 * list.weights());
        let found = solve(&list, &limits, &SolveOptions::default())?;
        worst = worst.max((found.damage - brute_force(&list, &limits)?.ok_or("no plan")?.damage).abs());
    }
    Ok(Check {
        identity: "the program finds what brute force finds (50 tables)",
        deviation: worst,
        tolerance: 1e-15,
    })
}
