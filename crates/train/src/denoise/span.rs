//! Which spans of a sequence are masked: counts are fixed by the length, places are random.
//!
//! Source: Raffel et al., arXiv:1910.10683, section 3.1.4, as T5's `random_spans_noise_mask` does it. Departures: the number
//! of spans is also bounded by the kept tokens, so that short sequences stay valid; [`SpanCorrupt::offset`].

use std::ops::Range;

use serde::{Deserialize, Serialize};
use trimtab_math::random::Stream;

use super::error::{Error, Result};

/// `SpanCorrupt(mu, r, n)`: mean span length, corruption rate and, if fixed, number of spans.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpanCorrupt {
    /// Mean length of a masked span, at least 1 token.
    pub mean_span: f64,
    /// Share of the tokens that is masked, in `(0, 1)`.
    pub rate: f64,
    /// Number of spans; by default it follows from the other two.
    pub spans: Option<usize>,
    /// Puts a single span anywhere after the first token. Off, as in T5: there a single span is always the suffix, so that
    /// `(64, 0.15)` below 640 tokens is a prefix language model by another name.
    pub offset: bool,
}

impl Default for SpanCorrupt {
    fn default() -> Self {
        Self { mean_span: 3.0, rate: 0.15, spans: None, offset: false }
    }
}

/// How many tokens of a sequence are masked, in how many spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Tokens of the sequence.
    pub tokens: usize,
    /// Masked tokens, `1..tokens`.
    pub masked: usize,
    /// Spans, `1..=min(masked, tokens - masked)`.
    pub spans: usize,
}

impl SpanCorrupt {
    /// Spans of this mean length at this rate, in T5's way.
    pub fn new(mean_span: f64, rate: f64) -> Self {
        Self { mean_span, rate, ..Self::default() }
    }

    /// # Errors
    /// [`Error::Setting`] for a mean below 1, a rate outside `(0, 1)`, or no span at all.
    pub fn check(&self) -> Result<()> {
        if !(self.mean_span >= 1.0 && self.mean_span.is_finite()) {
            return Err(Error::setting("mean_span", self.mean_span, "a number of at least 1"));
        }
        if !(self.rate > 0.0 && self.rate < 1.0) {
            return Err(Error::setting("rate", self.rate, "a number in (0, 1)"));
        }
        match self.spans {
            Some(0) => Err(Error::setting("spans", 0, "at least 1")),
            _ => Ok(()),
        }
    }

    /// The counts for a sequence of `tokens`. Halves round to even, as in Python and TensorFlow.
    ///
    /// # Errors
    /// Those of [`SpanCorrupt::check`]; [`Error::TooShort`] below 2 tokens.
    pub fn counts(&self, tokens: usize) -> Result<Counts> {
        self.check()?;
        if tokens < 2 {
            return Err(Error::TooShort { what: "span corruption", found: tokens, needed: 2 });
        }
        let masked = ((tokens as f64 * self.rate).round_ties_even() as usize).clamp(1, tokens - 1);
        let wanted =
            self.spans.unwrap_or_else(|| (masked as f64 / self.mean_span).round_ties_even() as usize);
        Ok(Counts { tokens, masked, spans: wanted.clamp(1, masked.min(tokens - masked)) })
    }

    /// The masked spans of a sequence of `tokens`, in order. None starts at 0, no two touch, and without
    /// [`SpanCorrupt::offset`] the last one ends the sequence.
    ///
    /// # Errors
    /// Those of [`SpanCorrupt::counts`].
    pub fn draw(&self, tokens: usize, stream: &mut Stream) -> Result<Vec<Range<usize>>> {
        let Counts { masked, spans, .. } = self.counts(tokens)?;
        if self.offset && spans == 1 {
            let start = 1 + stream.below(tokens - masked);
            return Ok(std::iter::once(start..start + masked).collect());
        }
        let masked_parts = composition(masked, spans, stream)?;
        let kept_parts = composition(tokens - masked, spans, stream)?;
        let mut end = 0;
        let next = |(kept, masked): (&usize, &usize)| {
            let start = end + kept;
            end = start + masked;
            start..end
        };
        Ok(kept_parts.iter().zip(&masked_parts).map(next).collect())
    }
}

/// Writes `items` as a sum of `parts` positive numbers; every way, in order, is equally likely.
///
/// Cuts are a uniform subset of the `items - 1` gaps, drawn by selection sampling (Knuth, algorithm 3.4.2 S).
///
/// # Errors
/// [`Error::Setting`] unless `1 <= parts <= items`.
pub fn composition(items: usize, parts: usize, stream: &mut Stream) -> Result<Vec<usize>> {
    if parts == 0 || parts > items {
        return Err(Error::setting("parts of a composition", parts, "at least 1 and at most the items"));
    }
    let (mut sizes, mut cuts, mut last) = (Vec::with_capacity(parts), parts - 1, 0);
    for gap in 1..items {
        if cuts == 0 {
            break;
        }
        if stream.below(items - gap) < cuts {
            sizes.push(gap - last);
            last = gap;
            cuts -= 1;
        }
    }
    sizes.push(items - last);
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Upper 0.1% points of chi-square at 3, 9, 20 and 34 degrees.
    const CRITICAL: [(usize, usize, f64); 4] = [(5, 2, 16.27), (6, 3, 27.88), (7, 4, 45.31), (8, 4, 65.25)];

    fn binomial(n: usize, k: usize) -> usize {
        (0..k).fold(1, |product, i| product * (n - i) / (i + 1))
    }

    fn chi_square(n: usize, k: usize, mut draw: impl FnMut() -> Vec<usize>) -> f64 {
        let outcomes = binomial(n - 1, k - 1);
        let draws = 2000 * outcomes;
        let mut counts: HashMap<Vec<usize>, usize> = HashMap::new();
        for _ in 0..draws {
            *counts.entry(draw()).or_default() += 1;
        }
        assert_eq!(counts.len(), outcomes, "every composition of {n} into {k} and no other");
        counts.values().map(|&c| (c as f64 - 2000.0).powi(2) / 2000.0).sum()
    }

    #[test]
    fn compositions_are_uniform() {
        let mut stream = Stream::new(1, "denoise", 0, 0);
        for (n, k, critical) in CRITICAL {
            let found = chi_square(n, k, || composition(n, k, &mut stream).unwrap());
            assert!(found < critical, "chi-square of {n} into {k}: {found}");
        }
        // Control: cutting the rest again and again reaches every composition, but not equally often.
        let mut stick = || {
            let first = 1 + stream.below(4);
            let second = 1 + stream.below(5 - first);
            vec![first, second, 6 - first - second]
        };
        assert!(chi_square(6, 3, &mut stick) > 10.0 * 27.88);
    }

    #[test]
    fn counts_by_hand() {
        let counts = |mu, r, t| SpanCorrupt::new(mu, r).counts(t).map(|c| (c.masked, c.spans)).unwrap();
        assert_eq!(counts(3.0, 0.15, 568), (85, 28));
        assert_eq!(counts(3.0, 0.15, 2), (1, 1));
        assert_eq!(counts(1.0, 0.9, 10), (9, 1), "one kept token allows one span");
        assert_eq!(counts(8.0, 0.5, 909), (454, 57), "454.5 rounds to even");
        let four = SpanCorrupt { spans: Some(4), ..SpanCorrupt::default() };
        assert_eq!(four.counts(100).unwrap().spans, 4);
    }

    #[test]
    fn a_single_span_is_the_suffix_unless_offset() {
        let long = SpanCorrupt::new(64.0, 0.15);
        let shifted = SpanCorrupt { offset: true, ..long };
        let mut starts = [0usize; 18];
        for item in 0..17_000 {
            let mut stream = Stream::new(2, "denoise", 0, item);
            assert_eq!(long.draw(20, &mut stream).unwrap().first(), Some(&(17..20)));
            starts[shifted.draw(20, &mut stream).unwrap()[0].start] += 1;
        }
        assert_eq!(starts[0], 0, "the first token is kept");
        assert!(starts[1..].iter().all(|&c| (850..1150).contains(&c)), "{starts:?}");
    }

    #[test]
    fn bad_settings_are_refused() {
        let mut stream = Stream::new(0, "denoise", 0, 0);
        for bad in [(0.5, 0.15), (f64::NAN, 0.15), (3.0, 0.0), (3.0, 1.0), (3.0, f64::NAN)] {
            assert!(SpanCorrupt::new(bad.0, bad.1).draw(10, &mut stream).is_err(), "{bad:?}");
        }
        assert!(SpanCorrupt { spans: Some(0), ..SpanCorrupt::default() }.counts(10).is_err());
        assert!(SpanCorrupt::default().draw(1, &mut stream).unwrap_err().to_string().contains("1 tokens"));
        assert!(composition(3, 4, &mut stream).is_err() && composition(3, 0, &mut stream).is_err());
        assert_eq!(composition(3, 3, &mut stream).unwrap(), [1, 1, 1]);
    }
}
