//! The index of a sharded checkpoint, checked against its shards.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::TensorInfo;
use super::store::Store;
use crate::error::{Error, Result};
use crate::header::Pairs;

/// `{"weight_map": {tensor: file}}`; the rest of an index is informative.
pub(super) struct WeightMap {
    label: String,
    files: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: Pairs,
}

pub(super) fn read(store: &Store, name: &str) -> Result<WeightMap> {
    let label = store.label(name);
    let bytes = store.read(name)?.ok_or_else(|| Error::malformed(&label, "the index does not exist"))?;
    let raw: RawIndex = serde_json::from_slice(&bytes)
        .map_err(|e| Error::malformed(&label, format!("not a shard index: {e}")))?;
    let mut files = BTreeMap::new();
    for (tensor, file) in raw.weight_map.0 {
        let Value::String(file) = file else {
            return Err(Error::tensor(&label, &tensor, format!("its file must be a string, found {file}")));
        };
        if let Some(other) = files.insert(tensor.clone(), file.clone()) {
            return Err(Error::tensor(&label, &tensor, format!("is listed twice: in {other} and in {file}")));
        }
    }
    Ok(WeightMap { label, files })
}

/// The error for a shard that the index names and nobody has.
pub(super) fn missing_shard(store: &Store, map: Option<&WeightMap>, name: &str) -> Error {
    match map {
        None => Error::malformed(&store.label(name), "the file does not exist"),
        Some(map) => {
            let n = map.files.values().filter(|file| *file == name).count();
            Error::malformed(
                &map.label,
                format!("names the shard {name} for {n} tensors, which does not exist"),
            )
        }
    }
}

impl WeightMap {
    /// Names of the shards, sorted, each once.
    pub fn shards(&self) -> Vec<String> {
        self.files.values().collect::<BTreeSet<_>>().into_iter().cloned().collect()
    }

    /// Index and shards must name the same tensors in the same files.
    pub fn check(&self, tensors: &BTreeMap<String, TensorInfo>) -> Result<()> {
        for (tensor, file) in &self.files {
            match tensors.get(tensor) {
                Some(info) if info.file == *file => {}
                Some(info) => {
                    let message = format!("is listed in {file}, found in {}", info.file);
                    return Err(Error::tensor(&self.label, tensor, message));
                }
                None => {
                    return Err(Error::tensor(
                        &self.label,
                        tensor,
                        format!("is listed in {file}, but is not there"),
                    ));
                }
            }
        }
        match tensors.iter().find(|(tensor, _)| !self.files.contains_key(*tensor)) {
            Some((tensor, info)) => {
                Err(Error::tensor(&self.label, tensor, format!("is in {}, but not in the index", info.file)))
            }
            None => Ok(()),
        }
    }
}
