//! A square `f64` matrix, row-major.

use crate::error::{Result, check_finite, check_length};

/// A square matrix of order `n`, row-major, of finite numbers.
///
/// Functions that expect a symmetric matrix read its lower triangle only.
#[derive(Clone, Debug, PartialEq)]
pub struct Square {
    n: usize,
    data: Vec<f64>,
}

impl Square {
    /// Takes `data` `[n, n]`.
    ///
    /// # Errors
    /// Wrong length, or a number that is not finite (with its position).
    pub fn new(n: usize, data: Vec<f64>) -> Result<Square> {
        check_length("square matrix", n * n, data.len())?;
        check_finite("square matrix", &data, n)?;
        Ok(Square { n, data })
    }

    /// For results of this crate that are finite by construction.
    pub(crate) fn from_parts(n: usize, data: Vec<f64>) -> Square {
        debug_assert_eq!(data.len(), n * n);
        Square { n, data }
    }

    /// The identity of order `n`.
    pub fn identity(n: usize) -> Square {
        Square::diagonal_matrix(&vec![1.0; n])
    }

    /// The diagonal matrix with these entries.
    pub fn diagonal_matrix(entries: &[f64]) -> Square {
        let n = entries.len();
        let mut data = vec![0.0; n * n];
        for (i, &entry) in entries.iter().enumerate() {
            data[i * n + i] = entry;
        }
        Square { n, data }
    }

    /// Order of the matrix.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Entry at `row`, `column`.
    pub fn at(&self, row: usize, column: usize) -> f64 {
        self.data[row * self.n + column]
    }

    /// One row, `[n]`.
    pub fn row(&self, row: usize) -> &[f64] {
        &self.data[row * self.n..(row + 1) * self.n]
    }

    /// All entries, `[n, n]`.
    pub fn as_slice(&self) -> &[f64] {
        &self.data
    }

    /// All entries, to be changed in place. Keep them finite.
    pub fn as_mut_slice(&mut self) -> &mut [f64] {
        &mut self.data
    }

    /// Gives up the entries, `[n, n]`.
    pub fn into_vec(self) -> Vec<f64> {
        self.data
    }

    /// The diagonal, `[n]`.
    pub fn diagonal(&self) -> Vec<f64> {
        (0..self.n).map(|i| self.at(i, i)).collect()
    }

    /// Mean of the diagonal, the unit in which damping is measured; 0 for order 0.
    pub fn mean_diagonal(&self) -> f64 {
        let sum: f64 = (0..self.n).map(|i| self.at(i, i)).sum();
        sum / self.n.max(1) as f64
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::Error;
    use crate::random::Stream;

    /// Mean of `samples` outer products of correlated normal vectors.
    pub(crate) fn random_spd(n: usize, samples: usize, seed: u64) -> Square {
        let mut stream = Stream::new(seed, "test/spd", n as u64, samples as u64);
        let mut x: Vec<f64> = (0..samples * n).map(|_| stream.normal()).collect();
        for row in x.chunks_mut(n.max(1)) {
            for j in 1..row.len() {
                row[j] += 0.5 * row[j - 1];
            }
        }
        let sum = product(&transpose(&x, samples, n), &x, n, samples, n);
        Square::new(n, sum.iter().map(|v| v / samples as f64).collect()).unwrap()
    }

    /// `a [m, k] · b [k, n]`, the obvious loop.
    pub(crate) fn product(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
        let mut c = vec![0.0; m * n];
        for i in 0..m {
            for l in 0..k {
                for j in 0..n {
                    c[i * n + j] += a[i * k + l] * b[l * n + j];
                }
            }
        }
        c
    }

    pub(crate) fn transpose(a: &[f64], rows: usize, columns: usize) -> Vec<f64> {
        (0..rows * columns).map(|k| a[(k % rows) * columns + k / rows]).collect()
    }

    pub(crate) fn max_difference(a: &[f64], b: &[f64]) -> f64 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
    }

    #[test]
    fn checks_shape_and_names_the_bad_entry() {
        assert!(Square::new(2, vec![0.0; 4]).is_ok());
        assert!(matches!(Square::new(2, vec![0.0; 3]), Err(Error::Length { expected: 4, found: 3, .. })));
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let found = Square::new(2, vec![0.0, 1.0, bad, 2.0]);
            assert!(matches!(found, Err(Error::Value { row: 1, column: 0, .. })));
        }
    }

    #[test]
    fn reads_rows_and_diagonal() {
        let a = Square::new(2, vec![1.0, 2.0, 3.0, 5.0]).unwrap();
        assert_eq!((a.at(0, 1), a.row(1), a.diagonal()), (2.0, &[3.0, 5.0][..], vec![1.0, 5.0]));
        assert_eq!(a.mean_diagonal(), 3.0);
        assert_eq!(Square::identity(0).mean_diagonal(), 0.0);
        assert_eq!(Square::diagonal_matrix(&[2.0, 7.0]).as_slice(), [2.0, 0.0, 0.0, 7.0]);
    }
}
