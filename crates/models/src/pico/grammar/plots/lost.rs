//! Plots that turn on where something is.

use crate::pico::grammar::lexicon::places::{INDOORS, OUTDOORS};
use crate::pico::grammar::lexicon::things::LIGHTS;
use crate::pico::grammar::lexicon::{Person, Size, Thing};
use crate::pico::grammar::recall::recall;
use crate::pico::grammar::scenes::{Theme, aside_indoors, close, open};
use crate::pico::grammar::teller::Teller;
use crate::pico::grammar::world::Event::{Get, Give, Put, Settle};
use crate::pico::grammar::world::Question::{Holder, Owner, PetAt, Where};

/// A child leaves a thing at home; a sibling may move it meanwhile; it is looked for and found.
pub fn moved_while_away(t: &mut Teller) {
    let a = t.child("a");
    let b = t.partner("b", a);
    let x = t.thing("x");
    let [s, r, u] = t.spots(["s", "r", "u"], &INDOORS, x.noun.size);
    let w = t.place("w");
    open(t);
    t.say(&[
        "[{a}|{a.he}] shared a room with {a.his!} [little|big] {b.sibling} {b}.",
        "{a.s} [younger|older] {b.sibling} was called {b}.",
        "[{a}|{a.he}] had a [younger|older] {b.sibling} named {b}.",
    ]);
    t.act(Get { who: a, what: x }, &[
        "{a} [owned|had] {x.a} that {a.he!} loved more than anything [else|in the world].",
        "Of all {a.his} things, {a} loved {x.a} that [a kind uncle|an old friend|a sailor] had given {a.him!}.",
        "For {a.his} birthday, {a} had been given {x.a}.",
        "{a.s} greatest treasure was {x.a} from [a flea market|a far country].",
    ]);
    t.act(Put { who: a, what: x, to: s }, &[
        "[After breakfast|Before lunch], {a.he} put {x.short} {s.at} and [set off|walked|went] {w.to}.",
        "{a.He} wanted to go {w.to}, so {a.he} left {x.the} {s.at}[, where nobody would step on {x.them}|].",
        "\"I will leave my {x.noun} {s.at},\" said {a}, and then {a.he!} went {w.to}.",
    ]);
    t.say(&w.sights);
    if t.chance(0.65) {
        t.act(Put { who: b, what: x, to: r }, &[
            "While {a} was away, {b} [tidied the house|swept the floor|cleaned the room] and put {x.the} {r.at}.",
            "At home, {b} found {x.the} and, [wanting to be helpful|afraid that somebody might step on {x.them}], put {x.them} {r.at}.",
            "Meanwhile {b} had taken {x.the} {s.from} and put {x.them} {r.at}.",
        ]);
        aside_indoors(t);
        look_and_ask(t);
    } else {
        aside_indoors(t);
        think_back(t);
    }
    if t.chance(0.7) && t.has_room() {
        t.act(Put { who: a, what: x, to: u }, &[
            "From then on, {a} kept {x.the} {u.at}.",
            "This time, {a} put {x.the} {u.at} and told everyone about it.",
            "\"{x.This} {x.is} going to stay {u.at} from now on,\" said {a}, and that is where {a.he!} put {x.them}.",
        ]);
    }
    recall(t, &[Where(x), Where(x), Owner(x)]);
    close(t, Theme::Order);
}

fn look_and_ask(t: &mut Teller) {
    t.say(&[
        "[When|As soon as] {a} came [home|back], {a.he} looked {s.at}, but {x.the} {x.was} [gone|not there].",
        "Back home, {a} went straight to look {s.at}. There was nothing there [at all|except dust].",
    ]);
    t.maybe(
        0.5,
        &[
            "{a.He} searched {u.at} and found only [an old newspaper|a lost sock|two dead flies].",
            "{a.He} checked {u.at}, too, but no luck.",
        ],
    );
    t.say(&[
        "\"Have you seen my {x.noun}?\" asked {a}. \"Yes, I put {x.them} {r.at},\" [said|answered] {b}.",
        "\"My {x.noun} {x.has} disappeared!\" cried {a}. {b} shook {b.his!} head. \"No, {x.it} {x.is} {r.at},\" {b.he} said.",
        "\"Where {x.is} my {x.noun}?\" {a} wanted to know. \"Look {r.at},\" [said|replied] {b} with a smile.",
    ]);
    t.say(&[
        "[{a}|{a.he}] ran to look, and there {x.it} {x.was}, [safe and sound|just as {b} had said].",
        "And indeed, there {x.it} {x.was}, {r.at}.",
    ]);
}

fn think_back(t: &mut Teller) {
    t.say(&[
        "[When|By the time] {a} came home, {a.he} had forgotten where {x.the} {x.was}.",
        "Back home, {a} could not remember where {a.he!} had left {x.the}.",
    ]);
    t.say(&[
        "{a.He} searched {u.at} and {r.at}, but found only [crumbs|a lost sock|an old newspaper].",
        "{x.The} {x.was} not {r.at}, and {x.it} {x.was} not {u.at} either.",
    ]);
    t.say(&[
        "\"Think back,\" said {b}. \"What did you do before you went {w.to}?\"",
        "\"Where did you have {x.them} last?\" asked {b}.",
    ]);
    t.say(&[
        "Then [{a}|{a.he}] remembered. {x.The} had to be {s.at}, and there {x.it} {x.was}.",
        "[{a}|{a.he}] thought hard, went to look {s.at}, and laughed: {x.the} had been there all the time.",
    ]);
}

/// Three things are put away; later one of them is needed.
pub fn tidied_up(t: &mut Teller) {
    let a = t.child("a");
    let b = t.partner("b", a);
    let m = t.relative("m");
    let (x, y, z) = (t.thing_of("x", Size::Small), t.thing_of("y", Size::Large), t.thing("z"));
    let [s] = t.spots(["s"], &INDOORS, Size::Small);
    let [r, u] = t.spots(["r", "u"], &INDOORS, Size::Large);
    open(t);
    t.say(&[
        "{b} had come to play, and soon the whole room was a mess.",
        "Together with {a.his!} friend {b}, {a} had turned the house upside down.",
        "{a} and {b} had played all day, and toys lay everywhere.",
    ]);
    t.say(&[
        "\"Please tidy up before [supper|our guests come],\" said {m}.",
        "{m} came in, [frowned|sighed], and asked them to put everything away.",
    ]);
    t.act(
        Put { who: a, what: x, to: s },
        &[
            "[First|To begin with], {a} put {x.the} {s.at}.",
            "[{a}|{a.he}] took {x.the} and put {x.them} {s.at}.",
        ],
    );
    t.act(
        Put { who: a, what: y, to: r },
        &[
            "After that, {a.he} laid {y.the} {r.at}.",
            "{y.The} {y.was} next, and {a.he} put {y.them} {r.at}.",
            "For {y.the}, {a.he} found a place {r.at}.",
        ],
    );
    t.act(
        Put { who: b, what: z, to: u },
        &[
            "Meanwhile {b} picked up {z.the} and put {z.them} {u.at}.",
            "\"{z.This} {z.belongs} {u.at},\" said {b}, and so {b.he!} put {z.the} there.",
            "{b} helped, too: {z.the} ended up {u.at}.",
        ],
    );
    t.say(&[
        "Now one could see the [floor|carpet] again, and {m} gave each of them a [biscuit|pear].",
        "When they had finished, the room looked [bigger|brand new].",
    ]);
    aside_indoors(t);
    fetch_one(t, m, y);
    recall(t, &[Where(x), Where(z), Holder(y)]);
    close(t, Theme::Order);
}

fn fetch_one(t: &mut Teller, m: Person, y: Thing) {
    t.say(&[
        "[An hour later|The next morning|After supper], {m} was looking for {y.the}.",
        "[Later|The next day], {m} came back. \"I need {y.the},\" {m.he} said. \"Who knows where {y.it} {y.is}?\"",
    ]);
    t.say(&[
        "[{a}|{a.he}] closed {a.his!} eyes and thought. \"{r.At}!\" {a.he} cried.",
        "{b} did not know, but [{a}|{a.he}] did. \"You will find {y.them} {r.at},\" {a.he} said.",
    ]);
    t.act(
        Get { who: m, what: y },
        &[
            "{m} took {y.the} {r.from} and [thanked {a} warmly|praised {a} for such a good memory].",
            "It was true, and {m} went away with {y.the} and a smile.",
        ],
    );
}

/// An animal hides, and the friends search for it.
pub fn missing_pet(t: &mut Teller) {
    let a = t.child("a");
    t.partner("b", a);
    let p = t.pet("p");
    t.neighbour("n");
    let [s, _, u] = t.spots(["s", "r", "u"], &OUTDOORS, Size::Large);
    open(t);
    t.say(&[
        "[{a}|{a.he}] had a {p.kind} called {p}, who [was always hungry|was afraid of loud noises|liked to be stroked].",
        "{a.s} best friend was not a person but a {p.kind} named {p}.",
        "Everyone in the street knew {p}, the {p.kind} that lived with {a}.",
    ]);
    t.say(&[
        "When the weather was good, {p} loved to sleep {s.at}.",
        "{p.s} favourite place was {s.at}.",
        "Most of all, {p} liked to lie {s.at} and do nothing.",
    ]);
    t.say(&[
        "[That day,|Then] a door slammed, {p} ran off, and nobody saw where to.",
        "But when {a} called {p} for [breakfast|lunch], no {p.kind} came.",
        "After lunch, {p.s} bowl was still full, and the basket was empty.",
    ]);
    t.say(&[
        "\"{p} is gone!\" cried {a}, and {b} from next door came to help.",
        "[{a}|{a.he}] asked {b} for help, and the two of them set out to search.",
    ]);
    t.say(&[
        "They looked {r.at}, but found only [a hedgehog|an old shoe|a broken plate].",
        "First they searched {r.at}. Nothing moved there except [the grass|a beetle].",
    ]);
    let seen = t.chance(0.4);
    if seen {
        ask_neighbour(t)
    } else {
        search_on(t)
    }
    let found = if seen { u } else { s };
    t.bind("f", found);
    t.act(
        Settle { pet: p, at: found },
        &[
            "They [ran|hurried] there, and {f.at} sat {p} and blinked at them.",
            "And really, {p} was lying {f.at}, [fast asleep|chewing a leaf|as if nothing had happened].",
            "There, {f.at}, they found {p}, [wet but happy|dirty but well].",
        ],
    );
    t.say(&[
        "[{a}|{a.he}] carried {p} home and did not let go of {p.him} until supper.",
        "\"Do not do that again,\" whispered {a} and hugged {p} tightly.",
        "To thank {b}, {a} gave {b.him} the biggest [pear|biscuit|plum] in the house.",
    ]);
    recall(t, &[PetAt(p), PetAt(p)]);
    close(t, Theme::Patience);
}

fn ask_neighbour(t: &mut Teller) {
    t.say(&[
        "On the way they met {n}, the {n.kind}. \"A {p.kind}?\" {n.he} said. \"One ran past me and hid {u.at}.\"",
        "Then {n}, the {n.kind}, leaned out of a window and called, \"If you want {p}, go and look {u.at}!\"",
    ]);
}

fn search_on(t: &mut Teller) {
    t.say(&[
        "Then they asked {n}, the {n.kind}, but {n.he!} had not seen any {p.kind}.",
        "{u.At}, too, they found no trace of {p}.",
    ]);
    t.say(&[
        "Suddenly {b} stopped. \"Where does {p} like to sleep?\" {b.he} asked. \"{s.At}!\" cried {a}.",
        "[{a}|{a.he}] sat down, sad and tired. Then {a.he} remembered the place where {p} always slept.",
    ]);
}

/// The lights go out, and a child fetches a light from where it was put in the morning.
pub fn lights_out(t: &mut Teller) {
    let a = t.child("a");
    let b = t.partner("b", a);
    let m = t.relative("m");
    let x = t.thing_from("x", &LIGHTS);
    let [s, r] = t.spots(["s", "r"], &INDOORS, Size::Large);
    open(t);
    t.act(
        Put { who: m, what: x, to: s },
        &[
            "In the morning, {m} put {x.a} {s.at}, [just in case|for dark days].",
            "\"One never knows,\" said {m} and put {x.a} {s.at}.",
            "While {a} was [having breakfast|getting dressed], {m} cleaned {x.a} and put {x.them} {s.at}.",
        ],
    );
    t.say(&[
        "After that, {m.he} went out to [visit a friend|buy potatoes|help a neighbour].",
        "Then {m.he} had to go to [work|town], and the children stayed at home.",
    ]);
    aside_indoors(t);
    t.say(&[
        "In the evening, a storm came up, and all at once the lights went out.",
        "When night fell, there was a [crack|flash], and suddenly the whole house was dark.",
    ]);
    t.say(&[
        "\"I cannot see anything,\" whispered {a.s} little {b.sibling} {b} and began to cry.",
        "{b}, {a.his!} little {b.sibling}, held on to {a.s} sleeve and trembled.",
    ]);
    t.say(&[
        "[{a}|{a.he}] was frightened, too, but {a.he} remembered what {m} had done that morning.",
        "\"Stay here and count to [fifty|twenty|thirty],\" said {a}. \"I know where there is a light.\"",
    ]);
    t.say(&[
        "{a.He} felt {a.his!} way along the wall. Something soft touched {a.his!} face, but it was only a [coat|towel].",
        "Step by step, {a.he} walked through the dark, and the floor creaked under {a.his!} feet.",
        "On the way, {a.he} bumped into a chair, but {a.he} did not turn back.",
    ]);
    t.act(
        Get { who: a, what: x },
        &[
            "Then {a.he} reached out, and there, {s.at}, {a.his!} fingers found {x.the}.",
            "There {x.it} {x.was}, {s.at}. {a.He} took {x.the}, and soon the room was bright again.",
        ],
    );
    if t.chance(0.6) {
        t.act(Put { who: a, what: x, to: r }, &[
            "{a.He} set {x.short} down {r.at}, and the shadows on the wall became [funny animals|friendly giants].",
            "With {x.the} {r.at}, the two of them played cards until the storm was over.",
        ]);
    } else {
        t.act(
            Give { from: a, to: b, what: x },
            &[
                "{b} was allowed to hold {x.the}, and soon {b.he!} smiled again.",
                "\"Here, you take it,\" said {a}, and {b} held {x.the} with both hands.",
            ],
        );
    }
    t.say(&[
        "When {m} came home at last, both were [singing|laughing].",
        "Late at night, {m} came back and found them [wide awake|side by side].",
    ]);
    recall(t, &[Where(x), Holder(x)]);
    close(t, Theme::Courage);
}
