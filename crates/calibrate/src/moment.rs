//! The second moment of what a site reads, as a tap.

use trimtab_math::gram::GramAccumulator;
use trimtab_math::linalg::Square;
use trimtab_nn::{SiteMeta, Tap, TapRows};

/// Accumulates `sum w x x^T`, `sum w x` and `sum w` in f64.
pub struct SecondMoment {
    sums: GramAccumulator,
}

impl SecondMoment {
    /// For rows of `width` channels.
    pub fn new(width: usize) -> Self {
        Self { sums: GramAccumulator::new(width) }
    }

    /// The sums.
    pub fn sums(&self) -> &GramAccumulator {
        &self.sums
    }

    /// `H = sum w x x^T / sum w`, `[width, width]`.
    pub fn mean(&self) -> trimtab_math::Result<Square> {
        self.sums.mean()
    }
}

impl Tap for SecondMoment {
    fn input(&mut self, _: &SiteMeta, rows: TapRows<'_>) -> Result<(), String> {
        if rows.width != self.sums.n() {
            return Err(format!("its rows have {} channels, expected {}", rows.width, self.sums.n()));
        }
        self.sums.add(rows.rows, rows.weights).map_err(|e| e.to_string())
    }
}
