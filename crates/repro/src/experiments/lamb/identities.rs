//! What holds exactly of a step, on the library's own rules.

use burn::tensor::{Device, Tensor, TensorData};
use trimtab::floors::math::random::Stream;
use trimtab::floors::nn::Network;
use trimtab::floors::train::{
    Gradient, Gradients, LambVariant, Optimizer, OptimizerConfig, Phase, Result, parameters,
};

use crate::experiment::Check;
use crate::experiments::perceptron::{Start, perceptron};

const WIDTHS: [usize; 2] = [7, 5];
const STEPS: u64 = 20;
const RATE: f64 = 0.02;
const DECAY: f32 = 0.1;

fn lamb(epsilon: f32) -> OptimizerConfig {
    let (variant, weight_decay) = (LambVariant::Reference, DECAY);
    OptimizerConfig::Lamb { variant, beta_1: 0.9, beta_2: 0.999, epsilon, weight_decay }
}

/// A network of one matrix, and the rule that trains it.
struct Run {
    network: Network,
    optimizer: Optimizer,
}

impl Run {
    fn new(rule: OptimizerConfig) -> Self {
        let network = perceptron(&WIDTHS, Start::He, 0);
        Self { network, optimizer: Optimizer::new(&Phase::new(1, RATE, rule)) }
    }

    /// One step; the numbers of the matrix before it, what was added to them, and its gradient.
    fn step(&mut self, step: u64, scale: f64, rate: f64) -> [Vec<f64>; 3] {
        let device = Device::flex();
        let all = parameters(&self.network).into_iter().map(|info| {
            let n = info.shape.iter().product();
            let mut stream = Stream::new(0, &format!("lamb/gradient/{}", info.path), step, 0);
            let values: Vec<f32> = (0..n).map(|_| (scale * stream.normal()) as f32).collect();
            let values = Tensor::from_data(TensorData::new(values, [n]), &device);
            (info.path, Gradient { shape: info.shape, values })
        });
        let gradients: Gradients = all.collect();
        let of_matrix = gradients.iter().find(|(_, gradient)| gradient.shape.len() == 2);
        let gradient = of_matrix.map(|(_, gradient)| gradient.values.to_data().iter::<f64>().collect());
        let before = self.matrix();
        self.network = self.optimizer.step(self.network.clone(), gradients, &[rate]);
        let moved = self.matrix().iter().zip(&before).map(|(after, before)| after - before).collect();
        [before, moved, gradient.unwrap_or_default()]
    }

    fn matrix(&self) -> Vec<f64> {
        let all = self.network.tensors();
        let matrix = all.into_iter().find(|(_, shape, _)| shape.len() == 2);
        matrix.map(|(.., values)| values.into_iter().map(f64::from).collect()).unwrap_or_default()
    }
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Largest difference; not a number if there is nothing to compare.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    if a.is_empty() || a.len() != b.len() {
        return f64::NAN;
    }
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

pub(super) fn checks() -> Result<Vec<Check>> {
    let worst =
        |deviations: Vec<f64>| deviations.into_iter().fold(0.0, |a: f64, b| if b <= a { a } else { b });
    let mut run = Run::new(lamb(1e-6));
    let length = |step| {
        let [x, moved, _] = run.step(step, 1.0, RATE);
        (norm(&moved) - RATE * norm(&x)).abs()
    };
    let lengths = (0..STEPS).map(length).collect();

    let [mut plain, mut large] = [1, 2].map(|_| Run::new(lamb(0.0)));
    let scaled = |step| {
        plain.step(step, 1.0, RATE);
        large.step(step, 1000.0, RATE);
        apart(&plain.matrix(), &large.matrix())
    };
    let scaled = (0..STEPS).map(scaled).collect();

    // The rate that makes rate * ratio what it is for a ratio of 1: the length of AdamW's step over that of the matrix.
    let adamw = OptimizerConfig::AdamW { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-6, weight_decay: DECAY };
    let (mut adamw, mut run) = (Run::new(adamw), Run::new(lamb(1e-6)));
    let adam = |step| {
        let [x, moved, _] = adamw.step(step, 1.0, RATE);
        run.step(step, 1.0, norm(&moved) / norm(&x));
        apart(&adamw.matrix(), &run.matrix())
    };
    let adam = (0..STEPS).map(adam).collect();

    let mut lars = Run::new(OptimizerConfig::Lars { momentum: 0.0, weight_decay: 0.0 });
    let descent = |step| {
        let [x, moved, gradient] = lars.step(step, 1.0, RATE);
        let ratio = RATE * norm(&x) / norm(&gradient);
        apart(&moved, &gradient.iter().map(|g| -ratio * g).collect::<Vec<_>>())
    };
    let descent = (0..STEPS).map(descent).collect();

    let check = |identity, deviations, tolerance| Check { identity, deviation: worst(deviations), tolerance };
    Ok(vec![
        check("LAMB: |dx| = rate |x|, 20 steps", lengths, 1e-6),
        check("LAMB, epsilon 0: gradients times 1,000 change nothing", scaled, 1e-5),
        check("LAMB with a ratio of 1 is AdamW, 20 steps", adam, 5e-6),
        check("LARS without momentum is normalized descent", descent, 1e-6),
    ])
}
