//! Errors of this crate.

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in a decomposition, an accumulator or a statistic.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
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
    /// A number is NaN, infinite, or outside the range that makes sense.
    #[error("{what}: found {value} at row {row}, column {column}; expected {expected}")]
    Value {
        /// Function and argument.
        what: &'static str,
        /// What is accepted there.
        expected: &'static str,
        /// Row of the first bad number.
        row: usize,
        /// Column of the first bad number.
        column: usize,
        /// The bad number.
        value: f64,
    },
    /// A setting is outside its range.
    #[error("{what}: found {value}; expected {expected}")]
    Setting {
        /// Function and setting.
        what: &'static str,
        /// What is accepted there.
        expected: &'static str,
        /// The value given.
        value: f64,
    },
    /// A matrix stayed indefinite after every damping of the policy.
    #[error(
        "cholesky: not positive definite at pivot {pivot} of {n} after {attempts} attempts, the last with damping \
         {damping}\nhint: the matrix is not a second moment (an eigenvalue is below minus {damping} times the mean of \
         the diagonal); check that it was accumulated with weights >= 0 and is symmetric"
    )]
    NotPositiveDefinite {
        /// Pivot at which the last attempt failed.
        pivot: usize,
        /// Order of the matrix.
        n: usize,
        /// Factorizations tried.
        attempts: usize,
        /// Damping of the last attempt, relative to the mean of the diagonal.
        damping: f64,
    },
    /// A triangular or general matrix has no inverse.
    #[error("{what}: singular at pivot {pivot} of {n}\nhint: add damping to the diagonal")]
    Singular {
        /// Function.
        what: &'static str,
        /// First zero pivot.
        pivot: usize,
        /// Order of the matrix.
        n: usize,
    },
    /// An iterative decomposition did not converge.
    #[error("{what}: no convergence for a {rows} x {columns} matrix")]
    NoConvergence {
        /// Function.
        what: &'static str,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        columns: usize,
    },
    /// Too few observations for the statistic.
    #[error("{what}: needs at least {needed} observations, found {found}")]
    TooFew {
        /// Function.
        what: &'static str,
        /// Smallest number that gives a result.
        needed: usize,
        /// Number given.
        found: usize,
    },
}

/// Checks the length of an argument.
pub(crate) fn check_length(what: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}

/// Checks that a row-major matrix with `columns` columns holds finite numbers only.
pub(crate) fn check_finite(what: &'static str, data: &[f64], columns: usize) -> Result<()> {
    // A sum of zeros times the data is NaN exactly when something is not finite: one branch-free pass.
    if data.iter().fold(0.0, |sum, x| sum + x * 0.0) == 0.0 {
        return Ok(());
    }
    let found = data.iter().position(|x| !x.is_finite()).unwrap_or(0);
    Err(Error::Value {
        what,
        expected: "finite numbers",
        row: found / columns.max(1),
        column: found % columns.max(1),
        value: data[found],
    })
}
