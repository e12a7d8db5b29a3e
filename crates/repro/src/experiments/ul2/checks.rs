//! What denoisers promise, tried on random texts.

use std::collections::BTreeMap;

use trimtab::floors::math::random::Stream;
use trimtab::floors::train::denoise::length::{for_spans, rendered};
use trimtab::floors::train::denoise::{
    Example, Limits, Mode, Result, Sequence, SpanCorrupt, Vocabulary, composition,
};

use crate::experiment::Check;

/// R and X denoisers of the paper: mean span, rate, then T5's tokens, targets and spans at 512 inputs and 512 targets.
const DENOISERS: [(f64, f64, usize, usize, usize); 6] = [
    (3.0, 0.15, 568, 114, 28),
    (8.0, 0.15, 588, 100, 11),
    (3.0, 0.5, 766, 512, 128),
    (8.0, 0.5, 908, 512, 57),
    (64.0, 0.15, 600, 92, 1),
    (64.0, 0.5, 1006, 512, 8),
];
/// Random texts of each denoiser.
const CASES: usize = 500;

/// All identities; deviations are numbers of cases that fail, unless they say otherwise.
pub(super) fn all() -> Result<Vec<Check>> {
    // Enough sentinels for 2,000 tokens in spans of 3 at rate 0.5.
    let vocabulary = Vocabulary::numbered(1999, 400, Some([1001, 1002, 1003]), 1000, 1000)?;
    let (mut lost, mut counted, mut misplaced) = (0, 0, 0);
    for (number, &(mean, rate, ..)) in DENOISERS.iter().enumerate() {
        let corruption = SpanCorrupt::new(mean, rate);
        let mut stream = Stream::new(66, "ul2/checks", number as u64, 0);
        let mut packed = Vec::new();
        for case in 0..CASES {
            let tokens = 2 + stream.below(if case % 10 == 0 { 2000 } else { 200 });
            let text: Vec<u32> = (0..tokens).map(|_| stream.below(1000) as u32).collect();
            let spans = corruption.draw(tokens, &mut stream)?;
            // The formula of the paper and T5, on its own: halves to even.
            let noise = ((tokens as f64 * rate).round_ties_even() as usize).clamp(1, tokens - 1);
            let count =
                ((noise as f64 / mean).round_ties_even() as usize).max(1).min(noise).min(tokens - noise);
            let masked: usize = spans.iter().map(ExactSizeIterator::len).sum();
            let apart = spans.windows(2).all(|pair| pair[0].end < pair[1].start) && spans[0].start > 0;
            let ends = spans.last().is_some_and(|last| last.end == tokens);
            counted += usize::from(!((masked, spans.len()) == (noise, count) && apart && ends));
            let example = Example::from_spans(&text, &spans, Mode::R, Some(1001), &vocabulary)?;
            lost += usize::from(example.restore(true, &vocabulary).ok().as_ref() != Some(&text));
            let prefix =
                Example::from_prefix(&text, 1 + stream.below(tokens - 1), Mode::S, None, &vocabulary)?;
            lost += usize::from(prefix.restore(false, &vocabulary).ok().as_ref() != Some(&text));
            packed.extend([example, prefix]);
        }
        misplaced += wrong_masks(&packed, &vocabulary)?;
    }
    let of_table =
        |&(mean, rate, tokens, targets, spans): &(f64, f64, usize, usize, usize)| -> Result<usize> {
            let corruption = SpanCorrupt::new(mean, rate);
            let found = for_spans(&corruption, &Limits::default(), 0, usize::MAX)?;
            let counts = corruption.counts(found)?;
            Ok(usize::from((found, rendered(counts, 0).1, counts.spans) != (tokens, targets, spans)))
        };
    let table = DENOISERS.iter().map(of_table).sum::<Result<usize>>()?;
    let exact = |identity, deviation: usize| Check { identity, deviation: deviation as f64, tolerance: 0.0 };
    Ok(vec![
        exact("inputs and targets give the text back: 6,000 random cases, 2 to 2,000 tokens", lost),
        exact("masked tokens and spans are those of the formula, apart, the first token kept", counted),
        exact("the published lengths of all six span denoisers at 512 inputs and targets", table),
        exact("the loss counts exactly the predictions of targets, in packed rows too", misplaced),
        Check {
            identity: "compositions of 8 into 3 are equally likely: chi-square of 21 outcomes (99.9 %: 45.3)",
            deviation: chi_square(8, 3, 42_000)?,
            tolerance: 45.3,
        },
    ])
}

/// Rows in which the loss counts other places than those before a target.
fn wrong_masks(examples: &[Example], vocabulary: &Vocabulary) -> Result<usize> {
    let rows = Sequence::pack(examples, 4096, vocabulary)?;
    let wanted: usize = examples.iter().map(|example| example.targets.len()).sum();
    let counted: usize = rows.iter().map(|row| row.loss_mask.iter().filter(|counts| **counts).count()).sum();
    let wrong = |row: &Sequence| {
        let next = |place: usize| row.labels.get(place + 1).is_some_and(|&label| label >= 0);
        // The last place of an example comes before another example, whose first token is no target.
        (0..row.loss_mask.len()).any(|place| row.loss_mask[place] != next(place))
    };
    Ok(rows.iter().filter(|row| wrong(row)).count() + wanted.abs_diff(counted))
}

/// Pearson's statistic over all ways to write `items` as `parts` positive numbers.
fn chi_square(items: usize, parts: usize, draws: usize) -> Result<f64> {
    let mut stream = Stream::new(66, "ul2/composition", 0, 0);
    let mut seen = BTreeMap::<Vec<usize>, usize>::new();
    for _ in 0..draws {
        *seen.entry(composition(items, parts, &mut stream)?).or_default() += 1;
    }
    // Outcomes that were never drawn would each add what is expected of them.
    let outcomes = (items - 1) * (items - 2) / 2;
    let expected = draws as f64 / outcomes as f64;
    let found: f64 = seen.values().map(|&n| (n as f64 - expected).powi(2) / expected).sum();
    Ok(found + (outcomes - seen.len()) as f64 * expected)
}
