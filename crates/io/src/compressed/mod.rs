//! The compressed-tensors formats, which vLLM, transformers and others run.
//!
//! Source: vllm-project/compressed-tensors, `quantization/quant_config.py`, `quant_scheme.py`, `quant_args.py` for the
//! object in `config.json`, `compressors/*` for the tensors.

mod columns;
mod config;
mod emit;
mod float;
mod float_scheme;
mod format;
mod group;
mod scheme;
mod target;
mod tensors;
mod write;

pub use config::QuantizationConfig;
pub use float::float_tensors;
pub use format::CompressedFormat;
pub use group::{AffineGroup, ConfigGroup, GroupScheme};
pub use tensors::{CompressedWeight, read_compressed, read_compressed_weight};
pub use write::{int_tensors, to_tensors};
