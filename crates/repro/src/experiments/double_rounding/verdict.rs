//! The verdict by the rule, and the tables.

use trimtab::floors::train::quantized::Sampling;

use super::mixed::{BUDGETS, Chosen};
use super::{Arm, BITS, Size, WIDTH, text};
use crate::experiment::{Measurement, Table, Verdict};
use crate::experiments::figures::{mean, percents};

/// Shares of right answers.
pub(super) struct Found {
    /// Full precision, by seed.
    pub(super) full: Vec<f64>,
    /// `[arm][seed][width]`.
    pub(super) arms: Vec<(Arm, Vec<Vec<f64>>)>,
    pub(super) mixed: Vec<Chosen>,
    /// Reported beside the verdict.
    pub(super) texts: Option<text::Found>,
}

impl Found {
    /// By seed.
    fn of(&self, arm: Arm, width: usize) -> Vec<f64> {
        let own = self.arms.iter().filter(|(other, _)| *other == arm).flat_map(|(_, seeds)| seeds);
        own.map(|widths| widths[width]).collect()
    }

    fn points(&self, arm: Arm, width: usize) -> f64 {
        100.0 * mean(&self.of(arm, width))
    }

    /// At 4 bits: better than truncation, as good as a network of its own.
    fn joint(&self) -> bool {
        let at = |arm| self.points(arm, 2);
        at(Arm::Double) >= at(Arm::Truncated) + 1.0 && at(Arm::Double) >= at(Arm::Separate) - 1.0
    }

    fn rates(&self) -> bool {
        let seeds = self.full.len();
        let gain = |seed: usize, width: usize| {
            100.0 * (self.of(Arm::Double, width)[seed] - self.of(Arm::OneRate, width)[seed])
        };
        let rises =
            |seed: usize| gain(seed, 3) > 0.0 || (0..4).map(|width| gain(seed, width)).sum::<f64>() > 0.0;
        (0..seeds).all(|seed| rises(seed) && gain(seed, 0) >= -0.3)
    }

    /// By seed.
    fn chosen(&self, sampling: Sampling, of: impl Fn(&Chosen) -> f64) -> Vec<f64> {
        self.mixed.iter().filter(|chosen| chosen.sampling == sampling).map(of).collect()
    }

    /// Accuracies at a budget: HASB, uniform sampling, and the best uniform width within it.
    fn at_budget(&self, i: usize) -> [Vec<f64>; 3] {
        let within =
            BITS.iter().position(|&bits| f64::from(bits).powi(2) <= BUDGETS[i]).unwrap_or(BITS.len() - 1);
        [
            self.chosen(Sampling::Hasb, |chosen| chosen.budgets[i]),
            self.chosen(Sampling::Uniform, |chosen| chosen.budgets[i]),
            self.chosen(Sampling::Uniform, |chosen| chosen.uniform[within]),
        ]
    }

    fn mixes(&self) -> bool {
        let wins = |&i: &usize| {
            let [hasb, uniform, widths] = self.at_budget(i).map(|all| mean(&all));
            hasb > uniform && hasb > widths
        };
        (0..BUDGETS.len()).filter(wins).count() >= 2
    }
}

pub(super) fn judge(found: &Found, size: Size) -> Measurement {
    let parts = [found.joint(), found.rates(), found.mixes()];
    let verdict = match parts.iter().filter(|holds| **holds).count() {
        3 => Verdict::Reproduced,
        0 => Verdict::NotReproduced,
        _ => Verdict::Partly,
    };
    let four = |arm: Arm| format!("{:.1} %", found.points(arm, 2));
    let said = |holds: bool| if holds { "holds" } else { "does not hold" };
    let gain = |width| found.points(Arm::Double, width) - found.points(Arm::OneRate, width);
    let budgets: Vec<String> = (0..BUDGETS.len())
        .map(|i| {
            let [hasb, uniform, widths] = found.at_budget(i).map(|all| 100.0 * mean(&all));
            format!("{hasb:.1} / {uniform:.1} / {widths:.1}")
        })
        .collect();
    let mut figure = format!(
        "at 4 bits double rounding {} (truncation {}, a network of its own {}, full precision {:.1} %): {}; a rate for each width: \
         {:+.2} points at 2 bits, {:+.2} at 8: {}; HASB / uniform sampling / uniform widths at three budgets: {} %: {}",
        four(Arm::Double),
        four(Arm::Truncated),
        four(Arm::Separate),
        100.0 * mean(&found.full),
        said(parts[0]),
        gain(3),
        gain(0),
        said(parts[1]),
        budgets.join(", "),
        said(parts[2]),
    );
    let Size { images, epochs: [first, then], seeds } = size;
    let scale = format!(
        "ResNet-8, {WIDTH} channels, CIFAR-10 at 16 x 16, {images} images, {first} epochs in full precision, {then} on few bits, \
         {seeds} seeds"
    );
    let mut rows =
        vec![[vec!["full precision".to_string(), percents(&found.full)], vec![String::new(); 3]].concat()];
    rows.extend(found.arms.iter().map(|(arm, _)| {
        let columns = (0..BITS.len()).map(|width| percents(&found.of(*arm, width)));
        std::iter::once(arm.name().to_string()).chain(columns).collect()
    }));
    let columns = ["", "8 bits", "6 bits", "4 bits", "2 bits"].map(String::from).to_vec();
    let joint = Table { title: format!("Accuracy, %, mean and spread of {seeds} seeds"), columns, rows };
    let rows = BUDGETS.iter().enumerate().map(|(i, budget)| {
        let shown = found.at_budget(i).map(|all| percents(&all));
        std::iter::once(format!("{:.2}", budget.sqrt())).chain(shown).collect()
    });
    let columns =
        ["bits of a uniform network of this cost", "HASB", "uniform sampling", "best uniform width"];
    let mixed = Table {
        title: "Mixed widths by traces and errors, accuracy, %".into(),
        columns: columns.map(String::from).to_vec(),
        rows: rows.collect(),
    };
    let mut tables = vec![joint, mixed];
    if let Some(texts) = &found.texts {
        figure = format!("{figure}; {}", texts.figure());
        tables.push(texts.table());
    }
    Measurement { tables, ..Measurement::new(verdict, figure, scale) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_what_it_says() {
        let size = Size { images: 1, epochs: [1.0; 2], seeds: 2 };
        let verdict = |double: [f64; 4], truncated: f64, one: [f64; 4], hasb: f64| {
            let twice = |widths: [f64; 4]| vec![widths.to_vec(); 2];
            let arms = vec![
                (Arm::Double, twice(double)),
                (Arm::OneRate, twice(one)),
                (Arm::Truncated, twice([0.6, 0.6, truncated, 0.2])),
                (Arm::Stored, twice([0.6; 4])),
                (Arm::Separate, twice([0.6, 0.6, 0.595, 0.5])),
            ];
            let mixed = |sampling, right| Chosen { sampling, budgets: vec![right; 3], uniform: vec![0.5; 4] };
            let mixed = vec![mixed(Sampling::Hasb, hasb), mixed(Sampling::Uniform, 0.55)];
            judge(&Found { full: vec![0.6; 2], arms, mixed, texts: None }, size).verdict
        };
        let good = [0.6, 0.6, 0.59, 0.4];
        let one = [0.601, 0.6, 0.59, 0.39];
        assert_eq!(verdict(good, 0.57, one, 0.56), Verdict::Reproduced);
        assert_eq!(verdict(good, 0.585, one, 0.56), Verdict::Partly, "truncation is as good");
        assert_eq!(verdict(good, 0.57, [0.61, 0.6, 0.59, 0.39], 0.56), Verdict::Partly, "8 bits lose");
        assert_eq!(verdict([0.6, 0.6, 0.58, 0.3], 0.585, one, 0.55), Verdict::NotReproduced);
    }
}
