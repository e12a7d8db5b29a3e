//! `trimtab correct`.

use trimtab::training::correct::{CorrectionLoss, CorrectionSettings, correct};

use crate::Status;
use crate::args::{Correct, CorrectionLossName, Global, ModelArg};
use crate::ui::{Ui, bytes, table};

pub fn run(args: &Correct, global: &Global, ui: &mut Ui) -> anyhow::Result<Status> {
    super::report::free(&args.output, args.force)?;
    let quantized = super::open(&args.model, global, ui)?;
    let like = ModelArg { model: args.like.clone(), spec: args.model.spec.clone() };
    let original = super::open(&like, global, ui)?;
    let settings = CorrectionSettings {
        text: args.text.clone(),
        window: args.window,
        windows: args.windows,
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        rank: args.rank,
        steps: args.steps,
        batch: args.batch,
        rate: args.rate,
        loss: match args.loss {
            CorrectionLossName::Kl => CorrectionLoss::Kl,
            CorrectionLossName::KlCe => CorrectionLoss::KlCe,
            CorrectionLossName::Ce => CorrectionLoss::Ce,
        },
        top_k: args.top_k,
        seed: global.seed,
    };
    let found = correct(&quantized, &original, &settings, (&args.output, args.force), ui)?;
    let memory = found.peak_anonymous_bytes.map_or("unknown".into(), bytes);
    let rows = [
        ("written to", format!("{}, {}", found.output.display(), bytes(found.bytes))),
        (
            "branches",
            format!(
                "{} of rank {} at most, {}: {:.3} bits per weight",
                found.sites,
                found.rank,
                bytes(found.branch_bytes),
                found.branch_bits
            ),
        ),
        ("trained", format!("{} steps on {} windows, {memory} of memory", found.steps, found.windows)),
        (
            "held-out loss",
            format!("{:.4} before, {:.4} after (nats a token)", found.heldout_before, found.heldout_after),
        ),
    ];
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|(name, value)| vec![name.to_string(), value]).collect();
    ui.result(&found, &table(&rows))?;
    Ok(Status::Done)
}
