//! Fitting: plan, apply, prove.

use std::path::PathBuf;

use trimtab_io::AffineScheme;
use trimtab_models::Model;
use trimtab_nn::Network;
use trimtab_plan::Plan;

use crate::apply::{Applied, OutputSettings, apply};
use crate::calibration::Calibration;
use crate::error::{Error, Result};
use crate::judge::Judge;
use crate::measure;
use crate::memory;
use crate::monitor::Monitor;
use crate::planning::{Planned, PlanningSettings, Prepared, assignment_of, plan, prepare};
use crate::quantizer::{Method, Quantizer};
use crate::report::{Recorder, Report, Row, Verb, moved_pairs, samples};
use crate::scheme::Scheme;
use crate::treating::{Assignment, Collected, Form, Job, treat};

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

/// Plans within the budget, writes the result, and proves it on data that it was not calibrated on.
pub fn fit(model: &Model, settings: &FitSettings, monitor: &mut dyn Monitor) -> Result<Report> {
    let mut recorder = Recorder::new(monitor, "planning");
    let prepared = prepare(model, &settings.planning)?;
    settings.output.check(prepared.inventory.totals.file_bytes_original)?;
    let calibration = Calibration::load(model, &settings.planning.calibration)?;
    recorder.note(&format!("calibrating on {}", calibration.description));
    let planned = plan_or_resume(model, &prepared, &calibration, settings, &mut recorder)?;
    let assignment = assignment_of(&planned.plan, model, &prepared.inventory)?;
    let mut report = Report::begin(Verb::Fit, model, &prepared.inventory, &assignment)?;
    report.add_plan(&planned.plan, Some(&planned.record))?;
    let quantizer = &settings.planning.quantizer;
    let form = settings.output.form;
    let job = Job { model, inventory: &prepared.inventory, assignment: &assignment, quantizer, form };
    report.peak_anonymous_bytes_predicted = Some(memory::predict(&job, Some(&calibration)).total());
    recorder.phase("writing");
    let applied = apply(
        job,
        Some((&calibration, &settings.planning.calibration)),
        Some(&planned.plan),
        &settings.output,
        &mut recorder,
    )?;
    for pending in [pending_plan(settings), pending_record(settings)] {
        let _ = std::fs::remove_file(pending);
    }
    report.add_applied(&applied);
    let limit = prepared.limits.bytes;
    let treated: u64 = applied.sites.iter().map(|site| site.bytes).sum();
    report.seed = settings.planning.calibration.seed;
    report.budget_bytes = limit.map(|bytes| prepared.inventory.totals.file_bytes(bytes));
    report.within_budget = limit.is_none_or(|limit| treated <= limit);
    recorder.phase("proof");
    prove(&mut report, model, &prepared, &calibration, settings, &applied, &mut recorder)?;
    report.end(recorder);
    Ok(report)
}

/// Where a finished plan waits for its model: beside the output, so that a killed run need not plan again.
fn pending_plan(settings: &FitSettings) -> PathBuf {
    let mut name = settings.output.output.clone().into_os_string();
    name.push(".plan.toml");
    name.into()
}

/// Where what led to that plan waits.
fn pending_record(settings: &FitSettings) -> PathBuf {
    pending_plan(settings).with_extension("json")
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
            // Without its record the plan is the same; the report tells less.
            let record = std::fs::read(pending_record(settings)).ok();
            let record = record.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
            return Ok(Planned { plan, record });
        }
    }
    let planned = plan(model, prepared, calibration, asked, monitor)?;
    let record = serde_json::to_vec(&planned.record);
    let record = record.map_err(|e| Error::Data { what: "plan".into(), message: e.to_string() })?;
    trimtab_io::write_atomic(pending_record(settings), &record)?;
    write_plan(&planned.plan, &path)?;
    Ok(planned)
}

/// Writes a plan file, whole or not at all.
pub fn write_plan(plan: &Plan, path: &std::path::Path) -> Result<()> {
    Ok(trimtab_io::write_atomic(path, plan.to_toml()?.as_bytes())?)
}

/// The original, plain round-to-nearest and GPTQ at the nearest whole width, and the written model read back.
fn prove(
    report: &mut Report,
    model: &Model,
    prepared: &Prepared,
    calibration: &Calibration,
    settings: &FitSettings,
    applied: &Applied,
    monitor: &mut dyn Monitor,
) -> Result<()> {
    let Some(judge) = settings.judge.as_ref().or(calibration.rest.as_ref()) else {
        monitor.warn("there is nothing to prove the result on; pass --text, --pairs or --images");
        return Ok(());
    };
    // The caller knows the name of what it gave.
    report.judged_on = settings.judge.is_none().then(|| match settings.planning.calibration.source {
        None => "stories that neither training nor calibration has seen".into(),
        Some(_) => "the part of the calibration text that was not calibrated on".into(),
    });
    let totals = &prepared.inventory.totals;
    let original = model.network()?;
    let bits = (applied.bits_per_weight.round() as u8).clamp(2, 8);
    let mut names = vec!["original".to_string()];
    let mut sizes = vec![(totals.file_bytes_original, totals.treated_bytes_original)];
    let mut networks = Vec::new();
    for method in [Method::Rtn, Method::Gptq] {
        let scheme = Scheme::Affine(AffineScheme { bits, group_size: Some(128), symmetric: false });
        let (network, bytes) = baseline(model, prepared, calibration, (scheme, method), monitor)?;
        names.push(match method {
            Method::Rtn => format!("round-to-nearest {scheme}"),
            Method::Gptq => format!("GPTQ {scheme}"),
        });
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
        bits_per_weight: totals.bits_per_weight(treated).unwrap_or(0.0),
        quality,
    };
    report.rows = names.into_iter().zip(sizes).zip(qualities).map(row).collect();
    if let Some(result) = networks.last() {
        monitor.begin("samples", 1);
        report.samples = samples(model, judge, &original, result)?;
        report.moved_pairs = moved_pairs(model, judge, &original, result)?;
    }
    Ok(())
}

/// The model under a uniform plan, as most people run it, and the bytes of its treated sites.
fn baseline(
    model: &Model,
    prepared: &Prepared,
    calibration: &Calibration,
    (scheme, method): (Scheme, Method),
    monitor: &mut dyn Monitor,
) -> Result<(Network, u64)> {
    let inventory = &prepared.inventory;
    let assignment: Assignment =
        inventory.sites.iter().map(|site| (site.meta.name.clone(), scheme)).collect();
    let mut treated = Collected::default();
    let quantizer = &Quantizer::plain(method);
    let job = Job { model, inventory, assignment: &assignment, quantizer, form: Form::Packed };
    treat(job, Some(calibration), &mut treated, monitor)?;
    let bytes = inventory.sites.iter().map(|site| scheme.bytes(&site.meta, site.dtype)).sum();
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
