//! Planning, treating and proving.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{ActivationArgs, EngineName, Format, ModelArg};

/// What to calibrate on.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Calibration")]
pub struct CalibrationArgs {
    /// Text (.txt), sentence pairs (.csv) or images (.safetensors) to calibrate on. Without it, a language model takes a text that
    /// it writes itself, a convolutional network images that its batch norms agree with, an encoder (and @pico) stories that a
    /// grammar in this program tells.
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Windows (texts, images) to calibrate on [default: 128; 64 of the built-in stories and of own text, 32 images that are made].
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
    /// Tokens of a window [default: 256, or what the model can take].
    #[arg(long, value_name = "N")]
    pub window: Option<usize>,
    /// Take the first windows in order instead of a random sample.
    #[arg(long)]
    pub sequential: bool,
    /// Take every window of a text N times, rolled by an N-th of its length each time, so that every part of it comes early once.
    #[arg(long, value_name = "N")]
    pub expansion: Option<usize>,
    /// Side of the images that are made where there are none to calibrate on [default: what the model is made for].
    #[arg(long, value_name = "PIXELS")]
    pub image_size: Option<usize>,
}

/// Which tokens count for how much (RSQ).
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Token importance")]
pub struct ImportanceArgs {
    /// Weigh the tokens of the calibration data: by the attention that they get, the norm of their hidden state, how little a
    /// block changes it, its distance from the others, how rare they are, or by their place. Made for language models, after
    /// `trimtab rewrite --pass rotate` [default: all alike].
    #[arg(long, value_enum, value_name = "BY")]
    pub importance: Option<ImportanceName>,
    /// Weight of the least important token beside the most important one.
    #[arg(long, default_value_t = 0.005, requires = "importance")]
    pub r_min: f64,
    /// 1: the squared error of a token counts its weight; 2: the square of it.
    #[arg(long, default_value_t = 1, requires = "importance", value_name = "N")]
    pub importance_power: u8,
}

/// What makes a token important.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImportanceName {
    /// All alike.
    Uniform,
    /// The attention that it gets, over all heads and queries.
    Attention,
    /// The norm of its hidden state.
    Norm,
    /// How little the block changes it.
    Change,
    /// Its distance from the other tokens.
    Distance,
    /// How rarely it occurs.
    Rarity,
    /// The first eighth of a window alone.
    First,
    /// The first and last thirty-second part alone.
    FirstAndLast,
}

/// How the branches beside codes are found.
#[derive(Clone, Copy, Debug, Args)]
pub struct BranchArgs {
    /// How the branch beside codes is found: after them, for least output error (eora) or otherwise, or by turns with them
    /// (LQ-LoRA) [default: what the plan says, else eora].
    #[arg(long, value_enum, value_name = "HOW")]
    pub branches: Option<BranchName>,
}

/// Ways to find a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BranchName {
    /// After the codes, by all of the second moment of the inputs (EoRA).
    Eora,
    /// After the codes, by the error of the weight alone.
    Svd,
    /// After the codes, by the strength of the inputs.
    ActScale,
    /// After the codes, by the Fisher information of the weights (language models).
    Fisher,
    /// By turns with the codes, for least error of the weight: no data (LQ-LoRA).
    Lq,
    /// By turns with the codes, for least output error.
    LqEora,
    /// By turns with the codes, by the Fisher information (LQ-LoRA's weighted variant; language models).
    LqFisher,
}

/// What the planner may choose from, and by which damage.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Planning")]
pub struct PlanningArgs {
    /// How much work it may take: fast (GPTQ in the order of strong columns, effects on the output
    /// measured on a few hundred tokens), normal (on four times as many, and again around the plan), best (decoupleq, low-rank branches where they pay, blocks tuned). Flags go before what it says.
    #[arg(long, value_enum, default_value_t = EffortName::Normal)]
    pub effort: EffortName,
    /// How codes are chosen [default: what --effort says]. With decoupleq, the integers to choose from have real zero points, unless
    /// --symmetric or --for says otherwise.
    #[arg(long, value_enum)]
    pub method: Option<Method>,
    /// Bit widths to choose from, of integers or with --format gguf of blocks; 16 leaves a site as it is.
    #[arg(long, value_delimiter = ',', default_value = "2,3,4,5,6,8,16")]
    pub bits: Vec<u8>,
    /// Group sizes to choose from; `row` is one group a row.
    #[arg(long, value_delimiter = ',', default_value = "32,64,128,row")]
    pub groups: Vec<String>,
    /// Which damage to price: `kl` measures the change of the output on calibration data, site by site;
    /// `output-error` takes the squared error of each site's output, weighted by its inputs (no forward passes);
    /// `fisher` the squared error of the weights, weighted by the Fisher information (a backward pass a window; language models)
    /// [default: what --effort says].
    #[arg(long, value_enum)]
    pub metric: Option<Metric>,
    /// Tokens or images that a change of the output is measured on, in whole batches: at least so many [default: what --effort says].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub probe_rows: Option<u32>,
    /// Rounds of re-pricing around the chosen point [default: what --effort says].
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Sites to treat (globs on site names) [default: all linear maps and convolutions of the blocks].
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Sites to leave as they are.
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Fix the choice of some sites: 'model.layers.0.*=int8 g128'.
    #[arg(long, value_name = "GLOB=LABEL")]
    pub pin: Vec<String>,
    /// Keep query, key and value (and gate and up) to one scheme, as engines that fuse them need.
    #[arg(long)]
    pub fused: bool,
    /// Symmetric grids: no zero points.
    #[arg(long)]
    pub symmetric: bool,
    /// Floats to choose from beside the integers (fp8, mxfp8, nvfp4, mxfp4, 'nf3 b64'; nf2, nf3, nf4 and nf8 with blocks of 64;
    /// nf: all 432 configurations of LQ-LoRA), or with --format gguf the types of blocks
    /// [default there: q2_k to q6_k and q8_0; q4_0, q4_1, q5_0, q5_1 and q8_0 for rows that those do not fit].
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    pub types: Vec<String>,
    /// Ranks of a low-rank branch beside codes to choose from (EoRA), 0 for none: 0,8,16. Its bytes count [default: what --effort says].
    #[arg(long, alias = "eora-rank", value_name = "R", value_delimiter = ',')]
    pub eora_ranks: Option<Vec<usize>>,
    /// Branches.
    #[command(flatten)]
    pub branch: BranchArgs,
    /// The engine that is to run the result: only what it runs is planned.
    #[arg(long = "for", value_enum, value_name = "ENGINE")]
    pub engine: Option<EngineName>,
}

/// Compositions of methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EffortName {
    /// GPTQ, effects measured on few tokens.
    Fast,
    /// GPTQ, effects measured, and again around the plan.
    Normal,
    /// decoupleQ, branches, tuned blocks.
    Best,
}

/// Damage metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Metric {
    /// Measured change of the output.
    Kl,
    /// Second-moment-weighted output error.
    OutputError,
    /// Error of the weights, weighted by the Fisher information.
    Fisher,
    /// Measured noise in the output over its power, 10^(-SQNR/10).
    Sqnr,
}

/// Where and how to write.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Format of the checkpoint [default: compressed-tensors; gguf for llama.cpp and for blocks].
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Replace an existing output, or an unfinished run with other settings.
    #[arg(long)]
    pub force: bool,
    /// Say what would be done: memory, size, sites; write nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Where the report goes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct ReportArgs {
    /// The page that says what was done and what it cost; the same as JSON lies beside it [default for fit and apply:
    /// OUT.report.html beside OUT; none for plan].
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
}

/// `trimtab plan`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  trimtab plan model/ --budget 3.5bpw --calibration notes.txt -o plan.toml\n  \
trimtab plan model/ --budget 900MB --fused --metric output-error -o plan.toml\n  \
trimtab plan model/ --budget 40% -o plan.toml --report plan.html\n  \
trimtab plan --diff old.toml new.toml"
)]
pub struct Plan {
    /// The model.
    #[command(flatten)]
    pub model: ModelArg,
    /// 3.5bpw, 40%, 900MB; several joined by commas all hold.
    #[arg(long, short, required_unless_present_any = ["diff", "reprice"], value_name = "BUDGET")]
    pub budget: Option<String>,
    /// Calibration.
    #[command(flatten)]
    pub calibration: CalibrationArgs,
    /// Token importance.
    #[command(flatten)]
    pub importance: ImportanceArgs,
    /// Planning.
    #[command(flatten)]
    pub planning: PlanningArgs,
    /// Where the plan goes.
    #[arg(short, long, default_value = "plan.toml", value_name = "FILE")]
    pub output: PathBuf,
    /// Format of the checkpoint that the plan is for: what it cannot hold is no option.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Report.
    #[command(flatten)]
    pub report: ReportArgs,
    /// Replace an existing plan.
    #[arg(long)]
    pub force: bool,
    /// Say what would be done; write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Show what differs between two plans.
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"])]
    pub diff: Option<Vec<PathBuf>>,
    /// Add up an edited plan again and write it back.
    #[arg(long, value_name = "FILE", conflicts_with = "diff")]
    pub reprice: Option<PathBuf>,
}

/// `trimtab apply`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  trimtab apply plan.toml model/ -o out/ --calibration notes.txt\n  \
trimtab apply 'int4 g128' model/ -o out/ --method rtn      (one scheme for all sites, no data)\n  \
trimtab apply 'int2 row real' model/ -o out/ --calibration notes.txt\n  \
trimtab apply nvfp4 model/ -o out/ --calibration notes.txt\n  \
trimtab apply 'int2 g64' model/ -o out/ --calibration notes.txt --eora-rank 16\n  \
trimtab apply 'nf3 b64 + rank 16' model/ -o out/ --branches lq      (no data)\n  \
trimtab apply q4_k model/ -o out/ --calibration notes.txt  (out/model.gguf)\n  \
trimtab apply --bits 4 switchable/ -o out/  (one width of a model that was trained to be switched)\n\n\
A report is written beside the output: OUT.report.html, and OUT.report.json with the same figures.")]
pub struct Apply {
    /// A plan file, or one scheme for all sites, such as 'int4 g128'; with --bits the model, and nothing else.
    pub plan: String,
    /// Take this width out of a model that was trained to be switched (`[quantization]` in its recipe): integer arithmetic on its
    /// codes, no data.
    #[arg(long, value_name = "N")]
    pub bits: Option<u8>,
    /// The model.
    #[command(flatten)]
    pub model: ModelArg,
    /// Where the model goes.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// How codes are chosen [default: what the plan says; without a plan, decoupleq where zero points are real, else gptq].
    #[arg(long, value_enum)]
    pub method: Option<Method>,
    /// Sites to treat, where one scheme is given for all.
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Sites to leave as they are, where one scheme is given for all.
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Rank of a low-rank branch beside the codes of every site (EoRA), where one scheme is given for all.
    #[arg(long, value_name = "R")]
    pub eora_rank: Option<usize>,
    /// Branches.
    #[command(flatten)]
    pub branch: BranchArgs,
    /// Calibration.
    #[command(flatten)]
    pub calibration: CalibrationArgs,
    /// Token importance.
    #[command(flatten)]
    pub importance: ImportanceArgs,
    /// Quantizer.
    #[command(flatten)]
    pub quantizer: QuantizerArgs,
    /// Activations.
    #[command(flatten)]
    pub activations: ActivationArgs,
    /// Output.
    #[command(flatten)]
    pub out: OutputArgs,
    /// Report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// Methods that choose codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// Round-to-nearest: no data.
    Rtn,
    /// GPTQ: rounds column by column and lets later columns make up for the error.
    Gptq,
    /// decoupleQ: integers by GPTQ and exact scales and real zero points by turns; for schemes such as 'int2 row real' and 'int3
    /// g64 sym'.
    Decoupleq,
    /// AdaQuant: weights and ranges of a layer learned by gradients; for integers with whole zero points. For convolutional networks.
    Adaquant,
}

/// How the grid of a group is found and which order columns are rounded in.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Quantizer")]
pub struct QuantizerArgs {
    /// How the range of a group is found: min-max, or the shrunk range with the least error [default: what the plan says, else mse].
    #[arg(long, value_enum)]
    pub range: Option<Range>,
    /// Damping of the second moment, in parts of its mean diagonal [default: what the plan says, else 0.01].
    #[arg(long)]
    pub damping: Option<f64>,
    /// Round columns with large second moment first (groups keep their columns; decoupleq always does) [default: what the plan or
    /// --effort says, else no].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub act_order: Option<bool>,
    /// Once all codes of a block are chosen, train its scales and real zero points until it gives what the original block gives on
    /// the same inputs [default: what the plan or --effort says, else no].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub tune_blocks: Option<bool>,
    /// Rate of that training [default: what the plan says, else 0.0001].
    #[arg(long)]
    pub tune_rate: Option<f64>,
    /// Passes over the samples [default: what the plan says, else 4].
    #[arg(long, value_name = "N")]
    pub tune_epochs: Option<usize>,
    /// Once all codes of a block are chosen, measure the statistics of its batch norms anew on the calibration images.
    #[arg(long)]
    pub tune_batch_norm: bool,
    /// At the end, train the biases of a classifier of images until it says what the original says of the calibration images.
    #[arg(long)]
    pub tune_bias: bool,
}

/// Range finders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Range {
    /// The extremes.
    MinMax,
    /// The shrunk range with the least error.
    Mse,
}

/// `trimtab fit`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  trimtab fit                                (the embedded model, 3 bits per weight)\n  \
trimtab fit model/ --budget 3.5bpw --calibration notes.txt -o out/\n  \
trimtab fit minilm/ --budget 4.5bpw --calibration dev.csv --pairs test.csv -o out/\n  \
trimtab fit model/ --quality 'ppl<=1.01x' --calibration notes.txt -o out/\n  \
trimtab fit model/ --budget 2.5bpw --effort best --calibration notes.txt -o out/\n  \
trimtab fit model/ --budget 3.5bpw --for llama.cpp -o out/ (out/model.gguf, a type for each matrix)\n\n\
A report is written beside the output: OUT.report.html, and OUT.report.json with the same figures.\n\
A run that was interrupted goes on where it stopped when the same command is given again."
)]
pub struct Fit {
    /// The model.
    #[command(flatten)]
    pub model: ModelArg,
    /// 3.5bpw, 40%, 900MB; several joined by commas all hold [default: 3.0bpw, none with --quality].
    #[arg(long, short, value_name = "BUDGET")]
    pub budget: Option<String>,
    /// What the result has to keep, and then it is the smallest that does: ppl<=1.01x (of the original's), kl<=0.02, accuracy>=0.99x,
    /// spearman>=80. One half of the data it is judged on selects the plan, the other half proves it.
    #[arg(long, value_name = "CONDITION")]
    pub quality: Option<String>,
    /// Where the model goes [default: MODEL-BUDGET in this folder].
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// A text to prove the result on [default: the part of the calibration text that was not calibrated on].
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Sentence pairs to prove the result on.
    #[arg(long, value_name = "FILE")]
    pub pairs: Option<PathBuf>,
    /// Labelled images to prove the result on.
    #[arg(long, value_name = "FILE")]
    pub images: Option<PathBuf>,
    /// Calibration.
    #[command(flatten)]
    pub calibration: CalibrationArgs,
    /// Token importance.
    #[command(flatten)]
    pub importance: ImportanceArgs,
    /// Planning.
    #[command(flatten)]
    pub planning: PlanningArgs,
    /// Quantizer.
    #[command(flatten)]
    pub quantizer: QuantizerArgs,
    /// Activations.
    #[command(flatten)]
    pub activations: ActivationArgs,
    /// Output.
    #[command(flatten)]
    pub out: OutputArgs,
    /// Report.
    #[command(flatten)]
    pub report: ReportArgs,
}
