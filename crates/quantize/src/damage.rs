//! What a changed weight costs at the layer's output: `tr((W−Q) H (W−Q)ᵀ)`, the mean squared output error summed over
//! outputs.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;
use trimtab_calibrate::Moment;
use trimtab_math::linalg::Square;

use crate::error::{Result, check_length};

/// Rows of the weight that one task handles.
const ROWS: usize = 128;
/// Columns of `H` that are multiplied at a time.
const COLUMNS: usize = 256;

/// `tr((W−Q) H (W−Q)ᵀ)` for `w` and `q` `[rows, n]` and symmetric `h` of order `n`, in double precision.
///
/// The same at any number of threads. Half the work of the plain product: blocks below the diagonal count twice.
///
/// # Errors
/// Lengths that do not fit.
pub fn output_error(w: &[f32], q: &[f32], h: &Square) -> Result<f64> {
    check_length("output error: q", w.len(), q.len())?;
    quadratic_form(w, h, |row, index| f64::from(row[index]) - f64::from(q[index]))
}

/// The squared output error of `values` in the place of `weight` by all that was seen of a site, group by group of a convolution; where
/// nothing was seen, the squared error of the weight.
///
/// # Errors
/// Lengths that do not fit.
pub fn site_error(weight: &[f32], values: &[f32], moment: Option<&Moment>) -> Result<f64> {
    check_length("output error: q", weight.len(), values.len())?;
    let Some(moment) = moment else {
        return Ok(weight.iter().zip(values).map(|(&w, &q)| f64::from(w - q).powi(2)).sum());
    };
    let part = (weight.len() / moment.groups().len()).max(1);
    let parts = weight.chunks(part).zip(values.chunks(part)).zip(moment.groups());
    parts.map(|((w, q), h)| output_error(w, q, h)).sum()
}

/// [`output_error`] relative to the power of the output, `tr(W H Wᵀ)`; 0 if both are 0.
///
/// # Errors
/// Lengths that do not fit.
pub fn relative_output_error(w: &[f32], q: &[f32], h: &Square) -> Result<f64> {
    let error = output_error(w, q, h)?;
    let power = quadratic_form(w, h, |row, index| f64::from(row[index]))?;
    Ok(if error == 0.0 { 0.0 } else { error / power })
}

/// `tr(D H Dᵀ)`, where `entry(w, i)` is element `i` of `D`.
fn quadratic_form(w: &[f32], h: &Square, entry: impl Fn(&[f32], usize) -> f64 + Sync) -> Result<f64> {
    let n = h.n();
    let rows = w.len() / n.max(1);
    check_length("output error: w", rows * n, w.len())?;
    let parts: Vec<f64> = (0..rows.div_ceil(ROWS))
        .into_par_iter()
        .map(|task| {
            let (first, last) = (task * ROWS * n, w.len().min((task + 1) * ROWS * n));
            let d: Vec<f64> = (first..last).map(|i| entry(w, i)).collect();
            rows_form(&d, h)
        })
        .collect();
    Ok(parts.iter().sum())
}

/// `tr(D H Dᵀ)` for `d` `[rows, n]` on one thread.
fn rows_form(d: &[f64], h: &Square) -> f64 {
    let n = h.n();
    let rows = d.len() / n;
    let h = MatRef::from_column_major_slice(h.as_slice(), n, n);
    let view = MatRef::from_row_major_slice(d, rows, n);
    let mut product = vec![0.0; rows * COLUMNS.min(n)];
    let mut sum = 0.0;
    for first in (0..n).step_by(COLUMNS) {
        let width = COLUMNS.min(n - first);
        let after = n - first - width;
        let mut y = MatMut::from_row_major_slice_mut(&mut product[..rows * width], rows, width);
        let (on, below) = h.subcols(first, width).subrows(first, n - first).split_at_row(width);
        matmul(y.as_mut(), Accum::Replace, view.subcols(first, width), on, 1.0, Par::Seq);
        matmul(y, Accum::Add, view.subcols(first + width, after), below, 2.0, Par::Seq);
        for (row, y) in product[..rows * width].chunks(width).enumerate() {
            let d = &d[row * n + first..][..width];
            sum += y.iter().zip(d).map(|(a, b)| a * b).sum::<f64>();
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use trimtab_math::gram::GramAccumulator;
    use trimtab_math::random::Stream;

    fn instance(rows: usize, n: usize, tokens: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>, Square) {
        let mut stream = Stream::new(1, "test/damage", rows as u64, n as u64);
        let mut draw = |count: usize| -> Vec<f32> { (0..count).map(|_| stream.normal() as f32).collect() };
        let (w, q, x) = (draw(rows * n), draw(rows * n), draw(tokens * n));
        let mut gram = GramAccumulator::new(n);
        gram.add(&x, None).unwrap();
        (w, q, x, gram.mean().unwrap())
    }

    #[test]
    fn is_the_mean_squared_output_error() {
        for (rows, n, tokens) in [(1, 1, 3), (4, 9, 20), (130, 40, 5), (3, 300, 60), (2, 520, 9)] {
            let (w, q, x, h) = instance(rows, n, tokens);
            let mut expected = 0.0;
            for x in x.chunks(n) {
                for row in 0..rows {
                    let difference: f64 = (0..n)
                        .map(|i| (f64::from(w[row * n + i]) - f64::from(q[row * n + i])) * f64::from(x[i]))
                        .sum();
                    expected += difference * difference / tokens as f64;
                }
            }
            let found = output_error(&w, &q, &h).unwrap();
            assert!((found / expected - 1.0).abs() < 1e-10, "{found} against {expected}");
            assert_eq!(output_error(&w, &w, &h).unwrap(), 0.0);
        }
    }

    #[test]
    fn relative_error_of_nothing_kept_is_one() {
        let (w, _, _, h) = instance(5, 12, 30);
        assert!((relative_output_error(&w, &[0.0; 60], &h).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(relative_output_error(&[0.0; 60], &[0.0; 60], &h).unwrap(), 0.0);
        let twice: Vec<f32> = w.iter().map(|x| 3.0 * x).collect();
        assert!((relative_output_error(&w, &twice, &h).unwrap() - 4.0).abs() < 1e-6);
    }

    #[test]
    fn same_bytes_at_any_number_of_threads() {
        let (w, q, _, h) = instance(300, 64, 80);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| output_error(&w, &q, &h).unwrap())
        };
        assert_eq!(run(1), run(2));
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn lengths_are_checked() {
        let h = Square::identity(3);
        assert!(matches!(output_error(&[0.0; 6], &[0.0; 5], &h), Err(Error::Length { .. })));
        assert!(matches!(output_error(&[0.0; 5], &[0.0; 5], &h), Err(Error::Length { .. })));
        assert_eq!(output_error(&[], &[], &Square::identity(0)).unwrap(), 0.0);
    }
}
