//! Images as items of the loop: crops and flips by item, mixing by batch.

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use trimtab_io::ImageSet;
use trimtab_io::augment::{Image, Mixer, Pipeline};
use trimtab_math::random::Stream;

use crate::data::{BatchTransform, Dataset};
use crate::distil::SoftLabels;
use crate::error::{Error, Result};
use crate::objectives::{ImageBatch, MixedLabel, Targets};
use crate::sampler::Item;

/// Labelled images as a data set of the loop. What is drawn for an image depends on seed, pass and image alone.
pub struct Pictures {
    images: ImageSet,
    pipeline: Pipeline,
    seed: u64,
    soft: Option<SoftLabels>,
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
                Err(Error::setting("network.classes", message))
            }
            None => Ok(Self { images, pipeline, seed, soft: None }),
        }
    }

    /// The same images with what a teacher says of them in place of their classes.
    ///
    /// # Errors
    /// [`Error::Setting`] if these are the labels of another number of images.
    pub fn with_soft_labels(self, labels: SoftLabels) -> Result<Self> {
        match labels.images() == self.images.len() {
            true => Ok(Self { soft: Some(labels), ..self }),
            false => {
                let message = format!("soft labels of {} images for {}", labels.images(), self.images.len());
                Err(Error::setting("data", message))
            }
        }
    }
}

impl Dataset for Pictures {
    type Batch = ImageBatch;

    fn len(&self) -> usize {
        self.images.len()
    }

    fn batch(&self, items: &[Item], device: &Device) -> Result<ImageBatch> {
        let [_, c, h, w] = self.images.shape;
        let one = |item: &Item| {
            let pixels = self.images.pixels(item.index..item.index + 1).to_vec();
            let image = Image::new([c, h, w], pixels)?;
            self.pipeline.apply(image, self.seed, item.epoch, item.index as u64)
        };
        let images = items.par_iter().map(one).collect::<trimtab_io::Result<Vec<Image<f32>>>>()?;
        let targets = match &self.soft {
            Some(labels) => Targets::Teacher(Box::new(labels.rows(items, device)?)),
            None => {
                Targets::Classes(items.iter().map(|item| self.images.labels[item.index] as usize).collect())
            }
        };
        Ok(ImageBatch::new(tensor(images, device), targets))
    }
}

/// Images of one shape as `[B, C, H, W]`.
fn tensor(images: Vec<Image<f32>>, device: &Device) -> Tensor<4> {
    let [c, h, w] = images.first().map_or([0; 3], Image::shape);
    let n = images.len();
    let values: Vec<f32> = images.into_iter().flat_map(Image::into_pixels).collect();
    Tensor::from_data(TensorData::new(values, [n, c, h, w]), device)
}

/// Mixes the images of a batch with each other, and their labels; a teacher's logits as targets are those of the mixed images already. What
/// was asked about the images as they were ([`Teach`](crate::objectives::Teach)) is refused.
#[derive(Clone, Copy, Debug)]
pub struct Mix<'a>(pub &'a Mixer);

impl BatchTransform<ImageBatch> for Mix<'_> {
    fn apply(&self, batch: ImageBatch, stream: &mut Stream, _: f64) -> Result<ImageBatch> {
        if batch.taught.is_some() {
            return Err(Error::setting("objective.mix", "comes after the teacher was asked; mix before"));
        }
        let labels: Vec<i64> = match &batch.targets {
            Targets::Classes(classes) => classes.iter().map(|&class| class as i64).collect(),
            Targets::Teacher(logits) => vec![0; logits.dims()[0]],
            Targets::Mixed(_) => return Ok(batch),
        };
        let ([_, c, h, w], device) = (batch.images.dims(), batch.images.device());
        let values: Vec<f32> = batch.images.into_data().iter::<f32>().collect();
        let images = values.chunks_exact(c * h * w).map(|image| Image::new([c, h, w], image.to_vec()));
        let images = images.collect::<trimtab_io::Result<Vec<_>>>()?;
        let mixed = self.0.apply(&images, &labels, stream)?;
        let pairs = mixed.first.iter().zip(&mixed.second).zip(&mixed.lambda);
        let label = |((&a, &b), &lambda): ((&i64, &i64), &f32)| MixedLabel {
            a: a as usize,
            b: b as usize,
            lambda: f64::from(lambda),
        };
        let targets = match batch.targets {
            Targets::Teacher(logits) => Targets::Teacher(logits),
            _ => Targets::Mixed(pairs.map(label).collect()),
        };
        Ok(ImageBatch::new(tensor(mixed.images, &device), targets))
    }
}
