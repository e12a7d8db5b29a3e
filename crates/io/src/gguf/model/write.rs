//! Writing a model as a GGUF file that engines load.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::config::{self, Written};
use super::family::{Family, How, Match};
use super::layout;
use super::vocab_write::{self, TokenizerFiles};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::gguf::blocks::tensor::GgufTensor;
use crate::gguf::blocks::types::GgufType;
use crate::gguf::container::value::GgufValue;
use crate::gguf::container::writer::{GgufWriter, keys_bytes};
use crate::tensor::RawTensor;
use crate::write::WrittenFile;

/// Version of the block layouts, which engines ask for where there are blocks.
const QUANTIZATION_VERSION: u32 = 2;

/// Writes a model under GGUF names, tensor by tensor.
///
/// Vectors, and the few matrices that engines want so, are written in single precision. Tensors come under Hugging Face
/// names and in their layout; where the architecture reorders rows, so does the writer, also in blocks.
#[derive(Debug)]
pub struct GgufModelWriter {
    writer: GgufWriter,
    family: &'static Family,
    keys: Vec<(String, GgufValue)>,
    heads: config::Heads,
    experts: usize,
    block_count: usize,
    blocks: usize,
    tied: bool,
    vocab: usize,
}

/// What a model's file has beside the tensors of the checkpoint.
struct Outline {
    family: &'static Family,
    keys: Vec<(String, GgufValue)>,
    tensors: Vec<(String, Vec<f32>)>,
    heads: config::Heads,
    experts: usize,
    block_count: usize,
    tied: bool,
    vocab: usize,
}

impl Outline {
    fn of(config: &Value, tokenizer: &TokenizerFiles, name: Option<&str>) -> Result<Self> {
        let family = Family::of_config(config)?;
        let Written { mut keys, tensors, heads, blocks: block_count, tied, vocab } =
            config::to_keys(family, config)?;
        let vocab = vocab.ok_or_else(|| Error::invalid("config.json", "\"vocab_size\" is missing"))?;
        let mut general: Vec<(String, GgufValue)> = vec![("general.type".into(), "model".into())];
        if let Some(name) = name {
            general.push(("general.name".into(), name.into()));
        }
        keys.splice(1..1, general);
        if let Some(pooling) = pooling(tokenizer.pooling.as_ref()) {
            keys.push((format!("{}.pooling_type", family.gguf), pooling.into()));
        }
        keys.extend(vocab_write::to_keys(tokenizer, config, vocab)?);
        let expert_key = format!("{}.expert_count", family.gguf);
        let experts =
            keys.iter().find(|(key, _)| *key == expert_key).and_then(|(_, v)| v.as_u64()).unwrap_or(0);
        let experts = experts as usize;
        Ok(Self { family, keys, tensors, heads, experts, block_count, tied, vocab })
    }
}

impl GgufModelWriter {
    /// Bytes that the file of a model takes beside its tensors: settings, tokenizer, and what is computed from them.
    ///
    /// # Errors
    /// As [`Self::create`]; nothing is written.
    pub fn overhead(config: &Value, tokenizer: &TokenizerFiles) -> Result<u64> {
        let outline = Outline::of(config, tokenizer, None)?;
        let computed: usize = outline.tensors.iter().map(|(_, values)| 4 * values.len()).sum();
        Ok(keys_bytes(&outline.keys)? + computed as u64)
    }

    /// Whether engines want this tensor of a model in single precision, whatever type the others have; false for a model
    /// that has no file of this kind.
    pub fn wants_single(config: &Value, tensor: &str) -> bool {
        let found = Family::of_config(config).ok().and_then(|family| family.match_hf(tensor));
        found.is_some_and(|found| found.single())
    }

    /// Begins the file `path` for the model of a `config.json`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an architecture that the table does not have, or a setting that the format cannot hold;
    /// for a tokenizer that engines do not know; [`Error::Io`].
    pub fn create(
        path: impl Into<PathBuf>,
        config: &Value,
        tokenizer: &TokenizerFiles,
        name: Option<&str>,
    ) -> Result<Self> {
        let Outline { family, keys, tensors, heads, experts, block_count, tied, vocab } =
            Outline::of(config, tokenizer, name)?;
        let mut writer = GgufWriter::create(path)?;
        for (name, values) in &tensors {
            writer.append(name, &[values.len()], GgufType::F32, bytemuck::cast_slice(values))?;
        }
        Ok(Self { writer, family, keys, heads, experts, block_count, blocks: 0, tied, vocab })
    }

    /// Adds a tensor of plain numbers. Matrices keep their type; double precision becomes single.
    ///
    /// A tied head, and tensors that the format has no place for by design, are left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name without a counterpart or a shape that does not fit; [`Error::Io`],
    /// [`Error::NoSpace`].
    pub fn append(&mut self, name: &str, tensor: &RawTensor) -> Result<()> {
        let family = self.family;
        let Some(found) = self.find(name, family)? else { return Ok(()) };
        let fail = |message: String| Error::invalid(format!("tensor \"{name}\""), message);
        let mut shape = tensor.shape.clone();
        if found.how == How::Row {
            shape.retain(|&dim| dim != 1);
        }
        if shape.is_empty() || shape.len() > 2 {
            return Err(fail(format!("shape {:?} is neither a vector nor a matrix", tensor.shape)));
        }
        self.check_vocabulary(name, &found, shape[0])?;
        let single = shape.len() == 1 || found.single();
        let (ty, mut data) = match tensor.dtype {
            Dtype::F16 if !single => (GgufType::F16, tensor.bytes.to_vec()),
            Dtype::BF16 if !single => (GgufType::BF16, tensor.bytes.to_vec()),
            _ => {
                let mut values = tensor.to_f32().map_err(|e| fail(e.to_string()))?;
                if found.how == How::PlusOne {
                    values.iter_mut().for_each(|v| *v += 1.0);
                }
                (GgufType::F32, bytemuck::cast_slice(&values).to_vec())
            }
        };
        if found.how == How::Transpose {
            let [rows, cols] = shape[..] else { return Err(fail(format!("shape {shape:?} is no matrix"))) };
            data = layout::transpose(&data, rows, cols, ty.block_bytes());
            shape.reverse();
        }
        if let Some(source) = self.order(name, &found, shape[0])? {
            data = layout::select_rows(&data, &source);
        }
        self.put(&found, &shape, ty, &data)
    }

    /// Adds a matrix in blocks, `[outputs, inputs]`, also where Hugging Face stores it the other way round.
    ///
    /// # Errors
    /// As [`Self::append`], and [`Error::Invalid`] for a tensor that must be in single precision.
    pub fn append_blocks(&mut self, name: &str, tensor: &GgufTensor) -> Result<()> {
        let family = self.family;
        let Some(found) = self.find(name, family)? else { return Ok(()) };
        if tensor.ty != GgufType::F32 && (found.single() || found.suffix == "bias") {
            let message = format!("engines want it in F32, found {}", tensor.ty);
            return Err(Error::invalid(format!("tensor \"{name}\""), message));
        }
        self.check_vocabulary(name, &found, tensor.rows)?;
        let moved = self.order(name, &found, tensor.rows)?.map(|source| tensor.select_rows(&source));
        let tensor = moved.as_ref().unwrap_or(tensor);
        self.put(&found, &[tensor.rows, tensor.cols], tensor.ty, &tensor.data)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the embedding or whole blocks are missing; [`Error::Io`], [`Error::NoSpace`].
    pub fn finish(mut self) -> Result<WrittenFile> {
        let fail = |message: String| Error::invalid("GGUF model", message);
        if self.blocks != self.block_count {
            return Err(fail(format!(
                "config.json says {} blocks, tensors are of {}",
                self.block_count, self.blocks
            )));
        }
        let mut bytes: BTreeMap<GgufType, u64> = BTreeMap::new();
        let mut embedding = false;
        for (name, ty, size) in self.writer.tensors() {
            *bytes.entry(ty).or_default() += size;
            embedding |= name == "token_embd.weight";
        }
        if !embedding {
            return Err(fail("the embedding is missing".into()));
        }
        let most = bytes.iter().max_by_key(|(_, bytes)| **bytes).map_or(GgufType::F32, |(ty, _)| *ty);
        self.keys.insert(1, ("general.file_type".into(), most.file_type().into()));
        if bytes.keys().any(|ty| ty.is_blocks()) {
            self.keys.insert(1, ("general.quantization_version".into(), QUANTIZATION_VERSION.into()));
        }
        self.writer.finish(&self.keys)
    }

    /// What a name stands for; `None` if it has no place in the file.
    fn find<'a>(&mut self, name: &'a str, family: &'a Family) -> Result<Option<Match<'a>>> {
        let Some(found) = family.match_hf(name) else {
            if family.ignores(name) || name == "lm_head.weight" && self.tied {
                return Ok(None);
            }
            let message = format!("has no counterpart in the architecture {} of GGUF", family.gguf);
            return Err(Error::invalid(format!("tensor \"{name}\""), message));
        };
        if found.entry.gguf == "output" && found.suffix == "weight" && self.tied {
            return Ok(None);
        }
        self.blocks = self.blocks.max(found.block.map_or(0, |block| block + 1));
        Ok(Some(found))
    }

    fn check_vocabulary(&self, name: &str, found: &Match<'_>, rows: usize) -> Result<()> {
        if matches!(found.entry.gguf.as_str(), "token_embd" | "output") && rows != self.vocab {
            let message = format!("has {rows} rows, vocab_size is {}", self.vocab);
            return Err(Error::invalid(format!("tensor \"{name}\""), message));
        }
        Ok(())
    }

    /// For each row of the file, the row of the given tensor; `None` where they are the same.
    fn order(&self, name: &str, found: &Match<'_>, rows: usize) -> Result<Option<Vec<usize>>> {
        let config::Heads { heads, kv_heads } = self.heads;
        let source = match found.how {
            How::Heads => layout::pairs(rows, heads),
            How::KvHeads => layout::pairs(rows, kv_heads),
            How::FalconQkv => layout::falcon(rows, heads, kv_heads),
            _ => return Ok(None),
        };
        source.map(Some).ok_or_else(|| {
            let message = format!("{rows} rows do not fit {heads} heads and {kv_heads} key-value heads");
            Error::invalid(format!("tensor \"{name}\""), message)
        })
    }

    fn put(&mut self, found: &Match<'_>, shape: &[usize], ty: GgufType, data: &[u8]) -> Result<()> {
        let name = found.gguf_name();
        match found.expert {
            Some(expert) => self.writer.append_part(&name, (expert, self.experts), shape, ty, data),
            None => self.writer.append(&name, shape, ty, data),
        }
    }
}

/// `pooling_type` for the `1_Pooling/config.json` of a sentence encoder.
fn pooling(config: Option<&Value>) -> Option<u32> {
    let on =
        |mode: &str| config?.get(format!("pooling_mode_{mode}")).and_then(Value::as_bool).filter(|on| *on);
    [("mean_tokens", 1), ("cls_token", 2), ("lasttoken", 3)]
        .into_iter()
        .find(|(mode, _)| on(mode).is_some())
        .map(|(_, n)| n)
}
