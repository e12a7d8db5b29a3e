//! Runs of the whole loop on problems whose answer is known.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use trimtab_math::random::Stream;
use trimtab_nn::{
    Axis, Ctx, Flow, Layer, LayerMut, Network, Norm, NormKind, Site, SiteKind, SiteMeta, Stage, Weight,
};

use super::*;
use crate::parameters::values;

mod ahead;
mod answers;
mod batches;
mod phases;
mod ranks;
mod resume;
mod tied;

/// `y = x W^T + b`.
#[derive(Module, Debug)]
struct Line {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

fn line(weight: [f32; 2], bias: f32) -> Line {
    let device = Device::flex().autodiff();
    let weight = Tensor::from_data(TensorData::new(weight.to_vec(), [1, 2]), &device);
    let bias = Tensor::from_data(TensorData::new(vec![bias], [1]), &device);
    Line { weight: Param::from_tensor(weight), bias: Param::from_tensor(bias) }
}

/// Points `(x, y)`.
struct Points(Vec<([f32; 2], f32)>);

impl Points {
    /// `y = 2 x_0 - 3 x_1 + 0.5` with noise.
    fn noisy(n: usize) -> Self {
        let mut stream = Stream::new(0, "points", 0, 0);
        let mut normal = || stream.normal() as f32;
        let point = |_| {
            let x = [normal(), normal()];
            (x, 2.0 * x[0] - 3.0 * x[1] + 0.5 + 0.3 * normal())
        };
        Self((0..n).map(point).collect())
    }
}

impl Dataset for Points {
    type Batch = (Tensor<2>, Tensor<2>);

    fn len(&self) -> usize {
        self.0.len()
    }

    fn batch(&self, items: &[Item], device: &Device) -> Result<Self::Batch> {
        let x: Vec<f32> = items.iter().flat_map(|item| self.0[item.index].0).collect();
        let y: Vec<f32> = items.iter().map(|item| self.0[item.index].1).collect();
        let tensor = |values, width| Tensor::from_data(TensorData::new(values, [items.len(), width]), device);
        Ok((tensor(x, 2), tensor(y, 1)))
    }
}

struct SquaredError;

impl Objective<Line, (Tensor<2>, Tensor<2>)> for SquaredError {
    fn loss(&self, model: &Line, (x, y): &(Tensor<2>, Tensor<2>), _: &mut Pass) -> Result<Loss> {
        let guess = x.clone().matmul(model.weight.val().transpose()) + model.bias.val().unsqueeze();
        Ok(Loss::new((guess - y.clone()).square().mean(), y.dims()[0]))
    }
}

fn phase(steps: usize, rate: f64, optimizer: OptimizerConfig) -> Phase {
    Phase::new(steps, rate, optimizer)
}

/// A batch that may double at every step, from 4 to 64.
fn adaptive() -> Adaptive {
    Adaptive { initial: 4, max: 64, test: Test::Norm { eta: 0.5 }, interval: 1, growth_cap: 2.0, grid: 1 }
}

fn settings(batch: usize, phases: Vec<Phase>) -> Settings {
    Settings { seed: 1, ..Settings::new(batch, phases) }
}

fn sgd(momentum: f64) -> OptimizerConfig {
    OptimizerConfig::Sgd { momentum, weight_decay: 0.0 }
}

fn run(
    data: &Points,
    settings: &Settings,
    state: Option<&Path>,
    observer: &mut dyn Observer<Line>,
) -> Result<Outcome<Line>> {
    let mut trainer = Trainer::new(data, &SquaredError, settings, Device::flex());
    trainer.state = state.map(Into::into);
    trainer.run(line([0.1, 0.2], 0.0), observer)
}

fn first_items(n: usize) -> Vec<Item> {
    (0..n).map(|index| Item { index, epoch: 0 }).collect()
}

/// The gradient over all points.
fn gradients_of(module: &Line, data: &Points) -> Gradients {
    let batch = data.batch(&first_items(data.len()), &Device::flex().autodiff()).unwrap();
    let loss = SquaredError.loss(module, &batch, &mut Pass::default()).unwrap();
    Gradients::collect(module, loss.mean.backward(), |_| true, loss.terms)
}

fn trained(data: &Points, settings: &Settings) -> Vec<f32> {
    numbers(&run(data, settings, None, &mut Silent::default()).unwrap().module)
}

fn numbers<M: Module>(module: &M) -> Vec<f32> {
    values(module).into_iter().flat_map(|(_, data)| data.try_into_vec::<f32>().unwrap()).collect()
}

/// Sets the flag after a number of steps, and keeps what it saw.
struct StopAfter {
    left: usize,
    flag: AtomicBool,
    seen: Vec<StepRecord>,
}

impl StopAfter {
    fn new(steps: usize) -> Self {
        Self { left: steps, flag: AtomicBool::new(false), seen: Vec::new() }
    }
}

impl<M> Observer<M> for StopAfter {
    fn step(&mut self, record: &StepRecord, _: &M) {
        self.left = self.left.saturating_sub(1);
        self.flag.store(self.left == 0, Ordering::SeqCst);
        self.seen.push(record.clone());
    }

    fn interrupted(&self) -> bool {
        Observer::<M>::interrupted(&Silent { stop: Some(&self.flag) })
    }
}

/// Two phases: the second starts with a fresh optimizer, also when the run is resumed at its very beginning.
fn long(passes: usize) -> Settings {
    let adamw = phase(12, 0.02, OptimizerConfig::default());
    let schedule = Schedule::Cosine { warmup: 0.25, floor: 0.1 };
    let momentum = Phase { name: "second".into(), schedule, ..phase(8, 0.02, sgd(0.9)) };
    let micro_batch = Some(5usize.div_ceil(passes));
    Settings { micro_batch, clip_norm: Some(1.0), ..settings(5, vec![adamw, momentum]) }
}
