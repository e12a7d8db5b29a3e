//! Networks that make pictures larger: searched together with their bits, or trained in the bits that were found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use serde::{Deserialize, Serialize};
use serde_json::json;
use trimtab_io::{Checkpoint, Dtype, RawTensor, read_text};
use trimtab_nn::Ctx;
use trimtab_train::search::{Bilevel, Cut, Genotype, Patches, QuantNas, Restore, Supernet, Upscaler, psnr};
use trimtab_train::{Dataset, Settings, Trainer};

use super::{ImageObjective, Output, Recipe, Run, Summary, WeightType, images};
use crate::apply::pretty;
use crate::error::{Error, Result};
use crate::monitor::Monitor;

/// What was found, beside the weights.
pub const GENOTYPE: &str = "genotype.json";

/// The coefficients that it was found by.
const COEFFICIENTS: &str = "coefficients.json";

/// Patches that are measured at once.
const PATCHES: usize = 64;

/// Where patches come from. A patch is made small and has to be made large again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchSource {
    /// A safetensors file with `SPLIT.images` and `SPLIT.labels`, or a folder `SPLIT/CLASS/IMAGE`; relative to the recipe.
    pub path: PathBuf,
    /// The split that is trained on.
    #[serde(default = "images::train_split")]
    pub train: String,
    /// The split that is measured on.
    #[serde(default = "images::test_split")]
    pub heldout: String,
    /// Side of a large patch, pixels.
    pub side: usize,
}

/// The network that makes patches large.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum UpscalerSettings {
    /// It is searched (QuantNAS).
    Search(QuantNas),
    /// It is this one: a file, or a folder that a search wrote; relative to the recipe.
    Genotype(PathBuf),
}

/// What a recipe trains.
enum Task {
    Search(QuantNas),
    Train(Genotype),
}

impl Task {
    fn scale(&self) -> usize {
        match self {
            Self::Search(search) => search.scale,
            Self::Train(genotype) => genotype.skeleton.scale,
        }
    }
}

/// Reads a genotype from its file, or from the folder that a search wrote.
///
/// # Errors
/// A file that cannot be read, or holds none that fits together.
pub fn read_genotype(path: &Path) -> Result<Genotype> {
    let file = if path.is_dir() { path.join(GENOTYPE) } else { path.to_path_buf() };
    let failed = |message: String| Error::Data { what: file.display().to_string(), message };
    let genotype: Genotype = serde_json::from_str(&read_text(&file)?).map_err(|e| failed(e.to_string()))?;
    genotype.edges().map_err(|e| failed(e.to_string()))?;
    Ok(genotype)
}

/// Refuses what makes no sense, before anything is written.
fn check(recipe: &Recipe, settings: &UpscalerSettings) -> Result<()> {
    let refused = |what: &'static str, message: &str| Err(Error::Setting { what, message: message.into() });
    if recipe.dtype != WeightType::F32 {
        return refused(
            "dtype",
            "must be \"f32\": what is trained for few bits is written as it was measured",
        );
    }
    if recipe.network.is_some() || recipe.quantization.is_some() {
        return refused(
            "network, quantization",
            "belong to images with classes; here [upscaler] says it all",
        );
    }
    if recipe.objective != ImageObjective::default() {
        return refused(
            "objective",
            "belongs to images with classes; here it is the difference to the patch",
        );
    }
    let UpscalerSettings::Search(search) = settings else { return Ok(()) };
    search.check()?;
    if recipe.start.is_some() {
        return refused("start", "belongs to a genotype: a search begins with new weights");
    }
    if recipe.training.rounds != 1 {
        return refused("training.rounds", "must be 1: a search learns weights alone at first, and once");
    }
    if !recipe.training.phases.iter().any(chooses) {
        return refused("training.phases", "none trains \"logits\": nothing would be chosen");
    }
    Ok(())
}

/// Whether a phase trains what chooses.
fn chooses(phase: &trimtab_train::Phase) -> bool {
    phase.trains("logits.0")
}

/// Share of the samples of a run before its first phase that chooses.
fn warm_up(settings: &Settings, items: usize) -> f64 {
    let before = settings.phases.iter().take_while(|phase| !chooses(phase)).cloned().collect();
    let first = Settings { phases: before, ..settings.clone() };
    first.samples(items) as f64 / settings.samples(items).max(1) as f64
}

pub(super) fn train(run: &Run<'_>, source: &PatchSource, monitor: &mut dyn Monitor) -> Result<Summary> {
    let recipe = run.recipe;
    let settings = run.need(&recipe.upscaler, "upscaler")?;
    check(recipe, settings)?;
    let task = match settings {
        UpscalerSettings::Search(search) => Task::Search(search.clone()),
        UpscalerSettings::Genotype(path) => Task::Train(read_genotype(&run.base.join(path))?),
    };
    let [train, test] = images::splits(&run.base.join(&source.path), [&source.train, &source.heldout])?;
    let size = [source.side, task.scale()];
    let data = Patches::new(train.clone(), size, Cut::Random, recipe.training.seed)?;
    let heldout = Patches::new(test.clone(), size, Cut::Middle, recipe.training.seed)?;
    let pixels = (train.pixels(0..train.len()), test.pixels(0..test.len()));
    match task {
        Task::Search(search) => {
            let data = data.in_halves()?;
            self::search(run, &search, [&data, &heldout], run.open(pixels)?, monitor)
        }
        Task::Train(genotype) => {
            // A genotype that was found anew is another run.
            let out = run.open((pixels, json!(genotype).to_string()))?;
            in_bits(run, &genotype, [&data, &heldout], out, monitor)
        }
    }
}

/// Searches, and writes what was found with its coefficients and all weights that were learned.
fn search(
    run: &Run<'_>,
    search: &QuantNas,
    [data, test]: [&Patches; 2],
    mut out: Output,
    monitor: &mut dyn Monitor,
) -> Result<Summary> {
    let settings = &run.recipe.training;
    let supernet = Supernet::new(search, run.recipe.seed, &run.device.clone().autodiff())?;
    let objective = Bilevel { warm_up: warm_up(settings, data.len()) };
    let mut trainer = Trainer::new(data, &objective, settings, run.device.clone());
    trainer.heldout = Some(test);
    let (outcome, measured) = run.go(&mut trainer, supernet, &out, "patches", monitor)?;
    let found = outcome.result().valid();
    let genotype = found.genotype();
    let params = write(&mut out, found.tensors())?;
    out.put_file(GENOTYPE, pretty(&json!(genotype)).as_bytes())?;
    out.put_file(COEFFICIENTS, pretty(&json!(found.told())).as_bytes())?;
    let summary = run.publish(out, outcome, measured, [params, data.len()])?;
    let (bit_ops, certainty) = (Some(genotype.bit_ops()?), Some(found.certainty()));
    Ok(Summary { bit_ops, certainty, ..summary })
}

/// Trains a network in its bits, and writes it.
fn in_bits(
    run: &Run<'_>,
    genotype: &Genotype,
    [data, test]: [&Patches; 2],
    mut out: Output,
    monitor: &mut dyn Monitor,
) -> Result<Summary> {
    let (recipe, device) = (run.recipe, run.device.clone().autodiff());
    let network = match &recipe.start {
        Some(path) => Upscaler::read(genotype, &Checkpoint::open(run.base.join(path))?, &device)?,
        None => Upscaler::of(genotype, recipe.seed, &device)?,
    };
    let mut trainer = Trainer::new(data, &Restore, &recipe.training, run.device.clone());
    trainer.heldout = Some(test);
    let (outcome, measured) = run.go(&mut trainer, network, &out, "patches", monitor)?;
    let trained = outcome.result().valid();
    let found = psnr(test, PATCHES, run.device, |small| trained.forward(small, &mut Ctx::default()))?;
    let params = write(&mut out, trained.tensors())?;
    out.put_file(GENOTYPE, pretty(&json!(genotype)).as_bytes())?;
    let summary = run.publish(out, outcome, measured, [params, data.len()])?;
    Ok(Summary { psnr: Some(found), bit_ops: Some(genotype.bit_ops()?), ..summary })
}

/// Writes tensors as they were measured; returns how many numbers.
fn write(out: &mut Output, named: Vec<(String, Vec<usize>, Vec<f32>)>) -> Result<usize> {
    let (mut params, mut tensors) = (0, Vec::new());
    for (name, shape, values) in named {
        params += values.len();
        tensors.push((name, RawTensor::from_f32(shape, &values, Dtype::F32)?));
    }
    Run::write_tensors(out, &tensors, &BTreeMap::new())?;
    Ok(params)
}
