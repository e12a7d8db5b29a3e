//! The solvers as treatments: what the planner prices and the pipeline applies to any site.

use rayon::prelude::*;
use trimtab_calibrate::{Moment, Outcome, SiteEvidence, Treated, Treatment};
use trimtab_io::gguf::{GgufTensor, GgufType};
use trimtab_io::{Coded, FloatScheme, NormalFloatScheme, NormalFloatTensor};
use trimtab_math::linalg::Square;
use trimtab_nn::SiteMeta;

use crate::damage::site_error;
use crate::error::check_finite;
use crate::float::{ScaleFinder, float_rtn};
use crate::gptq::{ColumnOrder, GptqSettings, GroupFit, gptq_float};
use crate::layer::{Layer, LayerReport, Quantized};
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
            check_finite("layer: weight", weight, site.cols)?;
            let matrix = NormalFloatTensor::encode(weight, site.rows, site.cols, self.scheme)?;
            outcome((weight, evidence), Coded::NormalFloat(matrix), &LayerReport::default(), || Ok(None))
        };
        run().map_err(|error| error.to_string())
    }
}

/// Groups of a convolution that were seen apart.
fn conv_groups(evidence: SiteEvidence<'_>) -> usize {
    evidence.second_moment.map_or(1, |moment| moment.groups().len())
}

/// The whole weight as one layer; the groups of a convolution by what all of them read.
fn layer_of<'a>(site: &SiteMeta, weight: &'a [f32], evidence: SiteEvidence<'a>) -> crate::Result<Layer<'a>> {
    Layer::new(weight, site.rows, site.cols, evidence.second_moment.map(Moment::mean))
}

impl AffineTreatment {
    /// Each group of a convolution is a layer of its own.
    fn solve(&self, site: &SiteMeta, weight: &[f32], evidence: SiteEvidence<'_>) -> crate::Result<Quantized> {
        let Some(moment) = evidence.second_moment.filter(|moment| moment.groups().len() > 1) else {
            return self.solver.solve(&layer_of(site, weight, evidence)?, &self.scheme);
        };
        let mut solver = self.solver.clone();
        // A file says once for all rows which column is in which group of codes, and each layer would have an order of its own.
        if let Solver::Gptq(settings) = &mut solver
            && settings.order != ColumnOrder::Natural
        {
            settings.groups = GroupFit::Static;
        }
        let rows = site.rows / moment.groups().len();
        let layers = weight.par_chunks((rows * site.cols).max(1)).zip(moment.groups());
        let solve = |(part, h): (&[f32], &Square)| {
            // Channels that were always 0 say nothing of their own.
            let h = if h.mean_diagonal() > 0.0 { h } else { moment.mean() };
            solver.solve(&Layer::new(part, rows, site.cols, Some(h))?, &self.scheme)
        };
        Quantized::stack(layers.map(solve).collect::<crate::Result<_>>()?)
    }
}

impl Treatment for AffineTreatment {
    fn needs_second_moment(&self) -> bool {
        self.solver.needs_hessian()
    }

    fn treat(&self, site: &SiteMeta, weight: &[f32], evidence: SiteEvidence<'_>) -> Result<Outcome, String> {
        let run = || -> crate::Result<_> {
            let found = self.solve(site, weight, evidence)?;
            let plain = || match self.solver {
                Solver::Rtn(_) => Ok(None),
                _ => {
                    let layer = layer_of(site, weight, evidence)?;
                    Ok(Some(rtn(&layer, &self.scheme, &RtnSettings::default())?.dequantize()))
                }
            };
            outcome((weight, evidence), found.pack()?, &found.report, plain)
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
            let layer = layer_of(site, weight, evidence)?;
            let found = match &self.gptq {
                Some(settings) => gptq_float(&layer, &self.scheme, self.finder, settings)?,
                None => float_rtn(&layer, &self.scheme, self.finder)?,
            };
            let plain = || match &self.gptq {
                Some(_) => Ok(Some(float_rtn(&layer, &self.scheme, ScaleFinder::AbsMax)?.dequantize())),
                None => Ok(None),
            };
            outcome((weight, evidence), Coded::Float(found.pack()?), &found.report, plain)
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
            let layer = layer_of(site, weight, evidence)?;
            let encode = |importance: Option<&[f32]>| {
                GgufTensor::encode(weight, site.rows, site.cols, self.ty, importance)
            };
            let plain = encode(None)?;
            if !self.weighted {
                let report = LayerReport::default();
                return outcome((weight, evidence), Coded::Blocks(plain), &report, || Ok(None));
            }
            layer.need_hessian("blocks with weighted errors")?;
            let power = seen(layer.input_power().unwrap_or_default());
            let weighted = encode(Some(&power))?;
            let error = |values: &[f32]| site_error(weight, values, evidence.second_moment);
            let [damage, plain_damage] = [error(&weighted.dequantize())?, error(&plain.dequantize())?];
            let fell_back = plain_damage < damage;
            let report = LayerReport {
                damage: Some(damage.min(plain_damage)),
                rtn_damage: Some(plain_damage),
                fell_back,
                ..LayerReport::default()
            };
            let matrix = if fell_back { plain } else { weighted };
            outcome((weight, evidence), Coded::Blocks(matrix), &report, || Ok(None))
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
    (weight, evidence): (&[f32], SiteEvidence<'_>),
    matrix: Coded,
    report: &LayerReport,
    plain: impl FnOnce() -> crate::Result<Option<Vec<f32>>>,
) -> crate::Result<Outcome> {
    // A solver that saw one group, or the mean over groups, does not know the damage of the whole.
    let known = |damage: Option<f64>| damage.filter(|_| conv_groups(evidence) == 1);
    let damage = match known(report.damage) {
        Some(damage) => damage,
        None => site_error(weight, &matrix.dequantize(), evidence.second_moment)?,
    };
    let baseline_damage = match known(report.rtn_damage) {
        Some(damage) => damage,
        None => plain()?.map_or(Ok(damage), |values| site_error(weight, &values, evidence.second_moment))?,
    };
    Ok(Outcome {
        treated: Treated::Coded(matrix),
        damage,
        baseline_damage,
        fell_back: report.fell_back,
        damping: report.damping_used.unwrap_or(0.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(rows: usize, cols: usize) -> SiteMeta {
        SiteMeta::linear("up", rows, cols)
    }

    /// A weight, and inputs of which a few are far stronger than the rest and go together.
    fn problem(rows: usize, cols: usize) -> (Vec<f32>, Moment) {
        let weight = (0..rows * cols).map(|i| ((i * 2_654_435_761) % 1009) as f32 / 504.5 - 1.0).collect();
        let mut h = Square::identity(cols);
        for i in 0..cols {
            for j in 0..cols {
                let (a, b) = ((i as f64 * 0.7).sin(), (j as f64 * 0.7).sin());
                let strong = |k: usize| if k.is_multiple_of(7) { 6.0 } else { 1.0 };
                h.as_mut_slice()[i * cols + j] += strong(i) * strong(j) * a * b;
            }
        }
        (weight, h.into())
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
            let measured = site_error(&weight, &matrix.dequantize(), Some(&h)).unwrap();
            assert!((outcome.damage - measured).abs() <= 1e-6 * measured, "{} {measured}", outcome.damage);
            assert!(outcome.damage < 0.98 * outcome.baseline_damage, "the data are of use: {outcome:?}");
            let blind = treatment.treat(&site(rows, cols), &weight, SiteEvidence::default());
            assert!(blind.unwrap_err().contains("second moment"));
        }
    }

    #[test]
    fn each_group_of_a_convolution_is_rounded_by_what_it_reads() {
        let (rows, cols) = (4, 24);
        let (weight, _) = problem(2 * rows, cols);
        // What is loud for one group is quiet for the other.
        let [low, high] = [0, 12].map(|first| {
            let loud = |j: usize| if (first..first + 12).contains(&j) { 30.0 } else { 0.1 };
            let mut h = Square::diagonal_matrix(&(0..cols).map(loud).collect::<Vec<_>>());
            for i in 0..cols {
                for j in 0..i {
                    let both = 0.6 * (loud(i) * loud(j)).sqrt();
                    (h.as_mut_slice()[i * cols + j], h.as_mut_slice()[j * cols + i]) = (both, both);
                }
            }
            h
        });
        let seen = Moment::of_groups(vec![low.clone(), high.clone()]).unwrap();
        let conv = SiteMeta::linear("conv", 2 * rows, cols);
        let scheme = WeightScheme { bits: 3, group_size: Some(8), ..WeightScheme::default() };
        for order in [ColumnOrder::Natural, ColumnOrder::DescendingDiagonal] {
            let gptq = GptqSettings { order, groups: GroupFit::Static, ..GptqSettings::default() };
            // With dynamic groups, the groups of the convolution would need an index each.
            let solver = Solver::Gptq(GptqSettings { groups: GroupFit::Dynamic, ..gptq.clone() });
            let treat = |solver: Solver, site: &SiteMeta, weight: &[f32], moment: &Moment| {
                let evidence = SiteEvidence { second_moment: Some(moment), ..SiteEvidence::default() };
                AffineTreatment { solver, scheme }.treat(site, weight, evidence).unwrap()
            };
            let values = |outcome: &Outcome| match &outcome.treated {
                Treated::Coded(codes) => codes.dequantize(),
                Treated::Dense(values) => values.clone(),
            };
            let found = treat(solver.clone(), &conv, &weight, &seen);
            let alone = if order == ColumnOrder::Natural { solver.clone() } else { Solver::Gptq(gptq) };
            let part = site(rows, cols);
            let parts = weight.chunks(rows * cols).zip([low.clone(), high.clone()]);
            let (mut apart, mut damage) = (Vec::new(), 0.0);
            for (weight, h) in parts {
                let outcome = treat(alone.clone(), &part, weight, &h.into());
                apart.extend(values(&outcome));
                damage += outcome.damage;
            }
            assert_eq!(values(&found), apart, "{order:?}");
            assert!((found.damage / damage - 1.0).abs() < 1e-6, "{order:?}: {} {damage}", found.damage);
            // Control: by the mean over groups the codes are others, and worse.
            let mixed = treat(alone, &conv, &weight, &seen.mean().clone().into());
            let mixed = site_error(&weight, &values(&mixed), Some(&seen)).unwrap();
            assert!(mixed > 1.02 * damage, "{order:?}: {mixed} {damage}");
        }
        // A group that saw nothing but zeros goes by what the others saw.
        let silent = Moment::of_groups(vec![low, Square::diagonal_matrix(&vec![0.0; cols])]).unwrap();
        let evidence = SiteEvidence { second_moment: Some(&silent), ..SiteEvidence::default() };
        let outcome =
            AffineTreatment { solver: Solver::default(), scheme }.treat(&conv, &weight, evidence).unwrap();
        assert!(outcome.damage > 0.0 && outcome.damage.is_finite());
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
