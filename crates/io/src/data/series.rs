//! Time series in csv files, cut into windows.
//!
//! The split and the scaling follow the long-horizon forecasting benchmarks (Zhou et al., arXiv:2012.07436): parts in the
//! order of time, every column standardised by the training part.

use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};

/// Columns of numbers over time.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Names of the columns, without the date's.
    pub columns: Vec<String>,
    /// `[rows, columns]`, row by row.
    values: Vec<f32>,
    rows: usize,
}

impl Series {
    /// Reads a csv file with a heading. A first column named `date` (in any case) is passed over; all others are numbers.
    ///
    /// # Errors
    /// [`Error::Row`] with the line of a row of another form; [`Error::Malformed`] without columns or rows; [`Error::Io`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = crate::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        Self::parse(&bytes, path)
    }

    /// The same from bytes; `path` is for messages.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let mut reader = csv::Reader::from_reader(bytes);
        let failed = |e: csv::Error| Error::Row {
            path: path.into(),
            line: e.position().map_or(0, csv::Position::line),
            message: e.to_string(),
        };
        let heading = reader.headers().map_err(failed)?.clone();
        let skipped = usize::from(heading.get(0).is_some_and(|name| name.eq_ignore_ascii_case("date")));
        let columns: Vec<String> = heading.iter().skip(skipped).map(String::from).collect();
        let (mut values, mut rows) = (Vec::new(), 0);
        for record in reader.records() {
            let record = record.map_err(failed)?;
            for (name, field) in columns.iter().zip(record.iter().skip(skipped)) {
                match field.trim().parse::<f32>() {
                    Ok(value) if value.is_finite() => values.push(value),
                    _ => {
                        let line = record.position().map_or(0, csv::Position::line);
                        let message = format!("column \"{name}\" must be a number, found \"{field}\"");
                        return Err(Error::Row { path: path.into(), line, message });
                    }
                }
            }
            rows += 1;
        }
        if columns.is_empty() || rows == 0 {
            let message = format!("{} columns of numbers and {rows} rows", columns.len());
            return Err(Error::malformed(&path.display().to_string(), message));
        }
        Ok(Self { columns, values, rows })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Consecutive rows, `[range.len(), columns]`; `None` if `range` reaches past the last row.
    pub fn slice(&self, range: Range<usize>) -> Option<&[f32]> {
        let width = self.columns.len();
        self.values.get(range.start.checked_mul(width)?..range.end.checked_mul(width)?)
    }

    /// Standardises every column by mean and deviation of the rows `train`; a column that is constant there is only centred.
    /// Returns mean and deviation of each column, by which forecasts are scaled back.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `train` is empty or reaches past the last row.
    pub fn standardize(&mut self, train: Range<usize>) -> Result<Vec<(f32, f32)>> {
        let width = self.columns.len();
        let n = train.len() as f64;
        let part = self.slice(train.clone()).filter(|part| !part.is_empty());
        let Some(part) = part else {
            return Err(Error::invalid("standardize", format!("rows {train:?} of {}", self.rows)));
        };
        let scale = |column: usize| {
            let values = || part.iter().skip(column).step_by(width).map(|&v| f64::from(v));
            let mean = values().sum::<f64>() / n;
            let deviation = (values().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
            (mean as f32, if deviation > 0.0 { deviation as f32 } else { 1.0 })
        };
        let scales: Vec<(f32, f32)> = (0..width).map(scale).collect();
        for row in self.values.chunks_exact_mut(width) {
            row.iter_mut().zip(&scales).for_each(|(v, (mean, deviation))| *v = (*v - mean) / deviation);
        }
        Ok(scales)
    }
}

/// Training, validation and test rows by their shares; what the first two leave is the test part.
///
/// # Errors
/// [`Error::Invalid`] unless the shares are in `[0, 1]` and so is their sum.
pub fn split_by_share(rows: usize, train: f64, validation: f64) -> Result<[Range<usize>; 3]> {
    if !(train >= 0.0 && validation >= 0.0 && train + validation <= 1.0) {
        return Err(Error::invalid("split", format!("shares {train} and {validation}")));
    }
    let first = ((rows as f64 * train) as usize).min(rows);
    let second = ((rows as f64 * (train + validation)) as usize).clamp(first, rows);
    Ok([0..first, first..second, second..rows])
}

/// Windows of input and target rows in a part of a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesWindows {
    /// Rows of the part.
    pub rows: Range<usize>,
    /// Rows that are seen.
    pub input: usize,
    /// Rows after them that are to be forecast.
    pub target: usize,
    /// Rows from one window to the next, at least 1.
    pub stride: usize,
}

impl SeriesWindows {
    /// Number of whole windows; 0 if not one fits, or the stride is 0.
    pub fn len(&self) -> usize {
        let spare = self.input.checked_add(self.target).and_then(|size| self.rows.len().checked_sub(size));
        spare.map_or(0, |spare| spare.checked_div(self.stride).map_or(0, |n| n + 1))
    }

    /// Whether there is no window.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Input and target rows of window `index`; `None` if there is no such window.
    pub fn get(&self, index: usize) -> Option<[Range<usize>; 2]> {
        if index >= self.len() {
            return None;
        }
        let start = self.rows.start + index * self.stride;
        let middle = start + self.input;
        Some([start..middle, middle..middle + self.target])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Series> {
        Series::parse(text.as_bytes(), Path::new("s.csv"))
    }

    #[test]
    fn the_training_part_sets_the_scale() {
        let mut series = parse("Date,a,b\n1,0,7\n2,2,7\n3,5,8\n").unwrap();
        assert_eq!((series.rows(), &series.columns[..]), (3, &["a".to_string(), "b".to_string()][..]));
        assert_eq!(series.standardize(0..2).unwrap(), [(1.0, 1.0), (7.0, 1.0)]);
        assert_eq!(series.slice(0..3).unwrap(), [-1.0, 0.0, 1.0, 0.0, 4.0, 1.0]);
        assert!(series.standardize(0..4).is_err() && series.standardize(1..1).is_err());
        assert!(series.slice(2..4).is_none());
    }

    #[test]
    fn windows_stay_in_their_part() {
        let [train, validation, test] = split_by_share(10, 0.6, 0.2).unwrap();
        assert_eq!([&train, &validation, &test], [&(0..6), &(6..8), &(8..10)]);
        assert!(split_by_share(10, 0.9, 0.2).is_err() && split_by_share(10, f64::NAN, 0.0).is_err());
        let windows = SeriesWindows { rows: 2..9, input: 3, target: 2, stride: 2 };
        assert_eq!(windows.len(), 2);
        assert_eq!(windows.get(1).unwrap(), [4..7, 7..9]);
        assert!(windows.get(2).is_none());
        assert!(SeriesWindows { stride: 0, ..windows.clone() }.is_empty());
        assert!(SeriesWindows { input: usize::MAX, ..windows }.is_empty());
    }

    #[test]
    fn bad_rows_are_named_by_line() {
        assert!(matches!(parse("date,a\n1,2\n3,x\n"), Err(Error::Row { line: 3, .. })));
        assert!(matches!(parse("a,b\n1,2\n3\n"), Err(Error::Row { line: 3, .. })));
        assert!(matches!(parse("a\ninf\n"), Err(Error::Row { line: 2, .. })));
        assert!(matches!(parse("date\n1\n"), Err(Error::Malformed { .. })));
        assert!(matches!(parse(""), Err(Error::Malformed { .. })));
    }
}
