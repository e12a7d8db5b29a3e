//! How activations are quantized, and the tensors that hold their steps.
//!
//! compressed-tensors says it beside the weights, in `input_activations` of a group, and keeps the steps that are found beforehand
//! in `input_scale` and `input_zero_point` of a module. It has no word for a step a channel, nor for the weights of attention: those
//! stand in the configuration of our own method ([`crate::PackedConfig`]).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::bytes::Bytes;
use crate::checkpoint::Checkpoint;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::module::ModuleTensors;
use crate::tensor::RawTensor;

const SCALE: &str = "input_scale";
const ZERO: &str = "input_zero_point";

/// What shares a step and a zero, and when they are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationGranularity {
    /// All that reaches the site, found beforehand.
    Tensor,
    /// A channel (of a convolution: of its image), found beforehand.
    Channel,
    /// A row (of a convolution: an image), found as it comes.
    Token,
    /// All rows of one call, found as they come: what a row becomes depends on the others.
    Call,
}

/// The codes of activations: unsigned ones, `x̂ = s (q - z)` with a step `s > 0` and an integer zero `z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ActivationScheme {
    /// Bits of a code, 4 to 8.
    pub bits: u8,
    /// Zero fixed at `2^(b-1)`, and the step such that both ends of the range are codes.
    pub symmetric: bool,
    /// What shares a step.
    pub granularity: ActivationGranularity,
}

/// Step and zero of some activations: `x̂ = scale (q - zero)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActivationStep {
    /// Step, positive.
    pub scale: f32,
    /// The code of 0.
    pub zero: u8,
}

impl ActivationScheme {
    /// Asymmetric codes.
    pub fn new(bits: u8, granularity: ActivationGranularity) -> Self {
        Self { bits, symmetric: false, granularity }
    }

    /// Checks the bits.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bits that are not 4 to 8.
    pub fn check(&self) -> Result<()> {
        match (4..=8).contains(&self.bits) {
            true => Ok(()),
            false => Err(Error::invalid("activations", format!("have 4 to 8 bits, not {}", self.bits))),
        }
    }

    /// Whether steps are found as activations come.
    pub fn is_dynamic(&self) -> bool {
        matches!(self.granularity, ActivationGranularity::Token | ActivationGranularity::Call)
    }

    /// The highest code.
    pub fn highest(&self) -> u8 {
        ((1u16 << self.bits) - 1) as u8
    }

    /// The code that stands for 0 where codes are symmetric.
    pub fn middle(&self) -> u8 {
        1 << (self.bits - 1)
    }

    /// Step and zero for what lies between `low` and `high`. The range is extended to contain 0; 0 alone becomes `[-1, 1]`.
    pub fn step(&self, low: f32, high: f32) -> ActivationStep {
        let (mut low, mut high) = (low.min(0.0), high.max(0.0));
        if low == 0.0 && high == 0.0 {
            (low, high) = (-1.0, 1.0);
        }
        let highest = f32::from(self.highest());
        if self.symmetric {
            let scale = high.max(-low) / f32::from(self.middle() - 1);
            return ActivationStep { scale: scale.max(f32::MIN_POSITIVE), zero: self.middle() };
        }
        let scale = ((high - low) / highest).max(f32::MIN_POSITIVE);
        let zero = (-low / scale).round_ties_even().clamp(0.0, highest) as u8;
        ActivationStep { scale, zero }
    }

    /// `input_activations` of a group of compressed-tensors; `None` where that has no word for it.
    pub fn to_json(&self) -> Option<Value> {
        let (strategy, dynamic) = match self.granularity {
            ActivationGranularity::Tensor => ("tensor", false),
            ActivationGranularity::Call => ("tensor", true),
            ActivationGranularity::Token => ("token", true),
            ActivationGranularity::Channel => return None,
        };
        let Self { bits, symmetric, .. } = self;
        Some(
            json!({"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy, "dynamic": dynamic}),
        )
    }

    /// What `input_activations` of a group says; `None` for floats.
    ///
    /// # Errors
    /// [`Error::Quantization`] for integers that share their steps in other ways.
    pub fn of_json(value: &Value) -> Result<Option<Self>> {
        let refuse = |what: String| {
            Err(Error::Quantization {
                message: format!("input_activations: {what}"),
                hint: "integers of 4 to 8 bits are read, of strategy tensor, and token where dynamic",
            })
        };
        let text = |key: &str, default: &str| match value.get(key) {
            None | Some(Value::Null) => default.to_string(),
            Some(value) => value.as_str().map_or_else(|| value.to_string(), str::to_ascii_lowercase),
        };
        match &*text("type", "int") {
            "int" => {}
            "float" => return Ok(None),
            other => return refuse(format!("type \"{other}\" is not read")),
        }
        let bits = match value.get("num_bits") {
            None | Some(Value::Null) => 8,
            Some(bits) => match bits.as_u64() {
                Some(bits @ 4..=8) => bits as u8,
                _ => return refuse(format!("num_bits is {bits}")),
            },
        };
        let symmetric = value.get("symmetric").is_none_or(|symmetric| *symmetric != Value::Bool(false));
        let granularity = match (&*text("strategy", "tensor"), value.get("dynamic")) {
            ("tensor", None | Some(Value::Null | Value::Bool(false))) => ActivationGranularity::Tensor,
            ("tensor", Some(Value::Bool(true))) => ActivationGranularity::Call,
            ("token", Some(Value::Bool(true))) => ActivationGranularity::Token,
            (strategy, dynamic) => {
                let dynamic = dynamic.map_or("absent".into(), Value::to_string);
                return refuse(format!("strategy \"{strategy}\" with dynamic {dynamic} is not read"));
            }
        };
        Ok(Some(Self { bits, symmetric, granularity }))
    }
}

impl fmt::Display for ActivationScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let granularity = match self.granularity {
            ActivationGranularity::Tensor => "tensor",
            ActivationGranularity::Channel => "channel",
            ActivationGranularity::Token => "token",
            ActivationGranularity::Call => "tensor dynamic",
        };
        let symmetric = if self.symmetric { " sym" } else { "" };
        write!(f, "int{} {granularity}{symmetric}", self.bits)
    }
}

impl FromStr for ActivationScheme {
    type Err = Error;

    /// `int8 token`, `int4 tensor`, `int8 tensor dynamic`, `int8 channel sym`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            let message = format!(
                "\"{text}\" is no scheme\nhint: write the bits (int4 to int8), then token, tensor, tensor dynamic, or channel, and sym where zeros are fixed: 'int8 token'"
            );
            Error::invalid("activations", message)
        };
        let mut words: Vec<&str> = text.split_whitespace().collect();
        let symmetric = words.last() == Some(&"sym");
        words.truncate(words.len() - usize::from(symmetric));
        let (bits, granularity) = words.split_first().ok_or_else(bad)?;
        let bits = bits.strip_prefix("int").and_then(|bits| bits.parse().ok()).ok_or_else(bad)?;
        let granularity = match granularity {
            ["tensor"] => ActivationGranularity::Tensor,
            ["channel"] => ActivationGranularity::Channel,
            ["token"] => ActivationGranularity::Token,
            ["tensor", "dynamic"] => ActivationGranularity::Call,
            _ => return Err(bad()),
        };
        let scheme = Self { bits, symmetric, granularity };
        scheme.check()?;
        Ok(scheme)
    }
}

impl ActivationStep {
    /// The code of `x`.
    pub fn code(&self, x: f32, highest: u8) -> u8 {
        let zero = f32::from(self.zero);
        ((x / self.scale).clamp(-zero, f32::from(highest) - zero).round_ties_even() + zero) as u8
    }

    /// What a code stands for.
    pub fn decode(&self, code: u8) -> f32 {
        self.scale * (f32::from(code) - f32::from(self.zero))
    }
}

/// How the weights of attention become codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SoftmaxCode {
    /// Equal steps from 0 on.
    Uniform,
    /// `s 2^(-q)`.
    Log2,
    /// `s 2^(-q/2)`.
    LogSqrt2,
}

/// The codes of the weights of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SoftmaxScheme {
    /// The code.
    pub code: SoftmaxCode,
    /// Bits of a code, 2 to 8.
    pub bits: u8,
}

impl fmt::Display for SoftmaxScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = match self.code {
            SoftmaxCode::Uniform => "uniform",
            SoftmaxCode::Log2 => "log2",
            SoftmaxCode::LogSqrt2 => "log-sqrt2",
        };
        write!(f, "int{} {code}", self.bits)
    }
}

impl FromStr for SoftmaxScheme {
    type Err = Error;

    /// `int4 log-sqrt2`.
    fn from_str(text: &str) -> Result<Self> {
        let all = [SoftmaxCode::Uniform, SoftmaxCode::Log2, SoftmaxCode::LogSqrt2];
        let found = all.into_iter().flat_map(|code| (2..=8).map(move |bits| Self { code, bits }));
        found.into_iter().find(|scheme| scheme.to_string() == text).ok_or_else(|| {
            let message = format!(
                "\"{text}\" is no code of attention weights\nhint: write the bits (int2 to int8), then uniform, log2 or log-sqrt2: 'int4 log-sqrt2'"
            );
            Error::invalid("activations", message)
        })
    }
}

/// The tensors of steps that were found beforehand, for what is called `module`; zero points are signed, as those of
/// compressed-tensors, and absent where codes are symmetric.
///
/// # Errors
/// None, for lengths of vectors are those of tensors.
pub fn input_tensors(
    module: &str,
    scheme: ActivationScheme,
    steps: &[ActivationStep],
) -> Result<Vec<(String, RawTensor)>> {
    if steps.is_empty() {
        return Ok(Vec::new());
    }
    let scales: Vec<f32> = steps.iter().map(|step| step.scale).collect();
    let shape = vec![steps.len()];
    let mut tensors =
        vec![(format!("{module}.{SCALE}"), RawTensor::from_f32(shape.clone(), &scales, Dtype::F32)?)];
    if !scheme.symmetric {
        let signed = |step: &ActivationStep| step.zero.wrapping_sub(scheme.middle()) as i8;
        let zeros = Bytes::from_numbers(steps.iter().map(signed).collect::<Vec<i8>>());
        tensors.push((format!("{module}.{ZERO}"), RawTensor::new(Dtype::I8, shape, zeros)?));
    }
    Ok(tensors)
}

/// The steps of `module`, `count` of them, that [`input_tensors`] or another program has written; none where they are found as
/// activations come.
///
/// # Errors
/// [`Error::Tensor`] if a tensor is missing, has another length, or holds what no step or zero can be.
pub fn read_input_steps(
    checkpoint: &Checkpoint,
    module: &str,
    scheme: ActivationScheme,
    count: usize,
) -> Result<Vec<ActivationStep>> {
    if scheme.is_dynamic() {
        return Ok(Vec::new());
    }
    let tensors = ModuleTensors::new(checkpoint, module);
    let length = |suffix: &str, found: usize| match found == count {
        true => Ok(()),
        false => Err(tensors.wrong(suffix, format!("expected {count} numbers, found {found}"))),
    };
    let scales = tensors.tensor(SCALE)?.to_f32().map_err(|e| tensors.wrong(SCALE, e.to_string()))?;
    length(SCALE, scales.len())?;
    if let Some(i) = scales.iter().position(|scale| !(*scale > 0.0 && scale.is_finite())) {
        return Err(
            tensors.wrong(SCALE, format!("is {} at index {i}, expected a positive number", scales[i]))
        );
    }
    let middle = i64::from(scheme.middle());
    let zeros = match !scheme.symmetric || tensors.contains(ZERO) {
        true => tensors.tensor(ZERO)?.to_i64().map_err(|e| tensors.wrong(ZERO, e.to_string()))?,
        false => vec![0; count],
    };
    length(ZERO, zeros.len())?;
    let step = |(&scale, &zero): (&f32, &i64)| match u8::try_from(zero.saturating_add(middle)) {
        Ok(code) if code <= scheme.highest() && (!scheme.symmetric || zero == 0) => {
            Ok(ActivationStep { scale, zero: code })
        }
        _ => Err(tensors.wrong(ZERO, format!("{zero} is no zero point of {scheme}"))),
    };
    scales.iter().zip(&zeros).map(step).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::write::to_safetensors;

    const EACH: [ActivationGranularity; 4] = [
        ActivationGranularity::Tensor,
        ActivationGranularity::Channel,
        ActivationGranularity::Token,
        ActivationGranularity::Call,
    ];

    #[test]
    fn schemes_are_read_as_they_are_written() {
        for granularity in EACH {
            for symmetric in [false, true] {
                let scheme = ActivationScheme { bits: 6, symmetric, granularity };
                assert_eq!(scheme.to_string().parse::<ActivationScheme>().unwrap(), scheme);
                let json = scheme.to_json();
                assert_eq!(json.is_none(), granularity == ActivationGranularity::Channel);
                if let Some(json) = json {
                    assert_eq!(ActivationScheme::of_json(&json).unwrap(), Some(scheme));
                }
            }
        }
        for bad in ["", "int8", "int3 token", "int9 tensor", "8 token", "int8 group", "int8 token dynamic"] {
            let error = bad.parse::<ActivationScheme>().unwrap_err().to_string();
            assert!(error.contains("activations"), "{bad}: {error}");
        }
        for code in [SoftmaxCode::Uniform, SoftmaxCode::Log2, SoftmaxCode::LogSqrt2] {
            let scheme = SoftmaxScheme { code, bits: 4 };
            assert_eq!(scheme.to_string().parse::<SoftmaxScheme>().unwrap(), scheme);
        }
        assert!(
            "int4 log3".parse::<SoftmaxScheme>().is_err() && "int9 log2".parse::<SoftmaxScheme>().is_err()
        );
    }

    #[test]
    fn what_other_programs_write_is_read_or_refused() {
        let of = |value: Value| ActivationScheme::of_json(&value);
        let token = of(
            json!({"num_bits": 8, "type": "int", "symmetric": true, "strategy": "token", "dynamic": true}),
        );
        assert_eq!(token.unwrap().unwrap().to_string(), "int8 token sym");
        assert_eq!(of(json!({})).unwrap().unwrap().to_string(), "int8 tensor sym");
        assert_eq!(
            of(json!({"type": "float", "strategy": "tensor_group", "dynamic": "local"})).unwrap(),
            None
        );
        for bad in [
            json!({"num_bits": 2}),
            json!({"strategy": "group", "dynamic": true}),
            json!({"strategy": "token"}),
            json!({"strategy": "token", "dynamic": "local"}),
            json!({"type": "posit"}),
        ] {
            assert!(of(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn steps_come_back_from_a_file() {
        for symmetric in [false, true] {
            let scheme = ActivationScheme { bits: 4, symmetric, granularity: ActivationGranularity::Channel };
            let steps = [scheme.step(-1.0, 3.0), scheme.step(0.0, 0.01), scheme.step(-9.0, 0.0)];
            let file = |tensors: &[(String, RawTensor)]| {
                let bytes = Bytes::from(to_safetensors(tensors, &BTreeMap::new()).unwrap());
                Checkpoint::from_bytes(vec![("model.safetensors".into(), bytes)]).unwrap()
            };
            let tensors = input_tensors("m", scheme, &steps).unwrap();
            assert_eq!(tensors.len(), if symmetric { 1 } else { 2 });
            assert_eq!(read_input_steps(&file(&tensors), "m", scheme, 3).unwrap(), steps);
            let message = read_input_steps(&file(&tensors), "m", scheme, 2).unwrap_err().to_string();
            assert!(message.contains("m.input_scale") && message.contains("expected 2 numbers"), "{message}");
            let wide = [ActivationStep { scale: 1.0, zero: 77 }];
            let wide =
                input_tensors("m", ActivationScheme { bits: 8, symmetric: false, ..scheme }, &wide).unwrap();
            assert!(read_input_steps(&file(&wide), "m", scheme, 1).unwrap_err().to_string().contains("zero"));
            let none = [ActivationStep { scale: 0.0, zero: 8 }];
            let none = input_tensors("m", scheme, &none).unwrap();
            assert!(
                read_input_steps(&file(&none), "m", scheme, 1).unwrap_err().to_string().contains("positive")
            );
            assert!(read_input_steps(&file(&[]), "m", scheme, 1).is_err());
            let dynamic = ActivationScheme { granularity: ActivationGranularity::Token, ..scheme };
            assert_eq!(read_input_steps(&file(&[]), "m", dynamic, 1).unwrap(), []);
        }
    }
}
