//! What decoupleQ promises.

use trimtab::floors::math::gram::GramAccumulator;
use trimtab::floors::math::linalg::Square;
use trimtab::floors::math::random::Stream;
use trimtab::floors::quantize::Result;
use trimtab::floors::quantize::affine::ScaleDtype;
use trimtab::floors::quantize::damage::output_error;
use trimtab::floors::quantize::decoupleq::{DecoupleqSettings, decoupleq};
use trimtab::floors::quantize::gptq::{ColumnOrder, GptqSettings, GroupFit, gptq};
use trimtab::floors::quantize::layer::Layer;
use trimtab::floors::quantize::range::RangeFinder;
use trimtab::floors::quantize::rtn::{RtnSettings, rtn};
use trimtab::floors::quantize::scheme::WeightScheme;

use crate::experiment::Check;

/// Rows and inputs of the small problem that is solved by trying all integers.
const SMALL: [usize; 2] = [40, 8];

/// All identities.
pub(super) fn all() -> Result<Vec<Check>> {
    let exact = |identity, deviation: f64| Check { identity, deviation, tolerance: 0.0 };
    let (rows, n) = (64, 64);
    let (weight, h) = problem(rows, n, 1)?;
    let layer = Layer::new(&weight, rows, n, Some(&h))?;
    let iterations = |iterations| DecoupleqSettings { iterations, ..DecoupleqSettings::default() };
    // Errors of single rows, after ever more iterations.
    let mut rises = 0.0f64;
    let mut before = vec![f64::INFINITY; rows];
    for count in 1..=5 {
        let found = decoupleq(&layer, &scheme(2), &iterations(count))?.dequantize();
        let damped = damped(&h);
        for (row, before) in before.iter_mut().enumerate() {
            let part = row * n..(row + 1) * n;
            let error = output_error(&weight[part.clone()], &found[part], &damped)?;
            rises = rises.max(error / *before - 1.0);
            *before = error;
        }
    }
    let ratios = against_all_integers()?;
    let share = |bits, range: RangeFinder| -> Result<f64> {
        let settings = GptqSettings { range, rtn_check: false, ..GptqSettings::default() };
        let damped = damped(&h);
        let of_gptq = output_error(&weight, &gptq(&layer, &scheme(bits), &settings)?.dequantize(), &damped)?;
        let found = decoupleq(&layer, &scheme(bits), &DecoupleqSettings::default())?;
        Ok(output_error(&weight, &found.dequantize(), &damped)? / of_gptq)
    };
    let mut worst = f64::NEG_INFINITY;
    for bits in [2, 3, 4] {
        worst = worst.max(share(bits, RangeFinder::mse_weighted())?);
    }
    let [same, other] = [1, 4].map(gptq_codes);
    Ok(vec![
        Check {
            identity: "no row's error rises from one iteration to the next (relative)",
            deviation: rises,
            tolerance: 1e-5,
        },
        exact(
            "one iteration from min-max: every row has the codes of GPTQ or of rounding (rows that do not)",
            same?,
        ),
        exact(
            "control: after four iterations 40 of 50 rows have neither (what is missing)",
            (40.0 - other?).max(0.0),
        ),
        Check {
            identity: "8 weights, 2 bits, 40 rows: median error over that of the best of all 4^8 integers",
            deviation: ratios[0],
            tolerance: 1.5,
        },
        exact(
            "control: that of GPTQ from min-max is not below 1.5 (what is missing)",
            (1.5 - ratios[1]).max(0.0),
        ),
        Check {
            identity: "64 rows of 64, 2 to 4 bits: error over that of GPTQ with weighted shrunk ranges, at most",
            deviation: worst,
            tolerance: 0.95,
        },
    ])
}

fn scheme(bits: u8) -> WeightScheme {
    let (group_size, real_zero, scale_dtype) = (None, true, ScaleDtype::F32);
    WeightScheme { bits, group_size, real_zero, scale_dtype, ..WeightScheme::default() }
}

/// A weight, and the second moment of correlated inputs of uneven power.
fn problem(rows: usize, n: usize, seed: u64) -> Result<(Vec<f32>, Square)> {
    let mut stream = Stream::new(seed, "repro/decoupleq", rows as u64, n as u64);
    let weight = (0..rows * n).map(|_| stream.normal() as f32 * 0.1).collect();
    let powers: Vec<f32> = (0..n).map(|_| (stream.normal() * 0.7).exp() as f32).collect();
    let mut gram = GramAccumulator::new(n);
    for _ in 0..3 * n + 8 {
        let mut row: Vec<f32> = (0..n).map(|_| stream.normal() as f32).collect();
        (1..n).for_each(|j| row[j] += 0.8 * row[j - 1]);
        row.iter_mut().zip(&powers).for_each(|(x, power)| *x *= power);
        gram.add(&row, None)?;
    }
    Ok((weight, gram.mean()?))
}

fn damped(h: &Square) -> Square {
    let mut damped = h.clone();
    let shift = 0.01 * h.mean_diagonal();
    (0..h.n()).for_each(|i| damped.as_mut_slice()[i * h.n() + i] += shift);
    damped
}

/// Rows whose codes after so many iterations are neither GPTQ's nor those of rounding to nearest. Ranges have 0 exactly at an
/// integer, where real and integer zeros are the same.
fn gptq_codes(iterations: usize) -> Result<f64> {
    let (rows, n) = (50, 40);
    let mut stream = Stream::new(9, "repro/decoupleq/grid", 0, 0);
    let mut weight: Vec<f32> = (0..rows * n).map(|_| stream.uniform() as f32 * 2.8 - 0.9).collect();
    weight.chunks_mut(n).for_each(|row| (row[0], row[n - 1]) = (-1.0, 2.0));
    let (_, h) = problem(1, n, 4)?;
    let layer = Layer::new(&weight, rows, n, Some(&h))?;
    let (order, groups) = (ColumnOrder::DescendingDiagonal, GroupFit::Static);
    let integer = WeightScheme { real_zero: false, ..scheme(2) };
    let settings = GptqSettings { order, groups, rtn_check: false, ..GptqSettings::default() };
    let expected = gptq(&layer, &integer, &settings)?.codes;
    let rounded = rtn(&layer, &integer, &RtnSettings::default())?.codes;
    let found =
        decoupleq(&layer, &scheme(2), &DecoupleqSettings { iterations, ..DecoupleqSettings::default() })?
            .codes;
    let rows = found.chunks(n).zip(expected.chunks(n)).zip(rounded.chunks(n));
    Ok(rows.filter(|((found, expected), rounded)| found != expected && found != rounded).count() as f64)
}

/// Median errors of decoupleQ and of GPTQ from min-max over the least error that any integers have with their best step and zero.
fn against_all_integers() -> Result<[f64; 2]> {
    let [rows, n] = SMALL;
    let mut ratios = [const { Vec::new() }; 2];
    for seed in 0..rows as u64 {
        let (weight, h) = problem(1, n, 100 + seed)?;
        let damped = damped(&h);
        let best = least(&weight, &damped);
        let layer = Layer::new(&weight, 1, n, Some(&h))?;
        let settings = GptqSettings { rtn_check: false, ..GptqSettings::default() };
        let found = [
            decoupleq(&layer, &scheme(2), &DecoupleqSettings::default())?,
            gptq(&layer, &scheme(2), &settings)?,
        ];
        for (ratios, found) in ratios.iter_mut().zip(found) {
            ratios.push(output_error(&weight, &found.dequantize(), &damped)? / best);
        }
    }
    Ok(ratios.map(|mut list| {
        list.sort_by(f64::total_cmp);
        list[rows / 2]
    }))
}

fn least(weight: &[f32], h: &Square) -> f64 {
    let n = h.n();
    let w: Vec<f64> = weight.iter().map(|&w| f64::from(w)).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let times = |a: &[f64]| -> Vec<f64> { (0..n).map(|i| dot(h.row(i), a)).collect() };
    let (of_w, of_ones) = (times(&w), times(&vec![1.0; n]));
    let (power, ones, w1) = (dot(&w, &of_w), of_ones.iter().sum::<f64>(), dot(&w, &of_ones));
    let mut least = power - w1 * w1 / ones;
    for k in 0..1usize << (2 * n) {
        let a: Vec<f64> = (0..n).map(|i| (k >> (2 * i) & 3) as f64).collect();
        let (aa, a1, aw) = (dot(&a, &times(&a)), dot(&a, &of_ones), dot(&a, &of_w));
        let determinant = aa * ones - a1 * a1;
        if determinant > 1e-9 * aa * ones {
            let step = (aw * ones - a1 * w1) / determinant;
            least = least.min(power - step * aw - (w1 - step * a1) / ones * w1);
        }
    }
    least
}
