//! Many rows of `x`: tiles of the matrix are decoded into the cache of one core and multiplied there.

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::parallel::{CHUNK, over_rows};
use super::view::DenseValues;
use super::{DenseView, Isa, PackedView, decode, portable};

/// Columns of a tile: `CHUNK` rows of it fill 64 KB, four rows of it and of `x` fit into a first-level cache.
pub(super) const TILE_COLS: usize = 512;

/// A matrix that can show a tile of itself as numbers.
pub(super) trait Tiled: Sync {
    /// `[rows, cols]`.
    fn dims(&self) -> [usize; 2];

    /// Rows `row .. row + n_rows`, columns `col .. col + n_cols`, decoded into `scratch` where they are not numbers yet.
    fn tile<'s>(&'s self, isa: Isa, rows: Span, cols: Span, scratch: &'s mut [f32]) -> Tile<'s>;
}

/// `start .. start + len`.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) len: usize,
}

/// Rows of numbers that lie `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl<'a> Tile<'a> {
    /// Row `index`.
    pub(super) fn row(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.stride..][..self.cols]
    }
}

/// Rows of `x` that share one decoded tile, and from twice as many on, one task.
const INPUTS: usize = 64;

/// `y = x W^T`, `x [n, cols]`, `y [n, rows]`.
pub(super) fn multiply(isa: Isa, matrix: &impl Tiled, x: &[f32], n: usize, y: &mut [f32]) {
    let [rows, cols] = matrix.dims();
    let scratch = || vec![0.0f32; CHUNK * TILE_COLS];
    let fill = |w_rows: Span, x_rows: Span, out: &mut [f32], stride: usize, scratch: &mut Vec<f32>| {
        for start in (0..cols).step_by(TILE_COLS) {
            let span = Span { start, len: TILE_COLS.min(cols - start) };
            let w = matrix.tile(isa, w_rows, span, scratch);
            let x = &x[x_rows.start * cols + start..];
            add_product(
                isa,
                w,
                Tile { values: x, stride: cols, rows: x_rows.len, cols: span.len },
                out,
                stride,
            );
        }
    };
    over_tiles([rows, cols, n], y, scratch, fill);
}

/// Fills `y` (`[n, rows]`) tile by tile on all threads: `fill(rows of W, rows of x, out, stride, scratch)` adds to the zeros of `out`, whose
/// rows, one for each row of `x`, lie `stride` apart.
pub(super) fn over_tiles<S: Send>(
    [rows, cols, n]: [usize; 3],
    y: &mut [f32],
    scratch: impl Fn() -> S + Sync + Send,
    fill: impl Fn(Span, Span, &mut [f32], usize, &mut S) + Sync + Send,
) {
    if n < 2 * INPUTS {
        over_rows([rows, cols, n], y, scratch, |first, part, scratch| {
            let w_rows = Span { start: first, len: part.len() / n };
            fill(w_rows, Span { start: 0, len: n }, part, w_rows.len, scratch);
        });
    } else if rows > 0 {
        y.par_chunks_mut(INPUTS * rows).enumerate().for_each_init(scratch, |scratch, (i, y)| {
            y.fill(0.0);
            let x_rows = Span { start: i * INPUTS, len: y.len() / rows };
            for start in (0..rows).step_by(CHUNK) {
                let w_rows = Span { start, len: CHUNK.min(rows - start) };
                fill(w_rows, x_rows, &mut y[start..], rows, scratch);
            }
        });
    }
}

/// `out[t * stride + r] += w[r] . x[t]`.
fn add_product(isa: Isa, w: Tile<'_>, x: Tile<'_>, out: &mut [f32], stride: usize) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::dense::add_product(w, x, out, stride),
        _ => {
            for (t, out) in out.chunks_mut(stride).enumerate().take(x.rows) {
                for (r, sum) in out.iter_mut().enumerate().take(w.rows) {
                    *sum += portable::dot(w.row(r), x.row(t));
                }
            }
        }
    }
}

impl Tiled for PackedView<'_> {
    fn dims(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    fn tile<'s>(&'s self, isa: Isa, rows: Span, cols: Span, scratch: &'s mut [f32]) -> Tile<'s> {
        for (r, out) in scratch.chunks_exact_mut(cols.len).take(rows.len).enumerate() {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2::decode::decode_segment(self, rows.start + r, cols.start, out),
                _ => decode::decode_segment(self, rows.start + r, cols.start, out),
            }
        }
        Tile { values: scratch, stride: cols.len, rows: rows.len, cols: cols.len }
    }
}

impl Tiled for DenseView<'_> {
    fn dims(&self) -> [usize; 2] {
        [self.rows(), self.cols()]
    }

    fn tile<'s>(&'s self, isa: Isa, rows: Span, cols: Span, scratch: &'s mut [f32]) -> Tile<'s> {
        let first = rows.start * self.cols() + cols.start;
        let values = match self.values {
            DenseValues::F32(values) => {
                return Tile {
                    values: &values[first..],
                    stride: self.cols(),
                    rows: rows.len,
                    cols: cols.len,
                };
            }
            DenseValues::Bf16(values) => &values[first..],
        };
        for (r, out) in scratch.chunks_exact_mut(cols.len).take(rows.len).enumerate() {
            let values = &values[r * self.cols()..][..cols.len];
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2::dense::widen(values, out),
                _ => decode::widen(values, out),
            }
        }
        Tile { values: scratch, stride: cols.len, rows: rows.len, cols: cols.len }
    }
}
