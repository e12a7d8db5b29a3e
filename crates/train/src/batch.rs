//! How many items a step sees.

use serde::{Deserialize, Serialize};

use crate::adaptive::Adaptive;
use crate::error::{Error, Result};
use crate::per_sample::SampleStatistics;

/// Items of one step, over all processes: a number, or how it is found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum BatchSize {
    /// Always the same.
    Fixed(usize),
    /// Grown when the noise of the gradient outweighs it.
    Adaptive(Adaptive),
}

impl BatchSize {
    /// Items of the first step.
    pub fn first(&self) -> usize {
        match self {
            Self::Fixed(size) => *size,
            Self::Adaptive(adaptive) => adaptive.initial,
        }
    }

    /// Refuses what makes no sense.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Self::Fixed(0) => Err(Error::setting("batch", "must be at least 1")),
            Self::Fixed(_) => Ok(()),
            Self::Adaptive(adaptive) => adaptive.check(),
        }
    }

    /// Whether the step after this one needs statistics of single samples.
    pub(crate) fn asks(&self, step: usize, size: usize) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Adaptive(adaptive) => adaptive.asks(step, size),
        }
    }

    /// Items of the next step, after one of `size` items with these statistics.
    pub(crate) fn next(&self, size: usize, seen: Option<&SampleStatistics>) -> usize {
        match (self, seen) {
            (Self::Adaptive(adaptive), Some(seen)) => adaptive.next(size, seen),
            _ => size,
        }
    }
}
