//! Models: GGUF names, keys and tokenizers against those of Hugging Face.

mod config;
mod family;
mod layout;
pub(super) mod read;
mod rope;
mod splitters;
mod table;
mod vocab_read;
pub(super) mod vocab_write;
pub(super) mod write;
