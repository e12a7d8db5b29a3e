//! Pricing: what every option of every site costs and damages.
//!
//! Bytes are exact. Damage is first the squared error of the site's output, weighted by its inputs, of the very codes
//! that the solver would choose on the original model's inputs (where the solver takes long, of a few of them, and of the
//! others an estimate: `site`). With [`Metric::Kl`] it is then put on the scale of the
//! model's output: for a few probe options the change of the output is measured with this one site treated, and
//! between them damage follows the output error (a straight line in logarithms). So every site is on one scale, for
//! the price of a few forward passes a site.

mod site;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trimtab_calibrate::{Inputs, Stream, StreamSettings, Treated};
use trimtab_eval::Measure;
use trimtab_models::Model;
use trimtab_nn::{Network, Site, StageSource};
use trimtab_plan::{Costs, PriceList, SiteOption, SitePrices, Source};

use crate::calibration::Calibration;
use crate::choice::Choice;
use crate::error::{Error, Result};
use crate::evidence::Evidence;
use crate::inventory::{Inventory, TreatedSite};
use crate::measure::Gauge;
use crate::monitor::Monitor;
use crate::quantizer::Quantizer;
use crate::scheme::Choices;

/// Which damage is priced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Measured change of the model's output.
    #[default]
    Kl,
    /// `tr((W - Q) H (W - Q)^T)`: no forward passes beyond those that observe. A site that no data reach (the embedding, the head)
    /// counts as if `H` were the identity: by the squared error of its weight.
    OutputError,
    /// Half of the squared error, weighted with the empirical Fisher information: one backward pass a window, then all sites are
    /// on one scale. Sites that no data reach have none, and are refused.
    Fisher,
    /// Measured as [`Metric::Kl`] is, but the power of the noise in the model's output over that of the output, `10^(-SQNR/10)`.
    Sqnr,
}

impl Metric {
    /// What is measured of the output with a site alone treated; `None` for metrics that run no model.
    pub fn measure(self) -> Option<Measure> {
        match self {
            Self::Kl => Some(Measure::Divergence),
            Self::Sqnr => Some(Measure::NoisePower),
            Self::OutputError | Self::Fisher => None,
        }
    }

    /// Checks that the metric says something of all these sites.
    ///
    /// # Errors
    /// [`Error::Setting`]: of which it does not.
    pub fn check(self, sites: &[TreatedSite]) -> Result<()> {
        match sites.iter().find(|site| !site.observed) {
            Some(TreatedSite { meta, .. }) if self == Self::Fisher => Err(Error::Setting {
                what: "--metric fisher",
                message: format!(
                    "\"{0}\" has no Fisher information: no calibration data reach it\nhint: pass --metric kl, or --exclude '{0}'",
                    meta.name
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Name in plan files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kl => "kl",
            Self::OutputError => "output-error",
            Self::Fisher => "fisher",
            Self::Sqnr => "sqnr",
        }
    }
}

/// What was found of a site while the calibration data passed: the output error of each option, and the treated
/// weights of the probe options.
#[derive(Clone, Debug, Default)]
pub struct Priced {
    errors: BTreeMap<Choice, f64>,
    divergences: BTreeMap<Choice, f64>,
    probes: Vec<(f64, Treated)>,
    /// What else was seen of it, for the report.
    pub evidence: Evidence,
}

impl Priced {
    /// Output error of an option.
    pub fn error(&self, choice: &Choice) -> Option<f64> {
        self.errors.get(choice).copied()
    }

    /// What the Fisher information says of an option, nats a token; `None` where it was not asked for.
    pub fn divergence(&self, choice: &Choice) -> Option<f64> {
        self.divergences.get(choice).copied()
    }
}

/// By name of the site.
pub type Observations = BTreeMap<String, Priced>;

/// Prices with all damages zero, to be found as `source` says: enough to tell whether a budget can be met at all, in no time.
pub fn skeleton(
    inventory: &Inventory,
    choices: &Choices,
    fused: bool,
    (metric, source): (Metric, Source),
) -> Result<PriceList> {
    let site = |site: &TreatedSite| -> Result<SitePrices> {
        let option = |choice: Choice| SiteOption {
            label: choice.to_string(),
            params: choice.settings(),
            costs: Costs::bytes(choice.cost(&site.meta, site.dtype)),
            damage: 0.0,
            source,
        };
        let options = choices.of(site)?.into_iter().map(option).collect();
        let mut prices = SitePrices::new(&site.meta.name, site.meta.numel() as u64, options);
        prices.group = site.meta.fused.clone().filter(|_| fused);
        Ok(prices)
    };
    Ok(PriceList::new(metric.name(), inventory.sites.iter().map(site).collect::<Result<_>>()?)?)
}

/// Treats every site with every option on the original model's inputs: one pass of the calibration data.
pub fn observe(
    model: &Model,
    inventory: &Inventory,
    calibration: &Calibration,
    options: (&Choices, &Quantizer),
    monitor: &mut dyn Monitor,
) -> Result<Observations> {
    if options.1.needs_fisher() && options.0.with_branches() {
        calibration.fisher(model, inventory, monitor)?;
    }
    let fisher = calibration.fisher.get();
    let mut found = Observations::new();
    for site in inventory.sites.iter().filter(|site| !site.observed) {
        let stage = model.load(site.stage)?;
        let weight = stage.sites().into_iter().find(|s| s.name() == site.meta.name).map(Site::to_f32);
        let weight = weight.ok_or_else(|| no_site(&site.meta.name))?;
        found.insert(site.meta.name.clone(), site::price(site, &weight, (None, None), options)?);
    }
    let blocks = inventory.sites.iter().map(|site| site.stage).max().unwrap_or(0);
    monitor.begin("pricing", blocks);
    let settings = StreamSettings { inputs: Inputs::Original, ..StreamSettings::default() };
    Stream::new(model, &calibration.batches, model.device().clone(), settings).run(
        |block| -> Result<()> {
            if monitor.interrupted() {
                return Err(trimtab_calibrate::Error::Interrupted.into());
            }
            let index = block.index();
            let sites: Vec<&TreatedSite> =
                inventory.sites.iter().filter(|s| s.observed && s.stage == index).collect();
            if let Some(importance) = options.1.importance.filter(|_| !sites.is_empty()) {
                block.weigh(&importance)?;
            }
            let moments = block.second_moments_by_half(&sites.iter().map(|s| &s.meta).collect::<Vec<_>>())?;
            for site in &sites {
                let weight = block.site(&site.meta.name)?.to_f32();
                let moments = moments.get(&site.meta.name);
                found.insert(site.meta.name.clone(), site::price(site, &weight, (moments, fisher), options)?);
            }
            monitor.advance(index, &format!("{}: {} sites priced", block.info().name, sites.len()));
            Ok(())
        },
    )?;
    Ok(found)
}

fn no_site(name: &str) -> Error {
    Error::Site { site: name.into(), message: "the model has no such site".into() }
}

/// Writes damages into a price list: the output errors themselves.
pub fn by_output_error(list: &mut PriceList, found: &Observations) -> Result<()> {
    set_damages(list, |site, choice| found.get(site)?.error(choice))
}

/// Writes damages into a price list: what the Fisher information says. Its nats and errors of weights are on no common scale: sites
/// that it says nothing of ([`Metric::check`]) are an error.
pub fn by_fisher(list: &mut PriceList, found: &Observations) -> Result<()> {
    set_damages(list, |site, choice| found.get(site)?.divergence(choice))
}

/// One measured point of a site: its output error there, and what the model's output did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    /// Output error of the site.
    pub error: f64,
    /// Divergence of the model's output with this site alone treated.
    pub damage: f64,
}

/// From output error to damage, through measured points.
///
/// Straight lines in logarithms between the points; beyond them, and with a single point, proportional to the error.
pub fn interpolate(probes: &[Probe], error: f64) -> f64 {
    let mut points: Vec<Probe> = probes.iter().copied().filter(|p| p.error > 0.0 && p.damage > 0.0).collect();
    points.sort_by(|a, b| a.error.total_cmp(&b.error));
    if error <= 0.0 || points.is_empty() {
        return 0.0;
    }
    let proportional = |p: &Probe| p.damage * error / p.error;
    let after = points.partition_point(|p| p.error < error);
    match (after.checked_sub(1).map(|i| &points[i]), points.get(after)) {
        (Some(low), Some(high)) if high.damage > low.damage => {
            let t = (error / low.error).ln() / (high.error / low.error).ln();
            low.damage * (high.damage / low.damage).powf(t)
        }
        (_, Some(high)) => proportional(high),
        (Some(low), None) => proportional(low),
        (None, None) => 0.0,
    }
}

/// Points of the line from output error to damage, by site.
pub type Probes = BTreeMap<String, Vec<Probe>>;

/// Measures the change of the model's output with each site alone treated at its probe options.
pub fn probe(
    network: &mut Network,
    found: &Observations,
    gauge: &Gauge,
    inventory: &Inventory,
    monitor: &mut dyn Monitor,
) -> Result<Probes> {
    monitor.begin("probing", inventory.sites.len());
    let mut probes = Probes::new();
    for (i, site) in inventory.sites.iter().enumerate() {
        if monitor.interrupted() {
            return Err(trimtab_calibrate::Error::Interrupted.into());
        }
        let priced = found.get(&site.meta.name).ok_or_else(|| no_site(&site.meta.name))?;
        let mut points = Vec::new();
        for (error, treated) in &priced.probes {
            let weight = treated.clone().into_weight(&site.meta)?;
            points.push(Probe { error: *error, damage: gauge.with_site(network, &site.meta.name, weight)? });
        }
        monitor.advance(i + 1, "");
        probes.insert(site.meta.name.clone(), points);
    }
    Ok(probes)
}

/// What a site whose treatment shows at most so much of what is typical was not asked.
const SILENT: f64 = 1e-6;

/// The points of all sites. A site that the few measured tokens do not reach (an expert of a mixture) shows nothing however it is treated,
/// and is not free for that: it gets the damage that such an error does in the median of the sites.
fn heard(probes: &Probes) -> Probes {
    let mut ratios: Vec<f64> = probes
        .values()
        .filter_map(|points| {
            points.iter().filter(|p| p.error > 0.0).map(|p| p.damage / p.error).reduce(f64::max)
        })
        .filter(|&ratio| ratio > 0.0)
        .collect();
    ratios.sort_by(f64::total_cmp);
    let Some(&typical) = ratios.get(ratios.len() / 2) else { return probes.clone() };
    let heard = |points: &Vec<Probe>| {
        let silent = points.iter().all(|point| point.damage <= SILENT * typical * point.error);
        let like = |point: &Probe| Probe { damage: typical * point.error, ..*point };
        if silent { points.iter().map(like).collect() } else { points.clone() }
    };
    probes.iter().map(|(site, points)| (site.clone(), heard(points))).collect()
}

/// Writes damages into a price list: output errors on the scale that the probes measured.
pub fn by_probes(list: &mut PriceList, found: &Observations, probes: &Probes) -> Result<()> {
    let probes = heard(probes);
    set_damages(list, |site, choice| Some(interpolate(probes.get(site)?, found.get(site)?.error(choice)?)))
}

/// Writes the damages that one half of the data (0 or 1) finds into a price list, on the scale of all data. Sites that were
/// not seen by both halves keep what all data find.
pub fn by_half(
    list: &mut PriceList,
    found: &Observations,
    probes: Option<&Probes>,
    half: usize,
) -> Result<()> {
    set_damages(list, |site, choice| {
        let priced = found.get(site)?;
        let halves = priced.evidence.halves.get(&choice.to_string());
        let error = halves.map(|halves| halves[half]).or_else(|| priced.error(choice))?;
        match probes {
            Some(probes) => Some(interpolate(probes.get(site)?, error)),
            None => Some(error),
        }
    })
}

fn set_damages(list: &mut PriceList, damage: impl Fn(&str, &Choice) -> Option<f64>) -> Result<()> {
    for site in &mut list.sites {
        for option in &mut site.options {
            let choice = Choice::from_settings(&option.params)?;
            option.damage = damage(&site.site, &choice).ok_or_else(|| Error::Site {
                site: site.site.clone(),
                message: format!("option \"{}\" was not priced", option.label),
            })?;
        }
    }
    Ok(list.validate()?)
}

#[cfg(test)]
mod tests {
    use trimtab_plan::Selection;

    use super::*;
    use crate::calibration::CalibrationSettings;
    use crate::form::Form;
    use crate::monitor::Quiet;
    use crate::treating::{Job, SiteReport};

    #[test]
    fn interpolation_passes_through_the_probes_and_is_monotone() {
        let probes = [Probe { error: 1.0, damage: 0.01 }, Probe { error: 8.0, damage: 0.4 }];
        assert!((interpolate(&probes, 1.0) - 0.01).abs() < 1e-12);
        assert!((interpolate(&probes, 8.0) - 0.4).abs() < 1e-12);
        assert!((interpolate(&probes, 16.0) - 0.8).abs() < 1e-12, "proportional beyond the last");
        assert!((interpolate(&probes, 0.5) - 0.005).abs() < 1e-12, "proportional before the first");
        let curve: Vec<f64> = (1..100).map(|i| interpolate(&probes, f64::from(i) * 0.2)).collect();
        assert!(curve.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(interpolate(&probes, 0.0), 0.0);
        assert_eq!(interpolate(&[], 3.0), 0.0);
    }

    #[test]
    fn a_site_that_no_measured_token_reached_is_not_free() {
        let point = |error: f64, damage: f64| Probe { error, damage };
        let probes: Probes = [
            ("a", vec![point(4.0, 0.4), point(1.0, 0.1)]),
            ("b", vec![point(4.0, 0.04), point(1.0, 0.01)]),
            ("c", vec![point(4.0, 4.0), point(1.0, 1.0)]),
            ("silent", vec![point(2.0, 0.0), point(1.0, 1e-12)]),
            ("exact", vec![]),
        ]
        .map(|(site, points)| (site.to_string(), points))
        .into();
        let found = heard(&probes);
        assert!((interpolate(&found["silent"], 3.0) - 0.3).abs() < 1e-9, "{found:?}");
        assert!(interpolate(&probes["silent"], 3.0) < 1e-11, "control");
        for site in ["a", "b", "c", "exact"] {
            assert_eq!(found[site], probes[site], "what was heard stays");
        }
        assert_eq!(heard(&Probes::new()), Probes::new());
    }

    #[test]
    fn a_gauge_has_whole_batches_of_at_least_so_many_rows() {
        let model = Model::open("@pico", None).unwrap();
        let settings = CalibrationSettings { samples: Some(8), ..CalibrationSettings::default() };
        let calibration = Calibration::load(&model, &settings).unwrap();
        let network = model.network().unwrap();
        let bytes = |rows: usize| {
            let measure = (Measure::Divergence, rows);
            Gauge::with(&network, model.task(), &calibration.batches, measure).unwrap().bytes()
        };
        let rows = calibration.batches[0].rows();
        assert!(calibration.batches.len() > 1);
        assert_eq!(bytes(1), bytes(rows));
        assert!(bytes(rows) < bytes(rows + 1));
    }

    #[test]
    fn the_fisher_information_prices_no_site_that_no_data_reach() {
        let model = Model::open("@pico", None).unwrap();
        let mut inventory = Inventory::take(&model, &Selection::default(), Form::Packed).unwrap();
        assert!(Metric::Fisher.check(&inventory.sites).is_ok(), "control: all sites of the blocks are seen");
        inventory.sites[1].observed = false;
        let name = &inventory.sites[1].meta.name;
        let message = Metric::Fisher.check(&inventory.sites).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains("--metric kl"), "{message}");
        for metric in [Metric::Kl, Metric::Sqnr, Metric::OutputError] {
            assert!(metric.check(&inventory.sites).is_ok(), "control: {} measures it", metric.name());
        }
        // What slips through is no price either.
        let choices = Choices { bits: vec![8], ..Choices::default() };
        let list = skeleton(&inventory, &choices, false, (Metric::Fisher, Source::Estimated)).unwrap();
        let of = |choice: &SiteOption| Choice::from_settings(&choice.params).unwrap();
        let priced = |site: &SitePrices| {
            let errors = site.options.iter().map(|option| (of(option), 1.0)).collect();
            Priced { errors, ..Priced::default() }
        };
        let found: Observations = list.sites.iter().map(|site| (site.site.clone(), priced(site))).collect();
        assert!(by_fisher(&mut list.clone(), &found).is_err());
        assert!(by_output_error(&mut list.clone(), &found).is_ok(), "control");
    }

    #[test]
    fn noise_in_the_output_grows_with_the_square_of_that_in_a_weight() {
        let model = Model::open("@pico", None).unwrap();
        let settings =
            CalibrationSettings { samples: Some(2), window: Some(32), ..CalibrationSettings::default() };
        let calibration = Calibration::load(&model, &settings).unwrap();
        let mut network = model.network().unwrap();
        let gauge = Gauge::with(
            &network,
            model.task(),
            &calibration.batches,
            (Metric::Sqnr.measure().unwrap(), 2048),
        )
        .unwrap();
        let name =
            network.sites().find(|site| site.name().ends_with("down_proj")).unwrap().name().to_string();
        let (weight, meta) = {
            let (_, site) = network.site_mut(&name).unwrap();
            (site.to_f32(), site.meta().clone())
        };
        let mut with = |factor: f32| {
            let moved =
                weight.iter().enumerate().map(|(i, w)| w + factor * ((i * 37 % 101) as f32 - 50.0) * 1e-4);
            let put = Treated::Dense(moved.collect()).into_weight(&meta).unwrap();
            gauge.with_site(&mut network, &name, put).unwrap()
        };
        let [none, one, two] = [0.0, 1.0, 2.0].map(&mut with);
        assert!(none < 1e-4 * one && one > 0.0, "{none} {one}");
        assert!((two / one - 4.0).abs() < 0.4, "{one} {two}");
        // The divergence is another number.
        let other = Gauge::new(&network, model.task(), &calibration.batches).unwrap();
        let put = Treated::Dense(weight.iter().map(|w| 1.1 * w).collect()).into_weight(&meta).unwrap();
        let both = [&gauge, &other].map(|gauge| gauge.with_site(&mut network, &name, put.clone()).unwrap());
        assert!(both[0] != both[1] && both.iter().all(|&x| x > 0.0), "{both:?}");
    }

    #[test]
    fn the_price_of_a_rank_is_the_error_that_the_branch_leaves() {
        let model = Model::open("@pico", None).unwrap();
        let selection = Selection { include: vec!["*.0.mlp.*".into()], ..Selection::default() };
        let inventory = Inventory::take(&model, &selection, Form::Packed).unwrap();
        let settings = CalibrationSettings { samples: Some(6), ..CalibrationSettings::default() };
        let calibration = Calibration::load(&model, &settings).unwrap();
        let ranks = vec![0, 3, 8];
        let choices = Choices { bits: vec![2, 16], groups: vec![Some(32)], ranks, ..Choices::default() };
        let quantizer = Quantizer::default();
        let found =
            observe(&model, &inventory, &calibration, (&choices, &quantizer), &mut Quiet::default()).unwrap();
        let list = skeleton(&inventory, &choices, false, (Metric::OutputError, Source::Measured)).unwrap();
        let mut priced = list.clone();
        by_output_error(&mut priced, &found).unwrap();
        // Priced on the inputs of the original: those of the first group that is treated, with what is stored.
        let site = &inventory.sites[0];
        for option in &priced.sites[0].options {
            let choice = Choice::from_settings(&option.params).unwrap();
            assert_eq!(option.label, choice.to_string());
            let assignment = inventory.sites.iter().map(|site| (site.meta.name.clone(), choice)).collect();
            let job = Job {
                model: &model,
                inventory: &inventory,
                assignment: &assignment,
                quantizer: &quantizer,
                form: Form::Packed,
            };
            let treated = job.collected(Some(&calibration), &mut Quiet::default()).unwrap();
            let reports: Vec<&SiteReport> = treated.0.values().flat_map(|stage| &stage.reports).collect();
            let report = reports.iter().find(|report| report.site == site.meta.name).unwrap();
            // Factors are rounded when they are stored, which the price does not know.
            assert!((report.damage - option.damage).abs() <= 0.01 * option.damage, "{report:?} {option:?}");
            assert_eq!(report.bytes, choice.bytes(&site.meta, site.dtype));
            let lines = if choice.rank > 0 { 2 * crate::inventory::HEADER_LINE } else { 0 };
            assert_eq!(option.costs.bytes, report.bytes + lines);
            let branches = treated.0.values().map(|stage| stage.branches.len()).sum::<usize>();
            assert_eq!(branches, if choice.rank > 0 { inventory.sites.len() } else { 0 });
            // Control: without the branch the error is that of rank 0.
            let bare = found[&site.meta.name].error(&choice.scheme.into()).unwrap();
            assert!((report.bare_damage.unwrap_or(report.damage) - bare).abs() <= 1e-6 * bare);
            assert!(choice.rank == 0 || option.damage < 0.97 * bare, "{option:?} {bare}");
        }
        assert_eq!(priced.sites[0].options.len(), 4, "a weight that stays as it is gets no branch");
    }
}
