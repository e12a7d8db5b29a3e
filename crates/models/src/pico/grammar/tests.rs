//! Properties of whole stories.

use std::collections::{BTreeSet, HashSet};
use std::sync::LazyLock;

use super::check;
use super::lexicon::{Number, Spot, things};
use super::slot::number_word;
use super::teller::Telling;
use super::world::{Event, Question};
use super::{Split, story, tell, text};

const SAMPLE: u64 = 2000;

fn tellings() -> &'static [Telling] {
    static TELLINGS: LazyLock<Vec<Telling>> =
        LazyLock::new(|| (0..SAMPLE).map(|index| tell(1, Split::Train, index)).collect());
    &TELLINGS
}

/// FNV-1a, 64 bit.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[test]
fn the_same_name_gives_the_same_story_for_ever() {
    let first = text(0, Split::Train, 100);
    assert_eq!(first, text(0, Split::Train, 100));
    assert_eq!(first.split("\n\n").count(), 100);
    assert_eq!(text(0, Split::Train, 0), "");
    assert_ne!(first, text(1, Split::Train, 100), "another seed tells other stories");
    assert_eq!(
        format!("{:016x}", fnv(first.as_bytes())),
        "0df3222a2b4f1c22",
        "a change of the grammar changes the data of the model"
    );
}

#[test]
fn every_story_is_proofread() {
    let nouns = || {
        things::SMALL
            .iter()
            .chain(&things::LARGE)
            .chain(&things::GROCERIES)
            .chain(&things::PICNIC)
            .chain(&things::CROPS)
    };
    let of = |plural: bool| {
        nouns().filter(move |n| (n.number == Number::Plural) == plural).map(|n| n.singular).collect()
    };
    let (plurals, singulars): (HashSet<&str>, HashSet<&str>) = (of(true), of(false));
    let faults_of = |telling: &Telling| {
        let (text, people) = (&telling.text, &telling.people);
        let faults = [
            check::articles(text),
            check::quotes(text),
            check::spacing(text),
            check::capitals(text, people),
            check::pronouns(text, people),
            check::agreement(text, &plurals, &singulars),
        ];
        faults.into_iter().flatten().map(|fault| format!("{fault}\n{text}\n")).collect::<Vec<_>>()
    };
    let faults: Vec<String> = tellings().iter().flat_map(faults_of).collect();
    assert!(faults.is_empty(), "{} faults: {}", faults.len(), faults[..faults.len().min(3)].concat());
}

#[test]
fn stories_have_80_to_220_words() {
    for telling in tellings() {
        let words = telling.text.split(' ').count();
        assert!((80..=220).contains(&words), "{words} words: {}", telling.text);
    }
}

#[test]
fn sentences_open_in_various_ways() {
    let (mut same, mut pairs) = (0, 0);
    for telling in tellings() {
        let firsts: Vec<&str> = telling.text.split(". ").filter_map(|s| s.split(' ').next()).collect();
        same += firsts.windows(2).filter(|w| w[0] == w[1]).count();
        pairs += firsts.len() - 1;
    }
    let share = same as f64 / pairs as f64;
    assert!(share < 0.04, "{share} of neighbouring sentences open with the same word");
}

#[test]
fn only_possible_things_happen() {
    for telling in tellings() {
        assert_eq!(telling.impossible, [], "{}", telling.text);
    }
}

/// A reader's answer to `question`, found by going backwards through the events: the words it must contain.
fn answer_by_reading(log: &[Event], question: Question) -> Option<String> {
    let at = |spot: &Spot| Some(format!("{} the {}", spot.prep, spot.noun));
    match question {
        Question::Where(thing) => log.iter().rev().find_map(|&event| match event {
            Event::Put { what, to, .. } if what == thing => Some(at(to)),
            Event::Get { what, .. } | Event::Give { what, .. } if what == thing => Some(None),
            _ => None,
        })?,
        Question::Holder(thing) => log.iter().rev().find_map(|&event| match event {
            Event::Get { who, what } if what == thing => Some(who.name.to_string()),
            Event::Give { to, what, .. } if what == thing => Some(to.name.to_string()),
            _ => None,
        }),
        Question::Owner(thing) | Question::FirstHolder(thing) | Question::Bringer(thing) => {
            log.iter().find_map(|&event| match event {
                Event::Get { who, what } if what == thing => Some(who.name.to_string()),
                _ => None,
            })
        }
        Question::PetAt(animal) => log.iter().rev().find_map(|&event| match event {
            Event::Settle { pet, at: spot } if pet == animal => at(spot),
            _ => None,
        }),
        Question::HowMany(person, noun) => {
            let sum = log.iter().map(|&event| match event {
                Event::Gain { who, of, n } if who == person && of == noun => n as i64,
                Event::Lose { who, of, n } if who == person && of == noun => -(n as i64),
                _ => 0,
            });
            Some(number_word(usize::try_from(sum.sum::<i64>()).ok()?))
        }
        Question::Rank(place) => {
            let mut finishers = log.iter().filter_map(|&event| match event {
                Event::Finish { who } => Some(who.name.to_string()),
                _ => None,
            });
            finishers.nth(place)
        }
        Question::Promised(person) => log.iter().find_map(|&event| match event {
            Event::Promise { who, what } if who == person => Some(what.noun.singular.to_string()),
            _ => None,
        }),
        Question::Secret => log.iter().find_map(|&event| match event {
            Event::Agree { word } => Some(word.to_string()),
            _ => None,
        }),
        Question::Age(person) => log.iter().find_map(|&event| match event {
            Event::Age { who, years } if who == person => Some(number_word(years)),
            _ => None,
        }),
    }
}

/// Whether the sentences that ask and answer `question` give what a reader of `log` would answer.
fn answered_well(log: &[Event], question: Question, exchange: &str) -> bool {
    answer_by_reading(log, question)
        .is_some_and(|words| exchange.to_lowercase().contains(&words.to_lowercase()))
}

#[test]
fn questions_are_answered_by_what_happened() {
    let (mut asked, mut caught) = (0, 0);
    for telling in tellings() {
        for (question, exchange) in &telling.asked {
            assert!(answered_well(&telling.log, *question, exchange), "{exchange}\n{}", telling.text);
            assert!(telling.text.contains(exchange));
            asked += 1;
        }
        // Negative control: a reader who slept through the events from the middle on gives other answers.
        let awake = &telling.log[..telling.log.len() / 2];
        caught += telling.asked.iter().filter(|(q, exchange)| !answered_well(awake, *q, exchange)).count();
    }
    assert!(asked as u64 > SAMPLE / 2, "only {asked} questions");
    assert!(caught * 4 > asked, "only {caught} of {asked} answers depend on the second half of the events");
}

/// Whether `text` says, before `exchange`, the words that answer `question`.
fn told_before(text: &str, exchange: &str, log: &[Event], question: Question) -> bool {
    let before = text.split(exchange).next().unwrap_or_default().to_lowercase();
    answer_by_reading(log, question).is_some_and(|words| before.contains(&words.to_lowercase()))
}

#[test]
fn answers_can_be_known_from_the_text() {
    let (mut asked, mut guessed) = (0, 0);
    for (telling, other) in tellings().iter().zip(&tellings()[1..]) {
        // Counts may have to be worked out.
        for (question, exchange) in telling.asked.iter().filter(|(q, _)| !matches!(q, Question::HowMany(..)))
        {
            assert!(
                told_before(&telling.text, exchange, &telling.log, *question),
                "{exchange}\n{}",
                telling.text
            );
            asked += 1;
            guessed += usize::from(told_before(&other.text, exchange, &telling.log, *question));
        }
    }
    assert!(guessed * 10 < asked, "control: another story told {guessed} of {asked} answers");
}

#[test]
fn every_kind_of_question_is_asked() {
    let kinds: BTreeSet<String> = tellings()
        .iter()
        .flat_map(|telling| &telling.asked)
        .map(|(question, _)| format!("{question:?}").split('(').next().unwrap_or_default().to_string())
        .collect();
    let all = [
        "Age",
        "Bringer",
        "FirstHolder",
        "Holder",
        "HowMany",
        "Owner",
        "PetAt",
        "Promised",
        "Rank",
        "Secret",
        "Where",
    ];
    assert_eq!(kinds.iter().map(String::as_str).collect::<Vec<_>>(), all);
}

#[test]
fn ten_thousand_stories_are_distinct_and_the_splits_disjoint() {
    let stories = |split: Split, n: u64| (0..n).map(move |index| story(0, split, index));
    let train: HashSet<String> = stories(Split::Train, 10_000).collect();
    assert!(train.len() >= 9_990, "{} distinct stories", train.len());
    for split in [Split::Calibration, Split::Heldout] {
        assert!(stories(split, 2_000).all(|story| !train.contains(&story)), "{split:?} overlaps train");
    }
    assert!(stories(Split::Train, 10).all(|story| train.contains(&story)), "an overlap would be seen");
}

#[test]
fn the_vocabulary_is_that_of_a_small_child() {
    let words: HashSet<String> = tellings()
        .iter()
        .flat_map(|telling| {
            let lower = telling.text.to_lowercase();
            let words = lower
                .split(|c: char| !c.is_alphabetic() && c != '\'')
                .map(|w| w.trim_end_matches("'s").to_string());
            words.collect::<Vec<_>>()
        })
        .filter(|word| !word.is_empty())
        .collect();
    assert!((900..=1450).contains(&words.len()), "{} words", words.len());
}
