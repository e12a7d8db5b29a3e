//! Codes of 8 bits, and of the widths that fill no byte, as floating-point numbers times `x`.

use std::arch::x86_64::*;
use std::ops::Range;

use super::lanes::{Lanes, Walk};
use super::stream::Row;
use super::{LANES, PREFETCH, Window};

/// Accumulators of one row of `x`: enough to hide the latency of an addition together with the groups around it.
const CHAINS: usize = 4;

/// Blocks `part` of rows `t .. t + N` of `x` times those of one row of codes of `bits` bits, in lanes.
///
/// # Safety
///
/// `w.codes` holds `x.row_bytes(bits)`, `part` lies within the blocks of `x` and cuts no group, and `x` has row
/// `t + N - 1`.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn row<const N: usize>(
    bits: usize,
    w: Row<'_>,
    x: &Lanes,
    part: Range<usize>,
    t: usize,
) -> [__m256; N] {
    let window = Window::new(bits);
    let mut totals = [_mm256_setzero_ps(); N];
    let mut block = part.start;
    let first = block / x.layout.scale_blocks;
    for (group, (&scale, &zero)) in (first..).zip(w.groups(first)) {
        if block == part.end {
            break;
        }
        let end = block.saturating_add(x.layout.scale_blocks).min(part.end);
        // SAFETY: `end <= n_blocks`.
        let sums: [[__m256; CHAINS]; N] = unsafe {
            match x.layout.walk {
                Walk::Bytes => bytes(w, x, t, block, end),
                Walk::Window => windows(window, bits, w, x, t, block, end),
            }
        };
        block = end;
        let (scale, zero) = (_mm256_set1_ps(scale), _mm256_set1_ps(zero));
        for (i, (total, [a, b, c, d])) in totals.iter_mut().zip(sums).enumerate() {
            let x = &x.sums[((t + i) * x.n_groups + group) * LANES..][..LANES];
            // SAFETY: the slice holds eight numbers.
            let x = unsafe { _mm256_loadu_ps(x.as_ptr()) };
            let sum = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
            *total = _mm256_fmadd_ps(scale, _mm256_fnmadd_ps(zero, x, sum), *total);
        }
    }
    totals
}

/// Sums over blocks `start .. end` of bytes.
///
/// # Safety
///
/// `end <= x.n_blocks`, and `w.codes` holds 32 bytes for each of them.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn bytes<const N: usize>(
    w: Row<'_>,
    x: &Lanes,
    t: usize,
    start: usize,
    end: usize,
) -> [[__m256; CHAINS]; N] {
    let masks = [_mm256_set1_epi32(0xFF), _mm256_set1_epi32(0xFF00)];
    let mut sums = [[_mm256_setzero_ps(); CHAINS]; N];
    for block in start..end {
        // SAFETY: `block < n_blocks`, so 32 bytes and 32 numbers of each row are there; a prefetch may point anywhere.
        unsafe {
            let codes = w.codes.as_ptr().add(block * 32);
            _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(PREFETCH).cast());
            let low = _mm256_loadu_si256(codes.cast());
            let high = _mm256_srli_epi32::<16>(low);
            for k in 0..CHAINS {
                let half = if k < 2 { low } else { high };
                let code = _mm256_cvtepi32_ps(_mm256_and_si256(half, masks[k % 2]));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let at = (((t + i) * x.n_blocks + block) * 4 + k) * LANES;
                    sums[k] = _mm256_fmadd_ps(code, _mm256_loadu_ps(x.values.as_ptr().add(at)), sums[k]);
                }
            }
        }
    }
    sums
}

/// Sums over blocks `start .. end` of eight consecutive codes.
///
/// # Safety
///
/// `end <= x.n_blocks`, and `w.codes` holds `bits` bytes for each of them and eight more.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn windows<const N: usize>(
    window: Window,
    bits: usize,
    w: Row<'_>,
    x: &Lanes,
    t: usize,
    start: usize,
    end: usize,
) -> [[__m256; CHAINS]; N] {
    let mut sums = [[_mm256_setzero_ps(); CHAINS]; N];
    let mut block = start;
    // SAFETY: every block below is `< end`, so its codes and eight bytes are there, and eight numbers of each row.
    unsafe {
        while block + CHAINS <= end {
            _mm_prefetch::<_MM_HINT_T0>(w.codes.as_ptr().add(block * bits).wrapping_add(PREFETCH).cast());
            for k in 0..CHAINS {
                add_window(window, bits, w, x, t, block + k, k, &mut sums);
            }
            block += CHAINS;
        }
        while block < end {
            add_window(window, bits, w, x, t, block, 0, &mut sums);
            block += 1;
        }
    }
    sums
}

/// Adds one block to accumulators `chain`.
///
/// # Safety
///
/// `block < x.n_blocks`, and `w.codes` holds `bits` bytes for each block up to it and eight more.
#[inline]
#[target_feature(enable = "avx2,fma")]
#[expect(clippy::too_many_arguments, reason = "the state of one loop, inlined")]
unsafe fn add_window<const N: usize>(
    window: Window,
    bits: usize,
    w: Row<'_>,
    x: &Lanes,
    t: usize,
    block: usize,
    chain: usize,
    sums: &mut [[__m256; CHAINS]; N],
) {
    // SAFETY: promised by the caller.
    unsafe {
        let code = window.load(w.codes.as_ptr().add(block * bits));
        for (i, sums) in sums.iter_mut().enumerate() {
            let at = ((t + i) * x.n_blocks + block) * LANES;
            sums[chain] = _mm256_fmadd_ps(code, _mm256_loadu_ps(x.values.as_ptr().add(at)), sums[chain]);
        }
    }
}
