//! Truncated singular value decomposition under a left and a right metric.
//!
//! `min ‖L^{1/2} (E − B A) S^{1/2}‖_F` over `B A` of rank `r`, for a diagonal `L` and any second moment `S` (Eckart and
//! Young in the norm that the two define). EoRA (arXiv 2410.21271) is `(I, S)`, activation scaling `(I, diagonal)`, the
//! plain decomposition `(I, I)`, a Fisher-weighted one (LQ-LoRA, arXiv 2311.12023) `(diagonal, diagonal)`.
//!
//! The papers factor `S = P Pᵀ`, decompose `E P` and multiply by `P⁻¹`. Here no factor is needed, and none is inverted:
//! with `F = L^{1/2} E`, the left singular vectors `U` of `F P` are the eigenvectors of `F S Fᵀ`, whatever the factor, and
//! the best pair is the projection `B A = L^{-1/2} U Uᵀ F`. So a singular `S` (fewer tokens than inputs, dead inputs)
//! needs no floor: what no token ever showed is projected on the same directions. Squaring costs singular values below
//! `1e-8` of the largest, which no error is made of.
//!
//! [`Path::Exact`] takes all eigenvectors; [`Path::Randomized`] finds the leading ones in the block Krylov space of
//! `x ↦ F S Fᵀ x` from a random start (Musco and Musco, arXiv 1504.05477), which never forms the product. Subspace iteration
//! with as many products (Halko, Martinsson and Tropp, arXiv 0909.4061) leaves 1 % more than the least error where the spectrum
//! hardly decays, as that of rounding errors; this leaves less than 0.1 %. Either way the residual of the pair that is
//! returned is exactly `‖F‖²_S − Σ sᵢ²`.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{BlockStructure, matmul as triangular_matmul};
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::eigen::symmetric_eigen;
use super::qr::{orthonormal_columns, triangle_of_columns};
use super::square::Square;
use super::svd::sign_of_largest;
use crate::error::{Error, Result, check_finite, check_length};
use crate::random::Stream;

/// Rows that one task multiplies.
const ROWS: usize = 128;
/// A block that keeps less than this part of its size outside of the span is rounding: random directions take its place.
const SPENT: f64 = 1e-13;
/// Smaller side up to which [`Path::Auto`] is exact.
const EXACT_UP_TO: usize = 1024;

/// The metric of the columns of a matrix: what `x` in `E x` is like.
#[derive(Clone, Copy, Debug)]
pub enum Metric<'a> {
    /// All directions alike.
    Identity,
    /// A diagonal second moment, `[columns]`, of numbers ≥ 0.
    Diagonal(&'a [f64]),
    /// A second moment, `[columns, columns]`; all of it is read.
    Full(&'a Square),
}

/// Settings of [`Path::Randomized`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sketch {
    /// Directions of a block beyond half of the rank.
    pub oversampling: usize,
    /// Blocks: the random start, and the products of `F S Fᵀ` with the block before; at least 2.
    pub blocks: usize,
    /// Seed of the random start.
    pub seed: u64,
}

impl Default for Sketch {
    fn default() -> Self {
        Self { oversampling: 8, blocks: 7, seed: 0 }
    }
}

impl Sketch {
    /// Directions of a block.
    fn width(&self, rank: usize) -> usize {
        (rank.div_ceil(2) + self.oversampling).max(1)
    }

    /// Directions of all blocks.
    fn dimensions(&self, rank: usize) -> usize {
        self.width(rank) * self.blocks.max(2)
    }
}

/// How the leading directions are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// Exact up to a smaller side of 1024, randomized beyond.
    #[default]
    Auto,
    /// A full eigendecomposition.
    Exact,
    /// The best in a small space that grows from a random start. Exact where that space would be half of the whole.
    Randomized(Sketch),
}

/// The best pair of a rank: `B A`, and what it takes off the error.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// `[rank, columns]`.
    pub a: Vec<f64>,
    /// `[rows, rank]`. Column `i` has the norm of row `i` of `a`, and its entry of largest magnitude is positive.
    pub b: Vec<f64>,
    /// Singular values of `L^{1/2} E S^{1/2}`, descending, `[rank]`: component `i` lowers the squared error by `sᵢ²`.
    pub singular: Vec<f64>,
    /// Rows of `E`.
    pub rows: usize,
    /// Columns of `E`.
    pub columns: usize,
}

impl LowRank {
    /// Components; at most the smaller side of `E`.
    pub fn rank(&self) -> usize {
        self.singular.len()
    }

    /// The squared error that is left of `total` with the first `rank` components.
    pub fn residual(&self, total: f64, rank: usize) -> f64 {
        let captured: f64 = self.singular.iter().take(rank).map(|s| s * s).sum();
        (total - captured).max(0.0)
    }

    /// `B A`, `[rows, columns]`.
    pub fn product(&self) -> Vec<f64> {
        let b = Rows { data: &self.b, rows: self.rows, columns: self.rank() };
        let a = MatRef::from_row_major_slice(&self.a, self.rank(), self.columns);
        b.times(a, self.columns)
    }
}

/// `‖L^{1/2} E S^{1/2}‖²_F` for `e` `[rows, columns]` and a diagonal `left` `[rows]`.
///
/// # Errors
/// As [`low_rank`].
pub fn metric_norm(e: &[f64], rows: usize, left: Option<&[f64]>, right: Metric<'_>) -> Result<f64> {
    let columns = check(e, rows, left, right)?;
    let f = scaled(e, columns, left);
    let fs = Rows { data: &f, rows, columns }.times_metric(right);
    Ok(f.iter().zip(&fs).map(|(a, b)| a * b).sum::<f64>().max(0.0))
}

/// The pair of rank `rank` that is nearest to `e` `[rows, columns]` under a diagonal `left` `[rows]` and the metric `right` of
/// the columns. The same bytes at any number of threads.
///
/// A row of weight 0 on the left gets zeros in `B`.
///
/// # Errors
/// Lengths that do not fit, numbers that are not finite, weights below 0, no convergence.
pub fn low_rank(
    e: &[f64],
    rows: usize,
    left: Option<&[f64]>,
    right: Metric<'_>,
    rank: usize,
    path: Path,
) -> Result<LowRank> {
    let columns = check(e, rows, left, right)?;
    let least = rows.min(columns);
    let rank = rank.min(least);
    let f = scaled(e, columns, left);
    let f = Rows { data: &f, rows, columns };
    let sketch = match path {
        Path::Exact => None,
        Path::Auto => (least > EXACT_UP_TO).then(Sketch::default),
        Path::Randomized(sketch) => Some(sketch),
    };
    let sketch = sketch.filter(|sketch| 2 * sketch.dimensions(rank) < least);
    let Directions { u, inner, singular } = match sketch {
        _ if rank == 0 => Directions { u: Vec::new(), inner: Vec::new(), singular: Vec::new() },
        None => exact(f, right, rank)?,
        Some(sketch) => randomized(f, right, rank, sketch)?,
    };
    Ok(balanced(u, inner, singular, left, (rows, columns)))
}

/// Checks all arguments; gives the number of columns.
fn check(e: &[f64], rows: usize, left: Option<&[f64]>, right: Metric<'_>) -> Result<usize> {
    let columns = match right {
        Metric::Identity => e.len() / rows.max(1),
        Metric::Diagonal(d) => d.len(),
        Metric::Full(s) => s.n(),
    };
    check_length("low rank: matrix", rows * columns, e.len())?;
    check_finite("low rank: matrix", e, columns)?;
    let weights = |what, weights: &[f64]| match weights.iter().position(|w| !(*w >= 0.0 && w.is_finite())) {
        None => Ok(()),
        Some(column) => {
            let (expected, value) = ("finite weights >= 0", weights[column]);
            Err(Error::Value { what, expected, row: 0, column, value })
        }
    };
    if let Some(left) = left {
        check_length("low rank: left metric", rows, left.len())?;
        weights("low rank: left metric", left)?;
    }
    match right {
        Metric::Diagonal(d) => weights("low rank: right metric", d)?,
        Metric::Full(s) => check_finite("low rank: right metric", s.as_slice(), columns)?,
        Metric::Identity => {}
    }
    Ok(columns)
}

/// `L^{1/2} E`.
fn scaled(e: &[f64], columns: usize, left: Option<&[f64]>) -> Vec<f64> {
    let mut f = e.to_vec();
    if let Some(left) = left {
        for (row, weight) in f.chunks_mut(columns.max(1)).zip(left) {
            row.iter_mut().for_each(|x| *x *= weight.sqrt());
        }
    }
    f
}

/// Leading directions of `F S Fᵀ`.
struct Directions {
    /// Orthonormal, `[rows, rank]`.
    u: Vec<f64>,
    /// `Uᵀ F`, `[rank, columns]`.
    inner: Vec<f64>,
    /// Square roots of the eigenvalues, `[rank]`.
    singular: Vec<f64>,
}

fn exact(f: Rows<'_>, right: Metric<'_>, rank: usize) -> Result<Directions> {
    // Of a tall matrix only the triangle of F = Q R matters: the left vectors of F P are Q times those of R P.
    let tall = (f.rows > f.columns).then(|| triangle_of_columns(f.data, f.rows, f.columns));
    let core = match &tall {
        Some((_, r)) => Rows { data: r, rows: f.columns, columns: f.columns },
        None => f,
    };
    let eigen = symmetric_eigen(&core.gram(&core.times_metric(right)))?;
    let (n, v) = (core.rows, eigen.vectors.as_slice());
    let leading: Vec<f64> = v.chunks(n.max(1)).flat_map(|row| row[..rank].iter().copied()).collect();
    let u = match &tall {
        Some((q, _)) => {
            let q = Rows { data: q, rows: f.rows, columns: n };
            q.times(MatRef::from_row_major_slice(&leading, n, rank), rank)
        }
        None => leading,
    };
    let inner = transposed(&f.transpose_times(&u, rank), f.columns, rank);
    let singular = eigen.values[..rank].iter().map(|value| value.max(0.0).sqrt()).collect();
    Ok(Directions { u, inner, singular })
}

/// Block Krylov: the span of `Ω, G Ω, G² Ω, …` for `G = F S Fᵀ`, and in it the directions of Rayleigh and Ritz.
fn randomized(f: Rows<'_>, right: Metric<'_>, rank: usize, sketch: Sketch) -> Result<Directions> {
    let (rows, columns, k) = (f.rows, f.columns, sketch.width(rank));
    let most = sketch.dimensions(rank);
    let mut stream = Stream::new(sketch.seed, "linalg/low-rank", rows as u64, columns as u64);
    let draws: Vec<f64> = (0..rows * k).map(|_| stream.normal()).collect();
    let mut block = orthonormal_columns(&draws, rows, k);
    // The basis and `Fᵀ` of it, a direction a row; `G` in the basis, its lower triangle.
    let (mut basis, mut inner) = (Vec::with_capacity(most * rows), Vec::with_capacity(most * columns));
    let mut small = vec![0.0; most * most];
    for first in (0..most).step_by(k) {
        basis.extend(transposed(&block, rows, k));
        let z = f.transpose_times(&block, k);
        let sz = metric_times(right, &z, columns, k);
        inner.extend(transposed(&z, columns, k));
        let mut next = f.times(MatRef::from_row_major_slice(&sz, columns, k), k);
        let found = Rows { data: &basis, rows: first + k, columns: rows };
        let on_basis = found.times(MatRef::from_row_major_slice(&next, rows, k), k);
        for (i, row) in on_basis.chunks(k).enumerate() {
            row.iter().enumerate().for_each(|(j, &x)| small[(first + j) * most + i] = x);
        }
        if first + k < most {
            let size = largest(&next);
            // Twice: what is left of a direction that was nearly found may lie in the span once more.
            for pass in 0..2 {
                let inside = found.times(MatRef::from_row_major_slice(&next, rows, k), k);
                let inside = found.transpose_times(&inside, k);
                next.iter_mut().zip(inside).for_each(|(x, y)| *x -= y);
                if pass == 0 && largest(&next) <= SPENT * size {
                    next.iter_mut().for_each(|x| *x = stream.normal());
                }
                next = orthonormal_columns(&next, rows, k);
            }
            block = next;
        }
    }
    let eigen = symmetric_eigen(&Square::from_parts(most, small))?;
    let v = eigen.vectors.as_slice();
    let leading: Vec<f64> = v.chunks(most).flat_map(|row| row[..rank].iter().copied()).collect();
    let basis = Rows { data: &basis, rows: most, columns: rows };
    let u = basis.transpose_times(&leading, rank);
    let inner = Rows { data: &transposed(&leading, most, rank), rows: rank, columns: most }
        .times(MatRef::from_row_major_slice(&inner, most, columns), columns);
    let singular = eigen.values[..rank].iter().map(|value| value.max(0.0).sqrt()).collect();
    Ok(Directions { u, inner, singular })
}

/// Splits the size of every component evenly between its column of `B` and its row of `A`, and takes the left metric off.
fn balanced(
    mut b: Vec<f64>,
    mut a: Vec<f64>,
    singular: Vec<f64>,
    left: Option<&[f64]>,
    (rows, columns): (usize, usize),
) -> LowRank {
    let rank = singular.len();
    if let Some(left) = left {
        for (row, &weight) in b.chunks_mut(rank.max(1)).zip(left) {
            let factor = if weight > 0.0 { 1.0 / weight.sqrt() } else { 0.0 };
            row.iter_mut().for_each(|x| *x *= factor);
        }
    }
    for i in 0..rank {
        let column = (0..rows).map(|row| b[row * rank + i]);
        let sign = sign_of_largest(column.clone());
        let (b_norm, row) = (norm(column), &mut a[i * columns..(i + 1) * columns]);
        let a_norm = norm(row.iter().copied());
        let factor = if a_norm > 0.0 && b_norm > 0.0 { (a_norm / b_norm).sqrt() } else { 0.0 };
        row.iter_mut().for_each(|x| *x = if factor > 0.0 { *x * sign / factor } else { 0.0 });
        (0..rows).for_each(|row| b[row * rank + i] *= sign * factor);
    }
    LowRank { a, b, singular, rows, columns }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, x| most.max(x.abs()))
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

fn transposed(a: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    let mut out = vec![0.0; a.len()];
    for (i, row) in a.chunks(columns.max(1)).enumerate() {
        row.iter().enumerate().for_each(|(j, &x)| out[j * rows + i] = x);
    }
    out
}

/// `S Z` for `z` `[columns, k]`.
fn metric_times(right: Metric<'_>, z: &[f64], columns: usize, k: usize) -> Vec<f64> {
    match right {
        Metric::Identity => z.to_vec(),
        Metric::Diagonal(d) => {
            z.chunks(k.max(1)).zip(d).flat_map(|(row, &d)| row.iter().map(move |x| d * x)).collect()
        }
        Metric::Full(s) => Rows { data: s.as_slice(), rows: columns, columns }
            .times(MatRef::from_row_major_slice(z, columns, k), k),
    }
}

/// A row-major matrix whose products are spread over the current pool in pieces of a fixed size.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: &'a [f64],
    rows: usize,
    columns: usize,
}

impl Rows<'_> {
    fn view(&self) -> MatRef<'_, f64> {
        MatRef::from_row_major_slice(self.data, self.rows, self.columns).as_dyn_stride()
    }

    /// `M X` for `x` `[columns, width]`.
    fn times(
        &self,
        x: MatRef<'_, f64, usize, usize, impl faer::Stride, impl faer::Stride>,
        width: usize,
    ) -> Vec<f64> {
        let x = x.as_dyn_stride();
        let mut out = vec![0.0; self.rows * width];
        out.par_chunks_mut((ROWS * width).max(1)).enumerate().for_each(|(task, out)| {
            let n = out.len() / width;
            let part = self.view().subrows(task * ROWS, n);
            matmul(MatMut::from_row_major_slice_mut(out, n, width), Accum::Replace, part, x, 1.0, Par::Seq);
        });
        out
    }

    /// `Mᵀ X` for `x` `[rows, width]`, `[columns, width]`.
    fn transpose_times(&self, x: &[f64], width: usize) -> Vec<f64> {
        let x = MatRef::from_row_major_slice(x, self.rows, width);
        let mut out = vec![0.0; self.columns * width];
        out.par_chunks_mut((ROWS * width).max(1)).enumerate().for_each(|(task, out)| {
            let n = out.len() / width;
            let part = self.view().subcols(task * ROWS, n).transpose();
            matmul(MatMut::from_row_major_slice_mut(out, n, width), Accum::Replace, part, x, 1.0, Par::Seq);
        });
        out
    }

    /// `M S`.
    fn times_metric(&self, right: Metric<'_>) -> Vec<f64> {
        match right {
            Metric::Identity => self.data.to_vec(),
            Metric::Diagonal(d) => {
                let rows = self.data.chunks(self.columns.max(1));
                rows.flat_map(|row| row.iter().zip(d).map(|(x, d)| x * d)).collect()
            }
            Metric::Full(s) => {
                self.times(MatRef::from_row_major_slice(s.as_slice(), s.n(), s.n()), self.columns)
            }
        }
    }

    /// `M Nᵀ` for `n` of the same shape, where that is symmetric: its lower triangle is computed, the rest stays 0.
    fn gram(&self, n: &[f64]) -> Square {
        let order = self.rows;
        let other = MatRef::from_row_major_slice(n, order, self.columns).transpose();
        let mut out = vec![0.0; order * order];
        out.par_chunks_mut((ROWS * order).max(1)).enumerate().for_each(|(task, out)| {
            let (first, n) = (task * ROWS, out.len() / order);
            let part = self.view().subrows(first, n);
            let (before, rest) = MatMut::from_row_major_slice_mut(out, n, order).split_at_col_mut(first);
            matmul(before, Accum::Replace, part, other.subcols(0, first), 1.0, Par::Seq);
            let on = rest.subcols_mut(0, n);
            let (lower, full) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
            triangular_matmul(
                on,
                lower,
                Accum::Replace,
                part,
                full,
                other.subcols(first, n),
                full,
                1.0,
                Par::Seq,
            );
        });
        Square::from_parts(order, out)
    }
}

#[cfg(test)]
mod tests;
