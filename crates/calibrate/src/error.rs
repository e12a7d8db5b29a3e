//! Errors of calibration.

/// What can go wrong while a network is watched or treated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is less calibration data than a single window.
    #[error(
        "{what}: {found} tokens make no window of {window}\nhint: give a longer text, or a shorter --window"
    )]
    TooShort {
        /// Where the data comes from.
        what: String,
        /// Tokens found.
        found: usize,
        /// Tokens of a window.
        window: usize,
    },
    /// A token id that the model does not have.
    #[error(
        "token id {id} lies outside of the model's vocabulary of {vocab}\nhint: is this the tokenizer of this model?"
    )]
    Vocabulary {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A method could not treat a site.
    #[error("site \"{site}\": {message}")]
    Treatment {
        /// Name of the site.
        site: String,
        /// What the method said.
        message: String,
    },
    /// A block could not be trained.
    #[error("block reconstruction: {message}")]
    Reconstruction {
        /// What was found, and what was expected.
        message: String,
    },
    /// No gradient reaches a site.
    #[error(
        "site \"{site}\": no gradient of the loss reaches it, so that it has no Fisher information\nhint: leave it out"
    )]
    Fisher {
        /// Name of the site.
        site: String,
    },
    /// Hidden states could not be kept on disk.
    #[error("hidden states do not fit into memory, and spilling them to {path} failed: {source}")]
    Spill {
        /// The folder.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A site was asked for that the block does not have.
    #[error("block {block} has no site \"{site}\"")]
    NoSite {
        /// Name of the block.
        block: String,
        /// Name of the site.
        site: String,
    },
    /// The run was interrupted (Ctrl-C); what was finished is kept.
    #[error("interrupted")]
    Interrupted,
    /// The network failed.
    #[error(transparent)]
    Nn(#[from] trimtab_nn::Error),
    /// A statistic could not be computed.
    #[error(transparent)]
    Math(#[from] trimtab_math::Error),
}

/// Result of calibration.
pub type Result<T, E = Error> = std::result::Result<T, E>;
