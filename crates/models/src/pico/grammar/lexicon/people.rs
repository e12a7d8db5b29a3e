//! Who appears in the stories.

use Gender::{Female, Male};

/// Grammatical gender of a character; it selects the pronouns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gender {
    /// he, him, his
    Male,
    /// she, her, her
    Female,
}

/// A character: a child, a grown-up or an animal. Names are unique within a story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person {
    /// As the narrator writes it: "Anna", "Grandpa", "Mrs Green".
    pub name: &'static str,
    /// Selects the pronouns.
    pub gender: Gender,
    /// Common noun: "girl", "baker", "dog".
    pub kind: &'static str,
}

impl Person {
    const fn new(name: &'static str, gender: Gender, kind: &'static str) -> Person {
        Person { name, gender, kind }
    }

    /// A child with this name.
    pub const fn child(name: &'static str, gender: Gender) -> Person {
        let kind = match gender {
            Gender::Male => "boy",
            Gender::Female => "girl",
        };
        Person::new(name, gender, kind)
    }
}

/// Names of girls.
pub const GIRLS: [&str; 24] = [
    "Ada", "Alice", "Amira", "Anna", "Clara", "Ella", "Emma", "Hanna", "Julia", "Leila", "Lena", "Lucy",
    "Maya", "Mei", "Mia", "Molly", "Nina", "Nora", "Polly", "Priya", "Rosa", "Sara", "Yuki", "Zoe",
];

/// Names of boys.
pub const BOYS: [&str; 24] = [
    "Adam", "Arthur", "Ben", "Eli", "Emil", "Felix", "Finn", "Henry", "Jack", "Kenji", "Leo", "Luke", "Max",
    "Milo", "Noah", "Oliver", "Omar", "Oscar", "Otto", "Pablo", "Peter", "Ravi", "Sam", "Tom",
];

/// Names of animals, for either gender.
pub const PET_NAMES: [&str; 12] = [
    "Bandit", "Biscuit", "Cocoa", "Ginger", "Nutmeg", "Patch", "Pepper", "Pip", "Rusty", "Shadow", "Snowy",
    "Tiger",
];

/// Animals that live with people and can hide.
pub const PET_KINDS: [&str; 8] = ["cat", "dog", "duck", "goat", "hen", "puppy", "rabbit", "tortoise"];

/// Grown-ups of the family; the narrator uses the word as a name.
pub const FAMILY: [Person; 6] = [
    Person::new("Mum", Female, "mother"),
    Person::new("Dad", Male, "father"),
    Person::new("Grandma", Female, "grandmother"),
    Person::new("Grandpa", Male, "grandfather"),
    Person::new("Aunt May", Female, "aunt"),
    Person::new("Uncle Joe", Male, "uncle"),
];

/// Grown-ups of the town with their trades.
pub const NEIGHBOURS: [Person; 10] = [
    Person::new("Mr Hill", Male, "baker"),
    Person::new("Mrs Green", Female, "gardener"),
    Person::new("Mr Stone", Male, "painter"),
    Person::new("Mrs Bell", Female, "teacher"),
    Person::new("Mr Fox", Male, "clockmaker"),
    Person::new("Mrs Lake", Female, "librarian"),
    Person::new("Mr Wood", Male, "carpenter"),
    Person::new("Miss Day", Female, "nurse"),
    Person::new("Mrs Reed", Female, "shopkeeper"),
    Person::new("Mr Brook", Male, "fisherman"),
];

/// What a child may be like.
pub const TRAITS: [&str; 14] = [
    "brave",
    "bright",
    "careful",
    "cheerful",
    "clever",
    "curious",
    "friendly",
    "gentle",
    "honest",
    "kind",
    "patient",
    "quiet",
    "shy",
    "thoughtful",
];

/// Something people like to do, in the verb forms that the templates use.
#[derive(Clone, Copy, Debug)]
pub struct Pastime {
    /// "draw pictures", after "to".
    pub base: &'static str,
    /// "drawing pictures", after "loved" or "was".
    pub gerund: &'static str,
}

const fn pastime(base: &'static str, gerund: &'static str) -> Pastime {
    Pastime { base, gerund }
}

/// What children like to do.
pub const PASTIMES: [Pastime; 15] = [
    pastime("build tall towers", "building tall towers"),
    pastime("climb trees", "climbing trees"),
    pastime("count the stars", "counting the stars"),
    pastime("dance in the kitchen", "dancing in the kitchen"),
    pastime("draw pictures", "drawing pictures"),
    pastime("feed the birds", "feeding the birds"),
    pastime("paint animals", "painting animals"),
    pastime("play the piano", "playing the piano"),
    pastime("read long books", "reading long books"),
    pastime("ride a bicycle", "riding a bicycle"),
    pastime("run and jump", "running and jumping"),
    pastime("sing old songs", "singing old songs"),
    pastime("swim", "swimming"),
    pastime("tell jokes", "telling jokes"),
    pastime("write letters", "writing letters"),
];
