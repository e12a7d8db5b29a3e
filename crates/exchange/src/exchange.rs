//! The object that a training loop holds: local gradients in, their mean over the ranks out.

use std::collections::{BTreeMap, BTreeSet};

use crate::adjust::{Adjustment, Window, adjust};
use crate::agreement::{Digest, agree};
use crate::communicator::Communicator;
use crate::compressor::{Compressor, Input, sound};
use crate::dense::dense_mean;
use crate::error::{Error, Result};
use crate::policy::ExchangeConfig;
use crate::state::{RESIDUAL, State};

/// A tensor of the model and its gradient on this rank.
#[derive(Debug)]
pub struct Named<'a> {
    /// Name, unique, the same on all ranks; state is kept under it.
    pub name: &'a str,
    /// Shape. All axes but the first are taken as one: a matrix `[n, m]`.
    pub shape: &'a [usize],
    /// In: gradient of this rank, the mean over its samples. Out: mean over the ranks.
    pub values: &'a mut [f32],
}

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
    /// A gradient was not finite (or beyond 1e30): nothing is changed, on no rank, and the step does not count.
    Skipped {
        /// The ranks whose gradients are at fault; empty if only their sum is out of range.
        ranks: Vec<usize>,
    },
}

/// A tensor that is compressed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    pub(crate) name: &'a str,
    pub(crate) n: usize,
    pub(crate) m: usize,
}

/// Averages gradients, compressed where that pays, with error feedback and levels by policy.
///
/// All ranks hold one with the same settings and call it with the same tensors in the same order; then the results are
/// the same bits on all ranks. A group of one compresses as well, so that a run alone sees the same method.
pub struct Exchange {
    config: ExchangeConfig,
    compressor: Option<Box<dyn Compressor>>,
    residuals: BTreeMap<String, Vec<f32>>,
    levels: BTreeMap<String, usize>,
    window: Window,
    last: Option<Adjustment>,
    step: u64,
    skipped: u64,
    sent_bytes: u64,
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

    /// Replaces the gradients of this rank by their mean over the ranks.
    ///
    /// # Errors
    /// [`Error::Lost`] or another error of the group; [`Error::Mismatch`] if ranks bring different tensors or stand at
    /// different steps; shapes that values do not fill, names that occur twice.
    pub fn exchange(&mut self, tensors: &mut [Named<'_>], comm: &dyn Communicator) -> Result<Exchanged> {
        check(tensors)?;
        let sent_before = comm.sent_bytes();
        let matrix = |t: &Named<'_>| -> Option<(usize, usize)> {
            let (n, m) = flattened(t.shape);
            self.config.family.pays(n, m, self.config.min_rate).then_some((n, m))
        };
        let shapes: Vec<Option<(usize, usize)>> = tensors.iter().map(matrix).collect();
        let corrected: Vec<Vec<f32>> = tensors.iter().map(|t| self.corrected(t)).collect();

        let healthy = corrected.iter().all(|values| sound(values));
        let ranks = agree(self.digest(tensors), healthy, comm)?;
        if !ranks.is_empty() {
            return Ok(self.skip(ranks, comm.sent_bytes() - sent_before));
        }

        let named = tensors.iter().zip(&shapes);
        let matrices: Vec<Matrix<'_>> =
            named.filter_map(|(t, s)| s.map(|(n, m)| Matrix { name: t.name, n, m })).collect();
        let adjusted = self.config.policy.schedule().is_some_and(|s| s.decides(self.step));
        if adjusted {
            self.adjust(&matrices, comm)?;
        }

        let input = |((t, s), values): ((&Named<'_>, &Option<(usize, usize)>), &Vec<f32>)| {
            s.map(|(n, m)| (t.name.to_string(), n, m, self.level(t.name, n, m), values.clone()))
        };
        let owned: Vec<_> = tensors.iter().zip(&shapes).zip(&corrected).filter_map(input).collect();
        let inputs: Vec<Input<'_>> = owned
            .iter()
            .map(|(name, n, m, level, values)| Input { name, n: *n, m: *m, level: *level, values })
            .collect();
        let plain = corrected.iter().zip(&shapes).filter(|(_, s)| s.is_none());
        let plain: Vec<&[f32]> = plain.map(|(values, _)| values.as_slice()).collect();

        // Nothing is kept or written before both parts are known to be in range.
        let dense = dense_mean(&plain, comm)?;
        let Some(dense) = dense else { return Ok(self.skip(Vec::new(), comm.sent_bytes() - sent_before)) };
        let reduced = match &mut self.compressor {
            Some(compressor) if !inputs.is_empty() => compressor.reduce(&inputs, comm)?,
            _ => Some(Vec::new()),
        };
        let Some(reduced) = reduced else {
            return Ok(self.skip(Vec::new(), comm.sent_bytes() - sent_before));
        };

        if comm.rank() == 0 && self.config.policy.schedule().is_some_and(|s| s.observes(self.step)) {
            inputs.iter().for_each(|input| self.window.add(input.name, input.values));
            self.window.n_steps += 1;
        }
        let (mut dense, mut reduced) = (dense.into_iter(), reduced.into_iter());
        for (tensor, shape) in tensors.iter_mut().zip(&shapes) {
            let mean = match shape {
                None => dense.next(),
                Some(_) => reduced.next().map(|r| {
                    if let Some(residual) = r.residual {
                        self.residuals.insert(tensor.name.to_string(), residual);
                    }
                    r.mean
                }),
            };
            if let Some(mean) = mean {
                tensor.values.copy_from_slice(&mean);
            }
        }
        self.step += 1;
        let sent_bytes = comm.sent_bytes() - sent_before;
        self.sent_bytes += sent_bytes;
        Ok(Exchanged::Averaged { sent_bytes, adjusted })
    }

    /// Decides the levels on rank 0 and hands them to all.
    fn adjust(&mut self, matrices: &[Matrix<'_>], comm: &dyn Communicator) -> Result<()> {
        let mut bytes = Vec::new();
        if comm.rank() == 0 {
            let made = adjust(&self.config, self.step, matrices, &self.levels, &mut self.window)?;
            let level = |m: &Matrix<'_>| match &made {
                Some(made) if made.levels.contains_key(m.name) => made.levels[m.name],
                _ => self.level(m.name, m.n, m.m),
            };
            bytes = matrices.iter().flat_map(|m| (level(m) as u32).to_le_bytes()).collect();
            self.last = made;
        }
        comm.broadcast(&mut bytes)?;
        if bytes.len() != 4 * matrices.len() {
            let (found, expected) = (format!("{} bytes", bytes.len()), format!("{}", 4 * matrices.len()));
            return Err(Error::Mismatch { what: "levels", rank: 0, found, expected });
        }
        for (matrix, level) in matrices.iter().zip(bytes.chunks_exact(4)) {
            let level = u32::from_le_bytes([level[0], level[1], level[2], level[3]]) as usize;
            self.levels.insert(matrix.name.to_string(), level);
        }
        Ok(())
    }

    /// The gradient with what earlier steps have left.
    fn corrected(&self, tensor: &Named<'_>) -> Vec<f32> {
        match self.residuals.get(tensor.name) {
            Some(residual) if residual.len() == tensor.values.len() => {
                tensor.values.iter().zip(residual).map(|(g, r)| g + r).collect()
            }
            _ => tensor.values.to_vec(),
        }
    }

    /// The level in force for a compressed tensor.
    fn level(&self, name: &str, n: usize, m: usize) -> usize {
        let uniform = self.config.family.level();
        self.levels.get(name).copied().unwrap_or(uniform).min(self.config.family.max_level(n, m))
    }

    fn skip(&mut self, ranks: Vec<usize>, sent_bytes: u64) -> Exchanged {
        self.skipped += 1;
        self.sent_bytes += sent_bytes;
        Exchanged::Skipped { ranks }
    }

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

    /// The last decision about levels, on rank 0.
    pub fn adjustment(&self) -> Option<&Adjustment> {
        self.last.as_ref()
    }

    /// All state of this rank: a run that loads it goes on with the same bits.
    pub fn save(&self) -> State {
        let mut state = State::default();
        state.put_tensors(RESIDUAL, &self.residuals);
        state.put_tensors("window/", &self.window.sums);
        let counters = [
            ("step", self.step),
            ("skipped", self.skipped),
            ("sent_bytes", self.sent_bytes),
            ("window_steps", self.window.n_steps),
        ];
        state.counters.extend(counters.map(|(name, value)| (name.to_string(), value)));
        state.counters.extend(self.levels.iter().map(|(name, &l)| (format!("level/{name}"), l as u64)));
        let norms = self.window.norms.iter();
        state.counters.extend(norms.map(|(name, norm)| (format!("norm_bits/{name}"), norm.to_bits())));
        if let Some(compressor) = &self.compressor {
            compressor.save(&mut state);
        }
        state
    }

    /// Goes on from `state`, saved under the same settings.
    ///
    /// # Errors
    /// [`Error::State`] for a counter that is missing or a number that is not finite; then nothing is changed.
    pub fn load(&mut self, state: &State) -> Result<()> {
        if let Some((name, _)) = state.tensors.iter().find(|(_, v)| !v.iter().all(|x| x.is_finite())) {
            let (found, expected) = ("a number that is not finite".to_string(), "finite ones".to_string());
            return Err(Error::State { name: name.clone(), found, expected });
        }
        let mut loaded = Self::new(self.config)?;
        loaded.step = state.counter("step")?;
        loaded.skipped = state.counter("skipped")?;
        loaded.sent_bytes = state.counter("sent_bytes")?;
        loaded.residuals = state.tensors_under(RESIDUAL);
        loaded.window.sums = state.tensors_under("window/");
        loaded.window.n_steps = state.counter("window_steps")?;
        let norms = state.counters_under("norm_bits/").into_iter();
        loaded.window.norms = norms.map(|(name, bits)| (name, f64::from_bits(bits))).collect();
        let levels = state.counters_under("level/").into_iter();
        loaded.levels = levels.map(|(name, level)| (name, (level as usize).max(1))).collect();
        if let Some(compressor) = &mut loaded.compressor {
            compressor.load(state)?;
        }
        *self = loaded;
        Ok(())
    }
}

/// First axis, and all others as one. A scalar is a vector of one.
fn flattened(shape: &[usize]) -> (usize, usize) {
    match shape {
        [] => (1, 1),
        [n, rest @ ..] => (*n, rest.iter().product()),
    }
}

fn check(tensors: &[Named<'_>]) -> Result<()> {
    let mut names = BTreeSet::new();
    for tensor in tensors {
        let product = tensor.shape.iter().try_fold(1usize, |p, &side| p.checked_mul(side));
        if product != Some(tensor.values.len()) {
            let (name, shape) = (tensor.name.to_string(), tensor.shape.to_vec());
            let (expected, found) = (product.unwrap_or(usize::MAX), tensor.values.len());
            return Err(Error::Shape { name, shape, expected, found });
        }
        if !names.insert(tensor.name) {
            return Err(Error::Duplicate { name: tensor.name.to_string() });
        }
    }
    Ok(())
}
