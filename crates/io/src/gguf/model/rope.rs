//! Rotary settings: fields of `config.json`, keys and factor tensors.

use std::f64::consts::PI;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::gguf::container::Gguf;
use crate::gguf::container::value::GgufValue;

/// Factors of llama 3, one for each pair.
const FREQS: &str = "rope_freqs.weight";
/// Factors for long and short texts.
const LONG: &str = "rope_factors_long.weight";
const SHORT: &str = "rope_factors_short.weight";
/// Relative difference up to which stored factors count as those that were computed.
const SAME: f64 = 1e-4;

/// Tensors that are settings, not weights.
pub(super) fn is_setting(name: &str) -> bool {
    [FREQS, LONG, SHORT].contains(&name)
}

/// Brings both styles of rotary settings into fields `rope_theta`, `rope_local_base_freq`, `partial_rotary_factor` and,
/// where there is scaling, `rope_scaling`.
pub(super) fn flatten(config: &mut Map<String, Value>) {
    let tables = ["rope_parameters", "rope_scaling"].map(|name| config.get(name).cloned());
    let Some(Value::Object(table)) = tables.into_iter().flatten().find(Value::is_object) else {
        config.remove("rope_scaling");
        return;
    };
    let part = |name: &str| table.get(name).and_then(Value::as_object);
    if let Some(theta) = part("sliding_attention").and_then(|part| part.get("rope_theta")) {
        config.insert("rope_local_base_freq".into(), theta.clone());
    }
    let mut scaling = part("full_attention").unwrap_or(&table).clone();
    for name in ["rope_theta", "partial_rotary_factor"] {
        if let Some(value) = scaling.remove(name) {
            config.insert(name.into(), value);
        }
    }
    if let Some(value) = scaling.get("original_max_position_embeddings").filter(|v| !v.is_null()) {
        config.entry("original_max_position_embeddings").or_insert(value.clone());
    }
    if kind(&scaling) == "default" {
        config.remove("rope_scaling");
    } else {
        config.insert("rope_scaling".into(), scaling.into());
    }
}

fn kind(scaling: &Map<String, Value>) -> &str {
    scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str).unwrap_or("default")
}

fn fail(message: impl Into<String>) -> Error {
    Error::invalid("config.json", message)
}

fn number(table: &Map<String, Value>, name: &str) -> Result<f64> {
    let value = table.get(name).and_then(Value::as_f64).filter(|v| v.is_finite() && *v > 0.0);
    value.ok_or_else(|| fail(format!("rope settings lack a positive \"{name}\"")))
}

/// Keys of a flattened configuration, without the architecture; and factor tensors.
#[allow(clippy::type_complexity)]
pub(super) fn to_gguf(
    config: &Map<String, Value>,
    head_dim: u64,
) -> Result<(Vec<(String, GgufValue)>, Vec<(String, Vec<f32>)>)> {
    let (mut keys, mut tensors) = (Vec::new(), Vec::new());
    let part = config.get("partial_rotary_factor").and_then(Value::as_f64).unwrap_or(1.0);
    if !(part > 0.0 && part <= 1.0) {
        return Err(fail(format!("partial_rotary_factor is {part}")));
    }
    let dims = (part * head_dim as f64) as u32;
    keys.push(("rope.dimension_count".into(), dims.into()));
    let Some(scaling) = config.get("rope_scaling").and_then(Value::as_object) else {
        return Ok((keys, tensors));
    };
    match kind(scaling) {
        "linear" => {
            keys.push(("rope.scaling.type".into(), "linear".into()));
            keys.push(("rope.scaling.factor".into(), (number(scaling, "factor")? as f32).into()));
        }
        "yarn" => {
            keys.push(("rope.scaling.type".into(), "yarn".into()));
            keys.push(("rope.scaling.factor".into(), (number(scaling, "factor")? as f32).into()));
            let original = number(scaling, "original_max_position_embeddings")? as u32;
            keys.push(("rope.scaling.original_context_length".into(), original.into()));
            for (field, key) in [("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")] {
                if let Some(value) = scaling.get(field).and_then(Value::as_f64) {
                    keys.push((format!("rope.scaling.{key}"), (value as f32).into()));
                }
            }
            if let Some(value) = scaling.get("attention_factor").and_then(Value::as_f64) {
                keys.push(("rope.scaling.yarn_attn_factor".into(), (value as f32).into()));
            }
        }
        "llama3" => {
            let theta = config.get("rope_theta").and_then(Value::as_f64).unwrap_or(10_000.0);
            tensors.push((FREQS.into(), Llama3::of(scaling)?.factors(theta, dims as usize)));
        }
        "longrope" | "su" => {
            keys.push(("rope.scaling.type".into(), "longrope".into()));
            let max = number(config, "max_position_embeddings")?;
            let original = number(config, "original_max_position_embeddings")?;
            let factor =
                if max > original { (1.0 + (max / original).ln() / original.ln()).sqrt() } else { 1.0 };
            keys.push(("rope.scaling.attn_factor".into(), (factor as f32).into()));
            for (field, name) in [("long_factor", LONG), ("short_factor", SHORT)] {
                let values = scaling.get(field).and_then(Value::as_array);
                let values =
                    values.map(|v| v.iter().filter_map(|v| v.as_f64().map(|v| v as f32)).collect::<Vec<_>>());
                match values {
                    Some(values) if values.len() == dims as usize / 2 => tensors.push((name.into(), values)),
                    _ => return Err(fail(format!("{field} of longrope must have {} numbers", dims / 2))),
                }
            }
        }
        other => {
            return Err(fail(format!(
                "rope type \"{other}\" cannot be written as GGUF; known are default, linear, yarn, llama3, longrope"
            )));
        }
    }
    Ok((keys, tensors))
}

/// Fields from a file, into `config`, which has `head_dim` or what it follows from.
pub(super) fn from_gguf(gguf: &Gguf, config: &mut Map<String, Value>, head_dim: u64) -> Result<()> {
    let Some(architecture) = gguf.get("general.architecture").and_then(|v| v.as_str()) else { return Ok(()) };
    let get = |key: &str| gguf.get(&format!("{architecture}.{key}"));
    let fail = |message: String| Error::malformed(gguf.label(), message);
    let theta = config.get("rope_theta").and_then(Value::as_f64).unwrap_or(10_000.0);
    config.insert("rope_theta".into(), json!(theta));
    let dims = get("rope.dimension_count").and_then(GgufValue::as_u64).unwrap_or(head_dim);
    let mut rope = Map::new();
    rope.insert("rope_theta".into(), json!(theta));
    if head_dim > 0 && dims != head_dim {
        let part = dims as f64 / head_dim as f64;
        config.insert("partial_rotary_factor".into(), json!(part));
        rope.insert("partial_rotary_factor".into(), json!(part));
    }
    let scaling = get("rope.scaling.type").and_then(GgufValue::as_str).unwrap_or("none");
    let factor = get("rope.scaling.factor").and_then(GgufValue::as_f64);
    let original = get("rope.scaling.original_context_length").and_then(GgufValue::as_u64);
    let numbers = |name: &str| -> Result<Option<Vec<f32>>> {
        gguf.info(name).map(|_| gguf.tensor(name).map(|tensor| tensor.dequantize())).transpose()
    };
    let mut put = |name: &str, value: Value| rope.insert(name.into(), value);
    match (scaling, numbers(FREQS)?, numbers(LONG)?.zip(numbers(SHORT)?)) {
        (_, Some(factors), _) => {
            let found = Llama3::guess(&factors, theta, dims as usize);
            let found = found.ok_or_else(|| fail(format!("{FREQS} does not hold factors of llama 3")))?;
            put("rope_type", json!("llama3"));
            put("factor", json!(found.factor));
            put("low_freq_factor", json!(found.low));
            put("high_freq_factor", json!(found.high));
            put("original_max_position_embeddings", json!(found.original as u64));
        }
        (_, _, Some((long, short))) => {
            put("rope_type", json!("longrope"));
            put("long_factor", json!(long));
            put("short_factor", json!(short));
        }
        ("linear" | "yarn", _, _) => {
            let factor = factor.ok_or_else(|| fail("rope.scaling.factor is missing".into()))?;
            put("rope_type", json!(scaling));
            put("factor", json!(factor));
            if let Some(original) = original.filter(|_| scaling == "yarn") {
                put("original_max_position_embeddings", json!(original));
            }
        }
        ("none", _, _) => {
            put("rope_type", json!("default"));
        }
        (other, _, _) => return Err(fail(format!("rope.scaling.type \"{other}\" is not known"))),
    }
    config.insert("rope_parameters".into(), rope.into());
    Ok(())
}

/// The scaling of llama 3. Source: ggml-org/llama.cpp, `conversion/llama.py`, `generate_extra_tensors`.
struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    original: f64,
}

impl Llama3 {
    fn of(scaling: &Map<String, Value>) -> Result<Self> {
        Ok(Self {
            factor: number(scaling, "factor")?,
            low: number(scaling, "low_freq_factor")?,
            high: number(scaling, "high_freq_factor")?,
            original: number(scaling, "original_max_position_embeddings")?,
        })
    }

    /// One factor for each pair of `dims` numbers.
    fn factors(&self, theta: f64, dims: usize) -> Vec<f32> {
        let factor = |i: usize| {
            let wavelength = 2.0 * PI * theta.powf((2 * i) as f64 / dims as f64);
            if wavelength < self.original / self.high {
                1.0
            } else if wavelength > self.original / self.low {
                self.factor
            } else {
                let smooth = (self.original / wavelength - self.low) / (self.high - self.low);
                1.0 / ((1.0 - smooth) / self.factor + smooth)
            }
        };
        (0..dims / 2).map(|i| factor(i) as f32).collect()
    }

    /// The settings of every llama 3 with the factor that is seen, if they give these factors.
    fn guess(factors: &[f32], theta: f64, dims: usize) -> Option<Self> {
        if factors.len() != dims / 2 {
            return None;
        }
        let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
        let guess = Self { factor, low: 1.0, high: 4.0, original: 8192.0 };
        let same = |a: f32, b: f32| (f64::from(a) - f64::from(b)).abs() <= SAME * f64::from(b);
        guess.factors(theta, dims).iter().zip(factors).all(|(&a, &b)| same(a, b)).then_some(guess)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_styles_become_one() {
        let old = json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}});
        let new = json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}});
        for config in [old, new] {
            let Value::Object(mut config) = config else { unreachable!() };
            flatten(&mut config);
            assert_eq!(config["rope_theta"], 5e5);
            let (keys, tensors) = to_gguf(&config, 64).unwrap();
            assert!(keys.contains(&("rope.scaling.factor".into(), GgufValue::F32(2.0))), "{keys:?}");
            assert!(tensors.is_empty());
        }
    }

    #[test]
    fn factors_of_llama_3_are_recognised() {
        let settings = Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
        let factors = settings.factors(5e5, 128);
        assert_eq!((factors[0], factors[63]), (1.0, 8.0));
        assert_eq!(Llama3::guess(&factors, 5e5, 128).unwrap().factor, 8.0);
        let mut other = factors.clone();
        other[30] *= 1.01;
        assert!(Llama3::guess(&other, 5e5, 128).is_none());
        assert!(Llama3::guess(&factors, 1e4, 128).is_none(), "of another base");
    }

    #[test]
    fn unknown_scaling_is_refused() {
        let Value::Object(config) = json!({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}) else {
            unreachable!()
        };
        assert!(to_gguf(&config, 64).unwrap_err().to_string().contains("dynamic"));
    }
}
