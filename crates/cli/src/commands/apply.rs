//! `trimtab apply`.

use std::path::PathBuf;

use anyhow::bail;
use trimtab::apply::{OutputSettings, apply};
use trimtab::calibration::Calibration;
use trimtab::choice::Choice;
use trimtab::floors::mend::eora::Variant;
use trimtab::floors::models::Model;
use trimtab::floors::plan::{Plan, Selection};
use trimtab::form::Form;
use trimtab::inventory::{Inventory, TreatedSite};
use trimtab::planning::{assignment_of, read_plan};
use trimtab::quantizer::{Method, Quantizer};
use trimtab::report::{Recorder, Report, Verb};
use trimtab::scheme::Scheme;
use trimtab::switching::switch;
use trimtab::treating::{Assignment, Job};

use super::{report, settings};
use crate::Status;
use crate::args::{Apply, Format, Global};
use crate::ui::{Ui, bytes, table};

pub fn run(args: &Apply, global: &Global, ui: &mut Ui) -> anyhow::Result<Status> {
    if let Some(bits) = args.bits {
        return switched(args, bits, ui);
    }
    let model = super::open_to_treat(&args.model, global, ui)?;
    let file = PathBuf::from(&args.plan);
    let plan = file.exists().then(|| read_plan(&file)).transpose()?;
    if plan.is_some() && args.eora_rank.is_some() {
        bail!("--eora-rank: the plan says which site gets which branch\nhint: plan with --eora-ranks");
    }
    let (mut inventory, assignment, form) = match &plan {
        Some(plan) => by_plan(plan, &model, args.out.format)?,
        None => by_scheme(args, &model)?,
    };
    let real = assignment.values().any(|choice| matches!(choice.scheme, Scheme::Real(_)));
    let usual = if real { Method::Decoupleq } else { Method::Gptq };
    let planned = plan.as_ref().map(|plan| Quantizer::from_settings(&plan.header.quantizer, global.seed));
    let base = planned.transpose()?.flatten().unwrap_or(Quantizer { method: usual, ..Quantizer::default() });
    let method = args.method.map_or(base.method, settings::method);
    let activations = settings::activations(&args.activations, global.seed)?;
    if let Some(activations) = &activations {
        activations.check(form, &inventory.sites)?;
        inventory.totals.file_bytes_fixed += activations.bytes(&inventory.sites);
    }
    let base = Quantizer { method, activations, ..base };
    let quantizer = settings::quantizer(base, &args.quantizer, &args.importance, &args.branch, global.seed)?;
    let out = OutputSettings { output: args.output.clone(), form, force: args.out.force };
    let job = Job {
        model: &model,
        inventory: &inventory,
        assignment: &assignment,
        quantizer: &quantizer,
        form: out.form,
    };
    let treated: u64 = inventory.sites.iter().map(|s| assignment[&s.meta.name].cost(&s.meta, s.dtype)).sum();
    let size = inventory.totals.file_bytes(treated);
    out.check(size)?;
    // Round-to-nearest and NormalFloat codes need no data; most branches do, and ranges of activations.
    let needs = |choice: &Choice| {
        let codes = !matches!(choice.scheme, Scheme::NormalFloat(_)) && method != Method::Rtn;
        codes || (choice.rank > 0 && quantizer.branches != Variant::Svd)
    };
    let observe = assignment.values().any(needs)
        || activations.is_some_and(|activations| activations.needs_data())
        || quantizer.tunes_vectors();
    let settings = observe.then(|| settings::calibration(&args.calibration, global));
    let calibration =
        settings.as_ref().map(|settings| Calibration::load_with(&model, settings, ui)).transpose()?;
    let prediction = trimtab::memory::predict(&model, &inventory, calibration.as_ref(), &quantizer);
    trimtab::memory::check(&prediction)?;
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
    let (applied, finished) =
        apply(job, calibration.as_ref().zip(settings.as_ref()), plan.as_ref(), &out, &mut recorder)?;
    report.add_applied(&applied);
    report.end(recorder);
    let read = [
        ("specification", args.model.spec.as_ref()),
        ("plan", plan.as_ref().map(|_| &file)),
        ("calibration", args.calibration.calibration.as_ref().filter(|_| observe)),
    ];
    report::note_inputs(&mut report, &read)?;
    report::note_quantizer(&mut report, &quantizer);
    report::note_activations(&mut report, &args.activations);
    report::note_global(&mut report, args.out.format, global);
    report::write(&mut report, page.as_deref(), ui)?;
    finished.clear()?;
    ui.result(&report, &report.summary())?;
    Ok(Status::Done)
}

/// One width of a switchable model.
fn switched(args: &Apply, bits: u8, ui: &mut Ui) -> anyhow::Result<Status> {
    // The only positional argument is the model; what stands in its place otherwise is the default.
    if args.model.model != "@pico" || args.out.dry_run || args.out.format.is_some() {
        bail!("--bits takes one width out of a model: give that model, --output, and --force if need be");
    }
    let switched = switch(&PathBuf::from(&args.plan), bits, &args.output, args.out.force)?;
    let rows = [
        ("written to", switched.output.display().to_string()),
        ("bits", switched.bits.to_string()),
        ("sites with such codes", switched.sites.to_string()),
        ("bytes", switched.bytes.to_string()),
    ];
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|(name, value)| vec![name.to_string(), value]).collect();
    ui.result(&switched, &table(&rows))?;
    Ok(Status::Done)
}

fn by_plan(
    plan: &Plan,
    model: &Model,
    format: Option<Format>,
) -> anyhow::Result<(Inventory, Assignment, Form)> {
    // The sites of the plan, and no others, are treated.
    let include = plan.prices.sites.iter().map(|site| trimtab::inventory::literal(&site.site)).collect();
    let selection = Selection { include, ..Selection::default() };
    let chosen = plan.prices.sites.iter().zip(&plan.choice);
    let choices = chosen.map(|(site, &i)| Choice::from_settings(&site.options[i].params));
    let choices: Vec<Choice> = choices.collect::<Result<_, _>>()?;
    let blocks =
        choices.into_iter().map(|choice| choice.scheme).find(|scheme| matches!(scheme, Scheme::Blocks(_)));
    let form = settings::form(format, None, blocks);
    let inventory = Inventory::take(model, &selection, form)?;
    let assignment = assignment_of(plan, model, &inventory)?;
    Ok((inventory, assignment, form))
}

fn by_scheme(args: &Apply, model: &Model) -> anyhow::Result<(Inventory, Assignment, Form)> {
    let mut choice: Choice = args
        .plan
        .parse()
        .map_err(|error| anyhow::anyhow!("\"{}\" is neither a plan file nor a scheme\n{error}", args.plan))?;
    if let Some(rank) = args.eora_rank {
        if choice.rank > 0 {
            bail!("--eora-rank: \"{choice}\" names a rank itself");
        }
        choice.rank = rank;
    }
    let selection =
        Selection { include: args.include.clone(), exclude: args.exclude.clone(), pins: Vec::new() };
    let form = settings::form(args.out.format, None, Some(choice.scheme));
    let inventory = Inventory::take(model, &selection, form)?;
    let bare = Choice::from(choice.scheme);
    let of = |site: &TreatedSite| match site.single && form == Form::Gguf {
        // What engines want in single precision stays so.
        true => Scheme::Dense.into(),
        // A site without data, or smaller than the rank, does without a branch; what holds none at all is refused later.
        false if form != Form::Gguf && choice.fits(site, form, None).is_err() => bare,
        false => choice,
    };
    let assignment: Assignment =
        inventory.sites.iter().map(|site| (site.meta.name.clone(), of(site))).collect();
    if choice.rank > 0 && assignment.values().all(|choice| choice.rank == 0) {
        let why = inventory.sites.first().and_then(|site| choice.fits(site, form, None).err());
        bail!("--eora-rank: no site takes \"{choice}\": {}", why.unwrap_or_default());
    }
    Ok((inventory, assignment, form))
}
