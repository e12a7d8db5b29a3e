//! The oracle: every combination, straight from the definition. For tests and tiny problems.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::price::PriceList;
use crate::problem::check_priced;
use crate::resource::Resource;
use crate::solve::Allocation;

/// Most combinations that [`brute_force`] will look at.
pub const MAX_COMBINATIONS: u64 = 4_000_000;

/// The best plan by trying all of them, with the rules of ties of [`crate::solve`]; `None` if none is feasible.
///
/// Shares nothing with the solver but the price list: groups and pins are filters here.
pub fn brute_force(prices: &PriceList, limits: &Limits) -> Result<Option<Allocation>> {
    prices.validate()?;
    let limited = limits.resources();
    check_priced(prices, limits, &limited)?;
    let combinations = prices.sites.iter().fold(1u64, |n, s| n.saturating_mul(s.options.len() as u64));
    if combinations > MAX_COMBINATIONS {
        return Err(Error::TooLarge { combinations, limit: MAX_COMBINATIONS });
    }
    let mut choice = vec![0; prices.sites.len()];
    let mut best: Option<Allocation> = None;
    let mut states = 0;
    loop {
        states += 1;
        if allowed(prices, &choice) && within(prices, &choice, limits, &limited) {
            let (costs, damage) = prices.total(&choice)?;
            let new = Allocation {
                choice: choice.clone(),
                costs,
                damage,
                lower_bound: damage,
                gap: 0.0,
                exact: true,
                states,
            };
            // Choices come in lexicographic order, so only a strictly preferred one replaces an earlier.
            if best.as_ref().is_none_or(|old| compare(prices, &new, old, &limited).is_lt()) {
                best = Some(new);
            }
        }
        if !advance(prices, &mut choice) {
            return Ok(best.map(|b| Allocation { states, ..b }));
        }
    }
}

/// The next choice in lexicographic order (the last site runs fastest); `false` after the last one.
fn advance(prices: &PriceList, choice: &mut [usize]) -> bool {
    for (site, index) in prices.sites.iter().zip(choice).rev() {
        *index += 1;
        if *index < site.options.len() {
            return true;
        }
        *index = 0;
    }
    false
}

fn allowed(prices: &PriceList, choice: &[usize]) -> bool {
    let mut group_label: BTreeMap<&str, &str> = BTreeMap::new();
    prices.sites.iter().zip(choice).all(|(site, &index)| {
        let label = site.options[index].label.as_str();
        let pin_kept = site.pinned.as_deref().is_none_or(|pin| pin == label);
        let same = site.group.as_deref().is_none_or(|g| *group_label.entry(g).or_insert(label) == label);
        pin_kept && same
    })
}

fn units(prices: &PriceList, choice: &[usize], resource: Resource) -> u64 {
    prices.sites.iter().zip(choice).filter_map(|(s, &i)| s.options[i].costs.units(resource)).sum()
}

fn within(prices: &PriceList, choice: &[usize], limits: &Limits, limited: &[Resource]) -> bool {
    limited.iter().all(|r| limits.units(*r).is_none_or(|limit| units(prices, choice, *r) <= limit))
}

fn compare(prices: &PriceList, a: &Allocation, b: &Allocation, limited: &[Resource]) -> Ordering {
    let rest = |x: &Allocation| limited.iter().map(|r| units(prices, &x.choice, *r)).collect::<Vec<u64>>();
    (a.damage + 0.0)
        .total_cmp(&(b.damage + 0.0))
        .then(a.costs.bytes.cmp(&b.costs.bytes))
        .then_with(|| rest(a).cmp(&rest(b)))
}
