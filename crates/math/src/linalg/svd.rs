//! Thin singular value decomposition.

use faer::diag::DiagMut;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::svd::{ComputeSvdVectors, svd, svd_scratch};
use faer::{Mat, MatRef, Par};

use crate::error::{Error, Result, check_finite, check_length};

/// `A = U diag(s) Vᵀ` with `k = min(rows, columns)`.
#[derive(Clone, Debug)]
pub struct Svd {
    /// Left vectors, `[rows, k]`; the entry of largest magnitude of each column is positive.
    pub u: Vec<f64>,
    /// Singular values in descending order, `[k]`.
    pub s: Vec<f64>,
    /// Right vectors, transposed, `[k, columns]`.
    pub vt: Vec<f64>,
    /// Rows of `A`.
    pub rows: usize,
    /// Columns of `A`.
    pub columns: usize,
}

impl Svd {
    /// Number of singular values.
    pub fn k(&self) -> usize {
        self.s.len()
    }
}

/// Thin SVD of `a` `[rows, columns]`. One thread.
///
/// # Errors
/// A length that is not `rows · columns`, a number that is not finite, [`Error::NoConvergence`].
pub fn thin_svd(a: &[f64], rows: usize, columns: usize) -> Result<Svd> {
    check_length("thin svd", rows * columns, a.len())?;
    check_finite("thin svd", a, columns)?;
    let k = rows.min(columns);
    let mut s = vec![0.0; k];
    let (mut u, mut v) = (Mat::<f64>::zeros(rows, k), Mat::<f64>::zeros(columns, k));
    let thin = ComputeSvdVectors::Thin;
    let scratch = svd_scratch::<f64>(rows, columns, thin, thin, Par::Seq, Default::default());
    svd(
        MatRef::from_row_major_slice(a, rows, columns),
        DiagMut::from_slice_mut(&mut s),
        Some(u.as_mut()),
        Some(v.as_mut()),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    )
    .map_err(|_| Error::NoConvergence { what: "thin svd", rows, columns })?;

    let (mut left, mut right) = (vec![0.0; rows * k], vec![0.0; k * columns]);
    for j in 0..k {
        let sign = sign_of_largest(u.col(j).iter().copied());
        for (i, &entry) in u.col(j).iter().enumerate() {
            left[i * k + j] = sign * entry;
        }
        for (i, &entry) in v.col(j).iter().enumerate() {
            right[j * columns + i] = sign * entry;
        }
    }
    Ok(Svd { u: left, s, vt: right, rows, columns })
}

/// `-1` if the entry of largest magnitude (the first among equals) is negative, else `1`.
pub(super) fn sign_of_largest(entries: impl Iterator<Item = f64>) -> f64 {
    let largest = entries.fold(0.0f64, |best, x| if x.abs() > best.abs() { x } else { best });
    if largest < 0.0 { -1.0 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::Square;
    use crate::linalg::square::tests::{max_difference, product, transpose};
    use crate::random::Stream;

    #[test]
    fn rebuilds_tall_wide_and_empty_matrices() {
        for (rows, columns) in [(1, 1), (7, 3), (3, 7), (40, 40), (80, 33), (0, 4), (4, 0)] {
            let mut stream = Stream::new(0, "test/svd", rows as u64, columns as u64);
            let a: Vec<f64> = (0..rows * columns).map(|_| stream.normal()).collect();
            let svd = thin_svd(&a, rows, columns).unwrap();
            let k = svd.k();
            assert_eq!(k, rows.min(columns));
            assert!(svd.s.windows(2).all(|w| w[0] >= w[1]) && svd.s.iter().all(|&s| s >= 0.0));
            let us: Vec<f64> = (0..rows * k).map(|i| svd.u[i] * svd.s[i % k]).collect();
            assert!(max_difference(&product(&us, &svd.vt, rows, k, columns), &a) < 1e-12);
            let gram = product(&transpose(&svd.u, rows, k), &svd.u, k, rows, k);
            assert!(max_difference(&gram, Square::identity(k).as_slice()) < 1e-12);
            let gram = product(&svd.vt, &transpose(&svd.vt, k, columns), k, columns, k);
            assert!(max_difference(&gram, Square::identity(k).as_slice()) < 1e-12);
            for j in 0..k {
                assert_eq!(sign_of_largest((0..rows).map(|i| svd.u[i * k + j])), 1.0);
            }
        }
    }

    #[test]
    fn sign_rule_by_hand() {
        // Rank one: -2 = largest left entry times right entry; the left one is made positive.
        let svd = thin_svd(&[1.0, -2.0], 2, 1).unwrap();
        let root = 5f64.sqrt();
        assert!((svd.s[0] - root).abs() < 1e-15);
        assert!(max_difference(&svd.u, &[-1.0 / root, 2.0 / root]) < 1e-15);
        assert!((svd.vt[0] + 1.0).abs() < 1e-15);
    }

    #[test]
    fn bad_input_is_an_error() {
        assert!(matches!(thin_svd(&[1.0], 1, 2), Err(Error::Length { .. })));
        let nan = thin_svd(&[1.0, 2.0, f64::NAN, 4.0], 2, 2);
        assert!(matches!(nan, Err(Error::Value { row: 1, column: 0, .. })));
    }
}
