//! Mutual information between a layer `T`, its input `X` and the labels `Y`, over training.
//!
//! Source: Chelombiev, Houghton and O'Donnell, "Adaptive Estimators Show Information Compression in Deep Neural Networks",
//! arXiv:1902.09037 (EBAB, aKDE); Kolchinsky and Tracey, arXiv:1706.02419 (the bounds).
//!
//! A deterministic network with continuous activations has infinite `I(T;X)`: every number here is a property of the bins
//! or the noise, and carries its assumption. Numbers of layers with different noise need not obey the data-processing
//! inequality. Over about 64 units or 8192 rows estimates saturate: pool or subsample before. Give the probabilities of an
//! output layer, not its logits.
//!
//! | file | holds |
//! |---|---|
//! | [`bins`] | equal-content and uniform bins, discrete information |
//! | [`kde`] | upper and lower bounds under Gaussian noise, fixed or adaptive |
//! | [`knn`] | nearest neighbours, for comparison |
//! | [`curve`] | records over epochs, compression scores, CSV and JSON |

pub mod bins;
pub mod curve;
pub mod kde;
pub mod knn;

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// What can be wrong with activations, labels or settings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A slice does not have the length of its shape.
    #[error("information: {what} has {found} elements, expected {expected}")]
    Length {
        /// The slice.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length its shape needs.
        expected: usize,
    },
    /// An activation is NaN or infinite, or lies below the floor of its bins.
    #[error("information: activation {value} of row {row}, unit {unit}; expected {expected}")]
    Value {
        /// The activation.
        value: f32,
        /// Its row.
        row: usize,
        /// Its unit.
        unit: usize,
        /// What is allowed.
        expected: &'static str,
    },
    /// A setting is outside its range.
    #[error("information: {what} is {found}, expected {expected}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// Its value.
        found: f64,
        /// What is allowed.
        expected: &'static str,
    },
    /// Records could not be written as CSV.
    #[error("information: records could not be written as CSV")]
    Csv(#[from] csv::Error),
}

/// Activations of one layer: `[rows, units]`, row-major, finite.
#[derive(Clone, Copy, Debug)]
pub struct Activations<'a> {
    values: &'a [f32],
    units: usize,
}

impl<'a> Activations<'a> {
    /// `values`: `[rows, units]`.
    ///
    /// # Errors
    /// [`Error::Length`] unless there is at least one row of at least one unit and no part of a row; [`Error::Value`].
    pub fn new(values: &'a [f32], rows: usize, units: usize) -> Result<Self> {
        let expected = rows.saturating_mul(units);
        if expected == 0 || values.len() != expected {
            let expected = expected.max(1);
            return Err(Error::Length { what: "activations", found: values.len(), expected });
        }
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => Err(Error::Value {
                value: values[at],
                row: at / units,
                unit: at % units,
                expected: "a finite number",
            }),
            None => Ok(Self { values, units }),
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.units
    }

    /// One row, `[units]`.
    fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.units..(row + 1) * self.units]
    }
}

/// What an estimator says, with what it assumes.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// Name of the estimator.
    pub estimator: &'static str,
    /// The bins or the noise that make the number what it is.
    pub assumption: String,
    /// `I(T;X)` in bits; `None` where the estimator has none.
    pub i_tx: Option<f64>,
    /// `I(T;Y)` in bits.
    pub i_ty: f64,
}

/// Rows of each label, labels in ascending order.
fn classes(labels: &[usize], rows: usize) -> Result<Vec<Vec<usize>>> {
    if labels.len() != rows {
        return Err(Error::Length { what: "labels", found: labels.len(), expected: rows });
    }
    let mut classes = std::collections::BTreeMap::<usize, Vec<usize>>::new();
    for (row, &label) in labels.iter().enumerate() {
        classes.entry(label).or_default().push(row);
    }
    Ok(classes.into_values().collect())
}
