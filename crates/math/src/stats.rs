//! A few statistics in `f64`. Sums run in index order. Logarithms are natural; entropies are in nats.

use crate::error::{Error, Result, check_length};

/// Arithmetic mean; NaN for an empty slice.
pub fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// Sample standard deviation (divisor `n − 1`); NaN below two observations.
pub fn sd(x: &[f64]) -> f64 {
    if x.len() < 2 {
        return f64::NAN;
    }
    let centre = mean(x);
    let square: f64 = x.iter().map(|v| (v - centre) * (v - centre)).sum();
    (square / (x.len() - 1) as f64).sqrt()
}

/// Standard error of the mean, `sd / √n`; NaN below two observations.
pub fn standard_error(x: &[f64]) -> f64 {
    sd(x) / (x.len() as f64).sqrt()
}

/// A paired comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairedT {
    /// Mean of `a − b`.
    pub mean_difference: f64,
    /// Standard error of that mean.
    pub standard_error: f64,
    /// `mean_difference / standard_error`: ±∞ for a constant nonzero difference, 0 if all differences are 0.
    pub t: f64,
    /// Degrees of freedom, `n − 1`.
    pub degrees: usize,
}

/// Student's paired t statistic of `a − b`.
///
/// # Errors
/// Different lengths; fewer than two pairs.
pub fn paired_t(a: &[f64], b: &[f64]) -> Result<PairedT> {
    check_length("paired t", a.len(), b.len())?;
    check_count("paired t", 2, a.len())?;
    let differences: Vec<f64> = a.iter().zip(b).map(|(x, y)| x - y).collect();
    let (mean_difference, standard_error) = (mean(&differences), standard_error(&differences));
    let t = if mean_difference == 0.0 { 0.0 } else { mean_difference / standard_error };
    Ok(PairedT { mean_difference, standard_error, t, degrees: a.len() - 1 })
}

/// Pearson's correlation; 0 if one side is constant.
///
/// # Errors
/// Different lengths; fewer than two pairs.
pub fn pearson(a: &[f64], b: &[f64]) -> Result<f64> {
    check_length("pearson", a.len(), b.len())?;
    check_count("pearson", 2, a.len())?;
    let (ma, mb) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        ab += (x - ma) * (y - mb);
        aa += (x - ma) * (x - ma);
        bb += (y - mb) * (y - mb);
    }
    Ok(if aa == 0.0 || bb == 0.0 { 0.0 } else { ab / (aa.sqrt() * bb.sqrt()) })
}

/// Spearman's rank correlation: Pearson's on [`average_ranks`]; 0 if one side is constant.
///
/// # Errors
/// Different lengths; fewer than two pairs.
pub fn spearman(a: &[f64], b: &[f64]) -> Result<f64> {
    check_length("spearman", a.len(), b.len())?;
    check_count("spearman", 2, a.len())?;
    pearson(&average_ranks(a), &average_ranks(b))
}

/// Ranks from 1; equal values share the average of theirs. NaN ranks above every number.
pub fn average_ranks(x: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&i, &j| x[i].total_cmp(&x[j]));
    let mut ranks = vec![0.0; x.len()];
    let mut start = 0;
    while start < order.len() {
        // == and not total_cmp: 0 and -0 are tied.
        let tied = order[start..].iter().take_while(|&&i| x[i] == x[order[start]]).count().max(1);
        let rank = start as f64 + (tied + 1) as f64 / 2.0;
        for &i in &order[start..start + tied] {
            ranks[i] = rank;
        }
        start += tied;
    }
    ranks
}

/// `ln Σ exp(x)` without overflow; `−∞` for an empty slice.
pub fn log_sum_exp<T: Copy + Into<f64>>(x: &[T]) -> f64 {
    let largest = x.iter().map(|&v| v.into()).fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        return largest;
    }
    largest + x.iter().map(|&v| (v.into() - largest).exp()).sum::<f64>().ln()
}

/// `KL(softmax(p) ‖ softmax(q))` of two rows of logits, in nats, never below 0.
///
/// # Errors
/// Different lengths; no logit.
pub fn kl_divergence<T: Copy + Into<f64>>(p: &[T], q: &[T]) -> Result<f64> {
    check_length("kl divergence", p.len(), q.len())?;
    check_count("kl divergence", 1, p.len())?;
    let (norm_p, norm_q) = (log_sum_exp(p), log_sum_exp(q));
    let mut sum = 0.0;
    for (&p, &q) in p.iter().zip(q) {
        let log_p = p.into() - norm_p;
        if log_p != f64::NEG_INFINITY {
            sum += log_p.exp() * (log_p - (q.into() - norm_q));
        }
    }
    // Rounding can leave a tiny negative sum; NaN stays NaN.
    Ok(if sum < 0.0 { 0.0 } else { sum })
}

/// Index of the largest value, the lower one among equals; NaN never wins. `None` if there is no number.
pub fn argmax<T: Copy + PartialOrd>(x: &[T]) -> Option<usize> {
    let mut best: Option<usize> = None;
    for (i, value) in x.iter().enumerate() {
        let is_number = value.partial_cmp(value).is_some();
        if is_number && best.is_none_or(|b| *value > x[b]) {
            best = Some(i);
        }
    }
    best
}

fn check_count(what: &'static str, needed: usize, found: usize) -> Result<()> {
    if found >= needed { Ok(()) } else { Err(Error::TooFew { what, needed, found }) }
}

/// The number below which a standard normal variable lies with probability `p`: Wichura's AS 241 (Applied Statistics 37, 1988),
/// to sixteen digits. `-inf` at 0, `inf` at 1, NaN outside of `[0, 1]`.
pub fn normal_quantile(p: f64) -> f64 {
    // Numerator and denominator, lowest power first.
    const CENTRE: [[f64; 8]; 2] = [
        [
            3.387_132_872_796_366_5,
            133.141_667_891_784_38,
            1_971.590_950_306_551_3,
            13_731.693_765_509_46,
            45_921.953_931_549_87,
            67_265.770_927_008_7,
            33_430.575_583_588_13,
            2_509.080_928_730_122_7,
        ],
        [
            1.0,
            42.313_330_701_600_91,
            687.187_007_492_057_9,
            5_394.196_021_424_751,
            21_213.794_301_586_597,
            39_307.895_800_092_71,
            28_729.085_735_721_943,
            5_226.495_278_852_854,
        ],
    ];
    const MIDDLE: [[f64; 8]; 2] = [
        [
            1.423_437_110_749_683_5,
            4.630_337_846_156_546,
            5.769_497_221_460_691,
            3.647_848_324_763_204_5,
            1.270_458_252_452_368_4,
            0.241_780_725_177_450_6,
            0.022_723_844_989_269_184,
            7.745_450_142_783_414e-4,
        ],
        [
            1.0,
            2.053_191_626_637_759,
            1.676_384_830_183_803_8,
            0.689_767_334_985_1,
            0.148_103_976_427_480_08,
            0.015_198_666_563_616_457,
            5.475_938_084_995_345e-4,
            1.050_750_071_644_416_9e-9,
        ],
    ];
    const FAR: [[f64; 8]; 2] = [
        [
            6.657_904_643_501_103,
            5.463_784_911_164_114,
            1.784_826_539_917_291_3,
            0.296_560_571_828_504_87,
            0.026_532_189_526_576_124,
            0.001_242_660_947_388_078_4,
            2.711_555_568_743_487_6e-5,
            2.010_334_399_292_288_1e-7,
        ],
        [
            1.0,
            0.599_832_206_555_888,
            0.136_929_880_922_735_8,
            0.014_875_361_290_850_615,
            7.868_691_311_456_133e-4,
            1.846_318_317_510_054_8e-5,
            1.421_511_758_316_446e-7,
            2.044_263_103_389_939_8e-15,
        ],
    ];
    let ratio = |[above, below]: [[f64; 8]; 2], x: f64| {
        let sum = |c: [f64; 8]| c.iter().rev().fold(0.0, |sum, c| sum * x + c);
        sum(above) / sum(below)
    };
    let q = p - 0.5;
    if !(0.0..=1.0).contains(&p) {
        return f64::NAN;
    }
    if q.abs() <= 0.425 {
        return q * ratio(CENTRE, 0.180_625 - q * q);
    }
    let r = (-p.min(1.0 - p).ln()).sqrt();
    let magnitude = match r {
        _ if r.is_infinite() => r,
        _ if r <= 5.0 => ratio(MIDDLE, r - 1.6),
        _ => ratio(FAR, r - 5.0),
    };
    magnitude.copysign(q)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_by_hand() {
        let x = [2.0, 4.0, 4.0, 6.0];
        assert_eq!(mean(&x), 4.0);
        assert!((sd(&x) - (8.0f64 / 3.0).sqrt()).abs() < 1e-15);
        assert!((standard_error(&x) - (2.0f64 / 3.0).sqrt()).abs() < 1e-15);
        assert!(mean(&[]).is_nan() && sd(&[1.0]).is_nan());
    }

    #[test]
    fn paired_t_by_hand() {
        // Differences 1, 2, 3: mean 2, sd 1, standard error 1/sqrt(3).
        let found = paired_t(&[2.0, 4.0, 6.0], &[1.0, 2.0, 3.0]).unwrap();
        assert_eq!((found.mean_difference, found.degrees), (2.0, 2));
        assert!((found.t - 2.0 * 3f64.sqrt()).abs() < 1e-14);
        assert_eq!(paired_t(&[1.0, 2.0], &[1.0, 2.0]).unwrap().t, 0.0);
        assert_eq!(paired_t(&[2.0, 3.0], &[1.0, 2.0]).unwrap().t, f64::INFINITY);
        assert!(paired_t(&[1.0], &[1.0]).is_err() && paired_t(&[1.0, 2.0], &[1.0]).is_err());
    }

    #[test]
    fn ranks_share_ties() {
        assert_eq!(average_ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(average_ranks(&[0.0, -0.0, f64::NAN, 5.0]), [1.5, 1.5, 4.0, 3.0]);
    }

    #[test]
    fn correlations() {
        let a = [1.0, 2.0, 3.0, 4.0];
        let curved = [1.0, 8.0, 27.0, 64.0];
        assert!((spearman(&a, &curved).unwrap() - 1.0).abs() < 1e-15);
        assert!(pearson(&a, &curved).unwrap() < 0.96);
        assert!((pearson(&a, &[4.0, 3.0, 2.0, 1.0]).unwrap() + 1.0).abs() < 1e-15);
        // Ranks (1, 2.5, 2.5, 4) against (1, 2, 3, 4): 4.5 / sqrt(4.5 * 5).
        let tied = spearman(&[1.0, 2.0, 2.0, 3.0], &a).unwrap();
        assert!((tied - 4.5 / 22.5f64.sqrt()).abs() < 1e-15);
        assert_eq!(pearson(&a, &[5.0; 4]).unwrap(), 0.0);
        assert!(spearman(&a, &a[1..]).is_err() && pearson(&[], &[]).is_err());
    }

    #[test]
    fn log_sum_exp_does_not_overflow() {
        assert!((log_sum_exp(&[1000.0f32, 1000.0]) - (1000.0 + 2f64.ln())).abs() < 1e-12);
        assert!((log_sum_exp(&[0.0f64, 0.0, 0.0]) - 3f64.ln()).abs() < 1e-15);
        assert_eq!(log_sum_exp::<f64>(&[]), f64::NEG_INFINITY);
        assert_eq!(log_sum_exp(&[f64::NEG_INFINITY, 2.0]), 2.0);
    }

    #[test]
    fn kl_by_hand() {
        // p = (1/2, 1/2), q = (1/4, 3/4).
        let q = [0.25f64.ln() + 7.0, 0.75f64.ln() + 7.0];
        let expected = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((kl_divergence(&[3.0, 3.0], &q).unwrap() - expected).abs() < 1e-14);
        assert!((kl_divergence(&q, &[3.0, 3.0]).unwrap() - expected).abs() > 1e-3);
        assert_eq!(kl_divergence(&q, &q).unwrap(), 0.0);
        assert_eq!(kl_divergence(&[f64::NEG_INFINITY, 0.0], &[0.0, 0.0]).unwrap(), 2f64.ln());
        assert_eq!(kl_divergence(&[0.0, 0.0], &[f64::NEG_INFINITY, 0.0]).unwrap(), f64::INFINITY);
        assert!(kl_divergence(&[f64::NAN, 0.0], &[0.0, 0.0]).unwrap().is_nan());
        assert!(kl_divergence::<f64>(&[], &[]).is_err());
    }

    #[test]
    fn argmax_takes_the_first_of_equals() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), Some(1));
        assert_eq!(argmax(&[f32::NAN, -1.0]), Some(1));
        assert_eq!(argmax(&[f64::NEG_INFINITY; 2]), Some(0));
        assert_eq!(argmax::<f64>(&[]), None);
    }

    #[test]
    fn a_quantile_inverts_the_integral_of_the_density() {
        // Simpson's rule over 1000 pieces.
        let below = |x: f64| {
            let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let h = x / 2000.0;
            let sum: f64 = (0..=2000)
                .map(|i| {
                    let weight = if i == 0 || i == 2000 { 1.0 } else { f64::from(2 + 2 * (i % 2)) };
                    weight * density(f64::from(i) * h)
                })
                .sum();
            0.5 + sum * h / 3.0
        };
        for p in [1e-9, 1e-4, 0.0322917, 0.074, 0.076, 0.3, 0.5, 0.6, 0.9677083, 0.9999, 1.0 - 1e-9] {
            let x = normal_quantile(p);
            assert!((below(x) - p).abs() < 1e-12, "{p}: {x} {}", below(x));
            assert!((normal_quantile(1.0 - p) + x).abs() < 1e-7 * (1.0 + x.abs()), "{p}: symmetric");
        }
        assert!((normal_quantile(0.975) - 1.959_963_984_540_054).abs() < 1e-15);
        assert_eq!(normal_quantile(0.5), 0.0);
        assert_eq!((normal_quantile(0.0), normal_quantile(1.0)), (f64::NEG_INFINITY, f64::INFINITY));
        assert!(normal_quantile(1.1).is_nan() && normal_quantile(f64::NAN).is_nan());
    }
}
