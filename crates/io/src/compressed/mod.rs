//! The compressed-tensors format, `pack-quantized`: integer weights that vLLM, transformers and others run.
//!
//! Source: vllm-project/compressed-tensors, `quantization/quant_config.py`, `quant_scheme.py`, `quant_args.py` for the
//! object in `config.json`, `compressors/pack_quantized` for the tensors.

mod config;
mod emit;
mod scheme;
mod target;
mod tensors;

pub use config::{ConfigGroup, QuantizationConfig};
pub use tensors::{read_compressed, to_tensors};
