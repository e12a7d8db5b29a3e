//! The allocator's front door: the best plan within the limits, with a proof or an honest gap.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::fuse::{Decision, expand};
use crate::lagrange::{Dual, Feasible, dual, greedy};
use crate::limits::Limits;
use crate::pareto::{Suffix, sweep};
use crate::price::PriceList;
use crate::problem::{Item, Problem};
use crate::resource::Costs;

/// Settings of [`solve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SolveOptions {
    /// Most states kept after a site. More states: more memory (8 bytes a state and site) and time, smaller gap.
    pub max_front: usize,
}

impl Default for SolveOptions {
    fn default() -> Self {
        Self { max_front: 20_000 }
    }
}

/// A choice of one option per site, and what is known about it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Allocation {
    /// Option index per site, in the order of the price list.
    pub choice: Vec<usize>,
    /// Sum of the costs of the chosen options.
    pub costs: Costs,
    /// Sum of the damages of the chosen options.
    pub damage: f64,
    /// No plan within the limits has a damage below this.
    pub lower_bound: f64,
    /// `damage - lower_bound`, ≥ 0; zero if `exact`.
    pub gap: f64,
    /// Whether the plan is proven optimal (to the rounding of the sums of damages).
    pub exact: bool,
    /// Partial plans kept in the search, over all passes.
    pub states: usize,
}

/// Width of the first search, as a part of the distance from the lower bound to the greedy plan; each next one is
/// twice as wide. The optimum usually lies close to the bound, and a narrow search that finds a plan has proven
/// it optimal.
const FIRST_WIDTH: f64 = 1.0 / 512.0;

/// Searches repeated with the cutoff lowered to a plan that a thinned search has found.
const TIGHTENINGS: usize = 4;

/// Chooses one option per site: the least sum of damages within `limits`.
///
/// Members of a fused group get one label, pinned sites keep theirs. Equal damage: fewer bytes, then less of the
/// other limited resources, then the lower option index, from the first site on. The result does not depend on
/// the machine or on the number of threads.
///
/// Errors: [`Error::Infeasible`] with the nearest feasible amount; [`Error::NotPriced`] for a limit on a resource
/// without prices; [`Error::Prices`] for an inconsistent list; [`Error::Undecided`] if several limits hold, the
/// search was thinned and no plan was met.
pub fn solve(prices: &PriceList, limits: &Limits, options: &SolveOptions) -> Result<Allocation> {
    let (decisions, problem) = Problem::new(prices, limits)?;
    let dual = dual(&problem);
    let start = greedy(&problem, &dual.multipliers);
    let found = search(&problem, &dual, start.as_ref(), options);
    match (found.best, start) {
        (Some(picks), _) => allocation(prices, &decisions, &problem, &picks, found.lower, found.states),
        (None, Some(plan)) => {
            allocation(prices, &decisions, &problem, &plan.picks, found.lower, found.states)
        }
        (None, None) if found.thinned => {
            Err(Error::Undecided { states: found.states, max_front: options.max_front })
        }
        (None, None) => Err(problem.jointly_infeasible(&decisions, limits)),
    }
}

/// Result of the widening searches.
struct Found {
    best: Option<Vec<usize>>,
    /// Lower bound on the damage; infinite when `best` is proven.
    lower: f64,
    states: usize,
    thinned: bool,
}

/// Sweeps with ever wider cutoffs until one finds a plan. All plans up to the cutoff survive an unthinned sweep,
/// so its best is the optimum, and an empty one raises the lower bound to the cutoff. A plan from a thinned sweep
/// is a lower cutoff for another, which may then do without thinning.
fn search(problem: &Problem, dual: &Dual, start: Option<&Feasible>, options: &SolveOptions) -> Found {
    let suffix = Suffix::new(problem, &dual.multipliers);
    let tolerance = tolerance(problem, dual, start);
    let mut found = Found { best: None, lower: dual.bound - tolerance, states: 0, thinned: false };
    let mut best_damage = f64::INFINITY;
    for cutoff in cutoffs(problem, dual, start) {
        let mut cutoff = cutoff;
        for _ in 0..=TIGHTENINGS {
            let pass = sweep(problem, &suffix, cutoff + tolerance, options.max_front);
            found.states += pass.states;
            found.thinned = pass.dropped.is_finite();
            // Lost: what thinning dropped. Never looked at: what lies above the cutoff.
            let lost = pass.dropped - tolerance;
            let damage = pass.best.as_ref().map_or(f64::INFINITY, |picks| damage(problem, picks));
            found.lower = if lost > damage { f64::INFINITY } else { found.lower.max(lost.min(cutoff)) };
            let improved = damage < best_damage;
            if damage <= best_damage && pass.best.is_some() {
                (found.best, best_damage) = (pass.best, damage);
            }
            // Another sweep helps only if the cutoff falls by a good part of its distance to the bound.
            let falls = damage - dual.bound < 0.9 * (cutoff - dual.bound);
            if !improved || !falls || found.lower == f64::INFINITY {
                break;
            }
            cutoff = damage;
        }
        if found.best.is_some() {
            return found;
        }
    }
    found
}

/// Rounding that the comparison of a bound with a cutoff must forgive: sums of as many terms as there are sites.
fn tolerance(problem: &Problem, dual: &Dual, start: Option<&Feasible>) -> f64 {
    let spent: f64 = (0..problem.dims()).map(|k| dual.multipliers[k] * problem.limits[k] as f64).sum();
    let size = spent + dual.bound.abs() + start.map_or(0.0, |plan| plan.damage.abs());
    1e-12 * size + f64::MIN_POSITIVE
}

/// Growing cutoffs. The last one admits a plan: the greedy one, or any at all if there is none.
fn cutoffs(problem: &Problem, dual: &Dual, start: Option<&Feasible>) -> Vec<f64> {
    let most = |items: &Vec<Item>| items.iter().map(|i| i.damage).fold(f64::NEG_INFINITY, f64::max);
    let (far, last) = match start {
        Some(plan) => (plan.damage, plan.damage),
        None => (problem.items.iter().map(most).sum::<f64>(), f64::INFINITY),
    };
    let distance = (far - dual.bound).max(0.0);
    let widths = std::iter::successors(Some(FIRST_WIDTH), |w| Some(w * 2.0))
        .take_while(|w| *w < 1.0 && distance > 0.0);
    widths.map(|w| dual.bound + w * distance).chain([last]).collect()
}

fn damage(problem: &Problem, picks: &[usize]) -> f64 {
    problem.items.iter().zip(picks).map(|(items, &p)| items[p].damage).sum()
}

fn allocation(
    prices: &PriceList,
    decisions: &[Decision],
    problem: &Problem,
    picks: &[usize],
    lower: f64,
    states: usize,
) -> Result<Allocation> {
    let options: Vec<usize> = problem.items.iter().zip(picks).map(|(items, &p)| items[p].index).collect();
    let choice = expand(decisions, &options, prices.sites.len());
    let (costs, damage) = prices.total(&choice)?;
    let exact = lower >= damage;
    let lower_bound = lower.min(damage);
    Ok(Allocation { choice, costs, damage, lower_bound, gap: damage - lower_bound, exact, states })
}
