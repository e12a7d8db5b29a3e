//! Numbers and tables as people read them.

/// `1.2 s`, `3 min 20 s`.
pub fn seconds(s: f64) -> String {
    if s < 100.0 { format!("{s:.1} s") } else { format!("{} min {} s", s as u64 / 60, s as u64 % 60) }
}

/// `1.23 MB` in powers of ten, as disks are sold.
pub fn bytes(n: u64) -> String {
    let value = n as f64;
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} MB", value / 1e6),
        _ => format!("{:.2} GB", value / 1e9),
    }
}

/// Three significant digits, without an exponent where a person needs none.
pub fn number(x: f64) -> String {
    match x.abs() {
        a if !a.is_finite() => "–".into(),
        0.0 => "0".into(),
        a if !(1e-5..1e6).contains(&a) => format!("{x:.2e}"),
        a => {
            let digits = (2 - a.log10().floor() as i32).max(0);
            format!("{x:.*}", digits as usize)
        }
    }
}

/// A share as percent: `0.012 %`, `3.2 %`, `41 %`.
pub fn percent(share: f64) -> String {
    match 100.0 * share {
        p if !p.is_finite() => "–".into(),
        0.0 => "0 %".into(),
        p if p.abs() < 0.1 => format!("{p:.3} %"),
        p if p.abs() < 10.0 => format!("{p:.1} %"),
        p => format!("{p:.0} %"),
    }
}

/// At most `width` characters: the end of a name tells more than its beginning.
pub fn shorten(name: &str, width: usize) -> String {
    // A control character would break the line.
    let clean: Vec<char> = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match clean.len() {
        n if n <= width => clean.into_iter().collect(),
        n => std::iter::once('…').chain(clean[n + 1 - width..].iter().copied()).collect(),
    }
}

/// Lines up columns: the first to the left, the others to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        rows.iter().filter_map(|row| row.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(c, (cell, &w))| match c {
            0 => format!("{cell:<w$}"),
            _ => format!("{cell:>w$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = vec![vec!["a".into(), "bytes".into()], vec!["long name".into(), "7".into()]];
        assert_eq!(table(&rows), "a          bytes\nlong name      7\n");
    }

    #[test]
    fn units_are_readable() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_234_567), "1.23 MB");
        assert_eq!(seconds(200.0), "3 min 20 s");
        assert_eq!(number(0.025341), "0.0253");
        assert_eq!(number(1234.5), "1234");
        assert_eq!(number(0.0), "0");
        assert_eq!(number(1.5e-7), "1.50e-7");
        assert_eq!(percent(0.0312), "3.1 %");
        assert_eq!(percent(0.5), "50 %");
        assert_eq!(percent(0.000123), "0.012 %");
        assert_eq!(percent(0.0), "0 %");
        assert_eq!(shorten("model.layers.0", 9), "…layers.0");
        assert_eq!(shorten("a\nb", 9), "a b");
    }
}
