//! A model in a GGUF file under Hugging Face names.

use std::ops::Range;

use serde_json::Value;

use super::config::{self, Heads};
use super::family::{Family, How, Match};
use super::{layout, rope, vocab_read};
use crate::bytes::Bytes;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::gguf::blocks::tensor::GgufTensor;
use crate::gguf::blocks::types::GgufType;
use crate::gguf::container::parse::parse_labelled;
use crate::gguf::container::{Gguf, GgufInfo};
use crate::tensor::RawTensor;

/// A GGUF file as a checkpoint sees it.
#[derive(Clone, Debug)]
pub(crate) struct GgufModel {
    pub gguf: Gguf,
    pub config: Value,
    pub tensors: Vec<Mapped>,
}

/// A tensor under its Hugging Face name.
#[derive(Clone, Debug)]
pub(crate) struct Mapped {
    pub name: String,
    pub shape: Vec<usize>,
    pub stored: Stored,
    /// From the start of the file.
    pub range: Range<usize>,
}

/// How a tensor lies in its GGUF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub ty: GgufType,
    rows: usize,
    cols: usize,
    change: Change,
}

/// What has to be done to get the Hugging Face tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    Pairs { heads: usize },
    Falcon { heads: usize, kv_heads: usize },
    MinusOne,
    Transpose,
}

impl GgufModel {
    /// Checks a file and gives its tensors their names. A tensor that the table does not know keeps its own.
    pub fn open(label: &str, content: &Bytes) -> Result<Self> {
        let gguf = parse_labelled(label, content)?;
        if let Some(count) = gguf.get("split.count").and_then(|v| v.as_u64()).filter(|&n| n > 1) {
            let message = format!(
                "is one of {count} parts of a model, which are not read\n\
                 hint: put them together with llama-gguf-split --merge"
            );
            return Err(Error::malformed(label, message));
        }
        let family = Family::of_file(&gguf)?;
        let heads = config::heads_of(&gguf, family)?;
        let config = config::from_keys(&gguf, family)?;
        let mut tensors = Vec::new();
        let two_norms = gguf.info("blk.0.attn_norm_2.weight").is_some();
        for info in gguf.tensors() {
            if rope::is_setting(&info.name) {
                continue;
            }
            // Falcon has one norm or two before its parallel branches, under different names.
            let accept = |entry: &super::family::Entry| match entry.hf.rsplit('.').next() {
                Some("ln_mlp") => two_norms,
                Some("input_layernorm") if family.gguf == "falcon" => !two_norms,
                _ => true,
            };
            match family.match_gguf(&info.name, accept) {
                Some(found) => map(label, info, &found, heads, &mut tensors)?,
                None => tensors.push(unchanged(info, info.name.clone())),
            }
        }
        Ok(Self { gguf, config, tensors })
    }

    /// A file that the model directory would have: `config.json`, `tokenizer.json`, `tokenizer_config.json`.
    pub fn side_file(&self, name: &str) -> Result<Option<Bytes>> {
        let value = match name {
            "config.json" => Some(self.config.clone()),
            "tokenizer.json" => vocab_read::tokenizer(&self.gguf)?.map(|(tokenizer, _)| tokenizer),
            "tokenizer_config.json" => vocab_read::tokenizer(&self.gguf)?.map(|(_, config)| config),
            _ => None,
        };
        Ok(value.map(|value| value.to_string().into_bytes().into()))
    }
}

fn unchanged(info: &GgufInfo, name: String) -> Mapped {
    let stored = Stored { ty: info.ty, rows: info.rows(), cols: info.cols(), change: Change::None };
    Mapped { name, shape: info.shape.clone(), stored, range: info.range.clone() }
}

fn map(label: &str, info: &GgufInfo, found: &Match<'_>, heads: Heads, out: &mut Vec<Mapped>) -> Result<()> {
    let fail = |message: String| Error::tensor(label, &info.name, message);
    let mut mapped = unchanged(info, found.hf_name(None));
    // A vector counts as rows of one number where rows are moved.
    let rows = if info.shape.len() < 2 { info.cols() } else { info.rows() };
    let Heads { heads, kv_heads } = heads;
    let fits = |source: Option<Vec<usize>>| {
        source.map(drop).ok_or_else(|| {
            fail(format!("shape {:?} does not fit {heads} heads and {kv_heads} key-value heads", info.shape))
        })
    };
    match found.how {
        How::Plain => {}
        How::Heads | How::KvHeads => {
            let heads = if found.how == How::Heads { heads } else { kv_heads };
            fits(layout::pairs(rows, heads))?;
            mapped.stored.change = Change::Pairs { heads };
        }
        How::FalconQkv => {
            fits(layout::falcon(rows, heads, kv_heads))?;
            mapped.stored.change = Change::Falcon { heads, kv_heads };
        }
        How::PlusOne => mapped.stored.change = Change::MinusOne,
        How::Transpose => {
            let [rows, cols] = info.shape[..] else {
                return Err(fail(format!("has shape {:?}, expected a matrix", info.shape)));
            };
            mapped.shape = vec![cols, rows];
            mapped.stored.change = Change::Transpose;
        }
        How::Row => mapped.shape = vec![1, info.cols()],
        How::Expert => {
            let [experts, rows, cols] = info.shape[..] else {
                return Err(fail(format!("has shape {:?}, expected [experts, outputs, inputs]", info.shape)));
            };
            if experts > info.range.len() {
                return Err(fail(format!("has shape {:?} without data", info.shape)));
            }
            let each = info.range.len() / experts.max(1);
            for expert in 0..experts {
                let start = info.range.start + expert * each;
                out.push(Mapped {
                    name: found.hf_name(Some(expert)),
                    shape: vec![rows, cols],
                    stored: Stored { rows, ..mapped.stored.clone() },
                    range: start..start + each,
                });
            }
            return Ok(());
        }
    }
    out.push(mapped);
    Ok(())
}

impl Stored {
    /// Type of the numbers that [`Self::tensor`] gives.
    pub fn dtype(&self) -> Dtype {
        match self.ty {
            _ if self.change == Change::MinusOne => Dtype::F32,
            GgufType::F16 => Dtype::F16,
            GgufType::BF16 => Dtype::BF16,
            _ => Dtype::F32,
        }
    }

    /// The Hugging Face tensor of `shape`; blocks are decoded.
    pub fn tensor(&self, data: Bytes, shape: Vec<usize>) -> Result<RawTensor> {
        let vector = shape.len() < 2;
        let data = match self.source(vector) {
            Some(source) => layout::select_rows(&data, &source).into(),
            None => data,
        };
        let (rows, cols) = (self.rows, self.cols);
        let decode = |data: Bytes| Ok::<_, Error>(GgufTensor::new(self.ty, rows, cols, data)?.dequantize());
        let bytes = match self.change {
            Change::MinusOne => {
                Bytes::from_numbers(decode(data)?.into_iter().map(|v| v - 1.0).collect::<Vec<f32>>())
            }
            Change::Transpose if self.ty.is_blocks() => {
                let numbers = decode(data)?;
                layout::transpose(bytemuck::cast_slice(&numbers), rows, cols, size_of::<f32>()).into()
            }
            Change::Transpose => layout::transpose(&data, rows, cols, self.ty.block_bytes()).into(),
            _ if self.ty.is_blocks() => Bytes::from_numbers(decode(data)?),
            _ => data,
        };
        RawTensor::new(self.dtype(), shape, bytes.aligned())
    }

    /// The blocks as a matrix whose rows are outputs in the order of Hugging Face; `None` where numbers are plain.
    pub fn blocks(&self, data: Bytes, shape: &[usize]) -> Result<Option<GgufTensor>> {
        if !self.ty.is_blocks() || self.change == Change::MinusOne {
            return Ok(None);
        }
        let tensor = GgufTensor::new(self.ty, self.rows, self.cols, data)?;
        Ok(match self.source(shape.len() < 2) {
            // Rows of one number cannot be moved inside blocks.
            Some(_) if shape.len() < 2 => None,
            Some(source) => Some(tensor.select_rows(&source)),
            None => Some(tensor),
        })
    }

    /// For each row of the Hugging Face tensor, the row in the file.
    fn source(&self, vector: bool) -> Option<Vec<usize>> {
        let rows = if vector { self.cols } else { self.rows };
        let forward = match self.change {
            Change::Pairs { heads } => layout::pairs(rows, heads),
            Change::Falcon { heads, kv_heads } => layout::falcon(rows, heads, kv_heads),
            _ => None,
        };
        forward.map(|source| layout::inverse(&source))
    }
}
