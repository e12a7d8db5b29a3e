//! The object `quantization_config` in `config.json`.

use serde_json::Value;

use super::format::CompressedFormat;
use super::group::ConfigGroup;
use super::scheme::{self, USE_ORIGINAL, is_set};
use super::target::{Closeness, Target};
use crate::error::{Error, Result};

/// How the matrices of a checkpoint are quantized: groups of modules, each with a scheme.
#[derive(Clone, Debug)]
pub struct QuantizationConfig {
    pub(super) groups: Vec<ConfigGroup>,
    pub(super) ignore: Vec<Target>,
}

impl QuantizationConfig {
    /// Parses the object. Unknown keys beside the groups are ignored, as the library does; inside a scheme they are an
    /// error.
    ///
    /// # Errors
    /// [`Error::Quantization`] for another method or format, and for whatever would change what the model computes and
    /// is not supported: outputs, the cache, rotations, sparsity. Inputs that are quantized while running are kept in
    /// [`ConfigGroup::input_activations`]; the weights are the same without them.
    pub fn parse(value: &Value) -> Result<Self> {
        let whole = check_method(value)?;
        check_extras(value)?;
        let Some(Value::Object(groups)) = value.get("config_groups") else {
            return Err(refuse("config_groups is missing", "expected an object of schemes"));
        };
        let groups =
            groups.iter().map(|(name, value)| parse_group(name, value, whole)).collect::<Result<_>>()?;
        let ignore = targets("ignore", value.get("ignore").filter(|ignore| !ignore.is_null()))?;
        Ok(Self { groups, ignore })
    }

    /// The groups, in the order of the file.
    pub fn groups(&self) -> &[ConfigGroup] {
        &self.groups
    }

    /// What stays dense: module names, classes and `re:` patterns, as written.
    pub fn ignore(&self) -> impl Iterator<Item = String> {
        self.ignore.iter().map(Target::to_string)
    }

    /// The group of a linear map: by its full name, else by a pattern, else by its class; `None` if it stays dense.
    ///
    /// # Errors
    /// [`Error::Quantization`] if groups of different schemes match equally well.
    pub fn group_of(&self, module: &str) -> Result<Option<&ConfigGroup>> {
        if self.ignore.iter().any(|target| target.matches(module).is_some()) {
            return Ok(None);
        }
        let mut best: Option<(Closeness, &ConfigGroup)> = None;
        for group in &self.groups {
            let Some(closeness) = group.targets.iter().filter_map(|target| target.matches(module)).max()
            else {
                continue;
            };
            match best {
                Some((other, _)) if other > closeness => {}
                Some((other, first)) if other == closeness => {
                    if !first.codes_as(group) {
                        let message = format!(
                            "\"{module}\" is in {} ({}) and in {} ({})",
                            first.name, first.scheme, group.name, group.scheme
                        );
                        return Err(Error::Quantization {
                            message,
                            hint: "name each module in one group only",
                        });
                    }
                }
                _ => best = Some((closeness, group)),
            }
        }
        Ok(best.map(|(_, group)| group))
    }

    /// Whether a group lists the module by its full name.
    pub(super) fn names_exactly(&self, module: &str) -> bool {
        let exact = |target: &Target| target.matches(module) == Some(Closeness::Name);
        self.groups.iter().any(|group| group.targets.iter().any(exact))
    }
}

/// Checks the method and returns the format of the whole; `None` where each group has its own.
fn check_method(value: &Value) -> Result<Option<CompressedFormat>> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    match text("quant_method") {
        Some("compressed-tensors") => {}
        Some(other) => return Err(refuse(&format!("quant_method \"{other}\" is not read"), USE_ORIGINAL)),
        None => return Err(refuse("quant_method is missing", "expected \"compressed-tensors\"")),
    }
    match text("format") {
        Some("mixed-precision") => Ok(None),
        Some(name) => match CompressedFormat::from_name(name) {
            Some(format) => Ok(Some(format)),
            None => Err(refuse(&format!("format \"{name}\" is not read"), USE_ORIGINAL)),
        },
        None => Err(refuse("format is missing", "expected \"pack-quantized\", or that of the groups")),
    }
}

/// Refuses what changes the computation and is not done here.
fn check_extras(value: &Value) -> Result<()> {
    let filled = |key: &str| match value.get(key) {
        Some(Value::Object(map)) => !map.is_empty(),
        other => is_set(other),
    };
    if filled("kv_cache_scheme") {
        return Err(refuse("kv_cache_scheme: a quantized cache is not supported", USE_ORIGINAL));
    }
    if filled("transform_config") {
        return Err(refuse("transform_config: rotations while running are not supported", USE_ORIGINAL));
    }
    let sparse = value.get("sparsity_config").and_then(|config| config.get("format")).and_then(Value::as_str);
    if let Some(format) = sparse.filter(|format| *format != "dense") {
        return Err(refuse(&format!("sparsity_config: format \"{format}\" is not read"), USE_ORIGINAL));
    }
    Ok(())
}

fn parse_group(name: &str, value: &Value, whole: Option<CompressedFormat>) -> Result<ConfigGroup> {
    let scheme = scheme::parse(name, value, whole)?;
    let targets = targets(&format!("{name}.targets"), value.get("targets"))?;
    if targets.is_empty() {
        return Err(refuse(&format!("{name}: no targets"), "list module names, or \"Linear\""));
    }
    let scheme::Scheme { codes, format, input_activations } = scheme;
    Ok(ConfigGroup { name: name.into(), scheme: codes, format, input_activations, targets })
}

fn targets(name: &str, value: Option<&Value>) -> Result<Vec<Target>> {
    let list = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(refuse(&format!("{name} is no list"), "expected a list of strings")),
    };
    list.iter()
        .map(|item| match item {
            Value::String(text) => Target::parse(text),
            other => Err(refuse(&format!("{name}: {other} is no string"), "expected a list of strings")),
        })
        .collect()
}

fn refuse(message: &str, hint: &'static str) -> Error {
    Error::Quantization { message: message.into(), hint }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(groups: Value, ignore: Value) -> Value {
        json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups,
               "ignore": ignore, "kv_cache_scheme": null, "sparsity_config": {}, "transform_config": {}, "version": "x"})
    }

    fn group(bits: u8, targets: Value) -> Value {
        json!({"targets": targets, "weights": {"num_bits": bits, "strategy": "channel"}})
    }

    #[test]
    fn the_closest_target_wins_and_ignore_is_last() {
        let groups = json!({
            "group_0": group(2, json!(["Linear"])),
            "group_1": group(3, json!(["re:.*mlp.*"])),
            "group_2": group(4, json!(["a.mlp.up"])),
        });
        let config = QuantizationConfig::parse(&config(groups, json!(["lm_head"]))).unwrap();
        let bits = |module: &str| {
            config.group_of(module).unwrap().map(|group| group.scheme.affine().unwrap().scheme.bits)
        };
        assert_eq!(bits("a.attn.q"), Some(2));
        assert_eq!(bits("a.mlp.down"), Some(3));
        assert_eq!(bits("a.mlp.up"), Some(4));
        assert_eq!(bits("lm_head"), None);
    }

    #[test]
    fn equal_matches_of_different_schemes_are_an_error() {
        let twice = json!({"group_0": group(2, json!(["a"])), "group_1": group(3, json!(["a"]))});
        let parsed = QuantizationConfig::parse(&config(twice, json!([]))).unwrap();
        assert!(parsed.group_of("a").unwrap_err().to_string().contains("\"a\" is in group_0 (int2"));
        let same = json!({"group_0": group(2, json!(["a"])), "group_1": group(2, json!(["a"]))});
        assert!(
            QuantizationConfig::parse(&config(same, json!([]))).unwrap().group_of("a").unwrap().is_some()
        );
    }

    #[test]
    fn other_methods_and_formats_are_refused_by_name() {
        let sound = config(json!({"group_0": group(4, json!(["Linear"]))}), json!(null));
        assert!(QuantizationConfig::parse(&sound).is_ok());
        let changes = [
            ("quant_method", json!("gptq"), "quant_method \"gptq\""),
            ("format", json!("marlin-24"), "format \"marlin-24\""),
            ("kv_cache_scheme", json!({"num_bits": 8}), "cache"),
            ("transform_config", json!({"config_groups": {"u": {}}}), "rotations"),
            ("sparsity_config", json!({"format": "sparse-24-bitmask"}), "sparse-24-bitmask"),
            ("config_groups", json!(null), "config_groups is missing"),
            ("config_groups", json!({"group_0": group(4, json!([]))}), "no targets"),
            ("ignore", json!("lm_head"), "ignore is no list"),
        ];
        for (key, value, expected) in changes {
            let mut changed = sound.clone();
            changed[key] = value;
            let message = QuantizationConfig::parse(&changed).unwrap_err().to_string();
            assert!(message.contains(expected), "{key}: {message}");
        }
    }
}
