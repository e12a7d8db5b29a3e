//! Error and size of every candidate level of a tensor: what L-GreCo allocates by.
//!
//! Source: Alimohammadi et al., arXiv:2210.17357, section 4 (errors are norms, not squares, of what compression
//! without feedback loses of an averaged gradient).

use serde::{Deserialize, Serialize};
use trimtab_math::linalg::thin_svd;
use trimtab_math::random::Stream;

use crate::compressor::difference;
use crate::error::{Error, Result};
use crate::family::Family;
use crate::matrix::{times, transposed_times};
use crate::orthonormal::orthonormalize;
use crate::quantizer::{Rounding, decode, encode};
use crate::top_k::kept;

/// Candidate levels of one tensor, rising, with what they lose and what they take.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorTable {
    /// The tensor.
    pub name: String,
    /// Levels, rising.
    pub levels: Vec<usize>,
    /// Frobenius norm of what each level loses.
    pub errors: Vec<f64>,
    /// Payload of each level.
    pub bytes: Vec<u64>,
    /// Place of the uniform level in `levels`.
    pub uniform: usize,
}

/// How the errors of low-rank factors are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LowRankErrors {
    /// From all singular values.
    Exact,
    /// From the singular values in the subspace that this many power iterations find at the highest candidate rank.
    /// The paper iterates for each rank anew, from other random starts; one subspace serves all ranks, and is at least
    /// as near to the optimum that warm-started factors approach.
    Subspace(usize),
}

impl Default for LowRankErrors {
    fn default() -> Self {
        Self::Subspace(5)
    }
}

impl ErrorTable {
    /// Measures `gradient` `[n, m]` at the candidate `levels` of `family`.
    ///
    /// # Errors
    /// A gradient that does not have `n * m` finite values; levels without the uniform one (cut to the matrix).
    pub fn measure(
        family: &Family,
        name: &str,
        gradient: &[f32],
        [n, m]: [usize; 2],
        levels: Vec<usize>,
        low_rank: LowRankErrors,
        seed: u64,
    ) -> Result<Self> {
        let table = |problem: String| Error::Table { name: name.to_string(), problem };
        if gradient.len() != n * m || !gradient.iter().all(|x| x.is_finite()) {
            return Err(table(format!("expected {} finite values, found {}", n * m, gradient.len())));
        }
        let level = family.level().clamp(1, family.max_level(n, m).max(1));
        let uniform = levels.iter().position(|&l| l == level);
        let uniform = uniform.ok_or_else(|| table(format!("no candidate is the uniform level {level}")))?;
        let errors = match family {
            Family::Dense => vec![0.0; levels.len()],
            Family::PowerSgd { .. } => {
                let values = match low_rank {
                    LowRankErrors::Exact => {
                        let wide: Vec<f64> = gradient.iter().map(|&x| f64::from(x)).collect();
                        thin_svd(&wide, n, m)?.s
                    }
                    LowRankErrors::Subspace(iterations) => {
                        let most = levels.iter().copied().max().unwrap_or(0);
                        let stream = Stream::new(seed, &format!("exchange/errors/{name}"), 0, 0);
                        leading_values(gradient, m, most, iterations, stream)?
                    }
                };
                low_rank_errors(gradient, &values, &levels)
            }
            Family::TopK { .. } => top_k_errors(gradient, &levels),
            Family::Qsgd { .. } => quantizer_errors(gradient, &levels, name)?,
        };
        let bytes = levels.iter().map(|&level| family.payload(n, m, level)).collect();
        Ok(Self { name: name.to_string(), levels, errors, bytes, uniform })
    }

    /// Refuses columns of different lengths and a uniform level that is not in the table.
    pub(crate) fn check(&self) -> Result<()> {
        let lens = [self.levels.len(), self.errors.len(), self.bytes.len()];
        if lens.iter().all(|&len| len == lens[0]) && self.uniform < lens[0] {
            return Ok(());
        }
        let problem = format!(
            "{} levels, {} errors, {} sizes, the uniform level at place {}; expected columns of one length",
            lens[0], lens[1], lens[2], self.uniform
        );
        Err(Error::Table { name: self.name.clone(), problem })
    }

    /// Place of the highest level that is at most `level`; the lowest one if there is none.
    pub fn at_most(&self, level: usize) -> usize {
        self.levels.partition_point(|&l| l <= level).saturating_sub(1)
    }
}

fn square_sum(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}

/// `sqrt(Σ_{j > k} s_j²)` for each level `k`; what `values` does not hold is the rest of the whole norm.
fn low_rank_errors(gradient: &[f32], values: &[f64], levels: &[usize]) -> Vec<f64> {
    let mut rest = (square_sum(gradient) - values.iter().map(|s| s * s).sum::<f64>()).max(0.0);
    // Below the rounding of the two sums there is no rest.
    if rest < 1e-12 * square_sum(gradient) {
        rest = 0.0;
    }
    let mut tails = vec![rest; values.len() + 1];
    for j in (0..values.len()).rev() {
        tails[j] = tails[j + 1] + values[j] * values[j];
    }
    levels.iter().map(|&k| tails[k.min(values.len())].sqrt()).collect()
}

/// The largest `rank` singular values of `gradient` `[n, m]`, by subspace iteration.
fn leading_values(
    gradient: &[f32],
    m: usize,
    rank: usize,
    iterations: usize,
    mut stream: Stream,
) -> Result<Vec<f64>> {
    // A power of two near the largest entry keeps the products of small gradients in the range of `f32`.
    let largest = gradient.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    if largest == 0.0 || rank == 0 {
        return Ok(vec![0.0; rank]);
    }
    let scale = 2f64.powi((largest.to_bits() >> 23) as i32 - 127);
    let scaled: Vec<f32> = gradient.iter().map(|&x| (f64::from(x) / scale) as f32).collect();
    let mut q: Vec<f32> = (0..m * rank).map(|_| stream.normal() as f32).collect();
    let mut p = Vec::new();
    for _ in 0..iterations.max(1) {
        p = times(&scaled, &q, m, rank);
        orthonormalize(&mut p, rank, &mut stream);
        q = transposed_times(&scaled, &p, m, rank);
        if !p.is_empty() {
            // Columns of Q may differ by the ratio of singular values; orthonormal ones lose no direction.
            orthonormalize(&mut q, rank, &mut stream);
        }
    }
    let projected = transposed_times(&scaled, &p, m, rank);
    let wide: Vec<f64> = projected.iter().map(|&x| f64::from(x)).collect();
    Ok(thin_svd(&wide, m, rank)?.s.into_iter().map(|s| s * scale).collect())
}

/// Norm of all but the largest entries that each level keeps.
fn top_k_errors(gradient: &[f32], levels: &[usize]) -> Vec<f64> {
    let mut squares: Vec<f64> = gradient.iter().map(|&x| f64::from(x) * f64::from(x)).collect();
    squares.sort_unstable_by(|a, b| b.total_cmp(a));
    let mut tails = vec![0.0; squares.len() + 1];
    for i in (0..squares.len()).rev() {
        tails[i] = tails[i + 1] + squares[i];
    }
    levels.iter().map(|&level| tails[kept(squares.len(), level)].sqrt()).collect()
}

/// Norm of what rounding to nearest loses at each width.
fn quantizer_errors(gradient: &[f32], levels: &[usize], name: &str) -> Result<Vec<f64>> {
    let error = |&bits: &usize| {
        let mut bytes = Vec::new();
        encode(gradient, bits, Rounding::Nearest, &mut bytes)?;
        let (decoded, _) = decode(&bytes, gradient.len(), bits, name)?;
        Ok(square_sum(&difference(gradient, &decoded)).sqrt())
    };
    levels.iter().map(error).collect()
}
