//! Fused groups and pins, resolved before any solver runs.
//!
//! Members of a fused group (query, key and value in one engine kernel, say) must get the same label. They become
//! one virtual site whose options are the labels that all members offer, with costs and damages summed. A pinned
//! site keeps only its pin; a pin on one member pins the group.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::price::{PriceList, SitePrices};
use crate::resource::Costs;

/// One decision: a single site, or the members of a group.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    /// Positions of the members in the price list, ascending.
    pub(crate) members: Vec<usize>,
    /// What can be decided.
    pub(crate) options: Vec<FusedOption>,
}

/// One label, for all members of a decision.
#[derive(Clone, Debug)]
pub(crate) struct FusedOption {
    /// Option index in each member, in the order of `members`.
    pub(crate) indices: Vec<usize>,
    /// Sum of the members' costs.
    pub(crate) costs: Costs,
    /// Sum of the members' damages.
    pub(crate) damage: f64,
}

/// The decisions of a price list, ordered by their first member. Options keep the first member's order.
pub(crate) fn fuse(prices: &PriceList) -> Result<Vec<Decision>> {
    let mut group_at: BTreeMap<&str, usize> = BTreeMap::new();
    let mut members: Vec<Vec<usize>> = Vec::new();
    for (i, site) in prices.sites.iter().enumerate() {
        match site.group.as_deref().and_then(|g| group_at.get(g)) {
            Some(&at) => members[at].push(i),
            None => {
                if let Some(group) = site.group.as_deref() {
                    group_at.insert(group, members.len());
                }
                members.push(vec![i]);
            }
        }
    }
    members.into_iter().map(|m| decision(prices, m)).collect()
}

fn decision(prices: &PriceList, members: Vec<usize>) -> Result<Decision> {
    let sites: Vec<&SitePrices> = members.iter().map(|&i| &prices.sites[i]).collect();
    let pin = common_pin(&sites)?;
    let places: Vec<BTreeMap<&str, usize>> = sites
        .iter()
        .map(|s| s.options.iter().enumerate().map(|(i, o)| (o.label.as_str(), i)).collect())
        .collect();
    let mut options = Vec::new();
    for option in &sites[0].options {
        let label = option.label.as_str();
        if pin.is_some_and(|p| p != label) {
            continue;
        }
        let Some(indices) = places.iter().map(|p| p.get(label).copied()).collect::<Option<Vec<usize>>>()
        else {
            continue;
        };
        let (mut costs, mut damage) = (Costs::zero(), 0.0);
        for (site, &index) in sites.iter().zip(&indices) {
            costs = costs.plus(&site.options[index].costs);
            damage += site.options[index].damage;
        }
        options.push(FusedOption { indices, costs, damage });
    }
    if options.is_empty() {
        let names = sites.iter().map(|s| format!("\"{}\"", s.site)).collect::<Vec<_>>().join(", ");
        let what = pin.map_or("no label that all members offer".to_string(), |p| {
            format!("pinned to \"{p}\", which not all members offer")
        });
        let problem = format!(
            "fused group \"{}\" ({names}) has {what}\nhint: price the same options for all members of the group",
            sites[0].group.as_deref().unwrap_or_default()
        );
        return Err(Error::Prices { site: sites[0].site.clone(), problem });
    }
    Ok(Decision { members, options })
}

/// The label that the members are pinned to, if any; two different pins contradict each other.
fn common_pin<'a>(sites: &[&'a SitePrices]) -> Result<Option<&'a str>> {
    let mut pin: Option<(&str, &str)> = None;
    for site in sites {
        let Some(label) = site.pinned.as_deref() else { continue };
        match pin {
            Some((first, other)) if other != label => {
                let problem = format!(
                    "is pinned to \"{label}\", but \"{first}\" of the same fused group to \"{other}\"\n\
                     hint: members of a group get one label"
                );
                return Err(Error::Prices { site: site.site.clone(), problem });
            }
            _ => pin = Some((&site.site, label)),
        }
    }
    Ok(pin.map(|(_, label)| label))
}

/// Turns one option per decision into one option index per site.
pub(crate) fn expand(decisions: &[Decision], picks: &[usize], sites: usize) -> Vec<usize> {
    let mut choice = vec![0; sites];
    for (decision, &pick) in decisions.iter().zip(picks) {
        for (&member, &index) in decision.members.iter().zip(&decision.options[pick].indices) {
            choice[member] = index;
        }
    }
    choice
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::SiteOption;

    fn site(name: &str, group: Option<&str>, options: &[(&str, u64, f64)]) -> SitePrices {
        let options = options.iter().map(|(l, b, d)| SiteOption::new(*l, *b, *d)).collect();
        SitePrices { group: group.map(String::from), ..SitePrices::new(name, 8, options) }
    }

    #[test]
    fn groups_sum_equal_labels_and_expand_back() {
        let sites = vec![
            site("q", Some("qkv"), &[("a", 1, 1.0), ("b", 2, 0.5), ("c", 3, 0.0)]),
            site("o", None, &[("a", 7, 0.0)]),
            site("k", Some("qkv"), &[("c", 30, 0.25), ("a", 10, 4.0)]),
        ];
        let list = PriceList::new("kl", sites).unwrap();
        let decisions = fuse(&list).unwrap();
        assert_eq!(decisions.len(), 2);
        assert_eq!(decisions[0].members, [0, 2]);
        let seen: Vec<(u64, f64)> = decisions[0].options.iter().map(|o| (o.costs.bytes, o.damage)).collect();
        assert_eq!(seen, [(11, 5.0), (33, 0.25)]);
        assert_eq!(expand(&decisions, &[1, 0], 3), [2, 0, 0]);
    }

    #[test]
    fn a_pin_on_one_member_pins_the_group_and_pins_may_not_disagree() {
        let mut sites = vec![
            site("q", Some("qkv"), &[("a", 1, 1.0), ("b", 2, 0.5)]),
            site("k", Some("qkv"), &[("a", 1, 1.0), ("b", 2, 0.5)]),
        ];
        sites[1].pinned = Some("b".into());
        let list = PriceList::new("kl", sites.clone()).unwrap();
        assert_eq!(fuse(&list).unwrap()[0].options.len(), 1);
        sites[0].pinned = Some("a".into());
        assert!(PriceList::new("kl", sites).unwrap_err().to_string().contains("of the same fused group"));
    }

    #[test]
    fn a_group_without_a_common_label_is_refused() {
        let sites = vec![site("q", Some("g"), &[("a", 1, 1.0)]), site("k", Some("g"), &[("b", 1, 1.0)])];
        let message = PriceList::new("kl", sites).unwrap_err().to_string();
        assert!(message.contains("no label that all members offer"), "{message}");
    }
}
