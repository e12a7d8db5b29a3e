//! Units of work on disk: one safetensors file each, until the shards are assembled.

use std::path::{Path, PathBuf};

use super::WrittenFile;
use super::journal::UnitRecord;
use super::plan::{Piece, Source};
use super::shards::write_one;
use crate::bytes::Bytes;
use crate::checkpoint::Checkpoint;
use crate::digest;
use crate::error::Result;
use crate::header::read_header;
use crate::tensor::RawTensor;

/// Writes a unit; the name of its file follows from its key.
pub(super) fn write(dir: &Path, key: &str, tensors: &[(String, RawTensor)]) -> Result<UnitRecord> {
    let name = format!("{}.safetensors", &digest::of_bytes(key.as_bytes()).sha256[..32]);
    let digest = write_one(&dir.join(&name), tensors)?;
    Ok(UnitRecord {
        key: key.into(),
        file: WrittenFile { name, bytes: digest.bytes, sha256: digest.sha256 },
        tensors: tensors.iter().map(|(name, _)| name.clone()).collect(),
    })
}

/// Whether the file is there, as it was written.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) if it is there and cannot be read: to do its work again would hide a failing disk.
pub(super) fn is_intact(dir: &Path, file: &WrittenFile) -> Result<bool> {
    let path = dir.join(&file.name);
    // The length first, which costs nothing.
    let same_length = path.metadata().is_ok_and(|m| m.is_file() && m.len() == file.bytes);
    Ok(same_length && digest::of_file(&path)?.sha256 == file.sha256)
}

/// The tensors of a unit, in the order in which they were given, from its own file or from the assembled shards.
pub(super) fn read(source: PathBuf, unit: &UnitRecord) -> Result<Vec<(String, RawTensor)>> {
    let checkpoint = Checkpoint::open(source)?;
    unit.tensors.iter().map(|name| Ok((name.clone(), checkpoint.tensor(name)?))).collect()
}

/// The tensors of a unit as parts of its file.
pub(super) fn pieces(dir: &Path, unit: &UnitRecord) -> Result<Vec<Piece>> {
    let path = dir.join(&unit.file.name);
    let header = read_header(&path.display().to_string(), &Bytes::map(&path)?)?;
    let piece = |entry: crate::header::Entry| Piece {
        bytes: entry.range.len() as u64,
        source: Source::File { path: path.clone(), offset: entry.range.start as u64 },
        name: entry.name,
        dtype: entry.dtype,
        shape: entry.shape,
    };
    Ok(header.tensors.into_iter().map(piece).collect())
}
