//! How good a network is, and how far a treated one is from its original.

use rayon::prelude::*;

pub mod divergence;
pub mod error;
pub mod fidelity;
pub mod images;
pub mod information;
pub mod language;
pub mod pairs;
pub mod rows;

pub use divergence::{Divergence, Measure, Reference};
pub use error::{Error, Result};
pub use language::{LanguageScore, Windows};

/// Called after every batch with the items done and the items in all.
pub type Progress<'p> = &'p mut dyn FnMut(usize, usize);

/// Runs `f` over items on all threads, a few items at a time, and tells after each portion how many are done. Results are
/// in order, so that sums over them are the same at any number of threads.
pub fn on_all_threads<T: Sync, R: Send, E: Send>(
    items: &[T],
    mut done: impl FnMut(usize),
    f: impl Fn(&T) -> std::result::Result<R, E> + Sync,
) -> std::result::Result<Vec<R>, E> {
    let mut results = Vec::with_capacity(items.len());
    for portion in items.chunks(2 * rayon::current_num_threads()) {
        results.extend(portion.par_iter().map(&f).collect::<std::result::Result<Vec<R>, E>>()?);
        done(results.len());
    }
    Ok(results)
}
