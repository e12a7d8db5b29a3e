//! What a run of an experiment leaves: a page, a document, a summary.

use askama::Template;
use serde::Serialize;
use trimtab::report::Chart;

use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale};
use crate::lab::Lab;
use crate::papers::{self, Paper};

/// An experiment that was run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reproduction {
    /// Number of the paper.
    pub number: u8,
    /// Short name of the paper.
    pub name: &'static str,
    /// Its title.
    pub title: &'static str,
    /// Where it appeared.
    pub venue: &'static str,
    /// What it claims.
    pub claim: &'static str,
    /// The rule of the verdict, written before the run.
    pub rule: &'static str,
    /// Exact identities.
    pub checks: Vec<Check>,
    /// What was measured.
    pub measurement: Measurement,
    /// How much was done.
    pub run: Scale,
    /// How long it took.
    pub seconds: f64,
}

/// The page.
#[derive(Template)]
#[template(path = "reproduction.html")]
struct Page<'a> {
    of: &'a Reproduction,
    charts: Vec<Chart>,
    style: &'static str,
}

impl Reproduction {
    /// Runs an experiment.
    ///
    /// # Errors
    /// Those of its steps.
    pub fn run(experiment: &dyn Experiment, scale: Scale, lab: &Lab<'_>) -> Result<Self> {
        let &Paper { number, name, title, venue, claim, .. } = papers::find(&experiment.paper().to_string())?;
        let begun = std::time::Instant::now();
        lab.tell("identities")?;
        let checks = experiment.check()?;
        let measurement = experiment.measure(scale, lab)?;
        let (rule, seconds) = (experiment.rule(), begun.elapsed().as_secs_f64());
        Ok(Self { number, name, title, venue, claim, rule, checks, measurement, run: scale, seconds })
    }

    /// The page: one file without a network.
    ///
    /// # Errors
    /// [`Error::Experiment`] if it cannot be rendered.
    pub fn to_html(&self) -> Result<String> {
        let failed = |source: askama::Error| Error::Experiment {
            number: self.number,
            name: self.name,
            step: "the report",
            source: Box::new(source),
        };
        let drawn = self.measurement.charts.iter().enumerate();
        let charts = drawn.filter_map(|(i, lines)| lines.chart(&format!("chart-{i}"))).collect();
        Page { of: self, charts, style: trimtab::report::STYLE }.render().map_err(failed)
    }

    /// The summary, at most 80 columns wide as far as the tables are.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = format!("{}. {} ({})\n{}\n", self.number, self.title, self.venue, self.claim);
        text.push_str(&format!("rule: {}\n", self.rule));
        for check in &self.checks {
            let Check { identity, deviation, tolerance } = check;
            let mark = if check.holds() { "holds" } else { "FAILS" };
            text.push_str(&format!("{mark}  {identity}: {deviation:.1e} (at most {tolerance:.1e})\n"));
        }
        for table in &self.measurement.tables {
            text.push_str(&format!("\n{}\n", table.title));
            let all: Vec<&Vec<String>> = std::iter::once(&table.columns).chain(&table.rows).collect();
            let width = |column: usize| {
                all.iter()
                    .filter_map(|row| row.get(column))
                    .map(|cell| cell.chars().count())
                    .max()
                    .unwrap_or(0)
            };
            for row in &all {
                let cells = row.iter().enumerate().map(|(i, cell)| match i {
                    0 => format!("{cell:<0$}", width(0)),
                    _ => format!("{cell:>0$}", width(i)),
                });
                text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
                text.push('\n');
            }
        }
        let Measurement { verdict, figure, scale, .. } = &self.measurement;
        text.push_str(&format!("\n{verdict}: {figure}\n{scale}; {:.0} s\n", self.seconds));
        text
    }

    /// Whether every identity holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.checks.iter().all(Check::holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::{Table, Verdict};
    use trimtab::report::{Lines, Series};

    #[test]
    fn page_and_summary_say_the_same() {
        let table = Table {
            title: "accuracy, %".into(),
            columns: vec!["arm".into(), "seed 0".into()],
            rows: vec![vec!["plain <b>".into(), "11.35".into()]],
        };
        let series = Series { name: "layer <1>".into(), points: vec![(1.0, 2.0), (10.0, 1.0)] };
        let lines = Lines {
            title: "information & epochs".into(),
            x: "epoch".into(),
            y: "bits".into(),
            logarithmic_x: true,
            series: vec![series],
        };
        let empty = Lines { series: Vec::new(), ..lines.clone() };
        let measurement = Measurement {
            tables: vec![table],
            charts: vec![lines, empty],
            ..Measurement::new(Verdict::Partly, "1.0 & 2.0", "3 seeds")
        };
        let checks = vec![
            Check { identity: "one is one", deviation: 0.0, tolerance: 1e-6 },
            Check { identity: "two is one", deviation: 1.0, tolerance: 1e-6 },
        ];
        let found = Reproduction {
            number: 98,
            name: "gradient-noise",
            title: "A title",
            venue: "arXiv",
            claim: "It helps.",
            rule: "if it does",
            checks,
            measurement,
            run: Scale::Quick,
            seconds: 2.0,
        };
        let (summary, page) = (found.summary(), found.to_html().unwrap());
        assert!(
            !found.holds() && summary.contains("FAILS  two is one") && summary.contains("plain <b>   11.35")
        );
        assert!(
            page.contains("plain &#60;b&#62;") && page.contains("1.0 &#38; 2.0") && !page.contains("http")
        );
        assert!(page.contains("information &#38; epochs") && page.contains("layer &lt;1&gt;"), "{page}");
        assert_eq!(page.matches("<svg").count(), 2, "one chart at two widths; what has no point is left out");
        for part in ["A title", "It helps.", "if it does", "partly", "accuracy, %", "two is one"] {
            assert!(summary.contains(part) && page.contains(part), "{part}");
        }
    }
}
