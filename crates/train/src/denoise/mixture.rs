//! The denoisers of UL2 and UL2R and the draw of one example.
//!
//! Sources: Tay et al., arXiv:2205.05131, table 1 (seven denoisers, here equally likely); arXiv:2210.11399 (UL2R). The share
//! of S is one setting of its own, because ablations vary it alone.

use serde::{Deserialize, Serialize};
use trimtab_math::random::Stream;

use super::error::{Error, Result};
use super::length::{Limits, for_prefix, for_spans};
use super::render::Example;
use super::span::SpanCorrupt;
use super::vocabulary::Vocabulary;

/// What an example is marked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// Regular span corruption, `[NLU]`.
    R,
    /// Sequential: continue a prefix, `[S2S]`.
    S,
    /// Extreme: long spans or many, `[NLG]`.
    X,
}

impl Mode {
    /// All modes, in the order of their tokens.
    pub const ALL: [Mode; 3] = [Mode::R, Mode::S, Mode::X];

    /// The token's name in the released checkpoints.
    pub fn token(self) -> &'static str {
        match self {
            Mode::R => "[NLU]",
            Mode::S => "[S2S]",
            Mode::X => "[NLG]",
        }
    }
}

/// Where the S denoiser splits a text. Both parts always have a token: an empty prefix is no prefix.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pivot {
    /// The prefix is this share of the text, in `(0, 1)`; UL2 takes 0.75.
    Fraction(f64),
    /// Every pivot in `1..tokens` is equally likely; UL2R.
    Uniform,
}

impl Pivot {
    /// First and last pivot that can be drawn for `tokens`.
    ///
    /// # Errors
    /// [`Error::TooShort`] below 2 tokens; [`Error::Setting`].
    pub fn range(&self, tokens: usize) -> Result<(usize, usize)> {
        if tokens < 2 {
            return Err(Error::TooShort { what: "a split", found: tokens, needed: 2 });
        }
        match *self {
            Pivot::Uniform => Ok((1, tokens - 1)),
            Pivot::Fraction(f) if f > 0.0 && f < 1.0 => {
                // The suffix is what is masked, and rounds as masked tokens do.
                let suffix = ((tokens as f64 * (1.0 - f)).round_ties_even() as usize).clamp(1, tokens - 1);
                Ok((tokens - suffix, tokens - suffix))
            }
            Pivot::Fraction(f) => Err(Error::setting("pivot fraction", f, "a number in (0, 1)")),
        }
    }
}

/// One R or X denoiser.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denoiser {
    /// What its examples are marked with; [`Mode::S`] has a setting of its own.
    pub mode: Mode,
    /// Its share relative to the other denoisers of this list.
    #[serde(default = "one")]
    pub weight: f64,
    /// Which tokens it masks.
    #[serde(default)]
    pub corruption: SpanCorrupt,
}

fn one() -> f64 {
    1.0
}

/// What to do where a denoiser makes more spans than there are sentinels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TooManySpans {
    /// Take less text. `(3, 0.5)` needs 128 spans at 512 inputs, T5 has 100 sentinels.
    #[default]
    Shrink,
    /// Refuse the vocabulary.
    Refuse,
}

/// Settings of a mixture of denoisers; the default is UL2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MixtureConfig {
    /// Share of the S denoiser, in `[0, 1]`; the others share the rest by weight.
    pub s_share: f64,
    /// Whether examples begin with the token of their mode.
    pub mode_tokens: bool,
    /// More spans than sentinels.
    pub too_many_spans: TooManySpans,
    /// Where S splits.
    pub pivot: Pivot,
    /// Limits of inputs and targets.
    pub limits: Limits,
    /// The R and X denoisers.
    pub denoisers: Vec<Denoiser>,
}

impl Default for MixtureConfig {
    fn default() -> Self {
        Self::ul2()
    }
}

impl MixtureConfig {
    /// The seven denoisers of UL2, equally likely.
    pub fn ul2() -> Self {
        let of = |mode, mu, r| Denoiser { mode, weight: 1.0, corruption: SpanCorrupt::new(mu, r) };
        let regular = [(3.0, 0.15), (8.0, 0.15)].map(|(mu, r)| of(Mode::R, mu, r));
        let extreme = [(3.0, 0.5), (8.0, 0.5), (64.0, 0.15), (64.0, 0.5)].map(|(mu, r)| of(Mode::X, mu, r));
        Self {
            s_share: 1.0 / 7.0,
            mode_tokens: true,
            too_many_spans: TooManySpans::Shrink,
            pivot: Pivot::Fraction(0.75),
            limits: Limits::default(),
            denoisers: regular.into_iter().chain(extreme).collect(),
        }
    }

    /// UL2R, to continue the training of a causal model: half S at any pivot, a quarter R, a quarter X.
    pub fn ul2r() -> Self {
        let of = |mode, weight, mu, r| Denoiser { mode, weight, corruption: SpanCorrupt::new(mu, r) };
        let denoisers =
            vec![of(Mode::R, 2.0, 3.0, 0.15), of(Mode::X, 1.0, 32.0, 0.15), of(Mode::X, 1.0, 3.0, 0.5)];
        Self { s_share: 0.5, pivot: Pivot::Uniform, denoisers, ..Self::ul2() }
    }

    /// Refuses what makes no sense, whatever the vocabulary.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn check(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.s_share) {
            return Err(Error::setting("s_share", self.s_share, "a number in [0, 1]"));
        }
        for denoiser in &self.denoisers {
            if denoiser.mode == Mode::S {
                return Err(Error::setting(
                    "mode of a denoiser",
                    "S",
                    "R or X; S is set by s_share and pivot",
                ));
            }
            if !(denoiser.weight >= 0.0 && denoiser.weight.is_finite()) {
                return Err(Error::setting(
                    "weight of a denoiser",
                    denoiser.weight,
                    "a number of at least 0",
                ));
            }
            denoiser.corruption.check()?;
        }
        let weight: f64 = self.denoisers.iter().map(|d| d.weight).sum();
        if self.s_share < 1.0 && !(weight > 0.0 && weight.is_finite()) {
            return Err(Error::setting(
                "sum of the weights",
                weight,
                "above 0 and finite unless s_share is 1",
            ));
        }
        Ok(())
    }
}

/// One drawn kind of example: a denoiser of the list, or S.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Choice {
    Prefix,
    Spans(usize),
}

/// A mixture that is checked against a vocabulary and knows how much text each of its denoisers takes.
#[derive(Clone, Debug)]
pub struct Mixture {
    config: MixtureConfig,
    vocabulary: Vocabulary,
    /// Tokens of each denoiser of the list, 0 where it is never drawn.
    tokens: Vec<usize>,
    /// Tokens of S, 0 where it is never drawn.
    prefix_tokens: usize,
}

impl Mixture {
    /// Checks the settings and chooses the lengths.
    ///
    /// # Errors
    /// [`Error::Setting`]; [`Error::MissingToken`] if mode tokens are wanted and the vocabulary has none;
    /// [`Error::Sentinels`] with [`TooManySpans::Refuse`]; [`Error::NoLength`].
    pub fn new(config: MixtureConfig, vocabulary: Vocabulary) -> Result<Self> {
        config.check()?;
        if config.mode_tokens && vocabulary.mode(Mode::R).is_none() {
            let hint = "give the vocabulary its mode tokens, or set mode_tokens = false";
            return Err(Error::MissingToken { name: Mode::R.token().into(), hint });
        }
        let reserved = usize::from(config.mode_tokens);
        let found = vocabulary.sentinels().len();
        let length = |denoiser: &Denoiser| -> Result<usize> {
            if denoiser.weight == 0.0 || config.s_share == 1.0 {
                return Ok(0);
            }
            if config.too_many_spans == TooManySpans::Refuse {
                let free = for_spans(&denoiser.corruption, &config.limits, reserved, usize::MAX)?;
                let needed = denoiser.corruption.counts(free)?.spans;
                if needed > found {
                    return Err(Error::Sentinels { needed, found });
                }
            }
            for_spans(&denoiser.corruption, &config.limits, reserved, found)
        };
        let tokens = config.denoisers.iter().map(length).collect::<Result<_>>()?;
        let prefix_tokens =
            if config.s_share > 0.0 { for_prefix(&config.pivot, &config.limits, reserved)? } else { 0 };
        Ok(Self { config, vocabulary, tokens, prefix_tokens })
    }

    /// The settings.
    pub fn config(&self) -> &MixtureConfig {
        &self.config
    }

    /// The ids of the special tokens.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The most text any denoiser takes: windows of this length waste none.
    pub fn longest(&self) -> usize {
        self.tokens.iter().copied().fold(self.prefix_tokens, usize::max)
    }

    /// The example of `(seed, epoch, item)` from the beginning of `text`; what its denoiser does not take is left.
    ///
    /// # Errors
    /// [`Error::TooShort`] below 2 tokens; [`Error::SentinelInText`].
    pub fn example(&self, text: &[u32], seed: u64, epoch: u64, item: u64) -> Result<Example> {
        let mut stream = Stream::new(seed, "denoise", epoch, item);
        let marked = |mode| if self.config.mode_tokens { self.vocabulary.mode(mode) } else { None };
        match self.choose(&mut stream) {
            Choice::Prefix => {
                let text = &text[..text.len().min(self.prefix_tokens)];
                let (first, last) = self.config.pivot.range(text.len())?;
                let pivot = first + stream.below(last - first + 1);
                Example::from_prefix(text, pivot, Mode::S, marked(Mode::S), &self.vocabulary)
            }
            Choice::Spans(index) => {
                let Denoiser { mode, corruption, .. } = self.config.denoisers[index];
                let text = &text[..text.len().min(self.tokens[index])];
                let spans = corruption.draw(text.len(), &mut stream)?;
                Example::from_spans(text, &spans, mode, marked(mode), &self.vocabulary)
            }
        }
    }

    fn choose(&self, stream: &mut Stream) -> Choice {
        let place = stream.uniform();
        if place < self.config.s_share {
            return Choice::Prefix;
        }
        let sum: f64 = self.config.denoisers.iter().map(|d| d.weight).sum();
        let mut rest = (place - self.config.s_share) / (1.0 - self.config.s_share) * sum;
        let mut chosen = None;
        for (index, denoiser) in self.config.denoisers.iter().enumerate().filter(|(_, d)| d.weight > 0.0) {
            // Rounding can leave a rest behind the last weight: the last denoiser takes it.
            chosen = Some(index);
            if rest < denoiser.weight {
                break;
            }
            rest -= denoiser.weight;
        }
        chosen.map_or(Choice::Prefix, Choice::Spans)
    }
}
