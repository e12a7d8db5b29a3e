//! The file: keys, tensor descriptions, data.

pub(super) mod parse;
pub(super) mod value;
pub(super) mod writer;

use std::ops::Range;

use value::GgufValue;

use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::gguf::blocks::tensor::GgufTensor;
use crate::gguf::blocks::types::GgufType;
use crate::nearest::nearest;

const MAGIC: [u8; 4] = *b"GGUF";
const VERSION: u32 = 3;
/// Longest name of a tensor in bytes; the reference holds 64 with a terminating zero.
const MAX_NAME: usize = 63;
const MAX_DIMS: usize = 4;
const LABEL_MEMORY: &str = "(GGUF in memory)";

/// A GGUF file as it lies: keys and tensors under their own names.
#[derive(Clone, Debug)]
pub struct Gguf {
    file: String,
    keys: Vec<(String, GgufValue)>,
    tensors: Vec<GgufInfo>,
    alignment: usize,
    data_start: usize,
    bytes: Bytes,
}

/// What a GGUF file says of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufInfo {
    /// Name.
    pub name: String,
    /// Lengths, slowest dimension first (a file has them the other way round).
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub ty: GgufType,
    /// Place of its data, from the start of the file.
    pub range: Range<usize>,
}

impl GgufInfo {
    /// Length of a row; 1 for a scalar.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows, over all dimensions but the fastest.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }
}

impl Gguf {
    /// Keys and values, in the order of the file.
    pub fn keys(&self) -> &[(String, GgufValue)] {
        &self.keys
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.keys.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// Tensors, in the order of the file.
    pub fn tensors(&self) -> &[GgufInfo] {
        &self.tensors
    }

    /// A tensor's description.
    pub fn info(&self, name: &str) -> Option<&GgufInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// A tensor, without copying it. Dimensions before the last are taken as rows.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<GgufTensor> {
        let info = self.info(name).ok_or_else(|| Error::MissingTensor {
            model: self.file.clone(),
            tensor: name.into(),
            nearest: nearest(name, self.tensors.iter().map(|tensor| tensor.name.as_str()), 3),
        })?;
        let data = self.bytes.slice(info.range.clone());
        let data = data.ok_or_else(|| Error::tensor(&self.file, name, "its data lie outside the file"))?;
        GgufTensor::new(info.ty, info.rows(), info.cols(), data)
    }

    /// Alignment of the tensors in bytes.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// Bytes before the data.
    pub fn data_start(&self) -> usize {
        self.data_start
    }

    /// How messages call the file.
    pub(crate) fn label(&self) -> &str {
        &self.file
    }
}
