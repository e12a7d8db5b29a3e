//! The factor that GPTQ needs, without an inverse.
//!
//! GPTQ (Frantar et al., arXiv:2210.17323) walks the columns with `U`, the upper Cholesky factor of the inverse:
//! `H⁻¹ = Uᵀ U`. Its own inverse `R = U⁻¹` is upper triangular too and satisfies `H = R Rᵀ`, so it comes from one ordinary
//! Cholesky factorization of `H` with rows and columns in reverse order: `P H P = L Lᵀ` gives `R = P L P`.

use rayon::prelude::*;

use super::cholesky::{Damping, Layout, factor_with_retries};
use super::square::Square;
use crate::error::{Error, Result, check_length};

/// Upper triangular `R` with a positive diagonal, `H + shift·I = R Rᵀ`.
#[derive(Clone, Debug)]
pub struct UpperFactor {
    /// `R`, column-major; entries below the diagonal are not meaningful.
    data: Vec<f64>,
    n: usize,
    /// The damping that made it succeed, relative to the mean of the diagonal of `H`.
    pub damping_used: f64,
    /// What was added to each diagonal entry.
    pub shift: f64,
}

/// Factors the symmetric matrix `h` (its lower triangle is read) into [`UpperFactor`], damped by `policy`.
///
/// With `order`, a permutation of `0..n`, it is `h` with row and column `i` taken from `order[i]` that is factored, and
/// both triangles are read.
///
/// # Errors
/// As [`super::cholesky_damped`]; an `order` that is no permutation.
pub fn upper_factor(h: &Square, order: Option<&[usize]>, policy: &Damping) -> Result<UpperFactor> {
    let n = h.n();
    let source: Vec<usize> = match order {
        Some(order) => {
            check_permutation(order, n)?;
            order.iter().rev().copied().collect()
        }
        None => (0..n).rev().collect(),
    };
    let attempt = factor_with_retries(n, Layout::ColumnMajor, h.mean_diagonal(), policy, |column, out| {
        let line = h.row(source[column]);
        for (entry, &row) in out[column..].iter_mut().zip(&source[column..]) {
            *entry = line[row];
        }
    })?;
    let mut data = attempt.data;
    // Reversing the whole buffer reverses rows and columns at once: L becomes R.
    data.reverse();
    Ok(UpperFactor { data, n, damping_used: attempt.damping_used, shift: attempt.shift })
}

fn check_permutation(order: &[usize], n: usize) -> Result<()> {
    check_length("upper factor: order", n, order.len())?;
    let mut seen = vec![false; n];
    for &i in order {
        if i >= n || std::mem::replace(&mut seen[i], true) {
            return Err(Error::Setting {
                what: "upper factor: order",
                expected: "each index below n once",
                value: i as f64,
            });
        }
    }
    Ok(())
}

impl UpperFactor {
    /// Order of the matrix.
    pub fn n(&self) -> usize {
        self.n
    }

    /// `diag(R)`, `[n]`.
    pub fn diagonal(&self) -> Vec<f64> {
        (0..self.n).map(|i| self.data[i * self.n + i]).collect()
    }

    /// Column `j` of `R` down to the diagonal: `R[0..=j, j]`.
    pub fn column(&self, j: usize) -> &[f64] {
        &self.data[j * self.n..j * self.n + j + 1]
    }

    /// `R diag(R)⁻¹` in single precision, column-major `[n, n]`: ones on the diagonal, zeros below it.
    pub fn unit_f32(&self) -> Vec<f32> {
        let n = self.n;
        let mut unit = vec![0.0f32; n * n];
        unit.par_chunks_mut(n.max(1)).enumerate().for_each(|(j, out)| {
            let inverse = self.data[j * n + j].recip();
            for (out, r) in out.iter_mut().zip(self.column(j)) {
                *out = (r * inverse) as f32;
            }
            out[j] = 1.0;
        });
        unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::cholesky_damped;
    use crate::linalg::square::tests::{max_difference, product, random_spd, transpose};

    fn dense(factor: &UpperFactor) -> Vec<f64> {
        let n = factor.n();
        let mut r = vec![0.0; n * n];
        for j in 0..n {
            for (i, &entry) in factor.column(j).iter().enumerate() {
                r[i * n + j] = entry;
            }
        }
        r
    }

    #[test]
    fn product_rebuilds_the_damped_matrix() {
        for n in [0, 1, 5, 130, 260] {
            let h = random_spd(n, n + 10, 3);
            let factor = upper_factor(&h, None, &Damping::default()).unwrap();
            let r = dense(&factor);
            let mut rebuilt = product(&r, &transpose(&r, n, n), n, n, n);
            for i in 0..n {
                rebuilt[i * n + i] -= factor.shift;
            }
            assert!(max_difference(&rebuilt, h.as_slice()) < 1e-11, "n = {n}");
        }
    }

    #[test]
    fn its_inverse_is_the_upper_cholesky_factor_of_the_inverse() {
        let n = 24;
        let h = random_spd(n, 2 * n, 4);
        let factor = upper_factor(&h, None, &Damping::NONE).unwrap();
        let whole = cholesky_damped(&h, &Damping::NONE).unwrap();
        let inverse = Square::new(n, whole.solve(Square::identity(n).as_slice(), n).unwrap()).unwrap();
        let u = transpose(cholesky_damped(&inverse, &Damping::NONE).unwrap().lower.as_slice(), n, n);
        let identity = product(&u, &dense(&factor), n, n, n);
        assert!(max_difference(&identity, Square::identity(n).as_slice()) < 1e-9);
        // Control: the ordinary factor of H transposed is upper triangular too, but is not R.
        let other = transpose(whole.lower.as_slice(), n, n);
        assert!(max_difference(&product(&u, &other, n, n, n), Square::identity(n).as_slice()) > 1e-2);
    }

    #[test]
    fn order_permutes_rows_and_columns() {
        let h = random_spd(9, 20, 6);
        let order: Vec<usize> = (0..9).map(|i| (i * 4 + 2) % 9).collect();
        let permuted: Vec<f64> = (0..81).map(|k| h.at(order[k / 9], order[k % 9])).collect();
        let direct = upper_factor(&Square::new(9, permuted).unwrap(), None, &Damping::default()).unwrap();
        let ordered = upper_factor(&h, Some(&order), &Damping::default()).unwrap();
        assert!(max_difference(&dense(&direct), &dense(&ordered)) < 1e-15);
        for bad in [&order[1..], &[0; 9][..], &[9, 0, 1, 2, 3, 4, 5, 6, 7][..]] {
            assert!(upper_factor(&h, Some(bad), &Damping::default()).is_err());
        }
    }

    #[test]
    fn unit_form_divides_columns_by_the_diagonal() {
        let h = random_spd(12, 30, 8);
        let factor = upper_factor(&h, None, &Damping::default()).unwrap();
        let (r, d, unit) = (dense(&factor), factor.diagonal(), factor.unit_f32());
        for k in 0..144 {
            let column_major = unit[(k % 12) * 12 + k / 12];
            assert!((f64::from(column_major) - r[k] / d[k % 12]).abs() < 1e-6);
        }
    }
}
