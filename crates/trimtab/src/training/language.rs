//! Language models: texts, a tokenizer trained on them, the next token.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Int, Tensor};
use serde_json::{Map, Value, json};
use trimtab_io::{Dtype, Tokenizer, read_text};
use trimtab_models::pico::grammar::Split;
use trimtab_models::pico::tokenizer::{self, END_OF_TEXT};
use trimtab_models::{Model, init, pico};
use trimtab_nn::{Ctx, Flow, Network};
use trimtab_train::{Dataset, NextToken, TokenWindows, Trainer};

use super::{DataSource, Recipe, Run, Summary};
use crate::error::{Error, Result};
use crate::monitor::Monitor;

pub(super) fn train(run: &Run<'_>, monitor: &mut dyn Monitor) -> Result<Summary> {
    let recipe = run.recipe;
    let vocab = run.need(&recipe.tokenizer, "tokenizer")?.vocab;
    let (window, model) = (*run.need(&recipe.window, "window")?, run.need(&recipe.model, "model")?);
    let documents = documents(recipe, run.base)?;
    let mut out = run.open(&documents)?;
    monitor.begin("tokenizer", 1);
    let json = tokenizer::train(&documents[0], vocab)?;
    let tokenizer = Tokenizer::from_bytes(&json)?;
    monitor.advance(1, &format!("{} tokens", tokenizer.vocab_size()));
    let [data, heldout] = windows(&tokenizer, documents, window, vocab)?;
    let end = tokenizer.token_id(END_OF_TEXT).unwrap_or_default();
    let config = config(model, vocab, end, recipe.dtype.name());
    let start = init::checkpoint(&config, recipe.seed, Dtype::F32)?;
    let network = trainable(start, run.device)?;
    let objective = NextToken(logits);
    let mut trainer = Trainer::new(&data, &objective, &recipe.training, run.device.clone());
    trainer.heldout = Some(&heldout);
    let (outcome, measured) = run.go(&mut trainer, network, &out, "tokens", monitor)?;
    let params = run.write(&mut out, outcome.result(), &BTreeMap::new())?;
    let generation = json!({"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]});
    for (name, value) in [
        ("config.json", &config),
        ("generation_config.json", &generation),
        ("tokenizer_config.json", &tokenizer::config(window)),
    ] {
        out.put_file(name, format!("{value:#}\n").as_bytes())?;
    }
    out.put_file("tokenizer.json", &json)?;
    let summary = run.publish(out, outcome, measured, [params, data.len()])?;
    Ok(Summary { tokens: Some(data.tokens()), perplexity: Some(measured.loss.exp()), ..summary })
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

/// The `config.json` of a model with this tokenizer.
pub(super) fn config(model: &Map<String, Value>, vocab: usize, end: u32, dtype: &str) -> Value {
    let mut config = model.clone();
    config.insert("vocab_size".into(), json!(vocab));
    config.insert("bos_token_id".into(), json!(end));
    config.insert("eos_token_id".into(), json!(end));
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
        DataSource::Distilled(_) | DataSource::Images(_) => Ok([Vec::new(), Vec::new()]),
    }
}

/// Cuts a text before its last `share`, after a line break if there is one; both parts end as documents do.
pub(super) fn split(text: &str, share: f64) -> (String, String) {
    let aim = text.floor_char_boundary((text.len() as f64 * (1.0 - share)) as usize);
    let cut = text[..aim].rfind('\n').map_or(aim, |line| line + 1);
    let (train, rest) = text.split_at(cut);
    (format!("{train}{END_OF_TEXT}"), format!("{rest}{END_OF_TEXT}"))
}

fn windows(
    tokenizer: &Tokenizer,
    documents: [Vec<String>; 2],
    window: usize,
    vocab: usize,
) -> Result<[TokenWindows; 2]> {
    let cut = |documents: &[String], what: &str| -> Result<TokenWindows> {
        let texts: Vec<&str> = documents.iter().map(String::as_str).collect();
        let tokens = tokenizer.encode_batch(&texts, false, usize::MAX)?.concat();
        Ok(TokenWindows::new(tokens, window, vocab, what)?)
    };
    let [train, heldout] = documents;
    Ok([cut(&train, "the training text")?, cut(&heldout, "the held-out text")?])
}
