//! An output directory that appears whole or not at all, and whose making can be taken up again after a kill.
//!
//! Work happens in `OUT.partial/`:
//!
//! | name | content |
//! |---|---|
//! | `lock` | held while a process works here |
//! | `journal.jsonl` | the job, then one line for each finished unit, then the assembled shards |
//! | `units/` | one safetensors file a unit; removed once all are in the shards |
//! | `tree/` | what becomes `OUT`, by one rename |
//! | `replaced/` | the old `OUT`, for the moment of its replacement |

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};

use super::atomic::{TEMPORARY, remove, sync_dir, write_file};
use super::journal::{Journal, Line, UnitRecord};
use super::shards::{INDEX, write_shards};
use super::{WrittenFile, lock, unit};
use crate::error::{Error, Result};
use crate::tensor::RawTensor;

/// An output in the making.
///
/// Work is committed in units, each a key and its tensors. A unit that was committed is on disk, synced, and survives a
/// kill at any moment; the same job taken up again finds it with [`Self::unit_done`] and [`Self::read_unit`], and the result
/// has the same bytes as that of an uninterrupted run.
#[derive(Debug)]
pub struct OutDir {
    out: PathBuf,
    partial: PathBuf,
    force: bool,
    journal: Journal,
    units: BTreeMap<String, UnitRecord>,
    shards: Option<Vec<WrittenFile>>,
    lock: File,
}

impl OutDir {
    /// Begins the output `out`, or takes it up where an earlier run of the same job stopped.
    ///
    /// `job` identifies what is made: a hash of everything that determines the result. `force` allows replacing an
    /// existing `out`, and discarding an unfinished run of another job.
    ///
    /// # Errors
    /// [`Error::OutputExists`], [`Error::OtherJob`] without `force`; [`Error::Locked`] while another process works on it;
    /// [`Error::Output`] if `out` is a file, or its parent is missing; [`Error::Io`].
    pub fn create(out: impl AsRef<Path>, job: &str, force: bool) -> Result<Self> {
        let out = out.as_ref();
        let partial = partial_of(out)?;
        check_place(out, &partial)?;
        if !force && is_taken(out)? {
            return Err(Error::OutputExists { path: out.into() });
        }
        let lock = lock::take(&partial)?;
        restore_replaced(out, &partial)?;
        if !force && is_taken(out)? {
            return Err(Error::OutputExists { path: out.into() });
        }
        let (journal, lines) = Journal::open(&partial.join("journal.jsonl"))?;
        let mut this =
            Self { out: out.into(), partial, force, journal, units: BTreeMap::new(), shards: None, lock };
        this.resume(job, lines)?;
        for dir in [this.units_dir(), this.tree()].into_iter().filter(|dir| !dir.exists()) {
            fs::create_dir(&dir).map_err(|e| Error::io("create", &dir, e))?;
            sync_dir(&this.partial)?;
        }
        Ok(this)
    }

    /// Takes over what an earlier run of the same job left, or clears it away.
    fn resume(&mut self, job: &str, lines: Vec<Line>) -> Result<()> {
        match lines.first() {
            Some(Line::Job(found)) if found == job => {}
            Some(Line::Job(found)) if !self.force => {
                return Err(Error::OtherJob {
                    path: self.partial.clone(),
                    found: found.clone(),
                    expected: job.into(),
                });
            }
            _ => {
                // Data first: a journal without data is sound, data without a journal would be taken for another's.
                remove(&self.units_dir())?;
                remove(&self.tree())?;
                self.journal.clear()?;
                return self.journal.append(&Line::Job(job.into()));
            }
        }
        for line in lines.into_iter().skip(1) {
            match line {
                Line::Unit(unit) => drop(self.units.insert(unit.key.clone(), unit)),
                Line::Shards(files) => self.shards = Some(files),
                Line::Job(_) => {}
            }
        }
        let (units_dir, tree) = (self.units_dir(), self.tree());
        self.shards =
            self.shards.take().filter(|files| files.iter().all(|file| unit::is_intact(&tree, file)));
        if self.shards.is_none() {
            self.units.retain(|_, unit| unit::is_intact(&units_dir, &unit.file));
        }
        remove_strangers(&units_dir, |name| self.units.values().any(|unit| unit.file.name == name))?;
        remove_strangers(&tree, |name| !name.ends_with(TEMPORARY))
    }

    /// The directory where the work is kept until it is finished.
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// The output.
    pub fn path(&self) -> &Path {
        &self.out
    }

    /// Keys of the finished units, sorted.
    pub fn units(&self) -> impl Iterator<Item = &str> {
        self.units.keys().map(String::as_str)
    }

    /// Whether this unit is finished, in this run or an earlier one.
    pub fn unit_done(&self, key: &str) -> bool {
        self.units.contains_key(key)
    }

    /// Makes a unit of work permanent. A unit of the same key is replaced.
    ///
    /// # Errors
    /// [`Error::Output`] once the shards are assembled; [`Error::Invalid`] if a name is given twice; [`Error::Io`];
    /// [`Error::NoSpace`], after which everything committed before is still there.
    pub fn commit_unit(&mut self, key: &str, tensors: &[(String, RawTensor)]) -> Result<()> {
        if self.shards.is_some() {
            let message = format!("unit \"{key}\" comes after the shards were assembled");
            return Err(Error::Output { path: self.partial.clone(), message });
        }
        let record = keeping(&self.partial, unit::write(&self.units_dir(), key, tensors))?;
        keeping(&self.partial, self.journal.append(&Line::Unit(record.clone())))?;
        self.units.insert(key.into(), record);
        Ok(())
    }

    /// The tensors of a finished unit, mapped, in the order in which they were committed.
    ///
    /// # Errors
    /// [`Error::Output`] if the unit is not finished; [`Error::Io`] and others if its file cannot be read any more.
    pub fn read_unit(&self, key: &str) -> Result<Vec<(String, RawTensor)>> {
        let Some(record) = self.units.get(key) else {
            let message = format!("unit \"{key}\" is not finished");
            return Err(Error::Output { path: self.partial.clone(), message });
        };
        match self.shards {
            Some(_) => unit::read(self.tree(), record),
            None => unit::read(self.units_dir().join(&record.file.name), record),
        }
    }

    /// Writes a small file of the output, whole or not at all. `name` may have folders before it.
    ///
    /// # Errors
    /// [`Error::Output`] if `name` leads out of the output; [`Error::Io`], [`Error::NoSpace`].
    pub fn put_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.tree().join(name);
        if name.is_empty() || !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(Error::Output { path, message: "the name leads out of the output".into() });
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
        }
        keeping(&self.partial, write_file(&path, |file| file.write(bytes)).map(drop))
    }

    /// The path of a large file of the output that a writer of its own makes, whole or not at all.
    pub fn place(&self, name: &str) -> PathBuf {
        self.tree().join(name)
    }

    /// A small file that was put before, in this run or an earlier one.
    ///
    /// # Errors
    /// [`Error::Io`] if it is there and cannot be read.
    pub fn get_file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.tree().join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", &path, e)),
        }
    }

    /// Assembles the tensors of all units into `model.safetensors`, or several shards and an index, and removes the units.
    /// Returns the files. Where an earlier run got that far, they are only looked up.
    ///
    /// Needs as much room again as the units take; memory does not depend on their size.
    ///
    /// # Errors
    /// [`Error::Invalid`] if two units have a tensor of the same name; [`Error::Io`], [`Error::NoSpace`].
    pub fn finish_shards(
        &mut self,
        max_shard_bytes: u64,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Vec<WrittenFile>> {
        if let Some(files) = &self.shards {
            return Ok(files.clone());
        }
        let (units_dir, tree) = (self.units_dir(), self.tree());
        let is_shard =
            |name: &str| name == INDEX || name.starts_with("model") && name.ends_with(".safetensors");
        remove_strangers(&tree, |name| !is_shard(name))?;
        let mut pieces = Vec::new();
        for record in self.units.values() {
            pieces.extend(unit::pieces(&units_dir, record)?);
        }
        let files = keeping(&self.partial, write_shards(&tree, pieces, max_shard_bytes, metadata))?;
        keeping(&self.partial, self.journal.append(&Line::Shards(files.clone())))?;
        self.shards = Some(files.clone());
        // From here on the shards are what a resumed run reads.
        remove(&units_dir)?;
        Ok(files)
    }

    /// Makes the output appear, by one rename, and clears the rest away. Returns its path.
    ///
    /// # Errors
    /// [`Error::OutputExists`] if it has come into being meanwhile; [`Error::Io`].
    pub fn finish(self) -> Result<PathBuf> {
        let tree = self.tree();
        sync_dir(&tree)?;
        if is_taken(&self.out)? {
            if !self.force {
                return Err(Error::OutputExists { path: self.out });
            }
            let aside = self.partial.join("replaced");
            fs::rename(&self.out, &aside).map_err(|e| Error::io("move aside", &self.out, e))?;
        }
        fs::rename(&tree, &self.out).map_err(|e| Error::io("rename the finished output to", &self.out, e))?;
        sync_dir(parent_of(&self.out))?;
        for name in ["replaced", "units", "journal.jsonl", lock::LOCK] {
            remove(&self.partial.join(name))?;
        }
        drop(self.lock);
        // Only if empty: whatever else is in there is not ours.
        let _ = fs::remove_dir(&self.partial);
        Ok(self.out)
    }

    fn units_dir(&self) -> PathBuf {
        self.partial.join("units")
    }

    fn tree(&self) -> PathBuf {
        self.partial.join("tree")
    }
}

fn keeping<T>(partial: &Path, result: Result<T>) -> Result<T> {
    result.map_err(|error| error.keeping(partial))
}

/// `OUT.partial` beside `OUT`.
fn partial_of(out: &Path) -> Result<PathBuf> {
    let Some(name) = out.file_name() else {
        return Err(Error::Output { path: out.into(), message: "is not the name of a new directory".into() });
    };
    let mut name = name.to_os_string();
    name.push(".partial");
    Ok(out.with_file_name(name))
}

fn parent_of(out: &Path) -> &Path {
    out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What no `force` can remedy.
fn check_place(out: &Path, partial: &Path) -> Result<()> {
    let refuse =
        |path: &Path, message: &str| Err(Error::Output { path: path.into(), message: message.into() });
    if !parent_of(out).is_dir() {
        let message =
            format!("the directory {} does not exist\nhint: create it first", parent_of(out).display());
        return refuse(out, &message);
    }
    if out.exists() && !out.is_dir() {
        return refuse(out, "is a file, expected a directory\nhint: choose another output");
    }
    if partial.exists() {
        if !partial.is_dir() {
            return refuse(
                partial,
                "is a file where unfinished work is to be kept\nhint: choose another output",
            );
        }
        let empty = fs::read_dir(partial).map_err(|e| Error::io("list", partial, e))?.next().is_none();
        if !empty && !partial.join(lock::LOCK).exists() {
            return refuse(
                partial,
                "is in the way, and no unfinished run of this program\nhint: choose another output",
            );
        }
    }
    Ok(())
}

/// Whether there is an output with something in it.
fn is_taken(out: &Path) -> Result<bool> {
    if !out.exists() {
        return Ok(false);
    }
    Ok(fs::read_dir(out).map_err(|e| Error::io("list", out, e))?.next().is_some())
}

/// Puts the old output back if a run was killed between moving it aside and moving the new one in.
fn restore_replaced(out: &Path, partial: &Path) -> Result<()> {
    let aside = partial.join("replaced");
    if aside.exists() && !out.exists() {
        fs::rename(&aside, out).map_err(|e| Error::io("put back", out, e))?;
    }
    remove(&aside)
}

/// Removes the files in `dir` that are not to be kept.
fn remove_strangers(dir: &Path, keep: impl Fn(&str) -> bool) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))? {
        let entry = entry.map_err(|e| Error::io("list", dir, e))?;
        if !keep(&entry.file_name().to_string_lossy()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}
