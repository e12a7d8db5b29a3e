//! `trimtab reproduce`.

use std::sync::Mutex;

use anyhow::bail;
use trimtab::floors::io::write_atomic;
use trimtab::monitor::Monitor;
use trimtab_repro::{Lab, Reproduction, Scale, papers, registry};

use crate::Status;
use crate::args::Reproduce;
use crate::ui::{Ui, table};

pub fn run(args: &Reproduce, ui: &mut Ui) -> anyhow::Result<Status> {
    if args.list || args.papers.is_empty() {
        return list(args, ui);
    }
    let mut asked = Vec::new();
    for paper in &args.papers {
        let paper = papers::find(paper)?;
        let Some(experiment) = registry::experiment(paper.number) else {
            bail!(
                "{} (paper {}) has no experiment yet\nhint: `trimtab reproduce --list` shows what stands where",
                paper.name,
                paper.number
            );
        };
        asked.push((paper, experiment));
    }
    if let Some(page) = &args.output {
        if asked.len() > 1 {
            bail!("-o takes the report of one paper, {} were asked for", asked.len());
        }
        super::report::free(page, args.force)?;
    }
    let scale = if args.quick { Scale::Quick } else { Scale::Full };
    let data = args.data.clone().or_else(|| std::env::var_os("TRIMTAB_DATA").map(Into::into));
    let mut done = Vec::new();
    for (paper, experiment) in asked {
        ui.begin(paper.name, 0);
        let shared = Mutex::new(&mut *ui);
        let tell = |what: &str| shared.lock().expect("nobody panics here").note(what);
        let stop = || shared.lock().expect("nobody panics here").interrupted();
        done.push(Reproduction::run(experiment, scale, &Lab::new(data.as_deref(), &tell, &stop))?);
    }
    if let (Some(page), [one]) = (&args.output, &done[..]) {
        write_atomic(page, one.to_html()?.as_bytes())?;
        ui.note(&format!("report: {}", page.display()));
    }
    let text: Vec<String> = done.iter().map(Reproduction::summary).collect();
    ui.result(&done, &text.join("\n"))?;
    Ok(if done.iter().all(Reproduction::holds) { Status::Done } else { Status::Missed })
}

fn list(args: &Reproduce, ui: &mut Ui) -> anyhow::Result<Status> {
    let wanted = args.papers.iter().map(|paper| papers::find(paper)).collect::<Result<Vec<_>, _>>()?;
    let mut all = registry::all();
    all.retain(|row| wanted.is_empty() || wanted.iter().any(|paper| paper.number == row.number));
    let mut rows = vec![vec!["no".to_string(), "name".into(), "family".into(), "verdict".into()]];
    rows.extend(all.iter().map(|row| {
        vec![row.number.to_string(), row.name.to_string(), row.family.to_string(), row.verdict.to_string()]
    }));
    ui.result(&all, &table(&rows))?;
    Ok(Status::Done)
}
