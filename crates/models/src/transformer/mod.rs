//! The one transformer: decoder or encoder, with every choice of layout an option.

mod block;
mod plan;

use serde::Deserialize;
use trimtab_nn::rotary::Rotary;
use trimtab_nn::{Activation, NormKind};

pub use block::{Block, Embed, ReadOut, Transformer};
pub(crate) use plan::Blueprint;

/// Where the norm of a sublayer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlace {
    /// On the branch, before the sublayer (Llama, GPT-2).
    Before,
    /// On the stream, after the sum (BERT).
    After,
}

/// Kind of the feed-forward sublayer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MlpKind {
    /// `down(act(gate x) * up x)`.
    Gated,
    /// `down(act(up x))`.
    Plain,
}

/// How the model knows positions.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// Queries and keys are rotated.
    Rotary(Rotary),
    /// A table of so many rows is added to the embedding.
    Learned(usize),
}

/// What reads the last hidden state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// A linear map to the vocabulary.
    Language,
    /// The embedding, borrowed.
    Tied,
    /// A linear map and tanh on the first token (present only where the checkpoint has it).
    Pooler,
}

/// Options of the module.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformerConfig {
    /// Channels of the residual stream.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; they divide `heads`.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_width: usize,
    /// Hidden units of the feed-forward sublayer.
    pub hidden: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Kind of norm.
    pub norm: NormKind,
    /// Place of the norms.
    pub norm_place: NormPlace,
    /// Added to the variance.
    pub eps: f64,
    /// Activation of the feed-forward sublayer.
    pub activation: Activation,
    /// Positions.
    pub positions: Positions,
    /// Rows of the table of token types.
    pub token_types: Option<usize>,
    /// Whether a token sees only earlier ones.
    pub causal: bool,
    /// Sliding window of each block; the length is the number of blocks.
    pub windows: Vec<Option<usize>>,
    /// Whether query, key and value are one site.
    pub fused_qkv: bool,
    /// Biases on query, key and value.
    pub qkv_bias: bool,
    /// Bias on the attention's output.
    pub out_bias: bool,
    /// Kind of feed-forward sublayer.
    pub mlp: MlpKind,
    /// Biases in the feed-forward sublayer.
    pub mlp_bias: bool,
    /// Whether the linear maps of the blocks are stored as `[in, out]`.
    pub stored_in_out: bool,
    /// What reads the last hidden state.
    pub head: Head,
}
