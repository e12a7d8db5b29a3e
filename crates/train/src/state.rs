//! Saved training state: one safetensors file with parameters, optimizer state and position, all by name.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};
use trimtab_io::{Bytes, Checkpoint, Dtype, RawTensor, to_safetensors, write_atomic};

use crate::error::{Error, Result};
use crate::optimizer::SavedState;
use crate::position::Position;
use crate::settings::Settings;
use crate::workers::ExchangeState;

/// Metadata key of the position; also what tells such a file from a model.
const KEY: &str = "trimtab.train";
const FORMAT: u32 = 3;
const PARAMETER: &str = "parameter/";
const AVERAGE: &str = "average/";
const OPTIMIZER: &str = "optimizer/";
const COUNTER: &str = "counter/";
const EXCHANGE: &str = "exchange/";

/// What a run was doing, and where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    format: u32,
    position: Position,
    /// Items of the data set.
    items: usize,
    settings: Settings,
    /// Counters of the exchange of each process.
    exchange: Vec<BTreeMap<String, u64>>,
}

impl Header {
    /// What forbids to go on with these settings and data, if anything. How often a run measures and saves, and how
    /// many batches it makes ahead, does not change what it computes, unless it may end early.
    fn differs(&self, items: usize, settings: &Settings) -> Option<&'static str> {
        let mut saved = self.settings.clone();
        saved.save_every = settings.save_every;
        saved.prefetch = settings.prefetch;
        if saved.patience.is_none() {
            saved.heldout_every = settings.heldout_every;
        }
        if saved != *settings {
            return Some("its settings differ");
        }
        (self.items != items).then_some("its data has another number of items")
    }
}

/// Parameters, their average, optimizer state and position.
pub(crate) struct State {
    pub position: Position,
    pub parameters: Vec<(String, TensorData)>,
    /// Empty where no average is kept.
    pub average: Vec<(String, TensorData)>,
    pub optimizer: SavedState,
    /// What the exchange of each process has to keep; empty for one process.
    pub exchange: Vec<ExchangeState>,
}

impl State {
    /// Writes to a temporary file, syncs it and renames it to `path`.
    pub fn write(self, path: &Path, items: usize, settings: &Settings) -> Result<()> {
        let failed = |message: String| Error::State { path: path.into(), message };
        let exchange = self.exchange.iter().map(|state| state.counters.clone()).collect();
        let position = self.position;
        let header = Header { format: FORMAT, position, items, settings: settings.clone(), exchange };
        let header = serde_json::to_string(&header).map_err(|e| failed(e.to_string()))?;
        let mut tensors = Vec::new();
        let lists =
            [(PARAMETER, self.parameters), (AVERAGE, self.average), (OPTIMIZER, self.optimizer.tensors)];
        for (prefix, list) in lists {
            for (name, data) in list {
                let shape = data.shape().to_vec();
                let values = data.try_into_vec::<f32>().map_err(|e| failed(format!("\"{name}\": {e:?}")))?;
                let tensor = RawTensor::new(Dtype::F32, shape, Bytes::from_numbers(values))?;
                tensors.push((format!("{prefix}{name}"), tensor));
            }
        }
        for (rank, state) in self.exchange.into_iter().enumerate() {
            for (name, values) in state.tensors {
                let tensor = RawTensor::new(Dtype::F32, vec![values.len()], Bytes::from_numbers(values))?;
                tensors.push((format!("{EXCHANGE}{rank}/{name}"), tensor));
            }
        }
        for (name, n) in self.optimizer.counters {
            let tensor = RawTensor::new(Dtype::I64, vec![1], Bytes::from_numbers(vec![n as i64]))?;
            tensors.push((format!("{COUNTER}{name}"), tensor));
        }
        let metadata = BTreeMap::from([(KEY.to_string(), header)]);
        Ok(write_atomic(path, &to_safetensors(&tensors, &metadata)?)?)
    }

    /// Reads what [`State::write`] wrote, if there is such a file, and checks that it belongs to this run.
    pub fn read(path: &Path, items: usize, settings: &Settings) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let failed = |message: String| Error::State { path: path.into(), message };
        let file = Checkpoint::open(path)?;
        let header =
            file.metadata().get(KEY).ok_or_else(|| failed(format!("no \"{KEY}\" in its metadata")))?;
        let header: Header = serde_json::from_str(header).map_err(|e| failed(e.to_string()))?;
        if header.format != FORMAT {
            return Err(failed(format!("format {}, expected {FORMAT}", header.format)));
        }
        if let Some(message) = header.differs(items, settings) {
            return Err(Error::OtherRun { path: path.into(), message: message.into() });
        }
        let mut state = Self {
            position: header.position,
            parameters: Vec::new(),
            average: Vec::new(),
            optimizer: SavedState::default(),
            exchange: Vec::new(),
        };
        let exchanges = header.exchange.into_iter();
        state.exchange.extend(exchanges.map(|counters| ExchangeState { counters, ..Default::default() }));
        for name in file.names() {
            let tensor = file.tensor(name)?;
            if let Some(name) = name.strip_prefix(COUNTER) {
                let counter = tensor.to_i64()?.first().and_then(|&n| u64::try_from(n).ok());
                let counter =
                    counter.ok_or_else(|| failed(format!("counter \"{name}\" is no number from 0")))?;
                state.optimizer.counters.push((name.into(), counter));
                continue;
            }
            if let Some((rank, name)) = name.strip_prefix(EXCHANGE).and_then(|rest| rest.split_once('/')) {
                let of_rank = rank.parse().ok().and_then(|rank: usize| state.exchange.get_mut(rank));
                let of_rank = of_rank.ok_or_else(|| failed(format!("\"{name}\" of a process {rank}")))?;
                of_rank.tensors.insert(name.into(), tensor.to_f32()?);
                continue;
            }
            let data = TensorData::new(tensor.to_f32()?, tensor.shape.clone());
            if let Some(name) = name.strip_prefix(PARAMETER) {
                state.parameters.push((name.into(), data));
            } else if let Some(name) = name.strip_prefix(AVERAGE) {
                state.average.push((name.into(), data));
            } else if let Some(name) = name.strip_prefix(OPTIMIZER) {
                state.optimizer.tensors.push((name.into(), data));
            } else {
                return Err(failed(format!("unknown tensor \"{name}\"")));
            }
        }
        Ok(Some(state))
    }
}
