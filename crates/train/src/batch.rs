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
    /// Grown by a plan.
    Ramp(Ramp),
}

/// A batch that grows geometrically: `initial * growth^k` items at step `k`, rounded down.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// Items of the first step.
    pub initial: usize,
    /// Items of a step at most.
    pub max: usize,
    /// Factor from step to step, at least 1.
    pub growth: f64,
}

impl Ramp {
    /// Items of the step with this number, from 0.
    pub fn at(&self, step: usize) -> usize {
        let size = self.initial as f64 * self.growth.powf(step as f64);
        // What is larger than any integer saturates.
        (size as usize).clamp(self.initial, self.max)
    }

    fn check(&self) -> Result<()> {
        let wrong = |name: &str, message: String| Err(Error::setting(format!("batch.{name}"), message));
        match *self {
            Self { initial: 0, .. } => wrong("initial", "must be at least 1".into()),
            Self { initial, max, .. } if max < initial => {
                wrong("max", format!("must be at least initial ({initial}), found {max}"))
            }
            Self { growth, .. } if !(growth >= 1.0 && growth.is_finite()) => {
                wrong("growth", format!("must be at least 1, found {growth}"))
            }
            _ => Ok(()),
        }
    }
}

impl BatchSize {
    /// Items of the first step.
    pub fn first(&self) -> usize {
        match self {
            Self::Fixed(size) => *size,
            Self::Adaptive(adaptive) => adaptive.initial,
            Self::Ramp(ramp) => ramp.initial,
        }
    }

    /// Refuses what makes no sense.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Self::Fixed(0) => Err(Error::setting("batch", "must be at least 1")),
            Self::Fixed(_) => Ok(()),
            Self::Adaptive(adaptive) => adaptive.check(),
            Self::Ramp(ramp) => ramp.check(),
        }
    }

    /// Whether the step after this one needs statistics of single samples.
    pub(crate) fn asks(&self, step: usize, size: usize) -> bool {
        match self {
            Self::Fixed(_) | Self::Ramp(_) => false,
            Self::Adaptive(adaptive) => adaptive.asks(step, size),
        }
    }

    /// Items of the step after the one with the number `step`, if that is known before it is done: it sees `size` items, and would
    /// see `batch` if the phase had as many left.
    pub(crate) fn certain(&self, step: usize, size: usize, batch: usize) -> Option<usize> {
        (!self.asks(step, size)).then(|| self.next(step, batch, None))
    }

    /// Items of the step after the one with the number `step`, of `size` items with these statistics.
    pub(crate) fn next(&self, step: usize, size: usize, seen: Option<&SampleStatistics>) -> usize {
        match (self, seen) {
            (Self::Adaptive(adaptive), Some(seen)) => adaptive.next(size, seen),
            (Self::Ramp(ramp), _) => ramp.at(step + 1),
            _ => size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_grows_by_its_plan() {
        let ramp = Ramp { initial: 16, max: 100, growth: 1.5 };
        assert_eq!([0, 1, 2, 3, 5, 10_000].map(|step| ramp.at(step)), [16, 24, 36, 54, 100, 100]);
        let batch = BatchSize::Ramp(ramp);
        assert_eq!((batch.first(), batch.next(0, 16, None), batch.next(1, 24, None)), (16, 24, 36));
        assert!(!batch.asks(0, 16));
        assert!(batch.check().is_ok());
        for wrong in [Ramp { initial: 0, ..ramp }, Ramp { max: 15, ..ramp }, Ramp { growth: 0.9, ..ramp }] {
            assert!(BatchSize::Ramp(wrong).check().is_err(), "{wrong:?}");
        }
        let written = serde_json::to_string(&batch).unwrap();
        assert_eq!(serde_json::from_str::<BatchSize>(&written).unwrap(), batch);
    }
}
