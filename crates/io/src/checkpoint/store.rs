//! Where the files of a checkpoint are: a directory, or memory.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use crate::bytes::Bytes;
use crate::error::{Error, Result};

/// Named files.
#[derive(Clone, Debug)]
pub(super) enum Store {
    Dir(PathBuf),
    Memory(BTreeMap<String, Bytes>),
}

impl Store {
    pub fn dir(&self) -> Option<&Path> {
        match self {
            Self::Dir(dir) => Some(dir),
            Self::Memory(_) => None,
        }
    }

    /// A file by its name, which may have folders before it; `None` if there is none.
    ///
    /// Names that would lead out of the directory are an error.
    pub fn read(&self, name: &str) -> Result<Option<Bytes>> {
        if !is_inside(name) {
            return Err(Error::malformed(&self.label(name), "the name leads out of the checkpoint"));
        }
        match self {
            Self::Memory(files) => Ok(files.get(name).cloned()),
            Self::Dir(dir) => match Bytes::map(&dir.join(name)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            },
        }
    }

    /// Names of the files directly inside, sorted. Names that are not Unicode cannot be meant and are left out.
    pub fn names(&self) -> Result<Vec<String>> {
        let dir = match self {
            Self::Memory(files) => return Ok(files.keys().cloned().collect()),
            Self::Dir(dir) => dir,
        };
        let listing = std::fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))?;
        let mut names = Vec::new();
        for entry in listing {
            let entry = entry.map_err(|e| Error::io("list", dir, e))?;
            names.extend(entry.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    /// How messages call a file.
    pub fn label(&self, name: &str) -> String {
        match self {
            Self::Dir(dir) => dir.join(name).display().to_string(),
            Self::Memory(_) => name.into(),
        }
    }
}

fn is_inside(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_lead_out() {
        for good in ["a.json", "1_Pooling/config.json", "ü b.json"] {
            assert!(is_inside(good), "{good}");
        }
        for bad in ["", "../a", "/etc/passwd", "a/../../b", "."] {
            assert!(!is_inside(bad), "{bad}");
        }
    }
}
