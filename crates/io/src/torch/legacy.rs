//! The files of PyTorch before 1.6 (`_use_new_zipfile_serialization=False`): five pickles, then the storages.
//!
//! The pickles hold a magic number, the version 1001, facts about the machine, the object, and the keys of the storages
//! in the order in which they follow: each a u64 number of elements and the elements. Source: `_legacy_save` in
//! `torch/serialization.py`.

use std::collections::HashMap;
use std::ops::Range;

use super::machine::{self, Built, text};
use super::value::Value;
use super::{TorchFile, place, state};
use crate::error::{Error, Result};

/// The magic number as it is pickled: the opcode of a 10-byte integer, then 0x1950a86a20f9469cfc6c.
const MAGIC: [u8; 12] = [0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// Behind the protocol, and from protocol 4 on the length of a frame.
const MAGIC_AT: [usize; 2] = [2, 11];
const VERSION: Value = Value::Int(1001);
const COUNT_LEN: usize = 8;

pub fn is_legacy(bytes: &[u8]) -> bool {
    MAGIC_AT.iter().any(|&at| bytes.get(at..).is_some_and(|rest| rest.starts_with(&MAGIC)))
}

/// Reads the description of a file that [`is_legacy`].
pub fn read(label: &str, bytes: &[u8]) -> Result<TorchFile> {
    let wrong = |message: String| Error::malformed(label, message);
    let magic = machine::run(label, bytes, 0)?;
    let version = machine::run(label, bytes, magic.end)?;
    if version.root != VERSION {
        return Err(wrong("the version behind the magic number is not 1001".into()));
    }
    let system = machine::run(label, bytes, version.end)?;
    if !is_little(bytes, &system) {
        return Err(wrong(
            "written on a big-endian machine, or without saying so; only little-endian is read".into(),
        ));
    }
    let object = machine::run(label, bytes, system.end)?;
    let keys = machine::run(label, bytes, object.end)?;
    let storages = storages(label, bytes, &object, &keys)?;
    let mut tensors = Vec::new();
    for (name, tensor) in state::tensors(label, bytes, &object)? {
        let key = text(bytes, tensor.storage.key);
        let Some(range) = storages.get(key) else {
            return Err(Error::tensor(label, &name, format!("its storage {key:?} is not in the file")));
        };
        let announced = tensor.storage.numel.checked_mul(tensor.storage.dtype.size() as u64);
        if announced != Some(range.len() as u64) {
            let message = format!(
                "its storage has {} bytes, {} elements of {} were announced",
                range.len(),
                tensor.storage.numel,
                tensor.storage.dtype
            );
            return Err(Error::tensor(label, &name, message));
        }
        tensors.push(place::entry(label, name, &tensor, &object.heap, range.clone(), bytes.len())?);
    }
    Ok(TorchFile { tensors, header: 0..keys.end })
}

fn is_little(bytes: &[u8], system: &Built) -> bool {
    let Value::Dict(dict) = system.root else { return false };
    let is_order = |key: Value| matches!(key, Value::Str(at) if text(bytes, at) == "little_endian");
    system.heap.dicts[dict as usize].iter().any(|&(key, value)| is_order(key) && value == Value::Bool(true))
}

/// Where the elements of each storage lie.
fn storages<'a>(
    label: &str,
    bytes: &'a [u8],
    object: &Built,
    keys: &Built,
) -> Result<HashMap<&'a str, Range<usize>>> {
    let wrong = |message: String| Error::malformed(label, message);
    // The count in front of the elements is one of elements; only the object says how long one is.
    let mut sizes = HashMap::new();
    for storage in &object.heap.storages {
        let (key, size) = (text(bytes, storage.key), storage.dtype.size());
        if sizes.insert(key, size).is_some_and(|other| other != size) {
            return Err(wrong(format!("storage {key:?} is used as numbers of two sizes")));
        }
    }
    let Value::List(list) = keys.root else {
        return Err(wrong("no list of storages behind the object".into()));
    };
    let mut found = HashMap::new();
    let mut at = keys.end;
    for &key in &keys.heap.lists[list as usize] {
        let Value::Str(key) = key else {
            return Err(wrong("the list of storages must hold strings".into()));
        };
        let key = text(bytes, key);
        let Some(&size) = sizes.get(key) else {
            return Err(wrong(format!(
                "storage {key:?} belongs to no tensor, so that its length is not known"
            )));
        };
        let count = bytes.get(at..).and_then(|rest| rest.first_chunk::<COUNT_LEN>());
        let length = count.and_then(|count| u64::from_le_bytes(*count).checked_mul(size as u64));
        let start = at + COUNT_LEN;
        let end = length.and_then(|length| start.checked_add(usize::try_from(length).ok()?));
        let end = end.filter(|&end| end <= bytes.len());
        let end = end.ok_or_else(|| {
            wrong(format!("truncated: storage {key:?} begins at byte {at} of {}", bytes.len()))
        })?;
        if found.insert(key, start..end).is_some() {
            return Err(wrong(format!("storage {key:?} is listed twice")));
        }
        at = end;
    }
    if at != bytes.len() {
        return Err(wrong(format!("{} bytes follow the last storage, none are expected", bytes.len() - at)));
    }
    Ok(found)
}
