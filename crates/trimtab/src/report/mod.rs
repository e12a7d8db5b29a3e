//! The report of a run: one type that the page, the JSON document and the summary in the terminal are made of.
//!
//! A report lies beside the output of a run, not in it: it tells times, memory and places, which differ from run to run,
//! while the output is the same bytes every time.

mod build;
mod charts;
mod html;
mod lines;
mod reasons;
mod recorder;
mod samples;
mod terminal;
pub mod text;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::evidence::Halves;

/// The style of all pages.
pub const STYLE: &str = include_str!("../../templates/report.css");
use crate::judge::Quality;
use crate::planning::CandidateReport;
use crate::quality::Reached;

pub use build::Input;
pub use charts::Chart;
pub use lines::{Lines, Series};
pub use recorder::{Phase, Recorder, Step};
pub use samples::{MovedPair, Sample, moved_pairs, samples};

/// Version of the document that this program writes and reads.
pub const REPORT_VERSION: u32 = 1;

/// Which verb made a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Plan, apply and prove.
    Fit,
    /// Apply a plan or one scheme.
    Apply,
    /// Plan only.
    Plan,
}

/// A model in the table of a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What it is.
    pub name: String,
    /// Bytes of the weight file.
    pub bytes: u64,
    /// Bits per weight of the treated sites.
    pub bits_per_weight: f64,
    /// How good it is, and how far from the original.
    #[serde(flatten)]
    pub quality: Quality,
}

/// A point on or beside the curve of size against damage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// What it is, where it has a name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Bytes of the weight file.
    pub bytes: u64,
    /// Bits per weight of the treated sites.
    pub bits_per_weight: f64,
    /// Sum of the damages of the sites.
    pub damage: f64,
}

/// Size against damage, as the prices of the plan have it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Plans than which none of their size does less damage.
    pub frontier: Vec<CurvePoint>,
    /// The same option at every site.
    pub uniform: Vec<CurvePoint>,
}

/// A site: what was chosen, what it costs, what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SiteEntry {
    /// Name.
    pub site: String,
    /// The block it belongs to, the first part of its name.
    pub block: String,
    /// What it is inside the block, the rest of its name.
    pub kind: String,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Label of the scheme.
    pub scheme: String,
    /// Bytes of its weight in the file.
    pub bytes: u64,
    /// Bits per weight.
    pub bits_per_weight: f64,
    /// Its part in the damage that the plan predicts, in the plan's metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_damage: Option<f64>,
    /// Squared output error on the inputs of the treated prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<f64>,
    /// The same for round-to-nearest with the same scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtn_damage: Option<f64>,
    /// Whether round-to-nearest was better and was taken.
    #[serde(default)]
    pub fell_back: bool,
    /// Damping that was used.
    #[serde(default)]
    pub damping: f64,
    /// Squared output error on the original's inputs, as a share of the power of the output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_error: Option<f64>,
    /// Damage per share of relative error: how much the output of the model minds an error here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitivity: Option<f64>,
    /// Squared output error of the chosen option on the first and second half of the calibration data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halves: Option<[f64; 2]>,
    /// Largest weight in units of the root mean square.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_outlier: Option<f64>,
    /// Loudest input channel in units of the root mean square over all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_outlier: Option<f64>,
    /// Directions that the inputs use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_directions: Option<f64>,
}

/// A setting of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// Name of the flag, without dashes.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// What a run did, with what, and what that cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this document, [`REPORT_VERSION`].
    pub report_version: u32,
    /// Version of the program.
    pub trimtab: String,
    /// What was asked for.
    pub verb: Verb,
    /// The command as it was typed.
    #[serde(default)]
    pub command: String,
    /// When the run ended, UTC.
    #[serde(default)]
    pub finished: String,
    /// The model.
    pub model: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// What it does: `language`, `encoder`, `images`, `pairs`.
    pub task: String,
    /// The files that were read, with their hashes.
    pub inputs: Vec<Input>,
    /// Settings, in the order in which they are shown.
    pub settings: Vec<Setting>,
    /// Seed.
    pub seed: u64,
    /// The budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<String>,
    /// What was calibrated on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<String>,
    /// What the result was judged on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged_on: Option<String>,
    /// Where the result is: a directory, for `plan` the plan file.
    pub output: PathBuf,
    /// Bytes of the weight files (of a plan, as predicted).
    pub bytes: u64,
    /// Bytes of the weight files as the plan predicts them: an upper bound, by the length of the header.
    pub bytes_predicted: u64,
    /// Bytes of the original's weight files.
    pub bytes_original: u64,
    /// Bytes at most that the budget allows for the whole file, if it bounds the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_bytes: Option<u64>,
    /// Whether the result keeps the budget.
    pub within_budget: bool,
    /// The quality that the result had to keep, and the plans that were measured for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<Reached>,
    /// Weights in the treated sites.
    pub treated_weights: u64,
    /// Bits per weight of the treated sites.
    pub bits_per_weight: f64,
    /// The same without the branches beside codes, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_without_branches: Option<f64>,
    /// The original, the baselines, the result: judged on data that was not calibrated on.
    pub rows: Vec<Row>,
    /// Name of the metric of the plan, for example `kl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// Damage that the plan predicts, on calibration data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage_predicted: Option<f64>,
    /// Damage of the plan as a whole, measured on the same data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage_measured: Option<f64>,
    /// Proven least damage within the budget, by the same prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower_bound: Option<f64>,
    /// Size against damage; absent without a plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curve: Option<Curve>,
    /// Whole plans that were measured on the way.
    pub candidates: Vec<CandidateReport>,
    /// How far two halves of the calibration data disagree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halves: Option<Halves>,
    /// The sites, in the order of the model.
    pub sites: Vec<SiteEntry>,
    /// Texts continued by the original and by the result.
    #[serde(default)]
    pub samples: Vec<Sample>,
    /// Pairs of sentences whose similarity changed most.
    #[serde(default)]
    pub moved_pairs: Vec<MovedPair>,
    /// The parts of the run, with time and memory.
    pub phases: Vec<Phase>,
    /// Seconds of the run.
    pub seconds: f64,
    /// Largest memory of the run, with pages of mapped files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
    /// Largest memory of the run without files behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_anonymous_bytes: Option<u64>,
    /// What was predicted for it, while treating and writing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_anonymous_bytes_predicted: Option<u64>,
    /// Warnings of the run.
    pub warnings: Vec<String>,
}

impl Report {
    /// Whether the budget and the target, as far as they were given, are kept.
    pub fn kept(&self) -> bool {
        self.within_budget && self.reached.as_ref().is_none_or(|reached| reached.proved != Some(false))
    }

    /// The page: one file that needs no other.
    pub fn to_html(&self) -> Result<String> {
        html::page(self)
    }

    /// The summary in the terminal, at most 80 columns wide.
    pub fn summary(&self) -> String {
        terminal::summary(self)
    }

    /// The document.
    pub fn to_json(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self);
        Ok(text.map_err(|e| Error::Data { what: "report".into(), message: e.to_string() })? + "\n")
    }

    /// Reads a document; `what` names it in errors.
    pub fn from_json(text: &str, what: &str) -> Result<Self> {
        /// Asked for first: a document of another version is told apart from a damaged one.
        #[derive(Deserialize)]
        struct Version {
            report_version: u32,
        }
        let fail = |message: String| Error::Data { what: what.into(), message };
        let damaged = |e: serde_json::Error| fail(format!("no report of this program: {e}"));
        let Version { report_version } = serde_json::from_str(text).map_err(damaged)?;
        if report_version != REPORT_VERSION {
            return Err(fail(format!(
                "a report of version {report_version}; this program reads version {REPORT_VERSION}"
            )));
        }
        serde_json::from_str(text).map_err(damaged)
    }

    /// Writes the page to `page` and the document beside it.
    pub fn write(&self, page: &Path) -> Result<()> {
        // The document first: from it the page can be made again.
        trimtab_io::write_atomic(json_beside(page), self.to_json()?.as_bytes())?;
        Ok(trimtab_io::write_atomic(page, self.to_html()?.as_bytes())?)
    }
}

/// Where the page of an output lies: `OUT.report.html` beside `OUT`.
pub fn page_of(output: &Path) -> PathBuf {
    // A trailing slash names the same directory.
    let mut name = output.components().collect::<PathBuf>().into_os_string();
    name.push(".report.html");
    name.into()
}

/// Where the document of a page lies: the same name with `.json`.
pub fn json_beside(page: &Path) -> PathBuf {
    page.with_extension("json")
}

/// Reads the report of a run: a document, the page beside it, or the output beside which both lie.
pub fn read(run: &Path) -> Result<Report> {
    let file = match run.extension().and_then(|extension| extension.to_str()) {
        _ if run.is_dir() => json_beside(&page_of(run)),
        Some("json") => run.to_path_buf(),
        Some("html") => json_beside(run),
        _ if run.is_file() => run.to_path_buf(),
        _ => json_beside(&page_of(run)),
    };
    if !file.exists() {
        let message =
            "there is no such report\nhint: give the output of `fit` or `apply`, or a report in JSON";
        return Err(Error::Data { what: file.display().to_string(), message: message.into() });
    }
    Report::from_json(&trimtab_io::read_text(&file)?, &file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report of two blocks in which one site hurts most.
    pub(super) fn example() -> Report {
        let mut sites = Vec::new();
        for block in 0..2 {
            for (k, kind) in ["self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"].into_iter().enumerate() {
                let worst = block == 1 && k == 2;
                let bits = 2.25 + k as f64;
                sites.push(SiteEntry {
                    site: format!("model.layers.{block}.{kind}"),
                    block: format!("model.layers.{block}"),
                    kind: kind.into(),
                    shape: [64, 32],
                    scheme: format!("int{} g64", 2 + k),
                    bytes: 600 + 256 * k as u64,
                    bits_per_weight: bits,
                    plan_damage: Some(if worst { 0.02 } else { 0.002 }),
                    damage: Some(0.5),
                    rtn_damage: Some(1.0),
                    relative_error: Some(0.01),
                    sensitivity: Some(if worst { 2.0 } else { 0.2 }),
                    halves: Some([0.5 + 0.1 * k as f64, 0.55]),
                    weight_outlier: Some(4.0),
                    input_outlier: Some(if worst { 40.0 } else { 3.0 }),
                    input_directions: Some(12.0),
                    ..SiteEntry::default()
                });
            }
        }
        let row = |name: &str, bytes, bits_per_weight, kl| Row {
            name: name.into(),
            bytes,
            bits_per_weight,
            quality: Quality {
                kl: Some(kl),
                kl_standard_error: Some(0.001),
                same_top1: Some(0.93),
                perplexity: Some(1.7 + kl),
                items: 16_000,
                ..Quality::default()
            },
        };
        let point = |name: &str, bits: f64| CurvePoint {
            name: name.into(),
            bytes: (100_000.0 * bits) as u64,
            bits_per_weight: bits,
            damage: 4f64.powf(-bits),
        };
        Report {
            report_version: REPORT_VERSION,
            trimtab: "0.1.0".into(),
            verb: Verb::Fit,
            command: "trimtab fit --budget 3bpw".into(),
            finished: "2026-11-25T22:30:00Z".into(),
            model: "models/pico".into(),
            fingerprint: "sha256:00ff".into(),
            task: "language".into(),
            inputs: vec![Input {
                role: "model".into(),
                name: "model.safetensors".into(),
                bytes: 2_624_768,
                sha256: "ab".repeat(32),
            }],
            settings: vec![Setting { name: "metric".into(), value: "kl".into() }],
            seed: 7,
            budget: Some("3bpw".into()),
            calibration: Some("64 windows of 256 tokens".into()),
            judged_on: Some("stories".into()),
            output: "out/pico-3bpw".into(),
            bytes: 727_300,
            bytes_predicted: 729_000,
            bytes_original: 2_624_768,
            budget_bytes: Some(730_000),
            within_budget: true,
            reached: None,
            treated_weights: 12_288,
            bits_per_weight: 3.0,
            bits_without_branches: None,
            rows: vec![
                row("original", 2_624_768, 16.0, 0.0),
                row("round-to-nearest int3 g128", 759_600, 3.153, 0.056),
                row("plan", 727_300, 3.0, 0.025),
            ],
            metric: Some("kl".into()),
            damage_predicted: Some(0.03),
            damage_measured: Some(0.028),
            lower_bound: Some(0.03),
            curve: Some(Curve {
                frontier: (0..20).map(|i| point("", 2.0 + 0.2 * f64::from(i))).collect(),
                uniform: vec![point("int2 g64", 2.25), point("int3 g64", 3.25), point("int4 g64", 4.25)],
            }),
            candidates: vec![CandidateReport {
                origin: "round 0".into(),
                bits_per_weight: 3.0,
                damage_predicted: 0.03,
                damage_measured: 0.028,
            }],
            halves: Some(Halves {
                sites: 6,
                median_difference: 0.06,
                largest_difference: 0.2,
                largest_site: "model.layers.1.mlp.down_proj".into(),
                rank_correlation: Some(0.98),
                plan_damage: [0.03, 0.031],
                differing_choices: 1,
                regret: 0.012,
            }),
            sites,
            samples: vec![Sample {
                prompt: "Once".into(),
                original: " upon a time".into(),
                result: " upon a hill".into(),
            }],
            moved_pairs: vec![MovedPair {
                first: "A plane takes off.".into(),
                second: "An aeroplane is taking off.".into(),
                original: 0.93,
                result: 0.91,
            }],
            phases: vec![Phase {
                name: "writing".into(),
                seconds: 2.0,
                peak_anonymous_bytes: Some(50_000_000),
                steps: vec![Step {
                    name: "treating".into(),
                    runs: 1,
                    seconds: 1.9,
                    seconds_predicted: Some(2.1),
                }],
            }],
            seconds: 12.0,
            peak_memory_bytes: Some(120_000_000),
            peak_anonymous_bytes: Some(80_000_000),
            peak_anonymous_bytes_predicted: Some(60_000_000),
            warnings: vec!["mind this".into()],
        }
    }

    /// What a page would run or load if it were not escaped.
    const HOSTILE: &str = "<script src=\"http://example.org/x\">alert(1)</script>'\"&]]>\u{7}";

    /// A report whose every text comes from somebody who means harm, or is very long.
    pub(super) fn hostile() -> Report {
        let mut report = example();
        let long = format!("{HOSTILE}{}", "very long ".repeat(30));
        report.command = HOSTILE.into();
        report.finished = HOSTILE.into();
        report.model = long.clone();
        report.fingerprint = HOSTILE.into();
        report.budget = Some(HOSTILE.into());
        report.calibration = Some(HOSTILE.into());
        report.judged_on = Some(HOSTILE.into());
        report.output = long.clone().into();
        report.warnings = vec![long.clone()];
        report.inputs[0].name = HOSTILE.into();
        report.settings[0].value = HOSTILE.into();
        for (i, site) in report.sites.iter_mut().enumerate() {
            site.site = format!("{long}{i}");
            site.block = format!("{HOSTILE}{i}");
            site.kind = HOSTILE.into();
            site.scheme = HOSTILE.into();
        }
        for row in &mut report.rows[1..] {
            row.name = long.clone();
        }
        if let Some(curve) = &mut report.curve {
            curve.uniform[0].name = HOSTILE.into();
        }
        if let Some(halves) = &mut report.halves {
            halves.largest_site = HOSTILE.into();
        }
        report.candidates[0].origin = HOSTILE.into();
        report.samples[0].result = HOSTILE.into();
        report.moved_pairs[0].first = HOSTILE.into();
        report.phases[0].name = HOSTILE.into();
        report
    }

    /// Parses a page as XML, which is stricter than a browser.
    fn parse(page: &str) -> std::result::Result<roxmltree::Document<'_>, roxmltree::Error> {
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        roxmltree::Document::parse_with_options(page, options)
    }

    /// Addresses that a page would load, and code that it would run.
    fn reaches_out(page: &roxmltree::Document<'_>) -> Vec<String> {
        let mut found = Vec::new();
        for node in page.descendants().filter(roxmltree::Node::is_element) {
            if matches!(node.tag_name().name(), "script" | "iframe" | "object" | "embed" | "img" | "base") {
                found.push(format!("<{}>", node.tag_name().name()));
            }
            for attribute in node.attributes() {
                let own = attribute.value() == "data:,";
                if matches!(attribute.name(), "src" | "href" | "srcset" | "action") && !own
                    || attribute.name().starts_with("on")
                {
                    found.push(format!("{}=\"{}\"", attribute.name(), attribute.value()));
                }
            }
            let style =
                node.attribute("style").into_iter().chain(node.text().filter(|_| node.has_tag_name("style")));
            for style in style.filter(|style| style.contains("url(") || style.contains("@import")) {
                found.push(style.into());
            }
        }
        found
    }

    #[test]
    fn the_page_is_well_formed_and_needs_nothing_else() {
        for report in [example(), hostile()] {
            let page = report.to_html().unwrap();
            let parsed = parse(&page).unwrap();
            assert_eq!(reaches_out(&parsed), Vec::<String>::new());
            // Two charts at two widths, each with a title and a text.
            let drawings: Vec<_> = parsed.descendants().filter(|node| node.has_tag_name("svg")).collect();
            assert_eq!(drawings.len(), 4);
            for drawing in drawings {
                let has = |name: &str| drawing.children().any(|c| c.has_tag_name(name) && c.text().is_some());
                assert!(has("title") && has("desc"));
            }
            assert!(page.len() < 200_000, "{} bytes", page.len());
        }
    }

    #[test]
    fn the_checks_see_what_they_look_for() {
        let page = example().to_html().unwrap();
        assert!(parse(&page.replacen("</h1>", "", 1)).is_err());
        let changed = page.replacen("</main>", "<img src=\"https://example.org/a.png\" /></main>", 1);
        assert_eq!(reaches_out(&parse(&changed).unwrap()).len(), 2);
        let changed = page.replacen("margin: 0;", "background: url(x.png);", 1);
        assert_eq!(reaches_out(&parse(&changed).unwrap()).len(), 1);
    }

    #[test]
    fn hostile_names_are_text() {
        let page = hostile().to_html().unwrap();
        assert!(!page.contains("<script"));
        let parsed = parse(&page).unwrap();
        let shown: String = parsed.descendants().filter_map(|node| node.text()).collect();
        assert!(shown.contains("<script src=\"http://example.org/x\">alert(1)</script>'\"&]]>"));
        assert!(page.contains("Once"), "the rest is there");
    }

    #[test]
    fn a_report_round_trips_through_its_document() {
        for report in [example(), hostile()] {
            let text = report.to_json().unwrap();
            assert_eq!(Report::from_json(&text, "r.json").unwrap(), report);
        }
        // What is absent stays absent.
        let report = Report { curve: None, halves: None, metric: None, rows: Vec::new(), ..example() };
        let text = report.to_json().unwrap();
        assert!(!text.contains("\"curve\""));
        let read = Report::from_json(&text, "r.json").unwrap();
        assert_eq!(read, report);
        assert!(parse(&read.to_html().unwrap()).is_ok());
    }

    #[test]
    fn damaged_documents_and_other_versions_are_told_apart() {
        let text = example().to_json().unwrap();
        let error = |text: &str| Report::from_json(text, "r.json").unwrap_err().to_string();
        assert!(error(&text[..text.len() - 3]).starts_with("r.json: no report of this program: EOF"));
        assert!(error("{}").contains("report_version"));
        let other = text.replacen("\"report_version\": 1", "\"report_version\": 9", 1);
        assert!(error(&other).contains("version 9") && error(&other).contains("version 1"));
        let missing = text.replacen("\"fingerprint\"", "\"fingerprints\"", 1);
        assert!(error(&missing).contains("fingerprint"));
    }

    #[test]
    fn reports_lie_beside_their_output() {
        assert_eq!(page_of(Path::new("a/out-3.0bpw/")), Path::new("a/out-3.0bpw.report.html"));
        assert_eq!(json_beside(Path::new("a/out-3.0bpw.report.html")), Path::new("a/out-3.0bpw.report.json"));
    }
}
