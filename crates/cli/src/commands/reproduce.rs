//! `trimtab reproduce`.

use anyhow::bail;

use crate::Status;
use crate::args::Reproduce;
use crate::ui::{Ui, table};

pub fn run(args: &Reproduce, ui: &mut Ui) -> anyhow::Result<Status> {
    let all = trimtab_repro::registry::all();
    let named =
        |paper: &String| all.iter().position(|row| row.name == paper || row.number.to_string() == *paper);
    if let Some(unknown) = args.papers.iter().find(|paper| named(paper).is_none()) {
        bail!("no paper is called \"{unknown}\"\nhint: `trimtab reproduce --list` shows all");
    }
    if !args.list {
        bail!("no paper has an experiment yet\nhint: `trimtab reproduce --list` shows what stands where");
    }
    let mut rows = vec![vec!["no".to_string(), "name".into(), "family".into(), "verdict".into()]];
    rows.extend(all.iter().map(|row| {
        vec![row.number.to_string(), row.name.to_string(), row.family.to_string(), row.verdict.to_string()]
    }));
    ui.result(&all, &table(&rows))?;
    Ok(Status::Done)
}
