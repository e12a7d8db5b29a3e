//! The options of a specification: the layout, and where the numbers stand.

use serde::Deserialize;
use trimtab_nn::NormKind;

use super::fields::Key;
use crate::transformer::{EmbedProjection, Initial, MlpKind, NormPlace, QkNorm, QkvKind, TableForm};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Layout {
    pub causal: bool,
    /// Whether the embedding is that of the first part of the network.
    #[serde(default)]
    pub borrows_embedding: bool,
    /// How new weights are drawn.
    #[serde(default)]
    pub initial: Initial,
    /// Whether logits are divided by the root of the width.
    #[serde(default)]
    pub logits_over_root_width: bool,
    pub norm: NormKind,
    /// Whether norms have a bias; LayerNorm usually has one.
    pub norm_bias: Option<bool>,
    /// Whether the checkpoint stores gains less one.
    #[serde(default)]
    pub norm_gain_less_one: bool,
    pub norm_place: NormPlace,
    /// Whether both sublayers read the same stream.
    #[serde(default)]
    pub parallel: bool,
    pub qk_norm: Option<QkNorm>,
    pub qk_norm_bias: Option<bool>,
    #[serde(default)]
    pub input: InputKind,
    #[serde(default)]
    pub token_form: TableForm,
    pub positions: PositionKind,
    #[serde(default)]
    pub position_form: TableForm,
    /// Row of the first learned position.
    #[serde(default)]
    pub position_offset: usize,
    #[serde(default)]
    pub rotary_interleaved: bool,
    /// Whether the slopes of ALiBi are scaled like the products.
    #[serde(default)]
    pub alibi_scaled: bool,
    pub qkv: QkvKind,
    pub mlp: MlpKind,
    /// Whether the hidden units that follow from a ratio are cut to two thirds, in multiples of eight.
    #[serde(default)]
    pub hidden_two_thirds: bool,
    pub head: HeadKind,
    #[serde(default)]
    pub stored_in_out: bool,
    pub embed_scale: Option<EmbedScale>,
    #[serde(default)]
    pub embed_projection: EmbedProjection,
    #[serde(default)]
    pub embed_bias: bool,
    #[serde(default)]
    pub embed_projection_bias: bool,
    #[serde(default)]
    pub qkv_bias: bool,
    /// Whether keys have a bias, where they differ from queries and values.
    pub key_bias: Option<bool>,
    #[serde(default)]
    pub out_bias: bool,
    #[serde(default)]
    pub mlp_bias: bool,
    #[serde(default)]
    pub head_bias: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PositionKind {
    /// Queries and keys are rotated.
    Rotary,
    /// A table is added to the embedding.
    Learned,
    /// Scores fall with the distance.
    Alibi,
    /// A table by distance is added to the scores.
    Relative,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum HeadKind {
    /// A linear map to the vocabulary.
    Language,
    /// The first token, a linear map, tanh.
    Pooler,
    /// The first token, and a linear map if it has a name.
    First,
    /// The last token, and a linear map if it has a name.
    Last,
    /// The last token that the mask keeps, and a linear map if it has a name.
    End,
    /// A learned query that attends to all tokens.
    Attended,
    /// The last norm, or nothing.
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum InputKind {
    #[default]
    Tokens,
    Patches,
    Audio,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum EmbedScale {
    SqrtWidth,
}

/// Where the options stand in `config.json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    pub width: Key,
    pub blocks: Key,
    pub heads: Key,
    pub hidden: Option<Key>,
    pub vocab: Option<Key>,
    pub image_size: Option<Key>,
    pub patch_size: Option<Key>,
    pub channels: Option<Key>,
    pub mels: Option<Key>,
    /// Hidden units as a multiple of the width.
    pub hidden_ratio: Option<Key>,
    /// Channels of the pooled vector after its linear map.
    pub projection: Option<Key>,
    pub eps: Key,
    pub activation: Key,
    pub kv_heads: Option<Key>,
    pub head_width: Option<Key>,
    pub embed_width: Option<Key>,
    pub tied: Option<Key>,
    pub positions: Option<Key>,
    /// Id of the padding, where it decides which position is the first.
    pub padding: Option<Key>,
    pub token_types: Option<Key>,
    pub window: Option<Key>,
    pub use_window: Option<Key>,
    pub full_attention_blocks: Option<Key>,
    /// Every so many blocks one sees everything.
    pub window_pattern: Option<Key>,
    pub layer_types: Option<Key>,
    pub relative_buckets: Option<Key>,
    pub relative_distance: Option<Key>,
    pub rope_theta: Option<Key>,
    /// Base of the rotation of blocks with a window, where it is another.
    pub rope_local_theta: Option<Key>,
    /// Part of a head that is rotated.
    pub rotary_fraction: Option<Key>,
    /// Channels of a head that are rotated.
    pub rotary_width: Option<Key>,
    pub qkv_bias: Option<Key>,
    pub out_bias: Option<Key>,
    pub mlp_bias: Option<Key>,
    /// Factor of the products of queries and keys.
    pub attention_scale: Option<Key>,
    /// The same, as the number whose root it is one over.
    pub attention_root: Option<Key>,
    pub attention_cap: Option<Key>,
    pub embed_scale: Option<Key>,
    pub residual_scale: Option<Key>,
    pub logit_scale: Option<Key>,
    pub logit_divisor: Option<Key>,
    pub logit_cap: Option<Key>,
    pub experts: Option<Key>,
    pub experts_per_token: Option<Key>,
    pub expert_hidden: Option<Key>,
    pub shared_hidden: Option<Key>,
    pub normalize_experts: Option<Key>,
    /// Every so many blocks one has experts.
    pub experts_step: Option<Key>,
    /// Blocks without experts.
    pub dense_blocks: Option<Key>,
}
