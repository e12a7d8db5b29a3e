//! Bounds on `I(T;X)` and `I(T;Y)` for a layer with Gaussian noise (Kolchinsky and Tracey, arXiv:1706.02419).
//!
//! `T = h + N(0, s² I)`; with squared distances `D`, the upper bound is `−1/N Σ_i ln(1/N Σ_j exp(−D_ij / 2s²))`, the lower one
//! has `8s²`. aKDE makes `s²` proportional to the activity of the layer.
//!
//! Departures: nothing is sampled (the released code adds noise, once as a deviation and once as a variance). The paper does
//! not state its constant: 0.01 is the noise its code has for tanh. Its rule, a variance proportional to the *first* power of
//! the activity, changes with the unit of the activations; the squared rules here do not.

use std::ops::Range;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Activations, Error, Estimate, Result, classes};

/// Rows that are compared with as many others at a time, so that both stay in cache.
const BLOCK: usize = 64;

/// What the noise variance is a multiple of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Of 1: the same noise in every layer.
    Fixed,
    /// Of the largest magnitude of the layer; aKDE.
    Max,
    /// Of its square.
    MaxSq,
    /// Of the variance of all activations of the layer.
    StdSq,
}

/// Settings of the estimator; the default is aKDE.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kde {
    /// The constant, above 0.
    pub constant: f64,
    /// What it multiplies.
    pub scale: Scale,
}

impl Default for Kde {
    fn default() -> Self {
        Self { constant: 0.01, scale: Scale::Max }
    }
}

/// Lower and upper bound in bits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bounds {
    /// Lower bound.
    pub lower: f64,
    /// Upper bound.
    pub upper: f64,
}

/// What [`Kde::bounds`] finds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KdeBounds {
    /// The noise variance, in squared units of the activations.
    pub variance: f64,
    /// `I(T;X)`.
    pub tx: Bounds,
    /// `I(T;X)` less the mean over classes of that within a class. Differences of bounds: each estimates `I(T;Y)`, neither
    /// bounds it.
    pub ty: Bounds,
}

impl Kde {
    /// The noise variance of a layer; 0 for a silent layer with an adaptive scale.
    ///
    /// # Errors
    /// [`Error::Setting`] unless the constant is finite and above 0.
    pub fn variance(&self, layer: &Activations) -> Result<f64> {
        if !(self.constant > 0.0 && self.constant.is_finite()) {
            return Err(Error::Setting {
                what: "constant",
                found: self.constant,
                expected: "finite and above 0",
            });
        }
        let max = layer.values.iter().map(|&v| f64::from(v.abs())).fold(0.0, f64::max);
        let of = match self.scale {
            Scale::Fixed => 1.0,
            Scale::Max => max,
            Scale::MaxSq => max * max,
            Scale::StdSq => variance(layer.values),
        };
        Ok(self.constant * of)
    }

    /// Bounds of one layer. Costs `rows² · units`.
    ///
    /// # Errors
    /// [`Error::Setting`]; [`Error::Length`] of the labels.
    pub fn bounds(&self, layer: &Activations, labels: &[usize]) -> Result<KdeBounds> {
        let variance = self.variance(layer)?;
        let classes = classes(labels, layer.rows())?;
        if variance == 0.0 {
            // Such a layer is constant: the limit of all bounds is 0.
            return Ok(KdeBounds { variance, tx: Bounds::default(), ty: Bounds::default() });
        }
        // Class by class, so that what a row has in common with its own class is a part of its sum over all.
        let rows: Vec<&[f32]> = classes.iter().flatten().map(|&row| layer.row(row)).collect();
        let sizes: Vec<usize> = classes.iter().map(Vec::len).collect();
        let [tx, within] = pairwise(&rows, &sizes, variance);
        let ty = Bounds { lower: tx.lower - within.lower, upper: tx.upper - within.upper };
        Ok(KdeBounds { variance, tx, ty })
    }

    /// Both bounds as labelled estimates, the upper one first.
    ///
    /// # Errors
    /// Those of [`Kde::bounds`].
    pub fn estimate(&self, layer: &Activations, labels: &[usize]) -> Result<[Estimate; 2]> {
        let KdeBounds { tx, ty, .. } = self.bounds(layer, labels)?;
        let of = match self.scale {
            Scale::Fixed => "",
            Scale::Max => " x max|h|",
            Scale::MaxSq => " x max|h|^2",
            Scale::StdSq => " x var(h)",
        };
        let estimator = if self.scale == Scale::Fixed { "kde" } else { "akde" };
        let label = |bound, i_tx, i_ty| {
            let assumption = format!("Gaussian noise of variance {}{of}, {bound} bound", self.constant);
            Estimate { estimator, assumption, i_tx: Some(i_tx), i_ty }
        };
        Ok([label("upper", tx.upper, ty.upper), label("lower", tx.lower, ty.lower)])
    }
}

fn variance(values: &[f32]) -> f64 {
    // Taken from the first value, so that a constant layer has exactly 0.
    let first = f64::from(values[0]);
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v) - first).sum::<f64>() / n;
    values.iter().map(|&v| (f64::from(v) - first - mean).powi(2)).sum::<f64>() / n
}

/// The bounds over these rows, and the mean of those within the classes, which follow each other and have these sizes. Each
/// row is summed by one thread in a fixed order: the same bytes at any number of threads.
fn pairwise(rows: &[&[f32]], sizes: &[usize], variance: f64) -> [Bounds; 2] {
    let mut own = Vec::with_capacity(rows.len());
    for &size in sizes {
        let start = own.len();
        own.resize(start + size, start..start + size);
    }
    let logs: Vec<[Bounds; 2]> = rows
        .par_chunks(BLOCK)
        .zip(own.par_chunks(BLOCK))
        .flat_map_iter(|(block, own)| {
            let mut sums = vec![[Bounds::default(); 2]; block.len()];
            for (number, others) in rows.chunks(BLOCK).enumerate() {
                for ((sum, row), own) in sums.iter_mut().zip(block).zip(own) {
                    for (i, other) in others.iter().enumerate() {
                        // The narrow kernel is the fourth power of the wide one.
                        let wide = (-squared_distance(row, other) / (8.0 * variance)).exp();
                        let narrow = (wide * wide) * (wide * wide);
                        sum[0].lower += wide;
                        sum[0].upper += narrow;
                        if own.contains(&(number * BLOCK + i)) {
                            sum[1].lower += wide;
                            sum[1].upper += narrow;
                        }
                    }
                }
            }
            // A row is at distance 0 from itself, so that no sum is below 1 and no logarithm needs care.
            let bits = |sum: Bounds, n: usize| Bounds {
                lower: -(sum.lower / n as f64).log2(),
                upper: -(sum.upper / n as f64).log2(),
            };
            let ends = |([all, within], own): ([Bounds; 2], &Range<usize>)| {
                [bits(all, rows.len()), bits(within, own.len())]
            };
            sums.into_iter().zip(own).map(ends).collect::<Vec<_>>()
        })
        .collect();
    [0, 1].map(|which: usize| {
        let mean =
            |of: fn(&Bounds) -> f64| logs.iter().map(|row| of(&row[which])).sum::<f64>() / rows.len() as f64;
        Bounds { lower: mean(|b| b.lower) + 0.0, upper: mean(|b| b.upper) + 0.0 }
    })
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(values: &[f32], units: usize) -> Activations<'_> {
        Activations::new(values, values.len() / units, units).unwrap()
    }

    const FIXED: Kde = Kde { constant: 1.0, scale: Scale::Fixed };

    /// `I(T;X)` in bits of two points at `±d/2` with unit noise: entropy of the mixture by the trapezoid rule, less that of
    /// the noise.
    fn integral(d: f64) -> f64 {
        let (steps, end) = (40_000, d / 2.0 + 12.0);
        let width = 2.0 * end / steps as f64;
        let norm = (std::f64::consts::TAU).sqrt();
        let density = |x: f64| {
            (((x - d / 2.0).powi(2) / -2.0).exp() + ((x + d / 2.0).powi(2) / -2.0).exp()) / (2.0 * norm)
        };
        let h: f64 = (0..=steps)
            .map(|i| density(-end + i as f64 * width))
            .filter(|&p| p > 0.0)
            .map(|p| -p * p.log2() * width)
            .sum();
        h - 0.5 * (std::f64::consts::TAU * std::f64::consts::E).log2()
    }

    #[test]
    fn the_integral_lies_between_the_bounds() {
        for step in 1..=20 {
            let d = step as f32 * 0.4;
            let found = FIXED.bounds(&layer(&[-d / 2.0, d / 2.0], 1), &[0, 1]).unwrap();
            let exact = integral(f64::from(d));
            assert!(found.tx.lower < exact + 1e-9 && exact < found.tx.upper + 1e-9, "{d}: {exact} {found:?}");
            assert_eq!(found.tx, found.ty, "each class is one point");
            if step < 10 {
                // Control: the bound with twice the distance is not one.
                let twice = FIXED.bounds(&layer(&[-d, d], 1), &[0, 1]).unwrap();
                assert!(twice.tx.lower > exact, "{d}");
            }
        }
    }

    #[test]
    fn identical_rows_and_far_rows() {
        let same = vec![0.3f32; 300];
        let found = FIXED.bounds(&layer(&same, 3), &[0; 100]).unwrap();
        assert_eq!((found.tx, found.ty), (Bounds::default(), Bounds::default()));
        let far: Vec<f32> = (0..100).map(|i| 100.0 * i as f32).collect();
        let labels: Vec<usize> = (0..100).map(|i| i % 4).collect();
        let found = FIXED.bounds(&layer(&far, 1), &labels).unwrap();
        for (found, expected) in
            [(found.tx.lower, 100f64.log2()), (found.tx.upper, 100f64.log2()), (found.ty.upper, 2.0)]
        {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        let near: Vec<f32> = (0..100).map(|i| i as f32).collect();
        assert!(FIXED.bounds(&layer(&near, 1), &labels).unwrap().tx.upper < 100f64.log2() - 0.1, "control");
    }

    #[test]
    fn squared_scales_are_free_of_units_and_the_first_power_is_not() {
        let mut stream = trimtab_math::random::Stream::new(2, "information", 0, 0);
        let values: Vec<f32> = (0..600).map(|_| stream.normal() as f32).collect();
        let labels: Vec<usize> = (0..200).map(|i| i % 2).collect();
        // A power of two: scaling is exact in floating point.
        let scaled: Vec<f32> = values.iter().map(|v| v * 8.0).collect();
        let both = |scale| {
            let kde = Kde { constant: 0.01, scale };
            [&values, &scaled].map(|v| kde.bounds(&layer(v, 3), &labels).unwrap().tx)
        };
        for scale in [Scale::MaxSq, Scale::StdSq] {
            let [one, eight] = both(scale);
            assert_eq!(one, eight, "{scale:?}");
        }
        for scale in [Scale::Max, Scale::Fixed] {
            let [one, eight] = both(scale);
            assert!((one.lower - eight.lower).abs() > 0.1, "{scale:?}: {one:?} {eight:?}");
        }
        for scale in [Scale::Fixed, Scale::Max, Scale::MaxSq, Scale::StdSq] {
            assert!(both(scale).iter().all(|b| 0.0 <= b.lower && b.lower <= b.upper));
        }
    }

    #[test]
    fn a_silent_layer_has_no_information() {
        let silent = [0.0f32; 8];
        assert_eq!(Kde::default().bounds(&layer(&silent, 2), &[0, 1, 0, 1]).unwrap().tx, Bounds::default());
        let bad = Kde { constant: 0.0, ..Kde::default() };
        assert!(bad.estimate(&layer(&silent, 2), &[0; 4]).is_err());
        assert!(Kde::default().bounds(&layer(&silent, 2), &[0; 3]).is_err());
        assert!(Activations::new(&[f32::NAN], 1, 1).is_err() && Activations::new(&[], 0, 3).is_err());
        let [upper, _] = Kde::default().estimate(&layer(&silent, 2), &[0; 4]).unwrap();
        assert!(upper.assumption.contains("0.01 x max|h|"));
    }
}
