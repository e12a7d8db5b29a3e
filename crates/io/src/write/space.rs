//! Room on the device.

use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, Result};
use crate::fs;

/// Bytes that can be written to the device of `path`, which exists; `None` where the system does not say.
pub fn free_space(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let stat = rustix::fs::statvfs(path).ok()?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

/// Checks that `needed` bytes can be written to the device of `path`. Passes where the system does not say.
///
/// # Errors
/// [`Error::NoSpace`] with both figures.
pub fn ensure_space(path: &Path, needed: u64) -> Result<()> {
    match free_space(path) {
        Some(free) if free < needed => {
            Err(Error::NoSpace { path: path.into(), needed: Some(needed), free: Some(free), kept: None })
        }
        _ => Ok(()),
    }
}

/// Checks that files can be created in `dir`, by creating one.
///
/// # Errors
/// [`Error::Io`] if there is no such folder or nothing may be written there.
pub fn ensure_writable(dir: &Path) -> Result<()> {
    // One name for all: what a killed run leaves here, the next one clears away.
    let probe = dir.join(".trimtab.tmp");
    let created = fs::File::create(&probe).map(drop);
    let removed = created.and_then(|()| fs::remove_file(&probe));
    match removed {
        // Another run has cleared it away.
        Err(e) if e.kind() == ErrorKind::NotFound && dir.is_dir() => Ok(()),
        other => other.map_err(|e| Error::io("write to the folder", dir, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        ensure_writable(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
        let message = ensure_writable(&dir.path().join("no")).unwrap_err().to_string();
        assert!(message.contains("cannot write to the folder"), "{message}");
    }

    #[test]
    fn nothing_fits_and_everything_does_not() {
        let dir = tempfile::tempdir().unwrap();
        ensure_space(dir.path(), 0).unwrap();
        if let Some(free) = free_space(dir.path()) {
            let message = ensure_space(dir.path(), u64::MAX).unwrap_err().to_string();
            assert!(message.contains(&u64::MAX.to_string()), "{message}");
            assert!(free < u64::MAX);
        }
    }
}
