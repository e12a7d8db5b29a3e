//! The cache on disk, laid out as `huggingface_hub` does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use trimtab_io::fs::{self, File};

use crate::error::{Error, Result};
use crate::name::{HubName, is_commit};
use crate::select::{self, Weights};

/// The part of the cache that belongs to one repository.
pub struct RepoCache {
    root: PathBuf,
    name: HubName,
    places: hf_hub::CacheRepo,
}

impl RepoCache {
    pub fn new(root: &Path, name: &HubName) -> Self {
        let places = hf_hub::Cache::new(root.into()).repo(name.repo());
        Self { root: root.into(), name: name.clone(), places }
    }

    fn folder(&self) -> PathBuf {
        self.root.join(self.name.repo().folder_name())
    }

    /// The commit that the revision meant when it was downloaded.
    pub fn commit(&self) -> Option<String> {
        let revision = self.name.revision();
        if is_commit(revision) {
            return Some(revision.into());
        }
        let text = std::fs::read_to_string(self.folder().join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Remembers what the revision means now.
    pub fn set_commit(&self, commit: &str) -> Result<()> {
        if is_commit(self.name.revision()) {
            return Ok(());
        }
        let path = self.folder().join("refs").join(self.name.revision());
        let dir = path.parent().unwrap_or(&path);
        fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        Ok(trimtab_io::write_atomic(&path, commit.as_bytes())?)
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.places.pointer_path(commit)
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.places.blob_path(etag)
    }

    /// Makes the folders; until then a cache on a read-only device can be read.
    pub fn create(&self, commit: &str) -> Result<()> {
        for dir in [self.folder().join("blobs"), self.snapshot(commit)] {
            fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
        }
        Ok(())
    }

    /// Waits until no other process downloads the file `etag`; the lock ends with the value.
    pub fn lock(&self, etag: &str) -> Result<File> {
        let dir = self.root.join(".locks").join(self.name.repo().folder_name());
        fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
        let path = dir.join(format!("{etag}.lock"));
        let file = File::append(&path);
        let locked = file.and_then(|file| file.lock().map(|()| file));
        locked.map_err(|e| Error::io("lock", &path, e))
    }

    /// Puts the content `etag` into a snapshot under its name.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<()> {
        let path = self.snapshot(commit).join(file);
        let dir = path.parent().unwrap_or(&path);
        fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        let blob = self.blob(etag);
        match path.symlink_metadata() {
            Ok(_)
                if path
                    .canonicalize()
                    .is_ok_and(|found| blob.canonicalize().is_ok_and(|blob| blob == found)) =>
            {
                return Ok(());
            }
            Ok(_) => fs::remove_file(&path).map_err(|e| Error::io("replace", &path, e))?,
            Err(_) => {}
        }
        #[cfg(unix)]
        let made = {
            // Relative, so that the cache can be moved: out of the file's folders, the commit and `snapshots`.
            let up = "../".repeat(file.split('/').count() + 1);
            fs::symlink(Path::new(&format!("{up}blobs/{etag}")), &path)
        };
        // Links need a privilege on Windows.
        #[cfg(not(unix))]
        let made = fs::copy(&blob, &path);
        made.and_then(|()| fs::sync_dir(dir)).map_err(|e| Error::io("create", &path, e))
    }

    /// The snapshot of the revision, if it has all that a model needs; otherwise what is missing.
    pub fn complete(&self) -> Result<(String, PathBuf), String> {
        let revision = self.name.revision();
        let commit = self.commit().ok_or_else(|| format!("revision {revision} was never downloaded"))?;
        let dir = self.snapshot(&commit);
        let listing = dir.read_dir().map_err(|_| format!("commit {commit} was never downloaded"))?;
        // A link to a blob that was deleted is no file.
        let names: Vec<String> = listing
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| dir.join(name).exists())
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let weights =
            select::weights(&self.name, &names).map_err(|_| format!("{} holds no weights", dir.display()))?;
        let files = match weights {
            Weights::Files(files) => files,
            Weights::Index(index) => shards(&dir.join(&index)).map_err(|e| e.to_string())?,
        };
        match files.iter().find(|file| !names.contains(&file.as_str())) {
            Some(missing) => Err(format!("{} has no {missing}", dir.display())),
            None => Ok((commit, dir)),
        }
    }
}

/// The files that an index names.
pub fn shards(index: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(index).map_err(|e| Error::io("read", index, e))?;
    let wrong = || trimtab_io::Error::Malformed {
        file: index.display().to_string(),
        message: "not a shard index".into(),
    };
    let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
    let map = json.get("weight_map").and_then(|map| map.as_object()).ok_or_else(wrong)?;
    let files: Option<BTreeSet<&str>> = map.values().map(|file| file.as_str()).collect();
    Ok(files.ok_or_else(wrong)?.into_iter().map(Into::into).collect())
}
