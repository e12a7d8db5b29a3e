//! `trimtab apply`.

use std::path::PathBuf;

use trimtab::apply::{OutputSettings, apply};
use trimtab::calibration::Calibration;
use trimtab::floors::plan::{Plan, Selection};
use trimtab::inventory::Inventory;
use trimtab::planning::{assignment_of, read_plan};
use trimtab::report::{Recorder, Report, Verb};
use trimtab::scheme::Scheme;
use trimtab::treating::{Assignment, Job};

use super::{report, settings};
use crate::Status;
use crate::args::{self, Apply, Global};
use crate::ui::{Ui, bytes};

pub fn run(args: &Apply, global: &Global, ui: &mut Ui) -> anyhow::Result<Status> {
    let model = super::open(&args.model, global, ui)?;
    let file = PathBuf::from(&args.plan);
    let plan = file.exists().then(|| read_plan(&file)).transpose()?;
    let (inventory, assignment) = match &plan {
        Some(plan) => by_plan(plan, &model)?,
        None => by_scheme(args, &model)?,
    };
    let method = args.method.unwrap_or(args::Method::Gptq);
    let quantizer = settings::quantizer(&args.quantizer, method);
    let out = OutputSettings {
        output: args.output.clone(),
        form: settings::form(args.out.format),
        force: args.out.force,
    };
    let job = Job {
        model: &model,
        inventory: &inventory,
        assignment: &assignment,
        quantizer: &quantizer,
        form: out.form,
    };
    let treated: u64 = inventory.sites.iter().map(|s| assignment[&s.meta.name].bytes(&s.meta, s.dtype)).sum();
    let size = inventory.totals.file_bytes(treated);
    out.check(size)?;
    let settings = (method == args::Method::Gptq).then(|| settings::calibration(&args.calibration, global));
    let calibration = settings.as_ref().map(|settings| Calibration::load(&model, settings)).transpose()?;
    let prediction = trimtab::memory::predict(&job, calibration.as_ref());
    trimtab::monitor::Monitor::note(
        ui,
        &format!("predicted: {} on disk, {} of memory", bytes(size), bytes(prediction.total())),
    );
    if args.out.dry_run {
        ui.result(&prediction, "nothing was written (--dry-run)\n")?;
        return Ok(Status::Done);
    }
    let page = report::planned(&args.report, Some(&out.output), out.force)?;
    let mut recorder = Recorder::new(ui, "writing");
    let mut report = Report::begin(Verb::Apply, &model, &inventory, &assignment)?;
    if let Some(plan) = &plan {
        report.add_plan(plan, None)?;
    }
    report.calibration = calibration.as_ref().map(|calibration| calibration.description.clone());
    report.peak_anonymous_bytes_predicted = Some(prediction.total());
    let applied =
        apply(job, calibration.as_ref().zip(settings.as_ref()), plan.as_ref(), &out, &mut recorder)?;
    report.add_applied(&applied);
    report.end(recorder);
    let read = [
        ("specification", args.model.spec.as_ref()),
        ("plan", plan.as_ref().map(|_| &file)),
        ("calibration", args.calibration.calibration.as_ref().filter(|_| method == args::Method::Gptq)),
    ];
    report::note_inputs(&mut report, &read)?;
    report::note_quantizer(&mut report, &args.quantizer, method);
    report::note_global(&mut report, Some(args.out.format), global);
    report::write(&mut report, page.as_deref(), ui)?;
    ui.result(&report, &report.summary())?;
    Ok(Status::Done)
}

fn by_plan(plan: &Plan, model: &trimtab::floors::models::Model) -> anyhow::Result<(Inventory, Assignment)> {
    // The sites of the plan, and no others, are treated.
    let include = plan.prices.sites.iter().map(|site| trimtab::inventory::literal(&site.site)).collect();
    let inventory = Inventory::take(model, &Selection { include, ..Selection::default() })?;
    let assignment = assignment_of(plan, model, &inventory)?;
    Ok((inventory, assignment))
}

fn by_scheme(
    args: &Apply,
    model: &trimtab::floors::models::Model,
) -> anyhow::Result<(Inventory, Assignment)> {
    let scheme: Scheme = args
        .plan
        .parse()
        .map_err(|error| anyhow::anyhow!("\"{}\" is neither a plan file nor a scheme\n{error}", args.plan))?;
    let selection =
        Selection { include: args.include.clone(), exclude: args.exclude.clone(), pins: Vec::new() };
    let inventory = Inventory::take(model, &selection)?;
    let assignment = inventory.sites.iter().map(|site| (site.meta.name.clone(), scheme)).collect();
    Ok((inventory, assignment))
}
