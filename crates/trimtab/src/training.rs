//! Training a language model by a recipe: data, tokenizer, initial weights, the loop, and a checkpoint directory.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use trimtab_io::{Dtype, OutDir, RawTensor, Tokenizer, read_text};
use trimtab_models::pico::grammar::Split;
use trimtab_models::pico::tokenizer::{self, END_OF_TEXT};
use trimtab_models::{Model, init, pico};
use trimtab_nn::{Ctx, Flow, Network};
use trimtab_train::{
    Dataset, Measured, NextToken, Observer, Outcome, Settings, StepRecord, TokenWindows, Trainer,
};

use crate::error::{Error, Result};
use crate::monitor::Monitor;

/// Version of the recipes that this program reads.
const VERSION: u32 = 1;
const SHARD_BYTES: u64 = 5_000_000_000;
/// Saved state of an unfinished run, in the directory of unfinished output.
const STATE: &str = "training.safetensors";

/// What to train, on what, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Version of the format; 1.
    pub version: u32,
    /// Seed of the initial weights.
    #[serde(default)]
    pub seed: u64,
    /// Tokens of a window.
    pub window: usize,
    /// Type of the weights that are written.
    #[serde(default)]
    pub dtype: WeightType,
    /// `config.json` of the model, without what follows from the tokenizer.
    pub model: Map<String, Value>,
    /// The tokenizer, which is trained on the data.
    pub tokenizer: TokenizerSettings,
    /// The data.
    pub data: DataSource,
    /// The loop.
    pub training: Settings,
}

/// Type of the weights that are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightType {
    /// 16 bits with the exponent of single precision.
    #[default]
    Bf16,
    /// IEEE half.
    F16,
    /// IEEE single.
    F32,
}

impl WeightType {
    fn dtype(self) -> Dtype {
        match self {
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
            Self::F32 => Dtype::F32,
        }
    }

    /// Name in `config.json`.
    fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::F32 => "float32",
        }
    }
}

/// How the tokenizer is trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerSettings {
    /// Tokens, at least 257.
    pub vocab: usize,
}

/// Where the text comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DataSource {
    /// Stories of the built-in grammar.
    Stories {
        /// Seed of the grammar.
        #[serde(default)]
        seed: u64,
        /// Stories to train on.
        count: u64,
        /// Stories of the held-out split to measure on.
        heldout: u64,
    },
    /// Text files, each one document; paths are relative to the recipe.
    Text {
        /// The files.
        files: Vec<PathBuf>,
        /// Share of every file, at its end, that is held out.
        #[serde(default = "small_share")]
        heldout: f64,
    },
}

fn small_share() -> f64 {
    0.02
}

/// How a training run ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Where the model is.
    pub output: PathBuf,
    /// Numbers that were trained.
    pub params: usize,
    /// Steps.
    pub steps: usize,
    /// Tokens of the data, in training.
    pub tokens: usize,
    /// Loss of the last step, nats per token; absent where an earlier run had done all steps.
    pub loss: Option<f64>,
    /// Mean loss on held-out windows, nats per token.
    pub heldout_loss: f64,
    /// `exp` of it.
    pub perplexity: f64,
    /// Tokens of a window.
    pub window: usize,
}

impl Recipe {
    /// Parses a recipe; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Data`] for what is no recipe of this version.
    pub fn parse(text: &str, path: &str) -> Result<Self> {
        let failed = |message: String| Error::Data { what: path.into(), message };
        let recipe: Self = toml::from_str(text).map_err(|e| failed(e.to_string()))?;
        match recipe.version {
            VERSION => Ok(recipe),
            other => Err(failed(format!("version {other}, expected {VERSION}"))),
        }
    }

    /// The `config.json` of the model.
    fn config(&self, end: u32) -> Value {
        let mut config = self.model.clone();
        config.insert("vocab_size".into(), json!(self.tokenizer.vocab));
        config.insert("bos_token_id".into(), json!(end));
        config.insert("eos_token_id".into(), json!(end));
        config.insert("torch_dtype".into(), json!(self.dtype.name()));
        Value::Object(config)
    }

    /// Training and held-out documents; paths are relative to `base`.
    fn documents(&self, base: &Path) -> Result<[Vec<String>; 2]> {
        match &self.data {
            DataSource::Stories { seed, count, heldout } => {
                let tell = |split, n| (0..n).map(|i| pico::document(*seed, split, i)).collect();
                Ok([tell(Split::Train, *count), tell(Split::Heldout, *heldout)])
            }
            DataSource::Text { files, heldout } => {
                if !(0.0..1.0).contains(heldout) {
                    let message = format!("must lie in [0, 1), found {heldout}");
                    return Err(Error::Setting { what: "data.text.heldout", message });
                }
                let texts = files.iter().map(|file| Ok(read_text(base.join(file))?));
                let texts = texts.collect::<Result<Vec<String>>>()?;
                let (train, rest): (Vec<_>, Vec<_>) = texts.iter().map(|text| split(text, *heldout)).unzip();
                Ok([train, rest])
            }
        }
    }
}

/// Cuts a text before its last `share`, after a line break if there is one; both parts end as documents do.
fn split(text: &str, share: f64) -> (String, String) {
    let aim = text.floor_char_boundary((text.len() as f64 * (1.0 - share)) as usize);
    let cut = text[..aim].rfind('\n').map_or(aim, |line| line + 1);
    let (train, rest) = text.split_at(cut);
    (format!("{train}{END_OF_TEXT}"), format!("{rest}{END_OF_TEXT}"))
}

/// Trains by `recipe` (whose relative paths start at `base`) and writes a checkpoint directory to `output`.
///
/// An interrupted or killed run is continued by the same call, and gives the same bytes as an uninterrupted one.
///
/// # Errors
/// [`Error::Interrupted`] after the monitor asked to stop; otherwise what data, model, loop and files meet.
pub fn train(
    recipe: &Recipe,
    base: &Path,
    output: &Path,
    force: bool,
    device: &Device,
    monitor: &mut dyn Monitor,
) -> Result<Summary> {
    let documents = recipe.documents(base)?;
    let mut out = OutDir::create(output, &job(recipe, &documents), force)?;
    monitor.begin("tokenizer", 1);
    let json = tokenizer::train(&documents[0], recipe.tokenizer.vocab)?;
    let tokenizer = Tokenizer::from_bytes(&json)?;
    monitor.advance(1, &format!("{} tokens", tokenizer.vocab_size()));
    let [data, heldout] = windows(recipe, &tokenizer, documents)?;
    let end = tokenizer.token_id(END_OF_TEXT).unwrap_or_default();
    let config = recipe.config(end);
    let model =
        Model::from_checkpoint(init::checkpoint(&config, recipe.seed, Dtype::F32)?, None, device.clone())?;
    let objective = NextToken(logits);
    let trainer = Trainer {
        data: &data,
        heldout: Some(&heldout),
        objective: &objective,
        settings: &recipe.training,
        device: device.clone(),
        state: Some(out.partial().join(STATE)),
        transform: None,
    };
    monitor.begin("train", recipe.training.samples(data.len()) as usize);
    let module = model.trainable(&device.clone().autodiff())?;
    let outcome = trainer.run(module, &mut Show { monitor })?;
    if !outcome.finished {
        return Err(Error::Interrupted { kept: out.partial().display().to_string() });
    }
    let Measured { loss: heldout_loss, .. } = match outcome.last.as_ref().and_then(|last| last.heldout) {
        Some(measured) => measured,
        None => trainer.heldout_loss(outcome.result(), &heldout)?,
    };
    let params = write(&mut out, recipe, &outcome, &config, &json)?;
    let output = out.publish()?;
    out.clear(&[STATE])?;
    Ok(Summary {
        output,
        params,
        steps: outcome.step,
        tokens: data.tokens(),
        loss: outcome.last.map(|last| last.loss),
        heldout_loss,
        perplexity: heldout_loss.exp(),
        window: recipe.window,
    })
}

fn logits(model: &Network, ids: Tensor<2, Int>, ctx: &mut Ctx<'_>) -> trimtab_nn::Result<Tensor<3>> {
    model.forward(Flow::Tokens(ids), ctx)?.hidden("loss")
}

/// What the result depends on.
fn job(recipe: &Recipe, documents: &[Vec<String>; 2]) -> String {
    let mut hash = DefaultHasher::new();
    json!(recipe).to_string().hash(&mut hash);
    documents.hash(&mut hash);
    format!("train {:016x}", hash.finish())
}

fn windows(recipe: &Recipe, tokenizer: &Tokenizer, documents: [Vec<String>; 2]) -> Result<[TokenWindows; 2]> {
    let cut = |documents: &[String], what: &str| -> Result<TokenWindows> {
        let texts: Vec<&str> = documents.iter().map(String::as_str).collect();
        let tokens = tokenizer.encode_batch(&texts, false, usize::MAX)?.concat();
        Ok(TokenWindows::new(tokens, recipe.window, recipe.tokenizer.vocab, what)?)
    };
    let [train, heldout] = documents;
    Ok([cut(&train, "the training text")?, cut(&heldout, "the held-out text")?])
}

/// Writes weights and the files beside them; returns the number of weights.
fn write(
    out: &mut OutDir,
    recipe: &Recipe,
    outcome: &Outcome<Network>,
    config: &Value,
    tokenizer_json: &[u8],
) -> Result<usize> {
    let mut params = 0;
    let mut tensors = Vec::new();
    for (name, shape, values) in outcome.result().tensors() {
        params += values.len();
        tensors.push((name, RawTensor::from_f32(shape, &values, recipe.dtype.dtype())?));
    }
    if !out.unit_done("model") {
        out.commit_unit("model", &tensors)?;
    }
    out.finish_shards(SHARD_BYTES, &BTreeMap::new())?;
    let generation = json!({"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]});
    for (name, value) in [
        ("config.json", config),
        ("generation_config.json", &generation),
        ("tokenizer_config.json", &tokenizer::config(recipe.window)),
    ] {
        out.put_file(name, format!("{value:#}\n").as_bytes())?;
    }
    out.put_file("tokenizer.json", tokenizer_json)?;
    Ok(params)
}

/// Passes on what the loop tells.
struct Show<'m> {
    monitor: &'m mut dyn Monitor,
}

impl<M> Observer<M> for Show<'_> {
    fn step(&mut self, record: &StepRecord, _: &M) {
        let heldout = record.heldout.map_or(String::new(), |m| format!(" (held out {:.4})", m.loss));
        let detail = format!(
            "loss {:.4}{heldout}, gradient {:.2}, rate {:.2e}, {:.0} tokens/s, {:.0} s left",
            record.loss, record.gradient_norm, record.rate, record.terms_per_s, record.seconds_left
        );
        self.monitor.advance(record.samples as usize, &detail);
    }

    fn interrupted(&self) -> bool {
        self.monitor.interrupted()
    }
}

#[cfg(test)]
mod tests;
