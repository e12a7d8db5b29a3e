//! What the stories are about: nouns, and things that are a noun with a colour or another mark.

/// Grammatical number of a noun as the stories use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// "a ball", "it was"
    Singular,
    /// "a pair of boots", "they were"; the noun has no singular use
    Plural,
    /// "some honey", "it was"
    Mass,
}

/// How much room a thing needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Fits in a pocket.
    Small,
    /// Is carried in the hands.
    Large,
}

/// A common noun with its features.
#[derive(Debug, PartialEq, Eq)]
pub struct Noun {
    /// The form used for one thing ("ball"), or for a plural or mass noun its only form ("boots").
    pub singular: &'static str,
    /// The form after a number above one.
    pub plural: &'static str,
    /// Agreement of verbs and pronouns.
    pub number: Number,
    /// What replaces the indefinite article: "a pair of", "a jar of"; empty for a plain "a".
    pub measure: &'static str,
    /// Room it needs.
    pub size: Size,
    /// Adjectives that tell two such things apart.
    pub marks: &'static [&'static str],
}

/// One thing of a story: "the red ball". Two things of a story differ in noun or mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thing {
    /// What it is.
    pub noun: &'static Noun,
    /// Its adjective, empty if it has none.
    pub mark: &'static str,
}

/// Colours of cloth, paint and toys.
pub const COLOURS: &[&str] =
    &["red", "blue", "green", "yellow", "orange", "purple", "pink", "white", "black", "grey", "brown"];
const METALS: &[&str] = &["silver", "golden", "brass", "rusty", "shiny", "old"];
const NATURAL: &[&str] = &["white", "grey", "brown", "spotted", "striped", "smooth", "tiny"];
const WOODEN: &[&str] = &["wooden", "painted", "old", "little", "red", "blue", "green"];
const PLAIN: &[&str] = &[""];

const fn count(
    singular: &'static str,
    plural: &'static str,
    size: Size,
    marks: &'static [&'static str],
) -> Noun {
    Noun { singular, plural, number: Number::Singular, measure: "", size, marks }
}

const fn small(singular: &'static str, plural: &'static str, marks: &'static [&'static str]) -> Noun {
    count(singular, plural, Size::Small, marks)
}

const fn large(singular: &'static str, plural: &'static str, marks: &'static [&'static str]) -> Noun {
    count(singular, plural, Size::Large, marks)
}

const fn pair(plural: &'static str) -> Noun {
    let (number, measure) = (Number::Plural, "a pair of");
    Noun { singular: plural, plural, number, measure, size: Size::Large, marks: COLOURS }
}

const fn mass(singular: &'static str, measure: &'static str) -> Noun {
    Noun { singular, plural: singular, number: Number::Mass, measure, size: Size::Large, marks: PLAIN }
}

const fn several(plural: &'static str, measure: &'static str) -> Noun {
    Noun { singular: plural, plural, number: Number::Plural, measure, size: Size::Large, marks: PLAIN }
}

const fn fruit(singular: &'static str, plural: &'static str) -> Noun {
    small(singular, plural, PLAIN)
}

/// Things that fit in a pocket.
pub static SMALL: [Noun; 17] = [
    small("key", "keys", METALS),
    small("ring", "rings", METALS),
    small("whistle", "whistles", METALS),
    small("coin", "coins", METALS),
    small("bell", "bells", METALS),
    small("watch", "watches", METALS),
    small("compass", "compasses", METALS),
    small("spoon", "spoons", METALS),
    small("marble", "marbles", COLOURS),
    small("ribbon", "ribbons", COLOURS),
    small("pencil", "pencils", COLOURS),
    small("candle", "candles", COLOURS),
    small("toy car", "toy cars", COLOURS),
    small("feather", "feathers", NATURAL),
    small("shell", "shells", NATURAL),
    small("pebble", "pebbles", NATURAL),
    small("spinning top", "spinning tops", WOODEN),
];

/// Things that are carried in the hands.
pub static LARGE: [Noun; 23] = [
    large("ball", "balls", COLOURS),
    large("kite", "kites", COLOURS),
    large("hat", "hats", COLOURS),
    large("scarf", "scarves", COLOURS),
    large("umbrella", "umbrellas", COLOURS),
    large("blanket", "blankets", COLOURS),
    large("cap", "caps", COLOURS),
    large("backpack", "backpacks", COLOURS),
    large("notebook", "notebooks", COLOURS),
    large("teddy bear", "teddy bears", COLOURS),
    large("lantern", "lanterns", METALS),
    large("kettle", "kettles", METALS),
    large("drum", "drums", WOODEN),
    large("doll", "dolls", WOODEN),
    large("flute", "flutes", WOODEN),
    large("toy boat", "toy boats", WOODEN),
    large("toy train", "toy trains", WOODEN),
    large("puppet", "puppets", WOODEN),
    pair("boots"),
    pair("gloves"),
    pair("mittens"),
    pair("slippers"),
    pair("scissors"),
];

/// What a shop sells.
pub static GROCERIES: [Noun; 11] = [
    mass("bread", "a loaf of"),
    mass("honey", "a jar of"),
    mass("jam", "a jar of"),
    mass("milk", "a bottle of"),
    mass("butter", "some"),
    mass("rice", "a bag of"),
    mass("tea", "a box of"),
    mass("cream", "a cup of"),
    several("onions", "a bag of"),
    several("noodles", "a packet of"),
    several("mushrooms", "a basket of"),
];

/// What one takes to a picnic.
pub static PICNIC: [Noun; 10] = [
    mass("cheese", "a piece of"),
    mass("lemonade", "a jug of"),
    mass("salad", "a bowl of"),
    mass("juice", "a bottle of"),
    mass("chocolate", "a bar of"),
    several("grapes", "a bunch of"),
    several("pancakes", "a plate of"),
    several("sandwiches", "a pile of"),
    several("muffins", "a tin of"),
    count("melon", "melons", Size::Large, &["ripe", "huge"]),
];

/// What grows from seeds in a row.
pub static CROPS: [Noun; 7] = [
    several("carrots", "some"),
    several("beans", "some"),
    several("peas", "some"),
    several("tomatoes", "some"),
    several("pumpkins", "some"),
    several("tulips", "some"),
    several("radishes", "some"),
];

/// What one picks, counts and shares.
pub static COUNTED: [Noun; 10] = [
    fruit("apple", "apples"),
    fruit("pear", "pears"),
    fruit("plum", "plums"),
    fruit("orange", "oranges"),
    fruit("strawberry", "strawberries"),
    fruit("cherry", "cherries"),
    fruit("egg", "eggs"),
    fruit("biscuit", "biscuits"),
    fruit("sweet", "sweets"),
    fruit("acorn", "acorns"),
];

/// Kitchen powders that look alike.
pub static POWDERS: [Noun; 4] =
    [mass("sugar", "some"), mass("salt", "some"), mass("flour", "some"), mass("cocoa", "some")];

/// What is sent by post.
pub static POST: [Noun; 4] = [
    large("letter", "letters", PLAIN),
    large("parcel", "parcels", PLAIN),
    large("postcard", "postcards", PLAIN),
    large("newspaper", "newspapers", PLAIN),
];

/// What gives light when the lamps go out.
pub static LIGHTS: [Noun; 3] = [
    large("lantern", "lanterns", METALS),
    small("candle", "candles", COLOURS),
    small("torch", "torches", COLOURS),
];

/// What one wears to school, and what tells the new faces apart.
pub static CLOTHES: [Noun; 4] = [
    large("cap", "caps", COLOURS),
    large("scarf", "scarves", COLOURS),
    large("jumper", "jumpers", COLOURS),
    large("raincoat", "raincoats", COLOURS),
];

/// Presents that come in every colour.
pub static COLOURED: [Noun; 5] = [
    large("mug", "mugs", COLOURS),
    large("cushion", "cushions", COLOURS),
    large("jacket", "jackets", COLOURS),
    large("necklace", "necklaces", COLOURS),
    large("skipping rope", "skipping ropes", COLOURS),
];

/// What is baked.
pub static CAKE: Noun = large("cake", "cakes", PLAIN);

/// The prize of a race.
pub static RIBBON: Noun = small("ribbon", "ribbons", COLOURS);

/// What hides under the cups of a guessing game.
pub static COIN: Noun = small("coin", "coins", METALS);
