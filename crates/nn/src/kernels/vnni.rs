//! Dot products of bytes with AVX-512 and VNNI.

use std::arch::x86_64::*;

use super::avx2::integers;
use super::integers::shortest;

/// Bytes of a register.
const STEP: usize = 64;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

/// `sum_i w[i] x[i]`; see [`integers`](super::integers).
pub(super) fn dots<const R: usize, const N: usize>(w: [&[u8]; R], x: [&[i8]; N]) -> [[i32; N]; R] {
    debug_assert!(is_available(), "`Dots` alone calls this");
    // SAFETY: chosen only where `is_available`.
    unsafe { wide(w, x) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn wide<const R: usize, const N: usize>(w: [&[u8]; R], x: [&[i8]; N]) -> [[i32; N]; R] {
    let len = shortest(&w, &x);
    let whole = len - len % STEP;
    let mut sums = [[_mm512_setzero_si512(); N]; R];
    for start in (0..whole).step_by(STEP) {
        let mut lanes = [_mm512_setzero_si512(); N];
        for (lanes, x) in lanes.iter_mut().zip(x) {
            // SAFETY: `start + STEP <= len`, the length of the shortest row.
            *lanes = unsafe { _mm512_loadu_si512(x.as_ptr().add(start).cast()) };
        }
        for (sums, w) in sums.iter_mut().zip(w) {
            // SAFETY: as above.
            let w = unsafe { _mm512_loadu_si512(w.as_ptr().add(start).cast()) };
            for (sum, x) in sums.iter_mut().zip(lanes) {
                *sum = _mm512_dpbusd_epi32(*sum, w, x);
            }
        }
    }
    let mut found = sums.map(|sums| sums.map(|sum| sum_lanes(sum)));
    if whole < len {
        add_tails(&mut found, w.map(|w| &w[whole..len]), x.map(|x| &x[whole..len]));
    }
    found
}

/// Adds the products of fewer than [`STEP`] bytes. Apart, so that all sums of the loop above have registers.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn add_tails<const R: usize, const N: usize>(found: &mut [[i32; N]; R], w: [&[u8]; R], x: [&[i8]; N]) {
    for (found, w) in found.iter_mut().zip(w) {
        let mask = u64::MAX >> (STEP - w.len());
        // SAFETY: a masked load touches only bytes whose bit is set, which are those of the row.
        let w = unsafe { _mm512_maskz_loadu_epi8(mask, w.as_ptr().cast()) };
        for (found, x) in found.iter_mut().zip(x) {
            // SAFETY: as above; the rows are of one length.
            let x = unsafe { _mm512_maskz_loadu_epi8(mask, x.as_ptr()) };
            *found += sum_lanes(_mm512_dpbusd_epi32(_mm512_setzero_si512(), w, x));
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn sum_lanes(v: __m512i) -> i32 {
    integers::sum_lanes(_mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v)))
}
