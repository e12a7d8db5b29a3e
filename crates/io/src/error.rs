//! What can go wrong with files.

use std::io;
use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The disk is full, or would be.
    #[error("{path}: not enough space{}{}\nhint: free space there and run the same command again", needed_free(*needed, *free), kept_in(kept.as_deref()))]
    NoSpace {
        /// File or directory that could not be written.
        path: PathBuf,
        /// Bytes needed, where known.
        needed: Option<u64>,
        /// Bytes free, where known.
        free: Option<u64>,
        /// Directory with the work that is already finished.
        kept: Option<PathBuf>,
    },
    /// A path that holds no checkpoint.
    #[error("{path}: no checkpoint here: {message}\nhint: {hint}")]
    NotACheckpoint {
        /// The path.
        path: PathBuf,
        /// What was found.
        message: String,
        /// What to do.
        hint: &'static str,
    },
    /// A file whose structure is wrong.
    #[error("{file}: {message}")]
    Malformed {
        /// The file.
        file: String,
        /// What was found and what was expected.
        message: String,
    },
    /// A tensor whose description or content is wrong.
    #[error("{file}: tensor \"{tensor}\": {message}")]
    Tensor {
        /// File, or checkpoint.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// What was found and what was expected.
        message: String,
    },
    /// A name that the checkpoint does not have.
    #[error("{model}: no tensor \"{tensor}\"{}", nearest_names(nearest))]
    MissingTensor {
        /// Path of the checkpoint.
        model: String,
        /// The name that was asked for.
        tensor: String,
        /// Names that look most like it, best first.
        nearest: Vec<String>,
    },
    /// Numbers that do not fit together.
    #[error("{what}: {message}")]
    Invalid {
        /// What was to be built or converted.
        what: String,
        /// What was found and what was expected.
        message: String,
    },
    /// A quantization that this program cannot read.
    #[error("quantization_config: {message}\nhint: {hint}")]
    Quantization {
        /// What was found.
        message: String,
        /// What to do.
        hint: &'static str,
    },
    /// A text that is not what it was said to be.
    #[error(
        "{path}: byte {offset} is not valid UTF-8\nhint: convert the file to UTF-8, or read it as latin-1"
    )]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset of the first bad byte, from 0.
        offset: usize,
    },
    /// A row of a data file that cannot be read.
    #[error("{path}: line {line}: {message}")]
    Row {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// What was found and what was expected.
        message: String,
    },
    /// The tokenizer's own error.
    #[error("tokenizer: {action}: {message}")]
    Tokenizer {
        /// What was tried.
        action: &'static str,
        /// What the tokenizer said.
        message: String,
    },
    /// The output is there already.
    #[error("{path}: already exists\nhint: choose another output, or pass --force to replace it")]
    OutputExists {
        /// The output.
        path: PathBuf,
    },
    /// The output cannot be where it was asked for.
    #[error("{path}: {message}")]
    Output {
        /// The output.
        path: PathBuf,
        /// What is in the way, and what to do.
        message: String,
    },
    /// An unfinished run of another job lies where this one wants to work.
    #[error(
        "{path}: holds an unfinished run of another job ({found}), this one is {expected}\nhint: repeat the command that began it, choose another output, or pass --force to discard it"
    )]
    OtherJob {
        /// Directory of the unfinished run.
        path: PathBuf,
        /// Hash of its job.
        found: String,
        /// Hash of this job.
        expected: String,
    },
    /// Another process works on the same output.
    #[error("{path}: another process is writing this output\nhint: wait for it, or choose another output")]
    Locked {
        /// Directory of the unfinished run.
        path: PathBuf,
    },
}

impl Error {
    /// An error of the operating system; a full disk gets its own kind.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        if full.contains(&source.kind()) {
            return Self::NoSpace { path: path.into(), needed: None, free: None, kept: None };
        }
        Self::Io { action, path: path.into(), source }
    }

    pub(crate) fn malformed(file: &str, message: impl Into<String>) -> Self {
        Self::Malformed { file: file.into(), message: message.into() }
    }

    pub(crate) fn tensor(file: &str, tensor: &str, message: impl Into<String>) -> Self {
        Self::Tensor { file: file.into(), tensor: tensor.into(), message: message.into() }
    }

    pub(crate) fn invalid(what: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), message: message.into() }
    }

    /// Adds to a full disk where the finished work is kept.
    pub(crate) fn keeping(self, directory: &Path) -> Self {
        match self {
            Self::NoSpace { path, needed, free, kept: None } => {
                Self::NoSpace { path, needed, free, kept: Some(directory.into()) }
            }
            other => other,
        }
    }
}

fn needed_free(needed: Option<u64>, free: Option<u64>) -> String {
    match (needed, free) {
        (Some(needed), Some(free)) => format!(" on the device: {needed} bytes needed, {free} free"),
        _ => " left on the device".into(),
    }
}

fn kept_in(directory: Option<&Path>) -> String {
    directory.map_or_else(String::new, |d| format!("; what is finished is kept in {}", d.display()))
}

fn nearest_names(nearest: &[String]) -> String {
    if nearest.is_empty() {
        return String::new();
    }
    let names: Vec<String> = nearest.iter().map(|name| format!("\"{name}\"")).collect();
    format!("; nearest: {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_what_is_kept() {
        let error = Error::io("write", Path::new("/out/x"), io::Error::from(io::ErrorKind::StorageFull));
        let text = error.keeping(Path::new("/out.partial")).to_string();
        assert!(text.starts_with("/out/x: not enough space left"), "{text}");
        assert!(text.contains("kept in /out.partial"), "{text}");
        let other = Error::io("write", Path::new("/out/x"), io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(matches!(other.keeping(Path::new("/k")), Error::Io { .. }));
    }
}
