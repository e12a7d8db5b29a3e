//! Streaming second moment of a site's input.
//!
//! The accumulator holds plain sums in `f64`: `Σ w x xᵀ`, `Σ w x`, `Σ w` over rows `x` (tokens or im2col patches) with weights
//! `w ≥ 0`. Methods receive the mean `H = Σ w x xᵀ / Σ w`: no factor 2, not centred.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{BlockStructure, matmul as triangular_matmul};
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::error::{Error, Result, check_length};
use crate::linalg::Square;

/// Rows that are widened to `f64` and multiplied at a time.
const ROWS: usize = 512;
/// Rows of `Σ w x xᵀ` that one task updates.
const CHUNK: usize = 64;

/// Sums `Σ w x xᵀ`, `Σ w x`, `Σ w` over rows of length `n`.
///
/// The result is the same at any number of threads. It depends, within rounding, on how the rows are split into calls.
#[derive(Clone, Debug, PartialEq)]
pub struct GramAccumulator {
    n: usize,
    /// Row-major `[n, n]`; the lower triangle is kept, the rest stays 0.
    sum_xx: Vec<f64>,
    sum_x: Vec<f64>,
    sum_w: f64,
    count: u64,
}

impl GramAccumulator {
    /// An empty accumulator for rows of length `n`. Holds `8 n²` bytes.
    pub fn new(n: usize) -> GramAccumulator {
        GramAccumulator { n, sum_xx: vec![0.0; n * n], sum_x: vec![0.0; n], sum_w: 0.0, count: 0 }
    }

    /// Length of a row.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Number of rows seen, those of weight 0 included.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// `Σ w`.
    pub fn sum_w(&self) -> f64 {
        self.sum_w
    }

    /// `Σ w x`, `[n]`.
    pub fn sum_x(&self) -> &[f64] {
        &self.sum_x
    }

    /// Adds `rows` `[t, n]`, each with weight 1 or its entry of `weights` `[t]`.
    ///
    /// # Errors
    /// Lengths that do not fit; NaN or infinity in the rows; a weight that is negative or not finite. Nothing has been
    /// added then.
    pub fn add(&mut self, rows: &[f32], weights: Option<&[f64]>) -> Result<()> {
        let n = self.n;
        let t = rows.len() / n.max(1);
        check_length("gram: rows", t * n, rows.len())?;
        if let Some(weights) = weights {
            check_length("gram: weights", t, weights.len())?;
            check_weights(weights)?;
        }
        check_rows(rows, n)?;
        let weight = |row: usize| weights.map_or(1.0, |weights| weights[row]);
        let mut wide = vec![0.0; ROWS.min(t) * n];
        for first in (0..t).step_by(ROWS) {
            let here = ROWS.min(t - first);
            let wide = &mut wide[..here * n];
            for (row, (out, x)) in wide.chunks_mut(n).zip(rows[first * n..].chunks(n)).enumerate() {
                let w = weight(first + row);
                let root = w.sqrt();
                for ((out, &x), sum) in out.iter_mut().zip(x).zip(&mut self.sum_x) {
                    *out = root * f64::from(x);
                    *sum += w * f64::from(x);
                }
                self.sum_w += w;
            }
            self.add_outer_products(wide, here);
        }
        self.count += t as u64;
        Ok(())
    }

    /// Adds the outer products of `wide` `[here, n]` to the lower triangle.
    fn add_outer_products(&mut self, wide: &[f64], here: usize) {
        let n = self.n;
        let x = MatRef::from_row_major_slice(wide, here, n);
        self.sum_xx.par_chunks_mut(CHUNK * n).enumerate().for_each(|(index, out)| {
            let (first, height) = (index * CHUNK, out.len() / n);
            let strip = MatMut::from_row_major_slice_mut(out, height, n);
            let (left, rest) = strip.split_at_col_mut(first);
            let (diagonal, _) = rest.split_at_col_mut(height);
            let own = x.subcols(first, height);
            matmul(left, Accum::Add, own.transpose(), x.subcols(0, first), 1.0, Par::Seq);
            triangular_matmul(
                diagonal,
                BlockStructure::TriangularLower,
                Accum::Add,
                own.transpose(),
                BlockStructure::Rectangular,
                own,
                BlockStructure::Rectangular,
                1.0,
                Par::Seq,
            );
        });
    }

    /// Adds the sums of another accumulator.
    ///
    /// # Errors
    /// Another row length.
    pub fn merge(&mut self, other: &GramAccumulator) -> Result<()> {
        check_length("gram: row length to merge", self.n, other.n)?;
        for (sum, more) in self.sum_xx.iter_mut().zip(&other.sum_xx) {
            *sum += more;
        }
        for (sum, more) in self.sum_x.iter_mut().zip(&other.sum_x) {
            *sum += more;
        }
        self.sum_w += other.sum_w;
        self.count += other.count;
        Ok(())
    }

    /// The second moment `H = Σ w x xᵀ / Σ w`, both triangles filled.
    ///
    /// # Errors
    /// [`Error::TooFew`] before a row of positive weight has been added.
    pub fn mean(&self) -> Result<Square> {
        let inverse = self.inverse_weight()?;
        let n = self.n;
        let mut h = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                let entry = self.sum_xx[i * n + j] * inverse;
                h[i * n + j] = entry;
                h[j * n + i] = entry;
            }
        }
        Square::new(n, h)
    }

    /// Mean of the rows `Σ w x / Σ w`, `[n]`.
    ///
    /// # Errors
    /// [`Error::TooFew`] before a row of positive weight has been added.
    pub fn mean_x(&self) -> Result<Vec<f64>> {
        let inverse = self.inverse_weight()?;
        Ok(self.sum_x.iter().map(|x| x * inverse).collect())
    }

    fn inverse_weight(&self) -> Result<f64> {
        if self.sum_w > 0.0 {
            Ok(self.sum_w.recip())
        } else {
            Err(Error::TooFew { what: "gram: rows of positive weight", needed: 1, found: 0 })
        }
    }
}

fn check_weights(weights: &[f64]) -> Result<()> {
    match weights.iter().position(|w| !(*w >= 0.0 && w.is_finite())) {
        None => Ok(()),
        Some(row) => Err(Error::Value {
            what: "gram: weights",
            expected: "finite numbers >= 0",
            row,
            column: 0,
            value: weights[row],
        }),
    }
}

fn check_rows(rows: &[f32], n: usize) -> Result<()> {
    match rows.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(at) => Err(Error::Value {
            what: "gram: rows",
            expected: "finite numbers",
            row: at / n,
            column: at % n,
            value: f64::from(rows[at]),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn rows(t: usize, n: usize) -> Vec<f32> {
        let mut stream = Stream::new(3, "test/gram", t as u64, n as u64);
        (0..t * n).map(|_| stream.normal() as f32 + 0.3).collect()
    }

    fn naive(x: &[f32], w: &[f64], n: usize) -> Vec<f64> {
        let mut h = vec![0.0; n * n];
        for (x, w) in x.chunks(n).zip(w) {
            for i in 0..n {
                for j in 0..n {
                    h[i * n + j] += w * f64::from(x[i]) * f64::from(x[j]);
                }
            }
        }
        let total: f64 = w.iter().sum();
        h.iter().map(|v| v / total).collect()
    }

    fn close(a: &[f64], b: &[f64]) -> bool {
        a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-11)
    }

    #[test]
    fn equals_the_obvious_sum() {
        for (t, n) in [(1, 1), (7, 3), (600, 65), (30, 130), (513, 64)] {
            let x = rows(t, n);
            let w: Vec<f64> = (0..t).map(|i| (i % 4) as f64 * 0.5 + 0.1).collect();
            let mut gram = GramAccumulator::new(n);
            gram.add(&x, Some(&w)).unwrap();
            assert!(close(gram.mean().unwrap().as_slice(), &naive(&x, &w, n)), "{t} x {n}");
            let ones = vec![1.0; t];
            let mut plain = GramAccumulator::new(n);
            plain.add(&x, None).unwrap();
            assert!(close(plain.mean().unwrap().as_slice(), &naive(&x, &ones, n)));
            assert_eq!((plain.count(), plain.sum_w()), (t as u64, t as f64));
            let mean: f64 = x.iter().step_by(n).map(|&v| f64::from(v)).sum::<f64>() / t as f64;
            assert!((plain.mean_x().unwrap()[0] - mean).abs() < 1e-12);
        }
    }

    #[test]
    fn weights_matter_and_zero_hides_a_row() {
        let x = rows(10, 4);
        let mut w = vec![1.0; 10];
        w[9] = 0.0;
        let (mut masked, mut short) = (GramAccumulator::new(4), GramAccumulator::new(4));
        masked.add(&x, Some(&w)).unwrap();
        short.add(&x[..36], None).unwrap();
        assert_eq!(masked.mean().unwrap(), short.mean().unwrap());
        assert_eq!((masked.count(), short.count()), (10, 9));
        let mut all = GramAccumulator::new(4);
        all.add(&x, None).unwrap();
        assert!(!close(all.mean().unwrap().as_slice(), masked.mean().unwrap().as_slice()));
    }

    #[test]
    fn same_bytes_at_any_number_of_threads() {
        let x = rows(1100, 200);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut gram = GramAccumulator::new(200);
                gram.add(&x, None).unwrap();
                gram
            })
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(3));
    }

    #[test]
    fn merge_adds_the_sums() {
        let x = rows(50, 6);
        let (mut a, mut b, mut whole) =
            (GramAccumulator::new(6), GramAccumulator::new(6), GramAccumulator::new(6));
        a.add(&x[..120], None).unwrap();
        b.add(&x[120..], None).unwrap();
        whole.add(&x, None).unwrap();
        a.merge(&b).unwrap();
        assert!(close(a.mean().unwrap().as_slice(), whole.mean().unwrap().as_slice()));
        assert_eq!((a.count(), a.sum_w()), (50, 50.0));
        assert!(a.merge(&GramAccumulator::new(5)).is_err());
    }

    #[test]
    fn bad_rows_are_named_and_nothing_is_added() {
        let mut gram = GramAccumulator::new(3);
        let mut x = rows(4, 3);
        x[7] = f32::NAN;
        assert!(matches!(gram.add(&x, None), Err(Error::Value { row: 2, column: 1, .. })));
        x[7] = f32::NEG_INFINITY;
        assert!(matches!(gram.add(&x, None), Err(Error::Value { row: 2, column: 1, .. })));
        x[7] = 0.0;
        assert!(matches!(gram.add(&x, Some(&[1.0, 1.0, 1.0, -1.0])), Err(Error::Value { row: 3, .. })));
        assert!(matches!(gram.add(&x[1..], None), Err(Error::Length { .. })));
        assert!(matches!(gram.add(&x, Some(&[1.0])), Err(Error::Length { .. })));
        assert_eq!(gram, GramAccumulator::new(3));
        assert!(matches!(gram.mean(), Err(Error::TooFew { .. })));
    }
}
