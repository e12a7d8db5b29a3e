//! Initial weights: a model from its `config.json` and a seed alone.
//!
//! Weights are normal with standard deviation 0.02; those that write to the residual stream are smaller by
//! `sqrt(2 * blocks)` (Radford et al., "Language models are unsupervised multitask learners", 2019, section 2.3), so that
//! the stream does not grow with the depth. Gains are 1, biases 0. T5 has another rule, which belongs to its scores without
//! a scale ([`crate::transformer::Initial::FanIn`]). Every tensor has a random stream of its own, named by the tensor and
//! cut into chunks, so that neither the order nor the number of threads changes a number.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use rayon::prelude::*;
use serde_json::Value;
use trimtab_io::{
    Bytes, Checkpoint, Dtype, RawTensor, ShardWriter, WrittenFile, to_safetensors, write_atomic,
};
use trimtab_math::random::Stream;

use crate::error::{Error, Result};
use crate::spec::ModelSpec;
use crate::transformer::{Blank, NetworkPlan, Start};

/// Standard deviation of the weights.
const STD: f64 = 0.02;
/// Numbers drawn from one random stream.
const CHUNK: usize = 1 << 16;
/// Bytes of a shard of [`write_synthetic`].
const SHARD_BYTES: u64 = 2_000_000_000;
/// What stands for the model in messages; it has no path yet.
const NAME: &str = "(new model)";

/// A checkpoint in memory with initial weights for `config`, the content of a `config.json`.
///
/// # Errors
/// [`Error::UnknownArchitecture`] or [`Error::Config`] if no transformer is described; [`Error::Io`] if `dtype` is no
/// float type.
pub fn checkpoint(config: &Value, seed: u64, dtype: Dtype) -> Result<Checkpoint> {
    checkpoint_with(config, seed, dtype, &BTreeMap::new())
}

/// [`checkpoint`] with metadata in the file of the weights.
pub(crate) fn checkpoint_with(
    config: &Value,
    seed: u64,
    dtype: Dtype,
    metadata: &BTreeMap<String, String>,
) -> Result<Checkpoint> {
    let tensors = blanks(config)?
        .into_iter()
        .map(|tensor| Ok((tensor.blank.name.clone(), tensor.fill(seed, dtype)?)))
        .collect::<Result<Vec<_>>>()?;
    let files = vec![
        ("config.json".to_string(), Bytes::from(config.to_string().into_bytes())),
        ("model.safetensors".to_string(), Bytes::from(to_safetensors(&tensors, metadata)?)),
    ];
    Ok(Checkpoint::from_bytes(files)?.named(NAME))
}

/// Writes a model with initial weights for `config` into the existing directory `dir`, tensor by tensor: memory holds one
/// tensor at a time. The numbers are those of [`checkpoint`].
///
/// # Errors
/// As [`checkpoint`], and [`Error::Io`] if the files cannot be written.
pub fn write_synthetic(config: &Value, dir: &Path, seed: u64, dtype: Dtype) -> Result<Vec<WrittenFile>> {
    let mut writer = ShardWriter::create(dir, SHARD_BYTES, BTreeMap::new())?;
    for tensor in blanks(config)? {
        writer.append(&tensor.blank.name, &tensor.fill(seed, dtype)?)?;
    }
    let files = writer.finish()?;
    let path = dir.join("config.json");
    write_atomic(&path, format!("{config:#}\n").as_bytes())?;
    Ok(files)
}

/// Whether `config` describes an encoder that reads text and a decoder that writes it.
///
/// # Errors
/// As [`checkpoint`].
pub fn is_text_to_text(config: &Value) -> Result<bool> {
    Ok(plan(config)?.is_text_to_text())
}

fn plan(config: &Value) -> Result<NetworkPlan> {
    let family = config.get("model_type").and_then(Value::as_str).unwrap_or("(no model_type)");
    let spec = ModelSpec::built_in(family)?.ok_or_else(|| Error::UnknownArchitecture {
        model: NAME.into(),
        found: format!("model_type \"{family}\""),
        known: ModelSpec::known().join(", "),
    })?;
    NetworkPlan::new(&spec, config, NAME, |_| true)
}

/// Every tensor of the architecture, in the order in which data reaches them.
fn blanks(config: &Value) -> Result<Vec<Fill>> {
    let tensors = plan(config)?.stage_plans().into_iter().flat_map(|stage| {
        let small = STD / (2.0 * stage.depth.max(1) as f64).sqrt();
        stage.parts.tensors().into_iter().map(move |blank| Fill { blank, small })
    });
    Ok(tensors.collect())
}

/// A tensor before it has numbers.
struct Fill {
    blank: Blank,
    /// Standard deviation of what writes to the residual stream.
    small: f64,
}

impl Fill {
    fn fill(&self, seed: u64, dtype: Dtype) -> Result<RawTensor> {
        let bytes = match dtype {
            Dtype::F32 => Bytes::from_numbers(self.numbers(seed, |v| v)),
            Dtype::BF16 => Bytes::from_numbers(self.numbers(seed, bf16::from_f32)),
            Dtype::F16 => Bytes::from_numbers(self.numbers(seed, f16::from_f32)),
            other => {
                let message = format!("weights are F32, BF16 or F16, not {other}");
                return Err(Error::Config { model: NAME.into(), message });
            }
        };
        Ok(RawTensor::new(dtype, self.blank.shape.clone(), bytes)?)
    }

    fn numbers<T: Copy + Send>(&self, seed: u64, convert: impl Fn(f32) -> T + Sync) -> Vec<T> {
        let numel = self.blank.shape.iter().product();
        let std = match self.blank.start {
            Start::Constant(value) => return vec![convert(value); numel],
            Start::Normal | Start::Queries | Start::Vocabulary => STD,
            Start::Small => self.small,
            Start::Spread(std) => f64::from(std),
        };
        let purpose = format!("init/{}", self.blank.name);
        let mut numbers = vec![convert(0.0); numel];
        numbers.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, part)| {
            let mut stream = Stream::new(seed, &purpose, 0, chunk as u64);
            part.iter_mut().for_each(|number| *number = convert((std * stream.normal()) as f32));
        });
        numbers
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use trimtab_nn::StageSource;

    use super::*;
    use crate::Model;

    fn llama(tied: bool) -> Value {
        json!({
            "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 2500, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": tied, "max_position_embeddings": 64,
        })
    }

    fn std(tensor: &RawTensor) -> f64 {
        let values = tensor.to_f32().unwrap();
        (values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
    }

    #[test]
    fn weights_have_their_spread_and_the_model_loads() {
        let checkpoint = checkpoint(&llama(true), 3, Dtype::F32).unwrap();
        assert!(!checkpoint.contains("lm_head.weight"), "the head is borrowed");
        let tensor = |name: &str| checkpoint.tensor(name).unwrap();
        // 80000 numbers: the relative error of a standard deviation is 1 / sqrt(160000) = 0.25%.
        assert!((std(&tensor("model.embed_tokens.weight")) / 0.02 - 1.0).abs() < 0.01);
        // 1536 numbers: 1.8%; four of it.
        assert!((std(&tensor("model.layers.1.mlp.down_proj.weight")) / 0.01 - 1.0).abs() < 0.08);
        assert_eq!(tensor("model.norm.weight").to_f32().unwrap(), [1.0; 32]);
        assert_ne!(
            tensor("model.layers.0.mlp.up_proj.weight").to_f32().unwrap(),
            tensor("model.layers.1.mlp.up_proj.weight").to_f32().unwrap(),
        );
        let model = Model::from_checkpoint(checkpoint, None, burn::tensor::Device::flex()).unwrap();
        assert_eq!(model.network().unwrap().stages().len(), 4);
        assert!(model.owner().is_some());
    }

    #[test]
    fn t5_starts_as_transformers_starts_it() {
        let (width, heads, head, hidden) = (64, 4, 24, 128);
        let config = |tied: bool| {
            json!({
                "model_type": "t5", "d_model": width, "d_kv": head, "num_heads": heads, "d_ff": hidden, "num_layers": 2,
                "vocab_size": 500, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": tied,
                "relative_attention_num_buckets": 32,
            })
        };
        assert!(is_text_to_text(&config(true)).unwrap() && !is_text_to_text(&llama(true)).unwrap());
        let free = checkpoint(&config(false), 1, Dtype::F32).unwrap();
        // `T5PreTrainedModel._init_weights` with a factor of 1, and what the house would have made of it.
        let root = |fan_in: usize| (fan_in as f64).powf(-0.5);
        for (name, expected) in [
            ("shared", 1.0),
            ("lm_head", 1.0),
            ("encoder.block.1.layer.0.SelfAttention.q", root(width * head)),
            ("encoder.block.1.layer.0.SelfAttention.k", root(width)),
            ("encoder.block.1.layer.0.SelfAttention.v", root(width)),
            ("encoder.block.1.layer.0.SelfAttention.o", root(heads * head)),
            ("encoder.block.1.layer.1.DenseReluDense.wi_0", root(width)),
            ("decoder.block.0.layer.1.EncDecAttention.q", root(width * head)),
            ("decoder.block.0.layer.1.EncDecAttention.k", root(width)),
            ("decoder.block.0.layer.1.EncDecAttention.o", root(heads * head)),
            ("decoder.block.1.layer.2.DenseReluDense.wi_1", root(width)),
            ("decoder.block.1.layer.2.DenseReluDense.wo", root(hidden)),
        ] {
            let found = std(&free.tensor(&format!("{name}.weight")).unwrap());
            // At least 6144 numbers: a relative error of 0.9%; five of it.
            assert!((found / expected - 1.0).abs() < 0.045, "{name}: {found}, expected {expected}");
            assert!((found / STD - 1.0).abs() > 0.2, "{name}: not the spread of the house");
        }
        // 128 numbers: 6.3%; five of it.
        for part in ["encoder", "decoder"] {
            let name = format!("{part}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
            let found = std(&free.tensor(&name).unwrap());
            assert!((found / root(width) - 1.0).abs() < 0.32, "{name}: {found}");
            assert!(
                !free.contains(&name.replace("block.0", "block.1")),
                "one table for all blocks of a part"
            );
        }
        assert_eq!(free.tensor("encoder.final_layer_norm.weight").unwrap().to_f32().unwrap(), [1.0; 64]);
        assert!(!checkpoint(&config(true), 1, Dtype::F32).unwrap().contains("lm_head.weight"));
    }

    #[test]
    fn every_family_gets_all_its_tensors() {
        let gpt2 = json!({"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 20, "n_positions": 8});
        let bert = json!({
            "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20,
            "intermediate_size": 32, "max_position_embeddings": 8, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
            "hidden_act": "gelu",
        });
        for config in [llama(false), gpt2, bert] {
            let checkpoint = checkpoint(&config, 0, Dtype::F32).unwrap();
            let model = Model::from_checkpoint(checkpoint, None, burn::tensor::Device::flex()).unwrap();
            let network = model.network().unwrap_or_else(|e| panic!("{config}: {e}"));
            assert_eq!(network.stages().len(), model.stages().len());
        }
    }

    #[test]
    fn files_hold_the_numbers_of_the_checkpoint_at_any_number_of_threads() {
        let config = llama(false);
        let written = |threads: usize| {
            let dir = tempfile::tempdir().unwrap();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| write_synthetic(&config, dir.path(), 5, Dtype::BF16)).unwrap();
            Checkpoint::open(dir.path()).unwrap().content_sha256("model.safetensors").unwrap()
        };
        assert_eq!(written(1), written(3));
        let dir = tempfile::tempdir().unwrap();
        write_synthetic(&config, dir.path(), 5, Dtype::BF16).unwrap();
        let (file, memory) =
            (Checkpoint::open(dir.path()).unwrap(), checkpoint(&config, 5, Dtype::BF16).unwrap());
        for name in memory.names() {
            assert_eq!(
                file.tensor(name).unwrap().to_f32().unwrap(),
                memory.tensor(name).unwrap().to_f32().unwrap()
            );
        }
        assert_eq!(file.config(), Some(&config));
    }

    #[test]
    fn what_is_no_transformer_is_refused() {
        let error = checkpoint(&json!({"model_type": "resnet"}), 0, Dtype::F32).unwrap_err().to_string();
        assert!(error.contains("resnet") && error.contains("llama"), "{error}");
        let error = checkpoint(&llama(true), 0, Dtype::I8).unwrap_err().to_string();
        assert!(error.contains("I8"), "{error}");
    }
}
