//! QSGD: quantized gradients by scatter, reduce and all-gather.
//!
//! Quantized numbers cannot be summed on the way. Every matrix is therefore cut into one chunk a rank, along buckets;
//! each rank quantizes the foreign chunks for their owners; an owner decodes and averages them with its own, exact
//! chunk, quantizes the mean, and **decodes that same payload itself**, so that all ranks hold the same bits.
//!
//! Error feedback (an option): a rank keeps what the first quantization lost of its foreign chunks, and an owner keeps
//! `N` times what the second one lost of the mean. Then the mean of the residuals plus the result is the exact mean of
//! the inputs; without the owner's part it is not.

use serde::{Deserialize, Serialize};
use trimtab_math::random::Stream;

use crate::communicator::{Communicator, divide, owned_range};
use crate::compressor::{Compressor, Input, Reduced, at_end, unless_out_of_range};
use crate::error::Result;
use crate::quantizer::{BUCKET, Rounding, decode, encode};
use crate::state::State;

/// How codes are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoundingMode {
    /// To the nearest code.
    #[default]
    Nearest,
    /// At random, without bias.
    Stochastic,
}

/// The family; the number of steps names its random streams.
#[derive(Clone, Debug)]
pub struct Qsgd {
    seed: u64,
    rounding: RoundingMode,
    error_feedback: bool,
    step: u64,
}

impl Qsgd {
    /// `seed` must be the same on all ranks (each draws from streams of its own).
    pub fn new(seed: u64, rounding: RoundingMode, error_feedback: bool) -> Self {
        Self { seed, rounding, error_feedback, step: 0 }
    }

    /// Appends the payload of one chunk. Streams are named by stage, tensor, step and the pair of ranks.
    fn encode(
        &self,
        chunk: &[f32],
        input: &Input<'_>,
        stage: &str,
        pair: u64,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        match self.rounding {
            RoundingMode::Nearest => encode(chunk, input.level, Rounding::Nearest, out),
            RoundingMode::Stochastic => {
                let purpose = format!("exchange/qsgd/{stage}/{}", input.name);
                let mut stream = Stream::new(self.seed, &purpose, self.step, pair);
                encode(chunk, input.level, Rounding::Stochastic(&mut stream), out)
            }
        }
    }
}

/// The numbers of a matrix of `len` that `rank` owns: whole buckets.
fn chunk(len: usize, rank: usize, size: usize) -> std::ops::Range<usize> {
    let buckets = owned_range(len.div_ceil(BUCKET), rank, size);
    (buckets.start * BUCKET).min(len)..(buckets.end * BUCKET).min(len)
}

impl Compressor for Qsgd {
    fn reduce(&mut self, inputs: &[Input<'_>], comm: &dyn Communicator) -> Result<Option<Vec<Reduced>>> {
        let (rank, size) = (comm.rank(), comm.size());
        let own = |i: &Input<'_>| chunk(i.values.len(), rank, size);

        // Scatter: foreign chunks to their owners.
        let mut parts: Vec<Vec<u8>> = vec![Vec::new(); size];
        let mut residuals: Vec<Vec<f32>> = inputs.iter().map(|i| vec![0.0; i.values.len()]).collect();
        for (input, residual) in inputs.iter().zip(&mut residuals) {
            for owner in (0..size).filter(|&owner| owner != rank) {
                let range = chunk(input.values.len(), owner, size);
                let start = parts[owner].len();
                let pair = (rank * size + owner) as u64;
                self.encode(&input.values[range.clone()], input, "scatter", pair, &mut parts[owner])?;
                let (sent, _) = decode(&parts[owner][start..], range.len(), input.level, input.name)?;
                for ((r, x), y) in residual[range.clone()].iter_mut().zip(&input.values[range]).zip(sent) {
                    *r = x - y;
                }
            }
        }
        let received = comm.all_to_all(parts)?;

        // Reduce: the mean of the own chunks, in the order of the ranks.
        let mut means: Vec<Vec<f32>> = inputs.iter().map(|i| vec![0.0; own(i).len()]).collect();
        for (from, bytes) in received.iter().enumerate() {
            let mut rest = bytes.as_slice();
            for (input, mean) in inputs.iter().zip(&mut means) {
                let theirs = if from == rank {
                    input.values[own(input)].to_vec()
                } else {
                    let (decoded, later) = decode(rest, mean.len(), input.level, input.name)?;
                    rest = later;
                    decoded
                };
                mean.iter_mut().zip(theirs).for_each(|(sum, x)| *sum += x);
            }
            at_end(rest, "qsgd", inputs)?;
        }
        means.iter_mut().for_each(|mean| divide(mean, size));

        // All-gather: the quantized means, decoded by everyone.
        let mut payload = Vec::new();
        for (input, mean) in inputs.iter().zip(&means) {
            self.encode(mean, input, "gather", rank as u64, &mut payload)?;
        }
        let gathered = comm.all_gather(&payload)?;
        let mut results: Vec<Vec<f32>> = inputs.iter().map(|i| vec![0.0; i.values.len()]).collect();
        for (owner, bytes) in gathered.iter().enumerate() {
            let mut rest = bytes.as_slice();
            for (input, result) in inputs.iter().zip(&mut results) {
                let range = chunk(input.values.len(), owner, size);
                let (decoded, later) = decode(rest, range.len(), input.level, input.name)?;
                result[range].copy_from_slice(&decoded);
                rest = later;
            }
            at_end(rest, "qsgd", inputs)?;
        }
        for (((input, residual), mean), result) in inputs.iter().zip(&mut residuals).zip(&means).zip(&results)
        {
            let range = own(input);
            for ((r, x), y) in residual[range.clone()].iter_mut().zip(mean).zip(&result[range]) {
                *r = size as f32 * (x - y);
            }
        }
        let feedback = |residual| self.error_feedback.then_some(residual);
        let reduced = results.into_iter().zip(residuals);
        let reduced =
            reduced.map(|(mean, residual)| Reduced { mean, residual: feedback(residual) }).collect();
        let reduced = unless_out_of_range(reduced);
        self.step += u64::from(reduced.is_some());
        Ok(reduced)
    }

    fn save(&self, state: &mut State) {
        state.counters.insert("qsgd/step".to_string(), self.step);
    }

    fn load(&mut self, state: &State) -> Result<()> {
        self.step = state.counter("qsgd/step")?;
        Ok(())
    }
}
