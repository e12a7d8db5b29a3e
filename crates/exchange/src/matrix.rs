//! Products of a tall or wide matrix with a few columns, row-major.
//!
//! Inner loops run along the long side, over the thin factor transposed, where they are vectorized. Parallel over pieces
//! of a fixed size, each computed by one thread with a fixed order of additions: the bits depend on nothing else.

use rayon::prelude::*;

/// Rows (or columns) of one piece.
const PIECE: usize = 64;

/// Partial sums of a dot product.
const LANES: usize = 16;

/// `A Q`: `a` `[n, m]`, `q` `[m, r]`, result `[n, r]`.
pub(crate) fn times(a: &[f32], q: &[f32], m: usize, r: usize) -> Vec<f32> {
    let mut product = vec![0.0; a.len().checked_div(m).unwrap_or(0) * r];
    if product.is_empty() {
        return product;
    }
    let q = transposed(q, r);
    product.par_chunks_mut(PIECE * r).zip(a.par_chunks(PIECE * m)).for_each(|(out, rows)| {
        for (out, row) in out.chunks_exact_mut(r).zip(rows.chunks_exact(m)) {
            for (sum, column) in out.iter_mut().zip(q.chunks_exact(m)) {
                *sum = dot(row, column);
            }
        }
    });
    product
}

/// `Aᵀ P`: `a` `[n, m]`, `p` `[n, r]`, result `[m, r]`.
pub(crate) fn transposed_times(a: &[f32], p: &[f32], m: usize, r: usize) -> Vec<f32> {
    if m == 0 || r == 0 {
        return Vec::new();
    }
    let piece = |start: usize| {
        let columns = start..(start + PIECE).min(m);
        let mut sums = vec![0.0; r * columns.len()];
        for (row, p) in a.chunks_exact(m).zip(p.chunks_exact(r)) {
            for (sums, &p) in sums.chunks_exact_mut(columns.len()).zip(p) {
                add_scaled(sums, p, &row[columns.clone()]);
            }
        }
        transposed(&sums, columns.len())
    };
    let starts: Vec<usize> = (0..m).step_by(PIECE).collect();
    starts.into_par_iter().map(piece).collect::<Vec<_>>().concat()
}

/// `P Qᵀ`: `p` `[n, r]`, `q` `[m, r]`, result `[n, m]`.
pub(crate) fn times_transposed(p: &[f32], q: &[f32], m: usize, r: usize) -> Vec<f32> {
    let mut product = vec![0.0; p.len().checked_div(r).unwrap_or(0) * m];
    if product.is_empty() {
        return product;
    }
    let q = transposed(q, r);
    product.par_chunks_mut(PIECE * m).zip(p.par_chunks(PIECE * r)).for_each(|(out, rows)| {
        for (out, p) in out.chunks_exact_mut(m).zip(rows.chunks_exact(r)) {
            for (&p, column) in p.iter().zip(q.chunks_exact(m)) {
                add_scaled(out, p, column);
            }
        }
    });
    product
}

/// `[rows, columns]` to `[columns, rows]`.
fn transposed(a: &[f32], columns: usize) -> Vec<f32> {
    let rows = a.len() / columns;
    (0..a.len()).map(|at| a[at % rows * columns + at / rows]).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// `out += factor * x`.
fn add_scaled(out: &mut [f32], factor: f32, x: &[f32]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out += factor * x);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agree_with_the_definition_across_pieces() {
        for (n, m, r) in [(1, 1, 1), (3, 5, 2), (65, 130, 3), (128, 64, 1), (70, 3, 3), (20, 100, 17)] {
            let a: Vec<f32> = (0..n * m).map(|i| ((i * 37) % 11) as f32 - 5.0).collect();
            let q: Vec<f32> = (0..m * r).map(|i| ((i * 17) % 7) as f32 - 3.0).collect();
            let p = times(&a, &q, m, r);
            let back = transposed_times(&a, &p, m, r);
            let outer = times_transposed(&p, &q, m, r);
            // Small integers: every order of summation gives the same bits.
            for c in 0..r {
                for i in 0..n {
                    assert_eq!(p[i * r + c], (0..m).map(|j| a[i * m + j] * q[j * r + c]).sum::<f32>());
                }
                for j in 0..m {
                    assert_eq!(back[j * r + c], (0..n).map(|i| a[i * m + j] * p[i * r + c]).sum::<f32>());
                }
            }
            for (i, j) in [(0, 0), (n - 1, m - 1), (n / 2, m / 3)] {
                assert_eq!(outer[i * m + j], (0..r).map(|c| p[i * r + c] * q[j * r + c]).sum::<f32>());
            }
        }
    }

    #[test]
    fn nothing_times_anything_is_nothing() {
        assert!(times(&[], &[], 0, 3).is_empty() && times(&[1.0], &[], 1, 0).is_empty());
        assert!(transposed_times(&[], &[], 0, 3).is_empty() && times_transposed(&[], &[], 4, 0).is_empty());
        assert_eq!(transposed_times(&[], &[], 2, 1), [0.0, 0.0]);
    }
}
