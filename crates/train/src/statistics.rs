//! From what layers captured to the two numbers a sample that the tests of a batch need.

use burn::tensor::Tensor;
use trimtab_nn::{BatchStatistics, Resolved};

use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::per_sample::SampleStatistics;
use crate::workers::Workers;

/// Captures of the passes of one step. They are kept until the mean gradient is known.
#[derive(Default)]
pub(crate) struct Gatherer {
    passes: Vec<(Resolved, usize)>,
}

impl Gatherer {
    /// Takes what a pass over `samples` items left; gradients are those of the mean over them.
    pub fn add(&mut self, resolved: Resolved, samples: usize, norms: &[BatchStatistics]) -> Result<()> {
        if let Some(norm) = norms.first() {
            let message = format!(
                "single samples have no gradient where \"{}\" normalizes by the batch\nhint: a batch that adapts needs a network without batch norms",
                norm.norm
            );
            return Err(Error::setting("batch", message));
        }
        self.passes.push((resolved, samples));
        Ok(())
    }

    /// The statistics over all samples of the step and all processes, given the mean gradient.
    pub fn finish(self, mean: &Gradients, workers: &mut dyn Workers) -> Result<SampleStatistics> {
        let direction = |path: &str| -> Option<Tensor<1>> {
            mean.iter().find(|(name, _)| *name == path).map(|(_, gradient)| gradient.values.clone())
        };
        let mut sums = [0.0; 4];
        for (resolved, samples) in &self.passes {
            if let Some((path, _)) = mean.iter().find(|(path, _)| !resolved.knows(path)) {
                let message = format!("there are no statistics of single samples for \"{path}\"");
                return Err(Error::setting("batch", message));
            }
            // The gradient of the mean is that of one sample over their number.
            let n = *samples as f64;
            let norms = resolved.squared_norms(|path| direction(path).is_some())?;
            let products = resolved.products(direction);
            sums[0] += n;
            sums[1] += norms.iter().sum::<f64>() * n * n;
            sums[2] += products.iter().sum::<f64>() * n;
            sums[3] += products.iter().map(|s| (s * n).powi(2)).sum::<f64>();
        }
        workers.sum(&mut sums)?;
        let norm = mean.norm();
        Ok(SampleStatistics {
            samples: sums[0],
            squared_norms: sums[1],
            mean_squared_norm: norm * norm,
            products: sums[2],
            squared_products: sums[3],
        })
    }
}
