//! Batches of images, and the classification of them.

use burn::tensor::{Int, Tensor, TensorData, activation};
use trimtab_nn::Ctx;

use super::decoupled_mixup::DecoupledMixup;
use crate::error::Result;
use crate::objective::{Loss, Objective, Pass};

/// The label of an image that is made of two: `lambda` of class `a`, the rest of class `b`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MixedLabel {
    /// Class of the first image.
    pub a: usize,
    /// Class of the second.
    pub b: usize,
    /// Share of the first.
    pub lambda: f64,
}

/// What the images of a batch are to be taken for.
#[derive(Clone, Debug)]
pub enum Targets {
    /// One class each.
    Classes(Vec<usize>),
    /// Two classes each.
    Mixed(Vec<MixedLabel>),
    /// What a teacher says, logits `[B, C]`.
    Teacher(Box<Tensor<2>>),
}

impl Targets {
    /// As distributions over `classes`, `[B, C]`; `smoothing` of each is spread evenly.
    pub fn distributions(&self, classes: usize, smoothing: f64, device: &burn::tensor::Device) -> Tensor<2> {
        let rows = |n: usize, parts: &dyn Fn(usize) -> [(usize, f64); 2]| {
            let mut values = vec![(smoothing / classes as f64) as f32; n * classes];
            for i in 0..n {
                for (class, share) in parts(i) {
                    values[i * classes + class] += (share * (1.0 - smoothing)) as f32;
                }
            }
            Tensor::from_data(TensorData::new(values, [n, classes]), device)
        };
        match self {
            Self::Classes(classes) => rows(classes.len(), &|i| [(classes[i], 1.0), (classes[i], 0.0)]),
            Self::Mixed(all) => {
                rows(all.len(), &|i| [(all[i].a, all[i].lambda), (all[i].b, 1.0 - all[i].lambda)])
            }
            Self::Teacher(logits) => {
                activation::softmax((**logits).clone(), 1) * (1.0 - smoothing) + smoothing / classes as f64
            }
        }
    }

    /// The class of each image, where it has one.
    fn classes(&self) -> Option<&[usize]> {
        match self {
            Self::Classes(classes) => Some(classes),
            _ => None,
        }
    }
}

/// Images and their labels.
#[derive(Clone, Debug)]
pub struct ImageBatch {
    /// `[B, C, H, W]`, normalized.
    pub images: Tensor<4>,
    /// One for each image.
    pub targets: Targets,
}

/// Two views of the same images.
#[derive(Clone, Debug)]
pub struct ViewBatch {
    /// `[B, C, H, W]`, normalized.
    pub first: Tensor<4>,
    /// The other view of each.
    pub second: Tensor<4>,
}

/// Mean cross-entropy with distributions as targets, `[N, C]` each; nats.
pub fn soft_cross_entropy(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    let [n, _] = logits.dims();
    (activation::log_softmax(logits, 1) * targets).sum().neg() / n as f64
}

/// Cross-entropy of the class; mixed images by the decoupled loss if there is one. The first field maps a model, images and a
/// context to logits `[B, C]`.
#[derive(Clone, Copy, Debug)]
pub struct Classify<F> {
    /// The forward pass.
    pub logits: F,
    /// Share of every label that is spread over all classes (Szegedy et al., arXiv:1512.00567).
    pub smoothing: f64,
    /// Added for mixed images.
    pub decoupled: Option<DecoupledMixup>,
}

impl<F> Classify<F> {
    /// Plain cross-entropy.
    pub fn new(logits: F) -> Self {
        Self { logits, smoothing: 0.0, decoupled: None }
    }
}

impl<M, F> Objective<M, ImageBatch> for Classify<F>
where
    F: Fn(&M, Tensor<4>, &mut Ctx<'_>) -> trimtab_nn::Result<Tensor<2>>,
{
    fn loss(&self, model: &M, batch: &ImageBatch, pass: &mut Pass) -> Result<Loss> {
        let logits = (self.logits)(model, batch.images.clone(), &mut pass.ctx())?;
        let [n, classes] = logits.dims();
        let targets = batch.targets.distributions(classes, self.smoothing, &logits.device());
        let correct = batch.targets.classes().map(|classes| right(&logits, classes));
        let mut mean = soft_cross_entropy(logits.clone(), targets);
        if let (Some(decoupled), Targets::Mixed(labels)) = (&self.decoupled, &batch.targets) {
            mean = decoupled.loss(logits, labels, mean);
        }
        Ok(Loss { mean, terms: n, correct })
    }
}

/// The distribution of a teacher over the classes, softened: `KL(softmax(t / T) || softmax(s / T))`, the mean over the batch, in
/// nats and without a factor of `T^2`. What has classes and no teacher's logits (held-out images) is classified.
#[derive(Clone, Copy, Debug)]
pub struct Imitate<F> {
    /// The forward pass.
    pub logits: F,
    /// Temperature, positive.
    pub temperature: f64,
}

impl<M, F> Objective<M, ImageBatch> for Imitate<F>
where
    F: Fn(&M, Tensor<4>, &mut Ctx<'_>) -> trimtab_nn::Result<Tensor<2>>,
{
    fn loss(&self, model: &M, batch: &ImageBatch, pass: &mut Pass) -> Result<Loss> {
        let Targets::Teacher(teacher) = &batch.targets else {
            return Classify::new(&self.logits).loss(model, batch, pass);
        };
        let logits = (self.logits)(model, batch.images.clone(), &mut pass.ctx())?;
        let [n, _] = logits.dims();
        let softened = |logits: Tensor<2>| activation::log_softmax(logits / self.temperature, 1);
        let (teacher, student) = (softened((**teacher).clone()), softened(logits));
        let mean = (teacher.clone().exp() * (teacher - student)).sum() / n as f64;
        Ok(Loss::new(mean, n))
    }
}

/// How many rows have their largest entry at the class.
fn right(logits: &Tensor<2>, classes: &[usize]) -> usize {
    let guesses: Tensor<2, Int> = logits.clone().without_autodiff().argmax(1);
    let guesses = guesses.into_data();
    guesses.iter::<i64>().zip(classes).filter(|(guess, class)| *guess == **class as i64).count()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn targets_are_distributions() {
        let device = Device::flex();
        let numbers = |targets: Targets, smoothing| -> Vec<f32> {
            targets.distributions(4, smoothing, &device).into_data().iter::<f32>().collect()
        };
        assert_eq!(numbers(Targets::Classes(vec![2]), 0.0), [0.0, 0.0, 1.0, 0.0]);
        assert_eq!(numbers(Targets::Classes(vec![2]), 0.2), [0.05, 0.05, 0.85, 0.05]);
        let mixed = MixedLabel { a: 0, b: 3, lambda: 0.75 };
        assert_eq!(numbers(Targets::Mixed(vec![mixed]), 0.0), [0.75, 0.0, 0.0, 0.25]);
        let same = MixedLabel { a: 1, b: 1, lambda: 0.75 };
        assert_eq!(numbers(Targets::Mixed(vec![same]), 0.0), [0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn right_answers_are_counted() {
        let logits = Tensor::<2>::from_floats([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]], &Device::flex());
        assert_eq!(right(&logits, &[1, 0]), 2);
        assert_eq!(right(&logits, &[1, 2]), 1);
    }
}
