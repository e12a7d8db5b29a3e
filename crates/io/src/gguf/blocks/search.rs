//! Searches for the scale of a group: a few candidates are tried, the best by weighted error is kept.
//!
//! Every operation is in single precision and in the order of the reference, so that the same bytes come out.
//!
//! Source: ggml-org/ggml, `src/ggml-quants.c` (`make_qx_quants`, `make_q3_quants`, `make_qkx2_quants`,
//! `make_qkx3_quants`, `make_qp_quants`).

/// Largest number of a group that counts as zero.
pub(super) const EPSILON: f32 = 1e-15;
/// Rounds of [`signed_steps`] and [`positive`].
const ROUNDS: usize = 5;

/// Nearest integer, half to even, of a number that is far inside the range of `i32`; larger ones are cut.
pub(super) fn nearest(value: f32) -> i32 {
    const LIMIT: f32 = 4_194_303.0;
    // Adding 1.5 * 2^23 leaves the rounded integer in the low bits.
    let shifted = value.clamp(-LIMIT, LIMIT) + 12_582_912.0;
    (shifted.to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// Nearest integer within `low..=high`.
pub(super) fn code(value: f32, low: i32, high: i32) -> i32 {
    nearest(value).clamp(low, high)
}

/// The first number of largest magnitude.
pub(super) fn extreme(x: &[f32]) -> f32 {
    let mut extreme = 0.0f32;
    for &v in x {
        if v.abs() > extreme.abs() {
            extreme = v;
        }
    }
    extreme
}

/// Weighted sums of `x * l` and `l * l`.
fn sums(x: &[f32], weight: impl Fn(usize) -> f32, l: impl Fn(f32) -> i32) -> (f32, f32) {
    let (mut xl, mut l2) = (0.0f32, 0.0f32);
    for (i, &v) in x.iter().enumerate() {
        let (w, l) = (weight(i), l(v) as f32);
        xl += w * v * l;
        l2 += w * l * l;
    }
    (xl, l2)
}

/// Scale for codes in `-half..half`, stored above `half`; weights are squares of the numbers if none are given.
pub(super) fn signed(x: &[f32], weights: Option<&[f32]>, half: i32, codes: &mut [u8]) -> f32 {
    let max = extreme(x);
    if max.abs() < EPSILON {
        codes.fill(0);
        return 0.0;
    }
    let weight = |i: usize| weights.map_or(x[i] * x[i], |w| w[i]);
    let put = |inverse: f32, codes: &mut [u8]| {
        for (code_out, &v) in codes.iter_mut().zip(x) {
            *code_out = (half + code(inverse * v, -half, half - 1)) as u8;
        }
    };
    let inverse = -half as f32 / max;
    put(inverse, codes);
    let (xl, l2) = sums(x, weight, |v| code(inverse * v, -half, half - 1));
    let mut scale = if l2 != 0.0 { xl / l2 } else { 0.0 };
    let mut best = scale * xl;
    for step in (-9..=9).filter(|&step| step != 0) {
        let inverse = -(half as f32 + 0.1 * step as f32) / max;
        let (xl, l2) = sums(x, weight, |v| code(inverse * v, -half, half - 1));
        if l2 > 0.0 && xl * xl > best * l2 {
            put(inverse, codes);
            scale = xl / l2;
            best = scale * xl;
        }
    }
    scale
}

/// As [`signed`] with squares as weights, but changing one code at a time.
pub(super) fn signed_steps(x: &[f32], half: i32, codes: &mut [u8]) -> f32 {
    let max = extreme(x);
    if max.abs() < EPSILON {
        codes.fill(0);
        return 0.0;
    }
    let inverse = -half as f32 / max;
    let mut l: Vec<i32> = x.iter().map(|&v| code(inverse * v, -half, half - 1)).collect();
    let (mut sum_xl, mut sum_l2) = sums(x, |i| x[i] * x[i], |v| code(inverse * v, -half, half - 1));
    for _ in 0..ROUNDS {
        let mut changed = false;
        for (i, &v) in x.iter().enumerate() {
            let (w, old) = (v * v, l[i] as f32);
            let mut xl = sum_xl - w * v * old;
            if xl <= 0.0 {
                continue;
            }
            let mut l2 = sum_l2 - w * old * old;
            let new = code(v * l2 / xl, -half, half - 1);
            if new == l[i] {
                continue;
            }
            xl += w * v * new as f32;
            l2 += w * new as f32 * new as f32;
            if l2 > 0.0 && xl * xl * sum_l2 > sum_xl * sum_xl * l2 {
                l[i] = new;
                (sum_xl, sum_l2) = (xl, l2);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    for (code, &l) in codes.iter_mut().zip(&l) {
        *code = (l + half) as u8;
    }
    if sum_l2 > 0.0 { sum_xl / sum_l2 } else { 0.0 }
}

/// Settings of [`affine`].
pub(super) struct Steps {
    /// Largest code.
    pub max: i32,
    /// Range of codes tried first, relative to `max`.
    pub first: f32,
    /// By how much the range grows.
    pub by: f32,
    /// Number of ranges tried, less one.
    pub count: i32,
    /// Whether absolute errors count, not squared ones.
    pub absolute: bool,
}

/// Scale and minimum (of which the negative, at least 0, is returned) for codes in `0..=max`.
pub(super) fn affine(x: &[f32], weights: &[f32], steps: &Steps, codes: &mut [u8]) -> (f32, f32) {
    let (mut min, mut max) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (weights[0], weights[0] * x[0]);
    for (&v, &w) in x.iter().zip(weights).skip(1) {
        if v < min {
            min = v;
        }
        if v > max {
            max = v;
        }
        sum_w += w;
        sum_x += w * v;
    }
    if min > 0.0 {
        min = 0.0;
    }
    if max <= min {
        codes.fill(0);
        return (0.0, -min);
    }
    let top = steps.max as f32;
    let error = |scale: f32, min: f32, codes: &[u8]| {
        let mut sum = 0.0f32;
        for ((&v, &w), &l) in x.iter().zip(weights).zip(codes) {
            let difference = scale * f32::from(l) + min - v;
            sum += w * if steps.absolute { difference.abs() } else { difference * difference };
        }
        sum
    };
    let inverse = top / (max - min);
    let mut scale = 1.0 / inverse;
    for (code_out, &v) in codes.iter_mut().zip(x) {
        *code_out = code(inverse * (v - min), 0, steps.max) as u8;
    }
    let mut best = error(scale, min, codes);
    let mut tried = [0u8; 32];
    let tried = &mut tried[..x.len()];
    for step in 0..=steps.count {
        // The minimum of the best range so far is where the next one begins.
        let inverse = (steps.first + steps.by * step as f32 + top) / (max - min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0f32, 0.0f32, 0.0f32);
        for ((&v, &w), out) in x.iter().zip(weights).zip(tried.iter_mut()) {
            *out = code(inverse * (v - min), 0, steps.max) as u8;
            let l = f32::from(*out);
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * v;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant <= 0.0 || determinant.is_nan() {
            continue;
        }
        let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        if this_min > 0.0 {
            this_min = 0.0;
            this_scale = sum_xl / sum_l2;
        }
        let this_error = error(this_scale, this_min, tried);
        if this_error < best {
            codes.copy_from_slice(tried);
            (best, scale, min) = (this_error, this_scale, this_min);
        }
    }
    (scale, -min)
}

/// Scale for codes in `0..=max` of numbers that are not negative.
pub(super) fn positive(x: &[f32], weights: &[f32], max: i32, codes: &mut [u8]) -> f32 {
    let largest = x.iter().fold(0.0f32, |a, &b| if a > b { a } else { b });
    if largest < EPSILON {
        codes.fill(0);
        return 0.0;
    }
    let top = max as f32;
    let error = |inverse: f32| {
        let scale = 1.0 / inverse;
        let mut sum = 0.0f32;
        for (&v, &w) in x.iter().zip(weights) {
            let difference = v - scale * nearest(inverse * v).min(max) as f32;
            sum += w * difference * difference;
        }
        sum
    };
    let mut inverse = top / largest;
    let mut best = error(inverse);
    for step in (-4..=4).filter(|&step| step != 0) {
        let candidate = (0.1 * step as f32 + top) / largest;
        let error = error(candidate);
        if error < best {
            (best, inverse) = (error, candidate);
        }
    }
    for (code, &v) in codes.iter_mut().zip(x) {
        *code = nearest(inverse * v).min(max) as u8;
    }
    let (mut sum_xl, mut sum_l2) = sums(x, |i| weights[i], |v| nearest(inverse * v).min(max));
    for _ in 0..ROUNDS {
        let mut changed = false;
        for (i, &v) in x.iter().enumerate() {
            let (w, old) = (weights[i], f32::from(codes[i]));
            let mut xl = sum_xl - w * v * old;
            let mut l2 = sum_l2 - w * old * old;
            if xl <= 0.0 || l2 <= 0.0 {
                continue;
            }
            let new = nearest(v * l2 / xl).min(max);
            if new == i32::from(codes[i]) {
                continue;
            }
            xl += w * v * new as f32;
            l2 += w * new as f32 * new as f32;
            if xl * xl * sum_l2 > sum_xl * sum_xl * l2 {
                codes[i] = new as u8;
                (sum_xl, sum_l2) = (xl, l2);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    if sum_l2 > 0.0 { sum_xl / sum_l2 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_half_to_even_and_bounded() {
        let cases = [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (7.49, 7), (-3.51, -4)];
        for (value, expected) in cases {
            assert_eq!(nearest(value), expected, "{value}");
        }
        assert_eq!(nearest(f32::INFINITY), 4_194_303);
        assert_eq!(nearest(f32::NAN), 0);
        assert_eq!(code(9.0, -4, 3), 3);
    }

    #[test]
    fn numbers_on_a_grid_are_found_exactly() {
        let x: Vec<f32> = (-4..4).map(|l| 0.25 * l as f32).collect();
        let mut codes = [0; 8];
        for scale in [signed(&x, None, 4, &mut codes), signed_steps(&x, 4, &mut codes)] {
            assert_eq!(scale, 0.25);
            assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7]);
        }
        let y: Vec<f32> = (0..16).map(|l| 0.5 * l as f32).collect();
        let mut codes = [0; 16];
        assert_eq!(positive(&y, &[1.0; 16], 15, &mut codes), 0.5);
        assert!(codes.iter().enumerate().all(|(i, &code)| usize::from(code) == i));
        let shifted: Vec<f32> = y.iter().map(|v| v - 2.0).collect();
        let steps = Steps { max: 15, first: -1.0, by: 0.1, count: 20, absolute: false };
        assert_eq!(affine(&shifted, &[1.0; 16], &steps, &mut codes), (0.5, 2.0));
    }

    #[test]
    fn zeros_have_no_scale() {
        let mut codes = [9; 16];
        assert_eq!(signed(&[0.0; 16], None, 32, &mut codes), 0.0);
        assert_eq!(codes, [0; 16]);
        let steps = Steps { max: 3, first: -0.5, by: 0.1, count: 15, absolute: true };
        assert_eq!(affine(&[0.0; 16], &[0.0; 16], &steps, &mut codes).0, 0.0);
        assert_eq!(positive(&[0.0; 16], &[1.0; 16], 15, &mut codes), 0.0);
    }
}
