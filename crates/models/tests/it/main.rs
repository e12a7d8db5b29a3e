//! Models against the numbers of the reference implementation.

mod conv_parity;
mod conv_specs;
mod experts;
mod families;
mod fixture;
mod hostile;
mod multimodal;
mod packed;
mod parity;
mod quantized;
mod specs;
