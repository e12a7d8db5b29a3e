//! Priced options: what each site could become, what that costs and what it damages.
//!
//! Nothing here knows what an option does. It is a label, the exact resources it takes, the damage it was
//! measured (or estimated) to do, and the settings that whoever made it needs to make it again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::nearest;
use crate::resource::{Costs, Resource};

/// A method's settings as data, opaque to the allocator.
pub type Settings = BTreeMap<String, toml::Value>;

/// Where a damage figure comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Measured on data.
    #[default]
    Measured,
    /// Predicted by a model of the damage.
    Estimated,
}

/// One thing that a site could become.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteOption {
    /// Name that people read and type, for example `int4 g64 asym gptq`; unique within its site.
    pub label: String,
    /// Settings with which the method makes this option again.
    pub params: Settings,
    /// What it takes.
    pub costs: Costs,
    /// Increase of the list's metric if only this site changes; ≥ 0 means worse. Finite.
    pub damage: f64,
    /// Measured or estimated.
    pub source: Source,
}

impl SiteOption {
    /// A measured option of which the bytes are known, without settings.
    pub fn new(label: impl Into<String>, bytes: u64, damage: f64) -> Self {
        Self {
            label: label.into(),
            params: Settings::new(),
            costs: Costs::bytes(bytes),
            damage,
            source: Source::Measured,
        }
    }
}

/// The options of one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SitePrices {
    /// Name of the site, unique in the list.
    pub site: String,
    /// Weights the site holds before treatment.
    pub weights: u64,
    /// Fused group: all members of one group get the option of the same label.
    pub group: Option<String>,
    /// What the site could become; never empty.
    pub options: Vec<SiteOption>,
    /// Label that a person has fixed.
    pub pinned: Option<String>,
}

impl SitePrices {
    /// A free site of its own, neither fused nor pinned.
    pub fn new(site: impl Into<String>, weights: u64, options: Vec<SiteOption>) -> Self {
        Self { site: site.into(), weights, group: None, options, pinned: None }
    }

    /// Index of the option called `label`. `place` says in the error where the label was written.
    pub fn option_index(&self, label: &str, place: &str) -> Result<usize> {
        self.options.iter().position(|o| o.label == label).ok_or_else(|| {
            let labels: Vec<&str> = self.options.iter().map(|o| o.label.as_str()).collect();
            Error::UnknownLabel {
                place: place.to_string(),
                site: self.site.clone(),
                label: label.to_string(),
                suggestion: nearest::did_you_mean(label, &labels),
                listed: nearest::quoted(&labels),
            }
        })
    }
}

/// All options of all treated sites, in the model's order, and what their damage is measured in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceList {
    /// Name of the damage metric, for example `kl`.
    pub metric: String,
    /// Resources for which **every** option has a price; bytes always belong to them.
    pub resources: Vec<Resource>,
    /// The sites.
    pub sites: Vec<SitePrices>,
}

impl PriceList {
    /// A checked list. The resources are those that every option prices.
    pub fn new(metric: impl Into<String>, sites: Vec<SitePrices>) -> Result<Self> {
        let priced =
            |r: &Resource| sites.iter().flat_map(|s| &s.options).all(|o| o.costs.units(*r).is_some());
        let resources = Resource::ALL.into_iter().filter(priced).collect();
        let list = Self { metric: metric.into(), resources, sites };
        list.validate()?;
        Ok(list)
    }

    /// Checks everything that the solvers rely on: names, options, finite damages, prices, pins, groups.
    pub fn validate(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        for site in &self.sites {
            if !names.insert(site.site.as_str()) {
                return Err(bad(&site.site, "is listed twice; names must be unique"));
            }
            self.validate_site(site)?;
        }
        if !self.resources.contains(&Resource::Bytes) {
            return Err(bad("", "resources must contain bytes: every option has a size"));
        }
        let weights = self.sites.iter().try_fold(0u64, |sum, s| sum.checked_add(s.weights));
        if weights.is_none_or(|sum| i64::try_from(sum).is_err()) {
            return Err(bad("", "the sum of all weights exceeds 2^63 - 1"));
        }
        self.validate_sums()?;
        crate::fuse::fuse(self).map(|_| ())
    }

    fn validate_site(&self, site: &SitePrices) -> Result<()> {
        if site.options.is_empty() {
            return Err(bad(
                &site.site,
                "has no options\nhint: give it at least the option of staying as it is",
            ));
        }
        let mut labels = BTreeSet::new();
        for option in &site.options {
            let label = option.label.as_str();
            if label.is_empty() {
                return Err(bad(&site.site, "an option has an empty label"));
            }
            if !labels.insert(label) {
                return Err(bad(
                    &site.site,
                    &format!("two options are called \"{label}\"; labels must be unique"),
                ));
            }
            if !option.damage.is_finite() {
                let problem = format!(
                    "option \"{label}\": damage is {}, expected a finite number\n\
                     hint: look for NaN or infinity in the weights or the calibration data",
                    option.damage
                );
                return Err(bad(&site.site, &problem));
            }
            if option.costs.latency_s.is_some_and(|s| !(s.is_finite() && s >= 0.0)) {
                let found = option.costs.latency_s.unwrap_or(f64::NAN);
                let problem =
                    format!("option \"{label}\": latency is {found} s, expected a finite number ≥ 0");
                return Err(bad(&site.site, &problem));
            }
            for resource in &self.resources {
                if option.costs.units(*resource).is_none() {
                    let problem = format!(
                        "option \"{label}\": no {resource} price, though the list declares {resource}"
                    );
                    return Err(bad(&site.site, &problem));
                }
            }
        }
        match &site.pinned {
            Some(label) => site.option_index(label, "pinned").map(|_| ()),
            None => Ok(()),
        }
    }

    /// The solvers add without checks: even the dearest plan must fit 63 bits, and the worst damage be finite.
    fn validate_sums(&self) -> Result<()> {
        let worst = |s: &SitePrices| s.options.iter().map(|o| o.damage.abs()).fold(0.0, f64::max);
        if !self.sites.iter().map(worst).sum::<f64>().is_finite() {
            return Err(bad(
                "",
                "the sum of all damages overflows\nhint: exclude options that destroy the model",
            ));
        }
        for resource in Resource::ALL {
            let mut sum = 0u64;
            for site in &self.sites {
                let dearest = site.options.iter().filter_map(|o| o.costs.units(resource)).max().unwrap_or(0);
                sum = sum.checked_add(dearest).filter(|s| i64::try_from(*s).is_ok()).ok_or_else(|| {
                    bad(&site.site, &format!("the sum of {resource} exceeds 2^63 - 1 here"))
                })?;
            }
        }
        Ok(())
    }

    /// Number of weights in all sites.
    pub fn weights(&self) -> u64 {
        self.sites.iter().map(|s| s.weights).sum()
    }

    /// Costs and damage of a choice of one option index per site, added in the order of the sites.
    pub fn total(&self, choice: &[usize]) -> Result<(Costs, f64)> {
        if choice.len() != self.sites.len() {
            let problem = format!("{} choices for {} sites", choice.len(), self.sites.len());
            return Err(Error::Choice { problem });
        }
        let mut costs = Costs::zero();
        let mut damage = 0.0;
        for (site, &index) in self.sites.iter().zip(choice) {
            let option = site.options.get(index).ok_or_else(|| Error::Choice {
                problem: format!("site \"{}\": option {index}, but it has {}", site.site, site.options.len()),
            })?;
            costs = costs.plus(&option.costs);
            damage += option.damage;
        }
        Ok((costs, damage))
    }

    /// The plan that gives every site the option called `label`, or `None` if a site lacks it.
    /// Pinned sites keep their pin, and a pin on one member of a fused group is that of all of them.
    pub fn uniform(&self, label: &str) -> Option<Vec<usize>> {
        let pins = self.sites.iter().filter_map(|s| Some((s.group.as_deref()?, s.pinned.as_deref()?)));
        let pins: BTreeMap<&str, &str> = pins.collect();
        let option = |site: &SitePrices| -> Option<usize> {
            let of_group = site.group.as_deref().and_then(|group| pins.get(group).copied());
            let wanted = site.pinned.as_deref().or(of_group).unwrap_or(label);
            site.options.iter().position(|o| o.label == wanted)
        };
        self.sites.iter().map(option).collect()
    }

    /// Every label that some site offers, in order of first appearance.
    pub fn labels(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        let all = self.sites.iter().flat_map(|s| s.options.iter().map(|o| o.label.as_str()));
        all.filter(|label| seen.insert(*label)).collect()
    }
}

fn bad(site: &str, problem: &str) -> Error {
    Error::Prices { site: site.to_string(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(name: &str, options: &[(&str, u64, f64)]) -> SitePrices {
        SitePrices::new(name, 8, options.iter().map(|(l, b, d)| SiteOption::new(*l, *b, *d)).collect())
    }

    fn message(sites: Vec<SitePrices>) -> String {
        PriceList::new("kl", sites).unwrap_err().to_string()
    }

    #[test]
    fn contradictions_are_named() {
        assert!(message(vec![site("a", &[])]).contains("\"a\": has no options"));
        let twice = vec![site("a", &[("x", 1, 0.0)]), site("a", &[("x", 1, 0.0)])];
        assert!(message(twice).contains("listed twice"));
        assert!(
            message(vec![site("a", &[("x", 1, 0.0), ("x", 2, 0.0)])])
                .contains("two options are called \"x\"")
        );
        for damage in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(message(vec![site("a", &[("x", 1, damage)])]).contains("expected a finite number"));
        }
        let vast = vec![site("a", &[("x", 1, 1e308)]), site("b", &[("x", 1, -1e308)])];
        assert!(message(vast).contains("sum of all damages overflows"));
        let mut slow = site("a", &[("x", 1, 0.0)]);
        slow.options[0].costs.latency_s = Some(-1.0);
        assert!(message(vec![slow]).contains("latency is -1 s"));
        let huge = vec![site("a", &[("x", u64::MAX / 2, 0.0)]), site("b", &[("x", 1, 0.0)])];
        assert!(message(huge).contains("exceeds 2^63 - 1"));
    }

    #[test]
    fn a_list_survives_serialization() {
        let mut a = site("a", &[("x", 1, 1.0 / 3.0), ("y", 2, 0.0)]);
        a.options[0].params.insert("bits".into(), toml::Value::Integer(4));
        a.group = Some("g".into());
        let list = PriceList::new("kl", vec![a]).unwrap();
        let text = toml::to_string(&list).unwrap();
        assert_eq!(toml::from_str::<PriceList>(&text).unwrap(), list);
    }

    #[test]
    fn resources_are_those_that_every_option_prices() {
        let mut a = site("a", &[("x", 1, 0.0), ("y", 2, 0.0)]);
        a.options[0].costs.macs = Some(3);
        a.options[0].costs.params = Some(3);
        a.options[1].costs.params = Some(4);
        let list = PriceList::new("kl", vec![a]).unwrap();
        assert_eq!(list.resources, [Resource::Bytes, Resource::Params]);
    }

    #[test]
    fn a_pin_on_one_member_decides_for_its_group_in_uniform_plans() {
        let options = [("x", 1, 1.0), ("y", 2, 0.5)];
        let mut sites = ["q", "k", "o"].map(|name| site(name, &options));
        sites[1].pinned = Some("y".into());
        let uniform = |sites: &[SitePrices]| PriceList::new("kl", sites.to_vec()).unwrap().uniform("x");
        assert_eq!(uniform(&sites).unwrap(), [0, 1, 0], "control: without a group the pin is its own");
        sites[..2].iter_mut().for_each(|site| site.group = Some("qkv".into()));
        assert_eq!(uniform(&sites).unwrap(), [1, 1, 0]);
    }

    #[test]
    fn totals_and_uniform_plans() {
        let mut b = site("b", &[("y", 5, 0.5), ("x", 7, 0.25)]);
        let list = PriceList::new("kl", vec![site("a", &[("x", 1, 1.0), ("y", 2, 2.0)]), b.clone()]).unwrap();
        let x = list.uniform("x").unwrap();
        assert_eq!(x, [0, 1]);
        let (costs, damage) = list.total(&x).unwrap();
        assert_eq!((costs.bytes, damage, costs.macs), (8, 1.25, None));
        assert_eq!(list.uniform("z"), None);
        assert_eq!(list.labels(), ["x", "y"]);
        assert!(list.total(&[0]).is_err() && list.total(&[0, 2]).is_err());
        b.pinned = Some("z".into());
        let error = PriceList::new("kl", vec![b]).unwrap_err();
        assert!(matches!(error, Error::UnknownLabel { .. }), "{error}");
    }
}
