//! Plots that turn on what was promised, asked for, wished or agreed.

use crate::pico::grammar::lexicon::places::{INDOORS, KITCHEN, OUTDOORS};
use crate::pico::grammar::lexicon::things::{COLOURED, GROCERIES};
use crate::pico::grammar::lexicon::{Size, Thing};
use crate::pico::grammar::recall::recall;
use crate::pico::grammar::scenes::{Theme, aside_outdoors, close, open, sky_line};
use crate::pico::grammar::teller::Teller;
use crate::pico::grammar::world::Event::{Agree, Get, Give, Promise, Put};
use crate::pico::grammar::world::Question::{Holder, Promised, Secret, Where};

/// A child promises to bring something, is distracted, and remembers.
pub fn kept_promise(t: &mut Teller) {
    let a = t.child("a");
    let b = t.partner("b", a);
    let (x, y) = (t.thing("x"), t.thing("y"));
    let [s] = t.spots(["s"], &INDOORS, x.noun.size);
    let w = t.place("w");
    open(t);
    t.happen(Put { who: a, what: x, to: s });
    t.act(
        Promise { who: a, what: x },
        &[
            "\"I will bring you {x.the},\" {a} promised {a.his!} friend {b}. \"{x.It} {x.is} {s.at}.\"",
            "{b} was [ill|in bed with a cold], and {a} promised to bring {b.him!} {x.the} that lay {s.at}.",
            "[{a}|{a.he}] had promised to lend {x.the} to {b}. {x.It} {x.was} at home, {s.at}.",
        ],
    );
    t.say(&[
        "On the way home, however, {a} came past a crowd {w.at}.",
        "But the next day there was so much to see {w.at} that {a} thought of nothing else.",
        "But then a cousin came and took {a} {w.to}.",
    ]);
    t.say(&w.sights);
    t.act(
        Get { who: a, what: y },
        &[
            "Somebody had left {y.a} there, and {a} was allowed to keep {y.them}.",
            "[{a}|{a.he}] won {y.a} in a [game|contest] and was very [excited|proud].",
            "For a coin, {a} bought {y.a} there.",
        ],
    );
    aside_outdoors(t);
    t.say(&[
        "Suddenly {a} stopped. Had {a.he!} not promised something?",
        "When {a} saw a {b.kind} who looked like {b}, {a.he} turned pale: the promise!",
        "It was almost evening when {a} thought of {b} again.",
    ]);
    t.act(
        Get { who: a, what: x },
        &[
            "{a.He} raced home and took {x.the} {s.from}.",
            "Quickly {a.he} went home, looked {s.at} and grabbed {x.the}.",
        ],
    );
    t.act(
        Give { from: a, to: b, what: x },
        &[
            "[Ten|Five] minutes later, {a} stood at the door and gave {b} {x.the}.",
            "{b} had been waiting at the window all day. {a} gave {b.him} {x.the}, and {b.he} beamed.",
        ],
    );
    t.say(&[
        "\"I knew that you would come,\" said {b}.",
        "\"I am late, but I did not forget,\" said {a}.",
        "\"You kept your word,\" said {b} [happily|softly].",
    ]);
    recall(t, &[Promised(a), Holder(x), Holder(y)]);
    close(t, Theme::Promise);
}

/// Three things to buy, one of which is nearly forgotten.
pub fn errand(t: &mut Teller) {
    let a = t.child("a");
    t.partner("b", a);
    let m = t.relative("m");
    let goods = [t.thing_from("x", &GROCERIES), t.thing_from("y", &GROCERIES), t.thing_from("z", &GROCERIES)];
    let [s] = t.spots(["s"], &KITCHEN, Size::Large);
    open(t);
    t.say(&[
        "\"Please buy {x.a}, {y.a} and {z.a},\" said {m} and gave {a} [some money|a purse].",
        "{m} wanted to cook and sent {a} to the shop for {x.a}, {y.a} and {z.a}.",
        "\"We need three things,\" said {m}, \"{x.a}, {y.a} and {z.a}.\"",
    ]);
    t.say(&[
        "[{a}|{a.he}] did not write anything down. \"I can remember three things,\" {a.he} said.",
        "All the way, {a} repeated the list [in a whisper|like a song].",
    ]);
    aside_outdoors(t);
    let [p, q, last] = t.shuffled(goods);
    bind_goods(t, [p, q, last]);
    t.act(
        Get { who: a, what: p },
        &[
            "At the shop, {a.he} first took {i.the}.",
            "{i.The} {i.was} easy to find, and {a} put {i.them} into the basket.",
        ],
    );
    t.act(
        Get { who: a, what: q },
        &[
            "Then [{a}|{a.he}] found {j.the}, [high up on a shelf|behind the counter].",
            "Next to the door, {a.he} saw {j.the} and took {j.them}, too.",
        ],
    );
    t.say(&[
        "Just then {a.his!} friend {b} came in and told {a} a very long story about [a wasp|a lost tooth|a ghost].",
        "While {a} was talking to {b}, who was also shopping, the third thing slipped {a.his!} mind.",
    ]);
    t.say(&[
        "\"What else was there?\" {a} asked {a.himself}. It was not {i.the}, and it was not {j.the}.",
        "Two things were in the basket, {i.the} and {j.the}, but what was the third?",
    ]);
    t.act(Get { who: a, what: last }, &[
        "\"{k.The}!\" {a.he} cried at last and ran back to get {k.them}.",
        "\"Think of what {m} wants to cook,\" said {b}, and then {a.he} knew: {k.the}! {a} bought {k.them} with the last coins.",
    ]);
    t.happen(Give { from: a, to: m, what: p });
    t.happen(Give { from: a, to: m, what: q });
    t.act(
        Give { from: a, to: m, what: last },
        &[
            "At home, {m} looked into the basket and took out {x.the}, {y.the} and {z.the}.",
            "{m} unpacked everything: {x.the}, {y.the} and {z.the}. \"[Well done|Perfect]!\" {m.he} said.",
        ],
    );
    if t.has_room() {
        t.act(
            Put { who: m, what: last, to: s },
            &["{m} put {k.the} {s.at} [right away|at once].", "Then {m.he} put {k.the} {s.at}."],
        );
    }
    recall(t, &[Where(last), Holder(last), Holder(p), Holder(q)]);
    close(t, Theme::Memory);
}

/// Binds the goods in the order in which they are bought.
fn bind_goods(t: &mut Teller, goods: [Thing; 3]) {
    for (name, thing) in ["i", "j", "k"].into_iter().zip(goods) {
        t.bind(name, thing);
    }
}

/// A friend mentions a colour; the hero remembers it in front of two presents.
pub fn birthday(t: &mut Teller) {
    let a = t.child("a");
    let b = t.partner("b", a);
    let n = t.neighbour("n");
    let x = t.thing_from("x", &COLOURED);
    let y = t.twin("y", x);
    t.bind("hue", x.mark);
    let w = t.place("w");
    open(t);
    t.say(&[
        "[{a}|{a.he}] went {w.to} with {a.his!} best friend {b}.",
        "That day, {a} met {a.his!} friend {b} {w.at}.",
    ]);
    t.say(&w.sights);
    t.say(&[
        "\"My favourite colour is {hue},\" said {b} when they [sat down|shared an apple].",
        "{b} pointed at a {hue} [door|flower|flag]. \"That is the most beautiful colour of all,\" {b.he} said.",
        "\"If I could choose, everything would be {hue},\" {b} told {a}.",
    ]);
    t.say(&["A week later, it was {b.s} birthday.", "Some days passed, and {b.s} birthday came."]);
    t.maybe(
        0.5,
        &[
            "[{a}|{a.he}] emptied {a.his!} money box and found [four|five|six] coins.",
            "[{a}|{a.he}] wanted to give {b} something special.",
        ],
    );
    t.happen(Get { who: n, what: x });
    t.act(
        Get { who: n, what: y },
        &[
            "In a little shop, {n} had two {x.plural}, a {x.mark} one and a {y.mark} one.",
            "{n}, who kept a stall, showed {a} {y.the} and {x.the}.",
        ],
    );
    t.say(&[
        "\"The {y.mark} one is cheaper,\" said {n}, but [{a}|{a.he}] remembered what {b} had said.",
        "Which one would {b} like? {a} thought of that day {w.at}.",
        "\"The {y.mark} one is very pretty,\" said {n}. \"Yes,\" said {a}, \"but {b} likes another colour.\"",
    ]);
    t.act(
        Give { from: n, to: a, what: x },
        &[
            "So {a.he} bought {x.the} and wrapped it in [silver paper|an old map].",
            "\"I will take the {x.mark} one,\" said {a} and paid.",
        ],
    );
    t.act(
        Give { from: a, to: b, what: x },
        &[
            "At the party, {b} opened the present, and out came {x.the}. \"How did you know?\" {b.he} cried.",
            "{b} untied the string, saw {x.the} and hugged {a}. \"You remembered!\" {b.he} said.",
        ],
    );
    t.say(&[
        "There was cake with [nuts|cream], and they danced until dark.",
        "They played [hide-and-seek|music] until it was time to go.",
    ]);
    recall(t, &[Holder(x), Holder(y), Holder(x)]);
    close(t, Theme::Memory);
}

/// The words that open the door of a hut.
const SECRETS: [&str; 12] = [
    "moonlight",
    "pepper",
    "dragon",
    "cucumber",
    "thunder",
    "raspberry",
    "velvet",
    "lighthouse",
    "cinnamon",
    "firefly",
    "pirate",
    "whisper",
];

/// A secret word is agreed, and must be known again at the door.
pub fn secret_word(t: &mut Teller) {
    let a = t.child("a");
    let b = t.partner("b", a);
    let c = t.partner("c", b);
    let x = t.thing("x");
    let [_, r] = t.spots(["s", "r"], &OUTDOORS, Size::Large);
    let word = t.one_of(&SECRETS);
    t.bind("word", word);
    let others: Vec<&'static str> = SECRETS.into_iter().filter(|&other| other != word).collect();
    let wrong = t.one_of(&others);
    t.bind("wrong", wrong);
    open(t);
    t.say(&[
        "{a} and {b} had built a hut of branches {s.at}.",
        "{s.At}, there was a hut that {a} and {a.his!} friend {b} had built.",
    ]);
    t.act(
        Agree { word },
        &[
            "\"Nobody may come in without the secret word,\" {b} decided. \"The word is {word}.\"",
            "They agreed on a secret word, and the word was {word}.",
            "\"Our secret word is {word},\" whispered {b}. \"Do not tell anyone.\"",
        ],
    );
    t.act(
        Put { who: b, what: x, to: r },
        &[
            "Then {b} hid {x.a}, their treasure, {r.at}.",
            "Their treasure was {x.a}, and {b} hid {x.them} {r.at}.",
        ],
    );
    aside_outdoors(t);
    sky_line(t);
    t.say(&[
        "Two days later, {a} came back with {c}, who wanted to join them.",
        "The next afternoon, {a} brought {c} along.",
    ]);
    t.say(&[
        "\"Stop! What is the word?\" called {b} from inside.",
        "{b} sat in the hut and did not open. \"First the word,\" {b.he} said.",
    ]);
    t.say(&[
        "{c} guessed \"{wrong},\" but that was not it.",
        "\"{wrong.N}?\" tried {c}, but the door stayed shut.",
    ]);
    t.say(&[
        "[{a}|{a.he}] thought for a moment and said, \"{word.N}.\" The door opened.",
        "\"It is {word},\" said {a}, and {b} let them in.",
    ]);
    if t.chance(0.5) {
        t.act(
            Get { who: c, what: x },
            &[
                "They told {c} about the treasure {r.at}, and {c.he!} was allowed to fetch {x.them}.",
                "Because {c} was their friend now, {c.he} could look after {x.the} that had been {r.at}.",
            ],
        );
    } else {
        t.say(&[
            "They sat close together and told {c} [everything|all their secrets].",
            "From that day on, there were three of them in the hut.",
        ]);
    }
    recall(t, &[Secret, Where(x), Holder(x)]);
    close(t, Theme::Memory);
}
