//! AdaPT (paper 10): fixed-point formats that change while a network is trained.
//!
//! Source: Kummer et al., "Adaptive precision training: a dynamic fixed point quantized training approach for DNNs",
//! arXiv:2107.13490 (2021).
//!
//! Every weight tensor has a format `<WL, FL>`: words of `WL` bits, `FL` of them behind the point. Once enough gradients were seen, the
//! format is pushed down to the coarsest one that leaves the histogram of the weights as it is, and pushed up again by as many bits
//! as the diversity of the gradients asks for, so that small updates still count.
//!
//! As released, the bisection looks at its lower end instead of its middle, and only at the first slice of a tensor, and the divergence
//! is called with probabilities in place of their logarithms; here all three are what the paper says. The histogram of rounded weights
//! is that of the nearest ones: a divergence of 0 means nothing if the rounding is drawn anew every time it is looked at.

use serde::{Deserialize, Serialize};
use trimtab_math::random::Stream;

use crate::error::{Error, Result};

/// Widest word.
const WORD: u8 = 32;

/// A fixed-point format: `word` bits in two's complement, `fraction` of them behind the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// `WL`.
    pub word: u8,
    /// `FL`.
    pub fraction: u8,
}

impl Format {
    /// Distance of two neighbours, `2^-FL`.
    pub fn step(&self) -> f64 {
        2f64.powi(-i32::from(self.fraction))
    }

    /// The smallest and the largest code.
    pub fn ends(&self) -> [i32; 2] {
        [i32::MIN >> (WORD - self.word), i32::MAX >> (WORD - self.word)]
    }

    fn saturated(&self, code: f64) -> f32 {
        let [low, high] = self.ends().map(f64::from);
        (code.clamp(low, high) * self.step()) as f32
    }

    /// `x` rounded down or up with the probabilities that make it right on average; `u` is uniform in `[0, 1)`.
    pub fn stochastic(&self, x: f32, u: f64) -> f32 {
        self.saturated((f64::from(x) / self.step() + u).floor())
    }

    /// The nearest number of the format, ties to the even code.
    pub fn nearest(&self, x: f32) -> f32 {
        self.saturated((f64::from(x) / self.step()).round_ties_even())
    }

    /// All numbers rounded stochastically.
    pub fn draw(&self, values: &[f32], stream: &mut Stream) -> Vec<f32> {
        values.iter().map(|x| self.stochastic(*x, stream.uniform())).collect()
    }
}

/// How far a format is pushed up where two rules disagree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// By the smaller.
    #[default]
    Min,
    /// By their mean.
    Mean,
    /// By the larger.
    Max,
}

impl Strategy {
    /// As a number that can be kept among parameters.
    pub(super) fn number(self) -> f32 {
        match self {
            Self::Min => 0.0,
            Self::Mean => 1.0,
            Self::Max => 2.0,
        }
    }

    /// The strategy with this number.
    pub(super) fn of(number: f32) -> Self {
        match number as i32 {
            0 => Self::Min,
            1 => Self::Mean,
            _ => Self::Max,
        }
    }

    /// The strategy after a step: one level up where the mean of the last losses is not above this one (the loss does not fall), back to
    /// the first where it is.
    pub fn next(self, mean: f64, loss: f64) -> Self {
        match (mean.abs() <= loss.abs(), self) {
            (false, _) => Self::Min,
            (true, Self::Min) => Self::Mean,
            (true, _) => Self::Max,
        }
    }
}

/// Settings; the defaults are those of the paper's CIFAR-10 runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adapt {
    /// The first format of every tensor.
    pub start: Format,
    /// Whether formats change.
    pub switching: bool,
    /// Fewest and most bins of the histograms.
    pub resolution: [u32; 2],
    /// Fewest and most steps between changes.
    pub lookback: [u32; 2],
    /// Bits that a word has at least before its point, the sign among them.
    pub buffer: u8,
    /// Weight of the sum of the magnitudes of all weights in the loss.
    pub l1: f64,
}

impl Default for Adapt {
    fn default() -> Self {
        Self {
            start: Format { word: 8, fraction: 4 },
            switching: true,
            resolution: [50, 150],
            lookback: [25, 100],
            buffer: 4,
            l1: 1e-4,
        }
    }
}

impl Adapt {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// [`Error::Setting`] with the field.
    pub fn check(&self) -> Result<()> {
        let wrong =
            |name: &str, message: String| Err(Error::setting(format!("quantization.{name}"), message));
        let Format { word, fraction } = self.start;
        let ascends = |[least, most]: [u32; 2]| least > 0 && least <= most;
        match () {
            () if !(2..=WORD).contains(&word) || fraction > WORD => wrong(
                "start",
                format!("words have 2 to {WORD} bits, found {word} with {fraction} behind the point"),
            ),
            () if !ascends(self.resolution) => {
                wrong("resolution", format!("must ascend from 1, found {:?}", self.resolution))
            }
            () if !ascends(self.lookback) => {
                wrong("lookback", format!("must ascend from 1, found {:?}", self.lookback))
            }
            () if self.buffer >= WORD => {
                wrong("buffer", format!("must be below {WORD}, found {}", self.buffer))
            }
            () if !(self.l1 >= 0.0 && self.l1.is_finite()) => {
                wrong("l1", format!("must not be negative, found {}", self.l1))
            }
            () => Ok(()),
        }
    }
}

/// `KL(weights || rounded weights)` of histograms with so many bins between the extremes of the weights; infinite where a bin of the
/// weights is empty after rounding.
pub fn divergence(weights: &[f32], format: Format, bins: u32) -> f64 {
    let low = weights.iter().copied().fold(f32::INFINITY, f32::min);
    let high = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let width = f64::from(high - low) / f64::from(bins);
    let bin = |x: f32| match width > 0.0 {
        true => ((f64::from(x - low) / width).max(0.0) as usize).min(bins as usize - 1),
        // All alike: they stay so if they round to themselves.
        false => usize::from(x != low).min(bins as usize - 1),
    };
    let mut counts = vec![[0u32; 2]; bins as usize];
    for &w in weights {
        counts[bin(w)][0] += 1;
        counts[bin(format.nearest(w))][1] += 1;
    }
    let n = weights.len().max(1) as f64;
    let term = |&[before, after]: &[u32; 2]| match (before, after) {
        (0, _) => 0.0,
        (_, 0) => f64::INFINITY,
        (before, after) if before == after => 0.0,
        (before, after) => f64::from(before) / n * (f64::from(before) / f64::from(after)).ln(),
    };
    counts.iter().map(term).sum::<f64>().max(0.0)
}

/// The smallest number of `low ..= high` that passes, by bisection, where `high` does; otherwise `high`.
fn bisected(low: u8, high: u8, passes: impl Fn(u8) -> bool) -> u8 {
    if low >= high || !passes(high) {
        return high;
    }
    // Whatever is below `fails` is not looked at; `found` passes.
    let (mut below, mut found) = (low, high);
    while below < found {
        let middle = below + (found - below) / 2;
        match passes(middle) {
            true => found = middle,
            false => below = middle + 1,
        }
    }
    found
}

/// The coarsest format, not finer than `format`, whose numbers have the histogram of the weights: first as few bits behind the point as
/// can be (4 at least), then as short a word.
pub fn push_down(weights: &[f32], format: Format, bins: u32) -> Format {
    let same = |word: u8, fraction: u8| divergence(weights, Format { word, fraction }, bins) == 0.0;
    let fraction = bisected(4.min(format.fraction), format.fraction, |fraction| same(format.word, fraction));
    let word = bisected(fraction.clamp(2, format.word), format.word, |word| same(word, fraction));
    Format { word, fraction }
}

/// Bits that a format is pushed up by, from the diversity of the gradients.
pub fn push_of(diversity: f64, least: u8, strategy: Strategy) -> u8 {
    let l = diversity.ln() - 1.0;
    if l.is_nan() || l <= 0.0 {
        return 1;
    }
    let first = (1.0 / (l * l)).ceil().clamp(1.0, f64::from(WORD));
    let second = ((32.0 * l * l).ceil().min(32.0) - f64::from(least)).max(0.0);
    let push = match strategy {
        Strategy::Min => first.min(second),
        Strategy::Mean => ((first + second) / 2.0).ceil(),
        Strategy::Max => first.max(second),
    };
    push as u8
}

/// A format pushed up by so many bits, with `buffer` bits before the point.
pub fn push_up(least: Format, push: u8, buffer: u8) -> Format {
    let fraction = least.fraction.saturating_add(push).min(WORD);
    let word = least.word.max(fraction).saturating_add(1).min(WORD);
    let fraction = fraction.min(WORD - buffer);
    Format { word: (fraction + buffer).min(WORD).max(word), fraction }
}

/// `n / ||S||` of `n` gradients of norm 1 with the sum `S`: 1 for equal ones, `sqrt(n)` for orthogonal ones.
pub fn diversity(n: f64, sum: &[f32]) -> f64 {
    let norm = sum.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>().sqrt();
    n / norm.max(1e-30)
}

/// Steps until the next change.
pub fn next_lookback(diversity: f64, now: u32, [least, most]: [u32; 2]) -> u32 {
    let (least, most) = (f64::from(least), f64::from(most));
    let new = if diversity > 0.0 { (most / diversity).max(least).min(most).ceil() } else { most };
    (0.33 * new + 0.67 * f64::from(now) - 1e-9).ceil().clamp(least, most) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(n: usize) -> Vec<f32> {
        let mut stream = Stream::new(2, "weights", 0, 0);
        (0..n).map(|_| 0.3 * stream.normal() as f32).collect()
    }

    #[test]
    fn numbers_of_a_format() {
        let format = Format { word: 8, fraction: 4 };
        assert_eq!((format.step(), format.ends()), (0.0625, [-128, 127]));
        assert_eq!([9.0, -9.0, 0.1, -0.03].map(|x| format.nearest(x)), [7.9375, -8.0, 0.125, 0.0]);
        assert_eq!([0.0, 0.5, 0.99].map(|u| format.stochastic(0.1, u)), [0.0625, 0.125, 0.125]);
        assert_eq!(Format { word: 32, fraction: 16 }.ends(), [i32::MIN, i32::MAX]);
    }

    #[test]
    fn stochastic_rounding_is_right_on_average_and_never_farther_than_a_step() {
        let format = Format { word: 8, fraction: 4 };
        let mut stream = Stream::new(1, "rounding", 0, 0);
        let n = 100_000;
        for x in [0.013f32, -0.41, 0.0625, 1.0301] {
            let errors: Vec<f64> =
                (0..n).map(|_| f64::from(format.stochastic(x, stream.uniform()) - x)).collect();
            let mean = errors.iter().sum::<f64>() / n as f64;
            let deviation = (errors.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
            assert!(mean.abs() <= 4.0 * deviation / (n as f64).sqrt() + 1e-8, "{x}: {mean}");
            assert!(errors.iter().all(|e| e.abs() < format.step()));
        }
        // Control: the nearest number is always the same side.
        assert!((format.nearest(0.013) - 0.013).abs() > 0.01);
    }

    #[test]
    fn after_a_push_down_the_histogram_is_the_same_and_one_bit_less_changes_it() {
        for (n, bins) in [(50, 50), (400, 100), (2304, 150)] {
            let w = weights(n);
            let start = Format { word: 32, fraction: 26 };
            assert_eq!(divergence(&w, start, bins), 0.0);
            let found = push_down(&w, start, bins);
            assert_eq!(divergence(&w, found, bins), 0.0, "{found:?}");
            let all: Vec<u8> = (4..=26)
                .filter(|&fraction| divergence(&w, Format { fraction, ..start }, bins) == 0.0)
                .collect();
            assert!(all.contains(&found.fraction) && found.fraction < 26, "{found:?} of {all:?}");
            let coarser = Format { fraction: found.fraction - 1, ..start };
            assert!(divergence(&w, coarser, bins) > 0.0, "one bit less changes it");
            // The word is the shortest by brute force.
            let words = found.fraction.max(2)..=32;
            let shortest =
                words.into_iter().find(|&word| divergence(&w, Format { word, ..found }, bins) == 0.0);
            assert_eq!(shortest, Some(found.word));
        }
        // Where nothing is lost by the start, nothing is gained either: it stays.
        let coarse = Format { word: 8, fraction: 4 };
        assert_eq!(push_down(&weights(400), coarse, 100), coarse);
    }

    #[test]
    fn divergences_of_what_is_alike_and_of_what_is_not() {
        let format = Format { word: 8, fraction: 4 };
        assert_eq!(divergence(&[0.25; 10], format, 50), 0.0);
        assert_eq!(divergence(&[0.26; 10], format, 50), f64::INFINITY);
        assert!(divergence(&weights(100), format, 50) > 0.0);
    }

    #[test]
    fn diversity_lies_between_that_of_equal_and_that_of_orthogonal_gradients() {
        let n = 16;
        let equal = vec![0.25f32 * n as f32; 16];
        assert!((diversity(n as f64, &equal) - 1.0).abs() < 1e-6);
        assert!((diversity(n as f64, &[1.0; 16]) - 4.0).abs() < 1e-6, "sixteen unit vectors of a basis");
        let mut stream = Stream::new(4, "gradients", 0, 0);
        for _ in 0..50 {
            let mut sum = vec![0.0f32; 6];
            for _ in 0..n {
                let g: Vec<f32> = (0..6).map(|_| stream.normal() as f32).collect();
                let norm = g.iter().map(|g| g * g).sum::<f32>().sqrt();
                sum.iter_mut().zip(&g).for_each(|(sum, g)| *sum += g / norm);
            }
            assert!(diversity(n as f64, &sum) >= 1.0 - 1e-6);
        }
    }

    #[test]
    fn pushes_by_hand() {
        // ln D - 1 = 0.4: 1 / 0.16 = 6.25, and 32 * 0.16 = 5.12.
        let d = 1.4f64.exp();
        assert_eq!(push_of(d, 4, Strategy::Min), 2);
        assert_eq!(push_of(d, 4, Strategy::Mean), 5);
        assert_eq!(push_of(d, 4, Strategy::Max), 7);
        assert_eq!(push_of(2.0, 6, Strategy::Max), 1, "below e there is nothing to gain");
        let up = push_up(Format { word: 10, fraction: 8 }, 4, 4);
        assert_eq!(up, Format { word: 16, fraction: 12 });
        assert_eq!(push_up(Format { word: 30, fraction: 27 }, 20, 4), Format { word: 32, fraction: 28 });
        assert_eq!(next_lookback(1.0, 25, [25, 100]), 50);
        assert_eq!(next_lookback(10.0, 25, [25, 100]), 25);
        assert_eq!(next_lookback(0.0, 100, [25, 100]), 100);
    }

    #[test]
    fn strategies_escalate_by_one_level() {
        assert_eq!(Strategy::Min.next(1.0, 1.0), Strategy::Mean);
        assert_eq!(Strategy::Mean.next(0.9, 1.0), Strategy::Max);
        assert_eq!(Strategy::Max.next(0.9, 1.0), Strategy::Max);
        assert_eq!(Strategy::Max.next(1.1, 1.0), Strategy::Min);
        for strategy in [Strategy::Min, Strategy::Mean, Strategy::Max] {
            assert_eq!(Strategy::of(strategy.number()), strategy);
        }
    }
}
