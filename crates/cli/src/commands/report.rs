//! `trimtab report`, and where the other verbs leave their reports.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ValueEnum;
use trimtab::effort::Composition;
use trimtab::floors::io::{OutDir, ensure_writable, write_atomic};
use trimtab::monitor::Monitor;
use trimtab::quantizer::{Method, Quantizer};
use trimtab::report::{Input, Report as Document, json_beside, page_of, read};

use super::settings;
use crate::Status;
use crate::args::{ActivationArgs, BranchName, Format, Global, PlanningArgs, Report, ReportArgs};
use crate::ui::Ui;

pub fn run(args: &Report, ui: &mut Ui) -> anyhow::Result<Status> {
    if let Some(page) = &args.output {
        free(page, args.force)?;
    }
    let report = read(&args.run)?;
    if let Some(page) = &args.output {
        write_atomic(page, report.to_html()?.as_bytes())?;
    }
    ui.result(&report, &report.summary())?;
    if let Some(page) = &args.output {
        ui.note(&format!("written to {}", page.display()));
    }
    Ok(Status::Done)
}

/// The page that a run with this output is to write, checked before any long work.
pub fn planned(args: &ReportArgs, output: Option<&Path>, force: bool) -> anyhow::Result<Option<PathBuf>> {
    let Some(page) = args.report.clone().or_else(|| output.map(page_of)) else { return Ok(None) };
    if json_beside(&page) == page {
        bail!(
            "--report: {} is the place of the document; expected a name that ends in .html",
            page.display()
        );
    }
    // A run that is taken up again after its output was there may have written them already.
    let resumed = output.map(OutDir::is_published).transpose()?.unwrap_or(false);
    free(&page, force || resumed)?;
    free(&json_beside(&page), force || resumed)?;
    Ok(Some(page))
}

/// Writes the report of a run, page and document.
pub fn write(report: &mut Document, page: Option<&Path>, ui: &mut Ui) -> anyhow::Result<()> {
    report.command = command_line();
    let Some(page) = page else { return Ok(()) };
    report.write(page).with_context(|| {
        format!("{} is complete, its report could not be written", report.output.display())
    })?;
    ui.note(&format!("report: {}", page.display()));
    Ok(())
}

/// Adds files to the inputs of a report, with their hashes.
pub fn note_inputs(report: &mut Document, files: &[(&str, Option<&PathBuf>)]) -> anyhow::Result<()> {
    for (role, path) in files {
        if let Some(path) = path {
            report.inputs.push(Input::file(role, path)?);
        }
    }
    Ok(())
}

/// Adds the flags of the planner.
pub fn note_planning(report: &mut Document, args: &PlanningArgs, composition: &Composition) {
    report.set("effort", name(&args.effort));
    report.set("metric", word(&composition.metric));
    report.set("probe-rows", composition.probe_rows);
    report.set("rounds", composition.rounds);
    report.set("bits", args.bits.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    report.set("groups", args.groups.join(", "));
    if composition.ranks != [0] {
        report.set(
            "eora-ranks",
            composition.ranks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        );
    }
    if !args.types.is_empty() {
        report.set("types", args.types.join(", "));
    }
    for (flag, set) in [("symmetric", args.symmetric), ("fused", args.fused)] {
        if set {
            report.set(flag, "yes");
        }
    }
    if let Some(engine) = &args.engine {
        report.set("for", name(engine));
    }
    for (flag, globs) in [("include", &args.include), ("exclude", &args.exclude), ("pin", &args.pin)] {
        if !globs.is_empty() {
            report.set(flag, globs.join(", "));
        }
    }
}

/// Adds how codes are chosen.
pub fn note_quantizer(report: &mut Document, quantizer: &Quantizer) {
    report.set("method", word(&quantizer.method));
    report.set("range", word(&quantizer.range));
    if quantizer.method != Method::Rtn {
        report.set("damping", quantizer.damping);
    }
    if let Some(tuning) = quantizer.tuning.filter(|_| quantizer.method != Method::Rtn) {
        report.set("tune-rate", tuning.rate);
        report.set("tune-epochs", tuning.epochs);
    }
    if quantizer.tune_batch_norms {
        report.set("tune-batch-norm", "yes");
    }
    if quantizer.tune_biases.is_some() {
        report.set("tune-bias", "yes");
    }
    if quantizer.method == Method::Gptq {
        report.set("act-order", if quantizer.act_order { "yes" } else { "no" });
    }
    let found = (quantizer.branches, quantizer.turns);
    let how = BranchName::value_variants().iter().find(|how| settings::branches(**how) == found);
    if let Some(how) = how.filter(|how| **how != BranchName::Eora) {
        report.set("branches", name(how));
    }
    if let Some(importance) = &quantizer.importance {
        report.set("importance", word(&importance.strategy));
        report.set("r-min", importance.r_min);
        report.set("importance-power", importance.power);
    }
}

/// A value of the library as it is typed.
fn word(value: &impl serde::Serialize) -> String {
    let json = serde_json::to_value(value).unwrap_or_default();
    json.as_str().unwrap_or_default().replace('_', "-")
}

/// Adds what is quantized of activations.
pub fn note_activations(report: &mut Document, args: &ActivationArgs) {
    let Some(activations) = &args.activations else { return };
    report.set("activations", activations.as_str());
    report.set("activation-range", name(&args.activation_range));
    for (flag, scheme) in [("attention-operands", &args.attention_operands), ("softmax", &args.softmax)] {
        if let Some(scheme) = scheme {
            report.set(flag, scheme.as_str());
        }
    }
    for (flag, set) in [
        ("scale-reparameterization", args.scale_reparameterization),
        ("learn-clipping", args.learn_clipping),
        ("absorb-activations", args.absorb_activations),
    ] {
        if set {
            report.set(flag, "yes");
        }
    }
    if let Some(how) = &args.clip_search {
        report.set("clip-search", name(how));
    }
}

/// Adds what every verb has.
pub fn note_global(report: &mut Document, format: Option<Format>, global: &Global) {
    report.seed = global.seed;
    if let Some(format) = format {
        report.set("format", name(&format));
    }
    report.set("device", name(&global.device));
    report.set("threads", rayon::current_num_threads());
}

/// A value as it is typed.
fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or(String::new(), |value| value.get_name().to_string())
}

/// Refuses a file that is there, and a folder in which none can be written.
pub fn free(path: &Path, force: bool) -> anyhow::Result<()> {
    if path.is_dir() {
        bail!("{} is a directory, expected the name of a file for the report", path.display());
    }
    if path.exists() && !force {
        bail!("{} already exists\nhint: replace it with --force", path.display());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok(ensure_writable(parent.unwrap_or(Path::new(".")))?)
}

/// The command as a shell takes it.
fn command_line() -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    let quoted = |word: String| match !word.is_empty() && word.chars().all(plain) {
        true => word,
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    let words = std::env::args_os().skip(1).map(|word| quoted(word.to_string_lossy().into_owned()));
    std::iter::once("trimtab".to_string()).chain(words).collect::<Vec<_>>().join(" ")
}
