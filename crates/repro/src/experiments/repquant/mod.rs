//! Paper 4: RepQuant, learned clipping and reconstruction behind a scale reparameterization (Li et al., arXiv:2402.05628).

use trimtab::floors::math::gram::GramAccumulator;
use trimtab::floors::math::linalg::Square;
use trimtab::floors::math::random::Stream;
use trimtab::floors::quantize::repquant::absorb;

use super::low_bit_vit::arms::{Arm, closed, table};
use super::low_bit_vit::{Found, Size, measure};
use super::pictures::Cause;
use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Verdict};
use crate::experiments::figures::{mean, percents};
use crate::lab::Lab;

const ARMS: [Arm; 7] =
    [Arm::MinMax, Arm::Percentile, Arm::Smooth, Arm::Repq, Arm::RepqGptq, Arm::Clipped, Arm::Repquant];
/// Share of the gap to the unquantized network that RepQ-ViT has to close, and of what is left then that RepQuant has to.
const GAPS: [f64; 2] = [0.5, 0.2];

/// The experiment.
pub struct RepQuant;

impl RepQuant {
    fn failed(step: &'static str) -> Box<dyn Fn(Cause) -> Error> {
        Box::new(move |source| Error::Experiment { number: 4, name: "repquant", step, source })
    }
}

fn judge(found: &[Found], scale: String) -> Measurement {
    let loud: Vec<&Found> = found.iter().filter(|one| one.loud).collect();
    let all = |of: &dyn Fn(&Found) -> f64| loud.iter().map(|one| of(one)).collect::<Vec<f64>>();
    let one_range = |one: &Found| one.at(Arm::MinMax).max(one.at(Arm::Percentile));
    let first = all(&|one| closed(one_range(one), one.at(Arm::Repq), one.original));
    let second = all(&|one| closed(one.at(Arm::Repq), one.at(Arm::Repquant), one.original));
    let [repq, repquant] = [&first, &second];
    let holds = [repq.iter().all(|&gap| gap >= GAPS[0]), repquant.iter().all(|&gap| gap >= GAPS[1])];
    // Whether clipping or reconstruction ever does more than another seed.
    let base = all(&|one| one.at(Arm::Repq));
    let ends = |of: &[f64]| {
        of.iter().copied().fold(f64::NEG_INFINITY, f64::max)
            - of.iter().copied().fold(f64::INFINITY, f64::min)
    };
    let moved =
        [Arm::Clipped, Arm::Repquant].map(|arm| mean(&all(&|one| one.at(arm) - one.at(Arm::Repq))).abs());
    let moves = moved.iter().any(|&by| by > ends(&base));
    let verdict = match holds {
        [true, true] => Verdict::Reproduced,
        _ if !moves => Verdict::NotReproduced,
        [false, false] => Verdict::NotReproduced,
        _ => Verdict::Partly,
    };
    let figure = format!(
        "loud channels: RepQuant {} %, RepQ-ViT {} ({} with GPTQ), + clipping {}, one range {}, SmoothQuant {}; RepQ-ViT closes {} of the gap, \
         RepQuant {} of the rest",
        percents(&all(&|one| one.at(Arm::Repquant))),
        percents(&base),
        percents(&all(&|one| one.at(Arm::RepqGptq))),
        percents(&all(&|one| one.at(Arm::Clipped))),
        percents(&all(&one_range)),
        percents(&all(&|one| one.at(Arm::Smooth))),
        percents(&first),
        percents(&second),
    );
    Measurement { tables: vec![table(found, &ARMS)], ..Measurement::new(verdict, figure, scale) }
}

/// Largest distance of both sides of the normal equations, relative to the largest of them.
fn normal_equations() -> std::result::Result<f64, Cause> {
    const D: usize = 24;
    let mut stream = Stream::new(4, "repquant/checks", 0, 0);
    let weight: Vec<f32> = (0..6 * D).map(|_| stream.normal() as f32).collect();
    let mut both = GramAccumulator::new(2 * D);
    for _ in 0..400 {
        let x: Vec<f32> = (0..D).map(|_| stream.normal() as f32).collect();
        let rounded: Vec<f32> = x.iter().map(|x| 0.5 * (2.0 * x).round().clamp(-3.0, 3.0)).collect();
        both.add(&[x, rounded].concat(), None)?;
    }
    let both = both.mean()?;
    let part = |row: usize| Square::new(D, (0..D * D).map(|i| both.at(row + i / D, D + i % D)).collect());
    let (cross, quantized) = (part(0)?, part(D)?);
    let (found, shift) = absorb(&weight, &quantized, &cross, 0.01)?;
    let (mut far, mut size) = (0.0f64, 0.0f64);
    for (old, new) in weight.chunks(D).zip(found.chunks(D)) {
        for i in 0..D {
            let through = |w: &[f32], m: &Square| (0..D).map(|k| f64::from(w[k]) * m.at(k, i)).sum::<f64>();
            let left = through(old, &cross) - through(new, &quantized);
            far = far.max((left - shift * f64::from(new[i] - old[i])).abs());
            size = size.max(through(old, &cross).abs());
        }
    }
    Ok(far / size)
}

impl Experiment for RepQuant {
    fn paper(&self) -> u8 {
        4
    }

    fn rule(&self) -> &'static str {
        "The networks of the experiment on RepQ-ViT (paper 52), W4A4. Reproduced if with loud channels, on every seed, RepQ-ViT closes at \
         least half of the gap between one range for all channels (the better of min-max and percentile) and the unquantized \
         network, and RepQuant (learned ends, codes by GPTQ for weights that absorb) at least 20 % of what RepQ-ViT leaves; partly if one of \
         both holds and clipping or reconstruction changes the mean accuracy by more than the spread of RepQ-ViT over seeds; not reproduced \
         otherwise. Baselines: one range by min-max and by percentile, SmoothQuant with alpha 0.5, and RepQ-ViT with GPTQ, which tells \
         what of the gain is GPTQ's."
    }

    fn check(&self) -> Result<Vec<Check>> {
        let deviation = normal_equations().map_err(Self::failed("identities"))?;
        let identity = "absorbing weights satisfy the normal equations";
        Ok(vec![Check { identity, deviation, tolerance: 1e-6 }])
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let found = measure(&ARMS, scale, lab, Self::failed)?;
        Ok(judge(&found, Size::of(scale).describe()))
    }

    fn recorded(&self) -> Option<Measurement> {
        let figure = "loud channels: one range 11.2 %, RepQ-ViT 44.6 % (95 to 99 % of the gap), with GPTQ 45.9, + clipping 45.6, + \
                      reconstruction 45.3 (-50 to 109 % of the rest), SmoothQuant 46.1; unquantized 45.6";
        let scale = "ViT of 4 blocks and width 64, CIFAR-10 at 16 x 16, 12000 images, 12 epochs, 1000 test images, 32 \
                      images to calibrate on, 3 seed(s)";
        Some(Measurement::new(Verdict::NotReproduced, figure, scale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_what_it_says() {
        let found = |repq: f64, clipped: f64, full: f64| Found {
            loud: true,
            original: 0.6,
            arms: vec![
                (Arm::MinMax, 0.1),
                (Arm::Percentile, 0.2),
                (Arm::Repq, repq),
                (Arm::Clipped, clipped),
                (Arm::Repquant, full),
            ],
        };
        let verdict = |all: &[Found]| judge(all, String::new()).verdict;
        assert_eq!(verdict(&[found(0.4, 0.41, 0.45), found(0.41, 0.41, 0.46)]), Verdict::Reproduced);
        assert_eq!(verdict(&[found(0.4, 0.41, 0.43), found(0.41, 0.41, 0.46)]), Verdict::Partly);
        assert_eq!(verdict(&[found(0.4, 0.40, 0.40), found(0.41, 0.41, 0.41)]), Verdict::NotReproduced);
        assert_eq!(verdict(&[found(0.3, 0.31, 0.31), found(0.31, 0.31, 0.32)]), Verdict::NotReproduced);
    }
}
