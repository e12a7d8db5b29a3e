//! Errors of the architectures.

/// What can go wrong when a checkpoint becomes a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No specification fits.
    #[error(
        "{model}: unknown architecture {found}; known: {known}\nhint: `trimtab inspect {model} --propose-spec` guesses a specification of the family; correct it and pass it with --spec FILE"
    )]
    UnknownArchitecture {
        /// Path of the model.
        model: String,
        /// What the checkpoint says of itself.
        found: String,
        /// Families that are known.
        known: String,
    },
    /// A checkpoint is not laid out as its family says.
    #[error(
        "{model}: does not fit the family {family}: {message}\nhint: describe the network in a TOML file after crates/models/specs/conv/resnet.toml and pass it with --spec FILE"
    )]
    Family {
        /// Path of the model.
        model: String,
        /// Name of the family.
        family: String,
        /// Where the two part.
        message: String,
    },
    /// A specification file cannot be used.
    #[error("model specification {path}: {message}")]
    Spec {
        /// The file.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// `config.json` lacks a field or holds one that makes no sense.
    #[error("{model}: config.json: {message}")]
    Config {
        /// Path of the model.
        model: String,
        /// What is wrong.
        message: String,
    },
    /// A tensor does not have the shape that the architecture needs.
    #[error("{model}: tensor \"{tensor}\" has shape {found:?}, expected {expected:?} from config.json")]
    Shape {
        /// Path of the model.
        model: String,
        /// Name of the tensor.
        tensor: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape that the architecture needs.
        expected: Vec<usize>,
    },
    /// A tensor holds NaN or infinity.
    #[error(
        "{model}: tensor \"{tensor}\" holds {value} at element {index}\nhint: the checkpoint is damaged or its training diverged; nothing that is computed from it would mean anything"
    )]
    NotFinite {
        /// Path of the model.
        model: String,
        /// Name of the tensor.
        tensor: String,
        /// The number.
        value: f32,
        /// Where it stands, row-major.
        index: usize,
    },
    /// A token id lies outside of the vocabulary.
    #[error(
        "token id {id} lies outside of the model's vocabulary of {vocab}\nhint: is this the tokenizer of this model?"
    )]
    Vocabulary {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] trimtab_io::Error),
    /// Building a network failed.
    #[error(transparent)]
    Nn(#[from] trimtab_nn::Error),
}

/// Result of the architectures.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Error> for trimtab_nn::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Nn(inner) => inner,
            Error::Io(inner) => Self::Io(inner),
            other => Self::Load(Box::new(other)),
        }
    }
}
