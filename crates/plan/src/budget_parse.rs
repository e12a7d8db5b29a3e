//! Reading a budget: a small scanner that knows its position, so that errors can point.

use std::fmt;

use crate::budget::{Budget, Term, Unit};
use crate::error::{Error, Result};
use crate::resource::Resource;

/// A non-negative decimal number, exact: `digits · 10^-decimals`, without trailing zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decimal {
    digits: u64,
    decimals: u32,
}

/// More digits than this mean a slip of the finger, and would not fit a float exactly.
const MAX_DIGITS: usize = 15;

impl Decimal {
    /// `⌊self · base / divisor⌋`, saturating. Exact: 10^15 · 2^64 fits 128 bits.
    pub(crate) fn of(self, base: u64, divisor: u64) -> u64 {
        let product = u128::from(self.digits) * u128::from(base);
        let quotient = product / (10u128.pow(self.decimals) * u128::from(divisor));
        u64::try_from(quotient).unwrap_or(u64::MAX)
    }

    /// Reads `12`, `3.5` or `.5`; `None` if `text` is not such a number or too long.
    fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let fraction = fraction.trim_end_matches('0');
        let digits = format!("{whole}{fraction}");
        let significant = digits.trim_start_matches('0');
        let shape_ok = !text.is_empty() && text != "." && text.chars().filter(|c| *c == '.').count() <= 1;
        if !shape_ok || significant.len() > MAX_DIGITS || fraction.len() > MAX_DIGITS {
            return None;
        }
        let digits = if significant.is_empty() { 0 } else { significant.parse().ok()? };
        Some(Self { digits, decimals: fraction.len() as u32 })
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let power = 10u64.pow(self.decimals);
        write!(f, "{}", self.digits / power)?;
        if self.decimals > 0 {
            write!(f, ".{:0width$}", self.digits % power, width = self.decimals as usize)?;
        }
        Ok(())
    }
}

/// Units by resource: symbol and factor in the integer unit. The first spelling is the one printed.
const BYTE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];
const TIME_UNITS: &[(&str, u64)] =
    &[("ns", 1_000), ("us", 1_000_000), ("ms", 1_000_000_000), ("s", 1_000_000_000_000)];
const COUNT_UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("B", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

/// Parses the comma-separated bounds of `text`.
pub(crate) fn parse_budget(text: &str) -> Result<Budget> {
    let mut terms = Vec::new();
    let mut start = 0; // byte offset of the current part
    for part in text.split(',') {
        terms.push(parse_term(text, start, part)?);
        start += part.len() + 1;
    }
    Ok(Budget { terms })
}

fn parse_term(text: &str, start: usize, part: &str) -> Result<Term> {
    let fail = |offset: usize, found: &str, expected: &str| Error::Budget {
        text: text.to_string(),
        position: text[..offset].chars().count() + 1,
        found: if found.is_empty() { "the end".to_string() } else { format!("\"{found}\"") },
        expected: expected.to_string(),
    };
    let body = part.trim();
    let body_at = start + (part.len() - part.trim_start().len());
    let (resource, value, value_at) = match body.split_once('=') {
        None => (Resource::Bytes, body, body_at),
        Some((key, value)) => {
            let resource = Resource::ALL
                .into_iter()
                .find(|r| r.name() == key.trim_end())
                .ok_or_else(|| fail(body_at, key, "one of bytes=, latency=, macs=, params="))?;
            let skipped = value.len() - value.trim_start().len();
            (resource, value.trim_start(), body_at + key.len() + 1 + skipped)
        }
    };
    let number_end = value.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(value.len());
    let (number, symbol) = value.split_at(number_end);
    if number.is_empty() {
        return Err(fail(value_at, value, "a number, such as 3.5"));
    }
    let amount = Decimal::parse(number)
        .ok_or_else(|| fail(value_at, number, "a decimal number of at most 15 digits, such as 3.5"))?;
    if amount.digits == 0 {
        return Err(fail(value_at, number, "a number above zero"));
    }
    let unit_at = value_at + number_end + (symbol.len() - symbol.trim_start().len());
    let unit = find_unit(resource, symbol.trim())
        .ok_or_else(|| fail(unit_at, symbol.trim(), &unit_words(resource)))?;
    Ok(Term { resource, amount, unit })
}

fn units(resource: Resource) -> &'static [(&'static str, u64)] {
    match resource {
        Resource::Bytes => BYTE_UNITS,
        Resource::Latency => TIME_UNITS,
        Resource::Macs | Resource::Params => COUNT_UNITS,
    }
}

/// Units are read in any case, except that byte and count symbols never compete (each resource has its own).
fn find_unit(resource: Resource, symbol: &str) -> Option<Unit> {
    if symbol == "%" {
        return Some(Unit::Percent);
    }
    if resource == Resource::Bytes && symbol.eq_ignore_ascii_case("bpw") {
        return Some(Unit::BitsPerWeight);
    }
    units(resource)
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(symbol))
        .map(|&(symbol, factor)| Unit::Scaled { symbol, factor })
}

fn unit_words(resource: Resource) -> String {
    let names = units(resource).iter().map(|(name, _)| *name).filter(|name| !name.is_empty());
    let first: &[&str] = if resource == Resource::Bytes { &["bpw", "%"] } else { &["%"] };
    let all: Vec<&str> = first.iter().copied().chain(names).collect();
    format!("a unit ({})", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<Budget>().unwrap_err().to_string()
    }

    #[test]
    fn display_is_canonical_and_round_trips() {
        for (text, canonical) in [
            ("3.5bpw", "3.5bpw"),
            ("3.50 bpw", "3.5bpw"),
            ("40%", "40%"),
            (".5%", "0.5%"),
            ("900MB", "900MB"),
            ("900mb", "900MB"),
            ("0.05 GiB , latency = 12 ms", "0.05GiB,latency=12ms"),
            ("bytes=10KiB", "10KiB"),
            ("macs=60%,params=2M", "macs=60%,params=2M"),
            ("params=7b", "params=7B"),
            ("macs=100", "macs=100"),
            ("007B", "7B"),
        ] {
            let budget: Budget = text.parse().unwrap();
            assert_eq!(budget.to_string(), canonical);
            assert_eq!(canonical.parse::<Budget>().unwrap(), budget);
        }
    }

    #[test]
    fn errors_point_at_the_fault() {
        let message = error("3.5bqw");
        assert!(
            message.starts_with("budget \"3.5bqw\": at character 4: expected a unit (bpw, %, B, kB"),
            "{message}"
        );
        assert!(message.contains("found \"bqw\"") && message.contains("hint: examples: 3.5bpw"), "{message}");
        assert!(error("40%, latncy=3ms").contains("at character 6: expected one of bytes="));
        assert!(error("40%,").contains("at character 5: expected a number, such as 3.5, found the end"));
        assert!(error("").contains("at character 1"));
        assert!(
            error("latency=12")
                .contains("at character 11: expected a unit (%, ns, us, ms, s), found the end")
        );
        assert!(error("1.2.3MB").contains("decimal number"));
        assert!(error("0MB").contains("above zero"));
        assert!(error("-3MB").contains("expected a number"));
        assert!(error("é=3").contains("at character 1"));
        assert!(error("12345678901234567890B").contains("at most 15 digits"));
        assert!(error("macs=3bpw").contains("at character 7"));
    }
}
