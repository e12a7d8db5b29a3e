//! Questions about what has happened, asked by the narrator or by somebody in the story, with the world's answers.

use super::lexicon::people::FAMILY;
use super::slot::Slot;
use super::teller::Teller;
use super::world::{Answer, Question};

/// Asks one of `questions` that the world can answer; a second one if there is room.
pub fn recall(t: &mut Teller, questions: &[Question]) {
    let mut open: Vec<Question> =
        questions.iter().copied().filter(|&q| t.world.answer(q).is_some()).collect();
    if let Some(age) = t.person("a").map(Question::Age).filter(|&q| t.world.answer(q).is_some()) {
        open.push(age);
    }
    let wanted = if t.has_room() && t.chance(0.7) { 2 } else { 1 };
    for _ in 0..wanted {
        if open.is_empty() {
            return;
        }
        let chosen = t.one_of(&open);
        open.retain(|&question| question != chosen);
        ask(t, chosen);
    }
}

/// Asks `question` and answers it.
fn ask(t: &mut Teller, question: Question) {
    let Some(answer) = t.world.answer(question) else { return };
    bind_subject(t, question);
    bind_answer(t, answer);
    bind_speakers(t, answer);
    t.exchange(question, phrases(question));
}

/// Binds what the question is about to `{q}`.
fn bind_subject(t: &mut Teller, question: Question) {
    match question {
        Question::Where(thing)
        | Question::Holder(thing)
        | Question::Owner(thing)
        | Question::FirstHolder(thing)
        | Question::Bringer(thing) => {
            t.bind("q", thing);
        }
        Question::PetAt(person) | Question::Promised(person) | Question::Age(person) => {
            t.bind("q", person);
        }
        Question::HowMany(person, noun) => {
            t.bind("q", person);
            t.bind("many", Slot::Counted(2, noun));
        }
        Question::Rank(place) => {
            t.bind("q", ["first", "second", "third"][place.min(2)]);
        }
        Question::Secret => {}
    }
}

/// Binds the answer to `{r}`.
fn bind_answer(t: &mut Teller, answer: Answer) {
    let slot = match answer {
        Answer::Spot(spot) => Slot::Spot(spot),
        Answer::Person(person) => Slot::Person(person),
        Answer::Thing(thing) => Slot::Thing(thing),
        Answer::Number(n) => Slot::Number(n),
        Answer::Word(word) => Slot::Word(word),
    };
    t.bind("r", slot);
}

/// Binds who asks to `{ear}`, a grown-up of the family, and who answers to `{voice}`: the hero, or the friend where the
/// hero is the answer.
fn bind_speakers(t: &mut Teller, answer: Answer) {
    match t.person("m").filter(|m| FAMILY.contains(m) && answer != Answer::Person(*m)) {
        Some(parent) => t.bind("ear", parent),
        None => t.relative("ear"),
    };
    let voices = ["a", "b"].map(|name| t.person(name));
    let voice = voices.into_iter().flatten().find(|&voice| answer != Answer::Person(voice));
    if let Some(voice) = voice {
        t.bind("voice", voice);
    }
}

fn phrases(question: Question) -> &'static [&'static str] {
    match question {
        Question::Where(_) => &[
            "Where {q.was} {q.the} [in the end|]? {q.It} {q.was} {r.at}.",
            "[Later|That evening|At supper], {ear} asked, \"Where {q.is} {q.the} now?\" \"{q.It} {q.is} {r.at},\" [said|answered|replied] {voice}.",
            "\"Do you [remember|know] where {q.the} {q.is}?\" asked {ear}. \"[Of course|Yes],\" said {voice}. \"{q.It} {q.is} {r.at}.\"",
            "Anyone who [wants|needs] {q.the} [now|today] will find {q.them} {r.at}.",
            "And where {q.does} {q.the} lie [now|today]? [Look {r.at}|{r.At}, of course].",
        ],
        Question::Holder(_) => &[
            "Who had {q.the} in the end? [It was {r}|{r} had {q.them}].",
            "\"[So|And] who has {q.the} now?\" asked {ear}. \"{r} has {q.them},\" said {voice}.",
            "[That evening|Later], {ear} wanted to know who had {q.the}. \"{r} [does|has {q.them}],\" [answered|replied] {voice}.",
            "If anyone asks you who has {q.the} now, you can say that {r} does.",
        ],
        Question::Owner(_) => &[
            "To whom did {q.the} [really|] belong? To {r}.",
            "\"To whom {q.does} {q.the} belong?\" asked {ear}. \"To {r},\" said {voice}.",
            "[Do you remember who|Who] was the owner of {q.the}? It was {r}.",
        ],
        Question::FirstHolder(_) => &[
            "Who had {q.the} [before the trade|at first|in the beginning]? It was {r}.",
            "\"And who had {q.the} at first?\" asked {ear}. \"{r} did,\" said {voice}.",
            "Who was the first to own {q.the}? It was {r}.",
        ],
        Question::Bringer(_) => &[
            "Who had brought {q.the}? [It was {r}|{r} had].",
            "\"[And who|Who] brought {q.the}?\" asked {ear}. \"{r} did,\" [said|answered] {voice}.",
            "{ear} asked who had brought {q.the}, and {voice} said that it was {r}.",
        ],
        Question::PetAt(_) => &[
            "Where was {q} [in the end|at last|all the time]? {q.He} was {r.at}.",
            "\"[And where|Where] did you find {q}?\" asked {ear}. \"{r.At},\" said {voice}.",
            "{ear} asked where {q} had been, and {voice} answered, \"{r.At}.\"",
        ],
        Question::HowMany(..) => &[
            "How many {many.plural} did {q} have in the end? {q.He} had {r}.",
            "\"How many {many.plural} does {q} have now?\" asked {ear}. \"{r.N},\" said {voice}, after counting [twice|them].",
            "[If you have counted well|If you were listening], you know how many {many.plural} {q} had [now|in the end]: {r}.",
        ],
        Question::Rank(_) => &[
            "Who came {q}? It was {r}.",
            "\"[And who|Who] came {q}?\" asked {ear}. \"{r} did,\" [said|answered] {voice}.",
            "{ear} wanted to know who came {q}, and {voice} said that it was {r}.",
        ],
        Question::Promised(_) => &[
            "What had {q} promised to bring? {r.A}.",
            "\"What was it that {q} promised to bring?\" asked {ear}. \"{r.A},\" said {voice}.",
            "And what was it that {q} had promised to bring? It was {r.a}.",
        ],
        Question::Secret => &[
            "And what was the secret word? It was \"{r}.\"",
            "Do you still know the secret word? [It was|Of course, it was] \"{r}.\"",
            "The secret word, as you [surely|will] remember, was \"{r}.\"",
        ],
        Question::Age(_) => &[
            "[Do you remember how old {q} was|How old was {q}]? {q.He} was {r}.",
            "And all this {q} did when {q.he} was only {r} years old.",
            "And how old was {q} at that time? Just {r}.",
        ],
    }
}
