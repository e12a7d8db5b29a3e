//! What is minimized.

use burn::tensor::{Int, Tensor, activation};
use trimtab_nn::{BatchStatistics, Capture, Ctx};

use crate::data::TokenBatch;
use crate::error::Result;
use crate::gradients::Gradients;

/// The loss of one batch.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Mean over the terms, `[1]`.
    pub mean: Tensor<1>,
    /// Terms of the mean; passes of one step are weighted by it, so that their number does not change the gradient.
    pub terms: usize,
    /// Terms that the model got right, where that means something.
    pub correct: Option<usize>,
}

impl Loss {
    /// A mean over so many terms.
    pub fn new(mean: Tensor<1>, terms: usize) -> Self {
        Self { mean, terms, correct: None }
    }

    /// The same loss, with the number of terms that the model got right.
    pub fn with_correct(self, correct: usize) -> Self {
        Self { correct: Some(correct), ..self }
    }
}

/// What an objective is told of the pass that it computes, and where the network leaves what other slots need.
#[derive(Debug, Default)]
pub struct Pass {
    /// Whether gradients are wanted: batch norms then normalize by the batch.
    pub training: bool,
    /// Which of the [`Objective::parts`] of a step this is, from 0.
    pub part: usize,
    /// Steps done before this one.
    pub step: usize,
    /// Number of the phase, counted over all rounds, from 0.
    pub phase: usize,
    /// Share of the samples of the run that were seen before this step, in `[0, 1)`.
    pub progress: f64,
    /// Seed of the run, for objectives that draw.
    pub seed: u64,
    /// What batch norms saw.
    pub statistics: Vec<BatchStatistics>,
    /// What single samples do, if it is asked for.
    pub capture: Option<Capture>,
}

impl Pass {
    /// The context for a forward pass of a network.
    pub fn ctx(&mut self) -> Ctx<'_> {
        Ctx {
            batch_statistics: self.training.then_some(&mut self.statistics),
            capture: self.capture.as_mut(),
            ..Ctx::default()
        }
    }
}

/// A loss of a module on a batch. The module is seen as a whole, so that penalties on parameters are objectives too.
pub trait Objective<M, B> {
    /// The mean loss and the number of its terms.
    ///
    /// # Errors
    /// Whatever the forward pass meets.
    fn loss(&self, model: &M, batch: &B, pass: &mut Pass) -> Result<Loss>;

    /// Backward passes over the same batch in every pass of a step: one for each form of the module that is trained at once, such
    /// as the widths of a switchable network. Their gradients add up.
    fn parts(&self) -> usize {
        1
    }

    /// Changes the gradients of one part before they are added to those of the others. `rate` gives the rate that a parameter has
    /// in this step.
    fn weigh(&self, _part: usize, _gradients: &mut Gradients, _rate: &dyn Fn(&str) -> f64) {}

    /// Changes the module and its gradients before the update: the place of methods that watch gradients, and whose state is
    /// parameters without a gradient, so that it is saved, resumed and shared like all others. Gradients are those after the
    /// exchange, clipping and noise.
    ///
    /// # Errors
    /// Whatever makes the step impossible.
    fn before_update(&self, model: M, _gradients: &mut Gradients, _step: &StepInfo) -> Result<M> {
        Ok(model)
    }

    /// The module after a step, moved to where its parameters are allowed to be; by default they may be anywhere.
    fn project(&self, model: M) -> M {
        model
    }
}

impl<M, B, O: Objective<M, B>> Objective<M, B> for &O {
    fn loss(&self, model: &M, batch: &B, pass: &mut Pass) -> Result<Loss> {
        (**self).loss(model, batch, pass)
    }

    fn parts(&self) -> usize {
        (**self).parts()
    }

    fn weigh(&self, part: usize, gradients: &mut Gradients, rate: &dyn Fn(&str) -> f64) {
        (**self).weigh(part, gradients, rate);
    }

    fn before_update(&self, model: M, gradients: &mut Gradients, step: &StepInfo) -> Result<M> {
        (**self).before_update(model, gradients, step)
    }

    fn project(&self, model: M) -> M {
        (**self).project(model)
    }
}

/// What an objective is told of a step before its update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepInfo {
    /// Steps done before this one.
    pub step: usize,
    /// Number of the phase, counted over all rounds, from 0.
    pub phase: usize,
    /// Seed of the run.
    pub seed: u64,
    /// Mean loss of the step.
    pub loss: f64,
}

/// Cross-entropy of the next token; the field maps a model, token ids `[B, T]` and a context to logits `[B, T, V]`.
#[derive(Clone, Copy, Debug)]
pub struct NextToken<F>(pub F);

impl<M, F> Objective<M, TokenBatch> for NextToken<F>
where
    F: Fn(&M, Tensor<2, Int>, &mut Ctx<'_>) -> trimtab_nn::Result<Tensor<3>>,
{
    fn loss(&self, model: &M, batch: &TokenBatch, pass: &mut Pass) -> Result<Loss> {
        let logits = (self.0)(model, batch.inputs.clone(), &mut pass.ctx())?;
        let terms = batch.targets.dims().iter().product();
        Ok(Loss::new(cross_entropy(logits, batch.targets.clone()), terms))
    }
}

/// Mean negative log-likelihood, nats per token: `logits` `[B, T, V]`, `targets` `[B, T]`; returns `[1]`.
pub fn cross_entropy(logits: Tensor<3>, targets: Tensor<2, Int>) -> Tensor<1> {
    let [b, t, v] = logits.dims();
    let log_probabilities = activation::log_softmax(logits.reshape([b * t, v]), 1);
    log_probabilities.gather(1, targets.reshape([b * t, 1])).mean().neg()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[test]
    fn cross_entropy_by_hand() {
        // Logits (0, ln 3): probabilities 1/4 and 3/4. Targets 1 then 0: mean of -ln 3/4 and -ln 1/4.
        let device = Device::flex();
        let row = [0.0, 3.0f32.ln()];
        let logits = Tensor::<3>::from_data(TensorData::new(row.repeat(2), [1, 2, 2]), &device);
        let targets = Tensor::<2, Int>::from_data(TensorData::new(vec![1i64, 0], [1, 2]), &device);
        let loss = cross_entropy(logits, targets).into_scalar::<f32>();
        let expected = -(0.75f64.ln() + 0.25f64.ln()) / 2.0;
        assert!((f64::from(loss) - expected).abs() < 1e-6, "{loss} {expected}");
    }
}
