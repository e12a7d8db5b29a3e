//! The zip archive of PyTorch since 1.6: `NAME/data.pkl`, `NAME/data/KEY`, `NAME/byteorder`, `NAME/version`.
//!
//! Only what such an archive needs is read: the central directory, with its 64-bit form, and stored entries, which are
//! borrowed where they lie. Checksums are not compared, because PyTorch can be told not to compute them.
//! Source: PKWARE, APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 to 4.3.16, 4.5.3.

use std::collections::HashMap;
use std::ops::Range;

use super::{TorchFile, machine, place, state};
use crate::error::{Error, Result};

const LOCAL: [u8; 4] = *b"PK\x03\x04";
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const END: [u8; 4] = *b"PK\x05\x06";
const END64: [u8; 4] = *b"PK\x06\x06";
const LOCATOR64: [u8; 4] = *b"PK\x06\x07";
const LOCAL_LEN: usize = 30;
const CENTRAL_LEN: usize = 46;
const END_LEN: usize = 22;
const LOCATOR64_LEN: usize = 20;
/// Longest comment behind the end record.
const MAX_COMMENT: usize = 0xffff;
const PICKLE: &str = "data.pkl";

pub fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(&LOCAL)
}

/// Reads the description of an archive.
pub fn read(label: &str, bytes: &[u8]) -> Result<TorchFile> {
    let archive = Archive::open(label, bytes)?;
    let pickle = archive.pickle()?;
    if let Some(order) = archive.find("byteorder")
        && &bytes[order.clone()] != b"little"
    {
        let found = String::from_utf8_lossy(&bytes[order]).chars().take(20).collect::<String>();
        return Err(Error::malformed(
            label,
            format!("byte order {found:?}; only little-endian files are read"),
        ));
    }
    let program = &bytes[pickle.clone()];
    let pickle_label = format!("{label}: {PICKLE}");
    let built = machine::run(&pickle_label, program, 0)?;
    let mut tensors = Vec::new();
    for (name, tensor) in state::tensors(label, program, &built)? {
        let storage = tensor.storage;
        let file = format!("data/{}", machine::text(program, storage.key));
        let Some(range) = archive.find(&file) else {
            return Err(Error::tensor(label, &name, format!("its numbers ({file}) are not in the archive")));
        };
        let expected = storage.numel.checked_mul(storage.dtype.size() as u64);
        if expected != Some(range.len() as u64) {
            let message = format!(
                "its storage {file} has {} bytes, {} elements of {} were announced",
                range.len(),
                storage.numel,
                storage.dtype
            );
            return Err(Error::tensor(label, &name, message));
        }
        tensors.push(place::entry(label, name, &tensor, &built.heap, range, bytes.len())?);
    }
    Ok(TorchFile { tensors, header: pickle })
}

struct Archive<'a> {
    label: &'a str,
    /// Contents of the stored entries by name; `None` for an entry that is compressed.
    entries: HashMap<&'a str, Option<Range<usize>>>,
    /// The folder of all entries, with its slash.
    folder: String,
}

impl<'a> Archive<'a> {
    fn open(label: &'a str, bytes: &'a [u8]) -> Result<Self> {
        let mut entries = HashMap::new();
        let (mut rest, count) = directory(label, bytes)?;
        for i in 0..count {
            let wrong =
                |message: &str| Error::malformed(label, format!("zip entry {i} of {count}: {message}"));
            let Some((head, variable)) = rest.split_first_chunk::<CENTRAL_LEN>() else {
                return Err(wrong("the central directory is truncated"));
            };
            if head[..4] != CENTRAL {
                return Err(wrong("is not where the central directory should have it"));
            }
            let lengths = [28, 30, 32].map(|at| u16_at(head, at) as usize);
            let Some((variable, after)) = variable.split_at_checked(lengths.iter().sum()) else {
                return Err(wrong("the central directory is truncated"));
            };
            rest = after;
            let name =
                std::str::from_utf8(&variable[..lengths[0]]).map_err(|_| wrong("its name is not UTF-8"))?;
            if u16_at(head, 8) & 1 != 0 {
                return Err(wrong("is encrypted"));
            }
            let extra = &variable[lengths[0]..lengths[0] + lengths[1]];
            let [size, packed, local] = sizes(head, extra).ok_or_else(|| wrong("its sizes are missing"))?;
            let stored = u16_at(head, 10) == 0;
            if stored && size != packed {
                return Err(wrong("is stored, with two different lengths"));
            }
            let range =
                content(bytes, local, packed).ok_or_else(|| wrong("its data lie outside the file"))?;
            if entries.insert(name, stored.then_some(range)).is_some() {
                return Err(wrong("its name is there twice"));
            }
        }
        let mut folders = entries.keys().filter_map(|name| {
            let folder = name.strip_suffix(PICKLE)?;
            (folder.ends_with('/') && folder.matches('/').count() == 1).then(|| folder.to_owned())
        });
        let (folder, other) = (folders.next(), folders.next());
        match (folder, other) {
            (Some(folder), None) => Ok(Self { label, entries, folder }),
            (None, _) => {
                let message = format!("a zip archive without {PICKLE}: not written by torch.save");
                Err(Error::malformed(label, message))
            }
            _ => Err(Error::malformed(label, format!("a zip archive with more than one {PICKLE}"))),
        }
    }

    fn find(&self, name: &str) -> Option<Range<usize>> {
        self.entries.get(format!("{}{name}", self.folder).as_str()).cloned().flatten()
    }

    fn pickle(&self) -> Result<Range<usize>> {
        if self.entries.contains_key(format!("{}constants.pkl", self.folder).as_str()) {
            let message = "a TorchScript program, not a file of tensors\nhint: save model.state_dict()";
            return Err(Error::malformed(self.label, message));
        }
        if let Some((name, _)) =
            self.entries.iter().filter(|(_, range)| range.is_none()).min_by_key(|(name, _)| **name)
        {
            let message = format!(
                "zip entry {name:?} is compressed, torch.save stores entries as they are\nhint: save the file again with torch.save"
            );
            return Err(Error::malformed(self.label, message));
        }
        self.find(PICKLE).ok_or_else(|| Error::malformed(self.label, format!("no {PICKLE}")))
    }
}

/// The central directory and its number of entries.
fn directory<'a>(label: &str, bytes: &'a [u8]) -> Result<(&'a [u8], u64)> {
    let wrong = |message: &str| Error::malformed(label, format!("zip archive: {message}"));
    let tail = bytes.len().saturating_sub(END_LEN + MAX_COMMENT);
    let end = (tail..(bytes.len() + 1).saturating_sub(END_LEN)).rev().find(|&at| {
        // The comment must end with the file: the four letters alone could be anywhere.
        bytes[at..].starts_with(&END) && at + END_LEN + u16_at(&bytes[at..], 20) as usize == bytes.len()
    });
    let end = end.ok_or_else(|| wrong("no end record; truncated?"))?;
    let record = &bytes[end..];
    let (mut count, mut size, mut start) =
        (u64::from(u16_at(record, 10)), u64::from(u32_at(record, 12)), u64::from(u32_at(record, 16)));
    if let Some(locator) = end.checked_sub(LOCATOR64_LEN).map(|at| &bytes[at..end])
        && locator.starts_with(&LOCATOR64)
    {
        let at = usize::try_from(u64_at(locator, 8)).ok();
        let record = at.and_then(|at| bytes.get(at..at.checked_add(56)?)).filter(|r| r.starts_with(&END64));
        let record = record.ok_or_else(|| wrong("the 64-bit end record is not where it should be"))?;
        (count, size, start) = (u64_at(record, 32), u64_at(record, 40), u64_at(record, 48));
    }
    let range =
        usize::try_from(start).ok().zip(start.checked_add(size).and_then(|end| usize::try_from(end).ok()));
    let directory = range.and_then(|(start, end)| bytes.get(start..end));
    let directory = directory.ok_or_else(|| wrong("the central directory lies outside the file"))?;
    if count > (directory.len() / CENTRAL_LEN) as u64 {
        return Err(wrong(&format!("{count} entries in a central directory of {} bytes", directory.len())));
    }
    Ok((directory, count))
}

/// Length, stored length and place of the local header; from the 64-bit extra field where the entry says so.
fn sizes(head: &[u8], mut extra: &[u8]) -> Option<[u64; 3]> {
    const IN_EXTRA: u32 = u32::MAX;
    const ZIP64: u16 = 1;
    let fields = [24, 20, 42].map(|at| u32_at(head, at));
    let mut wide: &[u8] = &[];
    while let Some((tag, rest)) = extra.split_first_chunk::<4>() {
        let (field, after) = rest.split_at_checked(u16_at(tag, 2) as usize)?;
        if u16_at(tag, 0) == ZIP64 {
            wide = field;
        }
        extra = after;
    }
    let mut out = [0; 3];
    for (out, field) in out.iter_mut().zip(fields) {
        *out = if field == IN_EXTRA {
            let (value, rest) = wide.split_first_chunk::<8>()?;
            wide = rest;
            u64::from_le_bytes(*value)
        } else {
            field.into()
        };
    }
    Some(out)
}

/// Where the content of an entry lies; its local header has names and extra fields of its own.
fn content(bytes: &[u8], local: u64, length: u64) -> Option<Range<usize>> {
    let local = usize::try_from(local).ok()?;
    let head = bytes.get(local..local.checked_add(LOCAL_LEN)?).filter(|head| head.starts_with(&LOCAL))?;
    let start = local + LOCAL_LEN + u16_at(head, 26) as usize + u16_at(head, 28) as usize;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    (end <= bytes.len()).then_some(start..end)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}
