//! Writes a language model with random weights (bf16, or f32 where `torch_dtype` says so) of the shape of a
//! `config.json`, tensor by tensor: what speed and memory are measured on.
//!
//! ```text
//! cargo run --release --example synthetic -- DIR [CONFIG.json]
//! ```
//!
//! Without a configuration, a llama of 1.1 billion parameters. The tokenizer is that of `@pico`.

use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};
use trimtab::floors::io::{Dtype, write_atomic};
use trimtab::floors::models::{init, pico};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let dir = arguments.next().context("where to write the model is missing")?;
    let config: Value = match arguments.next() {
        Some(path) => {
            serde_json::from_slice(&std::fs::read(&path).with_context(|| path.display().to_string())?)?
        }
        None => json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
            "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
            "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 32000, "hidden_act": "silu",
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 2048,
            "tie_word_embeddings": false, "bos_token_id": 0, "eos_token_id": 0,
        }),
    };
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let dtype = match config["torch_dtype"].as_str() {
        Some("float32") => Dtype::F32,
        _ => Dtype::BF16,
    };
    init::write_synthetic(&config, &dir, 0, dtype)?;
    let tokenizer = pico::checkpoint()?.side_file("tokenizer.json")?.context("@pico has a tokenizer")?;
    write_atomic(dir.join("tokenizer.json"), &tokenizer)?;
    Ok(())
}
