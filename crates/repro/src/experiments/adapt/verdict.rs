//! The verdict by the rule, and the tables.

use super::{Arm, Size, WIDTH};
use crate::experiment::{Measurement, Table, Verdict};
use crate::experiments::figures::{mean, percents, spread};

/// What a run found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// Share of right answers.
    pub(super) right: f64,
    /// Bits of a word, the mean over training.
    pub(super) words: f64,
    /// At its end.
    pub(super) last_words: f64,
    /// Bits of the weights that are not 0, as a share of float32.
    pub(super) size: f64,
    /// Times as fast as float32, by the cost model.
    pub(super) faster: f64,
}

pub(super) type Arms = [(Arm, Vec<Found>); 4];

fn of(arms: &Arms, arm: Arm, what: fn(&Found) -> f64) -> Vec<f64> {
    arms.iter().filter(|(other, _)| *other == arm).flat_map(|(_, found)| found.iter().map(what)).collect()
}

pub(super) fn judge(arms: &Arms, size: Size) -> Measurement {
    let right = |arm| of(arms, arm, |found| found.right);
    let points = |arm| 100.0 * mean(&right(arm));
    let words = mean(&of(arms, Arm::Adaptive, |found| found.words));
    let as_good = points(Arm::Adaptive) >= points(Arm::Float) - 1.0;
    let short = words < 24.0;
    let above = right(Arm::Adaptive).iter().zip(right(Arm::Fixed(8, 4))).all(|(a, b)| *a > b);
    let verdict = match [as_good, short, above].into_iter().filter(|holds| *holds).count() {
        3 => Verdict::Reproduced,
        2 => Verdict::Partly,
        _ => Verdict::NotReproduced,
    };
    let figure = format!(
        "AdaPT {:.1} %, float32 {:.1} %, fixed <8,4> {:.1} %, fixed <16,8> {:.1} %; words of {words:.1} bits over training; size {:.2}, \
         speed by the cost model {:.2} of float32",
        points(Arm::Adaptive),
        points(Arm::Float),
        points(Arm::Fixed(8, 4)),
        points(Arm::Fixed(16, 8)),
        mean(&of(arms, Arm::Adaptive, |found| found.size)),
        mean(&of(arms, Arm::Adaptive, |found| found.faster)),
    );
    let Size { images, epochs, seeds } = size;
    let scale = format!(
        "ResNet-8, {WIDTH} channels, CIFAR-10 at 16 x 16, {images} images, {epochs} epochs; {seeds} seeds"
    );
    let rows = arms.iter().map(|(arm, _)| {
        vec![
            arm.name(),
            percents(&right(*arm)),
            spread(&of(arms, *arm, |found| found.words), 1),
            spread(&of(arms, *arm, |found| found.last_words), 1),
            spread(&of(arms, *arm, |found| found.size), 3),
            spread(&of(arms, *arm, |found| found.faster), 2),
        ]
    });
    let table = Table {
        title: format!("Mean and spread of {seeds} seeds"),
        columns: ["", "accuracy, %", "bits over training", "bits at the end", "size", "speed by the model"]
            .map(String::from)
            .into(),
        rows: rows.collect(),
    };
    Measurement { tables: vec![table], ..Measurement::new(verdict, figure, scale) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_what_it_says() {
        let size = Size { images: 1, epochs: 1.0, seeds: 2 };
        let verdict = |adaptive: [f64; 2], words: f64, fixed: f64| {
            let found = |right, words| Found { right, words, last_words: words, size: 0.5, faster: 1.0 };
            let arms = [
                (Arm::Float, vec![found(0.6, 32.0); 2]),
                (Arm::Adaptive, adaptive.map(|right| found(right, words)).to_vec()),
                (Arm::Fixed(8, 4), vec![found(fixed, 8.0); 2]),
                (Arm::Fixed(16, 8), vec![found(0.5, 16.0); 2]),
            ];
            judge(&arms, size).verdict
        };
        assert_eq!(verdict([0.6, 0.59], 20.0, 0.4), Verdict::Reproduced);
        assert_eq!(verdict([0.6, 0.57], 20.0, 0.4), Verdict::Partly);
        assert_eq!(verdict([0.6, 0.59], 20.0, 0.595), Verdict::Partly, "one seed is below");
        assert_eq!(verdict([0.5, 0.5], 25.0, 0.4), Verdict::NotReproduced);
    }
}
