//! Numbers to blocks of the K types: a scale (and a minimum) for each group, then scales of the scales, then codes again
//! under the scales as they are stored.
//!
//! Source: ggml-org/ggml, `src/ggml-quants.c` (`quantize_row_q*_K_ref` without importance, `quantize_row_q*_K_impl`
//! with it).

use super::decode::half;
use super::encode::{fine_steps, put_half, weights};
use super::k_layout::{
    pair, put_high_bits, put_low_nibbles_of_six, put_nibbles, put_pairs, put_six_bits, put_two_bits, six_bits,
};
use super::search::{EPSILON, Steps, affine, code, nearest, positive, signed, signed_steps};
use super::types::{GgufType, SUPER};

pub(super) fn encode_row(ty: GgufType, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let blocks = row.chunks_exact(SUPER).zip(out.chunks_exact_mut(ty.block_bytes()));
    for (i, (x, out)) in blocks.enumerate() {
        let importance = importance.map(|importance| &importance[i * SUPER..][..SUPER]);
        match ty {
            GgufType::Q2_K => q2_k(x, importance, out),
            GgufType::Q3_K => q3_k(x, importance, out),
            GgufType::Q4_K => q45_k(x, importance, 15, out),
            GgufType::Q5_K => q45_k(x, importance, 31, out),
            _ => q6_k(x, importance, out),
        }
    }
}

fn sum_of_squares(x: &[f32]) -> f32 {
    let mut sum = 0.0f32;
    x.iter().for_each(|v| sum += v * v);
    sum
}

fn sum(x: &[f32]) -> f32 {
    let mut sum = 0.0f32;
    x.iter().for_each(|v| sum += v);
    sum
}

/// The largest number, at least 0.
fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0f32, |a, &b| if b > a { b } else { a })
}

/// Codes of a group above a minimum, under its stored scale; left as they are where the scale is 0.
fn recode(x: &[f32], scale: f32, min: f32, max: i32, codes: &mut [u8]) {
    if scale != 0.0 {
        for (out, &v) in codes.iter_mut().zip(x) {
            *out = code((v + min) / scale, 0, max) as u8;
        }
    }
}

/// The same for codes around `half`.
fn recode_signed(x: &[f32], scale: f32, half: i32, codes: &mut [u8]) {
    if scale != 0.0 {
        for (out, &v) in codes.iter_mut().zip(x) {
            *out = (code(v / scale, -half, half - 1) + half) as u8;
        }
    }
}

/// Scales or minima of groups as integers up to `max`, by the largest of them; and the scale of the scales.
fn by_largest<const N: usize>(values: &[f32; N], max: u8) -> ([u8; N], f32) {
    let largest = largest(values);
    let inverse = if largest > 0.0 { f32::from(max) / largest } else { 0.0 };
    (values.map(|v| (nearest(inverse * v) as u8).min(max)), largest / f32::from(max))
}

fn q2_k(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let mut codes = [0u8; SUPER];
    let (mut scales, mut mins, mut sums) = ([0.0f32; 16], [0.0f32; 16], [0.0f32; 16]);
    let mean_square = sum_of_squares(x) / SUPER as f32;
    for (j, (x, codes)) in x.chunks_exact(16).zip(codes.chunks_exact_mut(16)).enumerate() {
        (scales[j], mins[j]) = match importance {
            Some(importance) => {
                let weights = weights(x, &importance[16 * j..], mean_square);
                sums[j] = sum(&weights);
                affine(x, &weights, &fine_steps(3), codes)
            }
            None => {
                let weights: [f32; 16] = std::array::from_fn(|i| x[i].abs());
                let steps = Steps { max: 3, first: -0.5, by: 0.1, count: 15, absolute: true };
                affine(x, &weights, &steps, codes)
            }
        };
    }
    let (mut s, mut m) = ([0u8; 16], [0u8; 16]);
    let (d, dmin);
    if importance.is_some() {
        d = positive(&scales, &sums, 15, &mut s);
        dmin = positive(&mins, &sums, 15, &mut m);
    } else {
        (s, d) = by_largest(&scales, 15);
        (m, dmin) = by_largest(&mins, 15);
    }
    put_half(d, &mut out[80..]);
    put_half(dmin, &mut out[82..]);
    let (d, dmin) = (half(&out[80..]), half(&out[82..]));
    for (j, (x, codes)) in x.chunks_exact(16).zip(codes.chunks_exact_mut(16)).enumerate() {
        out[j] = s[j] | m[j] << 4;
        recode(x, d * f32::from(s[j]), dmin * f32::from(m[j]), 3, codes);
    }
    put_two_bits(|i| codes[i], &mut out[16..80]);
}

fn q3_k(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let mut codes = [0u8; SUPER];
    let (mut scales, mut sums) = ([0.0f32; 16], [0.0f32; 16]);
    let mean_square = 2.0 * sum_of_squares(x) / SUPER as f32;
    for (j, (x, codes)) in x.chunks_exact(16).zip(codes.chunks_exact_mut(16)).enumerate() {
        scales[j] = match importance {
            Some(importance) => {
                let weights = weights(x, &importance[16 * j..], mean_square);
                sums[j] = sum(&weights);
                signed(x, Some(&weights), 4, codes)
            }
            None => signed_steps(x, 4, codes),
        };
    }
    let mut s = [0u8; 16];
    let d = if importance.is_some() {
        signed(&scales, Some(&sums), 32, &mut s)
    } else {
        let largest = super::search::extreme(&scales);
        if largest == 0.0 {
            0.0
        } else {
            let inverse = -32.0 / largest;
            s = scales.map(|v| (code(inverse * v, -32, 31) + 32) as u8);
            1.0 / inverse
        }
    };
    put_six_bits(&s, &mut out[96..108]);
    put_half(d, &mut out[108..]);
    let d = half(&out[108..]);
    for (j, (x, codes)) in x.chunks_exact(16).zip(codes.chunks_exact_mut(16)).enumerate() {
        let scale = f32::from(six_bits(&out[96..108], j) as i8 - 32);
        recode_signed(x, d * scale, 4, codes);
    }
    put_high_bits(&codes, 2, &mut out[..32]);
    put_two_bits(|i| codes[i], &mut out[32..96]);
}

/// Q4_K and Q5_K, by the largest code.
fn q45_k(x: &[f32], importance: Option<&[f32]>, max: i32, out: &mut [u8]) {
    let mut codes = [0u8; SUPER];
    let (mut scales, mut mins, mut sums) = ([0.0f32; 8], [0.0f32; 8], [0.0f32; 8]);
    let mean_square = 2.0 * sum_of_squares(x) / SUPER as f32;
    for (j, (x, codes)) in x.chunks_exact(32).zip(codes.chunks_exact_mut(32)).enumerate() {
        (scales[j], mins[j]) = match importance {
            Some(importance) => {
                let weights = weights(x, &importance[32 * j..], mean_square);
                sums[j] = sum(&weights);
                affine(x, &weights, &fine_steps(max), codes)
            }
            None => {
                let middle = (sum_of_squares(x) / 32.0).sqrt();
                let weights: [f32; 32] = std::array::from_fn(|i| middle + x[i].abs());
                let (first, count) = if max == 15 { (-1.0, 20) } else { (-0.5, 15) };
                affine(x, &weights, &Steps { max, first, by: 0.1, count, absolute: false }, codes)
            }
        };
    }
    let (mut s, mut m) = ([0u8; 8], [0u8; 8]);
    let (d, dmin);
    if importance.is_some() {
        d = positive(&scales, &sums, 63, &mut s);
        dmin = positive(&mins, &sums, 63, &mut m);
    } else {
        (s, d) = by_largest(&scales, 63);
        (m, dmin) = by_largest(&mins, 63);
    }
    put_half(d, out);
    put_half(dmin, &mut out[2..]);
    put_pairs(&s, &m, &mut out[4..16]);
    let (d, dmin) = (half(out), half(&out[2..]));
    for (j, (x, codes)) in x.chunks_exact(32).zip(codes.chunks_exact_mut(32)).enumerate() {
        let (s, m) = pair(&out[4..16], j);
        recode(x, d * f32::from(s), dmin * f32::from(m), max, codes);
    }
    let low = if max == 15 { 16 } else { 48 };
    if max > 15 {
        put_high_bits(&codes, 4, &mut out[16..48]);
    }
    put_nibbles(&codes, &mut out[low..]);
}

fn q6_k(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let mut codes = [0u8; SUPER];
    let mut scales = [0.0f32; 16];
    for (j, (x, codes)) in x.chunks_exact(16).zip(codes.chunks_exact_mut(16)).enumerate() {
        scales[j] = signed(x, importance.map(|importance| &importance[16 * j..][..16]), 32, codes);
    }
    let largest = super::search::extreme(&scales);
    if largest.abs() < EPSILON {
        out.fill(0);
        return;
    }
    let inverse = -128.0 / largest;
    put_half(1.0 / inverse, &mut out[208..]);
    let d = half(&out[208..]);
    for (j, (x, codes)) in x.chunks_exact(16).zip(codes.chunks_exact_mut(16)).enumerate() {
        let scale = nearest(inverse * scales[j]).min(127) as i8;
        out[192 + j] = scale as u8;
        recode_signed(x, d * f32::from(scale), 32, codes);
    }
    put_low_nibbles_of_six(&codes, &mut out[..128]);
    put_two_bits(|i| codes[i] >> 4, &mut out[128..192]);
}
