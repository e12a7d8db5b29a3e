//! The share of the min-max range at which a row errs least when it is rounded to nearest.
//!
//! The paper's program tries all of 160 shares, each with a product of all weights with `H`. Here the same grid of shares is searched
//! from coarse to fine: every 20th, then around the best of each row at steps of 10, 5, 2 and 1.

use rayon::prelude::*;

use crate::affine::RealZero;
use crate::gptq::chunk::{ROWS, row_errors};
use crate::gptq::problem::Problem;
use crate::layer::Layer;
use crate::range::RangeFinder;
use crate::scheme::WeightScheme;

/// Largest share of the range that is given up.
const MAX_SHRINK: f64 = 0.8;
/// Refinements as parts of the coarse stride.
const STRIDES: [usize; 4] = [10, 5, 2, 1];
const COARSE: usize = 20;

/// Steps and zeros of the best shrunk range of every row, `[rows, groups]`; all groups of a row shrink alike.
pub(super) fn search(
    layer: &Layer,
    scheme: &WeightScheme,
    problem: &Problem<'_, ()>,
    steps: usize,
) -> Vec<RealZero> {
    let (n, groups) = (layer.d_input(), scheme.groups(layer.d_input()));
    let mut found = vec![RealZero { scale: 1.0, zero: 0.0 }; layer.d_output() * groups];
    let chunks =
        layer.weight().par_chunks((ROWS * n).max(1)).zip(found.par_chunks_mut((ROWS * groups).max(1)));
    chunks.for_each(|(weights, found)| Rows { weights, scheme, problem, steps, n }.search(found));
    found
}

struct Rows<'a> {
    weights: &'a [f32],
    scheme: &'a WeightScheme,
    problem: &'a Problem<'a, ()>,
    steps: usize,
    n: usize,
}

impl Rows<'_> {
    fn search(&self, found: &mut [RealZero]) {
        let candidates = ((MAX_SHRINK * self.steps as f64) as usize).max(1);
        let rows = self.weights.len() / self.n;
        let mut best = vec![0usize; rows];
        let mut least = self.errors(&best);
        let mut attempt = |best: &mut [usize], of: &dyn Fn(usize) -> Option<usize>| {
            let tried: Vec<usize> =
                best.iter().map(|&at| of(at).filter(|&i| i < candidates).unwrap_or(at)).collect();
            if tried == best {
                return;
            }
            for (row, error) in self.errors(&tried).into_iter().enumerate() {
                if error < least[row] {
                    (best[row], least[row]) = (tried[row], error);
                }
            }
        };
        for at in (COARSE..candidates).step_by(COARSE) {
            attempt(&mut best, &|_| Some(at));
        }
        for stride in STRIDES {
            attempt(&mut best, &|at| at.checked_sub(stride));
            // A row that went back tries the place it came from again, which is no better.
            attempt(&mut best, &|at| Some(at + stride));
        }
        let groups = found.len() / rows.max(1);
        for (row, found) in found.chunks_mut(groups.max(1)).enumerate() {
            self.parameters(row, best[row], found);
        }
    }

    /// Steps and zeros of a row at share `1 − at/steps`.
    fn parameters(&self, row: usize, at: usize, out: &mut [RealZero]) {
        let keep = (1.0 - at as f64 / self.steps as f64) as f32;
        let (grid, width) = (self.scheme.grid(), self.scheme.group_width(self.n));
        let weights = &self.weights[row * self.n..(row + 1) * self.n];
        for (values, out) in weights.chunks(width).zip(out) {
            let (low, high) = RangeFinder::extremes(values);
            *out = RealZero::of_range(keep * low, keep * high, &grid);
        }
    }

    /// Errors of the rows, each at its share.
    fn errors(&self, shares: &[usize]) -> Vec<f64> {
        let (n, groups) = (self.n, self.scheme.groups(self.n));
        let (grid, width) = (self.scheme.grid(), self.scheme.group_width(self.n));
        let mut parameters = vec![RealZero { scale: 1.0, zero: 0.0 }; shares.len() * groups];
        for (row, out) in parameters.chunks_mut(groups.max(1)).enumerate() {
            self.parameters(row, shares[row], out);
        }
        row_errors(self.problem, self.weights, |row, column| {
            parameters[row * groups + column / width].nearest(self.weights[row * n + column], &grid).1
        })
    }
}
