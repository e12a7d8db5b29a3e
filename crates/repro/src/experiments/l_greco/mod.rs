//! Paper 23: L-GreCo, levels of compression by layer (Alimohammadi et al., arXiv:2210.17357).

mod identities;
mod judge;
mod run;

use trimtab::floors::exchange::{
    ExchangeConfig, Family, LGrecoConfig, Policy, ResidualOf, RoundingMode, Schedule, greedy,
    same_bytes_uniform,
};

use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Verdict};
use crate::lab::Lab;
use judge::{Arm, Found, Link, Speed};
use run::{BATCH, Failure, RANKS, Text, Trained, WIDTH, WINDOW};

const STEPS: usize = 200;
const FEW: usize = 60;
/// A decision before step 20 and every 30 steps from then on, each from the ten steps before it.
const SCHEDULE: Schedule = Schedule { start: 20, period: 30, window: 10 };
/// Steps of a measurement of time: decisions before steps 20 and 50.
const TIMED: usize = 60;

/// A family with its uniform level, and the levels that L-GreCo may choose as multiples of it.
struct Kind {
    name: &'static str,
    family: Family,
    range: [f64; 2],
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "PowerSGD, rank 4",
        family: Family::PowerSgd { rank: 4, residual_of: ResidualOf::Mean },
        range: [0.5, 2.0],
    },
    Kind {
        name: "TopK, 1 %",
        family: Family::TopK { density: 100, error_feedback: true },
        range: [0.1, 10.0],
    },
    Kind {
        name: "QSGD, 4 bits",
        family: Family::Qsgd { bits: 4, rounding: RoundingMode::Nearest, error_feedback: true },
        range: [0.5, 2.0],
    },
];

impl Kind {
    fn uniform(&self, seed: u64) -> ExchangeConfig {
        ExchangeConfig { family: self.family, seed, ..ExchangeConfig::default() }
    }

    fn by_layer(&self, seed: u64) -> ExchangeConfig {
        let [gamma, beta] = self.range;
        let settings = LGrecoConfig { gamma, beta, ..LGrecoConfig::default() };
        ExchangeConfig { policy: Policy::LGreco { schedule: SCHEDULE, settings }, ..self.uniform(seed) }
    }

    /// The same family at another uniform level.
    fn at(&self, level: usize, seed: u64) -> ExchangeConfig {
        let family = match self.family {
            Family::Dense => Family::Dense,
            Family::PowerSgd { residual_of, .. } => Family::PowerSgd { rank: level, residual_of },
            Family::TopK { error_feedback, .. } => Family::TopK { density: level, error_feedback },
            Family::Qsgd { rounding, error_feedback, .. } => {
                Family::Qsgd { bits: level, rounding, error_feedback }
            }
        };
        ExchangeConfig { family, ..self.uniform(seed) }
    }
}

/// The experiment.
pub struct LGreco;

impl LGreco {
    fn failed(&self, step: &'static str) -> impl Fn(Failure) -> Error {
        let number = self.paper();
        move |source| Error::Experiment { number, name: "l-greco", step, source }
    }

    /// The arms of one family, seed by seed.
    fn family(&self, kind: &Kind, text: &Text, steps: usize, seeds: u64, lab: &Lab<'_>) -> Result<Found> {
        let train = |config, seed| run::train(text, config, steps, seed).map_err(self.failed("training"));
        let mut found = Found::new(kind.name);
        for seed in 0..seeds {
            lab.tell(&format!("{}, seed {seed}: uniform", kind.name))?;
            let uniform = train(kind.uniform(seed), seed)?;
            lab.tell(&format!("{}, seed {seed}: L-GreCo", kind.name))?;
            let by_layer = train(kind.by_layer(seed), seed)?;
            let level = self.same_bytes(kind, &uniform, &by_layer, &mut found)?;
            lab.tell(&format!("{}, seed {seed}: uniform level {level}", kind.name))?;
            found.same.add(train(kind.at(level, seed), seed)?);
            found.same_levels.push(level);
            found.uniform.add(uniform);
            found.by_layer.add(by_layer);
        }
        Ok(found)
    }

    /// The uniform level that sends about as much as L-GreCo did. Levels and the greedy choice are written down.
    fn same_bytes(
        &self,
        kind: &Kind,
        uniform: &Trained,
        by_layer: &Trained,
        found: &mut Found,
    ) -> Result<usize> {
        let failed = |error| self.failed("the baselines")(Box::new(error));
        let Some(choice) = by_layer.adjustment.as_ref().and_then(|made| made.choice.as_ref()) else {
            return Ok(kind.family.level());
        };
        let bytes = choice.uniform.bytes as f64 * by_layer.bytes / uniform.bytes;
        let same = same_bytes_uniform(&choice.tables, bytes.round() as u64).map_err(failed)?;
        let greedy = greedy(&choice.tables, choice.budget).map_err(failed)?;
        if let (Some(greedy), Some(chosen)) = (greedy, &choice.chosen) {
            found.greedy.push(greedy.bytes as f64 / chosen.bytes as f64);
        }
        if found.levels.is_empty()
            && let Some(chosen) = &choice.chosen
        {
            let level = |(table, &pick): (&trimtab::floors::exchange::ErrorTable, &usize)| {
                (table.name.clone(), table.levels[pick])
            };
            found.levels = choice.tables.iter().zip(&chosen.picks).map(level).collect();
        }
        // The widest table tells the level; others are cut to their matrix.
        let levels = choice.tables.iter().zip(&same.picks).map(|(table, &pick)| table.levels[pick]);
        Ok(levels.max().unwrap_or(kind.family.level()))
    }

    /// How long a step takes one rank by itself: the fastest of three measurements.
    fn speeds(&self, text: &Text, lab: &Lab<'_>) -> Result<Vec<Speed>> {
        let mut configs = vec![("dense".to_string(), ExchangeConfig::default())];
        for kind in &KINDS {
            configs.push((kind.name.to_string(), kind.uniform(0)));
            configs.push((format!("{}, L-GreCo", kind.name), kind.by_layer(0)));
        }
        let mut speeds: Vec<Speed> =
            configs.iter().map(|(name, _)| Speed { name: name.clone(), seconds: f64::INFINITY }).collect();
        for turn in 1..=3 {
            lab.tell(&format!("time of a step, {turn} of 3"))?;
            for ((_, config), speed) in configs.iter().zip(&mut speeds) {
                let seconds = run::step_time(text, *config, TIMED).map_err(self.failed("time"))?;
                speed.seconds = speed.seconds.min(seconds);
            }
        }
        Ok(speeds)
    }
}

impl Experiment for LGreco {
    fn paper(&self) -> u8 {
        23
    }

    fn rule(&self) -> &'static str {
        "Four ranks train a llama of two blocks, width 96, on Tiny Shakespeare by characters; bytes are counted by the group. For each of PowerSGD \
         (rank 4), TopK (1 %) and 4-bit QSGD, in the mean over 3 seeds: L-GreCo sends at least 15 % less than the uniform level, its held-out loss is \
         at most 0.01 nats higher, and it is lower than that of the uniform level whose bytes are nearest to its own. Reproduced if all three families \
         do that, partly if one or two do. Baselines: dense, uniform, same bytes uniform; the greedy allocation on the same tables."
    }

    fn check(&self) -> Result<Vec<Check>> {
        identities::checks().map_err(|error| self.failed("identities")(Box::new(error)))
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let text = Text::read(&lab.file("text/tinyshakespeare.txt")?).map_err(self.failed("data"))?;
        let (seeds, steps) = match scale {
            Scale::Quick => (1, FEW),
            Scale::Full => (3, STEPS),
        };
        let speeds = self.speeds(&text, lab)?;
        let mut dense = Arm::default();
        for seed in 0..seeds {
            lab.tell(&format!("dense, seed {seed}"))?;
            let config = ExchangeConfig { seed, ..ExchangeConfig::default() };
            dense.add(run::train(&text, config, steps, seed).map_err(self.failed("training"))?);
        }
        let found: Vec<Found> =
            KINDS.iter().map(|kind| self.family(kind, &text, steps, seeds, lab)).collect::<Result<_>>()?;
        let parameters = run::parameters(text.alphabet).map_err(self.failed("the network"))?;
        let scale = format!(
            "llama of 2 blocks, width {WIDTH}, {parameters} parameters, {} characters; Tiny Shakespeare, {steps} steps of {BATCH} windows of \
             {WINDOW} on {RANKS} threads, AdamW; {seeds} seeds",
            text.alphabet
        );
        Ok(judge::judge(&dense, &found, &Link::of(&speeds, &dense, &found), scale))
    }

    fn recorded(&self) -> Option<Measurement> {
        let figure = "PowerSGD, rank 4: 28.9 % fewer bytes, loss +0.0385 to uniform, +0.0044 to same bytes; \
                      TopK, 1 %: 56.3 % fewer bytes, loss +0.0832 to uniform, -0.0302 to same bytes; \
                      QSGD, 4 bits: 13.9 % fewer bytes, loss +0.0085 to uniform, -0.0041 to same bytes";
        let scale = "llama of 2 blocks, width 96, 215712 parameters, 65 characters; Tiny Shakespeare, 200 steps of 16 windows of 64 on \
                     4 threads, AdamW; 3 seeds";
        Some(Measurement::new(Verdict::NotReproduced, figure, scale))
    }
}
