//! Integers by projected gradient descent and rounding column after column: the paper's first-level approximation.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::forms::Forms;
use crate::affine::{Grid, RealZero};
use crate::layer::Layer;
use crate::scheme::WeightScheme;

/// Rows that one task handles.
const ROWS: usize = 32;
const BETAS: [f64; 2] = [0.9, 0.999];
/// Added to the root of Adam's second moment before the first column is rounded, and afterwards.
const EPSILONS: [f32; 2] = [1e-5, 1e-4];

/// The codes of a layer for fixed parameters `[rows, groups]`: descent on `(w − w0) H (w − w0)ᵀ` within the box that the codes span,
/// then every column is rounded and the columns still free descend on.
pub(super) fn round(
    layer: &Layer,
    forms: &Forms,
    scheme: &WeightScheme,
    parameters: &[RealZero],
    steps: [usize; 2],
    rate: f64,
) -> Vec<u8> {
    let (n, groups) = (layer.d_input(), scheme.groups(layer.d_input()));
    let hessian: Vec<f32> = forms.hessian.as_slice().iter().map(|&h| h as f32).collect();
    let mut codes = vec![0u8; layer.weight().len()];
    let chunks = layer.weight().par_chunks((ROWS * n).max(1)).zip(codes.par_chunks_mut((ROWS * n).max(1)));
    chunks.zip(parameters.par_chunks((ROWS * groups).max(1))).for_each(|((original, codes), parameters)| {
        let width = scheme.group_width(n);
        let grid = scheme.grid();
        let mut descent = Descent::new(original, n, &hessian, rate, |row, column| {
            bounds(&parameters[row * groups + column / width], &grid)
        });
        for _ in 0..steps[0] {
            descent.step(0, EPSILONS[0]);
        }
        for column in 0..n {
            for row in 0..original.len() / n {
                let at = row * n + column;
                (codes[at], descent.current[at]) =
                    parameters[row * groups + column / width].nearest(descent.current[at], &grid);
            }
            for _ in 0..if column + 1 < n { steps[1] } else { 0 } {
                descent.step(column + 1, EPSILONS[1]);
            }
        }
    });
    codes
}

/// The least and the largest value that codes stand for.
fn bounds(found: &RealZero, grid: &Grid) -> [f32; 2] {
    let ends = [grid.lowest(), grid.highest()]
        .map(|code| found.scale * (f32::from(code) - f32::from(grid.middle())) + found.zero);
    [ends[0].min(ends[1]), ends[0].max(ends[1])]
}

/// Adam on some rows, with moments and a count of steps that go on when columns are frozen.
struct Descent<'a> {
    original: &'a [f32],
    n: usize,
    hessian: &'a [f32],
    rate: f64,
    current: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    bounds: Vec<[f32; 2]>,
    steps: i32,
}

impl<'a> Descent<'a> {
    fn new(
        original: &'a [f32],
        n: usize,
        hessian: &'a [f32],
        rate: f64,
        bounds: impl Fn(usize, usize) -> [f32; 2],
    ) -> Descent<'a> {
        let zeros = vec![0.0; original.len()];
        let bounds = (0..original.len()).map(|i| bounds(i / n, i % n)).collect();
        let (first, second) = (zeros.clone(), zeros);
        Descent { original, n, hessian, rate, current: original.to_vec(), first, second, bounds, steps: 0 }
    }

    /// One step on the columns from `free` on, and back into the box.
    fn step(&mut self, free: usize, epsilon: f32) {
        let (n, rows) = (self.n, self.original.len() / self.n);
        let width = n - free;
        let change: Vec<f32> =
            self.current.iter().zip(self.original).map(|(w, original)| w - original).collect();
        let mut gradient = vec![0.0f32; rows * width];
        let h = MatRef::from_column_major_slice(self.hessian, n, n).subcols(free, width);
        let out = MatMut::from_row_major_slice_mut(&mut gradient, rows, width);
        matmul(out, Accum::Replace, MatRef::from_row_major_slice(&change, rows, n), h, 1.0, Par::Seq);
        self.steps += 1;
        let corrections = BETAS.map(|beta| 1.0 - beta.powi(self.steps));
        let (rate, root) = ((self.rate / corrections[0]) as f32, corrections[1].sqrt() as f32);
        let betas = BETAS.map(|beta| beta as f32);
        for row in 0..rows {
            for column in free..n {
                let (at, g) = (row * n + column, gradient[row * width + column - free]);
                self.first[at] = betas[0] * self.first[at] + (1.0 - betas[0]) * g;
                self.second[at] = betas[1] * self.second[at] + (1.0 - betas[1]) * g * g;
                let step = rate * self.first[at] / (self.second[at].sqrt() / root + epsilon);
                let [low, high] = self.bounds[at];
                self.current[at] = (self.current[at] - step).clamp(low, high);
            }
        }
    }
}
