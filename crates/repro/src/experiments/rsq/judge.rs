//! The verdict by the rule, and the tables.

use super::{Arm, Found, SCHEMES, Size};
use crate::experiment::{Measurement, Table, Verdict};
use crate::experiments::figures::{mean, spread};

/// One figure of an arm in a scheme, seed by seed.
fn of(found: &[Found], figure: impl Fn(&Found) -> &Vec<Vec<f64>>, scheme: usize, arm: Arm) -> Vec<f64> {
    let at = Arm::ALL.iter().position(|&other| other == arm).unwrap_or_default();
    found.iter().map(|seed| figure(seed)[scheme][at]).collect()
}

/// Whether the rule holds in a scheme.
fn holds(found: &[Found], scheme: usize) -> bool {
    let [rotated, rsq, random] =
        [Arm::Rotated, Arm::Rsq, Arm::Shuffled].map(|arm| of(found, |f| &f.perplexity, scheme, arm));
    let below = |arm: &[f64]| arm.iter().zip(&rotated).all(|(a, b)| a < b);
    below(&rsq) && !below(&random)
}

pub(super) fn judge(found: &[Found], original: f64, size: Size) -> Measurement {
    let schemes = &SCHEMES[..size.schemes];
    let held: Vec<bool> = (0..schemes.len()).map(|scheme| holds(found, scheme)).collect();
    let row = |scheme: usize, arm: Arm| {
        let perplexity = of(found, |f| &f.perplexity, scheme, arm);
        let kl = of(found, |f| &f.kl, scheme, arm);
        let rotated = of(found, |f| &f.perplexity, scheme, Arm::Rotated);
        let below = perplexity.iter().zip(&rotated).filter(|(a, b)| a < b).count();
        let below = if arm == Arm::Rotated { String::new() } else { format!("{below} of {}", found.len()) };
        vec![arm.name().to_string(), spread(&perplexity, 2), spread(&kl, 4), below]
    };
    let table = |(i, scheme): (usize, &&str)| Table {
        title: format!("{scheme}: mean (least .. most) over {} seeds", found.len()),
        columns: ["", "perplexity", "KL, nats", "below rotated GPTQ"].map(String::from).into(),
        rows: Arm::ALL.into_iter().map(|arm| row(i, arm)).collect(),
    };
    let change = |scheme: usize, arm: Arm| {
        let [rotated, other] = [Arm::Rotated, arm].map(|arm| of(found, |f| &f.perplexity, scheme, arm));
        let changes: Vec<f64> = other.iter().zip(&rotated).map(|(a, b)| 100.0 * (a / b - 1.0)).collect();
        spread(&changes, 2)
    };
    let figures = schemes.iter().enumerate().map(|(i, scheme)| {
        let [gptq, rotated, rsq] =
            [Arm::Gptq, Arm::Rotated, Arm::Rsq].map(|arm| mean(&of(found, |f| &f.perplexity, i, arm)));
        format!(
            "{scheme}: perplexity of GPTQ {gptq:.2}, rotated {rotated:.2}, RSQ {rsq:.2}, change by the weights {} %, by the \
             same for other tokens {} %",
            change(i, Arm::Rsq),
            change(i, Arm::Shuffled)
        )
    });
    let figure = figures.collect::<Vec<_>>().join("; ");
    let scale = format!(
        "wikilm (5.8 M parameters, perplexity {original:.2}), {} windows of 256 tokens, judged on {}, {} seeds",
        size.samples,
        size.windows,
        found.len()
    );
    let tables = schemes.iter().enumerate().map(table).collect();
    Measurement { tables, ..Measurement::new(verdict(&held), figure, scale) }
}

/// The first scheme decides.
fn verdict(held: &[bool]) -> Verdict {
    match held {
        [true, ..] => Verdict::Reproduced,
        held if held.contains(&true) => Verdict::Partly,
        _ => Verdict::NotReproduced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_follows_the_rule() {
        assert_eq!(verdict(&[true, false]), Verdict::Reproduced);
        assert_eq!(verdict(&[false, true]), Verdict::Partly);
        assert_eq!(verdict(&[false, false]), Verdict::NotReproduced);
    }

    #[test]
    fn random_weights_that_do_as_well_take_the_claim_away() {
        let seed = |rotated: f64, rsq: f64, random: f64| {
            let row = Arm::ALL.map(|arm| match arm {
                Arm::Rotated => rotated,
                Arm::Rsq => rsq,
                Arm::Shuffled => random,
                _ => 9.0,
            });
            Found { perplexity: vec![row.into()], kl: vec![row.into()] }
        };
        assert!(holds(&[seed(5.0, 4.0, 5.1), seed(5.0, 4.5, 4.9)], 0));
        assert!(!holds(&[seed(5.0, 4.0, 4.9), seed(5.0, 4.5, 4.9)], 0));
        assert!(!holds(&[seed(5.0, 4.0, 5.1), seed(5.0, 5.1, 5.2)], 0));
    }
}
