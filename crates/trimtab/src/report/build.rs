//! From what a run found to its report.

use std::fmt::Write;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use trimtab_models::Model;
use trimtab_nn::StageSource;
use trimtab_plan::{Plan, Totals, frontier};

use super::{Curve, CurvePoint, REPORT_VERSION, Recorder, Report, SiteEntry, Verb};
use crate::apply::Applied;
use crate::choice::Choice;
use crate::error::Result;
use crate::inventory::{Inventory, TreatedSite};
use crate::planning::PlanningRecord;
use crate::scheme::Scheme;
use crate::system;
use crate::treating::Assignment;

/// Points of the curve.
const POINTS: usize = 120;

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// What it is for: `model`, `calibration`, `judged on`, `plan`.
    pub role: String,
    /// Name or path.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// Hash of the content, in hexadecimal.
    pub sha256: String,
}

impl Input {
    /// A file.
    pub fn file(role: &str, path: &Path) -> Result<Self> {
        let (bytes, sha256) = trimtab_io::file_sha256(path)?;
        Ok(Self { role: role.into(), name: path.display().to_string(), bytes, sha256 })
    }

    /// The files with the weights of a model.
    pub fn model(model: &Model) -> Result<Vec<Self>> {
        let checkpoint = model.checkpoint();
        let file = |file: &trimtab_io::CheckpointFile| {
            let sha256 = checkpoint.content_sha256(&file.name)?;
            Ok(Self { role: "model".into(), name: file.name.clone(), bytes: file.bytes, sha256 })
        };
        checkpoint.files().iter().map(file).collect()
    }
}

impl Report {
    /// A report that knows the model, its treated sites and what each is to become.
    pub fn begin(verb: Verb, model: &Model, inventory: &Inventory, assignment: &Assignment) -> Result<Self> {
        let checkpoint = model.checkpoint();
        let totals = &inventory.totals;
        let sites: Vec<SiteEntry> =
            inventory.sites.iter().map(|site| entry(model, site, assignment)).collect();
        let treated = sites.iter().map(|site| site.bytes).sum();
        // The lines of branches in the header among it.
        let cost = |site: &TreatedSite| chosen(site, assignment).cost(&site.meta, site.dtype);
        let file = totals.file_bytes(inventory.sites.iter().map(cost).sum());
        let bare = |site: &TreatedSite| {
            assignment
                .get(&site.meta.name)
                .map_or(0, |choice| Choice::from(choice.scheme).bytes(&site.meta, site.dtype))
        };
        let bare: u64 = inventory.sites.iter().map(bare).sum();
        let branches = assignment.values().any(|choice| choice.rank > 0);
        Ok(Self {
            report_version: REPORT_VERSION,
            trimtab: env!("CARGO_PKG_VERSION").into(),
            verb,
            command: String::new(),
            finished: String::new(),
            model: checkpoint.path().display().to_string(),
            fingerprint: checkpoint.fingerprint().into(),
            task: format!("{:?}", model.task()).to_lowercase(),
            inputs: Input::model(model)?,
            settings: Vec::new(),
            seed: 0,
            budget: None,
            calibration: None,
            judged_on: None,
            output: Default::default(),
            bytes: file,
            bytes_predicted: file,
            bytes_original: totals.file_bytes_original,
            budget_bytes: None,
            within_budget: true,
            reached: None,
            treated_weights: totals.treated_weights,
            bits_per_weight: totals.bits_per_weight(treated).unwrap_or(0.0),
            bits_without_branches: totals.bits_per_weight(bare).filter(|_| branches),
            rows: Vec::new(),
            metric: None,
            damage_predicted: None,
            damage_measured: None,
            lower_bound: None,
            curve: None,
            candidates: Vec::new(),
            halves: None,
            sites,
            samples: Vec::new(),
            moved_pairs: Vec::new(),
            phases: Vec::new(),
            seconds: 0.0,
            peak_memory_bytes: None,
            peak_anonymous_bytes: None,
            peak_anonymous_bytes_predicted: None,
            warnings: Vec::new(),
        })
    }

    /// Takes in a plan and, where it was just made, how it came about.
    pub fn add_plan(&mut self, plan: &Plan, record: Option<&PlanningRecord>) -> Result<()> {
        let (budget, totals) = (plan.header.budget.as_ref(), &plan.header.totals);
        self.budget = budget.map(ToString::to_string);
        let limits = budget.map(|budget| budget.limits(totals)).transpose()?;
        self.within_budget = limits.is_none_or(|limits| limits.exceeded_by(&plan.predicted.costs).is_none());
        self.budget_bytes = budget.map(|budget| budget.file_limit(totals)).transpose()?.flatten();
        self.calibration = Some(plan.header.calibration.clone());
        self.metric = Some(plan.prices.metric.clone());
        self.damage_predicted = Some(plan.predicted.damage);
        self.lower_bound = plan.predicted.lower_bound;
        self.curve = Some(curve(plan)?);
        for site in &mut self.sites {
            let at = plan.prices.sites.iter().position(|priced| priced.site == site.site);
            site.plan_damage = at.map(|i| plan.prices.sites[i].options[plan.choice[i]].damage);
        }
        let Some(record) = record else { return Ok(()) };
        self.damage_measured = record.measured;
        self.candidates = record.history.clone();
        self.halves = record.halves.clone();
        self.reached = record.reached.clone();
        for site in &mut self.sites {
            let Some(evidence) = record.evidence.get(&site.site) else { continue };
            site.weight_outlier = Some(evidence.weight_outlier);
            site.input_outlier = evidence.input_outlier;
            site.input_directions = evidence.input_directions;
            site.halves = evidence.halves.get(&site.scheme).copied();
            let power = evidence.output_power.filter(|&power| power > 0.0);
            let relative = evidence.errors.get(&site.scheme).zip(power).map(|(error, power)| error / power);
            site.relative_error = relative;
            site.sensitivity =
                site.plan_damage.zip(relative).filter(|(_, r)| *r > 0.0).map(|(damage, r)| damage / r);
        }
        Ok(())
    }

    /// Takes in what was written.
    pub fn add_applied(&mut self, applied: &Applied) {
        self.output = applied.output.clone();
        self.bytes = applied.bytes;
        self.within_budget &= self.budget_bytes.is_none_or(|most| applied.bytes <= most);
        self.bits_per_weight = applied.bits_per_weight;
        for site in &mut self.sites {
            let Some(report) = applied.sites.iter().find(|report| report.site == site.site) else { continue };
            site.damage = Some(report.damage);
            site.rtn_damage = Some(report.rtn_damage);
            site.fell_back = report.fell_back;
            site.damping = report.damping;
        }
    }

    /// Takes in the record of the run and the time; the last step.
    pub fn end(&mut self, recorder: Recorder<'_>) {
        self.seconds = recorder.seconds();
        (self.phases, self.warnings) = recorder.finish();
        self.peak_memory_bytes = system::peak_memory_bytes();
        self.peak_anonymous_bytes = system::peak_anonymous_bytes();
        // A clock before 1970 has no such text, and is no reason to fail.
        self.finished.clear();
        let _ = write!(self.finished, "{}", humantime::format_rfc3339_seconds(SystemTime::now()));
    }

    /// Adds a setting to be shown.
    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.settings.push(super::Setting { name: name.into(), value: value.to_string() });
    }
}

/// What becomes of a site.
fn chosen(site: &TreatedSite, assignment: &Assignment) -> Choice {
    assignment.get(&site.meta.name).copied().unwrap_or(Scheme::Dense.into())
}

fn entry(model: &Model, site: &TreatedSite, assignment: &Assignment) -> SiteEntry {
    let meta = &site.meta;
    let choice = chosen(site, assignment);
    let bytes = choice.bytes(meta, site.dtype);
    let block = &model.stages()[site.stage].name;
    let kind = meta.name.strip_prefix(block.as_str()).map(|rest| rest.trim_start_matches('.'));
    let kind = kind.filter(|kind| !kind.is_empty());
    SiteEntry {
        site: meta.name.clone(),
        block: block.clone(),
        kind: kind.unwrap_or(&meta.name).to_string(),
        shape: [meta.rows, meta.cols],
        scheme: choice.to_string(),
        bytes,
        bits_per_weight: 8.0 * bytes as f64 / meta.numel().max(1) as f64,
        ..SiteEntry::default()
    }
}

fn curve(plan: &Plan) -> Result<Curve> {
    let totals = &plan.header.totals;
    let prices = &plan.prices;
    let frontier = frontier(prices, POINTS)?;
    let frontier =
        frontier.into_iter().map(|p| point("", totals, p.costs.bytes, p.damage)).collect::<Vec<_>>();
    let mut uniform = Vec::new();
    for label in prices.labels() {
        if let Some(choice) = prices.uniform(label) {
            let (costs, damage) = prices.total(&choice)?;
            uniform.push(point(label, totals, costs.bytes, damage));
        }
    }
    Ok(Curve { frontier, uniform })
}

fn point(name: &str, totals: &Totals, treated: u64, damage: f64) -> CurvePoint {
    CurvePoint {
        name: name.into(),
        bytes: totals.file_bytes(treated),
        bits_per_weight: totals.bits_per_weight(treated).unwrap_or(0.0),
        damage,
    }
}
