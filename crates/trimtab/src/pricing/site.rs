//! What every option of one site does to its output.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use trimtab_calibrate::{Fisher, Moment, Moments, Outcome, SiteEvidence, Treated, Treatment};
use trimtab_mend::eora::{EoraSettings, Variant, eora};

use super::Priced;
use crate::branching::{self, evidence_of};
use crate::choice::Choice;
use crate::error::{Error, Result};
use crate::evidence::{self, Evidence};
use crate::inventory::TreatedSite;
use crate::quantizer::Quantizer;
use crate::scheme::{Choices, Scheme};

/// A rank, the output error with a branch of that rank, and what the Fisher information says of it.
type Figures = (usize, f64, Option<f64>);

/// A scheme, and the ranks of branches that may stand beside its codes.
type Ranked = (Scheme, Vec<usize>);

/// A scheme that was tried.
struct Found {
    scheme: Scheme,
    figures: Vec<Figures>,
    /// Output error without a branch.
    bare: f64,
    /// The same on each half of the data.
    halves: Option<[f64; 2]>,
    /// The weight, of a probe.
    treated: Option<Treated>,
}

/// Prices the options of a site, in parallel.
///
/// Where the method takes long, only the probe options are treated by it, and every other option by its sketch
/// ([`Quantizer::sketch`]).
pub(super) fn price(
    site: &TreatedSite,
    weight: &[f32],
    (moments, fisher): (Option<&Moments>, Option<&Fisher>),
    (choices, quantizer): (&Choices, &Quantizer),
) -> Result<Priced> {
    let mut ranks: BTreeMap<Scheme, Vec<usize>> = BTreeMap::new();
    for Choice { scheme, rank } in choices.of(site)? {
        ranks.entry(scheme).or_default().push(rank);
    }
    let seen = evidence_of(&site.meta, moments.map(|m| m.whole.as_ref()), fisher);
    let probes = probe_schemes(&ranks.keys().copied().collect::<Vec<_>>(), site);
    let trial = Trial { site, weight, moments, seen, quantizer, probes };
    let mut priced = Priced { evidence: Evidence::of(&site.meta, weight, moments)?, ..Priced::default() };
    for Found { scheme, figures, bare, halves, treated } in trial.all(ranks.into_iter().collect())? {
        for (rank, error, divergence) in figures {
            let choice = Choice { scheme, rank };
            priced.errors.insert(choice, error);
            priced.divergences.extend(divergence.map(|divergence| (choice, divergence)));
            // What the halves of the data say of a branch is not asked: it would take a decomposition for each.
            priced.evidence.add(choice.to_string(), error, halves.filter(|_| rank == 0));
        }
        priced.probes.extend(treated.map(|treated| (bare, treated)));
    }
    Ok(priced)
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

/// A site on which options are tried.
struct Trial<'a> {
    site: &'a TreatedSite,
    weight: &'a [f32],
    moments: Option<&'a Moments>,
    seen: SiteEvidence<'a>,
    quantizer: &'a Quantizer,
    probes: Vec<Scheme>,
}

impl Trial<'_> {
    fn all(&self, schemes: Vec<Ranked>) -> Result<Vec<Found>> {
        let by_method =
            |schemes: &[Ranked]| schemes.par_iter().map(|ranked| self.by_method(ranked)).collect();
        let Some(sketch) = self.quantizer.sketch().filter(|_| !self.apart()) else {
            return by_method(&schemes);
        };
        let (near, far): (Vec<_>, Vec<_>) =
            schemes.into_iter().partition(|(scheme, _)| self.probes.contains(scheme));
        let mut found: Vec<Found> = by_method(&near)?;
        let ratio = |found: &Found| -> Result<f64> {
            let sketched = self.treat(found.scheme, &sketch)?.map_or(0.0, |(_, outcome)| outcome.damage);
            Ok(if sketched > 0.0 { found.bare / sketched } else { 1.0 })
        };
        let ratios = found.par_iter().map(ratio).collect::<Result<Vec<f64>>>()?;
        let models: Vec<(&Found, f64)> = found.iter().zip(ratios).collect();
        let like = |ranked| self.by_sketch(ranked, &sketch, &models);
        let far = far.par_iter().map(like).collect::<Result<Vec<Found>>>()?;
        found.extend(far);
        Ok(found)
    }

    /// Whether ranks cannot be priced from one decomposition: what is found by turns, or weighed otherwise, is found rank by rank.
    fn apart(&self) -> bool {
        self.seen.fisher.is_some() || self.quantizer.turns(self.seen).is_some()
    }

    fn failed(&self, message: String) -> Error {
        Error::Site { site: self.site.meta.name.clone(), message }
    }

    /// The weight in a scheme; `None` where it stays as it is.
    fn treat(&self, scheme: Scheme, quantizer: &Quantizer) -> Result<Option<(Box<dyn Treatment>, Outcome)>> {
        let observed = self.seen.second_moment.is_some();
        let Some(method) = quantizer.treatment(scheme, self.site.dtype, observed) else { return Ok(None) };
        let outcome =
            method.treat(&self.site.meta, self.weight, self.seen).map_err(|message| self.failed(message))?;
        Ok(Some((method, outcome)))
    }

    /// A scheme in which nothing changes.
    fn untouched(&self, (scheme, ranks): &Ranked) -> Found {
        let halves = self.moments.and_then(|moments| moments.first.as_ref()).map(|_| [0.0; 2]);
        let figures = ranks.iter().map(|&rank| (rank, 0.0, Some(0.0))).collect();
        Found { scheme: *scheme, figures, bare: 0.0, halves, treated: None }
    }

    fn by_method(&self, ranked: &Ranked) -> Result<Found> {
        let (scheme, ranks) = ranked;
        let Some((method, outcome)) = self.treat(*scheme, self.quantizer)? else {
            return Ok(self.untouched(ranked));
        };
        let halves = evidence::by_halves(self.site, self.weight, &outcome, self.moments)?;
        let bare = outcome.damage;
        let divergence = |values: &[f32]| {
            self.seen.fisher.map(|fisher| branching::divergence(self.weight, values, fisher))
        };
        let figures = match ranks.iter().copied().max().unwrap_or(0) {
            0 => {
                let divergence = divergence(&branching::numbers(&outcome.treated));
                ranks.iter().map(|&rank| (rank, bare, divergence)).collect()
            }
            // The singular values are those of the mean over the groups of a convolution.
            _ if self.apart() || self.seen.second_moment.is_some_and(|moment| moment.groups().len() > 1) => {
                let of = |&rank: &usize| -> Result<Figures> {
                    let plain = outcome.treated.clone();
                    if rank == 0 {
                        return Ok((0, bare, divergence(&branching::numbers(&plain))));
                    }
                    let beside = (self.site, rank);
                    let found =
                        branching::mend(self.quantizer, &*method, beside, self.weight, self.seen, plain)?;
                    let damage = branching::damage(self.weight, &found.values, self.seen)?;
                    Ok((rank, damage, divergence(&found.values)))
                };
                ranks.iter().map(of).collect::<Result<_>>()?
            }
            most => self.by_rank(&outcome, ranks, most)?,
        };
        let treated = self.probes.contains(scheme).then_some(outcome.treated);
        Ok(Found { scheme: *scheme, figures, bare, halves, treated })
    }

    /// The output error of a treated weight with the branch of each rank beside it: what the singular values leave. The factors
    /// are not rounded here.
    fn by_rank(&self, outcome: &Outcome, ranks: &[usize], most: usize) -> Result<Vec<Figures>> {
        let values = branching::numbers(&outcome.treated);
        // Prices are of EoRA: only there the singular values are those of the output error. Where nothing was observed, that is
        // the error of the weight.
        let moment = self.seen.second_moment.map(Moment::mean);
        let variant = if moment.is_some() { Variant::Eora } else { Variant::Svd };
        let settings = EoraSettings { variant, ..self.quantizer.branch_settings(self.seen) };
        let branch = eora(self.weight, &values, self.site.meta.rows, moment, most, &settings)
            .map_err(|error| self.failed(error.to_string()))?;
        Ok(ranks.iter().map(|&rank| (rank, branch.residual(outcome.damage, rank), None)).collect())
    }

    /// By the sketch, put on the scale of the method: with the ratio of their errors at the probe of the same width (of the widest that is not
    /// wider), and branches leave the share that they leave there.
    fn by_sketch(&self, ranked: &Ranked, sketch: &Quantizer, models: &[(&Found, f64)]) -> Result<Found> {
        let (scheme, ranks) = ranked;
        let Some((_, outcome)) = self.treat(*scheme, sketch)? else { return Ok(self.untouched(ranked)) };
        let narrower = models.iter().filter(|(found, _)| found.scheme.width() <= scheme.width());
        let model = narrower.max_by_key(|(found, _)| found.scheme.width()).or(models.first());
        let ratio = model.map_or(1.0, |(_, ratio)| *ratio);
        let bare = ratio * outcome.damage;
        let share = |rank: usize| -> Option<f64> {
            let (found, _) = model.filter(|(found, _)| found.bare > 0.0)?;
            let (_, error, _) = found.figures.iter().find(|(other, ..)| *other == rank)?;
            Some(error / found.bare)
        };
        let figures = ranks.iter().map(|&rank| (rank, bare * share(rank).unwrap_or(1.0), None)).collect();
        let halves = evidence::by_halves(self.site, self.weight, &outcome, self.moments)?;
        let halves = halves.map(|halves| halves.map(|half| ratio * half));
        Ok(Found { scheme: *scheme, figures, bare, halves, treated: None })
    }
}

#[cfg(test)]
mod tests {
    use trimtab_math::gram::GramAccumulator;
    use trimtab_math::random::Stream;
    use trimtab_models::Model;
    use trimtab_nn::StageSource;
    use trimtab_plan::Selection;

    use super::*;
    use crate::form::Form;
    use crate::inventory::Inventory;
    use crate::quantizer::Method;

    /// Prices of a matrix of the embedded model on inputs that share directions, by decoupleQ: with its sketch, and option by option.
    #[test]
    fn prices_by_the_sketch_are_nearly_those_of_the_method() {
        let model = Model::open("@pico", None).unwrap();
        let selection = Selection { include: vec!["*.0.mlp.up_proj".into()], ..Selection::default() };
        let inventory = Inventory::take(&model, &selection, Form::Packed).unwrap();
        let site = &inventory.sites[0];
        let stage = model.load(site.stage).unwrap();
        let weight = stage.sites().into_iter().find(|s| s.name() == site.meta.name).unwrap().to_f32();
        let cols = site.meta.cols;
        let mut stream = Stream::new(1, "test/sketch", 0, 0);
        let shared: Vec<f32> = (0..8 * cols).map(|_| stream.normal() as f32).collect();
        let mut gram = GramAccumulator::new(cols);
        for _ in 0..4 * cols {
            let amount: Vec<f32> = (0..8).map(|_| stream.normal() as f32).collect();
            let common = |j: usize| (0..8).map(|k| amount[k] * shared[k * cols + j]).sum::<f32>();
            let row: Vec<f32> = (0..cols).map(|j| common(j) + 0.5 * stream.normal() as f32).collect();
            gram.add(&row, None).unwrap();
        }
        let moment = Moment::from(gram.mean().unwrap());
        let seen = SiteEvidence { second_moment: Some(&moment), fisher: None };
        let quantizer = Quantizer { method: Method::Decoupleq, ..Quantizer::default() };
        let choices = Choices { real: true, ranks: vec![0, 4], ..Choices::default() };
        let mut schemes: BTreeMap<Scheme, Vec<usize>> = BTreeMap::new();
        for Choice { scheme, rank } in choices.of(site).unwrap() {
            schemes.entry(scheme).or_default().push(rank);
        }
        let probes = probe_schemes(&schemes.keys().copied().collect::<Vec<_>>(), site);
        let trial = Trial { site, weight: &weight, moments: None, seen, quantizer: &quantizer, probes };
        let sketched = trial.all(schemes.clone().into_iter().collect()).unwrap();
        assert!(schemes.len() > trial.probes.len(), "there is something to sketch");
        let worst = |correction: bool| {
            let mut worst = 1.0f64;
            for found in &sketched {
                let true_one = trial.by_method(&(found.scheme, schemes[&found.scheme].clone())).unwrap();
                for ((_, error, _), (_, exact, _)) in found.figures.iter().zip(&true_one.figures) {
                    if *exact > 0.0 {
                        let plain =
                            trial.treat(found.scheme, &quantizer.sketch().unwrap()).unwrap().unwrap().1;
                        let error = if correction { *error } else { plain.damage };
                        worst = worst.max(error / exact).max(exact / error);
                    }
                }
            }
            worst
        };
        let (with, without) = (worst(true), worst(false));
        assert!(with < 1.5, "off by a factor of {with}");
        // Control: the errors of the sketch as they are, without ratio and share of the branch.
        assert!(without > 1.2 * with, "{without} without the correction, {with} with it");
    }
}
