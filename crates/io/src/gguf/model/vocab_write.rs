//! A `tokenizer.json` as keys of a GGUF file.

use std::collections::HashMap;

use serde_json::Value;

use super::splitters;
use super::vocab_read::{SPACE, kind};
use crate::error::{Error, Result};
use crate::gguf::container::value::GgufValue;

/// The files that say how a model reads text.
#[derive(Clone, Debug, Default)]
pub struct TokenizerFiles {
    /// `tokenizer.json`.
    pub tokenizer: Option<Value>,
    /// `tokenizer_config.json`: names of the special tokens, chat template.
    pub config: Option<Value>,
    /// `chat_template.jinja`.
    pub chat_template: Option<String>,
    /// `1_Pooling/config.json` of a sentence encoder.
    pub pooling: Option<Value>,
    /// `tokenizer.ggml.pre` to write, for a pre-tokenizer that is not recognised.
    pub pre: Option<String>,
}

fn fail(message: impl Into<String>) -> Error {
    Error::invalid("tokenizer.json", message)
}

/// Keys for a vocabulary of `size` tokens, the rows of the embedding; `model` is the content of `config.json`.
pub(super) fn to_keys(
    files: &TokenizerFiles,
    model: &Value,
    size: usize,
) -> Result<Vec<(String, GgufValue)>> {
    let mut keys: Vec<(String, GgufValue)> = Vec::new();
    let Some(json) = &files.tokenizer else {
        put(&mut keys, "model", "no_vocab");
        return Ok(keys);
    };
    let writer = Writer::of(files, json, model, size)?;
    let at = |value: &'_ Value, name: &str| value.get(name).cloned().unwrap_or(Value::Null);
    let bpe = at(json, "model");
    match bpe.get("type").and_then(Value::as_str).unwrap_or("BPE") {
        "BPE" if contains_type(&at(json, "pre_tokenizer"), "ByteLevel") => {
            writer.byte_level(&bpe, &mut keys)?
        }
        "BPE" => writer.sentence_piece(&bpe, &mut keys)?,
        "WordPiece" => writer.word_piece(&mut keys)?,
        other => {
            return Err(fail(format!(
                "a tokenizer of type {other} cannot be written; BPE and WordPiece can"
            )));
        }
    }
    writer.specials(&mut keys)?;
    let template =
        files.config.as_ref().and_then(|config| config.get("chat_template")).and_then(Value::as_str);
    if let Some(template) = files.chat_template.as_deref().or(template) {
        keys.push(("tokenizer.chat_template".into(), template.into()));
    }
    Ok(keys)
}

fn put(keys: &mut Vec<(String, GgufValue)>, name: &str, value: impl Into<GgufValue>) {
    keys.push((format!("tokenizer.ggml.{name}"), value.into()));
}

/// Whether a component, or one in its sequence, is of a type.
fn contains_type(component: &Value, name: &str) -> bool {
    let lists = ["pretokenizers", "normalizers", "processors", "decoders"];
    component.get("type").and_then(Value::as_str) == Some(name)
        || lists.iter().any(|list| {
            component
                .get(list)
                .and_then(Value::as_array)
                .is_some_and(|l| l.iter().any(|c| contains_type(c, name)))
        })
}

struct Writer<'a> {
    files: &'a TokenizerFiles,
    json: &'a Value,
    model: &'a Value,
    tokens: Vec<String>,
    kinds: Vec<i32>,
    ids: HashMap<String, usize>,
}

impl<'a> Writer<'a> {
    fn of(files: &'a TokenizerFiles, json: &'a Value, model: &'a Value, size: usize) -> Result<Self> {
        let mut found: Vec<Option<(String, i32)>> = vec![None; size];
        let mut place = |id: Option<u64>, token: &str, kind: i32| {
            let slot = id.and_then(|id| found.get_mut(usize::try_from(id).ok()?));
            match slot {
                Some(slot) => *slot = Some((token.into(), kind)),
                None => {
                    return Err(fail(format!(
                        "token {token:?} has no id below {size}, the rows of the embedding"
                    )));
                }
            }
            Ok(())
        };
        let vocab = json.get("model").and_then(|m| m.get("vocab")).and_then(Value::as_object);
        for (token, id) in vocab.ok_or_else(|| fail("model.vocab is no object"))? {
            place(id.as_u64(), token, kind::NORMAL)?;
        }
        for added in json.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
            let token = added.get("content").and_then(Value::as_str).unwrap_or_default();
            let special =
                added.get("special").and_then(Value::as_bool).unwrap_or(false) || looks_special(token);
            let kind = if special { kind::CONTROL } else { kind::USER };
            place(added.get("id").and_then(Value::as_u64), token, kind)?;
        }
        let filled = found
            .into_iter()
            .enumerate()
            .map(|(id, slot)| slot.unwrap_or((format!("[PAD{id}]"), kind::UNUSED)));
        let (tokens, kinds): (Vec<String>, Vec<i32>) = filled.unzip();
        let ids = tokens.iter().enumerate().map(|(id, token)| (token.clone(), id)).collect();
        Ok(Self { files, json, model, tokens, kinds, ids })
    }

    fn byte_level(&self, bpe: &Value, keys: &mut Vec<(String, GgufValue)>) -> Result<()> {
        let whole = bpe.get("ignore_merges").and_then(Value::as_bool).unwrap_or(false);
        let pre = self.json.get("pre_tokenizer").and_then(|pre| splitters::name_of(pre, whole));
        let pre = self.files.pre.as_deref().or(pre).ok_or_else(|| {
            let known = splitters::names();
            fail(format!(
                "no name is known for the way in which the pre-tokenizer splits text\n\
                 hint: give the tokenizer.ggml.pre that engines shall use; known are {known}"
            ))
        })?;
        put(keys, "model", "gpt2");
        put(keys, "pre", pre);
        put(keys, "tokens", self.tokens.clone());
        put(keys, "token_type", self.kinds.clone());
        let merges = merges(bpe)?.into_iter().map(|(left, right)| format!("{left} {right}"));
        put(keys, "merges", merges.collect::<Vec<String>>());
        Ok(())
    }

    /// Scores that put merges in the order of their ranks: the first merge to a token tells how early it is made.
    fn sentence_piece(&self, bpe: &Value, keys: &mut Vec<(String, GgufValue)>) -> Result<()> {
        if bpe.get("byte_fallback").and_then(Value::as_bool) != Some(true) {
            return Err(fail("a BPE tokenizer must be byte-level or fall back to bytes to be written"));
        }
        let merges = merges(bpe)?;
        let mut scores = vec![-(merges.len() as f32) - 1.0; self.tokens.len()];
        for (rank, (left, right)) in merges.iter().enumerate().rev() {
            if let Some(&id) = self.ids.get(&format!("{left}{right}")) {
                scores[id] = -(rank as f32);
            }
        }
        let unknown = bpe.get("unk_token").and_then(Value::as_str);
        let mut kinds = self.kinds.clone();
        for (id, token) in self.tokens.iter().enumerate() {
            if Some(token.as_str()) == unknown {
                (kinds[id], scores[id]) = (kind::UNKNOWN, 0.0);
            } else if is_byte(token) {
                (kinds[id], scores[id]) = (kind::BYTE, 0.0);
            }
        }
        let normalizer = self.json.get("normalizer").unwrap_or(&Value::Null);
        let pre = self.json.get("pre_tokenizer").unwrap_or(&Value::Null);
        let prefix = contains_type(normalizer, "Prepend")
            || contains_type(pre, "Metaspace")
                && pre.get("prepend_scheme").and_then(Value::as_str) != Some("never");
        let tokens = self.tokens.iter().zip(&kinds).map(|(token, &kind)| {
            // Tokens of the user are matched before spaces are marked.
            if kind == kind::USER { token.replace(SPACE, " ") } else { token.clone() }
        });
        put(keys, "model", "llama");
        put(keys, "pre", "default");
        put(keys, "tokens", tokens.collect::<Vec<String>>());
        put(keys, "scores", scores);
        put(keys, "token_type", kinds);
        put(keys, "add_space_prefix", prefix);
        Ok(())
    }

    fn word_piece(&self, keys: &mut Vec<(String, GgufValue)>) -> Result<()> {
        let pieces =
            self.tokens.iter().zip(&self.kinds).map(|(token, &kind)| match token.strip_prefix("##") {
                _ if kind == kind::CONTROL || kind == kind::UNUSED => token.clone(),
                Some(rest) => rest.into(),
                None => format!("{SPACE}{token}"),
            });
        put(keys, "model", "bert");
        put(keys, "pre", "default");
        put(keys, "tokens", pieces.collect::<Vec<String>>());
        put(keys, "token_type", self.kinds.clone());
        Ok(())
    }

    /// Special tokens by their use, and which of them surround a text.
    fn specials(&self, keys: &mut Vec<(String, GgufValue)>) -> Result<()> {
        let names = [
            ("bos", "bos"),
            ("eos", "eos"),
            ("unk", "unknown"),
            ("sep", "seperator"),
            ("pad", "padding"),
            ("cls", "cls"),
            ("mask", "mask"),
        ];
        for (field, key) in names {
            if let Some(id) = self.special(field) {
                put(keys, &format!("{key}_token_id"), id as u32);
            }
        }
        if contains_type(self.json.get("post_processor").unwrap_or(&Value::Null), "BertProcessing")
            || keys.iter().any(|(_, value)| value.as_str() == Some("bert"))
        {
            return Ok(());
        }
        let surrounds = |first: bool| {
            self.template().is_some_and(|template| {
                let end = if first { template.first() } else { template.last() };
                let token = end.and_then(|part| part.get("SpecialToken")?.get("id")?.as_str());
                let wanted = self.special(if first { "bos" } else { "eos" });
                token.is_some_and(|token| self.ids.get(token).copied() == wanted && wanted.is_some())
            })
        };
        put(keys, "add_bos_token", surrounds(true));
        put(keys, "add_eos_token", surrounds(false));
        Ok(())
    }

    /// The template for one text.
    fn template(&self) -> Option<&Vec<Value>> {
        let processor = self.json.get("post_processor")?;
        let inner = processor.get("processors").and_then(Value::as_array);
        let mut all = inner.into_iter().flatten().chain([processor]);
        all.find_map(|processor| processor.get("single")?.as_array())
    }

    /// Id of a special token, by its name in `tokenizer_config.json`, else by its number in `config.json`.
    fn special(&self, field: &str) -> Option<usize> {
        let named = self.files.config.as_ref().and_then(|config| config.get(format!("{field}_token")));
        let text = named.and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
        let id = text.and_then(|text| self.ids.get(text).copied());
        id.or_else(|| {
            let number = self.model.get(format!("{field}_token_id"))?;
            let number = number.as_array().and_then(|list| list.first()).unwrap_or(number);
            number.as_u64().map(|id| id as usize).filter(|&id| id < self.tokens.len())
        })
    }
}

/// Pairs of a BPE model, in either of the two styles of the format.
fn merges(bpe: &Value) -> Result<Vec<(&str, &str)>> {
    let list = bpe.get("merges").and_then(Value::as_array).ok_or_else(|| fail("model.merges is no list"))?;
    list.iter()
        .map(|merge| pair(merge).ok_or_else(|| fail(format!("the merge {merge} is not two tokens"))))
        .collect()
}

fn pair(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(text) => text.split_once(' '),
        Value::Array(pair) => match &pair[..] {
            [Value::String(left), Value::String(right)] => Some((left, right)),
            _ => None,
        },
        _ => None,
    }
}

/// `<0x0A>` and the like.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// Tokens that control, though their files do not say so. Source: ggml-org/llama.cpp, `conversion/base.py`.
fn looks_special(token: &str) -> bool {
    matches!(token, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || token.starts_with("<|") && token.ends_with("|>")
        || token.starts_with("<unused") && token.ends_with('>')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merges_in_both_styles() {
        let both = [json!({"merges": ["a b", "ab c"]}), json!({"merges": [["a", "b"], ["ab", "c"]]})];
        for bpe in &both {
            assert_eq!(merges(bpe).unwrap(), [("a", "b"), ("ab", "c")]);
        }
        assert!(merges(&json!({"merges": [["a"]]})).is_err());
    }

    #[test]
    fn bytes_and_control_tokens_are_told_apart() {
        assert!(is_byte("<0x0A>") && !is_byte("<0xZZ>") && !is_byte("<0x0>") && !is_byte("a"));
        assert!(looks_special("<|end|>") && looks_special("<unused3>") && !looks_special("<b>"));
    }

    #[test]
    fn more_tokens_than_rows_are_refused() {
        let files = TokenizerFiles {
            tokenizer: Some(json!({"model": {"type": "BPE", "vocab": {"a": 0, "b": 9}, "merges": []}})),
            ..TokenizerFiles::default()
        };
        let message = to_keys(&files, &json!({}), 4).unwrap_err().to_string();
        assert!(message.contains("\"b\" has no id below 4"), "{message}");
    }
}
