//! Errors of the pipeline.

use trimtab_nn::Task;

/// What can stop a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that makes no sense.
    #[error("{what}: {message}")]
    Setting {
        /// The flag or field.
        what: &'static str,
        /// What is wrong.
        message: String,
    },
    /// Data that does not fit the model.
    #[error(
        "this model cannot be judged on {given}: it is a model of kind {task:?}\nhint: language models take a text, encoders take pairs, classifiers take images"
    )]
    WrongData {
        /// What was given.
        given: &'static str,
        /// What the model does.
        task: Task,
    },
    /// A model of this kind has no built-in calibration data.
    #[error("{what} needs calibration data\nhint: pass --calibration FILE, for example {example}")]
    NeedsCalibration {
        /// Kind of model.
        what: &'static str,
        /// An example of a file.
        example: &'static str,
    },
    /// A calibration file without text.
    #[error("{source_name}: no text to calibrate on")]
    EmptyCalibration {
        /// The file.
        source_name: String,
    },
    /// Images of another number of colours than the model takes.
    #[error("the images have {images} channels, the model takes {model}")]
    Channels {
        /// Channels of the images.
        images: usize,
        /// Channels of the model.
        model: usize,
    },
    /// A plan that was made for another model.
    #[error("the plan was made for another model: {message}\nhint: make a new one with `trimtab plan`")]
    OtherModel {
        /// What differs.
        message: String,
    },
    /// A plan whose sites are not those of the model.
    #[error("site \"{site}\": {message}")]
    Site {
        /// Name of the site.
        site: String,
        /// What is wrong.
        message: String,
    },
    /// The chosen format cannot hold what the plan asks for.
    #[error("{format} cannot hold {what}\nhint: {hint}")]
    Format {
        /// The format.
        format: &'static str,
        /// What it cannot hold.
        what: String,
        /// What to do.
        hint: &'static str,
    },
    /// A run that cannot fit into memory.
    #[error(
        "the run needs about {} MB of memory, but may have {} MB ({set_by})\nhint: less calibration data (--samples, --window) or --method rtn needs less",
        needed / 1_000_000,
        allowed / 1_000_000
    )]
    Memory {
        /// Bytes that the run is predicted to need.
        needed: u64,
        /// Bytes that it may have.
        allowed: u64,
        /// What sets the limit.
        set_by: &'static str,
    },
    /// The user asked to stop, and the work at hand has no halves.
    #[error("interrupted; nothing was written")]
    Stopped,
    /// The user asked to stop.
    #[error("interrupted; what was finished is kept in {kept}\nhint: the same command goes on from there")]
    Interrupted {
        /// Where.
        kept: String,
    },
    /// JSON or TOML of our own could not be written or read.
    #[error("{what}: {message}")]
    Data {
        /// The file.
        what: String,
        /// What went wrong.
        message: String,
    },
    /// Files.
    #[error(transparent)]
    Io(#[from] trimtab_io::Error),
    /// Planning.
    #[error(transparent)]
    Plan(#[from] trimtab_plan::Error),
    /// Calibration.
    #[error(transparent)]
    Calibrate(#[from] trimtab_calibrate::Error),
    /// Evaluation.
    #[error(transparent)]
    Eval(#[from] trimtab_eval::Error),
    /// Architectures.
    #[error(transparent)]
    Model(#[from] trimtab_models::Error),
    /// Networks.
    #[error(transparent)]
    Nn(#[from] trimtab_nn::Error),
    /// Training.
    #[error(transparent)]
    Train(#[from] trimtab_train::Error),
    /// Rewrites.
    #[error(transparent)]
    Rewrite(#[from] trimtab_rewrite::Error),
    /// Quantizers.
    #[error(transparent)]
    Quantize(#[from] trimtab_quantize::Error),
}

impl Error {
    /// Says of an interruption in the middle of a pass what is kept, if anything is; other errors stay as they are.
    pub fn interrupted(self, kept: Option<String>) -> Self {
        match (self, kept) {
            (Self::Calibrate(trimtab_calibrate::Error::Interrupted), Some(kept)) => {
                Self::Interrupted { kept }
            }
            (Self::Calibrate(trimtab_calibrate::Error::Interrupted), None) => Self::Stopped,
            (other, _) => other,
        }
    }
}

/// Result of the pipeline.
pub type Result<T, E = Error> = std::result::Result<T, E>;
