//! Looking at models, running them and writing them otherwise.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{CalibrationArgs, ModelArg};

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

/// Which rotations are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RotationName {
    /// A Hadamard matrix with random signs, where the width has one; else an orthogonal matrix.
    Hadamard,
    /// An orthogonal matrix, uniform over all.
    Orthogonal,
}

/// Types of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtypeName {
    /// 32 bits.
    F32,
    /// 16 bits, IEEE.
    F16,
    /// 16 bits, the exponent of 32.
    Bf16,
}

/// `trimtab rewrite`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  trimtab rewrite --list\n  trimtab rewrite model/ --pass rotate -o rotated/\n  \
trimtab rewrite model/ --pass fold-norm-gain --pass scale-channels --calibration notes.txt -o smooth/"
)]
pub struct Rewrite {
    /// The model.
    #[command(flatten)]
    pub model: ModelArg,
    /// A pass (see --list); several are applied in order, each with those that it needs before it.
    #[arg(long = "pass", value_name = "NAME", required_unless_present = "list")]
    pub passes: Vec<String>,
    /// Print the passes, and which of them fit the model.
    #[arg(long)]
    pub list: bool,
    /// The output directory.
    #[arg(short, long, value_name = "DIR", required_unless_present = "list")]
    pub output: Option<PathBuf>,
    /// Give a head that borrows the embedding a copy of its own where a pass needs it.
    #[arg(long)]
    pub untie: bool,
    /// Which rotations to draw.
    #[arg(long, value_enum, default_value_t = RotationName::Hadamard)]
    pub rotation: RotationName,
    /// Leave the values of the heads as they are when the residual stream is rotated.
    #[arg(long)]
    pub no_heads: bool,
    /// How much of the range of activations scale-channels moves into the weights, from 0 to 1.
    #[arg(long, default_value_t = 0.5)]
    pub alpha: f64,
    /// Channels of every norm that inject-outliers makes loud.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub channels: usize,
    /// By how much inject-outliers makes them louder.
    #[arg(long, default_value_t = 30.0)]
    pub factor: f64,
    /// The type of changed tensors [default: as stored].
    #[arg(long, value_enum)]
    pub dtype: Option<DtypeName>,
    /// What scale-channels takes its ranges from.
    #[command(flatten)]
    pub calibration: CalibrationArgs,
    /// Replace an existing output.
    #[arg(long)]
    pub force: bool,
}

/// `trimtab convert`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  trimtab convert out/ --to gptq -o out-gptq/\n  \
trimtab convert model/ --to gguf:q8_0 -o model-q8_0.gguf\n  trimtab convert model.gguf --to safetensors -o model/\n  \
trimtab convert out/ --to safetensors:f32 -o base/ --adapter lora/   (codes decoded, branches for PEFT)")]
pub struct Convert {
    /// The model.
    #[command(flatten)]
    pub model: ModelArg,
    /// Format: compressed-tensors, int-quantized, gptq, gptq_v2, awq (the codes as they are), safetensors (decoded;
    /// safetensors:f32 without rounding), or gguf:TYPE (f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k).
    #[arg(long, value_name = "FORMAT")]
    pub to: String,
    /// The output: a directory, for GGUF a file.
    #[arg(short, long, value_name = "PATH")]
    pub output: PathBuf,
    /// Write low-rank branches as an adapter for PEFT into this directory, instead of merging or keeping them.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
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
