//! Numbers to blocks: plain types and the older blocks of 32.
//!
//! Without importance the bytes are those of the `gguf` Python package, which uses the rounding of the reference. With
//! importance the scale is searched for, as for the K types.
//!
//! Source: ggml-org/llama.cpp, `gguf-py/gguf/quants.py`; ggml-org/ggml, `src/ggml-quants.c` (`quantize_row_q*_impl`).

use half::{bf16, f16};

use super::k_encode;
use super::search::{Steps, affine, extreme, signed};
use super::types::{GgufType, SMALL};

/// The search that the 4- and 5-bit types with a minimum use for weighted errors.
pub(super) const fn fine_steps(max: i32) -> Steps {
    Steps { max, first: -0.9, by: 0.05, count: 36, absolute: false }
}

/// Encodes one row; `importance` has a weight for each column.
///
/// # Panics
/// If the lengths do not belong together.
pub(super) fn encode_row(ty: GgufType, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    assert_eq!(out.len() * ty.block_len(), row.len() * ty.block_bytes(), "whole blocks of {ty}");
    let mean_square = || {
        let mut sum = 0.0f32;
        row.iter().for_each(|v| sum += v * v);
        sum / row.len() as f32
    };
    let weights = match ty {
        // The plain types and Q8_0 know no importance.
        GgufType::F32 | GgufType::F16 | GgufType::BF16 | GgufType::Q8_0 => None,
        GgufType::Q4_0 | GgufType::Q4_1 | GgufType::Q5_0 | GgufType::Q5_1 => {
            importance.map(|importance| weights(row, importance, mean_square()))
        }
        GgufType::Q2_K | GgufType::Q3_K | GgufType::Q4_K | GgufType::Q5_K | GgufType::Q6_K => {
            return k_encode::encode_row(ty, row, importance, out);
        }
    };
    let blocks = row.chunks_exact(ty.block_len()).zip(out.chunks_exact_mut(ty.block_bytes()));
    for (i, (x, out)) in blocks.enumerate() {
        let w = weights.as_ref().map(|weights| &weights[i * SMALL..][..SMALL]);
        match ty {
            GgufType::F32 => out.copy_from_slice(&x[0].to_le_bytes()),
            GgufType::F16 => out.copy_from_slice(&f16::from_f32(x[0]).to_le_bytes()),
            GgufType::BF16 => out.copy_from_slice(&bf16::from_f32(x[0]).to_le_bytes()),
            GgufType::Q8_0 => q8_0(x, out),
            GgufType::Q4_0 => centred(x, w, 8, out),
            GgufType::Q4_1 => ranged(x, w, 15, out),
            GgufType::Q5_0 => centred(x, w, 16, out),
            _ => ranged(x, w, 31, out),
        }
    }
}

/// Importance times `sqrt(mean square + square)`.
pub(super) fn weights(x: &[f32], importance: &[f32], mean_square: f32) -> Vec<f32> {
    x.iter().zip(importance).map(|(&v, &w)| w * (mean_square + v * v).sqrt()).collect()
}

pub(super) fn put_half(value: f32, out: &mut [u8]) {
    out[..2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

fn q8_0(x: &[f32], out: &mut [u8]) {
    let d = extreme(x).abs() / 127.0;
    let inverse = inverse(d);
    put_half(d, out);
    for (code, &v) in out[2..].iter_mut().zip(x) {
        *code = (v * inverse).round() as i8 as u8;
    }
}

/// Q4_0 and Q5_0: codes around `half`.
fn centred(x: &[f32], weights: Option<&[f32]>, half: i32, out: &mut [u8]) {
    let mut codes = [0u8; SMALL];
    let d = match weights {
        Some(weights) => signed(x, Some(weights), half, &mut codes),
        None => {
            let d = extreme(x) / -half as f32;
            let inverse = f64::from(inverse(d));
            for (code, &v) in codes.iter_mut().zip(x) {
                // One rounding, as if product and sum were fused.
                *code = ((f64::from(v) * inverse + (f64::from(half) + 0.5)) as u8).min((2 * half - 1) as u8);
            }
            d
        }
    };
    put_half(d, out);
    put_codes(&codes, &mut out[2..]);
}

/// Q4_1 and Q5_1: codes above a minimum.
fn ranged(x: &[f32], weights: Option<&[f32]>, max: i32, out: &mut [u8]) {
    let mut codes = [0u8; SMALL];
    let (d, min) = match weights {
        Some(weights) => {
            let (d, min) = affine(x, weights, &fine_steps(max), &mut codes);
            (d, -min)
        }
        None => {
            let min = x.iter().copied().fold(f32::INFINITY, f32::min);
            let d = (x.iter().copied().fold(f32::NEG_INFINITY, f32::max) - min) / max as f32;
            let inverse = inverse(d);
            for (code, &v) in codes.iter_mut().zip(x) {
                *code = (((v - min) * inverse + 0.5) as u8).min(max as u8);
            }
            (d, min)
        }
    };
    put_half(d, out);
    put_half(min, &mut out[2..]);
    put_codes(&codes, &mut out[4..]);
}

/// Nibbles, and before them the fifth bits where there is room for them.
fn put_codes(codes: &[u8; SMALL], out: &mut [u8]) {
    let low = out.len() - SMALL / 2;
    let (high, low) = out.split_at_mut(low);
    if !high.is_empty() {
        let bits = (0..SMALL).fold(0u32, |bits, i| bits | u32::from(codes[i] >> 4) << i);
        high.copy_from_slice(&bits.to_le_bytes());
    }
    for (i, byte) in low.iter_mut().enumerate() {
        *byte = codes[i] & 15 | (codes[SMALL / 2 + i] & 15) << 4;
    }
}
