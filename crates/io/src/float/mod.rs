//! Weights in 8 and 4 bit floats: FP8, NVFP4, MXFP4 and what lies between.
//!
//! | file | holds |
//! |---|---|
//! | `element` | the numbers themselves: E4M3, E5M2, E2M1, and the power-of-two scale E8M0 |
//! | `scheme` | which element, who shares a scale, how scales are stored; exact sizes and names |
//! | `tensor` | a matrix of codes with its scales |
//! | `fine_grained` | the `quant_method: "fp8"` of transformers, read |
//! | `gpt_oss` | the `quant_method: "mxfp4"` of transformers, read |
//!
//! Sources: OCP Microscaling Formats (MX) 1.0; Micikevicius et al., "FP8 formats for deep learning", arXiv:2209.05433.

mod element;
mod fine_grained;
mod gpt_oss;
mod scheme;
mod tensor;

pub use element::{FloatElement, decode_e8m0, encode_e8m0};
pub use fine_grained::{FineGrainedConfig, read_fine_grained};
pub use gpt_oss::{GptOssConfig, GptOssExperts, read_gpt_oss};
pub use scheme::{FloatScheme, ScaleFormat, ScaleGrid};
pub use tensor::FloatTensor;
