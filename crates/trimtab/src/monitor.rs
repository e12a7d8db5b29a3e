//! How long work tells of itself and is told to stop.

use trimtab_train::StepRecord;

/// What a long run reports to, and asks whether it should go on.
pub trait Monitor {
    /// A step of the pipeline begins; it has `total` parts.
    fn begin(&mut self, name: &str, total: usize);

    /// `done` parts are finished; `detail` is one line about the last.
    fn advance(&mut self, done: usize, detail: &str);

    /// A step of training is done, whose loss has terms of `unit`, such as tokens. By default it is a part of the step of the pipeline
    /// that runs, with a line about it.
    fn metrics(&mut self, record: &StepRecord, unit: &'static str) {
        self.advance(record.samples as usize, &record.line(unit));
    }

    /// Something a reader of the output should know.
    fn note(&mut self, text: &str);

    /// Something that may hurt.
    fn warn(&mut self, text: &str);

    /// Whether the user asked to stop; what was finished is kept.
    fn interrupted(&self) -> bool {
        false
    }
}

/// A monitor that shows nothing and keeps the warnings.
#[derive(Clone, Debug, Default)]
pub struct Quiet {
    /// Warnings of the run, in order.
    pub warnings: Vec<String>,
}

impl Monitor for Quiet {
    fn begin(&mut self, _: &str, _: usize) {}
    fn advance(&mut self, _: usize, _: &str) {}
    fn note(&mut self, _: &str) {}

    fn warn(&mut self, text: &str) {
        self.warnings.push(text.into());
    }
}
