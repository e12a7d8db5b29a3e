//! The words of the stories, as tables with the grammatical features that the templates ask for.
//!
//! | module | holds |
//! |---|---|
//! | [`people`] | names with gender, grown-ups with their trades, animals, traits, pastimes with verb forms |
//! | [`things`] | nouns with number, plural, measure word, size and the colours they come in |
//! | [`places`] | hiding spots with prepositions, outings with their sights, homes, skies |

pub mod people;
pub mod places;
pub mod things;

pub use people::{Gender, Person};
pub use places::{Place, Sky, Spot};
pub use things::{Noun, Number, Size, Thing};

/// Small numbers in words, `NUMBERS[n]` for `n` up to twenty.
pub const NUMBERS: [&str; 21] = [
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

/// Words that begin with a vowel letter and a consonant sound, so that they take "a".
const CONSONANT_SOUND: [&str; 4] = ["one", "once", "useful", "uniform"];

/// Words that begin with a silent "h", so that they take "an".
const SILENT_H: [&str; 3] = ["honest", "hour", "honour"];

/// Whether the indefinite article before `word` is "an".
pub fn takes_an(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    if CONSONANT_SOUND.contains(&word.as_str()) {
        return false;
    }
    word.starts_with(['a', 'e', 'i', 'o', 'u']) || SILENT_H.contains(&word.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn distinct<'a>(words: impl Iterator<Item = &'a str>) -> bool {
        let mut seen = HashSet::new();
        words.into_iter().all(|word| seen.insert(word))
    }

    #[test]
    fn articles_follow_the_sound() {
        assert!(["apple", "old", "honest", "umbrella", "Orange"].iter().all(|w| takes_an(w)));
        assert!(["useful", "one", "house", "yellow", "key"].iter().all(|w| !takes_an(w)));
    }

    #[test]
    fn entries_are_distinct() {
        let names = people::GIRLS.iter().chain(&people::BOYS).chain(&people::PET_NAMES).copied();
        let adults = people::FAMILY.iter().chain(&people::NEIGHBOURS).map(|p| p.name);
        assert!(distinct(names.chain(adults)));
        let nouns =
            things::SMALL.iter().chain(&things::LARGE).chain(&things::GROCERIES).chain(&things::PICNIC);
        assert!(distinct(nouns.map(|n| n.singular)));
        assert!(distinct(places::INDOORS.iter().chain(&places::OUTDOORS).map(|s| s.noun)));
        assert!(distinct(places::OUTINGS.iter().map(|p| p.noun)));
        assert!(!distinct(["key", "ring", "key"].into_iter()), "a repeated entry is seen");
    }

    #[test]
    fn names_take_a_plain_possessive() {
        let names = people::GIRLS.iter().chain(&people::BOYS).chain(&people::PET_NAMES);
        assert!(names.into_iter().all(|n| !n.ends_with('s')));
    }
}
