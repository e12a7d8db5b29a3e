//! Codes of any width to numbers, eight at a time.

use std::arch::x86_64::*;

use super::{LANES, Window};
use crate::kernels::PackedView;

/// Decodes columns `first .. first + out.len()` of row `row`, `first` a multiple of eight; the same bits as the portable
/// decoder.
pub(crate) fn decode_segment(view: &PackedView<'_>, row: usize, first: usize, out: &mut [f32]) {
    debug_assert!(first.is_multiple_of(LANES));
    // SAFETY: reached only past `Isa::require`, so the processor has AVX2 and FMA.
    unsafe {
        let bits = usize::from(view.bits);
        unpack(&view.codes_from(row)[first / LANES * bits..], bits, out);
        dequantize(view, row, first, out);
    }
}

/// The codes from the first byte of `codes` on, as numbers.
#[target_feature(enable = "avx2,fma")]
fn unpack(codes: &[u8], bits: usize, out: &mut [f32]) {
    let window = Window::new(bits);
    // Windows at which eight bytes can be read.
    let readable = if codes.len() < 8 { 0 } else { (codes.len() - 8) / bits + 1 };
    for (i, out) in out.chunks_mut(LANES).enumerate() {
        let mut numbers = [0.0; LANES];
        // SAFETY: eight bytes are read inside of `codes` or from a copy of that length.
        let codes = unsafe {
            if i < readable {
                window.load(codes.as_ptr().add(i * bits))
            } else {
                let mut last = [0u8; 8];
                let rest = &codes[i * bits..];
                last[..rest.len().min(8)].copy_from_slice(&rest[..rest.len().min(8)]);
                window.load(last.as_ptr())
            }
        };
        if let Ok(out) = <&mut [f32; LANES]>::try_from(&mut *out) {
            // SAFETY: `out` holds eight numbers.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), codes) };
        } else {
            // SAFETY: `numbers` holds eight numbers.
            unsafe { _mm256_storeu_ps(numbers.as_mut_ptr(), codes) };
            out.copy_from_slice(&numbers[..out.len()]);
        }
    }
}

/// `(u - z) * s`, group by group.
#[target_feature(enable = "avx2,fma")]
fn dequantize(view: &PackedView<'_>, row: usize, first: usize, out: &mut [f32]) {
    let (scales, zeros) = (view.row_scales(row), view.row_zeros(row));
    let mut group = first / view.group_size;
    let mut run = view.group_size - first % view.group_size;
    let mut rest = out;
    while !rest.is_empty() {
        let (now, later) = rest.split_at_mut(run.min(rest.len()));
        let scale = scales[group];
        let zero = zeros.map_or(view.middle(), |zeros| f32::from(zeros[group]));
        for value in now {
            *value = (*value - zero) * scale;
        }
        rest = later;
        run = view.group_size;
        group += 1;
    }
}
