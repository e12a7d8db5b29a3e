//! The object that a training loop holds: local gradients in, their mean over the ranks out.

use std::collections::BTreeMap;

use crate::adjust::{Adjustment, Window, adjust};
use crate::agreement::{Digest, agree};
use crate::communicator::Communicator;
use crate::compressor::{Compressor, Input, sound};
use crate::dense::dense_mean;
use crate::error::{Error, Result};
use crate::named::{Corrected, Matrix, Named, check, flattened};
use crate::policy::ExchangeConfig;
use crate::state::RESIDUAL;

/// What an exchange has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchanged {
    /// The tensors hold the mean over the ranks, the same bits on all of them.
    Averaged {
        /// Payload bytes that this rank has sent in this step.
        sent_bytes: u64,
        /// Whether levels were decided in this step.
        adjusted: bool,
    },
    /// A gradient was not finite (or beyond 1e30): tensors and residuals are as they were, on every rank, and the step
    /// does not count.
    Skipped {
        /// The ranks whose gradients are at fault; empty if only a sum is out of range.
        ranks: Vec<usize>,
    },
}

/// Averages gradients, compressed where that pays, with error feedback and levels by policy.
///
/// All ranks hold one with the same settings and call it with the same tensors in the same order; then the results are
/// the same bits on all ranks. A group of one compresses as well, so that a run alone sees the same method.
pub struct Exchange {
    pub(crate) config: ExchangeConfig,
    pub(crate) compressor: Option<Box<dyn Compressor>>,
    pub(crate) residuals: BTreeMap<String, Vec<f32>>,
    pub(crate) levels: BTreeMap<String, usize>,
    pub(crate) window: Window,
    pub(crate) last: Option<Adjustment>,
    pub(crate) step: u64,
    pub(crate) skipped: u64,
    pub(crate) sent_bytes: u64,
}

impl Exchange {
    /// Without state.
    ///
    /// # Errors
    /// Settings outside their range.
    pub fn new(config: ExchangeConfig) -> Result<Self> {
        config.family.validate()?;
        config.policy.validate()?;
        Ok(Self {
            compressor: config.family.compressor(config.seed),
            config,
            residuals: BTreeMap::new(),
            levels: BTreeMap::new(),
            window: Window::default(),
            last: None,
            step: 0,
            skipped: 0,
            sent_bytes: 0,
        })
    }

    /// Whether its means are those that a compressor leaves.
    pub fn compresses(&self) -> bool {
        self.compressor.is_some()
    }

    /// Replaces the gradients of this rank by their mean over the ranks.
    ///
    /// # Errors
    /// [`Error::Lost`] or another error of the group; [`Error::Mismatch`] if ranks bring different tensors or stand at
    /// different steps; [`Error::State`] if a tensor has another size than before; shapes that values do not fill, names
    /// that occur twice.
    pub fn exchange(&mut self, tensors: &mut [Named<'_>], comm: &dyn Communicator) -> Result<Exchanged> {
        check(tensors)?;
        let before = comm.sent_bytes();
        let corrected = tensors.iter().map(|t| self.corrected(t)).collect::<Result<Vec<_>>>()?;
        let healthy = corrected.iter().all(|c| sound(&c.values));
        let ranks = agree(self.digest(tensors), healthy, comm)?;
        let (mut adjusted, mut means) = (false, None);
        if ranks.is_empty() {
            adjusted = self.adjust_if_due(&corrected, comm)?;
            means = self.average(&corrected, comm)?;
        }
        let sent_bytes = comm.sent_bytes() - before;
        self.sent_bytes += sent_bytes;
        let Some(means) = means else {
            self.skipped += 1;
            return Ok(Exchanged::Skipped { ranks });
        };
        for (tensor, mean) in tensors.iter_mut().zip(&means) {
            tensor.values.copy_from_slice(mean);
        }
        if comm.rank() == 0 && self.config.policy.schedule().is_some_and(|s| s.observes(self.step)) {
            let compressed = corrected.iter().filter(|c| c.matrix.is_some());
            compressed.for_each(|c| self.window.add(c.name, &c.values));
            self.window.n_steps += 1;
        }
        self.step += 1;
        Ok(Exchanged::Averaged { sent_bytes, adjusted })
    }

    /// The gradient with what earlier steps have left.
    fn corrected<'n>(&self, tensor: &Named<'n>) -> Result<Corrected<'n>> {
        let (n, m) = flattened(tensor.shape);
        let pays = self.config.family.pays(n, m, self.config.min_rate);
        let matrix = pays.then_some(Matrix { name: tensor.name, n, m });
        let mut values = tensor.values.to_vec();
        if let Some(residual) = self.residuals.get(tensor.name) {
            if residual.len() != values.len() {
                return Err(Error::State {
                    name: format!("{RESIDUAL}{}", tensor.name),
                    found: format!("{} values", residual.len()),
                    expected: format!("{}", values.len()),
                });
            }
            values.iter_mut().zip(residual).for_each(|(g, r)| *g += r);
        }
        Ok(Corrected { name: tensor.name, matrix, values })
    }

    /// The means of all tensors; `None`, with nothing changed, if one is out of range. Otherwise residuals are kept.
    fn average(
        &mut self,
        corrected: &[Corrected<'_>],
        comm: &dyn Communicator,
    ) -> Result<Option<Vec<Vec<f32>>>> {
        let plain: Vec<&[f32]> =
            corrected.iter().filter(|c| c.matrix.is_none()).map(|c| &c.values[..]).collect();
        // Before the families: they may change their state, this cannot.
        let Some(dense) = dense_mean(&plain, comm)? else { return Ok(None) };
        let mut inputs = Vec::new();
        for tensor in corrected {
            if let Some(matrix) = &tensor.matrix {
                let (Matrix { name, n, m }, level) = (*matrix, self.level(matrix));
                inputs.push(Input { name, n, m, level, values: &tensor.values });
            }
        }
        let reduced = match &mut self.compressor {
            Some(compressor) if !inputs.is_empty() => compressor.reduce(&inputs, comm)?,
            _ => Some(Vec::new()),
        };
        let Some(reduced) = reduced else { return Ok(None) };
        let (mut dense, mut reduced) = (dense.into_iter(), reduced.into_iter());
        let mut means = Vec::with_capacity(corrected.len());
        for tensor in corrected {
            if tensor.matrix.is_none() {
                means.extend(dense.next());
            } else if let Some(reduced) = reduced.next() {
                means.push(reduced.mean);
                self.residuals.extend(reduced.residual.map(|r| (tensor.name.to_string(), r)));
            }
        }
        Ok(Some(means))
    }

    /// Decides the levels on rank 0 and hands them to all, if it is time.
    fn adjust_if_due(&mut self, corrected: &[Corrected<'_>], comm: &dyn Communicator) -> Result<bool> {
        if !self.config.policy.schedule().is_some_and(|s| s.decides(self.step)) {
            return Ok(false);
        }
        let matrices: Vec<Matrix<'_>> = corrected.iter().filter_map(|c| c.matrix).collect();
        let mut bytes = Vec::new();
        if comm.rank() == 0 {
            let made = adjust(&self.config, self.step, &matrices, &mut self.window)?;
            let decided = made.as_ref().map(|made| &made.levels);
            let level = |m: &Matrix<'_>| {
                decided.and_then(|d| d.get(m.name).copied()).unwrap_or_else(|| self.level(m))
            };
            // Levels are ranks, widths and parts of 10,000: they fit.
            bytes = matrices.iter().flat_map(|m| (level(m) as u32).to_le_bytes()).collect();
            self.last = made;
        }
        comm.broadcast(&mut bytes)?;
        if bytes.len() != 4 * matrices.len() {
            let (found, expected) =
                (format!("{} bytes", bytes.len()), format!("{} bytes", 4 * matrices.len()));
            return Err(Error::Mismatch { what: "levels", rank: 0, found, expected });
        }
        for (matrix, level) in matrices.iter().zip(bytes.chunks_exact(4)) {
            let level = u32::from_le_bytes([level[0], level[1], level[2], level[3]]) as usize;
            self.levels.insert(matrix.name.to_string(), level);
        }
        Ok(true)
    }

    /// The level in force for a compressed tensor.
    fn level(&self, matrix: &Matrix<'_>) -> usize {
        let level = self.levels.get(matrix.name).copied().unwrap_or(self.config.family.level());
        level.min(self.config.family.max_level(matrix.n, matrix.m))
    }

    /// Of all that must be equal on all ranks.
    fn digest(&self, tensors: &[Named<'_>]) -> Digest {
        let mut digest = Digest::new();
        digest.add(format!("{:?} {}", self.config, self.step).as_bytes());
        for tensor in tensors {
            digest.add(tensor.name.as_bytes());
            digest.add(format!("{:?} {:?}", tensor.shape, self.levels.get(tensor.name)).as_bytes());
        }
        digest
    }

    /// Steps exchanged, without skipped ones.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Steps skipped.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Payload bytes that this rank has sent through this exchange, agreement and skipped steps included.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Levels that a policy has decided, by tensor; tensors without one have the uniform level.
    pub fn levels(&self) -> &BTreeMap<String, usize> {
        &self.levels
    }

    /// What is owed of a tensor on this rank, flat; `None` without error feedback or before its first step.
    pub fn residual(&self, name: &str) -> Option<&[f32]> {
        self.residuals.get(name).map(Vec::as_slice)
    }

    /// The last decision about levels, on rank 0, of this process.
    pub fn adjustment(&self) -> Option<&Adjustment> {
        self.last.as_ref()
    }
}
