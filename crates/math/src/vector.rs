//! Loops over `f32` that the compiler turns into vector instructions, chosen at run time: exponentials and sums of rows.
//!
//! The order of every sum is fixed (sixteen lanes, then the lanes in order), and no step is contracted, so that all
//! instruction sets give the same bits.

const LANES: usize = 16;

/// `e^x` within 2 units in the last place; 0 below the smallest normal result, infinite above the largest; NaN stays.
///
/// Source: the reduction `x = n ln 2 + r` in two parts and the polynomial of degree 5 of the Cephes library.
#[inline(always)]
#[allow(clippy::excessive_precision)] // The constants as Cephes prints them.
pub fn exp(x: f32) -> f32 {
    /// Adding it rounds to the nearest integer and leaves that integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LOWEST: f32 = -87.33;
    const HIGHEST: f32 = 88.02;
    let inside = if x < LOWEST { LOWEST } else { x };
    let inside = if inside > HIGHEST { HIGHEST } else { inside };
    let shifted = inside * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = inside - n * 0.693_359_375;
    let r = r - n * -2.121_944_40e-4;
    let mut p = 1.987_569_150_0e-4f32;
    p = p * r + 1.398_199_950_7e-3;
    p = p * r + 8.333_451_907_3e-3;
    p = p * r + 4.166_579_589_4e-2;
    p = p * r + 1.666_666_545_9e-1;
    p = p * r + 5.000_000_120_1e-1;
    let mantissa = p * (r * r) + r + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    let y = mantissa * power;
    let y = if x < LOWEST { 0.0 } else { y };
    if x > HIGHEST { f32::INFINITY } else { y }
}

/// Runs a loop with the widest instructions of this processor.
#[inline(always)]
fn vectorized<T>(f: impl FnOnce() -> T) -> T {
    struct Run<F>(F);
    impl<T, F: FnOnce() -> T> pulp::NullaryFnOnce for Run<F> {
        type Output = T;
        #[inline(always)]
        fn call(self) -> T {
            (self.0)()
        }
    }
    pulp::Arch::new().dispatch(Run(f))
}

/// The largest value; negative infinity of nothing; NaN is passed over.
pub fn max(row: &[f32]) -> f32 {
    vectorized(|| largest(row))
}

#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (whole, rest) = row.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for values in whole {
        for (lane, &v) in lanes.iter_mut().zip(values) {
            *lane = larger(*lane, v);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| larger(a, b))
}

/// Sums `f(i)` over `len`, in lanes over runs of 1024, and the runs in double precision.
#[inline(always)]
fn sum_of(len: usize, f: impl Fn(usize) -> f32) -> f64 {
    const RUN: usize = 1024;
    let mut total = 0.0f64;
    for start in (0..len).step_by(RUN) {
        let end = (start + RUN).min(len);
        let whole = start + (end - start) / LANES * LANES;
        let mut lanes = [0.0f32; LANES];
        for i in (start..whole).step_by(LANES) {
            for (k, lane) in lanes.iter_mut().enumerate() {
                *lane += f(i + k);
            }
        }
        let rest: f64 = (whole..end).map(|i| f64::from(f(i))).sum();
        total += lanes.iter().map(|&v| f64::from(v)).sum::<f64>() + rest;
    }
    total
}

/// `sum_i e^(row_i - shift)`.
pub fn sum_exp(row: &[f32], shift: f32) -> f64 {
    vectorized(|| sum_of(row.len(), |i| exp(row[i] - shift)))
}

/// `sum_i e^(p_i - shift) (p_i - q_i)`. The rows have one length.
pub fn sum_exp_times_difference(p: &[f32], q: &[f32], shift: f32) -> f64 {
    let q = &q[..p.len()];
    vectorized(|| sum_of(p.len(), |i| exp(p[i] - shift) * (p[i] - q[i])))
}

/// Softmax of `scale * row` in place. A row that is negative infinity throughout becomes zero.
pub fn softmax(row: &mut [f32], scale: f32) {
    vectorized(|| {
        let max = largest(row);
        if max == f32::NEG_INFINITY {
            return row.fill(0.0);
        }
        for v in row.iter_mut() {
            *v = exp((*v - max) * scale);
        }
        let norm = (1.0 / sum_of(row.len(), |i| row[i])) as f32;
        for v in row.iter_mut() {
            *v *= norm;
        }
    });
}

/// `(x - mean) / sqrt(var + eps) * gain + bias` in place, `var` the mean square that is left; without `center`, the mean
/// stays. `gain` and `bias` have the length of the row.
pub fn normalize(row: &mut [f32], center: bool, eps: f64, gain: &[f32], bias: Option<&[f32]>) {
    let len = row.len();
    let gain = &gain[..len];
    vectorized(|| {
        if center {
            let mean = (sum_of(len, |i| row[i]) / len as f64) as f32;
            row.iter_mut().for_each(|x| *x -= mean);
        }
        let power = sum_of(len, |i| row[i] * row[i]) / len as f64;
        let scale = (1.0 / (power + eps).sqrt()) as f32;
        row.iter_mut().zip(gain).for_each(|(x, g)| *x = *x * scale * g);
        if let Some(bias) = bias {
            row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
        }
    });
}

/// `x sigmoid(x)` in place.
pub fn silu(row: &mut [f32]) {
    vectorized(|| row.iter_mut().for_each(|v| *v /= 1.0 + exp(-*v)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let unit = exact * f64::from(f32::EPSILON);
            worst = worst.max((f64::from(exp(x)) - exact).abs() / unit);
        }
        assert!(worst <= 2.0, "{worst}");
        assert_eq!((exp(-200.0), exp(f32::NEG_INFINITY), exp(0.0)), (0.0, 0.0, 1.0));
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn loops_equal_their_definitions() {
        for len in [0usize, 1, 15, 16, 33, 1000, 4097] {
            let p: Vec<f32> = (0..len).map(|i| ((i * 37) % 23) as f32 * 0.3 - 2.0).collect();
            let q: Vec<f32> = (0..len).map(|i| ((i * 31) % 19) as f32 * 0.35).collect();
            let wide = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
            let (p64, q64) = (wide(&p), wide(&q));
            let near = |found: f64, exact: f64| (found - exact).abs() <= 1e-6 * (1.0 + exact.abs());
            assert_eq!(max(&p), p.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let sum: f64 = p64.iter().map(|v| (v - 1.5).exp()).sum();
            assert!(near(sum_exp(&p, 1.5), sum), "{len}");
            let sum: f64 = p64.iter().zip(&q64).map(|(p, q)| (p - 1.5).exp() * (p - q)).sum();
            assert!(near(sum_exp_times_difference(&p, &q, 1.5), sum), "{len}");
            let mut row = p.clone();
            softmax(&mut row, 0.5);
            let norm: f64 = p64.iter().map(|v| (0.5 * v).exp()).sum();
            assert!(row.iter().zip(&p64).all(|(&v, p)| near(f64::from(v), (0.5 * p).exp() / norm)), "{len}");
            let mut row = p.clone();
            normalize(&mut row, true, 1e-5, &q, Some(&p));
            let mean = p64.iter().sum::<f64>() / len as f64;
            let power = p64.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / len as f64;
            let exact = |i: usize| (p64[i] - mean) / (power + 1e-5).sqrt() * q64[i] + p64[i];
            assert!((0..len).all(|i| near(f64::from(row[i]), exact(i))), "{len}");
            let mut row = p.clone();
            silu(&mut row);
            assert!(row.iter().zip(&p64).all(|(&v, p)| near(f64::from(v), p / (1.0 + (-p).exp()))), "{len}");
        }
    }

    #[test]
    fn a_row_that_sees_nothing_becomes_zero() {
        let mut row = [f32::NEG_INFINITY; 3];
        softmax(&mut row, 1.0);
        assert_eq!(row, [0.0; 3]);
    }
}
