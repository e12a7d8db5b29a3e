//! Paper 52: RepQ-ViT, scale reparameterization for quantized vision transformers (Li et al., ICCV 2023, arXiv:2212.08254).

mod checks;

use super::low_bit_vit::arms::{Arm, closed, table};
use super::low_bit_vit::{Found, Size, measure};
use super::pictures::Cause;
use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Verdict};
use crate::experiments::figures::percents;
use crate::lab::Lab;

const ARMS: [Arm; 4] = [Arm::MinMax, Arm::Percentile, Arm::Channel, Arm::Repq];
/// Share of the gap that has to close.
const GAP: f64 = 0.6;
/// Most that may be lost where no channel is loud, as a share of right answers.
const LOSS: f64 = 0.005;

/// The experiment.
pub struct RepqVit;

impl RepqVit {
    fn failed(step: &'static str) -> Box<dyn Fn(Cause) -> Error> {
        Box::new(move |source| Error::Experiment { number: 52, name: "repq-vit", step, source })
    }
}

/// The better of the two that have one range.
fn one_range(found: &Found) -> f64 {
    found.at(Arm::MinMax).max(found.at(Arm::Percentile))
}

fn judge(found: &[Found], scale: String) -> Measurement {
    let of = |loud: bool| found.iter().filter(move |one| one.loud == loud);
    let gaps: Vec<f64> =
        of(true).map(|one| closed(one_range(one), one.at(Arm::Repq), one.at(Arm::Channel))).collect();
    let closes = gaps.iter().all(|&gap| gap >= GAP);
    let holds = of(false).all(|one| one.at(Arm::Repq) >= one_range(one) - LOSS);
    let verdict = match (closes, holds) {
        (true, true) => Verdict::Reproduced,
        (false, false) => Verdict::NotReproduced,
        _ => Verdict::Partly,
    };
    let percent =
        |loud: bool, of_one: &dyn Fn(&Found) -> f64| percents(&of(loud).map(of_one).collect::<Vec<_>>());
    let figure = format!(
        "loud channels: RepQ-ViT {} %, one range {}, a range a channel {}, {} of the gap closed; as trained: RepQ-ViT {}, one range {}",
        percent(true, &|one| one.at(Arm::Repq)),
        percent(true, &one_range),
        percent(true, &|one| one.at(Arm::Channel)),
        percents(&gaps),
        percent(false, &|one| one.at(Arm::Repq)),
        percent(false, &one_range),
    );
    Measurement { tables: vec![table(found, &ARMS)], ..Measurement::new(verdict, figure, scale) }
}

impl Experiment for RepqVit {
    fn paper(&self) -> u8 {
        52
    }

    fn rule(&self) -> &'static str {
        "A vision transformer trained on CIFAR-10, weights and activations of all maps of its blocks in 4 bits, queries, keys and \
         values too, the weights of attention in 4 bits of base root 2; as trained, and with 4 channels of every norm made 20 \
         times as loud without a change of the function. Reproduced if with loud channels RepQ-ViT closes at least 60 % of the gap \
         between one range for all channels (the better of min-max and percentile) and a range a channel, on every seed, and as \
         trained is not worse than one range by more than 0.5 points on any seed; partly if one of both holds. Baselines: one range by \
         min-max, by percentile, a range a channel (not deployable)."
    }

    fn check(&self) -> Result<Vec<Check>> {
        checks::all().map_err(Self::failed("identities"))
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let found = measure(&ARMS, scale, lab, Self::failed)?;
        Ok(judge(&found, Size::of(scale).describe()))
    }

    fn recorded(&self) -> Option<Measurement> {
        let figure = "loud channels: RepQ-ViT 44.6 %, one range 11.2, a range a channel 44.6: 98.5 to 101.5 % of the gap; as trained 45.2, \
                      one range 45.5, unquantized 45.6";
        let scale = "ViT of 4 blocks and width 64, CIFAR-10 at 16 x 16, 12000 images, 12 epochs, 1000 test images, 32 \
                      images to calibrate on, 3 seed(s)";
        Some(Measurement::new(Verdict::Reproduced, figure, scale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_what_it_says() {
        let found = |loud: bool, repq: f64| Found {
            loud,
            original: 0.6,
            arms: vec![(Arm::MinMax, 0.2), (Arm::Percentile, 0.3), (Arm::Channel, 0.5), (Arm::Repq, repq)],
        };
        let verdict = |loud: [f64; 2], plain: f64| {
            let all = [found(true, loud[0]), found(true, loud[1]), found(false, plain)];
            judge(&all, String::new()).verdict
        };
        assert_eq!(verdict([0.42, 0.43], 0.296), Verdict::Reproduced);
        assert_eq!(verdict([0.42, 0.41], 0.296), Verdict::Partly);
        assert_eq!(verdict([0.42, 0.43], 0.29), Verdict::Partly);
        assert_eq!(verdict([0.41, 0.43], 0.29), Verdict::NotReproduced);
        assert_eq!(closed(0.5, 0.6, 0.5), 0.0);
    }
}
