//! Sharded output.

use std::collections::BTreeMap;
use std::fs;

use trimtab_io::{Checkpoint, Dtype, Error, RawTensor, ShardWriter};

use super::{tensor, tree};

fn tensors() -> Vec<(String, RawTensor)> {
    let shapes: [&[usize]; 5] = [&[4, 4], &[3], &[0, 2], &[7], &[2, 2]];
    let dtypes = [Dtype::F32, Dtype::BF16, Dtype::F16, Dtype::F32, Dtype::F64];
    let named = shapes.iter().zip(dtypes).enumerate();
    named.map(|(i, (shape, dtype))| (format!("layer.{i}"), tensor(shape, 10.0 * i as f32, dtype))).collect()
}

fn write(limit: u64, order: &[usize]) -> BTreeMap<String, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let metadata = BTreeMap::from([("by".into(), "test".into())]);
    let mut writer = ShardWriter::create(dir.path(), limit, metadata).unwrap();
    let all = tensors();
    for &i in order {
        writer.append(&all[i].0, &all[i].1).unwrap();
    }
    let files = writer.finish().unwrap();
    let found = tree(dir.path());
    assert_eq!(
        files.iter().map(|f| f.name.clone()).collect::<Vec<_>>().len(),
        found.len(),
        "no file is left over"
    );
    for file in &files {
        assert_eq!(file.bytes, found[&file.name].len() as u64);
    }
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.metadata()["by"], "test");
    assert_eq!(checkpoint.len(), all.len());
    for (name, tensor) in &all {
        let read = checkpoint.tensor(name).unwrap();
        assert_eq!(
            (read.dtype, &read.shape, &read.bytes[..]),
            (tensor.dtype, &tensor.shape, &tensor.bytes[..])
        );
    }
    for file in checkpoint.files() {
        let written = files.iter().find(|f| f.name == file.name).unwrap();
        assert_eq!(checkpoint.content_sha256(&file.name).unwrap(), written.sha256);
    }
    found
}

#[test]
fn one_file_or_several_with_the_same_tensors() {
    let one = write(1 << 20, &[0, 1, 2, 3, 4]);
    assert_eq!(one.keys().collect::<Vec<_>>(), ["model.safetensors"]);
    let several = write(70, &[0, 1, 2, 3, 4]);
    let names: Vec<&String> = several.keys().collect();
    assert_eq!(
        names,
        [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json"
        ]
    );
    let index: serde_json::Value = serde_json::from_slice(&several["model.safetensors.index.json"]).unwrap();
    assert_eq!(index["metadata"]["total_size"], 64 + 6 + 28 + 32);
    assert_eq!(index["weight_map"]["layer.4"], "model-00002-of-00002.safetensors");
}

#[test]
fn the_order_of_appending_changes_no_byte() {
    assert_eq!(write(70, &[4, 2, 0, 3, 1]), write(70, &[0, 1, 2, 3, 4]));
}

#[test]
fn the_reference_implementation_reads_what_is_written() {
    let files = write(1 << 20, &[0, 1, 2, 3, 4]);
    let read = safetensors::SafeTensors::deserialize(&files["model.safetensors"]).unwrap();
    assert_eq!(read.len(), 5);
    assert_eq!(read.tensor("layer.3").unwrap().data(), &tensors()[3].1.bytes[..]);
}

#[test]
fn a_name_given_twice_and_an_abandoned_writer() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(dir.path(), 100, BTreeMap::new()).unwrap();
    let a = tensor(&[2], 0.0, Dtype::F32);
    writer.append("a", &a).unwrap();
    writer.append("a", &a).unwrap();
    assert!(matches!(writer.finish(), Err(Error::Invalid { .. })));
    let mut writer = ShardWriter::create(dir.path(), 100, BTreeMap::new()).unwrap();
    writer.append("a", &a).unwrap();
    drop(writer);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
