//! What the estimators promise.

use trimtab::floors::eval::information::bins::{BINS, Edges, Floor, information};
use trimtab::floors::eval::information::kde::{Kde, Scale};
use trimtab::floors::eval::information::{Activations, Result};
use trimtab::floors::math::random::Stream;

use super::task::{PATTERNS, smooth, turned};
use crate::experiment::Check;

/// Rows of the layers that are tried.
const ROWS: usize = 400;
const UNITS: usize = 3;

/// All identities.
pub(super) fn all() -> Result<Vec<Check>> {
    let mut stream = Stream::new(50, "information/checks", 0, 0);
    // Steps of 1/64 stay distinct in single precision under all the maps.
    let values: Vec<f32> = (0..ROWS * UNITS).map(|_| stream.below(320) as f32 / 64.0).collect();
    let labels: Vec<usize> = (0..ROWS).map(|i| i % 2).collect();
    let akde = |scale, values: &[f32]| -> Result<[f64; 2]> {
        let bounds = Kde { constant: 0.01, scale }.bounds(&layer(values)?, &labels)?;
        Ok([bounds.tx.lower, bounds.tx.upper])
    };
    let same = vec![0.3f32; ROWS * UNITS];
    let ebab_of_same = Edges::ebab(&layer(&same)?, Floor::Minimum, BINS)?;
    let ebab_of_same = ebab_of_same.estimate("ebab", &layer(&same)?, &labels)?.i_tx.unwrap_or(f64::NAN);
    let identical = akde(Scale::Max, &same)?.into_iter().fold(ebab_of_same, f64::max);
    let far: Vec<f32> = (0..ROWS * UNITS).map(|i| 1000.0 * (i / UNITS) as f32).collect();
    let bits = (ROWS as f64).log2();
    let apart = akde(Scale::Fixed, &far)?.map(|found| (found - bits).abs());
    // Multiplied by a power of two: exact in floating point.
    let eight: Vec<f32> = values.iter().map(|v| 8.0 * v).collect();
    let moved = |scale| -> Result<f64> {
        let (one, other) = (akde(scale, &values)?, akde(scale, &eight)?);
        Ok((one[0] - other[0]).abs().max((one[1] - other[1]).abs()))
    };
    let mut crossed = 0.0f64;
    for scale in [Scale::Fixed, Scale::Max, Scale::MaxSq, Scale::StdSq] {
        for size in [0.01f32, 0.1, 1.0, 10.0] {
            let sized: Vec<f32> = values.iter().map(|v| v * size).collect();
            let [lower, upper] = akde(scale, &sized)?;
            crossed = crossed.max(lower - upper).max(-lower);
        }
    }
    let exact = |identity, deviation: f64| Check { identity, deviation, tolerance: 0.0 };
    let near = |identity, deviation, tolerance| Check { identity, deviation, tolerance };
    let turn = (0..PATTERNS).map(|p| (smooth(p) - smooth(turned(p))).abs()).fold(0.0, f64::max);
    let (invariant, control) = maps(&values)?;
    Ok(vec![
        exact("identical rows have no information, under EBAB and both bounds", identical),
        near("400 far rows have log2 400 bits under both bounds", apart[0].max(apart[1]), 1e-6),
        exact(
            "EBAB: bins do not change under x^3, 10 x and exp, the floor mapped too (rows that change)",
            invariant,
        ),
        exact(
            "control: under the same maps, some fixed bin changes each time (maps that change none)",
            control,
        ),
        exact("aKDE of variance c max^2 does not change with the unit", moved(Scale::MaxSq)?),
        exact(
            "control: aKDE of variance c max, the paper's, changes by 0.1 bits or more (what is missing)",
            (0.1 - moved(Scale::Max)?).max(0.0),
        ),
        exact("0 <= lower bound <= upper bound, four scales and four units", crossed),
        near("two Gaussians, 20 separations: the integral lies between the bounds", integrals()?, 1e-9),
        near("information of a joint table is that of its formula", joint()?, 1e-12),
        near("the task: a pattern that is turned has the same value", turn, 1e-9),
    ])
}

fn layer(values: &[f32]) -> Result<Activations<'_>> {
    Activations::new(values, values.len() / UNITS, UNITS)
}

/// Rows whose EBAB code changes under a map, and maps under which no fixed bin does.
fn maps(values: &[f32]) -> Result<(f64, f64)> {
    let ebab = |values: &[f32], low| -> Result<Vec<usize>> {
        let layer = layer(values)?;
        Ok(Edges::ebab(&layer, Floor::At(low), BINS)?.codes(&layer))
    };
    let fixed = Edges::uniform(0.0, 5.0, BINS, "all layers")?;
    let (mut changed, mut kept) = (0, 0);
    let maps: [fn(f32) -> f32; 3] = [|x| x * x * x, |x| 10.0 * x, f32::exp];
    for map in maps {
        let mapped: Vec<f32> = values.iter().map(|&v| map(v)).collect();
        let pairs = ebab(values, 0.0)?.into_iter().zip(ebab(&mapped, map(0.0))?);
        changed += pairs.filter(|(a, b)| a != b).count();
        kept += usize::from(fixed.codes(&layer(values)?) == fixed.codes(&layer(&mapped)?));
    }
    Ok((changed as f64, f64::from(kept as u32)))
}

/// How far the integral of two Gaussians leaves the bounds, over 20 separations, in bits.
fn integrals() -> Result<f64> {
    let mut worst = 0.0f64;
    for step in 1..=20 {
        let d = f64::from(step) * 0.4;
        let (end, steps) = (d / 2.0 + 9.0, 20_000);
        let width = 2.0 * end / f64::from(steps);
        let entropy: f64 = (0..=steps)
            .map(|i| {
                let x = -end + f64::from(i) * width;
                let bell = |at: f64| (-(x - at).powi(2) / 2.0).exp() / std::f64::consts::TAU.sqrt();
                let p = (bell(d / 2.0) + bell(-d / 2.0)) / 2.0;
                if p > 0.0 { -p * p.log2() * width } else { 0.0 }
            })
            .sum();
        let exact = entropy - 0.5 * (std::f64::consts::TAU * std::f64::consts::E).log2();
        let rows = [-d as f32 / 2.0, d as f32 / 2.0];
        let found =
            Kde { constant: 1.0, scale: Scale::Fixed }.bounds(&Activations::new(&rows, 2, 1)?, &[0, 1])?;
        worst = worst.max(found.tx.lower - exact).max(exact - found.tx.upper);
    }
    Ok(worst)
}

/// Counts of four pairs against the formula.
fn joint() -> Result<f64> {
    let table = [(0, 0, 3), (0, 1, 1), (1, 0, 2), (1, 1, 6)];
    let pairs = table.iter().flat_map(|&(t, y, n)| std::iter::repeat_n((t, y), n));
    let (t, y): (Vec<usize>, Vec<usize>) = pairs.unzip();
    let (of_t, of_y) = ([4.0, 8.0], [5.0, 7.0]);
    let term = |&(t, y, n): &(usize, usize, usize)| {
        let n = n as f64;
        n / 12.0 * (12.0 * n / (of_t[t] * of_y[y])).log2()
    };
    Ok((information(&t, &y)? - table.iter().map(term).sum::<f64>()).abs())
}
