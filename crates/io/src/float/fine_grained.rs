//! Fine-grained FP8 as DeepSeek-V3 is published: `quant_method: "fp8"`.
//!
//! A weight is F8_E4M3 `[out, in]`, and beside it lies `weight_scale_inv`, which despite its name multiplies: one number a
//! block of `weight_block_size`, or one for the matrix. Scales are floats, or powers of two (F8_E8M0, `scale_fmt: "ue8m0"`).
//!
//! Source: huggingface/transformers 5.24, `integrations/finegrained_fp8.py`, `utils/quantization_config.py`.

use serde_json::Value;

use super::element::FloatElement;
use super::scheme::{FloatScheme, ScaleFormat, ScaleGrid};
use super::tensor::FloatTensor;
use crate::checkpoint::Checkpoint;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::module::ModuleTensors;

/// The object `quantization_config` of this method, as far as weights follow from it.
///
/// Which modules are coded is seen in the file itself: theirs is the type F8_E4M3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FineGrainedConfig {
    /// `[rows, columns]` of a block; `None`: one scale a matrix.
    pub block: Option<[usize; 2]>,
}

impl FineGrainedConfig {
    /// Parses the object. Quantized activations are not done here: weights are all that is read.
    ///
    /// # Errors
    /// [`Error::Quantization`] for another method, a block that is none, or experts in 4 bits.
    pub fn parse(value: &Value) -> Result<Self> {
        let refuse = |message: String, hint| Err(Error::Quantization { message, hint });
        match value.get("quant_method").and_then(Value::as_str) {
            Some("fp8") => {}
            other => return refuse(format!("quant_method is {other:?}"), "expected \"fp8\""),
        }
        if value.get("expert_dtype").and_then(Value::as_str).is_some_and(|dtype| dtype != "fp8") {
            return refuse(
                "expert_dtype other than \"fp8\" is not read".into(),
                "use the original model instead",
            );
        }
        let side = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
        let block = match value.get("weight_block_size") {
            // The default of the library for a missing key.
            None => Some([128, 128]),
            Some(Value::Null) => None,
            Some(found) => match found.as_array().map(Vec::as_slice) {
                Some([rows, cols]) if side(rows).is_some() && side(cols).is_some() => {
                    side(rows).zip(side(cols)).map(|(rows, cols)| [rows, cols])
                }
                _ => {
                    let message = format!("weight_block_size is {found}");
                    return refuse(message, "expected two positive numbers, or null for one scale a matrix");
                }
            },
        };
        Ok(Self { block })
    }
}

/// The weight of `module`, over the mapped file; `None` if there is none, or it is no F8_E4M3.
///
/// # Errors
/// [`Error::MissingTensor`] if a F8_E4M3 weight has no `weight_scale_inv`; [`Error::Tensor`] if a shape or type is another
/// than the configuration says, or a number is not finite.
pub fn read_fine_grained(
    checkpoint: &Checkpoint,
    module: &str,
    config: &FineGrainedConfig,
) -> Result<Option<FloatTensor>> {
    let tensors = ModuleTensors::new(checkpoint, module);
    if !tensors.contains("weight") {
        return Ok(None);
    }
    let codes = tensors.tensor("weight")?;
    if codes.dtype != Dtype::F8_E4M3 {
        return Ok(None);
    }
    let (rows, cols) = match codes.shape[..] {
        [rows, cols] if !codes.bytes.is_empty() => (rows, cols),
        _ => return Err(tensors.wrong("weight", format!("expected [out, in], found {:?}", codes.shape))),
    };
    let scales = tensors.tensor("weight_scale_inv")?;
    let wrong = |message: String| tensors.wrong("weight_scale_inv", message);
    let scale = match scales.dtype {
        Dtype::F8_E8M0 => ScaleFormat::E8M0,
        dtype => ScaleFormat::of(dtype)
            .map_err(|_| wrong(format!("expected F32, F16, BF16 or F8_E8M0, found {dtype}")))?,
    };
    let grid = config.block.map_or(ScaleGrid::Tensor, ScaleGrid::Block);
    let scheme = FloatScheme { element: FloatElement::E4M3, grid, scale };
    let expected = scheme.scale_shape(rows, cols);
    let scalar = grid == ScaleGrid::Tensor && scales.numel() == 1;
    if !scalar && scales.shape != expected {
        return Err(wrong(format!("expected {expected:?} for {scheme}, found {:?}", scales.shape)));
    }
    let matrix = FloatTensor::new(rows, cols, scheme, codes.bytes, scales.bytes, None)
        .map_err(|e| wrong(e.to_string()))?;
    matrix.check_finite().map_err(|e| tensors.wrong("weight", e.to_string()))?;
    Ok(Some(matrix))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn configurations() {
        let parse = |value: Value| FineGrainedConfig::parse(&value);
        let block = |value: Value| parse(value).unwrap().block;
        assert_eq!(block(json!({"quant_method": "fp8", "weight_block_size": [64, 32]})), Some([64, 32]));
        assert_eq!(block(json!({"quant_method": "fp8"})), Some([128, 128]));
        assert_eq!(block(json!({"quant_method": "fp8", "weight_block_size": null})), None);
        for value in [
            json!({"quant_method": "gptq"}),
            json!({"quant_method": "fp8", "weight_block_size": [128]}),
            json!({"quant_method": "fp8", "weight_block_size": [0, 128]}),
            json!({"quant_method": "fp8", "expert_dtype": "fp4"}),
        ] {
            assert!(matches!(parse(value), Err(Error::Quantization { .. })));
        }
    }
}
