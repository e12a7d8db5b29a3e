//! A monitor that remembers: how long each step took, how much memory each part of a run held, and every warning.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use trimtab_train::StepRecord;

use crate::monitor::Monitor;
use crate::system;

/// A part of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// What it is for: `planning`, `writing`, `proof`.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// Largest memory without files behind it meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_anonymous_bytes: Option<u64>,
    /// Its steps, in the order in which they were first begun.
    pub steps: Vec<Step>,
}

/// A step of the pipeline, all times it was run in a phase together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Name.
    pub name: String,
    /// How often it was run.
    pub runs: usize,
    /// How long that took.
    pub seconds: f64,
    /// How long it would take, by what its first part took; only for steps that ran once and have several parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_predicted: Option<f64>,
}

/// Passes everything on to another monitor, and keeps the record.
pub struct Recorder<'m> {
    inner: &'m mut dyn Monitor,
    begun: Instant,
    phases: Vec<Phase>,
    phase_begun: Instant,
    step: Option<Running>,
    warnings: Vec<String>,
}

struct Running {
    begun: Instant,
    parts: usize,
    predicted: Option<f64>,
}

impl<'m> Recorder<'m> {
    /// Begins with the first phase.
    pub fn new(inner: &'m mut dyn Monitor, phase: &str) -> Self {
        let now = Instant::now();
        let mut recorder = Self {
            inner,
            begun: now,
            phases: Vec::new(),
            phase_begun: now,
            step: None,
            warnings: Vec::new(),
        };
        recorder.open(phase);
        recorder
    }

    /// Ends the phase at hand and begins another.
    pub fn phase(&mut self, name: &str) {
        self.close();
        self.open(name);
    }

    /// Seconds since the beginning.
    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// What was recorded: phases and warnings.
    pub fn finish(mut self) -> (Vec<Phase>, Vec<String>) {
        self.close();
        (self.phases, self.warnings)
    }

    fn open(&mut self, name: &str) {
        system::forget_recent_peak();
        self.phase_begun = Instant::now();
        self.phases.push(Phase { name: name.into(), ..Phase::default() });
    }

    fn close(&mut self) {
        self.end_step();
        if let Some(phase) = self.phases.last_mut() {
            phase.seconds = self.phase_begun.elapsed().as_secs_f64();
            phase.peak_anonymous_bytes = system::recent_peak_anonymous_bytes();
        }
    }

    /// How long the step will take, by its first part.
    fn predict(&mut self, done: usize) {
        if let Some(running) =
            self.step.as_mut().filter(|r| done > 0 && r.parts > done && r.predicted.is_none())
        {
            let share = done as f64 / running.parts as f64;
            running.predicted = Some(running.begun.elapsed().as_secs_f64() / share);
        }
    }

    fn end_step(&mut self) {
        let (Some(running), Some(phase)) = (self.step.take(), self.phases.last_mut()) else { return };
        if let Some(step) = phase.steps.last_mut() {
            step.seconds += running.begun.elapsed().as_secs_f64();
            step.runs += 1;
            step.seconds_predicted = running.predicted.filter(|_| step.runs == 1);
        }
    }
}

impl Monitor for Recorder<'_> {
    fn begin(&mut self, name: &str, total: usize) {
        self.end_step();
        if let Some(phase) = self.phases.last_mut() {
            // The step that runs is the last of its phase.
            let known = phase.steps.iter().position(|step| step.name == name);
            let step = match known {
                Some(at) => phase.steps.remove(at),
                None => Step { name: name.into(), ..Step::default() },
            };
            phase.steps.push(step);
        }
        self.step = Some(Running { begun: Instant::now(), parts: total, predicted: None });
        self.inner.begin(name, total);
    }

    fn advance(&mut self, done: usize, detail: &str) {
        self.predict(done);
        self.inner.advance(done, detail);
    }

    fn metrics(&mut self, record: &StepRecord, unit: &'static str) {
        self.predict(record.samples as usize);
        self.inner.metrics(record, unit);
    }

    fn note(&mut self, text: &str) {
        self.inner.note(text);
    }

    fn warn(&mut self, text: &str) {
        self.warnings.push(text.into());
        self.inner.warn(text);
    }

    fn interrupted(&self) -> bool {
        self.inner.interrupted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Quiet;

    #[test]
    fn steps_and_warnings_are_kept_by_phase() {
        let mut quiet = Quiet::default();
        let mut recorder = Recorder::new(&mut quiet, "planning");
        recorder.begin("pricing", 2);
        recorder.advance(1, "");
        recorder.begin("treating", 1);
        recorder.begin("pricing", 2);
        recorder.phase("writing");
        recorder.begin("treating", 4);
        recorder.advance(1, "");
        recorder.warn("mind this");
        let (phases, warnings) = recorder.finish();
        assert_eq!(warnings, ["mind this"]);
        assert_eq!(quiet.warnings, ["mind this"]);
        let names: Vec<&str> = phases.iter().map(|phase| phase.name.as_str()).collect();
        assert_eq!(names, ["planning", "writing"]);
        let runs: Vec<(&str, usize)> = phases[0].steps.iter().map(|s| (s.name.as_str(), s.runs)).collect();
        assert_eq!(runs, [("treating", 1), ("pricing", 2)]);
        assert!(phases[0].steps.iter().all(|step| step.seconds_predicted.is_none()));
        assert!(phases[1].steps[0].seconds_predicted.is_some());
    }
}
