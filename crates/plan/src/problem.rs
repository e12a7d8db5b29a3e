//! The allocation as numbers: multiple-choice knapsack with one or several upper limits.
//!
//! Costs are integers (bytes, picoseconds, counts), so their sums are exact and do not depend on order.

use std::cmp::Ordering;

use crate::error::{Error, Infeasible, Result};
use crate::fuse::{Decision, fuse};
use crate::limits::Limits;
use crate::price::PriceList;
use crate::resource::{Costs, Resource};

/// Number of resources that can be limited at once.
pub(crate) const MAX_LIMITS: usize = Resource::ALL.len();

/// One amount per limited resource, in the order of [`Problem::resources`]; the rest is zero.
pub(crate) type Amounts = [u64; MAX_LIMITS];

/// One option of one decision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) damage: f64,
    /// For ties; counts towards a limit only if bytes are limited.
    pub(crate) bytes: u64,
    pub(crate) costs: Amounts,
    /// Option index in the decision.
    pub(crate) index: usize,
}

/// Choose one item per decision, minimal sum of damages, sums of costs within the limits.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) resources: Vec<Resource>,
    pub(crate) limits: Amounts,
    pub(crate) items: Vec<Vec<Item>>,
}

impl Problem {
    /// Builds the problem, drops options that no best plan can contain, and refuses impossible limits.
    pub(crate) fn new(prices: &PriceList, limits: &Limits) -> Result<(Vec<Decision>, Problem)> {
        prices.validate()?;
        let resources = limits.resources();
        check_priced(prices, limits, &resources)?;
        let decisions = fuse(prices)?;
        let mut problem = Problem { limits: [0; MAX_LIMITS], items: Vec::new(), resources };
        for (k, r) in problem.resources.iter().enumerate() {
            problem.limits[k] = limits.units(*r).unwrap_or(u64::MAX);
        }
        problem.items = decisions.iter().map(|d| items(d, &problem.resources)).collect();
        problem.check_feasible(&decisions, limits)?;
        problem.drop_useless();
        if problem.items.iter().any(Vec::is_empty) {
            return Err(problem.jointly_infeasible(&decisions, limits));
        }
        Ok((decisions, problem))
    }

    /// Number of limited resources.
    pub(crate) fn dims(&self) -> usize {
        self.resources.len()
    }

    /// Smallest cost of each decision, per resource, summed over all decisions.
    pub(crate) fn least(&self) -> Amounts {
        self.items.iter().fold([0; MAX_LIMITS], |sum, items| add(&sum, &least_of(items)))
    }

    /// Whether `costs` keeps every limit.
    pub(crate) fn fits(&self, costs: &Amounts) -> bool {
        (0..self.dims()).all(|k| costs[k] <= self.limits[k])
    }

    /// Each limit alone must be within reach; the error carries the plan that needs least of it.
    fn check_feasible(&self, decisions: &[Decision], limits: &Limits) -> Result<()> {
        let least = self.least();
        for (k, &resource) in self.resources.iter().enumerate() {
            if least[k] > self.limits[k] {
                let cheapest = |d: &Decision| {
                    let key = |c: &Costs| c.units(resource).unwrap_or(u64::MAX);
                    let best = d
                        .options
                        .iter()
                        .min_by(|a, b| key(&a.costs).cmp(&key(&b.costs)).then(a.damage.total_cmp(&b.damage)));
                    best.map_or_else(Costs::zero, |o| o.costs)
                };
                let nearest = decisions.iter().fold(Costs::zero(), |sum, d| sum.plus(&cheapest(d)));
                let problem = Infeasible { limits: limits.clone(), resource: Some(resource), nearest };
                return Err(Error::Infeasible(Box::new(problem)));
            }
        }
        Ok(())
    }

    /// Drops dominated options, and options that break a limit even beside the cheapest of all others.
    fn drop_useless(&mut self) {
        let (least, limits, dims) = (self.least(), self.limits, self.dims());
        for items in &mut self.items {
            let own = least_of(items);
            items.retain(|item| (0..dims).all(|k| least[k] - own[k] + item.costs[k] <= limits[k]));
            items.sort_by(|a, b| {
                let by_worth = preference((a.damage, a.bytes, &a.costs), (b.damage, b.bytes, &b.costs));
                by_worth.then(a.index.cmp(&b.index))
            });
            let mut kept: Vec<Item> = Vec::with_capacity(items.len());
            for item in items.drain(..) {
                if !kept.iter().any(|better| (0..dims).all(|k| better.costs[k] <= item.costs[k])) {
                    kept.push(item);
                }
            }
            kept.sort_by_key(|item| item.index);
            *items = kept;
        }
    }

    /// Error for limits that are possible one by one, but not together.
    pub(crate) fn jointly_infeasible(&self, decisions: &[Decision], limits: &Limits) -> Error {
        let mut nearest = Costs::zero();
        let all = |pick: fn(&Costs) -> Option<u64>| {
            decisions
                .iter()
                .map(|d| d.options.iter().filter_map(|o| pick(&o.costs)).min())
                .sum::<Option<u64>>()
        };
        nearest.bytes = all(|c| Some(c.bytes)).unwrap_or(0);
        nearest.macs = all(|c| c.macs);
        nearest.params = all(|c| c.params);
        nearest.latency_s = all(|c| c.units(Resource::Latency)).map(|ps| ps as f64 * 1e-12);
        Error::Infeasible(Box::new(Infeasible { limits: limits.clone(), resource: None, nearest }))
    }
}

/// The rule of ties, as a total order: smaller damage, then fewer bytes, then less of the limited resources.
/// (The last rule, lower option index from the first site on, needs the whole choice and is applied by callers.)
pub(crate) fn preference(a: (f64, u64, &Amounts), b: (f64, u64, &Amounts)) -> Ordering {
    // `+ 0.0` makes the two zeros equal.
    (a.0 + 0.0).total_cmp(&(b.0 + 0.0)).then(a.1.cmp(&b.1)).then_with(|| a.2.cmp(b.2))
}

/// Component-wise sum; validation has bounded all sums to 63 bits.
pub(crate) fn add(a: &Amounts, b: &Amounts) -> Amounts {
    std::array::from_fn(|k| a[k] + b[k])
}

/// Component-wise minimum over the items.
pub(crate) fn least_of(items: &[Item]) -> Amounts {
    std::array::from_fn(|k| items.iter().map(|i| i.costs[k]).min().unwrap_or(0))
}

fn items(decision: &Decision, resources: &[Resource]) -> Vec<Item> {
    let options = decision.options.iter().enumerate();
    options
        .map(|(index, option)| {
            let mut costs = [0; MAX_LIMITS];
            for (k, r) in resources.iter().enumerate() {
                costs[k] = option.costs.units(*r).unwrap_or(0);
            }
            Item { damage: option.damage, bytes: option.costs.bytes, costs, index }
        })
        .collect()
}

/// A limit on a resource that the list does not price is an error, never ignored.
pub(crate) fn check_priced(prices: &PriceList, limits: &Limits, limited: &[Resource]) -> Result<()> {
    match limited.iter().find(|r| !prices.resources.contains(r)) {
        None => Ok(()),
        Some(&resource) => Err(Error::NotPriced {
            budget: limits.describe().trim_matches('"').to_string(),
            resource,
            missing: "the price list declares none".to_string(),
            priced: prices.resources.iter().map(|r| r.name()).collect::<Vec<_>>().join(", "),
        }),
    }
}
