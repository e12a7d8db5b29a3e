//! The plan: what was chosen for every site, from which options, for which model and budget.
//!
//! A plan is a file that people read, compare and edit (`plan.toml`, see [`Plan::to_toml`] and [`Plan::parse`]).
//! It carries the whole price list, so that another choice needs no new measurement: change a site's `choice` to
//! another label of its list, and [`Plan::reprice`] brings the totals up to date.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::limits::Totals;
use crate::price::{PriceList, Settings};
use crate::resource::Costs;
use crate::solve::Allocation;

/// Version of the file format that this crate writes and reads.
pub const PLAN_VERSION: u32 = 1;

/// Where a plan comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlanHeader {
    /// Name or path of the model, as the user gave it.
    pub model: String,
    /// Fingerprint of the model's content; a plan for another model is told apart by it.
    pub fingerprint: String,
    /// The budget that was asked for, if any.
    pub budget: Option<Budget>,
    /// Seed of everything random in the measurements.
    pub seed: u64,
    /// The calibration data, in words.
    pub calibration: String,
    /// How the options were made when they were priced, so that they are made alike when the plan is carried out; empty where the plan
    /// says nothing of it.
    pub quantizer: Settings,
    /// Sizes of the model before treatment.
    pub totals: Totals,
}

/// What a plan is predicted to take and to damage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Predicted {
    /// Costs of the treated sites.
    pub costs: Costs,
    /// Sum of the damages.
    pub damage: f64,
    /// Proven least damage within the budget; `None` after an edit.
    pub lower_bound: Option<f64>,
}

/// A priced list of sites with one option chosen for each.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Origin of the plan.
    pub header: PlanHeader,
    /// All options that were considered.
    pub prices: PriceList,
    /// Option index per site.
    pub choice: Vec<usize>,
    /// Totals, as of the last solve or [`Plan::reprice`].
    pub predicted: Predicted,
}

impl Plan {
    /// A plan from the solver's answer. Errors: an allocation that does not fit the list.
    pub fn new(header: PlanHeader, prices: PriceList, allocation: &Allocation) -> Result<Self> {
        let (costs, damage) = prices.total(&allocation.choice)?;
        let bound = Some(allocation.lower_bound).filter(|b| b.is_finite());
        let predicted = Predicted { costs, damage, lower_bound: bound };
        let plan = Self { header, prices, choice: allocation.choice.clone(), predicted };
        plan.check(&|_| String::from("plan"))?;
        Ok(plan)
    }

    /// The label chosen for `site`.
    pub fn label(&self, site: &str) -> Option<&str> {
        let i = self.prices.sites.iter().position(|s| s.site == site)?;
        Some(self.prices.sites[i].options.get(*self.choice.get(i)?)?.label.as_str())
    }

    /// Recomputes the totals after an edit of the choices or prices. The lower bound belongs to the solver's
    /// problem, and is forgotten if anything changed. Returns whether the totals were out of date.
    pub fn reprice(&mut self) -> Result<bool> {
        let (costs, damage) = self.prices.total(&self.choice)?;
        let stale = costs != self.predicted.costs || damage != self.predicted.damage;
        if stale {
            self.predicted = Predicted { costs, damage, lower_bound: None };
        }
        Ok(stale)
    }

    /// The choice as the solver's answer, with totals computed from the prices. Without a known lower bound it
    /// is `-inf`, the gap infinite.
    pub fn allocation(&self) -> Result<Allocation> {
        let (costs, damage) = self.prices.total(&self.choice)?;
        let lower_bound = self.predicted.lower_bound.unwrap_or(f64::NEG_INFINITY).min(damage);
        let exact = lower_bound == damage;
        let choice = self.choice.clone();
        Ok(Allocation { choice, costs, damage, lower_bound, gap: damage - lower_bound, exact, states: 0 })
    }

    /// Bits per weight of the treated sites: 8 × predicted bytes / their weights.
    pub fn bits_per_weight(&self) -> Option<f64> {
        let weights = self.prices.weights();
        (weights > 0).then(|| 8.0 * self.predicted.costs.bytes as f64 / weights as f64)
    }

    /// Checks that the plan is one: valid prices, one existing option per site, pins and fused groups kept,
    /// numbers that the file can hold. `place` says where site `i` stands.
    pub(crate) fn check(&self, place: &dyn Fn(usize) -> String) -> Result<()> {
        self.prices.validate()?;
        self.prices.total(&self.choice)?;
        let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
        for (i, site) in self.prices.sites.iter().enumerate() {
            let label = &site.options[self.choice[i]].label;
            if let Some(pin) = site.pinned.as_ref().filter(|pin| *pin != label) {
                let problem = format!(
                    "site \"{}\": choice \"{label}\", but pinned to \"{pin}\"\n\
                     hint: change or remove `pinned` as well",
                    site.site
                );
                return Err(Error::PlanFile { place: place(i), problem });
            }
            let Some(group) = site.group.as_deref() else { continue };
            let first = *groups.entry(group).or_insert(i);
            let expected = &self.prices.sites[first].options[self.choice[first]].label;
            if expected != label {
                let problem = format!(
                    "site \"{}\": choice \"{label}\", but \"{}\" of the same fused group \"{group}\" has \
                     \"{expected}\"\nhint: give all members of the group one label",
                    site.site, self.prices.sites[first].site
                );
                return Err(Error::PlanFile { place: place(i), problem });
            }
        }
        self.check_numbers()
    }

    /// TOML integers have 63 bits and a sign, and a file is no place for NaN.
    fn check_numbers(&self) -> Result<()> {
        let t = &self.header.totals;
        let counts = [
            t.treated_weights,
            t.treated_bytes_original,
            t.file_bytes_original,
            t.file_bytes_fixed,
            t.macs_total.unwrap_or(0),
            t.macs_fixed,
            t.params_total.unwrap_or(0),
            t.params_fixed,
            self.predicted.costs.bytes,
            self.predicted.costs.macs.unwrap_or(0),
            self.predicted.costs.params.unwrap_or(0),
        ];
        let numbers = [
            t.latency_total_s.unwrap_or(0.0),
            t.latency_fixed_s,
            self.predicted.costs.latency_s.unwrap_or(0.0),
            self.predicted.damage,
            self.predicted.lower_bound.unwrap_or(0.0),
        ];
        let fail = |problem: String| Err(Error::PlanFile { place: "plan".into(), problem });
        if let Some(count) = counts.iter().find(|c| i64::try_from(**c).is_err()) {
            return fail(format!("totals: {count} exceeds 2^63 - 1"));
        }
        if let Some(number) = numbers.iter().find(|n| !n.is_finite()) {
            return fail(format!("totals: {number}, expected finite numbers"));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::price::{SiteOption, SitePrices, Source};
    use crate::{SolveOptions, solve};

    /// Three sites, two of them fused, with every kind of field.
    pub(crate) fn example() -> Plan {
        let options = |scale: f64| {
            let mut rich = SiteOption::new("int4 g64 asym", 36, 0.1 * scale);
            rich.params.insert("bits".into(), toml::Value::Integer(4));
            rich.params.insert("odd key".into(), toml::Value::Array(vec![1e-7.into(), "a\n\"b\"".into()]));
            let mut low = SiteOption::new("int2 g64", 20, scale / 3.0);
            low.source = Source::Estimated;
            vec![rich, low, SiteOption::new("bf16", 128, 0.0)]
        };
        let mut sites = vec![
            SitePrices::new("layers.0.q_proj", 64, options(1.0)),
            SitePrices::new("layers.0.k_proj", 64, options(2.0)),
            SitePrices::new("lm_head", 64, options(5.0)),
        ];
        sites[0].group = Some("layers.0.qkv".into());
        sites[1].group = Some("layers.0.qkv".into());
        sites[2].pinned = Some("bf16".into());
        let prices = PriceList::new("kl", sites).unwrap();
        let totals = Totals { treated_weights: 192, file_bytes_original: 600, ..Totals::default() };
        let budget: Budget = "8.5bpw".parse().unwrap();
        let limits = budget.limits(&totals).unwrap();
        let allocation = solve(&prices, &limits, &SolveOptions::default()).unwrap();
        let header = PlanHeader {
            model: "org/\"model\"".into(),
            fingerprint: "sha256:00ff".into(),
            budget: Some(budget),
            seed: u64::MAX,
            calibration: "128 × 512 tokens".into(),
            quantizer: [("method".to_string(), "gptq".into()), ("damping".to_string(), 1e-7.into())].into(),
            totals,
        };
        Plan::new(header, prices, &allocation).unwrap()
    }

    #[test]
    fn an_edit_makes_totals_stale_and_reprice_renews_them() {
        let mut plan = example();
        assert_eq!(plan.label("layers.0.k_proj"), Some("int4 g64 asym"));
        assert!(plan.allocation().unwrap().exact);
        assert!(!plan.reprice().unwrap());
        (plan.choice[0], plan.choice[1]) = (1, 1);
        assert_eq!(plan.predicted.costs.bytes, 200);
        assert!(plan.reprice().unwrap());
        assert_eq!(plan.predicted.costs.bytes, 168);
        assert_eq!(plan.bits_per_weight(), Some(7.0));
        assert_eq!(plan.predicted.lower_bound, None);
        let allocation = plan.allocation().unwrap();
        assert!(!allocation.exact && allocation.gap == f64::INFINITY);
    }

    #[test]
    fn pins_groups_and_numbers_are_checked() {
        let check = |change: fn(&mut Plan)| {
            let mut plan = example();
            change(&mut plan);
            plan.check(&|i| format!("plan.toml:{i}")).unwrap_err().to_string()
        };
        assert!(
            check(|p| p.choice[2] = 0)
                .starts_with("plan.toml:2: site \"lm_head\": choice \"int4 g64 asym\", but")
        );
        assert!(check(|p| p.choice[0] = 1).contains("same fused group \"layers.0.qkv\""));
        assert!(check(|p| p.predicted.damage = f64::NAN).contains("finite"));
        assert!(check(|p| p.header.totals.macs_fixed = u64::MAX).contains("2^63"));
        assert!(check(|p| p.choice.truncate(1)).contains("1 choices for 3 sites"));
    }
}
