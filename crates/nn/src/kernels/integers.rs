//! Products of integer codes with integer codes: rows in at most 8 bits, a matrix in at most 8 bits with one scale a row.
//!
//! `y[t, o] = s_t s_o sum_i (q[t, i] - z_t) (u[o, i] - z_o)`. The sum is an exact integer, rounded once when it becomes an `f32`, so
//! that `|y - exact| <= 4 e |exact|` with `e = 2^-24`, as long as no intermediate leaves the normal range of `f32`, and the bytes of `y`
//! depend neither on the instruction set nor on the number of threads. What is multiplied are the codes; zero points come from the sums of
//! either side: `sum q u - z_t sum u - z_o sum q + cols z_t z_o`.

use trimtab_io::ActivationStep;

use super::Result;
use super::tile::{Span, over_tiles};
use super::view::{self, PackedView};

/// Rows of codes, `x[t, i] = s_t (q[t, i] - z_t)`.
#[derive(Debug, Clone, Copy)]
pub struct CodeRows<'a> {
    /// `[n, cols]`.
    pub codes: &'a [u8],
    /// `[n]`; a row whose scale is no number gives outputs that are none.
    pub steps: &'a [ActivationStep],
}

/// How dot products of bytes are taken; all give the same integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dots {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with VNNI: 64 products an instruction.
    #[cfg(target_arch = "x86_64")]
    Vnni,
}

impl Dots {
    /// Every way, slowest first.
    #[cfg(target_arch = "x86_64")]
    const ALL: &[Self] = &[Self::Portable, Self::Avx2, Self::Vnni];
    #[cfg(not(target_arch = "x86_64"))]
    const ALL: &[Self] = &[Self::Portable];

    fn detect() -> Self {
        *Self::ALL.iter().rfind(|dots| dots.is_available()).expect("plain Rust runs anywhere")
    }

    fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => super::Isa::Avx2.is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => super::vnni::is_available(),
        }
    }

    /// `sum_i w[i] x[i]` of rows of one length, at most [`SEGMENT`] columns.
    fn of<const R: usize, const N: usize>(self, w: [&[u8]; R], x: [&[i8]; N]) -> [[i32; N]; R] {
        match self {
            Self::Portable => w.map(|w| x.map(|x| portable(w, x))),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => super::avx2::integers::dots(w, x),
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => super::vnni::dots(w, x),
        }
    }

    /// Rows of `x` in a block with [`BLOCK`] rows of `w`: as many sums as registers hold.
    fn width(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => 6,
            _ => 2,
        }
    }
}

fn portable(w: &[u8], x: &[i8]) -> i32 {
    w.iter().zip(x).map(|(w, x)| i32::from(*w) * i32::from(*x)).sum()
}

/// Length of the shortest of the rows, up to which all can be read.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn shortest(w: &[&[u8]], x: &[&[i8]]) -> usize {
    w.iter().map(|row| row.len()).chain(x.iter().map(|row| row.len())).min().unwrap_or(0)
}

/// Rows of `w` in a block.
const BLOCK: usize = 4;

/// Columns that are multiplied at a time: an `i32` holds the sum of their products, 255 times -128 each.
const SEGMENT: usize = 8192;

/// Whether [`matmul_codes`] takes the matrix: one scale a row.
pub fn takes(view: &PackedView<'_>) -> bool {
    view.n_groups() == 1
}

/// Multiplies rows of codes `x` with a packed matrix that has one scale a row into `y` (`[n, rows]`), with the best instructions here.
///
/// # Errors
///
/// A view whose parts do not fit together or that has groups, or an `x` or `y` of another length.
pub fn matmul_codes(matrix: &PackedView<'_>, x: CodeRows<'_>, y: &mut [f32]) -> Result<()> {
    multiply(Dots::detect(), matrix, x, y)
}

fn multiply(dots: Dots, matrix: &PackedView<'_>, x: CodeRows<'_>, y: &mut [f32]) -> Result<()> {
    matrix.check()?;
    let (rows, cols, n) = (matrix.rows, matrix.cols, x.steps.len());
    view::expect_len("scales", Some(rows), matrix.scales.len())?;
    view::expect_len("x", n.checked_mul(cols), x.codes.len())?;
    view::expect_len("y", n.checked_mul(rows), y.len())?;
    // Codes less 128 are signed bytes, and zero points move with them; a row of ones sums up the weights.
    let signed: Vec<i8> = x.codes.iter().map(|code| (code ^ 0x80).cast_signed()).collect();
    let sums: Vec<i64> =
        signed.chunks(cols.max(1)).map(|row| row.iter().map(|&q| i64::from(q)).sum()).collect();
    let ones = vec![1i8; cols];
    let fill = |w_rows: Span, x_rows: Span, out: &mut [f32], stride: usize, scratch: &mut Scratch| {
        let Scratch { codes, products } = scratch;
        let tile = Bytes::new(matrix, w_rows, codes);
        let inputs = |t: usize| match t {
            t if t < x_rows.len => &signed[(x_rows.start + t) * cols..][..cols],
            _ => &ones,
        };
        let count = x_rows.len + 1;
        products.clear();
        products.resize(w_rows.len.next_multiple_of(BLOCK) * count, 0);
        add_products(dots, &tile, &inputs, count, products);
        for (r, products) in products.chunks_exact(count).take(w_rows.len).enumerate() {
            let row = w_rows.start + r;
            let zero = matrix.zeros.map_or(1 << (matrix.bits - 1), |zeros| i64::from(zeros[row]));
            let of_weights = products[x_rows.len] - zero * cols as i64;
            for (t, product) in products[..x_rows.len].iter().enumerate() {
                let (step, sum) = (x.steps[x_rows.start + t], sums[x_rows.start + t]);
                let centred = product - zero * sum - (i64::from(step.zero) - 128) * of_weights;
                out[t * stride + r] = centred as f32 * matrix.scales[row] * step.scale;
            }
        }
    };
    over_tiles([rows, cols, n], y, Scratch::default, fill);
    Ok(())
}

/// What a thread needs for its tiles.
#[derive(Default)]
struct Scratch {
    codes: Vec<u8>,
    /// `[rows of W, rows of x and one]`.
    products: Vec<i64>,
}

/// Adds the products of a tile with `count` rows of `x` to `products`, `[rows of the tile in whole blocks, count]`.
fn add_products<'a>(
    dots: Dots,
    tile: &Bytes<'_>,
    x: &impl Fn(usize) -> &'a [i8],
    count: usize,
    products: &mut [i64],
) {
    for start in (0..tile.cols).step_by(SEGMENT) {
        let part = start..(start + SEGMENT).min(tile.cols);
        // The rows of `x` of a block stay in the cache while the matrix passes by.
        let mut t = 0;
        while t < count {
            let taken = (count - t).min(dots.width());
            // Past the end, the last row is multiplied again and left out.
            let x = |k: usize| &x(t + k.min(taken - 1))[part.clone()];
            for (block, products) in products.chunks_exact_mut(BLOCK * count).enumerate() {
                let w = tile.rows(BLOCK * block).map(|row| &row[part.clone()]);
                let sums = products.chunks_exact_mut(count).map(|products| &mut products[t..t + taken]);
                match taken {
                    1 => add_block::<1>(dots, w, x, sums),
                    2 => add_block::<2>(dots, w, x, sums),
                    3 | 4 => add_block::<4>(dots, w, x, sums),
                    _ => add_block::<6>(dots, w, x, sums),
                }
            }
            t += taken;
        }
    }
}

/// Adds the products of a block of rows of the matrix with `N` rows of `x` to the sums of each of its rows.
fn add_block<'a, 's, const N: usize>(
    dots: Dots,
    w: [&[u8]; BLOCK],
    x: impl Fn(usize) -> &'a [i8],
    sums: impl Iterator<Item = &'s mut [i64]>,
) {
    let products: [[i32; N]; BLOCK] = dots.of(w, std::array::from_fn(x));
    for (sums, products) in sums.zip(products) {
        sums.iter_mut().zip(products).for_each(|(sum, product)| *sum += i64::from(product));
    }
}

/// Some rows of a matrix, a byte a code.
struct Bytes<'a> {
    codes: &'a [u8],
    stride: usize,
    rows: usize,
    cols: usize,
}

impl<'a> Bytes<'a> {
    fn new(matrix: &PackedView<'a>, span: Span, scratch: &'a mut Vec<u8>) -> Self {
        let (rows, cols) = (span.len, matrix.cols);
        if matrix.bits == 8 {
            let codes = matrix.codes_from(span.start);
            return Self { codes, stride: matrix.row_bytes(), rows, cols };
        }
        scratch.resize(rows * cols, 0);
        for (i, out) in scratch.chunks_exact_mut(cols.max(1)).enumerate() {
            unpack(matrix, span.start + i, out);
        }
        Self { codes: scratch, stride: cols, rows, cols }
    }

    /// Rows of a block from `first` on; past the end, the last again.
    fn rows(&self, first: usize) -> [&'a [u8]; BLOCK] {
        std::array::from_fn(|i| &self.codes[(first + i).min(self.rows - 1) * self.stride..][..self.cols])
    }
}

/// The codes of a row, each in a byte.
fn unpack(matrix: &PackedView<'_>, row: usize, out: &mut [u8]) {
    let (bits, codes) = (u32::from(matrix.bits), &matrix.codes_from(row)[..matrix.row_bytes()]);
    if bits == 4 {
        // The usual width, in a loop that compilers vectorize.
        let (pairs, last) = out.as_chunks_mut();
        for ([low, high], byte) in pairs.iter_mut().zip(codes) {
            (*low, *high) = (byte & 15, byte >> 4);
        }
        last.iter_mut().for_each(|code| *code = codes[pairs.len()] & 15);
        return;
    }
    let low = |codes: u32, places: u64| ((1u64 << (codes * bits)) - 1) * places;
    let (four, two, one) = (low(4, 1), low(2, 1 << 32 | 1), low(1, 0x0001_0001_0001_0001));
    // Eight codes are as many bytes as a code has bits; they move apart by halves.
    for (i, out) in out.chunks_mut(8).enumerate() {
        let bytes = &codes[i * bits as usize..];
        let word = match bytes.first_chunk() {
            Some(bytes) => u64::from_le_bytes(*bytes),
            None => bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        };
        let word = word & four | (word >> (4 * bits) & four) << 32;
        let word = word & two | (word >> (2 * bits) & two) << 16;
        let word = word & one | (word >> bits & one) << 8;
        match out.first_chunk_mut() {
            Some(out) => *out = word.to_le_bytes(),
            None => out.copy_from_slice(&word.to_le_bytes()[..out.len()]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Rng, pack, size};
    use super::*;

    struct Problem {
        dims: [usize; 3],
        bits: u8,
        plain: Vec<u8>,
        codes: Vec<u8>,
        scales: Vec<f32>,
        zeros: Option<Vec<u8>>,
        x: Vec<u8>,
        steps: Vec<ActivationStep>,
    }

    impl Problem {
        fn drawn(rng: &mut Rng, [n, rows, cols]: [usize; 3], bits: u8, symmetric: bool) -> Self {
            let levels = 1usize << bits;
            // Ends often: there a product of bytes overflows first.
            let mut code = |levels: usize| match rng.below(4) {
                0 => 0,
                1 => (levels - 1) as u8,
                _ => rng.below(levels) as u8,
            };
            let plain: Vec<u8> = (0..rows * cols).map(|_| code(levels)).collect();
            let x = (0..n * cols).map(|_| code(256)).collect();
            let zeros = (!symmetric).then(|| (0..rows).map(|_| code(levels)).collect());
            let zero: Vec<u8> = (0..n).map(|_| code(256)).collect();
            let steps =
                zero.into_iter().map(|zero| ActivationStep { scale: rng.number() + 1.5, zero }).collect();
            let scales = (0..rows).map(|_| rng.number()).collect();
            let codes = pack(&plain, cols, usize::from(bits));
            Self { dims: [n, rows, cols], bits, plain, codes, scales, zeros, x, steps }
        }

        fn view(&self) -> PackedView<'_> {
            let [_, rows, cols] = self.dims;
            let (codes, scales, zeros) = (&self.codes, &self.scales, self.zeros.as_deref());
            PackedView { rows, cols, bits: self.bits, group_size: cols.max(1), codes, scales, zeros }
        }

        fn product(&self, dots: Dots) -> Vec<f32> {
            let [n, rows, _] = self.dims;
            let mut y = vec![f32::NAN; n * rows];
            multiply(dots, &self.view(), CodeRows { codes: &self.x, steps: &self.steps }, &mut y).unwrap();
            y
        }

        /// Term by term.
        fn exact(&self) -> Vec<f32> {
            let [n, rows, cols] = self.dims;
            let one = |at: usize| {
                let (t, o) = (at / rows, at % rows);
                let zero = self.zeros.as_ref().map_or(1 << (self.bits - 1), |zeros| i64::from(zeros[o]));
                let term = |i: usize| {
                    (i64::from(self.x[t * cols + i]) - i64::from(self.steps[t].zero))
                        * (i64::from(self.plain[o * cols + i]) - zero)
                };
                (0..cols).map(term).sum::<i64>() as f32 * self.scales[o] * self.steps[t].scale
            };
            (0..n * rows).map(one).collect()
        }
    }

    #[test]
    fn products_are_exact_integers_by_any_instructions() {
        let mut rng = Rng::new(11);
        let shapes = [
            [1, 1, 1],
            [1, 5, 63],
            [2, 4, 64],
            [3, 33, 65],
            [5, 7, 130],
            [4, 3, 31],
            [9, 40, 257],
            [140, 37, 96],
            [131, 64, 17],
        ];
        for shape in shapes.into_iter().take(size(shapes.len(), 4)) {
            for bits in 1..=8 {
                for symmetric in [true, false] {
                    let problem = Problem::drawn(&mut rng, shape, bits, symmetric);
                    let exact = problem.exact();
                    for dots in Dots::ALL.iter().copied().filter(|dots| dots.is_available()) {
                        assert!(problem.product(dots) == exact, "{dots:?} {shape:?} {bits} bits {symmetric}");
                    }
                    // Control: a zero point of an input matters.
                    let mut other = problem;
                    other.steps[0].zero ^= 1;
                    assert!(
                        other.product(Dots::detect()) != exact || exact.iter().all(|y| *y == 0.0),
                        "{shape:?} {bits}"
                    );
                }
            }
        }
    }

    /// Sums past 32 bits: every product is the largest that there is.
    #[test]
    fn long_rows_do_not_overflow() {
        let cols = size(200_003, 70_001);
        for (code, zero) in [(0u8, 255u8), (255, 0)] {
            let problem = Problem {
                dims: [1, 1, cols],
                bits: 8,
                plain: vec![code; cols],
                codes: pack(&vec![code; cols], cols, 8),
                scales: vec![1.0],
                zeros: Some(vec![zero]),
                x: vec![255; cols],
                steps: vec![ActivationStep { scale: 1.0, zero: 0 }],
            };
            let sign = if code == 0 { -1.0 } else { 1.0 };
            for dots in Dots::ALL.iter().copied().filter(|dots| dots.is_available()) {
                assert_eq!(problem.product(dots), [sign * (255.0 * 255.0 * cols as f64) as f32], "{dots:?}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_no_number_stays_none() {
        let problem = Problem::drawn(&mut Rng::new(3), [2, 3, 8], 4, true);
        let x = CodeRows { codes: &problem.x, steps: &problem.steps };
        let mut y = vec![0.0; 6];
        let grouped = PackedView { group_size: 4, scales: &[1.0; 6], ..problem.view() };
        assert!(!takes(&grouped) && takes(&problem.view()));
        assert!(matmul_codes(&grouped, x, &mut y).is_err());
        assert!(matmul_codes(&problem.view(), CodeRows { codes: &problem.x[1..], ..x }, &mut y).is_err());
        assert!(matmul_codes(&problem.view(), x, &mut y[1..]).is_err());
        matmul_codes(&problem.view(), CodeRows { codes: &[], steps: &[] }, &mut []).unwrap();
        let nan = [problem.steps[0], ActivationStep { scale: f32::NAN, zero: 0 }];
        matmul_codes(&problem.view(), CodeRows { steps: &nan, ..x }, &mut y).unwrap();
        assert!(y[..3].iter().all(|y| y.is_finite()) && y[3..].iter().all(|y| y.is_nan()));
    }
}
