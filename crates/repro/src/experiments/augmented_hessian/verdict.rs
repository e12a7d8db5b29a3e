//! The verdict of the runs, and their table.

use super::{Found, Ordering};
use crate::experiment::{Measurement, Table, Verdict};
use crate::experiments::figures::spread;

/// The verdict by the rule.
pub(super) fn judge(all: &[Found], scale: String) -> Measurement {
    let gain =
        |found: &Found| found.correlation[&Ordering::Augmented] - found.correlation[&Ordering::Hessian];
    let ranks = |model: &str| all.iter().filter(|f| f.model == model).all(|f| gain(f) >= 0.1);
    let counts = |f: &Found, ordering| f.counts[&ordering];
    let both = |f: &Found| {
        let (a, c) = (counts(f, Ordering::Hessian), counts(f, Ordering::Augmented));
        [c[0] as i64 - a[0] as i64, c[1] as i64 - a[1] as i64]
    };
    let leads: Vec<i64> = all.iter().flat_map(both).collect();
    let reaches = leads.iter().all(|&lead| lead >= 0) && leads.iter().any(|&lead| lead > 0);
    let models = ["ResNet-20", "wikilm"];
    let held = models.map(ranks);
    let verdict = match (held, reaches) {
        ([true, true], true) => Verdict::Reproduced,
        (held, reaches) if held.contains(&true) || reaches => Verdict::Partly,
        _ => Verdict::NotReproduced,
    };
    let of = |model: &str, ordering: Ordering| -> Vec<f64> {
        all.iter().filter(|f| f.model == model).map(|f| f.correlation[&ordering]).collect()
    };
    let figure = models.map(|model| {
        let [c, a] = [Ordering::Augmented, Ordering::Hessian].map(|ordering| spread(&of(model, ordering), 2));
        format!("{model}: rank correlation {c} augmented, {a} by the Hessian trace")
    });
    let mut rows = Vec::new();
    for model in models {
        let own: Vec<&Found> = all.iter().filter(|f| f.model == model).collect();
        let Some(first) = own.first() else { continue };
        let column =
            |count: &dyn Fn(&Found) -> f64| spread(&own.iter().map(|f| count(f)).collect::<Vec<_>>(), 1);
        for ordering in Ordering::ALL {
            rows.push(vec![
                format!("{model}: {}", ordering.name()),
                spread(&of(model, ordering), 3),
                column(&|f| f.counts[&ordering][0] as f64),
                column(&|f| f.counts[&ordering][1] as f64),
            ]);
        }
        let line = |name: &str, count: [String; 2]| {
            let [few, many] = count;
            vec![format!("{model}: {name}"), "-".into(), few, many]
        };
        rows.push(line("random order", [0, 1].map(|i| column(&|f| f.random[i]))));
        if first.best.is_some() {
            let best = |i: usize| column(&|f| f.best.map_or(f64::NAN, |best| best[i] as f64));
            rows.push(line("best of all sets", [0, 1].map(best)));
        }
    }
    let units = all.iter().map(|f| format!("{} {}", f.model, f.units)).take(2).collect::<Vec<_>>().join(", ");
    let error = all.iter().map(|f| f.trace_error).fold(0.0, f64::max);
    let title = format!(
        "Rank correlation with the true increase; units at low bits (of {units}) within 5 % and 20 % of the whole increase; traces within {:.0} %",
        100.0 * error
    );
    let columns = ["", "rank correlation", "units, 5 %", "units, 20 %"].map(String::from).into();
    Measurement {
        tables: vec![Table { title, columns, rows }],
        ..Measurement::new(verdict, figure.join("; "), scale)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn found(model: &'static str, correlation: [f64; 2], counts: [[usize; 2]; 2]) -> Found {
        let of = |i: usize| {
            [(Ordering::Hessian, 0), (Ordering::Augmented, 1)].into_iter().map(move |(o, k)| (o, i, k))
        };
        let both = Ordering::ALL.map(|ordering| (ordering, 0.0));
        let mut all: BTreeMap<Ordering, f64> = both.into();
        all.extend(of(0).map(|(ordering, _, k)| (ordering, correlation[k])));
        let mut reached: BTreeMap<Ordering, [usize; 2]> =
            Ordering::ALL.map(|ordering| (ordering, [0, 0])).into();
        reached.extend(of(0).map(|(ordering, _, k)| (ordering, counts[k])));
        Found {
            model,
            units: 10,
            correlation: all,
            counts: reached,
            best: None,
            random: [1.0, 2.0],
            trace_error: 0.04,
        }
    }

    #[test]
    fn the_rule_decides() {
        let verdict = |a: Found, b: Found| judge(&[a, b], String::new()).verdict;
        let good = |model| found(model, [0.5, 0.7], [[3, 5], [3, 6]]);
        let flat = |model| found(model, [0.5, 0.55], [[3, 5], [3, 4]]);
        assert_eq!(verdict(good("ResNet-20"), good("wikilm")), Verdict::Reproduced);
        assert_eq!(verdict(good("ResNet-20"), flat("wikilm")), Verdict::Partly);
        assert_eq!(verdict(flat("ResNet-20"), flat("wikilm")), Verdict::NotReproduced);
    }
}
