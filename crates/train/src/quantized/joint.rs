//! All widths of a switchable network in one step.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use trimtab_math::random::Stream;
use trimtab_nn::{BatchStatistics, Ctx, LayerMut, Network};

use super::double_rounding::{DoubleRounding, alrs_factor};
use super::hasb::draw_widths;
use super::switchable::Switchable;
use crate::error::Result;
use crate::gradients::Gradients;
use crate::objective::{Loss, Objective, Pass};
use crate::parameters::Path;

/// No step is smaller.
const LEAST: f32 = 1e-8;

/// An objective of networks for all widths of a [`Switchable`] at once: its parts are the widths, from high to low, or, where widths
/// are mixed, a network that is drawn and, if so set, both extremes. What is measured is measured at the highest width.
#[derive(Clone, Debug)]
pub struct Joint<O> {
    /// What every width is trained by.
    pub inner: O,
    /// Settings of the module.
    pub settings: DoubleRounding,
    /// Hessian traces of the sites, for mixed widths; not needed otherwise.
    pub traces: Vec<f64>,
}

impl<O> Joint<O> {
    /// All sites at one width after another.
    pub fn new(inner: O, settings: DoubleRounding) -> Self {
        Self { inner, settings, traces: Vec::new() }
    }

    /// The widths of the sites in this pass.
    fn widths(&self, sites: usize, pass: &Pass) -> Vec<usize> {
        let lowest = self.settings.widths.len() - 1;
        let all = |width: usize| vec![width; sites];
        match (self.settings.mixed, pass.part) {
            _ if !pass.training => all(0),
            (None, part) => all(part),
            (Some(mixed), 0) => {
                let mut stream = Stream::new(pass.seed, "train/widths", pass.step as u64, 0);
                let uniform = vec![0.0; sites];
                let traces = if self.traces.len() == sites { &self.traces } else { &uniform };
                draw_widths(&self.settings.widths, mixed.sampling, traces, &mut stream)
            }
            (Some(_), part) => all(if part == 1 { 0 } else { lowest }),
        }
    }
}

impl<B, O: Objective<Network, B>> Objective<Switchable, B> for Joint<O> {
    fn loss(&self, model: &Switchable, batch: &B, pass: &mut Pass) -> Result<Loss> {
        let widths = self.widths(model.sites().len(), pass);
        let loss = self.inner.loss(&model.mixed(&widths), batch, pass)?;
        model.rename(&widths, &mut pass.statistics);
        Ok(loss)
    }

    fn parts(&self) -> usize {
        match self.settings.mixed {
            None => self.settings.widths.len(),
            Some(mixed) => 1 + 2 * usize::from(mixed.extremes),
        }
    }

    /// The rates of the steps (ALRS), of weights and of inputs each on their own.
    fn weigh(&self, part: usize, gradients: &mut Gradients, rate: &dyn Fn(&str) -> f64) {
        if !self.settings.alrs || self.settings.mixed.is_some() {
            return;
        }
        let difference = self.settings.widths[0] - self.settings.widths[part];
        for kind in [".weight.", ".inputs."] {
            let belongs = |path: &str| path.starts_with("steps.") && path.contains(kind);
            let own: Vec<(String, Vec<f32>)> = gradients
                .iter()
                .filter(|(path, _)| belongs(path))
                .map(|(path, gradient)| {
                    (path.into(), gradient.values.clone().into_data().iter::<f32>().collect())
                })
                .collect();
            let Some((path, _)) = own.first() else { continue };
            let factor = alrs_factor(difference, rate(path), own.iter().map(|(_, g)| &g[..]));
            for (_, gradient) in gradients.iter_mut().filter(|(path, _)| belongs(path)) {
                gradient.values = gradient.values.clone() * factor;
            }
        }
    }

    /// Steps stay positive.
    fn project(&self, model: Switchable) -> Switchable {
        model.map(&mut Positive(Path::default()))
    }
}

/// Keeps steps positive.
struct Positive(Path);

impl ModuleMapper for Positive {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.0.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.0.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !self.0.join().starts_with("steps.") {
            return param;
        }
        let numbers: Vec<f32> = param.val().into_data().iter::<f32>().collect();
        if numbers.iter().all(|step| *step >= LEAST) {
            return param;
        }
        param.map(|old| {
            let (device, dims, trained) = (old.device(), old.dims(), old.is_require_grad());
            let numbers: Vec<f32> = numbers.iter().map(|step| step.max(LEAST)).collect();
            Tensor::from_data(TensorData::new(numbers, dims), &device).set_require_grad(trained)
        })
    }
}

/// The network with running statistics that are the means of what its batch norms see of `batches`: what norms that were trained
/// with many widths need once one is chosen.
///
/// # Errors
/// What `run` meets.
pub fn renormalized<B>(
    mut network: Network,
    batches: impl IntoIterator<Item = B>,
    mut run: impl FnMut(&Network, B, &mut Ctx<'_>) -> Result<()>,
) -> Result<Network> {
    let mut sums: Vec<BatchStatistics> = Vec::new();
    let mut n = 0.0f32;
    for batch in batches {
        let mut seen = Vec::new();
        run(&network, batch, &mut Ctx { batch_statistics: Some(&mut seen), ..Ctx::default() })?;
        n += 1.0;
        if sums.is_empty() {
            sums = seen;
            continue;
        }
        for (sum, seen) in sums.iter_mut().zip(seen) {
            sum.mean.iter_mut().zip(seen.mean).for_each(|(sum, x)| *sum += x);
            sum.variance.iter_mut().zip(seen.variance).for_each(|(sum, x)| *sum += x);
        }
    }
    for stage in 0..network.stages().len() {
        for layer in network.stage_mut(stage).layers_mut() {
            let LayerMut::BatchNorm(norm) = layer else { continue };
            let Some(sum) = sums.iter().find(|sum| sum.norm == norm.name()) else { continue };
            let device = norm.mean.val().device();
            let tensor = |values: &[f32]| {
                let mean: Vec<f32> = values.iter().map(|x| x / n).collect();
                Param::from_tensor(Tensor::from_data(TensorData::new(mean, [values.len()]), &device))
            };
            (norm.mean, norm.variance) = (tensor(&sum.mean), tensor(&sum.variance));
        }
    }
    Ok(network)
}
