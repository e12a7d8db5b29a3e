//! `trimtab plan`.

use anyhow::{Context, bail};
use trimtab::calibration::Calibration;
use trimtab::fit::write_plan;
use trimtab::memory;
use trimtab::monitor::Monitor;
use trimtab::planning::{assignment_of, plan, prepare, read_plan};
use trimtab::report::{Recorder, Report, Verb};

use super::{report, settings};
use crate::Status;
use crate::args::{Global, Plan, QuantizerArgs};
use crate::ui::Ui;

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
        let over = limits.and_then(|limits| Some((limits.exceeded_by(&plan.predicted.costs)?, limits)));
        ui.result(&plan.predicted.damage, &plan.to_string())?;
        return Ok(match over {
            Some((resource, limits)) => {
                ui.warn(&format!("more {resource} than the budget {} allows", limits.describe()));
                Status::Missed
            }
            None => Status::Done,
        });
    }
    let budget = args.budget.as_deref().context("--budget is missing")?;
    if args.output.exists() && !args.force && !args.dry_run {
        bail!(
            "{} already exists\nhint: choose another -o, or replace it with --force",
            args.output.display()
        );
    }
    let model = super::open_to_treat(&args.model, global, ui)?;
    let composition = settings::composition(&args.planning, global.seed);
    let (base, flags) = (settings::composed(&composition), QuantizerArgs::default());
    let quantizer = settings::quantizer(base, &flags, &args.importance, &args.planning.branch, global.seed)?;
    let calibration = settings::calibration(&args.calibration, global);
    let asked =
        settings::planning(Some(budget), &args.planning, &composition, calibration, quantizer, args.format)?;
    let prepared = prepare(&model, &asked)?;
    if args.dry_run {
        let text = super::fit::outlook(&model, &prepared, &asked);
        ui.result(&text, &text)?;
        return Ok(Status::Done);
    }
    let page = report::planned(&args.report, None, args.force)?;
    let mut recorder = Recorder::new(ui, "planning");
    let calibration = Calibration::load_with(&model, &asked.calibration, &mut recorder)?;
    memory::check(&memory::predict(&model, &prepared.inventory, Some(&calibration), &asked.quantizer))?;
    let planned = plan(&model, &prepared, &calibration, &asked, None, &mut recorder)
        .map_err(|error| error.interrupted(None))?;
    let found = &planned.plan;
    let assignment = assignment_of(found, &model, &prepared.inventory)?;
    let mut report = Report::begin(Verb::Plan, &model, &prepared.inventory, &assignment)?;
    report.add_plan(found, Some(&planned.record))?;
    report.output = args.output.clone();
    report.end(recorder);
    let read =
        [("specification", args.model.spec.as_ref()), ("calibration", args.calibration.calibration.as_ref())];
    report::note_inputs(&mut report, &read)?;
    report::note_planning(&mut report, &args.planning, &composition);
    report::note_quantizer(&mut report, &quantizer);
    report::note_global(&mut report, args.format, global);
    // Last: until it is there, the same command makes it.
    write_plan(found, &args.output)?;
    report::write(&mut report, page.as_deref(), ui)?;
    ui.result(&report, &format!("{found}\n\n{}", report.summary()))?;
    Ok(Status::Done)
}
