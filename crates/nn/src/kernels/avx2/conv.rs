//! The inner loops of convolutions and their gradients.

use std::arch::x86_64::*;

use super::sum_lanes;
use crate::kernels::conv::{BLOCK, Block, Pairs, ROWS, RUN, TAPS, Taps};

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

/// `sums[r][t] = sum over images, runs and i of gradients[r, run, i] padded[starts[run] + taps[t] + i]`.
pub(crate) fn add_pairs(pairs: &Pairs<'_>, rows: usize, taps: &[usize], sums: &mut [[f32; TAPS]; ROWS]) {
    let last = pairs.images - 1;
    let reach = pairs.starts.iter().max().unwrap_or(&0) + taps.iter().max().unwrap_or(&0);
    assert!(last * pairs.image_len + reach + RUN <= pairs.padded.len());
    assert!(last * pairs.gradient_len + rows * pairs.starts.len() * RUN <= pairs.gradients.len());
    // SAFETY: reached only past `Isa::require`, so the processor has AVX2 and FMA; all runs lie in their slices.
    unsafe {
        match (rows, taps.len()) {
            (1, 1) => products::<1, 1>(pairs, taps, sums),
            (1, 2) => products::<1, 2>(pairs, taps, sums),
            (1, _) => products::<1, 3>(pairs, taps, sums),
            (2, 1) => products::<2, 1>(pairs, taps, sums),
            (2, 2) => products::<2, 2>(pairs, taps, sums),
            (2, _) => products::<2, 3>(pairs, taps, sums),
            (3, 1) => products::<3, 1>(pairs, taps, sums),
            (3, 2) => products::<3, 2>(pairs, taps, sums),
            (3, _) => products::<3, 3>(pairs, taps, sums),
            (_, 1) => products::<4, 1>(pairs, taps, sums),
            (_, 2) => products::<4, 2>(pairs, taps, sums),
            _ => products::<4, 3>(pairs, taps, sums),
        }
    }
}

/// # Safety
///
/// `RUN` numbers lie in `padded` at the sum of any image, start and tap, and `R` rows of runs in `gradients` for any image.
#[target_feature(enable = "avx2,fma")]
unsafe fn products<const R: usize, const T: usize>(
    pairs: &Pairs<'_>,
    taps: &[usize],
    sums: &mut [[f32; TAPS]; ROWS],
) {
    let taps: [usize; T] = std::array::from_fn(|t| taps[t]);
    let row_len = pairs.starts.len() * RUN;
    let mut lanes = [[_mm256_setzero_ps(); T]; R];
    for image in 0..pairs.images {
        // SAFETY: the caller promises that all of these lie in their slices.
        let (padded, mut gradients) = unsafe {
            let padded = pairs.padded.as_ptr().add(image * pairs.image_len);
            (padded, pairs.gradients.as_ptr().add(image * pairs.gradient_len))
        };
        for &start in pairs.starts {
            // SAFETY: as above; after the last run, the pointer is one run past those of the first row.
            unsafe {
                let mut inputs = [_mm256_setzero_ps(); T];
                for (inputs, tap) in inputs.iter_mut().zip(taps) {
                    *inputs = _mm256_loadu_ps(padded.add(start + tap));
                }
                for (r, lanes) in lanes.iter_mut().enumerate() {
                    let gradients = _mm256_loadu_ps(gradients.add(r * row_len));
                    for (lanes, inputs) in lanes.iter_mut().zip(inputs) {
                        *lanes = _mm256_fmadd_ps(gradients, inputs, *lanes);
                    }
                }
                gradients = gradients.add(RUN);
            }
        }
    }
    for (sums, lanes) in sums.iter_mut().zip(lanes) {
        sums.iter_mut().zip(lanes).for_each(|(sum, lanes)| *sum = sum_lanes(lanes));
    }
}
