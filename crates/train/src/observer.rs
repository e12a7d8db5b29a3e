//! What a run tells of itself, and how it is told to stop.

use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::error::Result;

/// What is known after a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepRecord {
    /// Name of the phase.
    pub phase: String,
    /// Steps done, over all phases.
    pub step: usize,
    /// Steps of all phases, if they are known beforehand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Items seen, over all phases.
    pub samples: u64,
    /// Items of all phases, as far as they are known beforehand.
    pub total: u64,
    /// Items of the step.
    pub batch: usize,
    /// Mean loss of the step, before its update.
    pub loss: f64,
    /// Norm of the gradient over all trained parameters, before clipping.
    pub gradient_norm: f64,
    /// Rate of the step: that of parameters without a group.
    pub rate: f64,
    /// Terms of the loss (tokens, for a language model) per second, of this step.
    pub terms_per_s: f64,
    /// The simple noise scale, where single samples were looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_scale: Option<f64>,
    /// What was measured on held-out data after the step, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heldout: Option<Measured>,
    /// Seconds left at the pace of this run.
    pub seconds_left: f64,
}

impl StepRecord {
    /// One line about the step; `unit` is what its loss has terms of, such as tokens.
    pub fn line(&self, unit: &str) -> String {
        let heldout = match self.heldout {
            Some(Measured { loss, accuracy: Some(right) }) => {
                format!(" (held out {loss:.4}, {:.2} % right)", 100.0 * right)
            }
            Some(Measured { loss, accuracy: None }) => format!(" (held out {loss:.4})"),
            None => String::new(),
        };
        let Self { loss, gradient_norm, rate, terms_per_s, seconds_left, .. } = self;
        format!(
            "loss {loss:.4}{heldout}, gradient {gradient_norm:.2}, rate {rate:.2e}, {terms_per_s:.0} {unit}/s, {seconds_left:.0} s left"
        )
    }
}

/// What a model does on held-out data.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Mean loss.
    pub loss: f64,
    /// Share of right answers, where that means something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

/// Looks on while a run goes: a probe.
pub trait Observer<M> {
    /// A step is done. `module` is what would be kept now.
    fn step(&mut self, record: &StepRecord, module: &M);

    /// The run begins, after so many steps of earlier ones: 0, or those of the saved state.
    ///
    /// # Errors
    /// What ends the run before it begins.
    fn begins(&mut self, _step: usize) -> Result<()> {
        Ok(())
    }

    /// The state after the last step is about to be saved: what has to be kept of the steps before it is kept now.
    ///
    /// # Errors
    /// What ends the run, without this state.
    fn saves(&mut self) -> Result<()> {
        Ok(())
    }

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

impl<M> Observer<M> for Silent<'_> {
    fn step(&mut self, _: &StepRecord, _: &M) {}

    fn interrupted(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::SeqCst))
    }
}
