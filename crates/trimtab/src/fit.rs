//! Fitting: plan, apply, prove.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;
use trimtab_io::AffineScheme;
use trimtab_models::Model;
use trimtab_nn::Network;
use trimtab_plan::Plan;

use crate::apply::{Applied, Finished, OutputSettings, apply, content};
use crate::calibration::Calibration;
use crate::choice::Choice;
use crate::error::{Error, Result};
use crate::form::Form;
use crate::inventory::TreatedSite;
use crate::judge::Judge;
use crate::measure;
use crate::memory;
use crate::monitor::Monitor;
use crate::planning::{Planned, PlanningSettings, Prepared, assignment_of, plan, prepare};
use crate::quality::{Goal, Target};
use crate::quantizer::{Method, Quantizer};
use crate::report::{Recorder, Report, Row, Verb, moved_pairs, samples};
use crate::scheme::{Scheme, usual_blocks};
use crate::treating::{Assignment, Job};

/// What a fit is asked for.
pub struct FitSettings {
    /// Planning.
    pub planning: PlanningSettings,
    /// Writing.
    pub output: OutputSettings,
    /// What the result is proved on; what calibration left over otherwise.
    pub judge: Option<Judge>,
    /// A quality that the result has to keep: then it is the smallest model found that does, and half of the data it is judged on
    /// select it, the other half prove it.
    pub target: Option<Target>,
    /// The specification that the model was opened with, for the result to be opened with.
    pub spec: Option<PathBuf>,
}

/// Plans within the budget, writes the result, and proves it on data that it was not calibrated on.
pub fn fit(model: &Model, settings: &FitSettings, monitor: &mut dyn Monitor) -> Result<(Report, Finished)> {
    let mut recorder = Recorder::new(monitor, "planning");
    let prepared = prepare(model, &settings.planning)?;
    settings.output.check(prepared.inventory.totals.file_bytes_original)?;
    let calibration = Calibration::load_with(model, &settings.planning.calibration, &mut recorder)?;
    let quantizer = &settings.planning.quantizer;
    let prediction = memory::predict(model, &prepared.inventory, Some(&calibration), quantizer);
    memory::check(&prediction)?;
    let judge = settings.judge.as_ref().or(calibration.rest.as_ref());
    let halves = match (settings.target, judge) {
        (Some(target), Some(judge)) => {
            target.check(judge)?;
            Some((target, judge.halves()?))
        }
        (Some(_), None) => {
            let message = "there is nothing to measure it on\nhint: pass --text, --pairs or --images";
            return Err(Error::Setting { what: "--quality", message: message.into() });
        }
        (None, _) => None,
    };
    let goal = halves.as_ref().map(|(target, [judge, _])| Goal { target: *target, judge });
    let planned = plan_or_resume(model, &prepared, &calibration, settings, goal.as_ref(), &mut recorder)
        .map_err(|error| error.interrupted(None))?;
    let assignment = assignment_of(&planned.plan, model, &prepared.inventory)?;
    let mut report = Report::begin(Verb::Fit, model, &prepared.inventory, &assignment)?;
    report.add_plan(&planned.plan, Some(&planned.record))?;
    let quantizer = &settings.planning.quantizer;
    let form = settings.output.form;
    let job = Job { model, inventory: &prepared.inventory, assignment: &assignment, quantizer, form };
    report.peak_anonymous_bytes_predicted = Some(prediction.total());
    recorder.phase("writing");
    let (applied, finished) = apply(
        job,
        Some((&calibration, &settings.planning.calibration)),
        Some(&planned.plan),
        &settings.output,
        &mut recorder,
    )?;
    report.add_applied(&applied);
    let treated: u64 = applied.sites.iter().map(|site| site.bytes).sum();
    report.seed = settings.planning.calibration.seed;
    report.within_budget &= prepared.limits.bytes.is_none_or(|limit| treated <= limit);
    recorder.phase("proof");
    let judge = halves.as_ref().map(|(_, [_, judge])| judge).or(judge);
    prove(&mut report, model, &prepared, &calibration, (settings, judge), &applied, &mut recorder)
        .map_err(|error| error.interrupted(Some(applied.output.display().to_string())))?;
    report.end(recorder);
    // Until they are cleared away, the same command finds its plan and its output, and goes on with the proof.
    Ok((report, finished.with([pending_plan(settings), pending_record(settings)])))
}

/// Where a finished plan waits for its model: beside the output, so that a killed run need not plan again.
fn pending_plan(settings: &FitSettings) -> PathBuf {
    // Components, so that `out/` and `out` have one name.
    let mut name = settings.output.output.components().collect::<PathBuf>().into_os_string();
    name.push(".plan.toml");
    name.into()
}

/// Where what led to that plan waits.
fn pending_record(settings: &FitSettings) -> PathBuf {
    pending_plan(settings).with_extension("json")
}

/// What a pending plan begins with: the rest of the line tells what it was made for.
const MADE_FOR: &str = "# made for ";

/// Identifies a plan: everything that determines it, and the version that made it.
fn asked_hash(
    model: &Model,
    calibration: &Calibration,
    asked: &PlanningSettings,
    goal: Option<&Goal<'_>>,
) -> Result<String> {
    let text = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": model.checkpoint().fingerprint(),
        "calibration": calibration.description,
        "calibration_bytes": content(asked.calibration.source.as_deref())?,
        // Every field, also those that are added later.
        "asked": format!("{asked:?}"),
        "goal": goal.map(|goal| (goal.target.to_string(), goal.judge.digest())),
    });
    Ok(trimtab_io::sha256(text.to_string().as_bytes()))
}

/// Makes the plan, or takes the one that an earlier run of the same command left.
fn plan_or_resume(
    model: &Model,
    prepared: &Prepared,
    calibration: &Calibration,
    settings: &FitSettings,
    goal: Option<&Goal<'_>>,
    monitor: &mut dyn Monitor,
) -> Result<Planned> {
    let path = pending_plan(settings);
    let asked = &settings.planning;
    let head = format!("{MADE_FOR}{}\n", asked_hash(model, calibration, asked, goal)?);
    if path.exists() {
        let text = trimtab_io::read_text(&path)?;
        if text.starts_with(&head) {
            monitor.note(&format!("going on with the plan in {}", path.display()));
            let plan = Plan::parse(&text, &path.display().to_string())?;
            // Without its record the plan is the same; the report tells less.
            let record = trimtab_io::fs::read(&pending_record(settings)).ok();
            let record = record.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
            return Ok(Planned { plan, record });
        }
        if !text.starts_with(MADE_FOR) && !settings.output.force {
            return Err(trimtab_io::Error::Output {
                path,
                message:
                    "is in the way of the plan\nhint: choose another output, or pass --force to replace it"
                        .into(),
            }
            .into());
        }
    }
    let planned = plan(model, prepared, calibration, asked, goal, monitor)?;
    let record = serde_json::to_vec(&planned.record);
    let record = record.map_err(|e| Error::Data { what: "plan".into(), message: e.to_string() })?;
    trimtab_io::write_atomic(pending_record(settings), &record)?;
    trimtab_io::write_atomic(&path, (head + &planned.plan.to_toml()?).as_bytes())?;
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
    (settings, judge): (&FitSettings, Option<&Judge>),
    applied: &Applied,
    monitor: &mut dyn Monitor,
) -> Result<()> {
    let Some(judge) = judge else {
        monitor.warn("there is nothing to prove the result on; pass --text, --pairs or --images");
        return Ok(());
    };
    // The caller knows the name of what it gave.
    report.judged_on = settings.judge.is_none().then(|| calibration.rest_is.to_string());
    let totals = &prepared.inventory.totals;
    let original = model.network()?;
    // The nearest whole width; half way, the smaller.
    let bits = ((applied.bits_per_weight - 0.01).round() as u8).clamp(2, 8);
    let mut names = vec!["original".to_string()];
    let mut sizes = vec![(totals.file_bytes_original, totals.treated_bytes_original)];
    let mut networks = Vec::new();
    for method in [Method::Rtn, Method::Gptq] {
        let scheme = |site: &TreatedSite| Choice::from(plain_scheme(settings.output.form, bits, site));
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
        bits_per_weight: totals.bits_per_weight(treated).unwrap_or(0.0),
        quality,
    };
    report.rows = names.into_iter().zip(sizes).zip(qualities).map(row).collect();
    if let (Some(reached), [original, .., result]) = (&mut report.reached, report.rows.as_slice()) {
        let holds = reached.target.holds(&result.quality, &original.quality)?;
        reached.proved = Some(holds);
        if !holds {
            monitor.warn(&format!(
                "{} held on the half of the data that selected the plan, and does not on the half that proves it",
                reached.target
            ));
        }
    }
    if let Some(result) = networks.last() {
        monitor.begin("samples", 1);
        report.samples = samples(model, judge, &original, result)?;
        report.moved_pairs = moved_pairs(model, judge, &original, result)?;
    }
    Ok(())
}

/// What most people would give a site at this width: integers in groups of 128, in GGUF files blocks.
fn plain_scheme(form: Form, bits: u8, site: &TreatedSite) -> Scheme {
    if form != Form::Gguf {
        return Scheme::Affine(AffineScheme { bits, group_size: Some(128), symmetric: false });
    }
    let types = usual_blocks(site.meta.cols).iter().copied().map(Scheme::Blocks);
    let wide = |scheme: &Scheme| scheme.width().is_some_and(|width| width >= bits);
    let found = types.filter(wide).find(|scheme| form.holds(scheme, site).is_ok());
    found.unwrap_or(Scheme::Dense)
}

/// What a baseline is called: its method and the scheme that most of its sites have.
fn name_of(method: Method, assignment: &Assignment) -> String {
    let mut counts: BTreeMap<Scheme, usize> = BTreeMap::new();
    assignment.values().for_each(|choice| *counts.entry(choice.scheme).or_default() += 1);
    let scheme = counts.into_iter().max_by_key(|(_, n)| *n).map_or(Scheme::Dense, |(scheme, _)| scheme);
    match (method, scheme) {
        (Method::Rtn, _) => format!("round-to-nearest {scheme}"),
        (Method::Gptq, Scheme::Blocks(_)) => format!("importance {scheme}"),
        (Method::Gptq, _) => format!("GPTQ {scheme}"),
        (Method::Decoupleq, _) => format!("decoupleQ {scheme}"),
        (Method::Adaquant, _) => format!("AdaQuant {scheme}"),
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
    let quantizer = &Quantizer::plain(method);
    let job = Job { model, inventory, assignment, quantizer, form: Form::Packed };
    let treated = job.collected(Some(calibration), monitor)?;
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
