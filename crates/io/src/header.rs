//! The header of a safetensors file, checked in full before a byte of data is handed out.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;

use safetensors::SafeTensors;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::Value;

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::tensor::byte_count;

/// Longest header that is read, in bytes; the reference implementation has the same limit.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes of the length before the header.
const LENGTH_BYTES: usize = 8;
/// Key of the free-form strings.
const METADATA: &str = "__metadata__";

/// What a file says about its tensors.
pub(crate) struct Header {
    /// In the order of their data.
    pub tensors: Vec<Entry>,
    pub metadata: BTreeMap<String, String>,
    /// Bytes before the data.
    pub data_start: usize,
}

/// One tensor of a file.
pub(crate) struct Entry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// From the start of the file; from the first to the last number where they do not lie in row-major order.
    pub range: Range<usize>,
    /// Steps between the numbers of each dimension, in numbers; `None` for row-major order, the only one of safetensors.
    pub strides: Option<Vec<usize>>,
}

/// Reads and checks the header of `bytes`, the whole content of `file`.
///
/// Checked: lengths, JSON, types, shapes against sizes, and that the tensors cover the data exactly, without overlap.
pub(crate) fn read_header(file: &str, bytes: &[u8]) -> Result<Header> {
    let text = header_text(file, bytes)?;
    let data_start = LENGTH_BYTES + text.len();
    let pairs = serde_json::from_slice::<Pairs>(text)
        .map_err(|e| Error::malformed(file, format!("the header is not what safetensors expects: {e}")))?;
    let mut metadata = BTreeMap::new();
    let mut tensors = Vec::with_capacity(pairs.0.len());
    let mut names = HashSet::with_capacity(pairs.0.len());
    for (name, value) in pairs.0 {
        if !names.insert(name.clone()) {
            return Err(Error::malformed(file, format!("the header has \"{name}\" twice")));
        }
        if name == METADATA {
            metadata = serde_json::from_value(value).map_err(|e| {
                Error::malformed(file, format!("{METADATA} must map strings to strings: {e}"))
            })?;
        } else {
            tensors.push(entry(file, name, value)?);
        }
    }
    tensors.sort_by(|a, b| (a.range.start, a.range.end, &a.name).cmp(&(b.range.start, b.range.end, &b.name)));
    check_cover(file, &tensors, bytes.len() - data_start)?;
    for tensor in &mut tensors {
        tensor.range = tensor.range.start + data_start..tensor.range.end + data_start;
    }
    // The reference implementation has the last word on what a safetensors file is.
    SafeTensors::read_metadata(bytes)
        .map_err(|e| Error::malformed(file, format!("the safetensors library refuses the file: {e}")))?;
    Ok(Header { tensors, metadata, data_start })
}

fn header_text<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a [u8]> {
    let found = bytes.len();
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        let message = format!("truncated: {found} bytes, a safetensors file has at least {LENGTH_BYTES}");
        return Err(Error::malformed(file, message));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        let message = format!(
            "the header says it is {length} bytes long, more than the limit of {MAX_HEADER}; not a safetensors file?"
        );
        return Err(Error::malformed(file, message));
    }
    rest.get(..length as usize).ok_or_else(|| {
        let message =
            format!("truncated: the header takes {length} bytes after the first 8, the file has {found}");
        Error::malformed(file, message)
    })
}

fn entry(file: &str, name: String, value: Value) -> Result<Entry> {
    let raw: RawEntry = serde_json::from_value(value)
        .map_err(|e| Error::tensor(file, &name, format!("the header entry is wrong: {e}")))?;
    let Some(dtype) = Dtype::from_name(&raw.dtype) else {
        let small = raw.dtype == "F4" || raw.dtype.starts_with('F') && raw.dtype.contains('_');
        let message = if small {
            format!(
                "type {} (a float of 8 bits or fewer) is not read\nhint: use the 16-bit original",
                raw.dtype
            )
        } else {
            let known = Dtype::ALL.map(Dtype::name).join(", ");
            format!("type \"{}\" is not read; known are {known}", raw.dtype)
        };
        return Err(Error::tensor(file, &name, message));
    };
    let (start, end) = raw.data_offsets;
    let size = byte_count(dtype, &raw.shape);
    if size.is_none() || end.checked_sub(start) != size {
        let size = size.map_or("more bytes than the address space".into(), |n| format!("{n} bytes"));
        let message =
            format!("shape {:?} of {dtype} takes {size}, data_offsets are [{start}, {end}]", raw.shape);
        return Err(Error::tensor(file, &name, message));
    }
    Ok(Entry { name, dtype, shape: raw.shape, range: start..end, strides: None })
}

/// `tensors` are sorted by offset, relative to the data.
fn check_cover(file: &str, tensors: &[Entry], data_len: usize) -> Result<()> {
    let mut covered = 0;
    let mut before = "the header";
    for tensor in tensors {
        let Range { start, end } = tensor.range;
        if end > data_len {
            let message =
                format!("truncated: ends at byte {end} of the data, the file has {data_len} bytes of data");
            return Err(Error::tensor(file, &tensor.name, message));
        }
        if start != covered {
            let what = if start < covered { "overlap" } else { "hole" };
            let message = format!("{what}: begins at byte {start} of the data, {before} ends at {covered}");
            return Err(Error::tensor(file, &tensor.name, message));
        }
        covered = end;
        before = &tensor.name;
    }
    if covered != data_len {
        let message = format!("the file has {data_len} bytes of data, its tensors end at {covered}");
        return Err(Error::malformed(file, message));
    }
    Ok(())
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// The entries of a JSON object in file order, with repeated keys, which maps would hide.
pub(crate) struct Pairs(pub Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error>
    where
        A::Error: de::Error,
    {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file with this header text and this many zero bytes of data.
    pub(crate) fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn refusal(header: &str, data: usize) -> String {
        match read_header("m.safetensors", &file(header, data)) {
            Ok(_) => panic!("accepted: {header}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_sound_file_is_read() {
        let text = r#"{"__metadata__":{"format":"pt"},
            "b":{"dtype":"I8","shape":[3],"data_offsets":[8,11]},
            "empty":{"dtype":"F32","shape":[0,7],"data_offsets":[8,8]},
            "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let header = read_header("m", &file(text, 11)).unwrap();
        let names: Vec<&str> = header.tensors.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "empty", "b"]);
        assert_eq!(header.tensors[2].range, header.data_start + 8..header.data_start + 11);
        assert_eq!(header.metadata["format"], "pt");
    }

    #[test]
    fn each_defect_is_named_with_its_numbers() {
        let cases = [
            (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 4, "ends at byte 8 of the data"),
            (
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
                9,
                "9 bytes of data, its tensors end at 8",
            ),
            (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#, 12, "hole: begins at byte 4"),
            (
                r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
                8,
                "shape [3] of F32 takes 12 bytes",
            ),
            (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, 8, "data_offsets are [8, 0]"),
            (r#"{"a":{"dtype":"F8_E4M3FNUZ","shape":[8],"data_offsets":[0,8]}}"#, 8, "F8_E4M3FNUZ"),
            (r#"{"a":{"dtype":"U64","shape":[1],"data_offsets":[0,8]}}"#, 8, "known are F64"),
            (r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#, 8, "header entry is wrong"),
            (
                r#"{"a":{"dtype":"I8","shape":[18446744073709551615,2],"data_offsets":[0,8]}}"#,
                8,
                "address space",
            ),
            (
                r#"{"a":{"dtype":"I8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}}"#,
                0,
                "twice",
            ),
            (
                r#"{"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"I8","shape":[2],"data_offsets":[1,3]}}"#,
                3,
                "overlap: begins at byte 1 of the data, a ends at 2",
            ),
            (r#"{"__metadata__":{"format":1}}"#, 0, "strings to strings"),
            ("[1]", 0, "a JSON object"),
            ("{", 0, "not what safetensors expects"),
        ];
        for (header, data, expected) in cases {
            let message = refusal(header, data);
            assert!(message.contains(expected), "{header}: {message}");
            assert!(message.starts_with("m.safetensors: "), "{message}");
        }
    }

    #[test]
    fn lengths_before_the_header_are_checked() {
        let refuse = |bytes: &[u8]| read_header("m", bytes).err().unwrap().to_string();
        assert!(refuse(&[1, 2, 3]).contains("truncated: 3 bytes"));
        assert!(refuse(&40u64.to_le_bytes()).contains("takes 40 bytes after the first 8, the file has 8"));
        assert!(refuse(&u64::MAX.to_le_bytes()).contains("limit of 100000000"));
    }
}
