//! Batches that grow when the noise of the gradient outweighs the gradient (paper 41).
//!
//! Source: Lau, Liu and Kolar, "AdAdaGrad: adaptive batch size schemes for adaptive gradient methods", arXiv:2402.11215;
//! the tests are those of Byrd et al. (2012) and Bollapragada, Byrd and Nocedal (arXiv:1710.11258).
//!
//! With `S` the variance of single gradients, summed over all coordinates (unbiased), and `G` the squared norm of their
//! mean over `b` samples, the norm test wants `S / b <= eta^2 G`; where it fails, the next batch is the one that would pass.
//! Two numbers a sample are enough ([`SampleStatistics`]). Variances are those of the whole gradient, not sums of
//! variances by tensor as in the released code: covariances between tensors count.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::per_sample::SampleStatistics;

/// Which test a batch has to pass.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Test {
    /// `S / b <= eta^2 G`.
    Norm {
        /// In (0, 1); smaller grows faster.
        eta: f64,
    },
    /// The inner-product test with the orthogonality test.
    Augmented {
        /// Limit of the relative deviation along the gradient.
        theta: f64,
        /// Limit of the deviation across the gradient.
        nu: f64,
    },
}

/// A batch that grows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adaptive {
    /// Items of the first step.
    pub initial: usize,
    /// Items of a step at most. Once there, nothing is tested any more.
    pub max: usize,
    /// The test.
    pub test: Test,
    /// Steps between tests.
    #[serde(default = "one")]
    pub interval: usize,
    /// How many times its size a batch may grow in one step, rounded up; 1 holds the size. The paper has no such limit.
    #[serde(default = "two")]
    pub growth_cap: f64,
    /// Sizes are rounded up to multiples of this.
    #[serde(default = "one")]
    pub grid: usize,
}

fn one() -> usize {
    1
}

fn two() -> f64 {
    2.0
}

impl Adaptive {
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |name: &str, message: String| Err(Error::setting(format!("batch.{name}"), message));
        let positive = |x: f64| x > 0.0 && x.is_finite();
        match self.test {
            // The variance of fewer than two samples is not defined.
            _ if self.initial < 2 => wrong("initial", format!("must be at least 2, found {}", self.initial)),
            _ if self.max < self.initial => {
                wrong("max", format!("must be at least initial ({}), found {}", self.initial, self.max))
            }
            _ if self.interval == 0 => wrong("interval", "must be at least 1".into()),
            _ if self.grid == 0 => wrong("grid", "must be at least 1".into()),
            _ if self.growth_cap.is_nan() || self.growth_cap < 1.0 => {
                wrong("growth_cap", format!("must be at least 1, found {}", self.growth_cap))
            }
            Test::Norm { eta } if !(eta > 0.0 && eta < 1.0) => {
                wrong("test.eta", format!("must lie in (0, 1), found {eta}"))
            }
            Test::Augmented { theta, nu } if !positive(theta) || !positive(nu) => {
                wrong("test", format!("theta and nu must be positive, found {theta} and {nu}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the step with this number and size is tested.
    pub(crate) fn asks(&self, step: usize, size: usize) -> bool {
        size < self.max && step.is_multiple_of(self.interval)
    }

    /// The smallest batch that passes the test, as a real number.
    pub fn needed(&self, seen: &SampleStatistics) -> f64 {
        let signal = seen.signal().max(1e-30);
        match self.test {
            Test::Norm { eta } => seen.variance() / (eta * eta * signal),
            Test::Augmented { theta, nu } => {
                let along = seen.variance_along() / (theta * theta * signal * signal);
                let across = seen.variance_across() / (nu * nu * signal);
                along.max(across)
            }
        }
    }

    /// Items of the step after one of `size` items: never fewer.
    pub fn next(&self, size: usize, seen: &SampleStatistics) -> usize {
        let needed = self.needed(seen).ceil();
        if needed.is_nan() || needed <= size as f64 {
            return size;
        }
        let grown = needed.min((self.growth_cap * size as f64).ceil()) as usize;
        if grown <= size {
            return size;
        }
        grown.next_multiple_of(self.grid).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_lets_the_smallest_batch_grow_and_a_cap_of_one_holds_it() {
        let adaptive = |growth_cap, grid| {
            let test = Test::Norm { eta: 0.5 };
            Adaptive { initial: 4, max: 1000, test, interval: 1, growth_cap, grid }
        };
        // A variance of 300 over a signal of 1: the test asks for 1200 items.
        let noisy = SampleStatistics {
            samples: 4.0,
            squared_norms: 904.0,
            mean_squared_norm: 1.0,
            ..SampleStatistics::default()
        };
        let next = |growth_cap, grid| adaptive(growth_cap, grid).next(4, &noisy);
        assert_eq!([next(1.2, 1), next(2.0, 1), next(1.2, 8), next(1e9, 1)], [5, 8, 8, 1000]);
        assert_eq!([next(1.0, 1), next(1.0, 8)], [4, 4]);
        let quiet = SampleStatistics { squared_norms: 4.3, ..noisy };
        assert_eq!(adaptive(1.2, 1).next(4, &quiet), 4, "what passes the test does not grow");
        assert!(adaptive(1.0, 1).check().is_ok() && adaptive(0.9, 1).check().is_err());
    }
}
