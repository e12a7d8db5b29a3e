//! Step and zero by least squares for fixed codes.

use super::search::squared_error;
use crate::affine::{Affine, Grid, RealAffine};

/// From `start` on: choose codes, solve for step and zero, as long as the weighted squared error falls.
pub(super) fn least_squares(
    values: &[f32],
    power: Option<&[f32]>,
    grid: &Grid,
    start: Affine,
    rounds: usize,
) -> Affine {
    let mut best = start;
    let mut least = squared_error(values, power, &best, grid);
    for _ in 0..rounds {
        let codes: Vec<u8> = values.iter().map(|&x| best.code(x, grid)).collect();
        let zero = if grid.symmetric {
            best.zero
        } else {
            match refit(values, power, &codes) {
                Some(real) => real.to_integer_zero(grid).zero,
                None => break,
            }
        };
        let Some(scale) = refit_step(values, power, &codes, zero) else { break };
        let candidate = Affine { scale: grid.scale_dtype.round(scale), zero };
        let error = squared_error(values, power, &candidate, grid);
        if error < least {
            (best, least) = (candidate, error);
        } else {
            break;
        }
    }
    best
}

/// Step and real offset that minimize `Σ h (x − s·q − m)²` for fixed codes: weighted linear regression of `x` on `q`.
/// `None` if all codes of positive power are equal, or the best step is not positive.
pub fn refit(values: &[f32], power: Option<&[f32]>, codes: &[u8]) -> Option<RealAffine> {
    let (mut h0, mut hq, mut hx) = (0.0, 0.0, 0.0);
    for (h, x, q) in observations(values, power, codes) {
        h0 += h;
        hq += h * q;
        hx += h * x;
    }
    let (mean_q, mean_x) = (hq / h0, hx / h0);
    let (mut qq, mut qx) = (0.0, 0.0);
    for (h, x, q) in observations(values, power, codes) {
        qq += h * (q - mean_q) * (q - mean_q);
        qx += h * (q - mean_q) * (x - mean_x);
    }
    let scale = qx / qq;
    let usable = scale > 0.0 && scale.is_finite();
    usable.then_some(RealAffine { scale: scale as f32, offset: (mean_x - scale * mean_q) as f32 })
}

/// Step that minimizes `Σ h (x − s·(q − z))²` for fixed codes and zero. `None` if it is not positive.
pub fn refit_step(values: &[f32], power: Option<&[f32]>, codes: &[u8], zero: u8) -> Option<f32> {
    let (mut qq, mut qx) = (0.0, 0.0);
    for (h, x, q) in observations(values, power, codes) {
        let q = q - f64::from(zero);
        qq += h * q * q;
        qx += h * q * x;
    }
    let scale = (qx / qq) as f32;
    (scale > 0.0 && scale.is_finite()).then_some(scale)
}

/// Triples of power, value, code.
fn observations<'a>(
    values: &'a [f32],
    power: Option<&'a [f32]>,
    codes: &'a [u8],
) -> impl Iterator<Item = (f64, f64, f64)> + 'a {
    values.iter().zip(codes).enumerate().map(move |(i, (&x, &q))| {
        (power.map_or(1.0, |power| f64::from(power[i])), f64::from(x), f64::from(q))
    })
}

#[cfg(test)]
mod tests {
    use super::super::RangeFinder;
    use super::super::tests::{error, grids, sample};
    use super::*;

    #[test]
    fn refits_are_least_squares() {
        let (values, power) = sample(60, 8);
        let grid = grids()[2];
        let start = RangeFinder::MinMax.fit(&values, None, &grid);
        let codes: Vec<u8> = values.iter().map(|&x| start.code(x, &grid)).collect();
        let loss = |s: f64, m: f64| -> f64 {
            observations(&values, Some(&power), &codes).map(|(h, x, q)| h * (x - s * q - m).powi(2)).sum()
        };
        let real = refit(&values, Some(&power), &codes).unwrap();
        let (s, m) = (f64::from(real.scale), f64::from(real.offset));
        let step = refit_step(&values, Some(&power), &codes, start.zero).unwrap();
        let (t, z) = (f64::from(step), f64::from(start.zero));
        for d in [-1e-3, 1e-3] {
            assert!(loss(s + d, m) > loss(s, m) && loss(s, m + d) > loss(s, m));
            assert!(loss(t + d, -(t + d) * z) > loss(t, -t * z));
        }
        assert!(loss(s, m) < loss(t, -t * z));
        assert!(refit(&values, None, &[3; 60]).is_none());
        assert!(refit_step(&[-1.0], None, &[5], 3).is_none());
    }

    #[test]
    fn least_squares_never_loses_to_its_start_and_mostly_wins() {
        let mut wins = 0;
        for seed in 0..20 {
            let (values, power) = sample(64, seed);
            let grid = grids()[seed as usize % 4];
            let start = RangeFinder::MinMax.fit(&values, None, &grid);
            let found = RangeFinder::least_squares().fit(&values, Some(&power), &grid);
            let [before, after] = [start, found].map(|a| error(&values, Some(&power), &a, &grid, 2.0));
            assert!(after <= before * (1.0 + 1e-6));
            wins += usize::from(after < 0.99 * before);
        }
        assert!(wins >= 15, "{wins} of 20");
    }
}
