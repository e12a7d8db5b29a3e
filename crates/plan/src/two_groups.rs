//! Sizes between two bounds, and two groups of sites that are priced by different metrics: MixDQ.
//!
//! Source: Zhao et al., arXiv:2405.17873 (ECCV 2024). Where layers matter to different qualities, each group is priced by a metric of its
//! own, and prices of two metrics must not be added. So each group is a problem of its own: of a target of `b` bits a weight and a
//! ratio `k`, the second group gets `b (1 + ρ) / (k ρ + 1)` and the first `k` times that, with `ρ` the weights of the first over those of the
//! second. The ratio is tried, and whoever can measure the whole picks. So that plans of all ratios are of one size, each group's has to
//! lie within a tolerance of its share, above and below.
//!
//! All of it is the one allocator, told differently: "at least so many bytes" is "at most so many bytes less than the largest plan".

use std::ops::RangeInclusive;

use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::price::PriceList;
use crate::resource::{Costs, Resource};
use crate::solve::{Allocation, SolveOptions, solve};

/// The least sum of damages among plans whose bytes lie in `bytes`; `None` if there is no such plan. Other prices are left aside.
///
/// # Errors
/// A price list that is wrong in itself.
pub fn solve_within(
    prices: &PriceList,
    bytes: RangeInclusive<u64>,
    options: &SolveOptions,
) -> Result<Option<Allocation>> {
    // What a plan saves against the largest one takes the place of a resource that is not asked about.
    let mut list = prices.clone();
    let mut largest = 0u64;
    for site in &mut list.sites {
        let most = site.options.iter().map(|option| option.costs.bytes).max().unwrap_or(0);
        largest = largest.saturating_add(most);
        for option in &mut site.options {
            let bytes = option.costs.bytes;
            option.costs = Costs { params: Some(most - bytes), ..Costs::bytes(bytes) };
        }
    }
    list.resources = vec![Resource::Bytes, Resource::Params];
    let Some(saved) = largest.checked_sub(*bytes.start()) else { return Ok(None) };
    let limits = Limits { params: Some(saved), ..Limits::bytes(*bytes.end()) };
    match solve(&list, &limits, options) {
        Ok(found) => {
            let (costs, damage) = prices.total(&found.choice)?;
            Ok(Some(Allocation { costs, damage, ..found }))
        }
        Err(Error::Infeasible(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How two groups share a target.
#[derive(Clone, Debug, PartialEq)]
pub struct TwoGroups {
    /// Bits a weight of all sites together.
    pub targets: Vec<f64>,
    /// Bits of the first group over those of the second.
    pub ratios: Vec<f64>,
    /// By how many bits a weight the size of a group may miss its share.
    pub tolerance: f64,
}

impl TwoGroups {
    /// The ratios of the paper for weights, 0.46 to 1.36, and ten targets up to `bits`, from 0.3 below.
    pub fn of_weights(bits: f64) -> Self {
        let between = |low: f64, high: f64| (0..10).map(move |i| low + (high - low) * f64::from(i) / 9.0);
        Self {
            targets: between(bits - 0.3, bits).collect(),
            ratios: between(0.46, 1.36).collect(),
            tolerance: 0.02,
        }
    }

    /// Bits a weight of the two groups, for groups of so many weights.
    pub fn shares(target: f64, ratio: f64, weights: [u64; 2]) -> [f64; 2] {
        let [first, second] = weights.map(|n| n as f64);
        // b (1 + ρ) / (k ρ + 1), times the second group's weights above and below, so that it may be empty.
        let other = target * (first + second) / (ratio * first + second);
        [ratio * other, other]
    }

    /// The best plan of every target and ratio that has one, each choice once. `first` tells the sites of the first group. Damages of the
    /// groups are not compared with each other.
    ///
    /// # Errors
    /// A flag too many or too few, fused sites of both groups, and a price list that is wrong in itself.
    pub fn plans(
        &self,
        prices: &PriceList,
        first: &[bool],
        options: &SolveOptions,
    ) -> Result<Vec<GroupedPlan>> {
        if first.len() != prices.sites.len() {
            let problem = format!("two groups: {} flags for {} sites", first.len(), prices.sites.len());
            return Err(Error::Choice { problem });
        }
        let part = |own: bool| -> PriceList {
            let sites = prices.sites.iter().zip(first).filter(|(_, flag)| **flag == own);
            PriceList { sites: sites.map(|(site, _)| site.clone()).collect(), ..prices.clone() }
        };
        let parts = [part(true), part(false)];
        let groups = parts.each_ref().map(|part| {
            part.sites.iter().filter_map(|site| site.group.clone()).collect::<std::collections::BTreeSet<_>>()
        });
        if let Some(group) = groups[0].intersection(&groups[1]).next() {
            let problem = format!("two groups: the sites of \"{group}\" share one option, but lie in both");
            return Err(Error::Choice { problem });
        }
        let weights = parts.each_ref().map(PriceList::weights);
        let mut plans: Vec<GroupedPlan> = Vec::new();
        for &target in &self.targets {
            for &ratio in &self.ratios {
                let bits = Self::shares(target, ratio, weights);
                let mut found = Vec::new();
                for ((part, bits), weights) in parts.iter().zip(bits).zip(weights) {
                    let bytes = |bits: f64| bits.max(0.0) * weights as f64 / 8.0;
                    let least = bytes(bits - self.tolerance).ceil() as u64;
                    let most = bytes(bits + self.tolerance).floor() as u64;
                    found.extend(solve_within(part, least..=most, options)?);
                }
                let Ok([of_first, of_second]) = <[Allocation; 2]>::try_from(found) else { continue };
                let damages = [of_first.damage, of_second.damage];
                let exact = of_first.exact && of_second.exact;
                let mut choices = [of_first.choice.into_iter(), of_second.choice.into_iter()];
                let next = |&flag: &bool| choices[usize::from(!flag)].next().unwrap_or(0);
                let choice: Vec<usize> = first.iter().map(next).collect();
                if plans.iter().all(|known| known.choice != choice) {
                    let costs = prices.total(&choice)?.0;
                    plans.push(GroupedPlan { target, ratio, choice, costs, damages, exact });
                }
            }
        }
        Ok(plans)
    }
}

/// A plan of two groups.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupedPlan {
    /// The target that it was made for, bits a weight.
    pub target: f64,
    /// The ratio that it was made for.
    pub ratio: f64,
    /// Option index per site, in the order of the price list.
    pub choice: Vec<usize>,
    /// Sum of the costs of the chosen options.
    pub costs: Costs,
    /// Sum of the damages in each group, each on its own scale.
    pub damages: [f64; 2],
    /// Whether both are proven optimal.
    pub exact: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::{SiteOption, SitePrices};

    /// Sites of these weights, with 2, 4 and 8 bits a weight; damages from a table of numbers without order.
    fn list(weights: &[u64], seed: u64) -> PriceList {
        let site = |(i, &n): (usize, &u64)| {
            let option = |bits: u64| {
                let h = (seed * 1009 + 31 * i as u64 + bits).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                SiteOption::new(format!("{bits} bits"), n * bits / 8, (h >> 44) as f64 / (bits * bits) as f64)
            };
            SitePrices::new(format!("site {i}"), n, [2, 4, 8].map(option).to_vec())
        };
        PriceList::new("error", weights.iter().enumerate().map(site).collect()).unwrap()
    }

    /// Every choice whose bytes lie in the band, straight from the definition.
    fn by_hand(list: &PriceList, bytes: &RangeInclusive<u64>) -> Option<f64> {
        let n = list.sites.len();
        let all = (0..3usize.pow(n as u32)).filter_map(|number| {
            let choice: Vec<usize> = (0..n).map(|i| number / 3usize.pow(i as u32) % 3).collect();
            let (costs, damage) = list.total(&choice).unwrap();
            bytes.contains(&costs.bytes).then_some(damage)
        });
        all.min_by(f64::total_cmp)
    }

    #[test]
    fn the_best_plan_of_a_band_is_that_of_all_combinations() {
        let weights = [64, 128, 256, 64, 96, 160, 320, 48];
        let total: u64 = weights.iter().sum();
        let (mut bound, mut none) = (0, 0);
        for seed in 0..30 {
            let list = list(&weights, seed);
            for bits in [2.0, 2.5, 3.3, 4.0, 5.7, 7.9, 8.0, 9.0] {
                let at = |bits: f64| bits * total as f64 / 8.0;
                let band = at(bits - 0.02).ceil() as u64..=at(bits + 0.02).floor() as u64;
                let found = solve_within(&list, band.clone(), &SolveOptions::default()).unwrap();
                let expected = by_hand(&list, &band);
                assert_eq!(found.is_some(), expected.is_some(), "{seed} {bits}");
                let Some(found) = found else {
                    none += 1;
                    continue;
                };
                assert!(band.contains(&found.costs.bytes) && found.exact);
                assert!((found.damage - expected.unwrap()).abs() < 1e-9, "{seed} {bits}: {found:?}");
                // Control: with an upper bound alone, something smaller may be better.
                let below = solve(&list, &Limits::bytes(*band.end()), &SolveOptions::default()).unwrap();
                assert!(below.damage <= found.damage);
                bound += usize::from(below.costs.bytes < *band.start());
            }
        }
        assert!(bound > 3 && none > 3, "{bound} {none}");
    }

    #[test]
    fn shares_add_up_to_the_target_in_their_ratio() {
        for weights in [[100, 300], [300, 100], [0, 70], [70, 0]] {
            let [first, second] = TwoGroups::shares(4.5, 0.8, weights);
            assert!((first - 0.8 * second).abs() < 1e-12);
            let bits = first * weights[0] as f64 + second * weights[1] as f64;
            assert!((bits - 4.5 * (weights[0] + weights[1]) as f64).abs() < 1e-9);
            // As the paper writes it.
            if weights[1] > 0 {
                let rho = weights[0] as f64 / weights[1] as f64;
                assert!((second - 4.5 * (1.0 + rho) / (0.8 * rho + 1.0)).abs() < 1e-12);
            }
        }
        let paper = TwoGroups::of_weights(5.0);
        assert_eq!((paper.targets.len(), paper.ratios.len()), (10, 10));
        assert!((paper.ratios[9] - 1.36).abs() < 1e-12 && (paper.targets[0] - 4.7).abs() < 1e-12);
    }

    #[test]
    fn each_group_is_best_by_its_own_metric_and_within_its_share() {
        let weights = [64, 128, 256, 64, 96, 160, 320, 48];
        let first = [true, false, true, false, false, true, false, true];
        let (mut list, settings) =
            (list(&weights, 3), TwoGroups { tolerance: 0.2, ..TwoGroups::of_weights(5.0) });
        let plans = settings.plans(&list, &first, &SolveOptions::default()).unwrap();
        assert!(plans.len() > 3, "{}", plans.len());
        let total: u64 = weights.iter().sum();
        for plan in &plans {
            let bits = 8.0 * plan.costs.bytes as f64 / total as f64;
            assert!((bits - plan.target).abs() <= 0.2 + 1e-9 && plan.exact, "{plan:?}");
        }
        // The scale of one group's metric changes nothing; control: in one problem it would.
        let choices = |list: &PriceList| -> Vec<Vec<usize>> {
            let plans = settings.plans(list, &first, &SolveOptions::default()).unwrap();
            plans.into_iter().map(|plan| plan.choice).collect()
        };
        let whole =
            |list: &PriceList| solve(list, &Limits::bytes(total * 4 / 8), &SolveOptions::default()).unwrap();
        let (before, at_once) = (choices(&list), whole(&list));
        for (site, _) in list.sites.iter_mut().zip(first).filter(|(_, first)| *first) {
            site.options.iter_mut().for_each(|option| option.damage *= 1000.0);
        }
        assert_eq!(choices(&list), before);
        assert_ne!(whole(&list).choice, at_once.choice);
        // Fused sites of both groups, and flags that do not fit.
        list.sites[0].group = Some("qkv".into());
        list.sites[1].group = Some("qkv".into());
        assert!(settings.plans(&list, &first, &SolveOptions::default()).is_err());
        assert!(settings.plans(&list, &first[1..], &SolveOptions::default()).is_err());
    }
}
