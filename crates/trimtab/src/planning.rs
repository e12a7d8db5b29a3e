//! Planning: from prices and a budget to an option for every site.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use trimtab_models::Model;
use trimtab_nn::Network;
use trimtab_plan::{
    Allocation, Budget, Candidate, Limits, Plan, PlanHeader, PriceList, RefineOptions, Refined, Selection,
    Settings, SolveOptions, Source, refine, solve,
};

use crate::calibration::{Calibration, CalibrationSettings};
use crate::choice::Choice;
use crate::error::{Error, Result};
use crate::evidence::{AllEvidence, Halves};
use crate::form::Form;
use crate::inventory::Inventory;
use crate::measure::{self, Gauge, Overlay};
use crate::monitor::Monitor;
use crate::pricing::{self, Metric, Observations, Probe, Probes};
use crate::quality::{Goal, Reached, Search};
use crate::quantizer::Quantizer;
use crate::scheme::Choices;
use crate::treating::{Assignment, Job};

/// Everything that a plan depends on, beside the model.
#[derive(Clone, Debug)]
pub struct PlanningSettings {
    /// The budget; without one only a quality bounds the size ([`Goal`]).
    pub budget: Option<Budget>,
    /// What to calibrate on.
    pub calibration: CalibrationSettings,
    /// What the planner may choose from.
    pub choices: Choices,
    /// Which damage is priced.
    pub metric: Metric,
    /// Tokens (or images) that a change of the model's output is measured on: so many whole batches that they have at least those.
    pub probe_rows: usize,
    /// Rounds of re-pricing around the chosen point.
    pub rounds: usize,
    /// Which sites are treated, and which options are fixed.
    pub selection: Selection,
    /// Whether sites that engines fuse get one scheme.
    pub fused: bool,
    /// How codes are chosen.
    pub quantizer: Quantizer,
}

/// A plan and how it came about.
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// What led to it.
    pub record: PlanningRecord,
}

/// What was found on the way to a plan, for reports. It is kept beside the plan of a run that may be resumed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanningRecord {
    /// Damage of the chosen plan as measured on calibration data, beside the prediction in the plan; only with a
    /// metric that measures the whole: KL or SQNR.
    pub measured: Option<f64>,
    /// Candidates that were measured, in order.
    pub history: Vec<CandidateReport>,
    /// What the data say about each site.
    pub evidence: AllEvidence,
    /// How far two halves of the data disagree; absent where there are no two halves.
    pub halves: Option<Halves>,
    /// The target that the plan was made for, and the plans that were measured for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<Reached>,
}

/// A candidate, for reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidateReport {
    /// `uniform` or the round.
    pub origin: String,
    /// Bits per weight of the treated sites.
    pub bits_per_weight: f64,
    /// Damage that the prices of its round predict.
    pub damage_predicted: f64,
    /// Damage of the whole plan, measured on calibration data.
    pub damage_measured: f64,
}

/// What is known before anything is measured: sizes, and whether the budget can be met at all.
pub struct Prepared {
    /// The treated sites.
    pub inventory: Inventory,
    /// Prices, all damages zero.
    pub prices: PriceList,
    /// The budget in numbers.
    pub limits: Limits,
    /// How options are made, as the plan will say it.
    quantizer: Settings,
    /// Sites that only images reach: they stay as they are, because calibration data are texts.
    pub unseen: Vec<String>,
}

impl Prepared {
    /// What a person should know of the sites that stay as they are.
    pub fn caution(&self) -> Option<String> {
        let [first, .., last] = self.unseen.as_slice() else {
            return self.unseen.first().map(|site| format!("{site} stays as it is: only images reach it"));
        };
        Some(format!(
            "{} sites from {first} to {last} stay as they are: only images reach them, and calibration is on text",
            self.unseen.len()
        ))
    }
}

/// Takes stock and refuses an impossible budget, in no time.
pub fn prepare(model: &Model, settings: &PlanningSettings) -> Result<Prepared> {
    let form = settings.choices.form;
    let quantizer = settings.quantizer.settings()?;
    let (mut inventory, unseen) =
        Inventory::take(model, &settings.selection, form)?.without_optional(model, form)?;
    settings.choices.check(&inventory.sites)?;
    settings.metric.check(&inventory.sites)?;
    if let Some(activations) = &settings.quantizer.activations {
        inventory.totals.file_bytes_fixed += activations.bytes(&inventory.sites);
    }
    if let Some(budget) = &settings.budget {
        form.check_budget(budget, &inventory.totals)?;
    }
    let measured = settings.metric == Metric::OutputError && settings.quantizer.sketch().is_none();
    let source = if measured { Source::Measured } else { Source::Estimated };
    let mut prices =
        pricing::skeleton(&inventory, &settings.choices, settings.fused, (settings.metric, source))?;
    settings.selection.pin(&mut prices)?;
    let limits = match &settings.budget {
        Some(budget) => budget.limits(&inventory.totals)?,
        None => Limits { totals: inventory.totals.clone(), ..Limits::default() },
    };
    solve(&prices, &limits, &SolveOptions::default())?;
    Ok(Prepared { inventory, prices, limits, quantizer, unseen })
}

/// Prices, solves, measures, re-prices; with a goal, finds the smallest plan within the budget that reaches it.
pub fn plan(
    model: &Model,
    prepared: &Prepared,
    calibration: &Calibration,
    settings: &PlanningSettings,
    goal: Option<&Goal<'_>>,
    monitor: &mut dyn Monitor,
) -> Result<Planned> {
    if goal.is_some() && settings.metric.measure().is_none() {
        let message = "a quality is searched for along measured prices\nhint: pass --metric kl";
        return Err(Error::Setting { what: "--metric", message: message.into() });
    }
    if let Some(caution) = prepared.caution() {
        monitor.warn(&caution);
    }
    let options = (&settings.choices, &settings.quantizer);
    if settings.metric == Metric::Fisher {
        calibration.fisher(model, &prepared.inventory, monitor)?;
    }
    let found = pricing::observe(model, &prepared.inventory, calibration, options, monitor)?;
    let mut prices = prepared.prices.clone();
    match settings.metric.measure() {
        None => {
            match settings.metric {
                Metric::Fisher => pricing::by_fisher(&mut prices, &found)?,
                _ => pricing::by_output_error(&mut prices, &found)?,
            }
            let allocation = solve(&prices, &prepared.limits, &SolveOptions::default())?;
            // The halves compare output errors, which are on another scale.
            let halves = match settings.metric {
                Metric::Fisher => None,
                _ => compare_halves(&prices, &found, None, &allocation.choice, &prepared.limits)?,
            };
            let plan = Plan::new(header(model, prepared, calibration, settings), prices, &allocation)?;
            let record = PlanningRecord { evidence: evidence_of(found), halves, ..PlanningRecord::default() };
            Ok(Planned { plan, record })
        }
        Some(measure) => {
            let mut network = model.network()?;
            let gauge =
                Gauge::with(&network, model.task(), &calibration.batches, (measure, settings.probe_rows))?;
            let probes = pricing::probe(&mut network, &found, &gauge, &prepared.inventory, monitor)?;
            pricing::by_probes(&mut prices, &found, &probes)?;
            let study = Study { model, prepared, calibration, settings, gauge, found };
            match goal {
                None => study.refine(prices, probes, network, monitor),
                Some(goal) => study.smallest(goal, prices, probes, network, monitor),
            }
        }
    }
}

/// Solves and prices by each half of the data; `None` where there are no two halves.
fn compare_halves(
    prices: &PriceList,
    found: &Observations,
    probes: Option<&Probes>,
    choice: &[usize],
    limits: &Limits,
) -> Result<Option<Halves>> {
    let mut halves = [prices.clone(), prices.clone()];
    for (half, list) in halves.iter_mut().enumerate() {
        pricing::by_half(list, found, probes, half)?;
    }
    let both = |site: &str| found.get(site).is_some_and(|priced| !priced.evidence.halves.is_empty());
    Halves::compare(&halves, both, choice, limits)
}

fn evidence_of(found: Observations) -> AllEvidence {
    found.into_iter().map(|(site, priced)| (site, priced.evidence)).collect()
}

fn header(
    model: &Model,
    prepared: &Prepared,
    calibration: &Calibration,
    settings: &PlanningSettings,
) -> PlanHeader {
    PlanHeader {
        model: model.checkpoint().path().display().to_string(),
        fingerprint: model.checkpoint().fingerprint().to_string(),
        budget: settings.budget.clone(),
        seed: settings.calibration.seed,
        calibration: calibration.description.clone(),
        quantizer: prepared.quantizer.clone(),
        totals: prepared.inventory.totals.clone(),
    }
}

/// A model treated by a choice.
struct Measured {
    choice: Vec<usize>,
    assignment: Assignment,
    overlay: Overlay,
    damage: f64,
}

/// Planning by measurement of the whole.
struct Study<'a> {
    model: &'a Model,
    prepared: &'a Prepared,
    calibration: &'a Calibration,
    settings: &'a PlanningSettings,
    gauge: Gauge,
    found: Observations,
}

impl Study<'_> {
    fn refine(
        self,
        prices: PriceList,
        probes: Probes,
        network: Network,
        monitor: &mut dyn Monitor,
    ) -> Result<Planned> {
        let uniform = self.best_uniform(&prices)?;
        let options = RefineOptions { rounds: self.settings.rounds, solve: SolveOptions::default() };
        // Both closures of `refine` treat, measure and report; the second often asks for what the first just made.
        let shared = std::cell::RefCell::new((network, probes, monitor, None));
        let refined: Refined = refine(
            &prices,
            &self.prepared.limits,
            &options,
            uniform.as_slice(),
            |choice| {
                let (network, _, monitor, last) = &mut *shared.borrow_mut();
                Ok::<_, Error>(last.insert(self.measured(network, &prices, choice, *monitor)?).damage)
            },
            |_, choice, prices| {
                let (network, probes, monitor, last) = &mut *shared.borrow_mut();
                let around = match last.take().filter(|last: &Measured| last.choice == choice) {
                    Some(last) => last,
                    None => self.measured(network, prices, choice, *monitor)?,
                };
                self.reprice(network, probes, &around, prices, *monitor)
            },
        )?;
        let (_, probes, monitor, _) = shared.into_inner();
        let chosen = refined.chosen().clone();
        let history: Vec<CandidateReport> = refined.history.iter().map(|c| self.report(c)).collect();
        for candidate in &history {
            monitor.note(&format!(
                "  {:<8} {:.3} bits per weight: damage {:.5} predicted, {:.5} measured",
                candidate.origin,
                candidate.bits_per_weight,
                candidate.damage_predicted,
                candidate.damage_measured
            ));
        }
        let allocation = self.allocation(&refined, &chosen)?;
        let header = header(self.model, self.prepared, self.calibration, self.settings);
        let limits = &self.prepared.limits;
        let halves = compare_halves(&refined.prices, &self.found, Some(&probes), &chosen.choice, limits)?;
        let plan = Plan::new(header, refined.prices, &allocation)?;
        let measured = Some(chosen.measured);
        let evidence = evidence_of(self.found);
        let record = PlanningRecord { measured, history, evidence, halves, reached: None };
        Ok(Planned { plan, record })
    }

    /// The smallest plan that reaches a goal, by measuring plans along the curve, and along the curve of prices that were taken
    /// again around what was found.
    fn smallest(
        self,
        goal: &Goal<'_>,
        mut prices: PriceList,
        mut probes: Probes,
        mut network: Network,
        monitor: &mut dyn Monitor,
    ) -> Result<Planned> {
        let mut search = Search::begin(goal, self.model, &network, monitor)?;
        let original = self.model.network()?;
        let mut chosen: Option<Measured> = None;
        for round in 0..=self.settings.rounds {
            let known = search.smallest().map(|point| point.costs.bytes);
            let mut last = None;
            let mut judged = |choice: &[usize], monitor: &mut dyn Monitor| {
                let measured = self.measured(&mut network, &prices, choice, monitor)?;
                let (_, undo) = measure::put(&mut network, &measured.overlay)?;
                let quality = goal.judge.compare(self.model, &[&network], &original, monitor);
                measure::put(&mut network, &undo)?;
                last = Some(measured);
                Ok(quality?.remove(0))
            };
            search.narrow(&prices, &self.prepared.limits, &mut judged, monitor)?;
            let Some(point) = search.smallest().cloned() else { break };
            if known != Some(point.costs.bytes) {
                let seen = last.filter(|last| last.choice == point.choice);
                let again = || self.measured(&mut network, &prices, &point.choice, monitor);
                chosen = Some(seen.map_or_else(again, Ok)?);
            } else if round > 0 {
                break; // New prices found nothing smaller.
            }
            if let Some(around) = chosen.as_ref().filter(|_| round < self.settings.rounds) {
                self.reprice(&mut network, &mut probes, around, &mut prices, monitor)?;
            }
        }
        let (point, reached) = search.end()?;
        let (costs, damage) = prices.total(&point.choice)?;
        let options = SolveOptions::default();
        let bound = solve(&prices, &Limits::bytes(costs.bytes), &options)?;
        let allocation = Allocation { choice: point.choice.clone(), costs, damage, ..bound };
        let header = header(self.model, self.prepared, self.calibration, self.settings);
        let halves =
            compare_halves(&prices, &self.found, Some(&probes), &point.choice, &Limits::bytes(costs.bytes))?;
        let plan = Plan::new(header, prices, &allocation)?;
        let record = PlanningRecord {
            measured: chosen.map(|chosen| chosen.damage),
            history: Vec::new(),
            evidence: evidence_of(self.found),
            halves,
            reached: Some(reached),
        };
        Ok(Planned { plan, record })
    }

    /// The uniform plan within the budget that promises least damage: what a plan has to beat.
    fn best_uniform(&self, prices: &PriceList) -> Result<Option<Vec<usize>>> {
        let mut best: Option<(f64, Vec<usize>)> = None;
        for choice in prices.labels().into_iter().filter_map(|label| prices.uniform(label)) {
            let (costs, damage) = prices.total(&choice)?;
            let fits = self.prepared.limits.exceeded_by(&costs).is_none();
            if fits && best.as_ref().is_none_or(|(least, _)| damage < *least) {
                best = Some((damage, choice));
            }
        }
        Ok(best.map(|(_, choice)| choice))
    }

    fn assignment(&self, prices: &PriceList, choice: &[usize]) -> Result<Assignment> {
        let sites = prices.sites.iter().zip(choice);
        sites
            .map(|(site, &i)| Ok((site.site.clone(), Choice::from_settings(&site.options[i].params)?)))
            .collect()
    }

    /// Treats the model by a choice and measures the whole.
    fn measured(
        &self,
        network: &mut Network,
        prices: &PriceList,
        choice: &[usize],
        monitor: &mut dyn Monitor,
    ) -> Result<Measured> {
        let assignment = self.assignment(prices, choice)?;
        let inventory = &self.prepared.inventory;
        let quantizer = &self.settings.quantizer.codes_only();
        let job =
            Job { model: self.model, inventory, assignment: &assignment, quantizer, form: Form::Packed };
        let treated = job.collected(Some(self.calibration), monitor)?;
        let overlay = treated.overlay(inventory)?;
        let damage = self.gauge.with_overlay(network, &overlay)?;
        Ok(Measured { choice: choice.to_vec(), assignment, overlay, damage })
    }

    /// Prices around a plan: what each site's damage is with all the others as the plan has them.
    ///
    /// The site is put back as it was in the model treated by the plan; by as much as the damage falls, the site hurts
    /// there. All measured points of the site are scaled by one factor, so that their line passes through that point.
    fn reprice(
        &self,
        network: &mut Network,
        probes: &mut Probes,
        around: &Measured,
        prices: &mut PriceList,
        monitor: &mut dyn Monitor,
    ) -> Result<()> {
        monitor.begin("re-pricing", around.overlay.len());
        let progress = |done: usize| {
            monitor.advance(done, "");
            if monitor.interrupted() { Err(trimtab_calibrate::Error::Interrupted.into()) } else { Ok(()) }
        };
        for (name, damage) in self.gauge.without_each(network, &around.overlay, around.damage, progress)? {
            let error = self.found.get(&name).and_then(|priced| priced.error(&around.assignment[&name]));
            if let (Some(points), Some(error)) = (probes.get_mut(&name), error) {
                shift(points, Probe { error, damage });
            }
        }
        pricing::by_probes(prices, &self.found, probes)
    }

    fn report(&self, candidate: &Candidate) -> CandidateReport {
        let totals = &self.prepared.inventory.totals;
        CandidateReport {
            origin: match candidate.origin {
                trimtab_plan::Origin::Baseline(_) => "uniform".into(),
                trimtab_plan::Origin::Round(round) => format!("round {round}"),
            },
            bits_per_weight: totals.bits_per_weight(candidate.costs.bytes).unwrap_or(f64::NAN),
            damage_predicted: candidate.predicted,
            damage_measured: candidate.measured,
        }
    }

    fn allocation(&self, refined: &Refined, chosen: &Candidate) -> Result<Allocation> {
        let (costs, damage) = refined.prices.total(&chosen.choice)?;
        let bound = solve(&refined.prices, &self.prepared.limits, &SolveOptions::default())?;
        Ok(Allocation { choice: chosen.choice.clone(), costs, damage, ..bound })
    }
}

/// Scales a site's measured line so that it passes through a new point. A damage that is lost in the noise (or a
/// gain) halves the line: one measurement does not make a site free.
fn shift(points: &mut [Probe], new: Probe) {
    let before = pricing::interpolate(points, new.error);
    if before <= 0.0 {
        return;
    }
    let factor = (new.damage / before).clamp(0.5, 4.0);
    for point in points {
        point.damage *= factor;
    }
}

/// The assignment of a plan file, checked against the model.
pub fn assignment_of(plan: &Plan, model: &Model, inventory: &Inventory) -> Result<Assignment> {
    let fingerprint = model.checkpoint().fingerprint();
    if plan.header.fingerprint != fingerprint {
        let message =
            format!("its fingerprint is {}, that of this model is {fingerprint}", plan.header.fingerprint);
        return Err(Error::OtherModel { message });
    }
    let mut assignment = Assignment::new();
    for (site, &choice) in plan.prices.sites.iter().zip(&plan.choice) {
        if !inventory.sites.iter().any(|known| known.meta.name == site.site) {
            return Err(Error::Site {
                site: site.site.clone(),
                message: "the model has no such site".into(),
            });
        }
        assignment.insert(site.site.clone(), Choice::from_settings(&site.options[choice].params)?);
    }
    Ok(assignment)
}

/// Reads a plan file.
pub fn read_plan(path: &PathBuf) -> Result<Plan> {
    let text = trimtab_io::read_text(path)?;
    Ok(Plan::parse(&text, &path.display().to_string())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activations::Activations;

    #[test]
    fn a_budget_for_the_file_leaves_room_for_the_steps_of_activations() {
        let model = Model::open("@pico", None).unwrap();
        let most = |budget: &str, activations: Option<Activations>| {
            let settings = PlanningSettings {
                budget: Some(budget.parse().unwrap()),
                calibration: CalibrationSettings::default(),
                choices: Choices::default(),
                metric: Metric::Kl,
                probe_rows: 2048,
                rounds: 0,
                selection: Selection::default(),
                fused: false,
                quantizer: Quantizer { activations, ..Quantizer::default() },
            };
            let prepared = prepare(&model, &settings).unwrap();
            (prepared.limits.bytes.unwrap(), prepared.inventory.sites)
        };
        let quantized = Activations::of("int8 tensor".parse().unwrap());
        let ((plain, sites), (with, _)) = (most("60%", None), most("60%", Some(quantized)));
        assert_eq!(plain - with, quantized.bytes(&sites));
        assert!(with < plain);
        let bits = |activations| most("4bpw", activations).0;
        assert_eq!(bits(None), bits(Some(quantized)), "control: bits per weight are of the weights alone");
    }

    #[test]
    fn a_new_point_scales_the_line_within_limits() {
        let line = [Probe { error: 1.0, damage: 0.1 }, Probe { error: 10.0, damage: 1.0 }];
        let after = |damage: f64| {
            let mut points = line;
            shift(&mut points, Probe { error: 1.0, damage });
            points[0].damage
        };
        assert!((after(0.2) - 0.2).abs() < 1e-12);
        assert!((after(-0.3) - 0.05).abs() < 1e-12, "a gain halves it");
        assert!((after(9.0) - 0.4).abs() < 1e-12, "an outlier is bounded");
    }
}
