//! What is not about one model.

use std::path::PathBuf;

use clap::Args;

/// `trimtab report`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  trimtab report out/                          the summary of the run that wrote out/\n  \
trimtab report out/ -o report.html           its page again\n  \
trimtab report plan.report.json --json | jq '.sites[0]'\n\n\
fit and apply write OUT.report.html and OUT.report.json beside OUT, not into it: times and memory differ from run to\n\
run, the files of OUT do not."
)]
pub struct Report {
    /// The output of a run, or a report in JSON.
    pub run: PathBuf,
    /// The page to write: one file that needs no other.
    #[arg(short, long, value_name = "FILE.html")]
    pub output: Option<PathBuf>,
    /// Replace an existing page.
    #[arg(long)]
    pub force: bool,
}

/// `trimtab bench`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  trimtab bench\n  trimtab bench packed gptq --json")]
pub struct Bench {
    /// memory, packed, integers, dense, gptq, eora, decoupleq [default: all].
    pub kernels: Vec<String>,
    /// A problem for eora (safetensors: error `[out, in]`, moment `[in, in]`) instead of a random one.
    #[arg(long, value_name = "FILE")]
    pub problem: Option<PathBuf>,
}

/// `trimtab completions`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  trimtab completions bash > ~/.local/share/bash-completion/completions/trimtab\n  \
trimtab completions zsh > ~/.zfunc/_trimtab"
)]
pub struct Completions {
    /// The shell.
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `trimtab man`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  trimtab man -o ~/.local/share/man/man1")]
pub struct Man {
    /// The folder that the pages go to.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
}
