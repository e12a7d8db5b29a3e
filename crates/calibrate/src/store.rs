//! Hidden states of the calibration set, in memory up to a limit and in a temporary file beyond it.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use trimtab_io::fs::File;
use trimtab_nn::{Flow, host};

use crate::error::{Error, Result};

/// One slot for each batch.
pub struct HiddenStore {
    slots: Vec<Slot>,
    spill: Option<File>,
    folder: PathBuf,
    limit: usize,
    held: usize,
}

enum Slot {
    Empty,
    Memory(Shape, Vec<f32>),
    Disk(Shape, u64),
}

#[derive(Clone)]
enum Shape {
    Hidden([usize; 3]),
    Image([usize; 4]),
    Vector([usize; 2]),
    /// Ids, kept as numbers: below 2^24 they are exact.
    Tokens([usize; 2]),
    Pair(Box<(Shape, Shape)>),
}

impl Shape {
    fn numel(&self) -> usize {
        match self {
            Self::Hidden(d) => d.iter().product(),
            Self::Image(d) => d.iter().product(),
            Self::Vector(d) | Self::Tokens(d) => d.iter().product(),
            Self::Pair(both) => both.0.numel() + both.1.numel(),
        }
    }

    /// The shape of a flow and its numbers.
    fn of(flow: Flow) -> (Self, Vec<f32>) {
        match flow {
            Flow::Hidden(x) => (Self::Hidden(x.dims()), host(x)),
            Flow::Image(x) => (Self::Image(x.dims()), host(x)),
            Flow::Vector(x) => (Self::Vector(x.dims()), host(x)),
            Flow::Tokens(x) => {
                (Self::Tokens(x.dims()), x.into_data().iter::<i64>().map(|id| id as f32).collect())
            }
            Flow::Pair(both) => {
                let ((first, mut values), (second, rest)) = (Self::of(both.0), Self::of(both.1));
                values.extend(rest);
                (Self::Pair(Box::new((first, second))), values)
            }
        }
    }

    /// The flow of this shape with these numbers.
    fn build(&self, values: Vec<f32>, device: &Device) -> Flow {
        match self {
            Self::Hidden(d) => Flow::Hidden(Tensor::from_data(TensorData::new(values, *d), device)),
            Self::Image(d) => Flow::Image(Tensor::from_data(TensorData::new(values, *d), device)),
            Self::Vector(d) => Flow::Vector(Tensor::from_data(TensorData::new(values, *d), device)),
            Self::Tokens(d) => {
                let ids: Vec<i64> = values.iter().map(|&id| id as i64).collect();
                Flow::Tokens(Tensor::from_data(TensorData::new(ids, *d), device))
            }
            Self::Pair(both) => {
                let mut first = values;
                let second = first.split_off(both.0.numel());
                Flow::both(both.0.build(first, device), both.1.build(second, device))
            }
        }
    }
}

impl HiddenStore {
    /// A store of `n` slots that keeps at most `limit` bytes in memory; the rest goes to a file in `folder`.
    pub fn new(n: usize, limit: usize, folder: &Path) -> Self {
        let slots = (0..n).map(|_| Slot::Empty).collect();
        Self { slots, spill: None, folder: folder.into(), limit, held: 0 }
    }

    /// Puts the hidden states of batch `index`. Tokens are not hidden states and are not kept.
    pub fn put(&mut self, index: usize, flow: Flow) -> Result<()> {
        if matches!(flow, Flow::Tokens(_)) {
            return Ok(());
        }
        let (shape, values) = Shape::of(flow);
        let offset = match &self.slots[index] {
            Slot::Memory(old, _) => {
                self.held -= 4 * old.numel();
                None
            }
            Slot::Disk(old, offset) if old.numel() == shape.numel() => Some(*offset),
            _ => None,
        };
        let bytes = 4 * shape.numel();
        self.slots[index] = if offset.is_none() && self.held + bytes <= self.limit {
            self.held += bytes;
            Slot::Memory(shape, values)
        } else {
            Slot::Disk(shape, self.write(offset, &values)?)
        };
        Ok(())
    }

    /// The hidden states of batch `index`, or `None` if nothing was put there.
    pub fn get(&mut self, index: usize, device: &Device) -> Result<Option<Flow>> {
        let (shape, values) = match &self.slots[index] {
            Slot::Empty => return Ok(None),
            Slot::Memory(shape, values) => (shape.clone(), values.clone()),
            Slot::Disk(shape, offset) => {
                let (shape, offset) = (shape.clone(), *offset);
                let values = self.read(offset, shape.numel())?;
                (shape, values)
            }
        };
        Ok(Some(shape.build(values, device)))
    }

    fn write(&mut self, offset: Option<u64>, values: &[f32]) -> Result<u64> {
        let fail = |folder: &Path, source| Error::Spill { path: folder.display().to_string(), source };
        if self.spill.is_none() {
            // An unlinked file: it vanishes with the process, however that ends.
            let file = File::nameless(&self.folder, || tempfile::tempfile_in(&self.folder));
            self.spill = Some(file.map_err(|e| fail(&self.folder, e))?);
        }
        let Some(file) = self.spill.as_mut() else { unreachable!("opened above") };
        let place = offset.map_or(SeekFrom::End(0), SeekFrom::Start);
        let at = file.seek(place).map_err(|e| fail(&self.folder, e))?;
        file.write_all(bytemuck::cast_slice(values)).map_err(|e| fail(&self.folder, e))?;
        Ok(at)
    }

    fn read(&mut self, offset: u64, numel: usize) -> Result<Vec<f32>> {
        let folder = &self.folder;
        let fail = |source| Error::Spill { path: folder.display().to_string(), source };
        let Some(file) = self.spill.as_mut() else { unreachable!("a slot on disk has a file") };
        let mut values = vec![0.0f32; numel];
        file.seek(SeekFrom::Start(offset)).map_err(fail)?;
        file.read_exact(bytemuck::cast_slice_mut(&mut values)).map_err(fail)?;
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(values: &[f32]) -> Flow {
        Flow::Vector(Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len()]), &Device::flex()))
    }

    fn read(store: &mut HiddenStore, index: usize) -> Option<Vec<f32>> {
        store.get(index, &Device::flex()).unwrap().map(|flow| host(flow.vector("test").unwrap()))
    }

    #[test]
    fn a_pair_comes_back_with_its_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let device = Device::flex();
        let ids = vec![0i64, 151_935, 7, 3];
        let tokens = Flow::Tokens(Tensor::from_data(TensorData::new(ids.clone(), [2, 2]), &device));
        for limit in [0, 1024] {
            let mut store = HiddenStore::new(1, limit, folder.path());
            store.put(0, Flow::both(flow(&[0.5, -1.0]), tokens.clone())).unwrap();
            let (first, second) = store.get(0, &device).unwrap().unwrap().pair("test").unwrap();
            assert_eq!(host(first.vector("test").unwrap()), [0.5, -1.0]);
            let back: Vec<i64> = second.tokens("test").unwrap().into_data().iter::<i64>().collect();
            assert_eq!(back, ids, "limit {limit}");
        }
    }

    #[test]
    fn what_is_put_is_got_in_memory_and_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        for limit in [0, 8, 1024] {
            let mut store = HiddenStore::new(3, limit, folder.path());
            for round in 0..3 {
                for i in 0..2 {
                    store.put(i, flow(&[i as f32, round as f32])).unwrap();
                }
                for i in 0..2 {
                    assert_eq!(read(&mut store, i), Some(vec![i as f32, round as f32]), "limit {limit}");
                }
            }
            assert_eq!(read(&mut store, 2), None);
            assert_eq!(store.spill.is_some(), limit < 16);
        }
    }
}
