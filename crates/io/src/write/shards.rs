//! Sharded safetensors, written in pieces and never held in memory.

use std::collections::BTreeMap;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::WrittenFile;
use super::atomic::{HashedFile, TEMPORARY, remove, write_file};
use super::lock;
use super::plan::{self, Piece, Source};
use crate::digest::CHUNK;
use crate::error::{Error, Result};
use crate::fs::File;
use crate::tensor::RawTensor;

/// Name of the index of several shards.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Writes sharded safetensors from tensors that come one at a time.
///
/// Data go to one temporary file as they come; [`Self::finish`] knows all sizes, plans the shards and copies. Names follow
/// the Hugging Face convention, order and header depend on names and types alone, so the order of appending does not
/// change a byte.
#[derive(Debug)]
pub struct ShardWriter {
    dir: PathBuf,
    limit: u64,
    metadata: BTreeMap<String, String>,
    data_path: PathBuf,
    data: BufWriter<File>,
    end: u64,
    pieces: Vec<Piece>,
}

impl ShardWriter {
    /// Begins in an existing directory; a shard holds at most `max_shard_bytes` of data, or one tensor.
    ///
    /// # Errors
    /// [`Error::Io`] if the temporary file cannot be created.
    pub fn create(
        dir: impl Into<PathBuf>,
        max_shard_bytes: u64,
        metadata: BTreeMap<String, String>,
    ) -> Result<Self> {
        let dir = dir.into();
        let data_path = dir.join(format!("tensors{TEMPORARY}"));
        let data = lock::create(&data_path, &dir)?;
        let data = BufWriter::with_capacity(CHUNK, data);
        Ok(Self { dir, limit: max_shard_bytes, metadata, data_path, data, end: 0, pieces: Vec::new() })
    }

    /// Adds a tensor.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::NoSpace`].
    pub fn append(&mut self, name: &str, tensor: &RawTensor) -> Result<()> {
        self.data.write_all(&tensor.bytes).map_err(|e| Error::io("write", &self.data_path, e))?;
        let source = Source::File { path: self.data_path.clone(), offset: self.end };
        self.end += tensor.bytes.len() as u64;
        self.pieces.push(Piece::of(name, tensor, source));
        Ok(())
    }

    /// Writes the shards and, for several, their index; returns every file.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a name was appended twice; [`Error::Io`] or [`Error::NoSpace`].
    pub fn finish(mut self) -> Result<Vec<WrittenFile>> {
        self.data.flush().map_err(|e| Error::io("write", &self.data_path, e))?;
        let found = self
            .data
            .get_ref()
            .metadata()
            .map_err(|e| Error::io("read the size of", &self.data_path, e))?
            .len();
        if found != self.end {
            let message = format!("{} bytes were appended, the file has {found}", self.end);
            return Err(Error::malformed(&self.data_path.display().to_string(), message));
        }
        write_shards(&self.dir, std::mem::take(&mut self.pieces), self.limit, &self.metadata)
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        // A temporary file that cannot be removed harms nobody.
        let _ = remove(&self.data_path);
    }
}

/// A safetensors file in memory; `format: pt` is added to `metadata`.
///
/// # Errors
/// [`Error::Invalid`] if a name is given twice.
pub fn to_safetensors(
    tensors: &[(String, RawTensor)],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let shard = one_shard(tensors)?;
    let mut file = plan::header(&shard, metadata);
    for piece in &shard {
        if let Source::Memory(bytes) = &piece.source {
            file.extend_from_slice(bytes);
        }
    }
    Ok(file)
}

/// Writes `tensors` as one file.
pub(super) fn write_one(path: &Path, tensors: &[(String, RawTensor)]) -> Result<crate::digest::Digest> {
    write_shard(path, &one_shard(tensors)?, &BTreeMap::new())
}

pub(super) fn write_shards(
    dir: &Path,
    pieces: Vec<Piece>,
    limit: u64,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<WrittenFile>> {
    let shards = plan::split(pieces, limit)?;
    let mut files = Vec::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = plan::shard_name(i, shards.len());
        let digest = write_shard(&dir.join(&name), shard, metadata)?;
        files.push(WrittenFile { name, bytes: digest.bytes, sha256: digest.sha256 });
    }
    if shards.len() > 1 {
        let digest = write_file(&dir.join(INDEX), |file| file.write(&plan::index(&shards)))?;
        files.push(WrittenFile { name: INDEX.into(), bytes: digest.bytes, sha256: digest.sha256 });
    }
    Ok(files)
}

fn write_shard(
    path: &Path,
    shard: &[Piece],
    metadata: &BTreeMap<String, String>,
) -> Result<crate::digest::Digest> {
    write_file(path, |file| {
        file.write(&plan::header(shard, metadata))?;
        let mut open = None;
        shard.iter().try_for_each(|piece| match &piece.source {
            Source::Memory(bytes) => file.write(bytes),
            Source::File { path, offset } => copy(path, *offset, piece.bytes, &mut open, file),
        })
    })
}

/// Copies a range of a file in pieces. It is read, not mapped, so that it does not count as memory of the process.
/// `open` keeps the last file open.
pub(crate) fn copy(
    path: &Path,
    offset: u64,
    bytes: u64,
    open: &mut Option<(PathBuf, File)>,
    out: &mut HashedFile,
) -> Result<()> {
    if open.as_ref().is_none_or(|(last, _)| last != path) {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        *open = Some((path.into(), file));
    }
    let Some((_, file)) = open else { return Ok(()) };
    file.seek(SeekFrom::Start(offset)).map_err(|e| Error::io("read", path, e))?;
    let mut buffer = vec![0; CHUNK.min(bytes as usize)];
    let mut left = bytes;
    while left > 0 {
        let part = &mut buffer[..(left.min(CHUNK as u64)) as usize];
        file.read_exact(part).map_err(|e| Error::io("read", path, e))?;
        out.write(part)?;
        left -= part.len() as u64;
    }
    Ok(())
}

fn one_shard(tensors: &[(String, RawTensor)]) -> Result<Vec<Piece>> {
    let piece =
        |(name, tensor): &(String, RawTensor)| Piece::of(name, tensor, Source::Memory(tensor.bytes.clone()));
    let shards = plan::split(tensors.iter().map(piece).collect(), u64::MAX)?;
    Ok(shards.into_iter().flatten().collect())
}

impl Piece {
    fn of(name: &str, tensor: &RawTensor, source: Source) -> Self {
        let bytes = tensor.bytes.len() as u64;
        Self { name: name.into(), dtype: tensor.dtype, shape: tensor.shape.clone(), bytes, source }
    }
}
