//! What can go wrong between a name and a directory.

use std::io;
use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a name and a directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not downloaded yet, and nothing may be asked of the network.
    #[error("{name}: not in the cache {cache}: {missing}\nhint: {hint}")]
    NotCached {
        /// Name of the repository.
        name: String,
        /// The cache.
        cache: PathBuf,
        /// What is not there.
        missing: String,
        /// What to do.
        hint: String,
    },
    /// The hub could not be reached.
    #[error("{url}: no answer: {message}\nhint: check the network, HF_ENDPOINT and the proxy settings")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What the connection said.
        message: String,
    },
    /// The hub answered with a refusal.
    #[error("{url}: status {status}{}\nhint: {hint}", said(message))]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the hub said, if anything.
        message: String,
        /// What to do.
        hint: &'static str,
    },
    /// An answer of the hub that does not mean anything here.
    #[error("{url}: {message}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What was found and what was expected.
        message: String,
    },
    /// The connection ended early again and again.
    #[error(
        "{url}: the connection was cut after {done} of {total} bytes: {message}\nhint: run the same command again: it goes on where this one stopped"
    )]
    Cut {
        /// What was asked for.
        url: String,
        /// Bytes that are kept.
        done: u64,
        /// Bytes of the file.
        total: u64,
        /// What the connection said.
        message: String,
    },
    /// A file of another length than the hub announced.
    #[error(
        "{url}: {found} bytes are sent, the hub lists the file with {expected}\nhint: try again later; the mirror may be out of date"
    )]
    WrongLength {
        /// What was asked for.
        url: String,
        /// Length in the listing.
        expected: u64,
        /// Length of the transfer.
        found: u64,
    },
    /// A file of another content than the hub announced.
    #[error(
        "{url}: the content has the hash {found}, the hub lists {expected}; it was removed\nhint: run the same command again"
    )]
    WrongContent {
        /// What was asked for.
        url: String,
        /// Hash in the listing.
        expected: String,
        /// Hash of the transfer.
        found: String,
    },
    /// A repository without anything that can be opened here.
    #[error("{name}: {message}\nhint: {hint}")]
    NoModel {
        /// Name of the repository.
        name: String,
        /// What was found.
        message: String,
        /// What to do.
        hint: &'static str,
    },
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
    /// Files, in particular a full disk.
    #[error(transparent)]
    Files(#[from] trimtab_io::Error),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        if full.contains(&source.kind()) {
            let (path, kept) = (path.into(), path.parent().map(Into::into));
            return Self::Files(trimtab_io::Error::NoSpace { path, needed: None, free: None, kept });
        }
        Self::Io { action, path: path.into(), source }
    }

    pub(crate) fn answer(url: &str, message: impl Into<String>) -> Self {
        Self::Answer { url: url.into(), message: message.into() }
    }

    /// The refusal that a status stands for.
    pub(crate) fn status(url: &str, status: u16, message: String, has_token: bool) -> Self {
        let hint = match (status, has_token) {
            (401, false) => "check the name; a private or gated model needs a token in HF_TOKEN",
            (401, true) => "check the name and the token (HF_TOKEN, or the file of the login)",
            (403, _) => "the token may not read this model; ask for access on its page",
            (404, _) => "check owner, name and revision; a local directory has to exist",
            (429, _) => "too many requests; wait and try again, or set HF_TOKEN",
            _ => "try again later",
        };
        Self::Status { url: url.into(), status, message, hint }
    }
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}
