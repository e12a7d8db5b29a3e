//! The verdict by the rule, and the tables.

use super::Arm;
use crate::experiment::{Measurement, Table, Verdict};
use crate::experiments::figures::{mean, spread};

/// Share of the baseline's layer error that is allowed.
const LAYER_ERROR: f64 = 0.95;

/// What one run of an arm gave.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub arm: Arm,
    pub bits: u8,
    pub seed: u64,
    pub perplexity: f64,
    pub kl: f64,
    /// Summed layer errors; nothing where blocks were refined.
    pub error: f64,
}

/// All that was found, judged.
pub(super) fn judge(
    found: &[Found],
    seeds: u64,
    sizes: &[(u8, f64)],
    original: f64,
    held_out: usize,
) -> Measurement {
    let of = |arm: Arm, bits: u8, value: fn(&Found) -> f64| -> Vec<f64> {
        found.iter().filter(|run| run.arm == arm && run.bits == bits).map(value).collect()
    };
    let perplexity = |arm, bits| of(arm, bits, |run| run.perplexity);
    let below = |left: &[f64], right: &[f64]| left.iter().zip(right).all(|(left, right)| left < right);
    let [gptq, layer, block] = [Arm::GptqShrink, Arm::Layer, Arm::Block].map(|arm| perplexity(arm, 2));
    let ratios: Vec<f64> = of(Arm::Layer, 2, |run| run.error)
        .iter()
        .zip(of(Arm::GptqShrink, 2, |run| run.error))
        .map(|(layer, gptq)| layer / gptq)
        .collect();
    let first = ratios.iter().all(|&ratio| ratio <= LAYER_ERROR) && below(&layer, &gptq);
    let second = below(&block, &layer);
    let gaps: Vec<f64> = sizes
        .iter()
        .map(|&(bits, _)| mean(&perplexity(Arm::GptqShrink, bits)) - mean(&perplexity(Arm::Layer, bits)))
        .collect();
    let third = gaps.windows(2).all(|pair| pair[1] < pair[0]);
    let verdict = match (first, second, third) {
        (true, true, true) => Verdict::Reproduced,
        (true, ..) if mean(&block) <= mean(&layer) => Verdict::Partly,
        _ => Verdict::NotReproduced,
    };
    let gaps: Vec<String> = gaps.iter().map(|gap| format!("{gap:.3}")).collect();
    let figure = format!(
        "2 bits a weight and a row: perplexity {} after layers, {} after blocks; GPTQ with shrunk ranges {}, with min-max {}; layer error {} of GPTQ's with shrunk \
         ranges; gap to it at 2, 3, 4 bits {}",
        spread(&layer, 2),
        spread(&block, 2),
        spread(&gptq, 2),
        spread(&perplexity(Arm::GptqMinMax, 2), 1),
        spread(&ratios, 3),
        gaps.join(", "),
    );
    let scale = format!(
        "wikilm, 5 million weights in blocks, 64 windows of 256 tokens of reviews, {held_out} windows held out, {seeds} seeds; original {original:.2}"
    );
    let columns = [
        "bits",
        "bits per weight, all counted",
        "arm",
        "perplexity",
        "KL, nats",
        "layer error, of GPTQ with shrunk ranges",
    ];
    let mut rows = Vec::new();
    for &(bits, size) in sizes {
        let baseline = of(Arm::GptqShrink, bits, |run| run.error);
        for &arm in Arm::at(bits) {
            let shares: Vec<f64> =
                of(arm, bits, |run| run.error).iter().zip(&baseline).map(|(error, of)| error / of).collect();
            rows.push(vec![
                bits.to_string(),
                format!("{size:.3}"),
                arm.name().to_string(),
                spread(&perplexity(arm, bits), 3),
                spread(&of(arm, bits, |run| run.kl), 4),
                if arm == Arm::Block { "-".into() } else { spread(&shares, 3) },
            ]);
        }
    }
    let each = found.iter().map(|run| {
        vec![
            run.bits.to_string(),
            run.seed.to_string(),
            run.arm.name().to_string(),
            format!("{:.3}", run.perplexity),
            format!("{:.4}", run.kl),
        ]
    });
    let table = |title: &str, columns: &[&str], rows| Table {
        title: title.into(),
        columns: columns.iter().map(|column| column.to_string()).collect(),
        rows,
    };
    Measurement {
        tables: vec![
            table("held-out reviews, mean (least .. most) over seeds", &columns, rows),
            table("every run", &["bits", "seed", "arm", "perplexity", "KL, nats"], each.collect()),
        ],
        ..Measurement::new(verdict, figure, scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs with these perplexities at 2, 3 and 4 bits of GPTQ with shrunk ranges, layers and blocks, and layer errors of `ratio`.
    fn runs(of_bits: [[f64; 3]; 3], ratio: f64) -> Measurement {
        let mut found = Vec::new();
        for (bits, perplexities) in [2u8, 3, 4].into_iter().zip(of_bits) {
            for seed in 0..2 {
                for &arm in Arm::at(bits) {
                    let (perplexity, error) = match arm {
                        Arm::Rtn => (900.0, 9.0),
                        Arm::GptqMinMax => (300.0, 3.0),
                        Arm::GptqShrink => (perplexities[0], 1.0),
                        Arm::Layer => (perplexities[1], ratio),
                        Arm::Block => (perplexities[2], ratio),
                    };
                    found.push(Found { arm, bits, seed, perplexity, kl: 0.1, error });
                }
            }
        }
        judge(&found, 2, &[(2, 2.1), (3, 3.1), (4, 4.1)], 20.0, 8)
    }

    #[test]
    fn the_rule_in_cases() {
        let good = [[60.0, 40.0, 35.0], [30.0, 25.0, 24.0], [22.0, 21.0, 21.0]];
        assert_eq!(runs(good, 0.9).verdict, Verdict::Reproduced);
        assert_eq!(runs(good, 0.96).verdict, Verdict::NotReproduced, "the layer error is too large");
        let growing = [[60.0, 40.0, 35.0], [50.0, 25.0, 24.0], [22.0, 21.0, 21.0]];
        assert_eq!(runs(growing, 0.9).verdict, Verdict::Partly, "the gap grows from 2 to 3 bits");
        let equal = [[60.0, 40.0, 40.0], [30.0, 25.0, 24.0], [22.0, 21.0, 21.0]];
        assert_eq!(runs(equal, 0.9).verdict, Verdict::Partly, "blocks change nothing");
        let harmed = [[60.0, 40.0, 41.0], [30.0, 25.0, 24.0], [22.0, 21.0, 21.0]];
        assert_eq!(runs(harmed, 0.9).verdict, Verdict::NotReproduced, "blocks do harm");
        let worse = [[40.0, 41.0, 35.0], [30.0, 25.0, 24.0], [22.0, 21.0, 21.0]];
        assert_eq!(runs(worse, 0.9).verdict, Verdict::NotReproduced, "layers are worse than GPTQ");
    }
}
