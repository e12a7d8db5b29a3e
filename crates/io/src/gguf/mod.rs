//! GGUF, version 3: the container, its block types, and the models in it.
//!
//! | item | what it is |
//! |---|---|
//! | [`parse`], [`open`], [`Gguf`] | a file as it lies: keys, tensors under their own names |
//! | [`GgufType`], [`GgufTensor`] | numbers in blocks: sizes, decoding, encoding with or without importance |
//! | [`GgufWriter`] | a file from keys and tensors that come one at a time |
//! | [`GgufModelWriter`], [`TokenizerFiles`] | a file that engines load, from Hugging Face names, `config.json` and tokenizer |
//!
//! [`Checkpoint::open`](crate::Checkpoint::open) reads models under Hugging Face names.
//!
//! Source: ggml-org/ggml, `docs/gguf.md`; ggml-org/llama.cpp, `gguf-py` and `conversion`.

mod blocks;
mod container;
mod model;

pub use blocks::tensor::GgufTensor;
pub use blocks::types::GgufType;
pub use container::parse::{open, parse};
pub use container::value::{GgufArray, GgufValue};
pub use container::writer::GgufWriter;
pub use container::{Gguf, GgufInfo};
pub(crate) use model::read::{GgufModel, Stored};
pub use model::vocab_write::TokenizerFiles;
pub use model::write::GgufModelWriter;
