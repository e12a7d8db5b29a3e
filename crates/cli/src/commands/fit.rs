//! `trimtab fit`.

use trimtab::apply::OutputSettings;
use trimtab::calibration::window_of;
use trimtab::fit::{FitReport, FitSettings, Row, default_output, fit};
use trimtab::floors::io::{ImageSet, read_pairs, read_text};
use trimtab::floors::models::Model;
use trimtab::judge::Judge;
use trimtab::planning::{PlanningSettings, Prepared, prepare};

use super::settings;
use crate::Status;
use crate::args::{Fit, Global, Method};
use crate::ui::{Ui, bytes, seconds, table};

pub fn run(args: &Fit, global: &Global, ui: &mut Ui) -> anyhow::Result<Status> {
    let model = super::open_to_treat(&args.model, global, ui)?;
    let quantizer = settings::quantizer(&args.quantizer, Method::Gptq);
    let calibration = settings::calibration(&args.calibration, global);
    let planning = settings::planning(&args.budget, &args.planning, calibration, quantizer, args.out.format)?;
    if args.out.dry_run {
        let prepared = prepare(&model, &planning)?;
        let text = outlook(&model, &prepared, &planning);
        ui.result(&text, &text)?;
        return Ok(Status::Done);
    }
    let output = match &args.output {
        Some(path) => path.clone(),
        None => default_output(&args.model.model, &args.budget)?,
    };
    let output = OutputSettings { output, form: planning.choices.form, force: args.out.force };
    let judge = judge(args, &model)?;
    let report = fit(&model, &FitSettings { planning, output, judge, spec: args.model.spec.clone() }, ui)?;
    ui.result(&report, &summary(&report))?;
    Ok(if report.within_budget { Status::Done } else { Status::Missed })
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
        "{}: {} sites with {} weights, {} options\n{}file now {}, of which {} are not treated\nbudget {}: {}\n\
         nothing was written (--dry-run)\n",
        model.checkpoint().path().display(),
        prepared.inventory.sites.len(),
        totals.treated_weights,
        options,
        prepared.caution().map_or(String::new(), |caution| format!("{caution}\n")),
        bytes(totals.file_bytes_original),
        bytes(totals.file_bytes_fixed),
        planning.budget,
        prepared.limits.describe(),
    )
}

fn summary(report: &FitReport) -> String {
    let mut rows = vec![header(&report.rows)];
    rows.extend(report.rows.iter().map(row));
    let measured = report.damage_measured.map_or(String::new(), |d| format!(", {d:.5} measured"));
    format!(
        "\n{}\n{}: {}, {:.3} bits per weight (budget {})\ndamage on calibration data: {:.5} predicted{measured}\n{}, {} of memory\n",
        table(&rows),
        report.output.display(),
        bytes(report.bytes),
        report.bits_per_weight,
        report.budget,
        report.damage_predicted,
        seconds(std::time::Duration::from_secs_f64(report.seconds)),
        report.peak_memory_bytes.map_or("unknown amount".into(), bytes),
    )
}

fn header(rows: &[Row]) -> Vec<String> {
    let mut header = vec!["".to_string(), "file".into(), "bits/weight".into()];
    let any = |f: fn(&Row) -> bool| rows.iter().any(f);
    header.extend(any(|r| r.quality.kl.is_some()).then(|| "KL".to_string()));
    header.extend(any(|r| r.quality.embedding_distance.is_some()).then(|| "1 - cos".to_string()));
    header.extend(any(|r| r.quality.same_top1.is_some()).then(|| "same top 1".to_string()));
    header.extend(any(|r| r.quality.perplexity.is_some()).then(|| "perplexity".to_string()));
    header.extend(any(|r| r.quality.spearman.is_some()).then(|| "spearman".to_string()));
    header.extend(any(|r| r.quality.accuracy.is_some()).then(|| "accuracy".to_string()));
    header
}

fn row(row: &Row) -> Vec<String> {
    let quality = &row.quality;
    let mut cells = vec![row.name.clone(), bytes(row.bytes), format!("{:.3}", row.bits_per_weight)];
    let original = row.name == "original";
    let mut distance = |value: Option<f64>, text: fn(f64) -> String| match value {
        Some(value) => cells.push(text(value)),
        None if original => cells.push("0".into()),
        None => {}
    };
    match (quality.spearman, quality.accuracy) {
        (Some(_), _) => distance(quality.embedding_distance, |v| format!("{v:.5}")),
        (None, Some(_)) => distance(quality.kl, |v| format!("{v:.5}")),
        _ => {
            distance(quality.kl, |v| format!("{v:.5}"));
            distance(quality.same_top1, |v| format!("{:.1} %", 100.0 * v));
        }
    }
    cells.extend(quality.perplexity.map(|v| format!("{v:.3}")));
    cells.extend(quality.spearman.map(|v| format!("{v:.2}")));
    cells.extend(quality.accuracy.map(|v| format!("{v:.2} %")));
    cells
}
