//! One row a paper: what it is, and the verdict on its claim.

use serde::Serialize;

use crate::experiment::{Experiment, Verdict};
use crate::experiments;
use crate::papers::{self, Family};

/// Every experiment; one line each.
pub const EXPERIMENTS: &[&dyn Experiment] = &[
    &experiments::DecoupledMixup,
    &experiments::Cda,
    &experiments::LGreco,
    &experiments::AugmentedHessian,
    &experiments::Lamb,
    &experiments::AdAdaGrad,
    &experiments::AdaptiveInformation,
    &experiments::Ul2,
    &experiments::Dcl,
    &experiments::Eora,
    &experiments::GradientNoise,
    &experiments::Rsq,
    &experiments::Decoupleq,
    &experiments::ZeroQ,
    &experiments::DoubleRounding,
    &experiments::RepqVit,
    &experiments::RepQuant,
    &experiments::Adapt,
    &experiments::Bivit,
    &experiments::AdaQuant,
    &experiments::LqLora,
    &experiments::Int21,
    &experiments::QVlm,
    &experiments::QuantNasSearch,
    &experiments::MixDq,
];

/// The experiment on the paper with this number, if there is one.
#[must_use]
pub fn experiment(paper: u8) -> Option<&'static dyn Experiment> {
    EXPERIMENTS.iter().copied().find(|experiment| experiment.paper() == paper)
}

/// A paper with the verdict on its claim, as `trimtab reproduce --list --json` prints it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Number of the paper, 1 to 99.
    pub number: u8,
    /// Short name in kebab case.
    pub name: &'static str,
    /// Family of methods.
    pub family: Family,
    /// What is known here of the claim.
    pub verdict: Verdict,
    /// The recorded figure in one line, if a measurement is recorded.
    pub figure: Option<String>,
    /// Where the figure was measured, if a measurement is recorded.
    pub scale: Option<String>,
    /// Full title.
    pub title: &'static str,
    /// Where and when the paper appeared.
    pub venue: &'static str,
    /// What the paper claims, in one sentence.
    pub claim: &'static str,
}

/// Every paper by number, with what [`EXPERIMENTS`] have recorded.
#[must_use]
pub fn all() -> Vec<Row> {
    rows(EXPERIMENTS)
}

/// Every paper by number, with what these experiments have recorded.
fn rows(experiments: &[&dyn Experiment]) -> Vec<Row> {
    papers::all()
        .into_iter()
        .map(|paper| {
            let experiment = experiments.iter().find(|experiment| experiment.paper() == paper.number);
            let recorded = experiment.and_then(|experiment| experiment.recorded());
            let unmeasured = if experiment.is_some() { Verdict::NotRun } else { Verdict::Absent };
            let verdict = recorded.as_ref().map_or(unmeasured, |measurement| measurement.verdict);
            let (figure, scale) = recorded.map(|measurement| (measurement.figure, measurement.scale)).unzip();
            Row {
                number: paper.number,
                name: paper.name,
                family: paper.family,
                verdict,
                figure,
                scale,
                title: paper.title,
                venue: paper.venue,
                claim: paper.claim,
            }
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::error::Result;
    use crate::experiment::{Check, Measurement, Scale};
    use crate::lab::Lab;

    /// An experiment that records what it is told.
    struct Told {
        paper: u8,
        recorded: Option<Measurement>,
    }

    impl Experiment for Told {
        fn paper(&self) -> u8 {
            self.paper
        }
        fn rule(&self) -> &'static str {
            "as told"
        }
        fn check(&self) -> Result<Vec<Check>> {
            Ok(Vec::new())
        }
        fn measure(&self, scale: Scale, _: &Lab<'_>) -> Result<Measurement> {
            Ok(Measurement::new(Verdict::Partly, "told", format!("{scale:?}")))
        }
        fn recorded(&self) -> Option<Measurement> {
            self.recorded.clone()
        }
    }

    /// Rows in which paper 7 has not run and paper 87 is recorded as partly reproduced.
    pub(crate) fn sample_rows() -> Vec<Row> {
        let measured = Measurement::new(Verdict::Partly, "1.0 | 2.0", "3 seeds");
        let waiting = Told { paper: 7, recorded: None };
        let done = Told { paper: 87, recorded: Some(measured) };
        rows(&[&done, &waiting])
    }

    /// The first paper that an experiment has wrong: not one of the 99, or taken already.
    fn misregistered(experiments: &[&dyn Experiment]) -> Option<u8> {
        let mut free: HashSet<u8> = papers::all().iter().map(|paper| paper.number).collect();
        experiments.iter().map(|experiment| experiment.paper()).find(|number| !free.remove(number))
    }

    #[test]
    fn every_experiment_has_a_paper_of_its_own() {
        assert_eq!(misregistered(EXPERIMENTS), None);
        let told = |paper| Told { paper, recorded: None };
        assert_eq!(misregistered(&[&told(7), &told(87)]), None);
        assert_eq!(misregistered(&[&told(7), &told(87), &told(7)]), Some(7));
        assert_eq!(misregistered(&[&told(100)]), Some(100));
    }

    #[test]
    fn a_verdict_follows_from_the_experiment_and_its_record() {
        let rows = sample_rows();
        assert_eq!(rows.len(), 99);
        for row in &rows {
            let expected = match row.number {
                7 => (Verdict::NotRun, None, None),
                87 => (Verdict::Partly, Some("1.0 | 2.0"), Some("3 seeds")),
                _ => (Verdict::Absent, None, None),
            };
            assert_eq!((row.verdict, row.figure.as_deref(), row.scale.as_deref()), expected, "{}", row.name);
        }
    }

    #[test]
    fn json_keeps_its_keys() {
        let rows = serde_json::to_value(sample_rows()).unwrap();
        let eora = rows[86].as_object().unwrap();
        let keys: Vec<&str> = eora.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            ["number", "name", "family", "verdict", "figure", "scale", "title", "venue", "claim"]
        );
        assert_eq!((&eora["number"], &eora["name"]), (&87.into(), &"eora".into()));
        assert_eq!((&eora["family"], &eora["verdict"]), (&"quantize".into(), &"partly".into()));
        assert!(rows[0]["figure"].is_null() && rows[0]["scale"].is_null());
    }
}
