//! Products of a tall or wide matrix with a few columns, row-major.
//!
//! Parallel over pieces of a fixed size, each computed by one thread, so the bits do not depend on the pool.

use rayon::prelude::*;

/// Rows (or columns) of one piece.
const PIECE: usize = 64;

/// `A Q`: `a` `[n, m]`, `q` `[m, r]`, result `[n, r]`.
pub(crate) fn times(a: &[f32], q: &[f32], m: usize, r: usize) -> Vec<f32> {
    if m == 0 || r == 0 {
        return vec![0.0; a.len().checked_div(m).unwrap_or(0) * r];
    }
    let mut product = vec![0.0; a.len() / m * r];
    product.par_chunks_mut(PIECE * r).zip(a.par_chunks(PIECE * m)).for_each(|(out, rows)| {
        for (out, row) in out.chunks_exact_mut(r).zip(rows.chunks_exact(m)) {
            for (&x, q) in row.iter().zip(q.chunks_exact(r)) {
                for (sum, &q) in out.iter_mut().zip(q) {
                    *sum += x * q;
                }
            }
        }
    });
    product
}

/// `Aᵀ P`: `a` `[n, m]`, `p` `[n, r]`, result `[m, r]`.
pub(crate) fn transposed_times(a: &[f32], p: &[f32], m: usize, r: usize) -> Vec<f32> {
    let mut product = vec![0.0; m * r];
    if m == 0 || r == 0 {
        return product;
    }
    product.par_chunks_mut(PIECE * r).enumerate().for_each(|(piece, out)| {
        let columns = piece * PIECE..piece * PIECE + out.len() / r;
        for (row, p) in a.chunks_exact(m).zip(p.chunks_exact(r)) {
            for (out, &x) in out.chunks_exact_mut(r).zip(&row[columns.clone()]) {
                for (sum, &p) in out.iter_mut().zip(p) {
                    *sum += x * p;
                }
            }
        }
    });
    product
}

/// `P Qᵀ`: `p` `[n, r]`, `q` `[m, r]`, result `[n, m]`.
pub(crate) fn times_transposed(p: &[f32], q: &[f32], m: usize, r: usize) -> Vec<f32> {
    if m == 0 || r == 0 {
        return vec![0.0; p.len().checked_div(r).unwrap_or(0) * m];
    }
    let mut product = vec![0.0; p.len() / r * m];
    product.par_chunks_mut(PIECE * m).zip(p.par_chunks(PIECE * r)).for_each(|(out, rows)| {
        for (out, p) in out.chunks_exact_mut(m).zip(rows.chunks_exact(r)) {
            for (out, q) in out.iter_mut().zip(q.chunks_exact(r)) {
                *out = p.iter().zip(q).map(|(p, q)| p * q).sum();
            }
        }
    });
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agree_with_the_definition_across_pieces() {
        for (n, m, r) in [(1, 1, 1), (3, 5, 2), (65, 130, 3), (128, 64, 1), (70, 3, 3)] {
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
}
