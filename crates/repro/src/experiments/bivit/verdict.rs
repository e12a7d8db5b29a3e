//! The verdict by the rule, and the tables.

use super::{Arm, Size};
use crate::experiment::{Measurement, Table, Verdict};
use crate::experiments::figures::{mean, percents};

/// What was found: accuracy, and bytes as a share of float32.
pub(super) struct Found {
    pub(super) full: Vec<f64>,
    /// With a teacher: what is judged.
    pub(super) arms: [(Arm, Vec<[f64; 2]>); 4],
    /// By the labels alone.
    pub(super) labelled: [(Arm, Vec<[f64; 2]>); 4],
}

impl Found {
    fn of(&self, arm: Arm, what: usize) -> Vec<f64> {
        let own = self.arms.iter().filter(|(other, _)| *other == arm).flat_map(|(_, found)| found);
        own.map(|found| found[what]).collect()
    }

    /// Whether one arm is so many points above another on every seed.
    fn above(&self, arm: Arm, other: Arm, points: f64) -> bool {
        let pairs = self.of(arm, 0).into_iter().zip(self.of(other, 0));
        pairs.into_iter().all(|(a, b)| 100.0 * (a - b) >= points)
    }
}

pub(super) fn judge(found: &Found, size: Size) -> Measurement {
    let parts = [found.above(Arm::Share, Arm::Signs, 3.0), found.above(Arm::Staged, Arm::Rows, 0.0)];
    let verdict = match parts {
        [true, true] => Verdict::Reproduced,
        [false, false] => Verdict::NotReproduced,
        _ => Verdict::Partly,
    };
    let points = |arm| 100.0 * mean(&found.of(arm, 0));
    let smaller = 1.0 / mean(&found.of(Arm::Staged, 1));
    let figure = format!(
        "signs of scores {:.1} %, SAB {:.1} %, with scales of rows {:.1} %, in two phases {:.1} %, full precision {:.1} %; binary matrices \
         take 1/{smaller:.1} of float32",
        points(Arm::Signs),
        points(Arm::Share),
        points(Arm::Rows),
        points(Arm::Staged),
        100.0 * mean(&found.full),
    );
    let Size { images, epochs: [first, then], seeds } = size;
    let scale = format!(
        "ViT, 4 blocks, width 64, MNIST, {images} images, {first} epochs in full precision, {then} of one bit with it as a teacher; {seeds} seeds"
    );
    let first = |found: &[[f64; 2]]| percents(&found.iter().map(|found| found[0]).collect::<Vec<_>>());
    let arms =
        found.arms.iter().zip(&found.labelled).map(|((arm, taught), (_, labelled))| {
            vec![arm.name().to_string(), first(taught), first(labelled)]
        });
    let full = vec!["full precision".to_string(), "-".into(), percents(&found.full)];
    let rows = std::iter::once(full).chain(arms).collect();
    let table = Table {
        title: format!("Accuracy, %, mean and spread of {seeds} seeds"),
        columns: ["", "with a teacher", "by labels alone"].map(String::from).into(),
        rows,
    };
    Measurement { tables: vec![table], ..Measurement::new(verdict, figure, scale) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_what_it_says() {
        let size = Size { images: 1, epochs: [1.0; 2], seeds: 2 };
        let verdict = |share: [f64; 2], staged: f64| {
            let arm = |of: [f64; 2]| of.map(|right| [right, 0.04]).to_vec();
            let arms = [
                (Arm::Signs, arm([0.5; 2])),
                (Arm::Share, arm(share)),
                (Arm::Rows, arm([0.6; 2])),
                (Arm::Staged, arm([staged; 2])),
            ];
            judge(&Found { full: vec![0.9; 2], labelled: arms.clone(), arms }, size).verdict
        };
        assert_eq!(verdict([0.56, 0.54], 0.6), Verdict::Reproduced);
        assert_eq!(verdict([0.56, 0.52], 0.6), Verdict::Partly, "one seed gains less");
        assert_eq!(verdict([0.56, 0.54], 0.59), Verdict::Partly);
        assert_eq!(verdict([0.5, 0.5], 0.59), Verdict::NotReproduced);
    }
}
