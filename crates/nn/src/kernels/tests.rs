//! The kernels against products in `f64`, over shapes that hit every path and every ragged end.

use half::bf16;

use super::*;

/// `usual`, and a size that an interpreter can bear: Miri checks every access to memory (tools/miri.sh).
pub(super) const fn size(usual: usize, interpreted: usize) -> usize {
    if cfg!(miri) { interpreted } else { usual }
}

/// Unit roundoff of `f32`.
const EPS: f64 = 1.0 / (1u64 << 24) as f64;

pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// In `-1 .. 1`.
    pub(super) fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// A packed matrix with its codes in the open.
struct Packed {
    dims: [usize; 2],
    bits: u8,
    group_size: usize,
    plain: Vec<u8>,
    codes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Option<Vec<u8>>,
}

impl Packed {
    fn random(rng: &mut Rng, [rows, cols]: [usize; 2], bits: u8, group_size: usize, symmetric: bool) -> Self {
        let levels = 1usize << bits;
        let plain: Vec<u8> = (0..rows * cols).map(|_| rng.below(levels) as u8).collect();
        let groups = rows * cols.div_ceil(group_size);
        let scales = (0..groups).map(|_| rng.number() * 10f32.powi(rng.below(7) as i32 * 10 - 30)).collect();
        let zeros = (!symmetric).then(|| (0..groups).map(|_| rng.below(levels) as u8).collect());
        let codes = pack(&plain, cols, usize::from(bits));
        Self { dims: [rows, cols], bits, group_size, plain, codes, scales, zeros }
    }

    fn view(&self) -> PackedView<'_> {
        PackedView {
            rows: self.dims[0],
            cols: self.dims[1],
            bits: self.bits,
            group_size: self.group_size,
            codes: &self.codes,
            scales: &self.scales,
            zeros: self.zeros.as_deref(),
        }
    }

    /// Weight and the magnitude `s * (u + z)` that bounds its error.
    fn weight(&self, o: usize, i: usize) -> (f64, f64) {
        let cols = self.dims[1];
        let at = o * cols.div_ceil(self.group_size) + i / self.group_size;
        let zero = self.zeros.as_ref().map_or(1u32 << (self.bits - 1), |zeros| zeros[at].into());
        let (code, zero) = (f64::from(self.plain[o * cols + i]), f64::from(zero));
        let scale = f64::from(self.scales[at]);
        (scale * (code - zero), scale.abs() * (code + zero))
    }
}

/// Bit by bit: what the layout says, as slowly as it can be said.
pub(super) fn pack(plain: &[u8], cols: usize, bits: usize) -> Vec<u8> {
    let row_bytes = (cols * bits).div_ceil(32) * 4;
    let mut codes = vec![0u8; plain.len() / cols * row_bytes];
    for (i, &code) in plain.iter().enumerate() {
        for bit in 0..bits {
            let at = (i % cols) * bits + bit;
            codes[i / cols * row_bytes + at / 8] |= (code >> bit & 1) << (at % 8);
        }
    }
    codes
}

/// Exact product and error bound for row `x` and output `o`, as the module states it.
fn expected(x: &[f32], weight: impl Fn(usize) -> (f64, f64), n_groups: usize, fixed: bool) -> (f64, f64) {
    let c = (x.len() / 8 + n_groups + 16) as f64;
    let (mut y, mut bound) = (0.0, 0.0);
    for (run, x) in x.chunks(128).enumerate() {
        let largest = if fixed { x.iter().fold(0.0, |m: f32, x| m.max(x.abs())) } else { 0.0 };
        for (i, &x) in x.iter().enumerate() {
            let (w, magnitude) = weight(run * 128 + i);
            y += f64::from(x) * w;
            bound += EPS * magnitude * (c * f64::from(x).abs() + 3.0 * f64::from(largest));
        }
    }
    (y, bound)
}

/// The first output outside its bound.
fn violation(isa: Isa, packed: &Packed, x: &[f32], y: &[f32]) -> Option<String> {
    let [rows, cols] = packed.dims;
    let groups = cols.div_ceil(packed.group_size);
    let fixed = isa == Isa::Avx2 && matches!(packed.bits, 2 | 4) && x.len() <= 12 * cols;
    for (t, (x, y)) in x.chunks_exact(cols).zip(y.chunks_exact(rows)).enumerate() {
        for (o, &y) in y.iter().enumerate() {
            let (exact, bound) = expected(x, |i| packed.weight(o, i), groups, fixed);
            let error = (f64::from(y) - exact).abs();
            if error.is_nan() || error > bound {
                return Some(format!("y[{t}, {o}] = {y}, exact {exact}, error {error:e} > {bound:e}"));
            }
        }
    }
    None
}

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// Streamed, shared by output rows, and from 128 on by rows of `x` in portions of 64, whole and ragged.
const N_ROWS: [usize; 14] = [1, 2, 3, 4, 5, 6, 7, 8, 13, 33, 70, 127, 128, 201];

fn some_rows(rng: &mut Rng) -> usize {
    N_ROWS[rng.below(size(N_ROWS.len(), 5))]
}

#[test]
fn packed_products_stay_within_the_bound_at_every_width_group_and_ragged_end() {
    let mut rng = Rng(7);
    for bits in 1..=8 {
        for group in [5, 32, 128, 1, 8, 16, 24, 64, 100, 256, usize::MAX].into_iter().take(size(11, 3)) {
            for round in 0..size(6, 1) {
                let cols = if round == 0 { size(512, 136) } else { 1 + rng.below(700) };
                let dims = [1 + rng.below(size(70, 4)), cols];
                let group_size = group.min(cols + rng.below(3));
                let packed = Packed::random(&mut rng, dims, bits, group_size, round % 2 == 0);
                let n = some_rows(&mut rng);
                // Outliers by column, as activations have them.
                let x: Vec<f32> =
                    (0..n * cols).map(|i| rng.number() * if i % 37 == 5 { 1e3 } else { 1.0 }).collect();
                for isa in isas() {
                    let mut y = vec![f32::NAN; n * dims[0]];
                    matmul_packed_with(isa, &packed.view(), &x, n, &mut y).unwrap();
                    if let Some(message) = violation(isa, &packed, &x, &y) {
                        panic!("{isa}, {bits} bits, group {group}, {dims:?}, {n} rows: {message}");
                    }
                }
            }
        }
    }
}

#[test]
fn one_wrong_code_breaks_the_bound() {
    let mut rng = Rng(8);
    for bits in 1..=8 {
        for n in [1, 13] {
            let mut packed = Packed::random(&mut rng, [3, 300], bits, 32, false);
            packed.scales.fill(0.01);
            let x: Vec<f32> = (0..n * 300).map(|_| 0.5 + rng.number() / 4.0).collect();
            let mut y = vec![0.0; n * 3];
            packed.plain[300 + 123] ^= 1;
            matmul_packed(&packed.view(), &x, n, &mut y).unwrap();
            assert!(violation(Isa::detect(), &packed, &x, &y).is_some(), "{bits} bits, {n} rows");
        }
    }
}

#[test]
fn hand_case_of_four_bits() {
    // Codes 1 2 3 | 15, scales 2 | 0.5, zeros 1 | 7: weights 0 2 4 | 4; x = 1 10 100 1000.
    let view = PackedView {
        rows: 1,
        cols: 4,
        bits: 4,
        group_size: 3,
        codes: &[0x21, 0xF3, 0, 0],
        scales: &[2.0, 0.5],
        zeros: Some(&[1, 7]),
    };
    for isa in isas() {
        let mut y = [0.0];
        matmul_packed_with(isa, &view, &[1.0, 10.0, 100.0, 1000.0], 1, &mut y).unwrap();
        assert_eq!(y, [4420.0], "{isa}");
    }
}

#[test]
fn dense_products_stay_within_the_bound() {
    let mut rng = Rng(9);
    for round in 0..size(60, 9) {
        let [rows, cols] = [1 + rng.below(size(70, 9)), 1 + rng.below(size(1200, 150))];
        let n = N_ROWS[round % N_ROWS.len()];
        let half: Vec<bf16> = (0..rows * cols).map(|_| bf16::from_f32(rng.number())).collect();
        let full: Vec<f32> = (0..rows * cols).map(|_| rng.number()).collect();
        let x: Vec<f32> = (0..n * cols).map(|_| rng.number()).collect();
        for isa in isas() {
            for (view, is_half) in
                [(DenseView::bf16(rows, cols, &half), true), (DenseView::f32(rows, cols, &full), false)]
            {
                let mut y = vec![f32::NAN; n * rows];
                matmul_dense_with(isa, &view, &x, n, &mut y).unwrap();
                let weight = |o: usize, i: usize| {
                    let w = if is_half { half[o * cols + i].to_f64() } else { full[o * cols + i].into() };
                    (w, w.abs())
                };
                for (i, &y) in y.iter().enumerate() {
                    let (t, o) = (i / rows, i % rows);
                    let (exact, bound) = expected(&x[t * cols..][..cols], |i| weight(o, i), 0, false);
                    assert!((f64::from(y) - exact).abs() <= bound, "{isa} {n}x{rows}x{cols} at [{t}, {o}]");
                }
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let mut rng = Rng(10);
    let [rows, cols] = [size(300, 20), size(700, 140)];
    for (bits, group, n) in [(4, 128, 1), (4, 32, 3), (3, 64, 1), (8, 128, 9), (4, 64, 13), (5, 7, 40)] {
        let packed = Packed::random(&mut rng, [rows, cols], bits, group, false);
        let dense: Vec<f32> = (0..rows * cols).map(|_| rng.number()).collect();
        let x: Vec<f32> = (0..n * cols).map(|_| rng.number()).collect();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut y = [vec![0.0; n * rows], vec![0.0; n * rows]];
            pool.install(|| {
                matmul_packed(&packed.view(), &x, n, &mut y[0]).unwrap();
                matmul_dense(&DenseView::f32(rows, cols, &dense), &x, n, &mut y[1]).unwrap();
            });
            y.map(|y| y.into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(3));
    }
}

#[test]
fn rows_are_decoded_to_the_same_bits_everywhere() {
    let mut rng = Rng(11);
    for bits in 1..=8 {
        for group in [3, 32, 1000] {
            let cols = 1 + rng.below(size(300, 80));
            let packed = Packed::random(&mut rng, [5, cols], bits, group, bits % 2 == 0);
            let view = packed.view();
            for row in 0..5 {
                let mut numbers = vec![f32::NAN; cols];
                view.read_row(row, &mut numbers).unwrap();
                for (i, &number) in numbers.iter().enumerate() {
                    let exact = packed.weight(row, i).0;
                    assert!((f64::from(number) - exact).abs() <= EPS * exact.abs());
                }
                #[cfg(target_arch = "x86_64")]
                if Isa::Avx2.is_available() {
                    let first = rng.below(cols) / 8 * 8;
                    let mut fast = vec![f32::NAN; cols - first];
                    avx2::decode::decode_segment(&view, row, first, &mut fast);
                    assert_eq!(fast, numbers[first..]);
                }
            }
        }
    }
}

#[test]
fn a_number_that_is_not_finite_shows_in_the_outputs_of_its_row_alone() {
    let packed = Packed::random(&mut Rng(12), [40, 200], 4, 64, true);
    for isa in isas() {
        for n in [2, 13] {
            let mut x = vec![1.0; n * 200];
            x[77] = f32::INFINITY;
            let mut y = vec![0.0; n * 40];
            matmul_packed_with(isa, &packed.view(), &x, n, &mut y).unwrap();
            assert!(y[40..].iter().all(|y| y.is_finite()));
            assert!(y[..40].iter().all(|y| !y.is_finite()));
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_errors() {
    let packed = Packed::random(&mut Rng(13), [2, 10], 4, 5, false);
    let (x, mut y) = ([0.0; 10], [0.0; 2]);
    let good = packed.view();
    let mut refused = |view: PackedView<'_>| matmul_packed(&view, &x, 1, &mut y).unwrap_err();
    assert_eq!(refused(PackedView { bits: 0, ..good }), Error::Bits { found: 0 });
    assert_eq!(refused(PackedView { bits: 9, ..good }), Error::Bits { found: 9 });
    assert_eq!(refused(PackedView { group_size: 0, ..good }), Error::EmptyGroup);
    assert_eq!(refused(PackedView { cols: usize::MAX, ..good }), Error::Overflow { what: "W" });
    let short = Error::Length { what: "codes", expected: 16, found: 15 };
    assert_eq!(refused(PackedView { codes: &good.codes[1..], ..good }), short);
    assert!(matches!(refused(PackedView { group_size: 4, ..good }), Error::Length { what: "scales", .. }));
    assert!(matches!(refused(PackedView { zeros: Some(&[0]), ..good }), Error::Length { what: "zeros", .. }));
    assert!(matches!(refused(PackedView { cols: 9, ..good }), Error::Length { what: "x", .. }));
    let error = matmul_packed(&good, &x, 1, &mut [0.0; 3]).unwrap_err();
    assert_eq!(error, Error::Length { what: "y", expected: 2, found: 3 });
    assert_eq!(good.read_row(2, &mut [0.0; 10]), Err(Error::Row { rows: 2, found: 2 }));
    let dense = DenseView::f32(2, 10, &x);
    assert!(matches!(matmul_dense(&dense, &x, 1, &mut y), Err(Error::Length { what: "W", .. })));
}

#[test]
fn empty_shapes_give_empty_or_zero_results() {
    let view = PackedView { rows: 2, cols: 0, bits: 4, group_size: 32, codes: &[], scales: &[], zeros: None };
    for isa in isas() {
        for n in [1, 3] {
            let mut y = vec![1.0; 2 * n];
            matmul_packed_with(isa, &view, &[], n, &mut y).unwrap();
            assert!(y.iter().all(|&y| y == 0.0));
            let mut y = vec![1.0; 2 * n];
            matmul_dense_with(isa, &DenseView::f32(2, 0, &[]), &[], n, &mut y).unwrap();
            assert!(y.iter().all(|&y| y == 0.0));
        }
        matmul_packed_with(isa, &PackedView { rows: 0, cols: 5, ..view }, &[0.0; 5], 1, &mut []).unwrap();
        matmul_packed_with(isa, &PackedView { rows: 0, cols: 5, ..view }, &[], 0, &mut []).unwrap();
        matmul_dense_with(isa, &DenseView::f32(2, 0, &[]), &[], 0, &mut []).unwrap();
    }
}
