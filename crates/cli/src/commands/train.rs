//! `trimtab train`.

use std::path::Path;

use trimtab::floors::io::read_text;
use trimtab::training::{Recipe, train};

use crate::Status;
use crate::args::{Global, Train};
use crate::ui::{Ui, table};

pub fn run(args: &Train, global: &Global, ui: &mut Ui) -> anyhow::Result<Status> {
    let mut recipe = Recipe::parse(&read_text(&args.recipe)?, &args.recipe.display().to_string())?;
    let base = args.recipe.parent().unwrap_or(Path::new("."));
    if let Some(path) = &args.data {
        recipe.read_data_from(std::path::absolute(path)?)?;
    }
    let device = super::device(global.device);
    let summary = train(&recipe, base, &args.output, args.force, &device, ui)?;
    let rows = [
        ("written to", Some(summary.output.display().to_string())),
        ("parameters", Some(summary.params.to_string())),
        ("steps", Some(summary.steps.to_string())),
        ("training tokens", summary.tokens.map(|n| n.to_string())),
        ("training images", summary.tokens.is_none().then(|| summary.items.to_string())),
        ("held-out loss", summary.tokens.is_none().then(|| format!("{:.4}", summary.heldout_loss))),
        ("held-out accuracy", summary.accuracy.map(|share| format!("{:.2} %", 100.0 * share))),
        ("held-out perplexity", summary.perplexity.map(|perplexity| format!("{perplexity:.3}"))),
    ];
    let rows: Vec<Vec<String>> =
        rows.into_iter().filter_map(|(name, value)| Some(vec![name.to_string(), value?])).collect();
    ui.result(&summary, &table(&rows))?;
    Ok(Status::Done)
}
