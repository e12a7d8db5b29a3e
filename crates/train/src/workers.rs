//! Several processes that train one model.

pub use trimtab_exchange::State as ExchangeState;

use crate::error::Result;
use crate::gradients::Gradients;

/// The processes of a run. Each sees its share of every step; the module is the same in all.
pub trait Workers {
    /// Number of this process, from 0.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn size(&self) -> usize;

    /// Replaces the gradient of this process by the mean over all of them, weighted by the terms of the loss.
    ///
    /// # Errors
    /// A process that is gone.
    fn exchange(&mut self, gradients: &mut Gradients) -> Result<()>;

    /// Whether that mean is what a compressor leaves of it.
    fn compresses(&self) -> bool {
        false
    }

    /// Replaces numbers by their sums over all processes.
    ///
    /// # Errors
    /// A process that is gone.
    fn sum(&mut self, numbers: &mut [f64]) -> Result<()>;

    /// What every process has to keep of its exchange for a later run, by rank, the same in all. All call it at the same step.
    ///
    /// # Errors
    /// A process that is gone.
    fn save(&mut self) -> Result<Vec<ExchangeState>> {
        Ok(Vec::new())
    }

    /// Takes up what an earlier run of this or another number of processes has saved.
    ///
    /// # Errors
    /// States that do not fit.
    fn load(&mut self, _: &[ExchangeState]) -> Result<()> {
        Ok(())
    }

    /// Bytes of gradients and numbers that this process has sent to others, for this run's report; 0 for one alone.
    fn sent_bytes(&self) -> u64 {
        0
    }
}

/// One process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Workers for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn exchange(&mut self, _: &mut Gradients) -> Result<()> {
        Ok(())
    }

    fn sum(&mut self, _: &mut [f64]) -> Result<()> {
        Ok(())
    }
}

/// The part of `0 .. n` that belongs to one of `size` processes: equal runs in order, the first ones longer by one.
pub(crate) fn share(n: usize, rank: usize, size: usize) -> std::ops::Range<usize> {
    let (run, longer) = (n / size, n % size);
    let start = rank * run + rank.min(longer);
    start..start + run + usize::from(rank < longer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_everything_once() {
        for (n, size) in [(10, 3), (2, 4), (8, 2), (0, 2)] {
            let all: Vec<usize> = (0..size).flat_map(|rank| share(n, rank, size)).collect();
            assert_eq!(all, (0..n).collect::<Vec<_>>());
        }
        assert_eq!(share(10, 0, 3), 0..4);
    }
}
