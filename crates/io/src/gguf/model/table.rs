//! Reading `families.toml`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

use super::family::{Entry, Family, Field, How, Kind};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFamily {
    gguf: String,
    hf: Vec<String>,
    class: String,
    when: Option<String>,
    like: Option<String>,
    #[serde(default)]
    drop: Vec<String>,
    prefix: Option<String>,
    #[serde(default)]
    ignore: Vec<String>,
    rope: Option<String>,
    #[serde(default)]
    tensors: Vec<Vec<String>>,
    #[serde(default)]
    keys: Vec<(String, String, Kind)>,
    #[serde(default)]
    derived: Vec<String>,
    #[serde(default)]
    defaults: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    family: Vec<RawFamily>,
}

pub(super) static FAMILIES: LazyLock<Vec<Family>> =
    LazyLock::new(|| load(include_str!("families.toml")).expect("the table of architectures is tested"));

pub(super) fn load(text: &str) -> Result<Vec<Family>, String> {
    let table: Table = toml::from_str(text).map_err(|e| e.to_string())?;
    let mut families: Vec<Family> = Vec::new();
    for raw in table.family {
        let base = match &raw.like {
            Some(name) => {
                Some(families.iter().find(|f| f.gguf == *name).ok_or(format!("like {name}: none above"))?)
            }
            None => None,
        };
        let family = extend(base, raw)?;
        families.push(family);
    }
    Ok(families)
}

fn extend(base: Option<&Family>, raw: RawFamily) -> Result<Family, String> {
    let mut family = Family {
        gguf: raw.gguf,
        hf: raw.hf,
        class: raw.class,
        when: raw.when,
        prefix: raw.prefix,
        ignore: base.map(|b| b.ignore.clone()).unwrap_or_default(),
        entries: base.map(|b| b.entries.clone()).unwrap_or_default(),
        fields: base.map(|b| b.fields.clone()).unwrap_or_default(),
        derived: base.map(|b| b.derived.clone()).unwrap_or_default(),
        defaults: base.map(|b| b.defaults.clone()).unwrap_or_default(),
        pairs: raw.rope.as_deref().map_or(base.is_some_and(|b| b.pairs), |rope| rope == "pairs"),
    };
    for name in &raw.drop {
        let before = family.entries.len();
        family.entries.retain(|entry| entry.hf != *name);
        if family.entries.len() == before {
            return Err(format!("{}: drop {name}: there is none", family.gguf));
        }
    }
    for line in raw.tensors {
        let entry = entry(line).map_err(|e| format!("{}: {e}", family.gguf))?;
        family.entries.retain(|other| other.hf != entry.hf);
        family.entries.push(entry);
    }
    for (hf, key, kind) in raw.keys {
        family.fields.retain(|field| field.key != key);
        family.fields.push(Field { hf: hf.split('|').map(str::to_owned).collect(), key, kind });
    }
    family.ignore.extend(raw.ignore);
    family.derived.extend(raw.derived);
    family.defaults.extend(raw.defaults);
    Ok(family)
}

fn entry(line: Vec<String>) -> Result<Entry, String> {
    let (hf, gguf, how) = match &line[..] {
        [hf, gguf] => (hf, gguf, ""),
        [hf, gguf, how] => (hf, gguf, how.as_str()),
        _ => return Err(format!("{line:?}: two or three strings")),
    };
    let mut entry = Entry { hf: hf.clone(), gguf: gguf.clone(), how: How::Plain, single: false };
    for word in how.split_whitespace() {
        match word {
            "f32" => entry.single = true,
            "heads" => entry.how = How::Heads,
            "kv_heads" => entry.how = How::KvHeads,
            "plus_one" => entry.how = How::PlusOne,
            "transpose" => entry.how = How::Transpose,
            "falcon_qkv" => entry.how = How::FalconQkv,
            "expert" => entry.how = How::Expert,
            "row" => entry.how = How::Row,
            other => return Err(format!("{hf}: \"{other}\" is not known")),
        }
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        let families = load(include_str!("families.toml")).unwrap();
        assert!(families.len() >= 18);
        for family in &families {
            let mut hf: Vec<&str> = family.entries.iter().map(|e| e.hf.as_str()).collect();
            hf.sort_unstable();
            assert!(hf.windows(2).all(|pair| pair[0] != pair[1]), "{}", family.class);
            assert!(family.entries.iter().any(|e| e.gguf == "token_embd"), "{}", family.class);
            for entry in &family.entries {
                assert_eq!(entry.hf.contains("{x}"), entry.how == How::Expert, "{}", entry.hf);
                assert_eq!(entry.hf.contains("{n}"), entry.gguf.contains("{n}"), "{}", entry.hf);
            }
        }
        assert!(load("[[family]]\ngguf='a'\nhf=[]\nclass=''\nlike='b'").unwrap_err().contains("none above"));
        assert!(load("[[family]]\ngguf='a'\nhf=[]\nclass=''\ntensors=[['a','b','c']]").is_err());
    }
}
