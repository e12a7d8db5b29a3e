//! `config.json`, read through the keys of a specification.

use serde::Deserialize;
use serde_json::{Map, Value};
use trimtab_nn::Activation;

use crate::error::{Error, Result};

/// Where an option stands: a field of `config.json` (dots lead into tables), the first present of several, or a value
/// that is the same for all models of the family.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Key {
    Field(String),
    Fields(Vec<String>),
    /// `{ value = … }`, for words, which would otherwise be fields.
    Constant(Constant),
    /// `{ entries = FIELD }`: how many entries the table in a field has.
    Entries(Entries),
    Value(Value),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Constant {
    value: Value,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entries {
    entries: String,
}

impl Key {
    /// How messages call the option.
    pub fn label(&self) -> String {
        match self {
            Self::Field(name) | Self::Entries(Entries { entries: name }) => name.clone(),
            Self::Fields(names) => names.join("\" or \""),
            Self::Constant(Constant { value }) | Self::Value(value) => value.to_string(),
        }
    }
}

/// `config.json` over the defaults of the specification.
pub(crate) struct Fields<'a> {
    pub config: &'a Value,
    pub defaults: &'a Map<String, Value>,
    pub family: &'a str,
    pub model: &'a str,
}

impl<'a> Fields<'a> {
    pub fn fail(&self, message: String) -> Error {
        Error::Config { model: self.model.into(), message }
    }

    /// A field of `config.json`, or its default; `null` counts as absent.
    pub fn field(&self, path: &str) -> Option<&'a Value> {
        let given = path.split('.').try_fold(self.config, |table, part| table.get(part));
        given.filter(|value| !value.is_null()).or_else(|| self.defaults.get(path))
    }

    pub fn get<'k>(&self, key: &'k Key) -> Option<&'k Value>
    where
        'a: 'k,
    {
        match key {
            Key::Field(path) | Key::Entries(Entries { entries: path }) => self.field(path),
            Key::Fields(paths) => {
                let given = |path: &String| {
                    let value = path.split('.').try_fold(self.config, |table, part| table.get(part));
                    value.filter(|value| !value.is_null())
                };
                paths.iter().find_map(given).or_else(|| paths.iter().find_map(|path| self.field(path)))
            }
            Key::Constant(Constant { value }) | Key::Value(value) => Some(value),
        }
    }

    fn need<'k>(&self, key: &'k Key) -> Result<&'k Value>
    where
        'a: 'k,
    {
        self.get(key).ok_or_else(|| {
            self.fail(format!("no field \"{}\", which {} models need", key.label(), self.family))
        })
    }

    pub fn wrong(&self, key: &Key, value: &Value, expected: &str) -> Error {
        self.fail(format!("\"{}\" is {value}, expected {expected}", key.label()))
    }

    /// The option, where the specification has a key for it and the model a value.
    pub fn optional<T>(
        &self,
        key: &Option<Key>,
        read: impl Fn(&Self, &Key) -> Result<T>,
    ) -> Result<Option<T>> {
        key.as_ref().filter(|key| self.get(key).is_some()).map(|key| read(self, key)).transpose()
    }

    /// A positive whole number.
    pub fn count(&self, key: &Key) -> Result<usize> {
        let value = self.need(key)?;
        let count = match key {
            Key::Entries(_) => value.as_object().map(|table| table.len() as u64),
            _ => value.as_u64(),
        };
        let count = count.filter(|&n| n > 0 && n < 1 << 32);
        count.map(|n| n as usize).ok_or_else(|| self.wrong(key, value, "a positive whole number"))
    }

    /// A positive whole number that decides how much memory a plan of the network takes, and is bounded for that.
    pub fn bounded(&self, key: &Key, most: usize) -> Result<usize> {
        let count = self.count(key)?;
        match count <= most {
            true => Ok(count),
            false => Err(self.wrong(key, self.need(key)?, &format!("at most {most}"))),
        }
    }

    /// A whole number, 0 included.
    pub fn index(&self, key: &Key) -> Result<usize> {
        let value = self.need(key)?;
        let index = value.as_u64().filter(|&n| n < 1 << 32);
        index.map(|n| n as usize).ok_or_else(|| self.wrong(key, value, "a whole number"))
    }

    /// A positive number.
    pub fn number(&self, key: &Key) -> Result<f64> {
        let value = self.need(key)?;
        let number = value.as_f64().filter(|n| n.is_finite() && *n > 0.0);
        number.ok_or_else(|| self.wrong(key, value, "a positive number"))
    }

    pub fn flag(&self, key: &Key) -> Result<bool> {
        let value = self.need(key)?;
        value.as_bool().ok_or_else(|| self.wrong(key, value, "true or false"))
    }

    /// A list of words or numbers.
    pub fn list<T: for<'de> Deserialize<'de>>(&self, key: &Key, expected: &str) -> Result<Vec<T>> {
        let value = self.need(key)?;
        Vec::deserialize(value).map_err(|_| self.wrong(key, value, expected))
    }

    pub fn activation(&self, key: &Key) -> Result<Activation> {
        let value = self.need(key)?;
        Activation::deserialize(value).map_err(|_| {
            self.wrong(key, value, "one of silu, gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu, tanh")
        })
    }
}
