//! MXFP4 experts as gpt-oss is published: `quant_method: "mxfp4"`.
//!
//! The weights of all experts of a layer are two tensors, `NAME_blocks` U8 `[experts, out, groups, 16]` and `NAME_scales` U8
//! `[experts, out, groups]`: 32 columns a group, column `2k` of it in the low half of byte `k`, scales `2^(byte - 127)`.
//!
//! Source: huggingface/transformers 5.24, `integrations/mxfp4.py` (`_convert_moe_packed_tensors`, which transposes).

use serde_json::Value;

use super::scheme::FloatScheme;
use super::tensor::FloatTensor;
use crate::bytes::Bytes;
use crate::checkpoint::Checkpoint;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// Bytes of a group of 32 codes.
const GROUP_BYTES: usize = 16;

/// The object `quantization_config` of this method. Which weights are coded is seen in the file itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GptOssConfig;

impl GptOssConfig {
    /// Parses the object.
    ///
    /// # Errors
    /// [`Error::Quantization`] for another method.
    pub fn parse(value: &Value) -> Result<Self> {
        match value.get("quant_method").and_then(Value::as_str) {
            Some("mxfp4") => Ok(Self),
            other => Err(Error::Quantization {
                message: format!("quant_method is {other:?}"),
                hint: "expected \"mxfp4\"",
            }),
        }
    }
}

/// The weights of all experts of a layer.
#[derive(Clone, Debug)]
pub struct GptOssExperts {
    /// How many there are, at least one.
    pub count: usize,
    /// `[count * out, in]`: the rows of one expert after those of another.
    pub matrix: FloatTensor,
}

impl GptOssExperts {
    /// The weight of one expert, `[out, in]`, over the same bytes.
    ///
    /// # Panics
    /// If `index` is not below `count`.
    pub fn expert(&self, index: usize) -> FloatTensor {
        assert!(index < self.count, "expert {index} of {}", self.count);
        let part = |bytes: &Bytes| {
            let len = bytes.len() / self.count;
            bytes.slice(index * len..(index + 1) * len).expect("a part of the bytes")
        };
        let FloatTensor { codes, scales, rows, .. } = &self.matrix;
        FloatTensor {
            rows: rows / self.count,
            codes: part(codes),
            scales: part(scales),
            ..self.matrix.clone()
        }
    }
}

/// The weights of all experts, over the mapped file; `None` if there is no `NAME_blocks`.
///
/// `name` is that of the dense tensor, for example `model.layers.0.mlp.experts.gate_up_proj`.
///
/// # Errors
/// [`Error::MissingTensor`] if there are blocks without scales; [`Error::Tensor`] for another type or shape than the format
/// has, or a number that is not finite.
pub fn read_gpt_oss(checkpoint: &Checkpoint, name: &str) -> Result<Option<GptOssExperts>> {
    let (blocks_name, scales_name) = (format!("{name}_blocks"), format!("{name}_scales"));
    if !checkpoint.contains(&blocks_name) {
        return Ok(None);
    }
    let wrong =
        |name: &str, message: String| Error::tensor(&checkpoint.path().display().to_string(), name, message);
    let (blocks, scales) = (checkpoint.tensor(&blocks_name)?, checkpoint.tensor(&scales_name)?);
    let [count, rows, groups] = match blocks.shape[..] {
        [count, rows, groups, GROUP_BYTES] if blocks.dtype == Dtype::U8 && !blocks.bytes.is_empty() => {
            [count, rows, groups]
        }
        _ => {
            let found = format!("{} {:?}", blocks.dtype, blocks.shape);
            let message = format!("expected U8 [experts, out, groups, {GROUP_BYTES}], found {found}");
            return Err(wrong(&blocks_name, message));
        }
    };
    let expected = [count, rows, groups];
    if !matches!(scales.dtype, Dtype::U8 | Dtype::F8_E8M0) || scales.shape != expected {
        let message = format!("expected U8 {expected:?}, found {} {:?}", scales.dtype, scales.shape);
        return Err(wrong(&scales_name, message));
    }
    let dims = (count * rows, groups * 2 * GROUP_BYTES);
    let matrix = FloatTensor::new(dims.0, dims.1, FloatScheme::MXFP4, blocks.bytes, scales.bytes, None)
        .map_err(|e| wrong(&scales_name, e.to_string()))?;
    matrix.check_finite().map_err(|e| wrong(&scales_name, e.to_string()))?;
    Ok(Some(GptOssExperts { count, matrix }))
}
