//! A network in fixed point whose formats change (paper 10): what AdaPT keeps beside the weights, and how it sees them.

use std::sync::Arc;

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Tensor, TensorData};
use trimtab_math::random::Stream;
use trimtab_nn::straight_through::through;
use trimtab_nn::{Grid, InputOp, LayerMut, Network, Weight, host};

use super::adapt::{Adapt, Format, Strategy, diversity, next_lookback, push_down, push_of, push_up};
use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::objective::{Loss, Objective, Pass, StepInfo};

/// A network, its weights in full precision, with the format of every site and what decides on it. All of that is parameters without a
/// gradient, so that states hold it.
#[derive(Module, Debug)]
pub struct FixedPoint {
    /// The network whose numbers are rounded.
    pub network: Network,
    /// Formats and counters of each site, `[sites * COUNTERS]`.
    counters: Param<Tensor<1>>,
    /// Sum of the gradients, each of norm 1, since the last change: one for each site, flat.
    sums: Vec<Param<Tensor<1>>>,
    /// The strategy, how many losses were seen, and the last of them in a ring.
    losses: Param<Tensor<1>>,
    #[module(skip)]
    settings: Arc<Adapt>,
}

/// How values are rounded to a format; the last is the number of the tensor.
type Rounding<'a> = dyn Fn(Format, &[f32], usize) -> Vec<f32> + 'a;

/// Numbers that a site keeps.
const COUNTERS: usize = 5;

/// What decides on the format of a site.
#[derive(Clone, Copy, Debug, PartialEq)]
struct State {
    format: Format,
    /// Bins of histograms.
    resolution: u32,
    /// Steps between changes.
    lookback: u32,
    /// Gradients in the sum.
    seen: u32,
}

impl State {
    fn numbers(&self) -> [f32; COUNTERS] {
        let Self { format, resolution, lookback, seen } = *self;
        [f32::from(format.word), f32::from(format.fraction), resolution as f32, lookback as f32, seen as f32]
    }

    fn of(numbers: &[f32]) -> Self {
        let format = Format { word: numbers[0] as u8, fraction: numbers[1] as u8 };
        Self { format, resolution: numbers[2] as u32, lookback: numbers[3] as u32, seen: numbers[4] as u32 }
    }
}

/// The format of a site.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteFormat {
    /// Name of the site.
    pub site: String,
    /// Its format.
    pub format: Format,
    /// Weights.
    pub numel: usize,
    /// Weights that are not 0 in the format.
    pub nonzero: usize,
}

impl FixedPoint {
    /// A network, on a device with gradients, in the first format.
    ///
    /// # Errors
    /// [`Error::Setting`] for senseless settings and for weights that are no parameters.
    pub fn new(network: Network, settings: &Adapt) -> Result<Self> {
        settings.check()?;
        let mut sums = Vec::new();
        let mut device = None;
        for site in network.sites() {
            let Weight::Dense(weight) = &site.weight else {
                let message = format!("the weight of \"{}\" is no parameter", site.name());
                return Err(Error::setting("quantization", message));
            };
            let at = weight.val().device();
            sums.push(kept(Tensor::zeros([site.meta().numel()], &at)));
            device = Some(at);
        }
        let Some(device) = device else {
            return Err(Error::setting("quantization", "the network has no site"));
        };
        let [resolution, lookback] = [settings.resolution[0], settings.lookback[0]];
        let state = State { format: settings.start, resolution, lookback, seen: 0 };
        let counters: Vec<f32> = sums.iter().flat_map(|_| state.numbers()).collect();
        let losses = vec![0.0; 2 + settings.lookback[1] as usize];
        let tensor = |values: Vec<f32>| {
            let n = values.len();
            kept(Tensor::from_data(TensorData::new(values, [n]), &device))
        };
        let settings = Arc::new(settings.clone());
        Ok(Self { network, counters: tensor(counters), sums, losses: tensor(losses), settings })
    }

    fn states(&self) -> Vec<State> {
        host(self.counters.val()).chunks_exact(COUNTERS).map(State::of).collect()
    }

    /// The format of every site, in the order of the network.
    pub fn formats(&self) -> Vec<SiteFormat> {
        let of = |(site, state): (&trimtab_nn::Site, State)| {
            let weights = site.to_f32();
            let nonzero = weights.iter().filter(|w| state.format.nearest(**w) != 0.0).count();
            SiteFormat { site: site.name().into(), format: state.format, numel: weights.len(), nonzero }
        };
        self.network.sites().zip(self.states()).map(of).collect()
    }

    /// Bits of a word, the mean over all weights.
    pub fn mean_word(&self) -> f64 {
        let of = |(site, state): (&trimtab_nn::Site, State)| {
            let n = site.meta().numel() as f64;
            [n * f64::from(state.format.word), n]
        };
        let sums =
            self.network.sites().zip(self.states()).map(of).fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
        sums[0] / sums[1]
    }

    /// The network in its formats, rounded to the nearest numbers: what is measured and written.
    pub fn rounded(&self) -> Network {
        self.seen(&|format: Format, values: &[f32], _: usize| {
            values.iter().map(|x| format.nearest(*x)).collect()
        })
    }

    /// The network with its numbers drawn for a step: the same in all passes of that step.
    fn drawn(&self, seed: u64, step: usize) -> Network {
        self.seen(&|format: Format, values: &[f32], tensor: usize| {
            format.draw(values, &mut Stream::new(seed, "adapt/weights", step as u64, tensor as u64))
        })
    }

    fn seen(&self, round: &Rounding<'_>) -> Network {
        let mut network = self.network.clone();
        let mut states = self.states().into_iter().enumerate();
        for stage in 0..network.stages().len() {
            for layer in network.stage_mut(stage).layers_mut() {
                let LayerMut::Site(site) = layer else { continue };
                let Some((i, State { format, .. })) = states.next() else { continue };
                if let Weight::Dense(weight) = &site.weight {
                    let seen = rounded(weight.val(), |values| round(format, values, 2 * i));
                    site.weight = Weight::Dense(Param::initialized(ParamId::new(), seen));
                }
                if let Some(bias) = &site.bias {
                    let seen = rounded(bias.val(), |values| round(format, values, 2 * i + 1));
                    site.bias = Some(Param::initialized(ParamId::new(), seen));
                }
                let device = self.counters.val().device();
                let step = Tensor::from_data(TensorData::new(vec![format.step() as f32], [1]), &device);
                site.input.push(InputOp::Grid(Grid::new(kept(step), format.ends())));
            }
        }
        network
    }

    /// What a step does to the formats; `gradients` are rounded and get the norm 1.
    fn follow(mut self, gradients: &mut Gradients, step: &StepInfo) -> Self {
        let (mut states, settings) = (self.states(), Arc::clone(&self.settings));
        let strategy = self.judge_losses(&states, step.loss);
        for (i, site) in self.network.sites().enumerate() {
            let path = format!("network.{}", site.meta().weight_name());
            let Some((_, gradient)) = gradients.iter_mut().find(|(other, _)| *other == path) else {
                continue;
            };
            let state = &mut states[i];
            let device = gradient.values.device();
            let mut stream = Stream::new(step.seed, "adapt/gradients", step.step as u64, i as u64);
            let mut g = state.format.draw(&host(gradient.values.clone()), &mut stream);
            let norm = g.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            if norm > 0.0 {
                g.iter_mut().for_each(|g| *g = (f64::from(*g) / norm) as f32);
            }
            gradient.values = Tensor::from_data(TensorData::new(g.clone(), [g.len()]), &device);
            if !settings.switching || norm == 0.0 {
                continue;
            }
            let mut sum = host(self.sums[i].val());
            sum.iter_mut().zip(&g).for_each(|(sum, g)| *sum += g);
            state.seen += 1;
            let diverse = diversity(f64::from(state.seen), &sum);
            let [fewest, most] = settings.lookback;
            state.lookback = next_lookback(diverse, state.lookback, settings.lookback);
            let [coarse, fine] = settings.resolution;
            match state.lookback {
                lookback if lookback == most => state.resolution = (state.resolution + 1).min(fine),
                lookback if lookback == fewest => state.resolution = (state.resolution - 1).max(coarse),
                _ => {}
            }
            if state.seen >= state.lookback {
                let least = push_down(&site.to_f32(), state.format, state.resolution);
                let push = push_of(diverse, least.fraction, strategy);
                state.format = push_up(least, push, settings.buffer);
                state.seen = 0;
                sum.fill(0.0);
            }
            set(&mut self.sums[i], sum);
        }
        set(&mut self.counters, states.iter().flat_map(State::numbers).collect());
        self
    }

    /// Notes the loss, the price of the formats included, and gives the strategy of this step.
    fn judge_losses(&mut self, states: &[State], loss: f64) -> Strategy {
        let mut losses = host(self.losses.val());
        let (head, ring) = losses.split_at_mut(2);
        let lookback =
            states.iter().map(|state| f64::from(state.lookback)).sum::<f64>() / states.len() as f64;
        let loss = loss + self.price();
        let seen = head[1] as usize;
        let count = (lookback.round() as usize).clamp(1, ring.len()).min(seen);
        if count > 0 {
            let last = (seen - count..seen).map(|i| f64::from(ring[i % ring.len()]));
            head[0] = Strategy::of(head[0]).next(last.sum::<f64>() / count as f64, loss).number();
        }
        ring[seen % ring.len()] = loss as f32;
        // Counted up to a whole number of rounds, so that single precision holds it for ever.
        head[1] = if seen + 1 == 2 * ring.len() { ring.len() as f32 } else { (seen + 1) as f32 };
        let strategy = Strategy::of(head[0]);
        set(&mut self.losses, losses);
        strategy
    }

    /// Mean over sites of `WL / 32` times the share of weights that are not 0.
    fn price(&self) -> f64 {
        let formats = self.formats();
        let one = |site: &SiteFormat| {
            f64::from(site.format.word) / 32.0 * site.nonzero as f64 / site.numel.max(1) as f64
        };
        formats.iter().map(one).sum::<f64>() / formats.len().max(1) as f64
    }
}

/// A parameter without a gradient.
fn kept(tensor: Tensor<1>) -> Param<Tensor<1>> {
    Param::initialized(ParamId::new(), tensor.set_require_grad(false))
}

fn set(param: &mut Param<Tensor<1>>, values: Vec<f32>) {
    let device = param.val().device();
    *param = kept(Tensor::from_data(TensorData::new(values, param.val().dims()), &device));
}

/// Other values with the gradient of the tensor.
fn rounded<const D: usize>(tensor: Tensor<D>, round: impl FnOnce(&[f32]) -> Vec<f32>) -> Tensor<D> {
    let (device, dims) = (tensor.device(), tensor.dims());
    let values = round(&host(tensor.clone().without_autodiff()));
    through(Tensor::from_data(TensorData::new(values, dims), &device), tensor)
}

/// An objective of networks in fixed point.
#[derive(Clone, Debug)]
pub struct InFixedPoint<O> {
    /// What the rounded network is trained by.
    pub inner: O,
    /// Weight of the magnitudes of all weights in the loss.
    pub l1: f64,
}

impl<B, O: Objective<Network, B>> Objective<FixedPoint, B> for InFixedPoint<O> {
    fn loss(&self, model: &FixedPoint, batch: &B, pass: &mut Pass) -> Result<Loss> {
        if !pass.training {
            return self.inner.loss(&model.rounded(), batch, pass);
        }
        let mut loss = self.inner.loss(&model.drawn(pass.seed, pass.step), batch, pass)?;
        for statistics in &mut pass.statistics {
            statistics.norm = format!("network.{}", statistics.norm);
        }
        for site in model.network.sites().filter(|_| self.l1 > 0.0) {
            if let Weight::Dense(weight) = &site.weight {
                loss.mean = loss.mean + weight.val().abs().sum() * self.l1;
            }
        }
        Ok(loss)
    }

    fn before_update(
        &self,
        model: FixedPoint,
        gradients: &mut Gradients,
        step: &StepInfo,
    ) -> Result<FixedPoint> {
        Ok(model.follow(gradients, step))
    }
}
