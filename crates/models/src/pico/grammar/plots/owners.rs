//! Plots that turn on who has a thing, and whose it is.

use crate::pico::grammar::lexicon::places::OUTDOORS;
use crate::pico::grammar::lexicon::{Person, Size, Thing};
use crate::pico::grammar::recall::recall;
use crate::pico::grammar::scenes::{Theme, aside_outdoors, close, open};
use crate::pico::grammar::teller::Teller;
use crate::pico::grammar::world::Event::{Get, Give, Put};
use crate::pico::grammar::world::Question::{FirstHolder, Holder, Owner};

/// Two or three children trade what they have.
pub fn fair_trade(t: &mut Teller) {
    let a = t.child("a");
    let b = t.partner("b", a);
    let c = t.child("c");
    let (x, y, z) = (t.thing("x"), t.thing("y"), t.thing("z"));
    let w = t.place("w");
    open(t);
    t.act(
        Get { who: a, what: x },
        &[
            "[{a}|{a.he}] left the house with {x.a} that {a.he!} had owned for years.",
            "In {a.his!} bag {a} had {x.a}, but {a.he} was [a little|] tired of {x.them}.",
            "[{a}|{a.he}] had {x.a}, a present from {a.his!} godmother.",
        ],
    );
    t.act(
        Get { who: b, what: y },
        &[
            "{w.At}, {a.he} met {b}, who was playing with {y.a}.",
            "On the way {w.to}, {a} ran into {b}, who had {y.a}.",
            "{b}, whom {a} met {w.at}, had {y.a}.",
        ],
    );
    t.say(&w.sights);
    t.say(&[
        "\"{y.That} {y.is} [wonderful|beautiful],\" said {a}. \"Would you trade {y.them} for my {x.noun}?\"",
        "[{a}|{a.he}] looked at {y.the} for a long time. \"Shall we trade?\" {a.he} asked.",
        "\"I have always wanted {y.a},\" said {a}. \"Would you like to have {x.the} instead?\"",
    ]);
    t.say(&[
        "{b} [thought about it|scratched {b.his!} head|took {b.his!} time], and then {b.he!} nodded.",
        "\"Why not?\" said {b}, and they shook hands.",
        "\"Agreed,\" said {b} [at once|after a while].",
    ]);
    t.happen(Give { from: a, to: b, what: x });
    t.act(
        Give { from: b, to: a, what: y },
        &[
            "So {b} got {x.the}, and {a} got {y.the}.",
            "[{a}|{a.he}] gave {x.the} away and received {y.the}.",
            "{x.The} went to {b}, and {y.the} went to {a}.",
        ],
    );
    aside_outdoors(t);
    if t.chance(0.6) {
        second_trade(t, [b, c], x, z);
    }
    t.say(&[
        "On the way home, {a} [whistled|sang] and felt like a real [merchant|captain].",
        "[{a}|{a.he}] walked home, very content with {a.his!} new {y.noun}.",
        "When they said goodbye, both were sure that they had made the better trade.",
    ]);
    recall(t, &[Holder(x), Holder(y), FirstHolder(x), FirstHolder(y)]);
    close(t, Theme::Sharing);
}

fn second_trade(t: &mut Teller, [b, c]: [Person; 2], x: Thing, z: Thing) {
    t.act(
        Get { who: c, what: z },
        &["A little later, {c} came along with {z.a}.", "Then {c} turned up. {c.He} had brought {z.a}."],
    );
    t.say(&[
        "{b} could not take {b.his!} eyes off {z.them}.",
        "\"I would give anything for {z.that},\" said {b}.",
        "\"Would you swap {z.that} with me?\" {b} asked [politely|at once].",
    ]);
    t.happen(Give { from: c, to: b, what: z });
    t.act(Give { from: b, to: c, what: x }, &[
        "In the end, {c} took {x.the}, and {b} kept {z.the}.",
        "{c} did not mind, and so {x.the} changed hands again: {c} had {x.them} now, and {b} had {z.the}.",
    ]);
}

/// A thing is lent, lent on, and fetched back, or forgotten somewhere.
pub fn lent_on(t: &mut Teller) {
    let a = t.child("a");
    let b = t.partner("b", a);
    let c = t.partner("c", b);
    let x = t.thing_of("x", Size::Large);
    let [s] = t.spots(["s"], &OUTDOORS, Size::Large);
    open(t);
    t.act(
        Get { who: a, what: x },
        &[
            "[{a}|{a.he}] was [very|] proud of {x.a} that {a.he!} had got for {a.his!} birthday.",
            "Some days before, {a} had got {x.a}.",
            "With {a.his!} own money, {a} had bought {x.a}.",
        ],
    );
    t.say(&[
        "\"May I borrow {x.short}?\" asked {b}, who lived next door.",
        "{b}, the neighbours' child, asked if {b.he!} could borrow {x.short}.",
    ]);
    t.act(
        Give { from: a, to: b, what: x },
        &[
            "\"Of course, but be careful,\" said {a} and gave {x.them} to {b.him}.",
            "[{a}|{a.he}] handed {x.short} over. \"Only until [Sunday|tomorrow|the weekend],\" {a.he} said.",
        ],
    );
    aside_outdoors(t);
    t.act(
        Give { from: b, to: c, what: x },
        &[
            "But {b} had a friend, {c}, who begged so long that {b} passed {x.short} on to {c.him!}.",
            "The next day, {b} lent {x.the} to {c}, without asking {a}.",
            "Soon {b} was tired of {x.short}, and {b.he} lent {x.them} to {c}.",
        ],
    );
    let forgotten = t.chance(0.55);
    if forgotten {
        t.act(
            Put { who: c, what: x, to: s },
            &[
                "{c} played with {x.them} outside and then left {x.them} {s.at}.",
                "When it began to get dark, {c} went in and forgot {x.the} {s.at}.",
            ],
        );
    }
    ask_along(t);
    t.say(if forgotten {
        &[
            "{c} [turned red|looked at {c.his!} shoes]. \"I left {x.them} {s.at},\" {c.he} said.",
            "\"I am so sorry,\" said {c}. \"{x.It} must still be {s.at}.\"",
        ]
    } else {
        &[
            "\"Here {x.it} {x.is},\" said {c}. \"I did not know that {x.it} {x.was} yours.\"",
            "{c} had taken good care of {x.the} and [fetched|brought] {x.them} at once.",
        ]
    });
    let back = if forgotten { Get { who: a, what: x } } else { Give { from: c, to: a, what: x } };
    t.act(
        back,
        if forgotten {
            &[
                "All three ran there, and {a} pulled {x.short} {s.from}, [a bit|slightly] wet but whole.",
                "They went to look together, and {a} found {x.short} {s.at}.",
            ]
        } else {
            &["[{a}|{a.he}] took {x.the} back and [smiled|was glad].", "So {a} had {x.the} again."]
        },
    );
    t.say(&[
        "\"Next time I will ask you first,\" promised {b}.",
        "\"Please tell me when you lend something of mine,\" {a} said to {b}.",
        "{b} said that {b.he!} was sorry, and {a} forgave {b.him!}.",
    ]);
    recall(t, &[Holder(x), Owner(x)]);
    close(t, Theme::Order);
}

fn ask_along(t: &mut Teller) {
    t.say(&[
        "On [Sunday|Saturday], {a} wanted {x.short} back, but {b} [blushed|looked away]. \"I gave {x.them} to {c},\" {b.he} said.",
        "A few days later, {a} asked for {x.short}. \"{c} has {x.them} now,\" {b} had to admit.",
    ]);
    t.maybe(
        0.7,
        &[
            "So they went to see {c} [together|right away].",
            "[{a}|{a.he}] was not pleased, and they both went to {c}.",
        ],
    );
}

/// A found thing goes back to the one of two who can describe it.
pub fn lost_property(t: &mut Teller) {
    let a = t.child("a");
    let b = t.partner("b", a);
    let c = t.partner("c", b);
    let x = t.coloured("x");
    t.twin("y", x);
    let z = t.thing_of("z", Size::Small);
    let [s] = t.spots(["s"], &OUTDOORS, x.noun.size);
    let w = t.place("w");
    open(t);
    t.happen(Get { who: c, what: x });
    t.act(
        Put { who: c, what: x, to: s },
        &[
            "The day before, {c} had lost {x.a} {s.at}, but [{a}|{a.he}] could not know that.",
            "What {a} did not know was that {c} had dropped {x.a} {s.at} the day before.",
        ],
    );
    t.say(&[
        "[{a}|{a.he}] was on {a.his!} way {w.to}.",
        "{a.He} had been sent {w.to} to deliver a message.",
        "After lunch, {a} took a walk {w.to}.",
    ]);
    t.act(
        Get { who: a, what: x },
        &[
            "There {a.he} saw something {s.at}: it was {x.a}.",
            "When {a.he} stopped to tie {a.his!} shoe, {a.he} found {x.a} {s.at}.",
            "Halfway there, {a.he} discovered {x.a} {s.at} and picked {x.them} up.",
        ],
    );
    t.say(&w.sights);
    t.say(&[
        "The first person {a} asked was {b}. \"I have lost {y.a},\" said {b}, \"so this is not mine.\"",
        "\"Have you lost {x.any}?\" {a} asked {b}. \"Yes,\" said {b}, \"but mine {y.is} {y.mark}.\"",
    ]);
    t.say(&[
        "Then {c} came along, looking at the ground as if {c.he!} were searching for something.",
        "A little later, {a} saw {c}, who looked [very|rather] unhappy.",
    ]);
    t.say(&[
        "\"What have you lost?\" asked {a}. \"{x.A},\" said {c}. \"{x.It} {x.was} a present.\"",
        "\"I am looking for {x.a},\" {c} explained. \"I must have dropped {x.them} yesterday.\"",
    ]);
    t.act(
        Give { from: a, to: c, what: x },
        &[
            "[{a}|{a.he}] opened {a.his!} bag and gave {x.the} to {c}, who jumped for joy.",
            "\"Then {x.this} must belong to you,\" said {a} and handed {c} {x.the}.",
        ],
    );
    if t.chance(0.5) {
        t.happen(Get { who: c, what: z });
        t.act(
            Give { from: c, to: a, what: z },
            &[
                "As a reward, {c} gave {a} {z.a}.",
                "\"Take {z.this} as a thank-you,\" said {c}, and {a} went home with {z.a}.",
            ],
        );
    } else {
        t.say(&[
            "\"Thank you!\" cried {c}. \"I will never lose {x.them} again.\"",
            "{c} thanked {a} [three times|again and again].",
        ]);
    }
    recall(t, &[Holder(x), Owner(x), Holder(z)]);
    close(t, Theme::Kindness);
}
