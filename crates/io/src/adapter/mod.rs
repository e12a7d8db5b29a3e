//! PEFT adapters: small matrices beside a model that change it, and what they make of its weights.
//!
//! Source: PEFT, `docs/source/developer_guides/checkpoint.md`, `tuners/lora/{config,layer,variants,dora}.py`.

mod config;
mod merge;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::bytes::Bytes;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::nearest::nearest;
use config::AdapterConfig;
pub use merge::LowRank;
pub use write::{AdapterModule, adapter_files};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
/// Begins every name in an adapter.
const PREFIX: &str = "base_model.model.";

/// A LoRA adapter in PEFT's format, for one model.
///
/// Read are LoRA and DoRA on linear maps, embeddings and convolutions without groups, with ranks and scales a module,
/// biases, and fully trained modules. What an adapter of another kind would do to the model is not guessed: it is refused.
#[derive(Clone, Debug)]
pub struct Adapter {
    checkpoint: Checkpoint,
    config: AdapterConfig,
    modules: BTreeMap<String, Module>,
    /// Tensors of the model that are stored whole: their name, and that in the adapter.
    replaced: BTreeMap<String, String>,
}

/// Names of the tensors of one module in the adapter, and what is known of them.
#[derive(Clone, Debug, Default)]
struct Module {
    a: Option<String>,
    b: Option<String>,
    magnitude: Option<String>,
    bias: Option<String>,
    embedding: bool,
    scale: f32,
}

impl Adapter {
    /// Opens a directory with `adapter_config.json` and `adapter_model.safetensors`, or `adapter_model.bin`.
    ///
    /// # Errors
    /// [`Error::NotACheckpoint`] if a file is missing; [`Error::Malformed`] and [`Error::Tensor`] for a kind of adapter, a
    /// setting or a name that is not understood, and for matrices that do not fit together.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = WEIGHTS.map(|name| path.join(name)).into_iter().find(|file| file.is_file());
        let missing = |what: &str| Error::NotACheckpoint {
            path: PathBuf::from(path),
            message: format!("no {what}"),
            hint: "pass a directory with adapter_config.json and adapter_model.safetensors",
        };
        let file = file.ok_or_else(|| missing(WEIGHTS[0]))?;
        Self::from_checkpoint(Checkpoint::open(file)?).map_err(|error| match error {
            Error::NotACheckpoint { .. } => missing(CONFIG),
            other => other,
        })
    }

    /// An adapter of a checkpoint that has `adapter_config.json` beside its tensors.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_checkpoint(checkpoint: Checkpoint) -> Result<Self> {
        let bytes = checkpoint.side_file(CONFIG)?.ok_or_else(|| Error::NotACheckpoint {
            path: checkpoint.path().into(),
            message: format!("no {CONFIG}"),
            hint: "pass a directory with adapter_config.json and adapter_model.safetensors",
        })?;
        let label = checkpoint.dir().map_or(CONFIG.into(), |dir| dir.join(CONFIG).display().to_string());
        let config = AdapterConfig::parse(&label, &bytes)?;
        let mut adapter = Self { checkpoint, config, modules: BTreeMap::new(), replaced: BTreeMap::new() };
        let names: Vec<String> = adapter.checkpoint.names().map(String::from).collect();
        for name in names {
            adapter.take(name)?;
        }
        adapter.check(&label)?;
        Ok(adapter)
    }

    /// Sorts one tensor in.
    fn take(&mut self, name: String) -> Result<()> {
        let wrong = |message: &str| Error::tensor(&self.label(), &name, message);
        let inner = name.strip_prefix(PREFIX);
        let inner = inner
            .ok_or_else(|| wrong("not a name of PEFT, which begin with \"base_model.model.\""))?
            .to_owned();
        type Slot = fn(&mut Module) -> &mut Option<String>;
        let slots: [(&str, bool, Slot); 7] = [
            (".lora_A.weight", false, |module| &mut module.a),
            (".lora_B.weight", false, |module| &mut module.b),
            (".lora_embedding_A", true, |module| &mut module.a),
            (".lora_embedding_B", true, |module| &mut module.b),
            (".lora_magnitude_vector", false, |module| &mut module.magnitude),
            (".lora_magnitude_vector.weight", false, |module| &mut module.magnitude),
            (".lora_B.bias", false, |module| &mut module.bias),
        ];
        for (end, embedding, slot) in slots {
            if let Some(module) = inner.strip_suffix(end) {
                let module = self.modules.entry(module.into()).or_default();
                module.embedding |= embedding;
                if let Some(other) = slot(module).replace(name.clone()) {
                    return Err(Error::tensor(
                        &self.label(),
                        &name,
                        format!("plays the same part as \"{other}\""),
                    ));
                }
                return Ok(());
            }
        }
        if ["lora_", "token_adapter", "trainable_tokens"].iter().any(|mark| inner.contains(mark)) {
            return Err(wrong("a part of an adapter that is not understood"));
        }
        // An embedding under an adapter is stored with it, in case it was resized.
        let target = match inner.split_once(".base_layer.") {
            Some((module, rest)) => format!("{module}.{rest}"),
            None => inner,
        };
        self.replaced.insert(target, name);
        Ok(())
    }

    /// Every module must be whole and fit its settings.
    fn check(&mut self, label: &str) -> Result<()> {
        let file = self.label();
        for (name, module) in &mut self.modules {
            let (Some(a), Some(b)) = (&module.a, &module.b) else {
                return Err(Error::malformed(
                    &file,
                    format!("module \"{name}\" has only one of lora_A and lora_B"),
                ));
            };
            let (a, b) = (self.checkpoint.require(a)?, self.checkpoint.require(b)?);
            let (rank, [_, inner, rest @ ..]) = (a.shape.first().copied().unwrap_or(0), &b.shape[..]) else {
                return Err(Error::malformed(
                    &file,
                    format!("module \"{name}\": lora_B must be a matrix, found {:?}", b.shape),
                ));
            };
            if a.shape.len() < 2 || rank == 0 || *inner != rank || rest.iter().any(|&n| n != 1) {
                let message = format!(
                    "module \"{name}\": lora_A {:?} and lora_B {:?} are not [rank, in] and [out, rank]",
                    a.shape, b.shape
                );
                return Err(Error::malformed(&file, message));
            }
            let (expected, scale) = self.config.rank_and_scale(label, name)?;
            if expected != rank {
                let message = format!("module \"{name}\" has rank {rank}, {CONFIG} says {expected}");
                return Err(Error::malformed(&file, message));
            }
            if self.config.use_dora != module.magnitude.is_some() {
                let message = format!(
                    "module \"{name}\": use_dora is {}, and there is {} magnitude vector",
                    self.config.use_dora,
                    if module.magnitude.is_some() { "a" } else { "no" }
                );
                return Err(Error::malformed(&file, message));
            }
            module.scale = scale;
        }
        if self.modules.is_empty() && self.replaced.is_empty() {
            return Err(Error::malformed(&file, "an adapter without any tensor"));
        }
        Ok(())
    }

    fn label(&self) -> String {
        self.checkpoint.path().display().to_string()
    }

    /// The model that the adapter was trained on, as it was called then.
    pub fn base_model(&self) -> Option<&str> {
        self.config.base_model_name_or_path.as_deref()
    }

    /// The modules with low-rank changes, sorted: their paths in the model.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// The tensors of the adapter as they are stored.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Tensors of the model that the adapter stores whole, and their names in [`Self::checkpoint`].
    pub(crate) fn replaced(&self) -> impl Iterator<Item = (&str, &str)> {
        self.replaced.iter().map(|(target, name)| (target.as_str(), name.as_str()))
    }

    /// Whether a tensor belongs to a module that was trained whole, which the model may not have had before.
    pub(crate) fn may_add(&self, tensor: &str) -> bool {
        let module = tensor.rsplit_once('.').map_or(tensor, |(module, _)| module);
        self.config.is_saved(module)
    }

    /// Whether the bias of `module` changes too.
    pub(crate) fn changes_bias(&self, module: &str) -> bool {
        self.modules.get(module).is_some_and(|module| module.bias.is_some())
    }

    /// Content of `adapter_config.json`.
    pub(crate) fn config_bytes(&self) -> Result<Bytes> {
        Ok(self.checkpoint.side_file(CONFIG)?.unwrap_or_else(|| Bytes::from_static(&[])))
    }

    /// Where the adapter is.
    pub(crate) fn directory(&self) -> &Path {
        self.checkpoint.dir().unwrap_or(self.checkpoint.path())
    }

    /// Whether the weight or bias of a module of the model may have this shape; otherwise what is expected.
    pub(crate) fn fits(&self, module: &str, is_bias: bool, shape: &[usize]) -> Result<(), String> {
        let Some(parts) = self.modules.get(module) else {
            return Err("the adapter does not change it".into());
        };
        let info = |name: &Option<String>| name.as_deref().and_then(|name| self.checkpoint.info(name));
        let (Some(a), Some(b)) = (info(&parts.a), info(&parts.b)) else { return Err("is not whole".into()) };
        let (d_input, d_output) = (a.numel() / a.shape[0], b.shape[0]);
        let numel = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
        let straight = shape.first() == Some(&d_output) && numel == d_output.checked_mul(d_input);
        match (is_bias, straight || *shape == [d_input, d_output], *shape == [d_output]) {
            (false, true, _) | (true, _, true) => Ok(()),
            _ => Err(format!(
                "the adapter is for {d_output} outputs and {d_input} inputs, the model has {shape:?}"
            )),
        }
    }

    /// The low-rank change of a module; `None` if it has none.
    ///
    /// # Errors
    /// [`Error::Tensor`] for numbers that are no floats.
    pub fn delta(&self, module: &str) -> Result<Option<LowRank>> {
        let Some(parts) = self.modules.get(module) else { return Ok(None) };
        let floats = |name: &Option<String>| {
            let Some(name) = name else { return Ok(None) };
            let tensor = self.checkpoint.tensor(name)?;
            tensor.to_f32().map(Some).map_err(|e| Error::tensor(&self.label(), name, e.to_string()))
        };
        // `check` saw to it that both are there.
        let (a, b) = (floats(&parts.a)?.unwrap_or_default(), floats(&parts.b)?.unwrap_or_default());
        let rank = parts.a.as_deref().and_then(|a| self.checkpoint.info(a)).map_or(1, |info| info.shape[0]);
        let (d_input, d_output) = (a.len() / rank, b.len() / rank);
        let magnitude = floats(&parts.magnitude)?;
        if magnitude.as_ref().is_some_and(|magnitude| magnitude.len() != d_output) {
            let message = format!("module \"{module}\": the magnitude vector must have {d_output} numbers");
            return Err(Error::malformed(&self.label(), message));
        }
        let bias = floats(&parts.bias)?;
        if bias.as_ref().is_some_and(|bias| bias.len() != d_output) {
            let message = format!("module \"{module}\": the bias of lora_B must have {d_output} numbers");
            return Err(Error::malformed(&self.label(), message));
        }
        let (scale, transposed) = (parts.scale, parts.embedding || self.config.fan_in_fan_out);
        Ok(Some(LowRank { a, b, rank, d_input, d_output, scale, magnitude, bias, transposed }))
    }

    pub(crate) fn merged_bias(&self, module: &str, base: Vec<f32>) -> Result<Vec<f32>> {
        let Some(delta) = self.delta(module)? else { return Ok(base) };
        delta
            .merge_bias(base)
            .map_err(|message| Error::invalid(self.label(), format!("module \"{module}\": {message}")))
    }

    /// The weight of `module` with the adapter in it, computed in f32: `base + s B A`, for DoRA scaled to the trained
    /// length of each output.
    ///
    /// `base` holds the weight of the model, `dims` its shape: `[out, in]`, `[in, out]` for embeddings and with
    /// `fan_in_fan_out`, `[out, in, ...]` for convolutions.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the adapter has no such module (with the names that look most like it), or the shape is not
    /// that of the adapter.
    pub fn merged(&self, module: &str, base: &[f32], dims: &[usize]) -> Result<Vec<f32>> {
        let delta = self.delta(module)?.ok_or_else(|| {
            let near = nearest(module, self.modules(), 3).join(", ");
            let near = if near.is_empty() { String::new() } else { format!("; nearest: {near}") };
            Error::invalid(self.label(), format!("the adapter does not change module \"{module}\"{near}"))
        })?;
        delta
            .merge(base, dims)
            .map_err(|message| Error::invalid(self.label(), format!("module \"{module}\": {message}")))
    }
}
