//! From a quality to a size: the smallest model that still is good enough.
//!
//! A budget asks for the best model of a size; a target asks for the smallest model of a quality. Prices order the plans by
//! size, and a condition that is measured cannot be added up, so the plans on the curve are bisected with real measurements
//! ([`trimtab_plan::bisect`]; Schaefer et al., arXiv:2306.04879, section 3.3), prices are taken again around what was found, and the
//! search is repeated near it. The data that choose are not the data that prove: of what the model is judged on, one half selects, the
//! other is kept for the proof.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use trimtab_models::Model;
use trimtab_nn::Network;
use trimtab_plan::{BisectOptions, FrontierPoint, Limits, PriceList, bisect, frontier};

use crate::error::{Error, Result};
use crate::judge::{Judge, Quality};
use crate::monitor::Monitor;

/// Plans on the curve that the first search chooses among.
const POINTS: usize = 96;
/// Where the later searches look, in shares of the bytes of the plan found so far.
const NEAR: std::ops::RangeInclusive<f64> = 0.5..=1.15;

/// What a target is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Perplexity of a text: at most.
    Perplexity,
    /// `KL(original || treated)`, nats per token or image: at most.
    Kl,
    /// Percent of images that are classified right: at least.
    Accuracy,
    /// Spearman correlation with human scores of pairs, times 100: at least.
    Spearman,
}

impl Measure {
    const ALL: [Self; 4] = [Self::Perplexity, Self::Kl, Self::Accuracy, Self::Spearman];

    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Perplexity => &["ppl", "perplexity"],
            Self::Kl => &["kl"],
            Self::Accuracy => &["accuracy"],
            Self::Spearman => &["spearman"],
        }
    }

    fn at_most(self) -> bool {
        matches!(self, Self::Perplexity | Self::Kl)
    }

    /// Its value in what was measured; `None` where that kind of data does not give it.
    pub fn of(self, quality: &Quality) -> Option<f64> {
        match self {
            Self::Perplexity => quality.perplexity,
            Self::Kl => quality.kl,
            Self::Accuracy => quality.accuracy,
            Self::Spearman => quality.spearman,
        }
    }
}

/// A condition on the quality, such as `ppl<=1.01x`, `kl<=0.02`, `accuracy>=0.99x`, `spearman>=80`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Target {
    /// What is measured.
    pub measure: Measure,
    /// The bound; with `relative`, a multiple of what the original has.
    pub bound: f64,
    /// Whether the bound is a multiple of the original's value.
    pub relative: bool,
}

impl Target {
    /// Whether data of this kind can tell.
    ///
    /// # Errors
    /// Data that do not give what the target is about.
    pub fn check(&self, judge: &Judge) -> Result<()> {
        let told = match judge {
            Judge::Text { .. } => matches!(self.measure, Measure::Perplexity | Measure::Kl),
            Judge::Pairs { .. } => self.measure == Measure::Spearman,
            Judge::Images { .. } => matches!(self.measure, Measure::Accuracy | Measure::Kl),
        };
        if told { Ok(()) } else { Err(self.untold()) }
    }

    fn untold(&self) -> Error {
        Error::Setting {
            what: "--quality",
            message: format!(
                "the data that the result is judged on give no {}\nhint: ppl and kl need a text, spearman needs --pairs, accuracy \
                 and kl --images",
                self.measure.names()[0]
            ),
        }
    }

    /// Whether `quality` holds the condition.
    ///
    /// # Errors
    /// Data that do not give what the target is about.
    pub fn holds(&self, quality: &Quality, original: &Quality) -> Result<bool> {
        let value = |quality: &Quality| self.measure.of(quality).ok_or_else(|| self.untold());
        let bound = if self.relative { self.bound * value(original)? } else { self.bound };
        let value = value(quality)?;
        Ok(if self.measure.at_most() { value <= bound } else { value >= bound })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.measure.at_most() { "<=" } else { ">=" };
        let unit = if self.relative { "x" } else { "" };
        write!(f, "{}{sign}{}{unit}", self.measure.names()[0], self.bound)
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fail =
            |message: String| Error::Setting { what: "--quality", message: format!("\"{text}\": {message}") };
        let example = "expected a condition such as ppl<=1.01x, kl<=0.02, accuracy>=0.99x or spearman>=80";
        let sign = ["<=", ">="].into_iter().find_map(|sign| text.split_once(sign).map(|(l, r)| (l, sign, r)));
        let Some((name, sign, bound)) = sign else { return Err(fail(example.into())) };
        let name = name.trim().to_lowercase();
        let measure = Measure::ALL.into_iter().find(|measure| measure.names().contains(&name.as_str()));
        let Some(measure) = measure else { return Err(fail(format!("\"{name}\" is no measure; {example}"))) };
        if (sign == "<=") != measure.at_most() {
            let better =
                if measure.at_most() { "less, so a target is <=" } else { "more, so a target is >=" };
            return Err(fail(format!("of {name}, better is {better}")));
        }
        let bound = bound.trim();
        let (number, relative) = match bound.strip_suffix('x') {
            Some(number) => (number.trim_end(), true),
            None => (bound, false),
        };
        let bound: f64 = number.parse().map_err(|_| fail(format!("\"{number}\" is no number; {example}")))?;
        if !(bound.is_finite() && bound > 0.0) {
            return Err(fail("expected a number above zero".into()));
        }
        if relative && measure == Measure::Kl {
            return Err(fail(
                "the original has a KL of 0 to itself; give a number of nats, such as kl<=0.02".into(),
            ));
        }
        Ok(Self { measure, bound, relative })
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

impl TryFrom<String> for Target {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// A plan that was measured on the way to the smallest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// Bits per weight of the treated sites.
    pub bits_per_weight: f64,
    /// What was measured on the half that selects.
    pub value: f64,
    /// Whether it holds the target.
    pub holds: bool,
}

/// A target and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reached {
    /// The condition.
    pub target: Target,
    /// What the original has on the half that selects.
    pub original: f64,
    /// The plans that were measured there.
    pub tried: Vec<Tried>,
    /// Whether the written model holds the condition on the other half.
    #[serde(default)]
    pub proved: Option<bool>,
}

/// What a target is measured with.
pub struct Goal<'a> {
    /// The condition.
    pub target: Target,
    /// The half of the data that selects.
    pub judge: &'a Judge,
}

/// A measurement of a plan, given by its choice of options: the treated network is put in place and judged.
pub(crate) type Judged<'a> = dyn FnMut(&[usize], &mut dyn Monitor) -> Result<Quality> + 'a;

/// The search for the smallest plan.
pub(crate) struct Search {
    target: Target,
    original: Quality,
    tried: Vec<Tried>,
    smallest: Option<FrontierPoint>,
}

impl Search {
    /// Measures the original on the half that selects.
    pub(crate) fn begin(
        goal: &Goal<'_>,
        model: &Model,
        network: &Network,
        monitor: &mut dyn Monitor,
    ) -> Result<Self> {
        // KL needs an original to compare with; it is 0 here.
        let original = goal.judge.compare(model, &[network], network, monitor)?.remove(0);
        Ok(Self { target: goal.target, original, tried: Vec::new(), smallest: None })
    }

    /// The smallest plan that held so far.
    pub(crate) fn smallest(&self) -> Option<&FrontierPoint> {
        self.smallest.as_ref()
    }

    /// Bisects the plans of a price list within `limits`: all of them at first, then those near the smallest that held.
    pub(crate) fn narrow(
        &mut self,
        prices: &PriceList,
        limits: &Limits,
        judged: &mut Judged<'_>,
        monitor: &mut dyn Monitor,
    ) -> Result<()> {
        let mut points = frontier(prices, POINTS)?;
        points.reverse();
        points.retain(|point| limits.exceeded_by(&point.costs).is_none());
        if let Some(found) = &self.smallest {
            let near =
                |point: &FrontierPoint| NEAR.contains(&(point.costs.bytes as f64 / found.costs.bytes as f64));
            points.retain(near);
        }
        if points.is_empty() {
            return Ok(());
        }
        let order: Vec<usize> = (1..points.len()).collect();
        let found = bisect(&order, &BisectOptions::default(), |prefix| -> Result<bool> {
            let point = &points[prefix.len()];
            let quality = judged(&point.choice, monitor)?;
            let holds = self.target.holds(&quality, &self.original)?;
            let value = self.target.measure.of(&quality).unwrap_or(f64::NAN);
            let bits_per_weight = limits.totals.bits_per_weight(point.costs.bytes).unwrap_or(f64::NAN);
            let tried = Tried { bits_per_weight, value, holds };
            let word = if holds { "holds" } else { "does not hold" };
            monitor.note(&format!("  {:.3} bits per weight: {value:.5}, {word}", tried.bits_per_weight));
            self.tried.push(tried);
            Ok(holds)
        })?;
        if let Some(point) = found.count.map(|count| points[count].clone())
            && self.smallest.as_ref().is_none_or(|known| point.costs.bytes < known.costs.bytes)
        {
            self.smallest = Some(point);
        }
        Ok(())
    }

    /// What was found, or that nothing holds the target.
    pub(crate) fn end(self) -> Result<(FrontierPoint, Reached)> {
        let original = self.target.measure.of(&self.original).unwrap_or(f64::NAN);
        let Some(point) = self.smallest else {
            let best = self.tried.first().map_or(f64::NAN, |tried| tried.value);
            return Err(Error::Setting {
                what: "--quality",
                message: format!(
                    "no plan holds {}: the largest measured {best:.5}, the original {original:.5}\nhint: allow more bits (--bits), ask for \
                     less, or judge on more data",
                    self.target
                ),
            });
        };
        Ok((point, Reached { target: self.target, original, tried: self.tried, proved: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trimtab_plan::{SiteOption, SitePrices, Totals};

    #[test]
    fn targets_are_read_and_written() {
        for text in ["ppl<=1.01x", "kl<=0.02", "accuracy>=0.99x", "spearman>=80", "ppl<=12.5"] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.to_string(), text);
        }
        assert_eq!("Perplexity <= 1.5 x".parse::<Target>().unwrap(), "ppl<=1.5x".parse().unwrap());
        let wrong = [
            "",
            "ppl",
            "ppl<1",
            "ppl>=1.01x",
            "accuracy<=0.9",
            "bleu>=3",
            "kl<=1.1x",
            "ppl<=-1",
            "ppl<=x",
            "ppl<=nan",
        ];
        for text in wrong {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.starts_with("--quality"), "{text}: {error}");
        }
    }

    #[test]
    fn damaged_targets_are_refused_or_round_trip() {
        use trimtab_hostile::{INPUTS, change_text, storm};
        let whole = ["ppl<=1.01x", "kl<=0.02", "accuracy>=0.99x", "spearman>=80"];
        let make = |draws: &mut trimtab_hostile::Draws| change_text(whole[draws.below(whole.len())], draws);
        let accepted = storm(INPUTS, 1, make, |text| {
            let Ok(target) = text.parse::<Target>() else { return false };
            assert_eq!(target.to_string().parse::<Target>().unwrap(), target, "{text}");
            true
        });
        assert!((100..INPUTS - 100).contains(&accepted), "{accepted} of {INPUTS} accepted");
    }

    /// Two sites of 2, 4, 8 bytes whose loss is their weight over their bytes.
    fn prices(weights: [f64; 2]) -> PriceList {
        let site = |name: &str, weight: f64| {
            let option = |bytes: u64| SiteOption::new(format!("{bytes}"), bytes, weight / bytes as f64);
            SitePrices::new(name, 8, [2, 4, 8].map(option).to_vec())
        };
        PriceList::new("kl", vec![site("a", weights[0]), site("b", weights[1])]).unwrap()
    }

    fn search(bound: f64) -> Search {
        let target = Target { measure: Measure::Kl, bound, relative: false };
        let original = Quality { kl: Some(0.0), ..Quality::default() };
        Search { target, original, tried: Vec::new(), smallest: None }
    }

    /// Narrows by `prices`, while the loss really is that of the weights `real`.
    fn run(search: &mut Search, prices: &PriceList, real: [f64; 2]) {
        let mut judged = |choice: &[usize], _: &mut dyn Monitor| {
            let loss = choice.iter().zip(real).map(|(&i, weight)| weight / [2.0, 4.0, 8.0][i]).sum();
            Ok(Quality { kl: Some(loss), ..Quality::default() })
        };
        let totals = Totals { treated_weights: 16, ..Totals::default() };
        let limits = Limits { totals, ..Limits::default() };
        search.narrow(prices, &limits, &mut judged, &mut crate::monitor::Quiet::default()).unwrap();
    }

    #[test]
    fn the_smallest_plan_of_the_curve_that_holds_is_found() {
        // Losses of the curve by bytes: 16: 0.25, 12: 0.375, 8: 0.5, 6: 0.75, 4: 1.
        for (bound, bytes) in [(0.25, 16), (0.37, 16), (0.4, 12), (0.5, 8), (0.8, 6), (2.0, 4)] {
            let mut search = search(bound);
            run(&mut search, &prices([1.0; 2]), [1.0; 2]);
            let (point, reached) = search.end().unwrap();
            assert_eq!(point.costs.bytes, bytes, "{bound}");
            let best = reached.tried.iter().filter(|t| t.holds).map(|t| t.bits_per_weight);
            assert_eq!(best.fold(f64::INFINITY, f64::min), bytes as f64 / 2.0);
        }
    }

    #[test]
    fn a_target_out_of_reach_says_what_was_measured() {
        let mut search = search(0.2);
        run(&mut search, &prices([1.0; 2]), [1.0; 2]);
        let error = search.end().unwrap_err().to_string();
        assert!(error.contains("0.25000") && error.contains("kl<=0.2"), "{error}");
    }

    #[test]
    fn better_prices_find_a_smaller_plan() {
        // The first site matters and needs all its bytes; prices that think it is the second spend them there first.
        let real = [10.0, 0.1];
        let mut found = search(1.4);
        run(&mut found, &prices([0.1, 10.0]), real);
        let before = found.smallest().unwrap().costs.bytes;
        run(&mut found, &prices(real), real);
        let after = found.smallest().unwrap().costs.bytes;
        assert!(before == 16 && after == 10, "{before} then {after}");
    }
}
