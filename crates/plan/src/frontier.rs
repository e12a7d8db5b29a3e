//! The curve of size against damage, for reports.

use serde::Serialize;

use crate::error::Result;
use crate::fuse::{Decision, expand, fuse};
use crate::lagrange::{lower_hull, saving};
use crate::price::PriceList;
use crate::resource::Costs;
use crate::solve::{SolveOptions, solve};
use crate::{Error, Limits};

/// One plan on the curve: no plan of at most its bytes does less damage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FrontierPoint {
    /// Option index per site.
    pub choice: Vec<usize>,
    /// What it takes.
    pub costs: Costs,
    /// Sum of the damages.
    pub damage: f64,
}

/// At most `n_points` optimal plans from the smallest to the least damaging, evenly spread over bytes.
///
/// Large lists: corners of the convex curve, each optimal for its size, which need no search. Lists with fewer
/// corners than points: the best plan of each of `n_points` evenly spaced sizes, corners or not.
/// Errors: [`Error::Choice`] for `n_points < 2`, and those of [`solve`].
pub fn frontier(prices: &PriceList, n_points: usize) -> Result<Vec<FrontierPoint>> {
    if n_points < 2 {
        return Err(Error::Choice { problem: format!("frontier: {n_points} points, expected at least 2") });
    }
    prices.validate()?;
    let decisions = fuse(prices)?;
    let corners = corners(&decisions);
    let (smallest, largest) =
        (corners.least, corners.least + corners.steps.iter().map(|s| s.bytes).sum::<u64>());
    let spacing = |i: usize| {
        let part = u128::from(largest - smallest) * i as u128 / (n_points as u128 - 1);
        smallest + part as u64 // at most largest - smallest
    };
    let mut points: Vec<FrontierPoint> = Vec::new();
    if corners.steps.len() + 1 >= n_points {
        for picks in walk(&corners, n_points, spacing) {
            let choice = expand(&decisions, &picks, prices.sites.len());
            let (costs, damage) = prices.total(&choice)?;
            points.push(FrontierPoint { choice, costs, damage });
        }
    } else {
        for i in 0..n_points {
            let plan = solve(prices, &Limits::bytes(spacing(i)), &SolveOptions::default())?;
            points.push(FrontierPoint { choice: plan.choice, costs: plan.costs, damage: plan.damage });
        }
    }
    points.dedup_by(|a, b| a.costs.bytes == b.costs.bytes);
    Ok(points)
}

/// Cheapest picks, and the hull steps from there in the order of falling savings.
pub(crate) struct Corners {
    pub(crate) start: Vec<usize>,
    /// Bytes and damage of the start.
    pub(crate) least: u64,
    pub(crate) damage: f64,
    pub(crate) steps: Vec<Step>,
}

/// From one corner to the next: `decision` takes its option `to`, for `bytes` more.
pub(crate) struct Step {
    pub(crate) saving: f64,
    pub(crate) bytes: u64,
    pub(crate) decision: usize,
    pub(crate) to: usize,
}

pub(crate) fn corners(decisions: &[Decision]) -> Corners {
    let mut corners = Corners { start: Vec::new(), least: 0, damage: 0.0, steps: Vec::new() };
    for (d, decision) in decisions.iter().enumerate() {
        let points: Vec<(u64, f64)> = decision.options.iter().map(|o| (o.costs.bytes, o.damage)).collect();
        let hull = lower_hull(&points);
        corners.start.push(hull[0]);
        corners.least += points[hull[0]].0;
        corners.damage += points[hull[0]].1;
        for pair in hull.windows(2) {
            let (from, to) = (points[pair[0]], points[pair[1]]);
            corners.steps.push(Step {
                saving: saving(from, to),
                bytes: to.0 - from.0,
                decision: d,
                to: pair[1],
            });
        }
    }
    // Stable: steps of one decision are already in order of falling savings.
    corners.steps.sort_by(|a, b| b.saving.total_cmp(&a.saving));
    corners
}

/// The last corner at or below each of the sizes `spacing(0..n_points)`.
fn walk(corners: &Corners, n_points: usize, spacing: impl Fn(usize) -> u64) -> Vec<Vec<usize>> {
    let (mut picks, mut bytes, mut done) = (corners.start.clone(), corners.least, 0);
    let mut plans = Vec::with_capacity(n_points);
    for i in 0..n_points {
        while let Some(step) = corners.steps.get(done).filter(|s| bytes + s.bytes <= spacing(i)) {
            picks[step.decision] = step.to;
            bytes += step.bytes;
            done += 1;
        }
        plans.push(picks.clone());
    }
    plans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::{SiteOption, SitePrices};

    fn list(sites: usize) -> PriceList {
        let site = |s: usize| {
            let option = |o: usize| {
                SiteOption::new(format!("o{o}"), 10 + 10 * o as u64, (1 + s) as f64 / (1 << o) as f64)
            };
            SitePrices::new(format!("s{s}"), 8, (0..4).map(option).collect())
        };
        PriceList::new("kl", (0..sites).map(site).collect()).unwrap()
    }

    #[test]
    fn points_are_optimal_for_their_size_and_fall() {
        for (sites, n_points) in [(5, 6), (2, 20), (30, 10)] {
            let prices = list(sites);
            let points = frontier(&prices, n_points).unwrap();
            assert!(points.len() > 2 && points.len() <= n_points);
            assert!(
                points.windows(2).all(|w| w[0].costs.bytes < w[1].costs.bytes && w[0].damage > w[1].damage)
            );
            assert_eq!(points[0].costs.bytes, 10 * sites as u64);
            assert_eq!(points[points.len() - 1].costs.bytes, 40 * sites as u64);
            for point in &points {
                let best =
                    solve(&prices, &Limits::bytes(point.costs.bytes), &SolveOptions::default()).unwrap();
                assert!((best.damage - point.damage).abs() < 1e-12);
            }
        }
        assert!(frontier(&list(2), 1).is_err());
    }
}
