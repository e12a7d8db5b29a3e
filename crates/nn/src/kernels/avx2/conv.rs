//! The inner loop of convolutions.

use std::arch::x86_64::*;

use crate::kernels::conv::{BLOCK, Block, RUN, Taps};

/// `sums[r][run][i] = sum_k W[r, k] padded[starts[run] + taps[k] + i]`.
pub(crate) fn add_taps(
    block: &Block,
    taps: &Taps,
    padded: &[f32],
    starts: [usize; 2],
    sums: &mut [[[f32; RUN]; 2]; BLOCK],
) {
    assert!(starts[0].max(starts[1]) + taps.reach + RUN <= padded.len());
    // SAFETY: reached only past `Isa::require`, so the processor has AVX2 and FMA; the runs of all taps lie in `padded`.
    unsafe {
        match block.rows {
            1 => rows::<1>(&block.weights, taps, padded, starts, sums),
            2 => rows::<2>(&block.weights, taps, padded, starts, sums),
            3 => rows::<3>(&block.weights, taps, padded, starts, sums),
            4 => rows::<4>(&block.weights, taps, padded, starts, sums),
            5 => rows::<5>(&block.weights, taps, padded, starts, sums),
            _ => rows::<6>(&block.weights, taps, padded, starts, sums),
        }
    }
}

/// # Safety
///
/// `starts[i] + taps.offsets[k] + RUN <= padded.len()` for every run and tap.
#[target_feature(enable = "avx2,fma")]
unsafe fn rows<const R: usize>(
    weights: &[f32],
    taps: &Taps,
    padded: &[f32],
    [first, second]: [usize; 2],
    sums: &mut [[[f32; RUN]; 2]; BLOCK],
) {
    let mut lanes = [[_mm256_setzero_ps(); 2]; R];
    let (weights, _) = weights.as_chunks::<R>();
    for (weights, &tap) in weights.iter().zip(&taps.offsets) {
        // SAFETY: the caller promises `RUN` numbers at both places.
        let (a, b) = unsafe {
            let at = padded.as_ptr().add(tap);
            (_mm256_loadu_ps(at.add(first)), _mm256_loadu_ps(at.add(second)))
        };
        for (lanes, &w) in lanes.iter_mut().zip(weights) {
            let w = _mm256_set1_ps(w);
            *lanes = [_mm256_fmadd_ps(w, a, lanes[0]), _mm256_fmadd_ps(w, b, lanes[1])];
        }
    }
    for (sums, lanes) in sums.iter_mut().zip(lanes) {
        for (sums, lanes) in sums.iter_mut().zip(lanes) {
            // SAFETY: `sums` holds `RUN` numbers.
            unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), lanes) };
        }
    }
}
