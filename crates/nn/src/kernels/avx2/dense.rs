//! Products with rows of numbers.

use std::arch::x86_64::*;

use half::bf16;

use super::{PREFETCH, sum_lanes};
use crate::kernels::decode;
use crate::kernels::parallel::{CHUNK, over_rows};
use crate::kernels::tile::Tile;
use crate::kernels::view::{DenseValues, DenseView};

/// `out[t * stride + r] += w[r] . x[t]`, in blocks of 4 rows of `w` and 3 of `x`.
pub(crate) fn add_product(w: Tile<'_>, x: Tile<'_>, out: &mut [f32], stride: usize) {
    for t in (0..x.rows).step_by(3) {
        let mut out = Out { values: &mut out[t * stride..], stride };
        for r in (0..w.rows).step_by(4) {
            // SAFETY: reached only past `Isa::require`, so the processor has AVX2 and FMA.
            unsafe {
                match (w.rows - r, x.rows - t) {
                    (4.., 3..) => block::<4, 3>(w, x, [r, t], &mut out),
                    (4.., 2) => block::<4, 2>(w, x, [r, t], &mut out),
                    (4.., _) => block::<4, 1>(w, x, [r, t], &mut out),
                    (left, n) => {
                        for r in r..r + left {
                            match n {
                                3.. => block::<1, 3>(w, x, [r, t], &mut out),
                                2 => block::<1, 2>(w, x, [r, t], &mut out),
                                _ => block::<1, 1>(w, x, [r, t], &mut out),
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Rows of outputs that lie `stride` apart.
struct Out<'a> {
    values: &'a mut [f32],
    stride: usize,
}

#[target_feature(enable = "avx2,fma")]
fn block<const R: usize, const N: usize>(w: Tile<'_>, x: Tile<'_>, [r, t]: [usize; 2], out: &mut Out<'_>) {
    let (mut w_rows, mut x_rows) = ([[].as_slice(); R], [[].as_slice(); N]);
    for (i, row) in w_rows.iter_mut().enumerate() {
        *row = w.row(r + i);
    }
    for (i, row) in x_rows.iter_mut().enumerate() {
        *row = x.row(t + i);
    }
    let sums = dots(w_rows, x_rows);
    for k in 0..N {
        let out = &mut out.values[k * out.stride + r..][..R];
        if R == 4 {
            let four = sum_lanes_of_four([0, 1, 2, 3].map(|i| sums[i % R][k]));
            out.iter_mut().zip(four).for_each(|(out, sum)| *out += sum);
        } else {
            out.iter_mut().zip(&sums).for_each(|(out, sums)| *out += sum_lanes(sums[k]));
        }
    }
}

/// The sums of the lanes of four vectors.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn sum_lanes_of_four([a, b, c, d]: [__m256; 4]) -> [f32; 4] {
    let pairs = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    let four = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
    let mut out = [0.0; 4];
    // SAFETY: `out` holds four numbers.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), four) };
    out
}

/// Dot products of `R` rows with `N` rows of the same length, still in lanes.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn dots<const R: usize, const N: usize>(w: [&[f32]; R], x: [&[f32]; N]) -> [[__m256; N]; R] {
    let len = w.iter().chain(&x).map(|row| row.len()).min().unwrap_or(0);
    let mut sums = [[_mm256_setzero_ps(); N]; R];
    let mut lanes = [_mm256_setzero_ps(); N];
    let whole = len - len % 8;
    for i in (0..whole).step_by(8) {
        // SAFETY: `i + 8 <= len`, the length of the shortest row.
        unsafe {
            for (lanes, x) in lanes.iter_mut().zip(x) {
                *lanes = _mm256_loadu_ps(x.as_ptr().add(i));
            }
            for (sums, w) in sums.iter_mut().zip(w) {
                let w = _mm256_loadu_ps(w.as_ptr().add(i));
                for (sum, x) in sums.iter_mut().zip(lanes) {
                    *sum = _mm256_fmadd_ps(w, x, *sum);
                }
            }
        }
    }
    if whole < len {
        let mask = tail_mask(len - whole);
        // SAFETY: a masked load touches only lanes whose mask is set: `whole .. len`.
        unsafe {
            for (lanes, x) in lanes.iter_mut().zip(x) {
                *lanes = _mm256_maskload_ps(x.as_ptr().add(whole), mask);
            }
            for (sums, w) in sums.iter_mut().zip(w) {
                let w = _mm256_maskload_ps(w.as_ptr().add(whole), mask);
                for (sum, x) in sums.iter_mut().zip(lanes) {
                    *sum = _mm256_fmadd_ps(w, x, *sum);
                }
            }
        }
    }
    sums
}

/// `bf16` to `f32`, exactly.
pub(crate) fn widen(values: &[bf16], out: &mut [f32]) {
    #[target_feature(enable = "avx2,fma")]
    fn wide(values: &[bf16], out: &mut [f32]) {
        decode::widen(values, out);
    }
    // SAFETY: reached only past `Isa::require`, so the processor has AVX2 and FMA.
    unsafe { wide(values, out) }
}

/// A mask of the first `len` lanes.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn tail_mask(len: usize) -> __m256i {
    let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_cmpgt_epi32(_mm256_set1_epi32(len as i32), lane)
}

/// `y = W x` for one row `x`: bound by memory, so the rows are read where they lie.
pub(crate) fn matvec(view: &DenseView<'_>, x: &[f32], y: &mut [f32]) {
    let cols = view.cols();
    over_rows(
        [view.rows(), cols, 1],
        y,
        || (),
        |first, part, ()| {
            debug_assert!(part.len() <= CHUNK);
            for (r, y) in part.iter_mut().enumerate() {
                let at = (first + r) * cols;
                // SAFETY: reached only past `Isa::require`, so the processor has AVX2 and FMA.
                *y = unsafe {
                    match view.values {
                        DenseValues::F32(values) => dot_f32(&values[at..][..cols], x),
                        DenseValues::Bf16(values) => dot_bf16(&values[at..][..cols], x),
                    }
                };
            }
        },
    );
}

#[target_feature(enable = "avx2,fma")]
fn dot_f32(w: &[f32], x: &[f32]) -> f32 {
    let whole = w.len() - w.len() % 32;
    let mut sums = [_mm256_setzero_ps(); 4];
    for i in (0..whole).step_by(32) {
        for (k, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `i + 32 <= w.len() == x.len()`.
            unsafe {
                let w = _mm256_loadu_ps(w.as_ptr().add(i + 8 * k));
                *sum = _mm256_fmadd_ps(w, _mm256_loadu_ps(x.as_ptr().add(i + 8 * k)), *sum);
            }
        }
    }
    let [[rest]] = dots([&w[whole..]], [&x[whole..]]);
    sum_lanes(_mm256_add_ps(sum_four(sums), rest))
}

#[target_feature(enable = "avx2,fma")]
fn dot_bf16(w: &[bf16], x: &[f32]) -> f32 {
    let whole = w.len() - w.len() % 32;
    let mut sums = [_mm256_setzero_ps(); 4];
    for i in (0..whole).step_by(32) {
        _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().wrapping_add(i).cast::<i8>().wrapping_add(PREFETCH));
        for (k, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `i + 32 <= w.len() == x.len()`.
            unsafe {
                let halves = _mm_loadu_si128(w.as_ptr().add(i + 8 * k).cast());
                let w = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves));
                *sum =
                    _mm256_fmadd_ps(_mm256_castsi256_ps(w), _mm256_loadu_ps(x.as_ptr().add(i + 8 * k)), *sum);
            }
        }
    }
    let mut wide = [0.0; 32];
    let rest = &x[whole..];
    decode::widen(&w[whole..], &mut wide);
    let [[rest]] = dots([&wide[..rest.len()]], [rest]);
    sum_lanes(_mm256_add_ps(sum_four(sums), rest))
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn sum_four([a, b, c, d]: [__m256; 4]) -> __m256 {
    _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d))
}
