//! Block reconstruction: a few numbers of a block are trained until it gives what another block gives.
//!
//! Methods bring [`Part`]s: numbers of their own (steps and zeros of frozen codes, a low-rank branch, clipping bounds) and how these
//! become tensors of the block. The trainer knows nothing else of them. The loss is the squared difference of the outputs, averaged
//! over rows by their weights and over channels; the optimizer is Adam. Some samples are held out: what is returned are the numbers
//! of the pass that was best on those, rounded as they will be stored, or the numbers at the start if no pass was better.
//!
//! Samples, and not batches, make a step, in an order drawn anew for each pass: the same bytes at any number of threads. What a
//! sample is to give is computed once and kept for the later passes.

use std::cell::RefCell;
use std::ops::Range;

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use trimtab_math::adam::Adam;
use trimtab_math::random::Stream;
use trimtab_nn::{Ctx, Flow, HeldMut, LayerMut, Stage, Weight, host};

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::store::HiddenStore;
use crate::stream::StreamSettings;

/// Something of a block that is trained.
pub trait Part {
    /// The numbers at the start, a vector for each tensor that is trained.
    fn start(&self) -> Vec<Vec<f32>>;

    /// Numbers as they will be stored: rounded to the type that they have in the file.
    fn stored(&self, values: Vec<Vec<f32>>) -> Vec<Vec<f32>>;

    /// Puts what `values` stand for, in the order of [`Part::start`], into the block. Gradients flow through whatever is made of them.
    ///
    /// # Errors
    /// A layer that the block does not have.
    fn install(&self, values: &[Tensor<1>], block: &mut dyn Stage) -> Result<()>;
}

/// Numbers that are trained, and what comes out with them: the parts of a block, or a single layer.
pub trait Trainee {
    /// The numbers at the start, a vector for each tensor that is trained.
    fn start(&self) -> Vec<Vec<f32>>;

    /// Rates of these vectors, in parts of [`ReconstructSettings::rate`].
    fn rates(&self) -> Vec<f64> {
        vec![1.0; self.start().len()]
    }

    /// Numbers as they will be stored.
    fn stored(&self, values: Vec<Vec<f32>>) -> Vec<Vec<f32>>;

    /// Takes these numbers from now on.
    ///
    /// # Errors
    /// What cannot take them.
    fn install(&mut self, values: &[Tensor<1>]) -> Result<()>;

    /// What comes out, with gradients.
    ///
    /// # Errors
    /// An input of another kind.
    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow>;
}

/// Settings of [`reconstruct`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReconstructSettings {
    /// Rate of Adam.
    pub rate: f64,
    /// Passes over the samples.
    pub epochs: usize,
    /// Samples of a step.
    pub batch: usize,
    /// Decays of Adam's moments.
    pub betas: [f64; 2],
    /// Added to the root of its second moment.
    pub epsilon: f64,
    /// Share of the samples that is held out, at least one; 0 judges by those that are trained on.
    pub held_out: f64,
    /// Names the order of the samples.
    pub seed: u64,
}

impl Default for ReconstructSettings {
    fn default() -> Self {
        Self { rate: 1e-4, epochs: 4, batch: 1, betas: [0.9, 0.99], epsilon: 1e-8, held_out: 0.125, seed: 0 }
    }
}

/// What came out.
#[derive(Clone, Debug, PartialEq)]
pub struct Reconstructed {
    /// For every part its numbers, rounded as stored.
    pub values: Vec<Vec<Vec<f32>>>,
    /// Mean squared difference on the held-out samples before.
    pub before: f64,
    /// The same with `values`: at most `before`.
    pub after: f64,
    /// Steps taken.
    pub steps: usize,
}

/// What the trainer is given: the block, what it is to be like, and what reaches both.
pub struct Reconstruction<'a> {
    /// The block whose parts are trained.
    pub block: &'a dyn Stage,
    /// The block that it is to be like.
    pub target: &'a dyn Stage,
    /// Masks and weights of rows.
    pub batches: &'a [Batch],
    /// What reaches both blocks of a batch.
    pub inputs: &'a dyn Fn(usize) -> Result<Flow>,
    /// Whether the user asked to stop; it is asked before each sample.
    pub stop: &'a dyn Fn() -> bool,
}

/// Trains `parts`.
///
/// # Errors
/// A block that fails, fewer than two samples, outputs that are not tensors of one shape, a wish to stop.
pub fn reconstruct(
    of: &Reconstruction<'_>,
    parts: &[&dyn Part],
    settings: &ReconstructSettings,
) -> Result<Reconstructed> {
    let mut block = of.block.boxed_clone();
    track(&mut *block);
    let mut trainee = Parts { parts, block };
    let forward = |flow: Flow, ctx: &mut Ctx<'_>| Ok(of.target.forward(flow, ctx)?);
    let target = Target { batches: of.batches, inputs: of.inputs, target: &forward, stop: of.stop };
    let found = train(&mut trainee, &target, settings)?;
    let mut values = found.values.into_iter();
    let split = parts.iter().map(|part| values.by_ref().take(part.start().len()).collect()).collect();
    Ok(Reconstructed { values: split, before: found.before, after: found.after, steps: found.steps })
}

/// The parts of a block.
struct Parts<'a> {
    parts: &'a [&'a dyn Part],
    block: Box<dyn Stage>,
}

impl Trainee for Parts<'_> {
    fn start(&self) -> Vec<Vec<f32>> {
        self.parts.iter().flat_map(|part| part.start()).collect()
    }

    fn stored(&self, values: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        let mut values = values.into_iter();
        let of_part = |part: &&dyn Part| part.stored(values.by_ref().take(part.start().len()).collect());
        self.parts.iter().flat_map(of_part).collect()
    }

    fn install(&mut self, values: &[Tensor<1>]) -> Result<()> {
        let mut first = 0;
        for part in self.parts {
            let end = first + part.start().len();
            part.install(&values[first..end], &mut *self.block)?;
            first = end;
        }
        Ok(())
    }

    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow> {
        Ok(self.block.forward(flow, ctx)?)
    }
}

/// What the numbers of a [`Trainee`] are trained towards.
pub struct Target<'a> {
    /// Masks and weights of rows.
    pub batches: &'a [Batch],
    /// What reaches the trainee of a batch.
    pub inputs: &'a dyn Fn(usize) -> Result<Flow>,
    /// What is to come out, given what goes in.
    pub target: &'a dyn Fn(Flow, &mut Ctx<'_>) -> Result<Flow>,
    /// Whether the user asked to stop; it is asked before each sample.
    pub stop: &'a dyn Fn() -> bool,
}

/// What came out of [`train`].
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// The numbers, rounded as stored.
    pub values: Vec<Vec<f32>>,
    /// Mean squared difference on the held-out samples before.
    pub before: f64,
    /// The same with `values`: at most `before`.
    pub after: f64,
    /// Steps taken.
    pub steps: usize,
}

/// Trains the numbers of `trainee`.
///
/// # Errors
/// As [`reconstruct`].
pub fn train(trainee: &mut dyn Trainee, of: &Target<'_>, settings: &ReconstructSettings) -> Result<Trained> {
    if !(settings.rate > 0.0 && settings.rate.is_finite()) {
        let message = format!("found a rate of {}; expected a finite number > 0", settings.rate);
        return Err(Error::Reconstruction { message });
    }
    let device = Device::flex().autodiff();
    let samples = of.samples(settings.batch.max(1));
    let StreamSettings { memory_limit, spill_folder, .. } = StreamSettings::default();
    let known = RefCell::new(HiddenStore::new(samples.len(), memory_limit, &spill_folder));
    if samples.len() < 2 && settings.held_out > 0.0 {
        let message = "expected at least two samples, one to train on and one to judge by".into();
        return Err(Error::Reconstruction { message });
    }
    let (trained, judged) = if settings.held_out > 0.0 {
        let held = ((settings.held_out * samples.len() as f64).ceil() as usize).clamp(1, samples.len() - 1);
        samples.split_at(samples.len() - held)
    } else {
        (&samples[..], &samples[..])
    };
    let leaves = |values: &[Vec<f32>], track: bool| -> Vec<Tensor<1>> {
        let leaf = |values: &Vec<f32>| {
            let leaf = Tensor::<1>::from_floats(values.as_slice(), &device);
            if track { leaf.require_grad() } else { leaf }
        };
        values.iter().map(leaf).collect()
    };
    let judge = |values: &[Vec<f32>], trainee: &mut dyn Trainee| -> Result<f64> {
        trainee.install(&leaves(values, false))?;
        let mut sums = [0.0, 0.0];
        for sample in judged {
            let (loss, weight) = of.loss(trainee, sample, &known, &device)?;
            sums[0] += weight * f64::from(host(loss.without_autodiff())[0]);
            sums[1] += weight;
        }
        Ok(if sums[1] > 0.0 { sums[0] / sums[1] } else { 0.0 })
    };
    let mut values: Vec<Vec<f32>> = trainee.start();
    let mut best = trainee.stored(values.clone());
    let before = judge(&best, trainee)?;
    let mut after = before;
    let adam = |values: &Vec<f32>| Adam::new(values.len(), settings.betas, settings.epsilon);
    let mut adams: Vec<(Adam, f64)> = values.iter().map(adam).zip(trainee.rates()).collect();
    let mut steps = 0;
    for epoch in 0..settings.epochs {
        let mut order: Vec<usize> = (0..trained.len()).collect();
        Stream::new(settings.seed, "reconstruct/order", epoch as u64, 0).shuffle(&mut order);
        for i in order {
            let leaves = leaves(&values, true);
            trainee.install(&leaves)?;
            let (loss, weight) = of.loss(trainee, &trained[i], &known, &device)?;
            if weight == 0.0 {
                continue;
            }
            let gradients = loss.backward();
            steps += 1;
            for ((values, leaf), (adam, factor)) in values.iter_mut().zip(&leaves).zip(&mut adams) {
                if let Some(gradient) = leaf.grad(&gradients) {
                    adam.step(steps, values, &host(gradient), settings.rate * *factor);
                }
            }
        }
        let candidate = trainee.stored(values.clone());
        let found = judge(&candidate, trainee)?;
        if found < after {
            (best, after) = (candidate, found);
        }
    }
    Ok(Trained { values: best, before, after, steps: steps as usize })
}

/// Some rows of a batch.
struct Sample {
    index: usize,
    batch: usize,
    rows: Range<usize>,
}

impl Target<'_> {
    fn samples(&self, size: usize) -> Vec<Sample> {
        let of_batch = |(batch, of): (usize, &Batch)| {
            let n = items(&of.input);
            (0..n).step_by(size).map(move |first| (batch, first..n.min(first + size)))
        };
        let samples = self.batches.iter().enumerate().flat_map(of_batch).enumerate();
        samples.map(|(index, (batch, rows))| Sample { index, batch, rows }).collect()
    }

    /// The mean squared difference on a sample, and the weight of its rows. What is to come out is looked up in `known`.
    fn loss(
        &self,
        trainee: &dyn Trainee,
        sample: &Sample,
        known: &RefCell<HiddenStore>,
        device: &Device,
    ) -> Result<(Tensor<1>, f64)> {
        if (self.stop)() {
            return Err(Error::Interrupted);
        }
        let (batch, whole) = (&self.batches[sample.batch], (self.inputs)(sample.batch)?);
        let flow = part_of(&whole, &sample.rows);
        let n = items(&whole).max(1);
        let row_weights = batch.row_weights.as_ref().map(|weights| {
            let each = weights.len() / n;
            weights[sample.rows.start * each..sample.rows.end * each].to_vec()
        });
        let mask = batch.mask.clone().map(|mask| mask.slice([sample.rows.clone()]));
        let mut of_sample = Batch { input: flow.clone(), mask, row_weights };
        let stored = known.borrow_mut().get(sample.index, &Device::flex())?;
        let (target, width) = match stored {
            Some(stored) => last(stored)?,
            None => {
                let (rows, width) = last((self.target)(flow.clone(), &mut of_sample.ctx())?)?;
                known.borrow_mut().put(sample.index, Flow::Vector(rows.clone()))?;
                (rows, width)
            }
        };
        of_sample.mask = of_sample.mask.map(|mask| Tensor::from_data(mask.into_data(), device));
        let found = last(trainee.forward(flow.tracked(device), &mut of_sample.ctx())?)?;
        let target = Tensor::<2>::from_data(host_data(target, width), device);
        let difference = (found.0 - target).square().mean_dim(1);
        let rows = difference.dims()[0];
        let weights: Vec<f32> = match &of_sample.row_weights {
            // A weight for each row, or one for each item of several rows.
            Some(weights) => (0..rows).map(|i| weights[i * weights.len() / rows.max(1)] as f32).collect(),
            None => vec![1.0; rows],
        };
        let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        let share = Tensor::<1>::from_floats(weights.as_slice(), device) / total.max(f64::MIN_POSITIVE);
        Ok(((difference.reshape([rows]) * share).sum(), total))
    }
}

/// Rows of the output and their width: of a pair, those of its second half, which a decoder gives.
fn last(flow: Flow) -> Result<(Tensor<2>, usize)> {
    Ok(match flow {
        Flow::Hidden(x) => {
            let [b, t, c] = x.dims();
            (x.reshape([b * t, c]), c)
        }
        Flow::Image(x) => {
            let [b, c, h, w] = x.dims();
            (x.reshape([b, c * h * w]), c * h * w)
        }
        Flow::Vector(x) => {
            let width = x.dims()[1];
            (x, width)
        }
        Flow::Pair(both) => return last(both.1),
        Flow::Tokens(_) => {
            let message = "the block gives tokens, which have no difference".into();
            return Err(Error::Reconstruction { message });
        }
    })
}

fn host_data(x: Tensor<2>, width: usize) -> burn::tensor::TensorData {
    let values = host(x.without_autodiff());
    let rows = values.len() / width.max(1);
    burn::tensor::TensorData::new(values, [rows, width])
}

pub(crate) fn items(flow: &Flow) -> usize {
    match flow {
        Flow::Tokens(x) => x.dims()[0],
        Flow::Hidden(x) => x.dims()[0],
        Flow::Image(x) => x.dims()[0],
        Flow::Vector(x) => x.dims()[0],
        Flow::Pair(both) => items(&both.0),
    }
}

pub(crate) fn part_of(flow: &Flow, rows: &Range<usize>) -> Flow {
    match flow {
        Flow::Tokens(x) => Flow::Tokens(x.clone().slice([rows.clone()])),
        Flow::Hidden(x) => Flow::Hidden(x.clone().slice([rows.clone()])),
        Flow::Image(x) => Flow::Image(x.clone().slice([rows.clone()])),
        Flow::Vector(x) => Flow::Vector(x.clone().slice([rows.clone()])),
        Flow::Pair(both) => Flow::both(part_of(&both.0, rows), part_of(&both.1, rows)),
    }
}

/// Moves all tensors of a block to where gradients are kept; they have none of their own.
fn track(block: &mut dyn Stage) {
    let plain = Device::flex();
    for site in block.sites_mut() {
        if !matches!(site.weight, Weight::Dense(_)) {
            site.weight = Weight::Dense(constant(site.weight.to_tensor(&plain)));
        }
    }
    for (_, held) in block.layers_mut().into_iter().flat_map(LayerMut::held) {
        match held {
            HeldMut::Vector(param) => *param = constant(param.val()),
            HeldMut::Matrix(param) => *param = constant(param.val()),
        }
    }
}

fn constant<const D: usize>(value: Tensor<D>) -> Param<Tensor<D>> {
    Param::initialized(burn::module::ParamId::new(), value.without_autodiff().autodiff())
}
