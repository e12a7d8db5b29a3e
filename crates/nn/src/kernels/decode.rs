//! Codes to numbers in plain Rust: what every other decoder is tested against.

use half::bf16;

use super::PackedView;

/// Decodes columns `first .. first + out.len()` of row `row`.
pub(super) fn decode_segment(view: &PackedView<'_>, row: usize, first: usize, out: &mut [f32]) {
    let codes = &view.codes_from(row)[..view.row_bytes()];
    let (scales, zeros) = (view.row_scales(row), view.row_zeros(row));
    let mut col = first;
    let mut rest = out;
    while !rest.is_empty() {
        let group = col / view.group_size;
        let run = ((group + 1).saturating_mul(view.group_size) - col).min(rest.len());
        let (now, later) = rest.split_at_mut(run);
        let zero = zeros.map_or(view.middle(), |zeros| f32::from(zeros[group]));
        decode_run(codes, usize::from(view.bits), col, scales[group], zero, now);
        col += run;
        rest = later;
    }
}

/// Decodes a run of columns within one group.
fn decode_run(codes: &[u8], bits: usize, first: usize, scale: f32, zero: f32, out: &mut [f32]) {
    let mask = (1u32 << bits) - 1;
    for (i, out) in out.iter_mut().enumerate() {
        let bit = (first + i) * bits;
        // A code spans two bytes at most, and a row ends on a 32-bit word: a missing byte holds no bit of it.
        let low = u32::from(codes[bit / 8]);
        let high = codes.get(bit / 8 + 1).copied().map_or(0, u32::from);
        let code = ((high << 8 | low) >> (bit % 8)) & mask;
        *out = (code as f32 - zero) * scale;
    }
}

/// `bf16` to `f32`, exactly.
#[inline]
pub(super) fn widen(values: &[bf16], out: &mut [f32]) {
    for (out, &value) in out.iter_mut().zip(values) {
        *out = f32::from_bits(u32::from(value.to_bits()) << 16);
    }
}
