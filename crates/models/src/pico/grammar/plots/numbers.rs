//! Plots that turn on how many, in which order, and under which cup.

use crate::pico::grammar::lexicon::places::CUPS;
use crate::pico::grammar::lexicon::things::{COIN, COLOURS, COUNTED, RIBBON};
use crate::pico::grammar::lexicon::{Noun, Person, Size, Spot, Thing};
use crate::pico::grammar::recall::recall;
use crate::pico::grammar::scenes::{Theme, aside_indoors, aside_outdoors, close, open};
use crate::pico::grammar::slot::Slot;
use crate::pico::grammar::teller::Teller;
use crate::pico::grammar::world::Event::{Finish, Gain, Get, Give, Lose, Put};
use crate::pico::grammar::world::Question::{Holder, HowMany, Rank, Where};

/// Binds `name` to "three apples".
fn counted(t: &mut Teller, name: &'static str, n: usize, of: &'static Noun) {
    t.bind(name, Slot::Counted(n, of));
}

/// Binds `{now}` to what `who` has.
fn balance(t: &mut Teller, who: Person, of: &'static Noun) {
    let n = t.world.count(who, of);
    counted(t, "now", n, of);
}

/// A basket fills and empties; the reader keeps count.
pub fn basket(t: &mut Teller) {
    let a = t.child("a");
    let b = t.partner("b", a);
    t.pet("p");
    let of = t.thing_from("x", &COUNTED).noun;
    let w = t.place("w");
    open(t);
    let start = t.number(4, 9);
    counted(t, "start", start, of);
    t.act(
        Gain { who: a, of, n: start },
        &[
            "[{a}|{a.he}] had a basket with {start} in it, and {a.he} wanted to take it to a friend.",
            "In {a.his!} basket, {a} had {start}.",
            "Grandfather had given {a} {start} and a basket to carry them in.",
        ],
    );
    t.say(&[
        "[{a}|{a.he}] walked {w.to}, swinging the basket.",
        "With the basket on {a.his} arm, {a} went {w.to}.",
    ]);
    t.say(&w.sights);
    let given = t.number(1, start - 2);
    counted(t, "given", given, of);
    t.happen(Gain { who: b, of, n: given });
    t.happen(Lose { who: a, of, n: given });
    balance(t, a, of);
    t.say(&[
        "There {a.he} met {b}, who was [hungry|a bit sad], and gave {b.him!} {given}. That left {now}.",
        "\"May I have some?\" asked {b}. {a} gave {b.him} {given} and kept {now} for {a.himself}.",
        "[{a}|{a.he}] shared with {b}: {given} for {b.him!}, and {now.n} for {a.himself}.",
    ]);
    aside_outdoors(t);
    match t.number(0, 2) {
        0 => find_more(t, a, of),
        1 => pet_steals(t, a, of),
        _ => {
            find_more(t, a, of);
            pet_steals(t, a, of);
        }
    }
    t.say(&[
        "At home, {a} put the basket on the table and counted once more.",
        "Then [{a}|{a.he}] carried the basket home, very carefully.",
        "\"Now let us count,\" said {b}, who had come along.",
    ]);
    recall(t, &[HowMany(a, of), HowMany(a, of), HowMany(b, of)]);
    close(t, Theme::Sharing);
}

fn find_more(t: &mut Teller, a: Person, of: &'static Noun) {
    let n = t.number(1, 5);
    let before = t.world.count(a, of);
    t.bind("before", before);
    counted(t, "more", n, of);
    t.happen(Gain { who: a, of, n });
    balance(t, a, of);
    t.say(&[
        "A kind old woman gave {a} {more}. {before} plus {more.n} makes {now.n}, so now there were {now}.",
        "Behind a cart, {a} found {more} in a paper bag. Together with the others, that made {now.n}.",
        "Then [{a}|{a.he}] helped a man with heavy bags and got {more} for it.",
    ]);
}

fn pet_steals(t: &mut Teller, a: Person, of: &'static Noun) {
    counted(t, "one", 1, of);
    t.happen(Lose { who: a, of, n: 1 });
    t.say(&[
        "But when {a} sat down to rest, a {p.kind} named {p} came by and stole {one}.",
        "On the way back, {a} stumbled, and {one} rolled [into a ditch|down a drain] and was gone.",
        "A cheeky {p.kind} called {p} jumped up and snatched {one} from the basket.",
    ]);
}

/// Three children race; the ribbons tell who came in when.
pub fn race(t: &mut Teller) {
    let a = t.child("a");
    let b = t.partner("b", a);
    let c = t.partner("c", b);
    let n = t.neighbour("n");
    t.fair_weather();
    let w = t.open_place("w");
    open(t);
    let [i, j, k] = t.shuffled([0, 1, 2]);
    let runners = [a, b, c];
    let order = [runners[i], runners[j], runners[k]];
    for (name, who) in ["first", "second", "third"].into_iter().zip(order) {
        t.bind(name, who);
    }
    t.say(&[
        "{w.At}, there was a [big|great] race that day, and {a}, {b} and {c} all wanted to run.",
        "\"Let us have a race,\" said {b}. {a} and {c} [agreed|liked the idea], so they met {w.at}.",
    ]);
    t.say(&w.sights);
    let ribbons = ribbons(t);
    t.say(&[
        "{n}, the {n.kind}, had brought ribbons: {v1.a} for the winner, {v2.a} for the second, and {v3.a} for the third.",
        "The prizes were three ribbons, and {n}, the {n.kind}, held them up: {v1.mark} for first, {v2.mark} for second, {v3.mark} for third.",
    ]);
    t.say(&[
        "\"Ready, steady, go!\" {n.he} [shouted|called].",
        "Somebody blew a whistle, and off they went.",
    ]);
    t.say(&[
        "At first, {third} was in front, but then {third.he} [got tired|lost a shoe|slipped in the mud].",
        "{third} [laughed|looked around] too much on the way and fell behind.",
        "{second} and {first} were [side by side|neck and neck] until the last bend.",
    ]);
    for who in order {
        t.happen(Finish { who });
    }
    t.say(&[
        "{first} reached the finish first, {second} came right after, and {third} was the last.",
        "It was {first} who won, just ahead of {second}. {third} came third.",
        "The winner was {first}. {third} came in last, a few steps behind {second}.",
    ]);
    for (what, to) in ribbons.into_iter().zip(order) {
        t.happen(Get { who: n, what });
        t.happen(Give { from: n, to, what });
    }
    t.say(&[
        "Everybody clapped, and each of the three was given the right ribbon.",
        "{n} gave out the ribbons [and shook their hands|with a serious face].",
    ]);
    t.maybe(
        0.6,
        &[
            "\"Next time I will be faster,\" said {third}, but {third.he!} was smiling.",
            "\"You are as quick as a [hare|fox],\" {third} said to {first}.",
        ],
    );
    let [v1, v2, v3] = ribbons;
    recall(t, &[Rank(0), Rank(1), Rank(2), Holder(v1), Holder(v2), Holder(v3)]);
    close(t, Theme::Patience);
}

/// Three ribbons of different colours, bound to `{v1}`, `{v2}`, `{v3}`.
fn ribbons(t: &mut Teller) -> [Thing; 3] {
    let start = t.number(0, COLOURS.len() - 1);
    let step = t.number(1, 3);
    let names = ["v1", "v2", "v3"];
    [0, 1, 2].map(|i| {
        let mark = COLOURS[(start + i * step) % COLOURS.len()];
        t.bind(names[i], Thing { noun: &RIBBON, mark })
    })
}

/// A coin moves from cup to cup, and one has to follow it.
pub fn three_cups(t: &mut Teller) {
    let a = t.child("a");
    let b = t.partner("b", a);
    let coin = Thing { noun: &COIN, mark: t.one_of(COIN.marks) };
    t.bind("x", coin);
    let cups = t.spots(["s", "r", "u"], &CUPS, Size::Small);
    open(t);
    t.act(
        Get { who: b, what: coin },
        &[
            "\"I will show you a trick,\" said {b} and took {x.a} out of {b.his!} pocket.",
            "{b} came to visit with {x.a} and three cups.",
            "{a.s} [cousin|friend] {b} knew a game with three cups and {x.a}.",
        ],
    );
    t.say(&[
        "On the table stood {s.name}, {r.name} and {u.name}.",
        "{b} set up {s.name}, {r.name} and {u.name} in a row.",
    ]);
    let mut under = t.number(0, 2);
    t.bind("f", cups[under]);
    t.act(
        Put { who: b, what: coin, to: cups[under] },
        &["First, {b} put {x.short} {f.at}.", "\"Watch closely,\" said {b} and hid {x.short} {f.at}."],
    );
    for _ in 0..t.number(1, 3) {
        under = (under + t.number(1, 2)) % 3;
        t.bind("f", cups[under]);
        t.act(
            Put { who: b, what: coin, to: cups[under] },
            &[
                "Then, [quick as lightning|with a flick of the hand], {b.he} moved it so that it was {f.at}.",
                "{b} lifted the cup, showed {x.short}, and slipped it {f.at}.",
                "Now {x.short} wandered on, and {b} left it {f.at}.",
                "After that, it went {f.at}.",
            ],
        );
        t.maybe(
            0.3,
            &[
                "[{a}|{a.he}] did not [blink|look away] for a moment.",
                "[{a}|{a.he}] leaned forward and [bit {a.his!} lip|held {a.his!} breath].",
                "\"Are you still watching?\" asked {b}.",
            ],
        );
    }
    guess(t, cups, under);
    recall(t, &[Where(coin), Where(coin), Holder(coin)]);
    close(t, Theme::Memory);
}

fn guess(t: &mut Teller, cups: [&'static Spot; 3], under: usize) {
    aside_indoors(t);
    if t.chance(0.6) {
        t.say(&[
            "\"Where is it?\" asked {b}. \"{f.At},\" [said|answered] {a}, and that was right.",
            "Without hesitating, {a} pointed at {f.name}. {b} lifted it, and there lay {x.short}.",
        ]);
    } else {
        t.bind("wrong", cups[(under + 1) % 3]);
        t.say(&[
            "\"Where is it?\" asked {b}. \"{wrong.At},\" said {a}, but {x.short} was {f.at}.",
            "[{a}|{a.he}] pointed at {wrong.name}, but it was empty. {b} laughed and showed that {x.short} lay {f.at}.",
        ]);
    }
    t.say(&[
        "\"[One more time|Again]!\" said {a}, but it was getting late.",
        "Then they [drank tea|ate cake] and talked about other tricks.",
        "\"How do you move your hands so fast?\" asked {a}. \"Practice,\" said {b}.",
    ]);
    t.maybe(
        0.5,
        &[
            "{x.The} stayed where it was until the next day.",
            "They left the cups as they were and went outside.",
        ],
    );
}
