//! Where the stories happen: spots that hold things, outings, homes and skies.

/// A spot where a thing or an animal can be: "under the bed".
#[derive(Debug, PartialEq, Eq)]
pub struct Spot {
    /// Preposition of rest: "in", "on", "under", "behind", "beside".
    pub prep: &'static str,
    /// The rest, without its article "the".
    pub noun: &'static str,
    /// Only small things fit.
    pub tight: bool,
}

const fn roomy(prep: &'static str, noun: &'static str) -> Spot {
    Spot { prep, noun, tight: false }
}

const fn tight(prep: &'static str, noun: &'static str) -> Spot {
    Spot { prep, noun, tight: true }
}

/// Spots in a house.
pub static INDOORS: [Spot; 28] = [
    roomy("under", "bed"),
    roomy("behind", "sofa"),
    roomy("on", "top shelf"),
    roomy("in", "toy box"),
    roomy("under", "stairs"),
    roomy("in", "kitchen cupboard"),
    roomy("on", "piano"),
    roomy("behind", "curtain"),
    roomy("in", "hall closet"),
    roomy("on", "windowsill"),
    roomy("in", "old trunk"),
    roomy("behind", "bookcase"),
    roomy("in", "pantry"),
    roomy("in", "bathtub"),
    roomy("under", "kitchen table"),
    roomy("beside", "fireplace"),
    roomy("on", "armchair"),
    roomy("in", "attic"),
    roomy("behind", "front door"),
    tight("in", "kitchen drawer"),
    tight("in", "biscuit tin"),
    tight("under", "doormat"),
    tight("behind", "clock"),
    tight("in", "empty teapot"),
    tight("under", "pillow"),
    tight("in", "sewing box"),
    tight("in", "coat pocket"),
    tight("under", "rug"),
];

/// Spots in the open.
pub static OUTDOORS: [Spot; 17] = [
    roomy("under", "old oak tree"),
    roomy("behind", "big rock"),
    roomy("in", "hollow log"),
    roomy("beside", "pond"),
    roomy("under", "wooden bridge"),
    roomy("behind", "well"),
    roomy("in", "haystack"),
    roomy("beside", "garden gate"),
    roomy("in", "rose bushes"),
    roomy("under", "green bench"),
    roomy("behind", "stone wall"),
    roomy("in", "tool shed"),
    roomy("in", "wheelbarrow"),
    roomy("under", "apple tree"),
    roomy("in", "tall grass"),
    roomy("beside", "fountain"),
    roomy("on", "tree stump"),
];

/// Spots in a kitchen, for food.
pub static KITCHEN: [Spot; 6] = [
    roomy("in", "pantry"),
    roomy("on", "kitchen table"),
    roomy("in", "cupboard"),
    roomy("on", "windowsill"),
    roomy("in", "cellar"),
    roomy("on", "stove"),
];

/// Spots in a school.
pub static SCHOOL: [Spot; 8] = [
    roomy("under", "teacher's desk"),
    roomy("behind", "blackboard"),
    roomy("in", "corridor"),
    roomy("on", "coat rack"),
    roomy("under", "long bench"),
    roomy("in", "music room"),
    roomy("on", "staircase"),
    roomy("beside", "globe"),
];

/// Beds of a garden, for sowing.
pub static BEDS: [Spot; 6] = [
    roomy("beside", "fence"),
    roomy("under", "kitchen window"),
    roomy("behind", "greenhouse"),
    roomy("beside", "garden path"),
    roomy("in", "sunny corner"),
    roomy("beside", "rain barrel"),
];

/// Jars and tins of a kitchen that differ by colour.
pub static JARS: [Spot; 6] = [
    roomy("in", "blue jar"),
    roomy("in", "green jar"),
    roomy("in", "white pot"),
    roomy("in", "yellow tin"),
    roomy("in", "tall glass"),
    roomy("in", "round bowl"),
];

/// Cups of a guessing game.
pub static CUPS: [Spot; 6] = [
    tight("under", "red cup"),
    tight("under", "blue cup"),
    tight("under", "yellow cup"),
    tight("under", "white cup"),
    tight("under", "green cup"),
    tight("under", "striped cup"),
];

/// A destination: "to the park", "in the park".
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// Preposition of rest.
    pub prep: &'static str,
    /// The rest, without its article "the".
    pub noun: &'static str,
    /// Whether people go there in bad weather, too.
    pub sheltered: bool,
    /// What one sees there: whole sentences.
    pub sights: [&'static str; 3],
}

const fn open(prep: &'static str, noun: &'static str, sights: [&'static str; 3]) -> Place {
    Place { prep, noun, sheltered: false, sights }
}

const fn sheltered(prep: &'static str, noun: &'static str, sights: [&'static str; 3]) -> Place {
    Place { prep, noun, sheltered: true, sights }
}

/// Destinations outside the house.
pub static OUTINGS: [Place; 15] = [
    open(
        "in",
        "park",
        [
            "Ducks swam across the pond.",
            "Two old men were playing chess on a bench.",
            "A small band was playing near the fountain.",
        ],
    ),
    open(
        "in",
        "forest",
        [
            "The forest smelled of pine and wet earth.",
            "A woodpecker was knocking on a [dead|tall] tree.",
            "Mushrooms stood in a ring between the roots.",
        ],
    ),
    open(
        "on",
        "beach",
        [
            "Small waves rolled over the sand.",
            "Seagulls circled above the water.",
            "Far away, a white ship moved along the coast.",
        ],
    ),
    sheltered(
        "at",
        "market",
        [
            "A woman was selling baskets from a cart.",
            "The stalls were full of [fruit|cheese] and noise.",
            "Somebody was shouting the price of [fish|potatoes].",
        ],
    ),
    sheltered(
        "at",
        "library",
        [
            "It was so quiet that one could hear the pages turn.",
            "Tall shelves reached [almost|nearly] to the ceiling.",
            "A sleepy man was reading the newspaper in a corner.",
        ],
    ),
    open(
        "at",
        "farm",
        [
            "Cows looked over the fence with big, calm eyes.",
            "A proud rooster stood on the roof of the barn.",
            "The farmer's tractor rumbled in the field.",
        ],
    ),
    open(
        "by",
        "river",
        [
            "The water [ran|hurried] over round stones.",
            "A patient heron was waiting for fish.",
            "Dragonflies [danced|flew] above the reeds.",
        ],
    ),
    open(
        "by",
        "lake",
        [
            "The lake was as smooth as a mirror.",
            "A boat with a red sail drifted past.",
            "Frogs jumped into the water, one after another.",
        ],
    ),
    sheltered(
        "at",
        "harbour",
        [
            "Sailors were mending their nets.",
            "Boats with funny names rocked side by side.",
            "The air tasted of salt and fish.",
        ],
    ),
    sheltered(
        "at",
        "station",
        [
            "A long train rolled in with a hiss.",
            "Travellers hurried past with heavy suitcases.",
            "The big clock above the platform struck [two|three].",
        ],
    ),
    open(
        "at",
        "playground",
        [
            "Many children were waiting for the slide.",
            "The swings creaked as they went up and down.",
            "Somebody had built a castle in the sandpit.",
        ],
    ),
    sheltered(
        "at",
        "museum",
        [
            "In the first room stood the bones of a whale.",
            "A guard in a dark uniform nodded politely.",
            "Old paintings looked down from every wall.",
        ],
    ),
    open(
        "in",
        "meadow",
        [
            "Bees [hummed|were busy] in the clover.",
            "A brown hare stopped, listened, and ran away.",
            "Butterflies rested on the thistles.",
        ],
    ),
    open(
        "in",
        "orchard",
        [
            "The branches were heavy with fruit.",
            "A ladder leaned against the oldest tree.",
            "Birds were singing in the leaves.",
        ],
    ),
    open(
        "in",
        "village square",
        [
            "The church bell rang [twice|three times].",
            "Pigeons walked about as if they owned the place.",
            "A man with a violin was playing a slow song.",
        ],
    ),
];

/// Where a family lives.
pub const HOMES: [&str; 13] = [
    "in a little house at the edge of town",
    "at the end of a quiet street",
    "on the top floor of a tall building",
    "in a cottage near the mountains",
    "in a small village in a green valley",
    "above a shop that sold lamps",
    "in a white house on a hill",
    "near an old castle",
    "on a busy street in the city",
    "on a small island",
    "behind the railway bridge",
    "in a house with a large garden",
    "next to the fire station",
];

/// The weather of a story.
#[derive(Debug)]
pub struct Sky {
    /// Adjective of the day.
    pub word: &'static str,
    /// When such weather is usual.
    pub months: [&'static str; 3],
    /// Whether people would have a picnic.
    pub fair: bool,
    /// Sentences that describe it.
    pub lines: [&'static str; 4],
}

/// Every kind of weather.
pub static SKIES: [Sky; 6] = [
    Sky {
        word: "sunny",
        months: ["May", "June", "July"],
        fair: true,
        lines: [
            "The sun [shone|was shining] on the [rooftops|windows].",
            "There was not a [single|] cloud in the sky.",
            "Sunlight lay on everything like [warm|melted] butter.",
            "The air was warm and smelled of [grass|flowers].",
        ],
    },
    Sky {
        word: "mild",
        months: ["spring", "April", "September"],
        fair: true,
        lines: [
            "A few soft clouds drifted [by|past].",
            "A [gentle|light] breeze moved the leaves.",
            "The sky was pale and [calm|friendly].",
            "Birds were singing [on the roof|in the hedge].",
        ],
    },
    Sky {
        word: "windy",
        months: ["spring", "March", "September"],
        fair: true,
        lines: [
            "The wind [shook|rattled] the shutters.",
            "Leaves [danced|flew] along the street.",
            "Washing flapped on every line.",
            "Clouds raced across the sky.",
        ],
    },
    Sky {
        word: "rainy",
        months: ["April", "October", "autumn"],
        fair: false,
        lines: [
            "Rain [drummed|tapped] on the roof.",
            "There were [deep|wide] puddles in the road.",
            "Drops ran down the [window|glass] in crooked lines.",
            "Everybody [hurried|walked] along with wet shoes.",
        ],
    },
    Sky {
        word: "snowy",
        months: ["December", "January", "February"],
        fair: false,
        lines: [
            "Snow lay on the [fences|roofs] like a thick blanket.",
            "Icicles hung from the gutters.",
            "Big flakes fell without a sound.",
            "It was so cold that one could see one's breath.",
        ],
    },
    Sky {
        word: "foggy",
        months: ["October", "November", "autumn"],
        fair: false,
        lines: [
            "Fog filled the street like [milk|smoke].",
            "One could hardly see the house next door.",
            "The street lamps were [small|pale] moons in the mist.",
            "Every sound seemed to come from far away.",
        ],
    },
];
