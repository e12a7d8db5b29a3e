//! The small files beside the weights.

use super::Checkpoint;
use crate::bytes::Bytes;
use crate::error::Result;

pub(super) const CONFIG: &str = "config.json";
/// Where AutoGPTQ said how a model is quantized, before `config.json` had a place for it.
pub(super) const QUANTIZE_CONFIG: &str = "quantize_config.json";

/// What belongs to every version of a model, beside `config.json` and the weights: tokenizer, processor, pooling. A treated
/// model takes it over unchanged, a download fetches it.
pub const SIDE_FILES: [&str; 21] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
];

/// Taken over as well.
const LICENCES: [&str; 3] = ["LICENSE", "LICENSE.txt", "NOTICE"];

impl Checkpoint {
    /// A file beside the weights by its name (`tokenizer.json`, `1_Pooling/config.json`); `None` if there is none.
    ///
    /// Of a GGUF model, `config.json`, `tokenizer.json` and `tokenizer_config.json` are made of its keys; a file beside it
    /// is taken where a tokenizer cannot be expressed.
    ///
    /// # Errors
    /// [`Error::Malformed`](crate::Error::Malformed) for such a tokenizer without a file beside it.
    /// [`Error::Io`](crate::Error::Io) if it exists and cannot be read; [`Error::Malformed`](crate::Error::Malformed) if
    /// the name leads out of the directory.
    pub fn side_file(&self, name: &str) -> Result<Option<Bytes>> {
        let Some(model) = &self.inner.gguf else { return self.inner.store.read(name) };
        match model.side_file(name) {
            Ok(Some(made)) => Ok(Some(made)),
            Ok(None) => self.inner.store.read(name),
            // What cannot be made of the keys may lie beside the file.
            Err(error) => self.inner.store.read(name)?.map(Some).ok_or(error),
        }
    }

    /// The files that belong to every version of this model, such as tokenizer and processor files, that are there.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if one cannot be read.
    pub fn side_files(&self) -> Result<Vec<(String, Bytes)>> {
        let mut found = Vec::new();
        for name in SIDE_FILES.into_iter().chain(LICENCES) {
            if let Some(bytes) = self.side_file(name)? {
                found.push((name.to_owned(), bytes));
            }
        }
        Ok(found)
    }
}
