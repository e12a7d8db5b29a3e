//! The rate by samples seen.

use serde::{Deserialize, Serialize};

/// How the rate changes over a phase, as a factor of its peak.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// The peak throughout.
    #[default]
    Constant,
    /// A line from 0 over the warm-up, then a line (`power` 1) or another power of it down to `floor`.
    Polynomial {
        /// Share of the samples of the phase that the warm-up takes, in `[0, 1)`.
        #[serde(default)]
        warmup: f64,
        /// Exponent of the decay.
        #[serde(default = "line")]
        power: f64,
        /// Last factor, in `[0, 1]`.
        #[serde(default)]
        floor: f64,
    },
    /// A tenth (or another `factor`) of the rate from each of these shares of the phase on.
    Steps {
        /// Shares of the samples of the phase, in `(0, 1)`, ascending.
        at: Vec<f64>,
        /// What the rate is multiplied with at each.
        #[serde(default = "tenth")]
        factor: f64,
    },
    /// A line from 0 over the warm-up, then half a cosine down to `floor`.
    Cosine {
        /// Share of the samples of the phase that the warm-up takes, in `[0, 1)`.
        #[serde(default)]
        warmup: f64,
        /// Last factor, in `[0, 1]`.
        #[serde(default)]
        floor: f64,
    },
}

impl Schedule {
    /// The factor of a step that ends with `seen` of `total` samples. Steps are counted at their end, so that neither the
    /// first nor (without a floor) any but the last has a rate of 0.
    pub fn factor(&self, seen: u64, total: u64) -> f64 {
        let position = seen as f64 / total.max(1) as f64;
        match *self {
            Self::Constant => 1.0,
            Self::Cosine { warmup, .. } | Self::Polynomial { warmup, .. } if position < warmup => {
                position / warmup
            }
            Self::Cosine { warmup, floor } => {
                let angle = std::f64::consts::PI * (position - warmup) / (1.0 - warmup);
                floor + (1.0 - floor) * 0.5 * (1.0 + angle.cos())
            }
            Self::Polynomial { warmup, power, floor } => {
                let left = ((1.0 - position) / (1.0 - warmup)).max(0.0);
                floor + (1.0 - floor) * left.powf(power)
            }
            // A step belongs to the share that it begins in: the one that ends at a border is before it.
            Self::Steps { ref at, factor } => {
                factor.powi(at.iter().filter(|share| position > **share).count() as i32)
            }
        }
    }

    /// What makes no sense, if anything.
    pub(crate) fn problem(&self) -> Option<String> {
        match *self {
            Self::Cosine { warmup, .. } | Self::Polynomial { warmup, .. }
                if !(0.0..1.0).contains(&warmup) =>
            {
                Some(format!("warmup {warmup} lies outside of [0, 1)"))
            }
            Self::Cosine { floor, .. } | Self::Polynomial { floor, .. } if !(0.0..=1.0).contains(&floor) => {
                Some(format!("floor {floor} lies outside of [0, 1]"))
            }
            Self::Polynomial { power, .. } if !(power > 0.0 && power.is_finite()) => {
                Some(format!("power {power} is not positive"))
            }
            Self::Steps { ref at, factor } => {
                let inside = at.iter().all(|share| *share > 0.0 && *share < 1.0);
                match inside && at.is_sorted() && factor > 0.0 && factor.is_finite() {
                    true => None,
                    false => Some(format!("steps at {at:?} by {factor}: shares ascend within (0, 1)")),
                }
            }
            _ => None,
        }
    }
}

fn line() -> f64 {
    1.0
}

fn tenth() -> f64 {
    0.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_values() {
        let schedule = Schedule::Cosine { warmup: 0.2, floor: 0.1 };
        let close = |seen, expected: f64| {
            let found = schedule.factor(seen, 100);
            assert!((found - expected).abs() < 1e-12, "{seen}: {found} {expected}");
        };
        close(1, 0.05);
        close(10, 0.5);
        close(20, 1.0);
        close(40, 0.1 + 0.9 * 0.5 * (1.0 + std::f64::consts::FRAC_1_SQRT_2));
        close(60, 0.55);
        close(100, 0.1);
        assert_eq!(Schedule::Constant.factor(3, 100), 1.0);
        assert_eq!(Schedule::Cosine { warmup: 0.0, floor: 0.0 }.factor(50, 100), 0.5);
        let line = Schedule::Polynomial { warmup: 0.2, power: 1.0, floor: 0.0 };
        assert_eq!([10, 20, 60, 100].map(|seen| line.factor(seen, 100)), [0.5, 1.0, 0.5, 0.0]);
        let steps = Schedule::Steps { at: vec![0.5, 0.75], factor: 0.1 };
        assert_eq!([50, 51, 75].map(|seen| steps.factor(seen, 100)), [1.0, 0.1, 0.1]);
        assert!((steps.factor(76, 100) - 0.01).abs() < 1e-15);
        assert!(Schedule::Steps { at: vec![0.9, 0.5], factor: 0.1 }.problem().is_some());
    }
}
