//! The template language: alternatives, slots, and the finish that makes a sentence presentable.
//!
//! A template is English text with two constructs:
//!
//! - `[early|late|]` is one of its alternatives, which may be empty and may contain further alternatives;
//! - `{a}`, `{a.he}`, `{x.the}` is a slot: a name that the story has bound, and the form that is wanted. A form with a
//!   capital (`{a.He}`) is capitalized.
//!
//! Words fall into place afterwards: spaces left by empty alternatives are closed, "a" becomes "an" before a vowel sound,
//! and every sentence starts with a capital.

use trimtab_math::random::Stream;

use super::lexicon::takes_an;

/// Resolves every `[..|..]`, innermost first.
pub fn expand(template: &str, rng: &mut Stream) -> String {
    let mut text = template.to_string();
    while let Some(close) = text.find(']') {
        let Some(open) = text[..close].rfind('[') else { break };
        let alternatives: Vec<&str> = text[open + 1..close].split('|').collect();
        let chosen = rng.choose(&alternatives).to_string();
        text.replace_range(open..=close, &chosen);
    }
    text
}

/// A piece of an expanded template.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Text to copy.
    Text(&'a str),
    /// `{name.form}`; the form is empty in `{name}`.
    Slot {
        /// What the story bound.
        name: &'a str,
        /// The wanted form.
        form: &'a str,
    },
}

/// Splits an expanded template into text and slots.
pub fn pieces(template: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((slot, tail)) = after.split_once('}') else { break };
        let (name, form) = slot.split_once('.').unwrap_or((slot, ""));
        found.extend([Piece::Text(before), Piece::Slot { name, form }]);
        rest = tail;
    }
    found.push(Piece::Text(rest));
    found
}

/// `word` with a capital first letter.
pub fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Closes spaces, chooses the articles, and capitalizes every sentence.
pub fn polish(text: &str) -> String {
    capitalize_sentences(&choose_articles(&close_spaces(text)))
}

fn close_spaces(text: &str) -> String {
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    [" ,", " .", " !", " ?"].iter().fold(joined, |text, gap| text.replace(gap, &gap[1..]))
}

fn choose_articles(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let chosen = words.iter().enumerate().map(|(i, &word)| {
        let next = words.get(i + 1).map_or("", |next| next.trim_matches(|c: char| !c.is_alphabetic()));
        let article = matches!(word.trim_start_matches('"'), "a" | "A");
        if article && takes_an(next) { format!("{word}n") } else { word.to_string() }
    });
    chosen.collect::<Vec<_>>().join(" ")
}

/// Capitalizes the first letter, and each that follows a full stop, question or exclamation mark and a space; a quotation
/// mark may stand before the letter, but not before the space (there the sentence goes on: `"Why?" asked Tom.`).
fn capitalize_sentences(text: &str) -> String {
    let mut start = true;
    let mut previous = ' ';
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if start && c.is_alphabetic() {
            out.extend(c.to_uppercase());
            start = false;
        } else {
            out.push(c);
        }
        start |= c == ' ' && matches!(previous, '.' | '!' | '?');
        previous = c;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternatives_nest_and_cover_all_choices() {
        let seen: std::collections::BTreeSet<String> =
            (0..200).map(|i| expand("[a|b[1|2]]c[|d]", &mut Stream::new(0, "t", 0, i))).collect();
        let all = ["ac", "acd", "b1c", "b1cd", "b2c", "b2cd"];
        assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), all);
    }

    #[test]
    fn slots_are_split_from_text() {
        let found = pieces("So {a.He} ran to {b}.");
        let slots = [("a", "He"), ("b", "")].map(|(name, form)| Piece::Slot { name, form });
        assert!(slots.iter().all(|slot| found.contains(slot)));
        assert_eq!(found.first(), Some(&Piece::Text("So ")));
        assert_eq!(found.last(), Some(&Piece::Text(".")));
    }

    #[test]
    fn polish_mends_spaces_articles_and_capitals() {
        assert_eq!(
            polish("he saw a  old , red hat . it was a useful one."),
            "He saw an old, red hat. It was a useful one."
        );
        assert_eq!(
            polish("\"why?\" asked Tom. \"a owl,\" said Mia."),
            "\"Why?\" asked Tom. \"An owl,\" said Mia."
        );
    }
}
