//! Which modules a group means.

use std::fmt;

use fancy_regex::Regex;

use crate::error::{Error, Result};

/// A full module name, a class of modules, or a regular expression over names.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Name(String),
    Class(String),
    Pattern { source: String, regex: Box<Regex> },
}

/// How closely a target matches; the closest group wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Closeness {
    Class,
    Pattern,
    Name,
}

impl Target {
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(source) = text.strip_prefix("re:") {
            // As Python's `re.match`: from the start of the name, not to its end.
            let regex = Regex::new(&format!("^(?:{source})")).map_err(|e| Error::Quantization {
                message: format!("target \"{text}\": {e}"),
                hint: "correct the regular expression",
            })?;
            return Ok(Self::Pattern { source: text.into(), regex: Box::new(regex) });
        }
        // Classes of modules are written like `Linear`; attributes, and so names of modules, begin in lower case.
        let class = text.starts_with(|c: char| c.is_ascii_uppercase()) && !text.contains('.');
        Ok(if class { Self::Class(text.into()) } else { Self::Name(text.into()) })
    }

    /// Whether this means the linear map `module`, and how closely. Classes other than the linear maps' do not.
    pub fn matches(&self, module: &str) -> Option<Closeness> {
        match self {
            Self::Name(name) => (name == module).then_some(Closeness::Name),
            // A pattern that runs away on a name does not match it.
            Self::Pattern { regex, .. } => {
                regex.is_match(module).unwrap_or(false).then_some(Closeness::Pattern)
            }
            Self::Class(class) => {
                matches!(class.as_str(), "Linear" | "LinearBase").then_some(Closeness::Class)
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(text) | Self::Class(text) | Self::Pattern { source: text, .. } => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_patterns_and_classes() {
        let closeness = |target: &str, module: &str| Target::parse(target).unwrap().matches(module);
        assert_eq!(closeness("lm_head", "lm_head"), Some(Closeness::Name));
        assert_eq!(closeness("lm_head", "model.lm_head"), None);
        assert_eq!(closeness("Linear", "anything"), Some(Closeness::Class));
        assert_eq!(closeness("Embedding", "anything"), None);
        assert_eq!(closeness("re:.*q_proj", "model.q_proj.more"), Some(Closeness::Pattern));
        assert_eq!(closeness("re:q_proj", "model.q_proj"), None, "from the start of the name");
        assert_eq!(closeness("re:(?!.*head).*proj$", "a.q_proj"), Some(Closeness::Pattern));
        assert_eq!(closeness("re:(?!.*head).*proj$", "head.q_proj"), None);
        assert!(Target::parse("re:(").is_err());
    }
}
