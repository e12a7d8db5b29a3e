//! Room on the device.

use std::path::Path;

use crate::error::{Error, Result};

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

#[cfg(test)]
mod tests {
    use super::*;

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
