//! What a slot of a template stands for, and the forms it has.

use super::discourse::Discourse;
use super::lexicon::{Gender, NUMBERS, Noun, Number, Person, Place, Spot, Thing};

/// The value that a story binds to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// A character.
    Person(Person),
    /// A thing.
    Thing(Thing),
    /// A spot.
    Spot(&'static Spot),
    /// A destination.
    Place(&'static Place),
    /// A number, written as a word.
    Number(usize),
    /// A number of things: "two apples".
    Counted(usize, &'static Noun),
    /// Any words.
    Word(&'static str),
}

macro_rules! slot_from {
    ($($source:ty => $variant:ident),* $(,)?) => {$(
        impl From<$source> for Slot {
            fn from(value: $source) -> Slot {
                Slot::$variant(value)
            }
        }
    )*};
}
slot_from!(Person => Person, Thing => Thing, &'static Spot => Spot, &'static Place => Place, usize => Number,
    &'static str => Word);

impl Slot {
    /// The wanted form in lower case (names excepted), or none if this kind of slot has no such form.
    pub fn render(self, form: &str, discourse: &mut Discourse) -> Option<String> {
        match self {
            Slot::Person(person) => person_form(person, form, discourse),
            Slot::Thing(thing) => thing_form(thing, form),
            Slot::Spot(spot) => spot_form(spot, form),
            Slot::Place(place) => place_form(place, form),
            Slot::Number(n) => matches!(form, "" | "n").then(|| number_word(n)),
            Slot::Counted(n, noun) => counted_form(n, noun, form),
            Slot::Word(word) => matches!(form, "" | "n").then(|| word.to_string()),
        }
    }
}

/// A small number as a word, a larger one in digits.
pub fn number_word(n: usize) -> String {
    NUMBERS.get(n).map_or_else(|| n.to_string(), ToString::to_string)
}

fn pronoun(gender: Gender, form: &str) -> Option<&'static str> {
    Some(match (gender, form) {
        (Gender::Male, "he") => "he",
        (Gender::Male, "him") => "him",
        (Gender::Male, "his") => "his",
        (Gender::Male, "himself") => "himself",
        (Gender::Female, "he") => "she",
        (Gender::Female, "him" | "his") => "her",
        (Gender::Female, "himself") => "herself",
        _ => return None,
    })
}

/// Names and pronouns. `he`, `him` and `his` give way to the name where the pronoun could mean somebody else; with an
/// exclamation mark (`his!`) the sentence itself makes clear who is meant.
fn person_form(person: Person, form: &str, discourse: &mut Discourse) -> Option<String> {
    match form {
        "kind" => return Some(person.kind.to_string()),
        "sibling" => return Some(sibling(person).to_string()),
        _ => {}
    }
    let sure = form == "himself" || form.ends_with('!');
    let word = pronoun(person.gender, form.trim_end_matches('!'));
    if let Some(word) = word.filter(|_| sure || discourse.is_clear(person)) {
        discourse.refer(person);
        return Some(word.to_string());
    }
    let possessive = matches!(form, "s" | "his");
    let known = word.is_some() || matches!(form, "" | "s");
    discourse.name(person);
    known.then(|| format!("{}{}", person.name, if possessive { "'s" } else { "" }))
}

fn sibling(person: Person) -> &'static str {
    match person.gender {
        Gender::Male => "brother",
        Gender::Female => "sister",
    }
}

fn thing_form(thing: Thing, form: &str) -> Option<String> {
    let (noun, mark) = (thing.noun, thing.mark);
    let bare = format!("{mark} {}", noun.singular).trim_start().to_string();
    let plural = noun.number == Number::Plural;
    let agree = |one: &str, many: &str| (if plural { many } else { one }).to_string();
    Some(match form {
        "the" => format!("the {bare}"),
        "short" => format!("the {}", noun.singular),
        "a" if noun.measure.is_empty() => format!("a {bare}"),
        "a" => format!("{} {bare}", noun.measure),
        "any" if noun.measure.is_empty() => format!("a {}", noun.singular),
        "any" => format!("{} {}", noun.measure, noun.singular),
        "noun" => noun.singular.to_string(),
        "plural" => noun.plural.to_string(),
        "mark" => mark.to_string(),
        "it" => agree("it", "they"),
        "them" => agree("it", "them"),
        "was" => agree("was", "were"),
        "is" => agree("is", "are"),
        "has" => agree("has", "have"),
        "does" => agree("does", "do"),
        "belongs" => agree("belongs", "belong"),
        "this" => agree("this", "these"),
        "that" => agree("that", "those"),
        _ => return None,
    })
}

fn spot_form(spot: &Spot, form: &str) -> Option<String> {
    let (prep, noun) = (spot.prep, spot.noun);
    Some(match form {
        "at" => format!("{prep} the {noun}"),
        "name" => format!("the {noun}"),
        "from" => match prep {
            "in" => format!("out of the {noun}"),
            "on" => format!("off the {noun}"),
            "beside" => format!("from beside the {noun}"),
            _ => format!("from {prep} the {noun}"),
        },
        _ => return None,
    })
}

fn place_form(place: &Place, form: &str) -> Option<String> {
    let (prep, noun) = (place.prep, place.noun);
    Some(match form {
        "at" => format!("{prep} the {noun}"),
        "to" => format!("to the {noun}"),
        _ => return None,
    })
}

fn counted_form(n: usize, noun: &Noun, form: &str) -> Option<String> {
    let name = if n == 1 { noun.singular } else { noun.plural };
    Some(match form {
        "" => format!("{} {name}", number_word(n)),
        "n" => number_word(n),
        "plural" => noun.plural.to_string(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pico::grammar::lexicon::{places, things};

    fn render(slot: impl Into<Slot>, form: &str) -> Option<String> {
        slot.into().render(form, &mut Discourse::default())
    }

    fn thing(noun: &'static Noun, mark: &'static str) -> Thing {
        Thing { noun, mark }
    }

    #[test]
    fn number_agrees() {
        let boots = things::LARGE.iter().find(|n| n.singular == "boots").map(|n| thing(n, "red"));
        let boots = boots.expect("the table has boots");
        let forms = ["the", "a", "it", "them", "was"].map(|form| render(boots, form).unwrap_or_default());
        assert_eq!(forms, ["the red boots", "a pair of red boots", "they", "them", "were"]);
        let ball = thing(&things::LARGE[0], "red");
        assert_eq!(render(ball, "was").as_deref(), Some("was"));
        assert_eq!(
            Slot::Counted(1, &things::COUNTED[4]).render("", &mut Discourse::default()).as_deref(),
            Some("one strawberry")
        );
        assert_eq!(
            Slot::Counted(3, &things::COUNTED[4]).render("", &mut Discourse::default()).as_deref(),
            Some("three strawberries")
        );
    }

    #[test]
    fn unclear_pronouns_become_names() {
        let (tom, ben) = (Person::child("Tom", Gender::Male), Person::child("Ben", Gender::Male));
        let mut talk = Discourse::default();
        let mut say =
            |person: Person, form: &str| Slot::from(person).render(form, &mut talk).unwrap_or_default();
        assert_eq!(say(tom, "he"), "Tom", "nobody knows yet who he is");
        assert_eq!(say(tom, "his"), "his");
        assert_eq!(say(ben, ""), "Ben");
        assert_eq!(say(tom, "his"), "Tom's", "his could be Ben's");
        assert_eq!(say(tom, "his!"), "his");
    }

    #[test]
    fn unknown_forms_are_refused() {
        assert_eq!(render(&places::INDOORS[0], "he"), None);
        assert_eq!(render(3usize, "the"), None);
        assert_eq!(render(&places::INDOORS[0], "at").as_deref(), Some("under the bed"));
    }
}
