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
    /// Bytes of the weight files as the plan predicts them: an upper bound, by the length of the header; of codes, also where dense numbers
    /// are written.
    pub bytes_predicted: u64,
    /// Bytes of the original's weight files.
    pub bytes_original: u64,
    /// Bytes at most that the budget allows for the whole file, if it bounds the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_bytes: Option<u64>,
    /// Whether the result keeps the budget: its sites do, and the file where that is bounded.
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
mod tests;
