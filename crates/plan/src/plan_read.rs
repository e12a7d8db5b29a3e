//! Reading `plan.toml`, with errors that name the line and the site.

use std::str::FromStr;

use serde::Deserialize;
use toml::Spanned;

use crate::error::{Error, Result};
use crate::limits::Totals;
use crate::plan_file::{PLAN_VERSION, Plan, PlanHeader, Predicted};
use crate::price::{PriceList, Settings, SiteOption, SitePrices, Source};
use crate::resource::{Costs, Resource};

/// The file as it stands; see `plan_write.rs` for its look.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Checked before the rest is read.
    #[serde(rename = "version")]
    _version: i64,
    model: String,
    fingerprint: String,
    metric: String,
    budget: Option<Spanned<String>>,
    seed: Spanned<Seed>,
    calibration: String,
    resources: Vec<Resource>,
    #[serde(default)]
    quantizer: Settings,
    totals: Totals,
    predicted: FilePredicted,
    #[serde(default)]
    site: Vec<FileSite>,
}

#[derive(Deserialize)]
struct Version {
    version: Option<i64>,
}

/// Seeds above the range of TOML integers are text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seed {
    Number(u64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePredicted {
    /// For the reader's eye; derived from bytes and weights.
    #[serde(rename = "bits_per_weight")]
    _bits_per_weight: Option<f64>,
    bytes: u64,
    latency_s: Option<f64>,
    macs: Option<u64>,
    params: Option<u64>,
    damage: f64,
    lower_bound: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSite {
    name: Spanned<String>,
    weights: u64,
    group: Option<String>,
    pinned: Option<Spanned<String>>,
    choice: Spanned<String>,
    /// For the reader's eye, like `damage`: those of the chosen option, which an edit leaves behind.
    #[serde(rename = "bytes")]
    _bytes: Option<u64>,
    #[serde(rename = "damage")]
    _damage: Option<f64>,
    options: Vec<FileOption>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileOption {
    label: String,
    bytes: u64,
    latency_s: Option<f64>,
    macs: Option<u64>,
    params: Option<u64>,
    damage: f64,
    #[serde(default)]
    source: Source,
    #[serde(default)]
    settings: Settings,
}

impl FromStr for Plan {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Plan::parse(text, "plan.toml")
    }
}

impl Plan {
    /// Reads the text of a plan file; `file` is the name to use in errors.
    ///
    /// Totals are kept as written: after an edit of a `choice`, call [`Plan::reprice`]. Errors name the line: a
    /// version this crate does not know, an unknown field, a label that is not listed, a broken group or pin.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let bad = |problem: String| Error::PlanFile { place: file.to_string(), problem };
        let syntax = |error: toml::de::Error| {
            let place = error.span().map_or(file.to_string(), |span| at(file, text, span.start));
            Error::PlanFile { place, problem: error.message().to_string() }
        };
        match toml::from_str::<Version>(text).map_err(syntax)?.version {
            Some(version) if version == i64::from(PLAN_VERSION) => {}
            Some(version) => {
                let hint = "hint: make the plan again, or use the version of the program that wrote it";
                return Err(bad(format!("version {version}, expected {PLAN_VERSION}\n{hint}")));
            }
            None => {
                return Err(bad(format!(
                    "no `version`, expected {PLAN_VERSION}\nhint: is this a plan file?"
                )));
            }
        }
        let content: File = toml::from_str(text).map_err(syntax)?;
        build(content, text, file)
    }
}

fn build(content: File, text: &str, file: &str) -> Result<Plan> {
    let here = |offset: usize| at(file, text, offset);
    let budget = content.budget.map(|b| {
        let start = b.span().start;
        b.get_ref().parse().map_err(|e: Error| Error::PlanFile { place: here(start), problem: e.to_string() })
    });
    let seed_at = content.seed.span().start;
    let seed = match content.seed.into_inner() {
        Seed::Number(n) => n,
        Seed::Text(digits) => digits.parse().map_err(|_| Error::PlanFile {
            place: here(seed_at),
            problem: format!("seed \"{digits}\", expected a whole number below 2^64"),
        })?,
    };
    let mut sites = Vec::with_capacity(content.site.len());
    let mut choice = Vec::with_capacity(content.site.len());
    let mut lines = Vec::with_capacity(content.site.len());
    for site in content.site {
        let (place, pin_place) =
            (here(site.choice.span().start), site.pinned.as_ref().map(|p| here(p.span().start)));
        let options = site.options.into_iter().map(option).collect();
        let pinned = site.pinned.map(Spanned::into_inner);
        let prices = SitePrices {
            site: site.name.into_inner(),
            weights: site.weights,
            group: site.group,
            options,
            pinned,
        };
        if let (Some(label), Some(pin_place)) = (&prices.pinned, pin_place) {
            prices.option_index(label, &pin_place)?;
        }
        choice.push(prices.option_index(site.choice.get_ref(), &place)?);
        lines.push(place);
        sites.push(prices);
    }
    let header = PlanHeader {
        model: content.model,
        fingerprint: content.fingerprint,
        budget: budget.transpose()?,
        seed,
        calibration: content.calibration,
        quantizer: content.quantizer,
        totals: content.totals,
    };
    let p = content.predicted;
    let costs = Costs { bytes: p.bytes, latency_s: p.latency_s, macs: p.macs, params: p.params };
    let predicted = Predicted { costs, damage: p.damage, lower_bound: p.lower_bound };
    let prices = PriceList { metric: content.metric, resources: content.resources, sites };
    let plan = Plan { header, prices, choice, predicted };
    plan.check(&|i| lines.get(i).cloned().unwrap_or_else(|| file.to_string()))?;
    Ok(plan)
}

fn option(o: FileOption) -> SiteOption {
    let costs = Costs { bytes: o.bytes, latency_s: o.latency_s, macs: o.macs, params: o.params };
    SiteOption { label: o.label, params: o.settings, costs, damage: o.damage, source: o.source }
}

/// `file:line` of a byte offset.
fn at(file: &str, text: &str, offset: usize) -> String {
    let before = text.as_bytes().iter().take(offset);
    format!("{file}:{}", 1 + before.filter(|b| **b == b'\n').count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan_file::tests::example;

    fn error(from: &str, to: &str) -> String {
        let text = example().to_toml().unwrap();
        assert!(text.contains(from), "{text}");
        Plan::parse(&text.replacen(from, to, 1), "my.toml").unwrap_err().to_string()
    }

    #[test]
    fn the_round_trip_is_exact() {
        let plan = example();
        let text = plan.to_toml().unwrap();
        let back: Plan = text.parse().unwrap();
        assert_eq!(back, plan);
        assert_eq!(back.to_toml().unwrap(), text);
    }

    #[test]
    fn changing_a_label_is_all_an_edit_needs() {
        let text = example().to_toml().unwrap();
        let edited = text.replace("choice = \"int4 g64 asym\"", "choice = \"int2 g64\"");
        let mut plan: Plan = edited.parse().unwrap();
        assert_eq!(plan.choice, [1, 1, 2]);
        assert!(plan.reprice().unwrap());
        assert_eq!(plan.predicted.costs.bytes, 168);
    }

    #[test]
    fn errors_name_line_site_and_remedy() {
        let message = error("choice = \"int4 g64 asym\"", "choice = \"int4 g64\"");
        let text = example().to_toml().unwrap();
        let line = 1 + text.lines().position(|l| l.starts_with("choice = ")).unwrap();
        assert_eq!(
            message,
            format!(
                "my.toml:{line}: site \"layers.0.q_proj\" has no option \"int4 g64\"; did you mean \"int2 g64\"?\n\
                 hint: its options are: \"int4 g64 asym\", \"int2 g64\", \"bf16\""
            )
        );
        assert!(error("choice = \"int4 g64 asym\"", "choice = \"bf16\"").contains("same fused group"));
        assert!(error("version = 1", "version = 7").contains("version 7, expected 1"));
        assert!(error("version = 1\n", "").contains("is this a plan file?"));
        assert!(error("calibration", "calibratoin").starts_with("my.toml:"));
        assert!(error("pinned = \"bf16\"", "pinned = \"fp16\"").contains("has no option \"fp16\""));
        assert!(error("budget = \"8.5bpw\"", "budget = \"8.5\"").contains("expected a unit"));
        assert!(error("damage = 0.1,", "damage = nan,").contains("expected a finite number"));
        assert!(error("bytes = 36", "bytes = -36").starts_with("my.toml:"));
        assert!(error("seed = \"18446744073709551615\"", "seed = \"x\"").contains("below 2^64"));
    }
}
