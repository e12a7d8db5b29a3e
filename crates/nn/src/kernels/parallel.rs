//! Output rows over threads, in chunks whose size does not depend on the number of threads.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

/// Output rows that one task computes.
pub(super) const CHUNK: usize = 32;

/// Multiply-adds below which waking other threads costs more than it saves.
const SERIAL_MACS: usize = 1 << 16;

/// Fills `y` (`[n, rows]`) from `task(first_row, part, scratch)`, which adds to `part` (`[n, rows of the chunk]`, zeros).
pub(super) fn over_rows<S: Send>(
    [rows, cols, n]: [usize; 3],
    y: &mut [f32],
    scratch: impl Fn() -> S + Sync + Send,
    task: impl Fn(usize, &mut [f32], &mut S) + Sync + Send,
) {
    if y.is_empty() {
        return;
    }
    if n == 1 {
        y.fill(0.0);
        return run(rows * cols, CHUNK, y, scratch, task);
    }
    let mut chunks = vec![0.0; rows * n];
    run(rows * cols * n, CHUNK * n, &mut chunks, scratch, task);
    for (i, chunk) in chunks.chunks(CHUNK * n).enumerate() {
        let len = chunk.len() / n;
        for (part, y) in chunk.chunks_exact(len).zip(y.chunks_exact_mut(rows)) {
            y[i * CHUNK..][..len].copy_from_slice(part);
        }
    }
}

fn run<S: Send>(
    macs: usize,
    len: usize,
    out: &mut [f32],
    scratch: impl Fn() -> S + Sync + Send,
    task: impl Fn(usize, &mut [f32], &mut S) + Sync + Send,
) {
    if macs < SERIAL_MACS || out.len() <= len {
        let mut scratch = scratch();
        out.chunks_mut(len).enumerate().for_each(|(i, part)| task(i * CHUNK, part, &mut scratch));
    } else {
        out.par_chunks_mut(len)
            .enumerate()
            .for_each_init(&scratch, |scratch, (i, part)| task(i * CHUNK, part, scratch));
    }
}

thread_local! {
    /// Whether this thread runs, or looks for, the steps of [`awake`].
    static ENGAGED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on a worker of the pool while the other workers look for its parallel steps without ever sleeping.
///
/// For work that is many short steps, such as one token of a text: a sleeping worker takes longer to wake than such a step
/// takes to run.
pub fn awake<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let done = AtomicBool::new(false);
    rayon::scope(|scope| {
        // Not twice on one thread: a worker that waits for a step takes up whatever is pending, and would look for work
        // on top of the step that it is to finish.
        let engaged = Engaged::new();
        for _ in 1..rayon::current_num_threads() {
            scope.spawn(|_| {
                let Some(_engaged) = Engaged::new() else { return };
                while !done.load(Ordering::Acquire) {
                    if rayon::yield_now() != Some(rayon::Yield::Executed) {
                        std::hint::spin_loop();
                    }
                }
            });
        }
        // Also when `work` panics.
        let _stop = Stop(&done);
        let out = work();
        drop(engaged);
        out
    })
}

struct Engaged;

impl Engaged {
    /// `None` if this thread is engaged already.
    fn new() -> Option<Self> {
        (!ENGAGED.replace(true)).then_some(Self)
    }
}

impl Drop for Engaged {
    fn drop(&mut self) {
        ENGAGED.set(false);
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_many_steps_ends_on_any_number_of_threads_nested_or_panicking() {
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let sum =
                || (0..200u64).map(|i| (0..64).into_par_iter().map(|j| i * j).sum::<u64>()).sum::<u64>();
            let expected = 199 * 100 * 63 * 32;
            assert_eq!(pool.install(|| awake(sum)), expected);
            let nested: Vec<u64> = pool.install(|| (0..6).into_par_iter().map(|_| awake(sum)).collect());
            assert_eq!(nested, [expected; 6]);
            let panicked = pool.install(|| std::panic::catch_unwind(|| awake(|| panic!("as it should"))));
            assert!(panicked.is_err());
            assert_eq!(pool.install(|| awake(sum)), expected, "after a panic");
        }
        assert_eq!(awake(|| 7), 7, "from outside of the pool");
    }
}
