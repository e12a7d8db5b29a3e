//! A guess at the specification of an unknown family.
//!
//! Every built-in family is bent to the model: its keys to the fields that `config.json` has, its names to the tensors
//! that the checkpoint has. The one that then explains most tensors, names and shapes, is proposed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::Value;

use super::built_in::BUILT_IN;
use super::synonyms::{KEYS, NAMES, ROOT_NAMES};
use super::{ModelSpec, merge};
use crate::transformer::Blueprint;

/// Tensors of a checkpoint: name and shape.
pub type Shapes = [(String, Vec<usize>)];

/// A specification, as TOML, for a model of an unknown family: `config` is its `config.json`, `tensors` what its
/// checkpoint holds. It is a guess and says so: it lists what it leaves unexplained, and parity has to be tested.
pub fn propose_spec(config: &Value, tensors: &Shapes) -> String {
    let model = Unknown::new(config, tensors);
    let candidates = BUILT_IN.iter().filter_map(|(name, text)| {
        let table = model.bend(text)?;
        let fit = model.fit(&table);
        Some((name, table, fit))
    });
    let mut best = None;
    for candidate in candidates {
        let better = best.as_ref().is_none_or(|(_, _, fit): &(_, _, Fit)| candidate.2.score() > fit.score());
        if better {
            best = Some(candidate);
        }
    }
    match best {
        Some((base, table, fit)) => page(base, &table, &fit),
        None => "# A GUESS: nothing that is known resembles this model.\n".into(),
    }
}

fn page(base: &str, table: &toml::Table, fit: &Fit) -> String {
    let mut page = format!(
        "# A GUESS, made from names and shapes, starting from the family \"{base}\". Test it against a reference\n\
         # implementation before you trust it: activation, epsilon, norm placement and scales cannot be seen in shapes.\n"
    );
    let _ = writeln!(page, "# It explains {} of {} tensors.", fit.explained, fit.total);
    let mut list = |what: &str, names: &[String]| {
        for name in names.iter().take(12) {
            let _ = writeln!(page, "# {what}: {name}");
        }
        if names.len() > 12 {
            let _ = writeln!(page, "# {what}: {} more", names.len() - 12);
        }
    };
    list("not explained", &fit.unexplained);
    list("expected, but not there", &fit.missing);
    if let Some(problem) = &fit.problem {
        let _ = writeln!(page, "# problem: {}", problem.replace('\n', "\n#   "));
    }
    page.push('\n');
    page.push_str(&toml::to_string(table).unwrap_or_default());
    page
}

/// How well a specification describes the model.
#[derive(Default)]
struct Fit {
    explained: usize,
    total: usize,
    unexplained: Vec<String>,
    missing: Vec<String>,
    problem: Option<String>,
}

impl Fit {
    fn score(&self) -> (bool, i64) {
        (self.problem.is_none(), self.explained as i64 - self.missing.len() as i64)
    }
}

struct Unknown<'a> {
    config: &'a Value,
    shapes: BTreeMap<&'a str, &'a [usize]>,
    /// What precedes all names, the pattern of a block's name, and the modules of block 0 below it.
    prefix: String,
    block: String,
    modules: BTreeSet<String>,
}

impl<'a> Unknown<'a> {
    fn new(config: &'a Value, tensors: &'a Shapes) -> Self {
        let shapes: BTreeMap<&str, &[usize]> =
            tensors.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
        // The blocks are the numbered modules with the most tensors.
        let mut numbered: BTreeMap<String, usize> = BTreeMap::new();
        for name in shapes.keys() {
            let parts: Vec<&str> = name.split('.').collect();
            if let Some(at) = parts.iter().position(|part| part.parse::<usize>().is_ok()) {
                *numbered.entry(parts[..at].join(".")).or_default() += 1;
            }
        }
        let stem = numbered.into_iter().max_by_key(|(_, n)| *n).map(|(stem, _)| stem).unwrap_or_default();
        // What all blocks share in front is the prefix where the embedding has it too.
        let prefix = stem.split_once('.').map_or(String::new(), |(first, _)| format!("{first}."));
        let embedded = |prefix: &str| {
            shapes.keys().any(|name| name.starts_with(prefix) && !name.starts_with(&format!("{stem}.")))
        };
        let mut longest = String::new();
        for (at, _) in stem.match_indices('.') {
            if embedded(&stem[..=at]) {
                longest = stem[..=at].to_string();
            }
        }
        let prefix = if longest.is_empty() && embedded(&prefix) { prefix } else { longest };
        let first = format!("{stem}.0.");
        let modules = shapes.keys().filter_map(|name| name.strip_prefix(&first));
        let modules =
            modules.map(|name| name.rsplit_once('.').map_or(name, |(module, _)| module).to_string());
        let block = format!("{}.{{i}}", stem.strip_prefix(&prefix).unwrap_or(&stem));
        Self { config, modules: modules.collect(), prefix, block, shapes }
    }

    /// A family with its keys and names replaced by what this model has; `None` if the file is no specification.
    fn bend(&self, text: &str) -> Option<toml::Table> {
        let spec = ModelSpec::parse(text, "built-in").ok().filter(|spec| spec.parts.is_empty())?;
        let mut table = spec.base.clone();
        for variant in &spec.variants {
            let defaults = |field: &str| {
                let default = table.get("defaults").and_then(|d| d.get(field)).cloned();
                default.and_then(|value| serde_json::to_value(value).ok())
            };
            let holds = |(field, value): (&String, &Value)| {
                self.config.get(field).cloned().or_else(|| defaults(field)).as_ref() == Some(value)
            };
            if variant.when.iter().all(holds) {
                merge(&mut table, &variant.change);
            }
        }
        let family = self.config.get("model_type").and_then(Value::as_str).unwrap_or("unknown");
        table.insert("name".into(), family.into());
        table.insert("model_types".into(), vec![toml::Value::from(family)].into());
        self.bend_keys(table.get_mut("keys")?.as_table_mut()?);
        self.bend_names(table.get_mut("names")?.as_table_mut()?);
        Some(table)
    }

    /// Keys whose field `config.json` lacks get a field of the same meaning that it has.
    fn bend_keys(&self, keys: &mut toml::Table) {
        for (key, fields) in KEYS {
            let present = |field: &&&str| self.config.get(**field).is_some_and(|value| !value.is_null());
            let known = keys.get(*key).and_then(toml::Value::as_str);
            if known.is_some_and(|field| self.config.get(field).is_some_and(|value| !value.is_null())) {
                continue;
            }
            if keys.get(*key).is_none_or(|value| value.is_str())
                && let Some(field) = fields.iter().find(present)
            {
                keys.insert(key.to_string(), (*field).into());
            }
        }
    }

    fn bend_names(&self, names: &mut toml::Table) {
        names.insert("prefixes".into(), vec![toml::Value::from(self.prefix.clone())].into());
        names.insert("block".into(), self.block.clone().into());
        let mut free: BTreeSet<&str> = self.modules.iter().map(String::as_str).collect();
        let in_block = |name: &str| self.modules.contains(name);
        for (role, _) in NAMES {
            if let Some(name) = names.get(*role).and_then(toml::Value::as_str) {
                free.remove(name);
            }
        }
        for (role, synonyms) in NAMES {
            let known = names.get(*role).and_then(toml::Value::as_str);
            if known.is_none_or(in_block) {
                continue;
            }
            let matches = |module: &&str, word: &str| {
                let last = module.rsplit('.').next().unwrap_or(module);
                last == word || module.ends_with(&format!(".{word}"))
            };
            let found =
                synonyms.iter().find_map(|word| free.iter().find(|module| matches(module, word)).copied());
            match found {
                Some(module) => {
                    free.remove(module);
                    names.insert(role.to_string(), module.into());
                }
                None => continue,
            }
        }
        let root = |name: &str| {
            let full = name.strip_prefix('/').map_or(format!("{}{name}", self.prefix), str::to_string);
            self.shapes.contains_key(format!("{full}.weight").as_str())
        };
        for (role, synonyms) in ROOT_NAMES {
            let known = names.get(*role).and_then(toml::Value::as_str);
            if known.is_none_or(root) {
                continue;
            }
            if let Some(name) = synonyms.iter().find(|name| root(name)) {
                names.insert(role.to_string(), (*name).into());
            }
        }
    }

    /// Compares what the specification expects with what the checkpoint holds.
    fn fit(&self, table: &toml::Table) -> Fit {
        let mut fit = Fit { total: self.shapes.len(), ..Fit::default() };
        let text = toml::to_string(table).unwrap_or_default();
        let plan =
            ModelSpec::parse(&text, "proposal").and_then(|spec| spec.configure(self.config, "config.json"));
        let (options, names) = match plan {
            Ok(plan) => plan,
            Err(error) => {
                fit.problem = Some(error.to_string());
                fit.unexplained = self.shapes.keys().map(|name| name.to_string()).collect();
                return fit;
            }
        };
        let blueprint =
            Blueprint::new(options, names, &[String::new()], |name| self.shapes.contains_key(name));
        let expected: BTreeMap<String, Vec<usize>> = blueprint
            .parts()
            .into_iter()
            .flat_map(|(_, _, parts)| parts.tensors())
            .map(|tensor| (tensor.name, tensor.shape))
            .collect();
        for (name, shape) in &self.shapes {
            match expected.get(*name) {
                Some(wanted) if wanted == shape => fit.explained += 1,
                Some(wanted) => fit.unexplained.push(format!("{name} {shape:?} (expected {wanted:?})")),
                None => fit.unexplained.push(format!("{name} {shape:?}")),
            }
        }
        let absent = expected.iter().filter(|(name, _)| !self.shapes.contains_key(name.as_str()));
        fit.missing = absent.map(|(name, shape)| format!("{name} {shape:?}")).collect();
        fit
    }
}
