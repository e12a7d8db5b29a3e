//! The narrator: casts a story, lets events happen, and writes the sentences.

mod casting;

use trimtab_math::random::Stream;

use super::discourse::Discourse;
use super::lexicon::places::SKIES;
use super::lexicon::{Person, Sky};
use super::slot::Slot;
use super::template::{Piece, capitalized, expand, pieces, polish};
use super::world::{Event, Question, World};

/// How often a sentence is drawn anew when it opens with the same word as one of the two before.
const REDRAWS: usize = 4;

/// From this number of words on, a story tells only what it must; it then ends below 220 words.
const ROOM: usize = 140;

/// A story in the making.
pub struct Teller {
    rng: Stream,
    /// What is the case so far.
    pub world: World,
    /// The weather.
    pub sky: &'static Sky,
    slots: Vec<(&'static str, Slot)>,
    discourse: Discourse,
    text: String,
    /// Names, nouns and spots that the story already uses.
    taken: Vec<&'static str>,
    /// Templates already told.
    told: Vec<&'static str>,
    /// First words of the last two templates told.
    openings: [String; 2],
    log: Vec<Event>,
    impossible: Vec<Event>,
    asked: Vec<(Question, String)>,
    people: Vec<Person>,
}

/// A finished story with the record of what happened in it.
#[derive(Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "the record is what the tests check the text against"))]
pub struct Telling {
    /// The story.
    pub text: String,
    /// Its events in order.
    pub log: Vec<Event>,
    /// Events that were told although they could not happen: a mistake in a plot.
    pub impossible: Vec<Event>,
    /// The questions of the story, each with the sentences that ask and answer it.
    pub asked: Vec<(Question, String)>,
    /// Everybody who could appear in it.
    pub people: Vec<Person>,
}

impl Teller {
    /// An empty page.
    pub fn new(mut rng: Stream) -> Teller {
        let sky = &SKIES[rng.below(SKIES.len())];
        Teller {
            rng,
            world: World::default(),
            sky,
            slots: Vec::new(),
            discourse: Discourse::default(),
            text: String::new(),
            taken: Vec::new(),
            told: Vec::new(),
            openings: Default::default(),
            log: Vec::new(),
            impossible: Vec::new(),
            asked: Vec::new(),
            people: Vec::new(),
        }
    }

    /// The story, complete.
    pub fn finish(self) -> Telling {
        let Teller { text, log, impossible, asked, people, .. } = self;
        Telling { text, log, impossible, asked, people }
    }

    /// Whether the story is short enough so far for sentences that it could do without.
    pub fn has_room(&self) -> bool {
        self.text.split(' ').count() < ROOM
    }

    /// True with probability `share`.
    pub fn chance(&mut self, share: f64) -> bool {
        self.rng.uniform() < share
    }

    /// A number from `low` to `high`, both included.
    pub fn number(&mut self, low: usize, high: usize) -> usize {
        low + self.rng.below(high - low + 1)
    }

    /// One of `items`.
    pub fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        *self.rng.choose(items)
    }

    /// `items` in a random order.
    pub fn shuffled<T, const N: usize>(&mut self, mut items: [T; N]) -> [T; N] {
        self.rng.shuffle(&mut items);
        items
    }

    /// Binds `name` for the templates; a later binding replaces an earlier one.
    pub fn bind<T: Copy + Into<Slot>>(&mut self, name: &'static str, value: T) -> T {
        let slot = value.into();
        self.slots.retain(|(known, _)| *known != name);
        self.slots.push((name, slot));
        if let Slot::Person(person) = slot
            && !self.people.contains(&person)
        {
            self.people.push(person);
        }
        value
    }

    /// The person bound to `name`.
    pub fn person(&self, name: &str) -> Option<Person> {
        self.slots.iter().find_map(|&(known, slot)| match slot {
            Slot::Person(person) if known == name => Some(person),
            _ => None,
        })
    }
}

/// Narration.
impl Teller {
    /// Tells one of the variants, preferring those not told yet and those that open unlike the last two sentences.
    pub fn say(&mut self, variants: &[&'static str]) {
        let told = self.draft(variants);
        self.commit(told);
    }

    /// Says one of the variants with this probability, if there is room.
    pub fn maybe(&mut self, share: f64, variants: &[&'static str]) {
        if self.chance(share) && self.has_room() {
            self.say(variants);
        }
    }

    /// Lets `event` happen and tells it.
    pub fn act(&mut self, event: Event, variants: &[&'static str]) {
        self.happen(event);
        self.say(variants);
    }

    /// Lets `event` happen; the next sentence must tell it.
    pub fn happen(&mut self, event: Event) {
        self.log.push(event);
        if !self.world.apply(event) {
            self.impossible.push(event);
        }
    }

    /// Asks and answers `question` in one of the variants.
    pub fn exchange(&mut self, question: Question, variants: &[&'static str]) {
        let told = self.draft(variants);
        self.asked.push((question, told.text.clone()));
        self.commit(told);
    }

    fn draft(&mut self, variants: &[&'static str]) -> Draft {
        let unused: Vec<&'static str> = variants.iter().copied().filter(|v| !self.told.contains(v)).collect();
        let pool = if unused.is_empty() { variants } else { &unused };
        let mut draft = self.render(pool);
        for _ in 0..REDRAWS {
            if !self.openings.contains(&draft.opening) {
                break;
            }
            draft = self.render(pool);
        }
        draft
    }

    fn render(&mut self, pool: &[&'static str]) -> Draft {
        let template = *self.rng.choose(pool);
        let expanded = expand(template, &mut self.rng);
        let mut discourse = self.discourse.clone();
        let mut text = String::new();
        for piece in pieces(&expanded) {
            match piece {
                Piece::Text(words) => {
                    discourse.read(words);
                    text.push_str(words);
                }
                Piece::Slot { name, form } => text.push_str(&self.fill(name, form, &mut discourse)),
            }
        }
        let text = polish(&text);
        let opening = text.split(' ').next().unwrap_or_default().trim_matches('"').to_string();
        Draft { template, text, discourse, opening }
    }

    /// The words of a slot. An unbound name or unknown form stays visible in braces, for the tests to find.
    fn fill(&self, name: &str, form: &str, discourse: &mut Discourse) -> String {
        let lower = form.to_lowercase();
        let slot = self.slots.iter().find(|(known, _)| *known == name).map(|&(_, slot)| slot);
        match slot.and_then(|slot| slot.render(&lower, discourse)) {
            Some(words) if lower != form => capitalized(&words),
            Some(words) => words,
            None => format!("{{{name}.{form}}}"),
        }
    }

    fn commit(&mut self, draft: Draft) {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(&draft.text);
        self.told.push(draft.template);
        self.discourse = draft.discourse;
        self.openings.rotate_left(1);
        self.openings[1] = draft.opening;
    }
}

/// One rendering of a template, not yet part of the story.
struct Draft {
    template: &'static str,
    text: String,
    discourse: Discourse,
    opening: String,
}
