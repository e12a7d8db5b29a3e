//! Batch norms of a changed network: their statistics, measured anew (BN tuning, paper 28).
//!
//! Source: Hubara et al., arXiv:2006.10518, section 3.4. Codes move the mean and the spread of what a convolution gives; a batch norm
//! that still divides by the old ones passes the error on. A forward pass over calibration data, the norms going by each batch as in
//! training, tells the new ones; gains and biases stay. The paper takes a running average over the batches, here all batches count
//! alike. What is measured depends on the data more than anything else of this method: a few dozen images at least.

use std::collections::BTreeMap;

use trimtab_nn::{BatchStatistics, HeldMut, LayerMut, Stage, host};

use crate::error::{Error, Result};

/// The variance of a channel stays above this part of what was stored: a channel that is silent on the calibration data would be
/// blown up on others.
const LEAST_VARIANCE: f64 = 0.01;

/// Statistics of several batches.
#[derive(Clone, Debug, Default)]
pub struct Pooled {
    norms: BTreeMap<String, Sums>,
}

#[derive(Clone, Debug, Default)]
struct Sums {
    weight: f64,
    mean: Vec<f64>,
    /// Of the squares: variance and squared mean together.
    square: Vec<f64>,
}

impl Pooled {
    /// Adds what the norms saw of a batch of so many images.
    pub fn add(&mut self, seen: &[BatchStatistics], images: usize) {
        let weight = images as f64;
        for seen in seen {
            let sums = self.norms.entry(seen.norm.clone()).or_default();
            sums.mean.resize(seen.mean.len(), 0.0);
            sums.square.resize(seen.mean.len(), 0.0);
            sums.weight += weight;
            for (i, (&mean, &variance)) in seen.mean.iter().zip(&seen.variance).enumerate() {
                let (mean, variance) = (f64::from(mean), f64::from(variance));
                sums.mean[i] += weight * mean;
                sums.square[i] += weight * (variance + mean * mean);
            }
        }
    }

    /// Mean and variance of each channel of a norm over all batches.
    pub fn of(&self, norm: &str) -> Option<[Vec<f32>; 2]> {
        let sums = self.norms.get(norm).filter(|sums| sums.weight > 0.0)?;
        let mean: Vec<f64> = sums.mean.iter().map(|sum| sum / sums.weight).collect();
        let squares = sums.square.iter().zip(&mean);
        let variance = squares.map(|(sum, mean)| (sum / sums.weight - mean * mean).max(0.0) as f32);
        Some([mean.iter().map(|&m| m as f32).collect(), variance.collect()])
    }

    /// The new buffers of the norms of `stage`, by the name of their tensor.
    ///
    /// # Errors
    /// A norm that was folded into what is before it: what it has stored are no statistics.
    pub fn buffers(&self, stage: &dyn Stage) -> Result<BTreeMap<String, Vec<f32>>> {
        let mut found = BTreeMap::new();
        for layer in stage.layers() {
            let trimtab_nn::Layer::BatchNorm(norm) = layer else { continue };
            let Some([mean, variance]) = self.of(norm.name()) else { continue };
            let [stored_mean, stored] = [&norm.mean, &norm.variance].map(|param| host(param.val()));
            // A folded norm divides by exactly one: its variance is 1 less what is added to it.
            let nearly_one = stored.iter().all(|&v| v == stored[0] && v != 1.0 && (v - 1.0).abs() < 0.01);
            if nearly_one && stored_mean.iter().all(|&m| m == 0.0) {
                let message = format!(
                    "batch norm \"{}\" was folded and holds no statistics of data any more: tune before it is folded",
                    norm.name()
                );
                return Err(Error::Reconstruction { message });
            }
            let least = |(new, stored): (f32, f32)| new.max((LEAST_VARIANCE * f64::from(stored)) as f32);
            let variance = variance.into_iter().zip(stored).map(least).collect();
            found.insert(format!("{}.running_mean", norm.name()), mean);
            found.insert(format!("{}.running_var", norm.name()), variance);
        }
        Ok(found)
    }
}

/// Puts vectors of a stage in place, by the names of their tensors.
///
/// # Errors
/// A name that no vector of the stage has, or another length.
pub fn put_vectors(stage: &mut dyn Stage, vectors: &BTreeMap<String, Vec<f32>>) -> Result<()> {
    let mut left: Vec<&String> = vectors.keys().collect();
    for (name, held) in stage.layers_mut().into_iter().flat_map(LayerMut::held) {
        let (Some(values), HeldMut::Vector(param)) = (vectors.get(&name), held) else { continue };
        let old = param.val();
        if old.dims() != [values.len()] {
            let message = format!("\"{name}\" has {} numbers, {} are given", old.dims()[0], values.len());
            return Err(Error::Reconstruction { message });
        }
        let new = burn::tensor::Tensor::from_floats(values.as_slice(), &old.device());
        *param = burn::module::Param::initialized(burn::module::ParamId::new(), new);
        left.retain(|known| **known != name);
    }
    match left.first() {
        Some(name) => Err(Error::Reconstruction { message: format!("there is no vector \"{name}\"") }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_together_have_the_statistics_of_all_their_numbers() {
        // Two batches of two and four numbers: 1, 3 and 2, 2, 6, 10.
        let statistics = |values: &[f64]| {
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            BatchStatistics { norm: "bn".into(), mean: vec![mean as f32], variance: vec![variance as f32] }
        };
        let mut pooled = Pooled::default();
        pooled.add(&[statistics(&[1.0, 3.0])], 2);
        pooled.add(&[statistics(&[2.0, 2.0, 6.0, 10.0])], 4);
        let [mean, variance] = pooled.of("bn").unwrap();
        let all = statistics(&[1.0, 3.0, 2.0, 2.0, 6.0, 10.0]);
        assert!((mean[0] - all.mean[0]).abs() < 1e-6 && (variance[0] - all.variance[0]).abs() < 1e-5);
        assert!(pooled.of("other").is_none());
    }
}
