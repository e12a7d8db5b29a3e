//! Settings of a run.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::optimizer::OptimizerConfig;
use crate::schedule::Schedule;

/// Settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Seed of the order of the data.
    #[serde(default)]
    pub seed: u64,
    /// Items of one pass.
    pub batch: usize,
    /// Passes whose gradients make one step.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Largest norm of the gradient over all trained parameters; `None` does not clip.
    #[serde(default)]
    pub clip_norm: Option<f64>,
    /// Steps between measurements of the held-out loss; 0 measures it after the last step only.
    #[serde(default)]
    pub heldout_every: usize,
    /// Steps between saved states; 0 saves only when the run is interrupted.
    #[serde(default)]
    pub save_every: usize,
    /// What is done, in order.
    pub phases: Vec<Phase>,
}

/// A part of a run with its own optimizer, which starts afresh.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Name in reports.
    #[serde(default = "main")]
    pub name: String,
    /// Updates of the parameters.
    pub steps: usize,
    /// Peak of the rate.
    pub rate: f64,
    /// Rule of the update.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// The rate over the phase.
    #[serde(default = "constant")]
    pub schedule: Schedule,
    /// What is trained.
    #[serde(default)]
    pub trainable: Trainable,
}

/// Which parameters are trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Trainable {
    /// A parameter is trained if its path contains one of these texts; an empty list trains all.
    pub paths: Vec<String>,
}

impl Trainable {
    /// Whether the parameter at `path` is trained.
    pub fn has(&self, path: &str) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|part| path.contains(part.as_str()))
    }
}

impl Settings {
    /// Steps of all phases.
    pub fn steps(&self) -> usize {
        self.phases.iter().map(|phase| phase.steps).sum()
    }

    /// Items of one step.
    pub fn samples_per_step(&self) -> u64 {
        self.batch as u64 * self.accumulate as u64
    }

    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// [`Error::Setting`] with the field.
    pub fn check(&self) -> Result<()> {
        let positive = |name: &str, n: usize| match n {
            0 => Err(Error::setting(name, "must be at least 1")),
            _ => Ok(()),
        };
        positive("batch", self.batch)?;
        positive("accumulate", self.accumulate)?;
        positive("phases", self.phases.len())?;
        if let Some(norm) = self.clip_norm
            && (norm.is_nan() || norm <= 0.0)
        {
            return Err(Error::setting("clip_norm", format!("must be positive, found {norm}")));
        }
        for phase in &self.phases {
            positive(&format!("{}.steps", phase.name), phase.steps)?;
            if !(phase.rate > 0.0 && phase.rate.is_finite()) {
                return Err(Error::setting(
                    format!("{}.rate", phase.name),
                    format!("must be positive, found {}", phase.rate),
                ));
            }
            if let Some(problem) = phase.schedule.problem() {
                return Err(Error::setting(format!("{}.schedule", phase.name), problem));
            }
        }
        Ok(())
    }
}

fn one() -> usize {
    1
}

fn main() -> String {
    "main".into()
}

fn constant() -> Schedule {
    Schedule::Constant
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let phase = Phase {
            name: main(),
            steps: 2,
            rate: 0.1,
            optimizer: OptimizerConfig::default(),
            schedule: constant(),
            trainable: Trainable::default(),
        };
        Settings {
            seed: 0,
            batch: 1,
            accumulate: 1,
            clip_norm: None,
            heldout_every: 0,
            save_every: 0,
            phases: vec![phase],
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let refused = |change: fn(&mut Settings), name: &str| {
            let mut changed = settings();
            change(&mut changed);
            let message = changed.check().unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        };
        settings().check().unwrap();
        refused(|s| s.batch = 0, "\"batch\"");
        refused(|s| s.accumulate = 0, "\"accumulate\"");
        refused(|s| s.phases.clear(), "\"phases\"");
        refused(|s| s.clip_norm = Some(f64::NAN), "\"clip_norm\"");
        refused(|s| s.phases[0].steps = 0, "\"main.steps\"");
        refused(|s| s.phases[0].rate = f64::INFINITY, "\"main.rate\"");
        refused(|s| s.phases[0].schedule = Schedule::Cosine { warmup: 1.0, floor: 0.0 }, "warmup 1");
    }

    #[test]
    fn a_trainable_set_is_chosen_by_path() {
        let some = Trainable { paths: vec!["norm".into(), "blocks.1.".into()] };
        assert!(some.has("blocks.0.mlp_norm.gain") && some.has("blocks.1.o.weight"));
        assert!(!some.has("blocks.0.o.weight"));
        assert!(Trainable::default().has("anything"));
    }
}
