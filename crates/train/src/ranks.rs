//! Processes (or threads) that exchange their gradients, compressed or not.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use trimtab_exchange::{Communicator, Exchange, ExchangeConfig, Named, State};
use trimtab_io::{Bytes, Checkpoint, Dtype, RawTensor, to_safetensors};

use crate::error::{Error, Result};
use crate::gradients::{Gradient, Gradients};
use crate::workers::Workers;

/// A group of ranks, and how their gradients become one.
pub struct Ranks<C> {
    group: C,
    exchange: Exchange,
}

impl<C: Communicator> Ranks<C> {
    /// This rank of a group.
    ///
    /// # Errors
    /// Settings that make no sense.
    pub fn new(group: C, config: ExchangeConfig) -> Result<Self> {
        Ok(Self { group, exchange: Exchange::new(config)? })
    }

    /// What was exchanged so far, and how.
    pub fn exchange(&self) -> &Exchange {
        &self.exchange
    }
}

impl<C: Communicator> Workers for Ranks<C> {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn size(&self) -> usize {
        self.group.size()
    }

    fn exchange(&mut self, gradients: &mut Gradients) -> Result<()> {
        // Ranks may have seen different numbers of terms: the mean of the ranks' weighted gradients is that over all terms.
        let mut terms = [gradients.terms()];
        self.sum(&mut terms)?;
        gradients.scale(gradients.terms() * self.size() as f64 / terms[0]);
        let mut values: Vec<Vec<f32>> = gradients.iter().map(|(_, gradient)| host(gradient)).collect();
        let parts = gradients.iter().zip(&mut values);
        let mut tensors: Vec<Named<'_>> =
            parts.map(|((name, gradient), values)| Named { name, shape: &gradient.shape, values }).collect();
        self.exchange.exchange(&mut tensors, &self.group)?;
        for ((_, gradient), values) in gradients.iter_mut().zip(values) {
            let (n, device) = (values.len(), gradient.values.device());
            gradient.values = Tensor::from_data(TensorData::new(values, [n]), &device);
        }
        Ok(())
    }

    fn compresses(&self) -> bool {
        self.exchange.compresses()
    }

    fn save(&mut self) -> Result<Vec<State>> {
        let all = self.group.all_gather(&to_bytes(&self.exchange.save())?)?;
        all.into_iter().map(of_bytes).collect()
    }

    fn load(&mut self, states: &[State]) -> Result<()> {
        match states {
            [] => {}
            all if all.len() == self.size() => self.exchange.load(&all[self.rank()])?,
            others => self.exchange.load(&State::resized(others)?)?,
        }
        Ok(())
    }

    fn sent_bytes(&self) -> u64 {
        self.group.sent_bytes()
    }

    fn sum(&mut self, numbers: &mut [f64]) -> Result<()> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let all = self.group.all_gather(&bytes)?;
        numbers.fill(0.0);
        // In the order of the ranks, so that all have the same bits.
        for bytes in all {
            for (sum, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
                *sum += f64::from_le_bytes(bytes.try_into().expect("eight bytes each"));
            }
        }
        Ok(())
    }
}

/// Metadata key of the counters.
const COUNTERS: &str = "counters";

/// A state on its way to other ranks: safetensors, the counters in the metadata.
fn to_bytes(state: &State) -> Result<Vec<u8>> {
    let tensor = |(name, values): (&String, &Vec<f32>)| {
        let tensor = RawTensor::new(Dtype::F32, vec![values.len()], Bytes::from_numbers(values.clone()))?;
        Ok((name.clone(), tensor))
    };
    let tensors = state.tensors.iter().map(tensor).collect::<Result<Vec<_>>>()?;
    let counters = serde_json::to_string(&state.counters).map_err(|e| unreadable(&e))?;
    Ok(to_safetensors(&tensors, &BTreeMap::from([(COUNTERS.to_string(), counters)]))?)
}

fn of_bytes(bytes: Vec<u8>) -> Result<State> {
    let file = Checkpoint::from_bytes(vec![("state.safetensors".to_string(), bytes.into())])?;
    let counters = file.metadata().get(COUNTERS).map_or("{}", String::as_str);
    let counters = serde_json::from_str(counters).map_err(|e| unreadable(&e))?;
    let tensors = file.names().map(|name| Ok((name.to_string(), file.tensor(name)?.to_f32()?)));
    Ok(State { counters, tensors: tensors.collect::<Result<_>>()? })
}

fn unreadable(error: &serde_json::Error) -> Error {
    Error::setting("exchange", format!("the state of a process cannot be passed on: {error}"))
}

fn host(gradient: &Gradient) -> Vec<f32> {
    gradient.values.to_data().iter::<f32>().collect()
}

impl From<trimtab_exchange::Error> for Error {
    fn from(error: trimtab_exchange::Error) -> Self {
        Self::Exchange(Box::new(error))
    }
}
