//! The language in which a family of convolutional networks is described.
//!
//! A specification is a stem, a row of stages of repeated blocks, and a head. Each is a list of layers that run one after
//! another; a block may have a shortcut around them. Widths, depths, kernels, groups and biases are not written down: they
//! are those of the tensors. What tensors do not tell (strides, activations, epsilons) is.
//!
//! Names are relative to the block; a name that begins with `/` stands at the root. `{s}` and `{i}` are the indices of
//! stage and block, also as `{2s-1}` or `{i+1}`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use trimtab_nn::Activation;

use super::name;
use super::normalization::Normalization;
use crate::error::{Error, Result};

const BUILT_IN: [(&str, &str); 11] = [
    ("resnet_cifar", include_str!("../../specs/conv/resnet_cifar.toml")),
    ("resnet", include_str!("../../specs/conv/resnet.toml")),
    ("resnet_hf", include_str!("../../specs/conv/resnet_hf.toml")),
    ("vgg", include_str!("../../specs/conv/vgg.toml")),
    ("mobilenet_v2", include_str!("../../specs/conv/mobilenet_v2.toml")),
    ("efficientnet", include_str!("../../specs/conv/efficientnet.toml")),
    ("efficientnet_lite", include_str!("../../specs/conv/efficientnet_lite.toml")),
    ("convnext", include_str!("../../specs/conv/convnext.toml")),
    ("convnext_hf", include_str!("../../specs/conv/convnext_hf.toml")),
    ("convnet", include_str!("../../specs/conv/convnet.toml")),
    ("mlp", include_str!("../../specs/conv/mlp.toml")),
];

/// A family of convolutional networks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvSpec {
    /// Name of the family.
    pub name: String,
    /// Values of `model_type` in `config.json` that this family answers to; without a `config.json`, the tensors decide.
    #[serde(default)]
    pub model_types: Vec<String>,
    /// Values of `architecture` in `config.json` (timm) that this family answers to. Where that field is, it decides.
    #[serde(default)]
    pub architectures: Vec<String>,
    /// Whether tensors alone tell this family from all others.
    #[serde(default = "yes")]
    pub(super) by_tensors: bool,
    /// Fields of `config.json` that must have these values, where they are present.
    #[serde(default)]
    pub(super) requires: serde_json::Map<String, Value>,
    /// Tensors that other families have beside those of this one.
    #[serde(default)]
    pub(super) lacks: Vec<String>,
    /// Values of fields that `config.json` lacks.
    #[serde(default)]
    defaults: serde_json::Map<String, Value>,
    /// Added to the variance of batch norms.
    #[serde(default = "batch_norm_eps")]
    pub(super) batch_norm_eps: f64,
    /// Added to the variance of layer norms.
    #[serde(default = "layer_norm_eps")]
    pub(super) layer_norm_eps: f64,
    /// Mean and standard deviation of the colours, where the checkpoint does not state them.
    pub(super) normalize: Option<Normalization>,
    /// Side of the images that networks of the family are made for, where the checkpoint does not state it.
    pub(super) pixels: Option<usize>,
    /// What comes before the blocks. Without layers, the first block is the stem.
    #[serde(default)]
    pub(super) stem: Layers,
    pub(super) stages: Vec<StageSpec>,
    /// Kinds of blocks.
    #[serde(default)]
    pub(super) units: BTreeMap<String, UnitSpec>,
    pub(super) head: Layers,
}

fn yes() -> bool {
    true
}

fn batch_norm_eps() -> f64 {
    1e-5
}

fn layer_norm_eps() -> f64 {
    1e-6
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Layers {
    #[serde(default)]
    pub layers: Vec<LayerSpec>,
}

/// Blocks that repeat as long as the checkpoint has their tensors; one block, if its name has no place for an index.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StageSpec {
    /// Name of a block; empty for one at the root.
    pub block: String,
    /// Strides: of the first block of every stage where the name has `{s}`, else of every block.
    #[serde(default)]
    pub strides: Vec<usize>,
    /// Layers before the first block of a stage, where the checkpoint has them.
    #[serde(default)]
    pub enter: Vec<LayerSpec>,
    /// Kinds of block, by name; the first whose tensors are all there is taken.
    pub units: Vec<String>,
    /// Layers without tensors that follow a block where the numbering leaves a place, and the last block.
    #[serde(default)]
    pub between: Vec<LayerSpec>,
}

/// A kind of block.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UnitSpec {
    pub layers: Vec<LayerSpec>,
    /// What is added to the result.
    pub shortcut: Option<ShortcutSpec>,
    /// Layers of the shortcut, where the checkpoint has their tensors; it is then as wide as the result.
    #[serde(default)]
    pub projection: Vec<LayerSpec>,
    /// Activation after the sum.
    pub after: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ShortcutSpec {
    /// The input.
    Identity,
    /// The input where the block changes neither width nor size; nothing elsewhere.
    SameShape,
    /// The input; where the block changes it, every `stride`-th pixel, with new channels of zeros on both sides.
    Pad,
}

/// One layer: exactly one of `conv`, `linear`, `norm`, `layer_norm`, `act`, `pool`, `squeeze`, `scale`. A `conv` and a
/// `linear` may be followed by a `norm` and an `act` in the same entry.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LayerSpec {
    pub conv: Option<String>,
    pub linear: Option<String>,
    /// Batch norm.
    pub norm: Option<String>,
    /// Layer norm over the channels.
    pub layer_norm: Option<String>,
    /// Activation, or `config:FIELD`.
    pub act: Option<String>,
    pub pool: Option<PoolSpec>,
    pub squeeze: Option<SqueezeSpec>,
    /// A factor for every channel: the full name of its tensor.
    pub scale: Option<String>,
    pub stride: Option<Stride>,
    pub padding: Option<Padding>,
    /// Side of a pooling window.
    pub size: Option<usize>,
    /// Side of the kernel, for packed weights of convolutions with groups, which do not tell it.
    pub kernel: Option<usize>,
    /// Whether each channel has a kernel of its own; needed for packed weights only.
    #[serde(default)]
    pub depthwise: bool,
    /// Added to the variance of a norm: a number, or `config:FIELD`.
    pub eps: Option<Eps>,
    /// Whether the layer may be missing.
    #[serde(default)]
    pub optional: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PoolSpec {
    Max,
    /// Zeros outside count.
    Average,
    /// One number a channel.
    Global,
    /// All pixels as one vector; averaged to as many as the linear map that follows reads.
    Flatten,
}

/// Squeeze and excite: `x * gate(expand(act(reduce(mean x))))`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SqueezeSpec {
    pub reduce: String,
    pub expand: String,
    pub act: String,
    pub gate: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum Stride {
    Fixed(usize),
    /// `block`: that of the block.
    Named(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum Padding {
    Fixed(usize),
    /// `same`: as much as it takes for an output of `size / stride`, rounded up, the odd zero at the end (TensorFlow).
    Named(String),
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub(super) enum Eps {
    Fixed(f64),
    Field(String),
}

impl LayerSpec {
    fn check(&self) -> Result<(), String> {
        let heads = [
            ("conv", self.conv.is_some()),
            ("linear", self.linear.is_some()),
            ("layer_norm", self.layer_norm.is_some()),
            ("pool", self.pool.is_some()),
            ("squeeze", self.squeeze.is_some()),
            ("scale", self.scale.is_some()),
        ];
        let named: Vec<&str> = heads.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
        let alone = self.norm.is_some() || self.act.is_some();
        if named.len() > 1 || named.is_empty() && !alone {
            let list = "conv, linear, norm, layer_norm, act, pool, squeeze and scale";
            return Err(format!("a layer needs exactly one of {list}; found {named:?}"));
        }
        if self.norm.is_some() && !named.is_empty() && self.conv.is_none() && self.linear.is_none() {
            return Err(format!("a norm after {named:?} needs an entry of its own"));
        }
        let windowed = matches!(self.pool, Some(PoolSpec::Max | PoolSpec::Average));
        if windowed != self.size.is_some() || self.size == Some(0) {
            return Err("a pool by windows needs a size of at least 1, and nothing else has one".into());
        }
        let windowed = windowed || self.conv.is_some();
        if !windowed && (self.stride.is_some() || self.padding.is_some()) {
            return Err(format!("{named:?} has neither stride nor padding"));
        }
        match &self.stride {
            Some(Stride::Fixed(0)) => return Err("a stride of 0".into()),
            Some(Stride::Named(name)) if name != "block" => {
                return Err(format!("stride \"{name}\"; a number or \"block\""));
            }
            _ => {}
        }
        if let Some(Padding::Named(name)) = &self.padding
            && (name != "same" || self.conv.is_none())
        {
            return Err(format!("padding \"{name}\"; a number, or \"same\" for a convolution"));
        }
        let squeeze = self.squeeze.iter().flat_map(|s| [&s.reduce, &s.expand]);
        let names = [&self.conv, &self.linear, &self.norm, &self.layer_norm, &self.scale];
        names.into_iter().flatten().chain(squeeze).try_for_each(|template| name::check(template))
    }
}

impl ConvSpec {
    /// Whether a TOML text is a specification of this kind (and not one of a transformer).
    pub fn is_meant_by(text: &str) -> bool {
        toml::from_str::<toml::Table>(text).is_ok_and(|table| table.contains_key("stages"))
    }

    /// The built-in specifications.
    ///
    /// # Errors
    ///
    /// None of those that are built in has any.
    pub fn built_in() -> Result<Vec<Self>> {
        BUILT_IN.iter().map(|(name, text)| Self::parse(text, name)).collect()
    }

    /// Names of the built-in families.
    pub fn known() -> Vec<&'static str> {
        BUILT_IN.iter().map(|(name, _)| *name).collect()
    }

    /// Parses a specification; `path` is for messages.
    ///
    /// # Errors
    ///
    /// What is wrong with the text and where.
    pub fn parse(text: &str, path: &str) -> Result<Self> {
        let fail = |message: String| Error::Spec { path: path.into(), message };
        let spec: Self = toml::from_str(text).map_err(|e| fail(e.to_string()))?;
        spec.check().map_err(fail)?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), String> {
        let at = |place: &str, layers: &[LayerSpec]| {
            layers.iter().try_for_each(LayerSpec::check).map_err(|e| format!("[{place}] {e}"))
        };
        at("stem", &self.stem.layers)?;
        at("head", &self.head.layers)?;
        for (name, unit) in &self.units {
            at(&format!("units.{name}"), &unit.layers)?;
            at(&format!("units.{name}"), &unit.projection)?;
        }
        for stage in &self.stages {
            name::check(&stage.block)?;
            at("stages", &stage.enter)?;
            at("stages", &stage.between)?;
            if let Some(unit) = stage.units.iter().find(|unit| !self.units.contains_key(*unit)) {
                return Err(format!("[[stages]] names the unit \"{unit}\", which is not in [units]"));
            }
            if stage.units.is_empty() || stage.strides.contains(&0) {
                return Err("[[stages]] needs at least one unit, and strides of at least 1".into());
            }
            if name::has(&stage.block, 's') && !name::has(&stage.block, 'i') {
                return Err(format!("\"{}\" counts stages but no blocks", stage.block));
            }
        }
        let colours = self.normalize.as_ref().map_or(0, |c| c.mean.len().abs_diff(c.std.len()));
        let positive = self.batch_norm_eps > 0.0 && self.layer_norm_eps > 0.0;
        match colours == 0 && positive {
            true => Ok(()),
            false => Err("normalize needs as many means as deviations, and epsilons are positive".into()),
        }
    }

    /// The activation that `text` names, by itself or by a field of `config`.
    pub(super) fn activation(&self, text: &str, config: Option<&Value>) -> Result<Activation, String> {
        let value = self.resolve(text, config)?;
        Activation::deserialize(&value).map_err(|_| format!("activation {value} is not known"))
    }

    /// A number, by itself or by a field of `config`.
    pub(super) fn number(&self, eps: &Eps, config: Option<&Value>) -> Result<f64, String> {
        let number = match eps {
            Eps::Fixed(number) => Some(*number),
            Eps::Field(text) => self.resolve(text, config)?.as_f64(),
        };
        number.filter(|n| n.is_finite() && *n > 0.0).ok_or_else(|| format!("{eps:?} is no positive number"))
    }

    fn resolve(&self, text: &str, config: Option<&Value>) -> Result<Value, String> {
        let Some(field) = text.strip_prefix("config:") else { return Ok(Value::from(text)) };
        let given = config.and_then(|config| config.get(field)).filter(|value| !value.is_null());
        let value = given.or_else(|| self.defaults.get(field)).cloned();
        value.ok_or_else(|| format!("config.json has no field \"{field}\", which {} models need", self.name))
    }
}
