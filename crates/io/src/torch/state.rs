//! Which of the values of a PyTorch file are the weights.
//!
//! Programs save a bare state dict, or one inside a dictionary with the state of the training. The rule:
//!
//! 1. The file must hold a dictionary. As long as it has one of the keys `state_dict`, `model_state_dict`, `model`,
//!    `module` (the first of these) with a dictionary in it, that one is taken, at most four levels deep.
//! 2. Its tensors are the weights, under their keys. Entries that are no tensors are left out.
//! 3. `module.` (of data parallelism) and `_orig_mod.` (of `torch.compile`) are taken off the names where all have them.

use std::collections::BTreeMap;

use super::machine::{Built, text};
use super::value::{Tensor, Value};
use crate::error::{Error, Result};

const WRAPPERS: [&str; 4] = ["state_dict", "model_state_dict", "model", "module"];
const MAX_DEPTH: usize = 4;
const PREFIXES: [&str; 2] = ["module.", "_orig_mod."];
/// Keys that a message names.
const SHOWN: usize = 8;

/// The tensors of what `bytes` built, by name.
pub fn tensors(label: &str, bytes: &[u8], built: &Built) -> Result<BTreeMap<String, Tensor>> {
    let Value::Dict(mut dict) = built.root else {
        let message = format!(
            "holds {} where a dictionary of tensors is expected\nhint: save model.state_dict()",
            built.root.kind()
        );
        return Err(Error::malformed(label, message));
    };
    let items = |dict: u32| &built.heap.dicts[dict as usize];
    let is_key = |value: Value, key: &str| matches!(value, Value::Str(at) if text(bytes, at) == key);
    for _ in 0..MAX_DEPTH {
        let inner = WRAPPERS.iter().find_map(|wrapper| {
            items(dict).iter().find_map(|&(key, value)| match value {
                Value::Dict(inner) if is_key(key, wrapper) => Some(inner),
                _ => None,
            })
        });
        match inner {
            Some(inner) => dict = inner,
            None => break,
        }
    }

    let mut tensors = BTreeMap::new();
    for &(key, value) in items(dict) {
        let (Value::Str(key), Value::Tensor(tensor)) = (key, value) else { continue };
        let name = text(bytes, key);
        if tensors.insert(name, built.heap.tensors[tensor as usize]).is_some() {
            return Err(Error::tensor(label, name, "is there twice"));
        }
    }
    if tensors.is_empty() && !items(dict).is_empty() {
        let keys = items(dict).iter().filter_map(|&(key, _)| match key {
            Value::Str(at) => Some(format!("{:?}", text(bytes, at).chars().take(60).collect::<String>())),
            _ => None,
        });
        let keys: Vec<String> = keys.take(SHOWN).collect();
        let message = format!(
            "no tensors at the top or under {}; the keys are {}\nhint: save model.state_dict()",
            WRAPPERS.map(|key| format!("\"{key}\"")).join(", "),
            keys.join(", ")
        );
        return Err(Error::malformed(label, message));
    }

    let common = common_prefix(&tensors);
    Ok(tensors.into_iter().map(|(name, tensor)| (name[common..].to_owned(), tensor)).collect())
}

/// Length of the prefixes of [`PREFIXES`] that every name has, one after the other.
fn common_prefix(tensors: &BTreeMap<&str, Tensor>) -> usize {
    let mut length = 0;
    while let Some(first) = tensors.keys().next()
        && let Some(prefix) = PREFIXES.iter().find(|prefix| first[length..].starts_with(**prefix))
        && tensors.keys().all(|name| name[length..].starts_with(prefix))
    {
        length += prefix.len();
    }
    length
}
