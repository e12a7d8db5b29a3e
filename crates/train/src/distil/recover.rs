//! Images from noise that a teacher agrees with.

use std::time::Instant;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use serde::{Deserialize, Serialize};
use trimtab_io::ImageSet;
use trimtab_io::augment::Normalize;
use trimtab_math::random::Stream;
use trimtab_nn::{Ctx, Flow, Network, NormInput};

use super::curriculum::Curriculum;
use super::view::View;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::objective::{Loss, Objective, Pass};
use crate::observer::{Observer, StepRecord};
use crate::optimizer::OptimizerConfig;
use crate::sampler::Item;
use crate::schedule::Schedule;
use crate::settings::{Phase, Settings};
use crate::trainer::Trainer;

/// Added under the root of a norm, whose slope at 0 would be infinite.
const TINY: f64 = 1e-12;

/// How images are recovered from a teacher with batch norms: Adam on the images, against
/// `CE(teacher(view), class) + norm_weight * sum_k w_k (||var_k - running var_k|| + ||mean_k - running mean_k||)` over the norms,
/// one view for a whole block of images at every step. Defaults are those of the authors for images of 32 to 64 pixels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recovery {
    /// Images of each class.
    pub images_per_class: usize,
    /// Steps of a block.
    pub iterations: usize,
    /// Peak of the rate; it falls to 0 by half a cosine.
    pub rate: f64,
    /// Weight of the statistics. Their sum grows with the number of norms: a weight found on one network does not fit a deeper one.
    pub norm_weight: f64,
    /// Factor of the first norm's term, `w_1`; all others have 1.
    pub first_norm: f64,
    /// How the crops become smaller.
    pub curriculum: Curriculum,
    /// Share of the steps after which they are as small as they get; 0 leaves the curriculum out.
    pub milestone: f64,
    /// Least share of the area that a crop takes in the end.
    pub least_area: f64,
    /// Whether views may be mirrored. Digits and letters are not.
    pub flip: bool,
    /// Pixels that a view is shifted by at most, each way.
    pub shift: usize,
    /// Images that are recovered together; their statistics are compared with the stored ones, so there should be 64 or more.
    pub block: usize,
    /// Seed of the noise and of the views.
    pub seed: u64,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            images_per_class: 10,
            iterations: 1000,
            rate: 0.25,
            norm_weight: 0.01,
            first_norm: 10.0,
            curriculum: Curriculum::Cosine,
            milestone: 1.0,
            least_area: 0.08,
            flip: true,
            shift: 4,
            block: 100,
            seed: 0,
        }
    }
}

/// A step of a recovery.
#[derive(Clone, Debug)]
pub struct RecoveryStep {
    /// What the loop says of the step, its steps and samples counted over all blocks.
    pub record: StepRecord,
    /// Steps done of this block.
    pub step: usize,
    /// The block as it is now, `[B, C, H, W]`, normalized.
    pub images: Tensor<4>,
    /// Class of each of its images.
    pub classes: Vec<usize>,
}

impl Recovery {
    fn check(&self) -> Result<()> {
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let problem = match self {
            Self { images_per_class: 0, .. } => ("images_per_class", "must be at least 1".to_string()),
            Self { iterations: 0, .. } => ("iterations", "must be at least 1".into()),
            Self { block: 0 | 1, .. } => ("block", "must be at least 2: one image has no statistics".into()),
            Self { milestone, .. } if !share(*milestone) => {
                ("milestone", format!("a share, found {milestone}"))
            }
            Self { least_area, .. } if !share(*least_area) || *least_area == 0.0 => {
                ("least_area", format!("must lie in (0, 1], found {least_area}"))
            }
            Self { norm_weight: w, .. } | Self { first_norm: w, .. } if !(w.is_finite() && *w >= 0.0) => {
                ("norm_weight", format!("must be a number from 0, found {w}"))
            }
            _ => return Ok(()),
        };
        Err(Error::setting(problem.0, problem.1))
    }

    /// Recovers images of `size` for `classes` classes from a teacher that lies on `device` (without gradients). `watch` sees
    /// every step and says whether to go on; `None` if it did not.
    ///
    /// # Errors
    /// [`Error::Setting`] for settings out of their ranges and a teacher without batch norms, what the teacher refuses, and
    /// [`Error::Diverged`].
    pub fn run(
        &self,
        teacher: &Network,
        classes: usize,
        size: [usize; 2],
        colours: &Normalize,
        device: &Device,
        watch: &mut dyn FnMut(&RecoveryStep) -> bool,
    ) -> Result<Option<ImageSet>> {
        self.check()?;
        colours.check()?;
        let gradients = device.clone().autodiff();
        // The teacher takes part in the gradient, and none of its parameters has one.
        let teacher = teacher.clone().fork(&gradients).no_grad();
        let n = classes * self.images_per_class;
        let labels: Vec<usize> = (0..n).map(|i| i % classes).collect();
        let shape = [colours.mean.len(), size[0], size[1]];
        let (mut pixels, blocks, begun) = (Vec::new(), n.div_ceil(self.block), Instant::now());
        for (number, classes) in labels.chunks(self.block).enumerate() {
            let start =
                Canvas::noise([classes.len(), shape[0], shape[1], shape[2]], self.seed, number, &gradients);
            let objective = Agree { teacher: &teacher, how: self, block: number, classes, colours };
            let settings = self.settings(classes.len());
            let canvas = Positions(classes.len());
            let trainer = Trainer::new(&canvas, &objective, &settings, device.clone());
            let mut show = Show {
                steps: [number * self.iterations, blocks * self.iterations],
                samples: [number * self.block * self.iterations, n * self.iterations].map(|n| n as u64),
                begun,
                classes,
                watch,
                stopped: false,
            };
            let outcome = trainer.run(start, &mut show)?;
            if !outcome.finished || show.stopped {
                return Ok(None);
            }
            pixels.extend(bytes(outcome.module.images.val().without_autodiff(), colours));
        }
        let labels = labels.into_iter().map(|class| class as i64).collect();
        Ok(Some(ImageSet::new([n, shape[0], shape[1], shape[2]], labels, pixels)?))
    }

    /// One pass over the whole block is a step.
    fn settings(&self, batch: usize) -> Settings {
        let optimizer = OptimizerConfig::Adam { beta_1: 0.5, beta_2: 0.9, epsilon: 1e-8, weight_decay: 0.0 };
        let schedule = Schedule::Cosine { warmup: 0.0, floor: 0.0 };
        let phase = Phase { schedule, ..Phase::new(self.iterations, self.rate, optimizer) };
        // There is nothing to make ahead.
        Settings { seed: self.seed, prefetch: 0, ..Settings::new(batch, vec![phase]) }
    }
}

/// The images of a block as the parameters of a run.
#[derive(Module, Debug)]
struct Canvas {
    images: Param<Tensor<4>>,
}

impl Canvas {
    fn noise(shape: [usize; 4], seed: u64, block: usize, device: &Device) -> Self {
        let mut stream = Stream::new(seed, "distil/start", block as u64, 0);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
        Self { images: Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device)) }
    }
}

/// There is nothing to read: every step sees the whole block.
struct Positions(usize);

impl Dataset for Positions {
    type Batch = ();

    fn len(&self) -> usize {
        self.0
    }

    fn batch(&self, _: &[Item], _: &Device) -> Result<()> {
        Ok(())
    }
}

/// The loss of a block.
struct Agree<'a> {
    teacher: &'a Network,
    how: &'a Recovery,
    block: usize,
    classes: &'a [usize],
    colours: &'a Normalize,
}

impl Objective<Canvas, ()> for Agree<'_> {
    fn loss(&self, canvas: &Canvas, (): &(), pass: &mut Pass) -> Result<Loss> {
        let how = self.how;
        let images = canvas.images.val();
        let [n, _, h, w] = images.dims();
        let least = how.curriculum.least_area(pass.step, how.iterations, how.milestone, how.least_area);
        let mut stream = Stream::new(how.seed, "distil/view", pass.step as u64, self.block as u64);
        let view = View::draw([h, w], least, how.flip, how.shift, &mut stream);
        let mut seen = Vec::new();
        let mut ctx = Ctx { norm_inputs: Some(&mut seen), ..Ctx::default() };
        let logits = self.teacher.forward(Flow::Image(view.apply(images)), &mut ctx)?.vector("loss")?;
        if seen.is_empty() {
            return Err(Error::setting(
                "teacher",
                "has no batch norm, and so remembers no statistics of its data",
            ));
        }
        let labels: Vec<i64> = self.classes.iter().map(|&class| class as i64).collect();
        let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [n, 1]), &logits.device());
        let entropy = activation::log_softmax(logits, 1).gather(1, labels).mean().neg();
        Ok(Loss::new(entropy + apart(seen, how.first_norm) * how.norm_weight, n))
    }

    /// Colours stay those of images.
    fn project(&self, canvas: Canvas) -> Canvas {
        let Normalize { mean, std } = self.colours;
        let images = canvas.images.map(|images| {
            let tracked = images.is_require_grad();
            let images = images.without_autodiff();
            let [b, c, h, w] = images.dims();
            let limit = |value: &dyn Fn(usize) -> f32| {
                let values: Vec<f32> = (0..c).map(value).collect();
                let values = Tensor::<4>::from_data(TensorData::new(values, [1, c, 1, 1]), &images.device());
                values.expand([b, c, h, w])
            };
            let (low, high) = (limit(&|c| -mean[c] / std[c]), limit(&|c| (1.0 - mean[c]) / std[c]));
            let images = images.max_pair(low).min_pair(high);
            if tracked { images.autodiff().require_grad() } else { images }
        });
        Canvas { images }
    }
}

/// How far the statistics that norms see are from those that they remember, `[1]`.
fn apart(seen: Vec<NormInput>, first: f64) -> Tensor<1> {
    let norm = |difference: Tensor<1>| (difference.square().sum() + TINY).sqrt();
    let terms = seen.into_iter().enumerate().map(|(k, seen)| {
        let [mean, variance] = seen.of_batch();
        let term = norm(variance - seen.running_variance) + norm(mean - seen.running_mean);
        if k == 0 { term * first } else { term }
    });
    Tensor::cat(terms.collect(), 0).sum()
}

/// Normalized images as one byte a colour.
fn bytes(images: Tensor<4>, colours: &Normalize) -> Vec<u8> {
    let [_, c, h, w] = images.dims();
    let values: Vec<f32> = images.into_data().iter::<f32>().collect();
    let planes = values.chunks_exact(h * w).enumerate();
    let byte = |plane: usize, value: f32| {
        let channel = plane % c;
        ((value * colours.std[channel] + colours.mean[channel]) * 255.0).round().clamp(0.0, 255.0) as u8
    };
    planes.flat_map(|(plane, values)| values.iter().map(move |&value| byte(plane, value))).collect()
}

struct Show<'a> {
    /// Steps of earlier blocks, and of all.
    steps: [usize; 2],
    /// The same in images.
    samples: [u64; 2],
    /// When the first block began.
    begun: Instant,
    classes: &'a [usize],
    watch: &'a mut dyn FnMut(&RecoveryStep) -> bool,
    stopped: bool,
}

impl Observer<Canvas> for Show<'_> {
    fn step(&mut self, record: &StepRecord, canvas: &Canvas) {
        let (samples, total) = (self.samples[0] + record.samples, self.samples[1]);
        let pace = self.begun.elapsed().as_secs_f64() / samples as f64;
        let over_all = StepRecord {
            step: self.steps[0] + record.step,
            steps: Some(self.steps[1] as u64),
            samples,
            total,
            seconds_left: pace * total.saturating_sub(samples) as f64,
            ..record.clone()
        };
        let step = RecoveryStep {
            record: over_all,
            step: record.step,
            images: canvas.images.val().without_autodiff(),
            classes: self.classes.to_vec(),
        };
        self.stopped |= !(self.watch)(&step);
    }

    fn interrupted(&self) -> bool {
        self.stopped
    }
}

/// Loss and slope at these images of `shape`, for tests.
#[cfg(test)]
pub(super) fn objective(
    how: &Recovery,
    teacher: &Network,
    classes: &[usize],
    colours: &Normalize,
    values: &[f32],
    shape: [usize; 4],
    step: usize,
) -> (f32, Vec<f32>) {
    let device = Device::flex().autodiff();
    let images = Param::from_tensor(Tensor::<4>::from_data(TensorData::new(values.to_vec(), shape), &device));
    let canvas = Canvas { images };
    let agree = Agree { teacher, how, block: 0, classes, colours };
    let loss = agree.loss(&canvas, &(), &mut Pass { step, training: true, ..Pass::default() }).unwrap().mean;
    let gradients = loss.backward();
    let slope = canvas.images.val().grad(&gradients).unwrap().into_data().iter::<f32>().collect();
    (loss.into_scalar::<f32>(), slope)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    /// Of two channels, two pixels each, mean and variance; then what is stored.
    fn seen(values: [Tensor<1>; 4]) -> NormInput {
        let [mean, variance, running_mean, running_variance] = values;
        let pixel = |side: f64| (mean.clone() + variance.clone().sqrt() * side).reshape([1, 2, 1, 1]);
        let input = Tensor::cat(vec![pixel(1.0), pixel(-1.0)], 3);
        NormInput { norm: "bn".into(), input, running_mean, running_variance }
    }

    #[test]
    fn equal_statistics_cost_nothing_and_others_their_distance() {
        let device = Device::flex();
        let tensor = |values: [f32; 2]| Tensor::<1>::from_data(TensorData::from(values), &device);
        let same = || seen([tensor([1.0, 2.0]), tensor([3.0, 4.0]), tensor([1.0, 2.0]), tensor([3.0, 4.0])]);
        let cost = |all: Vec<NormInput>| f64::from(apart(all, 10.0).into_scalar::<f32>());
        assert!(cost(vec![same(), same()]) < 1e-4);
        let other = || seen([tensor([4.0, 6.0]), tensor([3.0, 4.0]), tensor([1.0, 2.0]), tensor([3.0, 5.0])]);
        // ||(3, 4)|| + ||(0, 1)|| = 6, ten times where it is the first.
        assert!((cost(vec![same(), other()]) - 6.0).abs() < 1e-4);
        assert!((cost(vec![other(), same()]) - 60.0).abs() < 1e-3);
    }

    #[test]
    fn colours_stay_in_range_and_come_back_as_bytes() {
        let device = Device::flex();
        let colours = Normalize { mean: vec![0.5, 0.25], std: vec![0.25, 0.5] };
        // Bytes 0, 255; 0, 255 as they are normalized, and one beyond each.
        let values = vec![-2.0, 2.0, -0.5, 1.5];
        let image = Tensor::<4>::from_data(TensorData::new(values, [1, 2, 1, 2]), &device);
        assert_eq!(bytes(image, &colours), [0, 255, 0, 255]);
        let how = Recovery::default();
        let teacher = Network::new(Vec::new(), None, 0);
        let agree = Agree { teacher: &teacher, how: &how, block: 0, classes: &[0], colours: &colours };
        let wild =
            Tensor::<4>::from_data(TensorData::new(vec![-3.0, 9.0, -0.75, 1.0], [1, 2, 1, 2]), &device);
        let tamed = agree.project(Canvas { images: Param::from_tensor(wild) });
        assert_eq!(numbers(tamed.images.val()), [-2.0, 2.0, -0.5, 1.0]);
    }
}
