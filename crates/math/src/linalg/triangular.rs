//! Inverses of triangular matrices.

use faer::linalg::triangular_inverse::{invert_lower_triangular, invert_upper_triangular};
use faer::{MatMut, MatRef, Par};

use super::square::Square;
use crate::error::{Error, Result};

/// Inverse of a lower triangular matrix; entries above the diagonal are not read.
///
/// # Errors
/// [`Error::Singular`] for a zero on the diagonal.
pub fn lower_inverse(lower: &Square) -> Result<Square> {
    check_diagonal("lower inverse", lower)?;
    let n = lower.n();
    let mut data = vec![0.0; n * n];
    invert_lower_triangular(
        MatMut::from_row_major_slice_mut(&mut data, n, n),
        MatRef::from_row_major_slice(lower.as_slice(), n, n),
        Par::Seq,
    );
    Ok(Square::from_parts(n, data))
}

/// Inverse of an upper triangular matrix; entries below the diagonal are not read.
///
/// # Errors
/// [`Error::Singular`] for a zero on the diagonal.
pub fn upper_inverse(upper: &Square) -> Result<Square> {
    check_diagonal("upper inverse", upper)?;
    let n = upper.n();
    let mut data = vec![0.0; n * n];
    invert_upper_triangular(
        MatMut::from_row_major_slice_mut(&mut data, n, n),
        MatRef::from_row_major_slice(upper.as_slice(), n, n),
        Par::Seq,
    );
    Ok(Square::from_parts(n, data))
}

fn check_diagonal(what: &'static str, a: &Square) -> Result<()> {
    match a.diagonal().iter().position(|&x| x == 0.0) {
        Some(pivot) => Err(Error::Singular { what, pivot, n: a.n() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::square::tests::{max_difference, product, random_spd, transpose};
    use crate::linalg::{Damping, cholesky_damped};

    #[test]
    fn times_itself_is_the_identity() {
        for n in [0, 1, 3, 65, 130] {
            let l = cholesky_damped(&random_spd(n, 2 * n + 1, 2), &Damping::default()).unwrap().lower;
            let identity = Square::identity(n);
            let left = product(lower_inverse(&l).unwrap().as_slice(), l.as_slice(), n, n, n);
            assert!(max_difference(&left, identity.as_slice()) < 1e-11, "n = {n}");
            let u = Square::new(n, transpose(l.as_slice(), n, n)).unwrap();
            let right = product(u.as_slice(), upper_inverse(&u).unwrap().as_slice(), n, n, n);
            assert!(max_difference(&right, identity.as_slice()) < 1e-11, "n = {n}");
        }
    }

    #[test]
    fn a_zero_pivot_is_named() {
        let singular = Square::diagonal_matrix(&[1.0, 0.0]);
        let expected = |what| Error::Singular { what, pivot: 1, n: 2 };
        assert_eq!(lower_inverse(&singular), Err(expected("lower inverse")));
        assert_eq!(upper_inverse(&singular), Err(expected("upper inverse")));
    }
}
