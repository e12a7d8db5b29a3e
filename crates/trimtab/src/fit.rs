//! Fitting: plan, apply, prove.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use trimtab_io::AffineScheme;
use trimtab_models::Model;
use trimtab_nn::Network;
use trimtab_plan::Plan;

use crate::apply::{Applied, OutputSettings, apply};
use crate::calibration::Calibration;
use crate::error::{Error, Result};
use crate::form::Form;
use crate::inventory::TreatedSite;
use crate::judge::{Judge, Quality};
use crate::measure;
use crate::monitor::Monitor;
use crate::planning::{CandidateReport, Planned, PlanningSettings, Prepared, assignment_of, plan, prepare};
use crate::quantizer::{Method, Quantizer};
use crate::scheme::Scheme;
use crate::system::peak_memory_bytes;
use crate::treating::{Assignment, Collected, Job, SiteReport, treat};

/// What a fit is asked for.
pub struct FitSettings {
    /// Planning.
    pub planning: PlanningSettings,
    /// Writing.
    pub output: OutputSettings,
    /// What the result is proved on; what calibration left over otherwise.
    pub judge: Option<Judge>,
    /// The specification that the model was opened with, for the result to be opened with.
    pub spec: Option<PathBuf>,
}

/// A model in the table of a report.
#[derive(Clone, Debug, PartialEq, Serialize)]
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

/// What a fit did and what that cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FitReport {
    /// The model.
    pub model: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// The budget.
    pub budget: String,
    /// Seed.
    pub seed: u64,
    /// What was calibrated on.
    pub calibration: String,
    /// Where the result is.
    pub output: PathBuf,
    /// Bytes of its weight files.
    pub bytes: u64,
    /// Bytes at most that the budget allows for the whole file, if it bounds the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_bytes: Option<u64>,
    /// Bits per weight of the treated sites.
    pub bits_per_weight: f64,
    /// The original, the baselines, the plan.
    pub rows: Vec<Row>,
    /// Damage that the plan predicts, on calibration data.
    pub damage_predicted: f64,
    /// Damage of the plan as a whole, measured on the same data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage_measured: Option<f64>,
    /// Candidates that were measured.
    pub candidates: Vec<CandidateReport>,
    /// The sites.
    pub sites: Vec<SiteReport>,
    /// Largest memory of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
    /// Seconds of the run.
    pub seconds: f64,
    /// Whether the result keeps the budget.
    pub within_budget: bool,
}

/// Plans within the budget, writes the result, and proves it on data that it was not calibrated on.
pub fn fit(model: &Model, settings: &FitSettings, monitor: &mut dyn Monitor) -> Result<FitReport> {
    let begun = Instant::now();
    let prepared = prepare(model, &settings.planning)?;
    settings.output.check(prepared.inventory.totals.file_bytes_original)?;
    let calibration = Calibration::load(model, &settings.planning.calibration)?;
    monitor.note(&format!("calibrating on {}", calibration.description));
    let planned = plan_or_resume(model, &prepared, &calibration, settings, monitor)?;
    let assignment = assignment_of(&planned.plan, model, &prepared.inventory)?;
    let quantizer = &settings.planning.quantizer;
    let form = settings.output.form;
    let job = Job { model, inventory: &prepared.inventory, assignment: &assignment, quantizer, form };
    let applied = apply(
        job,
        Some((&calibration, &settings.planning.calibration)),
        Some(&planned.plan),
        &settings.output,
        monitor,
    )?;
    let _ = std::fs::remove_file(pending_plan(settings));
    let rows = prove(model, &prepared, &calibration, settings, &applied, monitor)?;
    let limit = prepared.limits.bytes;
    let treated: u64 = applied.sites.iter().map(|site| site.bytes).sum();
    Ok(FitReport {
        model: model.checkpoint().path().display().to_string(),
        fingerprint: model.checkpoint().fingerprint().into(),
        budget: settings.planning.budget.to_string(),
        seed: settings.planning.calibration.seed,
        calibration: calibration.description.clone(),
        output: applied.output.clone(),
        bytes: applied.bytes,
        budget_bytes: limit.map(|bytes| prepared.inventory.totals.file_bytes(bytes)),
        bits_per_weight: applied.bits_per_weight,
        rows,
        damage_predicted: planned.plan.predicted.damage,
        damage_measured: planned.measured,
        candidates: planned.history,
        peak_memory_bytes: peak_memory_bytes(),
        seconds: begun.elapsed().as_secs_f64(),
        within_budget: limit.is_none_or(|limit| treated <= limit),
        sites: applied.sites,
    })
}

/// Where a finished plan waits for its model: beside the output, so that a killed run need not plan again.
fn pending_plan(settings: &FitSettings) -> PathBuf {
    // Components, so that `out/` and `out` have one name.
    let mut name = settings.output.output.components().collect::<PathBuf>().into_os_string();
    name.push(".plan.toml");
    name.into()
}

/// Makes the plan, or takes the one that an earlier run of the same command left.
fn plan_or_resume(
    model: &Model,
    prepared: &Prepared,
    calibration: &Calibration,
    settings: &FitSettings,
    monitor: &mut dyn Monitor,
) -> Result<Planned> {
    let path = pending_plan(settings);
    let asked = &settings.planning;
    if path.exists() && !settings.output.force {
        let plan = crate::planning::read_plan(&path)?;
        let header = &plan.header;
        let same = header.fingerprint == model.checkpoint().fingerprint()
            && header.budget.as_ref() == Some(&asked.budget)
            && header.seed == asked.calibration.seed
            && header.calibration == calibration.description
            && plan.prices.metric == asked.metric.name();
        if same {
            monitor.note(&format!("going on with the plan in {}", path.display()));
            return Ok(Planned { plan, measured: None, history: Vec::new() });
        }
    }
    let planned = plan(model, prepared, calibration, asked, monitor)?;
    write_plan(&planned.plan, &path)?;
    Ok(planned)
}

/// Writes a plan file, whole or not at all.
pub fn write_plan(plan: &Plan, path: &std::path::Path) -> Result<()> {
    Ok(trimtab_io::write_atomic(path, plan.to_toml()?.as_bytes())?)
}

/// The original, plain round-to-nearest and GPTQ at the nearest whole width, and the written model read back.
fn prove(
    model: &Model,
    prepared: &Prepared,
    calibration: &Calibration,
    settings: &FitSettings,
    applied: &Applied,
    monitor: &mut dyn Monitor,
) -> Result<Vec<Row>> {
    let Some(judge) = settings.judge.as_ref().or(calibration.rest.as_ref()) else {
        monitor.warn("there is nothing to prove the result on; pass --text, --pairs or --images");
        return Ok(Vec::new());
    };
    let totals = &prepared.inventory.totals;
    let original = model.network()?;
    let bits = (applied.bits_per_weight.round() as u8).clamp(2, 8);
    let mut names = vec!["original".to_string()];
    let mut sizes = vec![(totals.file_bytes_original, totals.treated_bytes_original)];
    let mut networks = Vec::new();
    for method in [Method::Rtn, Method::Gptq] {
        let scheme = |site: &TreatedSite| plain_scheme(settings.output.form, bits, site);
        let assignment: Assignment =
            prepared.inventory.sites.iter().map(|site| (site.meta.name.clone(), scheme(site))).collect();
        names.push(name_of(method, &assignment));
        let (network, bytes) = baseline(model, prepared, calibration, (&assignment, method), monitor)?;
        sizes.push((totals.file_bytes(bytes), bytes));
        networks.push(network);
    }
    let treated: u64 = applied.sites.iter().map(|site| site.bytes).sum();
    names.push("plan".into());
    sizes.push((applied.bytes, treated));
    let written = Model::open(&applied.output.display().to_string(), settings.spec.as_deref())?;
    networks.push(written.network()?);
    let all: Vec<&Network> = std::iter::once(&original).chain(&networks).collect();
    let qualities = judge.compare(model, &all, &original, monitor)?;
    let row = |((name, (bytes, treated)), quality)| Row {
        name,
        bytes,
        bits_per_weight: totals.bits_per_weight(treated).unwrap_or(f64::NAN),
        quality,
    };
    Ok(names.into_iter().zip(sizes).zip(qualities).map(row).collect())
}

/// What most people would give a site at this width: integers in groups of 128, in GGUF files blocks.
fn plain_scheme(form: Form, bits: u8, site: &TreatedSite) -> Scheme {
    use trimtab_io::gguf::GgufType::{Q2_K, Q3_K, Q4_0, Q4_K, Q5_0, Q5_K, Q6_K, Q8_0};
    if form != Form::Gguf {
        return Scheme::Affine(AffineScheme { bits, group_size: Some(128), symmetric: false });
    }
    let types = [Q2_K, Q3_K, Q4_K, Q4_0, Q5_K, Q5_0, Q6_K, Q8_0].map(Scheme::Blocks);
    let wide = |scheme: &Scheme| scheme.width().is_some_and(|width| width >= bits);
    let found = types.into_iter().filter(wide).find(|scheme| form.holds(scheme, site).is_ok());
    found.unwrap_or(Scheme::Dense)
}

/// What a baseline is called: its method and the scheme that most of its sites have.
fn name_of(method: Method, assignment: &Assignment) -> String {
    let mut counts: BTreeMap<Scheme, usize> = BTreeMap::new();
    assignment.values().for_each(|scheme| *counts.entry(*scheme).or_default() += 1);
    let scheme = counts.into_iter().max_by_key(|(_, n)| *n).map_or(Scheme::Dense, |(scheme, _)| scheme);
    match (method, scheme) {
        (Method::Rtn, _) => format!("round-to-nearest {scheme}"),
        (Method::Gptq, Scheme::Blocks(_)) => format!("importance {scheme}"),
        (Method::Gptq, _) => format!("GPTQ {scheme}"),
    }
}

/// The model under a uniform plan, as most people run it, and the bytes of its treated sites.
fn baseline(
    model: &Model,
    prepared: &Prepared,
    calibration: &Calibration,
    (assignment, method): (&Assignment, Method),
    monitor: &mut dyn Monitor,
) -> Result<(Network, u64)> {
    let inventory = &prepared.inventory;
    let mut treated = Collected::default();
    let quantizer = &Quantizer::plain(method);
    let job = Job { model, inventory, assignment, quantizer, form: Form::Packed };
    treat(job, Some(calibration), &mut treated, monitor)?;
    let bytes = |site: &TreatedSite| assignment[&site.meta.name].bytes(&site.meta, site.dtype);
    let bytes = inventory.sites.iter().map(bytes).sum();
    let mut network = model.network()?;
    measure::put(&mut network, &treated.overlay(inventory)?)?;
    Ok((network, bytes))
}

/// The default output: the model's name and the budget, in the working directory.
pub fn default_output(model: &str, budget: &str) -> Result<PathBuf> {
    let name = match model {
        "@pico" => "pico".to_string(),
        path => {
            let path = std::path::Path::new(path);
            let stem = if path.is_file() { path.file_stem() } else { path.file_name() };
            let stem = stem.and_then(|stem| stem.to_str()).map(str::to_string);
            stem.ok_or(Error::Setting { what: "-o", message: "give a name for the output".into() })?
        }
    };
    let budget: String =
        budget.chars().map(|c| if c.is_alphanumeric() || c == '.' { c } else { '-' }).collect();
    Ok(PathBuf::from(format!("{name}-{budget}")))
}
