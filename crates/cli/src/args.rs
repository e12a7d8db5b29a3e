//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use trimtab::floors::calibrate::ReconstructSettings;

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
    /// Write the same model in another file format.
    Convert(Convert),
    /// Check a written model by the rules of the engine that is to run it.
    Verify(Verify),
    /// Continue a text.
    Generate(Generate),
    /// Train a model by a recipe.
    Train(Train),
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

/// What to calibrate on.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Calibration")]
pub struct CalibrationArgs {
    /// Text (.txt), sentence pairs (.csv) or images (.safetensors) to calibrate on. Without it, language models take
    /// stories that a grammar in this program tells; models of other kinds need one.
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Windows (texts, images) to calibrate on [default: 128; 64 of the built-in stories].
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
    /// Tokens of a window [default: 256, or what the model can take].
    #[arg(long, value_name = "N")]
    pub window: Option<usize>,
    /// Take the first windows in order instead of a random sample.
    #[arg(long)]
    pub sequential: bool,
}

/// What the planner may choose from, and by which damage.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Planning")]
pub struct PlanningArgs {
    /// How codes are chosen. With decoupleq, the integers to choose from have real zero points, unless --symmetric or --for says
    /// otherwise.
    #[arg(long, value_enum, default_value_t = Method::Gptq)]
    pub method: Method,
    /// Bit widths to choose from, of integers or with --format gguf of blocks; 16 leaves a site as it is.
    #[arg(long, value_delimiter = ',', default_value = "2,3,4,5,6,8,16")]
    pub bits: Vec<u8>,
    /// Group sizes to choose from; `row` is one group a row.
    #[arg(long, value_delimiter = ',', default_value = "32,64,128,row")]
    pub groups: Vec<String>,
    /// Which damage to price: `kl` measures the change of the output on calibration data, site by site;
    /// `output-error` takes the squared error of each site's output, weighted by its inputs (no forward passes).
    #[arg(long, value_enum, default_value_t = Metric::Kl)]
    pub metric: Metric,
    /// Rounds of re-pricing around the chosen point.
    #[arg(long, default_value_t = 2)]
    pub rounds: usize,
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
    /// Floats to choose from beside the integers (fp8, mxfp8, nvfp4, mxfp4), or with --format gguf the types of blocks
    /// [default there: q2_k to q6_k and q8_0; q4_0, q4_1, q5_0, q5_1 and q8_0 for rows that those do not fit].
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    pub types: Vec<String>,
    /// The engine that is to run the result: only what it runs is planned.
    #[arg(long = "for", value_enum, value_name = "ENGINE")]
    pub engine: Option<EngineName>,
}

/// Damage metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Metric {
    /// Measured change of the output.
    Kl,
    /// Second-moment-weighted output error.
    OutputError,
}

/// Formats that `apply` and `fit` write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Packed integers and floats that transformers and vLLM load.
    CompressedTensors,
    /// Dense numbers in the type of the input.
    Safetensors,
    /// One GGUF file (DIR/model.gguf) that llama.cpp and its relatives load.
    Gguf,
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

/// `trimtab inspect`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  trimtab inspect model/\n  trimtab inspect @pico --json | jq '.sites[0]'"
)]
pub struct Inspect {
    /// The model.
    #[command(flatten)]
    pub model: ModelArg,
    /// Compute the effective rank (a singular value decomposition of every site; slow on large models).
    #[arg(long)]
    pub rank: bool,
    /// Guess a specification (TOML, for --spec) from `config.json` and the names and shapes of the tensors, and print it.
    #[arg(long)]
    pub propose_spec: bool,
}

/// `trimtab convert`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  trimtab convert out/ --to gptq -o out-gptq/\n  \
trimtab convert model/ --to gguf:q8_0 -o model-q8_0.gguf\n  trimtab convert model.gguf --to safetensors -o model/")]
pub struct Convert {
    /// The model.
    #[command(flatten)]
    pub model: ModelArg,
    /// Format: compressed-tensors, int-quantized, gptq, gptq_v2, awq (the codes as they are), safetensors (decoded), or
    /// gguf:TYPE (f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k).
    #[arg(long, value_name = "FORMAT")]
    pub to: String,
    /// The output: a directory, for GGUF a file.
    #[arg(short, long, value_name = "PATH")]
    pub output: PathBuf,
    /// Replace an existing output.
    #[arg(long)]
    pub force: bool,
}

/// `trimtab verify`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  trimtab verify out/ --for vllm\n  trimtab verify model.gguf --for llama.cpp"
)]
pub struct Verify {
    /// The written model.
    #[command(flatten)]
    pub model: ModelArg,
    /// The engine that is to run it.
    #[arg(long = "for", value_enum, value_name = "ENGINE")]
    pub engine: EngineName,
}

/// Engines whose rules are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineName {
    /// vLLM.
    Vllm,
    /// llama.cpp.
    #[value(name = "llama.cpp")]
    LlamaCpp,
    /// transformers.
    Transformers,
}

/// `trimtab eval`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  trimtab eval model/ --text test.txt --window 256 --stride 256\n  \
trimtab eval out/ --against model/ --text test.txt\n  trimtab eval minilm/ --pairs test.csv\n  \
trimtab eval resnet20.safetensors --images cifar10.safetensors --limit 2000")]
pub struct Eval {
    /// The model.
    #[command(flatten)]
    pub model: ModelArg,
    /// A text to predict [default for language models: stories held out from @pico's training].
    #[arg(long, value_name = "FILE", conflicts_with_all = ["pairs", "images"])]
    pub text: Option<PathBuf>,
    /// Sentence pairs with scores (csv: sentence, sentence, score).
    #[arg(long, value_name = "FILE", conflicts_with = "images")]
    pub pairs: Option<PathBuf>,
    /// Labelled images (safetensors: test.images, test.labels).
    #[arg(long, value_name = "FILE")]
    pub images: Option<PathBuf>,
    /// The original: also measure how far the model is from it.
    #[arg(long, value_name = "MODEL")]
    pub against: Option<String>,
    /// Tokens of a window [default: 256, or what the model can take].
    #[arg(long, value_name = "N")]
    pub window: Option<usize>,
    /// Tokens between windows [default: the window].
    #[arg(long, value_name = "N")]
    pub stride: Option<usize>,
    /// Windows, pairs or images at most.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Also write the token ids and logits of the windows (safetensors), for a comparison with other programs.
    #[arg(long, value_name = "FILE", requires = "limit")]
    pub logits: Option<PathBuf>,
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
trimtab apply q4_k model/ -o out/ --calibration notes.txt  (out/model.gguf)\n\n\
A report is written beside the output: OUT.report.html, and OUT.report.json with the same figures.")]
pub struct Apply {
    /// A plan file, or one scheme for all sites, such as 'int4 g128'.
    pub plan: String,
    /// The model.
    #[command(flatten)]
    pub model: ModelArg,
    /// Where the model goes.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// How codes are chosen [default: decoupleq where zero points are real, else gptq].
    #[arg(long, value_enum)]
    pub method: Option<Method>,
    /// Sites to treat, where one scheme is given for all.
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Sites to leave as they are, where one scheme is given for all.
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Calibration.
    #[command(flatten)]
    pub calibration: CalibrationArgs,
    /// Quantizer.
    #[command(flatten)]
    pub quantizer: QuantizerArgs,
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
}

/// How the grid of a group is found and which order columns are rounded in.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Quantizer")]
pub struct QuantizerArgs {
    /// How the range of a group is found: min-max, or the shrunk range with the least error.
    #[arg(long, value_enum, default_value_t = Range::Mse)]
    pub range: Range,
    /// Damping of the second moment, in parts of its mean diagonal.
    #[arg(long, default_value_t = 0.01)]
    pub damping: f64,
    /// Round columns with large second moment first (groups keep their columns; decoupleq always does).
    #[arg(long)]
    pub act_order: bool,
    /// Once all codes of a block are chosen, train its scales and real zero points until it gives what the original block gives on
    /// the same inputs.
    #[arg(long)]
    pub tune_blocks: bool,
    /// Rate of that training.
    #[arg(long, default_value_t = QuantizerArgs::default().tune_rate, requires = "tune_blocks")]
    pub tune_rate: f64,
    /// Passes over the samples.
    #[arg(long, default_value_t = QuantizerArgs::default().tune_epochs, requires = "tune_blocks", value_name = "N")]
    pub tune_epochs: usize,
}

impl Default for QuantizerArgs {
    fn default() -> Self {
        let ReconstructSettings { rate, epochs, .. } = ReconstructSettings::default();
        let (tune_rate, tune_epochs) = (rate, epochs);
        Self {
            range: Range::Mse,
            damping: 0.01,
            act_order: false,
            tune_blocks: false,
            tune_rate,
            tune_epochs,
        }
    }
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
trimtab fit model/ --budget 3.5bpw --for llama.cpp -o out/ (out/model.gguf, a type for each matrix)\n\n\
A report is written beside the output: OUT.report.html, and OUT.report.json with the same figures.\n\
A run that was interrupted goes on where it stopped when the same command is given again."
)]
pub struct Fit {
    /// The model.
    #[command(flatten)]
    pub model: ModelArg,
    /// 3.5bpw, 40%, 900MB; several joined by commas all hold.
    #[arg(long, short, default_value = "3.0bpw", value_name = "BUDGET")]
    pub budget: String,
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
    /// Planning.
    #[command(flatten)]
    pub planning: PlanningArgs,
    /// Quantizer.
    #[command(flatten)]
    pub quantizer: QuantizerArgs,
    /// Output.
    #[command(flatten)]
    pub out: OutputArgs,
    /// Report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `trimtab generate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  trimtab generate --prompt \"Once upon a time\"\n  \
trimtab generate model/ --prompt \"The film\" --tokens 100 --temperature 0")]
pub struct Generate {
    /// The model.
    #[command(flatten)]
    pub model: ModelArg,
    /// The beginning.
    #[arg(long, short, default_value = "")]
    pub prompt: String,
    /// Tokens to add at most.
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub tokens: usize,
    /// 0 takes the most likely token.
    #[arg(long, default_value_t = 0.8)]
    pub temperature: f64,
    /// Only the k most likely tokens (0: all).
    #[arg(long, default_value_t = 0)]
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability.
    #[arg(long, default_value_t = 0.95)]
    pub top_p: f64,
    /// Do not stop at the end-of-text token (to measure speed).
    #[arg(long)]
    pub ignore_eos: bool,
}

/// `trimtab train`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  trimtab train recipes/pico.toml -o pico/\n  \
    trimtab train recipes/resnet20_cifar10.toml --data cifar10.safetensors -o resnet20/")]
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

/// `trimtab bench`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  trimtab bench\n  trimtab bench packed gptq --json")]
pub struct Bench {
    /// memory, packed, dense, gptq, decoupleq [default: all].
    pub kernels: Vec<String>,
}
