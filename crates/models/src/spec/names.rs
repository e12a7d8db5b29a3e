//! What the tensors of a family are called.

use serde::Deserialize;

/// Names of modules. All stand below the first of `prefixes` under which the checkpoint has its embedding; a name
/// that begins with `/` stands at the root. Those of a block stand below `block`, where `{i}` is its index. An empty name
/// is none: a variant takes a name away with it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are the modules that they name")]
pub struct Names {
    pub prefixes: Vec<String>,
    pub embed: String,
    #[serde(default, deserialize_with = "name")]
    pub embed_projection: Option<String>,
    /// The second convolution of a spectrogram.
    #[serde(default, deserialize_with = "name")]
    pub stem: Option<String>,
    /// Tokens of the model's own that stand before the patches: whole names of tensors.
    #[serde(default)]
    pub tokens: Vec<String>,
    #[serde(default, deserialize_with = "name")]
    pub positions: Option<String>,
    #[serde(default, deserialize_with = "name")]
    pub token_types: Option<String>,
    #[serde(default, deserialize_with = "name")]
    pub embed_norm: Option<String>,
    pub block: String,
    /// Before the attention, or after its sum with the stream.
    #[serde(default, deserialize_with = "name")]
    pub attention_norm: Option<String>,
    /// On what the attention gives, before the sum.
    #[serde(default, deserialize_with = "name")]
    pub attention_post_norm: Option<String>,
    #[serde(default, deserialize_with = "name")]
    pub q: Option<String>,
    #[serde(default, deserialize_with = "name")]
    pub k: Option<String>,
    #[serde(default, deserialize_with = "name")]
    pub v: Option<String>,
    #[serde(default, deserialize_with = "name")]
    pub qkv: Option<String>,
    /// Norm of the queries; `{h}` is the head where every head has its own.
    #[serde(default, deserialize_with = "name")]
    pub q_norm: Option<String>,
    #[serde(default, deserialize_with = "name")]
    pub k_norm: Option<String>,
    pub o: String,
    /// Factors of the channels that the attention adds: the whole name of a tensor.
    #[serde(default, deserialize_with = "name")]
    pub attention_scale: Option<String>,
    #[serde(default, deserialize_with = "name")]
    pub mlp_norm: Option<String>,
    #[serde(default, deserialize_with = "name")]
    pub mlp_post_norm: Option<String>,
    #[serde(default, deserialize_with = "name")]
    pub gate: Option<String>,
    #[serde(default, deserialize_with = "name")]
    pub up: Option<String>,
    #[serde(default, deserialize_with = "name")]
    pub gate_up: Option<String>,
    #[serde(default, deserialize_with = "name")]
    pub down: Option<String>,
    #[serde(default, deserialize_with = "name")]
    pub mlp_scale: Option<String>,
    pub experts: Option<ExpertNames>,
    #[serde(default, deserialize_with = "name")]
    pub final_norm: Option<String>,
    #[serde(default, deserialize_with = "name")]
    pub head_projection: Option<String>,
    #[serde(default, deserialize_with = "name")]
    pub head: Option<String>,
    pub pool: Option<PoolNames>,
    pub cross: Option<CrossNames>,
    /// The table of relative positions in the first block.
    #[serde(default, deserialize_with = "name")]
    pub relative: Option<String>,
    /// Ends of names of tensors that no stage reads, because they follow from `config.json`.
    #[serde(default)]
    pub ignore: Vec<String>,
}

/// Names of a mixture of experts, below the block.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertNames {
    /// The router.
    pub router: String,
    /// The expert `{e}`.
    pub each: MlpNames,
    /// The expert that sees every token.
    pub shared: Option<MlpNames>,
    /// How much of it a token gets.
    pub shared_gate: Option<String>,
}

/// Names of the attention to what the first part of the network gives, below the block.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are the modules that they name")]
pub struct CrossNames {
    pub norm: String,
    pub q: String,
    pub k: String,
    pub v: String,
    pub o: String,
}

/// Names of a learned query and what it reads.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are the modules that they name")]
pub struct PoolNames {
    /// Whole name of a tensor.
    pub probe: String,
    /// Query, key and value in one, without `_weight` and `_bias`.
    pub in_proj: String,
    pub out: String,
    pub norm: String,
    pub up: String,
    pub down: String,
}

/// Names of a feed-forward sublayer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are the modules that they name")]
pub struct MlpNames {
    pub gate: Option<String>,
    pub up: Option<String>,
    pub gate_up: Option<String>,
    pub down: String,
}

impl MlpNames {
    /// Every name changed.
    pub(crate) fn map(&self, change: impl Fn(&String) -> String) -> Self {
        Self {
            gate: self.gate.as_ref().map(&change),
            up: self.up.as_ref().map(&change),
            gate_up: self.gate_up.as_ref().map(&change),
            down: change(&self.down),
        }
    }
}

impl Names {
    /// Names of the feed-forward sublayer of a block without experts.
    pub(crate) fn mlp(&self) -> MlpNames {
        MlpNames {
            gate: self.gate.clone(),
            up: self.up.clone(),
            gate_up: self.gate_up.clone(),
            down: self.down.clone().unwrap_or_default(),
        }
    }
}

fn name<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Some(String::deserialize(from)?).filter(|name| !name.is_empty()))
}
