//! General linear systems.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::lu::partial_pivoting::{factor, solve as lu_solve};
use faer::{Mat, MatMut, MatRef, Par};

use super::square::Square;
use crate::error::{Error, Result, check_finite, check_length};

/// Solves `A X = B` for `b` `[n, columns]` by LU with partial pivoting. One thread.
///
/// # Errors
/// A length that is not `n · columns`, a right-hand side that is not finite, [`Error::Singular`] for a pivot that is zero to
/// working precision.
pub fn solve(a: &Square, b: &[f64], columns: usize) -> Result<Vec<f64>> {
    let n = a.n();
    check_length("solve: right-hand side", n * columns, b.len())?;
    check_finite("solve: right-hand side", b, columns)?;
    let mut lu: Mat<f64> = MatRef::from_row_major_slice(a.as_slice(), n, n).to_owned();
    let (mut forward, mut backward) = (vec![0usize; n], vec![0usize; n]);
    let scratch = factor::lu_in_place_scratch::<usize, f64>(n, n, Par::Seq, Default::default());
    let (_, permutation) = factor::lu_in_place(
        lu.as_mut(),
        &mut forward,
        &mut backward,
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    );
    let largest = a.as_slice().iter().fold(0.0f64, |best, x| best.max(x.abs()));
    let tiny = largest * f64::EPSILON * n as f64;
    if let Some(pivot) = (0..n).find(|&i| lu[(i, i)].abs() <= tiny) {
        return Err(Error::Singular { what: "solve", pivot, n });
    }
    let mut x = b.to_vec();
    let scratch = lu_solve::solve_in_place_scratch::<usize, f64>(n, columns, Par::Seq);
    lu_solve::solve_in_place(
        lu.as_ref(),
        lu.as_ref(),
        permutation,
        MatMut::from_row_major_slice_mut(&mut x, n, columns),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
    );
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::square::tests::{max_difference, product};
    use crate::random::Stream;

    #[test]
    fn recovers_the_solution() {
        for n in [0, 1, 2, 19, 70] {
            let mut stream = Stream::new(0, "test/solve", n as u64, 0);
            let a = Square::new(n, (0..n * n).map(|_| stream.normal()).collect()).unwrap();
            let x: Vec<f64> = (0..n * 3).map(|_| stream.normal()).collect();
            let b = product(a.as_slice(), &x, n, n, 3);
            assert!(max_difference(&solve(&a, &b, 3).unwrap(), &x) < 1e-9, "n = {n}");
        }
    }

    #[test]
    fn needs_pivoting_and_sees_singularity() {
        let swap = Square::new(2, vec![0.0, 1.0, 1.0, 0.0]).unwrap();
        assert_eq!(solve(&swap, &[3.0, 4.0], 1).unwrap(), [4.0, 3.0]);
        let singular = Square::new(2, vec![1.0, 2.0, 2.0, 4.0]).unwrap();
        assert!(matches!(solve(&singular, &[1.0, 1.0], 1), Err(Error::Singular { pivot: 1, n: 2, .. })));
        assert!(matches!(solve(&swap, &[1.0], 1), Err(Error::Length { .. })));
        assert!(matches!(solve(&swap, &[1.0, f64::NAN], 1), Err(Error::Value { row: 1, .. })));
    }
}
