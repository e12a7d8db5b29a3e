//! What every step said, in a file of JSON lines beside the output.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;
use trimtab_io::{Error, LineFile, Result};
use trimtab_train::StepRecord;

/// Where the metrics of an output lie: `OUT.metrics.jsonl` beside `OUT`.
pub fn metrics_of(output: &Path) -> PathBuf {
    // A trailing slash names the same directory.
    let mut name = output.components().collect::<PathBuf>().into_os_string();
    name.push(".metrics.jsonl");
    name.into()
}

/// The metrics of a run: a line a step, each step once.
pub(crate) struct Metrics {
    path: PathBuf,
    lines: LineFile,
    /// What could not be written; nothing is tried after it.
    failed: Option<Error>,
}

impl Metrics {
    /// Opens the file of a run that goes on after `step`; lines of later steps are dropped, and one that was torn by a kill.
    /// Also how many steps before have no line, as after the file was removed.
    ///
    /// # Errors
    /// [`Error::OutputExists`] for a file of something else, unless `force`; one that cannot be written.
    pub fn resume(path: PathBuf, step: usize, force: bool) -> Result<(Self, usize)> {
        let text = match trimtab_io::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            read => read.map_err(|source| Error::Io { action: "read", path: path.clone(), source })?,
        };
        let (kept, lines) = kept(&text, step);
        let is_ours = text.first().is_none_or(|first| *first == b'{') && (lines > 0 || !is_foreign(&text));
        if !is_ours && !force {
            return Err(Error::OutputExists { path });
        }
        let lines_file = LineFile::open(&path, kept as u64)?;
        Ok((Self { path, lines: lines_file, failed: None }, step - lines))
    }

    /// Adds the line of a step. An error is told by the next [`Metrics::sync`].
    pub fn push(&mut self, record: &StepRecord) {
        if self.failed.is_none() {
            let line = serde_json::to_string(record);
            let line = line.map_err(|e| Error::Malformed {
                file: self.path.display().to_string(),
                message: e.to_string(),
            });
            self.failed = line.and_then(|line| self.lines.push(&line)).err();
        }
    }

    /// Whether a line could not be written.
    pub fn is_broken(&self) -> bool {
        self.failed.is_some()
    }

    /// Waits until all lines are on the disk.
    ///
    /// # Errors
    /// The first line that could not be written.
    pub fn sync(&mut self) -> Result<()> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.lines.sync(),
        }
    }
}

/// The step of a line, if it is one of ours.
fn step_of(line: &[u8]) -> Option<u64> {
    let line: Value = serde_json::from_slice(line).ok()?;
    line.get("loss")?;
    line.get("step")?.as_u64()
}

/// Whether the first line is whole, and none of ours.
fn is_foreign(text: &[u8]) -> bool {
    let mut lines = text.split_inclusive(|byte| *byte == b'\n');
    lines.next().is_some_and(|line| line.ends_with(b"\n") && step_of(line).is_none())
}

/// Bytes and number of the lines at the beginning that are whole, in order, and of steps up to `last`.
fn kept(text: &[u8], last: usize) -> (usize, usize) {
    let (mut bytes, mut lines, mut before) = (0, 0, 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        match step_of(line).filter(|step| line.ends_with(b"\n") && (before + 1..=last as u64).contains(step))
        {
            Some(step) => (bytes, lines, before) = (bytes + line.len(), lines + 1, step),
            None => break,
        }
    }
    (bytes, lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: usize) -> String {
        format!("{{\"step\":{step},\"loss\":0.5}}\n")
    }

    fn resumed(text: &str, step: usize) -> (String, usize) {
        let dir = tempfile::tempdir().unwrap();
        let path = metrics_of(&dir.path().join("out/"));
        std::fs::write(&path, text).unwrap();
        let (metrics, missing) = Metrics::resume(path.clone(), step, false).unwrap();
        drop(metrics);
        (std::fs::read_to_string(path).unwrap(), missing)
    }

    #[test]
    fn lines_of_later_steps_and_torn_ones_are_dropped() {
        let three = [1, 2, 3].map(line).concat();
        assert_eq!(resumed(&three, 3), (three.clone(), 0));
        assert_eq!(resumed(&three, 2), ([1, 2].map(line).concat(), 0));
        assert_eq!(resumed(&three, 0), (String::new(), 0));
        let torn = &three[..three.len() - 4];
        assert_eq!(resumed(torn, 3), ([1, 2].map(line).concat(), 1), "a torn line is none");
        assert_eq!(resumed(three.trim_end(), 3).1, 1, "nor is one whose end is missing");
        assert_eq!(resumed("{\"st", 0), (String::new(), 0), "the very first was torn");
        let twice = [1, 2, 2, 3].map(line).concat();
        assert_eq!(resumed(&twice, 3), ([1, 2].map(line).concat(), 1), "no step comes twice");
        assert_eq!(resumed("", 4), (String::new(), 4));
    }

    #[test]
    fn a_file_of_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.metrics.jsonl");
        for text in ["notes\n", "{\"mine\": 1}\n", "notes"] {
            std::fs::write(&path, text).unwrap();
            let message = Metrics::resume(path.clone(), 0, false).err().unwrap().to_string();
            assert!(message.contains("already exists") && message.contains("--force"), "{message}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        Metrics::resume(path.clone(), 0, true).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }
}
