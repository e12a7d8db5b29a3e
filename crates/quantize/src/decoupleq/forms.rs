//! The quadratic forms of a layer: errors of rows, and the steps and zeros that are best for given integers.
//!
//! With `a_g` the signed codes of group `g` (0 elsewhere), `1_g` its indicator and `q = Σ_g s_g a_g + z_g 1_g`, the error of a row is
//! `wHwᵀ − 2 bᵀp + pᵀPp` with `p = (s, z)`, `P = [[AHAᵀ, AHIᵀ], [IHAᵀ, IHIᵀ]]` and `b = [AHwᵀ; IHwᵀ]`. Only `AHAᵀ` costs a product of
//! all codes with `H`, half of it by symmetry; everything else are sums over `wH` and `H 1_g`, computed once.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;
use trimtab_math::linalg::{Damping, Factor, Square, cholesky_damped};

use crate::affine::{Grid, RealZero};
use crate::error::Result;
use crate::layer::Layer;
use crate::scheme::WeightScheme;

/// Rows that one task handles.
const ROWS: usize = 64;
/// Columns that are multiplied at a time.
const COLUMNS: usize = 256;
/// A determinant below this share of the product of the diagonal counts as 0.
const SINGULAR: f64 = 1e-12;

/// Steps and zeros that are best for some integers.
pub(super) struct Refit {
    /// `[rows, groups]`.
    pub(super) parameters: Vec<RealZero>,
    /// Error of each row with them; infinite where there is no solution.
    pub(super) errors: Vec<f64>,
}

impl Refit {
    /// The solved parameters of the rows in which they err less than `others` with `errors`; those of the rest.
    pub(super) fn where_better(self, errors: &[f64], others: &[RealZero]) -> Vec<RealZero> {
        let groups = others.len() / errors.len().max(1);
        let better = |i: usize| self.errors[i / groups] < errors[i / groups];
        (0..others.len()).map(|i| if better(i) { self.parameters[i] } else { others[i] }).collect()
    }
}

/// Everything of a layer that does not depend on the integers.
pub(super) struct Forms {
    /// Damped.
    pub(super) hessian: Square,
    grid: Grid,
    n: usize,
    width: usize,
    pub(super) groups: usize,
    /// Pieces of groups, and the group of each.
    segments: Vec<(usize, Range<usize>)>,
    /// `wH`, `[rows, n]`.
    target: Vec<f64>,
    /// `wHwᵀ`, by row.
    power: Vec<f64>,
    /// `IHwᵀ`, `[rows, groups]`.
    target_of_groups: Vec<f64>,
    /// `H 1_g`, `[groups, n]`.
    ones: Vec<f64>,
    /// `IHIᵀ`.
    of_ones: Square,
    /// Its factor, if it has one.
    factor_of_ones: Option<Factor>,
}

impl Forms {
    /// The forms of a layer for its second moment with `shift` on the diagonal.
    pub(super) fn new(layer: &Layer, shift: f64, scheme: &WeightScheme) -> Result<Forms> {
        let n = layer.d_input();
        let mut hessian = layer.need_hessian("decoupleq")?.clone();
        (0..n).for_each(|i| hessian.as_mut_slice()[i * n + i] += shift);
        let (width, groups) = (scheme.group_width(n), scheme.groups(n));
        let pieces = |group: usize| {
            let (first, last) = (group * width, n.min((group + 1) * width));
            (first..last).step_by(COLUMNS).map(move |at| (group, at..last.min(at + COLUMNS)))
        };
        let segments = (0..groups).flat_map(pieces).collect();
        let h = MatRef::from_column_major_slice(hessian.as_slice(), n, n);
        let mut target = vec![0.0; layer.weight().len()];
        let chunks =
            layer.weight().par_chunks((ROWS * n).max(1)).zip(target.par_chunks_mut((ROWS * n).max(1)));
        chunks.for_each(|(weights, out)| {
            let rows = weights.len() / n;
            let weights: Vec<f64> = weights.iter().map(|&w| f64::from(w)).collect();
            let weights = MatRef::from_row_major_slice(&weights, rows, n);
            let out = MatMut::from_row_major_slice_mut(out, rows, n);
            matmul(out, Accum::Replace, weights, h, 1.0, Par::Seq);
        });
        let sums =
            |values: &[f64]| -> Vec<f64> { values.chunks(width).map(|part| part.iter().sum()).collect() };
        let rows = layer.weight().par_chunks(n.max(1)).zip(target.par_chunks(n.max(1)));
        let power = rows.map(|(w, t)| w.iter().zip(t).map(|(&w, t)| f64::from(w) * t).sum()).collect();
        let target_of_groups = target.par_chunks(n.max(1)).flat_map_iter(sums).collect();
        let by_row: Vec<Vec<f64>> = (0..n).into_par_iter().map(|i| sums(hessian.row(i))).collect();
        let mut ones = vec![0.0; groups * n];
        for (i, sums) in by_row.iter().enumerate() {
            sums.iter().enumerate().for_each(|(group, sum)| ones[group * n + i] = *sum);
        }
        let of_ones = Square::new(groups, ones.chunks(n.max(1)).flat_map(sums).collect())?;
        let factor_of_ones = cholesky_damped(&of_ones, &Damping::NONE).ok();
        let grid = scheme.grid();
        Ok(Forms {
            hessian,
            grid,
            n,
            width,
            groups,
            segments,
            target,
            power,
            target_of_groups,
            ones,
            of_ones,
            factor_of_ones,
        })
    }

    /// Signed integers of codes.
    fn signed(&self, codes: &[u8]) -> Vec<f64> {
        let middle = f64::from(self.grid.middle());
        codes.iter().map(|&code| f64::from(code) - middle).collect()
    }

    /// Errors of the rows with `codes` `[rows, n]` and `parameters` `[rows, groups]`, and what is best for the codes.
    pub(super) fn evaluate(&self, codes: &[u8], parameters: &[RealZero]) -> Result<(Vec<f64>, Refit)> {
        let (n, groups) = (self.n, self.groups);
        let chunks = codes.par_chunks((ROWS * n).max(1)).zip(parameters.par_chunks((ROWS * groups).max(1)));
        let parts: Vec<(Vec<f64>, Refit)> = chunks
            .enumerate()
            .map(|(i, (codes, parameters))| self.evaluate_rows(i * ROWS, codes, parameters))
            .collect::<Result<_>>()?;
        let mut errors = Vec::with_capacity(self.power.len());
        let mut refit = Refit { parameters: Vec::with_capacity(parameters.len()), errors: Vec::new() };
        for (found, best) in parts {
            errors.extend(found);
            refit.parameters.extend(best.parameters);
            refit.errors.extend(best.errors);
        }
        Ok((errors, refit))
    }

    fn evaluate_rows(
        &self,
        first: usize,
        codes: &[u8],
        parameters: &[RealZero],
    ) -> Result<(Vec<f64>, Refit)> {
        let (n, groups) = (self.n, self.groups);
        let rows = codes.len() / n;
        let a = self.signed(codes);
        let of_codes = self.of_codes(&a, rows);
        let mut errors = Vec::with_capacity(rows);
        let mut refit = Refit { parameters: parameters.to_vec(), errors: Vec::with_capacity(rows) };
        for row in 0..rows {
            let a = &a[row * n..(row + 1) * n];
            let system =
                self.system(first + row, a, &of_codes[row * groups * groups..(row + 1) * groups * groups]);
            let at = row * groups..(row + 1) * groups;
            errors.push(system.error(&parameters[at.clone()]));
            match self.solve(&system)? {
                Some(found) => {
                    refit.errors.push(system.error(&found));
                    refit.parameters[at].copy_from_slice(&found);
                }
                None => refit.errors.push(f64::INFINITY),
            }
        }
        Ok((errors, refit))
    }

    /// `AHAᵀ` of some rows `a` `[rows, n]`: `[rows, groups, groups]`.
    fn of_codes(&self, a: &[f64], rows: usize) -> Vec<f64> {
        let (n, groups) = (self.n, self.groups);
        let h = MatRef::from_column_major_slice(self.hessian.as_slice(), n, n);
        let view = MatRef::from_row_major_slice(a, rows, n);
        let mut forms = vec![0.0; rows * groups * groups];
        let mut product = vec![0.0; rows * n];
        for (t, (right, columns)) in self.segments.iter().enumerate() {
            let last = columns.end;
            let out = MatMut::from_row_major_slice_mut(&mut product[..rows * last], rows, last);
            let part = h.subrows(columns.start, columns.len()).subcols(0, last);
            matmul(out, Accum::Replace, view.subcols(columns.start, columns.len()), part, 1.0, Par::Seq);
            for row in 0..rows {
                let (a, product) = (&a[row * n..], &product[row * last..]);
                let form = &mut forms[row * groups * groups..(row + 1) * groups * groups];
                for (left, before) in &self.segments[..=t] {
                    let dot = dot(&a[before.clone()], &product[before.clone()]);
                    form[left * groups + right] += dot;
                    if before != columns {
                        form[right * groups + left] += dot;
                    }
                }
            }
        }
        forms
    }

    fn system<'a>(&'a self, row: usize, a: &[f64], of_codes: &'a [f64]) -> System<'a> {
        let (n, groups, width) = (self.n, self.groups, self.width);
        let target = &self.target[row * n..(row + 1) * n];
        let codes_target = a.chunks(width).zip(target.chunks(width)).map(|(a, t)| dot(a, t)).collect();
        let mut codes_ones = vec![0.0; groups * groups];
        for right in 0..groups {
            let ones = &self.ones[right * n..(right + 1) * n];
            for (left, (a, ones)) in a.chunks(width).zip(ones.chunks(width)).enumerate() {
                codes_ones[left * groups + right] = dot(a, ones);
            }
        }
        System {
            power: self.power[row],
            of_codes,
            codes_ones,
            of_ones: self.of_ones.as_slice(),
            codes_target,
            ones_target: &self.target_of_groups[row * groups..(row + 1) * groups],
        }
    }

    /// Steps and zeros of least error, rounded to their type; `None` where the system has no solution of use.
    fn solve(&self, system: &System<'_>) -> Result<Option<Vec<RealZero>>> {
        let groups = self.groups;
        let dtype = self.grid.scale_dtype;
        let Some(steps) =
            (if self.grid.symmetric { self.steps(system) } else { self.steps_beside_zeros(system) })
        else {
            return Ok(None);
        };
        let steps: Vec<f32> = steps.iter().map(|&s| dtype.round_signed(s as f32)).collect();
        if self.grid.symmetric {
            let usable = steps.iter().all(|&s| s.is_finite() && s > 0.0);
            return Ok(usable.then(|| steps.iter().map(|&scale| RealZero { scale, zero: 0.0 }).collect()));
        }
        // The best zeros beside the steps as they are stored: IHI z = IHw − IHA s.
        let mut right = system.ones_target.to_vec();
        for (group, right) in right.iter_mut().enumerate() {
            *right -=
                (0..groups).map(|i| system.codes_ones[i * groups + group] * f64::from(steps[i])).sum::<f64>();
        }
        let zeros = match &self.factor_of_ones {
            Some(factor) => factor.solve(&right, 1)?,
            None => return Ok(None),
        };
        let found = steps
            .iter()
            .zip(&zeros)
            .map(|(&scale, &zero)| RealZero { scale, zero: dtype.round_signed(zero as f32) });
        let found: Vec<RealZero> = found.collect();
        let usable = found.iter().all(|found| found.scale.is_finite() && found.zero.is_finite());
        Ok(usable.then_some(found))
    }

    /// Steps alone: `AHAᵀ s = AHwᵀ`.
    fn steps(&self, system: &System<'_>) -> Option<Vec<f64>> {
        if let ([form], [target]) = (system.of_codes, &system.codes_target[..]) {
            return (*form > 0.0).then(|| vec![target / form]);
        }
        solve_damped(self.groups, system.of_codes.to_vec(), &system.codes_target)
    }

    /// The steps of the whole system.
    fn steps_beside_zeros(&self, system: &System<'_>) -> Option<Vec<f64>> {
        let groups = self.groups;
        if let ([aa], [a1], [b]) = (system.of_codes, &system.codes_ones[..], &system.codes_target[..]) {
            let (ones, c) = (system.of_ones[0], system.ones_target[0]);
            let determinant = aa * ones - a1 * a1;
            return (determinant > SINGULAR * aa * ones).then(|| vec![(b * ones - a1 * c) / determinant]);
        }
        let order = 2 * groups;
        let mut matrix = vec![0.0; order * order];
        for i in 0..groups {
            for j in 0..groups {
                matrix[i * order + j] = system.of_codes[i * groups + j];
                matrix[(groups + i) * order + groups + j] = system.of_ones[i * groups + j];
                matrix[i * order + groups + j] = system.codes_ones[i * groups + j];
                matrix[(groups + j) * order + i] = system.codes_ones[i * groups + j];
            }
        }
        let right = [&system.codes_target[..], system.ones_target].concat();
        let mut found = solve_damped(order, matrix, &right)?;
        found.truncate(groups);
        Some(found)
    }

    /// `Σ (q − w)²` over a layer.
    pub(super) fn squares(&self, layer: &Layer, codes: &[u8], parameters: &[RealZero]) -> f64 {
        let (n, middle) = (self.n.max(1), f32::from(self.grid.middle()));
        let rows = layer
            .weight()
            .par_chunks(n)
            .zip(codes.par_chunks(n))
            .zip(parameters.par_chunks(self.groups.max(1)));
        let of_row = |((weights, codes), parameters): ((&[f32], &[u8]), &[RealZero])| {
            let groups = weights.chunks(self.width).zip(codes.chunks(self.width)).zip(parameters);
            let square = |found: &RealZero, w: f32, code: u8| {
                (f64::from(found.scale * (f32::from(code) - middle) + found.zero) - f64::from(w)).powi(2)
            };
            groups
                .map(|((w, q), found)| w.iter().zip(q).map(|(&w, &q)| square(found, w, q)).sum::<f64>())
                .sum::<f64>()
        };
        rows.map(of_row).collect::<Vec<f64>>().iter().sum()
    }
}

/// The error of one row as a function of its steps and zeros.
struct System<'a> {
    power: f64,
    /// `AHAᵀ`, `AHIᵀ`, `IHIᵀ`: `[groups, groups]` each.
    of_codes: &'a [f64],
    codes_ones: Vec<f64>,
    of_ones: &'a [f64],
    /// `AHwᵀ`, `IHwᵀ`.
    codes_target: Vec<f64>,
    ones_target: &'a [f64],
}

impl System<'_> {
    /// `wHwᵀ − 2 bᵀp + pᵀPp`.
    fn error(&self, at: &[RealZero]) -> f64 {
        let groups = at.len();
        let (s, z): (Vec<f64>, Vec<f64>) = at.iter().map(|p| (f64::from(p.scale), f64::from(p.zero))).unzip();
        let mut sum = self.power;
        for i in 0..groups {
            sum -= 2.0 * (s[i] * self.codes_target[i] + z[i] * self.ones_target[i]);
            for j in 0..groups {
                let at = i * groups + j;
                sum += s[i] * s[j] * self.of_codes[at]
                    + 2.0 * s[i] * z[j] * self.codes_ones[at]
                    + z[i] * z[j] * self.of_ones[at];
            }
        }
        sum
    }
}

/// Solves a symmetric system; one that is not positive definite with 1 % of its mean diagonal added, and more if need be.
fn solve_damped(n: usize, matrix: Vec<f64>, right: &[f64]) -> Option<Vec<f64>> {
    let matrix = Square::new(n, matrix).ok()?;
    let factor =
        cholesky_damped(&matrix, &Damping::NONE).or_else(|_| cholesky_damped(&matrix, &Damping::default()));
    factor.ok()?.solve(right, 1).ok()
}

/// In sixteen lanes, so that it runs in vectors.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [0.0; LANES];
    let (left, right) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = left.remainder().iter().zip(right.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in left.zip(right) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    lanes.iter().sum::<f64>() + rest
}
