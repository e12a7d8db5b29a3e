//! The columns of one chunk of rows, on one thread.
//!
//! Weights lie column by column, so that a vector holds the same column of many rows. The range of all columns is halved
//! until a block is left: quantize the left half, add its errors times a block of `R̃` to the right half, quantize that.
//! Products are as large as they can be, and every group is current when its first column comes up.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::solve_unit_lower_triangular_in_place;
use faer::{Accum, MatMut, MatRef, Par};
use pulp::{Simd, WithSimd};

use super::GroupFit;
use super::problem::Problem;
use crate::element::{Coder, ElementQuantizer, Parameters};

/// Rows of a weight that one task handles.
pub(crate) const ROWS: usize = 288;
/// Rows that are quantized side by side.
const LANES: usize = 32;
/// Columns that are measured at a time.
const MEASURE: usize = 512;

/// Sums over the elements of a weight that loss and damage follow from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    /// `Σ E²`, in the problem's unit.
    pub(super) compensated: f64,
    /// `Σ (w − q)²`.
    pub(super) squared: f64,
}

impl Sums {
    /// The total, in order.
    pub(super) fn total(parts: &[Sums]) -> Sums {
        parts.iter().fold(Sums::default(), |sum, part| Sums {
            compensated: sum.compensated + part.compensated,
            squared: sum.squared + part.squared,
        })
    }
}

/// Some rows, column by column in the order of quantization.
struct Panel {
    data: Vec<f32>,
    /// From one column to the next: the rows padded to whole vectors, and a little more where columns would share cache sets.
    stride: usize,
}

impl Panel {
    /// `entry(row, position)` for all `rows`; zero for the padding.
    fn new(n: usize, rows: usize, entry: impl Fn(usize, usize) -> f32) -> Panel {
        let padded = rows.next_multiple_of(LANES);
        let stride = if padded.is_multiple_of(128) { padded + 16 } else { padded };
        let mut data = vec![0.0; n * stride];
        for (tile, columns) in data.chunks_mut(32 * stride).enumerate() {
            for row in 0..rows {
                for (i, column) in columns.chunks_mut(stride).enumerate() {
                    column[row] = entry(row, tile * 32 + i);
                }
            }
        }
        Panel { data, stride }
    }

    fn columns(&self, range: Range<usize>) -> MatRef<'_, f32> {
        let columns = &self.data[range.start * self.stride..range.end * self.stride];
        MatRef::from_column_major_slice(columns, self.stride, range.len())
    }
}

/// Rows in work.
pub(super) struct Chunk<'a, Q: ElementQuantizer> {
    problem: &'a Problem<'a, Q>,
    first_row: usize,
    rows: usize,
    original: Panel,
    /// The errors `w − q` of the columns done; ahead, `w` plus the products with the errors of the columns before.
    work: Panel,
    /// Steps and zeros, group by group, with the panels' stride.
    scales: Vec<f32>,
    zeros: Vec<f32>,
    /// `[rows, n]`.
    codes: &'a mut [u8],
    /// `[rows, groups]`.
    parameters: &'a mut [Q::Parameters],
    sums: Sums,
}

impl<'a, Q: ElementQuantizer> Chunk<'a, Q> {
    /// `weights` and `codes` `[rows, n]`, `parameters` `[rows, groups]`; `first_row` is the first of these in the weight.
    pub(super) fn new(
        problem: &'a Problem<'a, Q>,
        first_row: usize,
        weights: &[f32],
        codes: &'a mut [u8],
        parameters: &'a mut [Q::Parameters],
    ) -> Chunk<'a, Q> {
        let n = problem.n;
        let rows = weights.len() / n;
        let original = Panel::new(n, rows, |row, position| {
            let column = problem.order[position];
            if problem.dead[column] { 0.0 } else { weights[row * n + column] }
        });
        let work = Panel { data: original.data.clone(), stride: original.stride };
        // Padding rows hold zeros, which any of these represents without error.
        let idle = problem.quantizer.idle();
        let scales = vec![idle.scale(); problem.groups * work.stride];
        let zeros = vec![idle.zero(); problem.groups * work.stride];
        let sums = Sums::default();
        let mut chunk =
            Chunk { problem, first_row, rows, original, work, scales, zeros, codes, parameters, sums };
        if problem.fit == GroupFit::Static {
            chunk.fit_static(weights);
        }
        chunk
    }

    /// Quantizes all columns.
    pub(super) fn run(mut self) -> Sums {
        self.quantize(0..self.problem.n);
        self.sums
    }

    fn quantize(&mut self, range: Range<usize>) {
        if self.problem.fit == GroupFit::Dynamic
            && range == self.problem.members(self.problem.group_at(range.start))
        {
            self.fit_dynamic(range.start);
        }
        match self.problem.cut(&range) {
            Some(cut) => {
                self.quantize(range.start..cut);
                self.compensate(range.start..cut, cut..range.end);
                self.quantize(cut..range.end);
            }
            None => self.quantize_block(range),
        }
    }

    /// Adds the errors of `done` times their block of `R̃` to the weights of `next`, the columns right after.
    fn compensate(&mut self, done: Range<usize>, next: Range<usize>) {
        let (n, stride) = (self.problem.n, self.work.stride);
        let unit = &self.problem.unit[next.start * n + done.start..];
        let unit = MatRef::from_column_major_slice_with_stride(unit, done.len(), next.len(), n);
        let (behind, ahead) = self.work.data.split_at_mut(next.start * stride);
        let errors = MatRef::from_column_major_slice(&behind[done.start * stride..], stride, done.len());
        let ahead = &mut ahead[..next.len() * stride];
        let weights = MatMut::from_column_major_slice_mut(ahead, stride, next.len());
        matmul(weights, Accum::Add, errors, unit, 1.0, Par::Seq);
    }

    fn quantize_block(&mut self, range: Range<usize>) {
        let (n, padded) = (self.problem.n, self.rows.next_multiple_of(LANES));
        let mut errors = vec![[0.0; LANES]; range.len()];
        let mut codes = vec![[0; LANES]; range.len()];
        for first in (0..padded).step_by(LANES) {
            let strip = Strip {
                problem: self.problem,
                range: range.clone(),
                first,
                original: &self.original,
                work: &self.work,
                scales: &self.scales,
                zeros: &self.zeros,
                errors: &mut errors,
                codes: &mut codes,
            };
            let sums = pulp::Arch::new().dispatch(strip);
            self.sums = Sums::total(&[self.sums, sums]);
            for (position, errors) in range.clone().zip(&errors) {
                self.work.data[position * self.work.stride + first..][..LANES].copy_from_slice(errors);
            }
            for (lane, row) in (first..self.rows.min(first + LANES)).enumerate() {
                let out = &mut self.codes[row * n..(row + 1) * n];
                for (codes, &column) in codes.iter().zip(&self.problem.order[range.clone()]) {
                    out[column] = codes[lane];
                }
            }
        }
    }

    /// Fits every group on the original weights.
    fn fit_static(&mut self, weights: &[f32]) {
        let mut values = Vec::with_capacity(self.problem.group_width);
        for group in 0..self.problem.groups {
            let columns = self.problem.members(group);
            for row in 0..self.rows {
                let weights = &weights[row * self.problem.n..][columns.clone()];
                let dead = &self.problem.dead[columns.clone()];
                values.clear();
                values.extend(weights.iter().zip(dead).map(|(&w, &dead)| if dead { 0.0 } else { w }));
                let power = &self.problem.power_of_column[columns.clone()];
                let found = self.problem.quantizer.fit(self.first_row + row, group, &values, power);
                self.set(row, group, found);
            }
        }
    }

    /// Fits the group that begins at a position on the current weights.
    fn fit_dynamic(&mut self, start: usize) {
        let group = self.problem.group_at(start);
        let positions = self.problem.members(group);
        let current = self.current_weights(positions.clone());
        let mut values = vec![0.0; positions.len()];
        for row in 0..self.rows {
            for (value, column) in values.iter_mut().zip(current.chunks(self.work.stride)) {
                *value = column[row];
            }
            let power = &self.problem.power_of_position[positions.clone()];
            let found = self.problem.quantizer.fit(self.first_row + row, group, &values, power);
            self.set(row, group, found);
        }
    }

    /// The weights that GPTQ would hold at positions `G` when the first of them comes up. Column `j` of `work` becomes current
    /// only by the errors of all columns before `j`; ahead of that it holds `w + c` with `c = (w − q)_A R̃_AG` over the columns
    /// `A` done so far, while the weights corrected for those alone are `w − e_A U_AG = w + c R̃_GG⁻¹`.
    fn current_weights(&self, positions: Range<usize>) -> Vec<f32> {
        let (n, stride) = (self.problem.n, self.work.stride);
        let span = positions.start * stride..positions.end * stride;
        let (original, work) = (&self.original.data[span.clone()], &self.work.data[span]);
        if positions.start == 0 {
            return work.to_vec();
        }
        let mut current: Vec<f32> =
            work.iter().zip(original).map(|(work, original)| work - original).collect();
        let unit = &self.problem.unit[positions.start * n + positions.start..];
        let unit = MatRef::from_column_major_slice_with_stride(unit, positions.len(), positions.len(), n);
        let change = MatMut::from_column_major_slice_mut(&mut current, stride, positions.len());
        solve_unit_lower_triangular_in_place(unit.transpose(), change.transpose_mut(), Par::Seq);
        for (current, original) in current.iter_mut().zip(original) {
            *current += original;
        }
        current
    }

    fn set(&mut self, row: usize, group: usize, found: Q::Parameters) {
        self.parameters[row * self.problem.groups + group] = found;
        self.scales[group * self.work.stride + row] = found.scale();
        self.zeros[group * self.work.stride + row] = found.zero();
    }
}

/// One block of columns of `LANES` rows.
struct Strip<'a, Q> {
    problem: &'a Problem<'a, Q>,
    range: Range<usize>,
    /// First row.
    first: usize,
    original: &'a Panel,
    work: &'a Panel,
    scales: &'a [f32],
    zeros: &'a [f32],
    errors: &'a mut [[f32; LANES]],
    codes: &'a mut [[u8; LANES]],
}

impl<Q: ElementQuantizer> WithSimd for Strip<'_, Q> {
    type Output = Sums;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Sums {
        let Strip { problem, range, first, original, work, scales, zeros, errors, codes } = self;
        let coder = problem.quantizer.coder();
        let stride = work.stride;
        let (mut compensated, mut squared) = ([0.0f32; LANES], [0.0f32; LANES]);
        for (j, position) in range.clone().enumerate() {
            let (done, rest) = errors.split_at_mut(j);
            let mut current = lanes(&work.data[position * stride + first..]);
            let unit = &problem.unit[position * problem.n + range.start..][..j];
            add_products(simd, &mut current, done, unit);
            let at = problem.group_at(position) * stride + first;
            let (scale, zero) = (lanes(&scales[at..]), lanes(&zeros[at..]));
            let original = lanes(&original.data[position * stride + first..]);
            let pivot = problem.pivots[position];
            for lane in 0..LANES {
                let (code, value) = coder.nearest(current[lane], scale[lane], zero[lane]);
                let (residual, error) = (current[lane] - value, original[lane] - value);
                compensated[lane] += residual * residual * pivot;
                squared[lane] += error * error;
                rest[0][lane] = error;
                codes[j][lane] = code;
            }
        }
        Sums { compensated: sum(&compensated), squared: sum(&squared) }
    }
}

/// `current += Σ errors · factor`. Explicit vectors: a loop over lanes inside a loop over columns is not vectorized.
#[inline(always)]
fn add_products<S: Simd>(simd: S, current: &mut [f32; LANES], errors: &[[f32; LANES]], factors: &[f32]) {
    let (current, _) = S::as_mut_simd_f32s(current);
    if current.len() == 2 {
        add_products_of::<S, 2>(simd, current, errors, factors);
    } else {
        add_products_of::<S, 4>(simd, current, errors, factors);
    }
}

/// The same, `VECTORS` at a time, which stay in registers.
#[inline(always)]
fn add_products_of<S: Simd, const VECTORS: usize>(
    simd: S,
    current: &mut [S::f32s],
    errors: &[[f32; LANES]],
    factors: &[f32],
) {
    for (part, current) in current.chunks_exact_mut(VECTORS).enumerate() {
        let mut sums: [S::f32s; VECTORS] = std::array::from_fn(|i| current[i]);
        for (errors, &factor) in errors.iter().zip(factors) {
            let (errors, _) = S::as_simd_f32s(errors);
            let errors = &errors[part * VECTORS..(part + 1) * VECTORS];
            let factor = simd.splat_f32s(factor);
            for (sum, &error) in sums.iter_mut().zip(errors) {
                *sum = simd.mul_add_f32s(error, factor, *sum);
            }
        }
        current.copy_from_slice(&sums);
    }
}

#[inline(always)]
fn lanes(slice: &[f32]) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    out.copy_from_slice(&slice[..LANES]);
    out
}

fn sum(lanes: &[f32]) -> f64 {
    lanes.iter().map(|&x| f64::from(x)).sum()
}

/// The sums for any other `value(row, column)` that stands for `weights` `[rows, n]`.
pub(super) fn measure<Q>(
    problem: &Problem<'_, Q>,
    weights: &[f32],
    value: impl Fn(usize, usize) -> f32,
) -> Sums {
    let n = problem.n;
    let rows = weights.len() / n;
    let errors = Panel::new(n, rows, |row, position| {
        let column = problem.order[position];
        if problem.dead[column] { 0.0 } else { weights[row * n + column] - value(row, column) }
    });
    let mut sums = Sums::default();
    for_each_product(problem, &errors, |column, pivot| {
        let squares: f64 = column.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        sums.compensated += squares * pivot;
    });
    sums.squared = errors.data.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    sums
}

/// `(w − q)(H + shift)(w − q)ᵀ` of every row for any `value(row, column)` that stands for `weights` `[rows, n]`, in single
/// precision products.
pub(crate) fn row_errors<Q>(
    problem: &Problem<'_, Q>,
    weights: &[f32],
    value: impl Fn(usize, usize) -> f32,
) -> Vec<f64> {
    let n = problem.n;
    let rows = weights.len() / n.max(1);
    let errors = Panel::new(n, rows, |row, position| {
        let column = problem.order[position];
        if problem.dead[column] { 0.0 } else { weights[row * n + column] - value(row, column) }
    });
    let mut sums = vec![0.0; rows];
    for_each_product(problem, &errors, |column, pivot| {
        sums.iter_mut().zip(column).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x) * pivot);
    });
    sums
}

/// Multiplies `errors` with `R̃` and shows each column of the product with its pivot.
fn for_each_product<Q>(problem: &Problem<'_, Q>, errors: &Panel, mut see: impl FnMut(&[f32], f64)) {
    let (n, stride) = (problem.n, errors.stride);
    let mut product = vec![0.0; MEASURE.min(n) * stride];
    for first in (0..n).step_by(MEASURE) {
        let width = MEASURE.min(n - first);
        let product = &mut product[..width * stride];
        // Column j of the triangle ends at row j, so nothing below this block's last row is needed.
        let last = first + width;
        let unit = MatRef::from_column_major_slice_with_stride(&problem.unit[first * n..], last, width, n);
        let out = MatMut::from_column_major_slice_mut(product, stride, width);
        matmul(out, Accum::Replace, errors.columns(0..last), unit, 1.0, Par::Seq);
        for (column, &pivot) in product.chunks(stride).zip(&problem.pivots[first..]) {
            see(column, f64::from(pivot));
        }
    }
}
