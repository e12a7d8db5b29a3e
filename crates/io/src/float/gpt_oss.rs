//! MXFP4 experts as gpt-oss is published: `quant_method: "mxfp4"`.
//!
//! The weights of all experts of a layer are two tensors, `NAME_blocks` U8 `[experts, out, groups, 16]` and `NAME_scales` U8
//! `[experts, out, groups]`: 32 columns a group, column `2k` of it in the low half of byte `k`, scales `2^(byte - 127)`.
//!
//! Source: huggingface/transformers 5.24, `integrations/mxfp4.py` (`_convert_moe_packed_tensors`, which transposes).

use serde_json::Value;

use super::scheme::FloatScheme;
use super::tensor::FloatTensor;
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

/// The weights of all experts, each `[out, in]`, over the mapped file; `None` if there is no `NAME_blocks`.
///
/// `name` is that of the dense tensor, for example `model.layers.0.mlp.experts.gate_up_proj`.
///
/// # Errors
/// [`Error::MissingTensor`] if there are blocks without scales; [`Error::Tensor`] for another type or shape than the format
/// has, or a scale that is NaN.
pub fn read_gpt_oss(checkpoint: &Checkpoint, name: &str) -> Result<Option<Vec<FloatTensor>>> {
    let (blocks_name, scales_name) = (format!("{name}_blocks"), format!("{name}_scales"));
    if !checkpoint.contains(&blocks_name) {
        return Ok(None);
    }
    let file = checkpoint.path().display().to_string();
    let (blocks, scales) = (checkpoint.tensor(&blocks_name)?, checkpoint.tensor(&scales_name)?);
    let [experts, rows, groups, GROUP_BYTES] = blocks.shape[..] else {
        let message = format!("expected [experts, out, groups, {GROUP_BYTES}], found {:?}", blocks.shape);
        return Err(Error::tensor(&file, &blocks_name, message));
    };
    if blocks.dtype != Dtype::U8 {
        return Err(Error::tensor(&file, &blocks_name, format!("expected U8, found {}", blocks.dtype)));
    }
    if !matches!(scales.dtype, Dtype::U8 | Dtype::F8_E8M0) || scales.shape != [experts, rows, groups] {
        let message =
            format!("expected U8 {:?}, found {} {:?}", [experts, rows, groups], scales.dtype, scales.shape);
        return Err(Error::tensor(&file, &scales_name, message));
    }
    if blocks.bytes.is_empty() {
        let message = format!("has no numbers: {:?}", blocks.shape);
        return Err(Error::tensor(&file, &blocks_name, message));
    }
    let part = |bytes: &crate::bytes::Bytes, expert: usize| {
        let len = bytes.len() / experts;
        bytes.slice(expert * len..(expert + 1) * len).unwrap_or_else(|| crate::bytes::Bytes::from_static(&[]))
    };
    let matrix = |expert: usize| {
        let (codes, scales) = (part(&blocks.bytes, expert), part(&scales.bytes, expert));
        FloatTensor::new(rows, groups * 2 * GROUP_BYTES, FloatScheme::MXFP4, codes, scales, None)
            .map_err(|e| Error::tensor(&file, &scales_name, format!("expert {expert}: {e}")))
    };
    (0..experts).map(matrix).collect::<Result<_>>().map(Some)
}
