//! Errors of evaluation.

/// What can go wrong while a network is judged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A network gave something else than its task says.
    #[error("the network gave {found}, expected {expected}")]
    Output {
        /// What was expected.
        expected: &'static str,
        /// What came.
        found: &'static str,
    },
    /// Numbers that are no numbers.
    #[error(
        "the network's output holds NaN or infinity (row {row})\nhint: the model is broken, or a treatment broke it"
    )]
    NotFinite {
        /// Row of the output.
        row: usize,
    },
    /// Two networks that cannot be compared.
    #[error("the networks cannot be compared: one gives {left} numbers a row, the other {right}")]
    Widths {
        /// Columns of the first.
        left: usize,
        /// Columns of the second.
        right: usize,
    },
    /// Nothing to judge by.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// The window settings make no sense.
    #[error("window {window} and stride {stride} do not fit: 2 <= window, 1 <= stride <= window")]
    Window {
        /// Tokens of a window.
        window: usize,
        /// Tokens between windows.
        stride: usize,
    },
    /// The text is shorter than one window.
    #[error("{found} tokens make no window of {window}\nhint: give a longer text, or a shorter --window")]
    TooShort {
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
    /// A label that the classifier does not have.
    #[error("label {label} of image {image} lies outside of the {classes} classes of the model")]
    Label {
        /// The label.
        label: i64,
        /// Index of the image.
        image: usize,
        /// Classes of the model.
        classes: usize,
    },
    /// A statistic is not defined.
    #[error(transparent)]
    Math(#[from] trimtab_math::Error),
    /// The network failed.
    #[error(transparent)]
    Nn(#[from] trimtab_nn::Error),
}

/// Result of evaluation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
