//! Accordion: light compression while the gradient changes, heavy compression while it does not.
//!
//! Source: Agarwal et al., arXiv:2010.16248: a tensor is in a critical regime if the norm of its gradient has changed
//! by at least `threshold` of itself since the last look.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Settings of Accordion.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Accordion {
    /// Relative change of the norm from which a regime is critical; above 0.
    pub threshold: f64,
    /// Level outside critical regimes, as a multiple of the uniform one.
    pub low: f64,
    /// Level in critical regimes, as a multiple of the uniform one.
    pub high: f64,
}

impl Default for Accordion {
    fn default() -> Self {
        Self { threshold: 0.5, low: 0.5, high: 2.0 }
    }
}

impl Accordion {
    /// The level for a gradient whose norm was `old` at the last look (`None`: there was none) and is `new` now.
    pub fn level(&self, uniform: usize, old: Option<f64>, new: f64) -> usize {
        let calm = old.is_some_and(|old| (new - old).abs() < self.threshold * old || new == old);
        let factor = if calm { self.low } else { self.high };
        ((factor * uniform as f64).floor() as usize).max(1)
    }

    /// Refuses settings that mean nothing.
    pub fn validate(&self) -> Result<()> {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        if positive(self.threshold) && positive(self.low) && positive(self.high) && self.low <= self.high {
            return Ok(());
        }
        Err(Error::setting("accordion", format!("{self:?}"), "threshold > 0 and 0 < low <= high"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let accordion = Accordion::default();
        let level = |old, new| accordion.level(4, old, new);
        assert_eq!((level(None, 1.0), level(Some(1.0), 1.0), level(Some(1.0), 1.49)), (8, 2, 2));
        assert_eq!((level(Some(1.0), 1.5), level(Some(1.0), 0.5), level(Some(0.0), 1.0)), (8, 8, 8));
        assert_eq!((level(Some(0.0), 0.0), accordion.level(1, Some(1.0), 1.0)), (2, 1));
        assert!(
            accordion.validate().is_ok() && Accordion { threshold: 0.0, ..accordion }.validate().is_err()
        );
    }
}
