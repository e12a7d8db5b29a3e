//! Text to token ids and back.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use tokenizers::{PostProcessor, TruncationDirection};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};

/// A tokenizer in the format of the `tokenizers` library (`tokenizer.json`).
///
/// Truncation and padding that the file asks for are switched off: a text is encoded whole unless a call says otherwise.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Parses the content of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if it is no tokenizer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let action = "read tokenizer.json";
        // The library panics where the JSON of a decoder ends early, so that the text is looked through first.
        let Outline { .. } = serde_json::from_slice(bytes).map_err(|e| failed(action)(e.into()))?;
        guarded(action, || {
            let mut inner = tokenizers::Tokenizer::from_bytes(bytes)?;
            inner.with_padding(None);
            inner.with_truncation(None)?;
            Ok(Self { inner })
        })
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// As [`Self::from_bytes`], and [`Error::Io`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_bytes(&crate::fs::read(path).map_err(|e| Error::io("read", path, e))?)
    }

    /// The tokenizer beside the weights of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Malformed`] if there is none, and those of [`Self::from_bytes`].
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        match checkpoint.side_file("tokenizer.json")? {
            Some(bytes) => Self::from_bytes(&bytes),
            None => Err(Error::malformed(
                &checkpoint.path().display().to_string(),
                "no tokenizer.json beside the weights\nhint: copy the one of the original model there",
            )),
        }
    }

    /// Token ids of a text; with or without the special tokens that the model expects around it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the model of the tokenizer cannot express the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = guarded("encode", || self.inner.encode_fast(text, add_special_tokens))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids of several texts, each cut to `max_len` ids. Where special tokens are added they are kept, and the text
    /// between them is cut.
    ///
    /// # Errors
    /// As [`Self::encode`], and [`Error::Tokenizer`] if `max_len` has no room for the special tokens.
    pub fn encode_batch(
        &self,
        texts: &[&str],
        add_special_tokens: bool,
        max_len: usize,
    ) -> Result<Vec<Vec<u32>>> {
        let special = match self.inner.get_post_processor() {
            Some(processor) if add_special_tokens => processor.added_tokens(false),
            _ => 0,
        };
        let Some(room) = max_len.checked_sub(special) else {
            let message = format!("{max_len} ids have no room for {special} special tokens");
            return Err(Error::Tokenizer { action: "cut", message });
        };
        guarded("encode", || {
            let bare = self.inner.encode_batch_fast(texts.to_vec(), false)?;
            let cut = |mut encoding: tokenizers::Encoding| {
                encoding.truncate(room, 0, TruncationDirection::Right);
                Ok(self.inner.post_process(encoding, None, add_special_tokens)?.get_ids().to_vec())
            };
            bare.into_iter().map(cut).collect()
        })
    }

    /// The text of token ids.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        guarded("decode", || self.inner.decode(ids, skip_special_tokens))
    }

    /// Number of tokens, special ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Id of a token by its text (`</s>`); `None` if there is no such token.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
}

/// A `tokenizer.json` as far as it is looked through before the library reads it: what the library reads through a
/// `Value` is one here, too, because such a value has more rules than JSON that is skipped.
#[derive(Deserialize)]
struct Outline {
    #[serde(default, rename = "decoder")]
    _decoder: Option<Value>,
    #[serde(default, rename = "model")]
    _model: IgnoredAny,
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread now is one that becomes an error: a program's panic hook need not tell of it.
pub fn panic_becomes_error() -> bool {
    GUARDED.get()
}

/// Runs the library. Of some files that no program writes, but a person or an accident may, it says so with a panic: a
/// template without its special token, a decoder that strips more than there is. To the caller that is an error like any
/// other. A caught panic leaves nothing half done: the library's tokenizer is not changed by its use.
fn guarded<T>(action: &'static str, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    GUARDED.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(false);
    match outcome {
        Ok(result) => result.map_err(failed(action)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            let message = format!(
                "the tokenizers library gave up: {text}\nhint: the file contradicts itself; compare it with that of the original model"
            );
            Err(Error::Tokenizer { action, message })
        }
    }
}

fn failed(action: &'static str) -> impl Fn(tokenizers::Error) -> Error {
    move |error| Error::Tokenizer { action, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words, with `[C] ... [S]` around a text, and truncation and padding that must not show.
    const WORDS: &str = r###"{
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[P]"},
        "added_tokens": [
            {"id": 1, "content": "[C]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 2, "content": "[S]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "BertProcessing", "sep": ["[S]", 2], "cls": ["[C]", 1]},
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"[P]": 0, "[C]": 1, "[S]": 2, "a": 3, "b": 4, "c": 5, "?": 6}, "unk_token": "?"}
    }"###;

    #[test]
    fn texts_are_whole_and_batches_are_cut_inside() {
        let tokenizer = Tokenizer::from_bytes(WORDS.as_bytes()).unwrap();
        assert_eq!(tokenizer.encode("a b c a b", false).unwrap(), [3, 4, 5, 3, 4]);
        assert_eq!(tokenizer.encode("a zebra", true).unwrap(), [1, 3, 6, 2]);
        let batch = tokenizer.encode_batch(&["a b c a b", "", "a b"], true, 4).unwrap();
        assert_eq!(batch, [vec![1, 3, 4, 2], vec![1, 2], vec![1, 3, 4, 2]]);
        assert_eq!(tokenizer.encode_batch(&["a b c"], false, 2).unwrap(), [[3, 4]]);
        assert_eq!(tokenizer.encode_batch(&["a b c"], true, 2).unwrap(), [[1, 2]]);
        assert!(tokenizer.encode_batch(&["a b c"], true, 1).is_err());
        assert_eq!(tokenizer.decode(&[1, 3, 4, 2], true).unwrap(), "a b");
        assert_eq!(
            (tokenizer.vocab_size(), tokenizer.token_id("[S]"), tokenizer.token_id("x")),
            (7, Some(2), None)
        );
    }

    #[test]
    fn where_the_library_panics_there_is_an_error() {
        let with = |from: &str, to: &str| {
            let text = WORDS.replace(from, to);
            assert_ne!(text, WORDS, "{from}");
            Tokenizer::from_bytes(text.as_bytes())
        };
        // JSON that ends inside a decoder.
        let cut = with("\"decoder\": null", "\"decoder\": {\"type\": \"Fuse\"").unwrap_err();
        assert!(matches!(cut, Error::Tokenizer { .. }), "{cut}");
        // More is stripped than there is.
        let strip = r#""decoder": {"type": "Strip", "content": "a", "start": 0, "stop": 9}"#;
        let error = with("\"decoder\": null", strip).unwrap().decode(&[3], false).unwrap_err().to_string();
        assert!(error.contains("decode") && error.contains("gave up") && error.contains("hint: "), "{error}");
        // A template that names a token which it does not describe, and one that wants a second text.
        for single in
            [r#"{"SpecialToken": {"id": "[X]", "type_id": 0}}"#, r#"{"Sequence": {"id": "B", "type_id": 0}}"#]
        {
            let template = format!(
                r#"{{"type": "TemplateProcessing", "single": [{single}], "pair": [{single}], "special_tokens": {{}}}}"#
            );
            let old = r#"{"type": "BertProcessing", "sep": ["[S]", 2], "cls": ["[C]", 1]}"#;
            if let Ok(tokenizer) = with(old, &template) {
                assert!(matches!(tokenizer.encode("a", true), Err(Error::Tokenizer { .. })), "{single}");
            }
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(matches!(Tokenizer::from_bytes(b"{}"), Err(Error::Tokenizer { .. })));
        assert!(matches!(Tokenizer::from_file("/nonexistent/tokenizer.json"), Err(Error::Io { .. })));
    }
}
