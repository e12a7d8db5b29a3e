//! What this process really used, as the operating system counts it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A field of `/proc/self/status`, in bytes; `None` where there is none (other systems than Linux).
fn status(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Largest memory that the process has had so far, in bytes. Pages of mapped files count, though the system takes
/// them back whenever it needs them.
pub fn peak_memory_bytes() -> Option<u64> {
    status("VmHWM")
}

/// Largest [`anonymous_memory_bytes`] seen by [`watch_memory`].
static PEAK: AtomicU64 = AtomicU64::new(0);
/// The same since [`forget_recent_peak`].
static RECENT: AtomicU64 = AtomicU64::new(0);

/// From now on, looks at the memory of this process every few milliseconds.
pub fn watch_memory() {
    let look = || {
        while let Some(bytes) = anonymous_memory_bytes() {
            PEAK.fetch_max(bytes, Ordering::Relaxed);
            RECENT.fetch_max(bytes, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    // Without the watch, the peak is what the last look sees.
    let _ = std::thread::Builder::new().name("memory".into()).stack_size(64 << 10).spawn(look);
}

/// Largest memory without files behind it that was seen so far, in bytes: what [`crate::memory::predict`] predicts.
pub fn peak_anonymous_bytes() -> Option<u64> {
    anonymous_memory_bytes().map(|now| PEAK.fetch_max(now, Ordering::Relaxed).max(now))
}

/// Begins a new part of the run for [`recent_peak_anonymous_bytes`].
pub fn forget_recent_peak() {
    RECENT.store(0, Ordering::Relaxed);
}

/// [`peak_anonymous_bytes`] since [`forget_recent_peak`].
pub fn recent_peak_anonymous_bytes() -> Option<u64> {
    anonymous_memory_bytes().map(|now| RECENT.fetch_max(now, Ordering::Relaxed).max(now))
}

/// Memory now that no file stands behind, in bytes.
pub fn anonymous_memory_bytes() -> Option<u64> {
    status("RssAnon")
}

/// The most memory that this process can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes.
    pub bytes: u64,
    /// What sets it, for messages.
    pub set_by: &'static str,
}

/// The lowest of the limits that are known here: of the process, of its control group, of the machine.
pub fn memory_limit() -> Option<MemoryLimit> {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let limits = read(Path::new("/proc/self/limits"));
    let of_process = ["Max address space", "Max data size"].into_iter().filter_map(|name| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
        let bytes = line.split_whitespace().next()?.parse().ok()?;
        Some(MemoryLimit { bytes, set_by: "ulimit" })
    });
    // Version 2: the file of the group and those of the groups around it; "max" is no number, hence no limit.
    let groups = read(Path::new("/proc/self/cgroup"));
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let of_groups = Path::new("/sys/fs/cgroup")
        .join(group)
        .ancestors()
        .take_while(|folder| folder.starts_with("/sys/fs/cgroup"))
        .filter_map(|folder| read(&folder.join("memory.max")).trim().parse().ok())
        .map(|bytes| MemoryLimit { bytes, set_by: "control group" })
        .collect::<Vec<_>>();
    let machine = read(Path::new("/proc/meminfo")).lines().find_map(|line| {
        let kilobytes: u64 = line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok()?;
        Some(MemoryLimit { bytes: kilobytes * 1024, set_by: "machine" })
    });
    of_process.chain(of_groups).chain(machine).min_by_key(|limit| limit.bytes)
}
