//! The compressed-tensors formats with integer weights, which vLLM, transformers and others run.
//!
//! Source: vllm-project/compressed-tensors, `quantization/quant_config.py`, `quant_scheme.py`, `quant_args.py` for the
//! object in `config.json`, `compressors/pack_quantized` and `compressors/naive_quantized` for the tensors.

mod columns;
mod config;
mod emit;
mod format;
mod scheme;
mod target;
mod tensors;
mod write;

pub use config::{ConfigGroup, QuantizationConfig};
pub use format::CompressedFormat;
pub use tensors::{CompressedWeight, read_compressed, read_compressed_weight};
pub use write::{int_tensors, to_tensors};
