//! Blocks to numbers, in single precision and in the order of operations of the reference.
//!
//! Source: ggml-org/ggml, `src/ggml-quants.c` (`dequantize_row_*`).

use half::f16;

use super::k_layout::{self, pair};
use super::types::GgufType;

/// Decodes whole blocks.
///
/// # Panics
/// If `bytes` and `out` are not the same number of whole blocks.
pub(super) fn decode(ty: GgufType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len() * ty.block_len(), out.len() * ty.block_bytes(), "whole blocks of {ty}");
    let blocks = bytes.chunks_exact(ty.block_bytes()).zip(out.chunks_exact_mut(ty.block_len()));
    match ty {
        GgufType::F32 => blocks.for_each(|(b, out)| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        GgufType::F16 => blocks.for_each(|(b, out)| out[0] = half(b)),
        GgufType::BF16 => blocks.for_each(|(b, out)| out[0] = f32::from_le_bytes([0, 0, b[0], b[1]])),
        GgufType::Q8_0 => blocks.for_each(|(b, out)| q8_0(b, out)),
        GgufType::Q4_0 => blocks.for_each(|(b, out)| q4_0(b, out)),
        GgufType::Q4_1 => blocks.for_each(|(b, out)| q4_1(b, out)),
        GgufType::Q5_0 => blocks.for_each(|(b, out)| q5_0(b, out)),
        GgufType::Q5_1 => blocks.for_each(|(b, out)| q5_1(b, out)),
        GgufType::Q2_K => blocks.for_each(|(b, out)| q2_k(b, out)),
        GgufType::Q3_K => blocks.for_each(|(b, out)| q3_k(b, out)),
        GgufType::Q4_K => blocks.for_each(|(b, out)| q4_k(b, out)),
        GgufType::Q5_K => blocks.for_each(|(b, out)| q5_k(b, out)),
        GgufType::Q6_K => blocks.for_each(|(b, out)| q6_k(b, out)),
    }
}

/// The half-precision number at the front.
pub(super) fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = half(block);
    for (x, &code) in out.iter_mut().zip(&block[2..]) {
        *x = f32::from(code as i8) * d;
    }
}

/// Low nibbles are the first half of a block, high nibbles the second.
fn nibbles(codes: &[u8], out: &mut [f32], mut number: impl FnMut(usize, u8) -> f32) {
    let middle = codes.len();
    for (i, &byte) in codes.iter().enumerate() {
        out[i] = number(i, byte & 15);
        out[middle + i] = number(middle + i, byte >> 4);
    }
}

fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = half(block);
    nibbles(&block[2..], out, |_, code| d * f32::from(code as i8 - 8));
}

fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half(block), half(&block[2..]));
    nibbles(&block[4..], out, |_, code| d * f32::from(code) + m);
}

/// The fifth bit of code `i`, in its place.
fn fifth(high: u32, i: usize) -> u8 {
    ((high >> i & 1) << 4) as u8
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn q5_0(block: &[u8], out: &mut [f32]) {
    let (d, high) = (half(block), word(&block[2..]));
    nibbles(&block[6..], out, |i, code| d * f32::from((code | fifth(high, i)) as i8 - 16));
}

fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m, high) = (half(block), half(&block[2..]), word(&block[4..]));
    nibbles(&block[8..], out, |i, code| d * f32::from(code | fifth(high, i)) + m);
}

fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half(&block[80..]), half(&block[82..]));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(scales[group] & 15);
        let min = dmin * f32::from(scales[group] >> 4);
        for (i, x) in out.iter_mut().enumerate() {
            *x = scale * f32::from(k_layout::two_bits(codes, 16 * group + i)) - min;
        }
    }
}

fn q3_k(block: &[u8], out: &mut [f32]) {
    let (mask, codes, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(&block[108..]);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(k_layout::six_bits(scales, group) as i8 - 32);
        for (i, x) in out.iter_mut().enumerate() {
            let i = 16 * group + i;
            let code = k_layout::two_bits(codes, i) | (mask[i % 32] >> (i / 32) & 1) << 2;
            *x = scale * f32::from(code as i8 - 4);
        }
    }
}

fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half(block), half(&block[2..]));
    let (scales, codes) = (&block[4..16], &block[16..]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = pair(scales, group);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        for (i, x) in out.iter_mut().enumerate() {
            *x = scale * f32::from(k_layout::nibble(codes, group, i)) - min;
        }
    }
}

fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half(block), half(&block[2..]));
    let (scales, high, codes) = (&block[4..16], &block[16..48], &block[48..]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = pair(scales, group);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        for (i, x) in out.iter_mut().enumerate() {
            let code = k_layout::nibble(codes, group, i) | (high[i] >> group & 1) << 4;
            *x = scale * f32::from(code) - min;
        }
    }
}

fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(&block[208..]);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(scales[group] as i8);
        for (i, x) in out.iter_mut().enumerate() {
            let i = 16 * group + i;
            let code = k_layout::low_nibble_of_six(low, i) | k_layout::two_bits(high, i) << 4;
            *x = scale * f32::from(code as i8 - 32);
        }
    }
}
