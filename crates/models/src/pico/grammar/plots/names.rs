//! Plots that turn on who is who.

use crate::pico::grammar::lexicon::places::SCHOOL;
use crate::pico::grammar::lexicon::things::{CLOTHES, POST};
use crate::pico::grammar::lexicon::{Person, Size, Thing};
use crate::pico::grammar::recall::recall;
use crate::pico::grammar::scenes::{Theme, aside, aside_outdoors, close, open};
use crate::pico::grammar::teller::Teller;
use crate::pico::grammar::world::Event::{Get, Give, Put};
use crate::pico::grammar::world::Question::{Holder, Owner, Where};

/// Three deliveries, two of which get mixed up.
pub fn morning_post(t: &mut Teller) {
    let a = t.child("a");
    t.partner("b", a);
    let (k, l, n) = (t.neighbour("k"), t.neighbour("l"), t.neighbour("n"));
    let (x, y, z) = (t.thing_from("x", &POST), t.thing_from("y", &POST), t.thing_from("z", &POST));
    open(t);
    t.say(&[
        "The post office needed help, and {a} was allowed to deliver the post with {a.his!} friend {b}.",
        "Because the postwoman was ill, {a} and {b} delivered the post that day.",
    ]);
    for what in [x, y, z] {
        t.happen(Get { who: a, what });
    }
    t.say(&[
        "There was {x.a} for {k}, the {k.kind}, {y.a} for {l}, the {l.kind}, and {z.a} for {n}, the {n.kind}.",
        "In the bag were three things: {x.a} for {k} the {k.kind}, {y.a} for {l} the {l.kind}, and {z.a} for {n} the {n.kind}.",
    ]);
    aside_outdoors(t);
    let mixed_up = t.chance(0.5);
    let (first, second) = if mixed_up { (y, x) } else { (x, y) };
    t.bind("first", first);
    t.bind("second", second);
    t.act(
        Give { from: a, to: k, what: first },
        &[
            "At the first house, {a} gave {first.the} to {k}.",
            "{k} opened the door in [slippers|an apron] and took {first.the}.",
        ],
    );
    t.act(
        Give { from: a, to: l, what: second },
        &[
            "Then they rang at the next door, and {l} received {second.the}.",
            "{l} was working outside and was [happy|surprised] to get {second.the}.",
        ],
    );
    t.act(
        Give { from: a, to: n, what: z },
        &[
            "Last of all, {n} got {z.the} [and smiled|].",
            "{z.The} was for {n}, who lived [at the end of the road|behind the church].",
        ],
    );
    if mixed_up {
        put_right(t, [k, l], [x, y]);
    } else {
        t.say(&[
            "\"Everything in the right place,\" said {b} and shut the empty bag.",
            "They had not made a single mistake, and the bag was empty.",
        ]);
    }
    t.say(&[
        "[At the post office|Afterwards], they were given [hot chocolate|two stamps with birds on them].",
        "Their feet hurt, but they were [proud|very proud] of their work.",
    ]);
    recall(t, &[Holder(x), Holder(y), Holder(z)]);
    close(t, Theme::Memory);
}

fn put_right(t: &mut Teller, [k, l]: [Person; 2], [x, y]: [Thing; 2]) {
    t.say(&[
        "\"Wait,\" said {b}. \"{x.The} was for {k}, and {y.the} was for {l}!\"",
        "Then {b} looked at the list and gasped. They had mixed up {x.the} and {y.the}.",
    ]);
    t.happen(Give { from: k, to: l, what: y });
    t.act(Give { from: l, to: k, what: x }, &[
        "They ran back, [out of breath|as fast as they could], and put it right: now {k} had {x.the}, and {l} had {y.the}.",
        "So they turned around and exchanged the two. In the end, {k} held {x.the}, and {l} held {y.the}.",
    ]);
}

/// A new pupil learns who wears what, and later returns a lost piece.
pub fn new_pupil(t: &mut Teller) {
    let a = t.child("a");
    let b = t.partner("b", a);
    let (c, d) = (t.child("c"), t.child("d"));
    let x = t.thing_from("x", &CLOTHES);
    let y = t.twin("y", x);
    let z = t.thing_from("z", &CLOTHES);
    let [s, r] = t.spots(["s", "r"], &SCHOOL, Size::Large);
    open(t);
    t.say(&[
        "It was {a.s} first day at a new school, and {a.he} did not know anyone.",
        "[{a}|{a.he}] had just moved, and everything at the new school was strange to {a.him}.",
    ]);
    for (who, what) in [(b, x), (c, y), (d, z)] {
        t.happen(Get { who, what });
    }
    t.say(&[
        "The {b.kind} with {x.the} was called {b}, the {c.kind} with {y.the} was {c}, and {d} wore {z.a}.",
        "{a.He} tried to remember the names: {b} had {x.a}, {c} had {y.a}, and {d} had {z.a}.",
    ]);
    t.say(&[
        "In the first lesson, they [learned a song|counted in French|drew a map of the town].",
        "The lessons were [long|easy], and there was [rice|soup] for lunch.",
    ]);
    aside(t);
    let (owner, what) = t.one_of(&[(b, x), (c, y)]);
    t.bind("o", owner);
    t.bind("v", what);
    t.act(
        Put { who: owner, what, to: s },
        &[
            "After school, {v.a} lay {s.at}.",
            "When the bell rang, everyone ran out, and {v.a} was left lying {s.at}.",
        ],
    );
    t.say(&[
        "\"Whose {v.noun} is this?\" asked the [teacher|caretaker]. Nobody answered except {a}.",
        "The [teacher|caretaker] held it up, but nobody seemed to know whose it was.",
    ]);
    t.say(&[
        "\"That is {o.s},\" said {a}. \"I remember it.\"",
        "\"I know,\" said {a}. \"It belongs to {o}.\"",
    ]);
    if t.chance(0.6) {
        t.happen(Get { who: a, what });
        t.act(Give { from: a, to: owner, what }, &[
            "[{a}|{a.he}] ran after {o} and gave {o.him} {v.the}. From then on, they were friends.",
            "At the gate, {a} caught up with {o}, who had not noticed anything, and gave {o.him} {v.the}.",
        ]);
    } else {
        t.act(Put { who: a, what, to: r }, &[
            "Because {o} had already gone home, {a} put {v.the} {r.at} for the night.",
            "{o} was gone by then, so [{a}|{a.he}] took {v.the} and kept {v.them} {r.at} until the next day.",
        ]);
    }
    recall(t, &[Owner(x), Owner(y), Where(what), Holder(z)]);
    close(t, Theme::Memory);
}
