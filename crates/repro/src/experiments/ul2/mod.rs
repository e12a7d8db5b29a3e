//! Paper 66: UL2, unifying language learning paradigms (Tay et al., arXiv:2205.05131).

mod checks;
mod train;

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use self::train::{Arm, Corpus, Task, average};
use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Table, Verdict};
use crate::lab::Lab;

/// How near to a specialist on its own task the mixture has to come, nats a byte.
const NEAR: f64 = 0.05;
/// How far it has to lie below the other specialist there.
const FAR: f64 = 0.1;
/// How far the right mode token has to lie below the best wrong one.
const MODE: f64 = 0.02;

/// The experiment.
pub struct Ul2;

/// Held-out losses of one trained model, nats a byte.
struct Found {
    arm: Arm,
    /// By task, with the mode token that belongs there (or none).
    losses: [f64; 3],
    /// By task, with the better of the two wrong tokens; only where there are tokens.
    wrong: Option<[f64; 3]>,
}

impl Ul2 {
    fn failed(&self, step: &'static str) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Error {
        let number = self.paper();
        move |source| Error::Experiment { number, name: "ul2", step, source }
    }
}

impl Experiment for Ul2 {
    fn paper(&self) -> u8 {
        66
    }

    fn rule(&self) -> &'static str {
        "A byte-level prefix decoder on Shakespeare and film reviews; every arm trains on as many target tokens in as many steps. Losses are means over seeds, in \
         nats per byte of held-out text; sentinels and ends do not count. (A) The mixture of seven denoisers with mode tokens is within 0.05 of span corruption \
         (3, 0.15) on infilling and within 0.05 of prefix LM on prefix LM. (B) On each of the two it is at least 0.1 better than the specialist of the other. (C) \
         On the mean of infilling, prefix LM and X (64, 0.5), the right mode token is more than 0.02 better than the best wrong one. Reproduced if all three hold; \
         partly if (A) holds with one of the others. Baselines: both specialists, causal LM, the mixture without tokens."
    }

    fn check(&self) -> Result<Vec<Check>> {
        checks::all().map_err(|error| self.failed("identities")(Box::new(error)))
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let (seeds, targets) = match scale {
            Scale::Quick => (2, train::QUICK_TARGETS),
            Scale::Full => (3, train::FULL_TARGETS),
        };
        let corpus = Corpus::read(lab, self.failed("data"))?;
        // The dearest first, so that no core waits for the last one.
        let jobs: Vec<(Arm, u64)> =
            Arm::ALL.iter().flat_map(|&arm| (0..seeds).map(move |seed| (arm, seed))).collect();
        let done = AtomicUsize::new(0);
        let run = |&(arm, seed): &(Arm, u64)| -> Result<Found> {
            lab.tell(&format!("{}, seed {seed}", arm.name()))?;
            let network = corpus.train(arm, seed, targets, lab, self.failed("training"))?;
            let (losses, wrong) =
                corpus.judge(&network, arm).map_err(|error| self.failed("held-out loss")(Box::new(error)))?;
            let count = done.fetch_add(1, Ordering::Relaxed) + 1;
            lab.tell(&format!("{count} of {} done: {}, {losses:.3?}", jobs.len(), arm.name()))?;
            Ok(Found { arm, losses, wrong })
        };
        let found = jobs.par_iter().with_max_len(1).map(run).collect::<Result<Vec<Found>>>()?;
        Ok(judge(&found, seeds, &corpus.scale(targets)))
    }

    fn recorded(&self) -> Option<Measurement> {
        let figure = "mixture with mode tokens against the specialists on their own tasks: -0.279 (infilling), +0.148 (prefix LM) nats; against \
                      the other specialist -0.465 and -6.830; the right token against the best wrong one +0.000 on the mean of three tasks";
        let scale = "decoder of 2 blocks, width 64, rows of 128; 1437 kB of bytes; 240000 target tokens an arm in steps of 512, 3 seeds";
        Some(Measurement::new(Verdict::NotReproduced, figure, scale))
    }
}

/// The verdict by the rule.
fn judge(found: &[Found], seeds: u64, scale: &str) -> Measurement {
    let of = |arm: Arm, task: usize| -> Vec<f64> {
        found.iter().filter(|each| each.arm == arm).map(|each| each.losses[task]).collect()
    };
    let mean = |arm, task: Task| average(&of(arm, task as usize));
    let own = [(Arm::Spans, Task::Infill), (Arm::Prefix, Task::Prefix)];
    let behind = own.map(|(arm, task)| mean(Arm::Modes, task) - mean(arm, task));
    let ahead = [(Arm::Prefix, Task::Infill), (Arm::Spans, Task::Prefix)]
        .map(|(arm, task)| mean(arm, task) - mean(Arm::Modes, task));
    let wrong: Vec<[f64; 3]> = found.iter().filter_map(|each| each.wrong).collect();
    let gap = |task: usize| average(&wrong.iter().map(|each| each[task]).collect::<Vec<f64>>());
    let gains = Task::ALL.map(|task| gap(task as usize) - mean(Arm::Modes, task));
    let tokens = average(&gains);
    let held = [behind.iter().all(|x| *x <= NEAR), ahead.iter().all(|x| *x >= FAR), tokens > MODE];
    let verdict = match held {
        [true, true, true] => Verdict::Reproduced,
        [true, true, false] | [true, false, true] => Verdict::Partly,
        _ => Verdict::NotReproduced,
    };
    let columns = std::iter::once("trained on").chain(Task::ALL.map(Task::name)).map(String::from);
    let mut rows: Vec<Vec<String>> = Vec::new();
    for arm in Arm::ALL {
        let cells = Task::ALL.map(|task| {
            let all = of(arm, task as usize);
            let (least, most) = all.iter().fold((f64::MAX, f64::MIN), |(a, b), &x| (a.min(x), b.max(x)));
            format!("{:.3} ({least:.3}..{most:.3})", average(&all))
        });
        rows.push(std::iter::once(arm.name().into()).chain(cells).collect());
    }
    let wrong_cells = Task::ALL.map(|task| format!("{:.3}", gap(task as usize)));
    rows.push(std::iter::once("mixture, best wrong token".into()).chain(wrong_cells).collect());
    let table = Table {
        title: format!("Held-out loss, nats per byte of text: mean over {seeds} seeds (least..most)"),
        columns: columns.collect(),
        rows,
    };
    let figure = format!(
        "mixture with mode tokens against the specialists on their own tasks: {:+.3} (infilling), {:+.3} (prefix LM) nats; against the other specialist \
         {:+.3} and {:+.3}; the right token against the best wrong one {:+.3} on the mean of three tasks",
        behind[0], behind[1], -ahead[0], -ahead[1], -tokens
    );
    let scale = format!("{scale}, {seeds} seeds");
    Measurement { tables: vec![table], ..Measurement::new(verdict, figure, scale) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_what_it_says() {
        let verdict = |mixture: [f64; 3], wrong: f64| {
            let of = |arm, losses| Found { arm, losses, wrong: None };
            let found = [
                of(Arm::Spans, [1.0, 3.0, 2.0]),
                of(Arm::Prefix, [3.0, 1.0, 2.0]),
                of(Arm::Causal, [4.0, 1.0, 2.0]),
                of(Arm::Plain, [1.0, 1.0, 1.0]),
                Found { arm: Arm::Modes, losses: mixture, wrong: Some(mixture.map(|x| x + wrong)) },
            ];
            judge(&found, 1, "here").verdict
        };
        assert_eq!(verdict([1.04, 1.04, 1.0], 0.03), Verdict::Reproduced);
        assert_eq!(verdict([1.04, 1.04, 1.0], 0.01), Verdict::Partly);
        assert_eq!(verdict([1.06, 1.04, 1.0], 0.03), Verdict::NotReproduced);
    }
}
