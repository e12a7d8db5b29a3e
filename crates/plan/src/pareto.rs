//! Exact Pareto-front merge with bound pruning.
//!
//! One site after the other, every state of the front is extended by every option. A state is dropped when it
//! cannot be completed within the limits, when a Lagrangian bound shows that every completion is worse than the
//! cutoff, or when another state takes no more of any limited resource and is preferred. States carry their
//! place in the lexicographic order of choices, so ties are resolved as documented, exactly.
//!
//! If a front outgrows its limit, the states with the lowest bounds stay, and the least bound among the dropped
//! ones is reported: no plan that was lost can be better than that.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::lagrange::{Multipliers, reduced};
use crate::problem::{Amounts, Item, MAX_LIMITS, Problem, add, least_of, preference};

/// A partial plan: one option chosen for each of the first sites.
#[derive(Clone, Copy, Debug)]
struct State {
    damage: f64,
    bytes: u64,
    costs: Amounts,
    /// Place among the states of its layer in the lexicographic order of choices.
    rank: u32,
    /// Position of the state it extends, in the layer before.
    parent: u32,
    /// Position of the item taken.
    pick: u32,
}

/// What one sweep over the sites found.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    /// Item positions of the best plan not worse than the cutoff.
    pub(crate) best: Option<Vec<usize>>,
    /// Least bound of a state dropped by thinning; infinite if none was.
    pub(crate) dropped: f64,
    /// States kept, summed over the sites.
    pub(crate) states: usize,
}

/// Bounds on what the remaining sites add, for each site to start from.
pub(crate) struct Suffix {
    limits: Amounts,
    /// `[site]`: least cost of sites `site..`.
    least: Vec<Amounts>,
    /// Multipliers, and `[site]`: `Σ min (d + λc)` over sites `site..`, less `λ·limits`.
    relaxed: Vec<(Multipliers, Vec<f64>)>,
}

impl Suffix {
    /// Prepares bounds with `multipliers` and with the same ones scaled up and down: near the end of a sweep the
    /// remaining sites may be richer or poorer than the average that the first were made for.
    pub(crate) fn new(problem: &Problem, multipliers: &Multipliers) -> Self {
        let mut least = vec![[0; MAX_LIMITS]];
        for items in problem.items.iter().rev() {
            least.push(add(&least[least.len() - 1], &least_of(items)));
        }
        least.reverse();
        let mut family = Vec::new();
        for factor in [1.0, 0.5, 2.0, 0.8, 1.25, 0.2, 5.0] {
            family.push(multipliers.map(|m| m * factor));
        }
        for k in (0..problem.dims()).filter(|_| problem.dims() > 1) {
            for factor in [0.5, 2.0] {
                let mut scaled = *multipliers;
                scaled[k] *= factor;
                family.push(scaled);
            }
        }
        let relaxed = family.into_iter().map(|m| (m, relaxed_suffix(problem, &m))).collect();
        Self { limits: problem.limits, least, relaxed }
    }

    /// Whether a state before `site` can be completed within the limits.
    fn fits(&self, dims: usize, site: usize, costs: &Amounts) -> bool {
        (0..dims).all(|k| costs[k] + self.least[site][k] <= self.limits[k])
    }

    /// Whether some bound exceeds `cutoff`.
    fn exceeds(&self, site: usize, damage: f64, costs: &Amounts, cutoff: f64) -> bool {
        self.relaxed.iter().any(|(m, rest)| reduced(damage, costs, m) + rest[site] > cutoff)
    }

    /// The best of the bounds on any completion of a state before `site`.
    fn bound(&self, site: usize, damage: f64, costs: &Amounts) -> f64 {
        self.relaxed
            .iter()
            .map(|(m, rest)| reduced(damage, costs, m) + rest[site])
            .fold(f64::NEG_INFINITY, f64::max)
    }
}

fn relaxed_suffix(problem: &Problem, multipliers: &Multipliers) -> Vec<f64> {
    let spent: f64 = (0..problem.dims()).map(|k| multipliers[k] * problem.limits[k] as f64).sum();
    let mut rest = vec![-spent];
    for items in problem.items.iter().rev() {
        let least =
            items.iter().map(|i| reduced(i.damage, &i.costs, multipliers)).fold(f64::INFINITY, f64::min);
        rest.push(rest[rest.len() - 1] + least);
    }
    rest.reverse();
    rest
}

/// Sweeps over all sites, keeping every state that may lead to a damage of at most `cutoff`.
pub(crate) fn sweep(problem: &Problem, suffix: &Suffix, cutoff: f64, max_front: usize) -> Pass {
    let dims = problem.dims();
    let mut front =
        vec![State { damage: 0.0, bytes: 0, costs: [0; MAX_LIMITS], rank: 0, parent: 0, pick: 0 }];
    let mut links: Vec<Vec<(u32, u32)>> = Vec::with_capacity(problem.items.len());
    let (mut dropped, mut states) = (f64::INFINITY, 0);
    for (site, items) in problem.items.iter().enumerate() {
        let mut next = extend(&front, items, suffix, dims, site + 1, cutoff);
        if items.len() > 1 {
            next.sort_by(order);
            keep_undominated(&mut next, dims);
        }
        if next.len() > max_front {
            dropped = dropped.min(thin(&mut next, suffix, site + 1, max_front));
        }
        assign_ranks(&mut next);
        states += next.len();
        links.push(next.iter().map(|s| (s.parent, s.pick)).collect());
        front = next;
        if front.is_empty() {
            return Pass { best: None, dropped, states };
        }
    }
    let mut at = 0usize; // the front is sorted by preference
    let mut best: Vec<usize> = Vec::with_capacity(links.len());
    for layer in links.iter().rev() {
        let (parent, pick) = layer[at];
        best.push(pick as usize);
        at = parent as usize;
    }
    best.reverse();
    Pass { best: Some(best), dropped, states }
}

/// All extensions of `front` by `items` that pass the bounds. `rank` still holds the parent's.
fn extend(
    front: &[State],
    items: &[Item],
    suffix: &Suffix,
    dims: usize,
    site: usize,
    cutoff: f64,
) -> Vec<State> {
    let mut next = Vec::with_capacity(front.len() * items.len().min(4));
    // Items outside, states inside: each item yields a run that is already sorted.
    for (pick, item) in items.iter().enumerate() {
        for (parent, state) in front.iter().enumerate() {
            let costs = add(&state.costs, &item.costs);
            let damage = state.damage + item.damage;
            if suffix.fits(dims, site, &costs) && !suffix.exceeds(site, damage, &costs, cutoff) {
                let bytes = state.bytes + item.bytes;
                next.push(State {
                    damage,
                    bytes,
                    costs,
                    rank: state.rank,
                    parent: parent as u32,
                    pick: pick as u32,
                });
            }
        }
    }
    next
}

/// Preference, then the lexicographic order of choices: parents' rank, then item (items are in option order).
fn order(a: &State, b: &State) -> Ordering {
    preference((a.damage, a.bytes, &a.costs), (b.damage, b.bytes, &b.costs))
        .then(a.rank.cmp(&b.rank))
        .then(a.pick.cmp(&b.pick))
}

/// Drops every state that an earlier, hence preferred, one matches or beats in all limited costs.
/// With three or more limits only the first [`WITNESSES`] states are asked, which is correct but keeps more.
fn keep_undominated(states: &mut Vec<State>, dims: usize) {
    match dims {
        0 => states.truncate(1),
        1 => {
            let mut least = u64::MAX;
            states.retain(|s| {
                let keep = s.costs[0] < least; // costs stay below 2^63
                least = least.min(s.costs[0]);
                keep
            });
        }
        2 => keep_staircase(states),
        _ => {
            let mut witnesses: Vec<Amounts> = Vec::new();
            states.retain(|s| {
                if witnesses.iter().any(|w| (0..dims).all(|k| w[k] <= s.costs[k])) {
                    return false;
                }
                if witnesses.len() < WITNESSES {
                    witnesses.push(s.costs);
                }
                true
            });
        }
    }
}

/// States compared with each new one where no sorted structure helps.
const WITNESSES: usize = 512;

/// Two limits: the lower-left staircase of the costs seen so far answers in logarithmic time.
fn keep_staircase(states: &mut Vec<State>) {
    let mut stairs: BTreeMap<u64, u64> = BTreeMap::new(); // first cost -> least second cost; strictly falling
    states.retain(|s| {
        let (x, y) = (s.costs[0], s.costs[1]);
        if stairs.range(..=x).next_back().is_some_and(|(_, &least)| least <= y) {
            return false;
        }
        while let Some((&right, _)) = stairs.range(x..).next().filter(|(_, above)| **above >= y) {
            stairs.remove(&right);
        }
        stairs.insert(x, y);
        true
    });
}

/// Keeps the `max_front` states with the lowest bounds (ties: the preferred), in their order.
/// Returns the least bound of those dropped.
fn thin(states: &mut Vec<State>, suffix: &Suffix, site: usize, max_front: usize) -> f64 {
    let mut bounds: Vec<(f64, usize)> =
        states.iter().enumerate().map(|(i, s)| (suffix.bound(site, s.damage, &s.costs), i)).collect();
    let max_front = max_front.max(1);
    let (_, first_dropped, _) =
        bounds.select_nth_unstable_by(max_front, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let least = first_dropped.0;
    let mut kept: Vec<usize> = bounds[..max_front].iter().map(|(_, i)| *i).collect();
    kept.sort_unstable();
    *states = kept.into_iter().map(|i| states[i]).collect();
    least
}

/// Replaces the parents' ranks by the states' own.
fn assign_ranks(states: &mut [State]) {
    let mut by_choice: Vec<usize> = (0..states.len()).collect();
    by_choice.sort_unstable_by_key(|&i| (states[i].rank, states[i].pick));
    for (rank, i) in by_choice.into_iter().enumerate() {
        states[i].rank = rank as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(damage: f64, x: u64, y: u64) -> State {
        State { damage, bytes: 0, costs: [x, y, 0, 0], rank: 0, parent: 0, pick: 0 }
    }

    /// Every pair compared: what the staircase must agree with.
    fn naive(states: &[State], dims: usize) -> Vec<Amounts> {
        let beaten =
            |i: usize| states[..i].iter().any(|b| (0..dims).all(|k| b.costs[k] <= states[i].costs[k]));
        (0..states.len()).filter(|&i| !beaten(i)).map(|i| states[i].costs).collect()
    }

    #[test]
    fn dominance_equals_all_pairs() {
        for dims in 0..=3 {
            for seed in 0..200u64 {
                let mut states: Vec<State> = (0..40u64)
                    .map(|i| {
                        let h = (seed * 1009 + i).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                        State {
                            costs: [h >> 60, (h >> 50) & 15, (h >> 40) & 15, 0],
                            ..state((h >> 59) as f64, 0, 0)
                        }
                    })
                    .collect();
                states.sort_by(order);
                let expected = naive(&states, dims);
                keep_undominated(&mut states, dims);
                let kept: Vec<Amounts> = states.iter().map(|s| s.costs).collect();
                assert_eq!(kept, expected, "dims {dims}, seed {seed}");
            }
        }
    }
}
