//! What a power cut takes away: content that was not synced, and names whose folder was not.
//!
//! The rules are those that POSIX leaves a file system free to follow, and harsher than those of the usual ones: a file
//! ends where it was last synced; a file or folder that came, went or was renamed since its folder was synced is as it
//! was before.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use trimtab_io::fs::{Call, Operation};

/// A name that is not permanent yet, and how it was before.
struct Change {
    path: PathBuf,
    before: Before,
}

enum Before {
    /// Nothing was there.
    Nothing,
    /// A file was there; this is another link to it.
    File(PathBuf),
    /// An empty folder was there.
    Folder,
    /// What is there now was at this name; there was nothing here.
    Elsewhere(PathBuf),
    /// What is there now was at this name; here was a file.
    ElsewhereOver(PathBuf, PathBuf),
}

/// What was done and is not permanent.
pub struct Unsynced {
    spare: PathBuf,
    links: usize,
    /// Files with the length that is certain.
    lengths: BTreeMap<PathBuf, u64>,
    /// In the order in which they were made.
    changes: Vec<Change>,
}

impl Unsynced {
    pub fn new(spare: PathBuf) -> Self {
        Self { spare, links: 0, lengths: BTreeMap::new(), changes: Vec::new() }
    }

    /// Takes note of a call that is about to be made. Calls that fail later would be noted wrongly; under a power cut
    /// none does.
    pub fn before(&mut self, call: &Call<'_>) -> io::Result<()> {
        let path = call.path;
        let there = path.symlink_metadata();
        match call.operation {
            Operation::Create | Operation::Open | Operation::Link | Operation::CreateDir => {
                let is_file = matches!(call.operation, Operation::Create | Operation::Open);
                // A file without a name is called by its folder.
                if there.is_err() {
                    self.changes.push(Change { path: path.into(), before: Before::Nothing });
                    if is_file {
                        self.lengths.insert(path.into(), 0);
                    }
                } else if call.operation == Operation::Create && path.is_file() {
                    self.lengths.insert(path.into(), 0);
                }
            }
            Operation::Write => {
                let length = there.map_or(0, |m| m.len());
                self.lengths.entry(path.into()).or_insert(length);
            }
            Operation::Resize => {
                let length = there.map_or(0, |m| m.len()).min(call.bytes);
                let certain = self.lengths.entry(path.into()).or_insert(length);
                *certain = (*certain).min(length);
            }
            Operation::Sync => drop(self.lengths.remove(path)),
            Operation::Rename => {
                let to = call.to.unwrap_or(path);
                let replaced = to.is_file().then(|| self.link(to)).transpose()?;
                let before = match replaced {
                    Some(file) => Before::ElsewhereOver(path.into(), file),
                    None => Before::Elsewhere(path.into()),
                };
                self.changes.push(Change { path: to.into(), before });
                let lengths = std::mem::take(&mut self.lengths);
                self.lengths = lengths.into_iter().map(|(file, n)| (moved(&file, path, to), n)).collect();
            }
            Operation::RemoveFile => {
                if there.is_ok_and(|m| m.is_file()) {
                    let file = self.link(path)?;
                    self.changes.push(Change { path: path.into(), before: Before::File(file) });
                }
                self.lengths.remove(path);
            }
            Operation::RemoveDir => {
                self.changes.push(Change { path: path.into(), before: Before::Folder });
            }
            Operation::SyncDir => self.settle(path),
            Operation::Lock | Operation::Read | Operation::Map => {}
        }
        Ok(())
    }

    /// The names in `dir` are permanent.
    fn settle(&mut self, dir: &Path) {
        let mut i = 0;
        while i < self.changes.len() {
            if self.changes[i].path.parent() != Some(dir) {
                i += 1;
                continue;
            }
            let change = self.changes.remove(i);
            // What was done before inside a folder that got another name for good has happened under that name.
            if let Before::Elsewhere(from) = change.before {
                for earlier in &mut self.changes[..i] {
                    earlier.path = moved(&earlier.path, &from, &change.path);
                }
            }
        }
    }

    /// Another link to a file, so that it outlives its name.
    fn link(&mut self, file: &Path) -> io::Result<PathBuf> {
        self.links += 1;
        let link = self.spare.join(format!("{}-{}", std::process::id(), self.links));
        fs::hard_link(file, &link)?;
        Ok(link)
    }

    /// Loses all of it.
    pub fn lose(&mut self) -> io::Result<()> {
        for (file, length) in std::mem::take(&mut self.lengths) {
            if file.is_file() {
                fs::OpenOptions::new().write(true).open(file)?.set_len(length)?;
            }
        }
        while let Some(Change { path, before }) = self.changes.pop() {
            match before {
                Before::Nothing if path.is_dir() => fs::remove_dir_all(&path)?,
                Before::Nothing => fs::remove_file(&path)?,
                Before::File(link) => fs::rename(link, &path)?,
                Before::Folder => fs::create_dir(&path)?,
                Before::Elsewhere(from) => fs::rename(&path, from)?,
                Before::ElsewhereOver(from, link) => {
                    fs::rename(&path, from)?;
                    fs::rename(link, &path)?;
                }
            }
        }
        Ok(())
    }
}

fn moved(path: &Path, from: &Path, to: &Path) -> PathBuf {
    path.strip_prefix(from).map_or_else(
        |_| path.into(),
        |rest| if rest.as_os_str().is_empty() { to.into() } else { to.join(rest) },
    )
}
