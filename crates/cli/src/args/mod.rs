//! What can be typed.

mod activations;
mod fit;
mod models;
mod tools;
mod train;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use activations::{ActivationArgs, ClipSearchName, RangeName};
pub use fit::{
    Apply, BranchArgs, BranchName, CalibrationArgs, EffortName, Fit, ImportanceArgs, ImportanceName, Method,
    Metric, Plan, PlanningArgs, QuantizerArgs, Range, ReportArgs,
};
pub use models::{
    Convert, DtypeName, EngineName, Eval, Format, Generate, Inspect, Rewrite, RotationName, Verify,
};
pub use tools::{Bench, Completions, Man, Report};
pub use train::{Correct, CorrectionLossName, Distil, Reproduce, Train};

/// Fits a neural network to a budget: measures what each layer can bear, plans, quantizes, proves what that cost.
#[derive(Debug, Parser)]
#[command(name = "trimtab", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "MODEL is a Hugging Face directory, a safetensors, GGUF or PyTorch file, BASE+ADAPTER,\n\
OWNER/NAME[@REVISION] on the hub, or @pico (embedded; the default).\n\n\
Examples:\n  trimtab fit                                   fit the embedded model to 3 bits per weight\n  \
trimtab fit model/ --budget 3.5bpw --calibration notes.txt -o out/\n  trimtab inspect model/\n\n\
Exit codes: 0 done, 1 done but a stated condition was missed, 2 stopped by an error."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// What holds for every verb.
    #[command(flatten)]
    pub global: Global,
}

/// Flags of every verb.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Where to compute.
    #[arg(long, global = true, value_enum, default_value_t = DeviceName::Cpu, help_heading = "Everywhere")]
    pub device: DeviceName,
    /// Seed of every random choice.
    #[arg(long, global = true, default_value_t = 0, help_heading = "Everywhere")]
    pub seed: u64,
    /// Threads (0: one a core).
    #[arg(long, global = true, default_value_t = 0, help_heading = "Everywhere")]
    pub threads: usize,
    /// Print one JSON document on stdout.
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// Say nothing but the result.
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Everywhere")]
    pub quiet: bool,
    /// Say more; with --json, tell of the progress in JSON lines on stderr.
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    pub verbose: bool,
}

/// Devices that this program was built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceName {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda,
    /// An AMD GPU.
    #[cfg(feature = "rocm")]
    Rocm,
    /// An Apple GPU.
    #[cfg(feature = "metal")]
    Metal,
    /// Any GPU by Vulkan.
    #[cfg(feature = "vulkan")]
    Vulkan,
    /// Any GPU by WebGPU.
    #[cfg(feature = "wgpu")]
    Wgpu,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show the sites of a model: shape, type, weights, norm, outliers, effective rank.
    Inspect(Inspect),
    /// Measure how good a model is, or how far it is from another.
    Eval(Eval),
    /// Price every option of every site and plan within a budget.
    Plan(Plan),
    /// Treat a model by a plan and write it.
    Apply(Apply),
    /// Plan, apply and prove, in one run.
    Fit(Fit),
    /// Rewrite the weights of a model so that its function stays: fold, centre, rotate, scale.
    Rewrite(Rewrite),
    /// Write the same model in another file format.
    Convert(Convert),
    /// Check a written model by the rules of the engine that is to run it.
    Verify(Verify),
    /// Continue a text.
    Generate(Generate),
    /// Train a model by a recipe.
    Train(Train),
    /// Train branches beside the codes of a model until it answers as the original does.
    Correct(Correct),
    /// Make a small data set from a trained classifier of images.
    Distil(Distil),
    /// Show the experiments on the papers whose methods are built in.
    Reproduce(Reproduce),
    /// Show the report of an earlier run, or make its page again.
    Report(Report),
    /// Measure the kernels on this machine.
    Bench(Bench),
    /// Print a script that completes this command line in a shell.
    Completions(Completions),
    /// Write manual pages.
    Man(Man),
}

/// A model and how to read it.
#[derive(Clone, Debug, Args)]
pub struct ModelArg {
    /// Directory, safetensors, GGUF or PyTorch file, BASE+ADAPTER, OWNER/NAME[@REVISION] on the hub, or @pico.
    #[arg(default_value = "@pico")]
    pub model: String,
    /// A model specification (TOML) for a family that is not built in.
    #[arg(long, value_name = "FILE")]
    pub spec: Option<PathBuf>,
}
