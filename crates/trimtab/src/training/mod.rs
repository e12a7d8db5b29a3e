//! Training by a recipe: data, initial weights, the loop, and a checkpoint directory.

pub mod correct;
mod images;
mod language;
pub(crate) mod metrics;
mod quantized;
pub(crate) mod upscaler;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use trimtab_exchange::ExchangeConfig;
use trimtab_io::{Checkpoint, Dtype, OutDir, RawTensor};
use trimtab_models::Zoo;
use trimtab_nn::Network;
use trimtab_train::denoise::MixtureConfig;
use trimtab_train::{
    Alone, Dataset, Measured, Objective, Observer, Outcome, Ranks, Settings, StepRecord, Trainer, Workers,
};

pub use images::{DistilledSource, ImageObjective, ImageSource, logits};
pub use metrics::metrics_of;
pub use quantized::{AtWidth, QuantizationSettings};
pub use trimtab_train::{Mix, Pictures};
pub use upscaler::{PatchSource, UpscalerSettings, read_genotype};

use crate::error::{Error, Result};
use crate::monitor::Monitor;
use metrics::Metrics;

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
    /// Type of the weights that are written.
    #[serde(default)]
    pub dtype: WeightType,
    /// Tokens of a window, for text; for an encoder and a decoder, of the inputs and of the targets.
    #[serde(default)]
    pub window: Option<usize>,
    /// `config.json` of the model, without what follows from the tokenizer; for text.
    #[serde(default)]
    pub model: Option<Map<String, Value>>,
    /// The tokenizer, which is trained on the data; for text.
    #[serde(default)]
    pub tokenizer: Option<TokenizerSettings>,
    /// Denoisers, for text: what is masked is predicted, by a model that sees all of the rest. Otherwise it is the next token.
    /// An encoder reads the inputs and its decoder the targets; a decoder alone reads both in one row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denoise: Option<DenoiseSettings>,
    /// The network, for images.
    #[serde(default)]
    pub network: Option<Zoo>,
    /// What is minimized on images.
    #[serde(default)]
    pub objective: ImageObjective,
    /// A checkpoint to begin with in place of new weights, relative to the recipe: for images of the same network, for text with its own
    /// configuration and tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// How the network is trained for few bits, for images with labels, and for the next token of a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<QuantizationSettings>,
    /// The network that makes patches of pictures larger: a search, or what one has found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upscaler: Option<UpscalerSettings>,
    /// The data.
    pub data: DataSource,
    /// How the gradients of several processes become one; their plain mean by default.
    #[serde(default)]
    pub exchange: Option<ExchangeConfig>,
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

/// How text is corrupted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DenoiseSettings {
    /// Sentinels of the tokenizer: as many spans can be masked in one row.
    pub sentinels: usize,
    /// The denoisers and their shares; those of UL2 by default. A row (for an encoder and a decoder: either side of it) has at
    /// most a window of tokens.
    pub mixture: MixtureConfig,
}

impl Default for DenoiseSettings {
    fn default() -> Self {
        Self { sentinels: 100, mixture: MixtureConfig::ul2() }
    }
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
    /// Images with labels.
    Images(ImageSource),
    /// Images that `trimtab distil` made, with the words of their teacher.
    Distilled(DistilledSource),
    /// Patches of pictures that are made small and have to be made large again.
    Patches(PatchSource),
}

fn small_share() -> f64 {
    0.02
}

/// How a training run ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Where the model is.
    pub output: PathBuf,
    /// What every step said.
    pub metrics: PathBuf,
    /// Numbers that were written.
    pub params: usize,
    /// Processes that trained it.
    pub processes: usize,
    /// Bytes that the first of them sent to the others.
    pub sent_bytes: u64,
    /// Steps.
    pub steps: usize,
    /// Items of the data that were trained on: windows, images.
    pub items: usize,
    /// Tokens among them, for text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
    /// Loss of the last step, nats a token or an image; absent where an earlier run had done all steps.
    pub loss: Option<f64>,
    /// Mean loss on held-out data.
    pub heldout_loss: f64,
    /// `exp` of it, for text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Share of held-out images that are classified right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// What the widths of a switchable network do on held-out data.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub widths: Vec<AtWidth>,
    /// Bits of a weight of a network in fixed point, on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub word_bits: Option<f64>,
    /// Peak signal-to-noise ratio of held-out patches that were made larger, dB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psnr: Option<f64>,
    /// Multiply-adds for a pixel of a small picture, times bits of weights, times bits of inputs, of a network that makes pictures
    /// larger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bit_ops: Option<f64>,
    /// How sure a search was: the largest coefficient of each choice, on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certainty: Option<f64>,
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

    /// Takes the data from another place than the recipe says.
    ///
    /// # Errors
    /// [`Error::Setting`] for stories, which come from nowhere.
    pub fn read_data_from(&mut self, path: PathBuf) -> Result<()> {
        match &mut self.data {
            DataSource::Images(source) => source.path = path,
            DataSource::Distilled(source) => source.path = path,
            DataSource::Patches(source) => source.path = path,
            DataSource::Text { files, .. } => *files = vec![path],
            DataSource::Stories { .. } => {
                let message = "the recipe trains on stories of the built-in grammar, not on a file".into();
                return Err(Error::Setting { what: "--data", message });
            }
        }
        Ok(())
    }

    /// The checkpoint that is listened to, if one is, relative to the recipe.
    fn teacher(&self) -> Option<&PathBuf> {
        self.objective.teacher.as_ref().and_then(|teacher| teacher.path.as_ref().or(self.start.as_ref()))
    }
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
    match &recipe.exchange {
        // One process compresses as well, so that a recipe means the same whatever the number of processes.
        Some(config) => {
            let mut alone = Ranks::new(trimtab_exchange::Alone, *config)?;
            train_among(recipe, base, output, force, device, monitor, &mut alone)
        }
        None => train_among(recipe, base, output, force, device, monitor, &mut Alone),
    }
}

/// [`train`] as one of several processes. The first of them alone writes the output; all return the same summary.
///
/// # Errors
/// Those of [`train`], and a process that is gone.
pub fn train_among(
    recipe: &Recipe,
    base: &Path,
    output: &Path,
    force: bool,
    device: &Device,
    monitor: &mut dyn Monitor,
    workers: &mut dyn Workers,
) -> Result<Summary> {
    let run = Run { recipe, base, output, force, device, workers: RefCell::new(workers) };
    if recipe.upscaler.is_some() && !matches!(recipe.data, DataSource::Patches(_)) {
        let message = "belongs to [data.patches]: it makes patches of pictures larger".into();
        return Err(Error::Setting { what: "upscaler", message });
    }
    let of_images = matches!(recipe.data, DataSource::Images(_) | DataSource::Distilled(_));
    if !of_images && recipe.objective != ImageObjective::default() {
        let message = "belongs to [data.images]: it says what is minimized on images with classes".into();
        return Err(Error::Setting { what: "objective", message });
    }
    match &recipe.data {
        DataSource::Stories { .. } | DataSource::Text { .. } => language::train(&run, monitor),
        DataSource::Images(source) => images::train(&run, source, monitor),
        DataSource::Distilled(source) => images::train_distilled(&run, source, monitor),
        DataSource::Patches(source) => upscaler::train(&run, source, monitor),
    }
}

/// One call of [`train`].
struct Run<'a> {
    recipe: &'a Recipe,
    base: &'a Path,
    output: &'a Path,
    force: bool,
    device: &'a Device,
    workers: RefCell<&'a mut dyn Workers>,
}

/// Where a process finds the saved state, and the output if it is the one that writes it.
struct Output {
    own: Option<OutDir>,
    partial: PathBuf,
}

impl Output {
    /// Writes a small file of the output, in the process that writes it.
    fn put_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        Ok(self.own.as_ref().map_or(Ok(()), |out| out.put_file(name, bytes))?)
    }
}

impl Run<'_> {
    /// A part of the recipe that this kind of data needs.
    fn need<'r, T>(&self, part: &'r Option<T>, what: &'static str) -> Result<&'r T> {
        let message = "is missing: this kind of data needs it".to_string();
        part.as_ref().ok_or(Error::Setting { what, message })
    }
}

impl Run<'_> {
    /// The output directory of this recipe on this data, opened by the first process.
    fn open(&self, data: impl Hash) -> Result<Output> {
        let mut hash = DefaultHasher::new();
        // Without `prefetch`, which is not serialized: it changes nothing.
        json!(self.recipe).to_string().hash(&mut hash);
        data.hash(&mut hash);
        let start = self.recipe.start.as_ref();
        let teacher = self.recipe.teacher();
        if let Some(path) = teacher {
            // Of a teacher the configuration counts, too: what it computes is that of its file.
            Checkpoint::open(self.base.join(path))?.fingerprint().hash(&mut hash);
        }
        for path in start.into_iter().chain(teacher.filter(|teacher| Some(*teacher) != start)) {
            let start = Checkpoint::open(self.base.join(path))?;
            for file in start.files() {
                start.content_sha256(&file.name)?.hash(&mut hash);
            }
            start.side_file("tokenizer.json")?.map(|bytes| bytes.to_vec()).hash(&mut hash);
        }
        let job = format!("train {:016x}", hash.finish());
        let mut workers = self.workers.borrow_mut();
        let own = match workers.rank() {
            0 => Some(OutDir::create(self.output, &job, self.force)?),
            _ => None,
        };
        // Nobody looks for a saved state before the first has cleared away those of other jobs.
        workers.sum(&mut [])?;
        Ok(Output { own, partial: OutDir::partial_of(self.output)? })
    }

    /// Trains a network with a saved state in `out`; what it does on held-out data.
    fn go<M: Module, D: Dataset, O: Objective<M, D::Batch>>(
        &self,
        trainer: &mut Trainer<'_, D, O>,
        network: M,
        out: &Output,
        unit: &'static str,
        monitor: &mut dyn Monitor,
    ) -> Result<(Outcome<M>, Measured)> {
        trainer.state = Some(out.partial.join(STATE));
        monitor.begin("train", self.recipe.training.samples(trainer.data.len()) as usize);
        let mut workers = self.workers.borrow_mut();
        let writes = out.own.is_some().then(|| (metrics_of(self.output), self.force));
        let mut show = Show { monitor, unit, writes, metrics: None };
        let outcome = trainer.run_with(network, &mut show, &mut **workers)?;
        // Before the output is there: nobody comes back for them after that.
        Observer::<M>::saves(&mut show)?;
        if !outcome.finished {
            return Err(Error::Interrupted { kept: out.partial.display().to_string() });
        }
        let measured = outcome.last.as_ref().and_then(|last| last.heldout);
        let measured = match (measured, trainer.heldout) {
            (Some(measured), _) => measured,
            (None, Some(data)) => trainer.heldout_loss(outcome.result(), data)?,
            (None, None) => trainer.heldout_loss(outcome.result(), trainer.data)?,
        };
        Ok((outcome, measured))
    }

    /// Publishes what was written; the summary, without what only one kind of data has.
    fn publish<M>(
        &self,
        out: Output,
        outcome: Outcome<M>,
        measured: Measured,
        [params, items]: [usize; 2],
    ) -> Result<Summary> {
        if let Some(mut out) = out.own {
            out.publish()?;
            out.clear(&[STATE])?;
        }
        let workers = self.workers.borrow();
        Ok(Summary {
            output: self.output.into(),
            metrics: metrics_of(self.output),
            processes: workers.size(),
            sent_bytes: workers.sent_bytes(),
            params,
            steps: outcome.step,
            items,
            tokens: None,
            loss: outcome.last.map(|last| last.loss),
            heldout_loss: measured.loss,
            perplexity: None,
            accuracy: measured.accuracy,
            widths: Vec::new(),
            word_bits: None,
            psnr: None,
            bit_ops: None,
            certainty: None,
        })
    }

    /// Writes the weights; returns their number.
    fn write(
        &self,
        out: &mut Output,
        network: &Network,
        metadata: &BTreeMap<String, String>,
    ) -> Result<usize> {
        let mut params = 0;
        let mut tensors = Vec::new();
        for (name, shape, values) in network.tensors() {
            params += values.len();
            tensors.push((name, RawTensor::from_f32(shape, &values, self.recipe.dtype.dtype())?));
        }
        Self::write_tensors(out, &tensors, metadata)?;
        Ok(params)
    }

    /// Writes tensors, in the process that writes.
    fn write_tensors(
        out: &mut Output,
        tensors: &[(String, RawTensor)],
        metadata: &BTreeMap<String, String>,
    ) -> Result<()> {
        if let Some(out) = &mut out.own {
            if !out.unit_done("model") {
                out.commit_unit("model", tensors)?;
            }
            out.finish_shards(SHARD_BYTES, metadata)?;
        }
        Ok(())
    }
}

/// Passes on what the loop tells.
struct Show<'m> {
    monitor: &'m mut dyn Monitor,
    /// What is counted by the second.
    unit: &'static str,
    /// Where metrics are written to by this process, and whether a file of something else is replaced.
    writes: Option<(PathBuf, bool)>,
    metrics: Option<Metrics>,
}

impl<M> Observer<M> for Show<'_> {
    fn begins(&mut self, step: usize) -> trimtab_train::Result<()> {
        let Some((path, force)) = &self.writes else { return Ok(()) };
        let (metrics, missing) = Metrics::resume(path.clone(), step, *force)?;
        if missing > 0 {
            let message = format!("{}: {missing} of the {step} steps before have no line", path.display());
            self.monitor.warn(&message);
        }
        self.metrics = Some(metrics);
        Ok(())
    }

    fn step(&mut self, record: &StepRecord, _: &M) {
        if let Some(metrics) = &mut self.metrics {
            metrics.push(record);
        }
        self.monitor.metrics(record, self.unit);
    }

    fn saves(&mut self) -> trimtab_train::Result<()> {
        Ok(self.metrics.as_mut().map_or(Ok(()), Metrics::sync)?)
    }

    fn interrupted(&self) -> bool {
        self.monitor.interrupted() || self.metrics.as_ref().is_some_and(Metrics::is_broken)
    }
}

#[cfg(test)]
mod pair_tests;
#[cfg(test)]
mod quantized_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod upscaler_tests;
