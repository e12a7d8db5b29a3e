//! Batches of images, and the classification of them.

use burn::tensor::{Int, Tensor, TensorData, activation};
use trimtab_math::random::Stream;
use trimtab_nn::Ctx;

use super::decoupled_mixup::DecoupledMixup;
use crate::data::BatchTransform;
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
    /// What a teacher says of these images beside their targets, logits `[B, C]`; see [`Teach`].
    pub taught: Option<Tensor<2>>,
}

impl ImageBatch {
    /// Images that no teacher was asked about.
    pub fn new(images: Tensor<4>, targets: Targets) -> Self {
        Self { images, targets, taught: None }
    }
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

/// How much a network listens to a teacher beside the labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Listening {
    /// Share of the loss in `[0, 1]` that is the teacher's: the divergence from what it says, times the temperature squared, as the
    /// gradients shrink with that.
    pub share: f64,
    /// Temperature that both distributions are softened by, positive.
    pub temperature: f64,
}

impl Listening {
    /// What makes no sense, if anything.
    pub fn problem(&self) -> Option<String> {
        let Self { share, temperature } = self;
        if !(0.0..=1.0).contains(share) {
            return Some(format!("share must lie in [0, 1], found {share}"));
        }
        (!(*temperature > 0.0 && temperature.is_finite()))
            .then(|| format!("temperature must be positive, found {temperature}"))
    }
}

/// Asks a teacher about the images of every batch as the network sees them, mixed ones too (Hinton et al., arXiv:1503.02531).
pub struct Teach<'a, M, F> {
    /// The network that is asked, without gradients.
    pub teacher: &'a M,
    /// Its forward pass: logits `[B, C]`.
    pub logits: F,
    /// What is done to a batch before.
    pub before: Option<&'a dyn BatchTransform<ImageBatch>>,
}

impl<M: Sync, F> BatchTransform<ImageBatch> for Teach<'_, M, F>
where
    F: Fn(&M, Tensor<4>, &mut Ctx<'_>) -> trimtab_nn::Result<Tensor<2>> + Sync,
{
    fn apply(&self, batch: ImageBatch, stream: &mut Stream, progress: f64) -> Result<ImageBatch> {
        let batch = match self.before {
            Some(before) => before.apply(batch, stream, progress)?,
            None => batch,
        };
        let images = batch.images.clone().without_autodiff();
        let taught = (self.logits)(self.teacher, images, &mut Ctx::default())?;
        Ok(ImageBatch { taught: Some(taught), ..batch })
    }
}

/// Cross-entropy of the class; mixed images by the decoupled loss if there is one; beside them, of images that a teacher was asked about,
/// the divergence from it. The first field maps a model, images and a
/// context to logits `[B, C]`.
#[derive(Clone, Copy, Debug)]
pub struct Classify<F> {
    /// The forward pass.
    pub logits: F,
    /// Share of every label that is spread over all classes (Szegedy et al., arXiv:1512.00567).
    pub smoothing: f64,
    /// Added for mixed images.
    pub decoupled: Option<DecoupledMixup>,
    /// Of batches that a teacher was asked about, how much of the loss is that of its words.
    pub listening: Option<Listening>,
}

impl<F> Classify<F> {
    /// Plain cross-entropy.
    pub fn new(logits: F) -> Self {
        Self { logits, smoothing: 0.0, decoupled: None, listening: None }
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
            mean = decoupled.loss(logits.clone(), labels, mean);
        }
        if let (Some(Listening { share, temperature }), Some(teacher)) = (self.listening, &batch.taught) {
            let apart = softened_divergence(teacher.clone(), logits, temperature);
            mean = mean * (1.0 - share) + apart * (share * temperature.powi(2));
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
        Ok(Loss::new(softened_divergence((**teacher).clone(), logits, self.temperature), n))
    }
}

/// `KL(softmax(t / T) || softmax(s / T))` of logits `[B, C]`, the mean over the batch, nats.
fn softened_divergence(teacher: Tensor<2>, student: Tensor<2>, temperature: f64) -> Tensor<1> {
    let [n, _] = student.dims();
    let softened = |logits: Tensor<2>| activation::log_softmax(logits / temperature, 1);
    let (teacher, student) = (softened(teacher), softened(student));
    (teacher.clone().exp() * (teacher - student)).sum() / n as f64
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
    use trimtab_io::augment::Mixer;

    use super::*;
    use crate::pictures::Mix;

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
    fn a_listener_adds_the_divergence_from_its_teacher_to_what_the_labels_say() {
        let device = Device::flex();
        let tensor = |values: [[f32; 3]; 2]| Tensor::<2>::from_floats(values, &device);
        let (student, teacher) = ([[0.3, -1.0, 2.0], [0.0, 0.5, 0.1]], [[1.5, 0.2, -0.4], [0.0, 3.0, 1.0]]);
        let forward = |_: &(), _: Tensor<4>, _: &mut Ctx<'_>| Ok(tensor(student));
        let batch = |taught: bool| ImageBatch {
            taught: taught.then(|| tensor(teacher)),
            ..ImageBatch::new(Tensor::zeros([2, 1, 1, 1], &device), Targets::Classes(vec![2, 0]))
        };
        let loss = |share: f64, temperature: f64, taught: bool| {
            let listening = Some(Listening { share, temperature });
            let objective = Classify { listening, ..Classify::new(forward) };
            let mean = objective.loss(&(), &batch(taught), &mut Pass::default()).unwrap().mean;
            f64::from(mean.into_scalar::<f32>())
        };
        let softmax = |row: [f32; 3], temperature: f64| {
            let powers = row.map(|x| (f64::from(x) / temperature).exp());
            powers.map(|power| power / powers.iter().sum::<f64>())
        };
        let labels = -(softmax(student[0], 1.0)[2].ln() + softmax(student[1], 1.0)[0].ln()) / 2.0;
        for (share, temperature) in [(0.0, 3.0), (0.3, 1.0), (0.7, 4.0), (1.0, 2.0)] {
            let apart = |i: usize| -> f64 {
                let (t, s) = (softmax(teacher[i], temperature), softmax(student[i], temperature));
                t.iter().zip(s).map(|(t, s)| t * (t / s).ln()).sum()
            };
            let apart = temperature.powi(2) * (apart(0) + apart(1)) / 2.0;
            let expected = (1.0 - share) * labels + share * apart;
            let found = loss(share, temperature, true);
            assert!((found - expected).abs() < 1e-5, "{share} {temperature}: {found} {expected}");
            assert!(
                (loss(share, temperature, false) - labels).abs() < 1e-5,
                "without a teacher, labels alone"
            );
        }
    }

    #[test]
    fn a_teacher_sees_the_images_that_the_network_sees() {
        let device = Device::flex();
        let batch = || {
            let pixels: Vec<f32> = (0..3 * 16).map(|i| i as f32).collect();
            let images = Tensor::from_data(TensorData::new(pixels, [3, 1, 4, 4]), &device);
            ImageBatch::new(images, Targets::Classes(vec![0, 1, 2]))
        };
        let flat = |_: &(), images: Tensor<4>, _: &mut Ctx<'_>| Ok(images.reshape([3, 16]));
        let (mixer, stream) = (Mixer::Mixup { alpha: 1.0 }, || Stream::new(3, "mix", 0, 0));
        let mix = Mix(&mixer);
        let teach = Teach { teacher: &(), logits: flat, before: Some(&mix) };
        let mixed = teach.apply(batch(), &mut stream(), 0.0).unwrap();
        let numbers = |tensor: Tensor<2>| tensor.into_data().iter::<f32>().collect::<Vec<f32>>();
        let seen = numbers(mixed.images.clone().reshape([3, 16]));
        assert_eq!(numbers(mixed.taught.clone().unwrap()), seen);
        assert_ne!(numbers(batch().images.reshape([3, 16])), seen, "control: they are mixed");
        let error = mix.apply(mixed, &mut stream(), 0.0).unwrap_err().to_string();
        assert!(error.contains("objective.mix") && error.contains("before"), "{error}");
    }

    #[test]
    fn right_answers_are_counted() {
        let logits = Tensor::<2>::from_floats([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]], &Device::flex());
        assert_eq!(right(&logits, &[1, 0]), 2);
        assert_eq!(right(&logits, &[1, 2]), 1);
    }
}
