//! Lagrangian relaxation: a lower bound on the damage of any plan, and a good feasible plan.
//!
//! For multipliers `λ ≥ 0`, `L(λ) = Σ_i min_j (d_ij + λ·c_ij) − λ·B` bounds the optimum from below (Everett,
//! Operations Research 11, 1963). With one limit the best `λ` is found exactly, from the lower convex hulls of the
//! sites (Sinha and Zoltners, Operations Research 27, 1979): `L` then equals the linear-programming bound. With
//! several, exact searches along the axes alternate with subgradient steps; any `λ` reached gives a valid bound.

use crate::problem::{Amounts, Item, MAX_LIMITS, Problem, add, preference};

/// Price of one unit of each limited resource, in damage.
pub(crate) type Multipliers = [f64; MAX_LIMITS];

/// Subgradient steps taken when several limits hold; the bound moves little after that.
const STEPS: usize = 200;

/// A bound and the multipliers that prove it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dual {
    pub(crate) multipliers: Multipliers,
    pub(crate) bound: f64,
}

/// `d + λ·c`.
pub(crate) fn reduced(damage: f64, costs: &Amounts, multipliers: &Multipliers) -> f64 {
    // A zero multiplier must not meet an infinite product: costs are finite, so it cannot.
    damage + (0..MAX_LIMITS).map(|k| multipliers[k] * costs[k] as f64).sum::<f64>()
}

/// Position of the item with the least `d + λ·c`; ties go to the one that needs least of the limits.
fn argmin(items: &[Item], multipliers: &Multipliers) -> usize {
    let mut best = 0;
    for (i, item) in items.iter().enumerate().skip(1) {
        let (new, old) = (reduced(item.damage, &item.costs, multipliers), &items[best]);
        let old_value = reduced(old.damage, &old.costs, multipliers);
        if new < old_value || (new == old_value && item.costs < old.costs) {
            best = i;
        }
    }
    best
}

/// `L(λ)`, and the picks that attain it.
pub(crate) fn relax(problem: &Problem, multipliers: &Multipliers) -> (f64, Vec<usize>) {
    let picks: Vec<usize> = problem.items.iter().map(|items| argmin(items, multipliers)).collect();
    let chosen = problem.items.iter().zip(&picks).map(|(items, &p)| &items[p]);
    let sum: f64 = chosen.map(|item| reduced(item.damage, &item.costs, multipliers)).sum();
    let spent: f64 = (0..problem.dims()).map(|k| multipliers[k] * problem.limits[k] as f64).sum();
    (sum - spent, picks)
}

/// Indices of the lower convex hull of `(cost, value)` points, from the cheapest to the least value; costs rise and
/// values fall strictly, and the saving per unit of cost falls.
pub(crate) fn lower_hull(points: &[(u64, f64)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| {
        points[a].0.cmp(&points[b].0).then(points[a].1.total_cmp(&points[b].1)).then(a.cmp(&b))
    });
    let mut hull: Vec<usize> = Vec::new();
    for i in order {
        if hull.last().is_some_and(|&last| points[i].1 >= points[last].1) {
            continue;
        }
        while let [.., a, b] = hull[..] {
            if saving(points[a], points[b]) > saving(points[b], points[i]) {
                break;
            }
            hull.pop();
        }
        hull.push(i);
    }
    hull
}

/// Value saved per unit of cost between two points, the first cheaper.
pub(crate) fn saving(from: (u64, f64), to: (u64, f64)) -> f64 {
    (from.1 - to.1) / (to.0 - from.0) as f64
}

/// The best bound found.
pub(crate) fn dual(problem: &Problem) -> Dual {
    let zero = [0.0; MAX_LIMITS];
    let mut best = Dual { multipliers: zero, bound: relax(problem, &zero).0 };
    // One limit: the first search along its axis is already exact.
    for _round in 0..if problem.dims() > 1 { 4 } else { 1 } {
        for k in 0..problem.dims() {
            let mut multipliers = best.multipliers;
            multipliers[k] = along_axis(problem, &multipliers, k);
            best = better(best, problem, multipliers);
        }
    }
    if problem.dims() > 1 { subgradient(problem, best) } else { best }
}

fn better(best: Dual, problem: &Problem, multipliers: Multipliers) -> Dual {
    let bound = relax(problem, &multipliers).0;
    if bound > best.bound { Dual { multipliers, bound } } else { best }
}

/// The `λ_k` that maximizes `L` while the other multipliers stay: walk the hull edges of all sites, largest saving
/// first, until the limit is reached; the saving of that edge is the answer.
fn along_axis(problem: &Problem, multipliers: &Multipliers, k: usize) -> f64 {
    let mut others = *multipliers;
    others[k] = 0.0;
    let mut edges: Vec<(f64, u64)> = Vec::new();
    let mut cost = 0u64;
    for items in &problem.items {
        let points: Vec<(u64, f64)> =
            items.iter().map(|i| (i.costs[k], reduced(i.damage, &i.costs, &others))).collect();
        let hull = lower_hull(&points);
        cost += points[hull[0]].0;
        for pair in hull.windows(2) {
            let (from, to) = (points[pair[0]], points[pair[1]]);
            edges.push((saving(from, to), to.0 - from.0));
        }
    }
    edges.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (slope, step) in edges {
        cost += step;
        if cost > problem.limits[k] {
            return slope;
        }
    }
    0.0
}

/// Projected subgradient ascent from `start`, in units of the limits, with a step that halves when it stalls.
fn subgradient(problem: &Problem, start: Dual) -> Dual {
    let dims = problem.dims();
    let scale: Vec<f64> = (0..dims).map(|k| (problem.limits[k] as f64).max(1.0)).collect();
    let target =
        greedy(problem, &start.multipliers).map_or(start.bound.abs() * 1.1 + 1e-9, |plan| plan.damage);
    let (mut best, mut at, mut stalled, mut pace) = (start, start.multipliers, 0, 1.0);
    for _ in 0..STEPS {
        let (bound, picks) = relax(problem, &at);
        let costs = spent(problem, &picks);
        if bound > best.bound {
            best = Dual { multipliers: at, bound };
            stalled = 0;
        } else {
            stalled += 1;
            if stalled % 10 == 0 {
                (pace, at) = (pace * 0.5, best.multipliers);
                continue;
            }
        }
        let gradient: Vec<f64> =
            (0..dims).map(|k| costs[k] as f64 / scale[k] - problem.limits[k] as f64 / scale[k]).collect();
        let norm: f64 = gradient.iter().map(|g| g * g).sum();
        if norm == 0.0 {
            break;
        }
        let step = pace * (target - bound).max(0.0) / norm;
        for k in 0..dims {
            at[k] = (at[k] + step * gradient[k] / scale[k]).max(0.0);
        }
    }
    best
}

/// Costs of a choice of item positions.
fn spent(problem: &Problem, picks: &[usize]) -> Amounts {
    problem.items.iter().zip(picks).fold([0; MAX_LIMITS], |sum, (items, &p)| add(&sum, &items[p].costs))
}

/// A feasible plan: item positions and their damage.
#[derive(Clone, Debug)]
pub(crate) struct Feasible {
    pub(crate) picks: Vec<usize>,
    pub(crate) damage: f64,
}

/// Rounds the relaxed picks to a feasible plan (repair, then single swaps); `None` if the repair gets stuck,
/// which with one limit does not happen.
pub(crate) fn greedy(problem: &Problem, multipliers: &Multipliers) -> Option<Feasible> {
    let (_, mut picks) = relax(problem, multipliers);
    let mut costs = spent(problem, &picks);
    while !problem.fits(&costs) {
        let swap = best_swap(problem, &picks, |from, to| {
            let gain = excess(problem, &costs) - excess(problem, &swapped(&costs, from, to));
            // Least loss of the relaxed value for each unit of excess removed.
            let loss =
                reduced(to.damage, &to.costs, multipliers) - reduced(from.damage, &from.costs, multipliers);
            (gain > 0.0).then(|| loss / gain)
        });
        let (i, p) = swap?;
        costs = swapped(&costs, &problem.items[i][picks[i]], &problem.items[i][p]);
        picks[i] = p;
    }
    loop {
        let swap = best_swap(problem, &picks, |from, to| {
            let gain =
                preference((to.damage, to.bytes, &to.costs), (from.damage, from.bytes, &from.costs)).is_lt();
            (gain && problem.fits(&swapped(&costs, from, to))).then_some(to.damage - from.damage)
        });
        let Some((i, p)) = swap else { break };
        costs = swapped(&costs, &problem.items[i][picks[i]], &problem.items[i][p]);
        picks[i] = p;
    }
    let damage = problem.items.iter().zip(&picks).map(|(items, &p)| items[p].damage).sum();
    Some(Feasible { picks, damage })
}

fn swapped(costs: &Amounts, from: &Item, to: &Item) -> Amounts {
    std::array::from_fn(|k| costs[k] - from.costs[k] + to.costs[k])
}

/// How far above the limits, each in units of its limit.
fn excess(problem: &Problem, costs: &Amounts) -> f64 {
    let over =
        |k: usize| costs[k].saturating_sub(problem.limits[k]) as f64 / (problem.limits[k] as f64).max(1.0);
    (0..problem.dims()).map(over).sum()
}

/// The single swap with the least `key`, among those that have one; ties go to the first.
fn best_swap(
    problem: &Problem,
    picks: &[usize],
    key: impl Fn(&Item, &Item) -> Option<f64>,
) -> Option<(usize, usize)> {
    let mut best: Option<(f64, usize, usize)> = None;
    for (i, items) in problem.items.iter().enumerate() {
        for p in (0..items.len()).filter(|&p| p != picks[i]) {
            if let Some(value) = key(&items[picks[i]], &items[p])
                && best.is_none_or(|(least, ..)| value < least)
            {
                best = Some((value, i, p));
            }
        }
    }
    best.map(|(_, i, p)| (i, p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hull_by_hand() {
        // (1,10) (2,4) (3,3.9) (4,1) (5,2): the third lies above the line from the second to the fourth.
        let points = [(5, 2.0), (3, 3.9), (1, 10.0), (2, 4.0), (4, 1.0)];
        assert_eq!(lower_hull(&points), [2, 3, 4]);
        assert_eq!(lower_hull(&[(7, 1.0)]), [0]);
        assert_eq!(lower_hull(&[(7, 1.0), (7, 0.5), (9, 0.5)]), [1]);
    }

    fn item(cost: u64, damage: f64, index: usize) -> Item {
        Item { damage, bytes: cost, costs: [cost, 0, 0, 0], index }
    }

    #[test]
    fn one_limit_bound_is_the_linear_program() {
        // Two sites with steps of saving 3 and 1 per byte; 3 bytes above the floor: all of the first (2 bytes),
        // half of the second (1 of 2): damage 0 + 1.
        let problem = Problem {
            resources: vec![crate::resource::Resource::Bytes],
            limits: [5, 0, 0, 0],
            items: vec![vec![item(1, 6.0, 0), item(3, 0.0, 1)], vec![item(1, 2.0, 0), item(3, 0.0, 1)]],
        };
        let dual = dual(&problem);
        assert!((dual.bound - 1.0).abs() < 1e-12, "{dual:?}");
        let plan = greedy(&problem, &dual.multipliers).unwrap();
        assert_eq!((plan.picks, plan.damage), (vec![1, 0], 2.0));
    }
}
