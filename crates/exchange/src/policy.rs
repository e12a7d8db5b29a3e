//! Who gets which level, and when that is decided again.

use serde::{Deserialize, Serialize};

use crate::accordion::Accordion;
use crate::error::{Error, Result};
use crate::family::Family;
use crate::tables::LowRankErrors;

/// How levels are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "policy", rename_all = "snake_case", deny_unknown_fields)]
pub enum Policy {
    /// The level of the family for all tensors.
    #[default]
    Uniform,
    /// A low or a high level by the change of the gradient's norm.
    Accordion {
        /// When to look.
        schedule: Schedule,
        /// What counts as change.
        accordion: Accordion,
    },
    /// The fewest bytes at the error of the uniform levels.
    LGreco {
        /// When to measure and decide.
        schedule: Schedule,
        /// What to choose from, and how good it has to be.
        #[serde(default)]
        settings: LGrecoConfig,
    },
}

/// Steps at which levels are decided: `start`, `start + period`, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// Steps exchanged before the first decision.
    pub start: u64,
    /// Steps between decisions, at least 1.
    pub period: u64,
    /// Last steps before a decision of which gradients are averaged; at least 1, at most `start` and `period`.
    pub window: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { start: 1000, period: 100, window: 10 }
    }
}

impl Schedule {
    /// Whether levels are decided before step `step`.
    pub(crate) fn decides(&self, step: u64) -> bool {
        step >= self.start && (step - self.start).is_multiple_of(self.period)
    }

    /// Whether the gradients of `step` count for the next decision.
    pub(crate) fn observes(&self, step: u64) -> bool {
        // The next decision after this step is at most `window` steps away.
        let next = if step < self.start {
            self.start
        } else {
            self.start + ((step - self.start) / self.period + 1) * self.period
        };
        next - step <= self.window
    }
}

/// Settings of L-GreCo: what it chooses from, and how good that has to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LGrecoConfig {
    /// Lowest candidate as a multiple of the uniform level, in `(0, 1]`.
    pub gamma: f64,
    /// Highest candidate as a multiple of the uniform level, at least 1.
    pub beta: f64,
    /// The error allowed, as a multiple of that of the uniform levels. Below 1, there may be no choice within it; then
    /// levels stay as they are.
    pub alpha: f64,
    /// How errors of low-rank factors are found.
    pub low_rank: LowRankErrors,
    /// Allow the error of Accordion's levels instead of that of the uniform ones. The range has to hold these levels:
    /// with the paper's factors, `gamma` 1/4 and `beta` 4.
    pub accordion: Option<Accordion>,
}

impl Default for LGrecoConfig {
    fn default() -> Self {
        Self { gamma: 0.5, beta: 2.0, alpha: 1.0, low_rank: LowRankErrors::default(), accordion: None }
    }
}

/// Settings of an [`crate::Exchange`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExchangeConfig {
    /// The compressor and its uniform level.
    pub family: Family,
    /// Who gets which level.
    pub policy: Policy,
    /// A matrix is compressed if this many times its payload is less than its dense size; 0 compresses all matrices.
    pub min_rate: u32,
    /// Seed of all random streams; the same on all ranks.
    pub seed: u64,
}

impl Default for ExchangeConfig {
    fn default() -> Self {
        Self { family: Family::Dense, policy: Policy::Uniform, min_rate: 2, seed: 0 }
    }
}

impl Policy {
    /// When levels are decided; `None` if never.
    pub fn schedule(&self) -> Option<&Schedule> {
        match self {
            Policy::Uniform => None,
            Policy::Accordion { schedule, .. } | Policy::LGreco { schedule, .. } => Some(schedule),
        }
    }

    /// Refuses schedules and ranges that mean nothing.
    pub fn validate(&self) -> Result<()> {
        if let Some(schedule) = self.schedule() {
            let most = schedule.start.min(schedule.period);
            if !(1..=most).contains(&schedule.window) {
                let found = format!("{schedule:?}");
                return Err(Error::setting("schedule", found, "1 <= window <= start, and window <= period"));
            }
        }
        match self {
            Policy::Uniform => Ok(()),
            Policy::Accordion { accordion, .. } => accordion.validate(),
            Policy::LGreco { settings, .. } => {
                let LGrecoConfig { gamma, beta, alpha, accordion, .. } = *settings;
                let good = 0.0 < gamma && gamma <= 1.0 && beta >= 1.0 && alpha > 0.0;
                if !good || !beta.is_finite() || !alpha.is_finite() {
                    let found = format!("gamma {gamma}, beta {beta}, alpha {alpha}");
                    return Err(Error::setting("l-greco", found, "0 < gamma <= 1 <= beta, 0 < alpha"));
                }
                accordion.map_or(Ok(()), |a| a.validate())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_and_their_windows_by_hand() {
        let schedule = Schedule { start: 5, period: 4, window: 2 };
        let all = |f: &dyn Fn(u64) -> bool| (0..15).filter(|&s| f(s)).collect::<Vec<u64>>();
        assert_eq!(all(&|s| schedule.decides(s)), [5, 9, 13]);
        assert_eq!(all(&|s| schedule.observes(s)), [3, 4, 7, 8, 11, 12]);
        let always = Schedule { start: 1, period: 1, window: 1 };
        assert!((0..9).all(|s| always.observes(s)) && always.decides(1) && !always.decides(0));
    }

    #[test]
    fn senseless_policies_are_refused() {
        let policy = |window| Policy::LGreco {
            schedule: Schedule { start: 5, period: 4, window },
            settings: LGrecoConfig::default(),
        };
        assert!(
            policy(4).validate().is_ok() && policy(5).validate().is_err() && policy(0).validate().is_err()
        );
        let settings = LGrecoConfig { gamma: 1.5, ..LGrecoConfig::default() };
        assert!(Policy::LGreco { schedule: Schedule::default(), settings }.validate().is_err());
    }
}
