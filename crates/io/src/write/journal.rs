//! What an unfinished run has finished, one line each.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::WrittenFile;
use crate::error::{Error, Result};
use crate::fs::{self, File};

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// The first line: which job this is.
    Job(String),
    /// A unit is on disk.
    Unit(UnitRecord),
    /// All units are merged into these files.
    Shards(Vec<WrittenFile>),
    /// The finished tree is about to become the output; it has, where it is no longer there.
    Publishing,
}

/// A unit of work that is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UnitRecord {
    pub key: String,
    pub file: WrittenFile,
    pub tensors: Vec<String>,
}

/// An append-only file of lines, each synced before the work goes on.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    end: u64,
}

impl Journal {
    /// Opens or creates the journal, and returns the lines in it. A line that is cut off or unreadable, and whatever
    /// follows it, is dropped: the work that it stood for is done again.
    pub fn open(path: &Path) -> Result<(Self, Vec<Line>)> {
        let mut file = File::open_or_create(path).map_err(|e| Error::io("open", path, e))?;
        let text = fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let (lines, end) = parse(&text);
        let end = end as u64;
        if end < text.len() as u64 {
            file.set_len(end).map_err(|e| Error::io("shorten", path, e))?;
        }
        file.seek(SeekFrom::Start(end)).map_err(|e| Error::io("open", path, e))?;
        Ok((Self { path: path.into(), file, end }, lines))
    }

    /// Adds a line and waits until it is on disk.
    pub fn append(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_vec(line).map_err(|e| Error::invalid("journal", e.to_string()))?;
        text.push(b'\n');
        let written = self.file.write_all(&text).and_then(|()| self.file.sync());
        if let Err(error) = written {
            // Half a line would be dropped when the journal is opened again, but not by the next line of this run.
            let _ = self.file.set_len(self.end).and_then(|()| self.file.seek(SeekFrom::Start(self.end)));
            return Err(Error::io("write", &self.path, error));
        }
        self.end += text.len() as u64;
        Ok(())
    }

    /// Forgets everything.
    pub fn clear(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(|e| Error::io("shorten", &self.path, e))?;
        self.file.seek(SeekFrom::Start(0)).map_err(|e| Error::io("shorten", &self.path, e))?;
        self.end = 0;
        Ok(())
    }
}

/// The lines of a journal that may not be there.
pub(super) fn lines(path: &Path) -> Result<Vec<Line>> {
    match fs::read(path) {
        Ok(text) => Ok(parse(&text).0),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io("read", path, e)),
    }
}

/// The readable lines at the beginning, and where they end.
fn parse(text: &[u8]) -> (Vec<Line>, usize) {
    let mut lines = Vec::new();
    let mut end = 0;
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let Some(content) = line.strip_suffix(b"\n") else { break };
        let Ok(parsed) = serde_json::from_slice(content) else { break };
        lines.push(parsed);
        end += line.len();
    }
    (lines, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<Line> {
        let file = WrittenFile { name: "u".into(), bytes: 3, sha256: "ab".into() };
        let unit = UnitRecord { key: "block \"0\"\n".into(), file: file.clone(), tensors: vec!["t".into()] };
        vec![Line::Job("j".into()), Line::Unit(unit), Line::Shards(vec![file]), Line::Publishing]
    }

    #[test]
    fn a_journal_cut_anywhere_gives_the_lines_before_the_cut_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, found) = Journal::open(&path).unwrap();
        assert!(found.is_empty());
        for line in &lines() {
            journal.append(line).unwrap();
        }
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (mut journal, found) = Journal::open(&path).unwrap();
            let complete = whole[..cut].iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(found, lines()[..complete], "cut at {cut}");
            journal.append(&Line::Job("next".into())).unwrap();
            let (_, found) = Journal::open(&path).unwrap();
            assert_eq!(found.last(), Some(&Line::Job("next".into())), "cut at {cut}");
            assert_eq!(found.len(), complete + 1);
        }
    }
}
