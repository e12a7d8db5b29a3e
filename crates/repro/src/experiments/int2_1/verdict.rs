//! The verdict by the rule, and the tables.

use trimtab::judge::Quality;

use super::Arm;
use super::layer::Memory;
use crate::experiment::{Measurement, Table, Verdict};
use crate::experiments::figures::{mean, percents, spread};

/// Share of the gap that has to be recovered.
const HALF: f64 = 0.5;

/// What a model says when it is left to itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Words {
    /// As the original sees it.
    pub perplexity: f64,
    /// Share of 4-grams that were said before in the same text.
    pub repeated: f64,
}

/// One run of an arm.
#[derive(Clone, Copy, Debug)]
struct One {
    arm: Arm,
    bits: u8,
    size: f64,
    perplexity: f64,
    kl: f64,
}

/// All that was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Perplexity of the original.
    pub original: f64,
    /// Of a stack of frozen layers.
    pub memory: Memory,
    /// Continuations, by who said them.
    pub words: Vec<(String, Words)>,
    runs: Vec<One>,
}

impl Found {
    /// Nothing yet.
    pub fn new(original: f64, memory: Memory) -> Self {
        Self { original, memory, ..Self::default() }
    }

    /// Takes a run; seeds come in order.
    pub fn take(&mut self, arm: Arm, bits: u8, size: f64, quality: &Quality) {
        let [perplexity, kl] = [quality.perplexity, quality.kl].map(|figure| figure.unwrap_or(f64::NAN));
        self.runs.push(One { arm, bits, size, perplexity, kl });
    }

    fn of(&self, arm: Arm, bits: u8, figure: fn(&One) -> f64) -> Vec<f64> {
        self.runs.iter().filter(|run| run.arm == arm && run.bits == bits).map(figure).collect()
    }

    /// Gain of the trained branch in log-perplexity, seed by seed.
    fn gains(&self, bits: u8) -> Vec<f64> {
        let log = |arm| self.of(arm, bits, |run| run.perplexity.ln());
        log(Arm::Gptq).iter().zip(log(Arm::Kl)).map(|(bare, trained)| bare - trained).collect()
    }
}

fn below(left: &[f64], right: &[f64]) -> bool {
    !left.is_empty() && left.iter().zip(right).all(|(left, right)| left < right)
}

/// All that was found, judged.
pub fn judge(found: &Found, widths: &[u8], scale: String) -> Measurement {
    let perplexity = |arm, bits| found.of(arm, bits, |run| run.perplexity);
    let [gptq, eora, kl, ce] = [Arm::Gptq, Arm::Eora, Arm::Kl, Arm::Ce].map(|arm| perplexity(arm, 2));
    let gap = |gptq: f64| gptq.ln() - found.original.ln();
    let shares: Vec<f64> = found.gains(2).iter().zip(&gptq).map(|(gain, &gptq)| gain / gap(gptq)).collect();
    let recovered = !shares.is_empty() && shares.iter().all(|&share| share >= HALF);
    let low: Vec<f64> =
        widths.iter().filter(|&&bits| bits < 8).map(|&bits| mean(&found.gains(bits))).collect();
    let shrinks = low.windows(2).all(|pair| pair[1] < pair[0]);
    let [before, after] = [Arm::Gptq, Arm::Kl].map(|arm| perplexity(arm, 8));
    let width = |all: &[f64]| {
        let least = all.iter().copied().fold(f64::INFINITY, f64::min);
        all.iter().copied().fold(f64::NEG_INFINITY, f64::max) - least
    };
    let harmless = before.is_empty() || mean(&after) <= mean(&before) + width(&before).max(width(&after));
    let ahead = below(&kl, &eora) && below(&kl, &gptq);
    let verdict = match (ahead, recovered && shrinks && harmless) {
        (true, true) => Verdict::Reproduced,
        (true, false) => Verdict::Partly,
        _ => Verdict::NotReproduced,
    };
    let figure = format!(
        "2 bits: perplexity {} trained towards the original, {} trained on the text, EoRA {}, GPTQ {}, original {:.2}; {} % of the gap of log-perplexity recovered; mean gain at {} bits {}",
        spread(&kl, 2),
        spread(&ce, 2),
        spread(&eora, 2),
        spread(&gptq, 2),
        found.original,
        percents(&shares),
        widths.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        widths.iter().map(|&bits| format!("{:.4}", mean(&found.gains(bits)))).collect::<Vec<_>>().join(", "),
    );
    let mut rows = Vec::new();
    for &bits in widths {
        for &arm in Arm::at(bits) {
            rows.push(vec![
                format!("{bits} bits, {}", arm.name()),
                format!("{:.2}", mean(&found.of(arm, bits, |run| run.size))),
                spread(&perplexity(arm, bits), 2),
                spread(&found.of(arm, bits, |run| run.kl), 4),
            ]);
        }
    }
    let said = found.words.iter().map(|(who, words)| {
        vec![who.clone(), format!("{:.2}", words.perplexity), format!("{:.1} %", 100.0 * words.repeated)]
    });
    let mega = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let memory = vec![
        vec!["codes, scales and zero points".to_string(), mega(found.memory.packed)],
        vec!["held beyond them, packed".into(), mega(found.memory.coded)],
        vec!["held beyond them, decoded".into(), mega(found.memory.decoded)],
    ];
    let table = |title: &str, columns: &[&str], rows| Table {
        title: title.into(),
        columns: columns.iter().map(|column| column.to_string()).collect(),
        rows,
    };
    Measurement {
        tables: vec![
            table(
                "Held-out reviews: mean over seeds (least .. most); branches of rank 8",
                &["", "bits a weight, all counted", "perplexity", "KL, nats"],
                rows,
            ),
            table(
                "Greedy continuations of 16 texts at 2 bits, seed 0",
                &["", "perplexity by the original", "repeated 4-grams"],
                said.collect(),
            ),
            table(
                "Eight layers of 1024 x 1024 at 2 bits with branches of rank 8, between the way forward and the way back",
                &["", "memory"],
                memory,
            ),
        ],
        ..Measurement::new(verdict, figure, scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(two: [f64; 3], three: [f64; 2], four: [f64; 2], eight: [f64; 2]) -> Verdict {
        let mut found = Found { original: 20.0, ..Found::default() };
        for seed in 0..2 {
            let mut take = |arm, bits, perplexity: f64| {
                let quality =
                    Quality { perplexity: Some(perplexity + 0.01 * f64::from(seed)), ..Quality::default() };
                found.take(arm, bits, 2.0, &quality);
            };
            for (arm, perplexity) in [Arm::Gptq, Arm::Eora, Arm::Kl].into_iter().zip(two) {
                take(arm, 2, perplexity);
            }
            for (bits, pair) in [(3, three), (4, four), (8, eight)] {
                take(Arm::Gptq, bits, pair[0]);
                take(Arm::Kl, bits, pair[1]);
            }
        }
        judge(&found, &[2, 3, 4, 8], String::new()).verdict
    }

    #[test]
    fn the_rule_is_what_it_says() {
        let (three, four, eight) = ([30.0, 25.0], [22.0, 21.0], [20.1, 20.1]);
        assert_eq!(judged([80.0, 60.0, 35.0], three, four, eight), Verdict::Reproduced);
        assert_eq!(judged([80.0, 60.0, 50.0], three, four, eight), Verdict::Partly, "a third of the gap");
        assert_eq!(judged([80.0, 30.0, 35.0], three, four, eight), Verdict::NotReproduced, "EoRA is below");
        assert_eq!(
            judged([80.0, 60.0, 35.0], four, three, eight),
            Verdict::Partly,
            "the gain grows at 4 bits"
        );
        assert_eq!(judged([80.0, 60.0, 35.0], three, four, [20.1, 21.0]), Verdict::Partly, "harm at 8 bits");
        assert_eq!(judged([80.0, 60.0, f64::NAN], three, four, eight), Verdict::NotReproduced);
    }
}
