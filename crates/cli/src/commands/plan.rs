//! `trimtab plan`.

use anyhow::{Context, bail};
use serde::Serialize;
use trimtab::calibration::Calibration;
use trimtab::fit::write_plan;
use trimtab::planning::{CandidateReport, plan, prepare, read_plan};

use super::settings;
use crate::Status;
use crate::args::{Global, Method, Plan, QuantizerArgs, Range};
use crate::ui::Ui;

#[derive(Serialize)]
struct Report {
    plan: String,
    bytes: u64,
    bits_per_weight: f64,
    damage_predicted: f64,
    damage_measured: Option<f64>,
    lower_bound: Option<f64>,
    seed: u64,
    candidates: Vec<CandidateReport>,
}

pub fn run(args: &Plan, global: &Global, ui: &mut Ui) -> anyhow::Result<Status> {
    if let Some(files) = &args.diff {
        let [old, new] = files.as_slice() else { bail!("--diff takes two plans") };
        let changes = read_plan(old)?.diff(&read_plan(new)?);
        let text = trimtab::floors::plan::change_table(&changes);
        ui.result(&changes, &text)?;
        return Ok(Status::Done);
    }
    if let Some(file) = &args.reprice {
        let mut plan = read_plan(file)?;
        plan.reprice()?;
        write_plan(&plan, file)?;
        let limits = plan.header.budget.as_ref().map(|b| b.limits(&plan.header.totals)).transpose()?;
        let missed = limits.is_some_and(|limits| limits.exceeded_by(&plan.predicted.costs).is_some());
        ui.result(&plan.predicted.damage, &plan.to_string())?;
        return Ok(if missed { Status::Missed } else { Status::Done });
    }
    let budget = args.budget.as_deref().context("--budget is missing")?;
    if args.output.exists() && !args.force && !args.dry_run {
        bail!(
            "{} already exists\nhint: choose another -o, or replace it with --force",
            args.output.display()
        );
    }
    let model = super::open_to_treat(&args.model, global, ui)?;
    let defaults = QuantizerArgs { range: Range::Mse, damping: 0.01, act_order: false };
    let quantizer = settings::quantizer(&defaults, Method::Gptq);
    let calibration = settings::calibration(&args.calibration, global);
    let asked = settings::planning(budget, &args.planning, calibration, quantizer, args.format)?;
    let prepared = prepare(&model, &asked)?;
    if args.dry_run {
        let text = super::fit::outlook(&model, &prepared, &asked);
        ui.result(&text, &text)?;
        return Ok(Status::Done);
    }
    let calibration = Calibration::load(&model, &asked.calibration)?;
    let planned = plan(&model, &prepared, &calibration, &asked, ui).map_err(|e| e.interrupted(None))?;
    write_plan(&planned.plan, &args.output)?;
    let found = &planned.plan;
    let report = Report {
        plan: args.output.display().to_string(),
        bytes: found.header.totals.file_bytes(found.predicted.costs.bytes),
        bits_per_weight: found.bits_per_weight().unwrap_or(f64::NAN),
        damage_predicted: found.predicted.damage,
        damage_measured: planned.measured,
        lower_bound: found.predicted.lower_bound,
        seed: global.seed,
        candidates: planned.history,
    };
    let text = format!("{found}\nwritten to {}\n", args.output.display());
    ui.result(&report, &text)?;
    Ok(Status::Done)
}
