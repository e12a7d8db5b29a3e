//! Measured re-planning: damage is additive only as a first guess.
//!
//! A price list says what each site does to the model *alone*. Errors of several sites may reinforce or cancel
//! each other, so the plan that adds up best need not measure best. [`refine`] solves, measures the plan as a
//! whole, lets the caller price the options again *around that plan*, and repeats. It keeps the best measured
//! plan, and takes a mixed plan only where it measures better than the baselines that fit the same budget.

use std::cmp::Ordering;

use serde::Serialize;

use crate::error::Error;
use crate::limits::Limits;
use crate::price::PriceList;
use crate::resource::Costs;
use crate::solve::{SolveOptions, solve};

/// Settings of [`refine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefineOptions {
    /// Rounds of re-pricing after the first plan; 0 measures the first plan and stops.
    pub rounds: usize,
    /// Settings of each solve.
    pub solve: SolveOptions,
}

impl Default for RefineOptions {
    fn default() -> Self {
        Self { rounds: 3, solve: SolveOptions::default() }
    }
}

/// Where a candidate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The caller's baseline of this index.
    Baseline(usize),
    /// The solution after this many re-pricings.
    Round(usize),
}

/// A plan that was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// Where it comes from.
    pub origin: Origin,
    /// Option index per site.
    pub choice: Vec<usize>,
    /// What it takes.
    pub costs: Costs,
    /// Damage that the prices of its round predict.
    pub predicted: f64,
    /// Damage of the plan as a whole, as measured.
    pub measured: f64,
}

/// What [`refine`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct Refined {
    /// Position in `history` of the plan to use.
    pub best: usize,
    /// Every candidate, in the order in which it was measured: baselines, then rounds.
    pub history: Vec<Candidate>,
    /// Baselines that exceed the limits, and were therefore not measured.
    pub skipped_baselines: Vec<usize>,
    /// Whether a re-pricing led back to a plan already measured, so that more rounds would change nothing.
    pub converged: bool,
    /// The prices after the last round.
    pub prices: PriceList,
}

impl Refined {
    /// The plan to use.
    pub fn chosen(&self) -> &Candidate {
        &self.history[self.best]
    }

    /// The best measured baseline, against which the chosen plan was judged.
    pub fn best_baseline(&self) -> Option<&Candidate> {
        let baselines = self.history.iter().filter(|c| matches!(c.origin, Origin::Baseline(_)));
        baselines.min_by(|a, b| by_measure(a, b))
    }
}

/// Solve, measure, re-price, and again; the best measured plan wins.
///
/// `baselines` are plans to beat (usually every uniform plan, see [`PriceList::uniform`]); those above the limits
/// are skipped. `measure` returns the damage of a whole plan. `reprice` gets the round (from 1), the plan solved
/// last, and the prices to change: typically each option's damage measured with all other sites as in that plan.
/// It must keep sites and options. A round that measures no better than what was there is the last. Equal measures: fewer bytes, then the earlier candidate, baselines first.
///
/// Errors: those of [`solve`] and of the closures; [`Error::Choice`] if a baseline does not fit the list, a
/// measure is not finite, or `reprice` changed the sites or labels.
pub fn refine<E, M, R>(
    prices: &PriceList,
    limits: &Limits,
    options: &RefineOptions,
    baselines: &[Vec<usize>],
    mut measure: M,
    mut reprice: R,
) -> Result<Refined, E>
where
    E: From<Error>,
    M: FnMut(&[usize]) -> Result<f64, E>,
    R: FnMut(usize, &[usize], &mut PriceList) -> Result<(), E>,
{
    let mut prices = prices.clone();
    let mut run = Run { history: Vec::new(), measure: &mut measure };
    let mut skipped_baselines = Vec::new();
    for (i, choice) in baselines.iter().enumerate() {
        let (costs, predicted) = prices.total(choice)?;
        if limits.exceeded_by(&costs).is_some() {
            skipped_baselines.push(i);
        } else {
            run.add(Origin::Baseline(i), choice.clone(), costs, predicted)?;
        }
    }
    let mut plan = solve(&prices, limits, &options.solve)?;
    run.add(Origin::Round(0), plan.choice.clone(), plan.costs, plan.damage)?;
    let mut converged = false;
    for round in 1..=options.rounds {
        let before = shape(&prices);
        reprice(round, &plan.choice, &mut prices)?;
        if shape(&prices) != before {
            let problem = format!(
                "round {round}: re-pricing changed the sites or their labels; only prices may change"
            );
            return Err(Error::Choice { problem }.into());
        }
        plan = solve(&prices, limits, &options.solve)?;
        let solved_before = |c: &&Candidate| matches!(c.origin, Origin::Round(_)) && c.choice == plan.choice;
        if run.history.iter().find(solved_before).is_some() {
            converged = true;
            break;
        }
        let best = run.history.iter().map(|c| c.measured).fold(f64::INFINITY, f64::min);
        run.add(Origin::Round(round), plan.choice.clone(), plan.costs, plan.damage)?;
        if run.history.last().is_some_and(|c| c.measured >= best) {
            break;
        }
    }
    let history = run.history;
    let order = |&a: &usize, &b: &usize| by_measure(&history[a], &history[b]).then(a.cmp(&b));
    let best = (0..history.len()).min_by(order).unwrap_or(0);
    Ok(Refined { best, history, skipped_baselines, converged, prices })
}

/// The candidates so far, and the means to measure the next one.
struct Run<'a, M> {
    history: Vec<Candidate>,
    measure: &'a mut M,
}

impl<M> Run<'_, M> {
    /// Measures a plan, unless it was measured before under another origin.
    fn add<E>(&mut self, origin: Origin, choice: Vec<usize>, costs: Costs, predicted: f64) -> Result<(), E>
    where
        E: From<Error>,
        M: FnMut(&[usize]) -> Result<f64, E>,
    {
        let measured = match self.history.iter().find(|c| c.choice == choice) {
            Some(known) => known.measured,
            None => (self.measure)(&choice)?,
        };
        if !measured.is_finite() {
            let problem =
                format!("the measured damage of {origin:?} is {measured}, expected a finite number");
            return Err(Error::Choice { problem }.into());
        }
        self.history.push(Candidate { origin, choice, costs, predicted, measured });
        Ok(())
    }
}

fn by_measure(a: &Candidate, b: &Candidate) -> Ordering {
    a.measured.total_cmp(&b.measured).then(a.costs.bytes.cmp(&b.costs.bytes))
}

/// What a re-pricing must not change: names and labels.
fn shape(prices: &PriceList) -> Vec<(String, Vec<String>)> {
    let labels = |s: &crate::price::SitePrices| s.options.iter().map(|o| o.label.clone()).collect();
    prices.sites.iter().map(|s| (s.site.clone(), labels(s))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::{SiteOption, SitePrices};

    /// Three sites, options `low` (1 byte) and `high` (2 bytes).
    fn prices(low: [f64; 3]) -> PriceList {
        let options = |d: f64| vec![SiteOption::new("low", 1, d), SiteOption::new("high", 2, 0.0)];
        let sites = low.iter().enumerate().map(|(i, d)| SitePrices::new(format!("s{i}"), 8, options(*d)));
        PriceList::new("kl", sites.collect()).unwrap()
    }

    const ALONE: [f64; 3] = [1.0, 1.25, 3.0];

    /// The truth: alone as priced, but `s0` and `s1` low together cost 10 more than their sum.
    fn truth(choice: &[usize]) -> f64 {
        let low = |i: usize| choice[i] == 0;
        let alone: f64 = (0..3).filter(|&i| low(i)).map(|i| ALONE[i]).sum();
        alone + if low(0) && low(1) { 10.0 } else { 0.0 }
    }

    /// Each option measured with the other sites as in the current plan, less the plan with that site high.
    fn around(_round: usize, current: &[usize], prices: &mut PriceList) -> Result<(), Error> {
        for (i, site) in prices.sites.iter_mut().enumerate() {
            let with = |index: usize| {
                let mut choice = current.to_vec();
                choice[i] = index;
                truth(&choice)
            };
            for (index, option) in site.options.iter_mut().enumerate() {
                option.damage = with(index) - with(1);
            }
        }
        Ok(())
    }

    fn run(rounds: usize, baselines: &[Vec<usize>]) -> Refined {
        let options = RefineOptions { rounds, ..RefineOptions::default() };
        // 4 bytes: one site high, two low.
        refine(&prices(ALONE), &Limits::bytes(4), &options, baselines, |c| Ok::<_, Error>(truth(c)), around)
            .unwrap()
    }

    #[test]
    fn an_interaction_is_found_by_pricing_again() {
        let refined = run(3, &[]);
        // The additive optimum keeps s2 high and pays the interaction.
        assert_eq!(refined.history[0].choice, [0, 0, 1]);
        assert_eq!((refined.history[0].predicted, refined.history[0].measured), (2.25, 12.25));
        assert_eq!(refined.chosen().measured, 4.0);
        assert_eq!(refined.chosen().choice, [0, 1, 0]);
        assert!(refined.best > 0 && refined.history.len() <= 4);
    }

    #[test]
    fn without_rounds_the_worse_plan_stays() {
        let refined = run(0, &[]);
        assert_eq!(refined.chosen().choice, [0, 0, 1]);
        assert_eq!(refined.chosen().measured, 12.25);
    }

    #[test]
    fn a_round_without_gain_is_the_last() {
        // Prices that lead to another plan every round, none of them better than the first.
        let mut measured = 0;
        let options = RefineOptions { rounds: 5, ..RefineOptions::default() };
        let worse = |_: &[usize]| {
            measured += 1;
            Ok::<_, Error>(f64::from(measured))
        };
        let turn = |round: usize, _: &[usize], prices: &mut PriceList| {
            for (i, site) in prices.sites.iter_mut().enumerate() {
                site.options[0].damage = if i == round % 3 { 9.0 } else { 1.0 };
            }
            Ok(())
        };
        let refined = refine(&prices(ALONE), &Limits::bytes(4), &options, &[], worse, turn).unwrap();
        assert_eq!((refined.best, refined.history.len()), (0, 2));
        assert!(!refined.converged);
    }

    #[test]
    fn a_baseline_that_measures_better_wins() {
        let uniform = |label| prices(ALONE).uniform(label).unwrap();
        let mixed = vec![1, 0, 0];
        let refined = run(0, &[uniform("low"), uniform("high"), mixed.clone()]);
        assert_eq!(refined.skipped_baselines, [1]); // 6 bytes
        assert_eq!(refined.chosen().choice, mixed);
        assert_eq!(refined.chosen().origin, Origin::Baseline(2));
        assert_eq!(refined.best_baseline(), Some(refined.chosen()));
        // With rounds the mixed plan of 4.0 beats that baseline of 4.25, and only then replaces it.
        assert!(matches!(run(3, &[mixed]).chosen().origin, Origin::Round(_)));
    }

    #[test]
    fn misuse_is_refused() {
        let bad = |reprice: fn(&mut PriceList), measured: f64| {
            let measure = |_: &[usize]| Ok::<_, Error>(measured);
            let change = |_, _: &[usize], p: &mut PriceList| {
                reprice(p);
                Ok(())
            };
            let options = RefineOptions::default();
            refine(&prices(ALONE), &Limits::bytes(4), &options, &[], measure, change).unwrap_err().to_string()
        };
        assert!(bad(|_| (), f64::NAN).contains("finite"));
        assert!(bad(|p| drop(p.sites.pop()), 1.0).contains("only prices may change"));
    }
}
