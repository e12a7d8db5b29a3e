//! Exceptions by module: the object `dynamic`.

use fancy_regex::Regex;
use serde_json::{Value, json};

use super::config::{GptqFormat, GptqScheme, check_width};
use crate::error::{Error, Result};
use crate::fields::Fields;

/// What a rule says of the modules that it matches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    Dense,
    Coded(GptqScheme),
}

/// A pattern and what holds for the modules whose names begin with it.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pattern: String,
    regex: Box<Regex>,
    pub verdict: Verdict,
}

impl Rule {
    /// The rules in the order in which they are asked: those that leave modules dense (`-:`) stand first, as the
    /// reference implementation sorts them.
    pub fn parse_all(value: Option<&Value>, base: GptqScheme, format: GptqFormat) -> Result<Vec<Self>> {
        let Some(value) = value else { return Ok(Vec::new()) };
        let Value::Object(object) = value else {
            return Err(refuse("dynamic is no object", "expected patterns with their exceptions"));
        };
        let mut rules = object
            .iter()
            .map(|(pattern, exception)| Self::parse(pattern, exception, base, format))
            .collect::<Result<Vec<_>>>()?;
        rules.sort_by_key(|rule| rule.verdict != Verdict::Dense);
        Ok(rules)
    }

    fn parse(pattern: &str, exception: &Value, base: GptqScheme, format: GptqFormat) -> Result<Self> {
        if let Some(pattern) = pattern.strip_prefix("-:") {
            return Self::new(pattern, Verdict::Dense);
        }
        let what = format!("gptq: dynamic \"{pattern}\"");
        let fields = Fields::new(&what, exception)?;
        for keys in [["checkpoint_format", "format"], ["quant_method", "method"]] {
            let expected = if keys[0] == "quant_method" { "gptq" } else { format.name() };
            if let Some(other) = fields.synonyms(&keys)?.filter(|other| other != expected) {
                let message = format!("{} \"{other}\" differs from that of the whole", keys[0]);
                return Err(fields.refuse(&message, "one format a checkpoint is read"));
            }
        }
        let scheme = GptqScheme {
            bits: fields.bits("bits")?.unwrap_or(base.bits),
            group_size: fields.group_size("group_size")?.unwrap_or(base.group_size),
            desc_act: fields.flag("desc_act")?.unwrap_or(base.desc_act),
            sym: fields.flag("sym")?.or(base.sym),
        };
        check_width(&fields, format, scheme.bits)?;
        Self::new(pattern.strip_prefix("+:").unwrap_or(pattern), Verdict::Coded(scheme))
    }

    /// A rule for one module.
    pub fn exact(module: &str, verdict: Verdict) -> Result<Self> {
        Self::new(&format!("^{}$", fancy_regex::escape(module)), verdict)
    }

    fn new(pattern: &str, verdict: Verdict) -> Result<Self> {
        // As Python's `re.match`: from the start of the name, not to its end.
        let regex = Regex::new(&format!("^(?:{pattern})"))
            .map_err(|e| refuse(&format!("dynamic \"{pattern}\": {e}"), "correct the regular expression"))?;
        Ok(Self { pattern: pattern.into(), regex: Box::new(regex), verdict })
    }

    pub fn matches(&self, module: &str) -> bool {
        // A pattern that runs away on a name does not match it.
        self.regex.is_match(module).unwrap_or(false)
    }

    /// The key and its value.
    pub fn to_json(&self) -> (String, Value) {
        match self.verdict {
            Verdict::Dense => (format!("-:{}", self.pattern), json!({})),
            Verdict::Coded(scheme) => {
                let mut exception = json!({
                    "bits": scheme.bits,
                    "group_size": scheme.group_json(),
                    "desc_act": scheme.desc_act,
                });
                if let Some(sym) = scheme.sym {
                    exception["sym"] = sym.into();
                }
                (format!("+:{}", self.pattern), exception)
            }
        }
    }
}

fn refuse(message: &str, hint: &'static str) -> Error {
    Error::Quantization { message: format!("gptq: {message}"), hint }
}
