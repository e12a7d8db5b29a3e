//! The other way round: the fewest bytes whose damage stays within a limit.
//!
//! [`solve`] minimizes damage within bytes, and the least damage falls as the bytes grow; so the answer is the
//! smallest limit on the bytes whose optimum is still good enough, found by bisection over whole bytes. The convex
//! curve of size against damage brackets it first: its linear interpolation is a lower bound (it is the relaxed
//! problem), its next corner a plan. Few searches are left between the two.

use serde::Serialize;

use crate::Limits;
use crate::error::{Error, Result};
use crate::frontier::{Corners, corners};
use crate::fuse::{expand, fuse};
use crate::price::PriceList;
use crate::resource::Costs;
use crate::solve::{SolveOptions, solve};

/// The smallest plan that is good enough, and what is known about it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Smallest {
    /// Option index per site, in the order of the price list.
    pub choice: Vec<usize>,
    /// Sum of the costs of the chosen options.
    pub costs: Costs,
    /// Sum of the damages of the chosen options, at most the limit.
    pub damage: f64,
    /// No plan of fewer bytes than this is good enough.
    pub lower_bound: u64,
    /// Whether the plan is proven smallest; otherwise a search was thinned.
    pub exact: bool,
    /// Solver runs it took.
    pub searches: usize,
}

/// The plan of the fewest bytes whose damages add up to at most `max_damage`; `None` if even the least damaging one
/// exceeds that. Equal bytes: the rules of ties of [`solve`].
///
/// Sums of damages are those of [`PriceList::total`], so a limit that is itself such a sum is met by its own plan.
/// `options` applies to each of the searches.
///
/// Errors: [`Error::Prices`] for an inconsistent list, [`Error::Choice`] for a limit that is NaN.
pub fn least_bytes(prices: &PriceList, max_damage: f64, options: &SolveOptions) -> Result<Option<Smallest>> {
    if max_damage.is_nan() {
        return Err(Error::Choice { problem: "least bytes: the limit on the damage is NaN".to_string() });
    }
    prices.validate()?;
    let decisions = fuse(prices)?;
    let corners = corners(&decisions);
    let bracket = Bracket::new(&corners, max_damage);
    let plan = |picks: &[usize]| -> Result<Smallest> {
        let choice = expand(&decisions, picks, prices.sites.len());
        let (costs, damage) = prices.total(&choice)?;
        Ok(Smallest { choice, costs, damage, lower_bound: bracket.least, exact: true, searches: 0 })
    };

    // Every number of bytes below `low` is known to be too few, unless a thinned search left it open.
    let (mut low, mut proven, mut searches) = (bracket.least, bracket.least, 0);
    // A corner may miss the limit by the rounding of its sum; then nothing bounds the search from above.
    let mut best = match bracket.picks.as_deref().map(plan).transpose()?.filter(|p| p.damage <= max_damage) {
        Some(corner) => corner,
        None => {
            let damageless = solve(prices, &Limits::default(), options)?;
            searches += 1;
            if damageless.damage > max_damage {
                return Ok(None);
            }
            let (choice, costs, damage) = (damageless.choice, damageless.costs, damageless.damage);
            Smallest { choice, costs, damage, lower_bound: 0, exact: true, searches }
        }
    };
    // The first search goes up to the corner itself: among plans of its size there may be a better one.
    let mut high = best.costs.bytes;
    while low <= high {
        // The bound is often tight, and a plan just above it ends the search at once; after that, halves.
        let bytes = if searches == 0 { high } else { low + (high - low) / 2 };
        let found = solve(prices, &Limits::bytes(bytes), options)?;
        searches += 1;
        if found.damage <= max_damage {
            high = found.costs.bytes.saturating_sub(1);
            best.choice = found.choice;
            (best.costs, best.damage) = (found.costs, found.damage);
            if best.costs.bytes == low {
                break;
            }
        } else {
            low = bytes + 1;
            if found.lower_bound > max_damage {
                proven = proven.max(low);
            }
        }
    }
    let lower_bound = proven.min(best.costs.bytes);
    Ok(Some(Smallest { lower_bound, exact: lower_bound == best.costs.bytes, searches, ..best }))
}

/// What the convex curve says of the answer.
struct Bracket {
    /// No plan of fewer bytes reaches the limit.
    least: u64,
    /// Picks of the first corner that reaches it; `None` if no corner does.
    picks: Option<Vec<usize>>,
}

impl Bracket {
    /// Walks the corners from the smallest plan until the damage is at most `max_damage`.
    fn new(corners: &Corners, max_damage: f64) -> Self {
        let (mut picks, mut bytes, mut damage) = (corners.start.clone(), corners.least, corners.damage);
        // Rounding of the running sum must not lift the lower bound: it is taken for a slightly higher limit.
        let slack = 1e-9 * (corners.damage.abs() + max_damage.abs());
        let mut least = None;
        for step in &corners.steps {
            if damage <= max_damage {
                break;
            }
            let gain = step.saving * step.bytes as f64;
            if least.is_none() && damage - gain <= max_damage + slack {
                let part = ((damage - max_damage - slack) / gain).clamp(0.0, 1.0);
                least = Some(bytes + (part * step.bytes as f64 * (1.0 - 1e-9)) as u64);
            }
            picks[step.decision] = step.to;
            bytes += step.bytes;
            damage -= gain;
        }
        let reached = damage <= max_damage + slack;
        Self { least: least.unwrap_or(corners.least), picks: reached.then_some(picks) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::{SiteOption, SitePrices};

    /// Two sites of 1, 2 or 4 bytes, damages 8, 5, 1 and 4, 3, 0.
    fn list() -> PriceList {
        let site = |name: &str, damages: [f64; 3]| {
            let option =
                |(bytes, damage): (u64, f64)| SiteOption::new(format!("{bytes} bytes"), bytes, damage);
            SitePrices::new(name, 8, [1, 2, 4].into_iter().zip(damages).map(option).collect())
        };
        PriceList::new("error", vec![site("a", [8.0, 5.0, 1.0]), site("b", [4.0, 3.0, 0.0])]).unwrap()
    }

    #[test]
    fn worked_by_hand() {
        let bytes = |limit: f64| {
            let found = least_bytes(&list(), limit, &SolveOptions::default()).unwrap();
            found.map(|f| {
                assert!(f.exact && f.damage <= limit, "{f:?}");
                f.costs.bytes
            })
        };
        assert_eq!(bytes(12.0), Some(2)); // 8 + 4
        assert_eq!(bytes(11.9), Some(3)); // 5 + 4
        assert_eq!(bytes(8.0), Some(4)); // 5 + 3, off the convex curve
        assert_eq!(bytes(5.0), Some(5)); // 1 + 4
        assert_eq!(bytes(1.0), Some(8)); // 1 + 0
        assert_eq!(bytes(0.9), None);
        assert_eq!(bytes(f64::INFINITY), Some(2));
        assert!(least_bytes(&list(), f64::NAN, &SolveOptions::default()).is_err());
    }

    #[test]
    fn nothing_to_choose_takes_nothing() {
        let empty = PriceList::new("error", Vec::new()).unwrap();
        let found = least_bytes(&empty, 0.0, &SolveOptions::default()).unwrap().unwrap();
        assert_eq!((found.costs.bytes, found.exact), (0, true));
        assert_eq!(least_bytes(&empty, -1.0, &SolveOptions::default()).unwrap(), None);
    }
}
