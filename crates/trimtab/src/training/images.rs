//! Classifiers of images: crops and flips by item, mixing by batch, cross-entropy.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use trimtab_io::augment::{Augment, Image, Mixer, Normalize, Pipeline};
use trimtab_io::{ImageFolder, ImageSet};
use trimtab_math::random::Stream;
use trimtab_models::Normalization;
use trimtab_nn::{Ctx, Flow, Network};
use trimtab_train::objectives::{Classify, DecoupledMixup, ImageBatch, MixedLabel, Targets};
use trimtab_train::{BatchTransform, Dataset, Item, Trainer};

use super::{Run, Summary};
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

fn train_split() -> String {
    "train".into()
}

fn test_split() -> String {
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
}

impl ImageObjective {
    fn check(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.smoothing) {
            let message = format!("must lie in [0, 1), found {}", self.smoothing);
            return Err(Error::Setting { what: "objective.smoothing", message });
        }
        match self.decoupled.and_then(|decoupled| decoupled.problem()) {
            Some(message) => Err(Error::Setting { what: "objective.decoupled", message }),
            None => Ok(()),
        }
    }
}

/// Labelled images as a data set of the loop. What is drawn for an image depends on seed, pass and image alone.
pub struct Pictures {
    images: ImageSet,
    pipeline: Pipeline,
    seed: u64,
}

impl Pictures {
    /// Images that go through `pipeline`. Labels must lie below `classes`.
    ///
    /// # Errors
    /// [`Error::Setting`] for another label.
    pub fn new(images: ImageSet, pipeline: Pipeline, seed: u64, classes: usize) -> Result<Self> {
        match images.labels.iter().find(|&&label| label as usize >= classes) {
            Some(label) => {
                let message = format!("there is a label {label}, but the network has {classes} classes");
                Err(Error::Setting { what: "network.classes", message })
            }
            None => Ok(Self { images, pipeline, seed }),
        }
    }
}

impl Dataset for Pictures {
    type Batch = ImageBatch;

    fn len(&self) -> usize {
        self.images.len()
    }

    fn batch(&self, items: &[Item], device: &Device) -> trimtab_train::Result<ImageBatch> {
        let [_, c, h, w] = self.images.shape;
        let one = |item: &Item| {
            let pixels = self.images.pixels(item.index..item.index + 1).to_vec();
            let image = Image::new([c, h, w], pixels)?;
            self.pipeline.apply(image, self.seed, item.epoch, item.index as u64)
        };
        let images = items.par_iter().map(one).collect::<trimtab_io::Result<Vec<Image<f32>>>>()?;
        let targets =
            Targets::Classes(items.iter().map(|item| self.images.labels[item.index] as usize).collect());
        Ok(ImageBatch { images: tensor(images, device), targets })
    }
}

/// Images of one shape as `[B, C, H, W]`.
fn tensor(images: Vec<Image<f32>>, device: &Device) -> Tensor<4> {
    let [c, h, w] = images.first().map_or([0; 3], Image::shape);
    let n = images.len();
    let values: Vec<f32> = images.into_iter().flat_map(Image::into_pixels).collect();
    Tensor::from_data(TensorData::new(values, [n, c, h, w]), device)
}

/// Mixes the images of a batch with each other.
#[derive(Clone, Copy, Debug)]
pub struct Mix<'a>(pub &'a Mixer);

impl BatchTransform<ImageBatch> for Mix<'_> {
    fn apply(&self, batch: ImageBatch, stream: &mut Stream, _: f64) -> trimtab_train::Result<ImageBatch> {
        let Targets::Classes(classes) = &batch.targets else { return Ok(batch) };
        let ([_, c, h, w], device) = (batch.images.dims(), batch.images.device());
        let values: Vec<f32> = batch.images.into_data().iter::<f32>().collect();
        let images = values.chunks_exact(c * h * w).map(|image| Image::new([c, h, w], image.to_vec()));
        let images = images.collect::<trimtab_io::Result<Vec<_>>>()?;
        let labels: Vec<i64> = classes.iter().map(|&class| class as i64).collect();
        let mixed = self.0.apply(&images, &labels, stream)?;
        let pairs = mixed.first.iter().zip(&mixed.second).zip(&mixed.lambda);
        let label = |((&a, &b), &lambda): ((&i64, &i64), &f32)| MixedLabel {
            a: a as usize,
            b: b as usize,
            lambda: f64::from(lambda),
        };
        let targets = Targets::Mixed(pairs.map(label).collect());
        Ok(ImageBatch { images: tensor(mixed.images, &device), targets })
    }
}

/// Both splits of a source.
fn read(source: &ImageSource, base: &Path) -> Result<[ImageSet; 2]> {
    let path = base.join(&source.path);
    let split = |split: &str| -> Result<ImageSet> {
        Ok(match path.is_dir() {
            true => ImageFolder::open(path.join(split), None)?.read_all()?,
            false => ImageSet::read(&path, split)?,
        })
    };
    Ok([split(&source.train)?, split(&source.heldout)?])
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
    let [train, test] = read(source, run.base)?;
    for (set, split) in [(&train, &source.train), (&test, &source.heldout)] {
        if set.is_empty() {
            let message = format!("the split \"{split}\" of {} has no image", source.path.display());
            return Err(Error::Setting { what: "data.images", message });
        }
    }
    let mut out = run.open((&train.labels, &test.labels, train.pixels(0..train.len())))?;
    let normalize = Some(Normalize { mean: source.mean.clone(), std: source.std.clone() });
    let plain = Pipeline { augment: Vec::new(), normalize: normalize.clone() };
    let augmented = Pipeline { augment: source.augment.clone(), normalize };
    let seed = recipe.training.seed;
    let data = Pictures::new(train, augmented, seed, zoo.classes())?;
    let heldout = Pictures::new(test, plain, seed, zoo.classes())?;
    let colours = Normalization { mean: source.mean.clone(), std: source.std.clone() };
    let network = super::language::trainable(zoo.checkpoint(recipe.seed, &colours)?, run.device)?;
    let ImageObjective { smoothing, mix, decoupled } = &recipe.objective;
    let objective = Classify { logits, smoothing: *smoothing, decoupled: *decoupled };
    let mix = mix.as_ref().map(Mix);
    let mut trainer = Trainer::new(&data, &objective, &recipe.training, run.device.clone());
    trainer.heldout = Some(&heldout);
    trainer.transform = mix.as_ref().map(|mix| mix as &dyn BatchTransform<ImageBatch>);
    let (outcome, measured) = run.go(&mut trainer, network, &out, "images", monitor)?;
    let params = run.write(&mut out, outcome.result(), &zoo.metadata(&colours))?;
    run.publish(out, outcome, measured, [params, data.len()])
}
