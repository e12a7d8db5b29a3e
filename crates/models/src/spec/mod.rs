//! Architectures as data: a TOML file a family.
//!
//! A specification says how the one transformer module is laid out, which fields of `config.json` feed it, and what
//! the tensors are called. Where models of one family differ in more than a number, `[[variants]]` change the
//! specification for those whose `config.json` has certain values. A new family is a new file, not new code.

mod built_in;
mod composite;
mod configure;
mod fields;
mod layout;
mod names;
mod propose;
mod rope;
mod synonyms;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::transformer::{MlpKind, QkNorm, QkvKind};
use built_in::BUILT_IN;
pub(crate) use composite::Part;
use composite::{PartSpec, ProjectorSpec};
use fields::Fields;
use layout::{HeadKind, InputKind, Keys, Layout, PositionKind};
pub use names::{CrossNames, ExpertNames, MlpNames, Names, PoolNames};
pub use propose::{Shapes, propose_spec};

/// A family of transformers.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    /// Name of the family.
    pub name: String,
    /// Values of `model_type` in `config.json` that this family answers to.
    pub model_types: Vec<String>,
    /// The table of `config.json` that describes the transformer, where it is not the whole.
    section: Option<String>,
    /// What a network of two parts is made of: encoder and decoder, two towers, or a vision tower and a decoder.
    parts: Vec<PartSpec>,
    /// What stands between the two, where the second reads the features of the first in place of tokens.
    projector: Option<ProjectorSpec>,
    base: toml::Table,
    variants: Vec<Variant>,
}

/// What is changed for some models of a family.
#[derive(Clone, Debug, Deserialize)]
struct Variant {
    /// Fields of `config.json` (or their defaults) and the values that all of them must have.
    when: Map<String, Value>,
    #[serde(flatten)]
    change: toml::Table,
}

/// A specification with its variants settled.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    name: String,
    model_types: Vec<String>,
    section: Option<String>,
    layout: Layout,
    keys: Keys,
    #[serde(default)]
    defaults: Map<String, Value>,
    /// Fields of `config.json` that must have this value, if they are there.
    #[serde(default)]
    require: Map<String, Value>,
    names: Names,
}

impl ModelSpec {
    /// Parses a specification; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Spec`] if it is no TOML, has unknown fields, or lacks names that its layout needs.
    pub fn parse(text: &str, path: &str) -> Result<Self> {
        let fail = |message: String| Error::Spec { path: path.into(), message };
        let mut base: toml::Table = toml::from_str(text).map_err(|e| fail(e.to_string()))?;
        if base.contains_key("parts") {
            return composite::parse(text, base).map_err(fail);
        }
        let variants = base.remove("variants").map(|list| list.try_into::<Vec<Variant>>());
        let variants = variants.transpose().map_err(|e| fail(format!("variants: {e}")))?.unwrap_or_default();
        // The whole text again: its errors have line numbers.
        let body = match variants.is_empty() {
            true => toml::from_str(text),
            false => base.clone().try_into(),
        };
        let body: Body = body.map_err(|e| fail(e.to_string()))?;
        body.check().map_err(fail)?;
        for variant in &variants {
            let mut changed = base.clone();
            merge(&mut changed, &variant.change);
            let settled: Result<Body, _> = changed.try_into();
            settled.map_err(|e| fail(format!("variant for {}: {e}", Value::from(variant.when.clone()))))?;
        }
        let Body { name, model_types, section, .. } = body;
        Ok(Self { name, model_types, section, parts: Vec::new(), projector: None, base, variants })
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

    /// The specification for one model: the variants that its configuration asks for, in order.
    fn resolve(&self, config: &Value, model: &str) -> Result<Body> {
        let fail = |message: String| Error::Spec { path: self.name.clone(), message };
        let base: Body = self.base.clone().try_into().map_err(|e: toml::de::Error| fail(e.to_string()))?;
        let fields = Fields { config, defaults: &base.defaults, family: &self.name, model };
        let mut table = self.base.clone();
        for variant in &self.variants {
            if variant.when.iter().all(|(field, value)| fields.field(field) == Some(value)) {
                merge(&mut table, &variant.change);
            }
        }
        let body: Body = table.try_into().map_err(|e: toml::de::Error| fail(e.to_string()))?;
        body.check().map_err(fail)?;
        Ok(body)
    }
}

/// Puts `change` over `base`, table by table.
fn merge(base: &mut toml::Table, change: &toml::Table) {
    for (key, value) in change {
        match (base.get_mut(key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(change)) => merge(inner, change),
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

impl Body {
    fn check(&self) -> Result<(), String> {
        let (names, layout) = (&self.names, &self.layout);
        let need = |present: bool, what: &str| match present {
            true => Ok(()),
            false => Err(format!("[names] lacks {what}, which the layout needs")),
        };
        match layout.qkv {
            QkvKind::Split => {
                need(names.q.is_some() && names.k.is_some() && names.v.is_some(), "q, k and v")?
            }
            QkvKind::Fused | QkvKind::Interleaved => need(names.qkv.is_some(), "qkv")?,
        }
        let gated = layout.mlp == MlpKind::Gated;
        let complete = |mlp: &MlpNames| match gated {
            true => mlp.gate_up.is_some() || (mlp.gate.is_some() && mlp.up.is_some()),
            false => mlp.up.is_some(),
        };
        if let Some(experts) = &names.experts {
            let each = std::iter::once(&experts.each).chain(&experts.shared);
            need(each.clone().all(complete), "gate and up (or gate_up) of the experts")?;
            need(each.clone().all(|mlp| !mlp.down.is_empty()), "down of the experts")?;
            need(
                self.keys.experts.is_some() && self.keys.experts_per_token.is_some(),
                "experts (in [keys])",
            )?;
        }
        if names.experts.is_none() || names.down.is_some() {
            need(names.down.is_some(), "down")?;
            need(complete(&names.mlp()), if gated { "gate and up (or gate_up)" } else { "up" })?;
        }
        need(names.block.contains("{i}"), "{i} in block")?;
        let keys = &self.keys;
        match layout.input {
            InputKind::Tokens => need(keys.vocab.is_some(), "vocab (in [keys])")?,
            InputKind::Audio => {
                let given = keys.mels.is_some() && keys.positions.is_some() && names.stem.is_some();
                need(given, "stem (and mels, positions in [keys])")?
            }
            InputKind::Patches => {
                let sizes = [&keys.image_size, &keys.patch_size, &keys.channels];
                need(sizes.iter().all(|key| key.is_some()), "image_size, patch_size, channels (in [keys])")?
            }
        }
        if layout.positions == PositionKind::Relative {
            let given = names.relative.is_some()
                && keys.relative_buckets.is_some()
                && keys.relative_distance.is_some();
            need(given, "relative (and relative_buckets, relative_distance in [keys])")?;
        }
        need(layout.head != HeadKind::Attended || names.pool.is_some(), "pool")?;
        if layout.input == InputKind::Tokens && layout.positions == PositionKind::Learned {
            need(names.positions.is_some() && self.keys.positions.is_some(), "positions (also in [keys])")?;
        }
        if let Some(over) = layout.qk_norm {
            need(names.q_norm.is_some() && names.k_norm.is_some(), "q_norm and k_norm")?;
            let split = over != QkNorm::Full || layout.qkv == QkvKind::Split;
            need(split, "q, k and v apart from each other (qk_norm is \"full\")")?;
        }
        need(names.prefixes.iter().all(|p| p.is_empty() || p.ends_with('.')), "prefixes that end with a dot")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_built_in_specification_parses() {
        for (name, text) in BUILT_IN {
            assert_eq!(ModelSpec::parse(text, name).unwrap().name, *name);
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
