//! A small data set made from a trained classifier of images alone.

use std::path::{Path, PathBuf};

use serde::Serialize;
use trimtab_io::augment::{Augment, HorizontalFlip, Mixer, Normalize, RandomResizedCrop};
use trimtab_models::Model;
use trimtab_train::distil::{DistilledSet, Recovery, Replay, SoftLabels};

use crate::error::{Error, Result};
use crate::memory;
use crate::monitor::Monitor;
use crate::training::metrics::{Metrics, metrics_of};

/// What is made, and for which training.
#[derive(Clone, Debug, PartialEq)]
pub struct Distillation {
    /// Height and width of the images.
    pub size: [usize; 2],
    /// How they are recovered.
    pub recovery: Recovery,
    /// Passes of the training that soft labels are stored for.
    pub epochs: usize,
    /// Images of a step of it.
    pub batch: usize,
    /// Seed of it.
    pub seed: u64,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Distilled {
    /// The file.
    pub output: PathBuf,
    /// What every step of the recovery said.
    pub metrics: PathBuf,
    /// Images.
    pub images: usize,
    /// Classes of the teacher.
    pub classes: usize,
    /// Passes that have soft labels.
    pub epochs: usize,
    /// Bytes of the images, one a colour.
    pub image_bytes: usize,
    /// Bytes of the soft labels, two a logit.
    pub label_bytes: usize,
}

/// Largest side of an image, and most images, steps or passes: what is larger is a slip of the hand.
const SIDE: usize = 1024;
const MOST: usize = 100_000;

impl Distillation {
    fn check(&self) -> Result<()> {
        let Recovery { images_per_class, iterations, block, .. } = self.recovery;
        let counts = [
            ("--size", self.size[0], SIDE),
            ("--size", self.size[1], SIDE),
            ("--images-per-class", images_per_class, MOST),
            ("--iterations", iterations, MOST),
            ("--block", block, MOST),
            ("--epochs", self.epochs, MOST),
            ("--batch", self.batch, MOST),
        ];
        match counts.into_iter().find(|(_, found, most)| !(1..=*most).contains(found)) {
            Some((what, found, most)) => {
                Err(Error::Setting { what, message: format!("must lie between 1 and {most}, found {found}") })
            }
            None => Ok(()),
        }
    }
}

/// Recovers images from `teacher`, asks it about each as each pass of a training will see it, and writes both to `output`.
///
/// # Errors
/// A teacher that is no classifier of images with batch norms; settings out of their ranges; [`Error::Interrupted`] after the
/// monitor asked to stop (nothing is kept); a file that cannot be written.
pub fn distil(
    teacher: &Model,
    how: &Distillation,
    output: &Path,
    force: bool,
    monitor: &mut dyn Monitor,
) -> Result<Distilled> {
    how.check()?;
    let colours = teacher.normalization()?;
    let normalize = Normalize { mean: colours.mean, std: colours.std };
    let network = teacher.network()?;
    let classes = classes(&network, &normalize, how.size, teacher)?;
    // The images as bytes and numbers, and a logit for each class in each pass.
    let images = (classes * how.recovery.images_per_class) as u64;
    let pixels = (normalize.mean.len() * how.size[0] * how.size[1]) as u64;
    memory::fits(images.saturating_mul(5 * pixels + 4 * (how.epochs * classes) as u64))?;
    let stopped = || Error::Interrupted { kept: "nothing".into() };
    // It cannot be taken up again, so the file begins anew.
    let path = metrics_of(output);
    let (mut metrics, _) = Metrics::resume(path.clone(), 0, force)?;
    monitor.begin("recover", images as usize * how.recovery.iterations);
    let mut watch = |step: &trimtab_train::distil::RecoveryStep| {
        metrics.push(&step.record);
        monitor.metrics(&step.record, "images");
        !monitor.interrupted() && !metrics.is_broken()
    };
    let images = how.recovery.run(&network, classes, how.size, &normalize, teacher.device(), &mut watch)?;
    metrics.sync()?;
    let images = images.ok_or_else(stopped)?;
    let mut augment = vec![Augment::RandomResizedCrop(RandomResizedCrop::new(how.size))];
    if how.recovery.flip {
        augment.push(Augment::HorizontalFlip(HorizontalFlip::default()));
    }
    let mix = Some(Mixer::CutMix { alpha: 1.0 });
    let replay = Replay { seed: how.seed, batch: how.batch, epochs: how.epochs, augment, mix, normalize };
    monitor.begin("label", (images.len() * how.epochs).div_ceil(how.batch.max(1)));
    let mut go_on = |done: usize, _: usize| {
        monitor.advance(done, "");
        !monitor.interrupted()
    };
    let labels = SoftLabels::of(&network, &images, &replay, teacher.device(), &mut go_on)?;
    let set = DistilledSet { images, labels: labels.ok_or_else(stopped)? };
    set.write(output)?;
    let [image_bytes, label_bytes] = set.bytes();
    let (images, epochs) = (set.images.len(), how.epochs);
    Ok(Distilled { output: output.into(), metrics: path, images, classes, epochs, image_bytes, label_bytes })
}

/// How many classes a network tells apart.
fn classes(
    network: &trimtab_nn::Network,
    colours: &Normalize,
    [h, w]: [usize; 2],
    teacher: &Model,
) -> Result<usize> {
    use burn::tensor::Tensor;
    use trimtab_nn::{Ctx, Flow};
    let image = Tensor::<4>::zeros([1, colours.mean.len(), h, w], teacher.device());
    let scores = network.forward(Flow::Image(image), &mut Ctx::default())?.vector("a classifier")?;
    Ok(scores.dims()[1])
}
