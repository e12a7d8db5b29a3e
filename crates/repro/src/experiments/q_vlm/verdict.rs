//! The verdict of the runs, and their tables.

use super::{Arm, Found};
use crate::experiment::{Measurement, Table, Verdict};
use crate::experiments::figures::{mean, spread};

/// The least rank correlation that counts.
const CORRELATION: f64 = 0.3;

fn kl(found: &Found, arm: Arm) -> f64 {
    Arm::ALL.iter().position(|&known| known == arm).map_or(f64::NAN, |i| found.kl[i])
}

/// The verdict by the rule.
pub(super) fn judge(all: &[Found], scale: String) -> Measurement {
    let dependence = all.iter().all(|found| {
        let [entropy, place, range] = found.correlation;
        entropy > CORRELATION && entropy > place.abs() && entropy > range.abs()
    });
    let joint = all.iter().all(|found| {
        let of = |arm| kl(found, arm);
        of(Arm::Entropy) < of(Arm::Layers) && of(Arm::Entropy) < of(Arm::Random)
    });
    let verdict = match (dependence, joint) {
        (true, true) => Verdict::Reproduced,
        (false, false) => Verdict::NotReproduced,
        _ => Verdict::Partly,
    };
    let column = |of: &dyn Fn(&Found) -> f64| all.iter().map(of).collect::<Vec<f64>>();
    let of = |arm: Arm| spread(&column(&|found| kl(found, arm)), 4);
    let figure = format!(
        "KL {} with pairs by entropy, {} layer by layer, {} with random pairs, {} with all pairs; rank correlation of entropy with dependence {}",
        of(Arm::Entropy),
        of(Arm::Layers),
        of(Arm::Random),
        of(Arm::All),
        spread(&column(&|found| found.correlation[0]), 2),
    );
    let row = |(i, arm): (usize, Arm)| {
        let measured = mean(&column(&|found| found.evaluations[i] as f64));
        vec![arm.name().to_string(), of(arm), format!("{measured:.0}")]
    };
    let arms = Table {
        title: "KL to the original on held-out reviews: mean (least .. most); how often the output of a block was compared".into(),
        columns: ["", "KL", "comparisons"].map(String::from).to_vec(),
        rows: Arm::ALL.into_iter().enumerate().map(row).collect(),
    };
    let names = ["entropy", "place", "range"];
    let correlation = names.into_iter().enumerate();
    let correlations = Table {
        title: "Rank correlation with the dependence of neighbours".into(),
        columns: ["of the first", "correlation"].map(String::from).to_vec(),
        rows: correlation
            .map(|(i, name)| vec![name.to_string(), spread(&column(&|found| found.correlation[i]), 3)])
            .collect(),
    };
    Measurement { tables: vec![arms, correlations], ..Measurement::new(verdict, figure, scale) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_what_it_says() {
        let found = |correlation: [f64; 3], entropy: f64| Found {
            correlation,
            kl: [0.9, 0.5, entropy, 0.45, 0.3, 0.3],
            evaluations: [0, 168, 378, 378, 882, 2000],
        };
        let verdict = |all: &[Found]| judge(all, String::new()).verdict;
        let (good, bad) = ([0.5, -0.4, 0.1], [0.5, -0.6, 0.1]);
        assert_eq!(verdict(&[found(good, 0.4), found(good, 0.44)]), Verdict::Reproduced);
        assert_eq!(verdict(&[found(good, 0.4), found(bad, 0.44)]), Verdict::Partly);
        assert_eq!(verdict(&[found(good, 0.4), found(good, 0.46)]), Verdict::Partly);
        assert_eq!(verdict(&[found(bad, 0.4), found(good, 0.46)]), Verdict::NotReproduced);
        assert_eq!(verdict(&[found([0.2, 0.0, 0.0], 0.4)]), Verdict::Partly);
        assert_eq!(verdict(&[found([f64::NAN, 0.0, 0.0], f64::NAN)]), Verdict::NotReproduced);
    }
}
