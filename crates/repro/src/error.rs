//! Errors of this crate.

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in a look-up or an experiment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No paper has this name or number.
    #[error(
        "no paper \"{asked}\": expected a number from 1 to 99 or a name such as \"eora\"\n\
         hint: trimtab reproduce --list shows them all"
    )]
    UnknownPaper {
        /// What was asked for.
        asked: String,
    },
    /// The folder with the data of the experiments is not known.
    #[error(
        "this experiment takes {what}, and no folder with data is given\nhint: --data FOLDER, or the variable TRIMTAB_DATA"
    )]
    NoData {
        /// What is missing.
        what: String,
    },
    /// The user asked to stop.
    #[error("interrupted; nothing was written")]
    Stopped,
    /// An experiment stopped before it had a verdict.
    #[error("{name} (paper {number}): {step} stopped")]
    Experiment {
        /// Number of the paper.
        number: u8,
        /// Short name of the paper.
        name: &'static str,
        /// Which step stopped, such as "calibration".
        step: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
