//! Budgets: what people type, and the numeric limits it stands for.
//!
//! `3.5bpw`, `40%`, `900MB`, `latency=12ms`, `macs=60%`, `params=2M`; several joined by commas all hold.
//! Bits per weight bound the treated sites (8 × their bytes / their original weights); a share or a number of
//! bytes bounds the whole file, treated and untreated. Amounts are kept as exact decimals: `29%` of 100 bytes
//! is 29 bytes, which 0.29 × 100 in floating point is not.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::budget_parse::{Decimal, parse_budget};
use crate::error::{Error, Result};
use crate::limits::{Limits, Totals, amount};
use crate::resource::Resource;

/// One or several upper bounds, all of which hold.
///
/// ```
/// use trimtab_plan::Budget;
/// let budget: Budget = "3.5bpw, latency=12ms".parse()?;
/// assert_eq!(budget.to_string(), "3.5bpw,latency=12ms");
/// let error = "3.5bqw".parse::<Budget>().unwrap_err().to_string();
/// assert!(error.contains("at character 4"));
/// # Ok::<(), trimtab_plan::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Budget {
    pub(crate) terms: Vec<Term>,
}

/// One bound: an amount in a unit. `resource` and `unit` say what the number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    pub(crate) resource: Resource,
    pub(crate) amount: Decimal,
    pub(crate) unit: Unit,
}

/// How the amount of a [`Term`] is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bits per treated weight.
    BitsPerWeight,
    /// Percent of the original.
    Percent,
    /// A symbol, and what one of it is in the integer unit: bytes, picoseconds, or one.
    Scaled { symbol: &'static str, factor: u64 },
}

impl FromStr for Budget {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse_budget(text)
    }
}

impl TryFrom<String> for Budget {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        parse_budget(&text)
    }
}

impl From<Budget> for String {
    fn from(budget: Budget) -> Self {
        budget.to_string()
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            if term.resource != Resource::Bytes {
                write!(f, "{}=", term.resource)?;
            }
            write!(f, "{}", term.amount)?;
            f.write_str(match term.unit {
                Unit::BitsPerWeight => "bpw",
                Unit::Percent => "%",
                Unit::Scaled { symbol, .. } => symbol,
            })?;
        }
        Ok(())
    }
}

impl Budget {
    /// The numeric limits on the treated sites that this budget means for a model.
    ///
    /// Bounds on the whole model leave the treated sites what the fixed part does not take. Errors:
    /// [`Error::NotPriced`] if the total of a bounded resource was not measured, [`Error::BelowFixed`] if the
    /// fixed part alone is above a bound.
    pub fn limits(&self, totals: &Totals) -> Result<Limits> {
        let mut limits = Limits { totals: totals.clone(), budget: Some(self.clone()), ..Limits::default() };
        for term in &self.terms {
            limits.tighten(term.resource, self.limit_of(term, totals)?);
        }
        Ok(limits)
    }

    /// Bytes at most that the whole file may take; `None` where only the treated sites are bounded. Errors: as [`Self::limits`].
    pub fn file_limit(&self, totals: &Totals) -> Result<Option<u64>> {
        let whole = Totals { file_bytes_fixed: 0, ..totals.clone() };
        let of_file = |term: &&Term| term.resource == Resource::Bytes && term.unit != Unit::BitsPerWeight;
        let limits = self.terms.iter().filter(of_file).map(|term| self.limit_of(term, &whole));
        Ok(limits.collect::<Result<Vec<_>>>()?.into_iter().min())
    }

    fn limit_of(&self, term: &Term, totals: &Totals) -> Result<u64> {
        let (total, fixed) = totals.of(term.resource).ok_or_else(|| self.not_priced(term, totals))?;
        let allowed = match term.unit {
            Unit::BitsPerWeight if totals.treated_weights == 0 => return Err(self.not_priced(term, totals)),
            Unit::BitsPerWeight => return Ok(term.amount.of(totals.treated_weights, 8)),
            Unit::Percent if total == 0 => return Err(self.not_priced(term, totals)),
            Unit::Percent => term.amount.of(total, 100),
            Unit::Scaled { factor, .. } => term.amount.of(factor, 1),
        };
        allowed.checked_sub(fixed).ok_or_else(|| Error::BelowFixed {
            budget: self.to_string(),
            fixed: amount(term.resource, fixed),
            allowed: amount(term.resource, allowed),
        })
    }

    fn not_priced(&self, term: &Term, totals: &Totals) -> Error {
        let missing = match (term.resource, term.unit) {
            (Resource::Bytes, Unit::BitsPerWeight) => "there are no treated weights".to_string(),
            (Resource::Bytes, _) => "the size of the original file is not known".to_string(),
            (resource, _) => format!("the {resource} of the model before treatment is not known"),
        };
        let priced = Resource::ALL.into_iter().filter(|r| totals.of(*r).is_some()).map(Resource::name);
        Error::NotPriced {
            budget: self.to_string(),
            resource: term.resource,
            missing,
            priced: priced.collect::<Vec<_>>().join(", "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals() -> Totals {
        Totals {
            treated_weights: 1000,
            treated_bytes_original: 2000,
            file_bytes_original: 2500,
            file_bytes_fixed: 500,
            macs_total: Some(10_000),
            macs_fixed: 1000,
            latency_total_s: Some(0.020),
            latency_fixed_s: 0.002,
            ..Totals::default()
        }
    }

    fn limits(text: &str) -> Result<Limits> {
        text.parse::<Budget>()?.limits(&totals())
    }

    #[test]
    fn shares_and_bytes_bound_the_file_and_bits_per_weight_do_not() {
        let totals = Totals {
            treated_weights: 1000,
            file_bytes_original: 2500,
            file_bytes_fixed: 500,
            macs_total: Some(10),
            ..Totals::default()
        };
        let of = |budget: &str| budget.parse::<Budget>().unwrap().file_limit(&totals).unwrap();
        assert_eq!([of("40%"), of("1.2kB"), of("2KiB")], [1000, 1200, 2048].map(Some));
        assert_eq!(of("3bpw,2kB,40%,macs=60%"), Some(1000), "the tightest");
        assert_eq!([of("3bpw"), of("macs=60%")], [None, None], "control");
    }

    #[test]
    fn bits_per_weight_bound_the_treated_sites_and_bytes_the_file() {
        assert_eq!(limits("3.5bpw").unwrap().bytes, Some(437)); // 3500 bits = 437.5 bytes
        assert_eq!(limits("40%").unwrap().bytes, Some(500)); // 1000 of 2500, less 500 fixed
        assert_eq!(limits("1.2kB").unwrap().bytes, Some(700));
        assert_eq!(limits("1KiB").unwrap().bytes, Some(524));
        assert_eq!(limits("3.5bpw,40%,2kB").unwrap().bytes, Some(437));
        let macs = limits("macs=60%").unwrap();
        assert_eq!((macs.macs, macs.bytes), (Some(5000), None));
        let latency = limits("latency=12ms").unwrap().latency_s.unwrap();
        assert!((latency - 0.010).abs() < 1e-15);
    }

    #[test]
    fn decimals_are_exact() {
        let totals = Totals { file_bytes_original: 100, treated_weights: 80, ..Totals::default() };
        for percent in 1..=100u64 {
            let budget: Budget = format!("{percent}%").parse().unwrap();
            assert_eq!(budget.limits(&totals).unwrap().bytes, Some(percent));
            let budget: Budget = format!("{}.{}bpw", percent / 10, percent % 10).parse().unwrap();
            assert_eq!(budget.limits(&totals).unwrap().bytes, Some(percent)); // 80 weights · x bits / 8
        }
    }

    #[test]
    fn a_budget_is_a_string_in_other_files() {
        #[derive(Serialize, Deserialize, PartialEq, Debug)]
        struct Recipe {
            budget: Budget,
        }
        let recipe: Recipe = toml::from_str("budget = \"3.50bpw, 40%\"").unwrap();
        assert_eq!(toml::to_string(&recipe).unwrap(), "budget = \"3.5bpw,40%\"\n");
        let error = toml::from_str::<Recipe>("budget = \"3.5\"").unwrap_err().to_string();
        assert!(error.contains("expected a unit"), "{error}");
    }

    #[test]
    fn missing_and_impossible_totals_are_refused() {
        let error = limits("params=2M").unwrap_err();
        assert!(matches!(error, Error::NotPriced { resource: Resource::Params, .. }), "{error}");
        assert!(error.to_string().contains("bytes, latency, macs"), "{error}");
        let error = limits("10%").unwrap_err().to_string();
        assert!(
            error.contains("untreated part alone takes 500 bytes") && error.contains("allows 250 bytes"),
            "{error}"
        );
        let nothing: Budget = "3bpw".parse().unwrap();
        assert!(matches!(nothing.limits(&Totals::default()), Err(Error::NotPriced { .. })));
    }
}
