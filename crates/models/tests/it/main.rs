//! Models against the numbers of the reference implementation.

mod experts;
mod families;
mod fixture;
mod packed;
mod parity;
mod quantized;
mod specs;
