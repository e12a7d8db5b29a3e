//! A GGUF file, checked in full before a tensor is handed out.
//!
//! Source: ggml-org/ggml, `docs/gguf.md` and `src/gguf.cpp`.

use std::collections::HashSet;
use std::path::Path;

use super::value::{ARRAY, GgufArray, GgufValue, with_types};
use super::{Gguf, GgufInfo, LABEL_MEMORY, MAGIC, MAX_DIMS, MAX_NAME, VERSION};
use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::gguf::blocks::types::{GgufType, foreign_name};

/// Alignment of a file that does not say.
pub(super) const DEFAULT_ALIGNMENT: u32 = 32;
/// Longest key.
const MAX_KEY: usize = 65_535;
/// Fewest bytes of a key with its value: length, type, one byte.
const MIN_KEY_BYTES: usize = 8 + 4 + 1;
/// Fewest bytes of a tensor's description: length, dimensions, type, offset.
const MIN_INFO_BYTES: usize = 8 + 4 + 4 + 8;

/// Reads and checks the description of a GGUF file, the whole content of which is `bytes`.
///
/// Checked: magic and version, every length against the bytes that are there, names, types, whole blocks in rows, sizes
/// without overflow, alignment, and that tensors lie inside the file and not over one another.
///
/// # Errors
/// [`Error::Malformed`] or [`Error::Tensor`], with what was found.
pub fn parse(bytes: &Bytes) -> Result<Gguf> {
    parse_labelled(LABEL_MEMORY, bytes)
}

/// Maps a GGUF file and reads its description.
///
/// # Errors
/// As [`parse`], and [`Error::Io`].
pub fn open(path: impl AsRef<Path>) -> Result<Gguf> {
    let path = path.as_ref();
    parse_labelled(&path.display().to_string(), &Bytes::map(path)?)
}

pub(crate) fn parse_labelled(file: &str, bytes: &Bytes) -> Result<Gguf> {
    let mut reader = Reader { file, bytes, at: 0 };
    let (tensor_count, key_count) = reader.start()?;
    let mut keys: Vec<(String, GgufValue)> = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..key_count {
        let key = reader.string("a key", MAX_KEY)?;
        if key.is_empty() {
            return Err(reader.fail("a key has no name"));
        }
        let value = reader.value(&key)?;
        if !seen.insert(key.clone()) {
            return Err(reader.fail(format!("the key \"{key}\" is there twice")));
        }
        keys.push((key, value));
    }
    let alignment = alignment(&reader, &keys)?;
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..tensor_count {
        let tensor = reader.tensor(alignment)?;
        if !names.insert(tensor.name.clone()) {
            return Err(Error::tensor(file, &tensor.name, "is there twice"));
        }
        tensors.push(tensor);
    }
    let data_start = place(&reader, &mut tensors, alignment)?;
    Ok(Gguf { file: file.into(), keys, tensors, alignment, data_start, bytes: bytes.clone() })
}

fn alignment(reader: &Reader<'_>, keys: &[(String, GgufValue)]) -> Result<usize> {
    let alignment = match keys.iter().find(|(key, _)| key == "general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some((_, GgufValue::U32(alignment))) => *alignment,
        Some((_, other)) => {
            return Err(reader.fail(format!("general.alignment must be a u32, found {other}")));
        }
    };
    if !alignment.is_power_of_two() {
        return Err(reader.fail(format!("general.alignment must be a power of two, found {alignment}")));
    }
    Ok(alignment as usize)
}

/// Turns offsets into ranges of the file and checks them; returns where the data begin.
fn place(reader: &Reader<'_>, tensors: &mut [GgufInfo], alignment: usize) -> Result<usize> {
    let Reader { file, bytes, at } = *reader;
    let data_start = at.checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
    for tensor in tensors.iter_mut() {
        let start = tensor.range.start.checked_add(data_start);
        let end = tensor.range.end.checked_add(data_start);
        match (start, end) {
            (Some(start), Some(end)) if end <= bytes.len() => tensor.range = start..end,
            _ => {
                let message = format!(
                    "truncated: ends at byte {} of the data, the file has {} bytes of data",
                    tensor.range.end,
                    bytes.len().saturating_sub(data_start)
                );
                return Err(Error::tensor(file, &tensor.name, message));
            }
        }
    }
    let mut order: Vec<&GgufInfo> = tensors.iter().filter(|tensor| !tensor.range.is_empty()).collect();
    order.sort_by_key(|tensor| tensor.range.start);
    for pair in order.windows(2) {
        if pair[1].range.start < pair[0].range.end {
            let message = format!(
                "overlap: begins at byte {} of the file, \"{}\" ends at {}",
                pair[1].range.start, pair[0].name, pair[0].range.end
            );
            return Err(Error::tensor(file, &pair[1].name, message));
        }
    }
    Ok(data_start.min(bytes.len()))
}

struct Reader<'a> {
    file: &'a str,
    bytes: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn fail(&self, message: impl Into<String>) -> Error {
        Error::malformed(self.file, message)
    }

    /// Magic, version and the two counts.
    fn start(&mut self) -> Result<(usize, usize)> {
        if self.bytes.len() < MAGIC.len() || self.bytes[..MAGIC.len()] != MAGIC {
            return Err(self.fail("not a GGUF file: it does not begin with the letters GGUF"));
        }
        self.at = MAGIC.len();
        let version = u32::from_le_bytes(self.fixed("the version")?);
        if version != VERSION {
            return Err(self.fail(match version {
                1 | 2 => format!(
                    "version {version} of GGUF; only version {VERSION} is read\n\
                     hint: convert the model again with a current program"
                ),
                _ if version.swap_bytes() <= VERSION => {
                    "a big-endian GGUF file; only little-endian files are read\n\
                     hint: convert it with gguf-convert-endian of the Python package gguf"
                        .into()
                }
                _ => format!("version {version} of GGUF; only version {VERSION} is read"),
            }));
        }
        let tensors = self.count("tensors", MIN_INFO_BYTES)?;
        let keys = self.count("keys", MIN_KEY_BYTES)?;
        Ok((tensors, keys))
    }

    fn take(&mut self, len: usize, what: &str) -> Result<&[u8]> {
        let left = self.bytes.len() - self.at;
        if len > left {
            return Err(self
                .fail(format!("truncated: {what} takes {len} bytes at byte {}, {left} are left", self.at)));
        }
        self.at += len;
        Ok(&self.bytes[self.at - len..self.at])
    }

    fn fixed<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    /// A number of things of at least `min_bytes` each, which must find place in the rest of the file.
    fn count(&mut self, what: &str, min_bytes: usize) -> Result<usize> {
        let count = u64::from_le_bytes(self.fixed(what)?);
        let left = self.bytes.len() - self.at;
        if count > (left / min_bytes) as u64 {
            return Err(self.fail(format!("says that it has {count} {what}, {left} bytes are left for them")));
        }
        Ok(count as usize)
    }

    fn string(&mut self, what: &str, limit: usize) -> Result<String> {
        let length = u64::from_le_bytes(self.fixed(what)?);
        if length > limit as u64 {
            return Err(self.fail(format!("{what} has {length} bytes, at most {limit} are allowed")));
        }
        let at = self.at;
        let bytes = self.take(length as usize, what)?.to_vec();
        String::from_utf8(bytes).map_err(|_| self.fail(format!("{what} at byte {at} is not valid UTF-8")))
    }

    fn value(&mut self, key: &str) -> Result<GgufValue> {
        let type_id = u32::from_le_bytes(self.fixed("the type of a value")?);
        if type_id == ARRAY {
            return Ok(GgufValue::Array(self.array(key)?));
        }
        macro_rules! read {
            ($(($variant:ident, $type:ty, $id:literal))*) => {
                match type_id {
                    $($id => GgufValue::$variant(<$type as Element>::read(self, key)?),)*
                    other => return Err(self.fail(format!("the key \"{key}\" has the unknown type {other}"))),
                }
            };
        }
        Ok(with_types!(read))
    }

    fn array(&mut self, key: &str) -> Result<GgufArray> {
        let type_id = u32::from_le_bytes(self.fixed("the type of an array")?);
        macro_rules! read {
            ($(($variant:ident, $type:ty, $id:literal))*) => {
                match type_id {
                    $($id => {
                        let count = self.count("values", <$type as Element>::MIN_BYTES)?;
                        let values = (0..count).map(|_| <$type as Element>::read(self, key));
                        GgufArray::$variant(values.collect::<Result<_>>()?)
                    })*
                    ARRAY => return Err(self.fail(format!("the key \"{key}\" is an array of arrays"))),
                    other => {
                        return Err(self.fail(format!("the key \"{key}\" is an array of the unknown type {other}")));
                    }
                }
            };
        }
        Ok(with_types!(read))
    }

    /// A tensor's description; its range is relative to the data.
    fn tensor(&mut self, alignment: usize) -> Result<GgufInfo> {
        let name = self.string("the name of a tensor", MAX_NAME)?;
        let file = self.file.to_owned();
        let fail = |message: String| Error::tensor(&file, &name, message);
        let dims = u32::from_le_bytes(self.fixed("the number of dimensions")?);
        if dims as usize > MAX_DIMS {
            return Err(fail(format!("has {dims} dimensions, at most {MAX_DIMS} are allowed")));
        }
        let mut shape = Vec::with_capacity(dims as usize);
        for _ in 0..dims {
            let dim = u64::from_le_bytes(self.fixed("a dimension")?);
            shape.push(usize::try_from(dim).unwrap_or(usize::MAX));
        }
        // A file lists the fastest dimension first.
        shape.reverse();
        if shape.contains(&0) {
            return Err(fail(format!("shape {shape:?} has a dimension of length 0")));
        }
        let id = u32::from_le_bytes(self.fixed("the type of a tensor")?);
        let offset = u64::from_le_bytes(self.fixed("the offset of a tensor")?);
        let Some(ty) = GgufType::from_id(id) else {
            let known = GgufType::ALL.map(GgufType::name).join(", ");
            let found = foreign_name(id).map_or(format!("number {id}"), |name| format!("{name} ({id})"));
            return Err(fail(format!("type {found} is not read; known are {known}")));
        };
        let cols = shape.last().copied().unwrap_or(1);
        if !ty.fits(cols) {
            let message =
                format!("rows of {cols} numbers are no whole blocks of {} of type {ty}", ty.block_len());
            return Err(fail(message));
        }
        let rows = shape.iter().rev().skip(1).try_fold(1usize, |n, &dim| n.checked_mul(dim));
        let size = ty.row_bytes(cols).zip(rows).and_then(|(row, rows)| row.checked_mul(rows));
        let start = usize::try_from(offset).ok();
        let range = size.zip(start).and_then(|(size, start)| Some(start..start.checked_add(size)?));
        let Some(range) = range else {
            return Err(fail(format!(
                "shape {shape:?} of {ty} at byte {offset} is larger than the address space"
            )));
        };
        if !range.start.is_multiple_of(alignment) {
            return Err(fail(format!("begins at byte {offset} of the data, no multiple of {alignment}")));
        }
        Ok(GgufInfo { name, shape, ty, range })
    }
}

/// A scalar that can be read.
trait Element: Sized {
    const MIN_BYTES: usize;
    fn read(reader: &mut Reader<'_>, key: &str) -> Result<Self>;
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Element for $type {
            const MIN_BYTES: usize = size_of::<$type>();
            fn read(reader: &mut Reader<'_>, _: &str) -> Result<Self> {
                Ok(<$type>::from_le_bytes(reader.fixed("a value")?))
            }
        }
    )*};
}
numbers!(u8 i8 u16 i16 u32 i32 f32 u64 i64 f64);

impl Element for bool {
    const MIN_BYTES: usize = 1;
    fn read(reader: &mut Reader<'_>, key: &str) -> Result<Self> {
        match reader.fixed::<1>("a value")?[0] {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(reader.fail(format!("the key \"{key}\" has the truth value {other}, not 0 or 1"))),
        }
    }
}

impl Element for String {
    const MIN_BYTES: usize = 8;
    fn read(reader: &mut Reader<'_>, _: &str) -> Result<Self> {
        reader.string("a string", usize::MAX)
    }
}
