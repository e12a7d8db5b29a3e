//! Processes (or threads) that exchange their gradients, compressed or not.

use burn::tensor::{Tensor, TensorData};
use trimtab_exchange::{Communicator, Exchange, ExchangeConfig, Named};

use crate::error::{Error, Result};
use crate::gradients::{Gradient, Gradients};
use crate::workers::Workers;

/// A group of ranks, and how their gradients become one.
///
/// What a compressing exchange keeps from step to step (residuals, factors, levels) is not part of the saved state of a run yet:
/// a resumed run begins without.
pub struct Ranks<C> {
    group: C,
    exchange: Exchange,
}

impl<C: Communicator> Ranks<C> {
    /// This rank of a group.
    ///
    /// # Errors
    /// Settings that make no sense.
    pub fn new(group: C, config: ExchangeConfig) -> Result<Self> {
        Ok(Self { group, exchange: Exchange::new(config)? })
    }

    /// What was exchanged so far, and how.
    pub fn exchange(&self) -> &Exchange {
        &self.exchange
    }
}

impl<C: Communicator> Workers for Ranks<C> {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn size(&self) -> usize {
        self.group.size()
    }

    fn exchange(&mut self, gradients: &mut Gradients) -> Result<()> {
        // Ranks may have seen different numbers of terms: the mean of the ranks' weighted gradients is that over all terms.
        let mut terms = [gradients.terms()];
        self.sum(&mut terms)?;
        gradients.scale(gradients.terms() * self.size() as f64 / terms[0]);
        let mut values: Vec<Vec<f32>> = gradients.iter().map(|(_, gradient)| host(gradient)).collect();
        let parts = gradients.iter().zip(&mut values);
        let mut tensors: Vec<Named<'_>> =
            parts.map(|((name, gradient), values)| Named { name, shape: &gradient.shape, values }).collect();
        self.exchange.exchange(&mut tensors, &self.group)?;
        for ((_, gradient), values) in gradients.iter_mut().zip(values) {
            let (n, device) = (values.len(), gradient.values.device());
            gradient.values = Tensor::from_data(TensorData::new(values, [n]), &device);
        }
        Ok(())
    }

    fn sum(&mut self, numbers: &mut [f64]) -> Result<()> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let all = self.group.all_gather(&bytes)?;
        numbers.fill(0.0);
        // In the order of the ranks, so that all have the same bits.
        for bytes in all {
            for (sum, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
                *sum += f64::from_le_bytes(bytes.try_into().expect("eight bytes each"));
            }
        }
        Ok(())
    }
}

fn host(gradient: &Gradient) -> Vec<f32> {
    gradient.values.to_data().iter::<f32>().collect()
}

impl From<trimtab_exchange::Error> for Error {
    fn from(error: trimtab_exchange::Error) -> Self {
        Self::Exchange(Box::new(error))
    }
}
