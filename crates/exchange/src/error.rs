//! The one error type of this crate.

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between ranks, in a payload, or with a setting.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A rank ended, or panicked, while others waited for it.
    #[error(
        "rank {rank} has left the group\n\
         hint: its own output says why; start again from the last checkpoint"
    )]
    Lost {
        /// The first rank that left.
        rank: usize,
    },
    /// Ranks are not in the same collective call.
    #[error(
        "{what}: rank {rank} has {found}, expected {expected}\n\
         hint: every rank must make the same calls with the same tensors, in the same order"
    )]
    Mismatch {
        /// The collective call, or what was compared.
        what: &'static str,
        /// The rank that differs.
        rank: usize,
        /// What it has.
        found: String,
        /// What this rank has.
        expected: String,
    },
    /// The message layer failed.
    #[error("{what}: {problem}")]
    Transport {
        /// The call.
        what: &'static str,
        /// What happened, and a hint.
        problem: String,
    },
    /// A payload that cannot be decoded.
    #[error("{what}: \"{name}\": found {found}, expected {expected}")]
    Payload {
        /// The family that reads it.
        what: &'static str,
        /// The tensor.
        name: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// A tensor whose values do not fill its shape.
    #[error("exchange: \"{name}\": {found} values for the shape {shape:?}, expected {expected}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Product of the shape.
        expected: usize,
        /// Number of values given.
        found: usize,
    },
    /// Two tensors of one name.
    #[error("exchange: \"{name}\" occurs twice\nhint: state is kept by name, so names must be unique")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A setting outside its range.
    #[error("{what}: found {found}, expected {expected}")]
    Setting {
        /// Family or policy, and the setting.
        what: &'static str,
        /// The value.
        found: String,
        /// What is accepted.
        expected: &'static str,
    },
    /// An error table that allocation cannot work with.
    #[error("l-greco: \"{name}\": {problem}")]
    Table {
        /// The tensor.
        name: String,
        /// What is wrong with its table.
        problem: String,
    },
    /// A state that does not belong to this exchange or to these tensors.
    #[error(
        "exchange: state \"{name}\": found {found}, expected {expected}\n\
         hint: it belongs to one model and its settings; begin a new exchange for another"
    )]
    State {
        /// Entry of the state.
        name: String,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: String,
    },
    /// A decomposition failed.
    #[error(transparent)]
    Math(#[from] trimtab_math::Error),
    /// The allocator refused the error tables.
    #[error(transparent)]
    Plan(#[from] trimtab_plan::Error),
}

impl Error {
    /// A setting outside its range.
    pub(crate) fn setting(what: &'static str, found: impl ToString, expected: &'static str) -> Self {
        Self::Setting { what, found: found.to_string(), expected }
    }
}
