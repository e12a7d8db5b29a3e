//! The solver against brute force on thousands of small random problems.

use trimtab_plan::{Error, Limits, PriceList, SolveOptions, brute_force, least_bytes, solve};

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

/// The fewest bytes within a damage, by looking at every combination.
fn fewest_bytes(prices: &PriceList, max_damage: f64) -> Option<u64> {
    let mut choices = vec![vec![]];
    for site in &prices.sites {
        let longer =
            |c: &Vec<usize>| (0..site.options.len()).map(|o| [&c[..], &[o]].concat()).collect::<Vec<_>>();
        choices = choices.iter().flat_map(longer).collect();
    }
    let plans = choices.iter().map(|c| prices.total(c).unwrap());
    plans.filter(|(_, damage)| *damage <= max_damage).map(|(costs, _)| costs.bytes).min()
}

#[test]
fn least_bytes_equals_brute_force() {
    let (mut feasible, mut below_uniform, instances) = (0, 0, 2000);
    for seed in 0..instances {
        let mut random = Random(seed + 4242);
        // Ties and exact sums, small and large costs, then arbitrary real damages.
        let max_cost = [3, 12, 100_000][seed as usize % 3];
        let mut prices = random_list(&mut random, Shape { max_sites: 6, max_cost, ..SMALL });
        if seed % 2 == 0 {
            for option in prices.sites.iter_mut().flat_map(|s| &mut s.options) {
                option.damage = random.unit() * 3.0;
            }
        }
        // Half of the limits are the exact sum of some plan, as a uniform default gives it.
        let plan: Vec<usize> =
            prices.sites.iter().map(|s| random.below(s.options.len() as u64) as usize).collect();
        let (costs, damage) = prices.total(&plan).unwrap();
        let limit = if seed % 4 < 2 { damage } else { random.unit() * 6.0 };
        let found = least_bytes(&prices, limit, &SolveOptions::default()).unwrap();
        assert_eq!(found.as_ref().map(|f| f.costs.bytes), fewest_bytes(&prices, limit), "seed {seed}");
        let Some(found) = found else { continue };
        assert!(found.damage <= limit && found.exact, "seed {seed}: {found:?}");
        assert!(seed % 4 >= 2 || found.costs.bytes <= costs.bytes, "seed {seed}: worse than its own limit");
        feasible += 1;
        below_uniform += u64::from(seed % 4 < 2 && found.costs.bytes < costs.bytes);
    }
    // The control: problems of both kinds, and limits whose own plan is not the answer.
    assert!(feasible > instances / 2 && feasible < instances && below_uniform > instances / 4);
}

#[test]
fn least_bytes_keeps_groups_and_pins() {
    let shape = Shape { max_options: 4, groups: true, pins: true, max_sites: 5, ..SMALL };
    for seed in 0..300 {
        let mut random = Random(seed + 99);
        let prices = random_list(&mut random, shape);
        let limit = random.below(60) as f64 / 8.0;
        let Some(found) = least_bytes(&prices, limit, &SolveOptions::default()).unwrap() else { continue };
        let within = brute_force(&prices, &Limits::bytes(found.costs.bytes)).unwrap().unwrap();
        assert_eq!(within.choice, found.choice, "seed {seed}");
        if let Some(fewer) = found.costs.bytes.checked_sub(1) {
            let best = brute_force(&prices, &Limits::bytes(fewer)).unwrap();
            assert!(best.is_none_or(|b| b.damage > limit), "seed {seed}: fewer bytes are enough");
        }
    }
}
