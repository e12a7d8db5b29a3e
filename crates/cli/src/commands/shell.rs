//! `trimtab completions` and `trimtab man`: what shells and readers of manuals want to know of the command line.

use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;

use crate::Status;
use crate::args::{Cli, Completions, Man};
use crate::ui::Ui;

/// Writes a completion script to stdout.
pub fn completions(args: &Completions, ui: &mut Ui) -> anyhow::Result<Status> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "trimtab", &mut script);
    ui.stream(&String::from_utf8(script)?)?;
    Ok(Status::Done)
}

/// Writes `trimtab.1` and a page for each verb.
pub fn man(args: &Man, ui: &mut Ui) -> anyhow::Result<Status> {
    trimtab::floors::io::fs::create_dir_all(&args.output)
        .with_context(|| format!("cannot create {}", args.output.display()))?;
    let mut command = Cli::command();
    command.build();
    let mut pages = vec![page(&args.output, &command, "trimtab")?];
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        pages.push(page(&args.output, verb, &format!("trimtab-{}", verb.get_name()))?);
    }
    let text = format!("{}: {} pages\n", args.output.display(), pages.len());
    ui.result(&pages, &text)?;
    Ok(Status::Done)
}

fn page(folder: &Path, command: &clap::Command, name: &str) -> anyhow::Result<String> {
    let file = format!("{name}.1");
    let mut roff = Vec::new();
    clap_mangen::Man::new(command.clone()).title(name).render(&mut roff)?;
    let path = folder.join(&file);
    trimtab::floors::io::write_atomic(&path, &roff)?;
    Ok(file)
}
