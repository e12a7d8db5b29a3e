//! What this process really used, as the operating system counts it.

/// A field of `/proc/self/status`, in bytes; `None` where there is none (other systems than Linux).
fn status(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Largest memory that the process has had so far, in bytes.
pub fn peak_memory_bytes() -> Option<u64> {
    status("VmHWM")
}

/// Memory now that no file stands behind, in bytes.
pub fn anonymous_memory_bytes() -> Option<u64> {
    status("RssAnon")
}
