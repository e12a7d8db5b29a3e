//! Pricing: what every option of every site costs and damages.
//!
//! Bytes are exact. Damage is first the squared error of the site's output, weighted by its inputs, of the very codes
//! that the solver would choose on the original model's inputs. With [`Metric::Kl`] it is then put on the scale of the
//! model's output: for a few probe options the change of the output is measured with this one site treated, and
//! between them damage follows the output error (a straight line in logarithms). So every site is on one scale, for
//! the price of a few forward passes a site.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use trimtab_calibrate::{Inputs, Moments, SiteEvidence, Stream, StreamSettings, Treated};
use trimtab_models::Model;
use trimtab_nn::{Network, StageSource};
use trimtab_plan::{Costs, PriceList, SiteOption, SitePrices, Source};

use crate::calibration::Calibration;
use crate::error::{Error, Result};
use crate::evidence::{self, Evidence};
use crate::inventory::{Inventory, TreatedSite};
use crate::measure::Gauge;
use crate::monitor::Monitor;
use crate::quantizer::Quantizer;
use crate::scheme::{Choices, Scheme};

/// Which damage is priced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Measured change of the model's output.
    #[default]
    Kl,
    /// `tr((W - Q) H (W - Q)^T)`: no forward passes beyond those that observe.
    OutputError,
}

impl Metric {
    /// Name in plan files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kl => "kl",
            Self::OutputError => "output-error",
        }
    }
}

/// What was found of a site while the calibration data passed: the output error of each option, and the treated
/// weights of the probe options.
#[derive(Clone, Debug, Default)]
pub struct Priced {
    errors: BTreeMap<Scheme, f64>,
    probes: Vec<(f64, Treated)>,
    /// What else was seen of it, for the report.
    pub evidence: Evidence,
}

impl Priced {
    /// Output error of an option.
    pub fn error(&self, scheme: &Scheme) -> Option<f64> {
        self.errors.get(scheme).copied()
    }
}

/// By name of the site.
pub type Observations = BTreeMap<String, Priced>;

/// Prices with all damages zero: enough to tell whether a budget can be met at all, in no time.
pub fn skeleton(inventory: &Inventory, choices: &Choices, fused: bool, metric: Metric) -> Result<PriceList> {
    let site = |site: &TreatedSite| -> Result<SitePrices> {
        let option = |scheme: Scheme| SiteOption {
            label: scheme.to_string(),
            params: scheme.settings(),
            costs: Costs::bytes(scheme.bytes(&site.meta, site.dtype)),
            damage: 0.0,
            source: if metric == Metric::Kl { Source::Estimated } else { Source::Measured },
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
    let mut found = Observations::new();
    for site in inventory.sites.iter().filter(|site| !site.observed) {
        let stage = model.load(site.stage)?;
        let weight =
            stage.sites().into_iter().find(|s| s.name() == site.meta.name).map(|s| s.weight.to_f32());
        let weight = weight.ok_or_else(|| no_site(&site.meta.name))?;
        found.insert(site.meta.name.clone(), price_site(site, &weight, None, options)?);
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
                let weight = block.site(&site.meta.name)?.weight.to_f32();
                let moments = moments.get(&site.meta.name);
                found.insert(site.meta.name.clone(), price_site(site, &weight, moments, options)?);
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

/// Prices the options of one site, in parallel.
fn price_site(
    site: &TreatedSite,
    weight: &[f32],
    moments: Option<&Moments>,
    (choices, quantizer): (&Choices, &Quantizer),
) -> Result<Priced> {
    let schemes = choices.of(site)?;
    let probes = probe_schemes(&schemes, site);
    let seen = SiteEvidence { second_moment: moments.map(|m| m.whole.as_ref()) };
    type Found = (Scheme, f64, Option<[f64; 2]>, Option<Treated>);
    let price = |scheme: &Scheme| -> Result<Found> {
        let observed = seen.second_moment.is_some();
        let Some(method) = quantizer.treatment(*scheme, site.dtype, observed) else {
            let halves = moments.and_then(|moments| moments.first.as_ref()).map(|_| [0.0; 2]);
            return Ok((*scheme, 0.0, halves, None));
        };
        let outcome = method.treat(&site.meta, weight, seen);
        let outcome = outcome.map_err(|message| Error::Site { site: site.meta.name.clone(), message })?;
        let halves = evidence::by_halves(site, weight, &outcome, moments)?;
        Ok((*scheme, outcome.damage, halves, probes.contains(scheme).then_some(outcome.treated)))
    };
    let mut priced = Priced { evidence: Evidence::of(&site.meta, weight, moments)?, ..Priced::default() };
    for (scheme, error, halves, treated) in schemes.par_iter().map(price).collect::<Result<Vec<_>>>()? {
        priced.errors.insert(scheme, error);
        priced.evidence.add(scheme.to_string(), error, halves);
        priced.probes.extend(treated.map(|treated| (error, treated)));
    }
    Ok(priced)
}

/// Writes damages into a price list: the output errors themselves.
pub fn by_output_error(list: &mut PriceList, found: &Observations) -> Result<()> {
    set_damages(list, |site, scheme| found.get(site)?.errors.get(scheme).copied())
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

/// Schemes at which the change of the output is measured: the narrowest codes to choose from and the next wider ones.
fn probe_schemes(schemes: &[Scheme], site: &TreatedSite) -> Vec<Scheme> {
    let widths: BTreeSet<u8> = schemes.iter().filter_map(Scheme::width).collect();
    // With the most scales: nearest to what a plan picks at these widths.
    let finest = |width: u8| {
        let of_width = schemes.iter().filter(|scheme| scheme.width() == Some(width));
        of_width.max_by_key(|scheme| scheme.bytes(&site.meta, site.dtype)).copied()
    };
    widths.into_iter().take(2).filter_map(finest).collect()
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

/// Writes damages into a price list: output errors on the scale that the probes measured.
pub fn by_probes(list: &mut PriceList, found: &Observations, probes: &Probes) -> Result<()> {
    set_damages(list, |site, scheme| {
        Some(interpolate(probes.get(site)?, *found.get(site)?.errors.get(scheme)?))
    })
}

/// Writes the damages that one half of the data (0 or 1) finds into a price list, on the scale of all data. Sites that were
/// not seen by both halves keep what all data find.
pub fn by_half(
    list: &mut PriceList,
    found: &Observations,
    probes: Option<&Probes>,
    half: usize,
) -> Result<()> {
    set_damages(list, |site, scheme| {
        let priced = found.get(site)?;
        let halves = priced.evidence.halves.get(&scheme.to_string());
        let error = halves.map(|halves| halves[half]).or_else(|| priced.error(scheme))?;
        match probes {
            Some(probes) => Some(interpolate(probes.get(site)?, error)),
            None => Some(error),
        }
    })
}

fn set_damages(list: &mut PriceList, damage: impl Fn(&str, &Scheme) -> Option<f64>) -> Result<()> {
    for site in &mut list.sites {
        for option in &mut site.options {
            let scheme = Scheme::from_settings(&option.params)?;
            option.damage = damage(&site.site, &scheme).ok_or_else(|| Error::Site {
                site: site.site.clone(),
                message: format!("option \"{}\" was not priced", option.label),
            })?;
        }
    }
    Ok(list.validate()?)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
