//! The verdict by the rule, and the tables.

use super::{BAR, BATCHES, GRID_BATCH, Rule};
use crate::experiment::{Measurement, Table, Verdict};
use crate::experiments::figures::{mean, spread};

/// How far LAMB may fall from the smallest batch to the largest, as a share of right answers.
const FALL: f64 = 0.005;

/// Runs of one rule at one batch.
#[derive(Clone)]
pub(super) struct Cell {
    pub rule: Rule,
    pub batch: usize,
    pub rate: f64,
    /// Share of right answers, by seed.
    pub right: Vec<f64>,
}

/// All that was measured.
#[derive(Clone, Default)]
pub(super) struct Found {
    pub cells: Vec<Cell>,
    /// AdamW tuned again at the largest batch.
    pub again: Option<Cell>,
    /// Rates with what they reach.
    pub grid: Vec<(Rule, Vec<(f64, f64)>)>,
}

impl Found {
    /// Mean share of right answers; not a number if it was not measured.
    fn at(&self, rule: Rule, batch: usize) -> f64 {
        let cell = self.cells.iter().find(|cell| cell.rule == rule && cell.batch == batch);
        cell.map_or(f64::NAN, |cell| mean(&cell.right))
    }
}

pub(super) fn judge(found: &Found, scale: String) -> Measurement {
    let [small, .., large] = BATCHES;
    let (base, lamb) = (found.at(Rule::Lamb, small), found.at(Rule::Lamb, large));
    let adamw = found.at(Rule::AdamW, large);
    let again = found.again.as_ref().map_or(f64::NAN, |cell| mean(&cell.right));
    let verdict = match (base - lamb <= FALL, lamb >= adamw) {
        (true, true) => Verdict::Reproduced,
        (false, false) => Verdict::NotReproduced,
        _ => Verdict::Partly,
    };
    let compared = match lamb - again {
        gap if gap > FALL => "worse than LAMB",
        gap if gap < -FALL => "better than LAMB",
        _ => "as good as LAMB",
    };
    let reached = |grid: &(Rule, Vec<(f64, f64)>)| {
        let passed = grid.1.iter().filter(|(_, right)| *right >= BAR).count();
        format!("{} {passed} of {}", grid.0.name(), grid.1.len())
    };
    let figure = format!(
        "LAMB {:.2} % at batch {large} ({:.2} at {small}), AdamW {:.2}, tuned again {:.2}: {compared}; rates over {:.0} %: {}",
        100.0 * lamb,
        100.0 * base,
        100.0 * adamw,
        100.0 * again,
        100.0 * BAR,
        found.grid.iter().map(reached).collect::<Vec<_>>().join(", ")
    );
    Measurement { tables: vec![batches(found), rates(found)], ..Measurement::new(verdict, figure, scale) }
}

fn batches(found: &Found) -> Table {
    let percent = |cell: &Cell| spread(&cell.right.iter().map(|right| 100.0 * right).collect::<Vec<_>>(), 2);
    let row = |rule: Rule| {
        let cells: Vec<&Cell> = found.cells.iter().filter(|cell| cell.rule == rule).collect();
        let rate = cells.first().map_or(String::new(), |cell| cell.rate.to_string());
        [rule.name().to_string(), rate].into_iter().chain(cells.into_iter().map(percent)).collect()
    };
    let again = found.again.iter().map(|cell| {
        let name = format!("AdamW, tuned at {}", cell.batch);
        let blank = BATCHES[1..].iter().map(|_| String::new());
        [name, cell.rate.to_string()].into_iter().chain(blank).chain([percent(cell)]).collect()
    });
    let heads = BATCHES.iter().map(|batch| format!("batch {batch}"));
    Table {
        title: "Test accuracy, %: mean (least .. most); the rate is the tuned one".into(),
        columns: ["".into(), "rate".into()].into_iter().chain(heads).collect(),
        rows: Rule::ALL.into_iter().map(row).chain(again).collect(),
    }
}

fn rates(found: &Found) -> Table {
    let row = |(rule, grid): &(Rule, Vec<(f64, f64)>)| {
        let first = grid.first().map_or(String::new(), |(rate, _)| rate.to_string());
        let cells = grid.iter().map(|(_, right)| format!("{:.1}", 100.0 * right));
        [rule.name().to_string(), first].into_iter().chain(cells).collect()
    };
    let n = found.grid.iter().map(|(_, grid)| grid.len()).max().unwrap_or(0);
    let factor = |i: usize| match found.grid.first() {
        Some((_, grid)) if i < grid.len() => format!("x{:.0}", grid[i].0 / grid[0].0),
        _ => String::new(),
    };
    Table {
        title: format!(
            "Test accuracy by rate at batch {GRID_BATCH}, %, seed 0: the first rate and its multiples"
        ),
        columns: ["".into(), "first".into()].into_iter().chain((0..n).map(factor)).collect(),
        rows: found.grid.iter().map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_what_it_says() {
        let found = |base: f64, lamb: f64, adamw: f64, again: f64| {
            let cell = |rule, batch, right| Cell { rule, batch, rate: 0.1, right: vec![right; 3] };
            let cells = vec![
                cell(Rule::Lamb, 128, base),
                cell(Rule::Lamb, 8000, lamb),
                cell(Rule::AdamW, 8000, adamw),
            ];
            Found { cells, again: Some(cell(Rule::AdamW, 8000, again)), grid: Vec::new() }
        };
        let judge = |found: Found| judge(&found, String::new());
        assert_eq!(judge(found(0.955, 0.951, 0.951, 0.95)).verdict, Verdict::Reproduced);
        assert_eq!(judge(found(0.957, 0.951, 0.951, 0.95)).verdict, Verdict::Partly);
        assert_eq!(judge(found(0.955, 0.951, 0.952, 0.95)).verdict, Verdict::Partly);
        assert_eq!(judge(found(0.957, 0.951, 0.952, 0.95)).verdict, Verdict::NotReproduced);
        assert!(judge(found(0.95, 0.95, 0.9, 0.96)).figure.contains("better than LAMB"));
        assert!(judge(found(0.95, 0.95, 0.9, 0.951)).figure.contains("as good as LAMB"));
    }
}
