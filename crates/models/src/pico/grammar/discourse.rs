//! Who was mentioned when: decides whether a pronoun is clear.

use super::lexicon::Person;

/// A pronoun may reach back so many sentences to the last mention, be it by another pronoun.
const REACH: usize = 2;

/// After so many sentences, the name is due again.
const NAME_REACH: usize = 4;

/// When a character was spoken of, counted in sentences.
#[derive(Clone, Copy, Debug)]
struct Mention {
    person: Person,
    /// Last time by name or pronoun.
    last: usize,
    /// Last time by name.
    named: usize,
}

/// The mentions of a story so far.
#[derive(Clone, Debug, Default)]
pub struct Discourse {
    sentence: usize,
    mentions: Vec<Mention>,
}

impl Discourse {
    /// Notes that the current sentence names `person`.
    pub fn name(&mut self, person: Person) {
        let now = self.sentence;
        self.mentions.retain(|mention| mention.person != person);
        self.mentions.push(Mention { person, last: now, named: now });
    }

    /// Notes that a pronoun of the current sentence means `person`.
    pub fn refer(&mut self, person: Person) {
        let now = self.sentence;
        self.mentions
            .iter_mut()
            .filter(|mention| mention.person == person)
            .for_each(|mention| mention.last = now);
    }

    /// Advances by the sentences that end in `text`.
    pub fn read(&mut self, text: &str) {
        self.sentence += text.matches(['.', '!', '?']).count();
    }

    /// Whether a pronoun can only mean `person`: recently mentioned, and in a later sentence than anybody else of the
    /// same gender.
    pub fn is_clear(&self, person: Person) -> bool {
        let Some(own) = self.mentions.iter().find(|mention| mention.person == person) else { return false };
        let rival = |other: &Mention| {
            other.person != person && other.person.gender == person.gender && other.last >= own.last
        };
        let recent = self.sentence - own.last <= REACH && self.sentence - own.named <= NAME_REACH;
        recent && !self.mentions.iter().any(rival)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pico::grammar::lexicon::Gender::{Female, Male};

    #[test]
    fn a_pronoun_needs_a_recent_and_single_antecedent() {
        let (tom, ben, mia) =
            (Person::child("Tom", Male), Person::child("Ben", Male), Person::child("Mia", Female));
        let mut talk = Discourse::default();
        assert!(!talk.is_clear(tom));
        talk.name(tom);
        talk.name(mia);
        assert!(talk.is_clear(tom) && talk.is_clear(mia));
        talk.name(ben);
        assert!(!talk.is_clear(tom) && !talk.is_clear(ben) && talk.is_clear(mia));
        talk.read("They met.");
        talk.name(tom);
        assert!(talk.is_clear(tom) && !talk.is_clear(ben));
        talk.read("One. Two! Three?");
        assert!(!talk.is_clear(tom));
    }

    #[test]
    fn a_chain_of_pronouns_ends_in_a_name() {
        let tom = Person::child("Tom", Male);
        let mut talk = Discourse::default();
        talk.name(tom);
        let clear = (0..6).map(|_| {
            talk.read("He ran.");
            let clear = talk.is_clear(tom);
            talk.refer(tom);
            clear
        });
        assert_eq!(clear.collect::<Vec<_>>(), [true, true, true, true, false, false]);
    }
}
