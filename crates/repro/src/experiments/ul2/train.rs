//! The five ways of training, and the held-out tasks.

use std::cell::Cell;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use serde_json::json;
use trimtab::floors::io::{Dtype, read_text};
use trimtab::floors::models::{Model, init};
use trimtab::floors::nn::{self, Ctx, Flow, Network};
use trimtab::floors::train::denoise::{
    Denoise, DenoisedBatch, DenoisedText, Denoiser, Example, Limits, Mixture, MixtureConfig, Mode, Pivot,
    Sequence, SpanCorrupt, Vocabulary,
};
use trimtab::floors::train::{
    self, Dataset, Item, NextToken, Objective, Observer, OptimizerConfig, Pass, Phase, Schedule, Settings,
    StepRecord, TokenWindows, Trainer,
};

use crate::error::{Error, Result};
use crate::lab::Lab;

/// Target tokens of a run.
pub(super) const FULL_TARGETS: usize = 240_000;
/// Those of a quick run.
pub(super) const QUICK_TARGETS: usize = 24_000;
/// Target tokens of a step.
const STEP: usize = 512;
/// Places of a row.
const PLACES: usize = 128;
/// Bytes, the end, three modes and the sentinels, from the top.
const VOCAB: usize = 256 + 1 + 3 + SENTINELS;
const END: u32 = 256;
const MODES: [u32; 3] = [257, 258, 259];
const SENTINELS: usize = 28;
/// Sizes of the model.
const WIDTH: usize = 64;
const BLOCKS: usize = 2;
/// Share of each text, at its end, that is held out.
const HELDOUT: f64 = 0.05;
/// Windows of held-out text that every model is judged on.
const JUDGED: usize = 96;
/// Rows of one pass of the judge.
const ROWS: usize = 16;

/// What is trained on; the dearest first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Arm {
    Spans,
    Prefix,
    Modes,
    Plain,
    Causal,
}

impl Arm {
    pub(super) const ALL: [Self; 5] = [Self::Spans, Self::Prefix, Self::Modes, Self::Plain, Self::Causal];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Spans => "span corruption (3, 0.15)",
            Self::Prefix => "prefix LM",
            Self::Modes => "mixture with mode tokens",
            Self::Plain => "mixture without",
            Self::Causal => "causal LM",
        }
    }

    /// What its denoisers do; a causal model has none.
    fn mixture(self) -> Option<MixtureConfig> {
        let config = match self {
            Self::Spans => only(Task::Infill),
            Self::Prefix => only(Task::Prefix),
            Self::Modes | Self::Plain => MixtureConfig::ul2(),
            Self::Causal => return None,
        };
        Some(MixtureConfig { mode_tokens: self == Self::Modes, limits: limits(), ..config })
    }
}

/// What a model is judged on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Task {
    Infill,
    Prefix,
    Extreme,
}

impl Task {
    pub(super) const ALL: [Self; 3] = [Self::Infill, Self::Prefix, Self::Extreme];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Infill => "infilling (3, 0.15)",
            Self::Prefix => "prefix LM (0.25)",
            Self::Extreme => "X (64, 0.5)",
        }
    }

    fn mode(self) -> Mode {
        match self {
            Self::Infill => Mode::R,
            Self::Prefix => Mode::S,
            Self::Extreme => Mode::X,
        }
    }
}

fn limits() -> Limits {
    Limits { inputs: PLACES, targets: PLACES, sequence: Some(PLACES) }
}

/// One denoiser, with mode tokens.
fn only(task: Task) -> MixtureConfig {
    let (mean, rate) = if task == Task::Infill { (3.0, 0.15) } else { (64.0, 0.5) };
    let denoiser = Denoiser { mode: Mode::R, weight: 1.0, corruption: SpanCorrupt::new(mean, rate) };
    let denoiser = Denoiser { mode: if task == Task::Infill { Mode::R } else { Mode::X }, ..denoiser };
    let s_share = if task == Task::Prefix { 1.0 } else { 0.0 };
    let pivot = Pivot::Fraction(0.75);
    MixtureConfig { s_share, pivot, limits: limits(), denoisers: vec![denoiser], ..MixtureConfig::ul2() }
}

/// Mean; 0 of nothing.
pub(super) fn average(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The ids of the special tokens.
fn vocabulary() -> train::denoise::Result<Vocabulary> {
    Vocabulary::numbered(VOCAB as u32 - 1, SENTINELS as u32, Some(MODES), END, END)
}

fn logits(model: &Network, ids: Tensor<2, Int>, ctx: &mut Ctx<'_>) -> nn::Result<Tensor<3>> {
    model.forward(Flow::Tokens(ids), ctx)?.hidden("loss")
}

/// A model of this size that has seen nothing.
fn fresh(seed: u64) -> trimtab::floors::models::Result<Network> {
    let config = json!({
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": BLOCKS,
        "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": WIDTH * 8 / 3,
        "max_position_embeddings": PLACES, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "tie_word_embeddings": true, "bos_token_id": END, "eos_token_id": END,
    });
    let model = Model::from_checkpoint(init::checkpoint(&config, seed, Dtype::F32)?, None, Device::flex())?;
    model.trainable(&Device::flex().autodiff())
}

/// Says now and then how far a run is, and ends it when it is told to.
struct Watch<'a> {
    lab: &'a Lab<'a>,
    name: String,
    stopped: Cell<bool>,
}

impl Observer<Network> for Watch<'_> {
    fn step(&mut self, record: &StepRecord, _: &Network) {
        if record.step.is_multiple_of(25) {
            let StepRecord { loss, terms_per_s, samples, total, .. } = record;
            let line =
                format!("{}: {samples} of {total}, loss {loss:.3}, {terms_per_s:.0} targets/s", self.name);
            self.stopped.set(self.lab.tell(&line).is_err());
        }
    }

    fn interrupted(&self) -> bool {
        self.stopped.get()
    }
}

/// Bytes to train on and bytes to judge by.
pub(super) struct Corpus {
    train: Vec<u32>,
    heldout: Vec<u32>,
}

impl Corpus {
    pub(super) fn read(
        lab: &Lab<'_>,
        failed: impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Error,
    ) -> Result<Self> {
        let (mut train, mut heldout) = (Vec::new(), Vec::new());
        for name in ["text/tinyshakespeare.txt", "text/reviews/calibration.txt"] {
            let text = read_text(lab.file(name)?).map_err(|error| failed(Box::new(error)))?;
            let bytes: Vec<u32> = text.bytes().map(u32::from).collect();
            let (first, last) = bytes.split_at((bytes.len() as f64 * (1.0 - HELDOUT)) as usize);
            train.extend_from_slice(first);
            heldout.extend_from_slice(last);
        }
        Ok(Self { train, heldout })
    }

    /// What the figures were measured on.
    pub(super) fn scale(&self, targets: usize) -> String {
        format!(
            "decoder of {BLOCKS} blocks, width {WIDTH}, rows of {PLACES}; {} kB of bytes; {targets} target tokens an arm in steps of {STEP}",
            self.train.len() / 1000
        )
    }

    /// A model of this arm after so many target tokens.
    pub(super) fn train(
        &self,
        arm: Arm,
        seed: u64,
        targets: usize,
        lab: &Lab<'_>,
        failed: impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Error,
    ) -> Result<Network> {
        let made = |error: train::Error| failed(Box::new(error));
        let network = fresh(seed).map_err(|error| failed(Box::new(error)))?;
        let mut watch =
            Watch { lab, name: format!("{}, seed {seed}", arm.name()), stopped: Cell::new(false) };
        let outcome = match arm.mixture() {
            None => {
                let data = TokenWindows::new(self.train.clone(), PLACES, VOCAB, "the text").map_err(made)?;
                let settings = settings(PLACES as f64, seed, targets);
                let trainer = Trainer::new(&data, &NextToken(logits), &settings, Device::flex());
                trainer.run(network, &mut watch).map_err(made)?
            }
            Some(config) => {
                let mixture = vocabulary().and_then(|vocabulary| Mixture::new(config, vocabulary));
                let mixture = mixture.map_err(|error| made(error.into()))?;
                let data = DenoisedText::new(self.train.clone(), mixture, PLACES, VOCAB, seed, "the text");
                let data = data.map_err(made)?;
                // Of what a row has on average; denoisers differ in it.
                let counted = (0..data.len().min(2000)).map(|index| data.example(&Item { index, epoch: 0 }));
                let counted = counted.map(|example| Ok(example?.targets.len() as f64));
                let counted = counted.collect::<train::Result<Vec<f64>>>().map_err(made)?;
                let settings = settings(average(&counted), seed, targets);
                let trainer = Trainer::new(&data, &Denoise(logits), &settings, Device::flex());
                trainer.run(network, &mut watch).map_err(made)?
            }
        };
        if outcome.finished { Ok(outcome.module) } else { Err(Error::Stopped) }
    }

    /// Held-out losses by task, and those under the better wrong token.
    pub(super) fn judge(&self, network: &Network, arm: Arm) -> train::Result<([f64; 3], Option<[f64; 3]>)> {
        let network = network.valid();
        let mut losses = [0.0; 3];
        let mut wrong = [f64::MAX; 3];
        for task in Task::ALL {
            let loss = |mark| self.loss(&network, task, mark, arm == Arm::Causal);
            if arm != Arm::Modes {
                losses[task as usize] = loss(None)?;
                continue;
            }
            for mode in Mode::ALL {
                let found = loss(Some(MODES[mode as usize]))?;
                match mode == task.mode() {
                    true => losses[task as usize] = found,
                    false => wrong[task as usize] = wrong[task as usize].min(found),
                }
            }
        }
        Ok((losses, (arm == Arm::Modes).then_some(wrong)))
    }

    /// The loss on the bytes of text that a task masks. The examples are the same for all models; their mark is not.
    fn loss(&self, network: &Network, task: Task, mark: Option<u32>, causal: bool) -> train::Result<f64> {
        let mixture = Mixture::new(only(task), vocabulary()?)?;
        let windows = self.heldout.len() / PLACES;
        let example = |i: usize| -> train::Result<Example> {
            let text = &self.heldout[i * windows / JUDGED * PLACES..][..PLACES];
            let mut example = mixture.example(text, 0, 0, i as u64)?;
            example.inputs.splice(..1, mark);
            Ok(example)
        };
        let examples = (0..JUDGED).map(example).collect::<train::Result<Vec<_>>>()?;
        let (mut sum, mut count) = (0.0, 0);
        for part in examples.chunks(ROWS) {
            let mut rows = Sequence::pack(part, PLACES, mixture.vocabulary())?;
            for row in &mut rows {
                for place in 0..PLACES - 1 {
                    row.loss_mask[place] &= row.input_ids[place + 1] < END;
                }
                if causal {
                    row.prefix_lengths.fill(0);
                }
            }
            let batch = DenoisedBatch::new(&rows, &Device::flex());
            let loss = Denoise(logits).loss(network, &batch, &mut Pass::default())?;
            sum += f64::from(loss.mean.into_scalar::<f32>()) * loss.terms as f64;
            count += loss.terms;
        }
        Ok(sum / f64::from(count.max(1) as u32))
    }
}

/// Settings of a run whose rows have so many targets on average: all arms see as many in as many steps.
fn settings(of_a_row: f64, seed: u64, targets: usize) -> Settings {
    let optimizer = OptimizerConfig::AdamW { beta_1: 0.9, beta_2: 0.95, epsilon: 1e-8, weight_decay: 0.1 };
    let batch = (STEP as f64 / of_a_row).round().max(1.0) as usize;
    let samples = (targets as f64 / of_a_row).round() as u64;
    let schedule = Schedule::Cosine { warmup: 0.05, floor: 0.02 };
    let phase = Phase { steps: None, samples: Some(samples), schedule, ..Phase::new(1, 3e-3, optimizer) };
    Settings { seed, clip_norm: Some(1.0), ..Settings::new(batch, vec![phase]) }
}
