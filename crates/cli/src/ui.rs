//! What a person sees: results on stdout, progress and warnings on stderr, and only there.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use trimtab::monitor::Monitor;
use trimtab::report::text::seconds;
pub use trimtab::report::text::{bytes, table};

use crate::args::Global;
use crate::interrupt;

/// The terminal.
pub struct Ui {
    json: bool,
    quiet: bool,
    verbose: bool,
    live: bool,
    bar: ProgressBar,
    step: Option<(String, Instant)>,
}

impl Ui {
    /// A terminal that obeys `--json`, `--quiet` and `--verbose`.
    pub fn new(global: &Global) -> Self {
        let live = std::io::stderr().is_terminal() && !global.quiet && !global.verbose && !global.json;
        Self {
            json: global.json,
            quiet: global.quiet,
            verbose: global.verbose,
            live,
            bar: ProgressBar::hidden(),
            step: None,
        }
    }

    /// Whether `--json` was given.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Prints the result: the document under `--json`, the text otherwise.
    pub fn result(&mut self, document: &impl Serialize, text: &str) -> anyhow::Result<()> {
        self.end_step();
        let mut out = std::io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut out, document)?;
            writeln!(out)?;
        } else {
            write!(out, "{text}")?;
        }
        out.flush()?;
        Ok(())
    }

    /// Writes a piece of a result as soon as it is there (`generate`).
    pub fn stream(&mut self, piece: &str) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(piece.as_bytes())?;
        out.flush()?;
        Ok(())
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
        self.say(&format!("error: {}", messages.join(": ")));
    }

    fn say(&self, text: &str) {
        let line = |text: &str| {
            // Nobody is left to tell if stderr is closed.
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        };
        if self.live { self.bar.suspend(|| line(text)) } else { line(text) }
    }

    fn end_step(&mut self) {
        if let Some((name, begun)) = self.step.take() {
            self.bar.finish_and_clear();
            if self.verbose {
                self.say(&format!("{name}: {}", seconds(begun.elapsed().as_secs_f64())));
            }
        }
    }
}

impl Monitor for Ui {
    fn begin(&mut self, name: &str, total: usize) {
        self.end_step();
        self.step = Some((name.into(), Instant::now()));
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
        if !detail.is_empty() && (self.live || self.verbose) {
            self.say(&format!("  {detail}"));
        }
    }

    fn note(&mut self, text: &str) {
        if !self.quiet && !self.json {
            self.say(text);
        }
    }

    fn warn(&mut self, text: &str) {
        self.say(&format!("warning: {text}"));
    }

    fn interrupted(&self) -> bool {
        interrupt::asked()
    }
}
