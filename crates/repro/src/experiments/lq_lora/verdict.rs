//! The verdict by the rule, and the tables.

use trimtab::judge::Quality;

use super::Start;
use super::residuals::{Allocated, Residual};
use crate::experiment::{Measurement, Table, Verdict};
use crate::experiments::figures::{mean, spread};

/// Share of the pairs of map and configuration that is enough for half a verdict.
const MOST: f64 = 0.9;

/// Figures of whole models.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Perplexity of the original.
    pub original: f64,
    before: Vec<Before>,
    /// Perplexity after fine-tuning by where it began, seed by seed.
    tuned: [Vec<f64>; 3],
}

/// A scheme before fine-tuning: perplexity and KL.
#[derive(Clone, Debug)]
struct Before {
    label: String,
    bits: [f64; 2],
    alone: [f64; 2],
    after: [f64; 2],
    turns: [f64; 2],
    /// By seed.
    weighted: Vec<[f64; 2]>,
}

fn figures(quality: &Quality) -> [f64; 2] {
    [quality.perplexity, quality.kl].map(|figure| figure.unwrap_or(f64::NAN))
}

impl Found {
    /// Nothing yet.
    pub fn new(original: f64) -> Self {
        Self { original, ..Self::default() }
    }

    /// Codes alone, codes and then a branch, by turns, and by turns with the Fisher information of each seed.
    pub fn take_before(&mut self, label: &str, bits: [f64; 2], qualities: &[Quality]) {
        let [alone, after, turns, weighted @ ..] = qualities else { return };
        let [alone, after, turns] = [alone, after, turns].map(figures);
        let weighted = weighted.iter().map(figures).collect();
        self.before.push(Before { label: label.into(), bits, alone, after, turns, weighted });
    }

    /// What fine-tuning ended with, in the order of [`Start::ALL`].
    pub fn take_tuned(&mut self, qualities: &[Quality]) {
        for (all, quality) in self.tuned.iter_mut().zip(qualities) {
            all.push(figures(quality)[0]);
        }
    }
}

/// All that was found, judged.
pub fn judge(
    residuals: &[Residual],
    allocated: &Allocated,
    found: &Found,
    sizes: &[[f64; 2]; 3],
    scale: String,
) -> Measurement {
    let ahead = residuals.iter().filter(|r| r.turns < r.after && r.turns < r.codes).count();
    let first = ahead == residuals.len() && ahead > 0;
    let second = allocated.costs[0] <= allocated.costs[1]
        && allocated.gap < 1e-9
        && allocated.bytes[0] == allocated.bytes[1];
    let [turns, zero, gptq] = &found.tuned;
    let everywhere = |other: &[f64]| turns.iter().zip(other).all(|(a, b)| a < b) && !turns.is_empty();
    let fifth = everywhere(zero) && everywhere(gptq);
    let on_average = mean(turns) < mean(zero) && mean(turns) < mean(gptq);
    let verdict = match (first && second && fifth, ahead as f64 >= MOST * residuals.len() as f64) {
        (true, _) => Verdict::Reproduced,
        (_, true) if on_average => Verdict::Partly,
        _ => Verdict::NotReproduced,
    };
    let ratios: Vec<f64> = residuals.iter().map(|r| r.turns / r.after).collect();
    let figure = format!(
        "by turns below both baselines at {ahead} of {} maps and configurations, norm {} of codes and then a branch; 3.0 bits mixed {:.3} of the best uniform \
         configuration; fine-tuned at {:.2} bits, perplexity {} against {} (QLoRA) and {} (GPTQ)",
        residuals.len(),
        spread(&ratios, 3),
        allocated.costs[0] / allocated.costs[1],
        sizes[0][1],
        spread(turns, 2),
        spread(zero, 2),
        spread(gptq, 2),
    );
    let tables = vec![of_maps(residuals), of_budget(allocated), before(found), tuned(found, sizes)];
    Measurement { tables, ..Measurement::new(verdict, figure, scale) }
}

fn table(title: &str, columns: &[&str], rows: Vec<Vec<String>>) -> Table {
    Table { title: title.into(), columns: columns.iter().map(|column| column.to_string()).collect(), rows }
}

fn of_maps(residuals: &[Residual]) -> Table {
    let mut cases: Vec<(u8, usize)> = residuals.iter().map(|r| (r.bits, r.rank)).collect();
    cases.sort_unstable();
    cases.dedup();
    let row = |&(bits, rank): &(u8, usize)| {
        let of = |f: fn(&Residual) -> f64| -> Vec<f64> {
            residuals.iter().filter(|r| (r.bits, r.rank) == (bits, rank)).map(f).collect()
        };
        vec![
            format!("nf{bits} b64, rank {rank}"),
            spread(&of(|r| r.turns / r.codes), 3),
            spread(&of(|r| r.turns / r.after), 3),
            spread(&of(|r| r.rounds as f64), 1),
        ]
    };
    table(
        "What turns leave of a map (Frobenius norm), mean over maps (least .. most)",
        &["", "of codes alone", "of codes and then a branch", "rounds"],
        cases.iter().map(row).collect(),
    )
}

fn of_budget(allocated: &Allocated) -> Table {
    let [mixed, uniform] = allocated.costs;
    let rows = vec![
        vec![
            "mixed".to_string(),
            format!("{:.3}", allocated.bits[0]),
            format!("{:.3}", allocated.bits[1]),
            format!("{mixed:.3}"),
        ],
        vec![format!("uniform, {}", allocated.uniform), "-".into(), "-".into(), format!("{uniform:.3}")],
    ];
    table(
        "A budget of 3.0 bits for codes: squared error of all maps beside branches of rank 8",
        &["", "bits, codes", "bits, with branches", "squared error"],
        rows,
    )
}

fn before(found: &Found) -> Table {
    let mut rows =
        vec![vec!["original".to_string(), "16".into(), format!("{:.2}", found.original), "0".into()]];
    for one in &found.before {
        let bits = |with: bool| format!("{:.2}", one.bits[usize::from(!with)]);
        let mut add = |name: &str, bits: String, [perplexity, kl]: [f64; 2]| {
            rows.push(vec![
                format!("{}, {name}", one.label),
                bits,
                format!("{perplexity:.2}"),
                format!("{kl:.4}"),
            ]);
        };
        add("codes alone", bits(false), one.alone);
        add("codes, then the branch", bits(true), one.after);
        add("by turns", bits(true), one.turns);
        let of = |i: usize| one.weighted.iter().map(|figures| figures[i]).collect::<Vec<_>>();
        let name = format!("{}, by turns, Fisher", one.label);
        rows.push(vec![name, bits(true), spread(&of(0), 2), spread(&of(1), 4)]);
    }
    table(
        "Before fine-tuning, branches of rank 8; held-out reviews, of the weighted variant over seeds",
        &["", "bits a weight, all counted", "perplexity", "KL, nats"],
        rows,
    )
}

fn tuned(found: &Found, sizes: &[[f64; 2]; 3]) -> Table {
    let row = |(start, (perplexities, bits)): (Start, (&Vec<f64>, &[f64; 2]))| {
        vec![
            start.name().to_string(),
            format!("{:.2}", bits[1]),
            format!("{:.2}", bits[0]),
            spread(perplexities, 2),
        ]
    };
    table(
        "After fine-tuning branches of rank 8 on reviews: perplexity of held-out ones, mean (least .. most) over seeds",
        &["", "bits, codes", "bits, with branches", "perplexity"],
        Start::ALL.into_iter().zip(found.tuned.iter().zip(sizes)).map(row).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(turns: [f64; 2], mixed: f64, tuned: [[f64; 2]; 3]) -> Verdict {
        let residual = |turns| Residual { bits: 2, rank: 4, codes: 1.0, after: 0.9, turns, rounds: 5 };
        let residuals: Vec<Residual> =
            std::iter::repeat_n(turns[0], 9).chain([turns[1]]).map(residual).collect();
        let allocated = Allocated {
            costs: [mixed, 1.0],
            bits: [3.0, 3.4],
            uniform: "nf2".into(),
            gap: 0.0,
            bytes: [1, 1],
        };
        let found = Found { tuned: tuned.map(|all| all.to_vec()), ..Found::default() };
        judge(&residuals, &allocated, &found, &[[2.5, 2.9]; 3], String::new()).verdict
    }

    #[test]
    fn the_rule_is_what_it_says() {
        let good = [[20.0, 21.0], [22.0, 23.0], [24.0, 25.0]];
        assert_eq!(judged([0.8, 0.8], 0.9, good), Verdict::Reproduced);
        assert_eq!(judged([0.8, 0.95], 0.9, good), Verdict::Partly, "one map in ten is not better");
        assert_eq!(judged([0.95, 0.8], 0.9, good), Verdict::NotReproduced, "nine are not");
        assert_eq!(judged([0.8, 0.8], 1.1, good), Verdict::Partly, "the plan is worse than a uniform one");
        let once = [[20.0, 23.5], [22.0, 23.0], [24.0, 25.0]];
        assert_eq!(judged([0.8, 0.8], 0.9, once), Verdict::Partly, "one seed is not better");
        let behind = [[20.0, 26.0], [22.0, 23.0], [24.0, 25.0]];
        assert_eq!(judged([0.8, 0.8], 0.9, behind), Verdict::NotReproduced);
        assert_eq!(judged([0.8, 0.8], f64::NAN, good), Verdict::Partly);
    }
}
