//! The command line of Trimtab: all of the program but its `main`, so that tests can run it on a disk that fails
//! (`crates/faults`).

mod args;
mod commands;
mod dashboard;
mod interrupt;
mod live;
mod ui;

use std::process::ExitCode;

use clap::Parser;

use args::Cli;
use ui::Ui;

/// How a run that was not stopped ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// Done.
    Done,
    /// Done, but a stated condition was missed (budget, quality, verification).
    Missed,
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; clap prints either way.
            let code = if error.use_stderr() { 2 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    trimtab::floors::io::report_lost_pages();
    trimtab::system::watch_memory();
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !trimtab::floors::io::panic_becomes_error() {
            tell(panic);
        }
    }));
    let mut ui = Ui::new(&cli.global);
    match commands::run(&cli, &mut ui) {
        Ok(Status::Done) => ExitCode::SUCCESS,
        Ok(Status::Missed) => ExitCode::from(1),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            ui.error(&error);
            ExitCode::from(2)
        }
    }
}

/// Whether whoever read our output has gone: no failure of ours.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.map(std::io::Error::kind).any(|kind| kind == std::io::ErrorKind::BrokenPipe)
}
