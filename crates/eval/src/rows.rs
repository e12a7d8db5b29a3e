//! Arithmetic on rows of logits: f32 exponentials (a vocabulary has many), f64 sums, parallel over rows, the same at
//! any number of threads. `trimtab_math::stats` has the same in f64 throughout, and judges these in the tests.

use rayon::prelude::*;
use trimtab_math::vector;

use crate::error::{Error, Result};

/// `log sum exp` of a row; `None` if it is not finite.
pub fn log_sum_exp(row: &[f32]) -> Option<f64> {
    let max = vector::max(row);
    let value = f64::from(max) + vector::sum_exp(row, max).ln();
    value.is_finite().then_some(value)
}

/// `KL(p || q)` in nats for two rows of logits.
pub fn kl(p: &[f32], q: &[f32]) -> Option<f64> {
    let (norm_p, norm_q) = (log_sum_exp(p)?, log_sum_exp(q)?);
    let shift = norm_p as f32;
    // The f32 probabilities sum to one within rounding only; the mean difference is scaled accordingly.
    let mass = (norm_p - f64::from(shift)).exp();
    Some((vector::sum_exp_times_difference(p, q, shift) / mass - norm_p + norm_q).max(0.0))
}

/// Applies `f` to every row, in parallel; `None` becomes an error that names the row.
pub fn map_rows<T: Send>(n: usize, f: impl Fn(usize) -> Option<T> + Sync) -> Result<Vec<T>> {
    (0..n).into_par_iter().map(|row| f(row).ok_or(Error::NotFinite { row })).collect()
}

#[cfg(test)]
mod tests {
    use trimtab_math::stats::kl_divergence;

    use super::*;

    #[test]
    fn kl_equals_the_definition() {
        let p: Vec<f32> = (0..200).map(|i| ((i * 37) % 23) as f32 * 0.3).collect();
        let q: Vec<f32> = (0..200).map(|i| ((i * 31) % 19) as f32 * 0.35).collect();
        let near: Vec<f32> = p.iter().enumerate().map(|(i, v)| v + 1e-2 * (i % 3) as f32).collect();
        for q in [&q, &near] {
            let exact = kl_divergence(&p, q).unwrap();
            assert!((kl(&p, q).unwrap() - exact).abs() < 1e-6 * (1.0 + exact), "{exact}");
        }
        assert!(kl(&p, &p).unwrap() < 1e-7);
    }

    #[test]
    fn broken_rows_are_seen() {
        assert_eq!(log_sum_exp(&[1.0, f32::NAN]), None);
        assert_eq!(kl(&[1.0, 2.0], &[f32::INFINITY, 0.0]), None);
    }
}
