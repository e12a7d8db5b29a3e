//! One run: ranks as threads that train a language model of characters.

use std::path::Path;
use std::time::Instant;

use burn::tensor::{Device, Int, Tensor};
use serde_json::json;
use trimtab::floors::exchange::{Adjustment, Alone, Communicator, ExchangeConfig, Threads};
use trimtab::floors::io::{Dtype, read_text};
use trimtab::floors::models::{Model, init};
use trimtab::floors::nn::{Ctx, Flow, Network, Result as NnResult};
use trimtab::floors::train::{
    self, NextToken, Observer, OptimizerConfig, Phase, Ranks, Schedule, Settings, StepRecord, TokenWindows,
    Trainer,
};

/// Any error of a step.
pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

pub(super) const RANKS: usize = 4;
pub(super) const WINDOW: usize = 64;
pub(super) const BATCH: usize = 16;
pub(super) const WIDTH: usize = 96;
const RATE: f64 = 3e-3;
/// Windows at the end of the text that are measured on.
const HELDOUT: usize = 256;

/// A text by characters.
pub(super) struct Text {
    train: TokenWindows,
    heldout: TokenWindows,
    /// Different characters.
    pub alphabet: usize,
}

impl Text {
    /// Reads a file; its end is held out.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = read_text(path)?;
        let mut alphabet: Vec<char> = text.chars().collect();
        alphabet.sort_unstable();
        alphabet.dedup();
        let id = |c: char| alphabet.partition_point(|&other| other < c) as u32;
        let ids: Vec<u32> = text.chars().map(id).collect();
        let (train, heldout) = ids.split_at(ids.len().saturating_sub(HELDOUT * WINDOW + 1));
        let windows = |part: &[u32], what| TokenWindows::new(part.to_vec(), WINDOW, alphabet.len(), what);
        Ok(Self {
            train: windows(train, "the training text")?,
            heldout: windows(heldout, "the held-out text")?,
            alphabet: alphabet.len(),
        })
    }
}

/// What a run of all ranks ends with.
pub(super) struct Trained {
    /// Bytes that a rank sends in a step, mean over ranks and steps; counted by the group of ranks.
    pub bytes: f64,
    /// Loss on the held-out text, nats a character.
    pub heldout: f64,
    /// Loss of each step on what was trained on.
    pub losses: Vec<f64>,
    /// The last decision about levels.
    pub adjustment: Option<Adjustment>,
}

/// Keeps the losses.
#[derive(Default)]
struct Losses(Vec<f64>);

impl Observer<Network> for Losses {
    fn step(&mut self, record: &StepRecord, _: &Network) {
        self.0.push(record.loss);
    }
}

fn settings(steps: usize, batch: usize, seed: u64) -> Settings {
    let schedule = Schedule::Cosine { warmup: 0.1, floor: 0.05 };
    let optimizer = OptimizerConfig::AdamW { beta_1: 0.9, beta_2: 0.95, epsilon: 1e-8, weight_decay: 0.1 };
    let phase = Phase { schedule, ..Phase::new(steps, RATE, optimizer) };
    Settings { seed, clip_norm: Some(1.0), ..Settings::new(batch, vec![phase]) }
}

/// Two blocks with fewer heads for keys than for queries, and a head that is not the embedding: tensors of six shapes.
fn network(alphabet: usize, seed: u64) -> Result<Network, Failure> {
    let config = json!({
        "model_type": "llama", "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 256, "max_position_embeddings": WINDOW,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false,
        "vocab_size": alphabet, "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "float32",
    });
    let start = init::checkpoint(&config, seed, Dtype::F32)?;
    let model = Model::from_checkpoint(start, None, Device::flex())?;
    Ok(model.trainable(&Device::flex().autodiff())?)
}

/// Parameters of the network.
pub(super) fn parameters(alphabet: usize) -> Result<usize, Failure> {
    let all = train::parameters(&network(alphabet, 0)?);
    Ok(all.iter().map(|info| info.shape.iter().product::<usize>()).sum())
}

fn logits(model: &Network, ids: Tensor<2, Int>, ctx: &mut Ctx<'_>) -> NnResult<Tensor<3>> {
    model.forward(Flow::Tokens(ids), ctx)?.hidden("loss")
}

/// What one rank does, and how long a step took it.
fn rank<C: Communicator>(
    text: &Text,
    group: C,
    config: ExchangeConfig,
    settings: &Settings,
    measures: bool,
) -> Result<(Trained, f64), Failure> {
    let objective = NextToken(logits);
    let trainer = Trainer::new(&text.train, &objective, settings, Device::flex());
    let (mut losses, mut ranks) = (Losses::default(), Ranks::new(group, config)?);
    let network = network(text.alphabet, settings.seed)?;
    let began = Instant::now();
    let outcome = trainer.run_with(network, &mut losses, &mut ranks)?;
    let seconds = began.elapsed().as_secs_f64() / outcome.step as f64;
    let heldout = match measures {
        true => trainer.heldout_loss(&outcome.module, &text.heldout)?.loss,
        false => f64::NAN,
    };
    let exchange = ranks.exchange();
    let (bytes, adjustment) = (exchange.sent_bytes() as f64, exchange.adjustment().cloned());
    let bytes = bytes / exchange.step() as f64;
    Ok((Trained { bytes, heldout, losses: losses.0, adjustment }, seconds))
}

/// All ranks as threads.
pub(super) fn train(
    text: &Text,
    config: ExchangeConfig,
    steps: usize,
    seed: u64,
) -> Result<Trained, Failure> {
    let settings = settings(steps, BATCH, seed);
    let all = std::thread::scope(|scope| {
        let settings = &settings;
        let one = |group: Threads| {
            let measures = group.rank() == 0;
            scope.spawn(move || rank(text, group, config, settings, measures))
        };
        let threads: Vec<_> = Threads::ranks(RANKS).into_iter().map(one).collect();
        let join = |(rank, thread): (usize, std::thread::ScopedJoinHandle<'_, _>)| {
            thread.join().unwrap_or_else(|_| Err(format!("rank {rank} panicked").into()))
        };
        threads.into_iter().enumerate().map(join).collect::<Result<Vec<(Trained, f64)>, Failure>>()
    })?;
    let bytes = all.iter().map(|(of, _)| of.bytes).sum::<f64>() / all.len() as f64;
    let first = all.into_iter().next().ok_or("no rank")?.0;
    Ok(Trained { bytes, ..first })
}

/// Seconds of a step of one rank that has the machine to itself: its share of the batch, compression and update.
pub(super) fn step_time(text: &Text, config: ExchangeConfig, steps: usize) -> Result<f64, Failure> {
    Ok(rank(text, Alone, config, &settings(steps, BATCH / RANKS, 0), false)?.1)
}
