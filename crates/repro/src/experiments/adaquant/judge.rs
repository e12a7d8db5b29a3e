//! The verdict, from what all seeds found.

use crate::experiment::{Measurement, Table, Verdict};

/// What one seed found; accuracies in percent.
#[derive(Clone, Debug)]
pub struct Found {
    /// Held-out layer errors at 4 bits, rounded and learned.
    pub errors: Vec<[f64; 2]>,
    /// Rounding between extremes.
    pub min_max: f64,
    /// AdaQuant, uniform bits.
    pub learned: f64,
    /// AdaQuant, bits by the integer program.
    pub planned: f64,
    /// That with batch norms tuned.
    pub tuned: f64,
    /// Rounding, bits by the integer program.
    pub light: f64,
    /// That with batch norms tuned.
    pub light_tuned: f64,
    /// Rounding, uniform bits, batch norms tuned.
    pub uniform_tuned: f64,
    /// AdaQuant, random plans.
    pub by_chance: Vec<f64>,
}

impl Found {
    /// Mean over layers of the share of the error that AdaQuant takes off.
    fn cut(&self) -> f64 {
        let shares = self.errors.iter().map(|[plain, learned]| 1.0 - learned / plain);
        shares.sum::<f64>() / self.errors.len().max(1) as f64
    }

    fn chance(&self) -> f64 {
        self.by_chance.iter().sum::<f64>() / self.by_chance.len().max(1) as f64
    }
}

/// Mean, and largest distance from it.
fn spread(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let values: Vec<f64> = values.collect();
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    (mean, values.iter().map(|v| (v - mean).abs()).fold(0.0, f64::max))
}

pub fn judge(found: &[Found], original: f64, test: usize) -> Measurement {
    let of = |figure: fn(&Found) -> f64| spread(found.iter().map(figure));
    let recovered = |found: &Found| (found.light_tuned - found.light) / (original - found.light);
    let layers = found.iter().all(|found| found.cut() >= 0.3);
    let norms = found.iter().all(|found| recovered(found) >= 0.2);
    let planned = of(|found| found.planned).0;
    let program = planned > of(|found| found.learned).0 && planned > of(Found::chance).0;
    let ladder = [of(|f| f.min_max).0, of(|f| f.learned).0, planned, of(|f| f.tuned).0];
    let rises = ladder.windows(2).all(|pair| pair[0] < pair[1]);
    let held = [layers, norms, program].into_iter().filter(|held| *held).count();
    let verdict = match held {
        3 => Verdict::Reproduced,
        2 => Verdict::Partly,
        1 if rises => Verdict::Partly,
        _ => Verdict::NotReproduced,
    };
    let text = |(mean, off): (f64, f64), digits: usize| format!("{mean:.digits$} ± {off:.digits$}");
    let row = |name: &str, figure: fn(&Found) -> f64| vec![name.to_string(), text(of(figure), 2)];
    let accuracies = Table {
        title: format!(
            "accuracy in percent on {test} test images (original {original:.2}), inputs at 4 bits, weights at 4 on average"
        ),
        columns: ["arm", "accuracy"].map(String::from).to_vec(),
        rows: vec![
            row("min-max", |f| f.min_max),
            row("min-max, batch norms tuned", |f| f.uniform_tuned),
            row("light: min-max, integer program", |f| f.light),
            row("light, batch norms tuned", |f| f.light_tuned),
            row("AdaQuant", |f| f.learned),
            row("AdaQuant, random plans", Found::chance),
            row("AdaQuant, integer program", |f| f.planned),
            row("AdaQuant, integer program, batch norms tuned", |f| f.tuned),
        ],
    };
    let figures = Table {
        title: "what each step does".into(),
        columns: ["figure", "found"].map(String::from).to_vec(),
        rows: vec![
            vec!["share of the held-out layer error that AdaQuant takes off".into(), text(of(Found::cut), 3)],
            vec![
                "share of the light pipeline's loss that batch-norm tuning recovers".into(),
                text(spread(found.iter().map(recovered)), 3),
            ],
        ],
    };
    let figure = format!(
        "W4A4: min-max {} %, AdaQuant {}, with the integer program {}, with batch norms tuned {}; held-out layer error down by {:.0} %",
        text(of(|f| f.min_max), 1),
        text(of(|f| f.learned), 1),
        text(of(|f| f.planned), 1),
        text(of(|f| f.tuned), 1),
        100.0 * of(Found::cut).0,
    );
    let scale =
        format!("ResNet-20, CIFAR-10, {test} test images, {} seeds (mean ± largest distance)", found.len());
    Measurement { tables: vec![accuracies, figures], ..Measurement::new(verdict, figure, scale) }
}
