//! Models against the numbers of the reference implementation.

mod packed;
mod parity;
mod quantized;
