//! What the fuzz targets share: inputs of several parts, folders to open, checkpoints to read to the end.
//!
//! A user gives paths, so the targets do too: files are written to memory (`/dev/shm` where there is one) and opened by
//! the public API. Where a format has a length or a hash that random changes hardly ever hit, the input says what is
//! meant and the target fills it in ([`headed`], [`described`]), so that the fuzzer gets behind that door.

use std::collections::BTreeMap;
use std::path::Path;

use tempfile::TempDir;
use trimtab_io::{Checkpoint, Dtype, RawTensor, to_safetensors};

/// Stands between the parts of an input. Unlike lengths it survives what a fuzzer inserts and removes.
pub const SEPARATOR: &[u8] = b"\n----\n";

/// Most bytes of the tensors that one input may describe.
const MAX_DESCRIBED: usize = 1 << 20;
/// Tensors that are read of one checkpoint: views of one storage may be many and long.
const MAX_READ: usize = 64;

/// The first `N` parts of an input; the last takes the rest, missing ones are empty.
pub fn parts<const N: usize>(input: &[u8]) -> [&[u8]; N] {
    let mut rest = input;
    let mut found = [&input[..0]; N];
    for (i, part) in found.iter_mut().enumerate() {
        let end = if i + 1 == N { None } else { position(rest, SEPARATOR) };
        *part = &rest[..end.unwrap_or(rest.len())];
        rest = end.map_or(&[], |end| &rest[end + SEPARATOR.len()..]);
    }
    found
}

fn position(text: &[u8], pattern: &[u8]) -> Option<usize> {
    text.windows(pattern.len()).position(|part| part == pattern)
}

/// A new folder in memory with these files; empty ones are left out.
pub fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    let dir = dir.expect("a folder can be made");
    for (name, bytes) in files.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        std::fs::write(dir.path().join(name), bytes).expect("a file can be written");
    }
    dir
}

/// A safetensors file. A header that begins with a brace gets its length; anything else is the file as it is.
pub fn headed(header: &[u8], data: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    if header.first() == Some(&b'{') {
        file.extend((header.len() as u64).to_le_bytes());
    }
    file.extend(header);
    file.extend(data);
    file
}

/// A sound safetensors file of the tensors that lines `name type length length ...` describe, with numbers from `data`,
/// again and again. Lines that describe nothing, or too much, are left out.
pub fn described(lines: &[u8], data: &[u8]) -> Vec<u8> {
    let mut tensors = BTreeMap::new();
    let mut total = 0;
    let mut source = data.iter().copied().cycle();
    for line in String::from_utf8_lossy(lines).lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(dtype)) = (words.next(), words.next().and_then(Dtype::from_name)) else {
            continue;
        };
        let Some(shape) = words.map(|word| word.parse().ok()).collect::<Option<Vec<usize>>>() else {
            continue;
        };
        // Empty tensors may have any length in their other dimensions.
        let size = match shape.contains(&0) {
            true => Some(0),
            false => shape.iter().try_fold(dtype.size(), |size, &len| size.checked_mul(len)),
        };
        let Some(size) = size.filter(|size| total + size <= MAX_DESCRIBED) else { continue };
        total += size;
        let mut bytes: Vec<u8> = source.by_ref().take(size).collect();
        bytes.resize(size, 0);
        let Ok(tensor) = RawTensor::new(dtype, shape, bytes.into()) else { continue };
        tensors.insert(name.to_owned(), tensor);
    }
    let tensors: Vec<_> = tensors.into_iter().collect();
    to_safetensors(&tensors, &BTreeMap::new()).expect("names are told apart")
}

/// Lets panics unwind. libFuzzer's own hook ends the process at each of them, also at those of the `tokenizers` library,
/// which trimtab catches and turns into errors; one that nobody catches still ends it, at the end of the target.
pub fn quiet_about_caught_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let foreign = panic.location().is_some_and(|place| place.file().contains("/registry/"));
        if !foreign {
            eprintln!("{panic}");
        }
    }));
}

/// Reads what a checkpoint offers, in every way in which it is used.
pub fn exhaust(checkpoint: &Checkpoint) {
    let names: Vec<&str> = checkpoint.names().take(MAX_READ).collect();
    for name in names {
        let info = checkpoint.info(name).expect("its name is listed");
        let Ok(tensor) = checkpoint.tensor(name) else { continue };
        assert_eq!((&tensor.shape, tensor.dtype), (&info.shape, info.dtype), "{name}");
        assert_eq!(tensor.bytes.len(), tensor.numel() * tensor.dtype.size(), "{name}");
        let _ = tensor.to_f32();
        let _ = tensor.to_i64();
        let _ = tensor.first_non_finite();
    }
    for file in checkpoint.files() {
        checkpoint.content_sha256(&file.name).expect("the file is there");
    }
    let _ = checkpoint.side_files();
    let _ = checkpoint.require("no.such.tensor");
}
