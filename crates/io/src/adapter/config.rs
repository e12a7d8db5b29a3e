//! `adapter_config.json`: what matters for the weights, and what cannot be merged.

use fancy_regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Settings that change what an adapter computes in ways that are not read; they must be absent, null, false or empty.
const UNREAD: [&str; 11] = [
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "per_expert_targets",
];
/// Ways to begin a training that also change the model under the adapter.
const CHANGES_BASE: [&str; 6] = ["pissa", "olora", "corda", "loftq", "lora_ga", "kasa"];
/// Longest pattern of a module name.
const MAX_PATTERN: usize = 2000;

#[derive(Clone, Debug, Deserialize)]
pub(super) struct AdapterConfig {
    pub base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    pub use_dora: bool,
    #[serde(default)]
    pub fan_in_fan_out: bool,
    modules_to_save: Option<Vec<String>>,
    rank_pattern: Option<Map<String, Value>>,
    alpha_pattern: Option<Map<String, Value>>,
    #[serde(skip)]
    patterns: [Vec<(Regex, f64)>; 2],
}

impl AdapterConfig {
    pub fn parse(label: &str, bytes: &[u8]) -> Result<Self> {
        let wrong = |message: String| Error::malformed(label, message);
        let json: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|e| wrong(format!("not a JSON object: {e}")))?;
        match json.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            found => {
                let found = found.map_or("none".into(), |kind| format!("\"{kind}\""));
                let message = format!("peft_type is {found}, only \"LORA\" (with DoRA) is read");
                return Err(wrong(format!("{message}\nhint: merge it with PEFT's merge_and_unload first")));
            }
        }
        let is_set = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(items) => !items.is_empty(),
            Value::Object(items) => !items.is_empty(),
            _ => true,
        };
        if let Some(name) = UNREAD.iter().find(|name| json.get(**name).is_some_and(is_set)) {
            return Err(wrong(format!(
                "{name} is set, which is not read\nhint: merge it with PEFT's merge_and_unload first"
            )));
        }
        if let Some(init) = json.get("init_lora_weights").and_then(Value::as_str)
            && CHANGES_BASE.iter().any(|name| init.starts_with(name))
        {
            return Err(wrong(format!(
                "init_lora_weights is \"{init}\", which also changed the model under the adapter\nhint: convert it to a plain LoRA with PEFT's save_pretrained(..., path_initial_model_for_weight_conversion=...)"
            )));
        }
        let mut config: Self = serde_json::from_value(Value::Object(json))
            .map_err(|e| wrong(format!("not a LoRA configuration: {e}")))?;
        let compile = |patterns: &Option<Map<String, Value>>, what: &str| {
            let entries = patterns.iter().flatten();
            let compile = |(pattern, value): (&String, &Value)| {
                // As PEFT matches: a whole name, or its end behind a dot.
                let regex = (pattern.len() <= MAX_PATTERN)
                    .then(|| Regex::new(&format!("^(?:.*\\.)?(?:{pattern})$")).ok())
                    .flatten();
                regex.zip(value.as_f64()).ok_or_else(|| {
                    wrong(format!(
                        "{what} must map patterns of module names to numbers, found {pattern:?}: {value}"
                    ))
                })
            };
            entries.map(compile).collect::<Result<Vec<_>>>()
        };
        config.patterns = [
            compile(&config.rank_pattern, "rank_pattern")?,
            compile(&config.alpha_pattern, "alpha_pattern")?,
        ];
        Ok(config)
    }

    /// Rank and scale `s` of a module: `alpha / rank`, or `alpha / sqrt(rank)` with `use_rslora`.
    pub fn rank_and_scale(&self, label: &str, module: &str) -> Result<(usize, f32)> {
        let find = |patterns: &[(Regex, f64)], default: f64| {
            for (regex, value) in patterns {
                let matched = regex.is_match(module);
                if matched.map_err(|e| Error::malformed(label, format!("a pattern of module names: {e}")))? {
                    return Ok(*value);
                }
            }
            Ok(default)
        };
        let rank = find(&self.patterns[0], self.r as f64)?;
        let alpha = find(&self.patterns[1], self.lora_alpha)?;
        let scale = alpha / if self.use_rslora { rank.sqrt() } else { rank };
        if rank < 1.0 || rank.fract() != 0.0 || !scale.is_finite() {
            return Err(Error::malformed(
                label,
                format!("module \"{module}\" has rank {rank} and alpha {alpha}"),
            ));
        }
        Ok((rank as usize, scale as f32))
    }

    /// Whether a module was trained whole.
    pub fn is_saved(&self, module: &str) -> bool {
        let ends = |name: &String| {
            module == name || module.strip_suffix(name.as_str()).is_some_and(|m| m.ends_with('.'))
        };
        self.modules_to_save.iter().flatten().any(ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &str) -> Result<AdapterConfig> {
        AdapterConfig::parse("c", format!(r#"{{"peft_type":"LORA","r":4,"lora_alpha":8{extra}}}"#).as_bytes())
    }

    #[test]
    fn ranks_and_scales_follow_patterns() {
        let config =
            parse(r#","rank_pattern":{"q_proj":2,"layers\\.[01]\\.k":16},"alpha_pattern":{"1.q_proj":6}"#)
                .unwrap();
        let get = |module: &str| config.rank_and_scale("c", module).unwrap();
        assert_eq!(get("layers.0.q_proj"), (2, 4.0));
        assert_eq!(get("layers.1.q_proj"), (2, 3.0));
        assert_eq!(get("layers.0.k"), (16, 0.5));
        assert_eq!(get("layers.2.k"), (4, 2.0));
        assert_eq!(get("layers.0.xq_proj"), (4, 2.0), "a name, not the end of one");
        assert_eq!(parse(r#","use_rslora":true"#).unwrap().rank_and_scale("c", "m").unwrap(), (4, 4.0));
        assert!(parse(r#","rank_pattern":{"m":0}"#).unwrap().rank_and_scale("c", "m").is_err());
    }

    #[test]
    fn what_is_not_read_is_refused() {
        let cases = [
            (r#","target_parameters":["experts.down_proj"]"#, "target_parameters is set"),
            (r#","trainable_token_indices":[1]"#, "trainable_token_indices is set"),
            (r#","init_lora_weights":"pissa_niter_4""#, "changed the model under the adapter"),
            (r#","rank_pattern":{"(":1}"#, "rank_pattern must map"),
            (r#","alpha_pattern":{"a":"x"}"#, "alpha_pattern must map"),
            (r#","use_dora":1"#, "not a LoRA configuration"),
        ];
        for (extra, expected) in cases {
            let message = parse(extra).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert!(
            parse(
                r#","target_parameters":[],"arrow_config":null,"use_qalora":false,"init_lora_weights":true"#
            )
            .is_ok()
        );
        let kind = AdapterConfig::parse("c", br#"{"peft_type":"IA3"}"#).unwrap_err().to_string();
        assert!(kind.contains("peft_type is \"IA3\""), "{kind}");
        assert!(AdapterConfig::parse("c", b"[]").is_err());
        let saved = parse(r#","modules_to_save":["score"]"#).unwrap();
        assert!(
            saved.is_saved("model.score") && saved.is_saved("score") && !saved.is_saved("model.underscore")
        );
    }
}
