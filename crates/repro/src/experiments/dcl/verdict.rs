//! The verdict of the runs, and their table.

use trimtab::floors::train::objectives::ContrastiveKind;

use super::{BATCHES, Cell, Found, KINDS, MIDDLE, name};
use crate::experiment::{Measurement, Table, Verdict};
use crate::experiments::figures::{mean, percents};

/// What the runs of one kind found.
fn of(all: &[(Cell, Found)], kind: ContrastiveKind, batch: usize) -> Vec<Found> {
    let own = |cell: &Cell| (cell.kind, cell.batch) == (kind, batch);
    all.iter().filter(|(cell, _)| own(cell)).map(|(_, found)| *found).collect()
}

fn column(found: &[Found], what: fn(&Found) -> f64) -> Vec<f64> {
    found.iter().map(what).collect()
}

fn accuracies(all: &[(Cell, Found)], untrained: &[[f64; 2]]) -> Table {
    let mut rows = Vec::new();
    for batch in BATCHES {
        for kind in KINDS {
            let found = of(all, kind, batch);
            if found.is_empty() {
                continue;
            }
            let q = |what: fn(&Found) -> f64| format!("{:.3}", mean(&column(&found, what)));
            rows.push(vec![
                format!("batch {batch}, {}", name(kind)),
                percents(&column(&found, |f| f.neighbours)),
                percents(&column(&found, |f| f.probe)),
                q(|f| f.q[0]),
                q(|f| f.q[1]),
            ]);
        }
    }
    let [neighbours, probe] = [0, 1].map(|i| untrained.iter().map(|found| found[i]).collect::<Vec<_>>());
    let dash = || "-".to_string();
    rows.push(vec!["not trained".into(), percents(&neighbours), percents(&probe), dash(), dash()]);
    Table {
        title: format!(
            "Accuracy of features, %, mean and spread of {} seeds; mean q before and after",
            untrained.len()
        ),
        columns: ["", "20 neighbours", "linear probe", "q, start", "q, end"].map(String::from).into(),
        rows,
    }
}

/// The verdict by the rule.
pub(super) fn judge(all: &[(Cell, Found)], untrained: &[[f64; 2]], scale: String) -> Measurement {
    let average = |kind, batch, what: fn(&Found) -> f64| mean(&column(&of(all, kind, batch), what));
    let lead = |batch, what: fn(&Found) -> f64| {
        100.0 * (average(KINDS[1], batch, what) - average(KINDS[0], batch, what))
    };
    let [small, _, large] = BATCHES;
    let leads = BATCHES.map(|batch| lead(batch, |f| f.neighbours));
    let end = |batch| average(KINDS[0], batch, |f| f.q[1]);
    let falls = BATCHES.iter().all(|&batch| end(batch) < average(KINDS[0], batch, |f| f.q[0]));
    let mechanism = falls && end(small) < end(large);
    let verdict = match leads[0] >= 1.0 {
        true if leads[0] > leads[2] && mechanism => Verdict::Reproduced,
        true => Verdict::Partly,
        false => Verdict::NotReproduced,
    };
    let figure = format!(
        "DCL - InfoNCE, neighbours right: {:+.1}, {:+.1}, {:+.1} points at batches 16, 64, 256 (linear probe {:+.1}, {:+.1}, {:+.1}); \
         mean q of InfoNCE at the end {:.2}, {:.2}, {:.2}",
        leads[0],
        leads[1],
        leads[2],
        lead(small, |f| f.probe),
        lead(MIDDLE, |f| f.probe),
        lead(large, |f| f.probe),
        end(small),
        end(MIDDLE),
        end(large)
    );
    Measurement { tables: vec![accuracies(all, untrained)], ..Measurement::new(verdict, figure, scale) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_what_it_says() {
        let verdict = |small: [f64; 2], large: [f64; 2], q: [f64; 2]| {
            let found = |neighbours, q| Found { neighbours, probe: 0.5, q: [0.9, q] };
            let cell = |kind, batch| Cell { kind, batch, rate: 1e-3, seed: 0 };
            let mut all = Vec::new();
            for kind in 0..2 {
                all.push((cell(KINDS[kind], 16), found(small[kind], q[0])));
                all.push((cell(KINDS[kind], 64), found(0.5, 0.5)));
                all.push((cell(KINDS[kind], 256), found(large[kind], q[1])));
            }
            judge(&all, &[[0.3, 0.3]], String::new()).verdict
        };
        assert_eq!(verdict([0.4, 0.42], [0.45, 0.455], [0.3, 0.6]), Verdict::Reproduced);
        assert_eq!(verdict([0.4, 0.42], [0.45, 0.48], [0.3, 0.6]), Verdict::Partly);
        assert_eq!(verdict([0.4, 0.42], [0.45, 0.455], [0.7, 0.6]), Verdict::Partly);
        assert_eq!(verdict([0.4, 0.42], [0.45, 0.455], [0.3, 0.95]), Verdict::Partly);
        assert_eq!(verdict([0.4, 0.405], [0.45, 0.455], [0.3, 0.6]), Verdict::NotReproduced);
    }
}
