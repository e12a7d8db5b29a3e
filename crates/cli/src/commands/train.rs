//! `trimtab train`.

use std::path::Path;

use trimtab::floors::io::read_text;
use trimtab::training::{Recipe, train};

use crate::Status;
use crate::args::{Global, Train};
use crate::ui::{Ui, table};

pub fn run(args: &Train, global: &Global, ui: &mut Ui) -> anyhow::Result<Status> {
    let recipe = Recipe::parse(&read_text(&args.recipe)?, &args.recipe.display().to_string())?;
    let base = args.recipe.parent().unwrap_or(Path::new("."));
    let device = super::device(global.device);
    let summary = train(&recipe, base, &args.output, args.force, &device, ui)?;
    let rows = vec![
        vec!["written to".to_string(), summary.output.display().to_string()],
        vec!["parameters".into(), summary.params.to_string()],
        vec!["steps".into(), summary.steps.to_string()],
        vec!["training tokens".into(), summary.tokens.to_string()],
        vec!["held-out perplexity".into(), format!("{:.3}", summary.heldout_loss.exp())],
    ];
    ui.result(&summary, &table(&rows))?;
    Ok(Status::Done)
}
