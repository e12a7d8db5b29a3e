//! What a run tells of itself, and how it is told to stop.

use std::sync::atomic::{AtomicBool, Ordering};

/// What is known after a step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRecord {
    /// Name of the phase.
    pub phase: String,
    /// Steps done, over all phases.
    pub step: usize,
    /// Steps of all phases.
    pub total: usize,
    /// Items seen, over all phases.
    pub samples: u64,
    /// Mean loss of the step, before its update.
    pub loss: f64,
    /// Norm of the gradient over all trained parameters, before clipping.
    pub gradient_norm: f64,
    /// Rate of the step.
    pub rate: f64,
    /// Terms of the loss (tokens, for a language model) per second, of this step.
    pub terms_per_s: f64,
    /// Mean loss on held-out data after the step, where it was measured.
    pub heldout: Option<f64>,
    /// Seconds left at the pace of this run.
    pub seconds_left: f64,
}

/// Looks on while a run goes.
pub trait Observer {
    /// A step is done.
    fn step(&mut self, record: &StepRecord);

    /// Whether the run should save its state and stop. Asked after each step.
    fn interrupted(&self) -> bool {
        false
    }
}

/// Shows nothing; stops when the flag is set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent<'f> {
    /// Set it to stop the run.
    pub stop: Option<&'f AtomicBool>,
}

impl Observer for Silent<'_> {
    fn step(&mut self, _: &StepRecord) {}

    fn interrupted(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::SeqCst))
    }
}
