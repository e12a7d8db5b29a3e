//! Errors of the training loop.

use std::path::PathBuf;

/// What can stop a training run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that makes no sense.
    #[error("training setting \"{name}\": {message}")]
    Setting {
        /// The field.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// Too little data for one item.
    #[error(
        "{what} has {found} tokens, one window takes {needed}\nhint: give more text, or a shorter window"
    )]
    TooShort {
        /// Which data.
        what: String,
        /// Tokens that are there.
        found: usize,
        /// Tokens of a window and its last target.
        needed: usize,
    },
    /// A token id lies outside of the vocabulary.
    #[error(
        "{what}: token id {id} lies outside of the vocabulary of {vocab}\nhint: is this the tokenizer of this model?"
    )]
    Vocabulary {
        /// Which data.
        what: String,
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// Loss or gradient became NaN or infinite.
    #[error(
        "step {step}: the {what} is {value}\nhint: lower the rate, lengthen the warm-up, or set clip_norm"
    )]
    Diverged {
        /// Step that failed, from 0.
        step: usize,
        /// Loss or gradient norm.
        what: &'static str,
        /// The number.
        value: f64,
    },
    /// No parameter gets a gradient.
    #[error(
        "phase \"{phase}\" trains no parameter: none has a gradient and a path that contains one of {patterns:?}; paths look like \"{example}\""
    )]
    NothingToTrain {
        /// Name of the phase.
        phase: String,
        /// What the phase asked for.
        patterns: Vec<String>,
        /// A path of the module.
        example: String,
    },
    /// A saved state of another run.
    #[error(
        "{path}: saved by another run: {message}\nhint: remove the file to start afresh, or go on with the settings it was saved with"
    )]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// What differs.
        message: String,
    },
    /// A saved state that cannot be used.
    #[error("{path}: not a usable training state: {message}\nhint: remove the file to start afresh")]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A saved state could not be read or written.
    #[error(transparent)]
    Io(#[from] trimtab_io::Error),
    /// Ranks could not exchange their gradients.
    #[error(transparent)]
    Exchange(Box<trimtab_exchange::Error>),
    /// A text could not be corrupted.
    #[error(transparent)]
    Denoise(#[from] crate::denoise::Error),
    /// Traces could not be estimated.
    #[error(transparent)]
    Math(#[from] trimtab_math::Error),
    /// The network refused its input.
    #[error(transparent)]
    Nn(#[from] trimtab_nn::Error),
}

impl Error {
    pub(crate) fn setting(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Setting { name: name.into(), message: message.into() }
    }
}

/// Result of the training loop.
pub type Result<T, E = Error> = std::result::Result<T, E>;
