//! Files that appear whole or not at all.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::lock;
use crate::digest::{Digest, hex};
use crate::error::{Error, Result};
use crate::fs::{self, File, parent_of};

/// End of the names of unfinished files.
pub(crate) const TEMPORARY: &str = ".tmp";

/// Writes a file, whole or not at all.
///
/// # Errors
/// [`Error::Io`], [`Error::NoSpace`]; [`Error::Locked`] while another process writes it.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    write_file(path.as_ref(), |file| file.write(bytes)).map(drop)
}

/// Removes a file or a directory with its content, if it is there.
///
/// # Errors
/// [`Error::Io`].
pub fn remove(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}

/// Writes `path` through a synced temporary file beside it; `fill` produces the content.
///
/// After an error the file is as it was before: not there, if it was not. The one exception is an error after a file was
/// replaced, when its folder cannot be synced: then the new content is there, whole.
pub(crate) fn write_file(path: &Path, fill: impl FnOnce(&mut HashedFile) -> Result<()>) -> Result<Digest> {
    let temporary = temporary(path);
    let is_new = path.symlink_metadata().is_err();
    let mut file = HashedFile::create(&temporary, path)?;
    let synced = fill(&mut file).and_then(|()| file.sync());
    let renamed = synced.and_then(|digest| {
        fs::rename(&temporary, path).map_err(|e| Error::io("rename a temporary file to", path, e))?;
        Ok(digest)
    });
    if renamed.is_err() {
        // The first error counts; whatever is left is cleared when the work is taken up again.
        let _ = fs::remove_file(&temporary);
        return renamed;
    }
    let kept = sync_dir(parent_of(path)).and(renamed);
    if kept.is_err() && is_new {
        // The same command has to find the place as it was, or it takes the file for another's.
        let _ = fs::remove_file(path);
    }
    kept
}

/// A file that is hashed while it is written. Not buffered: what is written to it comes in large pieces.
pub(crate) struct HashedFile {
    path: PathBuf,
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl HashedFile {
    /// Opens `path` for the making of `output`, for this process alone.
    fn create(path: &Path, output: &Path) -> Result<Self> {
        let file = lock::create(path, output)?;
        Ok(Self { path: path.into(), file, hash: Sha256::new(), bytes: 0 })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn sync(&self) -> Result<Digest> {
        self.file.sync().map_err(|e| Error::io("sync", &self.path, e))?;
        Ok(Digest { bytes: self.bytes, sha256: hex(&self.hash.clone().finalize()) })
    }
}

/// Makes a rename or a removal in `dir` permanent.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    fs::sync_dir(dir).map_err(|e| Error::io("sync", dir, e))
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(TEMPORARY);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::digest;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b ü");
        let written = write_file(&path, |file| file.write(b"one").and_then(|()| file.write(b"two"))).unwrap();
        assert_eq!(written, digest::of_bytes(b"onetwo"));
        let failed = write_file(&path, |file| {
            file.write(b"three")?;
            Err(Error::invalid("test", "stop"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"onetwo");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_apart() {
        let path = Path::new("/dev/full");
        let file = File::append(path).unwrap();
        let mut file = HashedFile { path: path.into(), file, hash: Sha256::new(), bytes: 0 };
        assert!(matches!(file.write(b"x"), Err(Error::NoSpace { .. })));
    }
}
