//! Every file that this program writes, and every change of a folder, goes through here.
//!
//! The functions are those of `std::fs` with one addition: an [`Interference`] hears of each call before it is made and
//! can forbid it, cut it short or leave it out. That is how tests let the disk fill up, break or lose its power at any
//! single call (`crates/faults`). Nothing in this crate or in the program `trimtab` ever sets one; without one, a call
//! costs the look at an empty cell.
//!
//! Reading goes through here where it belongs to the output (journals, units, unfinished files) and where whole files are
//! read or mapped, so that unreadable input is tried too.

use std::fs::{self, Metadata, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What is about to be done to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A file comes into being, or is emptied.
    Create,
    /// A file is opened for writing, and comes into being if it is not there.
    Open,
    /// Bytes are written.
    Write,
    /// What was written to a file becomes permanent.
    Sync,
    /// A file gets another length.
    Resize,
    /// A file is locked.
    Lock,
    /// A file or folder gets another name.
    Rename,
    /// A file is removed.
    RemoveFile,
    /// An empty folder is removed.
    RemoveDir,
    /// A folder comes into being.
    CreateDir,
    /// A symbolic link comes into being.
    Link,
    /// The names in a folder become permanent.
    SyncDir,
    /// A file is opened and read.
    Read,
    /// A file is mapped.
    Map,
}

/// A call that is about to be made.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// What is done.
    pub operation: Operation,
    /// To which file or folder.
    pub path: &'a Path,
    /// The new name, of [`Operation::Rename`].
    pub to: Option<&'a Path>,
    /// Bytes to be written, of [`Operation::Write`]; the new length, of [`Operation::Resize`].
    pub bytes: u64,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    Proceed,
    /// Of a write, only so many bytes are taken, as the system may do at any time.
    Short(usize),
    /// It is left out and reported as made: for calls whose effect a test cannot see, such as waiting for a disk.
    Omit,
}

/// Something that stands between this program and the disk.
pub trait Interference: Send + Sync {
    /// Hears of a call before it is made. An error is what the caller gets instead.
    ///
    /// # Errors
    /// Whatever the disk is to answer.
    fn before(&self, call: &Call<'_>) -> io::Result<Verdict>;

    /// Hears of a call that was made and succeeded; of a write, with the bytes that were taken.
    fn after(&self, call: &Call<'_>) {
        let _ = call;
    }
}

static INTERFERENCE: OnceLock<Box<dyn Interference>> = OnceLock::new();

/// Puts `interference` between this process and the disk, for good. Only the first call has an effect; returns whether
/// this was it. For tests.
#[doc(hidden)]
pub fn interfere(interference: Box<dyn Interference>) -> bool {
    INTERFERENCE.set(interference).is_ok()
}

fn guarded<T>(
    call: Call<'_>,
    omitted: impl FnOnce() -> T,
    made: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let Some(interference) = INTERFERENCE.get() else { return made() };
    match interference.before(&call)? {
        Verdict::Omit => Ok(omitted()),
        _ => {
            let done = made()?;
            interference.after(&call);
            Ok(done)
        }
    }
}

/// A call without a result.
fn change(operation: Operation, path: &Path, made: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    guarded(call(operation, path), || (), made)
}

/// A call with a result, which cannot be left out: an interference that wants to is told so.
fn access<T>(operation: Operation, path: &Path, made: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let omitted = || Err(io::Error::other(format!("{operation:?} cannot be left out")));
    guarded(call(operation, path), omitted, || made().map(Ok))?
}

fn call(operation: Operation, path: &Path) -> Call<'_> {
    Call { operation, path, to: None, bytes: 0 }
}

/// An open file that knows its name.
#[derive(Debug)]
pub struct File {
    file: fs::File,
    path: PathBuf,
}

impl File {
    /// Opens a file for writing; what was in it is gone.
    ///
    /// # Errors
    /// Those of the system, here and below.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::opened(Operation::Create, path, || fs::File::create(path))
    }

    /// Opens a file for reading and writing as it is, or creates it.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open_or_create(path: &Path) -> io::Result<Self> {
        let mut options = fs::OpenOptions::new();
        let options = options.create(true).truncate(false).read(true).write(true);
        Self::opened(Operation::Open, path, || options.open(path))
    }

    /// Opens a file for writing at its end, or creates it.
    ///
    /// # Errors
    /// Those of the system.
    pub fn append(path: &Path) -> io::Result<Self> {
        let mut options = fs::OpenOptions::new();
        let options = options.create(true).append(true);
        Self::opened(Operation::Open, path, || options.open(path))
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::opened(Operation::Read, path, || fs::File::open(path))
    }

    /// A file without a name, in `folder`: made by `make`, which is not asked if the disk refuses.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn nameless(folder: &Path, make: impl FnOnce() -> io::Result<fs::File>) -> io::Result<Self> {
        Self::opened(Operation::Create, folder, make)
    }

    fn opened(
        operation: Operation,
        path: &Path,
        open: impl FnOnce() -> io::Result<fs::File>,
    ) -> io::Result<Self> {
        Ok(Self { file: access(operation, path, open)?, path: path.into() })
    }

    /// Waits until content and length are on the disk.
    ///
    /// # Errors
    /// Those of the system.
    pub fn sync(&self) -> io::Result<()> {
        change(Operation::Sync, &self.path, || self.file.sync_all())
    }

    /// Gives the file another length.
    ///
    /// # Errors
    /// Those of the system.
    pub fn set_len(&self, bytes: u64) -> io::Result<()> {
        let call = Call { bytes, ..call(Operation::Resize, &self.path) };
        guarded(call, || (), || self.file.set_len(bytes))
    }

    /// Takes the lock of the file, if nobody has it.
    ///
    /// # Errors
    /// [`TryLockError::WouldBlock`] if somebody has it, otherwise those of the system.
    pub fn try_lock(&self) -> Result<(), TryLockError> {
        let mut taken = Err(TryLockError::WouldBlock);
        change(Operation::Lock, &self.path, || {
            taken = self.file.try_lock();
            Ok(())
        })
        .map_err(TryLockError::Error)?;
        taken
    }

    /// Waits for the lock of the file.
    ///
    /// # Errors
    /// Those of the system.
    pub fn lock(&self) -> io::Result<()> {
        change(Operation::Lock, &self.path, || self.file.lock())
    }

    /// Length and other facts.
    ///
    /// # Errors
    /// Those of the system.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// Its name.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(interference) = INTERFERENCE.get() else { return self.file.write(bytes) };
        let call = Call { bytes: bytes.len() as u64, ..call(Operation::Write, &self.path) };
        let n = match interference.before(&call)? {
            Verdict::Short(n) => n.min(bytes.len()),
            _ => bytes.len(),
        };
        let taken = self.file.write(&bytes[..n])?;
        interference.after(&Call { bytes: taken as u64, ..call });
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Read for File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        access(Operation::Read, &self.path, || self.file.read(buffer))
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// The content of a file.
///
/// # Errors
/// Those of the system, here and below.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    access(Operation::Read, path, || fs::read(path))
}

/// Maps a file for reading by `map`, which is not asked if the disk refuses.
pub(crate) fn map<T>(path: &Path, map: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    access(Operation::Map, path, map)
}

/// Gives a file or folder another name, in place of what had that name.
///
/// # Errors
/// Those of the system.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let call = Call { to: Some(to), ..call(Operation::Rename, from) };
    guarded(call, || (), || fs::rename(from, to))
}

/// Removes a file or link.
///
/// # Errors
/// Those of the system.
pub fn remove_file(path: &Path) -> io::Result<()> {
    change(Operation::RemoveFile, path, || fs::remove_file(path))
}

/// Removes an empty folder.
///
/// # Errors
/// Those of the system.
pub fn remove_dir(path: &Path) -> io::Result<()> {
    change(Operation::RemoveDir, path, || fs::remove_dir(path))
}

/// Removes a folder and what is in it, one call for each. Links are removed, not followed.
///
/// # Errors
/// Those of the system.
pub fn remove_dir_all(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { remove_dir_all(&entry.path())? } else { remove_file(&entry.path())? }
    }
    remove_dir(path)
}

/// Makes a folder.
///
/// # Errors
/// Those of the system.
pub fn create_dir(path: &Path) -> io::Result<()> {
    change(Operation::CreateDir, path, || fs::create_dir(path))
}

/// Makes a folder and those above it, as far as they are missing, each permanent before the next.
///
/// # Errors
/// Those of the system.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    create_dir_all(parent)?;
    match create_dir(path) {
        // Another process may have been faster.
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_dir(parent),
    }
}

/// The folder of a path; the working folder for a bare name.
pub(crate) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a symbolic link at `path` that says `target`.
///
/// # Errors
/// Those of the system.
#[cfg(unix)]
pub fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    change(Operation::Link, path, || std::os::unix::fs::symlink(target, path))
}

/// Copies a file, for systems without links.
///
/// # Errors
/// Those of the system.
#[cfg(not(unix))]
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    change(Operation::Link, to, || fs::copy(from, to).map(drop))
}

/// Makes the names in a folder permanent: files that came, went or were renamed.
///
/// # Errors
/// Those of the system.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    change(Operation::SyncDir, dir, || {
        // Only Unix lets a directory be opened and synced.
        if cfg!(unix) { fs::File::open(dir)?.sync_all() } else { Ok(()) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_and_go_with_what_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir_all(&deep).unwrap();
        create_dir_all(&deep).unwrap();
        File::create(&deep.join("f")).unwrap().write_all(b"x").unwrap();
        assert_eq!(read(&deep.join("f")).unwrap(), b"x");
        assert!(create_dir_all(&deep.join("f")).is_err(), "a file is in the way");
        #[cfg(unix)]
        {
            let kept = dir.path().join("kept");
            fs::create_dir(&kept).unwrap();
            symlink(&kept, &deep.join("link")).unwrap();
            remove_dir_all(&dir.path().join("a")).unwrap();
            assert!(kept.is_dir(), "a link is removed, not what it leads to");
        }
        assert!(!dir.path().join("a").exists());
    }
}
