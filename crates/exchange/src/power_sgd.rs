//! PowerSGD: the mean as a product of two thin factors, found by one step of subspace iteration per training step.
//!
//! Source: Vogels, Karimireddy, Jaggi, arXiv:1905.13727, algorithms 1 and 2. With `M_w` the gradient of rank w plus
//! its residual: `P = orth(Σ M_w Q)`, `Q' = mean(M_wᵀ P)`, `M̂ = P Q'ᵀ`; `Q'` is the start of the next step. Both
//! exchanges are sums, so any all-reduce will do.
//!
//! Departures: columns that vanish are replaced (see `orthonormal`), and the first `Q` of a tensor comes from a stream
//! that all ranks share, as does every `Q` after a change of rank.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trimtab_math::random::Stream;

use crate::communicator::{Communicator, divide};
use crate::compressor::{Compressor, Input, Reduced, difference, sound, unless_out_of_range};
use crate::error::{Error, Result};
use crate::matrix::{times, times_transposed, transposed_times};
use crate::orthonormal::orthonormalize;
use crate::state::State;

/// What a rank keeps for the next step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResidualOf {
    /// Input less the common mean `M̂`, as in the paper's algorithm 2.
    #[default]
    Mean,
    /// Input less its own part `P (M_wᵀ P)ᵀ` of the mean. Equal in the mean over the ranks.
    Own,
}

/// The factors' state of all tensors.
#[derive(Clone, Debug)]
pub struct PowerSgd {
    seed: u64,
    residual_of: ResidualOf,
    /// Right factors by name, `[m, rank]`.
    q: BTreeMap<String, Vec<f32>>,
    /// Steps taken: names the streams.
    step: u64,
}

impl PowerSgd {
    /// Without state. `seed` must be the same on all ranks.
    pub fn new(seed: u64, residual_of: ResidualOf) -> Self {
        Self { seed, residual_of, q: BTreeMap::new(), step: 0 }
    }

    /// The right factor to start from: that of the last step, or a new one where there is none of this rank.
    ///
    /// That of the last step is as large as its gradient; a power of two brings it near one, without rounding, so
    /// that tiny gradients do not meet the end of the range of `f32` in the product.
    fn start(&self, input: &Input<'_>) -> Vec<f32> {
        match self.q.get(input.name) {
            Some(q) if q.len() == input.m * input.level => {
                let largest = q.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                // From the bits, so that no library's logarithm can tell two ranks apart.
                let exponent = (largest.to_bits() >> 23) as i32 - 127;
                let scale = if largest > 0.0 { 2f64.powi(-exponent) } else { 1.0 };
                q.iter().map(|&x| (f64::from(x) * scale) as f32).collect()
            }
            _ => {
                let mut stream = self.stream("start", input.name);
                (0..input.m * input.level).map(|_| stream.normal() as f32).collect()
            }
        }
    }

    fn stream(&self, use_: &str, name: &str) -> Stream {
        Stream::new(self.seed, &format!("exchange/power-sgd/{use_}/{name}"), self.step, 0)
    }
}

/// Sums the factors of all tensors in one buffer.
fn sum_all(factors: &mut [Vec<f32>], comm: &dyn Communicator) -> Result<()> {
    let mut all = factors.concat();
    comm.all_reduce_sum(&mut all)?;
    let mut rest = all.as_slice();
    for factor in factors {
        let (own, later) = rest.split_at(factor.len());
        factor.copy_from_slice(own);
        rest = later;
    }
    Ok(())
}

impl Compressor for PowerSgd {
    fn reduce(&mut self, inputs: &[Input<'_>], comm: &dyn Communicator) -> Result<Option<Vec<Reduced>>> {
        for input in inputs {
            if input.level == 0 || input.level > input.n.min(input.m) {
                let found = format!("{} for \"{}\" {} x {}", input.level, input.name, input.n, input.m);
                return Err(Error::setting("power sgd: rank", found, "1 to the smaller side"));
            }
        }
        let left = |i: &Input<'_>| times(i.values, &self.start(i), i.m, i.level);
        let mut p: Vec<Vec<f32>> = inputs.iter().map(left).collect();
        sum_all(&mut p, comm)?;
        for (p, input) in p.iter_mut().zip(inputs) {
            // Not finite on any rank means not finite on all: the sums are the same bits.
            if !sound(p) {
                return Ok(None);
            }
            orthonormalize(p, input.level, &mut self.stream("fresh", input.name));
        }
        let own: Vec<Vec<f32>> =
            inputs.iter().zip(&p).map(|(i, p)| transposed_times(i.values, p, i.m, i.level)).collect();
        let mut q = own.clone();
        sum_all(&mut q, comm)?;
        q.iter_mut().for_each(|q| divide(q, comm.size()));

        let mut reduced = Vec::with_capacity(inputs.len());
        for (i, input) in inputs.iter().enumerate() {
            let mean = times_transposed(&p[i], &q[i], input.m, input.level);
            let residual = match self.residual_of {
                ResidualOf::Mean => difference(input.values, &mean),
                ResidualOf::Own => {
                    difference(input.values, &times_transposed(&p[i], &own[i], input.m, input.level))
                }
            };
            reduced.push(Reduced { mean, residual: Some(residual) });
        }
        let reduced = unless_out_of_range(reduced);
        if reduced.is_some() {
            self.step += 1;
            self.q.extend(inputs.iter().zip(q).map(|(input, q)| (input.name.to_string(), q)));
        }
        Ok(reduced)
    }

    fn save(&self, state: &mut State) {
        state.put_tensors("q/", &self.q);
        state.counters.insert("power_sgd/step".to_string(), self.step);
    }

    fn load(&mut self, state: &State) -> Result<()> {
        self.step = state.counter("power_sgd/step")?;
        self.q = state.tensors_under("q/");
        Ok(())
    }
}
