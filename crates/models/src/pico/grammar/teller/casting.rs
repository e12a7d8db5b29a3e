//! Casting: characters, things and places that are new to the story.

use super::Teller;
use crate::pico::grammar::lexicon::people::{BOYS, FAMILY, GIRLS, NEIGHBOURS, PET_KINDS, PET_NAMES};
use crate::pico::grammar::lexicon::places::{OUTINGS, SKIES};
use crate::pico::grammar::lexicon::things::{COLOURS, LARGE, SMALL};
use crate::pico::grammar::lexicon::{Gender, Noun, Person, Place, Size, Sky, Spot, Thing};

impl Teller {
    /// An element of `pool` whose `key` the story does not use yet and that passes `accept`.
    fn fresh<T>(
        &mut self,
        pool: &'static [T],
        key: fn(&T) -> &'static str,
        accept: impl Fn(&T) -> bool,
    ) -> &'static T {
        let free: Vec<&'static T> =
            pool.iter().filter(|item| !self.taken.contains(&key(item)) && accept(item)).collect();
        let chosen = *self.rng.choose(&free);
        self.taken.push(key(chosen));
        chosen
    }

    fn child_of(&mut self, name: &'static str, gender: Gender) -> Person {
        let names: &'static [&'static str] = match gender {
            Gender::Female => &GIRLS,
            Gender::Male => &BOYS,
        };
        let chosen = *self.fresh(names, |n| n, |_| true);
        self.bind(name, Person::child(chosen, gender))
    }

    /// A child.
    pub fn child(&mut self, name: &'static str) -> Person {
        let gender = self.one_of(&[Gender::Female, Gender::Male]);
        self.child_of(name, gender)
    }

    /// A child to go with `other`, mostly of the other gender: that keeps pronouns clear.
    pub fn partner(&mut self, name: &'static str, other: Person) -> Person {
        let opposite = match other.gender {
            Gender::Female => Gender::Male,
            Gender::Male => Gender::Female,
        };
        let gender = if self.chance(0.8) { opposite } else { other.gender };
        self.child_of(name, gender)
    }

    /// A grown-up of the family.
    pub fn relative(&mut self, name: &'static str) -> Person {
        let person = *self.fresh(&FAMILY, |p| p.name, |_| true);
        self.bind(name, person)
    }

    /// A grown-up of the town.
    pub fn neighbour(&mut self, name: &'static str) -> Person {
        let person = *self.fresh(&NEIGHBOURS, |p| p.name, |_| true);
        self.bind(name, person)
    }

    /// An animal with a name.
    pub fn pet(&mut self, name: &'static str) -> Person {
        let gender = self.one_of(&[Gender::Female, Gender::Male]);
        let called = *self.fresh(&PET_NAMES, |n| n, |_| true);
        let kind = *self.fresh(&PET_KINDS, |k| k, |&k| k != "hen" || gender == Gender::Female);
        self.bind(name, Person { name: called, gender, kind })
    }

    /// A thing from `pool`.
    pub fn thing_from(&mut self, name: &'static str, pool: &'static [Noun]) -> Thing {
        let noun = self.fresh(pool, |n| n.singular, |_| true);
        let mark = self.one_of(noun.marks);
        self.bind(name, Thing { noun, mark })
    }

    /// A thing of any kind and size.
    pub fn thing(&mut self, name: &'static str) -> Thing {
        let size = self.one_of(&[Size::Small, Size::Large]);
        self.thing_of(name, size)
    }

    /// A thing of this size.
    pub fn thing_of(&mut self, name: &'static str, size: Size) -> Thing {
        self.thing_from(name, if size == Size::Small { &SMALL } else { &LARGE })
    }

    /// A thing that is told from its like by colour.
    pub fn coloured(&mut self, name: &'static str) -> Thing {
        let pool: &'static [Noun] = if self.chance(0.3) { &SMALL } else { &LARGE };
        let noun = self.fresh(pool, |n| n.singular, |n| n.marks == COLOURS);
        let mark = self.one_of(COLOURS);
        self.bind(name, Thing { noun, mark })
    }

    /// The same noun as `thing` with another mark.
    pub fn twin(&mut self, name: &'static str, thing: Thing) -> Thing {
        let others: Vec<&'static str> =
            thing.noun.marks.iter().copied().filter(|m| *m != thing.mark).collect();
        let mark = self.one_of(&others);
        self.bind(name, Thing { noun: thing.noun, mark })
    }

    /// Spots from `pool`, all different, in which a thing of this size fits.
    pub fn spots<const N: usize>(
        &mut self,
        names: [&'static str; N],
        pool: &'static [Spot],
        size: Size,
    ) -> [&'static Spot; N] {
        names.map(|name| {
            let spot = self.fresh(pool, |s| s.noun, |s| !s.tight || size == Size::Small);
            self.bind(name, spot)
        })
    }

    /// A destination that suits the weather.
    pub fn place(&mut self, name: &'static str) -> &'static Place {
        let fair = self.sky.fair;
        let place = self.fresh(&OUTINGS, |p| p.noun, |p| fair || p.sheltered);
        self.bind(name, place)
    }

    /// A destination under the open sky.
    pub fn open_place(&mut self, name: &'static str) -> &'static Place {
        let place = self.fresh(&OUTINGS, |p| p.noun, |p| !p.sheltered);
        self.bind(name, place)
    }

    /// Chooses the weather anew among the kinds in which one goes on an outing; comes before [`Teller::place`].
    pub fn fair_weather(&mut self) {
        let fair: Vec<&'static Sky> = SKIES.iter().filter(|sky| sky.fair).collect();
        self.sky = self.one_of(&fair);
    }
}
