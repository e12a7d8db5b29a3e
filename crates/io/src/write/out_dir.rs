//! An output directory that appears whole or not at all, and whose making can be taken up again after a kill.
//!
//! Work happens in `OUT.partial/`:
//!
//! | name | content |
//! |---|---|
//! | `lock` | held while a process works here |
//! | `journal.jsonl` | the job, then one line for each finished unit, then the assembled shards, then the publication |
//! | `units/` | one safetensors file a unit; removed once all are in the shards |
//! | `tree/` | what becomes `OUT`, by one rename |
//! | `replaced/` | the old `OUT`, for the moment of its replacement |
//!
//! A journal whose last line is the publication, without a `tree/`, stands for an `OUT` that is finished: the same job
//! taken up again has nothing to write, and clears away what is left.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::atomic::{TEMPORARY, remove, sync_dir, write_file};
use super::journal::{self, Journal, Line, UnitRecord};
use super::shards::{INDEX, write_shards};
use super::{WrittenFile, lock, unit};
use crate::error::{Error, Result};
use crate::fs::{self, File, parent_of};
use crate::tensor::RawTensor;

/// Name of the journal inside a directory of unfinished work.
const JOURNAL: &str = "journal.jsonl";

/// How far an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Making,
    /// About to appear.
    Publishing,
    /// It is there.
    Published,
}

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
    stage: Stage,
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
        let partial = Self::partial_of(out)?;
        check_place(out, &partial)?;
        let refuse = |out: &Path| Err(Error::OutputExists { path: out.into() });
        if !force && is_taken(out)? && !Self::is_published(out)? {
            return refuse(out);
        }
        let lock = lock::take(&partial)?;
        restore_replaced(out, &partial)?;
        let (journal, lines) = Journal::open(&partial.join(JOURNAL))?;
        let (units, shards, stage) = (BTreeMap::new(), None, Stage::Making);
        let mut this = Self { out: out.into(), partial, force, journal, units, shards, stage, lock };
        this.resume(job, lines)?;
        if this.stage == Stage::Published {
            return Ok(this);
        }
        for dir in [this.units_dir(), this.tree()].into_iter().filter(|dir| !dir.exists()) {
            fs::create_dir(&dir).map_err(|e| Error::io("create", &dir, e))?;
            sync_dir(&this.partial)?;
        }
        Ok(this)
    }

    /// The directory where the work on `out` is kept until it is finished.
    ///
    /// # Errors
    /// [`Error::Output`] if `out` has no name.
    pub fn partial_of(out: impl AsRef<Path>) -> Result<PathBuf> {
        let out = out.as_ref();
        let Some(name) = out.file_name() else {
            return Err(Error::Output {
                path: out.into(),
                message: "is not the name of a new directory".into(),
            });
        };
        let mut name = name.to_os_string();
        name.push(".partial");
        Ok(out.with_file_name(name))
    }

    /// Whether an earlier run made the output `out` and was stopped before all was done: the same job may be taken up
    /// again, though `out` is there.
    ///
    /// # Errors
    /// [`Error::Io`] if there is a journal that cannot be read.
    pub fn is_published(out: impl AsRef<Path>) -> Result<bool> {
        let partial = Self::partial_of(out.as_ref())?;
        let lines = journal::lines(&partial.join(JOURNAL))?;
        Ok(lines.last() == Some(&Line::Publishing)
            && !partial.join("tree").exists()
            && is_taken(out.as_ref())?)
    }

    /// Takes over what an earlier run of the same job left, or clears it away.
    fn resume(&mut self, job: &str, lines: Vec<Line>) -> Result<()> {
        let is_ours = matches!(lines.first(), Some(Line::Job(found)) if found == job);
        if !self.tree().exists() && lines.last() == Some(&Line::Publishing) && is_taken(&self.out)? {
            self.read(&lines);
            if is_ours && all_intact(&self.out, self.shards.as_deref().unwrap_or_default())? {
                self.stage = Stage::Published;
                return Ok(());
            }
            (self.units, self.shards) = (BTreeMap::new(), None);
            if !self.force {
                return Err(Error::OutputExists { path: self.out.clone() });
            }
            return self.begin(job);
        }
        if !self.force && is_taken(&self.out)? {
            return Err(Error::OutputExists { path: self.out.clone() });
        }
        match lines.first() {
            Some(Line::Job(found)) if found == job => {}
            Some(Line::Job(found)) if !self.force => {
                return Err(Error::OtherJob {
                    path: self.partial.clone(),
                    found: found.clone(),
                    expected: job.into(),
                });
            }
            _ => return self.begin(job),
        }
        self.read(&lines);
        let (units_dir, tree) = (self.units_dir(), self.tree());
        if let Some(files) = &self.shards
            && !all_intact(&tree, files)?
        {
            self.shards = None;
        }
        if self.shards.is_none() {
            let mut intact = BTreeMap::new();
            for (key, unit) in std::mem::take(&mut self.units) {
                if unit::is_intact(&units_dir, &unit.file)? {
                    intact.insert(key, unit);
                }
            }
            self.units = intact;
        } else if lines.last() == Some(&Line::Publishing) {
            self.stage = Stage::Publishing;
        }
        remove_strangers(&units_dir, |name| self.units.values().any(|unit| unit.file.name == name))?;
        remove_strangers(&tree, |name| !name.ends_with(TEMPORARY))
    }

    /// Begins anew.
    fn begin(&mut self, job: &str) -> Result<()> {
        // Data first: a journal without data is sound, data without a journal would be taken for another's.
        remove_strangers(&self.partial, |name| name == lock::LOCK || name == JOURNAL)?;
        self.journal.clear()?;
        self.journal.append(&Line::Job(job.into()))
    }

    /// Takes over the lines after the first.
    fn read(&mut self, lines: &[Line]) {
        for line in lines.iter().skip(1) {
            match line {
                Line::Unit(unit) => drop(self.units.insert(unit.key.clone(), unit.clone())),
                Line::Shards(files) => self.shards = Some(files.clone()),
                Line::Job(_) | Line::Publishing => {}
            }
        }
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
            Some(_) => unit::read(self.assembled(), record),
            None => unit::read(self.units_dir().join(&record.file.name), record),
        }
    }

    /// Writes a small file of the output, whole or not at all. `name` may have folders before it. In an output that is
    /// there already ([`Self::is_published`]) the file is in its place, and nothing is done.
    ///
    /// # Errors
    /// [`Error::Output`] if `name` leads out of the output; [`Error::Io`], [`Error::NoSpace`].
    pub fn put_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.tree().join(name);
        if name.is_empty() || !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(Error::Output { path, message: "the name leads out of the output".into() });
        }
        if self.stage == Stage::Published {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e).keeping(&self.partial))?;
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
        let path = self.assembled().join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", &path, e)),
        }
    }

    /// Takes a file that lies at [`Self::place`] for all the weights of the output, and removes the units.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn finish_file(&mut self, file: WrittenFile) -> Result<()> {
        let files = vec![file];
        keeping(&self.partial, self.journal.append(&Line::Shards(files.clone())))?;
        self.shards = Some(files);
        remove(self.units_dir())
    }

    /// The files of the weights, once they are assembled, in this run or an earlier one.
    pub fn files(&self) -> Option<&[WrittenFile]> {
        self.shards.as_deref()
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

    /// Makes the output appear, by one rename, and returns its path. What is left of the work stays until
    /// [`Self::clear`]: a run that is stopped between the two is taken up again by the same job.
    ///
    /// # Errors
    /// [`Error::OutputExists`] if it has come into being meanwhile; [`Error::Io`].
    pub fn publish(&mut self) -> Result<PathBuf> {
        if self.stage == Stage::Published {
            return Ok(self.out.clone());
        }
        let (tree, aside) = (self.tree(), self.partial.join("replaced"));
        sync_dir(&tree)?;
        let taken = is_taken(&self.out)?;
        if taken && !self.force {
            return Err(Error::OutputExists { path: self.out.clone() });
        }
        if self.stage == Stage::Making {
            keeping(&self.partial, self.journal.append(&Line::Publishing))?;
            self.stage = Stage::Publishing;
        }
        if taken {
            fs::rename(&self.out, &aside).map_err(|e| Error::io("move aside", &self.out, e))?;
        }
        if let Err(error) = fs::rename(&tree, &self.out) {
            if taken {
                // Where this fails too, the next run of the job puts it back.
                let _ = fs::rename(&aside, &self.out);
            }
            return Err(Error::io("rename the finished output to", &self.out, error));
        }
        self.stage = Stage::Published;
        sync_dir(parent_of(&self.out))?;
        Ok(self.out.clone())
    }

    /// Clears away what is left of the work, with the files `others` that its user kept in [`Self::partial`].
    ///
    /// # Errors
    /// [`Error::Output`] if the output was not published; [`Error::Io`], after which the same job has only to clear.
    pub fn clear(self, others: &[&str]) -> Result<()> {
        if self.stage != Stage::Published {
            let message = "is to be cleared away before the output is there".into();
            return Err(Error::Output { path: self.partial, message });
        }
        // The journal last: while it is there, this job can be taken up again.
        for name in ["replaced", "units"].iter().chain(others).chain(&[lock::LOCK, JOURNAL]) {
            remove(self.partial.join(name))?;
        }
        drop(self.lock);
        // Only if empty: whatever else is in there is not ours.
        let _ = fs::remove_dir(&self.partial);
        Ok(())
    }

    /// [`Self::publish`] and [`Self::clear`].
    ///
    /// # Errors
    /// Those of both.
    pub fn finish(mut self) -> Result<PathBuf> {
        let out = self.publish()?;
        self.clear(&[])?;
        Ok(out)
    }

    /// Where the assembled shards and the small files are.
    fn assembled(&self) -> PathBuf {
        if self.stage == Stage::Published { self.out.clone() } else { self.tree() }
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

fn all_intact(dir: &Path, files: &[WrittenFile]) -> Result<bool> {
    for file in files {
        if !unit::is_intact(dir, file)? {
            return Ok(false);
        }
    }
    Ok(true)
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
        let empty = partial.read_dir().map_err(|e| Error::io("list", partial, e))?.next().is_none();
        if !empty && ![lock::LOCK, JOURNAL].iter().any(|name| partial.join(name).exists()) {
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
    Ok(out.read_dir().map_err(|e| Error::io("list", out, e))?.next().is_some())
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
    for entry in dir.read_dir().map_err(|e| Error::io("list", dir, e))? {
        let entry = entry.map_err(|e| Error::io("list", dir, e))?;
        if !keep(&entry.file_name().to_string_lossy()) {
            remove(entry.path())?;
        }
    }
    Ok(())
}
