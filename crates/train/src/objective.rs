//! What is minimized.

use burn::tensor::{Int, Tensor, activation};

use crate::data::TokenBatch;
use crate::error::Result;

/// The loss of one batch.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Mean over the terms, `[1]`.
    pub mean: Tensor<1>,
    /// Terms of the mean; passes of one step are weighted by it, so that their number does not change the gradient.
    pub terms: usize,
}

/// A loss of a module on a batch. The module is seen as a whole, so that penalties on parameters are objectives too.
pub trait Objective<M, B> {
    /// The mean loss and the number of its terms.
    ///
    /// # Errors
    /// Whatever the forward pass meets.
    fn loss(&self, model: &M, batch: &B) -> Result<Loss>;
}

/// Cross-entropy of the next token; the field maps a model and token ids `[B, T]` to logits `[B, T, V]`.
#[derive(Clone, Copy, Debug)]
pub struct NextToken<F>(pub F);

impl<M, F> Objective<M, TokenBatch> for NextToken<F>
where
    F: Fn(&M, Tensor<2, Int>) -> trimtab_nn::Result<Tensor<3>>,
{
    fn loss(&self, model: &M, batch: &TokenBatch) -> Result<Loss> {
        let logits = (self.0)(model, batch.inputs.clone())?;
        let terms = batch.targets.dims().iter().product();
        Ok(Loss { mean: cross_entropy(logits, batch.targets.clone()), terms })
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
