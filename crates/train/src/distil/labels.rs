//! What a teacher says of every image in every pass, stored.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use trimtab_io::augment::{Augment, Mixer, Normalize, Pipeline};
use trimtab_io::{Bytes, Checkpoint, Dtype, ImageSet, RawTensor, to_safetensors, write_atomic};
use trimtab_nn::{Ctx, Flow, Network};

use crate::ahead::Place;
use crate::data::BatchTransform;
use crate::error::{Error, Result};
use crate::objectives::ImageBatch;
use crate::pictures::{Mix, Pictures};
use crate::sampler::{Item, Sampler};
use crate::trainer::made;

/// Metadata key of the settings in the file.
const KEY: &str = "trimtab.distilled";

/// The training that labels are made for. Labels belong to images as they are augmented and mixed, so the run that uses them has to see
/// the same batches; all that is random follows from the seed and the position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// Seed of the training.
    pub seed: u64,
    /// Images of a step.
    pub batch: usize,
    /// Passes that labels are stored for.
    pub epochs: usize,
    /// Changes of single images.
    pub augment: Vec<Augment>,
    /// Two images in one.
    pub mix: Option<Mixer>,
    /// Mean and standard deviation of the colours.
    pub normalize: Normalize,
}

impl Replay {
    fn pipeline(&self) -> Pipeline {
        Pipeline { augment: self.augment.clone(), normalize: Some(self.normalize.clone()) }
    }

    fn check(&self) -> Result<()> {
        self.pipeline().check()?;
        self.mix.as_ref().map_or(Ok(()), Mixer::check)?;
        match self.batch > 0 && self.epochs > 0 {
            true => Ok(()),
            false => {
                Err(Error::setting("epochs", "labels are made for one image a step and one pass at least"))
            }
        }
    }
}

/// Logits of a teacher for each image in each pass, rounded to F16.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftLabels {
    replay: Replay,
    images: usize,
    classes: usize,
    /// `[epochs, images, classes]`.
    logits: Vec<f32>,
}

impl SoftLabels {
    /// What `teacher` (on `device`, without gradients) says of `images` in the training that `replay` describes. `go_on` hears how
    /// many of how many steps are done; `None` if it says no.
    ///
    /// # Errors
    /// [`Error::Setting`] for settings out of their ranges, and what the teacher refuses.
    pub fn of(
        teacher: &Network,
        images: &ImageSet,
        replay: &Replay,
        device: &Device,
        go_on: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Option<Self>> {
        replay.check()?;
        let n = images.len();
        let total = n * replay.epochs;
        let (mut logits, mut classes) = (Vec::new(), 0);
        let steps = total.div_ceil(replay.batch);
        for (step, batch) in batches(images, replay, device)?.enumerate() {
            let (items, batch) = batch?;
            let found = teacher.forward(Flow::Image(batch.images), &mut Ctx::default())?.vector("teacher")?;
            [_, classes] = found.dims();
            logits.resize(total * classes, 0.0);
            let found: Vec<f32> = found.into_data().iter::<f32>().collect();
            let found = RawTensor::from_f32(vec![found.len()], &found, Dtype::F16)?.to_f32()?;
            for (item, row) in items.iter().zip(found.chunks_exact(classes)) {
                let at = (item.epoch as usize * n + item.index) * classes;
                logits[at..at + classes].copy_from_slice(row);
            }
            if !go_on(step + 1, steps) {
                return Ok(None);
            }
        }
        Ok(Some(Self { replay: replay.clone(), images: n, classes, logits }))
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Classes that the teacher tells apart.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The training that they are made for.
    pub fn replay(&self) -> &Replay {
        &self.replay
    }

    /// The rows of these items, `[items, classes]`.
    ///
    /// # Errors
    /// [`Error::Setting`] for a pass without labels.
    pub fn rows(&self, items: &[Item], device: &Device) -> Result<Tensor<2>> {
        let mut values = Vec::with_capacity(items.len() * self.classes);
        for item in items {
            if item.epoch >= self.replay.epochs as u64 {
                let epochs = self.replay.epochs;
                let message = format!("a pass beyond the {epochs} that soft labels are stored for");
                return Err(Error::setting("epochs", message));
            }
            let at = (item.epoch as usize * self.images + item.index) * self.classes;
            values.extend_from_slice(&self.logits[at..at + self.classes]);
        }
        Ok(Tensor::from_data(TensorData::new(values, [items.len(), self.classes]), device))
    }
}

/// The batches that a run of one process sees, in order.
fn batches<'a>(
    images: &ImageSet,
    replay: &'a Replay,
    device: &'a Device,
) -> Result<impl Iterator<Item = Result<(Vec<Item>, ImageBatch)>> + 'a> {
    let n = images.len();
    let pictures = Pictures::new(images.clone(), replay.pipeline(), replay.seed, usize::MAX)?;
    let mut sampler = Sampler::new(n, replay.seed);
    let total = n * replay.epochs;
    let mix = replay.mix.as_ref().map(Mix);
    Ok((0..total.div_ceil(replay.batch)).map(move |step| {
        let first = step * replay.batch;
        let items = sampler.take(first as u64, replay.batch.min(total - first));
        let progress = first as f64 / total as f64;
        let place = Place { seed: replay.seed, step, pass: 0, progress };
        let transform = mix.as_ref().map(|mix| mix as &dyn BatchTransform<ImageBatch>);
        let batch = made(&pictures, &items, transform, place, device)?;
        Ok((items, batch))
    }))
}

/// Made images with what the teacher says of them: one safetensors file with `train.images`, `train.labels` and `train.logits`
/// (F16, `[epochs, images, classes]`).
#[derive(Clone, Debug)]
pub struct DistilledSet {
    /// The images and the classes that they were made for.
    pub images: ImageSet,
    /// What the teacher says.
    pub labels: SoftLabels,
}

impl DistilledSet {
    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let Self { images, labels } = self;
        let shape = vec![labels.replay.epochs, labels.images, labels.classes];
        let tensors = [
            (
                "train.images",
                RawTensor::new(
                    Dtype::U8,
                    images.shape.to_vec(),
                    images.pixels(0..images.len()).to_vec().into(),
                )?,
            ),
            (
                "train.labels",
                RawTensor::new(Dtype::I64, vec![images.len()], Bytes::from_numbers(images.labels.clone()))?,
            ),
            ("train.logits", RawTensor::from_f32(shape, &labels.logits, Dtype::F16)?),
        ];
        let tensors = tensors.map(|(name, tensor)| (name.to_string(), tensor));
        let settings = serde_json::to_string(&labels.replay)
            .map_err(|e| Error::setting("distilled set", e.to_string()))?;
        let metadata = BTreeMap::from([(KEY.to_string(), settings)]);
        Ok(write_atomic(path, &to_safetensors(&tensors, &metadata)?)?)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::State`]-like messages for a file of another kind, and those of reading.
    pub fn read(path: &Path) -> Result<Self> {
        let images = ImageSet::read(path, "train")?;
        let failed = |message: String| Error::setting(format!("{}", path.display()), message);
        let file = Checkpoint::open(path)?;
        let replay = file.metadata().get(KEY).ok_or_else(|| {
            failed(format!("no \"{KEY}\" in its metadata: `trimtab distil` makes sets with soft labels"))
        })?;
        let replay: Replay = serde_json::from_str(replay).map_err(|e| failed(e.to_string()))?;
        replay.check()?;
        let tensor = file.tensor("train.logits")?;
        let &[epochs, n, classes] = &tensor.shape[..] else {
            return Err(failed(format!(
                "\"train.logits\" has shape {:?}, expected 3 dimensions",
                tensor.shape
            )));
        };
        if [epochs, n] != [replay.epochs, images.len()]
            || classes == 0
            || images.shape[1] != replay.normalize.mean.len()
        {
            let (shape, found) = (&tensor.shape, images.shape);
            return Err(failed(format!(
                "logits {shape:?} and images {found:?} do not fit its {} passes",
                replay.epochs
            )));
        }
        let logits = tensor.to_f32()?;
        Ok(Self { images, labels: SoftLabels { replay, images: n, classes, logits } })
    }

    /// Bytes of the images (one a colour) and of the labels (two a logit): what the set costs.
    pub fn bytes(&self) -> [usize; 2] {
        [self.images.shape.iter().product(), 2 * self.labels.logits.len()]
    }
}
