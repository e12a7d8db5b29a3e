//! Large instances: seconds, not minutes, and exact.

use std::time::{Duration, Instant};

use trimtab_plan::{Limits, PriceList, SiteOption, SitePrices, SolveOptions, frontier, least_bytes, solve};

use crate::support::{Random, quantization_list};

/// Generous for a slow machine; a laptop core needs a small part of it.
const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn three_hundred_sites_of_twenty_eight_options() {
    for (seed, bits) in [(1, 2.4), (2, 3.5), (3, 4.25), (4, 6.1)] {
        let prices = quantization_list(seed, 300);
        let limits = Limits::bytes((prices.weights() as f64 * bits / 8.0) as u64);
        let start = Instant::now();
        let found = solve(&prices, &limits, &SolveOptions::default()).unwrap();
        let took = start.elapsed();
        assert!(took < LIMIT, "{bits} bits per weight: {took:?}, {} states", found.states);
        assert!(found.costs.bytes <= limits.bytes.unwrap());
        assert!(found.gap <= 1e-4 * found.damage, "{bits}: gap {} of {}", found.gap, found.damage);
    }
}

#[test]
fn five_hundred_sites_of_twelve_options_take_less_than_a_second_in_any_order() {
    for (seed, bits) in [(6, 2.25), (7, 2.5), (8, 3.0), (9, 3.5)] {
        let mut prices = quantization_list(seed, 500);
        prices.sites.iter_mut().for_each(|site| site.options.truncate(12));
        let limits = Limits::bytes((prices.weights() as f64 * bits / 8.0) as u64);
        let solved = || {
            let start = Instant::now();
            let found = solve(&prices, &limits, &SolveOptions::default()).unwrap();
            (start.elapsed(), found)
        };
        // The machine may be busy with something else once, hardly three times.
        let (took, found) = (0..3).map(|_| solved()).min_by_key(|(took, _)| *took).unwrap();
        assert!(took < Duration::from_secs(1), "{bits} bits per weight: {took:?}, {} states", found.states);
        assert!(found.gap <= 1e-4 * found.damage, "{bits}: gap {} of {}", found.gap, found.damage);

        // Sites and options in another order: the same labels.
        let mut random = Random(seed);
        let mut shuffled = prices.clone();
        let mut shuffle = |n: usize| {
            let mut order: Vec<usize> = (0..n).collect();
            (1..n).rev().for_each(|i| order.swap(i, random.below(i as u64 + 1) as usize));
            order
        };
        shuffled.sites = shuffle(500).into_iter().map(|i| prices.sites[i].clone()).collect();
        for site in &mut shuffled.sites {
            let order = shuffle(12);
            site.options = order.into_iter().map(|i| site.options[i].clone()).collect();
        }
        let labels = |prices: &PriceList, choice: &[usize]| {
            let sites = prices.sites.iter().zip(choice);
            let mut labels: Vec<_> =
                sites.map(|(site, &i)| (site.site.clone(), site.options[i].label.clone())).collect();
            labels.sort();
            labels
        };
        let again = solve(&shuffled, &limits, &SolveOptions::default()).unwrap();
        assert_ne!(again.choice, found.choice, "the control: the order is another");
        assert_eq!(labels(&shuffled, &again.choice), labels(&prices, &found.choice), "{bits}");
    }
}

#[test]
fn two_limits_at_scale() {
    let mut prices = quantization_list(5, 300);
    for site in &mut prices.sites {
        for (i, option) in site.options.iter_mut().enumerate() {
            // Fast kernels exist for 4 and 8 bits.
            let slow = if i / 4 == 2 || i / 4 == 6 { 1.0 } else { 2.5 };
            option.costs.latency_s = Some(option.costs.bytes as f64 * 1e-11 * slow);
        }
    }
    let prices = PriceList::new("kl", prices.sites).unwrap();
    let bytes = (prices.weights() as f64 * 4.5 / 8.0) as u64;
    let limits = Limits { latency_s: Some(bytes as f64 * 1.3e-11), ..Limits::bytes(bytes) };
    let start = Instant::now();
    let found = solve(&prices, &limits, &SolveOptions::default()).unwrap();
    let took = start.elapsed();
    assert!(took < 2 * LIMIT, "{took:?}, {} states", found.states);
    assert!(found.gap <= 1e-2 * found.damage, "gap {} of {}", found.gap, found.damage);
}

/// The hard kind: damage nearly proportional to the bytes saved, arbitrary costs, so that bounds hardly prune.
#[test]
fn correlated_costs_stay_bounded_in_time_and_honest() {
    let mut random = Random(11);
    let sites = (0..100).map(|s| {
        let options = (0..10).map(|o| {
            let bytes = 1_000_000 + random.below(100_000_000);
            let damage = 2e8 - bytes as f64 + random.unit() * 1e5;
            SiteOption::new(format!("o{o}"), bytes, damage * 1e-9)
        });
        SitePrices::new(format!("s{s}"), 1, options.collect())
    });
    let prices = PriceList::new("kl", sites.collect()).unwrap();
    let limits = Limits::bytes(5_000_000_001);
    let start = Instant::now();
    let found = solve(&prices, &limits, &SolveOptions::default()).unwrap();
    let took = start.elapsed();
    assert!(took < 2 * LIMIT, "{took:?}, {} states", found.states);
    assert!(found.gap >= 0.0 && found.gap <= 1e-4 * found.damage, "gap {} of {}", found.gap, found.damage);
    assert!(found.lower_bound <= found.damage);
}

#[test]
fn the_curve_of_a_large_list_needs_no_search() {
    let prices = quantization_list(6, 300);
    let start = Instant::now();
    let points = frontier(&prices, 40).unwrap();
    assert!(start.elapsed() < LIMIT);
    assert_eq!(points.len(), 40);
}

/// 200 gradients with 100 ranks each, as an exchange of gradients has to choose from while a training waits: a second
/// in a release build, for the fewest bytes at the error of a uniform rank.
#[test]
fn least_bytes_of_many_tensors_and_levels() {
    let mut random = Random(5);
    let mut sites = Vec::new();
    for s in 0..200 {
        let (n, m) = (64 << random.below(6), 64 << random.below(6));
        let (scale, decay) = ((4.0 * random.unit()).exp(), 0.2 + random.unit());
        let option = |rank: u64| {
            let error = scale * (rank as f64).powf(-decay) * (1.0 + 0.02 * random.unit());
            SiteOption::new(format!("{rank}"), 4 * rank * (n + m), error)
        };
        sites.push(SitePrices::new(format!("t{s}"), n * m, (8..108).map(option).collect()));
    }
    let prices = PriceList::new("error", sites).unwrap();
    let uniform = prices.total(&prices.uniform("32").unwrap()).unwrap();
    let start = Instant::now();
    let found = least_bytes(&prices, uniform.1, &SolveOptions::default()).unwrap().unwrap();
    let seconds = start.elapsed().as_secs_f64();
    assert!(found.damage <= uniform.1 && found.costs.bytes < uniform.0.bytes);
    // Exact, or within a part in 10^4 of the least.
    assert!(found.costs.bytes - found.lower_bound <= found.costs.bytes / 10_000);
    assert!(cfg!(debug_assertions) || seconds < 10.0, "{seconds} s, {} searches", found.searches);
}
