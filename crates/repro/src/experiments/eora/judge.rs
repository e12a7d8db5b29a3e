//! The verdict, and the tables.

use trimtab::floors::mend::eora::Variant;

use super::layers::Layers;
use super::run::{Arm, Compressor, Outcome};
use super::{LAYER_RANK, TASK_RANK};
use crate::experiment::{Measurement, Table, Verdict};
use crate::experiments::figures::{mean, spread};

/// How much more output error than a trained branch EoRA may leave.
const NEAR_LEARNED: f64 = 1.1;
/// Share of pairs of rank and compressor at which it has to be ahead in the mean, for half a verdict.
const MOST: f64 = 0.75;

/// All that was measured, by seed.
#[derive(Default)]
pub struct Found {
    seeds: Vec<Vec<Outcome>>,
    pub on_task: Vec<Outcome>,
    pub on_other: Vec<Outcome>,
}

impl Found {
    pub fn take(&mut self, seed: u64, outcomes: Vec<Outcome>) {
        assert_eq!(seed as usize, self.seeds.len(), "seeds come in order");
        self.seeds.push(outcomes);
    }

    /// One figure of an arm, seed by seed.
    fn of(&self, arm: Arm, figure: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        let outcomes = self.seeds.iter().flatten().filter(|outcome| outcome.arm == arm);
        outcomes.map(figure).collect()
    }

    /// The arms in the order in which they were measured.
    fn arms(&self) -> Vec<Arm> {
        self.seeds.first().map_or(Vec::new(), |seed| seed.iter().map(|outcome| outcome.arm).collect())
    }

    /// Pairs of rank and compressor: perplexity of SVD and of EoRA by seed.
    fn pairs(&self) -> Vec<(Vec<f64>, Vec<f64>)> {
        let of = |arm| self.of(arm, |outcome| outcome.perplexity);
        let eora = self.arms().into_iter().filter(|arm| matches!(arm.branch, Some((Variant::Eora, _))));
        let pair = |arm: Arm| {
            let rank = arm.branch.map_or(0, |(_, rank)| rank);
            (of(Arm { branch: Some((Variant::Svd, rank)), ..arm }), of(arm))
        };
        eora.map(pair).collect()
    }
}

fn verdict(pairs: &[(Vec<f64>, Vec<f64>)], near_learned: bool) -> Verdict {
    let always = |(svd, eora): &(Vec<f64>, Vec<f64>)| svd.iter().zip(eora).all(|(svd, eora)| eora < svd);
    let ahead = pairs.iter().filter(|(svd, eora)| mean(eora) < mean(svd)).count();
    if pairs.is_empty() {
        Verdict::NotReproduced
    } else if near_learned && pairs.iter().all(always) {
        Verdict::Reproduced
    } else if ahead as f64 >= MOST * pairs.len() as f64 {
        Verdict::Partly
    } else {
        Verdict::NotReproduced
    }
}

pub fn judge(found: &Found, layers: &[Layers], seeds: u64, scale: &str) -> Measurement {
    let pairs = found.pairs();
    let near = layers.iter().all(|layer| layer.eora <= NEAR_LEARNED * layer.learned);
    let verdict = verdict(&pairs, near);
    let cells: Vec<bool> =
        pairs.iter().flat_map(|(svd, eora)| svd.iter().zip(eora).map(|(svd, eora)| eora < svd)).collect();
    let at = |variant| {
        let arm = Arm { compressor: Compressor::Gptq(2), branch: Some((variant, 8)) };
        spread(&found.of(arm, |outcome| outcome.perplexity), 1)
    };
    let worst = layers.iter().map(|layer| layer.eora / layer.learned).fold(f64::NAN, f64::max);
    let figure = format!(
        "EoRA below SVD in {} of {} runs; GPTQ-2, rank 8: perplexity {} against {}, without a branch {}; output error on held-out inputs at most {worst:.3} times that \
         of a trained branch",
        cells.iter().filter(|ahead| **ahead).count(),
        cells.len(),
        at(Variant::Eora),
        at(Variant::Svd),
        spread(
            &found.of(Arm { compressor: Compressor::Gptq(2), branch: None }, |outcome| outcome.perplexity),
            1
        ),
    );
    let mut tables = vec![quality(found), by_layers(layers)];
    tables.extend(task(found));
    Measurement { tables, ..Measurement::new(verdict, figure, format!("{scale}; {seeds} seeds")) }
}

fn name(branch: Option<(Variant, usize)>) -> String {
    match branch {
        None => "no branch".into(),
        Some((variant, rank)) => {
            let variant = match variant {
                Variant::Svd => "SVD",
                Variant::ActScale => "act-scale",
                Variant::Eora => "EoRA",
                Variant::Fisher => "Fisher",
            };
            format!("{variant}, rank {rank}")
        }
    }
}

fn quality(found: &Found) -> Table {
    let row = |arm: Arm| {
        let of = |figure: fn(&Outcome) -> f64, decimals| spread(&found.of(arm, figure), decimals);
        vec![
            format!("{}, {}", arm.compressor.name(), name(arm.branch)),
            format!("{:.2}", mean(&found.of(arm, |outcome| outcome.bits_per_weight))),
            of(|outcome| outcome.perplexity, 2),
            of(|outcome| outcome.kl, 4),
        ]
    };
    Table {
        title: "Held-out reviews: mean over seeds (least .. most); bits count codes, scales, zero points, branches".into(),
        columns: ["", "bits a weight", "perplexity", "KL, nats"].map(String::from).to_vec(),
        rows: found.arms().into_iter().map(row).collect(),
    }
}

fn by_layers(layers: &[Layers]) -> Table {
    let row = |layer: &Layers| {
        let figures = [layer.none, layer.svd, layer.act_scale, layer.eora, layer.learned];
        std::iter::once(layer.compressor.name()).chain(figures.map(|figure| format!("{figure:.4}"))).collect()
    };
    Table {
        title: format!(
            "Output error on held-out inputs in parts of the output, mean over the maps of every second block, rank {LAYER_RANK}, seed 0"
        ),
        columns: ["", "no branch", "SVD", "act-scale", "EoRA", "trained"].map(String::from).to_vec(),
        rows: layers.iter().map(row).collect(),
    }
}

/// Calibration on the task beside calibration on other text, where both were tried.
fn task(found: &Found) -> Option<Table> {
    let row = |name: &str, outcomes: &[Outcome]| {
        let of = |figure: fn(&Outcome) -> f64| outcomes.iter().map(figure).collect::<Vec<_>>();
        vec![
            name.to_string(),
            spread(&of(|outcome| outcome.perplexity), 2),
            spread(&of(|outcome| outcome.kl), 4),
        ]
    };
    let rows = vec![row("film reviews", &found.on_task), row("encyclopedia", &found.on_other)];
    (!found.on_task.is_empty()).then(|| Table {
        title: format!("RTN-3 and EoRA of rank {TASK_RANK}, judged on held-out reviews, by what the branch is calibrated on"),
        columns: ["", "perplexity", "KL, nats"].map(String::from).to_vec(),
        rows,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_what_it_says() {
        let ahead = (vec![3.0, 3.0], vec![2.0, 2.5]);
        let mostly = (vec![3.0, 3.0], vec![2.0, 3.1]);
        let behind = (vec![3.0, 3.0], vec![4.0, 2.9]);
        let all = |n: usize, pair: &(Vec<f64>, Vec<f64>)| vec![pair.clone(); n];
        assert_eq!(verdict(&all(4, &ahead), true), Verdict::Reproduced);
        assert_eq!(verdict(&all(4, &ahead), false), Verdict::Partly);
        assert_eq!(verdict(&[all(3, &ahead), all(1, &mostly)].concat(), true), Verdict::Partly);
        assert_eq!(verdict(&[all(3, &ahead), all(1, &behind)].concat(), true), Verdict::Partly);
        assert_eq!(verdict(&[all(2, &ahead), all(2, &behind)].concat(), true), Verdict::NotReproduced);
        assert_eq!(verdict(&[], true), Verdict::NotReproduced);
        assert_eq!(verdict(&[(vec![3.0], vec![f64::NAN])], true), Verdict::NotReproduced);
    }
}
