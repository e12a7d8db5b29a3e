//! One scheme of `config_groups`: which integers, in which groups.

use serde_json::{Map, Value};

use super::format::CompressedFormat;
use crate::affine::AffineScheme;
use crate::error::{Error, Result};

const SCHEME_KEYS: [&str; 5] = ["targets", "weights", "input_activations", "output_activations", "format"];
const WEIGHT_KEYS: [&str; 12] = [
    "num_bits",
    "type",
    "symmetric",
    "group_size",
    "strategy",
    "block_structure",
    "dynamic",
    "actorder",
    "scale_dtype",
    "zp_dtype",
    "observer",
    "observer_kwargs",
];
pub(super) const USE_ORIGINAL: &str = "integer weights of 1 to 8 bits are read, in pack-quantized, int-quantized and naive-quantized; use the original model instead";

/// What is read of a scheme.
#[derive(Debug, PartialEq)]
pub(super) struct Scheme {
    pub affine: AffineScheme,
    /// One scale for the whole matrix.
    pub per_tensor: bool,
    /// Columns are grouped by `weight_g_idx`.
    pub act_order: bool,
    pub format: CompressedFormat,
    /// How inputs are quantized, as written.
    pub input_activations: Option<Value>,
}

/// The part of it that `weights` says.
#[derive(Debug, PartialEq)]
struct Weights {
    affine: AffineScheme,
    per_tensor: bool,
    act_order: bool,
}

/// Parses a scheme; `group` is its name in messages, `whole` the format of groups that name none.
pub(super) fn parse(group: &str, value: &Value, whole: Option<CompressedFormat>) -> Result<Scheme> {
    let Value::Object(scheme) = value else {
        return Err(refuse(group, "presets by name are not read", "write the scheme out as an object"));
    };
    check_keys(group, scheme, &SCHEME_KEYS)?;
    if is_set(scheme.get("output_activations")) {
        return Err(refuse(group, "output_activations are quantized, which is not read", USE_ORIGINAL));
    }
    let input_activations = scheme.get("input_activations").filter(|value| !value.is_null());
    if let Some(other) = input_activations.filter(|value| !value.is_object()) {
        let message = format!("input_activations is {other}");
        return Err(refuse(group, &message, "expected an object, or null"));
    }
    let format = match scheme.get("format").filter(|format| !format.is_null()) {
        Some(name) => name
            .as_str()
            .and_then(CompressedFormat::from_name)
            .ok_or_else(|| refuse(group, &format!("format {name} is not read"), USE_ORIGINAL))?,
        None => whole.ok_or_else(|| {
            refuse(group, "format is missing", "each group of a mixed-precision file names its own")
        })?,
    };
    let Some(Value::Object(weights)) = scheme.get("weights") else {
        return Err(refuse(group, "no weights are quantized", "remove the group"));
    };
    let name = format!("{group}.weights");
    check_keys(&name, weights, &WEIGHT_KEYS)?;
    let Weights { affine, per_tensor, act_order } = parse_weights(&name, weights)?;
    Ok(Scheme { affine, per_tensor, act_order, format, input_activations: input_activations.cloned() })
}

fn parse_weights(name: &str, weights: &Map<String, Value>) -> Result<Weights> {
    let text = |key: &str| weights.get(key).and_then(Value::as_str).map(str::to_ascii_lowercase);
    if let Some(kind) = text("type").filter(|kind| kind != "int") {
        return Err(refuse(name, &format!("type \"{kind}\" is not read"), USE_ORIGINAL));
    }
    if is_set(weights.get("dynamic").filter(|v| **v != Value::Bool(false))) {
        return Err(refuse(name, "weights are quantized while running (dynamic)", USE_ORIGINAL));
    }
    let bits = match weights.get("num_bits") {
        None => 8,
        Some(value) => match value.as_u64() {
            Some(bits @ 1..=8) => bits as u8,
            _ => return Err(refuse(name, &format!("num_bits is {value}, expected 1 to 8"), USE_ORIGINAL)),
        },
    };
    let symmetric = flag(name, "symmetric", weights.get("symmetric"), true)?;
    let (group_size, per_tensor) = parse_groups(name, text("strategy"), weights.get("group_size"))?;
    let act_order = match weights.get("actorder") {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(order)) if ["weight", "static"].contains(&order.as_str()) => false,
        Some(Value::String(order)) if ["group", "dynamic"].contains(&order.as_str()) => true,
        Some(Value::Bool(true)) => true,
        Some(other) => {
            return Err(refuse(name, &format!("actorder {other} is unknown"), "expected weight or group"));
        }
    };
    if act_order && group_size.is_none() {
        return Err(refuse(name, "actorder \"group\" without groups", "expected strategy \"group\""));
    }
    Ok(Weights { affine: AffineScheme { bits, group_size, symmetric }, per_tensor, act_order })
}

/// `(group_size, per_tensor)`.
fn parse_groups(name: &str, strategy: Option<String>, size: Option<&Value>) -> Result<(Option<usize>, bool)> {
    let size = match size {
        None | Some(Value::Null) => None,
        Some(value) => Some(value.as_i64().filter(|&size| size > 0 || size == -1).ok_or_else(|| {
            refuse(
                name,
                &format!("group_size is {value}"),
                "expected a positive number, or -1 for one scale a row",
            )
        })?),
    };
    let strategy = strategy.unwrap_or_else(|| {
        let inferred = match size {
            None => "tensor",
            Some(-1) => "channel",
            Some(_) => "group",
        };
        inferred.into()
    });
    match (strategy.as_str(), size) {
        ("tensor", None | Some(-1)) => Ok((None, true)),
        ("channel", None | Some(-1)) => Ok((None, false)),
        ("group", Some(size @ 1..)) => Ok((Some(size as usize), false)),
        ("tensor" | "channel", Some(size)) => {
            let message = format!("strategy \"{strategy}\" with group_size {size}");
            Err(refuse(name, &message, "expected strategy \"group\", or no group_size"))
        }
        ("group", _) => {
            Err(refuse(name, "strategy \"group\" without a group_size", "expected a positive group_size"))
        }
        _ => Err(refuse(name, &format!("strategy \"{strategy}\" is not read for integers"), USE_ORIGINAL)),
    }
}

fn check_keys(name: &str, object: &Map<String, Value>, known: &[&str]) -> Result<()> {
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            let message = format!("unknown key \"{key}\"; known are {}", known.join(", "));
            Err(refuse(name, &message, "this file may be newer than this program"))
        }
    }
}

fn flag(name: &str, key: &str, value: Option<&Value>, default: bool) -> Result<bool> {
    match value {
        None => Ok(default),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => Err(refuse(name, &format!("{key} is {other}"), "expected true or false")),
    }
}

/// Whether a key has a value other than null.
pub(super) fn is_set(value: Option<&Value>) -> bool {
    value.is_some_and(|value| !value.is_null())
}

fn refuse(name: &str, message: &str, hint: &'static str) -> Error {
    Error::Quantization { message: format!("{name}: {message}"), hint }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PACKED: Option<CompressedFormat> = Some(CompressedFormat::PackQuantized);

    fn weights(value: Value) -> Result<Scheme> {
        parse("group_0", &json!({ "targets": ["Linear"], "weights": value }), PACKED)
    }

    #[test]
    fn the_common_schemes() {
        let scheme = weights(json!({"num_bits": 4, "type": "int", "symmetric": false, "strategy": "group", "group_size": 64, "dynamic": false, "actorder": "group", "observer": "minmax"})).unwrap();
        let affine = AffineScheme { bits: 4, group_size: Some(64), symmetric: false };
        let format = CompressedFormat::PackQuantized;
        let expected = Scheme { affine, per_tensor: false, act_order: true, format, input_activations: None };
        assert_eq!(scheme, expected);
        let affine = AffineScheme { bits: 3, group_size: None, symmetric: true };
        assert_eq!(weights(json!({"num_bits": 3, "group_size": -1})).unwrap().affine, affine);
        assert!(weights(json!({"num_bits": 8})).unwrap().per_tensor, "without strategy and group_size");
    }

    #[test]
    fn what_is_not_read_is_named() {
        let cases = [
            (json!({"num_bits": 9}), "num_bits is 9"),
            (json!({"type": "float"}), "type \"float\""),
            (json!({"strategy": "block"}), "\"block\""),
            (json!({"strategy": "group"}), "without a group_size"),
            (json!({"strategy": "channel", "group_size": 32}), "with group_size 32"),
            (json!({"group_size": 0}), "group_size is 0"),
            (json!({"dynamic": true}), "dynamic"),
            (json!({"nmu_bits": 4}), "unknown key \"nmu_bits\""),
            (json!({"symmetric": "yes"}), "symmetric is \"yes\""),
            (json!({"actorder": "sideways", "group_size": 8}), "actorder"),
            (json!({"actorder": "group", "strategy": "channel"}), "without groups"),
        ];
        for (value, expected) in cases {
            let message = weights(value.clone()).unwrap_err().to_string();
            assert!(message.contains(expected), "{value}: {message}");
        }
        let message = |value: Value| parse("g", &value, PACKED).unwrap_err().to_string();
        let activations = json!({"weights": {"num_bits": 8}, "output_activations": {"num_bits": 8}});
        assert!(message(activations).contains("output_activations are quantized"));
        let activations = json!({"weights": {"num_bits": 8}, "input_activations": 8});
        assert!(message(activations).contains("input_activations is 8"));
        assert!(message(json!({"weights": null})).contains("no weights"));
        assert!(message(json!(["Linear"])).contains("presets"));
        assert!(message(json!({"weights": {}, "format": "nvfp4-pack-quantized"})).contains("nvfp4"));
    }

    #[test]
    fn a_group_names_its_format_or_takes_that_of_the_whole() {
        let activations = json!({"num_bits": 8, "type": "int", "strategy": "token", "dynamic": true});
        let group = json!({"weights": {"num_bits": 8, "strategy": "channel"}, "format": "int-quantized",
                           "input_activations": activations});
        let scheme = parse("g", &group, PACKED).unwrap();
        assert_eq!(scheme.format, CompressedFormat::IntQuantized);
        assert_eq!(scheme.input_activations, Some(activations));
        let group = json!({"weights": {"num_bits": 8}, "format": null});
        assert_eq!(parse("g", &group, PACKED).unwrap().format, CompressedFormat::PackQuantized);
        assert!(parse("g", &group, None).unwrap_err().to_string().contains("format is missing"));
    }
}
