//! The families of compressors as settings: levels, sizes, and what pays.

use serde::{Deserialize, Serialize};

use crate::compressor::Compressor;
use crate::error::{Error, Result};
use crate::power_sgd::{PowerSgd, ResidualOf};
use crate::qsgd::{Qsgd, RoundingMode};
use crate::quantizer::{WIDTHS, payload_len};
use crate::top_k::{DENSITY_PARTS, ENTRY_BYTES, TopK, kept};

/// Most candidate levels of one tensor. A wider range is thinned to a geometric series.
pub const MAX_CANDIDATES: usize = 128;

/// A family of compressors, with the level that a uniform policy gives to all tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "snake_case", deny_unknown_fields)]
pub enum Family {
    /// No compression.
    #[default]
    Dense,
    /// Two thin factors. The level is the rank.
    PowerSgd {
        /// Rank, at least 1; cut to the smaller side of each matrix.
        rank: usize,
        /// What a rank keeps.
        #[serde(default)]
        residual_of: ResidualOf,
    },
    /// The largest entries. The level is the density.
    TopK {
        /// Entries kept, in parts of 10,000: 100 is 1%.
        density: usize,
        /// Whether what is not sent is kept for later.
        error_feedback: bool,
    },
    /// Quantized numbers. The level is the width.
    Qsgd {
        /// Bits of a code, 1 to 8.
        bits: usize,
        /// How codes are rounded.
        #[serde(default)]
        rounding: RoundingMode,
        /// Whether what quantization loses is kept for later.
        #[serde(default)]
        error_feedback: bool,
    },
}

impl Family {
    /// The uniform level; 0 for [`Family::Dense`].
    pub fn level(&self) -> usize {
        match *self {
            Family::Dense => 0,
            Family::PowerSgd { rank, .. } => rank,
            Family::TopK { density, .. } => density,
            Family::Qsgd { bits, .. } => bits,
        }
    }

    /// Highest level that makes sense for a matrix `[n, m]`.
    pub fn max_level(&self, n: usize, m: usize) -> usize {
        match self {
            Family::Dense => 0,
            Family::PowerSgd { .. } => n.min(m),
            Family::TopK { .. } => DENSITY_PARTS,
            Family::Qsgd { .. } => *WIDTHS.end(),
        }
    }

    /// Payload of a matrix `[n, m]` at `level`, in bytes: both factors, one rank's selection, or one quantized copy.
    pub fn payload(&self, n: usize, m: usize, level: usize) -> u64 {
        match self {
            Family::Dense => 4 * n as u64 * m as u64,
            Family::PowerSgd { .. } => 4 * level as u64 * (n as u64 + m as u64),
            Family::TopK { .. } => (ENTRY_BYTES * kept(n * m, level)) as u64,
            Family::Qsgd { .. } => payload_len(n * m, level) as u64,
        }
    }

    /// Whether `[n, m]` is compressed: `min_rate * payload < uncompressed` at the uniform level. 0 compresses all
    /// matrices; vectors (one side is 1) are never compressed: they are few numbers, and sensitive ones.
    pub fn pays(&self, n: usize, m: usize, min_rate: u32) -> bool {
        let payload = self.payload(n, m, self.level().min(self.max_level(n, m)));
        !matches!(self, Family::Dense)
            && n > 1
            && m > 1
            && u64::from(min_rate) * payload < 4 * n as u64 * m as u64
    }

    /// Candidate levels of `[n, m]`, rising, in `floor(gamma * level)..=ceil(beta * level)` as far as they exist; the
    /// uniform level, which is cut to the matrix, is always among them. Of levels with one payload one is left.
    pub fn candidates(&self, n: usize, m: usize, gamma: f64, beta: f64) -> Vec<usize> {
        let most = self.max_level(n, m).max(1);
        let uniform = self.level().clamp(1, most);
        let low = ((gamma * self.level() as f64).floor() as usize).clamp(1, uniform);
        let high = ((beta * self.level() as f64).ceil() as usize).clamp(uniform, most);
        let mut levels: Vec<usize> = if high - low < MAX_CANDIDATES {
            (low..=high).collect()
        } else {
            let ratio = high as f64 / low as f64;
            let part = |i: usize| i as f64 / (MAX_CANDIDATES - 2) as f64;
            (0..MAX_CANDIDATES - 1).map(|i| (low as f64 * ratio.powf(part(i))).round() as usize).collect()
        };
        levels.push(uniform);
        levels.sort_unstable();
        levels.dedup();
        let payload = |level: usize| self.payload(n, m, level);
        let own = payload(uniform);
        levels.retain(|&level| level == uniform || payload(level) != own);
        levels.dedup_by_key(|level| payload(*level));
        levels
    }

    /// The compressor without state; `None` for [`Family::Dense`]. `seed` must be the same on all ranks.
    pub fn compressor(&self, seed: u64) -> Option<Box<dyn Compressor>> {
        match *self {
            Family::Dense => None,
            Family::PowerSgd { residual_of, .. } => Some(Box::new(PowerSgd::new(seed, residual_of))),
            Family::TopK { error_feedback, .. } => Some(Box::new(TopK::new(error_feedback))),
            Family::Qsgd { rounding, error_feedback, .. } => {
                Some(Box::new(Qsgd::new(seed, rounding, error_feedback)))
            }
        }
    }

    /// Refuses levels that no tensor can have.
    pub fn validate(&self) -> Result<()> {
        match *self {
            Family::PowerSgd { rank: 0, .. } => Err(Error::setting("power sgd: rank", 0, "at least 1")),
            Family::TopK { density, .. } if density == 0 || density > DENSITY_PARTS => {
                Err(Error::setting("top k: density", density, "1 to 10000 parts of 10000"))
            }
            Family::Qsgd { bits, .. } if !WIDTHS.contains(&bits) => {
                Err(Error::setting("qsgd: bits", bits, "1 to 8"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POWER: Family = Family::PowerSgd { rank: 4, residual_of: ResidualOf::Mean };

    #[test]
    fn what_pays_by_hand() {
        // 4 (n + m) * 2 < n m: 16 x 16 does not (256 = 256), 16 x 17 does (264 < 272).
        assert!(!POWER.pays(16, 16, 2) && POWER.pays(16, 17, 2) && POWER.pays(2, 2, 0));
        let top_k = Family::TopK { density: 1, error_feedback: true };
        assert!(top_k.pays(2, 1000, 2) && !top_k.pays(1, 1000, 2) && !top_k.pays(1000, 1, 0));
        assert!(!Family::Dense.pays(1000, 1000, 0));
        assert_eq!(POWER.payload(10, 20, 3), 360);
        assert_eq!(
            Family::Qsgd { bits: 4, rounding: RoundingMode::Nearest, error_feedback: false }
                .payload(30, 20, 4),
            316
        );
    }

    #[test]
    fn candidates_are_cut_to_the_matrix_and_keep_the_uniform_level() {
        assert_eq!(POWER.candidates(100, 100, 0.5, 2.0), [2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(POWER.candidates(100, 6, 0.5, 2.0), [2, 3, 4, 5, 6]);
        assert_eq!(POWER.candidates(3, 100, 0.9, 2.0), [3]);
        let top_k = Family::TopK { density: 100, error_feedback: true };
        let wide = top_k.candidates(1000, 1000, 0.1, 10.0);
        assert!(wide.len() <= MAX_CANDIDATES && wide.contains(&100));
        assert_eq!((wide[0], wide[wide.len() - 1]), (10, 1000));
        // 60 entries: densities that keep equally many are one option.
        let narrow = top_k.candidates(6, 10, 0.1, 10.0);
        assert_eq!(narrow.iter().map(|&l| kept(60, l)).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    }
}
