//! Orthonormal columns: modified Gram-Schmidt for one or two, Householder reflections for more.
//!
//! In `f64` whatever the input, since a few columns cost nothing beside the products around them. A column that
//! depends on those before it is replaced by another direction and not by zero: PowerSGD starts from its last result,
//! and a column that is zero once would stay zero, so that its rank would be lost for the rest of the run.

use trimtab_math::random::Stream;

/// Columns up to which Gram-Schmidt is used, as published.
const GRAM_SCHMIDT_COLUMNS: usize = 2;

/// A column that keeps less than this part of its norm is taken to depend on the others (the input is `f32`).
const DEPENDENT: f64 = 1e-6;

/// Replaces the columns of `p` `[n, r]`, `r <= n`, by an orthonormal basis that contains their span.
///
/// `fresh` supplies directions in place of dependent columns. The same input gives the same bits.
pub(crate) fn orthonormalize(p: &mut [f32], r: usize, fresh: &mut Stream) {
    if r == 0 || p.is_empty() {
        return;
    }
    let n = p.len() / r;
    let mut columns: Vec<Vec<f64>> =
        (0..r).map(|c| (0..n).map(|i| f64::from(p[i * r + c])).collect()).collect();
    if r <= GRAM_SCHMIDT_COLUMNS {
        gram_schmidt(&mut columns, fresh);
    } else {
        householder(&mut columns);
    }
    for (c, column) in columns.iter().enumerate() {
        for (i, &value) in column.iter().enumerate() {
            p[i * r + c] = value as f32;
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `a -= factor * b`.
fn subtract(a: &mut [f64], factor: f64, b: &[f64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a -= factor * b);
}

/// Modified Gram-Schmidt, each column twice (a second pass restores what the first lost to rounding).
fn gram_schmidt(columns: &mut [Vec<f64>], fresh: &mut Stream) {
    for c in 0..columns.len() {
        let (done, rest) = columns.split_at_mut(c);
        let column = &mut rest[0];
        // Draws are independent of the others with probability one, so this ends at the first or second.
        loop {
            let before = dot(column, column).sqrt();
            for _ in 0..2 {
                for other in done.iter() {
                    let factor = dot(column, other);
                    subtract(column, factor, other);
                }
            }
            let norm = dot(column, column).sqrt();
            if norm > DEPENDENT * before {
                column.iter_mut().for_each(|x| *x /= norm);
                break;
            }
            column.iter_mut().for_each(|x| *x = fresh.normal());
        }
    }
}

/// The first columns of the orthogonal factor, from reflections `I - 2 v vᵀ`. Dependent columns come out as
/// directions orthogonal to all others by construction.
fn householder(columns: &mut [Vec<f64>]) {
    let r = columns.len();
    let mut reflections: Vec<Vec<f64>> = Vec::with_capacity(r);
    for c in 0..r {
        let (column, later) = match columns[c..].split_first_mut() {
            Some(split) => split,
            None => return,
        };
        let mut v = column.clone();
        v[..c].fill(0.0);
        let norm = dot(&v, &v).sqrt();
        // Away from the sign of the pivot: no cancellation.
        v[c] += if v[c] < 0.0 { -norm } else { norm };
        let length = dot(&v, &v).sqrt();
        if length > 0.0 {
            v.iter_mut().for_each(|x| *x /= length);
        }
        for other in later {
            let factor = 2.0 * dot(other, &v);
            subtract(other, factor, &v);
        }
        reflections.push(v);
    }
    for (c, column) in columns.iter_mut().enumerate() {
        column.fill(0.0);
        column[c] = 1.0;
        for v in reflections[..=c].iter().rev() {
            let factor = 2.0 * dot(column, v);
            subtract(column, factor, v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(item: u64) -> Stream {
        Stream::new(0, "test/orthonormal", 0, item)
    }

    /// Largest entry of `PᵀP - I`.
    fn defect(p: &[f32], n: usize, r: usize) -> f64 {
        let entry = |i: usize, c: usize| f64::from(p[i * r + c]);
        let gram = |a, b| (0..n).map(|i| entry(i, a) * entry(i, b)).sum::<f64>();
        let off = |a, b| (gram(a, b) - f64::from(u8::from(a == b))).abs();
        (0..r).flat_map(|a| (0..r).map(move |b| (a, b))).map(|(a, b)| off(a, b)).fold(0.0, f64::max)
    }

    #[test]
    fn columns_are_orthonormal_and_keep_the_span() {
        for (n, r) in [(1, 1), (2, 2), (9, 1), (9, 2), (9, 3), (40, 8), (5, 5), (130, 32)] {
            let mut draw = stream(n as u64);
            let before: Vec<f32> = (0..n * r).map(|_| draw.normal() as f32).collect();
            let mut p = before.clone();
            orthonormalize(&mut p, r, &mut draw);
            assert!(defect(&p, n, r) < 1e-6, "{n} x {r}: {}", defect(&p, n, r));
            assert!(r == 1 || defect(&before, n, r) > 1e-2); // the control: the input is not
            // P Pᵀ leaves the input where it was.
            let inside: Vec<f32> = crate::matrix::transposed_times(&p, &before, r, r);
            let again = crate::matrix::times(&p, &inside, r, r);
            assert!(again.iter().zip(&before).all(|(a, b)| (a - b).abs() < 1e-4), "{n} x {r}");
        }
    }

    #[test]
    fn dependent_and_zero_columns_are_replaced() {
        for (n, r) in [(6, 1), (6, 2), (6, 3), (6, 6)] {
            let mut zero = vec![0.0; n * r];
            orthonormalize(&mut zero, r, &mut stream(1));
            assert!(defect(&zero, n, r) < 1e-6);
            let mut equal: Vec<f32> = (0..n * r).map(|i| (i / r) as f32 + 1.0).collect();
            orthonormalize(&mut equal, r, &mut stream(2));
            assert!(defect(&equal, n, r) < 1e-6, "{n} x {r}: {}", defect(&equal, n, r));
        }
    }
}
