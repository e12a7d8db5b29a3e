//! Numbers as people read them: bytes, seconds, counts.

/// `1234567 bytes (1.23 MB)`: exact first, short form after it.
pub(crate) fn bytes_exact(bytes: u64) -> String {
    if bytes < 1000 { format!("{bytes} bytes") } else { format!("{bytes} bytes ({})", bytes_short(bytes)) }
}

/// `1.23 MB`, decimal prefixes, three digits.
pub(crate) fn bytes_short(bytes: u64) -> String {
    prefixed(bytes as f64, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// `2.00 M`, decimal prefixes, three digits; plain below a thousand.
pub(crate) fn count_short(count: u64) -> String {
    prefixed(count as f64, &["", "k", "M", "G", "T", "P", "E"]).trim_end().to_string()
}

/// `12.0 ms`, three digits.
pub(crate) fn seconds_short(seconds: f64) -> String {
    for (unit, scale) in [("s", 1.0), ("ms", 1e3), ("us", 1e6)] {
        if seconds.abs() * scale >= 1.0 {
            return format!("{} {unit}", three_digits(seconds * scale));
        }
    }
    format!("{} ns", three_digits(seconds * 1e9))
}

/// Decimal text of the smallest multiple of `10^-digits` that is not below `value`, without trailing zeros:
/// a limit printed this way still admits `value`.
pub(crate) fn ceil_to(value: f64, digits: usize) -> String {
    let scale = 10f64.powi(digits as i32);
    // One part in 10^12 absorbs the rounding of the division that made `value`.
    let text = format!("{:.digits$}", (value * scale * (1.0 - 1e-12)).ceil() / scale);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

fn prefixed(value: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut at = 0;
    // 999.5 would print as 1000: move on to the next prefix.
    while value >= 999.5 && at + 1 < units.len() {
        value /= 1000.0;
        at += 1;
    }
    if at == 0 { format!("{value} {}", units[at]) } else { format!("{} {}", three_digits(value), units[at]) }
}

fn three_digits(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_cases() {
        assert_eq!(bytes_short(999), "999 B");
        assert_eq!(bytes_short(999_600), "1.00 MB");
        assert_eq!(bytes_exact(1_234_567), "1234567 bytes (1.23 MB)");
        assert_eq!(bytes_exact(12), "12 bytes");
        assert_eq!(count_short(2_000_000), "2.00 M");
        assert_eq!(count_short(7), "7");
        assert_eq!(seconds_short(0.012), "12.0 ms");
        assert_eq!(seconds_short(3e-9), "3.00 ns");
        assert_eq!(bytes_short(u64::MAX), "18.4 EB");
    }

    #[test]
    fn ceil_to_never_falls_below() {
        assert_eq!(ceil_to(2.25, 4), "2.25");
        assert_eq!(ceil_to(2.250_01, 4), "2.2501");
        assert_eq!(ceil_to(3.0, 2), "3");
        assert_eq!(ceil_to(10.0, 0), "10");
        for i in 1..1000u32 {
            let value = f64::from(i) / 7.0;
            let back: f64 = ceil_to(value, 4).parse().unwrap();
            assert!(back >= value * (1.0 - 1e-12) && back - value < 1.01e-4);
        }
    }
}
