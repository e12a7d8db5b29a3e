//! Exact identities.

use trimtab::floors::io::Dtype;
use trimtab::floors::math::gram::GramAccumulator;
use trimtab::floors::math::linalg::{
    Damping, Metric, Path, Sketch, Square, cholesky_damped, low_rank, lower_inverse, metric_norm, thin_svd,
};
use trimtab::floors::math::random::Stream;
use trimtab::floors::mend::eora::{EoraSettings, Variant, eora};
use trimtab::floors::quantize::damage::output_error;

use crate::experiment::Check;
use crate::experiments::wikilm::Failure;

const ROWS: usize = 200;
const COLS: usize = 220;
const RANK: usize = 6;

fn problem() -> Result<(Vec<f32>, Vec<f32>, Square), Failure> {
    let mut stream = Stream::new(87, "eora/checks", 0, 0);
    let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| stream.normal() as f32).collect() };
    let weight = draw(ROWS * COLS);
    let changed = weight.iter().map(|w| w.round()).collect();
    let mut x = draw(900 * COLS);
    // Neighbours go together, and the first are loud.
    for row in x.chunks_mut(COLS) {
        for j in 1..COLS {
            row[j] = (row[j] + row[j - 1]) * (1.0 + 3.0 / j as f32).min(2.0);
        }
        let largest = row.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        row.iter_mut().for_each(|v| *v *= 4.0 / largest);
    }
    let mut gram = GramAccumulator::new(COLS);
    gram.add(&x, None)?;
    Ok((weight, changed, gram.mean()?))
}

/// All of them.
pub fn all() -> Result<Vec<Check>, Failure> {
    let (weight, changed, h) = problem()?;
    let error: Vec<f64> = weight.iter().zip(&changed).map(|(w, q)| f64::from(*w) - f64::from(*q)).collect();
    let total = metric_norm(&error, ROWS, None, Metric::Full(&h))?;
    let settings = EoraSettings { variant: Variant::Eora, path: Path::Exact };
    let mended = |rank: usize| -> Result<Vec<f32>, Failure> {
        let mut values = changed.clone();
        if let Some(f) = eora(&weight, &changed, ROWS, Some(&h), rank, &settings)?.factors(Dtype::F32)? {
            f.merge_into(&mut values)?;
        }
        Ok(values)
    };
    let found = low_rank(&error, ROWS, None, Metric::Full(&h), RANK, Path::Exact)?;
    let tail = found.residual(total, RANK);
    let measured = output_error(&weight, &mended(RANK)?, &h)?;
    let whole = output_error(&weight, &mended(ROWS)?, &h)?;

    // The published recipe with the Cholesky factor: decompose E L, multiply by the inverse of L.
    let l = cholesky_damped(&h, &Damping::NONE)?.lower;
    let inverse = lower_inverse(&l)?;
    let product = |a: &[f64], b: &[f64], m: usize, k: usize, n: usize| -> Vec<f64> {
        let at = |i: usize, j: usize| (0..k).map(|x| a[i * k + x] * b[x * n + j]).sum();
        (0..m * n).map(|i| at(i / n, i % n)).collect()
    };
    let svd = thin_svd(&product(&error, l.as_slice(), ROWS, COLS, COLS), ROWS, COLS)?;
    let k = svd.k();
    let b: Vec<f64> = (0..ROWS * RANK).map(|i| svd.u[i / RANK * k + i % RANK] * svd.s[i % RANK]).collect();
    let a = product(&svd.vt[..RANK * COLS], inverse.as_slice(), RANK, COLS, COLS);
    let theirs = product(&b, &a, ROWS, RANK, COLS);
    let ours = found.product();
    let scale = ours.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let apart = ours.iter().zip(&theirs).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max) / scale;

    let sketch = Path::Randomized(Sketch::default());
    let fast = low_rank(&error, ROWS, None, Metric::Full(&h), RANK, sketch)?;
    let check = |identity, deviation, tolerance| Check { identity, deviation, tolerance };
    Ok(vec![
        check(
            "output error with the branch is the tail of the singular values",
            (measured / tail - 1.0).abs(),
            1e-5,
        ),
        check("a branch of full rank leaves no output error", whole / total, 1e-9),
        check("the Cholesky factor of the second moment gives the same product", apart, 1e-5),
        check("the randomized path reaches the least error", fast.residual(total, RANK) / tail - 1.0, 1e-3),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_hold() {
        for check in all().unwrap() {
            assert!(check.holds(), "{check:?}");
        }
    }
}
