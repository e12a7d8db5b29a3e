//! One scheme of `config_groups`: which codes, in which groups.

use serde_json::{Map, Value};

use super::float_scheme;
use super::format::CompressedFormat;
use super::group::{AffineGroup, GroupScheme};
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
pub(super) const USE_ORIGINAL: &str = "integers of 1 to 8 bits are read, in pack-quantized, int-quantized and naive-quantized, and FP8, MXFP8, NVFP4 and MXFP4; use the original model instead";

/// What is read of a scheme.
#[derive(Debug, PartialEq)]
pub(super) struct Scheme {
    pub codes: GroupScheme,
    pub format: CompressedFormat,
    /// How inputs are quantized, as written.
    pub input_activations: Option<Value>,
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
    let codes = parse_weights(&name, weights, format)?;
    if !format.holds(&codes) {
        return Err(refuse(
            &name,
            &format!("{codes} codes in the format \"{format}\""),
            "correct the format",
        ));
    }
    Ok(Scheme { codes, format, input_activations: input_activations.cloned() })
}

fn parse_weights(name: &str, weights: &Map<String, Value>, format: CompressedFormat) -> Result<GroupScheme> {
    if is_set(weights.get("dynamic").filter(|v| **v != Value::Bool(false))) {
        return Err(refuse(name, "weights are quantized while running (dynamic)", USE_ORIGINAL));
    }
    match lower(weights, "type").as_deref() {
        None | Some("int") => parse_integers(name, weights).map(GroupScheme::Affine),
        Some("float") => float_scheme::parse(name, weights, format).map(GroupScheme::Float),
        Some(kind) => Err(refuse(name, &format!("type \"{kind}\" is not read"), USE_ORIGINAL)),
    }
}

fn parse_integers(name: &str, weights: &Map<String, Value>) -> Result<AffineGroup> {
    let bits = match weights.get("num_bits") {
        None => 8,
        Some(value) => match value.as_u64() {
            Some(bits @ 1..=8) => bits as u8,
            _ => return Err(refuse(name, &format!("num_bits is {value}, expected 1 to 8"), USE_ORIGINAL)),
        },
    };
    let symmetric = flag(name, "symmetric", weights.get("symmetric"), true)?;
    let (strategy, size) = sharing(name, weights)?;
    let (group_size, per_tensor) = match (strategy.as_str(), size) {
        ("tensor", None) => (None, true),
        ("channel", None) => (None, false),
        ("group", Some(size)) => (Some(size), false),
        _ => return Err(unsound_sharing(name, &strategy, size)),
    };
    let act_order = act_order(name, weights)?;
    if act_order && group_size.is_none() {
        return Err(refuse(name, "actorder \"group\" without groups", "expected strategy \"group\""));
    }
    Ok(AffineGroup { scheme: AffineScheme { bits, group_size, symmetric }, per_tensor, act_order })
}

/// The strategy, inferred where it is absent, and the group size; `None` for one scale a row.
pub(super) fn sharing(name: &str, weights: &Map<String, Value>) -> Result<(String, Option<usize>)> {
    let size = match weights.get("group_size") {
        None | Some(Value::Null) => None,
        Some(value) => Some(value.as_i64().filter(|&size| size > 0 || size == -1).ok_or_else(|| {
            refuse(
                name,
                &format!("group_size is {value}"),
                "expected a positive number, or -1 for one scale a row",
            )
        })?),
    };
    let inferred = || match size {
        None => "tensor".into(),
        Some(-1) => "channel".into(),
        Some(_) => "group".into(),
    };
    let strategy = lower(weights, "strategy").unwrap_or_else(inferred);
    Ok((strategy, size.and_then(|size| usize::try_from(size).ok())))
}

/// Why a strategy and a group size together are not read.
pub(super) fn unsound_sharing(name: &str, strategy: &str, size: Option<usize>) -> Error {
    match (strategy, size) {
        ("tensor" | "channel", Some(size)) => {
            let message = format!("strategy \"{strategy}\" with group_size {size}");
            refuse(name, &message, "expected strategy \"group\", or no group_size")
        }
        ("group" | "tensor_group", None) => {
            let message = format!("strategy \"{strategy}\" without a group_size");
            refuse(name, &message, "expected a positive group_size")
        }
        _ => refuse(name, &format!("strategy \"{strategy}\" is not read here"), USE_ORIGINAL),
    }
}

/// Whether columns are grouped by `weight_g_idx`.
pub(super) fn act_order(name: &str, weights: &Map<String, Value>) -> Result<bool> {
    match weights.get("actorder") {
        None | Some(Value::Null | Value::Bool(false)) => Ok(false),
        Some(Value::String(order)) if ["weight", "static"].contains(&order.as_str()) => Ok(false),
        Some(Value::String(order)) if ["group", "dynamic"].contains(&order.as_str()) => Ok(true),
        Some(Value::Bool(true)) => Ok(true),
        Some(other) => Err(refuse(name, &format!("actorder {other} is unknown"), "expected weight or group")),
    }
}

/// A text in lower case.
fn lower(object: &Map<String, Value>, key: &str) -> Option<String> {
    object.get(key).and_then(Value::as_str).map(str::to_ascii_lowercase)
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

pub(super) fn flag(name: &str, key: &str, value: Option<&Value>, default: bool) -> Result<bool> {
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

pub(super) fn refuse(name: &str, message: &str, hint: &'static str) -> Error {
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
        let scheme_of = |bits, group_size, symmetric| AffineScheme { bits, group_size, symmetric };
        let codes = AffineGroup { scheme: scheme_of(4, Some(64), false), per_tensor: false, act_order: true };
        let format = CompressedFormat::PackQuantized;
        let expected = Scheme { codes: GroupScheme::Affine(codes), format, input_activations: None };
        assert_eq!(scheme, expected);
        let integers = |value: Value| weights(value).unwrap().codes.affine().unwrap();
        assert_eq!(integers(json!({"num_bits": 3, "group_size": -1})).scheme, scheme_of(3, None, true));
        assert!(integers(json!({"num_bits": 8})).per_tensor, "without strategy and group_size");
    }

    #[test]
    fn what_is_not_read_is_named() {
        let cases = [
            (json!({"num_bits": 9}), "num_bits is 9"),
            (json!({"type": "posit"}), "type \"posit\""),
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
        assert!(message(json!({"weights": {}, "format": "marlin-24"})).contains("marlin-24"));
        let found = message(json!({"weights": {}, "format": "nvfp4-pack-quantized"}));
        assert!(found.contains("int8 row sym codes in the format \"nvfp4-pack-quantized\""), "{found}");
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
