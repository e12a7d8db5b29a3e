//! Checkpoints: tensors by name, from a directory, a file or memory.

mod gguf;
mod index;
mod locate;
mod overlay;
mod side;
mod store;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::adapter::Adapter;
use crate::bytes::Bytes;
use crate::digest::{self, hex};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::gguf::{GgufModel, GgufType, Stored};
use crate::header::read_header;
use crate::nearest::nearest;
use crate::tensor::{RawTensor, byte_count};
use crate::torch;
use locate::Weights;
use overlay::Overlay;
pub use side::SIDE_FILES;
use store::Store;

/// A set of named tensors and the files beside them. Clones share everything.
///
/// Opening reads and checks every header; tensors stay in their mapped files until they are used. Inputs are never
/// modified.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    inner: Arc<Inner>,
}

#[derive(Clone, Debug)]
struct Inner {
    path: PathBuf,
    store: Store,
    config: Option<Value>,
    metadata: BTreeMap<String, String>,
    files: Vec<CheckpointFile>,
    tensors: BTreeMap<String, TensorInfo>,
    fingerprint: String,
    gguf: Option<Arc<GgufModel>>,
    overlay: Option<Arc<Overlay>>,
}

/// One file with tensors.
#[derive(Clone, Debug)]
pub struct CheckpointFile {
    /// Name inside the directory.
    pub name: String,
    /// Length of the file.
    pub bytes: u64,
    content: Bytes,
    /// Where it is, if not in memory.
    path: Option<PathBuf>,
}

/// What a checkpoint knows of a tensor without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Type of the numbers; for numbers in blocks, the type that they are decoded to.
    pub dtype: Dtype,
    /// Lengths, slowest dimension first.
    pub shape: Vec<usize>,
    /// Name of the file that holds it.
    pub file: String,
    /// Length of its data.
    pub bytes: u64,
    file_index: usize,
    range: Range<usize>,
    /// How it lies in a GGUF file.
    stored: Option<Stored>,
    /// Steps between the numbers of a view that is not row-major (PyTorch files).
    strides: Option<Vec<usize>>,
}

impl TensorInfo {
    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// The block type of a GGUF file, in which the numbers are packed; `None` where they are plain.
    pub fn block_type(&self) -> Option<GgufType> {
        self.stored.as_ref().map(|stored| stored.ty).filter(|ty| ty.is_blocks())
    }
}

impl Checkpoint {
    /// Opens a Hugging Face directory, its index file, one safetensors file, a GGUF file, or one
    /// PyTorch file.
    ///
    /// In a directory the weights are `model.safetensors`, else `model.safetensors.index.json` and its shards, else the
    /// only other index, else the only other `*.safetensors`, else `pytorch_model.bin` or its index, else the only
    /// `*.pt`, `*.pth`, `*.th` or `*.ckpt`, else the only `*.gguf`. `config.json` may be absent.
    ///
    /// A GGUF model has Hugging Face names, and `config.json` and tokenizer files made of its keys. Numbers in blocks are
    /// decoded by [`Self::tensor`]; [`Self::blocks`] gives them as they are.
    ///
    /// `base+adapter` opens both and merges the adapter ([`Self::with_adapter`]).
    ///
    /// PyTorch files are read without executing code; one that would execute code is refused. Of a dictionary with the
    /// state of a training the state dict is taken (keys `state_dict`, `model_state_dict`, `model`, `module`), and
    /// `module.` and `_orig_mod.` are taken off the names where all have them.
    ///
    /// # Errors
    /// [`Error::NotACheckpoint`] if there is nothing to open; [`Error::Io`]; [`Error::Malformed`] and [`Error::Tensor`]
    /// for a header, an index or a `config.json` that is not sound.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if let Some((base, adapter)) = Self::split_adapter(path) {
            return Self::open(base)?.with_adapter(Adapter::open(adapter)?);
        }
        let (store, weights) = locate::on_disk(path)?;
        Self::load(path.to_path_buf(), store, weights)
    }

    /// A checkpoint made of named files in memory (`config.json`, `model.safetensors`, `tokenizer.json`, ...).
    ///
    /// Weights at odd addresses are copied once, so that their tensors can be borrowed.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_bytes(files: Vec<(String, Bytes)>) -> Result<Self> {
        let align = |(name, bytes): (String, Bytes)| {
            let bytes = if locate::is_weights(&name) { bytes.aligned() } else { bytes };
            (name, bytes)
        };
        let store = Store::Memory(files.into_iter().map(align).collect());
        let path = PathBuf::from("(memory)");
        let weights = locate::among(&path, &store.names()?)?;
        Self::load(path, store, weights)
    }

    /// The same checkpoint under another name in messages, for one that has no path.
    pub fn named(self, name: &str) -> Self {
        let inner = Arc::unwrap_or_clone(self.inner);
        Self { inner: Arc::new(Inner { path: name.into(), ..inner }) }
    }

    fn load(path: PathBuf, store: Store, weights: Weights) -> Result<Self> {
        let config_bytes = store.read(side::CONFIG)?;
        let config =
            config_bytes.as_deref().map(|bytes| parse_json(&store.label(side::CONFIG), bytes)).transpose()?;
        let (names, map) = match weights {
            Weights::File(name) => (vec![name], None),
            Weights::Index(name) => {
                let map = index::read(&store, &name)?;
                (map.shards(), Some(map))
            }
            Weights::Gguf(name) => return Self::load_gguf(path, store, name),
        };
        let mut hash = Sha256::new();
        absorb(&mut hash, side::CONFIG, config_bytes.as_deref().unwrap_or_default(), 0);
        let mut loaded = Loaded::default();
        for name in names {
            let content = match store.read(&name)? {
                Some(content) => content,
                None => return Err(index::missing_shard(&store, map.as_ref(), &name)),
            };
            let header = loaded.add(&store, &name, &content)?;
            absorb(&mut hash, &name, &content[header], content.len() as u64);
        }
        if let Some(map) = map {
            map.check(&loaded.tensors)?;
        }
        let Loaded { metadata, files, tensors } = loaded;
        let mut config = config;
        if let Some(bytes) = quantize_config(&store, config.as_mut(), &tensors)? {
            absorb(&mut hash, side::QUANTIZE_CONFIG, &bytes, 0);
        }
        let fingerprint = format!("sha256:{}", hex(&hash.finalize()));
        Ok(Self {
            inner: Arc::new(Inner {
                path,
                store,
                config,
                metadata,
                files,
                tensors,
                fingerprint,
                gguf: None,
                overlay: None,
            }),
        })
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.inner.tensors.keys().map(String::as_str)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.inner.tensors.len()
    }

    /// Whether there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.inner.tensors.is_empty()
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.inner.tensors.contains_key(name)
    }

    /// Type, shape and place of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.inner.tensors.get(name)
    }

    /// The same, for a tensor that has to be there.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], with the names that look most like the one asked for.
    pub fn require(&self, name: &str) -> Result<&TensorInfo> {
        self.info(name).ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> Error {
        Error::MissingTensor {
            model: self.path().display().to_string(),
            tensor: name.into(),
            nearest: nearest(name, self.names(), 3),
        }
    }

    /// A tensor, without copying it where it lies in the file as it is. Blocks of a GGUF file, views of a PyTorch file that
    /// are not row-major, and what an adapter changes are made anew.
    ///
    /// # Errors
    /// As [`Self::require`].
    pub fn tensor(&self, name: &str) -> Result<RawTensor> {
        let info = self.require(name)?;
        let mut bytes = self.data(name, info)?;
        if let Some(strides) = &info.strides {
            bytes = Bytes::from(torch::gather(&bytes, info.dtype.size(), &info.shape, strides)).aligned();
        }
        let tensor = match &info.stored {
            Some(stored) => stored.tensor(bytes, info.shape.clone())?,
            None => RawTensor::new(info.dtype, info.shape.clone(), bytes)?,
        };
        match &self.inner.overlay {
            Some(overlay) => overlay.apply(name, tensor),
            None => Ok(tensor),
        }
    }

    /// The bytes of a tensor as they lie in its file.
    fn data(&self, name: &str, info: &TensorInfo) -> Result<Bytes> {
        let bytes = self.inner.files[info.file_index].content.slice(info.range.clone());
        bytes.ok_or_else(|| Error::tensor(&info.file, name, "its data lie outside the file"))
    }

    /// Gives back the memory of what was read from mapped files; it is read again where it is used again.
    pub fn release(&self) {
        self.inner.files.iter().for_each(|file| file.content.release());
    }

    /// What was opened; the name given with [`Self::named`] for a checkpoint in memory.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The directory of the files; `None` in memory.
    pub fn dir(&self) -> Option<&Path> {
        self.inner.store.dir()
    }

    /// Content of `config.json`; for a GGUF model, what its keys say.
    pub fn config(&self) -> Option<&Value> {
        self.inner.config.as_ref()
    }

    /// The strings in `__metadata__`; where files differ, those of the first file that has the key.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.inner.metadata
    }

    /// Files with tensors, in the order of their names.
    pub fn files(&self) -> &[CheckpointFile] {
        &self.inner.files
    }

    /// Bytes of all tensors, without headers.
    pub fn total_bytes(&self) -> u64 {
        self.inner.tensors.values().map(|info| info.bytes).sum()
    }

    /// A quick identity, `sha256:` and 64 digits: the hash of `config.json` and of name, header and length of every file
    /// with tensors. It does not see changes inside the data; [`Self::content_sha256`] does.
    pub fn fingerprint(&self) -> &str {
        &self.inner.fingerprint
    }

    /// SHA-256 of the content of one of [`Self::files`], in hexadecimal. Reads the whole file.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such file.
    pub fn content_sha256(&self, file: &str) -> Result<String> {
        let found = self.files().iter().find(|f| f.name == file);
        let found = found.ok_or_else(|| {
            Error::invalid(self.path().display().to_string(), format!("no file \"{file}\" with tensors"))
        })?;
        match &found.path {
            Some(path) => Ok(digest::of_file(path)?.sha256),
            None => Ok(digest::of_bytes(&found.content).sha256),
        }
    }
}

/// Files and tensors as they are collected.
#[derive(Default)]
struct Loaded {
    metadata: BTreeMap<String, String>,
    files: Vec<CheckpointFile>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Loaded {
    /// Checks a file and takes in its tensors; returns where it describes them.
    fn add(&mut self, store: &Store, name: &str, content: &Bytes) -> Result<Range<usize>> {
        let label = store.label(name);
        let (entries, header) = if torch::is_torch(name, content) {
            let file = torch::read(&label, content)?;
            (file.tensors, file.header)
        } else {
            let header = read_header(&label, content)?;
            for (key, value) in header.metadata {
                self.metadata.entry(key).or_insert(value);
            }
            (header.tensors, 0..header.data_start)
        };
        for entry in entries {
            let bytes = byte_count(entry.dtype, &entry.shape).unwrap_or(entry.range.len());
            let info = TensorInfo {
                dtype: entry.dtype,
                shape: entry.shape,
                file: name.into(),
                bytes: bytes as u64,
                file_index: self.files.len(),
                range: entry.range,
                stored: None,
                strides: entry.strides,
            };
            if let Some(other) = self.tensors.get(&entry.name) {
                return Err(Error::tensor(&label, &entry.name, format!("is also in {}", other.file)));
            }
            self.tensors.insert(entry.name, info);
        }
        self.files.push(CheckpointFile {
            name: name.into(),
            bytes: content.len() as u64,
            content: content.clone(),
            path: store.dir().map(|dir| dir.join(name)),
        });
        Ok(header)
    }
}

/// Puts what `quantize_config.json` says into a `config.json` that says nothing of it, and gives the bytes of the file.
///
/// Only where there are packed words: the file may be left over beside a model that was decoded.
fn quantize_config(
    store: &Store,
    config: Option<&mut Value>,
    tensors: &BTreeMap<String, TensorInfo>,
) -> Result<Option<Bytes>> {
    const KEY: &str = "quantization_config";
    let Some(config) = config.and_then(Value::as_object_mut) else { return Ok(None) };
    let packed = tensors.keys().any(|name| name.ends_with(".qweight"));
    if !packed || config.get(KEY).is_some_and(|value| !value.is_null()) {
        return Ok(None);
    }
    let Some(bytes) = store.read(side::QUANTIZE_CONFIG)? else { return Ok(None) };
    let mut declared = parse_json(&store.label(side::QUANTIZE_CONFIG), &bytes)?;
    if let Some(object) = declared.as_object_mut()
        && !object.contains_key("quant_method")
    {
        // The file is GPTQ's own.
        object.insert("quant_method".into(), "gptq".into());
    }
    config.insert(KEY.into(), declared);
    Ok(Some(bytes))
}

fn parse_json(label: &str, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|e| Error::malformed(label, format!("not JSON: {e}")))
}

/// Lengths go in before contents, so that no two lists of files give one stream of bytes.
fn absorb(hash: &mut Sha256, name: &str, content: &[u8], file_len: u64) {
    hash.update((name.len() as u64).to_le_bytes());
    hash.update(name);
    hash.update((content.len() as u64).to_le_bytes());
    hash.update(content);
    hash.update(file_len.to_le_bytes());
}
