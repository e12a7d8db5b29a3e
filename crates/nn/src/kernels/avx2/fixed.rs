//! Codes of 2 and 4 bits times `x` in fixed point.
//!
//! The multiplier of bytes (`vpmaddubsw`) takes 32 codes at once where a floating-point one takes eight. `x` is rounded to
//! 24 bits below the largest of the 16 elements that a lane meets in 128 columns, and split into three signed bytes; the
//! sums of a unit are then exact integers, and the first rounding happens once for 16 products.
//!
//! Loops and no closures here: a closure does not inherit the instructions through `array::map`, and is called.

use std::arch::x86_64::*;
use std::ops::Range;

use super::digits::{BLOCK_BYTES, DIGITS, Digits};
use super::stream::Row;
use super::{LANES, PREFETCH};

/// Units `part` of rows `t .. t + N` of `x` times those of `R` rows of codes, in lanes.
///
/// # Safety
///
/// The codes of each of `w` hold `x.row_bytes()`, `part` lies within the units of `x`, and `x` has row `t + N - 1`.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn rows<const R: usize, const N: usize>(
    w: [Row<'_>; R],
    x: &Digits,
    part: Range<usize>,
    t: usize,
) -> [[__m256; N]; R] {
    let layout = x.layout;
    // SAFETY: passed on; a layout has these units only.
    unsafe {
        match (layout.bits, layout.unit_blocks, layout.scale_units, layout.split) {
            (2, _, _, true) => units::<2, 1, 2, R, N>(w, x, part, t),
            (2, _, 1, _) => units::<2, 1, 1, R, N>(w, x, part, t),
            (2, ..) => units::<2, 1, 0, R, N>(w, x, part, t),
            (_, 2, 1, _) => units::<4, 2, 1, R, N>(w, x, part, t),
            (_, 2, ..) => units::<4, 2, 0, R, N>(w, x, part, t),
            (_, _, _, true) => units::<4, 1, 2, R, N>(w, x, part, t),
            (_, _, 1, _) => units::<4, 1, 1, R, N>(w, x, part, t),
            _ => units::<4, 1, 0, R, N>(w, x, part, t),
        }
    }
}

/// [`rows`] for codes of `BITS` bits, units of `BLOCKS` blocks, and `GROUPS` groups in a unit, 0 for less than one.
///
/// # Safety
///
/// As for [`rows`], and `x` has this layout.
#[inline]
#[target_feature(enable = "avx2,fma")]
#[allow(clippy::needless_range_loop, reason = "an index over rows into several arrays")]
unsafe fn units<
    const BITS: usize,
    const BLOCKS: usize,
    const GROUPS: usize,
    const R: usize,
    const N: usize,
>(
    w: [Row<'_>; R],
    x: &Digits,
    part: Range<usize>,
    t: usize,
) -> [[__m256; N]; R] {
    let unit_len = BLOCKS * (8 / BITS) * DIGITS * BLOCK_BYTES;
    let mut digits = [x.digits.as_ptr(); N];
    let mut lanes = [x.lanes.as_ptr(); N];
    for i in 0..N {
        digits[i] = digits[i].wrapping_add((t + i) * x.n_units * unit_len);
        lanes[i] = lanes[i].wrapping_add((t + i) * x.n_units * 2 * LANES);
    }
    let mut totals = [[_mm256_setzero_ps(); N]; R];
    let mut affine = [[_mm256_setzero_ps(); 2]; R];
    let mut codes = [std::ptr::null(); R];
    let scale_units = x.layout.scale_units;
    let mut group = part.start / scale_units * GROUPS.max(1);
    let mut at = part.start;
    while at < part.end {
        for (w, [scale, zero]) in w.iter().zip(&mut affine) {
            // SAFETY: unit `at` begins inside of the row, and so does its group.
            [*scale, *zero] = unsafe { w.group(group) };
            // A row may end with the lower half of a block: the upper half then multiplies the padding.
            if GROUPS == 2 && group + 1 < w.n_groups() {
                // SAFETY: just checked.
                let [upper_scale, upper_zero] = unsafe { w.group(group + 1) };
                *scale = _mm256_blend_ps::<0xF0>(*scale, upper_scale);
                *zero = _mm256_blend_ps::<0xF0>(*zero, upper_zero);
            }
        }
        group += GROUPS.max(1);
        let covered = if GROUPS == 0 { (scale_units - at % scale_units).min(part.end - at) } else { 1 };
        for _ in 0..covered {
            // SAFETY: `at < n_units`: the codes, digits and lanes of the unit are there.
            unsafe {
                for (w, codes) in w.iter().zip(&mut codes) {
                    *codes = w.codes.as_ptr().add(at * BLOCKS * BLOCK_BYTES);
                }
                let sums = unit_sums::<BITS, BLOCKS, R, N>(codes, digits, at * unit_len);
                for i in 0..N {
                    let lane = lanes[i].add(at * 2 * LANES);
                    let (step, x_sum) = (_mm256_loadu_ps(lane), _mm256_loadu_ps(lane.add(LANES)));
                    for r in 0..R {
                        let [scale, zero] = affine[r];
                        let sum = _mm256_fnmadd_ps(zero, x_sum, _mm256_cvtepi32_ps(sums[r][i]));
                        totals[r][i] = _mm256_fmadd_ps(_mm256_mul_ps(scale, step), sum, totals[r][i]);
                    }
                }
            }
            at += 1;
        }
    }
    totals
}

/// Exact sums of code times fixed-point number over a unit, in eight lanes of 32 bits. The digits are loaded once for all
/// rows of codes: with one row, loads and not multiplications would be the limit.
///
/// # Safety
///
/// `BLOCKS` blocks are readable at each of `codes`, and their digits `at` elements after each of `digits`.
#[inline]
#[target_feature(enable = "avx2,fma")]
#[allow(clippy::needless_range_loop, reason = "an index over rows, one over digits, into several arrays")]
unsafe fn unit_sums<const BITS: usize, const BLOCKS: usize, const R: usize, const N: usize>(
    codes: [*const u8; R],
    digits: [*const i8; N],
    at: usize,
) -> [[__m256i; N]; R] {
    let mask = _mm256_set1_epi8((1 << BITS) - 1);
    // A sum of two products is at most 2 * 15 * 128 in magnitude, and four of them meet: nothing leaves 16 bits.
    let mut sums = [[[_mm256_setzero_si256(); DIGITS]; N]; R];
    let (mut packed, mut code) = ([_mm256_setzero_si256(); R], [_mm256_setzero_si256(); R]);
    for block in 0..BLOCKS {
        // SAFETY: promised by the caller; a prefetch may point anywhere.
        unsafe {
            for (codes, packed) in codes.iter().zip(&mut packed) {
                let codes = codes.add(block * BLOCK_BYTES);
                if block % 2 == 0 {
                    _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(PREFETCH).cast());
                }
                *packed = _mm256_loadu_si256(codes.cast());
            }
            for phase in 0..8 / BITS {
                let shift = _mm_cvtsi32_si128((phase * BITS) as i32);
                for (packed, code) in packed.iter().zip(&mut code) {
                    *code = _mm256_and_si256(_mm256_srl_epi16(*packed, shift), mask);
                }
                let at = at + (block * (8 / BITS) + phase) * DIGITS * BLOCK_BYTES;
                for (i, digits) in digits.iter().enumerate() {
                    for k in 0..DIGITS {
                        let digits = _mm256_loadu_si256(digits.add(at + k * BLOCK_BYTES).cast());
                        for r in 0..R {
                            let products = _mm256_maddubs_epi16(code[r], digits);
                            sums[r][i][k] = _mm256_add_epi16(sums[r][i][k], products);
                        }
                    }
                }
            }
        }
    }
    let (one, base) = (_mm256_set1_epi16(1), _mm256_set1_epi16(256));
    let mut out = [[_mm256_setzero_si256(); N]; R];
    for (out, [low, middle, high]) in out.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
        let low = _mm256_add_epi32(_mm256_madd_epi16(*low, one), _mm256_madd_epi16(*middle, base));
        *out = _mm256_add_epi32(low, _mm256_slli_epi32::<16>(_mm256_madd_epi16(*high, one)));
    }
    out
}
