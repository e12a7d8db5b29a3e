//! How many tokens of text a denoiser takes, so that inputs and targets keep their limits.
//!
//! Source: T5's `random_spans_helper` (Raffel et al., arXiv:1910.10683). It steps back by one token at rate 0.5 if targets
//! exceed inputs; with the limit of the targets equal to that of the inputs, as here by default, the limit does the same.

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::mixture::Pivot;
use super::span::{Counts, SpanCorrupt};

/// Limits of an example, end of sequence and mode token included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Tokens of the inputs.
    pub inputs: usize,
    /// Tokens of the targets.
    pub targets: usize,
    /// Tokens of both, for decoders that read them as one sequence.
    pub sequence: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { inputs: 512, targets: 512, sequence: None }
    }
}

impl Limits {
    /// Whether an example of these lengths is within the limits.
    pub fn hold(&self, inputs: usize, targets: usize) -> bool {
        inputs <= self.inputs
            && targets <= self.targets
            && self.sequence.is_none_or(|limit| inputs.saturating_add(targets) <= limit)
    }

    fn no_length(&self, what: String) -> Error {
        Error::NoLength { what, inputs: self.inputs, targets: self.targets }
    }

    /// No text longer than this can hold.
    fn most(&self) -> usize {
        self.inputs.saturating_add(self.targets)
    }
}

/// Lengths of inputs and targets of a span corruption: kept or masked tokens, a sentinel a span, the end, and in the inputs
/// `reserved` tokens for the mode.
pub fn rendered(counts: Counts, reserved: usize) -> (usize, usize) {
    let Counts { tokens, masked, spans } = counts;
    (reserved + tokens - masked + spans + 1, masked + spans + 1)
}

/// The most tokens whose corruption keeps the limits, with at most `sentinels` spans.
///
/// # Errors
/// [`Error::NoLength`] if not even 2 tokens do; [`Error::Setting`] of the corruption.
pub fn for_spans(
    corruption: &SpanCorrupt,
    limits: &Limits,
    reserved: usize,
    sentinels: usize,
) -> Result<usize> {
    let fits = |tokens: usize| -> Result<bool> {
        let counts = corruption.counts(tokens)?;
        let (inputs, targets) = rendered(counts, reserved);
        Ok(limits.hold(inputs, targets) && counts.spans <= sentinels)
    };
    largest(limits.most(), fits)?
        .ok_or_else(|| limits.no_length(format!("spans ({}, {})", corruption.mean_span, corruption.rate)))
}

/// The most tokens whose split at any pivot that can be drawn keeps the limits. Inputs have no end of sequence here.
///
/// # Errors
/// [`Error::NoLength`] if not even 2 tokens do; [`Error::Setting`] of the pivot.
pub fn for_prefix(pivot: &Pivot, limits: &Limits, reserved: usize) -> Result<usize> {
    let fits = |tokens: usize| -> Result<bool> {
        let (first, last) = pivot.range(tokens)?;
        // The sum of both lengths is the same at every pivot, so the ends of the range decide.
        Ok([first, last].iter().all(|p| limits.hold(reserved + p, tokens - p + 1)))
    };
    largest(limits.most(), fits)?.ok_or_else(|| limits.no_length("prefix".into()))
}

/// The largest of `2..=most` that fits. With one more token no length shrinks, so that a bisection finds it.
fn largest(most: usize, fits: impl Fn(usize) -> Result<bool>) -> Result<Option<usize>> {
    if most < 2 || !fits(2)? {
        return Ok(None);
    }
    let (mut good, mut bad) = (2, most.saturating_add(1));
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(middle)? { good = middle } else { bad = middle }
    }
    Ok(Some(good))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(mu, r)`, then tokens, targets and spans at 512 inputs and 512 targets with one end of sequence.
    const PUBLISHED: [(f64, f64, usize, usize, usize); 6] = [
        (3.0, 0.15, 568, 114, 28),
        (8.0, 0.15, 588, 100, 11),
        (64.0, 0.15, 600, 92, 1),
        (3.0, 0.5, 766, 512, 128),
        (8.0, 0.5, 908, 512, 57),
        (64.0, 0.5, 1006, 512, 8),
    ];

    #[test]
    fn the_table_of_t5_lengths() {
        for (mu, r, tokens, targets, spans) in PUBLISHED {
            let corruption = SpanCorrupt::new(mu, r);
            let found = for_spans(&corruption, &Limits::default(), 0, usize::MAX).unwrap();
            let counts = corruption.counts(found).unwrap();
            assert_eq!((found, rendered(counts, 0).1, counts.spans), (tokens, targets, spans), "({mu}, {r})");
            // Control: the mode token takes a place.
            assert!(for_spans(&corruption, &Limits::default(), 1, usize::MAX).unwrap() < tokens);
        }
        // Control: without the limit of the targets, rate 0.5 takes the token T5 steps back from.
        let wide = Limits { targets: 600, ..Limits::default() };
        assert_eq!(for_spans(&SpanCorrupt::new(3.0, 0.5), &wide, 0, usize::MAX).unwrap(), 767);
    }

    #[test]
    fn bisection_agrees_with_a_walk() {
        for (mu, r) in [(1.0, 0.3), (3.0, 0.15), (3.0, 0.5), (8.0, 0.85), (64.0, 0.5)] {
            let corruption = SpanCorrupt::new(mu, r);
            for inputs in 3..80 {
                let limits = Limits { inputs, targets: 40, sequence: Some(90) };
                let fits = |&tokens: &usize| {
                    let counts = corruption.counts(tokens).unwrap();
                    let (i, t) = rendered(counts, 1);
                    limits.hold(i, t) && counts.spans <= 9
                };
                let walked = (2..200).filter(fits).max();
                assert_eq!(for_spans(&corruption, &limits, 1, 9).ok(), walked, "({mu}, {r}) in {inputs}");
            }
        }
    }

    #[test]
    fn few_sentinels_shorten_the_text() {
        let corruption = SpanCorrupt::new(3.0, 0.5);
        let found = for_spans(&corruption, &Limits::default(), 0, 100).unwrap();
        assert_eq!(corruption.counts(found).unwrap().spans, 100);
        assert_eq!(corruption.counts(found + 1).unwrap().spans, 101);
        assert!(for_spans(&corruption, &Limits::default(), 0, 0).is_err());
    }

    #[test]
    fn prefixes_keep_the_limits_at_every_pivot() {
        let limits = Limits::default();
        // A quarter of 683 is 170.75: a suffix of 171 leaves the 512 that fit; 684 would leave 513.
        assert_eq!(for_prefix(&Pivot::Fraction(0.75), &limits, 0).unwrap(), 683);
        assert_eq!(for_prefix(&Pivot::Uniform, &limits, 0).unwrap(), 512);
        let tiny = Limits { inputs: 1, targets: 1, sequence: None };
        assert!(for_prefix(&Pivot::Uniform, &tiny, 0).unwrap_err().to_string().contains("inputs 1"));
    }
}
