//! What a checkpoint has to hold of an exchange: named numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// State of one rank: residuals differ between ranks, so each saves its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Tensors, flat: `residual/NAME`, `q/NAME`, `window/NAME`.
    pub tensors: BTreeMap<String, Vec<f32>>,
    /// Counters: `step`, `level/NAME` and the like.
    pub counters: BTreeMap<String, u64>,
}

impl State {
    /// Tensors whose names start with `prefix`, by the rest of the name.
    pub(crate) fn tensors_under(&self, prefix: &str) -> BTreeMap<String, Vec<f32>> {
        under(&self.tensors, prefix)
    }

    /// Counters whose names start with `prefix`, by the rest of the name.
    pub(crate) fn counters_under(&self, prefix: &str) -> BTreeMap<String, u64> {
        under(&self.counters, prefix)
    }

    /// Adds `tensors` under `prefix`.
    pub(crate) fn put_tensors(&mut self, prefix: &str, tensors: &BTreeMap<String, Vec<f32>>) {
        self.tensors.extend(tensors.iter().map(|(name, values)| (format!("{prefix}{name}"), values.clone())));
    }

    /// A counter that must be there.
    pub(crate) fn counter(&self, name: &str) -> Result<u64> {
        self.counters.get(name).copied().ok_or_else(|| Error::State {
            name: name.to_string(),
            found: "nothing".to_string(),
            expected: "a counter".to_string(),
        })
    }

    /// The state that every rank of a group of another size loads: the mean of the old residuals, and all else as on
    /// rank 0. So the sum of what is still owed to the model, divided by the number of ranks, stays what it was.
    ///
    /// `old`: the states of all old ranks, by rank, of one step.
    pub fn resized(old: &[State]) -> Result<State> {
        let Some(first) = old.first() else { return Ok(State::default()) };
        let mut state = first.clone();
        let residual = |name: &String| name.starts_with(RESIDUAL);
        for (name, mean) in state.tensors.iter_mut().filter(|(name, _)| residual(name)) {
            for other in &old[1..] {
                match other.tensors.get(name) {
                    Some(values) if values.len() == mean.len() => {
                        mean.iter_mut().zip(values).for_each(|(sum, v)| *sum += v);
                    }
                    other => {
                        let found = other.map_or("nothing".to_string(), |v| format!("{} values", v.len()));
                        let expected = format!("{} values, as on rank 0", mean.len());
                        return Err(Error::State { name: name.clone(), found, expected });
                    }
                }
            }
            mean.iter_mut().for_each(|v| *v /= old.len() as f32);
        }
        Ok(state)
    }
}

/// Prefix of residuals.
pub(crate) const RESIDUAL: &str = "residual/";

fn under<T: Clone>(map: &BTreeMap<String, T>, prefix: &str) -> BTreeMap<String, T> {
    let named = map.iter().filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value)));
    named.map(|(name, value)| (name.to_string(), value.clone())).collect()
}
