//! Eigendecomposition of a symmetric matrix.

use faer::diag::DiagMut;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::{Mat, MatRef, Par};

use super::square::Square;
use super::svd::sign_of_largest;
use crate::error::{Error, Result};

/// `A = V diag(λ) Vᵀ` with orthonormal columns in `V`.
#[derive(Clone, Debug)]
pub struct Eigen {
    /// Eigenvalues in descending order, `[n]`.
    pub values: Vec<f64>,
    /// `V`: column `j` belongs to `values[j]`, and its entry of largest magnitude is positive.
    pub vectors: Square,
}

/// Eigenvalues, descending, and eigenvectors of a symmetric matrix (its lower triangle is read). One thread.
///
/// # Errors
/// [`Error::NoConvergence`].
pub fn symmetric_eigen(a: &Square) -> Result<Eigen> {
    let n = a.n();
    let (mut ascending, mut vectors) = (vec![0.0; n], Mat::<f64>::zeros(n, n));
    let scratch = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, Par::Seq, Default::default());
    self_adjoint_evd(
        MatRef::from_row_major_slice(a.as_slice(), n, n),
        DiagMut::from_slice_mut(&mut ascending),
        Some(vectors.as_mut()),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    )
    .map_err(|_| Error::NoConvergence { what: "symmetric eigen", rows: n, columns: n })?;

    let mut data = vec![0.0; n * n];
    for j in 0..n {
        let column = vectors.col(n - 1 - j);
        let sign = sign_of_largest(column.iter().copied());
        for (i, &entry) in column.iter().enumerate() {
            data[i * n + j] = sign * entry;
        }
    }
    ascending.reverse();
    Ok(Eigen { values: ascending, vectors: Square::from_parts(n, data) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::square::tests::{max_difference, product, random_spd, transpose};

    #[test]
    fn rebuilds_the_matrix_in_descending_order() {
        for n in [0, 1, 2, 17, 90] {
            let a = random_spd(n, n + 3, 7);
            let eigen = symmetric_eigen(&a).unwrap();
            assert!(eigen.values.windows(2).all(|w| w[0] >= w[1]));
            let v = eigen.vectors.as_slice();
            let scaled: Vec<f64> = (0..n * n).map(|k| v[k] * eigen.values[k % n]).collect();
            let rebuilt = product(&scaled, &transpose(v, n, n), n, n, n);
            assert!(max_difference(&rebuilt, a.as_slice()) < 1e-10, "n = {n}");
            let gram = product(&transpose(v, n, n), v, n, n, n);
            assert!(max_difference(&gram, Square::identity(n).as_slice()) < 1e-12);
            for j in 0..n {
                let column = (0..n).map(|i| eigen.vectors.at(i, j));
                assert_eq!(sign_of_largest(column), 1.0);
            }
        }
    }

    #[test]
    fn hand_case() {
        // [[2, -1], [-1, 2]]: values 3 and 1, vectors (1, -1) and (1, 1) over the root of 2.
        let eigen = symmetric_eigen(&Square::new(2, vec![2.0, -1.0, -1.0, 2.0]).unwrap()).unwrap();
        assert!(max_difference(&eigen.values, &[3.0, 1.0]) < 1e-14);
        let h = 0.5f64.sqrt();
        let product_of_signs = eigen.vectors.at(0, 0) * eigen.vectors.at(1, 0);
        assert!((product_of_signs + h * h).abs() < 1e-14);
        assert!((eigen.vectors.at(0, 1) - h).abs() < 1e-14);
    }

    #[test]
    fn reads_the_lower_triangle_only() {
        let full = random_spd(8, 20, 1);
        let mut lower = full.clone();
        for i in 0..8 {
            lower.as_mut_slice()[i * 8 + i + 1..(i + 1) * 8].fill(99.0);
        }
        let (a, b) = (symmetric_eigen(&full).unwrap(), symmetric_eigen(&lower).unwrap());
        assert!(max_difference(&a.values, &b.values) < 1e-12);
    }
}
