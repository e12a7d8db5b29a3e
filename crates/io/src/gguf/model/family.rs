//! The table of architectures, `families.toml`: names and fields both ways.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::table::FAMILIES;
use crate::error::{Error, Result};
use crate::gguf::container::Gguf;

/// How a tensor differs between the two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Plain,
    /// Rows reordered within each of the query heads.
    Heads,
    /// The same for the key-value heads.
    KvHeads,
    PlusOne,
    Transpose,
    FalconQkv,
    Expert,
    Row,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub hf: String,
    pub gguf: String,
    pub how: How,
    /// Written in single precision, whatever it is.
    pub single: bool,
}

/// A field of `config.json` and its key.
#[derive(Clone, Debug)]
pub(super) struct Field {
    /// Names of the field, the first one is written.
    pub hf: Vec<String>,
    /// Key without the architecture.
    pub key: String,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    U32,
    F32,
    Bool,
}

#[derive(Clone, Debug)]
pub(super) struct Family {
    pub gguf: String,
    pub hf: Vec<String>,
    pub class: String,
    pub when: Option<String>,
    pub prefix: Option<String>,
    pub ignore: Vec<String>,
    pub entries: Vec<Entry>,
    pub fields: Vec<Field>,
    pub derived: Vec<String>,
    pub defaults: BTreeMap<String, Value>,
    /// Whether rotary pairs are neighbours in GGUF.
    pub pairs: bool,
}

/// What a name stands for.
#[derive(Debug)]
pub(super) struct Match<'a> {
    pub entry: &'a Entry,
    pub how: How,
    pub block: Option<usize>,
    pub expert: Option<usize>,
    /// `weight` or `bias`.
    pub suffix: &'a str,
}

impl Match<'_> {
    /// Name in the GGUF file.
    pub fn gguf_name(&self) -> String {
        format!("{}.{}", fill(&self.entry.gguf, self.block, None), self.suffix)
    }

    /// Whether engines want it in single precision.
    pub fn single(&self) -> bool {
        self.entry.single || self.how == How::PlusOne
    }

    /// Name in a Hugging Face checkpoint; of expert `expert` where there are several.
    pub fn hf_name(&self, expert: Option<usize>) -> String {
        format!("{}.{}", fill(&self.entry.hf, self.block, expert), self.suffix)
    }
}

impl Family {
    /// The family that a GGUF file belongs to.
    pub fn of_file(gguf: &Gguf) -> Result<&'static Family> {
        let fail = |message: String| Error::malformed(gguf.label(), message);
        let architecture = match gguf.get("general.architecture") {
            Some(value) => {
                value.as_str().ok_or_else(|| fail(format!("general.architecture is {value}, no string")))?
            }
            None => return Err(fail("general.architecture is missing: not a model".into())),
        };
        let holds = |family: &&Family| match &family.when {
            None => true,
            Some(key) => gguf.get(&format!("{architecture}.{key}")).and_then(|v| v.as_u64()) > Some(0),
        };
        // Entries with a condition stand after the one that they are like.
        FAMILIES.iter().rev().filter(|family| family.gguf == architecture).find(holds).ok_or_else(|| {
            fail(format!(
                "the architecture \"{architecture}\" is not known; known are {}",
                known(|f| &f.gguf)
            ))
        })
    }

    /// The family of a `config.json`.
    pub fn of_config(config: &Value) -> Result<&'static Family> {
        let Some(model_type) = config.get("model_type").and_then(Value::as_str) else {
            return Err(Error::invalid("config.json", "model_type is missing"));
        };
        FAMILIES.iter().find(|family| family.hf.iter().any(|hf| hf == model_type)).ok_or_else(|| {
            let message = format!(
                "models of type \"{model_type}\" cannot be written as GGUF; known are {}",
                known_types()
            );
            Error::invalid("config.json", message)
        })
    }

    /// What a Hugging Face name stands for.
    pub fn match_hf<'a>(&'a self, name: &'a str) -> Option<Match<'a>> {
        let (module, suffix) = split(name)?;
        let prefix = self.prefix.as_deref().unwrap_or_default();
        let longer = format!("{prefix}{module}");
        let shorter = module.strip_prefix(prefix).unwrap_or(module);
        for module in [module, &longer, shorter] {
            for entry in &self.entries {
                if let Some((block, expert)) = capture(&entry.hf, module) {
                    return Some(Match { entry, how: self.how(entry, suffix), block, expert, suffix });
                }
            }
        }
        None
    }

    /// What a name in a GGUF file stands for; `accept` decides between entries of one name.
    pub fn match_gguf<'a>(&'a self, name: &'a str, accept: impl Fn(&Entry) -> bool) -> Option<Match<'a>> {
        let (module, suffix) = split(name)?;
        self.entries.iter().find_map(|entry| {
            let (block, _) = capture(&entry.gguf, module)?;
            let found = Match { entry, how: self.how(entry, suffix), block, expert: None, suffix };
            accept(entry).then_some(found)
        })
    }

    /// Whether a Hugging Face tensor has no counterpart on purpose.
    pub fn ignores(&self, name: &str) -> bool {
        self.ignore.iter().any(|end| name.ends_with(end.as_str()))
    }

    fn how(&self, entry: &Entry, suffix: &str) -> How {
        match entry.how {
            How::Heads | How::KvHeads if !self.pairs => How::Plain,
            // What is turned around is the matrix.
            How::Transpose | How::PlusOne if suffix == "bias" => How::Plain,
            how => how,
        }
    }
}

fn known<'a>(name: impl Fn(&'a Family) -> &'a str) -> String {
    let mut names: Vec<&str> = FAMILIES.iter().map(name).collect();
    names.dedup();
    names.join(", ")
}

fn known_types() -> String {
    FAMILIES.iter().flat_map(|family| family.hf.iter().map(String::as_str)).collect::<Vec<_>>().join(", ")
}

fn split(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.').filter(|(_, suffix)| matches!(*suffix, "weight" | "bias"))
}

/// The numbers at `{n}` and `{x}` of a pattern that `name` fits.
fn capture(pattern: &str, name: &str) -> Option<(Option<usize>, Option<usize>)> {
    let (mut block, mut expert) = (None, None);
    let (mut pattern, mut name) = (pattern, name);
    while let Some(at) = pattern.find('{') {
        name = name.strip_prefix(&pattern[..at])?;
        let digits = name.len() - name.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number = &name[..digits];
        if number.len() > 1 && number.starts_with('0') {
            return None;
        }
        let number = number.parse().ok()?;
        match &pattern[at..at + 3] {
            "{n}" => block = Some(number),
            _ => expert = Some(number),
        }
        name = &name[digits..];
        pattern = &pattern[at + 3..];
    }
    (pattern == name).then_some((block, expert))
}

fn fill(pattern: &str, block: Option<usize>, expert: Option<usize>) -> String {
    let number = |n: Option<usize>| n.map(|n| n.to_string()).unwrap_or_default();
    pattern.replace("{n}", &number(block)).replace("{x}", &number(expert))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_go_both_ways() {
        let config = |ty: &str| json!({"model_type": ty});
        let cases = [
            ("llama", "model.layers.12.self_attn.q_proj.weight", "blk.12.attn_q.weight"),
            ("mixtral", "model.layers.0.block_sparse_moe.experts.7.w2.weight", "blk.0.ffn_down_exps.weight"),
            ("qwen2", "model.layers.3.self_attn.k_proj.bias", "blk.3.attn_k.bias"),
            ("gemma2", "model.layers.3.post_feedforward_layernorm.weight", "blk.3.post_ffw_norm.weight"),
            ("gpt2", "transformer.h.1.attn.c_attn.bias", "blk.1.attn_qkv.bias"),
            ("bert", "encoder.layer.5.output.LayerNorm.bias", "blk.5.layer_output_norm.bias"),
        ];
        for (ty, hf, gguf) in cases {
            let config = config(ty);
            let family = Family::of_config(&config).unwrap();
            let found = family.match_hf(hf).unwrap();
            assert_eq!(found.gguf_name(), gguf);
            let back = family.match_gguf(gguf, |_| true).unwrap();
            assert_eq!(back.hf_name(found.expert), hf);
        }
        let (gpt2, bert) = (config("gpt2"), config("bert"));
        let name = "h.1.attn.c_attn.weight";
        assert_eq!(
            Family::of_config(&gpt2).unwrap().match_hf(name).unwrap().gguf_name(),
            "blk.1.attn_qkv.weight"
        );
        let name = "bert.embeddings.LayerNorm.weight";
        let found = Family::of_config(&bert).unwrap().match_hf(name).unwrap();
        assert_eq!(found.gguf_name(), "token_embd_norm.weight");
    }

    #[test]
    fn names_that_only_look_alike_are_not_taken() {
        let config = json!({"model_type": "llama"});
        let family = Family::of_config(&config).unwrap();
        for name in
            ["model.layers.x.self_attn.q_proj.weight", "model.layers.01.mlp.up_proj.weight", "model.norm", ""]
        {
            assert!(family.match_hf(name).is_none(), "{name}");
        }
        assert!(Family::of_config(&json!({"model_type": "rwkv"})).unwrap_err().to_string().contains("qwen2"));
    }

    #[test]
    fn only_families_with_paired_rotation_reorder() {
        for (ty, how) in
            [("llama", How::Heads), ("granite", How::Heads), ("qwen2", How::Plain), ("gemma", How::Plain)]
        {
            let config = json!({"model_type": ty});
            let family = Family::of_config(&config).unwrap();
            assert_eq!(family.match_hf("model.layers.0.self_attn.q_proj.weight").unwrap().how, how, "{ty}");
        }
    }
}
