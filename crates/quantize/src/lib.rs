//! Post-training weight quantization on plain slices: affine grids, range search, round-to-nearest and GPTQ.
//!
//! A weight is `[d_output, d_input]`, row-major `f32`; its input statistics are the second moment `H = Σ w x xᵀ / Σ w`
//! (`trimtab_math::gram`). A method knows no model, opens no file and, but for those that learn by gradients ([`adaquant`]), uses no tensor framework.
//!
//! | module | holds |
//! |---|---|
//! | [`affine`] | the grid of codes, and one slice's step and zero |
//! | [`granularity`] | which elements share a step: tensor, row, column, group, block, token, head |
//! | [`range`] | how step and zero are found |
//! | [`scheme`] | the storage scheme of a weight: bits, group size, symmetry |
//! | [`layer`] | the problem every solver gets, and what it returns |
//! | [`rtn`] | round-to-nearest |
//! | [`float`] | scales of FP8, NVFP4 and MXFP4, and round-to-nearest into them |
//! | [`gptq`] | error-compensating quantization column by column |
//! | [`decoupleq`] | integers, steps and real zeros by turns |
//! | [`qvlm`] | factors that shrink ranges of activations, searched together over blocks of layers |
//! | [`repq`] | from a step a channel of activations to one step for all |
//! | [`adaquant`] | weights, ranges, the input's range and the bias of a layer, learned together |
//! | [`repquant`] | learned ends of the ranges of activations, and weights that absorb their rounding |
//! | [`damage`] | `tr((W−Q) H (W−Q)ᵀ)` |
//! | [`solver`] | the solvers by name, with their settings |
//! | [`treatment`] | the solvers as something that can be planned and applied to any site |

pub mod adaquant;
pub mod affine;
pub mod damage;
pub mod decoupleq;
mod element;
pub mod error;
pub mod float;
pub mod gptq;
pub mod granularity;
pub mod layer;
pub mod qvlm;
pub mod range;
pub mod repq;
pub mod repquant;
pub mod rtn;
pub mod scheme;
pub mod solver;
pub mod treatment;

pub use error::{Error, Result};
