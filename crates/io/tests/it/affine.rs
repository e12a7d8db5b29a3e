//! Packed matrices: round trips for every width, group and shape.

use proptest::prelude::*;
use trimtab_io::{AffineScheme, AffineTensor, Bytes, Dtype, bits, round_floats};

/// A random matrix and what went into it.
#[derive(Clone, Debug)]
pub struct Case {
    pub rows: usize,
    pub cols: usize,
    pub scheme: AffineScheme,
    pub codes: Vec<u8>,
    pub scales: Vec<f32>,
    pub zeros: Option<Vec<u8>>,
    pub g_idx: Option<Vec<u32>>,
    pub scale_dtype: Dtype,
}

impl Case {
    pub fn pack(&self) -> trimtab_io::Result<AffineTensor> {
        let Self { rows, cols, scheme, codes, scales, zeros, g_idx, scale_dtype } = self.clone();
        AffineTensor::from_codes(rows, cols, scheme, &codes, scales, zeros, g_idx, scale_dtype)
    }

    /// The definition, element by element.
    pub fn dequantize(&self) -> Vec<f32> {
        let groups = self.scheme.n_groups(self.cols);
        let value = |r: usize, c: usize| {
            let consecutive = self.scheme.group_size.map_or(0, |size| c / size);
            let group = r * groups + self.g_idx.as_ref().map_or(consecutive, |g| g[c] as usize);
            let zero =
                self.zeros.as_ref().map_or(1 << (self.scheme.bits - 1), |zeros| i32::from(zeros[group]));
            (i32::from(self.codes[r * self.cols + c]) - zero) as f32 * self.scales[group]
        };
        (0..self.rows).flat_map(|r| (0..self.cols).map(move |c| (r, c))).map(|(r, c)| value(r, c)).collect()
    }
}

/// A random matrix of this shape and scheme; `ordered` columns are in any group.
pub fn shaped(
    [rows, cols]: [usize; 2],
    scheme: AffineScheme,
    ordered: bool,
    dtype: Dtype,
    seed: u64,
) -> Case {
    let mut draws = super::Draws(seed);
    let groups = scheme.n_groups(cols);
    let mut codes = |n: usize| -> Vec<u8> { (0..n).map(|_| draws.below(1 << scheme.bits) as u8).collect() };
    let (weights, zeros) = (codes(rows * cols), codes(rows * groups));
    let mut scales: Vec<f32> = (0..rows * groups).map(|_| draws.below(10_000) as f32 * 1e-4).collect();
    round_floats(&mut scales, dtype).unwrap();
    let ordered = ordered && scheme.group_size.is_some();
    let g_idx = ordered.then(|| (0..cols).map(|_| draws.below(groups) as u32).collect());
    let zeros = (!scheme.symmetric).then_some(zeros);
    Case { rows, cols, scheme, codes: weights, scales, zeros, g_idx, scale_dtype: dtype }
}

prop_compose! {
    pub fn case()(
        rows in 1usize..40,
        cols in 1usize..300,
        bits in 1u8..=8,
        group in prop::option::of(1usize..80),
        symmetric: bool,
        ordered: bool,
        dtype in prop::sample::select(vec![Dtype::F32, Dtype::F16, Dtype::BF16]),
        seed: u64,
    ) -> Case {
        let scheme = AffineScheme { bits, group_size: group, symmetric };
        shaped([rows, cols], scheme, ordered, dtype, seed)
    }
}

proptest! {
    #[test]
    fn codes_and_numbers_come_back(case in case()) {
        let packed = case.pack().unwrap();
        prop_assert_eq!(packed.codes.len(), case.rows * case.scheme.row_words(case.cols) * 4);
        let mut row = vec![0; case.cols];
        for r in 0..case.rows {
            packed.unpack_row(r, &mut row);
            prop_assert_eq!(&row[..], &case.codes[r * case.cols..(r + 1) * case.cols]);
        }
        prop_assert_eq!(packed.dequantize(), case.dequantize());
    }

    #[test]
    fn codes_at_an_odd_address_are_the_same_matrix(case in case()) {
        let packed = case.pack().unwrap();
        let mut shifted = vec![0];
        shifted.extend_from_slice(&packed.codes);
        let codes = Bytes::from(shifted).slice(1..packed.codes.len() + 1).unwrap();
        let moved = AffineTensor { codes, ..packed.clone() };
        prop_assert_eq!(moved.dequantize(), packed.dequantize());
    }
}

fn small() -> Case {
    Case {
        rows: 2,
        cols: 3,
        scheme: AffineScheme { bits: 3, group_size: Some(2), symmetric: false },
        codes: vec![0, 7, 3, 1, 2, 4],
        scales: vec![0.5, 1.0, 2.0, 0.25],
        zeros: Some(vec![1, 3, 0, 7]),
        g_idx: None,
        scale_dtype: Dtype::F16,
    }
}

#[test]
fn a_case_by_hand() {
    // Row 0: (0-1)*0.5, (7-1)*0.5, (3-3)*1. Row 1: (1-0)*2, (2-0)*2, (4-7)*0.25.
    assert_eq!(small().pack().unwrap().dequantize(), [-0.5, 3.0, 0.0, 2.0, 4.0, -0.75]);
    // Groups of the columns turned around: column 2 alone in group 0.
    let turned = Case { g_idx: Some(vec![1, 1, 0]), ..small() };
    assert_eq!(turned.pack().unwrap().dequantize(), [-3.0, 4.0, 1.0, -1.5, -1.25, 8.0]);
}

#[test]
fn sizes_by_hand() {
    let scheme = AffineScheme { bits: 3, group_size: Some(64), symmetric: false };
    // 100 columns: 300 bits, 10 words, 2 groups; 33 rows: 99 bits of zero points, 4 words a group.
    assert_eq!(scheme.bytes(33, 100, Dtype::BF16), 33 * 10 * 4 + 33 * 2 * 2 + 16 + 4 * 2 * 4);
    assert_eq!(
        AffineScheme { symmetric: true, ..scheme }.bytes(33, 100, Dtype::F32),
        33 * 10 * 4 + 33 * 2 * 4 + 16
    );
    assert_eq!(scheme.to_string(), "int3 g64");
    assert_eq!(AffineScheme { bits: 8, group_size: None, symmetric: true }.to_string(), "int8 row sym");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let refuse = |case: Case, expected: &str| {
        let message = case.pack().unwrap_err().to_string();
        assert!(message.contains(expected), "{expected}: {message}");
    };
    let with = |scheme: AffineScheme| Case { scheme, ..small() };
    let scheme = small().scheme;
    refuse(with(AffineScheme { bits: 0, ..scheme }), "1 to 8 bits, not 0");
    refuse(with(AffineScheme { bits: 9, ..scheme }), "1 to 8 bits, not 9");
    refuse(with(AffineScheme { group_size: Some(0), ..scheme }), "group_size");
    refuse(with(AffineScheme { symmetric: true, ..scheme }), "there are zero points");
    refuse(with(AffineScheme { bits: 2, ..scheme }), "code 7 at index 1 is above 3");
    refuse(Case { zeros: None, ..small() }, "no zero points");
    refuse(Case { zeros: Some(vec![8, 0, 0, 0]), ..small() }, "zero point 8 at index 0");
    refuse(Case { codes: vec![0; 5], ..small() }, "codes for [2, 3]: expected 6, found 5");
    refuse(Case { scales: vec![1.0; 3], ..small() }, "scales for [2, 2]");
    refuse(Case { scales: vec![1.0, f32::NAN, 1.0, 1.0], ..small() }, "scale NaN at index 1");
    refuse(Case { scales: vec![0.1; 4], ..small() }, "no finite number of type F16");
    refuse(Case { scale_dtype: Dtype::I8, ..small() }, "not I8");
    refuse(Case { g_idx: Some(vec![0, 1, 2]), ..small() }, "column 2 is in group 2, there are 2");
    refuse(Case { g_idx: Some(vec![0, 1]), ..small() }, "groups of columns");
    refuse(Case { rows: usize::MAX, ..small() }, "address space");
}

#[test]
fn a_matrix_without_columns_or_rows_is_empty() {
    let scheme = AffineScheme { bits: 4, group_size: Some(8), symmetric: true };
    for (rows, cols) in [(0, 5), (5, 0)] {
        let groups = scheme.n_groups(cols);
        let scales = vec![1.0; rows * groups];
        let empty =
            AffineTensor::from_codes(rows, cols, scheme, &[], scales, None, None, Dtype::F32).unwrap();
        assert!(empty.dequantize().is_empty());
    }
    assert_eq!(bits::packed_len(0, 3), 0);
}
