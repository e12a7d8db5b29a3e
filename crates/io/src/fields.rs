//! Reading the flat objects that describe a quantization.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// An object of `config.json`; keys that are absent or null are not there. `what` begins the messages.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    what: &'a str,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub fn new(what: &'a str, value: &'a Value) -> Result<Self> {
        match value {
            Value::Object(object) => Ok(Self { what, object }),
            _ => Err(refuse(what, "is no object", "expected an object with named values")),
        }
    }

    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// A text in lower case.
    pub fn text(&self, key: &str) -> Result<Option<String>> {
        self.read(key, "a string", |value| value.as_str().map(str::to_ascii_lowercase))
    }

    /// The text under the first of several names of one thing; those that are given must agree.
    pub fn synonyms(&self, keys: &[&str]) -> Result<Option<String>> {
        let mut first: Option<(&str, String)> = None;
        for &key in keys {
            let Some(text) = self.text(key)? else { continue };
            match &first {
                Some((other, value)) if *value != text => {
                    let message = format!("{other} is \"{value}\", but {key} is \"{text}\"");
                    return Err(self.refuse(&message, "these are two names of one thing: make them agree"));
                }
                Some(_) => {}
                None => first = Some((key, text)),
            }
        }
        Ok(first.map(|(_, text)| text))
    }

    pub fn bits(&self, key: &str) -> Result<Option<u8>> {
        self.read(key, "1 to 8", |value| {
            value.as_u64().filter(|bits| (1..=8).contains(bits)).map(|bits| bits as u8)
        })
    }

    /// `-1` is one group a row: `Some(None)`.
    pub fn group_size(&self, key: &str) -> Result<Option<Option<usize>>> {
        self.read(key, "a positive number, or -1 for one scale a row", |value| match value.as_i64() {
            Some(-1) => Some(None),
            Some(size @ 1..) => usize::try_from(size).ok().map(Some),
            _ => None,
        })
    }

    /// A list of strings; empty where absent.
    pub fn strings(&self, key: &str) -> Result<Vec<String>> {
        let list = self.read(key, "a list of strings", |value| {
            value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        })?;
        Ok(list.unwrap_or_default())
    }

    pub fn refuse(&self, message: &str, hint: &'static str) -> Error {
        refuse(self.what, message, hint)
    }

    fn read<T>(&self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => {
                let message = format!("{key} is {}, expected {expected}", shorten(value));
                Err(self.refuse(&message, "correct config.json, or use the original model instead"))
            }
        }
    }
}

fn refuse(what: &str, message: &str, hint: &'static str) -> Error {
    Error::Quantization { message: format!("{what}: {message}"), hint }
}

/// A value for a message: no longer than a line.
fn shorten(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_another_kind_are_named() {
        let value =
            json!({"a": 1, "n": null, "group": -1, "zero": 0, "list": ["x", 2], "long": "y".repeat(500)});
        let fields = Fields::new("gptq", &value).unwrap();
        assert_eq!(fields.flag("n").unwrap(), None);
        assert_eq!(fields.group_size("group").unwrap(), Some(None));
        assert_eq!(fields.group_size("a").unwrap(), Some(Some(1)));
        let message = |error: Error| error.to_string();
        assert!(message(fields.flag("a").unwrap_err()).contains("gptq: a is 1, expected true or false"));
        assert!(message(fields.group_size("zero").unwrap_err()).contains("zero is 0"));
        assert!(message(fields.strings("list").unwrap_err()).contains("a list of strings"));
        assert!(message(fields.bits("long").unwrap_err()).len() < 250);
        assert!(Fields::new("gptq", &json!([])).is_err());
    }

    #[test]
    fn synonyms_agree() {
        let value = json!({"format": "GPTQ", "checkpoint_format": "gptq", "method": "awq", "other": "gptq"});
        let fields = Fields::new("gptq", &value).unwrap();
        assert_eq!(fields.synonyms(&["checkpoint_format", "format"]).unwrap().as_deref(), Some("gptq"));
        assert_eq!(fields.synonyms(&["absent"]).unwrap(), None);
        let message = fields.synonyms(&["method", "other"]).unwrap_err().to_string();
        assert!(message.contains("method is \"awq\", but other is \"gptq\""), "{message}");
    }
}
