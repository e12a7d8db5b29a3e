//! What every story shares: how it opens, what passes in between, and how it closes.

use super::lexicon::people::{PASTIMES, TRAITS};
use super::lexicon::places::HOMES;
use super::teller::Teller;
use super::world::Event;

/// What a story is about; selects its moral.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    /// Things have their places.
    Order,
    /// Giving and taking.
    Sharing,
    /// Keeping one's word.
    Promise,
    /// Helping each other.
    Kindness,
    /// Not giving up.
    Patience,
    /// Being afraid and doing it anyway.
    Courage,
    /// Looking closely and remembering.
    Memory,
}

/// Introduces `{a}`, the day and the weather.
pub fn open(t: &mut Teller) {
    let Some(hero) = t.person("a") else { return };
    let word = t.one_of(&TRAITS);
    t.bind("trait", word);
    let home = t.one_of(&HOMES);
    t.bind("home", home);
    let years = t.number(6, 11);
    t.bind("age", years);
    let pastime = t.one_of(&PASTIMES);
    t.bind("pastime", pastime.base);
    t.bind("doing", pastime.gerund);
    let month = t.one_of(&t.sky.months);
    t.bind("month", month);
    t.bind("sky", t.sky.word);
    if t.chance(0.4) {
        t.act(Event::Age { who: hero, years }, &AGED_INTRODUCTIONS);
    } else {
        t.say(&INTRODUCTIONS);
    }
    t.say(&DAYS);
    if t.chance(0.5) {
        sky_line(t);
    }
}

const AGED_INTRODUCTIONS: [&str; 4] = [
    "{a} was a {trait} {a.kind} of {age} who [loved|liked] {doing}.",
    "{a} was {age} years old, and what {a.he} liked best was {doing}.",
    "When this story begins, {a} was {age} years old and lived {home}.",
    "[There was once|Once there was] a {trait} {a.kind} called {a}, who was {age} years old and loved to {pastime}.",
];

const INTRODUCTIONS: [&str; 7] = [
    "[Once upon a time,|Once,|Long ago,|Many years ago,] there was a {trait} {a.kind} called {a} who lived {home}.",
    "{a} and {a.his!} [parents|grandparents|mother|father|big family] lived {home}.",
    "In our street lived a {trait} {a.kind} named {a}, who [loved|liked] {doing}.",
    "Nobody loved {doing} more than {a}, a {trait} {a.kind} who lived {home}.",
    "This is a story about {a}, a {trait} {a.kind} who lived {home}.",
    "A {trait} {a.kind} named {a} lived {home}, and {a.he} [often|always] wanted to {pastime}.",
    "Have you heard of {a}? {a.He} was a {trait} {a.kind} who lived {home}.",
];

const DAYS: [&str; 7] = [
    "[One|On a] {sky} [morning|day], [{a}|{a.he}] was looking for something to do.",
    "It was a {sky} morning in {month}.",
    "One {sky} [Monday|Tuesday|Wednesday|Thursday|Friday], [{a}|{a.he}] [looked out of the window|could not sit still].",
    "The day was {sky}, and [{a}|{a.he}] was in a [good|cheerful|strange] mood.",
    "On the day of this story, the weather was {sky}.",
    "One {sky} morning in {month}, [{a}|{a.he}] woke up before everybody else.",
    "The [streets|roads] were [empty|quiet] that {sky} morning, and [{a}|{a.he}] felt that something would happen.",
];

/// One sentence about the weather.
pub fn sky_line(t: &mut Teller) {
    let lines = t.sky.lines;
    t.say(&lines);
}

/// Something at home that has nothing to do with the story, so that there is something to remember across.
pub fn aside_indoors(t: &mut Teller) {
    if t.chance(0.6) { t.say(&INDOORS) } else { t.say(&ANYWHERE) }
}

/// The same at any place.
pub fn aside(t: &mut Teller) {
    t.say(&ANYWHERE);
}

/// The same in the open.
pub fn aside_outdoors(t: &mut Teller) {
    if t.chance(0.6) { t.say(&OUTDOORS) } else { t.say(&ANYWHERE) }
}

const INDOORS: [&str; 8] = [
    "The clock in the hall ticked [loudly|softly].",
    "Next door, somebody was practising the [violin|trumpet].",
    "A [ladybird|fly] walked across the window.",
    "From the kitchen came the smell of [soup|fresh bread|cinnamon].",
    "A neighbour knocked, said hello, and went on.",
    "Upstairs, somebody was walking up and down.",
    "The telephone rang, but it was a wrong number.",
    "The kettle sang in the kitchen, and a door [closed|creaked] softly.",
];

const OUTDOORS: [&str; 7] = [
    "A [yellow|heavy] truck rolled slowly down the road.",
    "Two sparrows were quarrelling over a crumb.",
    "A neighbour waved over the fence.",
    "A plane drew a thin line across the sky.",
    "A man came past on a [squeaky|green] bicycle.",
    "The smell of [soup|fresh bread] came from an open window.",
    "A cat with white paws watched from a wall.",
];

const ANYWHERE: [&str; 8] = [
    "Somewhere a dog barked, and another one answered.",
    "Far off, a train whistled.",
    "{a} hummed a [little|merry] tune and thought of [supper|nothing in particular|the holidays].",
    "For a while nothing happened at all.",
    "Somewhere a door [slammed|creaked].",
    "{a} yawned and [stretched|rubbed {a.his!} eyes].",
    "Time passed [quickly|slowly], as it [often|sometimes] does.",
    "Bells were ringing in the distance, and {a} counted [five|six|seven] strokes.",
];

/// Ends the story: a moral, a wish, a look back, or bedtime.
pub fn close(t: &mut Teller, theme: Theme) {
    match t.number(0, 3) {
        0 => t.say(moral(theme)),
        2 => t.say(&ENDINGS),
        _ if !t.has_room() => t.say(moral(theme)),
        1 => t.say(&WISHES),
        _ => {
            t.say(&ENDINGS);
            t.say(moral(theme));
        }
    }
}

const WISHES: [&str; 5] = [
    "Before {a} fell asleep, {a.he} wished for [another day like this|many more such days|a day just as good].",
    "\"I wish every day [were|could be] like this,\" {a} [said|whispered] that night.",
    "[{a}|{a.he}] looked at the first star and made a wish, but {a.he} never told anyone what it was.",
    "\"If I had one wish,\" said {a}, \"I would do it all again.\"",
    "That night [{a}|{a.he}] wished that all {a.his!} friends were as happy as {a.he!} was.",
];

const ENDINGS: [&str; 8] = [
    "That night [{a}|{a.he}] slept [deeply|well] and dreamed of [the sea|flying|summer|a long journey].",
    "[{a}|{a.he}] told the story to everyone who wanted to hear it.",
    "And that was the end of a [long|good|strange] day.",
    "When the lamp was out, {a} [smiled in the dark|was still thinking about it].",
    "[Everyone laughed, and [{a}|{a.he}] laughed loudest of all|Everyone was content, and {a} most of all].",
    "They still talk about it today.",
    "[{a}|{a.he}] wrote it all down in {a.his!} diary, so that it would not be forgotten.",
    "[In the evening|At supper], [{a}|{a.he}] had [much|a lot] to tell.",
];

fn moral(theme: Theme) -> &'static [&'static str] {
    match theme {
        Theme::Order => &[
            "If everything has its place, nothing is lost for long.",
            "[{a}|{a.he}] had learned that it is wise to put things back where they belong.",
            "A tidy house saves a lot of searching.",
        ],
        Theme::Sharing => &[
            "What we share [makes us|can make us] twice as happy.",
            "[{a}|{a.he}] had learned that giving can be [better|more fun] than keeping.",
            "There is always enough when people share.",
        ],
        Theme::Promise => &[
            "A promise is a promise, even a small one.",
            "[{a}|{a.he}] was glad that {a.he} had kept {a.his!} word.",
            "People trust those who keep their word.",
        ],
        Theme::Kindness => &[
            "A little kindness goes a long way.",
            "[{a}|{a.he}] had learned that nobody is too small to help.",
            "Whoever helps others is never alone.",
        ],
        Theme::Patience => &[
            "Good things [take time|come to those who wait].",
            "[{a}|{a.he}] had learned not to give up too soon.",
            "With patience, [almost|nearly] everything works out in the end.",
        ],
        Theme::Courage => &[
            "Being brave does not mean that one is never afraid.",
            "[{a}|{a.he}] had learned that the dark is only a room without light.",
            "Fear grows smaller when friends stand together.",
        ],
        Theme::Memory => &[
            "It pays to look closely and to remember.",
            "[{a}|{a.he}] had learned to keep {a.his!} eyes open.",
            "A good memory is worth more than gold.",
        ],
    }
}
