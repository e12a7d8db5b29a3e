//! What can be done to a part of a matrix, in `f64`.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use trimtab_math::rotation::Rotation;
use trimtab_nn::MatrixPart;

/// A change of a part of a matrix.
#[derive(Clone, Debug)]
pub struct Edit {
    rows: Range<usize>,
    cols: Range<usize>,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Rows(Arc<[f64]>),
    Cols(Arc<[f64]>),
    RotateRows(Arc<Rotation>, bool),
    RotateCols(Arc<Rotation>, bool),
    CenterRows,
    CenterCols,
    Scale(f64),
}

impl Edit {
    fn of(part: &MatrixPart, what: What) -> Self {
        Self { rows: part.rows.clone(), cols: part.cols.clone(), what }
    }

    /// Multiplies row `i` of the part by `factors[i]`.
    pub fn scale_rows(part: &MatrixPart, factors: Arc<[f64]>) -> Self {
        Self::of(part, What::Rows(factors))
    }

    /// Multiplies the columns of channel `c` of the part by `factors[c]`.
    pub fn scale_channels(part: &MatrixPart, factors: &Arc<[f64]>) -> Self {
        let factors = match part.spread {
            1 => Arc::clone(factors),
            n => factors.iter().flat_map(|&f| std::iter::repeat_n(f, n)).collect(),
        };
        Self::of(part, What::Cols(factors))
    }

    /// Maps every column `c` of the part to `Qᵀ c`; with `back`, to `Q c`: the rows run along a rotated axis.
    pub fn rotate_rows(part: &MatrixPart, rotation: &Arc<Rotation>, back: bool) -> Self {
        Self::of(part, What::RotateRows(Arc::clone(rotation), back))
    }

    /// Maps every row `r` of the part to `r Q`; with `back`, to `r Qᵀ`: the columns run along a rotated axis.
    pub fn rotate_cols(part: &MatrixPart, rotation: &Arc<Rotation>, back: bool) -> Self {
        Self::of(part, What::RotateCols(Arc::clone(rotation), back))
    }

    /// Takes the mean over the rows from every column.
    pub fn center_rows(part: &MatrixPart) -> Self {
        Self::of(part, What::CenterRows)
    }

    /// Takes the mean over the columns from every row.
    pub fn center_cols(part: &MatrixPart) -> Self {
        Self::of(part, What::CenterCols)
    }

    /// Multiplies everything by a number.
    pub fn scale(part: &MatrixPart, factor: f64) -> Self {
        Self::of(part, What::Scale(factor))
    }

    /// Whether a row comes out of that row alone.
    pub(crate) fn is_by_row(&self) -> bool {
        !matches!(self.what, What::RotateRows(..) | What::CenterRows)
    }

    /// Carries the change out on the rows of a matrix `[rows, cols]` from `first` on; on all of them unless it
    /// [goes by rows](Self::is_by_row).
    pub(crate) fn apply(&self, data: &mut [f64], cols: usize, first: usize) {
        match &self.what {
            What::Rows(factors) => self.each_row(data, cols, first, |i, row| {
                row.iter_mut().for_each(|x| *x *= factors[i]);
            }),
            What::Cols(factors) => self.each_row(data, cols, first, |_, row| {
                row.iter_mut().zip(&factors[..]).for_each(|(x, f)| *x *= f);
            }),
            What::Scale(factor) => self.each_row(data, cols, first, |_, row| {
                row.iter_mut().for_each(|x| *x *= factor);
            }),
            What::CenterCols => self.each_row(data, cols, first, |_, row| center(row)),
            What::RotateCols(rotation, back) => {
                self.each_row(data, cols, first, |_, row| turn(rotation, *back, row));
            }
            What::RotateRows(rotation, back) => self.each_col(data, cols, |col| turn(rotation, *back, col)),
            What::CenterRows => self.each_col(data, cols, center),
        }
    }

    /// Shows every row of the part that is among those given, with its place in the part.
    fn each_row(
        &self,
        data: &mut [f64],
        cols: usize,
        first: usize,
        change: impl Fn(usize, &mut [f64]) + Sync,
    ) {
        let end = self.rows.end.min(first + data.len() / cols.max(1));
        let start = self.rows.start.max(first).min(end);
        let part = &mut data[(start - first.min(start)) * cols..(end - first.min(end)) * cols];
        let (range, before) = (self.cols.clone(), start - self.rows.start.min(start));
        part.par_chunks_mut(cols)
            .enumerate()
            .for_each(|(i, row)| change(before + i, &mut row[range.clone()]));
    }

    fn each_col(&self, data: &mut [f64], cols: usize, change: impl Fn(&mut [f64]) + Sync) {
        let (rows, range) = (self.rows.clone(), self.cols.clone());
        let source = &*data;
        let changed: Vec<Vec<f64>> = range
            .clone()
            .into_par_iter()
            .map(|j| {
                let mut column: Vec<f64> = rows.clone().map(|i| source[i * cols + j]).collect();
                change(&mut column);
                column
            })
            .collect();
        for (j, column) in range.zip(changed) {
            rows.clone().zip(column).for_each(|(i, x)| data[i * cols + j] = x);
        }
    }
}

/// Takes the mean from a vector.
pub(crate) fn center(x: &mut [f64]) {
    let mean = x.iter().sum::<f64>() / x.len().max(1) as f64;
    x.iter_mut().for_each(|x| *x -= mean);
}

/// Rotates a vector, or back.
pub(crate) fn turn(rotation: &Rotation, back: bool, x: &mut [f64]) {
    match back {
        false => rotation.apply(x),
        true => rotation.apply_inverse(x),
    }
}
