//! Errors of the kernels.

use super::Isa;

/// What can be wrong with the operands of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A slice does not have the length that the shapes need.
    #[error(
        "kernel: {what} holds {found} elements, expected {expected}\nhint: shapes are x [n, cols], W [rows, cols], y [n, rows]"
    )]
    Length {
        /// Which operand.
        what: &'static str,
        /// Elements that the shapes need.
        expected: usize,
        /// Elements that were given.
        found: usize,
    },
    /// A shape whose number of elements does not fit into `usize`.
    #[error("kernel: the shape of {what} overflows")]
    Overflow {
        /// Which operand.
        what: &'static str,
    },
    /// A code width that does not exist.
    #[error("kernel: {found} bits per code, expected 1 to 8")]
    Bits {
        /// Bits that were given.
        found: u8,
    },
    /// A group of no columns.
    #[error("kernel: group_size is 0\nhint: use the number of columns for one group per row")]
    EmptyGroup,
    /// A row index past the end.
    #[error("kernel: row {found} of a matrix of {rows} rows")]
    Row {
        /// Rows of the matrix.
        rows: usize,
        /// Index that was given.
        found: usize,
    },
    /// The processor lacks the instructions asked for.
    #[error("kernel: this processor has no {0}\nhint: use Isa::detect()")]
    Unavailable(Isa),
    /// Threads for a measurement could not be started.
    #[error("kernel: cannot start {threads} threads: {message}")]
    Threads {
        /// Threads that were asked for.
        threads: usize,
        /// What the system said.
        message: String,
    },
}

/// Result of the kernels.
pub type Result<T, E = Error> = std::result::Result<T, E>;
