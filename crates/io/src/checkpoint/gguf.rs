//! A model in a GGUF file as a checkpoint.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::store::Store;
use super::{Checkpoint, CheckpointFile, Inner, TensorInfo, absorb};
use crate::digest::hex;
use crate::error::{Error, Result};
use crate::gguf::{GgufModel, GgufTensor};

impl Checkpoint {
    pub(super) fn load_gguf(path: PathBuf, store: Store, name: String) -> Result<Self> {
        let label = store.label(&name);
        let content =
            store.read(&name)?.ok_or_else(|| Error::malformed(&label, "the file does not exist"))?;
        let model = GgufModel::open(&label, &content)?;
        let mut tensors = BTreeMap::new();
        for mapped in &model.tensors {
            let info = TensorInfo {
                dtype: mapped.stored.dtype(),
                shape: mapped.shape.clone(),
                file: name.clone(),
                bytes: mapped.range.len() as u64,
                file_index: 0,
                range: mapped.range.clone(),
                stored: Some(mapped.stored.clone()),
                strides: None,
            };
            if tensors.insert(mapped.name.clone(), info).is_some() {
                return Err(Error::tensor(&label, &mapped.name, "two tensors of the file have this name"));
            }
        }
        let mut hash = Sha256::new();
        absorb(&mut hash, &name, &content[..model.gguf.data_start()], content.len() as u64);
        let keys = model.gguf.keys().iter().filter(|(key, _)| key.starts_with("general."));
        let metadata =
            keys.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
        let path_of_file = store.dir().map(|dir| dir.join(&name));
        let files = vec![CheckpointFile { name, bytes: content.len() as u64, content, path: path_of_file }];
        let inner = Inner {
            path,
            store,
            config: Some(model.config.clone()),
            metadata,
            files,
            tensors,
            fingerprint: format!("sha256:{}", hex(&hash.finalize())),
            gguf: Some(Arc::new(model)),
            overlay: None,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A matrix as it is packed in blocks, rows being outputs in the order of Hugging Face; `None` for a tensor of plain
    /// numbers and for one that an adapter changes. [`Self::tensor`] gives the same numbers decoded.
    ///
    /// Where Hugging Face stores a matrix as `[inputs, outputs]` (GPT-2), the blocks are `[outputs, inputs]` all the same.
    ///
    /// # Errors
    /// As [`Self::require`].
    pub fn blocks(&self, name: &str) -> Result<Option<GgufTensor>> {
        let info = self.require(name)?;
        let changed = self.inner.overlay.as_ref().is_some_and(|overlay| overlay.changes(name));
        match &info.stored {
            Some(stored) if !changed => stored.blocks(self.data(name, info)?, &info.shape),
            _ => Ok(None),
        }
    }
}
