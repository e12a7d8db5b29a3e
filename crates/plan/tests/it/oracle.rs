//! The solver against brute force on thousands of small random problems.

use trimtab_plan::{Error, Limits, PriceList, SolveOptions, brute_force, solve};

use crate::support::{Random, Shape, random_list};

const SMALL: Shape =
    Shape { max_sites: 7, max_options: 5, max_cost: 12, max_eighths: 24, groups: false, pins: false };

/// Random limits on the resources whose bit is set in `which` (1 bytes, 2 macs, 4 latency).
fn random_limits(random: &mut Random, prices: &PriceList, shape: Shape, which: u64) -> Limits {
    let most = prices.sites.len() as u64 * shape.max_cost;
    let mut limits = Limits::default();
    let mut draw = || random.below(most + 1) * 3 / 4;
    if which & 1 != 0 {
        limits.bytes = Some(draw());
    }
    if which & 2 != 0 {
        limits.macs = Some(draw());
    }
    if which & 4 != 0 {
        limits.latency_s = Some(draw() as f64 * 1e-3);
    }
    limits
}

/// Solves both ways and compares the whole answer; returns whether the problem was feasible.
fn agree(prices: &PriceList, limits: &Limits, note: &str) -> bool {
    let expected = brute_force(prices, limits).unwrap();
    match (solve(prices, limits, &SolveOptions::default()), expected) {
        (Ok(found), Some(best)) => {
            assert_eq!(found.damage, best.damage, "{note}");
            assert_eq!(found.choice, best.choice, "{note}: ties");
            assert_eq!(found.costs, best.costs, "{note}");
            assert!(found.exact && found.gap == 0.0 && found.lower_bound == best.damage, "{note}: {found:?}");
            true
        }
        (Err(Error::Infeasible(_)), None) => false,
        (found, expected) => panic!("{note}: {found:?}, expected {expected:?}"),
    }
}

fn run(shape: Shape, which: &[u64], instances: u64) {
    let mut feasible = 0;
    for seed in 0..instances {
        let mut random = Random(seed.wrapping_mul(0xD134_2543_DE82_EF95));
        let prices = random_list(&mut random, shape);
        let which = which[seed as usize % which.len()];
        let limits = random_limits(&mut random, &prices, shape, which);
        feasible += u64::from(agree(&prices, &limits, &format!("seed {seed}, limits {which}")));
    }
    // A test in which nothing is feasible, or nothing impossible, would test half.
    assert!(feasible > instances / 4 && feasible < instances, "{feasible} of {instances} feasible");
}

#[test]
fn one_resource() {
    run(SMALL, &[1, 2, 4], 1500);
}

#[test]
fn two_and_three_resources() {
    run(SMALL, &[3, 5, 6, 7], 1000);
}

#[test]
fn heavy_ties() {
    run(Shape { max_cost: 3, max_eighths: 3, ..SMALL }, &[1, 2, 3], 1500);
}

#[test]
fn fused_groups_and_pins() {
    let fused = Shape { max_options: 4, groups: true, pins: true, ..SMALL };
    run(fused, &[1, 2, 3, 4], 1500);
    run(Shape { max_cost: 4, max_eighths: 4, ..fused }, &[1, 3], 1000);
}

#[test]
fn negative_damages_are_ordinary_numbers() {
    for seed in 0..500 {
        let mut random = Random(seed);
        let mut prices = random_list(&mut random, SMALL);
        for option in prices.sites.iter_mut().flat_map(|s| &mut s.options) {
            option.damage -= 1.5;
        }
        let limits = random_limits(&mut random, &prices, SMALL, 1 + seed % 3);
        agree(&prices, &limits, &format!("seed {seed}"));
    }
}

#[test]
fn a_thinned_search_reports_an_honest_gap() {
    let shape = Shape { max_cost: 100_000, max_eighths: 1_000_000, ..SMALL };
    let (mut thinned, mut worse) = (0, 0);
    for seed in 0..1500 {
        let mut random = Random(seed + 77);
        let prices = random_list(&mut random, shape);
        let limits = random_limits(&mut random, &prices, shape, [1, 3][seed as usize % 2]);
        let Some(best) = brute_force(&prices, &limits).unwrap() else { continue };
        let found = match solve(&prices, &limits, &SolveOptions { max_front: 1 }) {
            Ok(found) => found,
            Err(Error::Undecided { .. }) => continue,
            Err(error) => panic!("seed {seed}: {error}"),
        };
        assert!(
            found.lower_bound <= best.damage,
            "seed {seed}: bound {} of {}",
            found.lower_bound,
            best.damage
        );
        assert!(found.damage >= best.damage && found.gap >= found.damage - best.damage, "seed {seed}");
        assert!(!found.exact || found.damage == best.damage, "seed {seed}: claims to be exact");
        thinned += u32::from(!found.exact);
        worse += u32::from(found.damage > best.damage);
    }
    // The control: with a front of one, the search does lose the optimum, and says so.
    assert!(thinned > 50 && worse > 5, "{thinned} thinned, {worse} worse");
}

#[test]
fn the_same_problem_gives_the_same_answer() {
    let prices = crate::support::quantization_list(3, 40);
    let limits = Limits::bytes(prices.weights() * 7 / 16);
    let once = solve(&prices, &limits, &SolveOptions::default()).unwrap();
    assert_eq!(solve(&prices, &limits, &SolveOptions::default()).unwrap(), once);
}
