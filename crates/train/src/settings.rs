//! Settings of a run.

use serde::{Deserialize, Serialize};

use crate::batch::BatchSize;
use crate::error::{Error, Result};
use crate::noise::GradientNoise;
use crate::optimizer::OptimizerConfig;
use crate::schedule::Schedule;

/// Settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Seed of the order of the data and of all that is drawn.
    #[serde(default)]
    pub seed: u64,
    /// Items of one step, over all processes.
    pub batch: BatchSize,
    /// Items of one forward pass at most; a larger step is made of several passes. Without it, a step is one pass.
    #[serde(default)]
    pub micro_batch: Option<usize>,
    /// Largest norm of the gradient over all trained parameters; `None` does not clip.
    #[serde(default)]
    pub clip_norm: Option<f64>,
    /// Noise that is added to the gradient, after clipping.
    #[serde(default)]
    pub noise: Option<GradientNoise>,
    /// Share that a moving average of the parameters keeps of itself at every step. The average is then what is measured and
    /// kept.
    #[serde(default)]
    pub average: Option<f64>,
    /// Measurements of the held-out loss without a new best after which a phase ends early.
    #[serde(default)]
    pub patience: Option<usize>,
    /// Steps between measurements of the held-out loss; 0 measures it after the last step only.
    #[serde(default)]
    pub heldout_every: usize,
    /// Steps between saved states; 0 saves only when the run is interrupted.
    #[serde(default)]
    pub save_every: usize,
    /// Batches that are made ahead while a step computes; 0 makes each when its pass begins. What a run computes does not depend
    /// on it, so it is not part of what is saved.
    #[serde(default = "one", skip_serializing)]
    pub prefetch: usize,
    /// How often the phases are gone through, in order.
    #[serde(default = "one")]
    pub rounds: usize,
    /// What is done, in order.
    pub phases: Vec<Phase>,
}

/// A part of a run with its own optimizer, trainable set and length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Name in reports.
    #[serde(default = "main")]
    pub name: String,
    /// Length in updates of the parameters; one of `steps`, `epochs` and `samples` is given.
    #[serde(default)]
    pub steps: Option<usize>,
    /// Length in passes over the data.
    #[serde(default)]
    pub epochs: Option<f64>,
    /// Length in items.
    #[serde(default)]
    pub samples: Option<u64>,
    /// Peak of the rate.
    pub rate: f64,
    /// Rule of the update.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// The rate over the phase.
    #[serde(default)]
    pub schedule: Schedule,
    /// What is trained.
    #[serde(default)]
    pub trainable: Paths,
    /// Parameters with a rule, rate or schedule of their own; the first group that has a parameter counts.
    #[serde(default)]
    pub groups: Vec<Group>,
    /// Whether the optimizer goes on with the state of the phase before, as far as rule and trained parameters are the same.
    /// Otherwise it starts afresh; so does the number of an `adagrad_norm` that a group has for itself, in any case.
    #[serde(default)]
    pub keep_state: bool,
}

/// Parameters with a rule of their own. What is not given is that of the phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Which parameters.
    pub paths: Paths,
    /// Rule of the update.
    #[serde(default)]
    pub optimizer: Option<OptimizerConfig>,
    /// Peak of the rate.
    #[serde(default)]
    pub rate: Option<f64>,
    /// The rate over the phase.
    #[serde(default)]
    pub schedule: Option<Schedule>,
}

/// Parameters by parts of their paths: one of these texts is in the path. An empty list means all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Paths(pub Vec<String>);

impl Paths {
    /// Whether the parameter at `path` is meant.
    pub fn has(&self, path: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|part| path.contains(part.as_str()))
    }
}

impl Phase {
    /// A phase of so many steps with everything else as it is by default.
    pub fn new(steps: usize, rate: f64, optimizer: OptimizerConfig) -> Self {
        Self { name: main(), steps: Some(steps), rate, optimizer, ..Self::default() }
    }

    /// Whether the parameter at `path` is trained.
    pub fn trains(&self, path: &str) -> bool {
        self.trainable.has(path)
    }

    /// Index of the group of a parameter; that of all others is the number of groups.
    pub fn group_of(&self, path: &str) -> usize {
        self.groups.iter().position(|group| group.paths.has(path)).unwrap_or(self.groups.len())
    }

    /// The rule for a parameter.
    pub(crate) fn optimizer_of(&self, path: &str) -> &OptimizerConfig {
        let own = self.groups.get(self.group_of(path)).and_then(|group| group.optimizer.as_ref());
        own.unwrap_or(&self.optimizer)
    }

    /// The rates of all groups, then the phase's own, at the end of a step that has seen so many of the samples of the phase.
    pub(crate) fn rates(&self, seen: u64, total: u64) -> Vec<f64> {
        let rate = |rate: f64, schedule: &Schedule| rate * schedule.factor(seen, total);
        let of_group = |group: &Group| {
            rate(group.rate.unwrap_or(self.rate), group.schedule.as_ref().unwrap_or(&self.schedule))
        };
        self.groups.iter().map(of_group).chain([rate(self.rate, &self.schedule)]).collect()
    }

    /// Items of the phase, of a data set of `items`, in steps of `batch` items.
    pub(crate) fn length(&self, items: usize, batch: usize) -> u64 {
        match (self.samples, self.epochs, self.steps) {
            (Some(samples), ..) => samples,
            (_, Some(epochs), _) => (epochs * items as f64).round() as u64,
            (.., steps) => (steps.unwrap_or(0) as u64).saturating_mul(batch as u64),
        }
    }

    fn check(&self, batch: &BatchSize) -> Result<()> {
        let place = |name: &str| format!("{}.{name}", self.name);
        let lengths = [self.steps.is_some(), self.epochs.is_some(), self.samples.is_some()];
        if lengths.iter().filter(|given| **given).count() != 1 {
            return Err(Error::setting(place("steps"), "give one of steps, epochs and samples"));
        }
        if self.steps.is_some() && !matches!(batch, BatchSize::Fixed(_)) {
            let message = "a batch that grows has no length in steps\nhint: give epochs or samples";
            return Err(Error::setting(place("steps"), message));
        }
        let empty = self.steps == Some(0) || self.samples == Some(0);
        if empty || self.epochs.is_some_and(|epochs| epochs.is_nan() || epochs <= 0.0) {
            return Err(Error::setting(place("steps"), "the phase must have a positive length"));
        }
        let rates = self.groups.iter().filter_map(|group| group.rate).chain([self.rate]);
        for rate in rates {
            if !(rate > 0.0 && rate.is_finite()) {
                return Err(Error::setting(place("rate"), format!("must be positive, found {rate}")));
            }
        }
        let schedules =
            self.groups.iter().filter_map(|group| group.schedule.as_ref()).chain([&self.schedule]);
        for schedule in schedules {
            if let Some(problem) = schedule.problem() {
                return Err(Error::setting(place("schedule"), problem));
            }
        }
        let mut optimizers = self.groups.iter().filter_map(|group| group.optimizer.as_ref());
        optimizers.clone().chain([&self.optimizer]).try_for_each(|rule| rule.check(&place("optimizer")))?;
        let is_norm = matches!(self.optimizer, OptimizerConfig::AdagradNorm { .. });
        if is_norm && self.groups.iter().any(|group| group.optimizer.is_none()) {
            let message = "adagrad_norm has one number for the whole model, but a group would get its own\nhint: give every group an optimizer, or leave groups out";
            return Err(Error::setting(place("groups"), message));
        }
        if self.optimizer.clips().is_none() && optimizers.any(|rule| rule.clips().is_some()) {
            let message = "nvlamb clips the gradient of the whole model, which a group cannot\nhint: make it the optimizer of the phase, and give the other parameters groups";
            return Err(Error::setting(place("groups"), message));
        }
        Ok(())
    }
}

impl Settings {
    /// A run in one sequence of phases with everything else as it is by default.
    pub fn new(batch: usize, phases: Vec<Phase>) -> Self {
        Self {
            seed: 0,
            batch: BatchSize::Fixed(batch),
            micro_batch: None,
            clip_norm: None,
            noise: None,
            average: None,
            patience: None,
            heldout_every: 0,
            save_every: 0,
            prefetch: 1,
            rounds: 1,
            phases,
        }
    }

    /// The phase with this number, counted over all rounds.
    pub(crate) fn phase(&self, number: usize) -> Option<&Phase> {
        (number < self.rounds * self.phases.len()).then(|| &self.phases[number % self.phases.len()])
    }

    /// Items of the whole run over a data set of `items`, as far as they are known beforehand.
    pub fn samples(&self, items: usize) -> u64 {
        let batch = self.batch.first();
        let round =
            self.phases.iter().fold(0u64, |sum, phase| sum.saturating_add(phase.length(items, batch)));
        round.saturating_mul(self.rounds as u64)
    }

    /// Items seen at the end of each phase, over all rounds, of a run over a data set of `items` without an early end.
    pub fn phase_ends(&self, items: usize) -> impl Iterator<Item = u64> {
        let batch = self.batch.first();
        let phases = (0..self.rounds).flat_map(move |_| self.phases.iter());
        phases.scan(0u64, move |seen, phase| {
            *seen = seen.saturating_add(phase.length(items, batch));
            Some(*seen)
        })
    }

    /// Steps of the whole run over a data set of `items`, if they are known beforehand: for steps of one size, without an early end.
    pub fn steps(&self, items: usize) -> Option<u64> {
        let (BatchSize::Fixed(batch), None) = (&self.batch, self.patience) else { return None };
        let steps = |phase: &Phase| phase.length(items, *batch).div_ceil(*batch as u64);
        let round = self.phases.iter().map(steps).fold(0, u64::saturating_add);
        Some(round.saturating_mul(self.rounds as u64))
    }

    /// Items of one forward pass in a step of `batch`.
    pub(crate) fn pass_size(&self, batch: usize) -> usize {
        self.micro_batch.unwrap_or(batch).min(batch).max(1)
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
        self.batch.check()?;
        positive("micro_batch", self.micro_batch.unwrap_or(1))?;
        positive("rounds", self.rounds)?;
        positive("phases", self.phases.len())?;
        positive("patience", self.patience.unwrap_or(1))?;
        if self.patience.is_some() && self.heldout_every == 0 {
            return Err(Error::setting("patience", "needs heldout_every, the steps between measurements"));
        }
        if let Some(norm) = self.clip_norm
            && (norm.is_nan() || norm <= 0.0)
        {
            return Err(Error::setting("clip_norm", format!("must be positive, found {norm}")));
        }
        if let Some(share) = self.average
            && !(0.0..1.0).contains(&share)
        {
            return Err(Error::setting("average", format!("must lie in [0, 1), found {share}")));
        }
        self.noise.map_or(Ok(()), |noise| noise.check())?;
        self.phases.iter().try_for_each(|phase| phase.check(&self.batch))
    }
}

fn one() -> usize {
    1
}

fn main() -> String {
    "main".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_by_name() {
        let settings = || Settings::new(1, vec![Phase::new(2, 0.1, OptimizerConfig::default())]);
        let refused = |change: fn(&mut Settings), name: &str| {
            let mut changed = settings();
            change(&mut changed);
            let message = changed.check().unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        };
        settings().check().unwrap();
        refused(|s| s.batch = BatchSize::Fixed(0), "\"batch\"");
        refused(|s| s.micro_batch = Some(0), "\"micro_batch\"");
        refused(|s| s.phases.clear(), "\"phases\"");
        refused(|s| s.rounds = 0, "\"rounds\"");
        refused(|s| s.clip_norm = Some(f64::NAN), "\"clip_norm\"");
        refused(|s| s.average = Some(1.0), "\"average\"");
        refused(|s| s.patience = Some(2), "heldout_every");
        refused(|s| s.noise = Some(GradientNoise { eta: -1.0, gamma: 0.55 }), "\"noise.eta\"");
        refused(|s| s.phases[0].steps = Some(0), "\"main.steps\"");
        refused(|s| s.phases[0].epochs = Some(1.0), "one of steps");
        refused(|s| s.phases[0].rate = f64::INFINITY, "\"main.rate\"");
        refused(|s| s.phases[0].schedule = Schedule::Cosine { warmup: 1.0, floor: 0.0 }, "warmup 1");
        let initial = OptimizerConfig::AdagradNorm { initial: 0.0 };
        let group = Group { paths: Paths::default(), optimizer: Some(initial), rate: None, schedule: None };
        let mut changed = settings();
        changed.phases[0].groups.push(group);
        assert!(changed.check().unwrap_err().to_string().contains("main.optimizer.initial"));
    }

    #[test]
    fn a_rule_for_the_whole_model_is_no_rule_of_a_group() {
        let rules =
            [r#"{"kind": "adagrad_norm"}"#, r#"{"kind": "lamb", "variant": "nvlamb"}"#, r#"{"kind": "sgd"}"#];
        let [norm, nvlamb, sgd] = rules.map(|text| serde_json::from_str::<OptimizerConfig>(text).unwrap());
        let problem = |rule: &OptimizerConfig, of_group: Option<&OptimizerConfig>| {
            let paths = Paths(vec!["bias".into()]);
            let group = Group { paths, optimizer: of_group.cloned(), rate: None, schedule: None };
            let phase = Phase { groups: vec![group], ..Phase::new(2, 0.1, rule.clone()) };
            Settings::new(1, vec![phase]).check().err().map(|error| error.to_string())
        };
        for (found, name) in
            [(problem(&norm, None), "adagrad_norm"), (problem(&sgd, Some(&nvlamb)), "nvlamb")]
        {
            let message = found.unwrap();
            assert!(["\"main.groups\"", name, "hint"].iter().all(|part| message.contains(part)), "{message}");
        }
        // Controls: what has a rule of its own takes nothing from the others, and a phase that clips does so for its groups.
        for (rule, of_group) in [
            (&norm, Some(&sgd)),
            (&sgd, Some(&norm)),
            (&nvlamb, None),
            (&nvlamb, Some(&nvlamb)),
            (&sgd, None),
        ] {
            assert_eq!(problem(rule, of_group), None, "{rule:?} {of_group:?}");
        }
    }

    #[test]
    fn parameters_are_chosen_by_path() {
        let some = Paths(vec!["norm".into(), "blocks.1.".into()]);
        assert!(some.has("blocks.0.mlp_norm.gain") && some.has("blocks.1.o.weight"));
        assert!(!some.has("blocks.0.o.weight"));
        assert!(Paths::default().has("anything"));
    }

    #[test]
    fn lengths_are_in_steps_epochs_or_samples() {
        let phase = |steps, epochs, samples| Phase { steps, epochs, samples, ..Phase::default() };
        assert_eq!(phase(Some(7), None, None).length(100, 8), 56);
        assert_eq!(phase(None, Some(2.5), None).length(101, 8), 253);
        assert_eq!(phase(None, None, Some(33)).length(100, 8), 33);
        let phases = vec![phase(Some(2), None, None), phase(None, Some(0.5), None)];
        let settings = Settings { rounds: 2, ..Settings::new(8, phases) };
        assert_eq!(settings.phase_ends(100).collect::<Vec<u64>>(), [16, 66, 82, 132]);
        assert_eq!(settings.phase_ends(100).last(), Some(settings.samples(100)));
    }
}
