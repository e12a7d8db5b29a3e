//! Language models: texts, a tokenizer trained on them, the next token or what a denoiser masked.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Int, Tensor};
use serde_json::{Map, Value, json};
use trimtab_io::{Dtype, Tokenizer, read_text};
use trimtab_models::pico::grammar::Split;
use trimtab_models::pico::tokenizer::{self, END_OF_TEXT, PADDING};
use trimtab_models::{Model, init, pico};
use trimtab_nn::{Ctx, Flow, Network};
use trimtab_train::denoise::{
    Denoise, DenoisePairs, DenoisedPairs, DenoisedText, Limits, Mixture, MixtureConfig, Mode, Vocabulary,
};
use trimtab_train::{Dataset, Measured, NextToken, Objective, Outcome, TokenWindows, Trainer};

use super::{DataSource, DenoiseSettings, Output, Recipe, Run, Summary};
use crate::error::{Error, Result};
use crate::monitor::Monitor;

/// The two splits in messages.
const TEXT: &str = "the training text";
const HELDOUT: &str = "the held-out text";

pub(super) fn train(run: &Run<'_>, monitor: &mut dyn Monitor) -> Result<Summary> {
    let recipe = run.recipe;
    let vocab = run.need(&recipe.tokenizer, "tokenizer")?.vocab;
    let (window, model) = (*run.need(&recipe.window, "window")?, run.need(&recipe.model, "model")?);
    if let Some(denoise) = &recipe.denoise {
        denoise.mixture.check().map_err(trimtab_train::Error::from)?;
    }
    // Its ids are known once there is a tokenizer.
    let pairs = init::is_text_to_text(&config(model, vocab, Ends::default(), recipe.dtype.name()))?;
    if pairs && recipe.denoise.is_none() {
        let message =
            "is missing: an encoder reads what a denoiser leaves, a decoder writes what it masks".into();
        return Err(Error::Setting { what: "denoise", message });
    }
    if recipe.quantization.is_some() || recipe.start.is_some() {
        let message = "belong to images: texts are trained from new weights in full precision".into();
        return Err(Error::Setting { what: "quantization, start", message });
    }
    let documents = documents(recipe, run.base)?;
    let mut out = run.open(&documents)?;
    monitor.begin("tokenizer", 1);
    let padding = pairs.then(|| PADDING.to_string());
    let special = recipe.denoise.as_ref().map(special_tokens).unwrap_or_default();
    let special: Vec<String> = padding.into_iter().chain(special).collect();
    let json = tokenizer::train_with(&documents[0], vocab, &special)?;
    let tokenizer = Tokenizer::from_bytes(&json)?;
    monitor.advance(1, &format!("{} tokens", tokenizer.vocab_size()));
    let [text, rest] = tokens(&tokenizer, documents)?;
    let count = text.len();
    let end = tokenizer.token_id(END_OF_TEXT).unwrap_or_default();
    let ends = Ends { end, padding: tokenizer.token_id(PADDING).filter(|_| pairs) };
    let config = config(model, vocab, ends, recipe.dtype.name());
    let start = init::checkpoint(&config, recipe.seed, Dtype::F32)?;
    let network = trainable(start, run.device)?;
    let (outcome, measured, items) = match &recipe.denoise {
        None => {
            let cut = |tokens, what| TokenWindows::new(tokens, window, vocab, what);
            let data = [cut(text, TEXT)?, cut(rest, HELDOUT)?];
            fit(run, network, &data, &NextToken(logits), &out, monitor)?
        }
        Some(settings) => {
            let mixture = mixture(settings, &tokenizer, ends, window)?;
            let seed = recipe.training.seed;
            if pairs {
                let cut = |tokens, what| DenoisedPairs::new(tokens, mixture.clone(), vocab, seed, what);
                let data = [cut(text, TEXT)?, cut(rest, HELDOUT)?];
                fit(run, network, &data, &DenoisePairs(pair_logits), &out, monitor)?
            } else {
                let cut =
                    |tokens, what| DenoisedText::new(tokens, mixture.clone(), window, vocab, seed, what);
                let data = [cut(text, TEXT)?, cut(rest, HELDOUT)?];
                fit(run, network, &data, &Denoise(logits), &out, monitor)?
            }
        }
    };
    let params = run.write(&mut out, outcome.result(), &BTreeMap::new())?;
    let generation: Map<String, Value> = ends.fields().map(|(name, id)| (name.into(), id.into())).collect();
    let generation = Value::Object(generation);
    for (name, value) in [
        ("config.json", &config),
        ("generation_config.json", &generation),
        ("tokenizer_config.json", &tokenizer::config(window, &special)),
    ] {
        out.put_file(name, format!("{value:#}\n").as_bytes())?;
    }
    out.put_file("tokenizer.json", &json)?;
    let summary = run.publish(out, outcome, measured, [params, items])?;
    Ok(Summary { tokens: Some(count), perplexity: Some(measured.loss.exp()), ..summary })
}

/// Trains on the first of two data sets and measures on the second; the items of the first.
fn fit<D: Dataset, O: Objective<Network, D::Batch>>(
    run: &Run<'_>,
    network: Network,
    [data, heldout]: &[D; 2],
    objective: &O,
    out: &Output,
    monitor: &mut dyn Monitor,
) -> Result<(Outcome<Network>, Measured, usize)> {
    let mut trainer = Trainer::new(data, objective, &run.recipe.training, run.device.clone());
    trainer.heldout = Some(heldout);
    let (outcome, measured) = run.go(&mut trainer, network, out, "tokens", monitor)?;
    Ok((outcome, measured, data.len()))
}

/// The tokens that denoisers need, by the names of the released checkpoints.
fn special_tokens(settings: &DenoiseSettings) -> Vec<String> {
    let modes =
        Mode::ALL.iter().filter(|_| settings.mixture.mode_tokens).map(|mode| mode.token().to_string());
    (0..settings.sentinels).map(|i| format!("<extra_id_{i}>")).chain(modes).collect()
}

/// The denoisers with the tokens of this tokenizer. A row fits into a window: of one sequence, or of inputs and of targets
/// where the network has two parts.
fn mixture(settings: &DenoiseSettings, tokenizer: &Tokenizer, ends: Ends, window: usize) -> Result<Mixture> {
    let Limits { inputs, targets, sequence } = settings.mixture.limits;
    let limits = match ends.padding {
        Some(_) => Limits { inputs: inputs.min(window), targets: targets.min(window), sequence },
        None => {
            let sequence = Some(sequence.map_or(window, |limit| limit.min(window)));
            Limits { inputs, targets, sequence }
        }
    };
    let config = MixtureConfig { limits, ..settings.mixture.clone() };
    let names = |name: &str| tokenizer.token_id(name);
    let made = Vocabulary::from_names(names, config.mode_tokens, ends.end, ends.padding.unwrap_or(ends.end))
        .and_then(|vocabulary| Mixture::new(config, vocabulary));
    Ok(made.map_err(trimtab_train::Error::from)?)
}

/// A network in memory, to be trained.
pub(super) fn trainable(start: trimtab_io::Checkpoint, device: &Device) -> Result<Network> {
    let model = Model::from_checkpoint(start, None, device.clone())?;
    Ok(model.trainable(&device.clone().autodiff())?)
}

pub(super) fn logits(
    model: &Network,
    ids: Tensor<2, Int>,
    ctx: &mut Ctx<'_>,
) -> trimtab_nn::Result<Tensor<3>> {
    model.forward(Flow::Tokens(ids), ctx)?.hidden("loss")
}

/// Logits of the decoder of a network of two parts.
pub(super) fn pair_logits(
    model: &Network,
    [inputs, targets]: [Tensor<2, Int>; 2],
    ctx: &mut Ctx<'_>,
) -> trimtab_nn::Result<Tensor<3>> {
    let flow = model.forward(Flow::both(Flow::Tokens(inputs), Flow::Tokens(targets)), ctx)?;
    flow.pair("loss")?.1.hidden("loss")
}

/// Ids of the tokens that begin, end and fill up a text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ends {
    pub end: u32,
    /// For an encoder and a decoder, which begins with it.
    pub padding: Option<u32>,
}

impl Ends {
    /// Their names in `config.json` and `generation_config.json`.
    fn fields(self) -> impl Iterator<Item = (&'static str, u32)> {
        let first = match self.padding {
            Some(padding) => vec![("pad_token_id", padding), ("decoder_start_token_id", padding)],
            None => vec![("bos_token_id", self.end)],
        };
        first.into_iter().chain([("eos_token_id", self.end)])
    }
}

/// The `config.json` of a model with this tokenizer.
pub(super) fn config(model: &Map<String, Value>, vocab: usize, ends: Ends, dtype: &str) -> Value {
    let mut config = model.clone();
    config.insert("vocab_size".into(), json!(vocab));
    config.extend(ends.fields().map(|(name, id)| (name.to_string(), json!(id))));
    config.insert("torch_dtype".into(), json!(dtype));
    Value::Object(config)
}

/// Training and held-out documents; paths are relative to `base`.
pub(super) fn documents(recipe: &Recipe, base: &Path) -> Result<[Vec<String>; 2]> {
    match &recipe.data {
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
        DataSource::Distilled(_) | DataSource::Images(_) | DataSource::Patches(_) => {
            Ok([Vec::new(), Vec::new()])
        }
    }
}

/// Cuts a text before its last `share`, after a line break if there is one; both parts end as documents do.
pub(super) fn split(text: &str, share: f64) -> (String, String) {
    let aim = text.floor_char_boundary((text.len() as f64 * (1.0 - share)) as usize);
    let cut = text[..aim].rfind('\n').map_or(aim, |line| line + 1);
    let (train, rest) = text.split_at(cut);
    (format!("{train}{END_OF_TEXT}"), format!("{rest}{END_OF_TEXT}"))
}

/// The documents of both splits as one stream of tokens each.
fn tokens(tokenizer: &Tokenizer, documents: [Vec<String>; 2]) -> Result<[Vec<u32>; 2]> {
    let encode = |documents: &[String]| -> Result<Vec<u32>> {
        let texts: Vec<&str> = documents.iter().map(String::as_str).collect();
        Ok(tokenizer.encode_batch(&texts, false, usize::MAX)?.concat())
    };
    let [train, heldout] = documents;
    Ok([encode(&train)?, encode(&heldout)?])
}
