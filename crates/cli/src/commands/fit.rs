//! `trimtab fit`.

use trimtab::apply::OutputSettings;
use trimtab::calibration::window_of;
use trimtab::fit::{FitSettings, default_output, fit};
use trimtab::floors::io::{ImageSet, read_pairs, read_text};
use trimtab::floors::models::Model;
use trimtab::judge::Judge;
use trimtab::planning::{PlanningSettings, Prepared, prepare};
use trimtab::quality::Target;
use trimtab::quantizer::Quantizer;

use super::{report, settings};
use crate::Status;
use crate::args::{Fit, Global};
use crate::ui::{Ui, bytes};

pub fn run(args: &Fit, global: &Global, ui: &mut Ui) -> anyhow::Result<Status> {
    let model = super::open_to_treat(&args.model, global, ui)?;
    let composition = settings::composition(&args.planning, global.seed);
    let activations = settings::activations(&args.activations, global.seed)?;
    let base = Quantizer { activations, ..settings::composed(&composition) };
    let branch = &args.planning.branch;
    let quantizer = settings::quantizer(base, &args.quantizer, &args.importance, branch, global.seed)?;
    let calibration = settings::calibration(&args.calibration, global);
    let target: Option<Target> = args.quality.as_deref().map(str::parse).transpose()?;
    let budget = args.budget.as_deref().or(target.is_none().then_some("3.0bpw"));
    let planning =
        settings::planning(budget, &args.planning, &composition, calibration, quantizer, args.out.format)?;
    if let Some(activations) = &quantizer.activations {
        activations.check(planning.choices.form, &prepare(&model, &planning)?.inventory.sites)?;
    }
    if args.out.dry_run {
        let prepared = prepare(&model, &planning)?;
        let text = outlook(&model, &prepared, &planning);
        ui.result(&text, &text)?;
        return Ok(Status::Done);
    }
    let output = match &args.output {
        Some(path) => path.clone(),
        None => {
            let asked: Vec<&str> = args.quality.as_deref().into_iter().chain(budget).collect();
            default_output(&args.model.model, &asked.join("-"))?
        }
    };
    let output = OutputSettings { output, form: planning.choices.form, force: args.out.force };
    output.check(0)?;
    let page = report::planned(&args.report, Some(&output.output), args.out.force)?;
    let judge = judge(args, &model)?;
    let spec = args.model.spec.clone();
    let (mut report, finished) = fit(&model, &FitSettings { planning, output, judge, target, spec }, ui)?;
    let judged_on = args.text.as_ref().or(args.pairs.as_ref()).or(args.images.as_ref());
    if let Some(path) = judged_on {
        report.judged_on = Some(path.display().to_string());
    }
    let read = [
        ("specification", args.model.spec.as_ref()),
        ("calibration", args.calibration.calibration.as_ref()),
        ("proof", judged_on),
    ];
    report::note_inputs(&mut report, &read)?;
    report::note_planning(&mut report, &args.planning, &composition);
    report::note_quantizer(&mut report, &quantizer);
    report::note_activations(&mut report, &args.activations);
    report::note_global(&mut report, args.out.format, global);
    report::write(&mut report, page.as_deref(), ui)?;
    finished.clear()?;
    ui.result(&report, &report.summary())?;
    Ok(if report.kept() { Status::Done } else { Status::Missed })
}

fn judge(args: &Fit, model: &Model) -> anyhow::Result<Option<Judge>> {
    if let Some(path) = &args.text {
        let tokens = model.tokenizer()?.encode(&read_text(path)?, false)?;
        let window = window_of(model, args.calibration.window);
        return Ok(Some(Judge::Text { tokens, window, stride: window, limit: usize::MAX }));
    }
    if let Some(path) = &args.pairs {
        return Ok(Some(Judge::pairs(model, &read_pairs(path)?)?));
    }
    match &args.images {
        Some(path) => Ok(Some(Judge::Images { set: ImageSet::read(path, "test")? })),
        None => Ok(None),
    }
}

/// What would be done, without doing it.
pub fn outlook(model: &Model, prepared: &Prepared, planning: &PlanningSettings) -> String {
    let totals = &prepared.inventory.totals;
    let options: usize = prepared.prices.sites.iter().map(|site| site.options.len()).sum();
    format!(
        "{}: {} sites with {} weights, {} options\n{}file now {}, of which {} are not treated\nbudget {}{}\n\
         nothing was written (--dry-run)\n",
        model.checkpoint().path().display(),
        prepared.inventory.sites.len(),
        totals.treated_weights,
        options,
        prepared.caution().map_or(String::new(), |caution| format!("{caution}\n")),
        bytes(totals.file_bytes_original),
        bytes(totals.file_bytes_fixed),
        planning.budget.as_ref().map_or("none".into(), ToString::to_string),
        prepared.limits.bytes.map_or(String::new(), |most| format!(": at most {} in the sites", bytes(most))),
    )
}
