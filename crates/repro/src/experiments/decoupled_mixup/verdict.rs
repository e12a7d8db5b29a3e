//! The verdict of the runs, and their tables.

use super::{Arm, DATA, DEAR, Data, Found};
use crate::experiment::{Measurement, Table, Verdict};
use crate::experiments::figures::{mean, percents};

/// What every arm found, over seeds.
pub(super) type Arms = [(Arm, Vec<Found>); 5];

/// What an eta gains over the coupled loss, in points: mixtures of which both classes are found, clean accuracy.
#[derive(Clone, Copy)]
struct Gain {
    eta: f64,
    both: f64,
    clean: f64,
}

impl Gain {
    fn holds(&self) -> bool {
        self.both >= 2.0 && self.clean >= -0.3
    }
}

fn average(arms: &Arms, arm: Arm, what: fn(&Found) -> f64) -> f64 {
    let of = arms.iter().filter(|(other, _)| *other == arm).flat_map(|(_, found)| found);
    mean(&of.map(what).collect::<Vec<_>>())
}

/// The gain of the eta that the verdict rests on: one that holds, else the one that mixtures gain most by.
fn gain(arms: &Arms) -> Gain {
    let [small, large] = [0.1, 1.0].map(|eta| {
        let difference = |what: fn(&Found) -> f64| {
            100.0 * (average(arms, Arm::Decoupled(eta), what) - average(arms, Arm::Coupled, what))
        };
        Gain { eta, both: difference(|f| f.both), clean: difference(|f| f.clean) }
    });
    match small.holds() || (!large.holds() && small.both >= large.both) {
        true => small,
        false => large,
    }
}

fn table(name: &str, arms: &Arms, seeds: u64) -> Table {
    let rows = arms.iter().map(|(arm, found)| {
        let shares: [fn(&Found) -> f64; 3] = [|f| f.clean, |f| f.one, |f| f.both];
        let column = |of: fn(&Found) -> f64| percents(&found.iter().map(of).collect::<Vec<f64>>());
        std::iter::once(arm.name()).chain(shares.map(column)).collect()
    });
    Table {
        title: format!("{name}: accuracy, %, mean and spread of {seeds} seeds; the best class, the best two"),
        columns: ["", "clean", "mixed, one", "mixed, both"].map(String::from).into(),
        rows: rows.collect(),
    }
}

/// The verdict by the rule.
pub(super) fn judge(
    results: &[Arms; 2],
    [coupled, decoupled]: [f64; 2],
    seeds: u64,
    most: (usize, usize),
) -> Measurement {
    let ratio = decoupled / coupled;
    let cost = Table {
        title: "Loss and its gradient, 1024 x 1000 logits, ms".into(),
        columns: ["MCE", "DM", "ratio"].map(String::from).into(),
        rows: vec![vec![
            format!("{:.1}", 1e3 * coupled),
            format!("{:.1}", 1e3 * decoupled),
            format!("{ratio:.2}"),
        ]],
    };
    let gains = [gain(&results[0]), gain(&results[1])];
    let verdict = match gains.iter().any(|gain| gain.both >= 2.0) {
        true if gains.iter().all(Gain::holds) && ratio <= DEAR => Verdict::Reproduced,
        true => Verdict::Partly,
        false => Verdict::NotReproduced,
    };
    let parts = DATA.iter().zip(results).zip(&gains).map(|((data, arms), gain)| {
        let Gain { eta, clean, .. } = *gain;
        let both = |arm| 100.0 * average(arms, arm, |f| f.both);
        format!(
            "{}: DM (eta {eta}) {:.1} %, MCE {:.1} %, smoothed {:.1} %, clean {clean:+.2} points",
            data.name,
            both(Arm::Decoupled(eta)),
            both(Arm::Coupled),
            both(Arm::Smoothed)
        )
    });
    let parts: Vec<String> = parts.collect();
    let figure = format!(
        "both classes of a mixture found: {}; the loss takes {ratio:.2} times as long",
        parts.join("; ")
    );
    let parts = DATA.map(|data| {
        let Data { name, widths, images, epochs, .. } = data;
        let widths: Vec<String> = widths.iter().map(usize::to_string).collect();
        let (images, epochs) = (images.min(most.0), epochs.min(most.1));
        format!("{name}, {images} images, {epochs} epochs, convnet {}", widths.join("-"))
    });
    let scale = format!("{}; {seeds} seeds", parts.join("; "));
    let mut tables: Vec<Table> =
        DATA.iter().zip(results).map(|(data, arms)| table(data.name, arms, seeds)).collect();
    tables.push(cost);
    Measurement { tables, ..Measurement::new(verdict, figure, scale) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_what_it_says() {
        let found = |clean, both| vec![Found { clean, one: 0.9, both }; 3];
        let arms = |small: (f64, f64), large: (f64, f64)| -> Arms {
            [
                (Arm::Unmixed, found(0.6, 0.2)),
                (Arm::Coupled, found(0.6, 0.3)),
                (Arm::Smoothed, found(0.6, 0.3)),
                (Arm::Decoupled(0.1), found(small.0, small.1)),
                (Arm::Decoupled(1.0), found(large.0, large.1)),
            ]
        };
        let good = arms((0.6, 0.33), (0.5, 0.4));
        let verdict = |first: Arms, second: Arms, cost| {
            judge(&[first, second], [1.0, cost], 3, (usize::MAX, usize::MAX)).verdict
        };
        let large = arms((0.6, 0.31), (0.599, 0.33));
        assert_eq!(verdict(good.clone(), large, 1.1), Verdict::Reproduced);
        assert_eq!(verdict(good.clone(), good.clone(), 1.5), Verdict::Partly);
        let less = arms((0.6, 0.31), (0.59, 0.33));
        assert_eq!(verdict(good.clone(), less, 1.1), Verdict::Partly);
        let clean = arms((0.65, 0.31), (0.65, 0.31));
        assert_eq!(verdict(good, clean.clone(), 1.1), Verdict::Partly);
        assert_eq!(verdict(clean.clone(), clean, 1.1), Verdict::NotReproduced);
    }
}
