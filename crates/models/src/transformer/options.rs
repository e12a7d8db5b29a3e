//! What a transformer may be made of.

use serde::Deserialize;
use trimtab_nn::attention::Scoring;
use trimtab_nn::rotary::Rotary;
use trimtab_nn::{Activation, NormKind};

/// Where the norm of a sublayer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlace {
    /// On the branch: before the sublayer, and after it where a family has such norms (Llama, GPT-2, Gemma 2, OLMo 2).
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

/// How query, key and value are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QkvKind {
    /// Three sites.
    Split,
    /// One site: all query heads, then all key heads, then all value heads (GPT-2, Phi-3).
    Fused,
    /// One site: for each key-value head its query heads, its key, its value (GPT-NeoX, BLOOM, Falcon).
    Interleaved,
}

/// What the norms of queries and keys run over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// The channels of a head; all heads share one gain (Qwen 3, Gemma 3).
    Head,
    /// The channels of a head; every head has its own norm (StableLM).
    EachHead,
    /// All channels of the projection (OLMo 2).
    Full,
}

/// Statistics and parameters of a norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormStyle {
    /// Which statistics it removes.
    pub kind: NormKind,
    /// Added to the variance.
    pub eps: f64,
    /// Whether it has a bias.
    pub bias: bool,
    /// What the stored gain lacks: 1 where the checkpoint holds `gain - 1` (Gemma).
    pub offset: f32,
}

impl TransformerConfig {
    /// Rows of the embedding of tokens.
    pub fn vocab(&self) -> Option<usize> {
        match self.input {
            Input::Tokens { vocab } => Some(vocab),
            Input::Patches { .. } | Input::Audio { .. } => None,
        }
    }
}

impl NormStyle {
    /// A kind of norm with the parameters that it usually has.
    pub fn of(kind: NormKind, eps: f64) -> Self {
        Self { kind, eps, bias: kind == NormKind::Layer, offset: 0.0 }
    }

    /// The same norm with or without a bias.
    pub fn with_bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }
}

/// Positions as numbers that are added to the scores, by the distance of key and query (T5, arXiv:1910.10683, 2.1). The
/// first block owns the table, all blocks use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelativePositions {
    /// Rows of the table.
    pub buckets: usize,
    /// Distances beyond share the last row.
    pub max_distance: usize,
}

/// Dimensions of a tensor that holds rows of the embedding's width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableForm {
    /// The weight of a module, `[rows, C]`.
    #[default]
    Module,
    /// A tensor of its own, `[1, rows, C]`.
    Batched,
    /// A tensor of its own, `[C]`.
    Vector,
}

/// A table of positions that is added to the embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnedPositions {
    /// Rows of the table, those before `offset` included.
    pub rows: usize,
    /// Row of the first position (2 in OPT, 1 + the padding's id in RoBERTa).
    pub offset: usize,
    /// Id of a token that takes the row `offset - 1` and does not count (RoBERTa).
    pub padding: Option<usize>,
}

/// Where the projection between the token embedding and the residual stream stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmbedProjection {
    /// Right after the lookup: positions and norm have the width of the stream (OPT).
    #[default]
    First,
    /// Last: positions and norm have the width of the embedding (ELECTRA).
    Last,
}

/// How weights are drawn that are not trained yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initial {
    /// One small spread for all, and a smaller one for what writes to the residual stream ([`crate::init`]).
    #[default]
    House,
    /// So that what a site computes has the variance of what it reads (T5): `fan_in^-0.5`, and less for queries, whose
    /// scores are not divided by the root of the width of a head. Embeddings and heads have a standard deviation of 1.
    FanIn,
}

/// Biases by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Biases {
    /// On query and value, and on the fused site.
    pub qkv: bool,
    /// On key.
    pub key: bool,
    /// On the attention's output.
    pub out: bool,
    /// In the feed-forward sublayer.
    pub mlp: bool,
    /// On the convolution that cuts patches.
    pub embed: bool,
    /// On the projection of the embedding.
    pub embed_projection: bool,
    /// On the head.
    pub head: bool,
}

/// A mixture of experts in place of one feed-forward sublayer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertOptions {
    /// Experts of a block.
    pub count: usize,
    /// Experts that a token is sent to.
    pub per_token: usize,
    /// Hidden units of an expert.
    pub hidden: usize,
    /// Hidden units of the expert that sees every token, if there is one.
    pub shared_hidden: Option<usize>,
    /// Whether the weights of the chosen experts are scaled to the sum 1.
    pub normalize: bool,
}

/// What may differ from block to block.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockOptions {
    /// Positions that a query sees, its own included.
    pub window: Option<usize>,
    /// Rotation of queries and keys.
    pub rotary: Option<Rotary>,
    /// Whether the feed-forward sublayer is a mixture of experts.
    pub experts: bool,
}

/// What enters the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Token ids, looked up in a table of so many rows.
    Tokens {
        /// Rows of the embedding.
        vocab: usize,
    },
    /// Square images, cut into square patches by a convolution.
    Patches {
        /// Pixels along a side of the image.
        image: usize,
        /// Pixels along a side of a patch.
        patch: usize,
        /// Colours.
        channels: usize,
    },
    /// Spectrograms `[mels, 1, frames]`, which two convolutions make half as long (Whisper).
    Audio {
        /// Frequencies.
        mels: usize,
        /// Frames; the positions are half as many.
        frames: usize,
    },
}

/// Which token stands for the whole sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The first.
    First,
    /// The last position, padding or not.
    Last,
    /// The last token that the mask keeps.
    End,
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
    /// One token, and a linear map where the checkpoint has one (CLIP).
    Pooled(Pool),
    /// A learned query that attends to all tokens, and a feed-forward sublayer (SigLIP).
    Attended,
    /// Nothing but the last norm, if there is one.
    None,
}

/// Options of the module.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformerConfig {
    /// Channels of the residual stream.
    pub width: usize,
    /// Channels of the token embedding.
    pub embed_width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; they divide `heads`.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_width: usize,
    /// Hidden units of the feed-forward sublayer.
    pub hidden: usize,
    /// What enters.
    pub input: Input,
    /// Id of the tokens in whose place the rows of a second input stand: the features of images beside a text.
    pub placeholder: Option<usize>,
    /// Channels of the pooled vector after its linear map.
    pub projection: usize,
    /// The norms.
    pub norm: NormStyle,
    /// Whether the residual stream has the mean zero, so that layer norms on it are RMS norms.
    pub centered: bool,
    /// Place of the norms.
    pub norm_place: NormPlace,
    /// Whether attention and the feed-forward sublayer read the same stream and are added together.
    pub parallel: bool,
    /// Norms of queries and keys.
    pub qk_norm: Option<(QkNorm, NormStyle)>,
    /// Activation of the feed-forward sublayer.
    pub activation: Activation,
    /// Positions that are added to the embedding.
    pub positions: Option<LearnedPositions>,
    /// How their table is stored.
    pub position_form: TableForm,
    /// How tokens that stand before the patches are stored.
    pub token_form: TableForm,
    /// Rows of the table of token types.
    pub token_types: Option<usize>,
    /// Place of the embedding's projection.
    pub embed_projection: EmbedProjection,
    /// Whether a token sees only earlier ones.
    pub causal: bool,
    /// Positions by the distance.
    pub relative: Option<RelativePositions>,
    /// Whether the embedding is that of the first part of the network.
    pub borrows_embedding: bool,
    /// How new weights are drawn.
    pub initial: Initial,
    /// From products to scores.
    pub scoring: Scoring,
    /// One entry a block.
    pub blocks: Vec<BlockOptions>,
    /// How query, key and value are stored.
    pub qkv: QkvKind,
    /// Biases.
    pub biases: Biases,
    /// Kind of feed-forward sublayer.
    pub mlp: MlpKind,
    /// The mixture of experts of the blocks that have one.
    pub experts: Option<ExpertOptions>,
    /// Whether the linear maps of the blocks are stored as `[in, out]`.
    pub stored_in_out: bool,
    /// Factor of the token embedding.
    pub embed_scale: Option<f32>,
    /// Factor of what every sublayer adds to the stream.
    pub residual_scale: Option<f32>,
    /// Factor of the logits.
    pub logit_scale: Option<f32>,
    /// Logits are bent to `cap * tanh(logit / cap)`, after the factor.
    pub logit_cap: Option<f32>,
    /// What reads the last hidden state.
    pub head: Head,
}

/// What stands between a vision tower and the decoder that reads its features.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectorOptions {
    /// What may stand before the names.
    pub roots: Vec<String>,
    /// Name of the map from the tower to the decoder.
    pub up: String,
    /// Name of the second map.
    pub down: String,
    /// Activation between them.
    pub activation: Activation,
    /// Whether both have a bias.
    pub bias: bool,
    /// Blocks of the tower that are run: what leaves the last of them are the features.
    pub blocks: usize,
    /// Whether the first row, the class token, is left out.
    pub drop_first: bool,
    /// Id of the tokens in whose place features stand.
    pub token: usize,
}
