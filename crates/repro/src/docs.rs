//! Renders `docs/papers.md` from the rows of the registry.

use crate::experiment::Verdict;
use crate::papers::Family;
use crate::registry::Row;

const HEAD: &str = "\
# Papers

The 99 papers whose methods Trimtab is made of, with the verdict on each one's claim. The claim is the paper's; the
verdict, the figure and the scale are this project's. This page is rendered from the registry in `crates/repro`:
`trimtab reproduce --list` lists the same rows, and `UPDATE_DOCS=1 cargo test --release -p trimtab-repro` rewrites it.

| verdict | meaning |
|---|---|
| reproduced | the claim held at the stated scale, by a rule written down before the run |
| partly | part of the claim held |
| not reproduced | the claim did not hold at the stated scale |
| not run | an experiment exists, no measurement is recorded |
| absent | no experiment exists |
";

/// The whole of `docs/papers.md`.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let mut page = HEAD.to_owned();
    page.push_str(&format!("\n{}\n", count(rows)));
    for family in Family::ALL {
        page.push_str(&format!(
            "\n## {family}\n\n| # | paper | claim | verdict | figure | scale |\n|---|---|---|---|---|---|\n"
        ));
        for row in rows.iter().filter(|row| row.family == family) {
            page.push_str(&line(row));
        }
    }
    page
}

/// How many papers have each verdict that occurs.
fn count(rows: &[Row]) -> String {
    let counts: Vec<String> = Verdict::ALL
        .iter()
        .map(|verdict| (verdict, rows.iter().filter(|row| row.verdict == *verdict).count()))
        .filter(|(_, n)| *n > 0)
        .map(|(verdict, n)| format!("{n} {verdict}"))
        .collect();
    format!("Of {} papers: {}.", rows.len(), counts.join(", "))
}

/// One row of a family's table.
fn line(row: &Row) -> String {
    let of = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), cell);
    format!(
        "| {} | `{}` {}. {} | {} | {} | {} | {} |\n",
        row.number,
        row.name,
        cell(row.title),
        cell(row.venue),
        cell(row.claim),
        row.verdict,
        of(&row.figure),
        of(&row.scale)
    )
}

/// Text that cannot end a table cell or its line.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::registry::{self, tests::sample_rows};

    /// One-based number and both texts of the first line that differs; a missing line is empty.
    fn first_difference<'a>(found: &'a str, expected: &'a str) -> Option<(usize, &'a str, &'a str)> {
        let (found, expected): (Vec<&str>, Vec<&str>) =
            (found.split('\n').collect(), expected.split('\n').collect());
        let n = (0..found.len().max(expected.len())).find(|&n| found.get(n) != expected.get(n))?;
        let line = |lines: &[&'a str]| lines.get(n).copied().unwrap_or_default();
        Some((n + 1, line(&found), line(&expected)))
    }

    #[test]
    fn the_page_in_docs_is_the_rendered_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/papers.md");
        let expected = render(&registry::all());
        if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &expected).unwrap();
        }
        let found = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}\nhint: UPDATE_DOCS=1 writes it", path.display()));
        if let Some((n, found, expected)) = first_difference(&found, &expected) {
            panic!(
                "docs/papers.md:{n}: found {found:?}, expected {expected:?}\nhint: UPDATE_DOCS=1 rewrites it"
            );
        }
    }

    #[test]
    fn a_changed_page_is_noticed() {
        let page = render(&sample_rows());
        assert_eq!(first_difference(&page, &page), None);
        let changed = page.replace("| partly | 1.0", "| reproduced | 1.0");
        assert!(first_difference(&changed, &page).is_some());
        assert!(first_difference(page.trim_end(), &page).is_some());
        assert!(first_difference("", &page).is_some());
    }

    #[test]
    fn every_paper_has_a_row_of_six_cells() {
        let page = render(&sample_rows());
        for row in sample_rows() {
            let start = format!("| {} | `{}` ", row.number, row.name);
            let lines: Vec<&str> = page.lines().filter(|line| line.starts_with(&start)).collect();
            let [line] = lines[..] else { panic!("{start}: {} rows", lines.len()) };
            assert_eq!(line.replace("\\|", "").matches('|').count(), 7, "{line}");
        }
        assert!(page.contains("| partly | 1.0 \\| 2.0 | 3 seeds |\n"));
        assert!(page.contains("Of 99 papers: 97 absent, 1 not run, 1 partly.\n"));
    }
}
