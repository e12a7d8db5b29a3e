//! The report in 80 columns.

use super::reasons::culprits;
use super::text::{bytes, percent, seconds, shorten, table};
use super::{Report, Row, Verb};

/// Columns of a terminal.
const COLUMNS: usize = 80;

pub(super) fn summary(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |part: String| {
        text.push_str(&shorten_end(&part, COLUMNS));
        text.push('\n');
    };
    if !report.rows.is_empty() {
        for row in models(&report.rows).lines() {
            line(row.into());
        }
        line(String::new());
    }
    let bare =
        report.bits_without_branches.map_or(String::new(), |bits| format!(" ({bits:.3} without branches)"));
    let figures = format!("{}, {:.3} bits per weight{bare}", bytes(report.bytes), report.bits_per_weight);
    let budget = report.budget.as_ref().map_or(String::new(), |budget| match report.within_budget {
        true => format!(" (budget {budget})"),
        false => format!(" (budget {budget}: missed)"),
    });
    let room = COLUMNS.saturating_sub(figures.chars().count() + budget.chars().count() + 2).max(12);
    line(format!("{}: {figures}{budget}", shorten(&report.output.display().to_string(), room)));
    if let Some(reached) = &report.reached {
        let proved = match reached.proved {
            Some(true) => ", held by the proof too",
            Some(false) => ", MISSED by the proof",
            None => "",
        };
        let value = |row: Option<&Row>| row.and_then(|row| reached.target.measure.of(&row.quality));
        let pair = value(report.rows.first()).zip(value(report.rows.last()));
        let figures = pair.map_or(String::new(), |(from, to)| format!(" ({from:.4} to {to:.4})"));
        line(format!("target {}: {} plans measured{proved}{figures}", reached.target, reached.tried.len()));
    }
    if let Some(predicted) = report.damage_predicted {
        let measured = report.damage_measured.map_or(String::new(), |d| format!(", {d:.5} measured"));
        line(format!("damage on calibration data: {predicted:.5} predicted{measured}"));
    }
    if let Some(halves) = &report.halves {
        line(format!(
            "two halves of it: a site's damage differs by {} (median), {} at worst",
            percent(halves.median_difference),
            percent(halves.largest_difference)
        ));
    }
    let worst: Vec<_> = culprits(report).into_iter().take(3).filter(|c| c.share > 0.0).collect();
    for (i, culprit) in worst.iter().enumerate() {
        let head = if i == 0 { "hurts most: " } else { "            " };
        let tail = format!(" {}, {} of the damage", culprit.site.scheme, percent(culprit.share));
        let room = COLUMNS.saturating_sub(head.len() + tail.chars().count()).max(12);
        line(format!("{head}{}{tail}", shorten(&culprit.site.site, room)));
    }
    if !report.warnings.is_empty() {
        line(format!("warnings: {}", report.warnings.len()));
    }
    let or_unknown = |n: Option<u64>| n.map_or("unknown".into(), bytes);
    let memory = match report.verb {
        Verb::Apply => format!(
            "{} of memory (predicted {}), {} with mapped files",
            or_unknown(report.peak_anonymous_bytes),
            or_unknown(report.peak_anonymous_bytes_predicted),
            or_unknown(report.peak_memory_bytes)
        ),
        _ => format!("{} of memory", or_unknown(report.peak_memory_bytes)),
    };
    line(format!("{}, {memory}", seconds(report.seconds)));
    text
}

/// Cuts what is too long at its end.
fn shorten_end(line: &str, width: usize) -> String {
    match line.chars().count() {
        n if n <= width => line.into(),
        _ => line.chars().take(width - 1).chain(['…']).collect(),
    }
}

/// The table of models; names give way where it would be too wide.
fn models(rows: &[Row]) -> String {
    let with = |room: usize| {
        let mut cells = vec![header(rows)];
        cells.extend(rows.iter().map(|each| row(each, room)));
        table(&cells)
    };
    let wide = with(COLUMNS);
    let columns = wide.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let longest = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).min(COLUMNS);
    match columns.saturating_sub(COLUMNS) {
        0 => wide,
        over => with(longest.saturating_sub(over).max(4)),
    }
}

/// Names of the columns of a table of models.
pub(super) fn header(rows: &[Row]) -> Vec<String> {
    let mut header = vec!["".to_string(), "file".into(), "bits".into()];
    let any = |f: fn(&Row) -> bool| rows.iter().any(f);
    header.extend(any(|r| r.quality.kl.is_some()).then(|| "KL".to_string()));
    header.extend(any(|r| r.quality.embedding_distance.is_some()).then(|| "1 - cos".to_string()));
    header.extend(any(|r| r.quality.same_top1.is_some()).then(|| "same top 1".to_string()));
    header.extend(any(|r| r.quality.perplexity.is_some()).then(|| "perplexity".to_string()));
    header.extend(any(|r| r.quality.spearman.is_some()).then(|| "spearman".to_string()));
    header.extend(any(|r| r.quality.accuracy.is_some()).then(|| "accuracy".to_string()));
    header
}

/// The cells of one model below [`header`].
pub(super) fn row(row: &Row, room: usize) -> Vec<String> {
    let quality = &row.quality;
    let name = shorten(&row.name, room);
    let mut cells = vec![name, bytes(row.bytes), format!("{:.3}", row.bits_per_weight)];
    let original = row.name == "original";
    let mut distance = |value: Option<f64>, text: fn(f64) -> String| match value {
        Some(value) => cells.push(text(value)),
        None if original => cells.push("0".into()),
        None => {}
    };
    match (quality.spearman, quality.accuracy) {
        (Some(_), _) => distance(quality.embedding_distance, |v| format!("{v:.5}")),
        (None, Some(_)) => distance(quality.kl, |v| format!("{v:.5}")),
        _ => {
            distance(quality.kl, |v| format!("{v:.5}"));
            distance(quality.same_top1, |v| format!("{:.1} %", 100.0 * v));
        }
    }
    cells.extend(quality.perplexity.map(|v| format!("{v:.3}")));
    cells.extend(quality.spearman.map(|v| format!("{v:.2}")));
    cells.extend(quality.accuracy.map(|v| format!("{v:.2} %")));
    cells
}

#[cfg(test)]
mod tests {
    use super::super::tests::{example, hostile};
    use super::*;

    fn widest(text: &str) -> usize {
        text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
    }

    #[test]
    fn no_line_is_longer_than_eighty_columns() {
        let summary = example().summary();
        assert!(widest(&summary) <= 80, "{summary}");
        assert!(summary.contains("budget 3bpw") && summary.contains("hurts most"), "{summary}");
        let long = hostile().summary();
        assert!(widest(&long) <= 80, "{long}");
        assert!(long.contains("0.02500"), "names give way, figures do not: {long}");
        assert!(!long.contains('\u{7}'), "control characters do not reach the terminal");
        // The limit is what keeps it: the table alone would be wider.
        let rows = hostile().rows;
        let cells: Vec<_> = rows.iter().map(|each| row(each, 1000)).collect();
        assert!(widest(&table(&cells)) > 80);
    }
}
