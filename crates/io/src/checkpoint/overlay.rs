//! An adapter laid over a checkpoint: its changes are merged into a tensor when that is read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{Checkpoint, Inner, TensorInfo};
use crate::adapter::Adapter;
use crate::digest::hex;
use crate::error::{Error, Result};
use crate::tensor::RawTensor;

/// What an adapter does to the tensors of a checkpoint.
#[derive(Debug)]
pub(super) struct Overlay {
    adapter: Adapter,
    /// Tensors that change, and the module of the adapter whose weight or bias they are.
    changed: BTreeMap<String, (String, Part)>,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Weight,
    Bias,
}

impl Checkpoint {
    /// This checkpoint with an adapter in it: tensors that the adapter changes are merged in f32 when they are read, and
    /// rounded once to the type that they have here. Modules that the adapter stores whole take the place of the model's.
    ///
    /// Names need not agree in their first parts: `transformer.h.0.attn` of an adapter is also found as `h.0.attn`, and the
    /// other way round, where only one tensor fits.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] if the model lacks a module of the adapter; [`Error::Tensor`] for shapes or types that do
    /// not fit; [`Error::Invalid`] if the checkpoint has an adapter already.
    pub fn with_adapter(self, adapter: Adapter) -> Result<Self> {
        if self.inner.overlay.is_some() {
            let message = "has an adapter already; merge and save it before adding another";
            return Err(Error::invalid(self.path().display().to_string(), message));
        }
        let mut inner = Arc::unwrap_or_clone(self.inner.clone());
        let first_file = inner.files.len();
        for (target, stored) in adapter.replaced() {
            let info = adapter.checkpoint().require(stored)?;
            let name = match self.find(target) {
                Ok(name) => name,
                Err(_) if adapter.may_add(target) => target.to_owned(),
                Err(error) => return Err(error),
            };
            let place = TensorInfo { file_index: first_file + info.file_index, ..info.clone() };
            inner.tensors.insert(name, place);
        }
        inner.files.extend(adapter.checkpoint().inner.files.iter().cloned());

        let mut changed = BTreeMap::new();
        for module in adapter.modules() {
            let weight = self.find(&format!("{module}.weight"))?;
            let info = inner.tensors.get(&weight).ok_or_else(|| self.missing(&weight))?;
            let mut parts = vec![(weight.clone(), Part::Weight)];
            if !info.dtype.is_float() {
                let message = format!("an adapter cannot be merged into numbers of type {}", info.dtype);
                return Err(Error::tensor(&info.file, &weight, message));
            }
            if adapter.changes_bias(module) {
                parts.push((self.find(&format!("{module}.bias"))?, Part::Bias));
            }
            for (name, part) in parts {
                if changed.insert(name.clone(), (module.to_owned(), part)).is_some() {
                    let message = "two modules of the adapter change it";
                    return Err(Error::tensor(
                        &adapter.checkpoint().path().display().to_string(),
                        &name,
                        message,
                    ));
                }
            }
        }
        inner.fingerprint = {
            let mut hash = Sha256::new();
            hash.update(&inner.fingerprint);
            hash.update(adapter.checkpoint().fingerprint());
            hash.update(&adapter.config_bytes()?[..]);
            format!("sha256:{}", hex(&hash.finalize()))
        };
        inner.path = format!("{}+{}", inner.path.display(), adapter.directory().display()).into();
        let overlay = Overlay { adapter, changed };
        let laid = Self { inner: Arc::new(Inner { overlay: Some(Arc::new(overlay)), ..inner }) };
        // Shapes are compared now, not in the middle of the work.
        laid.check_overlay()?;
        Ok(laid)
    }

    /// `base+adapter` as two paths, if `path` is no file and no directory itself.
    pub(super) fn split_adapter(path: &Path) -> Option<(&Path, &Path)> {
        let text = path.to_str().filter(|_| !path.exists())?;
        let (base, adapter) = text.rsplit_once('+')?;
        Some((Path::new(base), Path::new(adapter)))
    }

    /// The tensor that an adapter means by `name`.
    fn find(&self, name: &str) -> Result<String> {
        if self.contains(name) {
            return Ok(name.into());
        }
        let mut short = name;
        while let Some((_, rest)) = short.split_once('.') {
            // The last part alone says nothing.
            if !rest.contains('.') {
                break;
            }
            if self.contains(rest) {
                return Ok(rest.into());
            }
            short = rest;
        }
        let end = format!(".{name}");
        let mut longer = self.names().filter(|full| full.ends_with(&end));
        match (longer.next(), longer.next()) {
            (Some(full), None) => Ok(full.into()),
            _ => Err(self.missing(name)),
        }
    }

    fn check_overlay(&self) -> Result<()> {
        let Some(overlay) = &self.inner.overlay else { return Ok(()) };
        for (name, (module, part)) in &overlay.changed {
            let info = self.require(name)?;
            let adapter = overlay.adapter.checkpoint().path().display().to_string();
            overlay
                .adapter
                .fits(module, matches!(part, Part::Bias), &info.shape)
                .map_err(|message| Error::tensor(&adapter, name, message))?;
        }
        Ok(())
    }
}

impl Overlay {
    /// Whether a tensor is other than in its file.
    pub fn changes(&self, name: &str) -> bool {
        self.changed.contains_key(name)
    }

    /// `tensor`, called `name`, as the adapter makes it.
    pub fn apply(&self, name: &str, tensor: RawTensor) -> Result<RawTensor> {
        let Some((module, part)) = self.changed.get(name) else { return Ok(tensor) };
        let merged = match part {
            Part::Weight => self.adapter.merged(module, &tensor.as_f32_cow()?, &tensor.shape)?,
            Part::Bias => self.adapter.merged_bias(module, tensor.to_f32()?)?,
        };
        RawTensor::from_f32(tensor.shape, &merged, tensor.dtype)
    }
}
