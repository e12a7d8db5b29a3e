//! Writing: whole files or none, shards, and output directories that survive a kill.

mod atomic;
mod journal;
mod lines;
mod lock;
mod out_dir;
mod plan;
mod shards;
mod space;
mod unit;

pub(crate) use atomic::{HashedFile, TEMPORARY, write_file};
pub use atomic::{remove, write_atomic};
pub use lines::LineFile;
pub(crate) use lock::create as create_locked;
pub use out_dir::OutDir;
pub(crate) use shards::copy;
pub use shards::{ShardWriter, to_safetensors};
pub use space::{ensure_space, ensure_writable, free_space};

/// A file that is complete on disk.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct WrittenFile {
    /// Name inside its directory.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// SHA-256 of the content, in hexadecimal.
    pub sha256: String,
}
