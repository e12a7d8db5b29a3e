//! One process at a time works on an output.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;

use crate::error::{Error, Result};

/// Name of the lock inside a directory of unfinished work.
pub(super) const LOCK: &str = "lock";

/// Creates `dir` if need be and takes its lock, which lasts until the file is closed or the process ends.
///
/// # Errors
/// [`Error::Locked`] if another process holds it.
pub(super) fn take(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    // The holder before us removes the whole directory when it is done: a lock on a file that is gone is none.
    for _ in 0..8 {
        fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| Error::io("create", &path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => break,
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path, e)),
        }
        if is_at(&file, &path) {
            return Ok(file);
        }
    }
    Err(Error::Locked { path: dir.into() })
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |m: &fs::Metadata| (m.dev(), m.ino());
    matches!((&file.metadata(), &fs::metadata(path)), (Ok(a), Ok(b)) if identity(a) == identity(b))
}

#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_has_to_wait() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path()).unwrap();
        assert!(matches!(take(dir.path()), Err(Error::Locked { .. })));
        drop(first);
        take(dir.path()).unwrap();
    }
}
