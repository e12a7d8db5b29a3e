//! Few rows of `x`: the codes are multiplied where they lie, and every byte of the matrix is read from memory once.

use std::arch::x86_64::*;
use std::ops::Range;

use super::digits::{self, Digits};
use super::lanes::{self, Lanes};
use super::{fixed, float, sum_lanes};
use crate::kernels::PackedView;
use crate::kernels::parallel::over_rows;

/// Rows of `x` up to which streaming beats decoded tiles: with integer products, and with floating-point ones.
const MAX_ROWS: (usize, usize) = (12, 6);

/// Rows of `x` that one pass over a row of codes serves at most.
const PASS_ROWS: usize = 4;

/// Rows of codes that one row of `x` meets at once, where there is only one.
const PAIR: usize = 2;

/// Bytes of `x` that a pass may touch, so that they stay in the first-level cache while the codes stream through it.
const PASS_BYTES: usize = 24 << 10;

/// `y = x W^T` if there are few rows `x` and the groups fall on whole blocks; else leaves `y` alone and says `false`.
pub(crate) fn multiply(view: &PackedView<'_>, x: &[f32], n: usize, y: &mut [f32]) -> bool {
    let (rows, cols) = (view.rows, view.cols);
    if rows * cols * n == 0 {
        return false;
    }
    let Some(x) = Prepared::new(view, x, n) else { return false };
    let bits = usize::from(view.bits);
    let (row_bytes, len, step) = x.walk(bits, PASS_BYTES / (n.min(PASS_ROWS) * size_of::<f32>()));
    over_rows([rows, cols, n], y, Scratch::default, |first, out, scratch| {
        let w_rows = out.len() / n;
        scratch.load_zeros(view, first, w_rows);
        let mut sums = [0.0f32; if MAX_ROWS.0 > MAX_ROWS.1 { MAX_ROWS.0 } else { MAX_ROWS.1 }];
        let sums = &mut sums[..n];
        for start in (0..len).step_by(step) {
            let part = start..(start + step).min(len);
            let mut done = 0;
            if let (1, Prepared::Fixed(x)) = (n, &x) {
                // SAFETY: reached only past `Isa::require`, so the processor has AVX2 and FMA; `part` lies within `x`.
                done = unsafe { add_pairs(view, scratch, first, x, part.clone(), out) };
            }
            for r in done..w_rows {
                let w = scratch.row(view, first, r, row_bytes);
                sums.fill(0.0);
                // SAFETY: reached only past `Isa::require`, so the processor has AVX2 and FMA; `w.codes` holds
                // `row_bytes`, and `x` has a row for each of `sums` and `part` within its length.
                unsafe { add_products(bits, w, &x, part.clone(), sums) }
                sums.iter().enumerate().for_each(|(t, sum)| out[t * w_rows + r] += sum);
            }
        }
    });
    true
}

/// `x` as one of the kernels reads it.
enum Prepared {
    Fixed(Digits),
    Float(Lanes),
}

impl Prepared {
    /// `None` if there are many rows, or if the groups fall on no block of any kernel.
    fn new(view: &PackedView<'_>, x: &[f32], n: usize) -> Option<Self> {
        if let Some(layout) = digits::Layout::new(view) {
            return (n <= MAX_ROWS.0).then(|| Self::Fixed(Digits::new(layout, view.cols, x)));
        }
        let layout = lanes::Layout::new(view).filter(|_| n <= MAX_ROWS.1)?;
        Some(Self::Float(Lanes::new(layout, view.cols, x)))
    }

    /// Bytes of codes that the kernel reads from the start of a row on, the length of a row in its own unit, and how much
    /// of it makes about `cols` columns.
    fn walk(&self, bits: usize, cols: usize) -> (usize, usize, usize) {
        match self {
            Self::Fixed(x) => (x.row_bytes(), x.n_units, x.part(cols)),
            Self::Float(x) => (x.row_bytes(bits), x.n_blocks, x.part(cols)),
        }
    }
}

/// One row of codes; what follows it in `codes` meets the padding of `x`.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) codes: &'a [u8],
    scales: &'a [f32],
    zeros: &'a [f32],
}

impl<'a> Row<'a> {
    /// Scale and zero point of each group from `first` on.
    #[inline]
    pub(super) fn groups(&self, first: usize) -> impl Iterator<Item = (&'a f32, &'a f32)> + use<'a> {
        self.scales[first..].iter().zip(&self.zeros[first..])
    }

    /// Groups of the row.
    #[inline]
    pub(super) fn n_groups(&self) -> usize {
        self.scales.len()
    }

    /// Scale and zero point of a group, in every lane.
    ///
    /// # Safety
    ///
    /// `index` is below [`Self::n_groups`].
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn group(&self, index: usize) -> [__m256; 2] {
        // SAFETY: promised by the caller; there are as many zero points as scales.
        unsafe {
            [
                _mm256_set1_ps(*self.scales.get_unchecked(index)),
                _mm256_set1_ps(*self.zeros.get_unchecked(index)),
            ]
        }
    }
}

/// What a thread needs to show rows to the kernels.
#[derive(Default)]
struct Scratch {
    codes: Vec<u8>,
    /// Zero points of the rows of a chunk, as numbers; where they are all the same, those of one row.
    zeros: Vec<f32>,
}

impl Scratch {
    fn load_zeros(&mut self, view: &PackedView<'_>, first: usize, rows: usize) {
        let groups = view.n_groups();
        self.zeros.clear();
        match view.zeros {
            Some(zeros) => {
                let zeros = &zeros[first * groups..][..rows * groups];
                self.zeros.extend(zeros.iter().map(|&zero| f32::from(zero)));
            }
            None => self.zeros.resize(groups, view.middle()),
        }
    }

    /// Zero points of row `r` of the chunk.
    fn row_zeros(&self, view: &PackedView<'_>, r: usize) -> &[f32] {
        let groups = view.n_groups();
        &self.zeros[if view.zeros.is_some() { r * groups } else { 0 }..][..groups]
    }

    /// Row `first + r`, where `first` is the row that the zero points were loaded from.
    fn row<'a>(&'a mut self, view: &PackedView<'a>, first: usize, r: usize, row_bytes: usize) -> Row<'a> {
        let mut codes = view.codes_from(first + r);
        if codes.len() < row_bytes {
            // The last rows: their last block would end past the matrix.
            self.codes.clear();
            self.codes.extend_from_slice(codes);
            self.codes.resize(row_bytes, 0);
            codes = &self.codes;
        }
        Row { codes, scales: view.row_scales(first + r), zeros: self.row_zeros(view, r) }
    }
}

/// Adds the products of the only row of `x` with the rows of a chunk, two at a time, over `part`, to `y`; says how many
/// rows it did: an odd last one, and those whose last block would end past the matrix, are left.
///
/// # Safety
///
/// `part` lies within the units of `x`, and the zero points of the chunk from row `first` on are loaded.
#[target_feature(enable = "avx2,fma")]
unsafe fn add_pairs(
    view: &PackedView<'_>,
    scratch: &Scratch,
    first: usize,
    x: &Digits,
    part: Range<usize>,
    y: &mut [f32],
) -> usize {
    let row_bytes = x.row_bytes();
    let row = |r: usize| {
        let (codes, scales) = (view.codes_from(first + r), view.row_scales(first + r));
        Row { codes, scales, zeros: scratch.row_zeros(view, r) }
    };
    let mut done = 0;
    for y in y.as_chunks_mut::<PAIR>().0 {
        let w = [row(done), row(done + 1)];
        if w[1].codes.len() < row_bytes {
            break;
        }
        // SAFETY: both rows hold `row_bytes`: the first begins before the second.
        let [[a], [b]] = unsafe { fixed::rows::<PAIR, 1>(w, x, part.clone(), 0) };
        y[0] += sum_lanes(a);
        y[1] += sum_lanes(b);
        done += PAIR;
    }
    done
}

/// Adds the products of all rows of `x` with one row of codes, over `part`, to `y`.
///
/// # Safety
///
/// `w.codes` holds the row bytes that `x` states, `part` lies within its length, and `x` has as many rows as `y`.
#[target_feature(enable = "avx2,fma")]
unsafe fn add_products(bits: usize, w: Row<'_>, x: &Prepared, part: Range<usize>, y: &mut [f32]) {
    let mut t = 0;
    while t < y.len() {
        let part = part.clone();
        // SAFETY: passed on.
        t += unsafe {
            match y.len() - t {
                PASS_ROWS.. => pass::<PASS_ROWS>(bits, w, x, part, t, y),
                2.. => pass::<2>(bits, w, x, part, t, y),
                _ => pass::<1>(bits, w, x, part, t, y),
            }
        };
    }
}

/// Rows `t .. t + N` of `x`; says `N`.
///
/// # Safety
///
/// As for [`add_products`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn pass<const N: usize>(
    bits: usize,
    w: Row<'_>,
    x: &Prepared,
    part: Range<usize>,
    t: usize,
    y: &mut [f32],
) -> usize {
    // SAFETY: passed on.
    let lanes: [__m256; N] = unsafe {
        match x {
            Prepared::Fixed(x) => fixed::rows::<1, N>([w], x, part, t)[0],
            Prepared::Float(x) => float::row::<N>(bits, w, x, part, t),
        }
    };
    for (y, lanes) in y[t..].iter_mut().zip(lanes) {
        *y += sum_lanes(lanes);
    }
    N
}
