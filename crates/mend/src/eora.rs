//! EoRA: Liu et al., "Fine-tuning-free (formerly Training-free) Compensation for Compressed LLM with Eigenspace Low-Rank
//! Approximation", arXiv 2410.21271.
//!
//! Beside a changed weight `Ŵ` stands a branch, `y = Ŵ x + B (A x)`, whose product is the matrix of its rank that is nearest to
//! `W − Ŵ` where it matters: `min ‖(W − Ŵ − B A) X‖²`, in closed form, by [`trimtab_math::linalg::low_rank`] under the second
//! moment of the inputs. Nothing is trained and nothing is known of how `Ŵ` came about.
//!
//! Departures from the published code: the exact mean of `x xᵀ` (the code's running mean decays); no floor under the
//! eigenvalues, because no factor of the second moment is inverted; factors are rounded once, to the type in which they are
//! stored, and each component is split evenly between `A` and `B`. [`Variant::ActScale`] scales with the root mean square of
//! an input where the code takes the mean of its magnitude: of all diagonal metrics, that one is the diagonal of the second
//! moment.

use serde::{Deserialize, Serialize};
use trimtab_io::{BranchFactors, Dtype};
use trimtab_math::linalg::Path;

use crate::error::Result;
use crate::lq::difference;
use crate::measure::Measure;
pub use crate::measure::{Evidence, Variant};

/// Settings of [`eora`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EoraSettings {
    /// What of the inputs is taken into account.
    pub variant: Variant,
    /// How the leading directions are found.
    pub path: Path,
}

/// A branch, before it is rounded.
#[derive(Clone, Debug)]
pub struct Branch {
    found: trimtab_math::linalg::LowRank,
}

impl Branch {
    /// Components; at most what was asked for, and at most the smaller side of the weight.
    pub fn rank(&self) -> usize {
        self.found.rank()
    }

    /// What is left of the squared error `damage` (in the metric of the variant) with the first `rank` components: a branch of
    /// a lower rank is the beginning of this one.
    pub fn residual(&self, damage: f64, rank: usize) -> f64 {
        self.found.residual(damage, rank)
    }

    /// The factors as they are stored; `None` for rank 0.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if a number leaves the range of `dtype`.
    pub fn factors(&self, dtype: Dtype) -> Result<Option<BranchFactors>> {
        if self.rank() == 0 {
            return Ok(None);
        }
        let [a, b] = [&self.found.a, &self.found.b].map(|x| x.iter().map(|&v| v as f32).collect::<Vec<_>>());
        Ok(Some(BranchFactors::from_f32(&a, &b, self.rank(), dtype)?))
    }
}

/// The branch of rank `rank` for a weight `original` that became `changed`, both `[rows, columns]`.
///
/// `seen` is the mean of `x xᵀ` over the inputs that the changed weight will see; [`Variant::Svd`] does without.
///
/// # Errors
/// Lengths that do not fit, numbers that are not finite, [`Error::NoEvidence`](crate::Error::NoEvidence).
pub fn eora<'a>(
    original: &[f32],
    changed: &[f32],
    rows: usize,
    seen: impl Into<Evidence<'a>>,
    rank: usize,
    settings: &EoraSettings,
) -> Result<Branch> {
    let error = difference(original, changed)?;
    Measure::of(settings.variant, seen.into(), rows)?
        .branch(&error, rows, rank, settings.path)
        .map(Branch::from)
}

impl From<trimtab_math::linalg::LowRank> for Branch {
    fn from(found: trimtab_math::linalg::LowRank) -> Self {
        Self { found }
    }
}

#[cfg(test)]
mod tests {
    use trimtab_math::gram::GramAccumulator;
    use trimtab_math::linalg::{Metric, Square, metric_norm};
    use trimtab_math::random::Stream;

    use super::*;

    const ROWS: usize = 20;
    const COLS: usize = 32;
    const TOKENS: usize = 300;

    struct Problem {
        weight: Vec<f32>,
        /// As if rounded to a coarse grid.
        rounded: Vec<f32>,
        x: Vec<f32>,
        moment: Square,
    }

    fn problem() -> Problem {
        let mut stream = Stream::new(5, "test/eora", 0, 0);
        let weight: Vec<f32> = (0..ROWS * COLS).map(|_| stream.normal() as f32).collect();
        let rounded = weight.iter().map(|w| (w / 0.8).round() * 0.8).collect();
        // Inputs that share a few directions.
        let shared: Vec<f32> = (0..4 * COLS).map(|_| 2.0 * stream.normal() as f32).collect();
        let mut x = Vec::new();
        for _ in 0..TOKENS {
            let amount: Vec<f32> = (0..4).map(|_| stream.normal() as f32).collect();
            x.extend((0..COLS).map(|j| {
                let common: f32 = (0..4).map(|k| amount[k] * shared[k * COLS + j]).sum();
                common + stream.normal() as f32
            }));
        }
        let mut gram = GramAccumulator::new(COLS);
        gram.add(&x, None).unwrap();
        Problem { weight, rounded, moment: gram.mean().unwrap(), x }
    }

    impl Problem {
        fn branch(&self, variant: Variant, rank: usize) -> Branch {
            let settings = EoraSettings { variant, path: Path::Exact };
            eora(&self.weight, &self.rounded, ROWS, Some(&self.moment), rank, &settings).unwrap()
        }

        /// Mean squared error of the outputs, token by token.
        fn measured(&self, weight: &[f32]) -> f64 {
            let error = |x: &[f32], row: usize| -> f64 {
                let at = row * COLS..(row + 1) * COLS;
                let pairs = self.weight[at.clone()].iter().zip(&weight[at]).zip(x);
                pairs.map(|((w, q), x)| (f64::from(*w) - f64::from(*q)) * f64::from(*x)).sum::<f64>().powi(2)
            };
            let sum: f64 = self.x.chunks(COLS).map(|x| (0..ROWS).map(|row| error(x, row)).sum::<f64>()).sum();
            sum / TOKENS as f64
        }

        fn mended(&self, branch: &Branch, dtype: Dtype) -> Vec<f32> {
            let mut weight = self.rounded.clone();
            if let Some(factors) = branch.factors(dtype).unwrap() {
                factors.merge_into(&mut weight).unwrap();
            }
            weight
        }

        fn damage(&self) -> f64 {
            let error: Vec<f64> =
                self.weight.iter().zip(&self.rounded).map(|(w, q)| f64::from(*w) - f64::from(*q)).collect();
            metric_norm(&error, ROWS, None, Metric::Full(&self.moment)).unwrap()
        }
    }

    #[test]
    fn the_measured_output_error_is_the_tail_of_the_singular_values() {
        let p = problem();
        let most = p.branch(Variant::Eora, ROWS);
        for rank in [0, 1, 4, 8, 16] {
            let measured = p.measured(&p.mended(&p.branch(Variant::Eora, rank), Dtype::F32));
            let tail = most.residual(p.damage(), rank);
            assert!((measured / tail - 1.0).abs() < 1e-5, "rank {rank}: {measured} {tail}");
        }
        // Control: the plain decomposition has another error than its own tail says, and a larger one than EoRA's.
        let plain = p.measured(&p.mended(&p.branch(Variant::Svd, 4), Dtype::F32));
        assert!(plain > 1.1 * most.residual(p.damage(), 4), "{plain}");
    }

    #[test]
    fn all_ranks_leave_nothing_and_none_leaves_all() {
        let p = problem();
        let whole = p.branch(Variant::Eora, 1000);
        assert_eq!(whole.rank(), ROWS);
        assert!(p.measured(&p.mended(&whole, Dtype::F32)) < 1e-8 * p.damage());
        let none = p.branch(Variant::Eora, 0);
        assert!(none.factors(Dtype::F32).unwrap().is_none());
        assert!((p.measured(&p.mended(&none, Dtype::F32)) / p.damage() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn what_is_known_of_the_inputs_helps_step_by_step() {
        let p = problem();
        for rank in [2, 4, 8] {
            let error = |variant| p.measured(&p.mended(&p.branch(variant, rank), Dtype::F32));
            let [svd, scale, eora] = [Variant::Svd, Variant::ActScale, Variant::Eora].map(error);
            assert!(eora < scale && eora < svd, "rank {rank}: {svd} {scale} {eora}");
        }
        // With inputs of which none is like another and all are alike, the three are one.
        let identity = Square::identity(COLS);
        let of = |variant| {
            let settings = EoraSettings { variant, path: Path::Exact };
            let branch = eora(&p.weight, &p.rounded, ROWS, Some(&identity), 3, &settings).unwrap();
            p.mended(&branch, Dtype::F32)
        };
        assert_eq!(of(Variant::Svd), of(Variant::Eora));
        assert_eq!(of(Variant::Svd), of(Variant::ActScale));
    }

    #[test]
    fn rounding_the_factors_costs_little_and_bad_input_is_named() {
        let p = problem();
        let branch = p.branch(Variant::Eora, 6);
        let [exact, half, brain] =
            [Dtype::F32, Dtype::F16, Dtype::BF16].map(|dtype| p.measured(&p.mended(&branch, dtype)));
        assert!(half < 1.0001 * exact && brain < 1.01 * exact, "{exact} {half} {brain}");
        let settings = EoraSettings::default();
        let blind = eora(&p.weight, &p.rounded, ROWS, None, 2, &settings).unwrap_err();
        assert!(blind.to_string().contains("second moment"), "{blind}");
        assert!(eora(&p.weight, &p.rounded[1..], ROWS, Some(&p.moment), 2, &settings).is_err());
        let plain = EoraSettings { variant: Variant::Svd, ..settings };
        assert!(eora(&p.weight, &p.rounded, ROWS, None, 2, &plain).is_ok());
        assert!(serde_json::from_str::<EoraSettings>(r#"{"rank":3}"#).is_err(), "unknown fields are refused");
    }
}
