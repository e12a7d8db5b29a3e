//! How step and zero of a slice are found.
//!
//! Sources: min-max; the shrink search of GPTQ's reference program (`grid = 100`, error exponent 2.4) and its weighted form of
//! decoupleQ (`grid = 200`, squares weighted by the power of each input); the percentile search of RepQ-ViT; alternating
//! closed-form least squares as in decoupleQ, here with an integer zero.

mod refit;
mod search;

pub use self::refit::{refit, refit_step};

use serde::{Deserialize, Serialize};

use self::refit::least_squares;
use self::search::{min_max, percentile, power_error, shrink, squared_error};
use crate::affine::{Affine, Grid, RealZero};
use crate::error::{Error, Result};

/// Rule that turns the values of a slice into a step and a zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
pub enum RangeFinder {
    /// From the smallest value to the largest.
    #[default]
    MinMax,
    /// The min-max range times `1 − i/grid`, `0 ≤ i < max_shrink·grid`, that has the least `Σ |x − x̂|^norm`.
    Mse {
        /// Candidates per unit of shrink.
        #[serde(default = "default_grid")]
        grid: usize,
        /// Largest share of the range that is given up.
        #[serde(default = "default_max_shrink")]
        max_shrink: f64,
        /// Error exponent.
        #[serde(default = "default_norm")]
        norm: f64,
    },
    /// The same search for `Σ h (x − x̂)²`, with `h` the power of the weight's input (the diagonal of `H`).
    MseWeighted {
        /// Candidates per unit of shrink.
        #[serde(default = "default_weighted_grid")]
        grid: usize,
        /// Largest share of the range that is given up.
        #[serde(default = "default_max_shrink")]
        max_shrink: f64,
    },
    /// Between the quantiles `1 − p` and `p` (linear interpolation), for the candidate `p` with the least squared error.
    Percentile {
        /// Quantiles to try, each in `(0.5, 1]`.
        #[serde(default = "default_candidates")]
        candidates: Vec<f64>,
    },
    /// From min-max on: fix the codes, solve for the step and zero with the least `Σ h (x − x̂)²` (`h = 1` without input
    /// statistics), choose codes again, as long as that helps.
    LeastSquares {
        /// At most this many rounds.
        #[serde(default = "default_rounds")]
        rounds: usize,
    },
}

fn default_grid() -> usize {
    100
}
fn default_weighted_grid() -> usize {
    200
}
fn default_max_shrink() -> f64 {
    0.8
}
fn default_norm() -> f64 {
    2.4
}
fn default_candidates() -> Vec<f64> {
    vec![0.999, 0.9999, 0.99999]
}
fn default_rounds() -> usize {
    10
}

impl RangeFinder {
    /// [`RangeFinder::Mse`] with the settings of GPTQ's reference program.
    pub fn mse() -> RangeFinder {
        RangeFinder::Mse { grid: default_grid(), max_shrink: default_max_shrink(), norm: default_norm() }
    }

    /// [`RangeFinder::Mse`] with plain squares: several times as fast, for large models.
    pub fn mse_of_squares() -> RangeFinder {
        RangeFinder::Mse { grid: default_grid(), max_shrink: default_max_shrink(), norm: 2.0 }
    }

    /// [`RangeFinder::MseWeighted`] with the settings of decoupleQ.
    pub fn mse_weighted() -> RangeFinder {
        RangeFinder::MseWeighted { grid: default_weighted_grid(), max_shrink: default_max_shrink() }
    }

    /// [`RangeFinder::Percentile`] with the candidates of RepQ-ViT.
    pub fn percentile() -> RangeFinder {
        RangeFinder::Percentile { candidates: default_candidates() }
    }

    /// [`RangeFinder::LeastSquares`] with 10 rounds.
    pub fn least_squares() -> RangeFinder {
        RangeFinder::LeastSquares { rounds: default_rounds() }
    }

    /// Whether it makes no sense without the power of each input.
    pub fn needs_input_power(&self) -> bool {
        matches!(self, RangeFinder::MseWeighted { .. })
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn check(&self) -> Result<()> {
        let bad = |what, expected, found: &dyn ToString| {
            Err(Error::Setting { what, expected, found: found.to_string() })
        };
        match self {
            RangeFinder::Mse { grid: 0, .. } | RangeFinder::MseWeighted { grid: 0, .. } => {
                bad("range finder: grid", "at least 1", &0)
            }
            RangeFinder::Mse { max_shrink, .. } | RangeFinder::MseWeighted { max_shrink, .. }
                if !(*max_shrink > 0.0 && *max_shrink < 1.0) =>
            {
                bad("range finder: max_shrink", "between 0 and 1", max_shrink)
            }
            RangeFinder::Mse { norm, .. } if !(*norm > 0.0 && norm.is_finite()) => {
                bad("range finder: norm", "a finite number > 0", norm)
            }
            RangeFinder::Percentile { candidates } if candidates.is_empty() => {
                bad("range finder: candidates", "at least one", &0)
            }
            RangeFinder::Percentile { candidates } => {
                match candidates.iter().find(|p| !(**p > 0.5 && **p <= 1.0)) {
                    Some(p) => bad("range finder: candidates", "numbers in (0.5, 1]", p),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Step and zero for finite `values`, each of input power `power` (1 if not given). An empty slice counts as `[0]`.
    ///
    /// Among equally good candidates the first, that is the widest range, is taken.
    pub fn fit(&self, values: &[f32], power: Option<&[f32]>, grid: &Grid) -> Affine {
        let (low, high) = min_max(values);
        match self {
            RangeFinder::MinMax => grid.affine(low, high),
            RangeFinder::Mse { grid: steps, max_shrink, norm } => {
                shrink(low, high, *steps, *max_shrink, grid, |a, bound| {
                    power_error(values, a, grid, *norm, bound)
                })
            }
            RangeFinder::MseWeighted { grid: steps, max_shrink } => {
                shrink(low, high, *steps, *max_shrink, grid, |a, _| squared_error(values, power, a, grid))
            }
            RangeFinder::Percentile { candidates } => percentile(values, candidates, grid),
            RangeFinder::LeastSquares { rounds } => {
                least_squares(values, power, grid, grid.affine(low, high), *rounds)
            }
        }
    }
}

impl RangeFinder {
    /// The least and the largest of `values` and 0.
    pub(crate) fn extremes(values: &[f32]) -> (f32, f32) {
        min_max(values)
    }

    /// The same with a real zero: from the smallest value to the largest, or what [`Self::fit`] finds, whose integer zero is a
    /// real one too.
    pub fn fit_real(&self, values: &[f32], power: Option<&[f32]>, grid: &Grid) -> RealZero {
        if *self == RangeFinder::MinMax {
            let (low, high) = min_max(values);
            return RealZero::of_range(low, high, grid);
        }
        let Affine { scale, zero } = self.fit(values, power, grid);
        let zero = scale * (f32::from(grid.middle()) - f32::from(zero));
        RealZero { scale, zero: grid.scale_dtype.round_signed(zero) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affine::ScaleDtype;
    use trimtab_math::random::Stream;

    /// Normal values with a few outliers, and the power of their inputs.
    pub(super) fn sample(n: usize, seed: u64) -> (Vec<f32>, Vec<f32>) {
        let mut stream = Stream::new(seed, "test/range", n as u64, 0);
        let values = (0..n).map(|i| (stream.normal() * if i % 37 == 5 { 6.0 } else { 1.0 }) as f32).collect();
        let power = (0..n).map(|_| (stream.uniform() * 3.0 + 0.01) as f32).collect();
        (values, power)
    }

    pub(super) fn grids() -> [Grid; 4] {
        let grid =
            |bits, symmetric| Grid { bits, symmetric, scale_dtype: ScaleDtype::F32, ..Grid::default() };
        [grid(2, false), grid(3, true), grid(4, false), Grid { narrow: true, ..grid(4, true) }]
    }

    /// `Σ h |x − x̂|^norm`, element by element.
    pub(super) fn error(values: &[f32], power: Option<&[f32]>, a: &Affine, grid: &Grid, norm: f64) -> f64 {
        (0..values.len())
            .map(|i| {
                let e = f64::from(values[i] - a.decode(a.code(values[i], grid))).abs();
                f64::from(power.map_or(1.0, |p| p[i])) * e.powf(norm)
            })
            .sum()
    }

    #[test]
    fn input_power_changes_the_weighted_range() {
        // An outlier that no input reaches should not widen the range; without power it does.
        let (mut values, _) = sample(64, 3);
        values[10] = 30.0;
        let mut power = vec![1.0; 64];
        power[10] = 0.0;
        let grid = grids()[2];
        let finder = RangeFinder::mse_weighted();
        let (with, without) = (finder.fit(&values, Some(&power), &grid), finder.fit(&values, None, &grid));
        assert!(with.scale < 0.7 * without.scale);
        assert!(finder.needs_input_power() && !RangeFinder::mse().needs_input_power());
    }

    #[test]
    fn settings_have_defaults_and_limits() {
        let finder: RangeFinder = serde_json::from_str(r#"{"rule": "mse", "grid": 50}"#).unwrap();
        assert_eq!(finder, RangeFinder::Mse { grid: 50, max_shrink: 0.8, norm: 2.4 });
        let finder: RangeFinder = serde_json::from_str(r#"{"rule": "percentile"}"#).unwrap();
        assert_eq!(finder, RangeFinder::percentile());
        for bad in [
            RangeFinder::Mse { grid: 0, max_shrink: 0.8, norm: 2.0 },
            RangeFinder::Mse { grid: 9, max_shrink: 0.8, norm: 0.0 },
            RangeFinder::MseWeighted { grid: 9, max_shrink: 1.0 },
            RangeFinder::Percentile { candidates: vec![] },
            RangeFinder::Percentile { candidates: vec![0.9, 0.4] },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert!(RangeFinder::mse().check().is_ok() && RangeFinder::percentile().check().is_ok());
    }
}
