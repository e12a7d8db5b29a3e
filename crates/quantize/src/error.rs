//! Errors of this crate. They name rows and columns; the caller knows which site it was.

use crate::affine::ScaleDtype;

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong while a weight is quantized.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A slice does not have the length that its shape needs.
    #[error("{what}: expected {expected} elements, found {found}")]
    Length {
        /// Function and argument.
        what: &'static str,
        /// Length that the shape needs.
        expected: usize,
        /// Length of the slice given.
        found: usize,
    },
    /// A number is NaN or infinite.
    #[error("{what}: found {value} at row {row}, column {column}; expected finite numbers")]
    NotFinite {
        /// Function and argument.
        what: &'static str,
        /// Row of the first bad number.
        row: usize,
        /// Column of the first bad number.
        column: usize,
        /// The bad number.
        value: f32,
    },
    /// A setting is outside its range.
    #[error("{what}: found {found}; expected {expected}")]
    Setting {
        /// Function and setting.
        what: &'static str,
        /// What is accepted there.
        expected: &'static str,
        /// The value given.
        found: String,
    },
    /// A step or a zero does not fit its storage type.
    #[error(
        "step or zero of row {row}, group {group} overflows {dtype:?}\nhint: the weights are too large for this scale dtype; \
         use f32 or bf16"
    )]
    Scale {
        /// Row of the weight.
        row: usize,
        /// Group within the row.
        group: usize,
        /// Storage type of the steps.
        dtype: ScaleDtype,
    },
    /// A layer could not be learned.
    #[error("{message}")]
    Learning {
        /// What stood in the way.
        message: String,
    },
    /// The method needs input statistics that were not given.
    #[error(
        "{method}: needs the second moment of the layer's input, found none\nhint: give calibration data"
    )]
    MissingHessian {
        /// Name of the method.
        method: &'static str,
    },
    /// Packing failed.
    #[error(transparent)]
    Pack(#[from] trimtab_io::Error),
    /// A factorization failed.
    #[error(transparent)]
    Math(#[from] trimtab_math::Error),
}

/// Checks the length of an argument.
pub(crate) fn check_length(what: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}

/// Checks that a row-major matrix with `columns` columns is finite.
pub(crate) fn check_finite(what: &'static str, data: &[f32], columns: usize) -> Result<()> {
    match data.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(at) => Err(Error::NotFinite {
            what,
            row: at / columns.max(1),
            column: at % columns.max(1),
            value: data[at],
        }),
    }
}
