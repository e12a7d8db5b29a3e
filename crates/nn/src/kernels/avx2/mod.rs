//! Kernels for AVX2 and FMA. Everything here is reached only past [`Isa::require`](super::Isa), dot products of bytes past a choice of
//! their own.

pub(super) mod conv;
pub(super) mod decode;
pub(super) mod dense;
mod digits;
mod fixed;
mod float;
pub(super) mod integers;
mod lanes;
pub(super) mod stream;

use std::arch::x86_64::*;

/// Lanes of 32 bits of a register.
const LANES: usize = 8;

/// Bytes ahead of the current ones that the streaming kernels ask for.
const PREFETCH: usize = 2048;

/// Sum of eight lanes, always in the same order.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn sum_lanes(v: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// Eight consecutive codes from the low `8 * bits` bits of 64.
#[derive(Clone, Copy)]
struct Window {
    low: __m256i,
    high: __m256i,
    mask: __m256i,
}

impl Window {
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn new(bits: usize) -> Self {
        let b = bits as i64;
        // The shuffle below takes the low halves of two 64-bit lanes from each operand, once in either 128-bit half.
        Self {
            low: _mm256_setr_epi64x(0, b, 4 * b, 5 * b),
            high: _mm256_setr_epi64x(2 * b, 3 * b, 6 * b, 7 * b),
            mask: _mm256_set1_epi32((1 << bits) - 1),
        }
    }

    /// The eight codes at `codes` as numbers.
    ///
    /// # Safety
    ///
    /// Eight bytes are readable at `codes`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn load(self, codes: *const u8) -> __m256 {
        // SAFETY: the caller promises eight readable bytes; the read needs no alignment.
        let word = _mm256_set1_epi64x(unsafe { codes.cast::<i64>().read_unaligned() });
        let low = _mm256_castsi256_ps(_mm256_srlv_epi64(word, self.low));
        let high = _mm256_castsi256_ps(_mm256_srlv_epi64(word, self.high));
        let codes = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(low, high));
        _mm256_cvtepi32_ps(_mm256_and_si256(codes, self.mask))
    }
}
