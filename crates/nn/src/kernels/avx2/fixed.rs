//! Codes of 2 and 4 bits times `x` in fixed point.
//!
//! The multiplier of bytes (`vpmaddubsw`) takes 32 codes at once where a floating-point one takes eight. `x` is rounded to
//! 24 bits below the largest of the 16 elements that a lane meets in 128 columns, and split into three signed bytes; the
//! sums of a unit are then exact integers, and the first rounding happens once for 16 products.

use std::arch::x86_64::*;
use std::ops::Range;

use super::digits::{BLOCK_BYTES, DIGITS, Digits};
use super::stream::Row;
use super::{LANES, PREFETCH};

/// Units `part` of rows `t .. t + N` of `x` times those of one row of codes, in lanes.
///
/// # Safety
///
/// `w.codes` holds `x.row_bytes()`, `part` lies within the units of `x`, and `x` has row `t + N - 1`.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn row<const N: usize>(
    w: Row<'_>,
    x: &Digits,
    part: Range<usize>,
    t: usize,
) -> [__m256; N] {
    let layout = x.layout;
    // SAFETY: passed on; a layout has these units only.
    unsafe {
        match (layout.bits, layout.unit_blocks, layout.scale_units, layout.split) {
            (2, _, _, true) => units::<2, 1, 2, N>(w, x, part, t),
            (2, _, 1, _) => units::<2, 1, 1, N>(w, x, part, t),
            (2, ..) => units::<2, 1, 0, N>(w, x, part, t),
            (_, 2, 1, _) => units::<4, 2, 1, N>(w, x, part, t),
            (_, 2, ..) => units::<4, 2, 0, N>(w, x, part, t),
            (_, _, _, true) => units::<4, 1, 2, N>(w, x, part, t),
            (_, _, 1, _) => units::<4, 1, 1, N>(w, x, part, t),
            _ => units::<4, 1, 0, N>(w, x, part, t),
        }
    }
}

/// [`row`] for codes of `BITS` bits, units of `BLOCKS` blocks, and `GROUPS` groups in a unit, 0 for less than one.
///
/// # Safety
///
/// As for [`row`], and `x` has this layout.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn units<const BITS: usize, const BLOCKS: usize, const GROUPS: usize, const N: usize>(
    w: Row<'_>,
    x: &Digits,
    part: Range<usize>,
    t: usize,
) -> [__m256; N] {
    let unit_len = BLOCKS * (8 / BITS) * DIGITS * BLOCK_BYTES;
    let mut digits = [x.digits.as_ptr(); N];
    let mut lanes = [x.lanes.as_ptr(); N];
    for i in 0..N {
        digits[i] = digits[i].wrapping_add((t + i) * x.n_units * unit_len);
        lanes[i] = lanes[i].wrapping_add((t + i) * x.n_units * 2 * LANES);
    }
    let mut totals = [_mm256_setzero_ps(); N];
    let (mut scale, mut zero) = (_mm256_setzero_ps(), _mm256_setzero_ps());
    let scale_units = x.layout.scale_units;
    let mut groups = w.groups(part.start / scale_units * GROUPS.max(1));
    let mut at = part.start;
    while at < part.end {
        if let Some((&s, &z)) = groups.next() {
            (scale, zero) = (_mm256_set1_ps(s), _mm256_set1_ps(z));
        }
        // A row may end with the lower half of a block: the upper half then multiplies the padding.
        if GROUPS == 2
            && let Some((&s, &z)) = groups.next()
        {
            scale = _mm256_blend_ps::<0xF0>(scale, _mm256_set1_ps(s));
            zero = _mm256_blend_ps::<0xF0>(zero, _mm256_set1_ps(z));
        }
        let covered = if GROUPS == 0 { (scale_units - at % scale_units).min(part.end - at) } else { 1 };
        for _ in 0..covered {
            // SAFETY: `at < n_units`: the codes, digits and lanes of the unit are there.
            unsafe {
                let codes = w.codes.as_ptr().add(at * BLOCKS * BLOCK_BYTES);
                let sums = unit_sums::<BITS, BLOCKS, N>(codes, digits, at * unit_len);
                for (i, total) in totals.iter_mut().enumerate() {
                    let lane = lanes[i].add(at * 2 * LANES);
                    let (step, x_sum) = (_mm256_loadu_ps(lane), _mm256_loadu_ps(lane.add(LANES)));
                    let sum = _mm256_fnmadd_ps(zero, x_sum, _mm256_cvtepi32_ps(sums[i]));
                    *total = _mm256_fmadd_ps(_mm256_mul_ps(scale, step), sum, *total);
                }
            }
            at += 1;
        }
    }
    totals
}

/// Exact sums of code times fixed-point number over a unit, in eight lanes of 32 bits.
///
/// # Safety
///
/// `BLOCKS` blocks of codes are readable at `codes`, and their digits `at` elements after each of `digits`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn unit_sums<const BITS: usize, const BLOCKS: usize, const N: usize>(
    codes: *const u8,
    digits: [*const i8; N],
    at: usize,
) -> [__m256i; N] {
    let mask = _mm256_set1_epi8((1 << BITS) - 1);
    // A sum of two products is at most 2 * 15 * 128 in magnitude, and four of them meet: nothing leaves 16 bits.
    let mut sums = [[_mm256_setzero_si256(); DIGITS]; N];
    for block in 0..BLOCKS {
        // SAFETY: promised by the caller; a prefetch may point anywhere.
        unsafe {
            let codes = codes.add(block * BLOCK_BYTES);
            if block % 2 == 0 {
                _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(PREFETCH).cast());
            }
            let packed = _mm256_loadu_si256(codes.cast());
            for phase in 0..8 / BITS {
                let shift = _mm_cvtsi32_si128((phase * BITS) as i32);
                let code = _mm256_and_si256(_mm256_srl_epi16(packed, shift), mask);
                let at = at + (block * (8 / BITS) + phase) * DIGITS * BLOCK_BYTES;
                for (sums, digits) in sums.iter_mut().zip(digits) {
                    for (k, sum) in sums.iter_mut().enumerate() {
                        let digits = _mm256_loadu_si256(digits.add(at + k * BLOCK_BYTES).cast());
                        *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(code, digits));
                    }
                }
            }
        }
    }
    let (one, base) = (_mm256_set1_epi16(1), _mm256_set1_epi16(256));
    let mut out = [_mm256_setzero_si256(); N];
    for (out, [low, middle, high]) in out.iter_mut().zip(sums) {
        let low = _mm256_add_epi32(_mm256_madd_epi16(low, one), _mm256_madd_epi16(middle, base));
        *out = _mm256_add_epi32(low, _mm256_slli_epi32::<16>(_mm256_madd_epi16(high, one)));
    }
    out
}
