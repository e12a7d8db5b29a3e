//! What a person sees: results on stdout, progress and warnings on stderr, and only there.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use console::style;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};
use trimtab::floors::train::StepRecord;
use trimtab::monitor::Monitor;
use trimtab::report::text::seconds;
pub use trimtab::report::text::{bytes, table};

use crate::args::Global;
use crate::interrupt;
use crate::live::Live;

/// Time between two lines about training where nobody may be looking.
const PACE: Duration = Duration::from_secs(10);

/// The terminal.
pub struct Ui {
    json: bool,
    quiet: bool,
    verbose: bool,
    live: bool,
    bar: ProgressBar,
    step: Option<(String, Instant)>,
    /// The view of training, since its first step.
    training: Option<Live>,
    /// When the last line about training was written.
    told: Instant,
}

impl Ui {
    /// A terminal that obeys `--json`, `--quiet` and `--verbose`.
    pub fn new(global: &Global) -> Self {
        let is_terminal =
            std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|name| name != "dumb");
        let live = is_terminal && !global.quiet && !global.verbose && !global.json;
        Self {
            json: global.json,
            quiet: global.quiet,
            verbose: global.verbose,
            live,
            bar: ProgressBar::hidden(),
            step: None,
            training: None,
            told: Instant::now(),
        }
    }

    /// Whether `--json` was given.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Prints the result: the document under `--json`, the text otherwise.
    pub fn result(&mut self, document: &impl Serialize, text: &str) -> anyhow::Result<()> {
        self.end_step();
        let document = if self.json { serde_json::to_string_pretty(document)? } else { text.into() };
        let end = if document.is_empty() || document.ends_with('\n') { "" } else { "\n" };
        self.stream(&format!("{document}{end}"))
    }

    /// Writes a piece of a result as soon as it is there (`generate`).
    pub fn stream(&mut self, piece: &str) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(piece.as_bytes())
            .and_then(|()| out.flush())
            .context("cannot write to the standard output")
    }

    /// Prints an error, its causes, and the hints among them.
    pub fn error(&mut self, error: &anyhow::Error) {
        self.end_step();
        let mut messages: Vec<String> = Vec::new();
        for cause in error.chain().map(ToString::to_string) {
            // A transparent error repeats its source.
            if !messages.iter().any(|earlier| earlier.contains(&cause)) {
                messages.push(cause);
            }
        }
        let message = messages.join(": ");
        match self.lines() {
            true => self.event("error", json!({ "message": message })),
            false => self.say(&format!("{} {message}", style("error:").for_stderr().red().bold())),
        }
    }

    /// Whether progress goes to stderr in JSON lines.
    fn lines(&self) -> bool {
        self.json && self.verbose
    }

    fn event(&self, name: &str, mut fields: Value) {
        fields["event"] = name.into();
        self.say(&fields.to_string());
    }

    fn say(&self, text: &str) {
        let line = |text: &str| {
            // Nobody is left to tell if stderr is closed.
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        };
        match &self.training {
            Some(live) => live.above(|| line(text)),
            None if self.live => self.bar.suspend(|| line(text)),
            None => line(text),
        }
    }

    fn end_step(&mut self) {
        if let Some((name, begun)) = self.step.take() {
            // Its last picture stays: with an error, too, it is what a person wants to see.
            self.training = None;
            self.bar.finish_and_clear();
            if self.lines() {
                self.event("end", json!({ "step": name, "seconds": begun.elapsed().as_secs_f64() }));
            } else if self.verbose {
                self.say(&format!("{name}: {}", seconds(begun.elapsed().as_secs_f64())));
            }
        }
    }
}

impl Monitor for Ui {
    fn begin(&mut self, name: &str, total: usize) {
        self.end_step();
        self.step = Some((name.into(), Instant::now()));
        self.told = Instant::now();
        if self.lines() {
            self.event("begin", json!({ "step": name, "total": total }));
        }
        if !self.live {
            return;
        }
        let template = "{msg:<28!} {bar:24} {pos}/{len} [{elapsed} < {eta}]";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar =
            ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr()).with_style(style);
        self.bar.set_message(name.to_string());
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    fn advance(&mut self, done: usize, detail: &str) {
        self.bar.set_position(done as u64);
        if self.lines() {
            let step = self.step.as_ref().map(|(name, _)| name);
            self.event("progress", json!({ "step": step, "done": done, "detail": detail }));
        } else if !detail.is_empty() && (self.live || self.verbose) {
            self.say(&format!("  {detail}"));
        }
    }

    fn metrics(&mut self, record: &StepRecord, unit: &'static str) {
        if self.live {
            let begun = self.step.as_ref().map_or_else(Instant::now, |(_, begun)| *begun);
            let bar = &mut self.bar;
            let view = self.training.get_or_insert_with(|| {
                bar.finish_and_clear();
                *bar = ProgressBar::hidden();
                Live::new(begun)
            });
            view.add(record, unit);
        } else if self.verbose || self.quiet || self.json {
            self.advance(record.samples as usize, &record.line(unit));
        } else if self.told.elapsed() >= PACE {
            self.told = Instant::now();
            let steps = record.steps.map_or_else(String::new, |steps| format!("/{steps}"));
            self.say(&format!("step {}{steps}: {}", record.step, record.line(unit)));
        }
    }

    fn note(&mut self, text: &str) {
        if self.lines() {
            self.event("note", json!({ "message": text.trim() }));
        } else if !self.quiet && !self.json {
            self.say(text);
        }
    }

    fn warn(&mut self, text: &str) {
        match self.lines() {
            true => self.event("warning", json!({ "message": text })),
            false => self.say(&format!("{} {text}", style("warning:").for_stderr().yellow().bold())),
        }
    }

    fn interrupted(&self) -> bool {
        interrupt::asked()
    }
}
