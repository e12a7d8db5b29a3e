//! Cholesky factorization with the one damping policy of the house.
//!
//! A second moment from few tokens is singular. `H + d·mean(diag H)·I` is factored instead, first with `d = 0.01`; each
//! failure multiplies `d` by 10. The damping finally used is part of the result, so that it can be reported, and a
//! factorization that fails never ends a long run before the policy is exhausted.

use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::{MatMut, MatRef, Par};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::blocked::cholesky_blocked;
use super::square::Square;
use crate::error::{Error, Result, check_length};

/// How much of the mean diagonal is added to a matrix before it is factored, and how that grows on failure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Damping {
    /// Damping of the first attempt, relative to the mean of the diagonal, ≥ 0.
    pub first: f64,
    /// Factor by which a failure raises it, > 1.
    pub factor: f64,
    /// How often it is raised at most; 0 tries `first` only.
    pub attempts: usize,
}

impl Default for Damping {
    fn default() -> Self {
        Damping { first: 0.01, factor: 10.0, attempts: 5 }
    }
}

impl Damping {
    /// No damping and no second attempt: the matrix must be positive definite as it is.
    pub const NONE: Damping = Damping { first: 0.0, factor: 10.0, attempts: 0 };

    fn check(&self) -> Result<()> {
        let setting = |what, expected, value| Err(Error::Setting { what, expected, value });
        if !(self.first >= 0.0 && self.first.is_finite()) {
            return setting("damping: first", "a finite number >= 0", self.first);
        }
        if self.attempts > 0 && self.first == 0.0 {
            return setting("damping: first", "more than 0, as attempts multiply it", self.first);
        }
        if self.attempts > 0 && !(self.factor > 1.0 && self.factor.is_finite()) {
            return setting("damping: factor", "a finite number > 1", self.factor);
        }
        Ok(())
    }
}

/// A lower triangular factorization `H + shift·I = L Lᵀ`.
#[derive(Clone, Debug)]
pub struct Factor {
    /// `L`, zero above the diagonal, positive on it.
    pub lower: Square,
    /// The damping that made it succeed, relative to the mean of the diagonal of `H`.
    pub damping_used: f64,
    /// What was added to each diagonal entry: `damping_used · mean(diag H)`.
    pub shift: f64,
}

/// Factors the symmetric matrix `h` (its lower triangle is read), damped by `policy`.
///
/// # Errors
/// A policy out of range; [`Error::NotPositiveDefinite`] when the last damping fails too.
pub fn cholesky_damped(h: &Square, policy: &Damping) -> Result<Factor> {
    let n = h.n();
    let attempt = factor_with_retries(n, Layout::RowMajor, h.mean_diagonal(), policy, |row, out| {
        out[..=row].copy_from_slice(&h.row(row)[..=row]);
    })?;
    let mut data = attempt.data;
    data.par_chunks_mut(n.max(1)).enumerate().for_each(|(row, out)| out[row + 1..].fill(0.0));
    Ok(Factor {
        lower: Square::from_parts(n, data),
        damping_used: attempt.damping_used,
        shift: attempt.shift,
    })
}

/// A factor as it comes out of the retries: the other triangle is not meaningful.
pub(super) struct Attempt {
    pub(super) data: Vec<f64>,
    pub(super) damping_used: f64,
    pub(super) shift: f64,
}

/// Where the lower triangle lies in the buffer.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Layout {
    RowMajor,
    ColumnMajor,
}

/// Runs the policy on a symmetric matrix. `fill(line, out)` writes one line of its lower triangle into the buffer: the
/// entries up to the diagonal of a row, or those from the diagonal on of a column.
pub(super) fn factor_with_retries(
    n: usize,
    layout: Layout,
    mean_diagonal: f64,
    policy: &Damping,
    fill: impl Fn(usize, &mut [f64]) + Sync,
) -> Result<Attempt> {
    policy.check()?;
    let mut data = vec![0.0; n * n];
    let mut damping = policy.first;
    let mut tried = 0;
    loop {
        let shift = damping * mean_diagonal;
        data.par_chunks_mut(n.max(1)).enumerate().for_each(|(line, out)| {
            fill(line, out);
            out[line] += shift;
        });
        let lower = match layout {
            Layout::RowMajor => MatMut::from_row_major_slice_mut(&mut data, n, n).as_dyn_stride_mut(),
            Layout::ColumnMajor => MatMut::from_column_major_slice_mut(&mut data, n, n).as_dyn_stride_mut(),
        };
        let Err(pivot) = cholesky_blocked(lower) else {
            return Ok(Attempt { data, damping_used: damping, shift });
        };
        tried += 1;
        if tried > policy.attempts {
            return Err(Error::NotPositiveDefinite { pivot, n, attempts: tried, damping });
        }
        damping *= policy.factor;
    }
}

impl Factor {
    /// Solves `(H + shift·I) X = B` for `b` `[n, columns]`.
    ///
    /// # Errors
    /// A length that is not `n · columns`.
    pub fn solve(&self, b: &[f64], columns: usize) -> Result<Vec<f64>> {
        let n = self.lower.n();
        check_length("cholesky solve: right-hand side", n * columns, b.len())?;
        let lower = MatRef::from_row_major_slice(self.lower.as_slice(), n, n);
        let mut x = b.to_vec();
        let mut view = MatMut::from_row_major_slice_mut(&mut x, n, columns);
        solve_lower_triangular_in_place(lower, view.as_mut(), Par::Seq);
        solve_upper_triangular_in_place(lower.transpose(), view, Par::Seq);
        Ok(x)
    }

    /// `ln det(H + shift·I)`.
    pub fn log_determinant(&self) -> f64 {
        2.0 * self.lower.diagonal().iter().map(|x| x.ln()).sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::square::tests::{max_difference, product, random_spd, transpose};

    /// The textbook loop.
    fn naive(h: &Square) -> Vec<f64> {
        let n = h.n();
        let mut l = vec![0.0; n * n];
        for j in 0..n {
            let pivot = h.at(j, j) - (0..j).map(|k| l[j * n + k] * l[j * n + k]).sum::<f64>();
            l[j * n + j] = pivot.sqrt();
            for i in j + 1..n {
                let dot: f64 = (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum();
                l[i * n + j] = (h.at(i, j) - dot) / l[j * n + j];
            }
        }
        l
    }

    #[test]
    fn agrees_with_the_textbook_across_block_limits() {
        for n in [0, 1, 2, 31, 127, 128, 129, 255, 256, 257, 400] {
            let h = random_spd(n, 2 * n + 1, n as u64);
            let factor = cholesky_damped(&h, &Damping::NONE).unwrap();
            assert!(max_difference(factor.lower.as_slice(), &naive(&h)) < 1e-10, "n = {n}");
        }
    }

    #[test]
    fn damping_enters_the_diagonal_and_is_reported() {
        let h = random_spd(40, 100, 1);
        let factor = cholesky_damped(&h, &Damping::default()).unwrap();
        assert_eq!(factor.damping_used, 0.01);
        assert!((factor.shift - 0.01 * h.mean_diagonal()).abs() < 1e-15);
        let l = factor.lower.as_slice();
        let mut damped = h.clone();
        for i in 0..40 {
            damped.as_mut_slice()[i * 40 + i] += factor.shift;
        }
        let rebuilt = product(l, &transpose(l, 40, 40), 40, 40, 40);
        assert!(max_difference(&rebuilt, damped.as_slice()) < 1e-12);
        assert!(max_difference(&rebuilt, h.as_slice()) > 1e-3); // the undamped matrix is another one
    }

    #[test]
    fn failures_raise_the_damping_until_the_policy_ends() {
        // Eigenvalues 1 and -0.5, mean diagonal 0.25: positive definite from a shift of 0.5, that is damping 2.
        let h = Square::diagonal_matrix(&[1.0, -0.5]);
        let factor = cholesky_damped(&h, &Damping::default()).unwrap();
        assert!((factor.damping_used - 10.0).abs() < 1e-12);
        let policy = Damping { attempts: 2, ..Damping::default() };
        let Err(Error::NotPositiveDefinite { pivot, n, attempts, damping }) = cholesky_damped(&h, &policy)
        else {
            panic!("expected a failure");
        };
        assert_eq!((pivot, n, attempts), (1, 2, 3));
        assert!((damping - 1.0).abs() < 1e-12);
    }

    #[test]
    fn pivot_is_counted_over_blocks_and_nan_is_a_failure() {
        let mut h = Square::identity(300);
        h.as_mut_slice()[270 * 300 + 270] = -1.0;
        let failed = cholesky_damped(&h, &Damping::NONE);
        assert!(matches!(failed, Err(Error::NotPositiveDefinite { pivot: 270, .. })));
        // A NaN that slips in through the mutable slice must end as an error too.
        h.as_mut_slice()[270 * 300 + 5] = f64::NAN;
        let failed = cholesky_damped(&h, &Damping::default());
        assert!(matches!(failed, Err(Error::NotPositiveDefinite { pivot: 270, .. })));
    }

    #[test]
    fn same_bytes_at_any_number_of_threads() {
        let h = random_spd(700, 900, 5);
        let factor = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| cholesky_damped(&h, &Damping::default()).unwrap().lower)
        };
        let one = factor(1);
        assert_eq!(one, factor(2));
        assert_eq!(one, factor(3));
    }

    #[test]
    fn solves_and_has_the_determinant_of_the_pivots() {
        let h = random_spd(30, 60, 9);
        let factor = cholesky_damped(&h, &Damping::NONE).unwrap();
        let x: Vec<f64> = (0..60).map(|i| (i as f64).sin()).collect();
        let b = product(h.as_slice(), &x, 30, 30, 2);
        assert!(max_difference(&factor.solve(&b, 2).unwrap(), &x) < 1e-9);
        assert!(factor.solve(&b, 3).is_err());
        let diagonal = cholesky_damped(&Square::diagonal_matrix(&[2.0, 8.0]), &Damping::NONE).unwrap();
        assert!((diagonal.log_determinant() - 16f64.ln()).abs() < 1e-14);
    }

    #[test]
    fn a_policy_out_of_range_is_an_error() {
        let h = Square::identity(2);
        for bad in [
            Damping { first: -1.0, ..Damping::default() },
            Damping { first: f64::NAN, ..Damping::default() },
            Damping { first: 0.0, ..Damping::default() },
            Damping { factor: 1.0, ..Damping::default() },
        ] {
            assert!(matches!(cholesky_damped(&h, &bad), Err(Error::Setting { .. })), "{bad:?}");
        }
    }
}
