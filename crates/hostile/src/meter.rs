//! What a call costs: time, and memory that its thread asked for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt;
use std::time::{Duration, Instant};

/// The system's allocator, counting.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    // Without a destructor and a lazy start, so that the allocator may touch them at any time. Tests run beside each
    // other: a count of the whole process would blame one for the memory of another.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    let held = HELD.get() + change;
    HELD.set(held);
    if held > PEAK.get() {
        PEAK.set(held);
    }
}

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the promises of this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the promises of this function.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps the promises of this function.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller keeps the promises of this function.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What a call took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// By the clock.
    pub time: Duration,
    /// Most bytes held at once, beyond those held before. Mapped files are not among them, nor what other threads hold.
    pub bytes: u64,
}

/// Runs `call` and says what it took.
pub fn cost<T>(call: impl FnOnce() -> T) -> (T, Cost) {
    let before = HELD.get();
    PEAK.set(before);
    let start = Instant::now();
    let result = call();
    let time = start.elapsed();
    (result, Cost { time, bytes: (PEAK.get() - before) as u64 })
}

/// What a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// By the clock.
    pub time: Duration,
    /// Held at once.
    pub bytes: u64,
}

/// What a call took too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// It was too slow, twice.
    Slow {
        /// The better of its times.
        time: Duration,
        /// What is allowed.
        limit: Duration,
    },
    /// It held too much.
    Large {
        /// Bytes.
        bytes: u64,
        /// What is allowed.
        limit: u64,
    },
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slow { time, limit } => write!(f, "{time:?} at its best, {limit:?} are allowed"),
            Self::Large { bytes, limit } => write!(f, "{bytes} bytes are held at once, {limit} are allowed"),
        }
    }
}

impl Limits {
    /// For one input of a few kilobytes, however damaged.
    pub const INPUT: Self = Self { time: Duration::from_secs(1), bytes: 1_000_000_000 };

    /// Runs `call` and refuses its result if it cost more. A slow call gets a second chance, because whatever else the
    /// machine does counts too; memory does not depend on that.
    ///
    /// # Errors
    /// [`Excess`], with what it took.
    pub fn hold<T>(&self, call: impl Fn() -> T) -> Result<T, Excess> {
        let (mut result, mut took) = cost(&call);
        if took.time > self.time {
            let (again, second) = cost(&call);
            (result, took) =
                (again, Cost { time: took.time.min(second.time), bytes: took.bytes.max(second.bytes) });
        }
        match took {
            Cost { bytes, .. } if bytes > self.bytes => Err(Excess::Large { bytes, limit: self.bytes }),
            Cost { time, .. } if time > self.time => Err(Excess::Slow { time, limit: self.time }),
            _ => Ok(result),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_that_is_held_at_once_counts() {
        let small = |n: usize| Vec::<u8>::with_capacity(n);
        let (_, took) = cost(|| (0..10).map(|_| small(1000).capacity()).sum::<usize>());
        assert_eq!(took.bytes, 1000, "one after the other");
        let (kept, took) = cost(|| [small(1000), small(500)]);
        assert_eq!(took.bytes, 1500, "together");
        drop(kept);
        let (_, took) = cost(|| {
            let mut grown = small(100);
            grown.reserve_exact(5000);
            vec![0u8; 70].len()
        });
        assert_eq!(took.bytes, 5070, "grown and zeroed");
    }

    #[test]
    fn too_large_is_seen() {
        // Never touched, so that the machine need not have it.
        let large = || Vec::<u8>::with_capacity(1_000_000_001).capacity();
        let excess = Limits::INPUT.hold(large).unwrap_err();
        assert_eq!(excess, Excess::Large { bytes: 1_000_000_001, limit: 1_000_000_000 });
        assert!(Limits::INPUT.hold(|| Vec::<u8>::with_capacity(999_999_999).capacity()).is_ok());
    }

    #[test]
    fn too_slow_is_seen_at_the_second_time() {
        let limits = Limits { time: Duration::from_millis(300), ..Limits::INPUT };
        let calls = Cell::new(0);
        let slow = |times: u32| {
            calls.set(0);
            limits.hold(|| {
                calls.set(calls.get() + 1);
                if calls.get() <= times {
                    std::thread::sleep(limits.time + Duration::from_millis(1));
                }
            })
        };
        assert!(matches!(slow(9), Err(Excess::Slow { .. })));
        assert_eq!(calls.get(), 2);
        assert_eq!(slow(1), Ok(()), "a busy moment is forgiven");
        assert_eq!(slow(0), Ok(()));
        assert_eq!(calls.get(), 1);
    }
}
