//! Integration tests: whole files and directories, hostile input, interrupted runs.

mod adapter;
mod affine;
mod augment;
mod awq;
mod checkpoint;
mod compressed;
mod convert;
mod fixture;
mod floats;
mod floats_compressed;
mod gguf;
mod gptq;
mod hostile;
mod hostile_codes;
mod hostile_data;
mod hostile_files;
mod images;
mod int_formats;
mod out_dir;
mod pickle;
mod real;
mod shards;
mod torch;

use std::collections::BTreeMap;
use std::path::Path;

use trimtab_hostile::Draws;
use trimtab_io::{Bytes, Checkpoint, Dtype, RawTensor, to_safetensors};

/// A float tensor with numbers that tell where they are.
fn tensor(shape: &[usize], first: f32, dtype: Dtype) -> RawTensor {
    let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| first + i as f32).collect();
    RawTensor::from_f32(shape.to_vec(), &values, dtype).unwrap()
}

/// A safetensors file of named tensors.
fn file(tensors: &[(&str, RawTensor)]) -> Vec<u8> {
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.to_string(), tensor.clone())).collect();
    to_safetensors(&tensors, &BTreeMap::new()).unwrap()
}

/// A checkpoint in memory.
fn memory(files: &[(&str, Vec<u8>)]) -> trimtab_io::Result<Checkpoint> {
    Checkpoint::from_bytes(
        files.iter().map(|(name, bytes)| (name.to_string(), Bytes::from(bytes.clone()))).collect(),
    )
}

/// Every file under `dir` by its relative path.
fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
                files.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    files
}
