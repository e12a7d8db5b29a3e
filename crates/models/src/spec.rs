//! Architectures as data: a TOML file a family.
//!
//! A specification says how the one transformer module is laid out, which fields of `config.json` feed it, and what
//! the tensors are called. A new family is a new file, not new code.

use serde::Deserialize;
use serde_json::Value;
use trimtab_nn::rotary::{Rotary, RotaryScaling};
use trimtab_nn::{Activation, NormKind};

use crate::error::{Error, Result};
use crate::transformer::{Head, MlpKind, NormPlace, Positions, TransformerConfig};

const BUILT_IN: [(&str, &str); 5] = [
    ("llama", include_str!("../specs/llama.toml")),
    ("mistral", include_str!("../specs/mistral.toml")),
    ("qwen2", include_str!("../specs/qwen2.toml")),
    ("gpt2", include_str!("../specs/gpt2.toml")),
    ("bert", include_str!("../specs/bert.toml")),
];

/// A family of transformers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Name of the family.
    pub name: String,
    /// Values of `model_type` in `config.json` that this family answers to.
    pub model_types: Vec<String>,
    layout: Layout,
    keys: Keys,
    #[serde(default)]
    defaults: serde_json::Map<String, Value>,
    /// What the tensors are called.
    pub names: Names,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layout {
    causal: bool,
    norm: NormKind,
    norm_place: NormPlace,
    positions: PositionKind,
    qkv: QkvKind,
    mlp: MlpKind,
    head: HeadKind,
    #[serde(default)]
    stored_in_out: bool,
    #[serde(default)]
    qkv_bias: bool,
    #[serde(default)]
    out_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PositionKind {
    Rotary,
    Learned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum QkvKind {
    Split,
    Fused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HeadKind {
    Language,
    Pooler,
}

/// Which field of `config.json` holds which option.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    width: String,
    blocks: String,
    heads: String,
    hidden: String,
    vocab: String,
    eps: String,
    activation: String,
    kv_heads: Option<String>,
    head_width: Option<String>,
    tied: Option<String>,
    positions: Option<String>,
    token_types: Option<String>,
    window: Option<String>,
    use_window: Option<String>,
    full_attention_blocks: Option<String>,
    qkv_bias: Option<String>,
    out_bias: Option<String>,
    mlp_bias: Option<String>,
}

/// Names of modules. All stand below the first of `prefixes` under which the checkpoint has its embedding; a name
/// that begins with `/` stands at the root. Those of a block stand below `block`, where `{i}` is its index.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are the modules that they name")]
pub struct Names {
    pub prefixes: Vec<String>,
    pub embed: String,
    pub positions: Option<String>,
    pub token_types: Option<String>,
    pub embed_norm: Option<String>,
    pub block: String,
    pub attention_norm: String,
    pub q: Option<String>,
    pub k: Option<String>,
    pub v: Option<String>,
    pub qkv: Option<String>,
    pub o: String,
    pub mlp_norm: String,
    pub gate: Option<String>,
    pub up: String,
    pub down: String,
    pub final_norm: Option<String>,
    pub head: Option<String>,
}

impl ModelSpec {
    /// Parses a specification; `path` is for messages.
    pub fn parse(text: &str, path: &str) -> Result<Self> {
        let fail = |message: String| Error::Spec { path: path.into(), message };
        let spec: Self = toml::from_str(text).map_err(|e| fail(e.to_string()))?;
        spec.check().map_err(fail)?;
        Ok(spec)
    }

    /// The built-in specification for a `model_type`.
    pub fn built_in(model_type: &str) -> Result<Option<Self>> {
        for (name, text) in BUILT_IN {
            let spec = Self::parse(text, name)?;
            if spec.model_types.iter().any(|known| known == model_type) {
                return Ok(Some(spec));
            }
        }
        Ok(None)
    }

    /// Names of the built-in families.
    pub fn known() -> Vec<&'static str> {
        BUILT_IN.iter().map(|(name, _)| *name).collect()
    }

    fn check(&self) -> Result<(), String> {
        let names = &self.names;
        let need = |present: bool, what: &str| match present {
            true => Ok(()),
            false => Err(format!("[names] lacks {what}, which the layout needs")),
        };
        match self.layout.qkv {
            QkvKind::Split => {
                need(names.q.is_some() && names.k.is_some() && names.v.is_some(), "q, k and v")?
            }
            QkvKind::Fused => need(names.qkv.is_some(), "qkv")?,
        }
        need(self.layout.mlp == MlpKind::Plain || names.gate.is_some(), "gate")?;
        need(names.block.contains("{i}"), "{i} in block")?;
        if self.layout.positions == PositionKind::Learned {
            need(names.positions.is_some() && self.keys.positions.is_some(), "positions (also in [keys])")?;
        }
        need(names.prefixes.iter().all(|p| p.is_empty() || p.ends_with('.')), "prefixes that end with a dot")
    }

    /// The options of the module for one `config.json`; `model` is for messages.
    pub fn configure(&self, config: &Value, model: &str) -> Result<TransformerConfig> {
        let fields = Fields { config, spec: self, model };
        let keys = &self.keys;
        let (width, heads) = (fields.count(&keys.width)?, fields.count(&keys.heads)?);
        let kv_heads = fields.optional(keys.kv_heads.as_deref(), Fields::count)?.unwrap_or(heads);
        let head_width = match fields.optional(keys.head_width.as_deref(), Fields::count)? {
            Some(width) => width,
            None if width.is_multiple_of(heads) => width / heads,
            None => {
                return Err(fields
                    .fail(format!("{} = {width} is no multiple of {} = {heads}", keys.width, keys.heads)));
            }
        };
        if !heads.is_multiple_of(kv_heads) {
            return Err(fields.fail(format!("{heads} query heads cannot share {kv_heads} key-value heads")));
        }
        let layout = &self.layout;
        let switch = |fixed: bool, key: &Option<String>| -> Result<bool> {
            Ok(fixed || fields.optional(key.as_deref(), Fields::flag)?.unwrap_or(false))
        };
        let blocks = fields.count(&keys.blocks)?;
        let windowed = fields.optional(keys.use_window.as_deref(), Fields::flag)?.unwrap_or(true);
        let window = if windowed { fields.optional(keys.window.as_deref(), Fields::count)? } else { None };
        let full = fields.optional(keys.full_attention_blocks.as_deref(), Fields::count)?.unwrap_or(0);
        Ok(TransformerConfig {
            width,
            heads,
            kv_heads,
            head_width,
            hidden: fields.optional(Some(&keys.hidden), Fields::count)?.unwrap_or(4 * width),
            vocab: fields.count(&keys.vocab)?,
            norm: layout.norm,
            norm_place: layout.norm_place,
            eps: fields.number(&keys.eps)?,
            activation: fields.activation(&keys.activation)?,
            positions: match layout.positions {
                PositionKind::Rotary => Positions::Rotary(fields.rotary(head_width)?),
                PositionKind::Learned => {
                    Positions::Learned(fields.count(keys.positions.as_deref().unwrap_or_default())?)
                }
            },
            token_types: fields.optional(keys.token_types.as_deref(), Fields::count)?,
            causal: layout.causal,
            windows: (0..blocks).map(|i| window.filter(|_| i >= full)).collect(),
            fused_qkv: layout.qkv == QkvKind::Fused,
            qkv_bias: switch(layout.qkv_bias, &keys.qkv_bias)?,
            out_bias: switch(layout.out_bias, &keys.out_bias)?,
            mlp: layout.mlp,
            mlp_bias: switch(layout.mlp_bias, &keys.mlp_bias)?,
            stored_in_out: layout.stored_in_out,
            head: match layout.head {
                HeadKind::Pooler => Head::Pooler,
                HeadKind::Language => {
                    match fields.optional(keys.tied.as_deref(), Fields::flag)?.unwrap_or(false) {
                        true => Head::Tied,
                        false => Head::Language,
                    }
                }
            },
        })
    }
}

/// `config.json` over the defaults of the specification.
struct Fields<'a> {
    config: &'a Value,
    spec: &'a ModelSpec,
    model: &'a str,
}

impl Fields<'_> {
    fn fail(&self, message: String) -> Error {
        Error::Config { model: self.model.into(), message }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        let given = self.config.get(key).filter(|value| !value.is_null());
        given.or_else(|| self.spec.defaults.get(key))
    }

    fn need(&self, key: &str) -> Result<&Value> {
        self.get(key)
            .ok_or_else(|| self.fail(format!("no field \"{key}\", which {} models need", self.spec.name)))
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> Error {
        self.fail(format!("\"{key}\" is {value}, expected {expected}"))
    }

    fn optional<T>(&self, key: Option<&str>, read: impl Fn(&Self, &str) -> Result<T>) -> Result<Option<T>> {
        key.filter(|key| self.get(key).is_some()).map(|key| read(self, key)).transpose()
    }

    fn count(&self, key: &str) -> Result<usize> {
        let value = self.need(key)?;
        let count = value.as_u64().filter(|&n| n > 0 && n < 1 << 32);
        count.map(|n| n as usize).ok_or_else(|| self.wrong(key, value, "a positive whole number"))
    }

    fn number(&self, key: &str) -> Result<f64> {
        let value = self.need(key)?;
        let number = value.as_f64().filter(|n| n.is_finite() && *n > 0.0);
        number.ok_or_else(|| self.wrong(key, value, "a positive number"))
    }

    fn flag(&self, key: &str) -> Result<bool> {
        let value = self.need(key)?;
        value.as_bool().ok_or_else(|| self.wrong(key, value, "true or false"))
    }

    fn activation(&self, key: &str) -> Result<Activation> {
        let value = self.need(key)?;
        Activation::deserialize(value)
            .map_err(|_| self.wrong(key, value, "one of silu, gelu, gelu_new, gelu_pytorch_tanh, relu"))
    }

    /// Rotary settings, in the old style (fields of their own) or the new one (`rope_parameters`).
    fn rotary(&self, head_width: usize) -> Result<Rotary> {
        let table = self.get("rope_parameters").or_else(|| self.get("rope_scaling"));
        let inner = |name: &str| table.and_then(|table| table.get(name));
        let number = |name: &str| {
            let value = inner(name).and_then(Value::as_f64).filter(|n| *n > 0.0);
            value.ok_or_else(|| self.fail(format!("rope settings lack a positive \"{name}\"")))
        };
        let theta = match inner("rope_theta") {
            Some(_) => number("rope_theta")?,
            None => self.number("rope_theta")?,
        };
        let kind = inner("rope_type").or_else(|| inner("type")).and_then(Value::as_str).unwrap_or("default");
        let scaling = match kind {
            "default" => RotaryScaling::None,
            "linear" => RotaryScaling::Linear { factor: number("factor")? },
            "llama3" => RotaryScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_positions: number("original_max_position_embeddings")?,
            },
            other => {
                return Err(
                    self.fail(format!("rope type \"{other}\" is not known; known: default, linear, llama3"))
                );
            }
        };
        if !head_width.is_multiple_of(2) {
            return Err(self.fail(format!("heads of odd width {head_width} cannot be rotated")));
        }
        Ok(Rotary { theta, dim: head_width, scaling })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_built_in_specification_parses() {
        for (name, text) in BUILT_IN {
            assert_eq!(ModelSpec::parse(text, name).unwrap().name, name);
        }
    }

    #[test]
    fn a_missing_field_is_named() {
        let spec = ModelSpec::built_in("llama").unwrap().unwrap();
        let error = spec.configure(&json!({"hidden_size": 64}), "m").unwrap_err().to_string();
        assert!(error.contains("num_attention_heads"), "{error}");
    }

    #[test]
    fn nonsense_is_refused() {
        let spec = ModelSpec::built_in("llama").unwrap().unwrap();
        for bad in [json!(-3), json!(0), json!("many"), json!(1.5), json!(u64::MAX)] {
            let error = spec.configure(&json!({"hidden_size": bad}), "m").unwrap_err().to_string();
            assert!(error.contains("hidden_size"), "{error}");
        }
    }

    #[test]
    fn a_layout_without_its_names_is_refused() {
        let text = BUILT_IN[0].1.replace("gate = \"mlp.gate_proj\"\n", "");
        assert!(ModelSpec::parse(&text, "x").unwrap_err().to_string().contains("gate"));
    }
}
