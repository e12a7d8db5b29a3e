//! The object `quantization_config` of bitsandbytes.

use serde_json::Value;

use crate::error::Result;
use crate::fields::Fields;

/// How the matrices of a bitsandbytes checkpoint are coded. The tensors say the rest themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BnbConfig {
    /// Whether the codes have 4 bits (a codebook) instead of 8 (LLM.int8).
    pub four_bit: bool,
    /// `nf4` or `fp4`, where the file says so; each matrix names its own.
    pub quant_type: Option<String>,
    /// Whether magnitudes are quantized once more.
    pub double_quant: bool,
    /// Modules that stay dense, by name or part of a name (`llm_int8_skip_modules`).
    pub skip_modules: Vec<String>,
}

impl BnbConfig {
    /// Parses the object.
    ///
    /// # Errors
    /// [`crate::Error::Quantization`] if it asks for both widths, for none, or for another type than `nf4` and `fp4`.
    pub fn parse(value: &Value) -> Result<Self> {
        let fields = Fields::new("bitsandbytes", value)?;
        if let Some(method) = fields.text("quant_method")?.filter(|method| method != "bitsandbytes") {
            return Err(fields.refuse(&format!("quant_method is \"{method}\""), "expected \"bitsandbytes\""));
        }
        let flag = |key: &str, private: &str| -> Result<bool> {
            Ok(fields.flag(key)?.or(fields.flag(private)?).unwrap_or(false))
        };
        let four_bit =
            match (flag("load_in_4bit", "_load_in_4bit")?, flag("load_in_8bit", "_load_in_8bit")?) {
                (true, false) => true,
                (false, true) => false,
                (true, true) => {
                    return Err(
                        fields.refuse("both load_in_4bit and load_in_8bit are true", "expected one of them")
                    );
                }
                (false, false) => {
                    return Err(fields
                        .refuse("neither load_in_4bit nor load_in_8bit is true", "expected one of them"));
                }
            };
        let quant_type = fields.text("bnb_4bit_quant_type")?;
        if let Some(other) = quant_type.as_ref().filter(|kind| !["nf4", "fp4"].contains(&kind.as_str())) {
            return Err(fields.refuse(
                &format!("bnb_4bit_quant_type \"{other}\" is not read"),
                "nf4 and fp4 are read; use the original model instead",
            ));
        }
        let double_quant = fields.flag("bnb_4bit_use_double_quant")?.unwrap_or(false);
        let skip_modules = fields.strings("llm_int8_skip_modules")?;
        Ok(Self { four_bit, quant_type, double_quant, skip_modules })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_transformers_writes_is_read() {
        let value = json!({
            "_load_in_4bit": true, "_load_in_8bit": false, "load_in_4bit": true, "load_in_8bit": false,
            "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": true, "llm_int8_enable_fp32_cpu_offload": false,
            "llm_int8_has_fp16_weight": false, "llm_int8_skip_modules": ["lm_head"], "llm_int8_threshold": 6.0,
            "quant_method": "bitsandbytes",
        });
        let config = BnbConfig::parse(&value).unwrap();
        assert!(config.four_bit && config.double_quant);
        assert_eq!(
            (config.quant_type.as_deref(), &config.skip_modules[..]),
            (Some("nf4"), &["lm_head".into()][..])
        );
        for (key, changed, expected) in [
            ("load_in_8bit", json!(true), "both"),
            ("load_in_4bit", json!(false), "neither"),
            ("bnb_4bit_quant_type", json!("int4"), "\"int4\" is not read"),
            ("quant_method", json!("hqq"), "quant_method is \"hqq\""),
            ("llm_int8_skip_modules", json!("lm_head"), "a list of strings"),
        ] {
            let mut value = value.clone();
            value[key] = changed;
            let message = BnbConfig::parse(&value).unwrap_err().to_string();
            assert!(message.contains(expected), "{key}: {message}");
        }
    }
}
