//! Classifiers of images: crops and flips by item, mixing by batch, cross-entropy.

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use trimtab_io::augment::{Augment, Mixer, Normalize, Pipeline};
use trimtab_io::{Checkpoint, ImageFolder, ImageSet};
use trimtab_models::{Model, Normalization, Zoo};
use trimtab_nn::{Ctx, Flow, Network};
use trimtab_train::distil::{DistilledSet, Replay};
use trimtab_train::objectives::{Classify, DecoupledMixup, ImageBatch, Imitate, Listening, Teach};
use trimtab_train::{BatchSize, BatchTransform, Dataset, Mix, Objective, Pictures, Settings, Trainer};

use super::{Output, Run, Summary, quantized};
use crate::error::{Error, Result};
use crate::monitor::Monitor;

/// Where images come from, and what is done to them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSource {
    /// A safetensors file with `SPLIT.images` and `SPLIT.labels`, or a folder `SPLIT/CLASS/IMAGE`; relative to the recipe.
    pub path: PathBuf,
    /// The split that is trained on.
    #[serde(default = "train_split")]
    pub train: String,
    /// The split that is measured on.
    #[serde(default = "test_split")]
    pub heldout: String,
    /// Mean of each colour, in `[0, 1]`.
    pub mean: Vec<f32>,
    /// Standard deviation of each colour.
    pub std: Vec<f32>,
    /// Changes of single images that are trained on, in order.
    #[serde(default)]
    pub augment: Vec<Augment>,
}

/// A made data set, and real images to measure on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistilledSource {
    /// What `trimtab distil` wrote; relative to the recipe.
    pub path: PathBuf,
    /// A safetensors file with `SPLIT.images` and `SPLIT.labels` to measure on.
    pub heldout: PathBuf,
    /// Its split.
    #[serde(default = "test_split")]
    pub split: String,
    /// Temperature that the words of the teacher and of the student are softened by.
    #[serde(default = "warm")]
    pub temperature: f64,
}

fn warm() -> f64 {
    20.0
}

pub(super) fn train_split() -> String {
    "train".into()
}

pub(super) fn test_split() -> String {
    "test".into()
}

/// What is minimized.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageObjective {
    /// Share of every label that is spread over all classes.
    pub smoothing: f64,
    /// Two images in one.
    pub mix: Option<Mixer>,
    /// Added for mixed images.
    pub decoupled: Option<DecoupledMixup>,
    /// A network that is listened to beside the labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherSource>,
}

/// A trained network of the same classes, asked about every image as it is trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherSource {
    /// Its checkpoint, relative to the recipe; by default what the run starts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Share of the loss that is the divergence from what it says; the rest is that of the labels.
    #[serde(default = "half")]
    pub share: f64,
    /// Temperature that its words and those of the network are softened by.
    #[serde(default = "one")]
    pub temperature: f64,
}

fn half() -> f64 {
    0.5
}

fn one() -> f64 {
    1.0
}

impl TeacherSource {
    fn listening(&self) -> Listening {
        Listening { share: self.share, temperature: self.temperature }
    }

    /// The teacher, which must tell as many classes apart and see the same colours.
    fn open(
        &self,
        run: &Run<'_>,
        classes: usize,
        colours: &Normalization,
        image: [usize; 3],
    ) -> Result<Network> {
        let refused = |message: String| Error::Setting { what: "objective.teacher", message };
        let path = run.recipe.teacher().ok_or_else(|| {
            refused("has no path, and the run starts from no checkpoint\nhint: path = \"MODEL\"".into())
        })?;
        // Errors of files name them; what is found of a network does not.
        let wrong = |message: String| refused(format!("{}: {message}", path.display()));
        let checkpoint = Checkpoint::open(run.base.join(path)).map_err(|error| refused(error.to_string()))?;
        let teacher = Model::from_checkpoint(checkpoint, None, run.device.clone())
            .map_err(|error| refused(error.to_string()))?;
        let own = teacher.normalization().map_err(|error| refused(error.to_string()))?;
        if own != *colours {
            let Normalization { mean, std } = own;
            return Err(wrong(format!(
                "it sees colours by mean {mean:?} and std {std:?}, the data have mean {:?} and std {:?}",
                colours.mean, colours.std
            )));
        }
        let network = teacher.network().map_err(|error| refused(error.to_string()))?;
        let [c, h, w] = image;
        let said = logits(&network, Tensor::zeros([1, c, h, w], run.device), &mut Ctx::default());
        let [_, found] = said.map_err(|error| wrong(error.to_string()))?.dims();
        match found == classes {
            true => Ok(network),
            false => Err(wrong(format!("it tells {found} classes apart, the network {classes}"))),
        }
    }
}

impl ImageObjective {
    fn check(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.smoothing) {
            let message = format!("must lie in [0, 1), found {}", self.smoothing);
            return Err(Error::Setting { what: "objective.smoothing", message });
        }
        if let Some(message) = self.decoupled.and_then(|decoupled| decoupled.problem()) {
            return Err(Error::Setting { what: "objective.decoupled", message });
        }
        match self.teacher.as_ref().and_then(|teacher| teacher.listening().problem()) {
            Some(message) => Err(Error::Setting { what: "objective.teacher", message }),
            None => Ok(()),
        }
    }
}

/// Both splits of a file or folder.
pub(super) fn splits(path: &Path, names: [&str; 2]) -> Result<[ImageSet; 2]> {
    let split = |split: &str| -> Result<ImageSet> {
        Ok(match path.is_dir() {
            true => ImageFolder::open(path.join(split), None)?.read_all()?,
            false => ImageSet::read(path, split)?,
        })
    };
    let [train, heldout] = names;
    Ok([split(train)?, split(heldout)?])
}

/// What a classifier says of images `[B, C, H, W]`: `[B, classes]`.
///
/// # Errors
/// Those of the network, and one that does not end with vectors.
pub fn logits(model: &Network, images: Tensor<4>, ctx: &mut Ctx<'_>) -> trimtab_nn::Result<Tensor<2>> {
    model.forward(Flow::Image(images), ctx)?.vector("loss")
}

pub(super) fn train(run: &Run<'_>, source: &ImageSource, monitor: &mut dyn Monitor) -> Result<Summary> {
    let recipe = run.recipe;
    let zoo = run.need(&recipe.network, "network")?;
    recipe.objective.check()?;
    recipe.quantization.as_ref().map_or(Ok(()), |settings| settings.check(recipe))?;
    let [train, test] = splits(&run.base.join(&source.path), [&source.train, &source.heldout])?;
    for (set, split) in [(&train, &source.train), (&test, &source.heldout)] {
        if set.is_empty() {
            let message = format!("the split \"{split}\" of {} has no image", source.path.display());
            return Err(Error::Setting { what: "data.images", message });
        }
    }
    let colours = Normalization { mean: source.mean.clone(), std: source.std.clone() };
    let [_, c, h, w] = train.shape;
    let teacher = recipe.objective.teacher.as_ref();
    let listening = teacher.map(TeacherSource::listening);
    let teacher = teacher.map(|teacher| teacher.open(run, zoo.classes(), &colours, [c, h, w])).transpose()?;
    let out = run.open((&train.labels, &test.labels, train.pixels(0..train.len())))?;
    let normalize = Some(Normalize { mean: source.mean.clone(), std: source.std.clone() });
    let plain = Pipeline { augment: Vec::new(), normalize: normalize.clone() };
    let augmented = Pipeline { augment: source.augment.clone(), normalize };
    let seed = recipe.training.seed;
    let data = Pictures::new(train, augmented, seed, zoo.classes())?;
    let heldout = Pictures::new(test, plain, seed, zoo.classes())?;
    let ImageObjective { smoothing, mix, decoupled, .. } = &recipe.objective;
    let objective = Classify { logits, smoothing: *smoothing, decoupled: *decoupled, listening };
    let mix = mix.as_ref().map(Mix);
    let mix = mix.as_ref().map(|mix| mix as &dyn BatchTransform<ImageBatch>);
    let teach = teacher.as_ref().map(|teacher| Teach { teacher, logits, before: mix });
    let transform = teach.as_ref().map_or(mix, |teach| Some(teach));
    go(run, zoo, &colours, [&data, &heldout], &objective, transform, out, monitor)
}

/// Trains on images that `trimtab distil` made: exactly the batches that their soft labels belong to.
pub(super) fn train_distilled(
    run: &Run<'_>,
    source: &DistilledSource,
    monitor: &mut dyn Monitor,
) -> Result<Summary> {
    let recipe = run.recipe;
    let zoo = run.need(&recipe.network, "network")?;
    if recipe.quantization.is_some() {
        let message = "belongs to images with classes".into();
        return Err(Error::Setting { what: "quantization", message });
    }
    if recipe.objective != ImageObjective::default() {
        let message =
            "belongs to images with classes; a teacher's words are all that is minimized here".into();
        return Err(Error::Setting { what: "objective", message });
    }
    let path = run.base.join(&source.path);
    let DistilledSet { images, labels } = DistilledSet::read(&path)?;
    let test = ImageSet::read(run.base.join(&source.heldout), &source.split)?;
    let replay = labels.replay().clone();
    let differs = |what: &'static str, message: String| Err(Error::Setting { what, message });
    if labels.classes() != zoo.classes() {
        return differs("network.classes", format!("the teacher tells {} classes apart", labels.classes()));
    }
    if recipe.training.seed != replay.seed {
        return differs("training.seed", format!("the soft labels were made for seed {}", replay.seed));
    }
    if recipe.training.batch != BatchSize::Fixed(replay.batch) || recipe.training.micro_batch.is_some() {
        return differs(
            "training.batch",
            format!("the soft labels were made for whole steps of {}", replay.batch),
        );
    }
    same_mixtures(&recipe.training, run.workers.borrow().size(), &replay, images.len())?;
    if !(source.temperature > 0.0 && source.temperature.is_finite()) {
        return differs(
            "data.distilled.temperature",
            format!("must be positive, found {}", source.temperature),
        );
    }
    let out = run.open((&images.labels, &test.labels, images.pixels(0..images.len())))?;
    let normalize = Some(replay.normalize.clone());
    let augmented = Pipeline { augment: replay.augment.clone(), normalize: normalize.clone() };
    let data = Pictures::new(images, augmented, replay.seed, zoo.classes())?.with_soft_labels(labels)?;
    let plain = Pipeline { augment: Vec::new(), normalize };
    let heldout = Pictures::new(test, plain, replay.seed, zoo.classes())?;
    let Normalize { mean, std } = replay.normalize;
    let objective = Imitate { logits, temperature: source.temperature };
    let colours = Normalization { mean, std };
    let mix = replay.mix.as_ref().map(Mix);
    let mix = mix.as_ref().map(|mix| mix as &dyn BatchTransform<ImageBatch>);
    go(run, zoo, &colours, [&data, &heldout], &objective, mix, out, monitor)
}

/// Refuses steps that soft labels of mixtures were not made for: who is mixed with whom is drawn by step and process.
fn same_mixtures(training: &Settings, processes: usize, replay: &Replay, images: usize) -> Result<()> {
    if replay.mix.is_none() {
        return Ok(());
    }
    if processes > 1 {
        let message = format!(
            "the soft labels were made for one process, found {processes}\nhint: start the training without mpirun"
        );
        return Err(Error::Setting { what: "data.distilled", message });
    }
    // A step may be cut where those of the labels end, and nowhere before.
    let (batch, total) = (replay.batch as u64, (images * replay.epochs) as u64);
    let cuts = |end: &u64| *end < total && !end.is_multiple_of(batch);
    if let Some((number, end)) = training.phase_ends(images).enumerate().find(|(_, end)| cuts(end)) {
        let name = &training.phases[number % training.phases.len()].name;
        let message = format!(
            "phase \"{name}\" ends after {end} images, within a step of the {batch} that the soft labels were made for\nhint: give it a length that is a multiple of the batch, or the whole run the {} passes of the labels",
            replay.epochs
        );
        return Err(Error::Setting { what: "training.phases", message });
    }
    Ok(())
}

/// The network to begin with: a checkpoint, or new weights.
fn start(run: &Run<'_>, zoo: &Zoo, colours: &Normalization) -> Result<Network> {
    let new = zoo.checkpoint(run.recipe.seed, colours)?;
    let Some(path) = &run.recipe.start else { return super::language::trainable(new, run.device) };
    let start = Checkpoint::open(run.base.join(path))?;
    for name in new.names() {
        let found = start.info(name).map(|info| &info.shape);
        if found != new.info(name).map(|info| &info.shape) {
            let message = format!("{} has no tensor \"{name}\" of the shape of this network", path.display());
            return Err(Error::Setting { what: "start", message });
        }
    }
    super::language::trainable(start, run.device)
}

/// Trains a network of the zoo and writes it.
#[allow(clippy::too_many_arguments)]
fn go(
    run: &Run<'_>,
    zoo: &Zoo,
    colours: &Normalization,
    [data, heldout]: [&Pictures; 2],
    objective: &impl Objective<Network, ImageBatch>,
    transform: Option<&dyn BatchTransform<ImageBatch>>,
    mut out: Output,
    monitor: &mut dyn Monitor,
) -> Result<Summary> {
    let network = start(run, zoo, colours)?;
    if let Some(settings) = &run.recipe.quantization {
        let job = quantized::Job { run, zoo, colours, data: [data, heldout], transform };
        return job.train(network, settings, objective, out, monitor);
    }
    let mut trainer = Trainer::new(data, objective, &run.recipe.training, run.device.clone());
    trainer.heldout = Some(heldout);
    trainer.transform = transform;
    let (outcome, measured) = run.go(&mut trainer, network, &out, "images", monitor)?;
    let params = run.write(&mut out, outcome.result(), &zoo.metadata(colours))?;
    if let Some(config) = zoo.config()? {
        out.put_file("config.json", format!("{config:#}\n").as_bytes())?;
    }
    run.publish(out, outcome, measured, [params, data.len()])
}
