//! `trimtab inspect`.

use std::path::Path;

use anyhow::Context;
use trimtab::floors::io::Checkpoint;
use trimtab::floors::models::spec::propose_spec;

use crate::Status;
use crate::args::{Global, Inspect};
use crate::ui::{Ui, bytes, table};

pub fn run(args: &Inspect, global: &Global, ui: &mut Ui) -> anyhow::Result<Status> {
    if args.propose_spec {
        return propose(&super::local(&args.model.model, ui)?, ui);
    }
    let model = super::open(&args.model, global, ui)?;
    let facts = trimtab::inspect::inspect(&model, args.rank, ui)?;
    let mut rows = vec![vec![
        "site".to_string(),
        "shape".into(),
        "type".into(),
        "params".into(),
        "rms".into(),
        "max/rms".into(),
    ]];
    if args.rank {
        rows[0].push("eff. rank".into());
    }
    for site in &facts.sites {
        let mut row = vec![
            site.site.clone(),
            format!("{} x {}", site.shape[0], site.shape[1]),
            site.dtype.clone(),
            site.params.to_string(),
            format!("{:.4}", site.rms),
            format!("{:.1}", site.outlier),
        ];
        row.extend(site.effective_rank.map(|rank| format!("{rank:.1}")));
        rows.push(row);
    }
    let text = format!(
        "{}: {}, {} parameters in {} sites and what is between them, {}{}\n{}\n{}",
        facts.model,
        facts.task,
        facts.params,
        facts.sites.len(),
        bytes(facts.bytes),
        if facts.tied { ", tied head" } else { "" },
        match facts.unread.as_slice() {
            [] => String::new(),
            [one] => format!("{one} is read by nothing; it is copied as it is\n"),
            [first, .., last] => format!(
                "{} tensors are read by nothing and copied as they are:\n  {first}\n  to {last}\n",
                facts.unread.len()
            ),
        },
        table(&rows)
    );
    ui.result(&facts, &text)?;
    Ok(Status::Done)
}

/// A guess at a specification for a model that no family fits.
fn propose(path: &str, ui: &mut Ui) -> anyhow::Result<Status> {
    let checkpoint = Checkpoint::open(Path::new(path))?;
    let config = checkpoint.config().with_context(|| {
        format!("{path}: there is no config.json\nhint: a specification names the fields of one")
    })?;
    let shapes = checkpoint
        .names()
        .map(|name| Ok((name.to_string(), checkpoint.require(name)?.shape.clone())))
        .collect::<Result<Vec<_>, trimtab::floors::io::Error>>()?;
    let text = propose_spec(config, &shapes);
    ui.result(&text, &text)?;
    Ok(Status::Done)
}
