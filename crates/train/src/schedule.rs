//! The rate by samples seen.

use serde::{Deserialize, Serialize};

/// How the rate changes over a phase, as a factor of its peak.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// The peak throughout.
    Constant,
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
        match *self {
            Self::Constant => 1.0,
            Self::Cosine { warmup, floor } => {
                let position = seen as f64 / total.max(1) as f64;
                if position < warmup {
                    return position / warmup;
                }
                let angle = std::f64::consts::PI * (position - warmup) / (1.0 - warmup);
                floor + (1.0 - floor) * 0.5 * (1.0 + angle.cos())
            }
        }
    }

    /// What makes no sense, if anything.
    pub(crate) fn problem(&self) -> Option<String> {
        match *self {
            Self::Cosine { warmup, .. } if !(0.0..1.0).contains(&warmup) => {
                Some(format!("warmup {warmup} lies outside of [0, 1)"))
            }
            Self::Cosine { floor, .. } if !(0.0..=1.0).contains(&floor) => {
                Some(format!("floor {floor} lies outside of [0, 1]"))
            }
            _ => None,
        }
    }
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
    }
}
