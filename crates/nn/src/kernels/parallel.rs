//! Output rows over threads, in chunks whose size does not depend on the number of threads.

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
