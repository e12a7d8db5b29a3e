//! Thin QR decomposition by Householder reflections.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch as apply_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj as apply,
};
use faer::linalg::qr::no_pivoting::factor::{qr_in_place, qr_in_place_scratch, recommended_block_size};
use faer::{Conj, Mat, MatRef, Par};

/// `A = Q R` for `a` `[rows, columns]` with at least as many rows as columns: `Q` `[rows, columns]` with orthonormal columns
/// and `R` `[columns, columns]`, upper triangular, both row-major. One thread.
///
/// Dependent columns are no error: `Q` is orthonormal all the same.
pub(super) fn triangle_of_columns(a: &[f64], rows: usize, columns: usize) -> (Vec<f64>, Vec<f64>) {
    debug_assert!(rows >= columns);
    let mut qr: Mat<f64> = MatRef::from_row_major_slice(a, rows, columns).to_owned();
    let block = recommended_block_size::<f64>(rows, columns);
    let mut factor = Mat::<f64>::zeros(block, columns);
    let scratch = qr_in_place_scratch::<f64>(rows, columns, block, Par::Seq, Default::default());
    let mut memory = MemBuffer::new(scratch);
    qr_in_place(qr.as_mut(), factor.as_mut(), Par::Seq, MemStack::new(&mut memory), Default::default());
    let mut r = vec![0.0; columns * columns];
    for i in 0..columns {
        for j in i..columns {
            r[i * columns + j] = qr[(i, j)];
        }
    }
    let mut q = Mat::<f64>::identity(rows, columns);
    let mut memory = MemBuffer::new(apply_scratch::<f64>(rows, block, columns));
    apply(qr.as_ref(), factor.as_ref(), Conj::No, q.as_mut(), Par::Seq, MemStack::new(&mut memory));
    let mut out = vec![0.0; rows * columns];
    for j in 0..columns {
        q.col(j).iter().enumerate().for_each(|(i, &x)| out[i * columns + j] = x);
    }
    (out, r)
}

/// An orthonormal basis `[rows, columns]` of the columns of `a`, and of further directions where they are dependent.
pub(super) fn orthonormal_columns(a: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    triangle_of_columns(a, rows, columns).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::Square;
    use crate::linalg::square::tests::{max_difference, product, transpose};
    use crate::random::Stream;

    #[test]
    fn rebuilds_with_orthonormal_columns_also_where_some_are_dependent() {
        for (rows, columns) in [(1, 1), (9, 4), (300, 70), (40, 40)] {
            let mut stream = Stream::new(0, "test/qr", rows as u64, columns as u64);
            let mut a: Vec<f64> = (0..rows * columns).map(|_| stream.normal()).collect();
            for dependent in [false, true] {
                if dependent {
                    a.chunks_mut(columns).for_each(|row| row[columns - 1] = row[0]);
                }
                let (q, r) = triangle_of_columns(&a, rows, columns);
                assert!(max_difference(&product(&q, &r, rows, columns, columns), &a) < 1e-12);
                let gram = product(&transpose(&q, rows, columns), &q, columns, rows, columns);
                assert!(max_difference(&gram, Square::identity(columns).as_slice()) < 1e-12);
            }
        }
        // All zero: any basis will do, as long as it is one.
        let (q, _) = triangle_of_columns(&[0.0; 12], 4, 3);
        let gram = product(&transpose(&q, 4, 3), &q, 3, 4, 3);
        assert!(max_difference(&gram, Square::identity(3).as_slice()) < 1e-12);
    }
}
