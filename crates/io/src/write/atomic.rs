//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::digest::{Digest, hex};
use crate::error::{Error, Result};

/// End of the names of unfinished files.
pub(crate) const TEMPORARY: &str = ".tmp";

/// Writes a file, whole or not at all.
///
/// # Errors
/// [`Error::Io`], [`Error::NoSpace`].
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    write_file(path.as_ref(), |file| file.write(bytes)).map(drop)
}

/// Writes `path` through a synced temporary file beside it; `fill` produces the content.
pub(crate) fn write_file(path: &Path, fill: impl FnOnce(&mut HashedFile) -> Result<()>) -> Result<Digest> {
    let temporary = temporary(path);
    let written = write_temporary(&temporary, fill);
    let renamed = written.and_then(|digest| {
        fs::rename(&temporary, path).map_err(|e| Error::io("rename a temporary file to", path, e))?;
        sync_dir(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        Ok(digest)
    });
    if renamed.is_err() {
        // The first error counts; whatever is left is cleared when the work is taken up again.
        let _ = fs::remove_file(&temporary);
    }
    renamed
}

fn write_temporary(path: &Path, fill: impl FnOnce(&mut HashedFile) -> Result<()>) -> Result<Digest> {
    let file = File::create(path).map_err(|e| Error::io("create", path, e))?;
    let mut file = HashedFile { path: path.into(), file, hash: Sha256::new(), bytes: 0 };
    fill(&mut file)?;
    file.file.sync_all().map_err(|e| Error::io("sync", path, e))?;
    Ok(Digest { bytes: file.bytes, sha256: hex(&file.hash.finalize()) })
}

/// A file that is hashed while it is written. Not buffered: what is written to it comes in large pieces.
pub(crate) struct HashedFile {
    path: PathBuf,
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl HashedFile {
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Makes a rename or a removal in `dir` permanent.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    // Only Unix lets a directory be opened and synced.
    if cfg!(unix) {
        let sync = || File::open(dir)?.sync_all();
        sync().map_err(|e| Error::io("sync", dir, e))?;
    }
    Ok(())
}

/// Removes a file or a directory with its content, if it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(TEMPORARY);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
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
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        let mut file = HashedFile { path: path.into(), file, hash: Sha256::new(), bytes: 0 };
        assert!(matches!(file.write(b"x"), Err(Error::NoSpace { .. })));
    }
}
