//! What a checkpoint that this program writes says of its codes: `quantization_config`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::activation::{ActivationScheme, SoftmaxScheme};
use crate::checkpoint::Checkpoint;
use crate::coded::Coded;
use crate::compressed::{QuantizationConfig, read_compressed};
use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::input_code::InputCode;
use crate::module::ModuleTensors;
use crate::normal_float::{NormalFloatScheme, NormalFloatTensor};
use crate::real::RealTensor;

/// The object `quantization_config` of what this program writes: that of compressed-tensors where it says all, else a method of
/// its own that holds it together with the names of the modules that have real zero points or NormalFloat codes, with what is
/// quantized of activations beyond what compressed-tensors has words for, and with the threshold of binary attention.
#[derive(Clone, Debug)]
pub struct PackedConfig {
    codes: QuantizationConfig,
    real: BTreeSet<String>,
    normal: BTreeMap<String, NormalFloatScheme>,
    inputs: BTreeMap<String, ActivationScheme>,
    attention: Option<AttentionConfig>,
    input_codes: BTreeMap<String, InputCode>,
    binary_attention: Option<f32>,
}

/// What is quantized of the operands of attention, and in which blocks. The steps of queries, keys and values of a block are those
/// of the module `BLOCK.attention_operands`, the largest weight is `BLOCK.attention_weights.input_scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionConfig {
    /// Queries, keys and values.
    pub operands: Option<ActivationScheme>,
    /// What the softmax gives.
    pub weights: Option<SoftmaxScheme>,
    /// Names of the blocks.
    pub blocks: BTreeSet<String>,
}

impl AttentionConfig {
    /// The modules that the steps of a block belong to: its operands, and its weights.
    pub fn modules(block: &str) -> [String; 2] {
        ["attention_operands", "attention_weights"].map(|part| format!("{block}.{part}"))
    }

    fn parse(value: &Value) -> Option<Result<Self>> {
        let text = |key: &str| match value.get(key) {
            None | Some(Value::Null) => Some(None),
            Some(value) => value.as_str().map(Some),
        };
        let names = value.get("blocks")?.as_array()?.iter();
        let blocks = names.map(|name| name.as_str().map(String::from)).collect::<Option<_>>()?;
        let operands = text("operands")?.map(str::parse).transpose();
        let weights = text("weights")?.map(str::parse).transpose();
        Some(operands.and_then(|operands| Ok(Self { operands, weights: weights?, blocks })))
    }

    fn to_json(&self) -> Value {
        json!({
            "operands": self.operands.map(|scheme| scheme.to_string()),
            "weights": self.weights.map(|scheme| scheme.to_string()),
            "blocks": self.blocks,
        })
    }
}

impl PackedConfig {
    /// The configuration of a checkpoint whose codes are described by `codes`; those of the modules `real` as symmetric ones.
    pub fn new(codes: QuantizationConfig, real: impl IntoIterator<Item = String>) -> Self {
        Self {
            codes,
            real: real.into_iter().collect(),
            normal: BTreeMap::new(),
            inputs: BTreeMap::new(),
            attention: None,
            input_codes: BTreeMap::new(),
            binary_attention: None,
        }
    }

    /// With inputs of `modules` that are quantized: beside codes where compressed-tensors has words for them, else by name.
    pub fn with_inputs<'a>(
        mut self,
        scheme: ActivationScheme,
        modules: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self> {
        self.codes = self.codes.with_inputs(&scheme);
        for module in modules {
            let said = self.codes.group_of(module)?.is_some_and(|group| group.input_activations.is_some());
            if !said {
                self.inputs.insert(module.into(), scheme);
            }
        }
        Ok(self)
    }

    /// With operands of attention that are quantized.
    pub fn with_attention(self, attention: AttentionConfig) -> Self {
        Self { attention: Some(attention).filter(|attention| !attention.blocks.is_empty()), ..self }
    }

    /// The same with modules of NormalFloat codes.
    pub fn with_normal_floats(self, modules: impl IntoIterator<Item = (String, NormalFloatScheme)>) -> Self {
        Self { normal: modules.into_iter().collect(), ..self }
    }

    /// The same with coded inputs, by module.
    #[must_use]
    pub fn with_input_codes(self, input_codes: BTreeMap<String, InputCode>) -> Self {
        Self { input_codes, ..self }
    }

    /// The same with attention that keeps what has at least this share of the largest probability of its row, as ones.
    #[must_use]
    pub fn with_binary_attention(self, share: f32) -> Self {
        Self { binary_attention: Some(share), ..self }
    }

    /// How the inputs of modules are coded.
    pub fn input_codes(&self) -> &BTreeMap<String, InputCode> {
        &self.input_codes
    }

    /// The threshold of binary attention, if attention is binary.
    pub fn binary_attention(&self) -> Option<f32> {
        self.binary_attention
    }

    /// Parses the object whose `quant_method` is `trimtab`.
    ///
    /// # Errors
    /// [`Error::Quantization`] for unknown or missing keys, and what [`QuantizationConfig::parse`] refuses of its part.
    pub fn parse(value: &Value) -> Result<Self> {
        let refuse = |message: String| Error::Quantization {
            message,
            hint: "this file may be newer than this program",
        };
        Fields::new("quantization_config", value)?;
        let mut object = value.as_object().into_iter().flatten();
        let known = [
            "quant_method",
            "codes",
            "real_zeros",
            "normal_floats",
            "inputs",
            "attention",
            "input_codes",
            "binary_attention",
        ];
        if let Some((key, _)) = object.find(|(key, _)| !known.contains(&key.as_str())) {
            return Err(refuse(format!("quant_method \"trimtab\": unknown key \"{key}\"")));
        }
        let codes =
            value.get("codes").ok_or_else(|| refuse("quant_method \"trimtab\": codes is missing".into()))?;
        let names = |value: &Value| -> Option<BTreeSet<String>> {
            value.as_array()?.iter().map(|name| name.as_str().map(String::from)).collect()
        };
        let real = value.get("real_zeros").and_then(names);
        let real = real.ok_or_else(|| refuse("real_zeros is no list of module names".into()))?;
        let mut inputs = BTreeMap::new();
        if let Some(schemes) = value.get("inputs") {
            let schemes =
                schemes.as_object().ok_or_else(|| refuse("inputs is no object of schemes".into()))?;
            for (scheme, modules) in schemes {
                let parsed: ActivationScheme =
                    scheme.parse().map_err(|e: Error| refuse(format!("inputs: {e}")))?;
                let modules = names(modules)
                    .ok_or_else(|| refuse(format!("inputs: \"{scheme}\" has no list of module names")))?;
                inputs.extend(modules.into_iter().map(|module| (module, parsed)));
            }
        }
        let attention = match value.get("attention") {
            None | Some(Value::Null) => None,
            Some(value) => match AttentionConfig::parse(value) {
                Some(Ok(attention)) => Some(attention),
                Some(Err(error)) => return Err(refuse(format!("attention: {error}"))),
                None => {
                    return Err(refuse("attention: expected operands, weights and a list of blocks".into()));
                }
            },
        };
        let normal = match value.get("normal_floats") {
            None => BTreeMap::new(),
            Some(Value::Object(modules)) => {
                let scheme = |(name, label): (&String, &Value)| {
                    let label = label.as_str().unwrap_or_default();
                    label
                        .parse()
                        .map(|scheme| (name.clone(), scheme))
                        .map_err(|e: Error| refuse(e.to_string()))
                };
                modules.iter().map(scheme).collect::<Result<_>>()?
            }
            Some(_) => return Err(refuse("normal_floats is no object of schemes by module".into())),
        };
        let input_codes: BTreeMap<String, InputCode> = match value.get("input_codes") {
            None => BTreeMap::new(),
            Some(codes) => {
                serde_json::from_value(codes.clone()).map_err(|e| refuse(format!("input_codes: {e}")))?
            }
        };
        for (module, code) in &input_codes {
            if let Some(problem) = code.problem() {
                return Err(refuse(format!("inputs of \"{module}\": {problem}")));
            }
        }
        let binary_attention = match value.get("binary_attention") {
            None => None,
            Some(share) => match share.as_f64().filter(|share| *share > 0.0 && *share <= 1.0) {
                Some(share) => Some(share as f32),
                None => return Err(refuse(format!("binary_attention is {share}, expected a share"))),
            },
        };
        let codes = QuantizationConfig::parse(codes)?;
        Ok(Self { codes, real, normal, inputs, attention, input_codes, binary_attention })
    }

    /// Whether compressed-tensors says all of it.
    pub fn is_common(&self) -> bool {
        self.real.is_empty() && self.normal.is_empty() && !self.has_activations()
    }

    /// The object for `config.json`.
    pub fn to_json(&self) -> Value {
        if self.is_common() {
            return self.codes.to_json();
        }
        let mut whole = json!({
            "quant_method": "trimtab",
            "codes": self.codes.to_json(),
            "real_zeros": self.real,
        });
        if !self.normal.is_empty() {
            let labels =
                self.normal.iter().map(|(name, scheme)| (name.clone(), Value::from(scheme.to_string())));
            whole["normal_floats"] = labels.collect::<serde_json::Map<_, _>>().into();
        }
        if !self.inputs.is_empty() {
            let mut schemes: BTreeMap<String, Vec<&str>> = BTreeMap::new();
            for (module, scheme) in &self.inputs {
                schemes.entry(scheme.to_string()).or_default().push(module);
            }
            whole["inputs"] = json!(schemes);
        }
        if let Some(attention) = &self.attention {
            whole["attention"] = attention.to_json();
        }
        if !self.input_codes.is_empty() {
            whole["input_codes"] = json!(self.input_codes);
        }
        if let Some(share) = self.binary_attention {
            whole["binary_attention"] = json!(share);
        }
        whole
    }

    /// Whether nothing of a checkpoint is quantized by it.
    pub fn is_empty(&self) -> bool {
        self.codes.groups().is_empty() && self.is_common()
    }

    /// How the input of `module` is quantized.
    ///
    /// # Errors
    /// What [`QuantizationConfig::group_of`] and [`ActivationScheme::of_json`] refuse.
    pub fn input(&self, module: &str) -> Result<Option<ActivationScheme>> {
        match self.inputs.get(module) {
            Some(scheme) => Ok(Some(*scheme)),
            None => self.codes.input_of(module),
        }
    }

    /// Whether activations are quantized in ways that compressed-tensors has no words for.
    pub fn has_activations(&self) -> bool {
        !self.inputs.is_empty()
            || self.attention.is_some()
            || !self.input_codes.is_empty()
            || self.binary_attention.is_some()
    }

    /// What is quantized of the operands of attention.
    pub fn attention(&self) -> Option<&AttentionConfig> {
        self.attention.as_ref()
    }

    /// What compressed-tensors says of the codes.
    pub fn codes(&self) -> &QuantizationConfig {
        &self.codes
    }

    /// The quantized weight of `module`; `None` if the checkpoint holds it dense.
    ///
    /// # Errors
    /// As [`read_compressed`]; [`Error::Tensor`] if zero points are missing, of another type than the scales, or not finite.
    pub fn read(&self, checkpoint: &Checkpoint, module: &str) -> Result<Option<Coded>> {
        if let Some(scheme) = self.normal.get(module) {
            return Ok(Some(Coded::NormalFloat(NormalFloatTensor::read(checkpoint, module, *scheme)?)));
        }
        let found = read_compressed(checkpoint, module, &self.codes)?;
        if !self.real.contains(module) {
            return Ok(found);
        }
        let tensors = ModuleTensors::new(checkpoint, module);
        Ok(Some(Coded::Real(RealTensor::read(found.and_then(Coded::into_affine), &tensors)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affine::AffineScheme;
    use crate::bytes::Bytes;
    use crate::compressed::{AffineGroup, GroupScheme, to_tensors};
    use crate::dtype::Dtype;
    use crate::real::tests::{codes, matrix};
    use crate::tensor::RawTensor;
    use crate::write::to_safetensors;

    #[test]
    fn comes_back_from_a_file_of_its_own_method_and_from_no_other() {
        let group = GroupScheme::Affine(AffineGroup {
            scheme: codes(true).scheme,
            per_tensor: false,
            act_order: false,
        });
        let listed = |names: &[&str]| {
            let config = QuantizationConfig::of_codes([("m", group)], &[]).unwrap();
            PackedConfig::new(config, names.iter().map(|name| name.to_string()))
        };
        let file = |tensors: Vec<(String, RawTensor)>| {
            let bytes = Bytes::from(to_safetensors(&tensors, &BTreeMap::new()).unwrap());
            Checkpoint::from_bytes(vec![("model.safetensors".into(), bytes)]).unwrap()
        };
        let json = listed(&["m"]).to_json();
        assert_eq!(json["quant_method"], "trimtab");
        let config = PackedConfig::parse(&json).unwrap();
        assert_eq!(config.to_json(), json);
        let checkpoint = file(matrix().to_tensors("m").unwrap());
        let Some(Coded::Real(back)) = config.read(&checkpoint, "m").unwrap() else {
            panic!("real zero points")
        };
        assert_eq!(back.dequantize(), matrix().dequantize());
        // Without the name, other numbers: why a method of its own is written.
        assert_eq!(listed(&[]).to_json()["quant_method"], "compressed-tensors");
        let without = listed(&[]).read(&checkpoint, "m").unwrap().unwrap();
        assert_ne!(without.dequantize(), matrix().dequantize());
        // Zero points that are missing, or of another type.
        let mut tensors = to_tensors("m", &codes(true)).unwrap();
        let message = config.read(&file(tensors.clone()), "m").unwrap_err().to_string();
        assert!(message.contains("m.weight_zero"), "{message}");
        tensors
            .push(("m.weight_zero".into(), RawTensor::from_f32(vec![2, 2], &[0.0; 4], Dtype::F32).unwrap()));
        let message = config.read(&file(tensors), "m").unwrap_err().to_string();
        assert!(message.contains("type of the scales"), "{message}");
        for (change, expected) in [
            (json!({"quant_method": "trimtab"}), "codes is missing"),
            (json!({"quant_method": "trimtab", "codes": {}, "more": 1}), "unknown key \"more\""),
            (json!({"quant_method": "trimtab", "codes": json["codes"], "real_zeros": [1]}), "real_zeros"),
        ] {
            let message = PackedConfig::parse(&change).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn quantized_inputs_stand_beside_codes_where_they_can_and_by_name_where_not() {
        let group = |bits| {
            let scheme = AffineScheme { bits, group_size: None, symmetric: true };
            GroupScheme::Affine(AffineGroup { scheme, per_tensor: false, act_order: false })
        };
        let codes = QuantizationConfig::of_codes([("a", group(8)), ("b", group(4))], &["c".into()]).unwrap();
        let plain = PackedConfig::new(codes, []);
        let with =
            |scheme: &str| plain.clone().with_inputs(scheme.parse().unwrap(), ["a", "b", "c"]).unwrap();
        // "c" is dense: compressed-tensors has no group without weights.
        let token = with("int8 token");
        assert!(!token.is_common());
        let json = token.to_json();
        assert_eq!(json["inputs"], json!({"int8 token": ["c"]}));
        assert_eq!(json["codes"]["config_groups"]["group_0"]["format"], "int-quantized");
        assert_eq!(json["codes"]["config_groups"]["group_1"]["format"], "pack-quantized");
        for config in [token, PackedConfig::parse(&json).unwrap()] {
            for module in ["a", "b", "c"] {
                assert_eq!(config.input(module).unwrap().unwrap().to_string(), "int8 token", "{module}");
            }
        }
        let two = plain.clone().with_inputs("int8 token".parse().unwrap(), ["a", "b"]).unwrap();
        assert_eq!(two.to_json()["quant_method"], "compressed-tensors");
        assert_eq!(two.input("c").unwrap(), None);
        let channel = with("int4 channel").to_json();
        assert_eq!(channel["inputs"], json!({"int4 channel": ["a", "b", "c"]}));
        assert_eq!(channel["codes"]["config_groups"]["group_0"]["input_activations"], Value::Null);
        let attention = AttentionConfig {
            operands: Some("int4 tensor".parse().unwrap()),
            weights: Some("int4 log-sqrt2".parse().unwrap()),
            blocks: ["x".to_string()].into(),
        };
        let json = plain.with_attention(attention.clone()).to_json();
        assert_eq!(PackedConfig::parse(&json).unwrap().attention(), Some(&attention));
        let mut bad = json;
        bad["attention"]["weights"] = "int4 log3".into();
        assert!(PackedConfig::parse(&bad).unwrap_err().to_string().contains("log3"));
    }

    #[test]
    fn coded_inputs_come_back_and_senseless_ones_are_refused() {
        let codes = QuantizationConfig::of_schemes([("m", codes(true).scheme, false)], &[]);
        let grid = InputCode::Grid { step: 0.1, low: 0, high: 15 };
        let inputs = BTreeMap::from([("m".to_string(), grid), ("n".to_string(), InputCode::Signs)]);
        let config =
            PackedConfig::new(codes, []).with_input_codes(inputs.clone()).with_binary_attention(0.25);
        let json = config.to_json();
        assert_eq!(json["quant_method"], "trimtab");
        let back = PackedConfig::parse(&json).unwrap();
        assert_eq!((back.input_codes(), back.binary_attention()), (&inputs, Some(0.25)));
        let refused = |change: fn(&mut Value)| {
            let mut json = json.clone();
            change(&mut json);
            PackedConfig::parse(&json).unwrap_err().to_string()
        };
        assert!(refused(|json| json["input_codes"]["m"] = json!("cubes")).contains("input_codes"));
        assert!(
            refused(|json| json["input_codes"]["m"]["grid"]["step"] = json!(-1)).contains("inputs of \"m\"")
        );
        assert!(refused(|json| json["binary_attention"] = json!(2)).contains("binary_attention"));
    }
}
