//! Files: checkpoints by name, packed integers, resumable output, data sets, tokenizers.
//!
//! This crate knows no tensor framework. Bytes, shapes and names go in; the same come out.
//!
//! | module | what it holds |
//! |---|---|
//! | [`Checkpoint`] | a Hugging Face directory, a safetensors or PyTorch file, or named files in memory: validated, mapped, never copied before use |
//! | [`Adapter`] | PEFT adapters, merged into a checkpoint when it is read |
//! | [`RawTensor`], [`Bytes`], [`Dtype`] | one tensor as it lies in its file |
//! | [`AffineTensor`], [`bits`] | integer codes with scales and zero points, packed as compressed-tensors packs them |
//! | [`QuantizationConfig`], [`read_compressed`], [`to_tensors`] | the compressed-tensors format |
//! | [`OutDir`], [`ShardWriter`] | output that survives a kill, and sharded safetensors |
//! | [`read_text`], [`read_pairs`], [`ImageSet`], [`Tokenizer`] | data |

#[cfg(target_endian = "big")]
compile_error!("trimtab maps little-endian files; big-endian machines are not supported");

mod adapter;
mod affine;
pub mod bits;
mod bytes;
mod checkpoint;
mod compressed;
mod data;
mod digest;
mod dtype;
mod error;
mod header;
mod nearest;
mod tensor;
mod tokenizer;
mod torch;
mod write;

pub use adapter::{Adapter, LowRank};
pub use affine::{AffineScheme, AffineTensor};
pub use bytes::Bytes;
pub use checkpoint::{Checkpoint, CheckpointFile, TensorInfo};
pub use compressed::{ConfigGroup, QuantizationConfig, read_compressed, to_tensors};
pub use data::{ImageSet, Pair, read_latin1, read_pairs, read_text};
pub use digest::sha256;
pub use dtype::Dtype;
pub use error::{Error, Result};
pub use tensor::{RawTensor, round_floats};
pub use tokenizer::Tokenizer;
pub use write::{
    OutDir, ShardWriter, WrittenFile, ensure_space, ensure_writable, free_space, to_safetensors, write_atomic,
};
