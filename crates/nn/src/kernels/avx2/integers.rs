//! Dot products of bytes.

use std::arch::x86_64::*;

use crate::kernels::Isa;
use crate::kernels::integers::shortest;

/// Bytes that are widened at a time.
const STEP: usize = 16;

/// `sum_i w[i] x[i]`; see [`integers`](crate::kernels::integers).
///
/// Bytes are widened to 16 bits: products of bytes in pairs would saturate.
pub(crate) fn dots<const R: usize, const N: usize>(w: [&[u8]; R], x: [&[i8]; N]) -> [[i32; N]; R] {
    debug_assert!(Isa::Avx2.is_available(), "`Dots` alone calls this");
    // SAFETY: chosen only where the processor has AVX2 and FMA.
    unsafe { wide(w, x) }
}

#[target_feature(enable = "avx2,fma")]
fn wide<const R: usize, const N: usize>(w: [&[u8]; R], x: [&[i8]; N]) -> [[i32; N]; R] {
    let len = shortest(&w, &x);
    let whole = len - len % STEP;
    let mut sums = [[_mm256_setzero_si256(); N]; R];
    for i in (0..whole).step_by(STEP) {
        // SAFETY: `i + STEP <= len`, the length of the shortest row.
        let (w, x) = unsafe { (w.map(|w| w.as_ptr().add(i)), x.map(|x| x.as_ptr().add(i))) };
        // SAFETY: as above.
        unsafe { add(&mut sums, w, x) };
    }
    if whole < len {
        let (w, x) = (w.map(|w| padded(&w[whole..len])), x.map(|x| padded(&x[whole..len])));
        // SAFETY: both are arrays of `STEP` bytes.
        unsafe { add(&mut sums, w.each_ref().map(|w| w.as_ptr()), x.each_ref().map(|x| x.as_ptr())) };
    }
    sums.map(|sums| sums.map(|sum| sum_lanes(sum)))
}

/// The last bytes of a row, then zeros.
fn padded<T: Copy + Default>(rest: &[T]) -> [T; STEP] {
    let mut all = [T::default(); STEP];
    all[..rest.len()].copy_from_slice(rest);
    all
}

/// # Safety
///
/// [`STEP`] bytes are readable at every pointer.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add<const R: usize, const N: usize>(
    sums: &mut [[__m256i; N]; R],
    w: [*const u8; R],
    x: [*const i8; N],
) {
    let mut lanes = [_mm256_setzero_si256(); N];
    for (lanes, x) in lanes.iter_mut().zip(x) {
        // SAFETY: the caller promises the bytes; the read needs no alignment.
        *lanes = _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(x.cast()) });
    }
    for (sums, w) in sums.iter_mut().zip(w) {
        // SAFETY: as above.
        let w = _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(w.cast()) });
        for (sum, x) in sums.iter_mut().zip(lanes) {
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(w, x));
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn sum_lanes(v: __m256i) -> i32 {
    let four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
}
