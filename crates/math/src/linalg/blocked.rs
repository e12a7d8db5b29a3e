//! Blocked Cholesky factorization over the rayon pool, with pieces of a fixed size.
//!
//! Right-looking: factor a diagonal block, solve the panel below it, subtract the panel's outer product from what is
//! left. Panel rows and columns of the rest are cut into fixed chunks, each computed by one thread, so the
//! result is the same at any number of threads (which `faer`'s own parallel products do not promise).

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltError, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{BlockStructure, matmul as triangular_matmul};
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Order of the diagonal blocks.
const PANEL: usize = 256;
/// Rows of a panel, or columns of the rest, that one task handles.
const CHUNK: usize = 128;

/// Replaces the lower triangle of `a` `[n, n]` by its Cholesky factor `L`, `A = L Lᵀ`. The strict upper triangle is
/// neither read nor meaningful afterwards.
///
/// # Errors
/// The index of the first pivot that is not positive (or is NaN).
pub(super) fn cholesky_blocked(a: MatMut<'_, f64>) -> Result<(), usize> {
    let mut rest = a;
    let mut done = 0;
    while rest.nrows() > 0 {
        let width = PANEL.min(rest.nrows());
        let (mut diagonal, _, mut below, mut trailing) = rest.split_at_mut(width, width);
        factor_block(diagonal.as_mut()).map_err(|pivot| done + pivot)?;
        let panel = solve_panel(diagonal.as_ref(), below.as_mut());
        let panel = MatRef::from_row_major_slice(&panel, trailing.nrows(), width);
        subtract_outer_product(panel, trailing.as_mut());
        rest = trailing;
        done += width;
    }
    Ok(())
}

/// One diagonal block on one thread, in a column-major copy (the layout that `faer` has vector code for).
fn factor_block(mut block: MatMut<'_, f64>) -> Result<(), usize> {
    let n = block.nrows();
    let mut copy = Mat::from_fn(n, n, |i, j| block[(i, j)]);
    let scratch = cholesky_in_place_scratch::<f64>(n, Par::Seq, Default::default());
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    match cholesky_in_place(copy.as_mut(), Default::default(), Par::Seq, stack, Default::default()) {
        Ok(_) => {
            block.copy_from_triangular_lower(&copy);
            Ok(())
        }
        Err(LltError::NonPositivePivot { index }) => Err(index),
    }
}

/// `B ← B L⁻ᵀ` for the panel `B` below the diagonal block. Also returns `B`, row-major without gaps: rows that lie a
/// large power of two apart would share cache sets in the products that follow.
fn solve_panel(diagonal: MatRef<'_, f64>, below: MatMut<'_, f64>) -> Vec<f64> {
    let width = diagonal.nrows();
    let mut panel = vec![0.0; below.nrows() * width];
    below.par_row_chunks_mut(CHUNK).zip(panel.par_chunks_mut(CHUNK * width)).for_each(|(mut rows, copy)| {
        let mut copy = MatMut::from_row_major_slice_mut(copy, rows.nrows(), width);
        copy.copy_from(rows.as_ref());
        solve_lower_triangular_in_place(diagonal, copy.as_mut().transpose_mut(), Par::Seq);
        rows.copy_from(copy.as_ref());
    });
    panel
}

/// `C ← C − B Bᵀ`, lower triangle.
fn subtract_outer_product(panel: MatRef<'_, f64>, trailing: MatMut<'_, f64>) {
    let n = trailing.nrows();
    trailing.par_col_chunks_mut(CHUNK).enumerate().for_each(|(index, columns)| {
        let (first, width) = (index * CHUNK, columns.ncols());
        let (_, on_and_below) = columns.split_at_row_mut(first);
        let (on, below) = on_and_below.split_at_row_mut(width);
        let here = panel.subrows(first, width);
        triangular_matmul(
            on,
            BlockStructure::TriangularLower,
            Accum::Add,
            here,
            BlockStructure::Rectangular,
            here.transpose(),
            BlockStructure::Rectangular,
            -1.0,
            Par::Seq,
        );
        let under = panel.subrows(first + width, n - first - width);
        matmul(below, Accum::Add, under, here.transpose(), -1.0, Par::Seq);
    });
}
