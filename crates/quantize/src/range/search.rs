//! Searches over candidate ranges.

use crate::affine::{Affine, Grid, nearest_code, value_of_code};

#[inline(always)]
pub(super) fn min_max(values: &[f32]) -> (f32, f32) {
    const LANES: usize = 16;
    let (mut low, mut high) = ([0.0f32; LANES], [0.0f32; LANES]);
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..LANES {
            low[lane] = low[lane].min(chunk[lane]);
            high[lane] = high[lane].max(chunk[lane]);
        }
    }
    let all_low = low.iter().chain(rest).copied().fold(0.0, f32::min);
    let all_high = high.iter().chain(rest).copied().fold(0.0, f32::max);
    (all_low, all_high)
}

/// The least of `error(candidate, least so far)` over the shrunken ranges.
pub(super) fn shrink(
    low: f32,
    high: f32,
    steps: usize,
    max_shrink: f64,
    grid: &Grid,
    error: impl Fn(&Affine, f64) -> f64,
) -> Affine {
    let mut best = grid.affine(low, high);
    let mut least = error(&best, f64::INFINITY);
    for i in 1..(max_shrink * steps as f64) as usize {
        let keep = (1.0 - i as f64 / steps as f64) as f32;
        let candidate = grid.affine(keep * low, keep * high);
        let found = error(&candidate, least);
        if found < least {
            (best, least) = (candidate, found);
        }
    }
    best
}

/// `Σ |x − x̂|^norm`; stops early once it exceeds `bound`.
pub(super) fn power_error(values: &[f32], affine: &Affine, grid: &Grid, norm: f64, bound: f64) -> f64 {
    if norm == 2.0 {
        return squared_error(values, None, affine, grid);
    }
    let mut sum = 0.0;
    for chunk in values.chunks(64) {
        for &x in chunk {
            sum += f64::from((x - affine.decode(affine.code(x, grid))).abs()).powf(norm);
        }
        if sum > bound {
            break;
        }
    }
    sum
}

/// `Σ h (x − x̂)²`.
pub(super) fn squared_error(values: &[f32], power: Option<&[f32]>, affine: &Affine, grid: &Grid) -> f64 {
    pulp::Arch::new().dispatch(SquaredError { values, power, affine, grid })
}

struct SquaredError<'a> {
    values: &'a [f32],
    power: Option<&'a [f32]>,
    affine: &'a Affine,
    grid: &'a Grid,
}

impl pulp::NullaryFnOnce for SquaredError<'_> {
    type Output = f64;

    #[inline(always)]
    fn call(self) -> f64 {
        const LANES: usize = 16;
        let (scale, zero) = (self.affine.scale, f32::from(self.affine.zero));
        let (lowest, highest) = (f32::from(self.grid.lowest()), f32::from(self.grid.highest()));
        let square = |x: f32| {
            let error = x - value_of_code(nearest_code(x, scale, zero, lowest, highest), scale, zero);
            error * error
        };
        let mut lanes = [0.0f64; LANES];
        let mut chunks = self.values.chunks_exact(LANES);
        let mut index = 0;
        for chunk in &mut chunks {
            let mut squares = [0.0f32; LANES];
            for lane in 0..LANES {
                squares[lane] = square(chunk[lane]);
            }
            if let Some(power) = self.power {
                let power = &power[index..index + LANES];
                for lane in 0..LANES {
                    squares[lane] *= power[lane];
                }
            }
            for lane in 0..LANES {
                lanes[lane] += f64::from(squares[lane]);
            }
            index += LANES;
        }
        for (i, &x) in chunks.remainder().iter().enumerate() {
            lanes[i] += f64::from(square(x) * self.power.map_or(1.0, |power| power[index + i]));
        }
        lanes.iter().sum()
    }
}

pub(super) fn percentile(values: &[f32], candidates: &[f64], grid: &Grid) -> Affine {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    let mut best: Option<(f64, Affine)> = None;
    for &p in candidates {
        let affine = grid.affine(quantile(&sorted, 1.0 - p), quantile(&sorted, p));
        let error = squared_error(values, None, &affine, grid);
        if best.as_ref().is_none_or(|(least, _)| error < *least) {
            best = Some((error, affine));
        }
    }
    best.map_or_else(|| grid.affine(0.0, 0.0), |(_, affine)| affine)
}

/// Quantile of ascending values, linear between neighbours; 0 for an empty slice.
fn quantile(sorted: &[f32], p: f64) -> f32 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let position = p * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    let share = position - below as f64;
    (f64::from(sorted[below]) * (1.0 - share) + f64::from(sorted[above]) * share) as f32
}

#[cfg(test)]
mod tests {
    use super::super::RangeFinder;
    use super::super::tests::{error, grids, sample};
    use super::*;

    #[test]
    fn min_max_covers_all_values() {
        for n in [1, 5, 16, 33, 128] {
            let (values, _) = sample(n, 1);
            let low = values.iter().copied().fold(0.0, f32::min);
            let high = values.iter().copied().fold(0.0, f32::max);
            for grid in grids() {
                assert_eq!(RangeFinder::MinMax.fit(&values, None, &grid), grid.affine(low, high));
            }
        }
        for grid in grids() {
            assert_eq!(RangeFinder::MinMax.fit(&[], None, &grid), grid.affine(-1.0, 1.0));
        }
    }

    #[test]
    fn shrink_searches_find_the_best_of_their_grid() {
        for seed in 0..4 {
            let (values, power) = sample(77, seed);
            let low = values.iter().copied().fold(0.0, f32::min);
            let high = values.iter().copied().fold(0.0, f32::max);
            for grid in grids() {
                let best = |steps: usize, power: Option<&[f32]>, norm| {
                    (0..(0.8 * steps as f64) as usize)
                        .map(|i| (1.0 - i as f64 / steps as f64) as f32)
                        .map(|p| error(&values, power, &grid.affine(p * low, p * high), &grid, norm))
                        .fold(f64::INFINITY, f64::min)
                };
                let check = |finder: RangeFinder, steps, power: Option<&[f32]>, norm| {
                    let found = finder.fit(&values, power, &grid);
                    let (found, best) =
                        (error(&values, power, &found, &grid, norm), best(steps, power, norm));
                    assert!(found <= best * (1.0 + 1e-6), "{finder:?}: {found} against {best}");
                };
                check(RangeFinder::mse(), 100, None, 2.4);
                check(RangeFinder::Mse { grid: 60, max_shrink: 0.8, norm: 2.0 }, 60, None, 2.0);
                check(RangeFinder::mse_weighted(), 200, Some(&power), 2.0);
            }
        }
    }

    #[test]
    fn percentile_takes_the_best_candidate() {
        let (mut values, _) = sample(4001, 5);
        values[7] = 500.0;
        let candidates = vec![0.99, 0.999, 1.0];
        let mut sorted = values.clone();
        sorted.sort_by(f32::total_cmp);
        for grid in grids() {
            let found = RangeFinder::Percentile { candidates: candidates.clone() }.fit(&values, None, &grid);
            let errors = candidates.iter().map(|&p| {
                let affine = grid.affine(quantile(&sorted, 1.0 - p), quantile(&sorted, p));
                error(&values, None, &affine, &grid, 2.0)
            });
            let best = errors.fold(f64::INFINITY, f64::min);
            assert!(error(&values, None, &found, &grid, 2.0) <= best * (1.0 + 1e-6));
        }
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert_eq!((quantile(&[], 0.3), quantile(&[5.0], 0.3)), (0.0, 5.0));
    }
}
