//! Integer codes with real zero points, and the configuration of checkpoints that hold them.
//!
//! A value is `s·v + z` with a signed code `v = u − 2^(b−1)` and a real `z`, one a group beside its scale and of the same type.
//! No common format stores that: GPTQ, AWQ and compressed-tensors have integer zero points. The codes lie as
//! compressed-tensors packs symmetric ones, `weight_zero` beside them, and `config.json` names a method of its own, so that a
//! program that does not know it refuses the model instead of leaving the zero points out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Value, json};

use crate::activation::{ActivationScheme, SoftmaxScheme};
use crate::affine::{AffineScheme, AffineTensor};
use crate::checkpoint::Checkpoint;
use crate::coded::Coded;
use crate::compressed::{QuantizationConfig, read_compressed, to_tensors};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::input_code::InputCode;
use crate::module::ModuleTensors;
use crate::normal_float::{NormalFloatScheme, NormalFloatTensor};
use crate::tensor::{RawTensor, round_floats};

/// Suffix of the zero points.
const ZERO: &str = "weight_zero";

/// How the numbers of a matrix with real zero points are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RealScheme {
    /// Bits of a code, 1 to 8.
    pub bits: u8,
    /// Consecutive columns that share a scale and a zero point; the last group may be short. `None`: one of each a row.
    pub group_size: Option<usize>,
}

impl RealScheme {
    /// The codes without their zero points: those of a symmetric matrix.
    pub fn codes(&self) -> AffineScheme {
        AffineScheme { bits: self.bits, group_size: self.group_size, symmetric: true }
    }

    /// Bytes of a matrix on disk: those of symmetric codes, and a zero point beside each scale.
    pub fn bytes(&self, rows: usize, cols: usize, scale_dtype: Dtype) -> u64 {
        let zeros = scale_dtype.size() * rows * self.codes().n_groups(cols);
        self.codes().bytes(rows, cols, scale_dtype) + zeros as u64
    }
}

impl fmt::Display for RealScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = self.group_size.map_or("row".into(), |g| format!("g{g}"));
        f.pad(&format!("int{} {group} real", self.bits))
    }
}

/// A matrix of packed codes with real zero points, `[rows, cols]`.
#[derive(Clone, Debug)]
pub struct RealTensor {
    codes: AffineTensor,
    zeros: Vec<f32>,
}

impl RealTensor {
    /// Symmetric `codes` with `zeros` `[rows, n_groups]`, representable in the type of their scales.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the codes have zero points or an order of their own, if there are not as many zero points as scales,
    /// or if one is not finite or not representable.
    pub fn new(codes: AffineTensor, zeros: Vec<f32>) -> Result<Self> {
        const WHAT: &str = "matrix with real zero points";
        if !codes.scheme.symmetric || codes.g_idx.is_some() {
            return Err(Error::invalid(WHAT, "expected symmetric codes in the order of their columns"));
        }
        if zeros.len() != codes.scales.len() {
            let message = format!("{} zero points for {} scales", zeros.len(), codes.scales.len());
            return Err(Error::invalid(WHAT, message));
        }
        let mut rounded = zeros.clone();
        round_floats(&mut rounded, codes.scale_dtype)?;
        match zeros.iter().zip(&rounded).position(|(zero, rounded)| !zero.is_finite() || zero != rounded) {
            None => Ok(Self { codes, zeros }),
            Some(i) => {
                let dtype = codes.scale_dtype;
                let message =
                    format!("zero point {} at index {i} is no finite number of type {dtype}", zeros[i]);
                Err(Error::invalid(WHAT, message))
            }
        }
    }

    /// The codes and scales; a value of theirs lacks its zero point.
    pub fn codes(&self) -> &AffineTensor {
        &self.codes
    }

    /// The zero points, `[rows, n_groups]`.
    pub fn zeros(&self) -> &[f32] {
        &self.zeros
    }

    /// Bits and groups.
    pub fn scheme(&self) -> RealScheme {
        RealScheme { bits: self.codes.scheme.bits, group_size: self.codes.scheme.group_size }
    }

    /// Numbers of a row, `(u - 2^(b-1)) * scale + zero` in f32.
    ///
    /// # Panics
    /// If `row` is not below the rows, or `out` has not as many elements as there are columns.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        self.codes.dequantize_row(row, out);
        let groups = self.codes.scheme.n_groups(self.codes.cols);
        let width = self.codes.scheme.group_size.unwrap_or(self.codes.cols).max(1);
        for (out, zero) in out.chunks_mut(width).zip(&self.zeros[row * groups..]) {
            out.iter_mut().for_each(|x| *x += zero);
        }
    }

    /// All numbers, row-major `[rows, cols]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.codes.rows * self.codes.cols];
        out.chunks_mut(self.codes.cols.max(1))
            .enumerate()
            .for_each(|(row, out)| self.dequantize_row(row, out));
        out
    }

    /// Bytes on disk, of all tensors that make up this matrix.
    pub fn bytes(&self) -> u64 {
        self.codes.bytes() + (self.codes.scale_dtype.size() * self.zeros.len()) as u64
    }

    /// The tensors that hold the matrix as the weight of `module`; together they take [`Self::bytes`].
    ///
    /// # Errors
    /// As [`to_tensors`].
    pub fn to_tensors(&self, module: &str) -> Result<Vec<(String, RawTensor)>> {
        let mut tensors = to_tensors(module, &self.codes)?;
        let shape = vec![self.codes.rows, self.codes.scheme.n_groups(self.codes.cols)];
        let zeros = RawTensor::from_f32(shape, &self.zeros, self.codes.scale_dtype)?;
        tensors.push((format!("{module}.{ZERO}"), zeros));
        Ok(tensors)
    }
}

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
        let codes = found.and_then(Coded::into_affine);
        let codes =
            codes.ok_or_else(|| tensors.wrong(ZERO, "belongs to integer codes, which are not there"))?;
        let shape = [codes.rows, codes.scheme.n_groups(codes.cols)];
        let (zeros, dtype) = tensors.floats(ZERO, &shape)?;
        if dtype != codes.scale_dtype {
            let message = format!("expected the type of the scales, {}, found {dtype}", codes.scale_dtype);
            return Err(tensors.wrong(ZERO, message));
        }
        let matrix = RealTensor::new(codes, zeros).map_err(|e| tensors.wrong(ZERO, e.to_string()))?;
        Ok(Some(Coded::Real(matrix)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Bytes;
    use crate::compressed::{AffineGroup, GroupScheme};
    use crate::write::to_safetensors;

    fn codes(symmetric: bool) -> AffineTensor {
        let scheme = AffineScheme { bits: 2, group_size: Some(3), symmetric };
        let zeros = (!symmetric).then(|| vec![1; 4]);
        let scales = vec![0.5, 1.0, 2.0, -0.25];
        AffineTensor::from_codes(
            2,
            5,
            scheme,
            &[0, 1, 2, 3, 0, 3, 2, 1, 0, 3],
            scales,
            zeros,
            None,
            Dtype::BF16,
        )
        .unwrap()
    }

    fn matrix() -> RealTensor {
        RealTensor::new(codes(true), vec![0.125, -1.0, 0.0, 3.0]).unwrap()
    }

    #[test]
    fn a_value_is_the_scaled_code_and_the_zero_point() {
        // Signed codes: [-2 -1 0 | 1 -2], [1 0 -1 | -2 1].
        let expected = [-0.875, -0.375, 0.125, 0.0, -3.0, 2.0, 0.0, -2.0, 3.5, 2.75];
        assert_eq!(matrix().dequantize(), expected);
        assert_eq!(matrix().scheme().to_string(), "int2 g3 real");
        assert_eq!(RealScheme { bits: 4, group_size: None }.to_string(), "int4 row real");
    }

    #[test]
    fn bytes_are_those_of_the_tensors() {
        let tensors = matrix().to_tensors("m").unwrap();
        let written: u64 = tensors.iter().map(|(_, tensor)| tensor.bytes.len() as u64).sum();
        assert_eq!((written, matrix().scheme().bytes(2, 5, Dtype::BF16)), (matrix().bytes(), written));
        assert_eq!(written, codes(true).bytes() + 8);
    }

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

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let refused = |codes, zeros| RealTensor::new(codes, zeros).unwrap_err().to_string();
        assert!(refused(codes(false), vec![0.0; 4]).contains("symmetric"));
        assert!(refused(codes(true), vec![0.0; 3]).contains("3 zero points for 4 scales"));
        assert!(refused(codes(true), vec![0.0, 0.1, 0.0, 0.0]).contains("0.1 at index 1"));
        assert!(refused(codes(true), vec![f32::NAN; 4]).contains("NaN"));
    }
}
