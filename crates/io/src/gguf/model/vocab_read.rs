//! The tokenizer of a GGUF file as a `tokenizer.json`.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::splitters;
use crate::error::{Error, Result};
use crate::gguf::container::Gguf;
use crate::gguf::container::value::GgufValue;

/// Stands for a space in SentencePiece vocabularies.
pub(super) const SPACE: char = '\u{2581}';
/// Longest piece of a SentencePiece vocabulary, in bytes.
const MAX_PIECE: usize = 512;

/// Kinds of tokens, as numbered in `tokenizer.ggml.token_type`.
pub(super) mod kind {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const USER: i32 = 4;
    pub const UNUSED: i32 = 5;
    pub const BYTE: i32 = 6;
}

struct Vocabulary<'a> {
    gguf: &'a Gguf,
    tokens: &'a [String],
    kinds: Vec<i32>,
    ids: HashMap<&'a str, usize>,
}

/// `tokenizer.json` and `tokenizer_config.json`; `None` if the file has no tokenizer.
///
/// Kinds `gpt2` (byte-level BPE), `llama` (SentencePiece BPE) and `bert` (WordPiece) can be expressed.
pub(super) fn tokenizer(gguf: &Gguf) -> Result<Option<(Value, Value)>> {
    let Some(model) = gguf.get("tokenizer.ggml.model") else { return Ok(None) };
    let vocabulary = Vocabulary::of(gguf)?;
    let json = match model.as_str() {
        Some("gpt2") => vocabulary.byte_level()?,
        Some("llama") => vocabulary.sentence_piece()?,
        Some("bert") => vocabulary.word_piece()?,
        Some("no_vocab" | "none") => return Ok(None),
        _ => {
            return Err(vocabulary.fail(format!(
                "a tokenizer of kind {model} cannot be expressed as tokenizer.json; gpt2, llama and bert can\n\
                 hint: put the tokenizer.json of the original model beside the file"
            )));
        }
    };
    Ok(Some((json, vocabulary.config())))
}

impl<'a> Vocabulary<'a> {
    fn of(gguf: &'a Gguf) -> Result<Self> {
        let fail = |message: String| Error::malformed(gguf.label(), message);
        let tokens = gguf.get("tokenizer.ggml.tokens").and_then(GgufValue::as_strings);
        let tokens = tokens.ok_or_else(|| fail("tokenizer.ggml.tokens is no array of strings".into()))?;
        let kinds = match gguf.get("tokenizer.ggml.token_type") {
            None => vec![kind::NORMAL; tokens.len()],
            Some(value) => {
                let kinds: Option<Vec<i32>> =
                    value.as_integers().map(|v| v.iter().map(|&k| k as i32).collect());
                let kinds = kinds.filter(|kinds| kinds.len() == tokens.len());
                kinds.ok_or_else(|| {
                    fail(format!("tokenizer.ggml.token_type does not fit {} tokens", tokens.len()))
                })?
            }
        };
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            if let Some(other) = ids.insert(token.as_str(), id) {
                return Err(fail(format!("tokens {other} and {id} are both {token:?}")));
            }
        }
        Ok(Self { gguf, tokens, kinds, ids })
    }

    fn fail(&self, message: String) -> Error {
        Error::malformed(self.gguf.label(), message)
    }

    /// A token named by a key (`bos`, `eos`, ...), if the file has it and it is there.
    fn special(&self, name: &str) -> Option<(usize, &'a str)> {
        let id = self.gguf.get(&format!("tokenizer.ggml.{name}_token_id"))?.as_u64()? as usize;
        self.tokens.get(id).map(|token| (id, token.as_str()))
    }

    fn flag(&self, name: &str, or: bool) -> bool {
        self.gguf.get(&format!("tokenizer.ggml.{name}")).and_then(GgufValue::as_bool).unwrap_or(or)
    }

    fn added_tokens(&self) -> Value {
        let tokens = self.tokens.iter().zip(&self.kinds).enumerate();
        let added =
            tokens.filter(|(_, (_, kind))| matches!(**kind, kind::CONTROL | kind::USER | kind::UNKNOWN));
        added
            .map(|(id, (token, kind))| {
                json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                       "normalized": false, "special": *kind != kind::USER})
            })
            .collect()
    }

    fn vocab(&self) -> Value {
        let pairs = self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id)));
        Value::Object(pairs.collect::<Map<String, Value>>())
    }

    /// A template with the tokens that are added before and after a text.
    fn template(&self, first: Option<(usize, &str)>, last: Option<(usize, &str)>) -> Value {
        let special =
            |(_, token): (usize, &str), part: u8| json!({"SpecialToken": {"id": token, "type_id": part}});
        let sequence = |name: &str, part: u8| json!({"Sequence": {"id": name, "type_id": part}});
        let mut single: Vec<Value> = Vec::new();
        single.extend(first.map(|token| special(token, 0)));
        single.push(sequence("A", 0));
        single.extend(last.map(|token| special(token, 0)));
        let mut pair = single.clone();
        // A second text is closed, and opened where nothing closes.
        if last.is_none() {
            pair.extend(first.map(|token| special(token, 1)));
        }
        pair.push(sequence("B", 1));
        pair.extend(last.map(|token| special(token, 1)));
        let tokens: Map<String, Value> = [first, last]
            .into_iter()
            .flatten()
            .map(|(id, token)| (token.into(), json!({"id": token, "ids": [id], "tokens": [token]})))
            .collect();
        json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
    }

    fn around(&self, bos_by_default: bool) -> Value {
        let first = self.special("bos").filter(|_| self.flag("add_bos_token", bos_by_default));
        let last = self.special("eos").filter(|_| self.flag("add_eos_token", false));
        self.template(first, last)
    }

    fn file(&self, parts: Value) -> Value {
        let mut file = json!({"version": "1.0", "truncation": null, "padding": null});
        file["added_tokens"] = self.added_tokens();
        if let (Value::Object(file), Value::Object(parts)) = (&mut file, parts) {
            file.extend(parts);
        }
        file
    }

    fn byte_level(&self) -> Result<Value> {
        let name = self.gguf.get("tokenizer.ggml.pre").and_then(GgufValue::as_str).unwrap_or("gpt-2");
        let Some((pre_tokenizer, whole)) = splitters::by_name(name) else {
            return Err(self.fail(format!(
                "tokenizer.ggml.pre \"{name}\" is not known; known are {}\n\
                 hint: put the tokenizer.json of the original model beside the file",
                splitters::names()
            )));
        };
        let merges = self.gguf.get("tokenizer.ggml.merges").and_then(GgufValue::as_strings);
        let merges =
            merges.ok_or_else(|| self.fail("tokenizer.ggml.merges is no array of strings".into()))?;
        let pair = |merge: &String| match merge.split_once(' ') {
            Some((left, right)) if self.ids.contains_key(left) && self.ids.contains_key(right) => {
                Ok(json!([left, right]))
            }
            _ => Err(self.fail(format!("the merge {merge:?} is not two tokens"))),
        };
        let merges: Vec<Value> = merges.iter().map(pair).collect::<Result<_>>()?;
        Ok(self.file(json!({
            "normalizer": null,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": self.around(whole),
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                      "ignore_merges": whole, "vocab": self.vocab(), "merges": merges},
        })))
    }

    fn sentence_piece(&self) -> Result<Value> {
        let scores = self.gguf.get("tokenizer.ggml.scores").and_then(GgufValue::as_floats);
        let scores = scores.filter(|scores| scores.len() == self.tokens.len());
        let scores = scores.ok_or_else(|| {
            self.fail(format!("tokenizer.ggml.scores does not fit {} tokens", self.tokens.len()))
        })?;
        let unknown = self.kinds.iter().position(|&k| k == kind::UNKNOWN).map(|id| self.tokens[id].as_str());
        let unknown = unknown.or(self.special("unknown").map(|(_, token)| token));
        let prefix = self.flag("add_space_prefix", true);
        let space = SPACE.to_string();
        let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": space})];
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": space}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": space}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        Ok(self.file(json!({
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null,
            "post_processor": self.around(true),
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": true,
                      "byte_fallback": self.kinds.contains(&kind::BYTE), "ignore_merges": false,
                      "vocab": self.vocab(), "merges": self.merges(scores)?},
        })))
    }

    /// Every way to put a piece together from two others, best score first; where pieces have one score, longer parts.
    ///
    /// Source: huggingface/transformers, `convert_slow_tokenizer.py`, `generate_merges`.
    fn merges(&self, scores: &[f32]) -> Result<Vec<(&'a str, &'a str)>> {
        let mut merges: Vec<(f32, &str, &str)> = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if self.kinds[id] != kind::NORMAL {
                continue;
            }
            if token.len() > MAX_PIECE {
                return Err(
                    self.fail(format!("token {id} has {} bytes, pieces have {MAX_PIECE}", token.len()))
                );
            }
            let from = merges.len();
            for (at, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(at);
                if self.ids.contains_key(left) && self.ids.contains_key(right) {
                    merges.push((scores[id], left, right));
                }
            }
            merges[from..].sort_by_key(|(_, left, right)| (self.ids[left], self.ids[right]));
        }
        merges.sort_by(|a, b| {
            let length = |merge: &(f32, &str, &str)| (merge.1.chars().count(), merge.2.chars().count());
            b.0.total_cmp(&a.0).then_with(|| length(b).cmp(&length(a)))
        });
        Ok(merges.into_iter().map(|(_, left, right)| (left, right)).collect())
    }

    fn word_piece(&self) -> Result<Value> {
        let mut vocab = Map::new();
        for (id, token) in self.tokens.iter().enumerate() {
            // Words begin with a mark in GGUF, what continues them begins with one in WordPiece.
            let piece = match token.strip_prefix(SPACE) {
                _ if self.kinds[id] == kind::CONTROL || self.kinds[id] == kind::UNUSED => token.clone(),
                Some(word) => word.into(),
                None => format!("##{token}"),
            };
            vocab.insert(piece, json!(id));
        }
        let unknown = self.special("unknown").map_or("[UNK]", |(_, token)| token);
        let normal = self.tokens.iter().zip(&self.kinds).filter(|(_, kind)| **kind == kind::NORMAL);
        let lowercase = !normal.into_iter().any(|(token, _)| token.chars().any(|c| c.is_ascii_uppercase()));
        let first = self.special("cls").or(self.special("bos"));
        let last = self.special("seperator").or(self.special("eos"));
        Ok(self.file(json!({
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                           "strip_accents": null, "lowercase": lowercase},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": self.template(first, last),
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {"type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": vocab},
        })))
    }

    fn config(&self) -> Value {
        let mut config = json!({"tokenizer_class": "PreTrainedTokenizerFast"});
        let names = [
            ("bos_token", "bos"),
            ("eos_token", "eos"),
            ("unk_token", "unknown"),
            ("sep_token", "seperator"),
            ("pad_token", "padding"),
            ("cls_token", "cls"),
            ("mask_token", "mask"),
        ];
        for (field, key) in names {
            if let Some((_, token)) = self.special(key) {
                config[field] = json!(token);
            }
        }
        if let Some(template) = self.gguf.get("tokenizer.chat_template").and_then(GgufValue::as_str) {
            config["chat_template"] = json!(template);
        }
        config
    }
}
