//! What an experiment is: exact checks, a measured effect, a verdict.

use std::fmt;

use serde::Serialize;
use trimtab::report::Lines;

use crate::error::Result;
use crate::lab::Lab;

/// What is known here of a paper's claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// No experiment exists.
    #[serde(rename = "absent")]
    Absent,
    /// An experiment exists, and no measurement of it is recorded.
    #[serde(rename = "not run")]
    NotRun,
    /// The claim held, by the rule that its experiment states.
    #[serde(rename = "reproduced")]
    Reproduced,
    /// Part of the claim held.
    #[serde(rename = "partly")]
    Partly,
    /// The claim did not hold at this scale.
    #[serde(rename = "not reproduced")]
    NotReproduced,
}

impl Verdict {
    /// Every verdict, from nothing known to a claim that failed.
    pub const ALL: [Self; 5] =
        [Self::Absent, Self::NotRun, Self::Reproduced, Self::Partly, Self::NotReproduced];
}

impl fmt::Display for Verdict {
    /// The same words as in JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Absent => "absent",
            Self::NotRun => "not run",
            Self::Reproduced => "reproduced",
            Self::Partly => "partly",
            Self::NotReproduced => "not reproduced",
        })
    }
}

/// How much work a measurement may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// About a minute on two cores: shows the direction of the effect.
    Quick,
    /// At most ten minutes on two cores: the scale of a recorded verdict.
    Full,
}

/// One exact identity, as found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// What must be equal to what.
    pub identity: &'static str,
    /// Largest deviation found, in the unit of the compared values.
    pub deviation: f64,
    /// Largest deviation that rounding explains.
    pub tolerance: f64,
}

impl Check {
    /// Whether the identity holds; a deviation that is not a number fails.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.deviation <= self.tolerance
    }
}

/// The effect that a run measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measurement {
    /// Verdict by the rule that the experiment states before it runs.
    pub verdict: Verdict,
    /// The figure in one line: the method, the strongest baseline, the spread over seeds.
    pub figure: String,
    /// Where it was measured: model, data, seeds.
    pub scale: String,
    /// All that was measured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<Table>,
    /// Curves of it, for the page.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub charts: Vec<Lines>,
}

impl Measurement {
    /// A verdict with its figure and where it was measured.
    pub fn new(verdict: Verdict, figure: impl Into<String>, scale: impl Into<String>) -> Self {
        Self { verdict, figure: figure.into(), scale: scale.into(), tables: Vec::new(), charts: Vec::new() }
    }
}

/// Figures of a run, baselines beside the method.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Table {
    /// What it shows, with units.
    pub title: String,
    /// Head of each column.
    pub columns: Vec<String>,
    /// Rows of as many cells.
    pub rows: Vec<Vec<String>>,
}

/// The test of one paper's claim.
pub trait Experiment: Sync {
    /// Number of the paper, 1 to 99.
    fn paper(&self) -> u8;

    /// The rule of the verdict, and the baselines: written before the first run.
    fn rule(&self) -> &'static str;

    /// Tries the exact identities that the method implies; takes seconds.
    ///
    /// # Errors
    /// [`Error::Experiment`](crate::Error::Experiment) when a step cannot run at all. An identity that fails is a
    /// [`Check`] that does not hold, no error.
    fn check(&self) -> Result<Vec<Check>>;

    /// Measures the claimed effect against the baselines that the experiment names.
    ///
    /// # Errors
    /// [`Error::Experiment`](crate::Error::Experiment) when a step cannot run. An effect that is missing is a verdict,
    /// no error.
    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement>;

    /// The last measurement at [`Scale::Full`] that is committed with the experiment, if there is one.
    fn recorded(&self) -> Option<Measurement>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_read_the_same_in_json_and_in_print() {
        let words = ["absent", "not run", "reproduced", "partly", "not reproduced"];
        for (verdict, word) in Verdict::ALL.into_iter().zip(words) {
            assert_eq!(verdict.to_string(), word);
            assert_eq!(serde_json::to_string(&verdict).unwrap(), format!("\"{word}\""));
        }
    }

    #[test]
    fn a_check_holds_up_to_its_tolerance_and_never_for_nan() {
        let check = |deviation| Check { identity: "full rank is the identity", deviation, tolerance: 1e-6 };
        assert!(check(0.0).holds());
        assert!(check(1e-6).holds());
        assert!(!check(1.1e-6).holds());
        assert!(!check(f64::NAN).holds());
    }
}
