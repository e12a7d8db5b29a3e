//! Proofreading of finished text, independent of the code that writes it. Each checker returns what is wrong first.

use std::collections::HashSet;

use super::lexicon::{Gender, Person};

/// What is wrong, and where.
pub type Fault = Option<String>;

fn bare(word: &str) -> &str {
    word.trim_matches(|c: char| !c.is_alphanumeric())
}

/// Sentence ends of a word: "." in `door.` and `door."`.
fn ending(word: &str) -> Option<char> {
    word.trim_end_matches('"').chars().last().filter(|c| matches!(c, '.' | '!' | '?'))
}

/// "a" before consonant sounds, "an" before vowel sounds.
pub fn articles(text: &str) -> Fault {
    const VOWEL_LETTER_CONSONANT_SOUND: [&str; 7] =
        ["one", "once", "unicorn", "uniform", "union", "useful", "used"];
    const CONSONANT_LETTER_VOWEL_SOUND: [&str; 4] = ["honest", "honour", "hour", "heir"];
    let words: Vec<&str> = text.split_whitespace().collect();
    words.windows(2).find_map(|pair| {
        let (article, next) = (bare(pair[0]).to_lowercase(), bare(pair[1]).to_lowercase());
        let vowel = next.starts_with(['a', 'e', 'i', 'o', 'u']);
        let sounds = (vowel && !VOWEL_LETTER_CONSONANT_SOUND.contains(&next.as_str()))
            || CONSONANT_LETTER_VOWEL_SOUND.contains(&next.as_str());
        let wrong = (article == "a" && sounds) || (article == "an" && !sounds);
        wrong.then(|| format!("article: {} {}", pair[0], pair[1]))
    })
}

/// Quotation marks open after a space and close after a mark, in turn.
pub fn quotes(text: &str) -> Fault {
    let chars: Vec<char> = text.chars().collect();
    let mut open = false;
    for (i, _) in chars.iter().enumerate().filter(|(_, c)| **c == '"') {
        let before = if i == 0 { ' ' } else { chars[i - 1] };
        let after = chars.get(i + 1).copied().unwrap_or(' ');
        let fits = if open {
            ".,!?".contains(before) && after == ' '
        } else {
            before == ' ' && after.is_alphabetic()
        };
        if !fits {
            return Some(format!(
                "quotation mark: {}",
                chars[i.saturating_sub(20)..i].iter().collect::<String>()
            ));
        }
        open = !open;
    }
    open.then(|| "quotation mark: never closed".to_string())
}

/// One space between words, none before a mark, no leftover template, no word twice, and a mark at the end.
pub fn spacing(text: &str) -> Fault {
    const NEVER: [&str; 9] = ["  ", " .", " ,", " ?", " !", "..", ",,", ",.", "\n"];
    if let Some(bad) = NEVER.iter().find(|bad| text.contains(**bad)) {
        return Some(format!("spacing: {bad:?}"));
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !" .,!?:'\"-".contains(*c)) {
        return Some(format!("character: {c:?}"));
    }
    let words: Vec<String> = text.split(' ').map(str::to_lowercase).collect();
    if let Some(pair) = words.windows(2).find(|pair| pair[0] == pair[1]) {
        return Some(format!("repeated word: {}", pair[0]));
    }
    let ended = text.split(' ').next_back().and_then(ending).is_some();
    (!ended).then(|| "end: no mark at the end".to_string())
}

/// Capitals open every sentence, and inside a sentence only names have them.
pub fn capitals(text: &str, people: &[Person]) -> Fault {
    let names: HashSet<&str> = people.iter().flat_map(|p| p.name.split(' ')).collect();
    let mut previous = ".";
    for word in text.split(' ') {
        let quoted = word.starts_with('"');
        let after_speech =
            previous.ends_with("?\"") || previous.ends_with("!\"") || previous.ends_with(",\"");
        let starts = ending(previous).is_some() && !after_speech;
        let upper = bare(word).starts_with(char::is_uppercase);
        let proper = is_proper(bare(word), &names);
        if starts && !upper && !bare(word).is_empty() {
            return Some(format!("capital missing: {previous} {word}"));
        }
        if !starts && !quoted && upper && !proper && !after_speech {
            return Some(format!("capital inside: {previous} {word}"));
        }
        previous = word;
    }
    None
}

fn is_proper(word: &str, names: &HashSet<&str>) -> bool {
    const OTHERS: [&str; 21] = [
        "I",
        "Monday",
        "Tuesday",
        "Wednesday",
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "September",
        "October",
        "November",
        "December",
        "French",
        "August",
    ];
    let word = word.strip_suffix("'s").unwrap_or(word);
    names.contains(word) || OTHERS.contains(&word)
}

/// A sentence with its words, once all of them and once without what is said in quotation marks.
#[derive(Default)]
struct Sentence {
    all: String,
    narrated: String,
}

/// The sentences of the narrator; speech that ends a sentence ends it here, too.
fn sentences(text: &str) -> Vec<Sentence> {
    let mut sentences = vec![Sentence::default()];
    let (mut speaking, mut ended) = (false, false);
    for word in text.split(' ') {
        speaking |= word.starts_with('"');
        if ended && bare(word).starts_with(char::is_uppercase) {
            sentences.push(Sentence::default());
        }
        if let Some(sentence) = sentences.last_mut() {
            sentence.all += &format!("{word} ");
            sentence.narrated += &if speaking { String::new() } else { format!("{word} ") };
        }
        ended = ending(word).is_some() && (!speaking || word.ends_with('"'));
        speaking &= !word.ends_with('"');
    }
    sentences
}

fn named<'a>(sentence: &str, people: &'a [Person], gender: Gender) -> Vec<&'a Person> {
    let words: Vec<&str> = sentence.split(' ').map(|w| bare(w).trim_end_matches("'s")).collect();
    let says = |name: &str| {
        let parts: Vec<&str> = name.split(' ').collect();
        words.windows(parts.len()).any(|window| window == parts.as_slice())
    };
    people.iter().filter(|p| p.gender == gender && says(p.name)).collect()
}

/// A reader looks for a name this many sentences back.
const NAME_REACH: usize = 5;

/// Every pronoun of the narrator has somebody of its gender to refer to in the same sentence or the five before, and one
/// that opens a sentence does not follow a sentence with two candidates.
pub fn pronouns(text: &str, people: &[Person]) -> Fault {
    let sentences = sentences(text);
    for (i, sentence) in sentences.iter().enumerate() {
        for (place, word) in sentence.narrated.split(' ').enumerate() {
            let gender = match bare(word).to_lowercase().as_str() {
                "he" | "him" | "his" | "himself" => Gender::Male,
                "she" | "her" | "herself" => Gender::Female,
                _ => continue,
            };
            let near = &sentences[i.saturating_sub(NAME_REACH)..=i];
            if near.iter().all(|s| named(&s.all, people, gender).is_empty()) {
                return Some(format!("pronoun without antecedent: {}", sentence.all));
            }
            let crowd = i > 0 && place == 0 && named(&sentences[i - 1].narrated, people, gender).len() > 1;
            if crowd {
                return Some(format!("ambiguous pronoun: {} {}", sentences[i - 1].all, sentence.all));
            }
        }
    }
    None
}

/// Verbs agree with plural and singular nouns right before them; `plurals` and `singulars` are the nouns.
pub fn agreement(text: &str, plurals: &HashSet<&str>, singulars: &HashSet<&str>) -> Fault {
    let words: Vec<&str> = text.split(' ').collect();
    words.windows(3).find_map(|w| {
        let joined = matches!(w[0], "and" | "if");
        let plural = plurals.contains(w[1]) || w[1].eq_ignore_ascii_case("they");
        let singular = !joined && (singulars.contains(w[1]) || w[1].eq_ignore_ascii_case("it"));
        let verb = bare(w[2]);
        let wrong = (plural && matches!(verb, "is" | "was" | "has" | "does"))
            || (singular && matches!(verb, "are" | "were" | "have" | "do"));
        wrong.then(|| format!("agreement: {}", w.join(" ")))
    })
}

#[cfg(test)]
mod controls {
    //! Negative controls: each checker catches a broken sentence and passes its mended twin.

    use super::*;

    const TOM: Person = Person::child("Tom", Gender::Male);
    const BEN: Person = Person::child("Ben", Gender::Male);

    fn splits(check: impl Fn(&str) -> Fault, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(check(text), None, "{text}");
        }
        for text in bad {
            assert!(check(text).is_some(), "not caught: {text}");
        }
    }

    #[test]
    fn articles_are_checked() {
        splits(
            articles,
            &["An apple, a useful pear and an hour."],
            &["a apple", "A old hat", "an red hat", "an useful pear", "a hour"],
        );
    }

    #[test]
    fn quotes_are_checked() {
        let good = ["\"Yes,\" said Tom. \"No!\"", "He said, \"Go.\""];
        let bad = [
            "\"Yes, said Tom.",
            "He said,\"Go.\"",
            "\"Yes\" said Tom.",
            "\" Yes,\" said Tom.",
            "\"Yes,\"said Tom.",
        ];
        splits(quotes, &good, &bad);
    }

    #[test]
    fn spacing_is_checked() {
        let bad = [
            "He  ran.",
            "He ran .",
            "He ran..",
            "He ran",
            "He {a} ran.",
            "He ran ran fast.",
            "He [ran|went].",
            "Café.",
        ];
        splits(spacing, &["He ran, and she said, \"Go!\""], &bad);
    }

    #[test]
    fn capitals_are_checked() {
        let good = ["\"Why?\" asked Tom. It was May. He said, \"Go.\" Then \"yes,\" he said."];
        let bad = ["He ran. it fell.", "he ran.", "Then He ran.", "The Dog ran to Tom.", "\"Go.\" he said."];
        splits(|text| capitals(text, &[TOM]), &good, &bad);
    }

    #[test]
    fn pronouns_are_checked() {
        let good = ["Tom ran. He fell.", "Tom met Ben. Tom fell.", "Tom ran. \"She is here,\" said Ben."];
        let bad = [
            "She ran.",
            "Tom ran. She fell.",
            "Tom met Ben. He fell.",
            "Tom ran. One. Two. Three. Four. Five. Six. He fell.",
        ];
        splits(|text| pronouns(text, &[TOM, BEN]), &good, &bad);
    }

    #[test]
    fn agreement_is_checked() {
        let (plurals, singulars) = (HashSet::from(["boots"]), HashSet::from(["ball"]));
        let bad = ["There they was.", "The boots is here.", "The ball were red.", "The boots has holes."];
        splits(
            |text| agreement(text, &plurals, &singulars),
            &["The boots were old. The ball was red."],
            &bad,
        );
    }
}
