//! Fields of `config.json` and hyper-parameter keys, both ways.

use serde_json::{Map, Value, json};

use super::family::{Family, Kind};
use super::rope;
use crate::error::{Error, Result};
use crate::gguf::blocks::types::GgufType;
use crate::gguf::container::Gguf;
use crate::gguf::container::value::GgufValue;

/// Heads and widths that the layout of tensors depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
}

/// Keys and settings tensors of a model.
pub(super) struct Written {
    pub keys: Vec<(String, GgufValue)>,
    pub tensors: Vec<(String, Vec<f32>)>,
    pub heads: Heads,
    pub blocks: usize,
    pub tied: bool,
    pub vocab: Option<usize>,
}

fn fail(message: impl Into<String>) -> Error {
    Error::invalid("config.json", message)
}

/// Keys for the content of a `config.json`.
pub(super) fn to_keys(family: &Family, config: &Value) -> Result<Written> {
    let config = flatten(config)?;
    check_defaults(family, &config)?;
    let has = |name: &str| family.derived.iter().any(|d| d == name);
    let mut found: Vec<(String, GgufValue)> = Vec::new();
    for field in &family.fields {
        let value =
            field.hf.iter().find_map(|name| config.get(name).filter(|v| !v.is_null()).map(|v| (name, v)));
        let Some((name, value)) = value else { continue };
        let converted = match field.kind {
            Kind::U32 => value.as_u64().and_then(|v| u32::try_from(v).ok()).map(GgufValue::from),
            Kind::F32 => value.as_f64().map(|v| GgufValue::from(v as f32)),
            Kind::Bool => value.as_bool().map(GgufValue::from),
        };
        let converted =
            converted.ok_or_else(|| fail(format!("\"{name}\" is {value}, expected a {:?}", field.kind)))?;
        found.push((field.key.clone(), converted));
    }
    let get = |found: &[(String, GgufValue)], key: &str| {
        found.iter().find(|(name, _)| name == key).and_then(|(_, value)| value.as_u64())
    };
    let need = |found: &[(String, GgufValue)], key: &str| {
        let names =
            family.fields.iter().find(|f| f.key == key).map(|f| f.hf.join(" or ")).unwrap_or_default();
        get(found, key).filter(|&v| v > 0).ok_or_else(|| fail(format!("\"{names}\" is missing")))
    };
    let (heads, width) = (need(&found, "attention.head_count")?, need(&found, "embedding_length")?);
    let blocks = need(&found, "block_count")?;
    let mut kv_heads = get(&found, "attention.head_count_kv").unwrap_or(heads);
    if has("falcon") {
        kv_heads = falcon_kv_heads(&config, heads);
        found.push(("tensor_data_layout".into(), "jploski".into()));
        if get(&found, "context_length").is_none() {
            found.push(("context_length".into(), 2048u32.into()));
        }
    }
    if get(&found, "attention.head_count_kv").is_none() && family.gguf != "gpt2" && family.gguf != "bert" {
        found.push(("attention.head_count_kv".into(), (kv_heads as u32).into()));
    }
    if has("four_times") && get(&found, "feed_forward_length").is_none() {
        found.push(("feed_forward_length".into(), (4 * width as u32).into()));
    }
    let head_dim = get(&found, "attention.key_length").unwrap_or(width / heads);
    if has("head_dim") && get(&found, "attention.key_length").is_some() {
        found.push(("attention.value_length".into(), (head_dim as u32).into()));
    }
    if has("query_scalar") {
        let scalar = config.get("query_pre_attn_scalar").and_then(Value::as_f64);
        let meant = query_scalar(blocks, width, heads, head_dim);
        if scalar.is_some_and(|scalar| scalar != meant as f64) {
            let scalar = scalar.unwrap_or_default();
            return Err(fail(format!("query_pre_attn_scalar is {scalar}; {} means {meant}", family.gguf)));
        }
    }
    if has("zero_window") && get(&found, "attention.sliding_window").is_none() {
        found.push(("attention.sliding_window".into(), 0u32.into()));
    }
    if has("encoder") {
        found.push(("attention.causal".into(), false.into()));
    }
    let mut tensors = Vec::new();
    if has("rope") {
        let (keys, factors) = rope::to_gguf(&config, head_dim)?;
        found.retain(|(key, _)| !keys.iter().any(|(other, _)| other == key));
        found.extend(keys);
        tensors = factors;
    }
    let a = &family.gguf;
    let mut keys: Vec<(String, GgufValue)> = vec![("general.architecture".into(), a.as_str().into())];
    keys.extend(found.into_iter().map(|(key, value)| (format!("{a}.{key}"), value)));
    if has("encoder") {
        let types = config.get("type_vocab_size").and_then(Value::as_u64).unwrap_or(1) as u32;
        keys.push(("tokenizer.ggml.token_type_count".into(), types.into()));
    }
    let tied = config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false);
    let vocab = config.get("vocab_size").and_then(Value::as_u64).map(|n| n as usize);
    let heads = Heads { heads: heads as usize, kv_heads: kv_heads as usize };
    Ok(Written { keys, tensors, heads, blocks: blocks as usize, tied, vocab })
}

/// The text part of a configuration with rotary settings in one style.
fn flatten(config: &Value) -> Result<Map<String, Value>> {
    let mut map = config.as_object().ok_or_else(|| fail("must be an object"))?.clone();
    if let Some(Value::Object(text)) = map.remove("text_config") {
        map.extend(text);
    }
    rope::flatten(&mut map);
    Ok(map)
}

/// Fields that GGUF cannot hold must have the value that the architecture means.
fn check_defaults(family: &Family, config: &Map<String, Value>) -> Result<()> {
    for (name, meant) in &family.defaults {
        let Some(found) = config.get(name).filter(|v| !v.is_null()) else { continue };
        // Engines have one GELU for all of its forms.
        let gelu = |v: &Value| v.as_str().is_some_and(|s| s.starts_with("gelu"));
        if found != meant && !(gelu(found) && gelu(meant)) {
            let message = format!(
                "\"{name}\" is {found}; the architecture {} of GGUF always means {meant}\n\
                 hint: this model cannot be written as GGUF",
                family.gguf
            );
            return Err(fail(message));
        }
    }
    Ok(())
}

fn falcon_kv_heads(config: &Map<String, Value>, heads: u64) -> u64 {
    let flag = |name: &str, or: bool| config.get(name).and_then(Value::as_bool).unwrap_or(or);
    if flag("new_decoder_architecture", false) {
        let names = ["num_kv_heads", "n_head_kv"];
        names.iter().find_map(|name| config.get(*name).and_then(Value::as_u64)).unwrap_or(heads)
    } else if flag("multi_query", true) {
        1
    } else {
        heads
    }
}

/// What engines divide the queries of gemma 2 and 3 by, squared: the largest model of each differs.
fn query_scalar(blocks: u64, width: u64, heads: u64, head_dim: u64) -> u64 {
    if matches!(blocks, 46 | 62) { width / heads } else { head_dim }
}

/// Heads of the model in a file; 0 where they are not there.
pub(super) fn heads_of(gguf: &Gguf, family: &Family) -> Result<Heads> {
    let heads = count(gguf, family, "attention.head_count")?.unwrap_or(0);
    let kv_heads = count(gguf, family, "attention.head_count_kv")?.unwrap_or(heads);
    Ok(Heads { heads: heads as usize, kv_heads: kv_heads as usize })
}

/// A whole number, or an array of the same one for every block.
fn count(gguf: &Gguf, family: &Family, key: &str) -> Result<Option<u64>> {
    let key = format!("{}.{key}", family.gguf);
    let Some(value) = gguf.get(&key) else { return Ok(None) };
    let fail = || {
        Error::malformed(gguf.label(), format!("{key} is {value}, expected one whole number for all blocks"))
    };
    if let Some(values) = value.as_integers() {
        let same = values.windows(2).all(|pair| pair[0] == pair[1]);
        let first = values.first().copied().filter(|_| same).and_then(|v| u64::try_from(v).ok());
        return first.map(Some).ok_or_else(fail);
    }
    value.as_u64().map(Some).ok_or_else(fail)
}

/// A `config.json` for the model in a file.
pub(super) fn from_keys(gguf: &Gguf, family: &Family) -> Result<Value> {
    let has = |name: &str| family.derived.iter().any(|d| d == name);
    let mut config: Map<String, Value> = Map::new();
    config.insert("architectures".into(), json!([family.class]));
    config.insert("model_type".into(), json!(family.hf[0]));
    for (name, value) in &family.defaults {
        config.insert(name.clone(), value.clone());
    }
    for field in &family.fields {
        let key = format!("{}.{}", family.gguf, field.key);
        let Some(value) = gguf.get(&key) else { continue };
        let converted = match field.kind {
            Kind::U32 => count(gguf, family, &field.key)?.map(|v| json!(v)),
            Kind::F32 => value.as_f64().map(|v| json!(v)),
            Kind::Bool => value.as_bool().map(|v| json!(v)),
        };
        let wrong =
            || Error::malformed(gguf.label(), format!("{key} is {value}, expected a {:?}", field.kind));
        config.insert(field.hf[0].clone(), converted.ok_or_else(wrong)?);
    }
    let Heads { heads, kv_heads } = heads_of(gguf, family)?;
    let number = |key: &str| count(gguf, family, key);
    let width = number("embedding_length")?.unwrap_or(0);
    let head_dim = number("attention.key_length")?.unwrap_or(width.checked_div(heads as u64).unwrap_or(0));
    let blocks = number("block_count")?.unwrap_or(0);
    if has("falcon") {
        config.insert("multi_query".into(), json!(kv_heads == 1));
        config.insert("num_kv_heads".into(), json!(kv_heads));
        config.insert("new_decoder_architecture".into(), json!(kv_heads != 1));
        let norms = if gguf.info("blk.0.attn_norm_2.weight").is_some() { 2 } else { 1 };
        config.insert("num_ln_in_parallel_attn".into(), json!(norms));
    } else if config.contains_key("num_attention_heads") && !has("encoder") {
        config.entry("num_key_value_heads").or_insert(json!(kv_heads));
    }
    if has("query_scalar") && heads > 0 {
        let scalar = query_scalar(blocks, width, heads as u64, head_dim);
        config.insert("query_pre_attn_scalar".into(), json!(scalar));
    }
    if has("zero_window") && config.get("sliding_window") == Some(&json!(0)) {
        config.insert("sliding_window".into(), Value::Null);
    }
    if has("biases") {
        let bias = |name: &str| json!(gguf.info(&format!("blk.0.{name}.bias")).is_some());
        for (field, tensor) in
            [("attention_bias", "attn_q"), ("use_qkv_bias", "attn_q"), ("mlp_bias", "ffn_up")]
        {
            config.insert(field.into(), bias(tensor));
        }
    }
    if let Some(types) = gguf.info("token_types.weight") {
        config.insert("type_vocab_size".into(), json!(types.rows()));
    }
    if has("rope") {
        rope::from_gguf(gguf, &mut config, head_dim)?;
    }
    let embedding = gguf.info("token_embd.weight");
    if let Some(embedding) = embedding {
        config.insert("vocab_size".into(), json!(embedding.rows()));
    }
    config
        .insert("tie_word_embeddings".into(), json!(gguf.info("output.weight").is_none() && !has("encoder")));
    for (field, key) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
        if let Some(id) = gguf.get(&format!("tokenizer.ggml.{key}_token_id")).and_then(GgufValue::as_u64) {
            config.insert(field.into(), json!(id));
        }
    }
    let dtype = match embedding.map(|e| e.ty) {
        Some(GgufType::F16) => "float16",
        Some(GgufType::BF16) => "bfloat16",
        _ => "float32",
    };
    config.insert("dtype".into(), json!(dtype));
    Ok(config.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(config: &Value) -> Result<Vec<(String, GgufValue)>> {
        Ok(to_keys(Family::of_config(config)?, config)?.keys)
    }

    fn llama() -> Value {
        json!({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
               "num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-5, "vocab_size": 10})
    }

    #[test]
    fn fields_become_keys_of_the_type_that_engines_check() {
        let keys = keys(&llama()).unwrap();
        let get = |key: &str| keys.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
        assert_eq!(get("general.architecture"), Some("llama".into()));
        assert_eq!(get("llama.attention.head_count_kv"), Some(GgufValue::U32(2)));
        assert_eq!(get("llama.attention.layer_norm_rms_epsilon"), Some(GgufValue::F32(1e-5)));
        assert_eq!(get("llama.rope.dimension_count"), Some(GgufValue::U32(16)));
    }

    #[test]
    fn what_the_format_cannot_hold_is_refused() {
        let mut config = llama();
        config["hidden_act"] = json!("gelu");
        assert!(keys(&config).unwrap_err().to_string().contains("always means \"silu\""));
        let mut config = llama();
        config["num_hidden_layers"] = json!("two");
        assert!(keys(&config).unwrap_err().to_string().contains("expected a U32"));
        let mut config = llama();
        config.as_object_mut().unwrap().remove("hidden_size");
        assert!(keys(&config).unwrap_err().to_string().contains("\"hidden_size\" is missing"));
        let gemma = json!({"model_type": "gemma2", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
            "head_dim": 16, "query_pre_attn_scalar": 99});
        assert!(keys(&gemma).unwrap_err().to_string().contains("gemma2 means 16"));
    }

    #[test]
    fn falcon_has_one_key_unless_it_says_otherwise() {
        let Value::Object(old) = json!({"multi_query": true, "num_kv_heads": 71}) else { unreachable!() };
        let Value::Object(new) = json!({"new_decoder_architecture": true, "num_kv_heads": 8}) else {
            unreachable!()
        };
        assert_eq!((falcon_kv_heads(&old, 71), falcon_kv_heads(&new, 128)), (1, 8));
    }
}
