//! The verdict of the runs, and their tables.

use super::{Arm, Found};
use crate::experiment::{Measurement, Table, Verdict};
use crate::experiments::figures::{percents, spread};

/// By how many decibels the first word has to count.
const FIRST_WORD: f64 = 10.0;

/// The verdict by the rule.
pub(super) fn judge(all: &[Found], scale: String) -> Measurement {
    let gain = |found: &Found| found.first_word[3] - found.first_word[2];
    let first_word = all.iter().all(|found| gain(found) >= FIRST_WORD);
    let metrics = all.iter().all(|found| {
        let (matched, swapped) = (found.at(Arm::Matched), found.at(Arm::Swapped));
        matched.consistency > swapped.consistency && matched.mse <= swapped.mse
    });
    let mixed = all.iter().all(|found| {
        let (matched, uniform) = (found.at(Arm::Matched), found.at(Arm::Uniform));
        matched.consistency >= uniform.consistency && matched.mse < uniform.mse
    });
    let verdict = match [first_word, metrics, mixed].into_iter().filter(|&holds| holds).count() {
        3 => Verdict::Reproduced,
        0 => Verdict::NotReproduced,
        _ => Verdict::Partly,
    };
    let column = |of: &dyn Fn(&Found) -> f64| all.iter().map(of).collect::<Vec<f64>>();
    let consistency = |arm: Arm| percents(&column(&|found| found.at(arm).consistency));
    let noise = |arm: Arm| spread(&column(&|found| 1000.0 * found.at(arm).mse), 3);
    let figure = format!(
        "first word kept: {} dB more at A8; 4 bits a weight: shown as asked {} % matched, {} swapped, {} uniform, {} unquantized; \
         MSE x 1000 {} matched, {} swapped, {} uniform",
        spread(&column(&gain), 1),
        consistency(Arm::Matched),
        consistency(Arm::Swapped),
        consistency(Arm::Uniform),
        percents(&column(&|found| found.original)),
        noise(Arm::Matched),
        noise(Arm::Swapped),
        noise(Arm::Uniform),
    );
    let row = |arm: Arm| {
        vec![
            arm.name().to_string(),
            spread(&column(&|found| found.bits(arm)), 3),
            consistency(arm),
            noise(arm),
            spread(&column(&|found| found.at(arm).ssim), 4),
        ]
    };
    let arms = Table {
        title: "Weights in few bits, pictures on held-out digits and noise: mean (least .. most)".into(),
        columns: ["", "bits a weight", "shown as asked, %", "MSE x 1000", "SSIM"].map(String::from).to_vec(),
        rows: Arm::ALL.into_iter().map(row).collect(),
    };
    let names =
        ["keys and values", "keys and values, first word kept", "all maps", "all maps, first word kept"];
    let words = names.into_iter().enumerate();
    let first_word = Table {
        title: "SQNR of the pictures with inputs in 8 bits, dB".into(),
        columns: ["inputs of", "SQNR"].map(String::from).to_vec(),
        rows: words
            .map(|(i, name)| vec![name.to_string(), spread(&column(&|found| found.first_word[i]), 1)])
            .collect(),
    };
    Measurement { tables: vec![first_word, arms], ..Measurement::new(verdict, figure, scale) }
}

#[cfg(test)]
mod tests {
    use super::super::subject::Pictures;
    use super::*;

    #[test]
    fn the_rule_is_what_it_says() {
        let found = |gain: f64, matched: [f64; 2]| {
            let pictures = |consistency, mse| Pictures { consistency, mse, ssim: 0.9 };
            let of = |arm| match arm {
                Arm::Matched => pictures(matched[0], matched[1]),
                Arm::Swapped => pictures(0.80, 0.002),
                _ => pictures(0.75, 0.003),
            };
            Found {
                first_word: [10.0, 40.0, 9.0, 9.0 + gain],
                original: 0.9,
                arms: Arm::ALL.map(|arm| (4.0, of(arm))),
            }
        };
        let verdict = |all: &[Found]| judge(all, String::new()).verdict;
        assert_eq!(verdict(&[found(10.0, [0.81, 0.002]), found(12.0, [0.9, 0.001])]), Verdict::Reproduced);
        assert_eq!(verdict(&[found(9.9, [0.81, 0.002]), found(12.0, [0.9, 0.001])]), Verdict::Partly);
        assert_eq!(verdict(&[found(10.0, [0.80, 0.002])]), Verdict::Partly);
        assert_eq!(verdict(&[found(10.0, [0.81, 0.0021])]), Verdict::Partly);
        assert_eq!(verdict(&[found(3.0, [0.74, 0.004])]), Verdict::NotReproduced);
    }
}
