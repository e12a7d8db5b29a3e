//! Files: checkpoints by name, packed integers, resumable output, data sets, tokenizers.
//!
//! This crate knows no tensor framework. Bytes, shapes and names go in; the same come out.
//!
//! | module | what it holds |
//! |---|---|
//! | [`Checkpoint`] | a Hugging Face directory, a safetensors, GGUF or PyTorch file, or named files in memory: validated, mapped, never copied before use |
//! | [`Adapter`], [`adapter_files`] | PEFT adapters, merged into a checkpoint when it is read; branches written as one |
//! | [`BranchFactors`] | a low-rank branch beside a weight, in the house's own form |
//! | [`RawTensor`], [`Bytes`], [`Dtype`] | one tensor as it lies in its file |
//! | [`AffineTensor`], [`bits`] | integer codes with scales and zero points, packed as compressed-tensors packs them |
//! | [`RealTensor`], [`RealScheme`], [`PackedConfig`] | the same codes with real zero points, in files of our own method |
//! | [`NormalFloatTensor`], [`NormalFloatScheme`] | indices into quantiles of the normal distribution with coded scales, in the same files |
//! | [`FloatTensor`], [`FloatScheme`] | FP8, NVFP4, MXFP4: codes of 8 and 4 bit floats with scales |
//! | [`Quantization`], [`Coded`] | a quantized weight by the method that its checkpoint names |
//! | [`QuantizationConfig`], [`read_compressed`], [`to_tensors`], [`int_tensors`], [`float_tensors`] | the compressed-tensors format |
//! | [`GptqConfig`], [`read_gptq`], [`gptq_tensors`]; [`AwqConfig`], [`read_awq`], [`awq_tensors`] | the GPTQ and AWQ formats |
//! | [`BnbConfig`], [`read_bitsandbytes`], [`CodebookTensor`] | checkpoints of bitsandbytes, read only |
//! | [`read_fine_grained`], [`read_gpt_oss`] | the `fp8` and `mxfp4` methods of transformers, read only |
//! | [`convert()`], [`fidelity`] | the same codes in another format, and what that loses |
//! | [`gguf`] | GGUF files: reading, block types, writing |
//! | [`OutDir`], [`ShardWriter`], [`LineFile`] | output that survives a kill, sharded safetensors, lines that are added while a program runs |
//! | [`fs`] | the calls by which everything is written, and where tests let them fail |
//! | [`read_text`], [`read_pairs`], [`ImageSet`], [`ImageFolder`], [`Series`], [`Tokenizer`] | data |
//! | [`augment`], [`Prefetch`], [`pack`] | data on its way to training |

#[cfg(target_endian = "big")]
compile_error!("trimtab maps little-endian files; big-endian machines are not supported");

mod activation;
mod adapter;
mod affine;
mod awq;
pub mod bits;
mod bitsandbytes;
mod branch;
#[allow(unsafe_code)] // Maps files.
mod bytes;
mod checkpoint;
mod coded;
mod compressed;
mod convert;
mod data;
mod digest;
mod dtype;
mod error;
mod fields;
mod float;
pub mod fs;
pub mod gguf;
mod gptq;
mod header;
mod input_code;
#[allow(unsafe_code)] // A signal handler, and the system calls in it.
mod lost_pages;
mod module;
mod nearest;
mod normal_float;
mod packed_config;
mod quantization;
mod real;
mod tensor;
mod tokenizer;
mod torch;
mod transpose;
mod write;

pub use activation::{
    ActivationGranularity, ActivationScheme, ActivationStep, SoftmaxCode, SoftmaxScheme, input_tensors,
    read_input_steps,
};
pub use adapter::{Adapter, AdapterModule, LowRank, adapter_files};
pub use affine::{AffineScheme, AffineTensor};
pub use awq::{AwqConfig, awq_tensors, read_awq};
pub use bitsandbytes::{BnbConfig, CodebookTensor, read_bitsandbytes};
pub use branch::BranchFactors;
pub use bytes::Bytes;
pub use checkpoint::{Checkpoint, CheckpointFile, SIDE_FILES, TensorInfo};
pub use coded::Coded;
pub use compressed::{
    AffineGroup, CompressedFormat, CompressedWeight, ConfigGroup, GroupScheme, QuantizationConfig,
    float_tensors, int_tensors, read_compressed, read_compressed_weight, to_tensors,
};
pub use convert::{AffineFormat, Fidelity, convert, fidelity};
pub use data::augment;
pub use data::{
    ImageFolder, ImageSet, Packed, PackingOrder, Pair, Prefetch, Series, SeriesWindows, Wav, concatenate,
    decode_image, pack, read_latin1, read_pairs, read_text, split_by_share,
};
pub use digest::{file_sha256, sha256};
pub use dtype::Dtype;
pub use error::{Error, Result};
pub use float::{
    FineGrainedConfig, FloatElement, FloatScheme, FloatTensor, GptOssConfig, GptOssExperts, ScaleFormat,
    ScaleGrid, decode_e8m0, encode_e8m0, read_fine_grained, read_gpt_oss,
};
pub use gptq::{GptqConfig, GptqFormat, GptqScheme, gptq_tensors, read_gptq};
pub use input_code::InputCode;
pub use lost_pages::report_lost_pages;
pub use normal_float::{NormalFloatScheme, NormalFloatTensor};
pub use packed_config::{AttentionConfig, PackedConfig};
pub use quantization::Quantization;
pub use real::{RealScheme, RealTensor};
pub use tensor::{RawTensor, round_floats};
pub use tokenizer::{Tokenizer, panic_becomes_error};
pub use transpose::transpose;
pub use write::{
    LineFile, OutDir, ShardWriter, WrittenFile, ensure_space, ensure_writable, free_space, remove,
    to_safetensors, write_atomic,
};
