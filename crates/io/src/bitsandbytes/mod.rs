//! Checkpoints of bitsandbytes, which are read and not written: 4-bit codebooks (NF4, FP4) and LLM.int8.
//!
//! Source: bitsandbytes-foundation/bitsandbytes, `functional.py` (`QuantState`, `dequantize_4bit`), `utils.py`
//! (`pack_dict_to_tensor`), `_ops.py` (`int8_vectorwise_dequant`), `nn/modules.py` (what is saved).
//!
//! | tensor | type and shape | content |
//! |---|---|---|
//! | `.weight` | U8 `[n/2, 1]`, or the same bytes as another type | the codes of the whole matrix, row-major, first of a byte in its high nibble |
//! | `.weight.absmax` | F32 `[ceil(n/B)]`, or U8 where nested | largest magnitude of each block of `B` |
//! | `.weight.quant_map` | F32 `[16]` | the codebook |
//! | `.weight.quant_state.bitsandbytes__nf4` (or `__fp4`) | U8 | JSON: `blocksize`, `shape`, `nested_blocksize`, `nested_offset`, ... |
//! | `.weight.nested_absmax`, `.weight.nested_quant_map` | F32 `[ceil(n/B/256)]`, F32 `[256]` | the same once more, for the magnitudes less `nested_offset` |
//! | `.weight`, `.SCB` | I8 `[out, in]`, F32 `[out]` | LLM.int8: `code * SCB / 127` |

mod codebook;
mod config;
mod state;
mod tensors;

pub use codebook::CodebookTensor;
pub use config::BnbConfig;
pub use tensors::read_bitsandbytes;
