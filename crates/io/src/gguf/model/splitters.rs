//! Names that GGUF has for the ways in which byte-level tokenizers split text.
//!
//! Source: ggml-org/llama.cpp, `src/llama-vocab.cpp` (expressions behind `tokenizer.ggml.pre`) and the tokenizer.json files
//! of the models that they are for.

use serde_json::{Value, json};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// One way to split.
struct Splitter {
    /// Names in GGUF, the one that is written first.
    names: &'static [&'static str],
    steps: &'static [Step],
    /// Whether a piece that is a token is one, before any merge; `None` where that does not tell names apart.
    whole: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Parts that match an expression.
    Split(&'static str),
    /// Each digit alone.
    Digit,
    /// Runs of digits.
    Digits,
    /// Runs of punctuation.
    Punctuation,
}

const SPLITTERS: [Splitter; 8] = [
    Splitter {
        names: &[
            "gpt-2",
            "phi-2",
            "roberta-bpe",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "jina-v2-code",
            "jina-es",
            "jina-de",
        ],
        steps: &[Step::Split(GPT2)],
        whole: None,
    },
    Splitter {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"],
        steps: &[Step::Split(LLAMA3)],
        whole: Some(true),
    },
    Splitter { names: &["dbrx", "smaug-bpe"], steps: &[Step::Split(LLAMA3)], whole: Some(false) },
    Splitter {
        names: &["qwen2", "stablelm2", "deepseek-r1-qwen", "megrez", "hunyuan", "solar-open"],
        steps: &[Step::Split(QWEN2)],
        whole: None,
    },
    Splitter { names: &["tekken"], steps: &[Step::Split(TEKKEN)], whole: Some(true) },
    Splitter { names: &["gpt-4o", "llama4"], steps: &[Step::Split(GPT4O)], whole: None },
    Splitter {
        names: &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"],
        steps: &[Step::Digit, Step::Split(GPT2)],
        whole: None,
    },
    Splitter {
        names: &["falcon"],
        steps: &[Step::Punctuation, Step::Split(GPT2), Step::Digits, Step::Split("[0-9][0-9][0-9]")],
        whole: None,
    },
];

/// The name for the pre-tokenizer of a byte-level `tokenizer.json`; `None` if there is none.
pub(super) fn name_of(pre_tokenizer: &Value, ignore_merges: bool) -> Option<&'static str> {
    let steps = steps_of(pre_tokenizer)?;
    let fits = |splitter: &&Splitter| {
        splitter.steps == steps && splitter.whole.is_none_or(|whole| whole == ignore_merges)
    };
    SPLITTERS.iter().find(fits).map(|splitter| splitter.names[0])
}

/// The pre-tokenizer of a name, and whether whole pieces are looked up before merging.
pub(super) fn by_name(name: &str) -> Option<(Value, bool)> {
    let splitter = SPLITTERS.iter().find(|splitter| splitter.names.contains(&name))?;
    let split = |expression: &str| json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false});
    let mut steps: Vec<Value> = Vec::new();
    for step in splitter.steps {
        steps.push(match step {
            Step::Split(expression) => split(expression),
            Step::Digit => json!({"type": "Digits", "individual_digits": true}),
            Step::Digits => json!({"type": "Digits", "individual_digits": false}),
            Step::Punctuation => json!({"type": "Punctuation", "behavior": "Contiguous"}),
        });
    }
    steps.push(
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}),
    );
    Some((json!({"type": "Sequence", "pretokenizers": steps}), splitter.whole.unwrap_or(false)))
}

/// Every name that can be read.
pub(super) fn names() -> String {
    SPLITTERS.iter().flat_map(|splitter| splitter.names).copied().collect::<Vec<_>>().join(", ")
}

fn steps_of(pre_tokenizer: &Value) -> Option<Vec<Step>> {
    let single = std::slice::from_ref(pre_tokenizer);
    let parts = match pre_tokenizer.get("pretokenizers").and_then(Value::as_array) {
        Some(parts) => &parts[..],
        None => single,
    };
    let mut steps = Vec::new();
    for part in parts {
        match part.get("type")?.as_str()? {
            "ByteLevel" => {
                if part.get("add_prefix_space").and_then(Value::as_bool) == Some(true) {
                    return None;
                }
                if part.get("use_regex").and_then(Value::as_bool) != Some(false) {
                    steps.push(Step::Split(GPT2));
                }
            }
            "Split" => {
                let expression = part.get("pattern")?.get("Regex")?.as_str()?;
                if part.get("behavior")?.as_str()? == "Removed" && part.get("invert")?.as_bool()? {
                    // Keeping what matches is the same where everything matches.
                } else if part.get("behavior")?.as_str()? != "Isolated" {
                    return None;
                }
                let mut known = SPLITTERS.iter().flat_map(|splitter| splitter.steps);
                steps.push(*known.find(|step| matches!(step, Step::Split(known) if *known == expression))?);
            }
            "Digits" => {
                steps.push(if part.get("individual_digits")?.as_bool()? {
                    Step::Digit
                } else {
                    Step::Digits
                });
            }
            "Punctuation" => steps.push(Step::Punctuation),
            _ => return None,
        }
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_recognised() {
        for splitter in &SPLITTERS {
            for name in splitter.names {
                let (pre_tokenizer, whole) = by_name(name).unwrap();
                assert_eq!(name_of(&pre_tokenizer, whole), Some(splitter.names[0]), "{name}");
            }
        }
        assert_eq!(name_of(&json!({"type": "ByteLevel", "add_prefix_space": false}), false), Some("gpt-2"));
    }

    #[test]
    fn others_are_not() {
        assert!(by_name("superbpe").is_none());
        assert_eq!(name_of(&json!({"type": "ByteLevel", "add_prefix_space": true}), false), None);
        assert_eq!(name_of(&json!({"type": "Whitespace"}), false), None);
        let (mut pre_tokenizer, _) = by_name("qwen2").unwrap();
        pre_tokenizer["pretokenizers"][0]["pattern"]["Regex"] = json!(r"\p{L}+");
        assert_eq!(name_of(&pre_tokenizer, false), None);
    }
}
