//! Nearest-neighbour estimates, for comparison with bins and noise.
//!
//! Sources: Kraskov, Stögbauer and Grassberger, Phys. Rev. E 69, 066138 (2004), estimator 1, for two continuous variables;
//! Ross, PLoS ONE 9, e87357 (2014), for a continuous one and labels. Maximum norm, 3 neighbours by default. Both assume a
//! density: rows that coincide, as silent units make them, spoil the estimate. Cost: `rows² · units`.

use rayon::prelude::*;

use super::{Activations, Error, Estimate, Result, classes};

/// Neighbours of the comparison.
pub const NEIGHBOURS: usize = 3;

/// `I(T;X)` of two continuous variables in bits, rows paired. Can be slightly negative where there is none.
///
/// # Errors
/// [`Error::Length`] if the rows do not pair; [`Error::Setting`] unless `1 <= k < rows`.
pub fn continuous(t: &Activations, x: &Activations, k: usize) -> Result<f64> {
    let rows = t.rows();
    if x.rows() != rows {
        return Err(Error::Length { what: "rows of the second variable", found: x.rows(), expected: rows });
    }
    if k == 0 || k >= rows {
        return Err(Error::Setting {
            what: "neighbours",
            found: k as f64,
            expected: "at least 1, below the rows",
        });
    }
    let of = |i: usize| {
        let pairs: Vec<(f32, f32)> = (0..rows)
            .filter(|&j| j != i)
            .map(|j| (distance(t.row(i), t.row(j)), distance(x.row(i), x.row(j))))
            .collect();
        let mut both: Vec<f32> = pairs.iter().map(|p| p.0.max(p.1)).collect();
        let radius = *both.select_nth_unstable_by(k - 1, f32::total_cmp).1;
        let within = |d: fn(&(f32, f32)) -> f32| pairs.iter().filter(|p| d(p) < radius).count();
        digamma(within(|p| p.0) + 1) + digamma(within(|p| p.1) + 1)
    };
    let terms: Vec<f64> = (0..rows).into_par_iter().map(of).collect();
    let mean = terms.iter().sum::<f64>() / rows as f64;
    Ok((digamma(k) + digamma(rows) - mean) / std::f64::consts::LN_2)
}

/// `I(T;Y)` of a continuous layer and labels in bits. A label with one row is left out; one with fewer than `k + 1` uses as
/// many neighbours as it has.
///
/// # Errors
/// [`Error::Length`] of the labels; [`Error::Setting`] for `k` of 0.
pub fn labelled(t: &Activations, labels: &[usize], k: usize) -> Result<f64> {
    if k == 0 {
        return Err(Error::Setting { what: "neighbours", found: 0.0, expected: "at least 1" });
    }
    let classes: Vec<Vec<usize>> =
        classes(labels, t.rows())?.into_iter().filter(|class| class.len() > 1).collect();
    let kept: Vec<usize> = classes.iter().flatten().copied().collect();
    if kept.is_empty() {
        return Ok(0.0);
    }
    let of = |class: &Vec<usize>, i: usize| {
        let k = k.min(class.len() - 1);
        let mut own: Vec<f32> =
            class.iter().filter(|&&j| j != i).map(|&j| distance(t.row(i), t.row(j))).collect();
        let radius = *own.select_nth_unstable_by(k - 1, f32::total_cmp).1;
        // Strictly within, the row itself counted.
        let within = kept.iter().filter(|&&j| j == i || distance(t.row(i), t.row(j)) < radius).count();
        digamma(k) - digamma(class.len()) - digamma(within)
    };
    let terms: Vec<f64> = classes
        .par_iter()
        .flat_map_iter(|class| class.iter().map(|&i| of(class, i)).collect::<Vec<f64>>())
        .collect();
    let n = kept.len();
    Ok((digamma(n) + terms.iter().sum::<f64>() / n as f64) / std::f64::consts::LN_2)
}

/// Both estimates with their assumption; `I(T;X)` only if the inputs are given.
///
/// # Errors
/// Those of [`continuous`] and [`labelled`].
pub fn estimate(t: &Activations, x: Option<&Activations>, labels: &[usize], k: usize) -> Result<Estimate> {
    let i_tx = x.map(|x| continuous(t, x, k)).transpose()?;
    let assumption = format!("a density around each row, {k} nearest neighbours, maximum norm");
    Ok(Estimate { estimator: "knn", assumption, i_tx, i_ty: labelled(t, labels, k)? })
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Digamma of a whole number above 0: `H(n-1) − γ`, by its asymptotic series from 32 on.
fn digamma(n: usize) -> f64 {
    const EULER: f64 = 0.577_215_664_901_532_9;
    if n < 32 {
        return (1..n).map(|i| 1.0 / i as f64).sum::<f64>() - EULER;
    }
    let x = n as f64;
    let square = 1.0 / (x * x);
    x.ln() - 0.5 / x - square * (1.0 / 12.0 - square * (1.0 / 120.0 - square / 252.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use trimtab_math::random::Stream;

    #[test]
    fn digamma_continues_its_sum() {
        let by_sum = |n: usize| digamma(31) + (31..n).map(|i| 1.0 / i as f64).sum::<f64>();
        for n in [32, 33, 100, 1000] {
            assert!((digamma(n) - by_sum(n)).abs() < 1e-12, "{n}");
        }
    }

    #[test]
    fn correlated_normals() {
        let (n, rho) = (1500, 0.9f64);
        let mut stream = Stream::new(3, "information", 0, 0);
        let x: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
        let y: Vec<f32> =
            x.iter().map(|x| (rho * x + (1.0 - rho * rho).sqrt() * stream.normal()) as f32).collect();
        let mut x: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let expected = -0.5 * (1.0 - rho * rho).log2();
        let y = Activations::new(&y, n, 1).unwrap();
        let found = |x: &[f32]| continuous(&Activations::new(x, n, 1).unwrap(), &y, NEIGHBOURS).unwrap();
        // The estimator's deviation at this size is about 0.04 bits.
        assert!((found(&x) - expected).abs() < 0.15, "{} {expected}", found(&x));
        x.rotate_left(1);
        assert!(found(&x).abs() < 0.15, "control: other pairs have none");
    }

    #[test]
    fn labels_far_apart_and_labels_at_random() {
        let n = 800;
        let mut stream = Stream::new(4, "information", 0, 0);
        let labels: Vec<usize> = (0..n).map(|i| i % 2).collect();
        let noise: Vec<f32> = (0..n).map(|_| stream.normal() as f32).collect();
        let apart: Vec<f32> = noise.iter().zip(&labels).map(|(v, &l)| v + 50.0 * l as f32).collect();
        let found = |v: &[f32]| {
            let layer = Activations::new(v, n, 1).unwrap();
            estimate(&layer, None, &labels, NEIGHBOURS).unwrap().i_ty
        };
        assert!((found(&apart) - 1.0).abs() < 0.01, "{}", found(&apart));
        assert!(found(&noise).abs() < 0.1, "{}", found(&noise));
        let layer = Activations::new(&noise, n, 1).unwrap();
        assert!(labelled(&layer, &labels, 0).is_err() && continuous(&layer, &layer, n).is_err());
        assert_eq!(labelled(&layer, &(0..n).collect::<Vec<_>>(), 3).unwrap(), 0.0);
    }
}
