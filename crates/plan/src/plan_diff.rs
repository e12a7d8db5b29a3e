//! What changed between two plans.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::plan_file::Plan;
use crate::price::SitePrices;

/// One difference between two plans.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Change {
    /// A header field differs.
    Header {
        /// Name of the field in the file.
        field: &'static str,
        /// Value in the first plan.
        from: String,
        /// Value in the second plan.
        to: String,
    },
    /// A site gets another option.
    Choice {
        /// The site.
        site: String,
        /// Label in the first plan.
        from: String,
        /// Label in the second plan.
        to: String,
        /// Bytes of the two choices.
        bytes: [u64; 2],
        /// Damages of the two choices, each by the prices of its own plan.
        damage: [f64; 2],
    },
    /// A site keeps its choice, but its prices, options, group or pin differ.
    Repriced {
        /// The site.
        site: String,
        /// The label chosen in both.
        label: String,
        /// Bytes of the choice by the two price lists.
        bytes: [u64; 2],
        /// Damages of the choice by the two price lists.
        damage: [f64; 2],
    },
    /// Only the second plan has this site.
    Added {
        /// The site.
        site: String,
        /// Its choice.
        label: String,
    },
    /// Only the first plan has this site.
    Removed {
        /// The site.
        site: String,
        /// Its choice.
        label: String,
    },
}

impl Plan {
    /// The differences from `self` to `other`: header, then sites in the order of `self`, then added ones.
    pub fn diff(&self, other: &Plan) -> Vec<Change> {
        let mut changes = self.diff_headers(other);
        let theirs: BTreeMap<&str, usize> =
            other.prices.sites.iter().enumerate().map(|(i, s)| (s.site.as_str(), i)).collect();
        for (i, site) in self.prices.sites.iter().enumerate() {
            match theirs.get(site.site.as_str()) {
                None => changes.push(Change::Removed { site: site.site.clone(), label: label(self, i) }),
                Some(&j) => changes.extend(self.diff_site(i, other, j)),
            }
        }
        let ours: BTreeMap<&str, &SitePrices> =
            self.prices.sites.iter().map(|s| (s.site.as_str(), s)).collect();
        for (j, site) in other.prices.sites.iter().enumerate() {
            if !ours.contains_key(site.site.as_str()) {
                changes.push(Change::Added { site: site.site.clone(), label: label(other, j) });
            }
        }
        changes
    }

    fn diff_headers(&self, other: &Plan) -> Vec<Change> {
        let fields = |plan: &Plan| {
            let h = &plan.header;
            [
                ("model", h.model.clone()),
                ("fingerprint", h.fingerprint.clone()),
                ("metric", plan.prices.metric.clone()),
                ("budget", h.budget.as_ref().map(|b| b.to_string()).unwrap_or_default()),
                ("seed", h.seed.to_string()),
                ("calibration", h.calibration.clone()),
            ]
        };
        let pairs = fields(self).into_iter().zip(fields(other)).filter(|(a, b)| a.1 != b.1);
        pairs.map(|((field, from), (_, to))| Change::Header { field, from, to }).collect()
    }

    fn diff_site(&self, i: usize, other: &Plan, j: usize) -> Option<Change> {
        let (ours, theirs) = (&self.prices.sites[i], &other.prices.sites[j]);
        let (a, b) = (ours.options.get(*self.choice.get(i)?)?, theirs.options.get(*other.choice.get(j)?)?);
        let site = ours.site.clone();
        let (bytes, damage) = ([a.costs.bytes, b.costs.bytes], [a.damage, b.damage]);
        if a.label != b.label {
            Some(Change::Choice { site, from: a.label.clone(), to: b.label.clone(), bytes, damage })
        } else if ours != theirs {
            Some(Change::Repriced { site, label: a.label.clone(), bytes, damage })
        } else {
            None
        }
    }
}

fn label(plan: &Plan, i: usize) -> String {
    let chosen = plan.choice.get(i).and_then(|&c| plan.prices.sites[i].options.get(c));
    chosen.map(|o| o.label.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan_file::tests::example;

    #[test]
    fn every_kind_of_change_is_reported_and_nothing_else() {
        let plan = example();
        assert_eq!(plan.diff(&plan), []);
        let mut other = plan.clone();
        other.header.seed = 7;
        other.choice[0] = 1;
        other.prices.sites[1].options[0].damage = 0.75;
        other.prices.sites[2].site = "head".into();
        let changes = plan.diff(&other);
        assert_eq!(changes.len(), 5);
        assert!(matches!(&changes[0], Change::Header { field: "seed", to, .. } if to == "7"));
        assert!(matches!(&changes[1], Change::Choice { to, bytes: [36, 20], .. } if to == "int2 g64"));
        assert!(matches!(&changes[2], Change::Repriced { damage: [_, 0.75], .. }));
        assert!(matches!(&changes[3], Change::Removed { site, .. } if site == "lm_head"));
        assert!(matches!(&changes[4], Change::Added { site, label } if site == "head" && label == "bf16"));
    }
}
