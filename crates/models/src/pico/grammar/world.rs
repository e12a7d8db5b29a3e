//! The simulated world: what happens, what is then the case, and the answers to questions about it.
//!
//! Stories never state a fact on their own account: they apply an [`Event`], which must be possible, and narrate it. At
//! the end they ask a [`Question`] whose answer the world gives.

use super::lexicon::{Noun, Person, Spot, Thing};

/// Where a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// Somebody has it.
    With(Person),
    /// It lies somewhere.
    At(&'static Spot),
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// `who` picks up or receives `what`; the first to do so becomes its owner.
    Get { who: Person, what: Thing },
    /// `who` puts `what`, which nobody else holds, somewhere.
    Put { who: Person, what: Thing, to: &'static Spot },
    /// `what` passes from hand to hand.
    Give { from: Person, to: Person, what: Thing },
    /// An animal goes to a spot.
    Settle { pet: Person, at: &'static Spot },
    /// `who` has `n` more of a countable.
    Gain { who: Person, of: &'static Noun, n: usize },
    /// `who` has `n` fewer of a countable.
    Lose { who: Person, of: &'static Noun, n: usize },
    /// `who` is the next to reach the finish of a race.
    Finish { who: Person },
    /// `who` promises to bring `what`.
    Promise { who: Person, what: Thing },
    /// A secret word is agreed.
    Agree { word: &'static str },
    /// `who` is so many years old.
    Age { who: Person, years: usize },
}

/// A question about the state of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Where does the thing lie?
    Where(Thing),
    /// Who has the thing?
    Holder(Thing),
    /// To whom does the thing belong? (To the first who had it.)
    Owner(Thing),
    /// Who had the thing before it changed hands?
    FirstHolder(Thing),
    /// Who brought the thing? (Its first holder, asked in other words.)
    Bringer(Thing),
    /// Where is the animal?
    PetAt(Person),
    /// How many has the person?
    HowMany(Person, &'static Noun),
    /// Who came in at this place, counted from zero?
    Rank(usize),
    /// What did the person promise to bring?
    Promised(Person),
    /// What is the secret word?
    Secret,
    /// How old is the person?
    Age(Person),
}

/// The answer to a [`Question`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A spot.
    Spot(&'static Spot),
    /// A person.
    Person(Person),
    /// A thing.
    Thing(Thing),
    /// A number.
    Number(usize),
    /// A word.
    Word(&'static str),
}

/// The state of a story's world.
#[derive(Clone, Debug, Default)]
pub struct World {
    locations: Vec<(Thing, Location)>,
    owners: Vec<(Thing, Person)>,
    pets: Vec<(Person, &'static Spot)>,
    counts: Vec<((Person, &'static Noun), usize)>,
    finishers: Vec<Person>,
    promises: Vec<(Person, Thing)>,
    secret: Option<&'static str>,
    ages: Vec<(Person, usize)>,
}

/// The value of `key` in a short association list.
fn look_up<K: PartialEq, V: Copy>(list: &[(K, V)], key: &K) -> Option<V> {
    list.iter().find(|(k, _)| k == key).map(|&(_, value)| value)
}

fn assign<K: PartialEq, V>(list: &mut Vec<(K, V)>, key: K, value: V) {
    match list.iter_mut().find(|(k, _)| *k == key) {
        Some(entry) => entry.1 = value,
        None => list.push((key, value)),
    }
}

impl World {
    /// Lets `event` happen. Returns whether it was possible; an impossible event changes nothing.
    #[must_use]
    pub fn apply(&mut self, event: Event) -> bool {
        let possible = self.allows(event);
        if possible {
            self.update(event);
        }
        possible
    }

    fn allows(&self, event: Event) -> bool {
        match event {
            Event::Get { who, what } | Event::Put { who, what, .. } => self.within_reach(who, what),
            Event::Give { from, to, what } => from != to && self.location(what) == Some(Location::With(from)),
            Event::Lose { who, of, n } => self.count(who, of) >= n,
            Event::Finish { who } => !self.finishers.contains(&who),
            _ => true,
        }
    }

    /// Whether nobody but `who` holds `what`.
    fn within_reach(&self, who: Person, what: Thing) -> bool {
        !matches!(self.location(what), Some(Location::With(holder)) if holder != who)
    }

    fn update(&mut self, event: Event) {
        match event {
            Event::Get { who, what } => self.move_to(what, Location::With(who)),
            Event::Give { to, what, .. } => self.move_to(what, Location::With(to)),
            Event::Put { what, to, .. } => self.move_to(what, Location::At(to)),
            Event::Settle { pet, at } => assign(&mut self.pets, pet, at),
            Event::Gain { who, of, n } => self.set_count(who, of, self.count(who, of) + n),
            Event::Lose { who, of, n } => self.set_count(who, of, self.count(who, of) - n),
            Event::Finish { who } => self.finishers.push(who),
            Event::Promise { who, what } => assign(&mut self.promises, who, what),
            Event::Agree { word } => self.secret = Some(word),
            Event::Age { who, years } => assign(&mut self.ages, who, years),
        }
    }

    fn set_count(&mut self, who: Person, of: &'static Noun, n: usize) {
        assign(&mut self.counts, (who, of), n);
    }

    fn move_to(&mut self, what: Thing, location: Location) {
        if let Location::With(person) = location
            && look_up(&self.owners, &what).is_none()
        {
            self.owners.push((what, person));
        }
        assign(&mut self.locations, what, location);
    }

    /// Where a thing is, if it has appeared.
    pub fn location(&self, what: Thing) -> Option<Location> {
        look_up(&self.locations, &what)
    }

    /// How many of a countable a person has.
    pub fn count(&self, who: Person, of: &'static Noun) -> usize {
        look_up(&self.counts, &(who, of)).unwrap_or(0)
    }

    /// The answer to `question`; none if the story has not settled it.
    pub fn answer(&self, question: Question) -> Option<Answer> {
        match question {
            Question::Where(thing) => match self.location(thing)? {
                Location::At(spot) => Some(Answer::Spot(spot)),
                Location::With(_) => None,
            },
            Question::Holder(thing) => match self.location(thing)? {
                Location::With(person) => Some(Answer::Person(person)),
                Location::At(_) => None,
            },
            Question::Owner(thing) | Question::FirstHolder(thing) | Question::Bringer(thing) => {
                look_up(&self.owners, &thing).map(Answer::Person)
            }
            Question::PetAt(pet) => look_up(&self.pets, &pet).map(Answer::Spot),
            Question::HowMany(who, of) => look_up(&self.counts, &(who, of)).map(Answer::Number),
            Question::Rank(place) => self.finishers.get(place).copied().map(Answer::Person),
            Question::Promised(who) => look_up(&self.promises, &who).map(Answer::Thing),
            Question::Secret => self.secret.map(Answer::Word),
            Question::Age(who) => look_up(&self.ages, &who).map(Answer::Number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pico::grammar::lexicon::{Gender, places, things};

    const TOM: Person = Person::child("Tom", Gender::Male);
    const MIA: Person = Person::child("Mia", Gender::Female);

    fn ball() -> Thing {
        Thing { noun: &things::LARGE[0], mark: "red" }
    }

    #[test]
    fn a_thing_follows_its_events() {
        let (mut world, what, spot) = (World::default(), ball(), &places::INDOORS[0]);
        assert_eq!(world.answer(Question::Where(what)), None);
        assert!(world.apply(Event::Get { who: TOM, what }));
        assert_eq!(world.answer(Question::Holder(what)), Some(Answer::Person(TOM)));
        assert!(world.apply(Event::Give { from: TOM, to: MIA, what }));
        assert!(world.apply(Event::Put { who: MIA, what, to: spot }));
        assert_eq!(world.answer(Question::Where(what)), Some(Answer::Spot(spot)));
        assert_eq!(world.answer(Question::Holder(what)), None);
        assert_eq!(world.answer(Question::Owner(what)), Some(Answer::Person(TOM)));
    }

    #[test]
    fn impossible_events_are_refused_and_change_nothing() {
        let (mut world, what, of) = (World::default(), ball(), &things::COUNTED[0]);
        assert!(world.apply(Event::Get { who: TOM, what }));
        assert!(!world.apply(Event::Give { from: MIA, to: TOM, what }), "one cannot give what one has not");
        assert!(!world.apply(Event::Put { who: MIA, what, to: &places::INDOORS[0] }));
        assert!(world.apply(Event::Gain { who: MIA, of, n: 2 }));
        assert!(!world.apply(Event::Lose { who: MIA, of, n: 3 }));
        assert!(world.apply(Event::Finish { who: TOM }));
        assert!(!world.apply(Event::Finish { who: TOM }));
        assert_eq!(world.answer(Question::Holder(what)), Some(Answer::Person(TOM)));
        assert_eq!(world.count(MIA, of), 2);
    }
}
