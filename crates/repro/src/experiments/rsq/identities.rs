//! Exact identities: rotation, uniform weights, doubled tokens.

use trimtab::calibration::{Calibration, CalibrationSettings};
use trimtab::floors::calibrate::{Importance, Moment, SecondMoment, Strategy};
use trimtab::floors::math::random::Stream;
use trimtab::floors::models::Model;
use trimtab::floors::nn::{Ctx, SiteMeta, Tap, TapRows};
use trimtab::floors::rewrite::compare;
use trimtab::quantizer::Quantizer;
use trimtab::scheme::Scheme;

use super::super::pictures::Cause;
use super::{quantized, rewritten};
use crate::experiment::Check;

pub(super) fn check() -> std::result::Result<Vec<Check>, Cause> {
    let pico = Model::open("@pico", None)?;
    let base = Model::from_checkpoint(super::single(&pico)?, None, burn::tensor::Device::flex())?;
    let input = base.probe(0).ok_or("the model takes no text")?;
    let rotated = rewritten(&base, true, true, 1)?;
    let rotation = compare(&base, &rotated, &input, Ctx::default)?.largest;
    // Loud channels are folded away before the rotation: the same weights come out.
    let quiet = rewritten(&base, false, true, 1)?;
    let mut loudness = 0.0f64;
    for name in quiet.checkpoint().names() {
        let (a, b) =
            (quiet.checkpoint().tensor(name)?.to_f32()?, rotated.checkpoint().tensor(name)?.to_f32()?);
        loudness = a.iter().zip(&b).map(|(a, b)| f64::from((a - b).abs())).fold(loudness, f64::max);
    }
    Ok(vec![
        Check {
            identity: "loud channels make no difference to the weights of a rotated model",
            deviation: loudness,
            tolerance: 1e-6,
        },
        Check { identity: "outliers and a rotation change no logit", deviation: rotation, tolerance: 1e-4 },
        Check {
            identity: "uniform importance gives GPTQ's codes",
            deviation: uniform(&base)?,
            tolerance: 0.0,
        },
        Check {
            identity: "a token of weight two is that token twice",
            deviation: doubled()?,
            tolerance: 0.0,
        },
    ])
}

/// Largest difference of a weight between GPTQ and GPTQ with uniform importance.
fn uniform(base: &Model) -> std::result::Result<f64, Cause> {
    let settings = CalibrationSettings { samples: Some(4), window: Some(64), ..Default::default() };
    let calibration = Calibration::load(base, &settings)?;
    let importance = Importance { strategy: Strategy::Uniform, ..Importance::default() };
    let [plain, weighted] = [None, Some(importance)].map(|importance| {
        let quantizer = Quantizer { importance, ..Quantizer::default() };
        quantized(base, "int3 row sym", &quantizer, &calibration)
    });
    let (plain, weighted) = (plain?, weighted?);
    let differences = plain.sites().zip(weighted.sites()).flat_map(|(a, b)| {
        let (a, b) = (a.weight.to_f32(), b.weight.to_f32());
        a.into_iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).collect::<Vec<_>>()
    });
    Ok(differences.fold(0.0, f64::max))
}

/// Codes that differ between a token that is there twice and one that counts twice.
fn doubled() -> std::result::Result<f64, Cause> {
    let (rows, cols, tokens) = (16, 24, 80);
    let meta = SiteMeta::linear("x", rows, cols);
    let mut random = Stream::new(5, "rsq/doubled", 0, 0);
    // Small integers: their sums are exact, in whatever order.
    let inputs: Vec<f32> = (0..tokens * cols).map(|_| random.below(9) as f32 - 4.0).collect();
    let weight: Vec<f32> = (0..rows * cols).map(|_| random.normal() as f32).collect();
    let moment = |rows: &[f32], weights: Option<&[f64]>| -> std::result::Result<Moment, Cause> {
        let mut moment = SecondMoment::new(cols, 1);
        moment.input(&meta, TapRows::new(rows, cols, weights))?;
        Ok(moment.moment()?)
    };
    let twice: Vec<f32> = inputs.iter().chain(&inputs[7 * cols..8 * cols]).copied().collect();
    let mut weights = vec![1.0; tokens];
    weights[7] = 2.0;
    let scheme: Scheme = "int3 row sym".parse()?;
    let codes = |h: &Moment| -> std::result::Result<Vec<f32>, Cause> {
        let method = Quantizer::default().treatment(scheme, trimtab::floors::io::Dtype::F32, true);
        let method = method.ok_or("the scheme is not treated")?;
        let evidence = trimtab::floors::calibrate::SiteEvidence { second_moment: Some(h), fisher: None };
        Ok(method.treat(&meta, &weight, evidence)?.treated.into_weight(&meta)?.to_f32())
    };
    let (a, b) = (codes(&moment(&twice, None)?)?, codes(&moment(&inputs, Some(&weights))?)?);
    let once = codes(&moment(&inputs, None)?)?;
    // The control: a token that counts once gives other codes.
    if a == once {
        return Err("doubling a token changes no code: the check sees nothing".into());
    }
    Ok(a.iter().zip(&b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identities_hold() {
        for check in check().unwrap() {
            assert!(check.holds(), "{check:?}");
        }
    }
}
