//! Judging a model on data it was not treated with: a text, sentence pairs, or labelled images.

use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};
use trimtab_calibrate::Batch;
use trimtab_eval::images::ImageScore;
use trimtab_eval::{Reference, Windows, language, on_all_threads, pairs};
use trimtab_io::{Dtype, ImageSet, Pair, RawTensor};
use trimtab_models::Model;
use trimtab_nn::{Network, Task};

use crate::calibration::check_ids;
use crate::error::{Error, Result};
use crate::monitor::Monitor;

/// Texts in one batch of an encoder; images in one batch of a classifier.
const BATCH: usize = 32;
/// Tokens of a text that an encoder sees at most.
pub const ENCODER_WINDOW: usize = 256;

/// What a model is judged on.
pub enum Judge {
    /// Prediction of a text by windows.
    Text {
        /// The whole text as tokens.
        tokens: Vec<u32>,
        /// Tokens of a window.
        window: usize,
        /// Tokens between windows.
        stride: usize,
        /// Windows at most.
        limit: usize,
    },
    /// Correlation with human judgements of similarity.
    Pairs {
        /// Token ids of the first and second sentence of every pair.
        sides: [Vec<Vec<u32>>; 2],
        /// Human scores.
        scores: Vec<f64>,
    },
    /// Classification.
    Images {
        /// Images with labels.
        set: ImageSet,
    },
}

/// How good a model is, and how far from its original; a field is absent where it makes no sense.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// `exp` of the mean negative log-likelihood per token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Spearman correlation times 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spearman: Option<f64>,
    /// Percent of images that are classified right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Mean `KL(original || treated)`, nats per token or image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// Its standard error over windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_standard_error: Option<f64>,
    /// Share of positions at which both find the same token most likely.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_top1: Option<f64>,
    /// Mean `1 - cos` between the embeddings of both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding_distance: Option<f64>,
    /// Predictions, pairs or images.
    pub items: usize,
    /// Tokens of a window, where there are windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// Tokens between windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stride: Option<usize>,
}

impl Judge {
    /// Sentence pairs, tokenized.
    pub fn pairs(model: &Model, list: &[Pair]) -> Result<Self> {
        let tokenizer = model.tokenizer()?;
        let side = |texts: Vec<&str>| tokenizer.encode_batch(&texts, true, ENCODER_WINDOW);
        let first = side(list.iter().map(|pair| pair.first.as_str()).collect())?;
        let second = side(list.iter().map(|pair| pair.second.as_str()).collect())?;
        for ids in [&first, &second] {
            check_ids(ids, model.vocab().unwrap_or(0))?;
        }
        Ok(Self::Pairs { sides: [first, second], scores: list.iter().map(|pair| pair.score).collect() })
    }

    /// Two judges by turns of windows, pairs or images: what one has, the other has not.
    ///
    /// # Errors
    /// Data too few to divide.
    pub fn halves(&self) -> Result<[Self; 2]> {
        let few = || Error::Setting {
            what: "--quality",
            message: "one half of the data selects and the other proves, and these are too few to divide"
                .into(),
        };
        let odd = |half: usize| move |i: &usize| i % 2 == half;
        let half = |half: usize| -> Result<Self> {
            Ok(match self {
                Self::Text { tokens, window, stride, limit } => {
                    let limit = (*limit).min(tokens.len() / window) / 2;
                    if limit == 0 {
                        return Err(few());
                    }
                    let windows = tokens.chunks_exact(*window).enumerate().filter(|(i, _)| odd(half)(i));
                    let tokens = windows.flat_map(|(_, window)| window.to_vec()).collect();
                    Self::Text { tokens, window: *window, stride: (*stride).max(*window), limit }
                }
                Self::Pairs { sides, scores } => {
                    if scores.len() < 4 {
                        return Err(few());
                    }
                    let kept = || (0..scores.len()).filter(odd(half));
                    let sides = sides.each_ref().map(|side| kept().map(|i| side[i].clone()).collect());
                    Self::Pairs { sides, scores: kept().map(|i| scores[i]).collect() }
                }
                Self::Images { set } => {
                    if set.len() < 2 {
                        return Err(few());
                    }
                    Self::Images { set: set.select(&(0..set.len()).filter(odd(half)).collect::<Vec<_>>()) }
                }
            })
        };
        Ok([half(0)?, half(1)?])
    }

    /// A hash of the data and of how they are cut.
    pub fn digest(&self) -> String {
        let mut bytes = Vec::new();
        let mut number = |n: u64| bytes.extend(n.to_le_bytes());
        match self {
            Self::Text { tokens, window, stride, limit } => {
                [*window, *stride, *limit].iter().for_each(|&n| number(n as u64));
                tokens.iter().for_each(|&token| number(token.into()));
            }
            Self::Pairs { sides, scores } => {
                for ids in sides.iter().flatten() {
                    number(ids.len() as u64);
                    ids.iter().for_each(|&token| number(token.into()));
                }
                scores.iter().for_each(|score| number(score.to_bits()));
            }
            Self::Images { set } => {
                set.labels.iter().for_each(|&label| number(label as u64));
                bytes.extend_from_slice(set.pixels(0..set.len()));
            }
        }
        trimtab_io::sha256(&bytes)
    }

    /// Judges one network.
    pub fn score(&self, model: &Model, network: &Network, monitor: &mut dyn Monitor) -> Result<Quality> {
        Ok(self.judge(model, &[network], None, monitor)?.remove(0))
    }

    /// Judges treated networks, also by how far each is from their original.
    pub fn compare(
        &self,
        model: &Model,
        treated: &[&Network],
        original: &Network,
        monitor: &mut dyn Monitor,
    ) -> Result<Vec<Quality>> {
        self.judge(model, treated, Some(original), monitor)
    }

    /// Writes what a language model says to the windows of a text, for a comparison with other programs: a safetensors
    /// file with `tokens` (I64, `[n, window]`) and `logits` (F32, `[n, window, vocab]`).
    pub fn write_logits(&self, model: &Model, network: &Network, path: &Path) -> Result<()> {
        let (Self::Text { tokens, window, stride, limit }, Some(vocab)) = (self, model.vocab()) else {
            return Err(Error::WrongData { given: "--logits", task: model.task() });
        };
        let windows = Windows::cut(tokens, *window, *stride, vocab)?.take(*limit);
        let (ids, logits) = language::dump(network, &windows, vocab)?;
        let shape = vec![windows.as_slices().len(), *window];
        let ids: Vec<u8> = ids.iter().flat_map(|&id| i64::from(id).to_le_bytes()).collect();
        let logits = RawTensor::from_f32([&shape[..], &[vocab]].concat(), &logits, Dtype::F32)?;
        let tokens = RawTensor::new(Dtype::I64, shape, ids.into())?;
        let tensors = [("tokens".to_string(), tokens), ("logits".to_string(), logits)];
        Ok(trimtab_io::write_atomic(path, &trimtab_io::to_safetensors(&tensors, &Default::default())?)?)
    }

    fn judge(
        &self,
        model: &Model,
        networks: &[&Network],
        original: Option<&Network>,
        monitor: &mut dyn Monitor,
    ) -> Result<Vec<Quality>> {
        match self {
            Self::Text { tokens, window, stride, limit } => {
                let vocab = model.vocab().ok_or(Error::WrongData { given: "a text", task: model.task() })?;
                let windows = Windows::cut(tokens, *window, *stride, vocab)?.take(*limit);
                judge_text(networks, original, &windows, vocab, monitor)
            }
            Self::Pairs { sides, scores } => judge_pairs(networks, original, model, (sides, scores), monitor),
            Self::Images { set } => judge_images(model, networks, original, set, monitor),
        }
    }
}

fn judge_text(
    networks: &[&Network],
    original: Option<&Network>,
    windows: &Windows<'_>,
    vocab: usize,
    monitor: &mut dyn Monitor,
) -> Result<Vec<Quality>> {
    monitor.begin("perplexity", windows.as_slices().len());
    let mut progress = |done: usize, _: usize| monitor.advance(done, "");
    let quality = |score: &language::LanguageScore| Quality {
        perplexity: Some(score.perplexity),
        items: score.tokens,
        window: Some(score.window),
        stride: Some(score.stride),
        ..Quality::default()
    };
    let Some(original) = original else {
        let scores = networks.iter().map(|network| language::score(network, windows, vocab, &mut progress));
        return scores.map(|score| Ok(quality(&score?))).collect();
    };
    let compared = language::compare(networks, original, windows, vocab, &mut progress)?;
    let quality = |both: &language::LanguageComparison| Quality {
        kl: Some(both.kl),
        kl_standard_error: Some(both.kl_standard_error),
        same_top1: Some(both.same_top1),
        ..quality(&both.treated)
    };
    Ok(compared.iter().map(quality).collect())
}

fn judge_pairs(
    networks: &[&Network],
    original: Option<&Network>,
    model: &Model,
    (sides, scores): (&[Vec<Vec<u32>>; 2], &[f64]),
    monitor: &mut dyn Monitor,
) -> Result<Vec<Quality>> {
    if model.task() == Task::Images {
        return Err(Error::WrongData { given: "sentence pairs", task: model.task() });
    }
    let texts: Vec<&[u32]> = sides.iter().flatten().map(Vec::as_slice).collect();
    let n_networks = networks.len() + usize::from(original.is_some());
    monitor.begin("embeddings", n_networks * texts.len());
    let mut done = 0;
    let mut embed = |network: &Network| -> Result<Vec<Vec<f32>>> {
        let embeddings = embed(network, model, &texts, &mut |n| monitor.advance(done + n, ""))?;
        done += texts.len();
        Ok(embeddings)
    };
    let kept = original.map(&mut embed).transpose()?;
    let quality = |network: &&Network| {
        let found = embed(network)?;
        let (left, right) = found.split_at(scores.len());
        let score = pairs::correlate(left, right, scores)?;
        let distance = kept.as_ref().map(|kept| {
            let far = |(a, b): (&Vec<f32>, &Vec<f32>)| (1.0 - pairs::cosine(a, b)).max(0.0);
            found.iter().zip(kept).map(far).sum::<f64>() / found.len() as f64
        });
        Ok(Quality {
            spearman: Some(score.spearman),
            embedding_distance: distance,
            items: score.pairs,
            ..Quality::default()
        })
    };
    networks.iter().map(quality).collect()
}

/// One embedding a text, in order. Texts of like length share a batch, so that little is padding; batches run on all
/// threads.
pub(crate) fn embed(
    network: &Network,
    model: &Model,
    texts: &[&[u32]],
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<f32>>> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&i| texts[i].len());
    let batches: Vec<&[usize]> = order.chunks(BATCH).collect();
    let done = |n: usize| progress((n * BATCH).min(texts.len()));
    let found = on_all_threads(&batches, done, |part| -> Result<Vec<Vec<f32>>> {
        let rows: Vec<&[u32]> = part.iter().map(|&i| texts[i]).collect();
        let batch = Batch::padded(&rows, 0, model.device());
        Ok(pairs::embed(network, batch.input.clone(), &mut batch.ctx())?)
    })?;
    let mut embeddings = vec![Vec::new(); texts.len()];
    for (&i, embedding) in order.iter().zip(found.into_iter().flatten()) {
        embeddings[i] = embedding;
    }
    Ok(embeddings)
}

/// Batches run on all threads; what they find is added up in their order.
fn judge_images(
    model: &Model,
    networks: &[&Network],
    original: Option<&Network>,
    set: &ImageSet,
    monitor: &mut dyn Monitor,
) -> Result<Vec<Quality>> {
    let normalization = model.normalization()?;
    let n = set.len();
    monitor.begin("accuracy", n);
    let ranges: Vec<Range<usize>> = (0..n).step_by(BATCH).map(|i| i..(i + BATCH).min(n)).collect();
    let done = |parts: usize| monitor.advance((parts * BATCH).min(n), "");
    let parts = on_all_threads(&ranges, done, |range| -> Result<Vec<(ImageScore, f64)>> {
        let batch = crate::calibration::image_batch(set, &normalization, range.clone(), model.device())?;
        let run = |network: &Network| network.forward(batch.input.clone(), &mut batch.ctx());
        let mut reference = Reference::new(Task::Images);
        let kept = original.map(run).transpose()?;
        if let Some(output) = &kept {
            reference.push(output.clone(), &batch.ctx())?;
        }
        let judge = |network: &&Network| {
            let same = original.is_some_and(|original| std::ptr::eq(*network, original));
            let output = match &kept {
                Some(output) if same => output.clone(),
                _ => run(network)?,
            };
            let kl = match original {
                Some(_) => reference.measure(0, output.clone(), &batch.ctx())?.0,
                None => 0.0,
            };
            let score = ImageScore::of(output, &set.labels[range.clone()], range.start)?;
            Ok((score, kl))
        };
        networks.iter().map(judge).collect()
    })?;
    let quality = |i: usize| {
        let (mut score, mut kl) = (ImageScore::default(), 0.0);
        for (part, mean) in parts.iter().map(|part| &part[i]) {
            score.add(part);
            kl += mean * part.images as f64;
        }
        Quality {
            accuracy: Some(score.accuracy),
            kl: original.map(|_| kl / score.images.max(1) as f64),
            items: score.images,
            ..Quality::default()
        }
    };
    Ok((0..networks.len()).map(quality).collect())
}
