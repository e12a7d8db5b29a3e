//! Language models: texts, a tokenizer trained on them, the next token or what a denoiser masked.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Int, Tensor};
use serde_json::{Map, Value, json};
use trimtab_io::{Bytes, Checkpoint, Dtype, Quantization, Tokenizer, read_text};
use trimtab_models::pico::grammar::Split;
use trimtab_models::pico::tokenizer::{self, END_OF_TEXT, PADDING};
use trimtab_models::{Model, init, pico};
use trimtab_nn::{Ctx, Flow, Network, Role, StageSource, Task};
use trimtab_train::denoise::{
    Denoise, DenoisePairs, DenoisedPairs, DenoisedText, Limits, Mixture, MixtureConfig, Mode, Vocabulary,
};
use trimtab_train::quantized::DoubleRounding;
use trimtab_train::{Dataset, Item, Measured, NextToken, Objective, Outcome, Paths, TokenWindows, Trainer};

use super::quantized::{AllWidths, QuantizationSettings, Trained};
use super::{DataSource, DenoiseSettings, Output, Recipe, Run, Summary};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::without_data::token_id;

/// The two splits in messages.
const TEXT: &str = "the training text";
const HELDOUT: &str = "the held-out text";
/// Windows by which the steps of inputs begin.
const FIRST: usize = 4;

/// A language model to begin with, and what is written beside it.
struct Beginning {
    model: Model,
    config: Value,
    tokenizer: Tokenizer,
    vocab: usize,
    ends: Ends,
    files: Vec<(String, Bytes)>,
}

pub(super) fn train(run: &Run<'_>, monitor: &mut dyn Monitor) -> Result<Summary> {
    let recipe = run.recipe;
    let window = *run.need(&recipe.window, "window")?;
    if let Some(denoise) = &recipe.denoise {
        denoise.mixture.check().map_err(trimtab_train::Error::from)?;
    }
    let start = recipe.start.as_ref().map(|path| Checkpoint::open(run.base.join(path))).transpose()?;
    let pairs = match &start {
        Some(start) => init::is_text_to_text(&config_of(start)?)?,
        None => {
            // Its ids are known once there is a tokenizer.
            let vocab = run.need(&recipe.tokenizer, "tokenizer")?.vocab;
            let model = run.need(&recipe.model, "model")?;
            init::is_text_to_text(&config(model, vocab, Ends::default(), recipe.dtype.name()))?
        }
    };
    if pairs && recipe.denoise.is_none() {
        let message =
            "is missing: an encoder reads what a denoiser leaves, a decoder writes what it masks".into();
        return Err(Error::Setting { what: "denoise", message });
    }
    let widths = recipe.quantization.as_ref().map(|settings| widths(recipe, settings)).transpose()?;
    let documents = documents(recipe, run.base)?;
    let begin = match start {
        Some(start) => from_checkpoint(run, start, pairs)?,
        None => from_nothing(run, &documents[0], pairs, monitor)?,
    };
    let Beginning { model, config, tokenizer, vocab, ends, files } = begin;
    let (network, outside, tied) = (with_gradients(&model, run.device)?, outside(&model), model.tied());
    // Its weights are those of the network now.
    drop(model);
    let [text, rest] = tokens(&tokenizer, ends.end, &documents)?;
    let count = text.len();
    let windows = |tokens, what| TokenWindows::new(tokens, window, vocab, what);
    let summary = if let Some(settings) = widths {
        let data = [windows(text, TEXT)?, windows(rest, HELDOUT)?];
        // What stands outside of the blocks stays as it is, unless the recipe says otherwise.
        let keep = settings.keep.clone().unwrap_or(Paths(outside));
        let settings = DoubleRounding { keep: Some(keep), ..settings.clone() };
        let training = AllWidths {
            run,
            settings: &settings,
            data: [&data[0], &data[1]],
            transform: None,
            unit: "tokens",
            config: Some(config),
            metadata: &BTreeMap::new(),
            tied,
        };
        let items: Vec<Item> = (0..data[0].len().min(FIRST)).map(|index| Item { index, epoch: 0 }).collect();
        let ids = data[0].batch(&items, run.device)?.inputs;
        let first = |network: &Network, ctx: &mut Ctx<'_>| Ok(logits(network, ids, ctx).map(drop)?);
        let mut out = run.open(&documents)?;
        let (trained, params) = training.train(network, &NextToken(logits), first, &mut out, monitor)?;
        put(&out, &files)?;
        let Trained { outcome, measured, widths } = trained;
        let summary = run.publish(out, outcome, measured, [params, data[0].len()])?;
        Summary { widths, ..summary }
    } else {
        let (mut out, outcome, measured, items) = match &recipe.denoise {
            None => {
                let data = [windows(text, TEXT)?, windows(rest, HELDOUT)?];
                fit(run, network, &data, &NextToken(logits), &documents, monitor)?
            }
            Some(settings) => {
                let mixture = mixture(settings, &tokenizer, ends, window)?;
                let seed = recipe.training.seed;
                if pairs {
                    let cut = |tokens, what| DenoisedPairs::new(tokens, mixture.clone(), vocab, seed, what);
                    let data = [cut(text, TEXT)?, cut(rest, HELDOUT)?];
                    fit(run, network, &data, &DenoisePairs(pair_logits), &documents, monitor)?
                } else {
                    let cut =
                        |tokens, what| DenoisedText::new(tokens, mixture.clone(), window, vocab, seed, what);
                    let data = [cut(text, TEXT)?, cut(rest, HELDOUT)?];
                    fit(run, network, &data, &Denoise(logits), &documents, monitor)?
                }
            }
        };
        let params = run.write(&mut out, outcome.result(), &BTreeMap::new())?;
        put(&out, &files)?;
        out.put_file("config.json", format!("{config:#}\n").as_bytes())?;
        run.publish(out, outcome, measured, [params, items])?
    };
    let perplexity = Some(summary.heldout_loss.exp());
    Ok(Summary { tokens: Some(count), perplexity, ..summary })
}

/// Double Rounding, the one method by which texts are trained for few bits.
fn widths<'r>(recipe: &Recipe, settings: &'r QuantizationSettings) -> Result<&'r DoubleRounding> {
    let refused = |what: &'static str, message: &str| Err(Error::Setting { what, message: message.into() });
    settings.check(recipe)?;
    match settings {
        QuantizationSettings::DoubleRounding(_) if recipe.denoise.is_some() => refused(
            "denoise",
            "cannot be trained for few bits: leave out [quantization], or train on the next token",
        ),
        QuantizationSettings::DoubleRounding(settings) => Ok(settings),
        _ => refused("quantization.method", "is for images: expected \"double_rounding\" for text"),
    }
}

fn put(out: &Output, files: &[(String, Bytes)]) -> Result<()> {
    files.iter().try_for_each(|(name, bytes)| out.put_file(name, bytes))
}

/// The `config.json` of a model to begin with.
fn config_of(start: &Checkpoint) -> Result<Value> {
    let missing = || Error::Setting { what: "start", message: "has no config.json".into() };
    start.config().cloned().ok_or_else(missing)
}

/// New weights, and a tokenizer of these documents.
fn from_nothing(
    run: &Run<'_>,
    documents: &[String],
    pairs: bool,
    monitor: &mut dyn Monitor,
) -> Result<Beginning> {
    let recipe = run.recipe;
    let vocab = run.need(&recipe.tokenizer, "tokenizer")?.vocab;
    let (window, model) = (*run.need(&recipe.window, "window")?, run.need(&recipe.model, "model")?);
    monitor.begin("tokenizer", 1);
    let padding = pairs.then(|| PADDING.to_string());
    let special = recipe.denoise.as_ref().map(special_tokens).unwrap_or_default();
    let special: Vec<String> = padding.into_iter().chain(special).collect();
    let json = tokenizer::train_with(documents, vocab, &special)?;
    let tokenizer = Tokenizer::from_bytes(&json)?;
    monitor.advance(1, &format!("{} tokens", tokenizer.vocab_size()));
    let end = tokenizer.token_id(END_OF_TEXT).unwrap_or_default();
    let ends = Ends { end, padding: tokenizer.token_id(PADDING).filter(|_| pairs) };
    let config = config(model, vocab, ends, recipe.dtype.name());
    let model = in_memory(init::checkpoint(&config, recipe.seed, Dtype::F32)?, run.device)?;
    let generation: Map<String, Value> = ends.fields().map(|(name, id)| (name.into(), id.into())).collect();
    let mut files = vec![("tokenizer.json".to_string(), json.into())];
    for (name, value) in [
        ("generation_config.json", &Value::Object(generation)),
        ("tokenizer_config.json", &tokenizer::config(window, &special)),
    ] {
        files.push((name.to_string(), format!("{value:#}\n").into_bytes().into()));
    }
    Ok(Beginning { model, config, tokenizer, vocab, ends, files })
}

/// A checkpoint with its own tokenizer.
fn from_checkpoint(run: &Run<'_>, start: Checkpoint, pairs: bool) -> Result<Beginning> {
    let recipe = run.recipe;
    let refused = |message: String| Error::Setting { what: "start", message };
    if recipe.model.is_some() || recipe.tokenizer.is_some() {
        let message = "has a model and a tokenizer of its own\nhint: leave out [model] and [tokenizer]";
        return Err(refused(message.into()));
    }
    let mut config = config_of(&start)?;
    if Quantization::of(&config)?.is_some() {
        let message = "is quantized\nhint: trimtab convert makes dense weights of it";
        return Err(refused(message.into()));
    }
    let tokenizer = Tokenizer::of(&start)?;
    let id = |name: &str| token_id(&config, name);
    let end = id("eos_token_id").or_else(|| tokenizer.token_id(END_OF_TEXT));
    let end =
        end.ok_or_else(|| refused("names no token that ends a text (eos_token_id in config.json)".into()))?;
    // A row is filled up with the token that a decoder begins with.
    let padding = match [id("pad_token_id"), id("decoder_start_token_id")] {
        _ if !pairs => None,
        [Some(padding), None] | [None, Some(padding)] => Some(padding),
        [Some(padding), Some(first)] if padding == first => Some(padding),
        found => {
            let message =
                format!("has other tokens to pad with and to begin with ({found:?}): expected one for both");
            return Err(refused(message));
        }
    };
    let ends = Ends { end, padding };
    let files = start.side_files()?;
    let dtype = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    config[dtype] = json!(recipe.dtype.name());
    let model = in_memory(start, run.device)?;
    let vocab = match (model.task(), model.vocab()) {
        (Task::Language, Some(vocab)) => vocab,
        (Task::Pairs, Some(vocab)) if pairs => vocab,
        _ => return Err(refused("is no language model".into())),
    };
    Ok(Beginning { model, config, tokenizer, vocab, ends, files })
}

/// Sites outside of the blocks that every text passes.
fn outside(model: &Model) -> Vec<String> {
    let stages = model.stages().iter().filter(|stage| stage.role != Role::Block || stage.optional);
    stages.flat_map(|stage| &stage.sites).map(|site| site.name.clone()).collect()
}

/// Trains on the first of two data sets, which are made of these documents, and measures on the second; also the items of the first. The output
/// is begun here, where the data are known to be sound.
fn fit<D: Dataset, O: Objective<Network, D::Batch>>(
    run: &Run<'_>,
    network: Network,
    [data, heldout]: &[D; 2],
    objective: &O,
    documents: &[Vec<String>; 2],
    monitor: &mut dyn Monitor,
) -> Result<(Output, Outcome<Network>, Measured, usize)> {
    let out = run.open(documents)?;
    let mut trainer = Trainer::new(data, objective, &run.recipe.training, run.device.clone());
    trainer.heldout = Some(heldout);
    let (outcome, measured) = run.go(&mut trainer, network, &out, "tokens", monitor)?;
    Ok((out, outcome, measured, data.len()))
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
pub(super) fn trainable(start: Checkpoint, device: &Device) -> Result<Network> {
    with_gradients(&in_memory(start, device)?, device)
}

fn in_memory(start: Checkpoint, device: &Device) -> Result<Model> {
    Ok(Model::from_checkpoint(start, None, device.clone())?)
}

fn with_gradients(model: &Model, device: &Device) -> Result<Network> {
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

/// The documents of both splits as one stream of tokens each; `end` is the token that ends a document.
fn tokens(tokenizer: &Tokenizer, end: u32, documents: &[Vec<String>; 2]) -> Result<[Vec<u32>; 2]> {
    let encode = |documents: &[String]| -> Result<Vec<u32>> {
        let texts = documents.iter().map(|document| document.strip_suffix(END_OF_TEXT).unwrap_or(document));
        let texts: Vec<&str> = texts.collect();
        let mut all = Vec::new();
        for (ids, document) in tokenizer.encode_batch(&texts, false, usize::MAX)?.into_iter().zip(documents) {
            all.extend(ids);
            all.extend(document.ends_with(END_OF_TEXT).then_some(end));
        }
        Ok(all)
    };
    let [train, heldout] = documents;
    Ok([encode(train)?, encode(heldout)?])
}
