//! The verdict by the rule, and the tables.

use super::run::Trained;
use crate::experiment::{Measurement, Table, Verdict};
use crate::experiments::figures::{mean, spread};

/// Bytes that L-GreCo has to save, as a share of what the uniform level sends.
const SAVED: f64 = 0.15;
/// Nats a character that its loss may be higher.
const NATS: f64 = 0.01;
/// Steps over which the loss of a curve is averaged.
const SMOOTH: usize = 10;
/// Points of a curve.
const POINTS: usize = 5;

/// One way of exchanging, seed by seed.
#[derive(Clone, Default)]
pub(super) struct Arm {
    /// Bytes that a rank sends in a step.
    pub bytes: Vec<f64>,
    /// Held-out loss, nats a character.
    pub heldout: Vec<f64>,
    /// Loss of each step.
    pub losses: Vec<Vec<f64>>,
}

impl Arm {
    pub fn add(&mut self, run: Trained) {
        self.bytes.push(run.bytes);
        self.heldout.push(run.heldout);
        self.losses.push(run.losses);
    }

    /// Mean over seeds and the last steps before each point.
    fn curve(&self) -> Vec<(usize, f64)> {
        let steps = self.losses.first().map_or(0, Vec::len);
        let point = |end: usize| {
            let range = end.saturating_sub(SMOOTH)..end;
            let of_seed = |losses: &Vec<f64>| mean(losses.get(range.clone()).unwrap_or_default());
            (end, mean(&self.losses.iter().map(of_seed).collect::<Vec<_>>()))
        };
        (1..=POINTS).map(|i| point(i * steps / POINTS)).collect()
    }
}

/// The arms of one family.
#[derive(Clone, Default)]
pub(super) struct Found {
    pub name: String,
    pub uniform: Arm,
    pub by_layer: Arm,
    pub same: Arm,
    /// Level of each seed of `same`.
    pub same_levels: Vec<usize>,
    /// Bytes of the greedy choice over those of the exact one, at the last decision of each seed.
    pub greedy: Vec<f64>,
    /// Levels of the last decision of the first seed, by tensor.
    pub levels: Vec<(String, usize)>,
}

impl Found {
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Share of the uniform level's bytes that L-GreCo saves.
    fn saved(&self) -> f64 {
        1.0 - mean(&self.by_layer.bytes) / mean(&self.uniform.bytes)
    }

    /// How much higher its loss is than that of another arm.
    fn above(&self, other: &Arm) -> f64 {
        mean(&self.by_layer.heldout) - mean(&other.heldout)
    }

    fn holds(&self) -> bool {
        self.saved() >= SAVED && self.above(&self.uniform) <= NATS && self.above(&self.same) < 0.0
    }
}

/// Time of a step of one rank by itself.
pub(super) struct Speed {
    pub name: String,
    pub seconds: f64,
}

/// A row of the table of links.
pub(super) struct Link {
    name: String,
    seconds: f64,
    bytes: f64,
}

impl Link {
    /// Times beside the bytes of the same arm: dense, then uniform and L-GreCo of each family.
    pub fn of(speeds: &[Speed], dense: &Arm, found: &[Found]) -> Vec<Self> {
        let arms = found.iter().flat_map(|family| [&family.uniform, &family.by_layer]);
        let rows = speeds.iter().zip(std::iter::once(dense).chain(arms));
        rows.map(|(Speed { name, seconds }, arm)| Self {
            name: name.clone(),
            seconds: *seconds,
            bytes: mean(&arm.bytes),
        })
        .collect()
    }

    /// Milliseconds of a step on a link of so many megabits a second.
    fn step(&self, megabits: f64) -> f64 {
        1e3 * (self.seconds + 8.0 * self.bytes / (1e6 * megabits))
    }

    /// Megabits a second at which a step takes as long as that of `dense`; `None` if it never takes longer.
    fn crossover(&self, dense: &Self) -> Option<f64> {
        let more = self.seconds - dense.seconds;
        (more > 0.0).then(|| 8.0 * (dense.bytes - self.bytes) / more / 1e6)
    }
}

pub(super) fn judge(dense: &Arm, found: &[Found], links: &[Link], scale: String) -> Measurement {
    let held = found.iter().filter(|family| family.holds()).count();
    let verdict = match held {
        0 => Verdict::NotReproduced,
        n if n == found.len() => Verdict::Reproduced,
        _ => Verdict::Partly,
    };
    let of = |family: &Found| {
        format!(
            "{}: {:.1} % fewer bytes, loss {:+.4} to uniform, {:+.4} to same bytes",
            family.name,
            100.0 * family.saved(),
            family.above(&family.uniform),
            family.above(&family.same)
        )
    };
    let figure = found.iter().map(of).collect::<Vec<_>>().join("; ");
    let tables = vec![arms(dense, found), curves(dense, found), choices(found), times(links)];
    Measurement { tables, ..Measurement::new(verdict, figure, scale) }
}

/// Every arm with its name.
fn named<'a>(dense: &'a Arm, found: &'a [Found]) -> Vec<(String, &'a Arm)> {
    let mut all = vec![("dense".to_string(), dense)];
    for family in found {
        let mut levels: Vec<String> = family.same_levels.iter().map(usize::to_string).collect();
        levels.dedup();
        all.push((format!("{}: uniform", family.name), &family.uniform));
        all.push((format!("{}: L-GreCo", family.name), &family.by_layer));
        all.push((format!("{}: same bytes, level {}", family.name, levels.join("/")), &family.same));
    }
    all
}

fn arms(dense: &Arm, found: &[Found]) -> Table {
    let row = |(name, arm): (String, &Arm)| {
        let share = 100.0 * mean(&arm.bytes) / mean(&dense.bytes);
        vec![name, format!("{:.0}", mean(&arm.bytes)), format!("{share:.1}"), spread(&arm.heldout, 4)]
    };
    Table {
        title: "Bytes that a rank sends in a step, and held-out loss, nats a character: mean (least .. most)"
            .into(),
        columns: ["", "bytes", "% of dense", "loss"].map(String::from).into(),
        rows: named(dense, found).into_iter().map(row).collect(),
    }
}

fn curves(dense: &Arm, found: &[Found]) -> Table {
    let row = |(name, arm): (String, &Arm)| {
        let losses = arm.curve().into_iter().map(|(_, loss)| format!("{loss:.3}"));
        std::iter::once(name).chain(losses).collect()
    };
    let steps = dense.curve().into_iter().map(|(step, _)| format!("step {step}"));
    Table {
        title: format!("Training loss, mean of {SMOOTH} steps and the seeds"),
        columns: std::iter::once(String::new()).chain(steps).collect(),
        rows: named(dense, found).into_iter().map(row).collect(),
    }
}

/// Levels by tensor, and what the greedy choice would have sent.
fn choices(found: &[Found]) -> Table {
    let names = found.iter().map(|family| family.name.clone());
    let cell = |family: &Found, name: &str| {
        let level = family.levels.iter().find(|(other, _)| other == name);
        level.map_or("dense".to_string(), |(_, level)| level.to_string())
    };
    let mut tensors: Vec<&String> =
        found.iter().flat_map(|f| f.levels.iter().map(|(name, _)| name)).collect();
    tensors.sort();
    tensors.dedup();
    let row = |name: &&String| {
        std::iter::once((*name).clone()).chain(found.iter().map(|family| cell(family, name))).collect()
    };
    let greedy = found.iter().map(|family| format!("{:.4}", mean(&family.greedy)));
    let last = std::iter::once("bytes, greedy / exact".to_string()).chain(greedy).collect();
    Table {
        title:
            "Levels of L-GreCo's last decision, seed 0 (rank; parts of 10,000; bits), and the bytes of the greedy choice"
                .into(),
        columns: std::iter::once(String::new()).chain(names).collect(),
        rows: tensors.iter().map(row).chain([last]).collect(),
    }
}

fn times(links: &[Link]) -> Table {
    let row = |link: &Link| {
        let crossover = match (links.first(), link.crossover(&links[0])) {
            (Some(dense), _) if dense.name == link.name => String::new(),
            (_, Some(megabits)) => format!("{megabits:.0}"),
            (_, None) => "never".into(),
        };
        let at = |megabits: f64| format!("{:.1}", link.step(megabits));
        vec![link.name.clone(), at(100.0), at(1000.0), at(f64::INFINITY), crossover]
    };
    Table {
        title: "Milliseconds of a step on a link, MODELLED: measured time of one rank by itself + bytes / bandwidth, no latency; and Mbit/s \
                above which compression costs more than it saves"
            .into(),
        columns: ["", "100 Mbit/s", "1 Gbit/s", "unlimited", "stops paying"].map(String::from).into(),
        rows: links.iter().map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(bytes: f64, heldout: f64) -> Arm {
        Arm { bytes: vec![bytes; 3], heldout: vec![heldout; 3], losses: vec![vec![1.0; 20]; 3] }
    }

    fn family(bytes: f64, heldout: f64, same: f64) -> Found {
        Found {
            uniform: arm(100.0, 2.0),
            by_layer: arm(bytes, heldout),
            same: arm(bytes, same),
            ..Found::new("family")
        }
    }

    #[test]
    fn the_rule_is_what_it_says() {
        assert!(family(85.0, 2.009, 2.01).holds());
        assert!(!family(86.0, 2.009, 2.01).holds(), "too many bytes");
        assert!(!family(85.0, 2.011, 2.02).holds(), "too high a loss");
        assert!(!family(85.0, 2.005, 2.005).holds(), "no better than the same bytes");
        let verdict = |found: &[Found]| judge(&arm(1000.0, 1.9), found, &[], String::new()).verdict;
        let (good, bad) = (family(80.0, 2.0, 2.1), family(90.0, 2.0, 2.1));
        assert_eq!(verdict(&[good.clone(), good.clone()]), Verdict::Reproduced);
        assert_eq!(verdict(&[good, bad.clone()]), Verdict::Partly);
        assert_eq!(verdict(&[bad]), Verdict::NotReproduced);
    }

    #[test]
    fn compression_stops_paying_where_both_take_as_long() {
        let dense = Link { name: "dense".into(), seconds: 0.1, bytes: 1e6 };
        let thin = Link { name: "thin".into(), seconds: 0.104, bytes: 0.5e6 };
        let megabits = thin.crossover(&dense).unwrap();
        assert!((megabits - 1000.0).abs() < 1e-6);
        assert!((dense.step(megabits) - thin.step(megabits)).abs() < 1e-9);
        assert_eq!(dense.crossover(&thin), None);
    }
}
