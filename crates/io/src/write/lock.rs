//! One process at a time works on an output.

use std::fs::TryLockError;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, Result};
use crate::fs::{self, File};

/// Name of the lock inside a directory of unfinished work.
pub(super) const LOCK: &str = "lock";

/// How often a lock is tried on a file that its holder removes or renames meanwhile.
const ATTEMPTS: usize = 8;

/// Creates `dir` if need be and takes its lock, which lasts until the file is closed or the process ends.
///
/// # Errors
/// [`Error::Locked`] if another process holds it.
pub(super) fn take(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    // The holder before us removes the whole directory when it is done: a lock on a file that is gone is none.
    for _ in 0..ATTEMPTS {
        fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        match attempt(&path, dir) {
            Ok(Some(file)) => return Ok(file),
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            Ok(None) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Locked { path: dir.into() })
}

/// Opens an empty file at `path`, for this process alone until it is closed.
///
/// # Errors
/// [`Error::Locked`], which names `output`, if another process has it.
pub(crate) fn create(path: &Path, output: &Path) -> Result<File> {
    for _ in 0..ATTEMPTS {
        // Emptied only once it is ours: the holder may be about to rename it to the output.
        if let Some(file) = attempt(path, output)? {
            file.set_len(0).map_err(|e| Error::io("shorten", path, e))?;
            return Ok(file);
        }
    }
    Err(Error::Locked { path: output.into() })
}

/// The locked file, or `None` if it has lost its name meanwhile.
fn attempt(path: &Path, output: &Path) -> Result<Option<File>> {
    let file = File::open_or_create(path).map_err(|e| Error::io("create", path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(is_at(&file, path).then_some(file)),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: output.into() }),
        Err(TryLockError::Error(e)) => Err(Error::io("lock", path, e)),
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |m: &std::fs::Metadata| (m.dev(), m.ino());
    matches!((&file.metadata(), &path.metadata()), (Ok(a), Ok(b)) if identity(a) == identity(b))
}

#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_the_making_belongs_to_one() {
        let dir = tempfile::tempdir().unwrap();
        let (path, output) = (dir.path().join("x.tmp"), dir.path().join("x"));
        let first = create(&path, &output).unwrap();
        let message = create(&path, &output).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{}: another process", output.display())), "{message}");
        drop(first);
        create(&path, &output).unwrap();
    }

    #[test]
    fn the_second_has_to_wait() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path()).unwrap();
        assert!(matches!(take(dir.path()), Err(Error::Locked { .. })));
        drop(first);
        take(dir.path()).unwrap();
    }
}
