//! Which tensor goes into which shard, and the header of each.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::bytes::Bytes;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// A tensor that waits to be written.
#[derive(Debug)]
pub(super) struct Piece {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: u64,
    pub source: Source,
}

/// Where the data of a tensor are.
#[derive(Debug)]
pub(super) enum Source {
    Memory(Bytes),
    File { path: PathBuf, offset: u64 },
}

/// Splits the tensors, in the order of their names, into shards of at most `limit` bytes of data. A larger tensor gets a
/// shard of its own. There is at least one shard.
pub(super) fn split(mut pieces: Vec<Piece>, limit: u64) -> Result<Vec<Vec<Piece>>> {
    pieces.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = pieces.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(Error::invalid("shards", format!("tensor \"{}\" is given twice", pair[0].name)));
    }
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for piece in pieces {
        if filled > 0 && filled + piece.bytes > limit {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += piece.bytes;
        shards.last_mut().expect("there is at least one").push(piece);
    }
    for shard in &mut shards {
        arrange(shard);
    }
    Ok(shards)
}

/// Widest numbers first, then by name: each tensor begins at a multiple of its element, and can be borrowed when mapped.
pub(super) fn arrange(shard: &mut [Piece]) {
    shard.sort_by(|a, b| b.dtype.size().cmp(&a.dtype.size()).then_with(|| a.name.cmp(&b.name)));
}

/// Name of shard `index` of `count`, as on the Hugging Face hub.
pub(super) fn shard_name(index: usize, count: usize) -> String {
    match count {
        1 => "model.safetensors".into(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
    }
}

/// Length and header of a safetensors file that holds `shard` in this order, padded to a multiple of 8 bytes.
pub(super) fn header(shard: &[Piece], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut metadata = metadata.clone();
    // Readers of model files ask for this key.
    metadata.entry("format".into()).or_insert_with(|| "pt".into());
    let mut text = format!("{{\"__metadata__\":{}", json(&metadata));
    let mut start = 0;
    for piece in shard {
        let end = start + piece.bytes;
        let (name, dtype, shape) = (json(&piece.name), piece.dtype, json(&piece.shape));
        text +=
            &format!(",{name}:{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{start},{end}]}}");
        start = end;
    }
    text.push('}');
    text += &" ".repeat(text.len().next_multiple_of(8) - text.len());
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(text.as_bytes());
    header
}

/// The index of several shards.
pub(super) fn index(shards: &[Vec<Piece>]) -> Vec<u8> {
    let named = || shards.iter().enumerate().flat_map(|(i, shard)| shard.iter().map(move |piece| (i, piece)));
    let total_size: u64 = named().map(|(_, piece)| piece.bytes).sum();
    let weight_map: BTreeMap<&str, String> =
        named().map(|(i, piece)| (piece.name.as_str(), shard_name(i, shards.len()))).collect();
    let index = serde_json::json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
    format!("{index:#}\n").into_bytes()
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("strings, maps of strings and numbers are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::read_header;

    fn piece(name: &str, dtype: Dtype, n: usize) -> Piece {
        let bytes = (n * dtype.size()) as u64;
        Piece {
            name: name.into(),
            dtype,
            shape: vec![n],
            bytes,
            source: Source::Memory(Bytes::from_static(&[])),
        }
    }

    fn names(shards: &[Vec<Piece>]) -> Vec<Vec<&str>> {
        shards.iter().map(|shard| shard.iter().map(|piece| piece.name.as_str()).collect()).collect()
    }

    #[test]
    fn shards_are_filled_in_the_order_of_names() {
        let pieces = || {
            let sizes = [("d", 4), ("a", 4), ("b", 6), ("c", 30), ("e", 0)];
            sizes.map(|(name, n)| piece(name, Dtype::U8, n)).into_iter().collect()
        };
        assert_eq!(names(&split(pieces(), 10).unwrap()), [vec!["a", "b"], vec!["c"], vec!["d", "e"]]);
        assert_eq!(names(&split(pieces(), 9).unwrap()), [vec!["a"], vec!["b"], vec!["c"], vec!["d", "e"]]);
        assert_eq!(split(pieces(), 1000).unwrap().len(), 1);
        assert_eq!(split(Vec::new(), 10).unwrap().len(), 1, "a model without tensors is one empty file");
        assert!(split(vec![piece("a", Dtype::U8, 1), piece("a", Dtype::U8, 1)], 10).is_err());
    }

    #[test]
    fn headers_are_sound_and_aligned() {
        let mut shard =
            vec![piece("q\"uote", Dtype::U8, 3), piece("w", Dtype::F64, 2), piece("h", Dtype::F16, 1)];
        arrange(&mut shard);
        let mut file = header(&shard, &BTreeMap::from([("a".into(), "ü".into())]));
        assert_eq!(file.len() % 8, 0);
        file.resize(file.len() + 21, 0);
        let read = read_header("m", &file).unwrap();
        assert_eq!(read.metadata, BTreeMap::from([("a".into(), "ü".into()), ("format".into(), "pt".into())]));
        for entry in &read.tensors {
            assert_eq!(entry.range.start % entry.dtype.size(), 0, "{}", entry.name);
        }
    }
}
