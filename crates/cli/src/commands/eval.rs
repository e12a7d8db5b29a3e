//! `trimtab eval`.

use std::time::Instant;

use anyhow::bail;
use serde::Serialize;
use trimtab::calibration::{heldout_stories, window_of};
use trimtab::floors::io::{ImageSet, ensure_writable, read_pairs, read_text};
use trimtab::floors::models::Model;
use trimtab::floors::nn::Task;
use trimtab::judge::{Judge, Quality};
use trimtab::system::peak_memory_bytes;

use crate::Status;
use crate::args::{Eval, Global, ModelArg};
use crate::ui::{Ui, table};

#[derive(Serialize)]
struct Report {
    model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<String>,
    #[serde(flatten)]
    quality: Quality,
    seconds: f64,
    items_per_s: f64,
    peak_memory_bytes: Option<u64>,
}

pub fn run(args: &Eval, global: &Global, ui: &mut Ui) -> anyhow::Result<Status> {
    let model = super::open(&args.model, global, ui)?;
    let judge = judge(args, &model)?;
    if let Some(path) = &args.logits {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        ensure_writable(parent.unwrap_or(std::path::Path::new(".")))?;
    }
    let network = model.network()?;
    let against = args.against.as_ref().map(|path| {
        super::open(&ModelArg { model: path.clone(), spec: args.model.spec.clone() }, global, ui)
    });
    let against = against.transpose()?.map(|original| original.network()).transpose()?;
    let begun = Instant::now();
    let quality = match &against {
        None => judge.score(&model, &network, ui)?,
        Some(original) => judge.compare(&model, &[&network], original, ui)?.remove(0),
    };
    let seconds = begun.elapsed().as_secs_f64();
    if let Some(path) = &args.logits {
        judge.write_logits(&model, &network, path)?;
    }
    let items_per_s = quality.items as f64 / seconds;
    let text = table(&rows(&quality, items_per_s));
    let model = model.checkpoint().path().display().to_string();
    let peak_memory_bytes = peak_memory_bytes();
    let report =
        Report { model, against: args.against.clone(), quality, seconds, items_per_s, peak_memory_bytes };
    ui.result(&report, &text)?;
    Ok(Status::Done)
}

fn judge(args: &Eval, model: &Model) -> anyhow::Result<Judge> {
    if let Some(path) = &args.pairs {
        let mut pairs = read_pairs(path)?;
        pairs.truncate(args.limit.unwrap_or(usize::MAX));
        return Ok(Judge::pairs(model, &pairs)?);
    }
    if let Some(path) = &args.images {
        let set = ImageSet::read(path, "test")?;
        let n = args.limit.unwrap_or(usize::MAX).min(set.len());
        return Ok(Judge::Images { set: set.select(&(0..n).collect::<Vec<_>>()) });
    }
    if model.task() == Task::Pairs {
        bail!(
            "eval judges networks with one input, and this one has two\nhint: trimtab train measures an encoder and a \
             decoder on held-out text"
        );
    }
    if model.task() != Task::Language {
        bail!(
            "what to judge by is missing\nhint: pass --pairs FILE for an encoder, --images FILE for a classifier"
        );
    }
    let window = window_of(model, args.window);
    let stride = args.stride.unwrap_or(window);
    let limit = args.limit.unwrap_or(usize::MAX);
    match &args.text {
        Some(path) => {
            let tokens = model.tokenizer()?.encode(&read_text(path)?, false)?;
            Ok(Judge::Text { tokens, window, stride, limit })
        }
        None => {
            let mut judge = heldout_stories(model, window)?;
            if let Judge::Text { limit: most, .. } = &mut judge {
                *most = limit.min(*most);
            }
            Ok(judge)
        }
    }
}

fn rows(quality: &Quality, items_per_s: f64) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row =
        |name: &str, value: Option<String>| rows.extend(value.map(|value| vec![name.to_string(), value]));
    row("perplexity", quality.perplexity.map(|v| format!("{v:.4}")));
    row("spearman x 100", quality.spearman.map(|v| format!("{v:.3}")));
    row("accuracy %", quality.accuracy.map(|v| format!("{v:.2}")));
    row("KL to the original", quality.kl.map(|v| format!("{v:.6}")));
    row("  standard error", quality.kl_standard_error.map(|v| format!("{v:.6}")));
    row("same top 1 %", quality.same_top1.map(|v| format!("{:.2}", 100.0 * v)));
    row("1 - cos to the original", quality.embedding_distance.map(|v| format!("{v:.6}")));
    row("window", quality.window.map(|v| v.to_string()));
    row("stride", quality.stride.map(|v| v.to_string()));
    row("items", Some(quality.items.to_string()));
    row("items per second", Some(format!("{items_per_s:.0}")));
    rows
}
