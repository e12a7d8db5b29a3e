//! Training, and what is made by it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ModelArg;

/// `trimtab train`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  trimtab train recipes/pico.toml -o pico/\n  \
    trimtab train recipes/resnet20_cifar10.toml --data cifar10.safetensors -o resnet20/\n\n\
    Every step is a line in OUT.metrics.jsonl, beside the output.\n\
    A run that was interrupted goes on where it stopped when the same command is given again.")]
pub struct Train {
    /// The recipe (TOML).
    pub recipe: PathBuf,
    /// Take the data from here instead of from where the recipe says.
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Where the model goes.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Replace an existing output.
    #[arg(long)]
    pub force: bool,
}

/// `trimtab correct`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  trimtab correct int2/ --like model/ --text notes.txt --rank 16 -o int2-corrected/\n  \
    trimtab correct gptq/ --like model/ --text notes.txt --steps 1000 -o corrected/\n  \
    trimtab convert corrected/ --to gptq --adapter lora/ -o base/      (for PEFT)\n\n\
    Every step is a line in OUT.metrics.jsonl, beside the output.\n\
    A run that was interrupted goes on where it stopped when the same command is given again."
)]
pub struct Correct {
    /// The quantized model, with branches or without.
    #[command(flatten)]
    pub model: ModelArg,
    /// The model before it was quantized.
    #[arg(long, value_name = "MODEL")]
    pub like: String,
    /// A text to train on, any text. Without it, stories of the built-in grammar.
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Where the model goes.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Rank of the branch of a site that has none yet.
    #[arg(long, default_value_t = 8)]
    pub rank: usize,
    /// Steps.
    #[arg(long, default_value_t = 300)]
    pub steps: usize,
    /// Windows of a step.
    #[arg(long, default_value_t = 4)]
    pub batch: usize,
    /// Peak of the rate, which falls to 0 by half a cosine.
    #[arg(long, default_value_t = 1e-3)]
    pub rate: f64,
    /// What is followed.
    #[arg(long, value_enum, default_value_t = CorrectionLossName::Kl)]
    pub loss: CorrectionLossName,
    /// Tokens of the original's answers that are kept; all others share one probability.
    #[arg(long, default_value_t = 64, value_name = "K")]
    pub top_k: usize,
    /// Tokens of a window [default: 256, or what the model can take].
    #[arg(long, value_name = "N")]
    pub window: Option<usize>,
    /// Windows of the text at most, from its front [default: all].
    #[arg(long, value_name = "N")]
    pub windows: Option<usize>,
    /// Sites whose branches are trained (globs on site names) [default: all linear maps of the blocks].
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Sites to leave as they are.
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Replace an existing output.
    #[arg(long)]
    pub force: bool,
}

/// What a corrected model follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CorrectionLossName {
    /// The answers of the original.
    Kl,
    /// The answers of the original, and half as much the text.
    KlCe,
    /// The text alone.
    Ce,
}

/// `trimtab distil`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  trimtab distil resnet20/ -o cifar100.safetensors --size 32\n  \
    trimtab distil digits/ -o digits.safetensors --size 28 --no-flip --iterations 400 --epochs 100")]
pub struct Distil {
    /// The teacher.
    #[command(flatten)]
    pub model: ModelArg,
    /// Where the images and their soft labels go: one safetensors file.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Side of the images, pixels.
    #[arg(long, default_value_t = 32)]
    pub size: usize,
    /// Images of each class.
    #[arg(long, default_value_t = 10)]
    pub images_per_class: usize,
    /// Steps of the recovery of a block of images.
    #[arg(long, default_value_t = 1000)]
    pub iterations: usize,
    /// Peak of the rate of the recovery.
    #[arg(long, default_value_t = 0.25)]
    pub rate: f64,
    /// Weight of the statistics of batch norms; deeper teachers take less.
    #[arg(long, default_value_t = 0.01)]
    pub norm_weight: f64,
    /// Share of the steps over which the crops become small; 0 leaves the curriculum out.
    #[arg(long, default_value_t = 1.0)]
    pub milestone: f64,
    /// Pixels that a view is shifted by at most.
    #[arg(long, default_value_t = 4)]
    pub shift: usize,
    /// Do not mirror images (digits, letters).
    #[arg(long)]
    pub no_flip: bool,
    /// Images that are recovered together.
    #[arg(long, default_value_t = 100)]
    pub block: usize,
    /// Passes of the later training that soft labels are stored for.
    #[arg(long, default_value_t = 300)]
    pub epochs: usize,
    /// Images of a step of the later training.
    #[arg(long, default_value_t = 25)]
    pub batch: usize,
    /// Logits kept of each soft label, the largest; the other classes share the rest of the probability. All by default.
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Replace an existing file.
    #[arg(long)]
    pub force: bool,
}

/// `trimtab reproduce`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  trimtab reproduce --list\n  trimtab reproduce gradient-noise --data data/ -o noise.html\n  \
    trimtab reproduce 98 --quick --json"
)]
pub struct Reproduce {
    /// Show every paper with its verdict.
    #[arg(long)]
    pub list: bool,
    /// Papers, by name or number.
    pub papers: Vec<String>,
    /// About a minute's work instead of up to ten: shows the direction of the effect.
    #[arg(long)]
    pub quick: bool,
    /// Folder with the data of the experiments [default: the variable TRIMTAB_DATA].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Write the report, one HTML page.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace an existing report.
    #[arg(long)]
    pub force: bool,
}
