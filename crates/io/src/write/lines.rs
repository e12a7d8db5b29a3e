//! A file of lines that grows while a program runs.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::atomic::sync_dir;
use crate::error::{Error, Result};
use crate::fs::{File, parent_of};

/// A line waits for others no longer than this.
const WAIT: Duration = Duration::from_secs(1);
/// Nor until more than so many bytes wait.
const BUFFER: usize = 1 << 16;

/// A file of lines that grows while a program runs: written within a second or so, permanent where [`LineFile::sync`] says so.
///
/// What was not written for an error is kept and tried again. What is left when the file is dropped is written then, if that is
/// possible.
#[derive(Debug)]
pub struct LineFile {
    file: File,
    waiting: Vec<u8>,
    written: Instant,
}

impl LineFile {
    /// Opens a file, or creates it, and cuts off what lies beyond its first `kept` bytes.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn open(path: &Path, kept: u64) -> Result<Self> {
        let file = File::append(path).map_err(|e| Error::io("open", path, e))?;
        file.set_len(kept).map_err(|e| Error::io("shorten", path, e))?;
        // Also for a file that was there: whoever made it may have been killed before this.
        sync_dir(parent_of(path))?;
        Ok(Self { file, waiting: Vec::new(), written: Instant::now() })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn push(&mut self, line: &str) -> Result<()> {
        self.waiting.extend_from_slice(line.as_bytes());
        self.waiting.push(b'\n');
        match self.written.elapsed() >= WAIT || self.waiting.len() > BUFFER {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn flush(&mut self) -> Result<()> {
        self.written = Instant::now();
        while !self.waiting.is_empty() {
            // Not `write_all`, which does not tell how much of a failed write there is.
            match self.file.write(&self.waiting) {
                Ok(0) => return Err(self.failed("write", io::ErrorKind::WriteZero.into())),
                Ok(n) => drop(self.waiting.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("write", error)),
            }
        }
        Ok(())
    }

    /// Writes what waits, and waits until all of it is on the disk.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.file.sync().map_err(|error| self.failed("sync", error))
    }

    fn failed(&self, action: &'static str, error: io::Error) -> Error {
        Error::io(action, self.file.path(), error)
    }
}

impl Drop for LineFile {
    fn drop(&mut self) {
        // Whoever needs to know calls `sync`.
        let _ = self.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lines_are_kept_cut_off_and_added() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.jsonl");
        let mut file = LineFile::open(&path, 0).unwrap();
        file.push("one").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"", "it waits for others");
        file.sync().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\n");
        file.push("two").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
        let mut file = LineFile::open(&path, 4).unwrap();
        file.push("three").unwrap();
        file.written -= WAIT;
        file.push("four").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\nthree\nfour\n", "no line waits longer than a second");
        let long = "x".repeat(BUFFER);
        file.push(&long).unwrap();
        assert!(fs::read(&path).unwrap().len() > BUFFER);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_apart_and_nothing_waiting_is_lost() {
        let path = Path::new("/dev/full");
        let file = File::append(path).unwrap();
        let mut file = LineFile { file, waiting: Vec::new(), written: Instant::now() };
        file.push("x").unwrap();
        assert!(matches!(file.sync(), Err(Error::NoSpace { .. })));
        assert_eq!(file.waiting, b"x\n");
    }
}
