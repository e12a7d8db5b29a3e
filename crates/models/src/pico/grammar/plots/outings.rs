//! Plots of a day out or a day's work: who brought what, what grows where, which clue leads on, what is in which jar.

use crate::pico::grammar::lexicon::places::{BEDS, JARS, KITCHEN, OUTDOORS};
use crate::pico::grammar::lexicon::things::{CAKE, CROPS, PICNIC, POWDERS};
use crate::pico::grammar::lexicon::{Person, Size, Spot, Thing};
use crate::pico::grammar::recall::recall;
use crate::pico::grammar::scenes::{Theme, aside, aside_outdoors, close, open, sky_line};
use crate::pico::grammar::teller::Teller;
use crate::pico::grammar::world::Event::{Get, Give, Put};
use crate::pico::grammar::world::Question::{Bringer, Holder, Where};

/// Three friends bring something each; something goes wrong, and they share.
pub fn picnic(t: &mut Teller) {
    let a = t.child("a");
    let b = t.partner("b", a);
    let c = t.child("c");
    let goods = [t.thing_from("x", &PICNIC), t.thing_from("y", &PICNIC), t.thing_from("z", &PICNIC)];
    t.fair_weather();
    let w = t.open_place("w");
    open(t);
    t.say(&[
        "\"Let us have a picnic {w.at},\" said {a} to {b} and {c}.",
        "{a}, {b} and {c} had planned a picnic {w.at}.",
        "At noon, {a} met {b} and {c} for a picnic {w.at}.",
    ]);
    for (who, what) in [a, b, c].into_iter().zip(goods) {
        t.happen(Get { who, what });
    }
    t.say(&[
        "[{a}|{a.he}] carried {x.a}, {b} brought {y.a}, and in {c.s} bag there {z.was} {z.a}.",
        "{b} had brought {y.a}, {c} came with {z.a}, and {a} unpacked {x.a}.",
        "There was plenty to eat: {x.a} from {a}, {y.a} from {b} and {z.a} from {c}.",
    ]);
    t.say(&w.sights);
    sky_line(t);
    mishap(t, [b, c], goods[1]);
    t.say(&[
        "They ate until nothing was left but crumbs.",
        "Everything tasted twice as good in the open air.",
        "When the last bite was gone, they lay on their backs and watched the [birds|clouds].",
    ]);
    aside_outdoors(t);
    recall(t, &[Bringer(goods[0]), Bringer(goods[1]), Bringer(goods[2])]);
    close(t, Theme::Sharing);
}

fn mishap(t: &mut Teller, [b, c]: [Person; 2], y: Thing) {
    match t.number(0, 2) {
        0 => t.act(Give { from: b, to: c, what: y }, &[
            "{b} could not open {y.the}, so {b.he!} gave {y.them} to {c}, who [managed it|did it] at once.",
            "\"Could you hold {y.this} for a moment?\" {b} asked {c} and ran after {b.his!} hat.",
        ]),
        1 => t.say(&[
            "Ants marched across the blanket, and they had to move twice.",
            "A gust of wind carried off the napkins, and everyone ran after them.",
        ]),
        _ => t.say(&[
            "\"I forgot the spoons!\" cried {a}, so they ate with their fingers.",
            "Nobody had thought of a blanket, but the [grass|ground] was soft enough.",
        ]),
    }
}

/// Seeds are sown in three beds, and the sign is lost.
pub fn garden(t: &mut Teller) {
    let a = t.child("a");
    let b = t.partner("b", a);
    let m = t.relative("m");
    let crops = [t.thing_from("x", &CROPS), t.thing_from("y", &CROPS), t.thing_from("z", &CROPS)];
    let beds = t.spots(["s", "r", "u"], &BEDS, Size::Large);
    t.fair_weather();
    open(t);
    t.say(&[
        "{m} had a large garden and three bags of seeds, and {a} and {b} wanted to help.",
        "\"Today we will sow,\" said {m} and gave a bag of seeds to {a} and two to {b}.",
        "{a} and {b} were helping {m} in the garden.",
    ]);
    for ((what, to), who) in crops.into_iter().zip(beds).zip([a, b, b]) {
        t.happen(Put { who, what, to });
    }
    t.say(&[
        "[{a}|{a.he}] sowed {x.plural} {s.at}, and {b} sowed {y.plural} {r.at} and {z.plural} {u.at}.",
        "The {x.plural} went into the earth {s.at}, the {y.plural} {r.at}, and the {z.plural} {u.at}.",
    ]);
    t.say(&[
        "{m} wrote three signs, but in the night the wind blew them away.",
        "They wrote the names on paper, but the next rain washed the ink off.",
    ]);
    t.say(&[
        "Weeks went by. {a} watered everything each [morning|evening], and small green tips appeared.",
        "Every day after school, {a} pulled out the weeds, and slowly the plants grew.",
    ]);
    aside_outdoors(t);
    t.say(&[
        "\"What is growing {r.at}?\" asked {m}. {b} had forgotten, but [{a}|{a.he}] had not. \"{y.Plural},\" {a.he} said.",
        "\"What have we got here, {r.at}?\" asked {m}. \"Wait and see,\" said {b}. \"{y.Plural}!\" said {a}.",
        "A visitor asked what was growing {s.at}. \"{x.Plural},\" {a} said proudly.",
    ]);
    if t.chance(0.5) {
        harvest(t, m, crops[2]);
    } else {
        t.say(&["And when summer came, it turned out to be true.", "Before long, everyone could see it."]);
    }
    t.say(&[
        "{m} had never seen such [strong|beautiful] plants.",
        "\"You have green fingers,\" said {m}.",
        "The snails left [almost|nearly] everything alone that year.",
    ]);
    recall(t, &[Where(crops[0]), Where(crops[1]), Where(crops[2]), Holder(crops[2])]);
    close(t, Theme::Patience);
}

fn harvest(t: &mut Teller, m: Person, z: Thing) {
    t.act(Get { who: m, what: z }, &[
        "In late summer, {m} took the {z.plural} {u.from} and [filled a bucket|invited the whole street].",
        "The {z.plural} were ready first, and {m} carried them into the house.",
    ]);
}

/// One clue leads to the next, and the last to a treasure.
pub fn treasure_hunt(t: &mut Teller) {
    let a = t.child("a");
    let b = t.partner("b", a);
    let m = t.relative("m");
    let x = t.thing("x");
    let [s, r, u] = t.spots(["s", "r", "u"], &OUTDOORS, Size::Large);
    open(t);
    t.act(
        Put { who: m, what: x, to: u },
        &[
            "{m} had hidden {x.a} somewhere outside, and nobody else knew where.",
            "Early in the morning, {m} had gone out to hide {x.a}.",
        ],
    );
    t.say(&[
        "Under {a.his} plate, {a} found a note. \"Look {s.at},\" it said.",
        "{m} winked and gave {a} and {b} a slip of paper with the words \"Start {s.at}.\"",
    ]);
    t.say(&[
        "[{a}|{a.he}] took {b} along, and they ran off.",
        "\"A treasure hunt!\" cried {b}, and they were out of the door.",
    ]);
    aside_outdoors(t);
    clue(t, s, r);
    t.maybe(
        0.5,
        &[
            "{b} fell over a root but got up [at once|again] and laughed.",
            "They [stopped|rested] to catch their breath.",
        ],
    );
    clue(t, r, u);
    t.act(
        Get { who: a, what: x },
        &[
            "They hurried, and {u.at} lay {x.the}. {a} picked {x.them} up and held {x.them} high.",
            "[{a}|{a.he}] got there first, reached out, and found {x.the} {u.at}.",
        ],
    );
    match t.number(0, 2) {
        0 => t.act(Give { from: a, to: b, what: x }, &[
            "\"You take {x.them},\" {a} said to {b}. \"You have earned {x.them}.\"",
            "But it was {b.s} birthday soon, so [{a}|{a.he}] gave {x.the} to {b.him!}.",
        ]),
        1 => t.act(Give { from: a, to: m, what: x }, &[
            "They brought {x.the} back to {m}, who promised to hide {x.them} again [the next week|one day].",
        ]),
        _ => t.say(&[
            "\"{x.It} {x.is} yours now,\" said {m}, and {a} [danced around the house|could hardly believe it].",
        ]),
    }
    recall(t, &[Holder(x), Holder(x), Where(x)]);
    close(t, Theme::Patience);
}

/// At `from`, the children find the clue that leads to `to`.
fn clue(t: &mut Teller, from: &'static Spot, to: &'static Spot) {
    t.bind("from", from);
    t.bind("to", to);
    t.say(&[
        "{from.At}, there was another piece of paper. It said, \"Look {to.at} next.\"",
        "{from.At}, {b} found a bottle with a message in it: \"Now search {to.at}.\"",
        "The next note was {from.at}. {a} read it aloud: \"You are close! Look {to.at}.\"",
        "Somebody had pinned a card there, {from.at}, and on it was written, \"Try your luck {to.at}.\"",
    ]);
}

/// Powders that look alike are in jars, and a cake depends on who remembers which is which.
pub fn baking_day(t: &mut Teller) {
    let a = t.child("a");
    t.partner("b", a);
    let m = t.relative("m");
    let powders = [t.thing_from("x", &POWDERS), t.thing_from("y", &POWDERS), t.thing_from("z", &POWDERS)];
    let jars = t.spots(["s", "r", "u"], &JARS, Size::Large);
    let [shelf] = t.spots(["v"], &KITCHEN, Size::Large);
    open(t);
    t.say(&[
        "{a} and {a.his!} friend {b} wanted to bake a cake for {m}.",
        "\"Shall we bake a cake?\" asked {m}, and {a} and {b} ran into the kitchen.",
    ]);
    for (what, to) in powders.into_iter().zip(jars) {
        t.happen(Put { who: m, what, to });
    }
    t.say(&[
        "\"Remember,\" said {m}, \"{x.the} is {s.at}, {y.the} is {r.at}, and {z.the} is {u.at}.\"",
        "{m} kept {x.the} {s.at}, {y.the} {r.at} and {z.the} {u.at}.",
    ]);
    t.say(&["Then the telephone rang, and {m} left the kitchen.", "Then {m} went to feed the hens."]);
    aside(t);
    t.say(&[
        "{b} broke [two|three|four] eggs into a bowl, and {a} melted the butter.",
        "[{a}|{a.he}] put on an apron that was much too long, and {b} heated the oven.",
    ]);
    let careful = t.chance(0.5);
    t.say(&[
        "\"Now we need {y.the},\" {b} read in the book. \"Which one is it?\"",
        "\"Where was {y.the} again?\" {b} asked.",
    ]);
    if careful {
        t.say(&[
            "[{a}|{a.he}] thought of what {m} had said. \"It is {r.at},\" {a.he} said, and tasted a little to be sure.",
            "\"{r.At},\" said {a} without looking up.",
        ]);
    } else {
        t.say(&[
            "[{a}|{a.he}] reached for {s.name} by mistake. \"Stop!\" cried {b}. \"{x.The} is in there! {y.The} is {r.at}.\"",
            "\"{u.At}, I think,\" said {a}, but luckily {b} tasted it first. It was {z.the}! {y.The} was {r.at}.",
        ]);
    }
    let cake = Thing { noun: &CAKE, mark: "" };
    t.bind("k", cake);
    t.act(
        Put { who: a, what: cake, to: shelf },
        &[
            "An hour later, the cake was done, and {a} put it {v.at} to cool.",
            "The cake rose and turned golden brown, and {a} left it {v.at} until supper.",
        ],
    );
    t.say(&["Everyone had two pieces.", "\"It is the best cake in the world,\" said {m}."]);
    recall(t, &[Where(powders[0]), Where(powders[1]), Where(powders[2])]);
    close(t, Theme::Memory);
}
