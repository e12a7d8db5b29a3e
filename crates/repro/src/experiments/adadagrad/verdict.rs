//! The verdict of the runs, and their tables.

use super::{Arm, Cell, DEAR, ETAS, Found, LARGE, Model, SMALL, TIMED};
use crate::experiment::{Measurement, Table, Verdict};
use crate::experiments::figures::{mean, percents};

fn of(all: &[(Cell, Found)], model: Model, arm: Arm) -> Vec<Found> {
    all.iter().filter(|((m, a, _), _)| (*m, *a) == (model, arm)).map(|(_, found)| *found).collect()
}

fn table(all: &[(Cell, Found)], model: Model, samples: u64) -> Table {
    let row = |arm: Arm| {
        let found = of(all, model, arm);
        let average = |what: fn(&Found) -> f64| mean(&found.iter().map(what).collect::<Vec<_>>());
        let steps = average(|f| f.steps as f64);
        vec![
            arm.name(),
            percents(&found.iter().map(|f| f.accuracy).collect::<Vec<_>>()),
            format!("{steps:.0}"),
            format!("{:.0}", samples as f64 / steps),
            format!("{:.0}", average(|f| f.largest as f64)),
            format!("{:.1}", average(|f| f.seconds)),
        ]
    };
    Table {
        title: format!("{}, AdaGrad of rate {}: {samples} samples", model.name(), model.rate()),
        columns: ["", "accuracy, %", "steps", "mean batch", "largest", "seconds"].map(String::from).into(),
        rows: Arm::ALL.map(row).into(),
    }
}

/// The verdict by the rule.
pub(super) fn judge(all: &[(Cell, Found)], overheads: &[f64], samples: u64, seeds: u64) -> Measurement {
    let average = |arm: Arm, what: fn(&Found) -> f64| {
        mean(&of(all, Model::Convnet, arm).iter().map(what).collect::<Vec<_>>())
    };
    let accuracy = |arm| 100.0 * average(arm, |f| f.accuracy);
    let (small, large) = (accuracy(Arm::Fixed(SMALL)), accuracy(Arm::Fixed(LARGE)));
    let steps = average(Arm::Fixed(SMALL), |f| f.steps as f64);
    // Few steps; near the small batch; above the large one.
    let parts = ETAS.map(|eta| {
        let (arm, few) = (Arm::Adaptive(eta), average(Arm::Adaptive(eta), |f| f.steps as f64) <= 0.1 * steps);
        (eta, few && (accuracy(arm) - small).abs() <= 0.3, few && accuracy(arm) - large >= 0.5)
    });
    let cheap = !overheads.is_empty() && overheads.iter().all(|share| *share < DEAR);
    let both = parts.iter().find(|(_, near, above)| *near && *above);
    let one = parts.iter().find(|(_, near, above)| *near || *above);
    let verdict = match (both, one) {
        (Some(_), _) if cheap => Verdict::Reproduced,
        (_, Some(_)) => Verdict::Partly,
        _ => Verdict::NotReproduced,
    };
    let best =
        if accuracy(Arm::Adaptive(ETAS[0])) > accuracy(Arm::Adaptive(ETAS[1])) { ETAS[0] } else { ETAS[1] };
    let eta = both.or(one).map_or(best, |(eta, ..)| *eta);
    let shares: Vec<String> = overheads.iter().map(|share| format!("{:.0}", 100.0 * share)).collect();
    let figure = format!(
        "convnet: AdAdaGrad (eta {eta}) {:.2} % in {:.0} steps, constant {SMALL} {small:.2} % in {steps:.0}, constant {LARGE} {large:.2} %, \
         ramp of the same mean batch {:.2} %; statistics add {} % to steps of 16, 256, 2048",
        accuracy(Arm::Adaptive(eta)),
        average(Arm::Adaptive(eta), |f| f.steps as f64),
        accuracy(Arm::Ramp(eta)),
        shares.join(", ")
    );
    let cost = Table {
        title: "What the statistics add to a step of the convnet, %".into(),
        columns: TIMED.map(|size| format!("batch {size}")).into(),
        rows: vec![shares],
    };
    let mut tables: Vec<Table> =
        [Model::Convnet, Model::Logistic].map(|model| table(all, model, samples)).into();
    tables.push(cost);
    let scale = format!(
        "convnet 8-16 with layer norms (group norms in the specification) and logistic regression, MNIST 8,000 / 2,000 at 14 x 14 pixels, \
         {samples} samples, {seeds} seeds"
    );
    Measurement { tables, ..Measurement::new(verdict, figure, scale) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_what_it_says() {
        let verdict = |small: f64, large: f64, adapted: f64, steps: usize, overhead: f64| {
            let found = |accuracy, steps| Found { accuracy, steps, ..Found::default() };
            let all = Arm::ALL.map(|arm| {
                let found = match arm {
                    Arm::Fixed(SMALL) => found(small, 15_000),
                    Arm::Fixed(_) => found(large, 150),
                    Arm::Adaptive(_) | Arm::Ramp(_) => found(adapted, steps),
                };
                ((Model::Convnet, arm, 0), found)
            });
            judge(&all, &[overhead], 240_000, 1).verdict
        };
        assert_eq!(verdict(0.98, 0.97, 0.979, 1000, 0.1), Verdict::Reproduced);
        assert_eq!(verdict(0.98, 0.97, 0.979, 1000, 0.5), Verdict::Partly);
        assert_eq!(verdict(0.98, 0.9, 0.97, 1000, 0.1), Verdict::Partly);
        assert_eq!(verdict(0.98, 0.979, 0.979, 1000, 0.1), Verdict::Partly);
        assert_eq!(verdict(0.98, 0.97, 0.979, 3000, 0.1), Verdict::NotReproduced);
        assert_eq!(verdict(0.98, 0.97, 0.972, 1000, 0.1), Verdict::NotReproduced);
    }
}
