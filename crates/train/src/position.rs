//! Where a run stands.

use serde::{Deserialize, Serialize};

/// Where a run stands: all that is not a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Steps done.
    pub step: usize,
    /// Items seen.
    pub samples: u64,
    /// Number of the phase, counted over all rounds.
    pub phase: usize,
    /// Items of it that were seen.
    pub phase_samples: u64,
    /// Items of the next step.
    pub batch: usize,
    /// Best held-out loss of the phase.
    best: Option<f64>,
    /// Measurements since.
    waited: usize,
}

impl Position {
    pub fn new(batch: usize) -> Self {
        Self { step: 0, samples: 0, phase: 0, phase_samples: 0, batch, best: None, waited: 0 }
    }

    /// After a step of `size` items, with `batch` for the next.
    pub fn advance(&mut self, size: usize, batch: usize) {
        self.step += 1;
        self.samples += size as u64;
        self.phase_samples += size as u64;
        self.batch = batch;
    }

    pub fn next_phase(&mut self) {
        (self.phase, self.phase_samples) = (self.phase + 1, 0);
        (self.best, self.waited) = (None, 0);
    }

    /// Notes a held-out loss; whether `patience` of them in a row were no new best.
    pub fn waits(&mut self, loss: f64, patience: usize) -> bool {
        match self.best {
            Some(best) if loss >= best => self.waited += 1,
            _ => (self.best, self.waited) = (Some(loss), 0),
        }
        self.waited >= patience
    }
}
