//! Networks of several families: an encoder and a decoder, two towers, or a vision tower and the decoder that reads it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::built_in::BUILT_IN;
use super::fields::{Fields, Key};
use super::{ModelSpec, Variant};
use crate::error::{Error, Result};
use crate::transformer::ProjectorOptions;

/// A specification that names its parts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Composite {
    pub name: String,
    pub model_types: Vec<String>,
    pub parts: Vec<PartSpec>,
    pub projector: Option<ProjectorSpec>,
}

/// A part of a network.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "a part is the name of a built-in family, or a table with section and roots")]
pub(super) enum PartSpec {
    /// A built-in family.
    Family(String),
    /// Whatever family a table of `config.json` names.
    Section(SectionSpec),
}

/// A part that a table of `config.json` describes as if it were a model of its own.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SectionSpec {
    /// The table.
    section: String,
    /// Its `model_type`, where it does not say.
    model_type: Option<String>,
    /// What stands before the prefixes of the family: the first under which the checkpoint has the part.
    roots: Vec<String>,
    /// Switches that hold for the part if they hold for the whole.
    #[serde(default)]
    inherits: Vec<String>,
    /// What a missing field of the table means, by `model_type`: such tables hold what differs from the defaults of
    /// the reference.
    #[serde(default)]
    defaults: BTreeMap<String, Map<String, Value>>,
}

/// Two linear maps between a vision tower and the decoder that reads its features.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProjectorSpec {
    /// What stands before the names: the first under which the checkpoint has the projector.
    roots: Vec<String>,
    /// From the tower to the decoder.
    up: String,
    /// The second map.
    down: String,
    activation: Key,
    bias: Key,
    /// Which hidden states of the tower are its features; negative numbers count from the end.
    layer: Key,
    /// Which rows of them: `"default"` leaves out the first, `"full"` keeps all.
    rows: Key,
    /// Id of the tokens in whose place features stand.
    token: Key,
    #[serde(default)]
    defaults: Map<String, Value>,
}

/// A part with the configuration that it reads.
pub(crate) struct Part {
    pub spec: ModelSpec,
    pub config: Value,
    /// What may stand before the prefixes of the family.
    pub roots: Vec<String>,
    /// The table that describes the part, where that is not the whole.
    pub section: Option<String>,
}

impl Composite {
    /// What is wrong with the parts.
    pub fn check(&self) -> std::result::Result<(), String> {
        let known = |part: &PartSpec| match part {
            PartSpec::Family(family) => BUILT_IN.iter().any(|(name, _)| name == family),
            PartSpec::Section(_) => true,
        };
        if self.parts.len() != 2 || !self.parts.iter().all(known) {
            let parts: Vec<&str> = self.parts.iter().map(PartSpec::label).collect();
            return Err(format!("parts are two built-in families, not {}", parts.join(", ")));
        }
        let roots = self.parts.iter().filter_map(|part| match part {
            PartSpec::Family(_) => None,
            PartSpec::Section(section) => Some(&section.roots),
        });
        let roots: Vec<&Vec<String>> = roots.chain(self.projector.iter().map(|p| &p.roots)).collect();
        let dotted = |root: &String| root.is_empty() || root.ends_with('.');
        if roots.iter().any(|roots| roots.is_empty() || !roots.iter().all(dotted)) {
            return Err("roots are names of modules that end with a dot, at least one".into());
        }
        Ok(())
    }
}

impl PartSpec {
    /// How messages call the part.
    pub fn label(&self) -> &str {
        match self {
            Self::Family(name) => name,
            Self::Section(section) => &section.section,
        }
    }
}

impl ModelSpec {
    /// The parts of a network, each with the configuration that it reads; one that has no parts is its own. `model` is
    /// for messages.
    ///
    /// # Errors
    /// [`Error::Config`] if a part is not described, or is of a family that is not known.
    pub(crate) fn parts(&self, config: &Value, model: &str) -> Result<Vec<Part>> {
        let whole = |spec: Self| Part {
            section: spec.section_in(config),
            spec,
            config: config.clone(),
            roots: vec![String::new()],
        };
        if self.parts.is_empty() {
            return Ok(vec![whole(self.clone())]);
        }
        let part = |part: &PartSpec| match part {
            PartSpec::Section(section) => section.read(config, model),
            PartSpec::Family(family) => {
                let text = BUILT_IN.iter().find(|(name, _)| name == family).map_or("", |(_, text)| text);
                Self::parse(text, family).map(whole)
            }
        };
        self.parts.iter().map(part).collect()
    }

    /// What stands between the parts, if anything does; `depth` is the number of blocks of the first of them.
    ///
    /// # Errors
    /// [`Error::Config`] if a field is missing, of the wrong kind, or says what is not known.
    pub(crate) fn projector(
        &self,
        config: &Value,
        model: &str,
        depth: usize,
    ) -> Result<Option<ProjectorOptions>> {
        let Some(spec) = &self.projector else { return Ok(None) };
        let fields = Fields { config, defaults: &spec.defaults, family: &self.name, model };
        let drop_first = match fields.get(&spec.rows).and_then(Value::as_str) {
            Some("default") => true,
            Some("full") => false,
            _ => {
                let found = fields.get(&spec.rows).cloned().unwrap_or_default();
                return Err(fields.wrong(&spec.rows, &found, "\"default\" or \"full\""));
            }
        };
        Ok(Some(ProjectorOptions {
            roots: spec.roots.clone(),
            up: spec.up.clone(),
            down: spec.down.clone(),
            activation: fields.activation(&spec.activation)?,
            bias: fields.flag(&spec.bias)?,
            blocks: spec.feature_blocks(&fields, depth)?,
            drop_first,
            token: fields.index(&spec.token)?,
        }))
    }
}

impl SectionSpec {
    fn read(&self, config: &Value, model: &str) -> Result<Part> {
        let fail = |message: String| Error::Config { model: model.into(), message };
        let section = &self.section;
        let Some(given) = config.get(section).and_then(Value::as_object) else {
            return Err(fail(format!("no table \"{section}\", which says what the part is made of")));
        };
        let model_type = given.get("model_type").and_then(Value::as_str).or(self.model_type.as_deref());
        let model_type = model_type.ok_or_else(|| fail(format!("\"{section}\" has no model_type")))?;
        let spec =
            ModelSpec::built_in(model_type)?.filter(|spec| spec.parts.is_empty()).ok_or_else(|| {
                let known = ModelSpec::known().join(", ");
                fail(format!(
                    "\"{section}\" is of model_type \"{model_type}\", which is not known; known: {known}"
                ))
            })?;
        let mut fields = self.defaults.get(model_type).cloned().unwrap_or_default();
        // A null is kept: it takes a default away.
        fields.extend(given.iter().map(|(name, value)| (name.clone(), value.clone())));
        for name in &self.inherits {
            if config.get(name) == Some(&Value::Bool(true)) {
                fields.insert(name.clone(), true.into());
            }
        }
        Ok(Part { spec, config: fields.into(), roots: self.roots.clone(), section: Some(section.clone()) })
    }
}

impl ProjectorSpec {
    /// Blocks that stand before the features, of a tower of `depth`.
    fn feature_blocks(&self, fields: &Fields<'_>, depth: usize) -> Result<usize> {
        let found = fields.get(&self.layer).cloned().unwrap_or_default();
        let layer = match &found {
            // One layer may be written as a list.
            Value::Array(layers) if layers.len() == 1 => layers[0].as_i64(),
            Value::Array(layers) => {
                let label = self.layer.label();
                let n = layers.len();
                return Err(fields.fail(format!(
                    "\"{label}\" lists {n} layers; features are known only as the hidden states of one"
                )));
            }
            layer => layer.as_i64(),
        };
        // Hidden states are counted from what enters the first block.
        let states = depth as i64 + 1;
        let blocks = layer.map(|layer| if layer < 0 { states + layer } else { layer });
        let blocks = blocks.filter(|blocks| (0..states).contains(blocks));
        blocks.map(|blocks| blocks as usize).ok_or_else(|| {
            fields.wrong(&self.layer, &found, &format!("a layer of a tower with {depth} blocks"))
        })
    }
}

/// The fields of a [`ModelSpec`] that is made of parts.
pub(super) fn parse(text: &str, base: toml::Table) -> std::result::Result<ModelSpec, String> {
    let composite: Composite = toml::from_str(text).map_err(|e| e.to_string())?;
    composite.check()?;
    let Composite { name, model_types, parts, projector } = composite;
    let variants: Vec<Variant> = Vec::new();
    Ok(ModelSpec { name, model_types, section: None, parts, projector, base, variants })
}
