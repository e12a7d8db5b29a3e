//! Writing a GGUF file from tensors that come one at a time.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use super::parse::DEFAULT_ALIGNMENT;
use super::value::{GgufArray, GgufValue, with_types};
use super::{MAGIC, MAX_DIMS, MAX_NAME, VERSION};
use crate::digest::CHUNK;
use crate::error::{Error, Result};
use crate::fs::File;
use crate::gguf::blocks::types::GgufType;
use crate::write::{HashedFile, TEMPORARY, WrittenFile, copy, create_locked, remove, write_file};

const ALIGNMENT: usize = DEFAULT_ALIGNMENT as usize;

/// Writes a GGUF file; no tensor is held in memory.
///
/// Data go to a temporary file beside the output as they come; [`Self::finish`] writes the description and copies. The
/// output appears whole or not at all. Tensors lie in the file in the order in which they were first appended.
#[derive(Debug)]
pub struct GgufWriter {
    path: PathBuf,
    data_path: PathBuf,
    data: BufWriter<File>,
    end: u64,
    tensors: Vec<Piece>,
    by_name: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct Piece {
    name: String,
    /// Of one part, slowest first.
    shape: Vec<usize>,
    ty: GgufType,
    /// Where each part lies in the temporary file.
    parts: Vec<Option<u64>>,
    part_bytes: u64,
    stacked: bool,
}

impl GgufWriter {
    /// Begins the file `path`, which is replaced when all is written.
    ///
    /// # Errors
    /// [`Error::Io`] if the temporary file cannot be created; [`Error::Locked`] while another process writes it.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".data{TEMPORARY}"));
        let data_path = path.with_file_name(name);
        let data = create_locked(&data_path, &path)?;
        let data = BufWriter::with_capacity(CHUNK, data);
        Ok(Self { path, data_path, data, end: 0, tensors: Vec::new(), by_name: BTreeMap::new() })
    }

    /// Adds a tensor of `shape`, slowest dimension first, whose rows are stored as `ty`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that is taken or too long, more than four dimensions, rows that blocks do not fill,
    /// or a wrong number of bytes; [`Error::Io`] or [`Error::NoSpace`].
    pub fn append(&mut self, name: &str, shape: &[usize], ty: GgufType, data: &[u8]) -> Result<()> {
        self.add(name, shape, ty, data, (0, 1), false)
    }

    /// Adds part `part` of `parts` of a tensor `[parts, shape..]`; parts may come in any order.
    ///
    /// # Errors
    /// As [`Self::append`], and [`Error::Invalid`] for a part that is there already or differs in shape or type.
    pub fn append_part(
        &mut self,
        name: &str,
        (part, parts): (usize, usize),
        shape: &[usize],
        ty: GgufType,
        data: &[u8],
    ) -> Result<()> {
        self.add(name, shape, ty, data, (part, parts), true)
    }

    fn add(
        &mut self,
        name: &str,
        shape: &[usize],
        ty: GgufType,
        data: &[u8],
        (part, parts): (usize, usize),
        stacked: bool,
    ) -> Result<()> {
        let fail = |message: String| Error::invalid(format!("tensor \"{name}\""), message);
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(fail(format!("names have 1 to {MAX_NAME} bytes in GGUF, this one {}", name.len())));
        }
        if shape.is_empty() || shape.len() + usize::from(stacked) > MAX_DIMS || shape.contains(&0) {
            return Err(fail(format!(
                "shape {shape:?} cannot be written: 1 to {MAX_DIMS} dimensions, none of them 0"
            )));
        }
        let rows: usize = shape[..shape.len() - 1].iter().product();
        let expected = ty.expect_row(shape[shape.len() - 1])? * rows;
        if data.len() != expected {
            return Err(fail(format!(
                "shape {shape:?} of {ty} takes {expected} bytes, found {}",
                data.len()
            )));
        }
        if part >= parts {
            return Err(fail(format!("part {part} of {parts}")));
        }
        let index = match self.by_name.get(name) {
            Some(&index) => index,
            None => {
                self.by_name.insert(name.into(), self.tensors.len());
                let (name, shape, parts) = (name.into(), shape.to_vec(), vec![None; parts]);
                let part_bytes = data.len() as u64;
                self.tensors.push(Piece { name, shape, ty, parts, part_bytes, stacked });
                self.tensors.len() - 1
            }
        };
        let piece = &mut self.tensors[index];
        if (&piece.shape[..], piece.ty, piece.parts.len()) != (shape, ty, parts) {
            return Err(fail(format!(
                "part {part} is {shape:?} of {ty}, earlier ones are {:?} of {}",
                piece.shape, piece.ty
            )));
        }
        if piece.parts[part].replace(self.end).is_some() {
            return Err(fail(if stacked {
                format!("part {part} was added twice")
            } else {
                "was added twice".into()
            }));
        }
        self.data.write_all(data).map_err(|e| Error::io("write", &self.data_path, e))?;
        self.end += data.len() as u64;
        Ok(())
    }

    /// Names and types of the tensors so far, with their bytes.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, GgufType, u64)> {
        self.tensors.iter().map(|piece| (piece.name.as_str(), piece.ty, piece.bytes()))
    }

    /// Writes the file with these keys.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a key that is there twice or a tensor that lacks parts; [`Error::Io`] or
    /// [`Error::NoSpace`].
    pub fn finish(mut self, keys: &[(String, GgufValue)]) -> Result<WrittenFile> {
        self.data.flush().map_err(|e| Error::io("write", &self.data_path, e))?;
        let mut header = Vec::new();
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&(keys.len() as u64).to_le_bytes());
        put_keys(&mut header, keys)?;
        let mut offset = 0u64;
        for piece in &self.tensors {
            piece.put(&mut header, offset)?;
            offset = (offset + piece.bytes()).next_multiple_of(ALIGNMENT as u64);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
        let digest = write_file(&self.path, |file| {
            file.write(&header)?;
            self.tensors.iter().try_for_each(|piece| self.copy(piece, file))?;
            // Before the output is there: after a kill the same command would find both, and touch neither.
            remove(&self.data_path)
        })?;
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(WrittenFile { name, bytes: digest.bytes, sha256: digest.sha256 })
    }

    fn copy(&self, piece: &Piece, file: &mut HashedFile) -> Result<()> {
        let mut open = None;
        for &offset in piece.parts.iter().flatten() {
            copy(&self.data_path, offset, piece.part_bytes, &mut open, file)?;
        }
        let padding = piece.bytes().next_multiple_of(ALIGNMENT as u64) - piece.bytes();
        file.write(&[0; ALIGNMENT][..padding as usize])
    }
}

impl Drop for GgufWriter {
    fn drop(&mut self) {
        // A temporary file that cannot be removed harms nobody.
        let _ = remove(&self.data_path);
    }
}

impl Piece {
    fn bytes(&self) -> u64 {
        self.part_bytes * self.parts.len() as u64
    }

    fn put(&self, header: &mut Vec<u8>, offset: u64) -> Result<()> {
        if let Some(part) = self.parts.iter().position(Option::is_none) {
            let message = format!("part {part} of {} is missing", self.parts.len());
            return Err(Error::invalid(format!("tensor \"{}\"", self.name), message));
        }
        put_string(header, &self.name);
        let dims = self.shape.len() + usize::from(self.stacked);
        header.extend_from_slice(&(dims as u32).to_le_bytes());
        let slowest = self.stacked.then_some(self.parts.len());
        // Fastest first.
        for dim in self.shape.iter().rev().copied().chain(slowest) {
            header.extend_from_slice(&(dim as u64).to_le_bytes());
        }
        header.extend_from_slice(&self.ty.id().to_le_bytes());
        header.extend_from_slice(&offset.to_le_bytes());
        Ok(())
    }
}

/// Bytes of the keys in the header.
pub(crate) fn keys_bytes(keys: &[(String, GgufValue)]) -> Result<u64> {
    let mut header = Vec::new();
    put_keys(&mut header, keys)?;
    Ok(header.len() as u64)
}

fn put_keys(out: &mut Vec<u8>, keys: &[(String, GgufValue)]) -> Result<()> {
    let mut names: Vec<&str> = keys.iter().map(|(key, _)| key.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::invalid("GGUF file", format!("the key \"{}\" is there twice", pair[0])));
    }
    for (key, value) in keys {
        put_string(out, key);
        out.extend_from_slice(&value.type_id().to_le_bytes());
        put_value(out, value);
    }
    Ok(())
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &GgufValue) {
    macro_rules! put {
        ($(($variant:ident, $type:ty, $id:literal))*) => {
            match value {
                $(GgufValue::$variant(value) => value.put(out),)*
                GgufValue::Array(array) => {
                    out.extend_from_slice(&array.type_id().to_le_bytes());
                    out.extend_from_slice(&(array.len() as u64).to_le_bytes());
                    match array { $(GgufArray::$variant(values) => values.iter().for_each(|value| value.put(out)),)* }
                }
            }
        };
    }
    with_types!(put);
}

/// A scalar that can be written.
trait Put {
    fn put(&self, out: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Put for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
numbers!(u8 i8 u16 i16 u32 i32 f32 u64 i64 f64);

impl Put for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push((*self).into());
    }
}

impl Put for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_string(out, self);
    }
}
