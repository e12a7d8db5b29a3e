//! Numbers in blocks: types, decoding, encoding.

mod decode;
mod encode;
mod k_encode;
mod k_layout;
mod search;
pub(super) mod tensor;
pub(super) mod types;
