//! Errors of the network floor.

/// What can go wrong when a network is built, fed or observed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor does not have the shape that its place in the network needs.
    #[error("site \"{site}\": weight has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Name of the site.
        site: String,
        /// Shape that the architecture needs.
        expected: Vec<usize>,
        /// Shape that was found.
        found: Vec<usize>,
    },
    /// Images that a convolution cannot take.
    #[error(
        "site \"{site}\": images of {found:?} ([channels, height, width]) do not fit: it takes {channels} channels and a height and width of at least {least:?}\nhint: are these images those of the model, and large enough for it?"
    )]
    Image {
        /// Name of the site.
        site: String,
        /// Channels that the site takes.
        channels: usize,
        /// Smallest height and width.
        least: [usize; 2],
        /// What reached the site, `[channels, height, width]`.
        found: [usize; 3],
    },
    /// A stage was given the wrong kind of data.
    #[error("stage \"{stage}\" takes {expected}, but was given {found}")]
    Flow {
        /// Name of the stage.
        stage: String,
        /// Kind of data that the stage takes.
        expected: &'static str,
        /// Kind of data that was given.
        found: &'static str,
    },
    /// An observer could not take what flowed through a site.
    #[error("tap at site \"{site}\": {message}")]
    Tap {
        /// Name of the site.
        site: String,
        /// What the observer said.
        message: String,
    },
    /// Activations cannot be quantized as they should be.
    #[error("{message}")]
    Activation {
        /// What was found, and what was expected.
        message: String,
    },
    /// Reading or packing a weight failed.
    #[error(transparent)]
    Io(#[from] trimtab_io::Error),
    /// A stage could not be loaded.
    #[error("{0}")]
    Load(Box<dyn std::error::Error + Send + Sync>),
    /// Images are of another size than the one that the model has positions for.
    #[error(
        "stage \"{stage}\" takes images of {expected:?} (channels, height, width), but was given {found:?}\nhint: resize the images"
    )]
    ImageSize {
        /// Name of the stage.
        stage: String,
        /// Channels, height and width that the model takes.
        expected: [usize; 3],
        /// What was given.
        found: [usize; 3],
    },
    /// A text has another number of places for features than there are features.
    #[error(
        "stage \"{stage}\": the text has {places} tokens with the id {token}, which stand for features of images, but the images give {features} features\nhint: repeat the token once for every patch of every image"
    )]
    Features {
        /// Name of the stage.
        stage: String,
        /// Id of the tokens in whose place features stand.
        token: usize,
        /// Such tokens in the text.
        places: usize,
        /// Rows of features.
        features: usize,
    },
    /// A sequence is longer than the positions that the model was trained with.
    #[error(
        "the sequence has {found} tokens, but the model has {limit} learned positions\nhint: use a window of at most {limit}"
    )]
    Positions {
        /// Positions of the model.
        limit: usize,
        /// Tokens that were given.
        found: usize,
    },
}

/// Result of the network floor.
pub type Result<T, E = Error> = std::result::Result<T, E>;
