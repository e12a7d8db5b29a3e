//! What training looks like in a terminal: a few lines that are drawn anew, of any width.

use std::collections::VecDeque;
use std::time::Duration;

use console::{measure_text_width, truncate_str};
use trimtab::floors::train::{Measured, StepRecord};

/// Columns that the view fills at most: wider charts are no clearer.
const WIDEST: usize = 100;
/// Points of the history of the loss that are kept; it holds twice as many for a moment.
const POINTS: usize = 512;
/// Lines of the chart.
const CHART: usize = 3;

/// The state of a training run, as far as it is shown.
#[derive(Debug, Default)]
pub struct Dashboard {
    last: Option<StepRecord>,
    unit: &'static str,
    loss: History,
    heldout: Option<Measured>,
    /// Least held-out loss and its step, and the largest accuracy.
    best: Option<(f64, usize)>,
    most: Option<f64>,
    /// Whether steps of several sizes were seen.
    grows: bool,
}

impl Dashboard {
    /// Takes up a step.
    pub fn add(&mut self, record: &StepRecord, unit: &'static str) {
        // The last step of a phase may be a short one: only what grows changes its size.
        self.grows |= self.last.as_ref().is_some_and(|last| record.batch > last.batch);
        self.loss.push(record.loss);
        if let Some(measured) = record.heldout {
            self.heldout = Some(measured);
            if self.best.is_none_or(|(best, _)| measured.loss < best) {
                self.best = Some((measured.loss, record.step));
            }
            self.most = measured.accuracy.into_iter().chain(self.most).reduce(f64::max);
        }
        self.unit = unit;
        self.last = Some(record.clone());
    }

    /// The lines of the view on a terminal of `width` columns, `elapsed` after the run began and `since` the last step.
    pub fn lines(&self, width: usize, elapsed: Duration, since: Duration) -> Vec<String> {
        let width = width.min(WIDEST);
        let Some(last) = &self.last else { return Vec::new() };
        let left = (last.seconds_left - since.as_secs_f64()).max(0.0);
        let times = format!("{}, {} left", clock(elapsed.as_secs_f64()), clock(left));
        let step = match last.steps {
            Some(steps) => format!("step {}/{steps}", last.step),
            None => format!("step {}", last.step),
        };
        let share = (last.samples as f64 / last.total.max(1) as f64).min(1.0);
        let percent = format!("{:.0} %", (100.0 * share).floor());
        let head = [last.phase.clone(), step, percent, times];
        let mut lines = match head.iter().map(|part| measure_text_width(part) + 2).sum::<usize>() + 8 <= width
        {
            true => {
                let [phase, step, percent, times] = head;
                let rest = format!("{step}  {percent}  {times}");
                let columns = width - measure_text_width(&phase) - measure_text_width(&rest) - 4;
                vec![format!("{phase}  {}  {rest}", bar(share, columns))]
            }
            false => {
                let [phase, step, percent, times] = head;
                let columns = width.saturating_sub(measure_text_width(&percent) + 2);
                let mut lines = vec![format!("{}  {percent}", bar(share, columns))];
                lines.extend(flow(&[phase, step, times], width));
                lines
            }
        };
        lines.extend(self.chart(last.loss, width));
        lines.extend(flow(&self.heldout(), width));
        let batch = if self.grows {
            format!("batch {} (grows)", last.batch)
        } else {
            format!("batch {}", last.batch)
        };
        let figures = [
            format!("gradient {}", short(last.gradient_norm)),
            format!("rate {:.2e}", last.rate),
            batch,
            format!("{:.0} {}/s", last.terms_per_s, self.unit),
        ];
        lines.extend(flow(&figures, width));
        lines.into_iter().map(|line| truncate_str(&line, width, "…").into_owned()).collect()
    }

    /// The loss over the run, with its largest and least value where they stand.
    fn chart(&self, now: f64, width: usize) -> Vec<String> {
        let label = format!("loss {now:.4}");
        let [low, high] = self.loss.range();
        let [high_text, low_text] = [high, low].map(short);
        let margin = measure_text_width(&label).max(high_text.len()).max(low_text.len());
        let rows = chart(&self.loss.values(2 * width.saturating_sub(margin + 3)), CHART, [low, high]);
        let mut left = vec![String::new(); CHART];
        left[0] = high_text;
        left[CHART / 2] = label;
        left[CHART - 1] = low_text;
        let line = |(left, row): (String, String)| format!("{left:>margin$} │ {row}");
        left.into_iter().zip(rows).map(line).map(|line| line.trim_end().to_owned()).collect()
    }

    fn heldout(&self) -> Vec<String> {
        let Some(Measured { loss, accuracy }) = self.heldout else { return Vec::new() };
        let mut parts = vec![format!("held out {loss:.4}")];
        parts.extend(self.best.map(|(best, step)| format!("best {best:.4} at step {step}")));
        if let Some(right) = accuracy {
            let most = self.most.unwrap_or(right);
            parts.push(format!("{:.2} % right (best {:.2} %)", 100.0 * right, 100.0 * most));
        }
        parts
    }
}

/// Means of a growing series over stretches of equal length, so that few are enough for a run of any length.
#[derive(Debug)]
struct History {
    points: VecDeque<f64>,
    /// Values in each point.
    stretch: usize,
    /// Sum and number of those that are not enough for a point.
    open: (f64, usize),
}

impl Default for History {
    fn default() -> Self {
        Self { points: VecDeque::new(), stretch: 1, open: (0.0, 0) }
    }
}

impl History {
    fn push(&mut self, value: f64) {
        self.open = (self.open.0 + value, self.open.1 + 1);
        if self.open.1 < self.stretch {
            return;
        }
        self.points.push_back(self.open.0 / self.open.1 as f64);
        self.open = (0.0, 0);
        if self.points.len() == 2 * POINTS {
            let points = self.points.make_contiguous();
            self.points = points.chunks(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
            self.stretch *= 2;
        }
    }

    /// The series in `n` values: means where there are more points, and otherwise what lies between them.
    fn values(&self, n: usize) -> Vec<f64> {
        let len = self.points.len();
        if len == 0 {
            return Vec::new();
        }
        if len < n {
            let between = |i: usize| {
                let at = i as f64 * (len - 1) as f64 / (n - 1).max(1) as f64;
                let (from, part) = (at as usize, at.fract());
                let to = (from + 1).min(len - 1);
                self.points[from] * (1.0 - part) + self.points[to] * part
            };
            return (0..n).map(between).collect();
        }
        let mean = |i: usize| {
            let (from, to) = (i * len / n, (i + 1) * len / n);
            self.points.range(from..to).sum::<f64>() / (to - from) as f64
        };
        (0..n).map(mean).collect()
    }

    /// Least and largest point.
    fn range(&self) -> [f64; 2] {
        let fold = |start: f64, choose: fn(f64, f64) -> f64| self.points.iter().copied().fold(start, choose);
        [fold(f64::INFINITY, f64::min), fold(f64::NEG_INFINITY, f64::max)]
    }
}

/// A curve in braille, two points a column and four dots a line, between these values.
fn chart(values: &[f64], lines: usize, [least, most]: [f64; 2]) -> Vec<String> {
    /// Dots of a column of two, from the top; the left ones first.
    const DOTS: [[u8; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
    let top = 4 * lines - 1;
    let row = |value: f64| match most > least {
        true => ((most - value) / (most - least) * top as f64).round() as usize,
        false => top / 2,
    };
    let mut cells = vec![vec![0u8; values.len().div_ceil(2)]; lines];
    let mut before: Option<usize> = None;
    for (i, &value) in values.iter().enumerate() {
        let at = row(value);
        // From beside the point before, so that the curve hangs together.
        let from = match before {
            Some(before) if before < at => before + 1,
            Some(before) if before > at => before - 1,
            _ => at,
        };
        for dot in from.min(at)..=from.max(at) {
            cells[dot / 4][i / 2] |= DOTS[i % 2][dot % 4];
        }
        before = Some(at);
    }
    let text = |cells: &Vec<u8>| cells.iter().map(|dots| braille(*dots)).collect();
    cells.iter().map(text).collect()
}

/// The character with these dots.
fn braille(dots: u8) -> char {
    char::from_u32(0x2800 + u32::from(dots)).unwrap_or(' ')
}

/// A bar that is full up to a share.
fn bar(share: f64, columns: usize) -> String {
    let full = (share * columns as f64).floor() as usize;
    format!("{}{}", "█".repeat(full), "░".repeat(columns.saturating_sub(full)))
}

/// Parts beside each other, in as many lines as they need.
fn flow(parts: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if measure_text_width(line) + 2 + measure_text_width(part) <= width => {
                line.push_str("  ");
                line.push_str(part);
            }
            _ => lines.push(part.clone()),
        }
    }
    lines
}

/// A number in about five characters.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if !(1e-3..1e5).contains(&size) => format!("{value:.1e}"),
        size if size < 1.0 => format!("{value:.4}"),
        size if size < 100.0 => format!("{value:.3}"),
        _ => format!("{value:.0}"),
    }
}

/// A time to the second.
fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: usize) -> StepRecord {
        let heldout = step
            .is_multiple_of(40)
            .then(|| Measured { loss: 2.0 - step as f64 / 100.0, accuracy: Some(step as f64 / 400.0) });
        StepRecord {
            phase: "warm".into(),
            step,
            steps: Some(1173),
            samples: 128 * step as u64,
            total: 150_000,
            batch: 128,
            loss: 2.3 * (-(step as f64) / 50.0).exp(),
            gradient_norm: 0.5234,
            rate: 0.1,
            terms_per_s: 1234.4,
            noise_scale: None,
            heldout,
            seconds_left: 754.0,
        }
    }

    fn shown(width: usize) -> Vec<String> {
        let mut dashboard = Dashboard::default();
        (1..=120).for_each(|step| dashboard.add(&record(step), "images"));
        let since = Duration::from_secs(4);
        let lines = dashboard.lines(width, Duration::from_secs(3700), since);
        assert!(lines.iter().all(|line| measure_text_width(line) <= width), "{lines:#?}");
        lines
    }

    #[test]
    fn a_usual_terminal_shows_all_in_six_lines() {
        let expected = "\
warm  ███░░░░░░░░░░░░░░░░░░░░░░░░░░░░░  step 120/1173  10 %  1:01:40, 12:30 left
      2.254 │ X
loss 0.2087 │ X
     0.2087 │ X
held out 0.8000  best 0.8000 at step 120  30.00 % right (best 30.00 %)
gradient 0.5234  rate 1.00e-1  batch 128  1234 images/s";
        assert_eq!(without_curve(&shown(80)), expected);
    }

    /// The view with an X for the dots of the curve.
    fn without_curve(lines: &[String]) -> String {
        let is_dots = |c: char| ('\u{2800}'..='\u{28ff}').contains(&c);
        let line = |line: &String| match line.split_once(is_dots) {
            Some((left, _)) => format!("{left}X"),
            None => line.clone(),
        };
        lines.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_narrow_terminal_shows_the_same_in_more() {
        let expected = "\
███░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░  10 %
warm  step 120/1173  1:01:40, 12:30 left
      2.254 │ X
loss 0.2087 │ X
     0.2087 │ X
held out 0.8000  best 0.8000 at step 120
30.00 % right (best 30.00 %)
gradient 0.5234  rate 1.00e-1  batch 128
1234 images/s";
        assert_eq!(without_curve(&shown(40)), expected);
        for width in 1..40 {
            assert!(!shown(width).is_empty());
        }
    }

    #[test]
    fn a_curve_falls_from_the_top_to_the_bottom() {
        // 12 dots for 12 values: the diagonal.
        let values: Vec<f64> = (0..12).map(|i| f64::from(11 - i)).collect();
        assert_eq!(chart(&values, 3, [0.0, 11.0]), ["⠑⢄⠀⠀⠀⠀", "⠀⠀⠑⢄⠀⠀", "⠀⠀⠀⠀⠑⢄"]);
        assert_eq!(chart(&[1.0, 1.0], 1, [1.0, 1.0]), ["⠒"], "level in the middle");
        assert_eq!(chart(&[], 2, [0.0, 1.0]), ["", ""]);
    }

    #[test]
    fn a_long_history_is_kept_in_few_points() {
        let mut history = History::default();
        (0..100_000).for_each(|i| history.push(f64::from(i)));
        assert!((POINTS..2 * POINTS).contains(&history.points.len()));
        let values = history.values(10);
        assert!(values.windows(2).all(|pair| pair[1] - pair[0] > 9_000.0), "{values:?}");
        assert!((history.range()[1] - 1e5).abs() < 200.0 && history.range()[0] < 200.0);
    }

    #[test]
    fn what_grows_and_has_no_end_is_said() {
        let mut dashboard = Dashboard::default();
        for (step, batch) in [(1, 16), (2, 24)] {
            dashboard.add(&StepRecord { steps: None, batch, ..record(step) }, "tokens");
        }
        let text = dashboard.lines(80, Duration::ZERO, Duration::ZERO).join("\n");
        assert!(text.contains("step 2  0 %") && text.contains("batch 24 (grows)"), "{text}");
    }
}
