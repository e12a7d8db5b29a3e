//! The GPTQ format: integer codes packed along the inputs, in its first, second and planar version.
//!
//! Source: ModelCloud/GPTQModel, `nn_modules/qlinear/__init__.py` (buffers, `pack_block`, `dequantize_weight`),
//! `utils/planar_packing.py`, `utils/model_dequant.py` (zero points), `quantization/config.py`.
//!
//! Of a matrix `[out, in]` with `b` bits and groups of `G` columns a file holds
//!
//! | tensor | type and shape | content |
//! |---|---|---|
//! | `.qweight` | I32 `[in*b/32, out]` | the codes of an output, one bit stream down its column |
//! | `.qzeros` | I32 `[ceil(in/G), out*b/32]` | the zero points of a group, one bit stream along its row |
//! | `.scales` | F16 `[ceil(in/G), out]` | |
//! | `.g_idx` | I32 `[in]` | the group of each input |
//!
//! The stream of an output is the row of [`crate::AffineTensor`], so that reading is a transposition of words.

mod config;
mod dynamic;
mod planes;
mod tensors;

pub use config::{GptqConfig, GptqFormat, GptqScheme};
pub(crate) use tensors::check_codes;
pub use tensors::{gptq_tensors, read_gptq};
