//! Calibration images made of what a network remembers of its data (ZeroQ, paper 84).
//!
//! Source: Cai et al., CVPR 2020, arXiv:2001.00281. Noise is changed until the inputs of all batch norms have the means and the
//! deviations that the norms have stored; no label and no data is needed. With `m`, `s` the mean and the deviation of a channel,
//!
//! ```text
//! loss = sum over norms, images b, channels c of (m_bc - running mean_c)^2 + (s_bc - running deviation_c)^2, / images
//! ```
//!
//! and the same for the input itself against 0 and 1. Norms are met where they run, so that the order of modules does not matter
//! (the authors pair the first convolutions with the norms by their order). [`Recovery`](super::Recovery) is the other recipe of
//! this folder: there images belong to classes, and are to train on.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use trimtab_math::random::Stream;
use trimtab_nn::{Ctx, Flow, Layer, Network, NormInput};

use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::optimizer::{Optimizer, OptimizerConfig};
use crate::settings::Phase;

/// Added to a variance under its root.
const TINY: f64 = 1e-6;

/// Over what a channel's mean and deviation are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistics {
    /// Over the pixels of each image: every image has to agree by itself. A norm over a single pixel is compared over the batch.
    #[default]
    Image,
    /// Over the pixels of all images: they agree together, and differ among each other.
    Batch,
}

/// How images are made. Defaults are those of the authors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Zeroq {
    /// Images.
    pub images: usize,
    /// Steps of Adam.
    pub iterations: usize,
    /// Its first rate.
    pub rate: f64,
    /// Over what statistics are taken.
    pub statistics: Statistics,
    /// Whether the normalized input itself is to have mean 0 and deviation 1.
    pub input: bool,
    /// Steps without a loss that is lower by 0.01 % after which the rate falls to a tenth.
    pub patience: usize,
    /// The rate does not fall below.
    pub least_rate: f64,
    /// Seed of the noise.
    pub seed: u64,
}

impl Default for Zeroq {
    fn default() -> Self {
        Self {
            images: 32,
            iterations: 500,
            rate: 0.5,
            statistics: Statistics::Image,
            input: true,
            patience: 100,
            least_rate: 1e-4,
            seed: 0,
        }
    }
}

/// Images and how well they agree.
#[derive(Clone, Debug)]
pub struct Remembered {
    /// `[B, C, H, W]`, normalized as the network takes them, without gradients.
    pub images: Tensor<4>,
    /// The loss before each step, and at the end.
    pub losses: Vec<f64>,
}

impl Remembered {
    /// The last loss beside the first. Above 0.05 ranges taken from the images may be far too wide.
    pub fn share_left(&self) -> f64 {
        self.losses.last().copied().unwrap_or(f64::NAN) / self.losses.first().copied().unwrap_or(f64::NAN)
    }
}

impl Zeroq {
    fn check(&self) -> Result<()> {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let (name, message) = match self {
            Self { images: 0, .. } => ("images", "must be at least 1".to_string()),
            Self { patience: 0, .. } => ("patience", "must be at least 1".into()),
            Self { rate, .. } if !positive(*rate) => ("rate", format!("must be positive, found {rate}")),
            Self { least_rate, .. } if !positive(*least_rate) => {
                ("least_rate", format!("must be positive, found {least_rate}"))
            }
            _ => return Ok(()),
        };
        Err(Error::setting(name, message))
    }

    /// Standard normal noise: what is begun with, and the baseline of the paper.
    pub fn noise(&self, shape: [usize; 3], device: &Device) -> Tensor<4> {
        let shape = [self.images, shape[0], shape[1], shape[2]];
        let mut stream = Stream::new(self.seed, "zeroq/noise", 0, 0);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    /// Makes images of `shape` (channels, height, width) for a network on `device`, without gradients. `go_on` hears the loss of
    /// every step; `None` if it says no.
    ///
    /// # Errors
    /// [`Error::Setting`] for settings out of their ranges and a network without batch norms, which remembers nothing;
    /// [`Error::Diverged`]; what the network refuses.
    pub fn run(
        &self,
        network: &Network,
        shape: [usize; 3],
        device: &Device,
        go_on: &mut dyn FnMut(usize, f64) -> bool,
    ) -> Result<Option<Remembered>> {
        self.check()?;
        if !network.layers().any(|layer| matches!(layer, Layer::BatchNorm(_))) {
            let message = "has no batch norm, and so remembers no statistics of its data";
            return Err(Error::setting("network", message));
        }
        let gradients = device.clone().autodiff();
        // The network takes part in the gradient, and none of its parameters has one.
        let network = network.clone().fork(&gradients).no_grad();
        let noise = self.noise(shape, &gradients);
        let mut canvas = Canvas { images: Param::from_tensor(noise) };
        let rule = OptimizerConfig::Adam { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
        let mut adam = Optimizer::new(&Phase::new(self.iterations.max(1), self.rate, rule));
        let mut plateau = Plateau::new(self);
        let mut losses = Vec::with_capacity(self.iterations + 1);
        let finite = |loss: f64, step: usize| match loss.is_finite() {
            true => Ok(loss),
            false => Err(Error::Diverged { step, what: "loss", value: loss }),
        };
        for step in 0..self.iterations {
            let loss = self.loss(&network, canvas.images.val())?;
            let value = finite(f64::from(loss.clone().into_scalar::<f32>()), step)?;
            losses.push(value);
            let gradients = Gradients::collect(&canvas, loss.backward(), |_| true, 1);
            canvas = adam.step(canvas, gradients, &[plateau.rate]);
            // The rate follows the loss, which no schedule does: hence a loop of its own.
            plateau.hear(value);
            if !go_on(step + 1, value) {
                return Ok(None);
            }
        }
        let images = canvas.images.val().without_autodiff();
        let last = self.loss(&network, images.clone().autodiff())?;
        losses.push(finite(f64::from(last.into_scalar::<f32>()), self.iterations)?);
        Ok(Some(Remembered { images, losses }))
    }

    /// The loss of `images`, on the device of `network`.
    fn loss(&self, network: &Network, images: Tensor<4>) -> Result<Tensor<1>> {
        let ([n, c, ..], device) = (images.dims(), images.device());
        let mut seen = Vec::new();
        if self.input {
            let (running_mean, running_variance) = (Tensor::zeros([c], &device), Tensor::ones([c], &device));
            let input = images.clone();
            seen.push(NormInput { norm: "input".into(), input, running_mean, running_variance });
        }
        let mut ctx = Ctx { norm_inputs: Some(&mut seen), ..Ctx::default() };
        network.forward(Flow::Image(images), &mut ctx)?;
        let terms = seen.iter().map(|seen| self.term(seen)).collect();
        Ok(Tensor::cat(terms, 0).sum() / n as f64)
    }

    /// What one norm adds, summed over the images, `[1]`.
    fn term(&self, seen: &NormInput) -> Tensor<1> {
        let [n, c, h, w] = seen.input.dims();
        let far = |moments: [Tensor<2>; 2], numbers: usize| {
            let [mean, variance] = moments;
            let [rows, c] = mean.dims();
            // Of a single number there is no variance.
            let unbiased = numbers as f64 / (numbers as f64 - 1.0).max(1.0);
            let stored = |x: &Tensor<1>| x.clone().reshape([1, c]).expand([rows, c]);
            let deviation = (variance * unbiased + TINY).sqrt();
            let apart = (mean - stored(&seen.running_mean)).square()
                + (deviation - (stored(&seen.running_variance) + TINY).sqrt()).square();
            apart.sum()
        };
        match self.statistics {
            Statistics::Image if h * w > 1 => far(seen.of_images(), h * w),
            _ => far(seen.of_batch().map(|x| x.reshape([1, c])), n * h * w) * n as f64,
        }
    }
}

/// The images as parameters.
#[derive(Module, Debug)]
struct Canvas {
    images: Param<Tensor<4>>,
}

/// A rate that falls when the loss does not.
struct Plateau {
    rate: f64,
    least: f64,
    best: f64,
    waited: usize,
    patience: usize,
}

impl Plateau {
    fn new(how: &Zeroq) -> Self {
        Self { rate: how.rate, least: how.least_rate, best: f64::INFINITY, waited: 0, patience: how.patience }
    }

    fn hear(&mut self, loss: f64) {
        if loss < self.best * (1.0 - 1e-4) {
            (self.best, self.waited) = (loss, 0);
            return;
        }
        self.waited += 1;
        if self.waited > self.patience {
            (self.rate, self.waited) = ((self.rate * 0.1).max(self.least), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Look;
    use super::*;

    fn network() -> Network {
        Look::network(&Device::flex())
    }

    #[allow(clippy::type_complexity, reason = "a start and a function of it, used once")]
    fn moving(how: &Zeroq, shape: [usize; 3]) -> (Vec<f32>, impl Fn(&[f32]) -> (f64, Vec<f32>) + use<>) {
        let device = Device::flex().autodiff();
        let network = network().fork(&device).no_grad();
        let how = how.clone();
        let values: Vec<f32> = how.noise(shape, &Device::flex()).into_data().iter::<f32>().collect();
        let loss = move |values: &[f32]| {
            let shape = [how.images, shape[0], shape[1], shape[2]];
            let data = TensorData::new(values.to_vec(), shape);
            let images = Tensor::<4>::from_data(data, &device).require_grad();
            let loss = how.loss(&network, images.clone()).unwrap();
            let slope = images.grad(&loss.backward()).unwrap().into_data().iter::<f32>().collect();
            (f64::from(loss.into_scalar::<f32>()), slope)
        };
        (values, loss)
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        for statistics in [Statistics::Image, Statistics::Batch] {
            let (values, loss) = moving(&Zeroq { images: 3, statistics, ..Zeroq::default() }, [2, 4, 5]);
            let (_, slope) = loss(&values);
            let size = slope.iter().map(|v| f64::from(v.abs())).fold(0.0, f64::max);
            let mut largest = 0.0f64;
            for at in [0, 7, 33, 60, 111] {
                let moved = |by: f32| {
                    let mut values = values.clone();
                    values[at] += by;
                    loss(&values).0
                };
                let numeric = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                largest = largest.max((numeric - f64::from(slope[at])).abs());
            }
            assert!(largest < 1e-2 * size && size > 1e-2, "{statistics:?}: {largest} of {size}");
        }
    }

    #[test]
    fn the_loss_is_that_of_the_paper() {
        // One image of two channels by hand: the norm has stored means (0.3, 0.5) and variances (0.8, 0.3).
        let how = Zeroq { images: 1, ..Zeroq::default() };
        let (_, loss) = moving(&how, [2, 1, 3]);
        let values = [1.0, 2.0, 3.0, -1.0, 0.0, 4.0f32];
        // Means 2 and 1, unbiased variances 1 and 7.
        let apart = |mean: [f64; 2], variance: [f64; 2]| -> f64 {
            let found = [(2.0, 1.0f64), (1.0, 7.0)];
            let term = |((m, v), (mean, variance)): ((f64, f64), (f64, f64))| {
                (m - mean).powi(2) + (v.sqrt() - variance.sqrt()).powi(2)
            };
            found.into_iter().zip(mean.into_iter().zip(variance)).map(term).sum()
        };
        let expected = apart([0.3, 0.5], [0.8, 0.3]) + apart([0.0, 0.0], [1.0, 1.0]);
        assert!((loss(&values).0 - expected).abs() < 1e-4, "{} {expected}", loss(&values).0);
        let (_, without) = moving(&Zeroq { input: false, ..how }, [2, 1, 3]);
        assert!((without(&values).0 - apart([0.3, 0.5], [0.8, 0.3])).abs() < 1e-4);
    }

    #[test]
    fn noise_comes_to_agree_and_is_the_same_again() {
        for statistics in [Statistics::Image, Statistics::Batch] {
            let how = Zeroq { images: 4, iterations: 200, input: false, statistics, ..Zeroq::default() };
            let run = |how: &Zeroq| {
                how.run(&network(), [2, 6, 6], &Device::flex(), &mut |_, _| true).unwrap().unwrap()
            };
            let made = run(&how);
            assert_eq!(made.losses.len(), 201);
            assert!(made.share_left() < 0.05, "{statistics:?}: {} of the loss are left", made.share_left());
            let numbers =
                |made: &Remembered| made.images.clone().into_data().iter::<f32>().collect::<Vec<_>>();
            assert_eq!(numbers(&made), numbers(&run(&how)));
            assert_ne!(numbers(&made), numbers(&run(&Zeroq { seed: 1, ..how.clone() })));
            // Control: without a step nothing agrees.
            assert!((run(&Zeroq { iterations: 0, ..how }).share_left() - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let plain = Network::new(Vec::new(), None, 0);
        let refused = |how: &Zeroq, network: &Network| {
            let made = how.run(network, [2, 4, 4], &Device::flex(), &mut |_, _| true);
            made.map(|_| ()).unwrap_err().to_string()
        };
        assert!(refused(&Zeroq::default(), &plain).contains("no batch norm"));
        assert!(refused(&Zeroq { images: 0, ..Zeroq::default() }, &network()).contains("images"));
        assert!(refused(&Zeroq { rate: f64::NAN, ..Zeroq::default() }, &network()).contains("rate"));
        let stopped = Zeroq::default().run(&network(), [2, 4, 4], &Device::flex(), &mut |_, _| false);
        assert!(stopped.unwrap().is_none());
    }

    #[test]
    fn the_rate_falls_when_the_loss_does_not() {
        let mut plateau = Plateau::new(&Zeroq { patience: 3, least_rate: 0.01, ..Zeroq::default() });
        plateau.hear(1.0);
        (0..3).for_each(|_| plateau.hear(0.99995));
        assert_eq!(plateau.rate, 0.5);
        plateau.hear(1.0);
        assert!((plateau.rate - 0.05).abs() < 1e-12);
        plateau.hear(0.5);
        (0..8).for_each(|_| plateau.hear(0.5));
        assert_eq!(plateau.rate, 0.01, "not below the least");
    }
}
