//! Choosing sites by name: include, exclude, pin.
//!
//! Patterns are globs over whole site names: `*` stands for any characters (dots too), `?` for one, `[0-3]` for a
//! set, `{q,k}_proj` for alternatives. A pattern that matches nothing is a typing error, never ignored.

use std::str::FromStr;

use globset::{Glob, GlobMatcher};

use crate::error::{Error, Result};
use crate::nearest::{nearest, quoted};
use crate::price::PriceList;

/// Which sites to treat, and which options to fix.
///
/// ```
/// use trimtab_plan::Selection;
/// let selection = Selection { exclude: vec!["*.head".into()], ..Selection::default() };
/// assert_eq!(selection.treated(&["block.0.up", "block.0.head"])?, [true, false]);
/// # Ok::<(), trimtab_plan::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only sites that match one of these; empty: all.
    pub include: Vec<String>,
    /// But none of these.
    pub exclude: Vec<String>,
    /// Options fixed by a person; where several match a site, the last one counts.
    pub pins: Vec<Pin>,
}

/// `PATTERN=LABEL`: the sites that get one particular option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Glob over site names.
    pub pattern: String,
    /// Label of the option.
    pub label: String,
}

impl FromStr for Pin {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('=').map(|(pattern, label)| (pattern.trim(), label.trim())) {
            Some((pattern, label)) if !pattern.is_empty() && !label.is_empty() => {
                Ok(Self { pattern: pattern.to_string(), label: label.to_string() })
            }
            _ => Err(Error::Pattern {
                flag: "pin",
                pattern: text.to_string(),
                problem: "expected PATTERN=LABEL\nhint: for example 'model.layers.0.*=int8 g128'".to_string(),
            }),
        }
    }
}

impl Selection {
    /// For each name, whether its site is treated. Errors: a pattern that is malformed or matches no name.
    pub fn treated(&self, names: &[&str]) -> Result<Vec<bool>> {
        let mut treated = vec![self.include.is_empty(); names.len()];
        for (flag, patterns, value) in [("include", &self.include, true), ("exclude", &self.exclude, false)] {
            for pattern in patterns {
                for i in matches(flag, pattern, names)? {
                    treated[i] = value;
                }
            }
        }
        Ok(treated)
    }

    /// Applies the pins to a price list. Errors: a pattern that matches no site, a label that a matched site
    /// does not offer, pins that contradict each other within a fused group.
    pub fn pin(&self, prices: &mut PriceList) -> Result<()> {
        for pin in &self.pins {
            let names: Vec<&str> = prices.sites.iter().map(|s| s.site.as_str()).collect();
            for i in matches("pin", &pin.pattern, &names)? {
                let site = &mut prices.sites[i];
                site.option_index(&pin.label, &format!("pin '{}={}'", pin.pattern, pin.label))?;
                site.pinned = Some(pin.label.clone());
            }
        }
        prices.validate()
    }
}

/// Positions of the names that `pattern` matches; never empty.
fn matches(flag: &'static str, pattern: &str, names: &[&str]) -> Result<Vec<usize>> {
    let fail = |problem: String| Error::Pattern { flag, pattern: pattern.to_string(), problem };
    let glob: GlobMatcher = Glob::new(pattern).map_err(|e| fail(e.kind().to_string()))?.compile_matcher();
    let found: Vec<usize> = (0..names.len()).filter(|&i| glob.is_match(names[i])).collect();
    if found.is_empty() {
        let plain: String = pattern.chars().filter(|c| !"*?[]{}".contains(*c)).collect();
        let near = nearest(&plain, names, 3);
        let nearby =
            if near.is_empty() { "there are no sites".into() } else { format!("nearest: {}", quoted(&near)) };
        let hint = "hint: patterns match whole names; put * before or after a part";
        return Err(fail(format!("matches none of {} sites; {nearby}\n{hint}", names.len())));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::{SiteOption, SitePrices};

    const NAMES: [&str; 4] = ["layers.0.q_proj", "layers.0.up_proj", "layers.1.q_proj", "lm_head"];

    fn treated(include: &[&str], exclude: &[&str]) -> Result<Vec<bool>> {
        let own = |patterns: &[&str]| patterns.iter().map(|p| p.to_string()).collect();
        Selection { include: own(include), exclude: own(exclude), pins: Vec::new() }.treated(&NAMES)
    }

    #[test]
    fn include_then_exclude() {
        assert_eq!(treated(&[], &[]).unwrap(), [true; 4]);
        assert_eq!(treated(&["layers.*"], &["*.{up,down}_proj"]).unwrap(), [true, false, true, false]);
        assert_eq!(treated(&["layers.[1-9].*"], &[]).unwrap(), [false, false, true, false]);
    }

    #[test]
    fn a_pattern_that_matches_nothing_names_its_neighbours() {
        let message = treated(&[], &["lmhead"]).unwrap_err().to_string();
        assert!(
            message.starts_with("exclude 'lmhead': matches none of 4 sites; nearest: \"lm_head\""),
            "{message}"
        );
        assert!(treated(&["layers.[", ""], &[]).unwrap_err().to_string().starts_with("include 'layers.['"));
    }

    #[test]
    fn the_last_pin_counts_and_labels_are_checked() {
        let options = || vec![SiteOption::new("int4", 4, 1.0), SiteOption::new("int8 g128", 8, 0.0)];
        let sites = NAMES.iter().map(|n| SitePrices::new(*n, 8, options())).collect();
        let mut prices = PriceList::new("kl", sites).unwrap();
        let pins = ["layers.*=int4", "layers.0.* = int8 g128"].map(|p| p.parse::<Pin>().unwrap());
        Selection { pins: pins.to_vec(), ..Selection::default() }.pin(&mut prices).unwrap();
        let pinned: Vec<Option<&str>> = prices.sites.iter().map(|s| s.pinned.as_deref()).collect();
        assert_eq!(pinned, [Some("int8 g128"), Some("int8 g128"), Some("int4"), None]);
        let typo = Selection { pins: vec!["lm_head=int8".parse().unwrap()], ..Selection::default() };
        let message = typo.pin(&mut prices).unwrap_err().to_string();
        assert!(
            message.starts_with("pin 'lm_head=int8': site \"lm_head\" has no option \"int8\""),
            "{message}"
        );
        assert!("no label".parse::<Pin>().is_err() && "=x".parse::<Pin>().is_err());
    }
}
