//! Errors of rewrites.

/// What stops a rewrite.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The network is not wired so that the pass leaves its function as it is, or the result cannot be stored.
    #[error("{pass} does not fit this model: {reason}")]
    Refused {
        /// The pass.
        pass: &'static str,
        /// Why, and what to do where there is something.
        reason: String,
    },
    /// A pass that another one needs does not fit.
    #[error("{pass} needs {needed} first\n{source}")]
    Needs {
        /// The pass that was asked for.
        pass: &'static str,
        /// The pass that it needs.
        needed: &'static str,
        /// Why that one does not fit.
        source: Box<Error>,
    },
    /// A setting that makes no sense.
    #[error("{pass}: {message}")]
    Setting {
        /// The pass.
        pass: &'static str,
        /// What is wrong, and what was expected.
        message: String,
    },
    /// A tensor that does not have the shape which the wiring states.
    #[error("tensor \"{tensor}\" has {found} numbers, expected {expected}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// What it has.
        found: usize,
        /// What it should have.
        expected: usize,
    },
    /// Files.
    #[error(transparent)]
    Io(#[from] trimtab_io::Error),
}

impl Error {
    pub(crate) fn refused(pass: &'static str, reason: impl Into<String>) -> Self {
        Self::Refused { pass, reason: reason.into() }
    }
}

/// Result of a rewrite.
pub type Result<T, E = Error> = std::result::Result<T, E>;
