//! GGUF: the public implementations' blocks and files, models there and back, damaged files.

mod blocks;
mod file;
mod hostile;
mod models;
pub mod tokenizers;

use std::path::PathBuf;

use trimtab_io::{Bytes, Checkpoint};

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf")
}

/// A GGUF file as the only one of a checkpoint in memory.
fn open(bytes: Vec<u8>) -> trimtab_io::Result<Checkpoint> {
    Checkpoint::from_bytes(vec![("model.gguf".into(), Bytes::from(bytes))])
}
