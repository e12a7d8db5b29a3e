//! Which elements of a matrix share a step and a zero, and quantization of a whole matrix by that rule.
//!
//! This is the general path, for activations and for experiments with any granularity; weights that are packed by rows or
//! groups take the faster one in [`crate::rtn`].

use serde::{Deserialize, Serialize};

use crate::affine::{Affine, Grid};
use crate::error::{Error, Result, check_finite, check_length};
use crate::range::RangeFinder;

/// Which elements of a row-major matrix `[rows, columns]` share a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// All elements.
    PerTensor,
    /// One row of a weight (an output channel).
    PerChannel,
    /// One column (an input channel).
    PerInputChannel,
    /// This many consecutive elements of a row; the last group of a row may be short.
    PerGroup(usize),
    /// This many consecutive elements of the flattened matrix; the last block may be short.
    PerBlock(usize),
    /// One row of an activation (a token); parameters belong to these tokens and are found anew for others.
    PerToken,
    /// Columns cut into this many equal parts (the heads of `[tokens, heads · d]`), shared by all rows.
    PerHead(usize),
}

/// A rectangle of a matrix, or a run of its flattened elements (then with one row as wide as the whole matrix).
struct Region {
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
    stride: usize,
}

impl Region {
    /// Flat indices of its elements, row by row.
    fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        self.rows
            .clone()
            .flat_map(move |row| self.columns.clone().map(move |column| row * self.stride + column))
    }
}

impl Granularity {
    /// Number of slices of a matrix `[rows, columns]`.
    ///
    /// # Errors
    /// [`Error::Setting`] for a size of 0, or heads that do not divide the columns.
    pub fn count(&self, rows: usize, columns: usize) -> Result<usize> {
        let bad = |expected, found: usize| {
            Err(Error::Setting { what: "granularity", expected, found: found.to_string() })
        };
        Ok(match *self {
            Granularity::PerTensor => 1,
            Granularity::PerChannel | Granularity::PerToken => rows,
            Granularity::PerInputChannel => columns,
            Granularity::PerGroup(0) => return bad("a group size >= 1", 0),
            Granularity::PerGroup(size) => rows * columns.div_ceil(size),
            Granularity::PerBlock(0) => return bad("a block size >= 1", 0),
            Granularity::PerBlock(size) => (rows * columns).div_ceil(size),
            Granularity::PerHead(heads) if heads == 0 || !columns.is_multiple_of(heads) => {
                return bad("a number of heads that divides the columns", heads);
            }
            Granularity::PerHead(heads) => heads,
        })
    }

    fn region(&self, index: usize, rows: usize, columns: usize) -> Region {
        let rectangle = |rows, columns_of| Region { rows, columns: columns_of, stride: columns };
        match *self {
            Granularity::PerTensor => rectangle(0..rows, 0..columns),
            Granularity::PerChannel | Granularity::PerToken => rectangle(index..index + 1, 0..columns),
            Granularity::PerInputChannel => rectangle(0..rows, index..index + 1),
            Granularity::PerGroup(size) => {
                let groups = columns.div_ceil(size);
                let (row, first) = (index / groups, index % groups * size);
                rectangle(row..row + 1, first..columns.min(first + size))
            }
            Granularity::PerBlock(size) => {
                let first = index * size;
                rectangle(0..1, first..(rows * columns).min(first + size))
            }
            Granularity::PerHead(heads) => {
                let width = columns / heads;
                rectangle(0..rows, index * width..(index + 1) * width)
            }
        }
    }
}

/// Steps and zeros of a matrix, one pair for each slice.
#[derive(Clone, Debug, PartialEq)]
pub struct AffineParameters {
    granularity: Granularity,
    grid: Grid,
    columns: usize,
    slices: Vec<Affine>,
}

impl AffineParameters {
    /// Finds step and zero of every slice of `x` `[rows, columns]`.
    ///
    /// # Errors
    /// A length that does not fit, a number that is not finite, a grid or granularity out of range.
    pub fn fit(
        x: &[f32],
        columns: usize,
        granularity: Granularity,
        grid: &Grid,
        finder: &RangeFinder,
    ) -> Result<AffineParameters> {
        grid.check()?;
        finder.check()?;
        check_finite("fit: x", x, columns)?;
        let rows = rows_of("fit: x", x.len(), columns)?;
        let mut values = Vec::new();
        let mut slices = Vec::new();
        for index in 0..granularity.count(rows, columns)? {
            values.clear();
            values.extend(granularity.region(index, rows, columns).indices().map(|i| x[i]));
            let found = finder.fit(&values, None, grid);
            if !found.scale.is_finite() {
                return Err(Error::Scale { row: index, group: 0, dtype: grid.scale_dtype });
            }
            slices.push(found);
        }
        Ok(AffineParameters { granularity, grid: *grid, columns, slices })
    }

    /// Step and zero of each slice.
    pub fn slices(&self) -> &[Affine] {
        &self.slices
    }

    /// Codes of `x` `[rows, columns]`. The number of rows may differ from the one fitted where rows share parameters.
    ///
    /// # Errors
    /// A length that does not fit; a number of slices other than the one fitted; a number that is not finite.
    pub fn quantize(&self, x: &[f32]) -> Result<Vec<u8>> {
        check_finite("quantize: x", x, self.columns)?;
        let mut codes = vec![0; x.len()];
        self.for_each(x.len(), |i, affine| codes[i] = affine.code(x[i], &self.grid))?;
        Ok(codes)
    }

    /// Values of codes `[rows, columns]`.
    ///
    /// # Errors
    /// A length that does not fit; a number of slices other than the one fitted.
    pub fn dequantize(&self, codes: &[u8]) -> Result<Vec<f32>> {
        let mut x = vec![0.0; codes.len()];
        self.for_each(codes.len(), |i, affine| x[i] = affine.decode(codes[i]))?;
        Ok(x)
    }

    /// Round trip through the codes: `dequantize(quantize(x))`.
    ///
    /// # Errors
    /// As [`quantize`](Self::quantize).
    pub fn fake_quantize(&self, x: &[f32]) -> Result<Vec<f32>> {
        self.dequantize(&self.quantize(x)?)
    }

    fn for_each(&self, len: usize, mut apply: impl FnMut(usize, &Affine)) -> Result<()> {
        let rows = rows_of("quantize: x", len, self.columns)?;
        check_length("quantize: slices", self.slices.len(), self.granularity.count(rows, self.columns)?)?;
        for (index, affine) in self.slices.iter().enumerate() {
            for i in self.granularity.region(index, rows, self.columns).indices() {
                apply(i, affine);
            }
        }
        Ok(())
    }
}

fn rows_of(what: &'static str, len: usize, columns: usize) -> Result<usize> {
    let rows = len / columns.max(1);
    check_length(what, rows * columns, len)?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Granularity::*;

    const ALL: [Granularity; 7] =
        [PerTensor, PerChannel, PerInputChannel, PerGroup(4), PerBlock(7), PerToken, PerHead(3)];

    #[test]
    fn every_element_belongs_to_exactly_one_slice() {
        for granularity in ALL {
            let (rows, columns) = (5, 6);
            let mut seen = vec![0; rows * columns];
            for index in 0..granularity.count(rows, columns).unwrap() {
                granularity.region(index, rows, columns).indices().for_each(|i| seen[i] += 1);
            }
            assert!(seen.iter().all(|&n| n == 1), "{granularity:?}");
        }
        let counts = ALL.map(|g| g.count(5, 6).unwrap());
        assert_eq!(counts, [1, 5, 6, 10, 5, 5, 3]);
    }

    #[test]
    fn slices_hold_what_their_name_says() {
        let held = |g: Granularity, index| g.region(index, 2, 6).indices().collect::<Vec<_>>();
        assert_eq!(held(PerChannel, 1), [6, 7, 8, 9, 10, 11]);
        assert_eq!(held(PerInputChannel, 2), [2, 8]);
        assert_eq!(held(PerGroup(4), 1), [4, 5]);
        assert_eq!(held(PerBlock(5), 1), [5, 6, 7, 8, 9]);
        assert_eq!(held(PerHead(3), 1), [2, 3, 8, 9]);
    }

    #[test]
    fn a_loud_slice_spoils_only_itself() {
        // Column 0 is 100 times louder: only granularities that separate it keep the rest precise.
        let x: Vec<f32> =
            (0..60).map(|i| (i as f32 * 0.7).sin() * if i % 6 == 0 { 100.0 } else { 1.0 }).collect();
        let error = |granularity| {
            let grid = Grid { bits: 4, ..Grid::default() };
            let found = AffineParameters::fit(&x, 6, granularity, &grid, &RangeFinder::MinMax).unwrap();
            let y = found.fake_quantize(&x).unwrap();
            let quiet = (0..60).filter(|i| i % 6 != 0);
            quiet.map(|i| f64::from(x[i] - y[i]).powi(2)).sum::<f64>()
        };
        assert!(error(PerInputChannel) < 0.1 * error(PerTensor));
        assert!(error(PerInputChannel) < 0.1 * error(PerChannel));
        assert!(error(PerGroup(1)) < 1e-4 * error(PerTensor));
    }

    #[test]
    fn parameters_apply_to_other_rows_where_rows_share_them() {
        let x: Vec<f32> = (0..24).map(|i| (i as f32).cos()).collect();
        let grid = Grid::default();
        for granularity in ALL {
            let found = AffineParameters::fit(&x, 6, granularity, &grid, &RangeFinder::MinMax).unwrap();
            let fewer = found.quantize(&x[..12]);
            let shares = matches!(granularity, PerTensor | PerInputChannel | PerHead(_));
            assert_eq!(fewer.is_ok(), shares, "{granularity:?}");
            if let Ok(codes) = fewer {
                assert_eq!(codes, found.quantize(&x).unwrap()[..12]);
            }
        }
    }

    #[test]
    fn bad_input_is_an_error() {
        let grid = Grid::default();
        let fit = |x: &[f32], columns, g| AffineParameters::fit(x, columns, g, &grid, &RangeFinder::MinMax);
        assert!(matches!(fit(&[1.0; 5], 2, PerTensor), Err(Error::Length { .. })));
        assert!(matches!(fit(&[1.0, f32::NAN], 1, PerTensor), Err(Error::NotFinite { row: 1, .. })));
        assert!(matches!(fit(&[1e38, -1e38], 1, PerTensor), Err(Error::Scale { .. })));
        for g in [PerGroup(0), PerBlock(0), PerHead(0), PerHead(4)] {
            assert!(matches!(fit(&[1.0; 6], 6, g), Err(Error::Setting { .. })), "{g:?}");
        }
        assert!(fit(&[], 6, PerTensor).is_ok() && fit(&[], 0, PerChannel).is_ok());
    }
}
