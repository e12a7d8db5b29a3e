//! The verdict, from what all seeds found.

use super::{BITS, Source};
use crate::experiment::{Measurement, Table, Verdict};

/// What one seed found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Share of the first loss that is left.
    pub left: f64,
    /// Accuracy in percent by bits, in the order of [`Source::ALL`].
    pub accuracy: Vec<(u8, [f64; 3])>,
    /// Rank correlation of the sensitivities on noise, and on distilled images, with those on real ones.
    pub correlation: [f64; 2],
    /// Accuracy with mixed bits, and with uniform ones.
    pub mixed: [f64; 2],
}

/// Mean, and largest distance from it.
fn spread(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let values: Vec<f64> = values.collect();
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    (mean, values.iter().map(|v| (v - mean).abs()).fold(0.0, f64::max))
}

pub fn judge(found: &[Found], original: f64, test: usize) -> Measurement {
    let at = |found: &Found, bits: u8, source: Source| {
        let of = found.accuracy.iter().find(|(b, _)| *b == bits).map_or([f64::NAN; 3], |(_, of)| *of);
        of[source as usize]
    };
    let recovered = |found: &Found| {
        let [noise, made, real] = Source::ALL.map(|source| at(found, BITS[0], source));
        // Without a gap there is nothing to recover.
        (real > noise).then(|| (made - noise) / (real - noise))
    };
    let ranges = found.iter().all(|found| recovered(found).is_some_and(|share| share >= 0.5));
    let ranks = found.iter().all(|found| found.correlation[1] > found.correlation[0]);
    let verdict = match (ranges, ranks) {
        (true, true) => Verdict::Reproduced,
        (false, false) => Verdict::NotReproduced,
        _ => Verdict::Partly,
    };
    let text = |(mean, off): (f64, f64), digits: usize| format!("{mean:.digits$} ± {off:.digits$}");
    let mut rows = Vec::new();
    for bits in BITS {
        for source in Source::ALL {
            let of = spread(found.iter().map(|found| at(found, bits, source)));
            rows.push(vec![format!("W{bits}A{bits}"), source.name().to_string(), text(of, 2)]);
        }
    }
    for (i, name) in ["mixed bits by the sensitivities", "uniform"].into_iter().enumerate() {
        let of = spread(found.iter().map(|found| found.mixed[i]));
        rows.push(vec!["W4A8 on average".into(), name.into(), text(of, 2)]);
    }
    let accuracies = Table {
        title: format!("accuracy in percent on {test} test images (original {original:.2})"),
        columns: ["bits", "ranges from", "accuracy"].map(String::from).to_vec(),
        rows,
    };
    let share = |share: Option<f64>| share.map_or("no gap".to_string(), |share| format!("{share:.2}"));
    let shares: Vec<String> = found.iter().map(|found| share(recovered(found))).collect();
    let figures = Table {
        title: "what distilled images are like".into(),
        columns: ["figure", "noise", "distilled"].map(String::from).to_vec(),
        rows: vec![
            vec![
                "rank correlation of sensitivities with those on real images".into(),
                text(spread(found.iter().map(|found| found.correlation[0])), 3),
                text(spread(found.iter().map(|found| found.correlation[1])), 3),
            ],
            vec![
                "share of the first loss".into(),
                "1".into(),
                text(spread(found.iter().map(|found| found.left)), 4),
            ],
            vec!["share of the gap at W4A4, seed by seed".into(), "0".into(), shares.join(", ")],
        ],
    };
    let mean = |source| spread(found.iter().map(|found| at(found, BITS[0], source)));
    let figure = format!(
        "W4A4: {} % with ranges from distilled images, {} from noise, {} from real ones; rank correlation of sensitivities {} (noise {})",
        text(mean(Source::Distilled), 2),
        text(mean(Source::Noise), 2),
        text(mean(Source::Real), 2),
        text(spread(found.iter().map(|found| found.correlation[1])), 3),
        text(spread(found.iter().map(|found| found.correlation[0])), 3),
    );
    let scale =
        format!("ResNet-20, CIFAR-10, {test} test images, {} seeds (mean ± largest distance)", found.len());
    Measurement { tables: vec![accuracies, figures], ..Measurement::new(verdict, figure, scale) }
}
