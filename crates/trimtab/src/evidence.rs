//! What the calibration data say about a site, and how far two halves of them disagree.
//!
//! Everything here comes out of the pass that prices the options: the second moment of the first half of the batches is
//! a copy taken on the way, and what is linear in a second moment is then known of the second half without a sum of its
//! own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trimtab_calibrate::{Moment, Moments, Outcome};
use trimtab_math::linalg::Square;
use trimtab_math::stats;
use trimtab_nn::SiteMeta;
use trimtab_plan::{Limits, PriceList, SolveOptions, solve};
use trimtab_quantize::damage::site_error;

use crate::error::{Error, Result};
use crate::inventory::TreatedSite;

/// What is known of a site from its weight and its inputs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Largest magnitude among the weights, in units of their root mean square.
    pub weight_outlier: f64,
    /// Root mean square of the loudest input channel, in units of that of all channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_outlier: Option<f64>,
    /// Directions that the inputs use: `tr(H)^2 / tr(H^2)`, between 1 and the number of channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_directions: Option<f64>,
    /// Power of the output, `tr(W H W^T)`: what output errors are relative to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_power: Option<f64>,
    /// Output error of each option, by its label.
    #[serde(default)]
    pub errors: BTreeMap<String, f64>,
    /// Output error of each option on the first and on the second half of the data, by its label.
    #[serde(default)]
    pub halves: BTreeMap<String, [f64; 2]>,
}

impl Evidence {
    /// What a weight `[out, in]` and the second moments of its inputs show.
    pub fn of(meta: &SiteMeta, weight: &[f32], moments: Option<&Moments>) -> Result<Self> {
        let power: f64 = weight.iter().map(|&w| f64::from(w).powi(2)).sum();
        let rms = (power / weight.len().max(1) as f64).sqrt();
        let largest = weight.iter().fold(0.0f32, |m, w| m.max(w.abs()));
        let mut evidence = Self {
            weight_outlier: if rms > 0.0 { f64::from(largest) / rms } else { 0.0 },
            ..Self::default()
        };
        if let Some(h) = moments.map(|moments| moments.whole.as_ref()) {
            let (outlier, directions) = spread(h.mean());
            evidence.input_outlier = Some(outlier);
            evidence.input_directions = Some(directions);
            evidence.output_power = Some(error_on(meta, weight, &vec![0.0; weight.len()], h)?);
        }
        Ok(evidence)
    }

    /// Takes in an option.
    pub fn add(&mut self, label: String, error: f64, halves: Option<[f64; 2]>) {
        if let Some(halves) = halves {
            self.halves.insert(label.clone(), halves);
        }
        self.errors.insert(label, error);
    }

    /// Whether calibration data reached the site.
    pub fn observed(&self) -> bool {
        self.output_power.is_some()
    }
}

/// Output error of an option on the first and on the second half of the data; `None` where there are no halves.
pub fn by_halves(
    site: &TreatedSite,
    weight: &[f32],
    outcome: &Outcome,
    moments: Option<&Moments>,
) -> Result<Option<[f64; 2]>> {
    let Some(first) = moments.and_then(|moments| moments.first.as_ref()) else { return Ok(None) };
    let treated = outcome.treated.clone().into_weight(&site.meta)?.to_f32();
    let on_first = error_on(&site.meta, weight, &treated, &first.moment)?;
    Ok(Some([on_first, first.second(outcome.damage, on_first)]))
}

fn error_on(meta: &SiteMeta, weight: &[f32], treated: &[f32], moment: &Moment) -> Result<f64> {
    let fail = |e: trimtab_quantize::Error| Error::Site { site: meta.name.clone(), message: e.to_string() };
    site_error(weight, treated, Some(moment)).map_err(fail)
}

/// How far the loudest channel stands out, and how many directions carry the power.
fn spread(h: &Square) -> (f64, f64) {
    let mean = h.mean_diagonal();
    let squares: f64 = h.as_slice().iter().map(|x| x * x).sum();
    if mean <= 0.0 || squares <= 0.0 {
        return (0.0, 0.0);
    }
    let loudest = h.diagonal().into_iter().fold(0.0, f64::max);
    ((loudest / mean).sqrt(), (mean * h.n() as f64).powi(2) / squares)
}

/// Evidence by site.
pub type AllEvidence = BTreeMap<String, Evidence>;

/// How far two halves of the calibration data disagree about the chosen plan and about its neighbours.
///
/// The codes of every option are those chosen on all data, so what is found is a lower bound of what two separate
/// calibrations would find.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Halves {
    /// Sites that both halves reached; the others count as all data find them, and not in the differences.
    pub sites: usize,
    /// Median over the sites of `|a - b| / ((a + b) / 2)`, where `a` and `b` are the damages of the chosen option by the
    /// first and by the second half.
    pub median_difference: f64,
    /// The largest of these differences.
    pub largest_difference: f64,
    /// The site of the largest difference.
    pub largest_site: String,
    /// Rank correlation (Spearman) of the damages of the sites by the two halves; absent below three sites.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank_correlation: Option<f64>,
    /// Damage of the plan as a whole by the prices of each half.
    pub plan_damage: [f64; 2],
    /// Sites to which plans from the first half and from the second half alone give different options.
    pub differing_choices: usize,
    /// By how much a plan from one half alone is worse on the other half than the plan made for that one: the larger of
    /// both directions, as a share.
    pub regret: f64,
}

impl Halves {
    /// Compares two price lists of the same options under a choice; `both` tells the sites that both halves reached.
    /// `None` where there are none.
    pub fn compare(
        prices: &[PriceList; 2],
        both: impl Fn(&str) -> bool,
        choice: &[usize],
        limits: &Limits,
    ) -> Result<Option<Self>> {
        let damages = |list: &PriceList| -> Vec<(usize, f64)> {
            let chosen = list.sites.iter().zip(choice).enumerate();
            let chosen = chosen.filter(|(_, (site, _))| both(&site.site));
            chosen.map(|(i, (site, &option))| (i, site.options[option].damage)).collect()
        };
        let [first, second] = [damages(&prices[0]), damages(&prices[1])];
        let mut differences: Vec<(f64, &str)> = Vec::new();
        for ((site, a), (_, b)) in first.iter().zip(&second) {
            if a + b > 0.0 {
                differences.push(((a - b).abs() / (0.5 * (a + b)), &prices[0].sites[*site].site));
            }
        }
        differences.sort_by(|x, y| x.0.total_cmp(&y.0));
        let Some(&(largest_difference, largest_site)) = differences.last() else { return Ok(None) };
        let options = SolveOptions::default();
        let plans = [solve(&prices[0], limits, &options)?, solve(&prices[1], limits, &options)?];
        let regret = |own: usize, other: usize| -> Result<f64> {
            let (_, carried) = prices[other].total(&plans[own].choice)?;
            Ok(if plans[other].damage > 0.0 { carried / plans[other].damage - 1.0 } else { 0.0 })
        };
        let differing = plans[0].choice.iter().zip(&plans[1].choice).filter(|(a, b)| a != b).count();
        Ok(Some(Self {
            sites: first.len(),
            median_difference: differences[differences.len() / 2].0,
            largest_difference,
            largest_site: largest_site.into(),
            rank_correlation: rank_correlation(&first, &second),
            plan_damage: [prices[0].total(choice)?.1, prices[1].total(choice)?.1],
            differing_choices: differing,
            regret: regret(0, 1)?.max(regret(1, 0)?).max(0.0),
        }))
    }
}

fn rank_correlation(first: &[(usize, f64)], second: &[(usize, f64)]) -> Option<f64> {
    let [a, b] = [first, second].map(|half| half.iter().map(|(_, damage)| *damage).collect::<Vec<f64>>());
    stats::spearman(&a, &b).ok().filter(|rank| a.len() > 2 && rank.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::{Calibration, CalibrationSettings};
    use crate::inventory::Inventory;
    use trimtab_calibrate::{Batch, Inputs, Stream, StreamSettings};
    use trimtab_models::Model;
    use trimtab_plan::{Selection, SiteOption, SitePrices};

    fn list(damages: [[f64; 2]; 3]) -> PriceList {
        let site = |(i, [low, high]): (usize, [f64; 2])| {
            let options = vec![SiteOption::new("int2", 10, low), SiteOption::new("int4", 20, high)];
            SitePrices::new(format!("s{i}"), 40, options)
        };
        PriceList::new("kl", damages.into_iter().enumerate().map(site).collect()).unwrap()
    }

    #[test]
    fn equal_halves_agree_and_others_do_not() {
        let limits = Limits::bytes(40);
        let one = list([[0.4, 0.1], [0.2, 0.05], [0.1, 0.02]]);
        let compare = |first: &PriceList, second: &PriceList| {
            Halves::compare(&[first.clone(), second.clone()], |_| true, &[1, 0, 0], &limits).unwrap()
        };
        let same = compare(&one, &one).unwrap();
        assert_eq!((same.median_difference, same.differing_choices, same.regret), (0.0, 0, 0.0));
        assert!((same.rank_correlation.unwrap() - 1.0).abs() < 1e-12);
        // The other half finds the last site the worst: it would have got the bits.
        let other = list([[0.1, 0.02], [0.2, 0.05], [0.4, 0.1]]);
        let far = compare(&one, &other).unwrap();
        assert_eq!(far.differing_choices, 2);
        assert!(far.largest_difference > 1.0 && far.largest_site != "s1");
        assert!(far.regret > 0.3, "{}", far.regret);
        // Under the choice, the ranks of the sites are 1.5, 3, 1.5 against 1, 2, 3.
        assert!(far.rank_correlation.unwrap().abs() < 1e-12);
        let nothing = list([[0.0; 2]; 3]);
        assert!(compare(&nothing, &nothing).is_none());
        // A site that one half did not reach is left out of the differences.
        let but_one =
            Halves::compare(&[one, other], |site| site != "s2", &[1, 0, 0], &limits).unwrap().unwrap();
        assert_eq!((but_one.sites, but_one.largest_site.as_str()), (2, "s0"));
    }

    #[test]
    fn a_loud_channel_and_few_directions_show() {
        let even = Square::identity(4);
        assert_eq!(spread(&even), (1.0, 4.0));
        let loud = Square::diagonal_matrix(&[100.0, 0.0, 0.0, 0.0]);
        assert_eq!(spread(&loud), (2.0, 1.0));
        assert_eq!(spread(&Square::diagonal_matrix(&[0.0; 4])), (0.0, 0.0));
    }

    /// Second moments of the sites of the first treated block, over some batches.
    fn observe(batches: &[Batch]) -> BTreeMap<String, Moments> {
        let model = Model::open("@pico", None).unwrap();
        let inventory = Inventory::take(&model, &Selection::default(), crate::form::Form::Packed).unwrap();
        let first = inventory.sites[0].stage;
        let sites: Vec<&SiteMeta> =
            inventory.sites.iter().filter(|s| s.stage == first).map(|s| &s.meta).collect();
        let settings = StreamSettings { inputs: Inputs::Original, ..StreamSettings::default() };
        let mut found = BTreeMap::new();
        Stream::new(&model, batches, model.device().clone(), settings)
            .run(|block| -> Result<()> {
                if block.index() == first {
                    found = block.second_moments_by_half(&sites)?;
                    // Taking a copy on the way changes no bit of the whole.
                    for (name, whole) in block.second_moments(&sites)? {
                        assert_eq!(found[&name].whole.mean().as_slice(), whole.mean().as_slice());
                    }
                }
                Ok(())
            })
            .unwrap();
        found
    }

    #[test]
    fn halves_are_those_of_the_batches() {
        let model = Model::open("@pico", None).unwrap();
        let settings = CalibrationSettings { samples: Some(8), ..CalibrationSettings::default() };
        let batches = Calibration::load(&model, &settings).unwrap().batches;
        assert_eq!(batches.len(), 4);
        let all = observe(&batches);
        let (first, second) = (observe(&batches[..2]), observe(&batches[2..]));
        for (name, moments) in &all {
            let half = moments.first.as_ref().unwrap();
            assert_eq!(half.share, 0.5);
            assert_eq!(half.moment.mean().as_slice(), first[name].whole.mean().as_slice());
            let trace = |h: &Moment| h.mean().diagonal().iter().sum::<f64>();
            let found = half.second(trace(&moments.whole), trace(&half.moment));
            let expected = trace(&second[name].whole);
            assert!((found / expected - 1.0).abs() < 1e-9, "{name}: {found}, expected {expected}");
            assert!((found / trace(&half.moment) - 1.0).abs() > 1e-6, "{name}: the halves are not the same");
        }
        assert!(
            observe(&batches[..1]).values().all(|moments| moments.first.is_none()),
            "one batch has no halves"
        );
    }
}
