//! Errors of this crate. They name numbers; the caller knows which site it was.

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong while a weight is mended.
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
    /// The variant needs input statistics that were not given.
    #[error("{variant}: needs {needs}, found none\nhint: give calibration data")]
    NoEvidence {
        /// The variant.
        variant: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// From the decomposition.
    #[error(transparent)]
    Math(#[from] trimtab_math::Error),
    /// A factor does not fit the type in which it is stored.
    #[error(transparent)]
    Io(#[from] trimtab_io::Error),
}
