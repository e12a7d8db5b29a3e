//! The solvers as treatments: what the planner prices and the pipeline applies to any site.

use trimtab_calibrate::{Outcome, SiteEvidence, Treated, Treatment};
use trimtab_io::gguf::{GgufTensor, GgufType};
use trimtab_io::{Coded, FloatScheme, NormalFloatScheme, NormalFloatTensor};
use trimtab_nn::SiteMeta;

use crate::damage::output_error;
use crate::float::{ScaleFinder, float_rtn};
use crate::gptq::{GptqSettings, gptq_float};
use crate::layer::{Layer, LayerReport};
use crate::rtn::{RtnSettings, rtn};
use crate::scheme::WeightScheme;
use crate::solver::{LayerSolver, Solver};

/// Integers: a solver and the scheme that it codes for.
#[derive(Clone, Debug, PartialEq)]
pub struct AffineTreatment {
    /// How codes are chosen.
    pub solver: Solver,
    /// What they mean.
    pub scheme: WeightScheme,
}

/// Floats of 8 or 4 bits.
#[derive(Clone, Debug, PartialEq)]
pub struct FloatTreatment {
    /// What the codes mean.
    pub scheme: FloatScheme,
    /// How scales are found.
    pub finder: ScaleFinder,
    /// GPTQ's settings; without them weights are rounded to nearest.
    pub gptq: Option<GptqSettings>,
}

/// Blocks of a GGUF file, each fitted to its own weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockTreatment {
    /// Type of the blocks.
    pub ty: GgufType,
    /// Whether errors are weighted with the power of their input (the diagonal of `H`), as engines do it with an
    /// importance matrix.
    pub weighted: bool,
}

/// NormalFloat codes, each block by its largest magnitude: no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormalFloatTreatment {
    /// What the codes mean.
    pub scheme: NormalFloatScheme,
}

impl Treatment for NormalFloatTreatment {
    fn needs_second_moment(&self) -> bool {
        false
    }

    fn treat(&self, site: &SiteMeta, weight: &[f32], evidence: SiteEvidence<'_>) -> Result<Outcome, String> {
        let run = || -> crate::Result<_> {
            let layer = Layer::new(weight, site.rows, site.cols, evidence.second_moment)?;
            let matrix = NormalFloatTensor::encode(weight, site.rows, site.cols, self.scheme)?;
            outcome(&layer, Coded::NormalFloat(matrix), &LayerReport::default(), || Ok(None))
        };
        run().map_err(|error| error.to_string())
    }
}

impl Treatment for AffineTreatment {
    fn needs_second_moment(&self) -> bool {
        self.solver.needs_hessian()
    }

    fn treat(&self, site: &SiteMeta, weight: &[f32], evidence: SiteEvidence<'_>) -> Result<Outcome, String> {
        let run = || -> crate::Result<_> {
            let layer = Layer::new(weight, site.rows, site.cols, evidence.second_moment)?;
            let found = self.solver.solve(&layer, &self.scheme)?;
            let plain = || match self.solver {
                Solver::Rtn(_) => Ok(None),
                _ => Ok(Some(rtn(&layer, &self.scheme, &RtnSettings::default())?.dequantize())),
            };
            outcome(&layer, found.pack()?, &found.report, plain)
        };
        run().map_err(|error| error.to_string())
    }
}

impl Treatment for FloatTreatment {
    fn needs_second_moment(&self) -> bool {
        self.gptq.is_some() || self.finder.needs_input_power()
    }

    fn treat(&self, site: &SiteMeta, weight: &[f32], evidence: SiteEvidence<'_>) -> Result<Outcome, String> {
        let run = || -> crate::Result<_> {
            let layer = Layer::new(weight, site.rows, site.cols, evidence.second_moment)?;
            let found = match &self.gptq {
                Some(settings) => gptq_float(&layer, &self.scheme, self.finder, settings)?,
                None => float_rtn(&layer, &self.scheme, self.finder)?,
            };
            let plain = || match &self.gptq {
                Some(_) => Ok(Some(float_rtn(&layer, &self.scheme, ScaleFinder::AbsMax)?.dequantize())),
                None => Ok(None),
            };
            outcome(&layer, Coded::Float(found.pack()?), &found.report, plain)
        };
        run().map_err(|error| error.to_string())
    }
}

impl Treatment for BlockTreatment {
    fn needs_second_moment(&self) -> bool {
        self.weighted
    }

    fn treat(&self, site: &SiteMeta, weight: &[f32], evidence: SiteEvidence<'_>) -> Result<Outcome, String> {
        let run = || -> crate::Result<_> {
            let layer = Layer::new(weight, site.rows, site.cols, evidence.second_moment)?;
            let encode = |importance: Option<&[f32]>| {
                GgufTensor::encode(weight, site.rows, site.cols, self.ty, importance)
            };
            let plain = encode(None)?;
            if !self.weighted {
                return outcome(&layer, Coded::Blocks(plain), &LayerReport::default(), || Ok(None));
            }
            layer.need_hessian("blocks with weighted errors")?;
            let power = seen(layer.input_power().unwrap_or_default());
            let weighted = encode(Some(&power))?;
            let [damage, plain_damage] =
                [error_of(&layer, &weighted.dequantize())?, error_of(&layer, &plain.dequantize())?];
            let fell_back = plain_damage < damage;
            let report = LayerReport {
                damage: Some(damage.min(plain_damage)),
                rtn_damage: Some(plain_damage),
                fell_back,
                ..LayerReport::default()
            };
            let matrix = if fell_back { plain } else { weighted };
            outcome(&layer, Coded::Blocks(matrix), &report, || Ok(None))
        };
        run().map_err(|error| error.to_string())
    }
}

/// The power of the inputs, with a little for those that were always 0: a column without any weight would be stored as
/// whatever is cheapest.
fn seen(mut power: Vec<f32>) -> Vec<f32> {
    let mean = power.iter().sum::<f32>() / power.len().max(1) as f32;
    let least = if mean > 0.0 { 1e-4 * mean } else { 1.0 };
    power.iter_mut().for_each(|p| *p = p.max(least));
    power
}

/// What a solver found, with the damages that it did not measure itself. `plain` are the numbers of round-to-nearest where
/// the solver does more than that.
fn outcome(
    layer: &Layer<'_>,
    matrix: Coded,
    report: &LayerReport,
    plain: impl FnOnce() -> crate::Result<Option<Vec<f32>>>,
) -> crate::Result<Outcome> {
    let damage = match report.damage {
        Some(damage) => damage,
        None => error_of(layer, &matrix.dequantize())?,
    };
    let baseline_damage = match report.rtn_damage {
        Some(damage) => damage,
        None => plain()?.map_or(Ok(damage), |values| error_of(layer, &values))?,
    };
    Ok(Outcome {
        treated: Treated::Coded(matrix),
        damage,
        baseline_damage,
        fell_back: report.fell_back,
        damping: report.damping_used.unwrap_or(0.0),
    })
}

/// `tr((W - Q) H (W - Q)^T)`, with `H` the identity where nothing was observed.
fn error_of(layer: &Layer<'_>, q: &[f32]) -> crate::Result<f64> {
    match layer.hessian() {
        Some(h) => output_error(layer.weight(), q, h),
        None => Ok(layer.weight().iter().zip(q).map(|(&w, &q)| f64::from(w - q).powi(2)).sum()),
    }
}

#[cfg(test)]
mod tests {
    use trimtab_math::linalg::Square;

    use super::*;

    fn site(rows: usize, cols: usize) -> SiteMeta {
        SiteMeta::linear("up", rows, cols)
    }

    /// A weight, and inputs of which a few are far stronger than the rest and go together.
    fn problem(rows: usize, cols: usize) -> (Vec<f32>, Square) {
        let weight = (0..rows * cols).map(|i| ((i * 2_654_435_761) % 1009) as f32 / 504.5 - 1.0).collect();
        let mut h = Square::identity(cols);
        for i in 0..cols {
            for j in 0..cols {
                let (a, b) = ((i as f64 * 0.7).sin(), (j as f64 * 0.7).sin());
                let strong = |k: usize| if k.is_multiple_of(7) { 6.0 } else { 1.0 };
                h.as_mut_slice()[i * cols + j] += strong(i) * strong(j) * a * b;
            }
        }
        (weight, h)
    }

    fn all(scheme: FloatScheme, ty: GgufType) -> [Box<dyn Treatment>; 3] {
        let gptq = Some(GptqSettings::default());
        [
            Box::new(AffineTreatment { solver: Solver::default(), scheme: WeightScheme::default() }),
            Box::new(FloatTreatment { scheme, finder: ScaleFinder::MseWeighted, gptq }),
            Box::new(BlockTreatment { ty, weighted: true }),
        ]
    }

    #[test]
    fn the_damage_reported_is_that_of_the_codes_and_not_above_round_to_nearest() {
        let (rows, cols) = (8, 256);
        let (weight, h) = problem(rows, cols);
        for treatment in all(FloatScheme::NVFP4, GgufType::Q3_K) {
            let evidence = SiteEvidence { second_moment: Some(&h), ..SiteEvidence::default() };
            let outcome = treatment.treat(&site(rows, cols), &weight, evidence).unwrap();
            let Treated::Coded(matrix) = &outcome.treated else { panic!("codes") };
            let measured = output_error(&weight, &matrix.dequantize(), &h).unwrap();
            assert!((outcome.damage - measured).abs() <= 1e-6 * measured, "{} {measured}", outcome.damage);
            assert!(outcome.damage < 0.98 * outcome.baseline_damage, "the data are of use: {outcome:?}");
            let blind = treatment.treat(&site(rows, cols), &weight, SiteEvidence::default());
            assert!(blind.unwrap_err().contains("second moment"));
        }
    }

    #[test]
    fn rows_that_blocks_do_not_fill_are_refused() {
        let (weight, _) = problem(2, 40);
        let plain = BlockTreatment { ty: GgufType::Q4_0, weighted: false };
        let message = plain.treat(&site(2, 40), &weight, SiteEvidence::default()).unwrap_err();
        assert!(message.contains("32") && message.contains("40"), "{message}");
    }

    #[test]
    fn inputs_that_were_never_seen_keep_a_little_weight() {
        assert_eq!(seen(vec![0.0, 2.0]), [1e-4, 2.0]);
        assert_eq!(seen(vec![0.0, 0.0]), [1.0, 1.0]);
    }
}
