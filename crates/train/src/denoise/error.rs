//! What can be wrong with denoisers, their vocabulary or their tokens.

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Errors name the place, what was found, what was expected and, where there is one, the way out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// A setting is outside its range.
    #[error("denoise: {what} is {found}, expected {expected}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// Its value.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// Too few tokens: one has to be kept and one masked.
    #[error("denoise: {what} has {found} tokens, expected at least {needed}")]
    TooShort {
        /// What was to be corrupted.
        what: &'static str,
        /// Tokens found.
        found: usize,
        /// Tokens needed.
        needed: usize,
    },
    /// No length keeps the limits.
    #[error(
        "denoise: {what} finds no length within inputs {inputs} and targets {targets}; raise the limits or the number of \
         sentinels"
    )]
    NoLength {
        /// The denoiser.
        what: String,
        /// Limit of the inputs.
        inputs: usize,
        /// Limit of the targets.
        targets: usize,
    },
    /// More spans than sentinels.
    #[error(
        "denoise: {needed} masked spans need as many sentinels, the vocabulary has {found}; hint: add sentinels, or set \
         too_many_spans = \"shrink\" to shorten the sequences"
    )]
    Sentinels {
        /// Spans of the example.
        needed: usize,
        /// Sentinels of the vocabulary.
        found: usize,
    },
    /// A named token is not in the tokenizer.
    #[error("denoise: the tokenizer has no token {name}; hint: {hint}")]
    MissingToken {
        /// The token.
        name: String,
        /// The way out.
        hint: &'static str,
    },
    /// Two special tokens share an id.
    #[error("denoise: the id {id} stands for two special tokens, expected distinct ids")]
    SharedId {
        /// The id.
        id: u32,
    },
    /// A text contains a special token, so that its corruption could not be read back.
    #[error(
        "denoise: token {position} of the text is {id}, a sentinel; hint: remove special tokens from the text"
    )]
    SentinelInText {
        /// Position in the text.
        position: usize,
        /// The id.
        id: u32,
    },
    /// Spans are out of order, touch each other, or leave the sequence.
    #[error(
        "denoise: span {start}..{end} of {tokens} tokens is empty, out of order, touches its neighbour or starts at 0"
    )]
    Spans {
        /// First masked position.
        start: usize,
        /// Position after the last masked one.
        end: usize,
        /// Tokens of the sequence.
        tokens: usize,
    },
    /// Inputs and targets do not belong together.
    #[error("denoise: {what}; expected inputs and targets of one example")]
    Unreadable {
        /// What does not fit.
        what: &'static str,
    },
    /// A packed row has no room for an example.
    #[error(
        "denoise: example {example} has {found} tokens ({what}), a row holds {row}; hint: lower the limits"
    )]
    TooLong {
        /// Number of the example.
        example: usize,
        /// Inputs, targets or the sequence.
        what: &'static str,
        /// Its tokens.
        found: usize,
        /// Tokens of a row.
        row: usize,
    },
}

impl Error {
    /// An [`Error::Setting`].
    pub(super) fn setting(what: &'static str, found: impl ToString, expected: &'static str) -> Self {
        Self::Setting { what, found: found.to_string(), expected }
    }
}
