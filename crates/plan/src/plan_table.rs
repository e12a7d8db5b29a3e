//! Plans and their differences as tables of 80 columns.

use std::fmt::{self, Write};

use crate::plan_diff::Change;
use crate::plan_file::Plan;
use crate::units::bytes_short;

/// A table row: site, option, bits per weight, size, damage; 80 columns with the four spaces.
fn row(site: &str, option: &str, bits: &str, size: &str, damage: &str) -> String {
    let (site, option) = (shorten(site, 33), shorten(option, 21));
    format!("{site:<33} {option:<21} {bits:>5} {size:>7} {damage:>10}").trim_end().to_string()
}

/// At most `width` characters: the end of a name tells more than its beginning.
fn shorten(name: &str, width: usize) -> String {
    // A control character would break the table.
    let clean: Vec<char> = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match clean.len() {
        n if n <= width => clean.into_iter().collect(),
        n => std::iter::once('…').chain(clean[n + 1 - width..].iter().copied()).collect(),
    }
}

fn damage(x: f64) -> String {
    format!("{x:.3e}")
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let budget = self.header.budget.as_ref().map_or("none".to_string(), |b| b.to_string());
        writeln!(f, "plan for {}, budget {}", shorten(&self.header.model, 34), shorten(&budget, 26))?;
        writeln!(f, "{}", row("site", "choice", "bits", "size", &self.prices.metric))?;
        for (site, &index) in self.prices.sites.iter().zip(&self.choice) {
            let Some(option) = site.options.get(index) else { continue };
            let bits = match site.weights {
                0 => String::new(),
                weights => format!("{:.2}", 8.0 * option.costs.bytes as f64 / weights as f64),
            };
            let size = bytes_short(option.costs.bytes).replace(' ', "");
            let label = if site.pinned.is_some() {
                format!("{} (pinned)", option.label)
            } else {
                option.label.clone()
            };
            writeln!(f, "{}", row(&site.site, &label, &bits, &size, &damage(option.damage)))?;
        }
        let bits = self.bits_per_weight().map_or(String::new(), |b| format!("{b:.2}"));
        let size = bytes_short(self.predicted.costs.bytes).replace(' ', "");
        write!(f, "{}", row("total (predicted)", "", &bits, &size, &damage(self.predicted.damage)))?;
        if let Some(share) = self.header.totals.file_share(self.predicted.costs.bytes) {
            let file = self.header.totals.file_bytes(self.predicted.costs.bytes);
            write!(f, "\nwhole file: {file} bytes, {:.2}% of the original", 100.0 * share)?;
        }
        Ok(())
    }
}

/// The differences between two plans as a table of 80 columns; what [`Plan::diff`] returned.
pub fn change_table(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "no differences".to_string();
    }
    let mut out = row("site", "option", "", "size", "damage");
    let mut add = |site: &str, from: &str, old: (u64, f64), to: &str, new: (u64, f64)| {
        let cells = |(bytes, d): (u64, f64)| (bytes_short(bytes).replace(' ', ""), damage(d));
        let ((old_size, old_damage), (new_size, new_damage)) = (cells(old), cells(new));
        let _ = write!(out, "\n{}", row(site, &format!("- {from}"), "", &old_size, &old_damage));
        let _ = write!(out, "\n{}", row("", &format!("+ {to}"), "", &new_size, &new_damage));
    };
    let mut rest = String::new();
    for change in changes {
        match change {
            Change::Choice { site, from, to, bytes, damage } => {
                add(site, from, (bytes[0], damage[0]), to, (bytes[1], damage[1]));
            }
            Change::Repriced { site, label, bytes, damage } => {
                add(site, label, (bytes[0], damage[0]), label, (bytes[1], damage[1]));
            }
            Change::Header { field, from, to } => {
                let _ = write!(rest, "\n{field}: {} -> {}", shorten(from, 30), shorten(to, 30));
            }
            Change::Added { site, label } => {
                let _ = write!(rest, "\n{}", row(site, &format!("+ {label}"), "", "", "added"));
            }
            Change::Removed { site, label } => {
                let _ = write!(rest, "\n{}", row(site, &format!("- {label}"), "", "", "removed"));
            }
        }
    }
    out + &rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan_file::tests::example;

    #[test]
    fn the_table_of_a_plan() {
        let expected = "\
plan for org/\"model\", budget 8.5bpw
site                              choice                 bits    size         kl
layers.0.q_proj                   int4 g64 asym          4.50     36B   1.000e-1
layers.0.k_proj                   int4 g64 asym          4.50     36B   2.000e-1
lm_head                           bf16 (pinned)         16.00    128B    0.000e0
total (predicted)                                        8.33    200B   3.000e-1
whole file: 200 bytes, 33.33% of the original";
        assert_eq!(example().to_string(), expected);
    }

    #[test]
    fn no_line_is_longer_than_eighty_columns() {
        let mut plan = example();
        plan.header.model = "m".repeat(300);
        plan.prices.sites[0].site = "very.long.".repeat(20) + "name";
        plan.prices.sites[1].options[0].label = "label ".repeat(20) + "\n";
        let mut other = plan.clone();
        other.choice[0] = 1;
        other.choice[1] = 1;
        other.header.calibration = "c".repeat(500);
        other.prices.sites[2].site = "x".repeat(90);
        let changes = change_table(&plan.diff(&other));
        for line in plan.to_string().lines().chain(changes.lines()) {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(plan.to_string().contains("…ry.long.very.long.very.long.name"));
        assert_eq!(change_table(&[]), "no differences");
        assert_eq!(changes.lines().count(), 8);
    }
}
