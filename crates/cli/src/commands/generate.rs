//! `trimtab generate`.

use std::time::Instant;

use anyhow::Context;
use serde::Serialize;
use trimtab::floors::sample::{Generation, Sampling};
use trimtab::monitor::Monitor;

use crate::Status;
use crate::args::{Generate, Global};
use crate::ui::Ui;

#[derive(Serialize)]
struct Report {
    prompt: String,
    text: String,
    tokens: usize,
    prompt_tokens: usize,
    prompt_s: f64,
    tokens_per_s: f64,
    weight_bytes: u64,
    gb_per_s: f64,
    seed: u64,
}

pub fn run(args: &Generate, global: &Global, ui: &mut Ui) -> anyhow::Result<Status> {
    let model = super::open(&args.model, global, ui)?;
    let tokenizer = model.tokenizer()?;
    let network = model.network()?;
    let id = |name: &str| model.checkpoint().config()?.get(name)?.as_u64().map(|id| id as u32);
    let eos = id("eos_token_id");
    let decoder = model.decoder_stage();
    // An encoder reads what its tokenizer makes of a whole text.
    let mut fed = tokenizer.encode(&args.prompt, decoder.is_some())?;
    if fed.is_empty() {
        // A text begins where another ended.
        fed.push(eos.unwrap_or(0));
    }
    let prompt_tokens = fed.len();
    let sampling =
        Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, seed: global.seed };
    let begun = Instant::now();
    let mut generation = match decoder {
        Some(decoder) => Generation::reading(&network, decoder, &fed, sampling)?,
        None => Generation::new(&network, sampling),
    };
    if decoder.is_some() {
        let start = id("decoder_start_token_id").or_else(|| id("pad_token_id"));
        fed =
            vec![start.context("config.json names no decoder_start_token_id, with which a decoder begins")?];
    }
    let mut next = generation.next(&fed)?;
    let prompt_s = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let (mut said, mut shown) = (Vec::new(), String::new());
    // A decoder of its own does not go on with the prompt, and its sentinels say which gap a text is for.
    let special = decoder.is_some();
    if !ui.json() && !special {
        ui.stream(&args.prompt)?;
    }
    while said.len() < args.tokens && !ui.interrupted() {
        if Some(next) == eos && !args.ignore_eos {
            break;
        }
        said.push(next);
        let text = tokenizer.decode(&said, !special)?;
        // A character may need several tokens: only what is whole is shown.
        if !ui.json() && text.starts_with(&shown) && !text.ends_with('\u{fffd}') {
            ui.stream(&text[shown.len()..])?;
            shown = text;
        }
        if said.len() < args.tokens {
            next = generation.next(&[next])?;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let steps = said.len().saturating_sub(1);
    let tokens_per_s = steps as f64 / seconds;
    let weight_bytes = model.checkpoint().total_bytes();
    let report = Report {
        prompt: args.prompt.clone(),
        text: tokenizer.decode(&said, !special)?,
        tokens: said.len(),
        prompt_tokens,
        prompt_s,
        tokens_per_s,
        weight_bytes,
        gb_per_s: tokens_per_s * weight_bytes as f64 / 1e9,
        seed: global.seed,
    };
    ui.result(&report, "\n")?;
    ui.note(&format!(
        "{} tokens, {tokens_per_s:.1} per second, {:.2} GB/s of weights",
        said.len(),
        report.gb_per_s
    ));
    Ok(Status::Done)
}
