//! `trimtab inspect`.

use crate::Status;
use crate::args::{Global, Inspect};
use crate::ui::{Ui, bytes, table};

pub fn run(args: &Inspect, global: &Global, ui: &mut Ui) -> anyhow::Result<Status> {
    let model = super::open(&args.model, global)?;
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
        "{}: {}, {} parameters in {} sites and what is between them, {}{}\n\n{}",
        facts.model,
        facts.task,
        facts.params,
        facts.sites.len(),
        bytes(facts.bytes),
        if facts.tied { ", tied head" } else { "" },
        table(&rows)
    );
    ui.result(&facts, &text)?;
    Ok(Status::Done)
}
