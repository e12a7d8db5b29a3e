//! Any quantization that a checkpoint may have, behind one reader.

use serde_json::Value;

use crate::activation::ActivationScheme;
use crate::awq::{AwqConfig, read_awq};
use crate::bitsandbytes::{BnbConfig, read_bitsandbytes};
use crate::checkpoint::Checkpoint;
use crate::coded::Coded;
use crate::compressed::{QuantizationConfig, read_compressed};
use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::float::{FineGrainedConfig, GptOssConfig, read_fine_grained, read_gpt_oss};
use crate::gptq::{GptqConfig, read_gptq};
use crate::input_code::InputCode;
use crate::packed_config::{AttentionConfig, PackedConfig};

/// What `quant_method` may be.
const KNOWN: &str = "compressed-tensors, gptq, awq, bitsandbytes, fp8, mxfp4, trimtab";

/// How the matrices of a checkpoint are quantized, by the method that its `config.json` names.
///
/// A further method is a variant here, a line in [`Self::parse`] and one in [`Self::read`].
#[derive(Clone, Debug)]
pub enum Quantization {
    /// `compressed-tensors`.
    CompressedTensors(QuantizationConfig),
    /// `gptq`.
    Gptq(GptqConfig),
    /// `awq`.
    Awq(AwqConfig),
    /// `bitsandbytes`.
    BitsAndBytes(BnbConfig),
    /// `fp8`: fine-grained FP8.
    FineGrained(FineGrainedConfig),
    /// `mxfp4`: the experts of gpt-oss.
    GptOss(GptOssConfig),
    /// `trimtab`: codes that only this program writes.
    Trimtab(PackedConfig),
}

impl Quantization {
    /// What a `config.json` says; `None` if it has no `quantization_config`.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn of(config_json: &Value) -> Result<Option<Self>> {
        match config_json.get("quantization_config") {
            None | Some(Value::Null) => Ok(None),
            Some(value) => Self::parse(value).map(Some),
        }
    }

    /// Parses the object `quantization_config`.
    ///
    /// # Errors
    /// [`Error::Quantization`] for an unknown method, or whatever its own parser refuses.
    pub fn parse(value: &Value) -> Result<Self> {
        let fields = Fields::new("quantization_config", value)?;
        let method = fields.text("quant_method")?.or(fields.text("method")?);
        match method.as_deref() {
            Some("compressed-tensors") => QuantizationConfig::parse(value).map(Self::CompressedTensors),
            Some("gptq") => GptqConfig::parse(value).map(Self::Gptq),
            Some("awq") => AwqConfig::parse(value).map(Self::Awq),
            Some("bitsandbytes") => BnbConfig::parse(value).map(Self::BitsAndBytes),
            Some("fp8") => FineGrainedConfig::parse(value).map(Self::FineGrained),
            Some("trimtab") => PackedConfig::parse(value).map(Self::Trimtab),
            Some("mxfp4") => GptOssConfig::parse(value).map(Self::GptOss),
            Some(other) => Err(Error::Quantization {
                message: format!("quant_method \"{other}\" is not read; known are {KNOWN}"),
                hint: "use the original model instead",
            }),
            None => Err(Error::Quantization {
                message: format!("quant_method is missing; known are {KNOWN}"),
                hint: "add the method by which the model was quantized",
            }),
        }
    }

    /// Name of the method, `quant_method`.
    pub const fn method(&self) -> &'static str {
        match self {
            Self::CompressedTensors(_) => "compressed-tensors",
            Self::Gptq(_) => "gptq",
            Self::Awq(_) => "awq",
            Self::BitsAndBytes(_) => "bitsandbytes",
            Self::FineGrained(_) => "fp8",
            Self::GptOss(_) => "mxfp4",
            Self::Trimtab(_) => "trimtab",
        }
    }

    /// How the input of `module`, whose weight the checkpoint holds in codes or not, is quantized while running; `None` for floats and
    /// where it is not.
    ///
    /// # Errors
    /// [`Error::Quantization`] for integers that share their steps in ways that are not read.
    pub fn input(&self, module: &str, coded: bool) -> Result<Option<ActivationScheme>> {
        match self {
            Self::CompressedTensors(config) if coded => config.input_of(module),
            Self::Trimtab(config) => config.input(module),
            _ => Ok(None),
        }
    }

    /// What is quantized of the operands of attention.
    pub fn attention(&self) -> Option<&AttentionConfig> {
        match self {
            Self::Trimtab(config) => config.attention(),
            _ => None,
        }
    }

    /// How the inputs of `module` are coded while the model runs, where that belongs to the model.
    pub fn input_code(&self, module: &str) -> Option<InputCode> {
        match self {
            Self::Trimtab(config) => config.input_codes().get(module).copied(),
            _ => None,
        }
    }

    /// The quantized weight of `module`; `None` if the checkpoint holds it dense. Of the stacked experts of `mxfp4` it is
    /// one matrix, the rows of one expert after those of another.
    ///
    /// # Errors
    /// Those of the method's reader: a tensor is missing, or has another type or shape than the configuration says.
    pub fn read(&self, checkpoint: &Checkpoint, module: &str) -> Result<Option<Coded>> {
        match self {
            Self::CompressedTensors(config) => read_compressed(checkpoint, module, config),
            Self::Gptq(config) => Ok(read_gptq(checkpoint, module, config)?.map(Coded::Affine)),
            Self::Awq(config) => Ok(read_awq(checkpoint, module, config)?.map(Coded::Affine)),
            Self::BitsAndBytes(config) => read_bitsandbytes(checkpoint, module, config),
            Self::Trimtab(config) => config.read(checkpoint, module),
            Self::FineGrained(config) => Ok(read_fine_grained(checkpoint, module, config)?.map(Coded::Float)),
            Self::GptOss(_) => {
                Ok(read_gpt_oss(checkpoint, module)?.map(|experts| Coded::Float(experts.matrix)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_method_chooses_the_reader() {
        let of = |value: Value| Quantization::of(&json!({"quantization_config": value}));
        let scheme = json!({"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "channel"}});
        let cases = [
            json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g": scheme}}),
            json!({"quant_method": "gptq", "bits": 4}),
            json!({"quant_method": "awq"}),
            json!({"quant_method": "bitsandbytes", "load_in_8bit": true}),
            json!({"quant_method": "fp8", "weight_block_size": [128, 128]}),
            json!({"quant_method": "mxfp4"}),
        ];
        for case in cases {
            assert_eq!(of(case.clone()).unwrap().unwrap().method(), case["quant_method"]);
        }
        assert_eq!(of(json!({"method": "gptq", "bits": 4})).unwrap().unwrap().method(), "gptq");
        assert!(of(Value::Null).unwrap().is_none());
        assert!(Quantization::of(&json!({})).unwrap().is_none());
        let message = of(json!({"quant_method": "hqq"})).unwrap_err().to_string();
        assert!(message.contains("\"hqq\" is not read; known are compressed-tensors, gptq"), "{message}");
        assert!(of(json!({})).unwrap_err().to_string().contains("quant_method is missing"));
        assert!(of(json!(4)).unwrap_err().to_string().contains("is no object"));
    }
}
