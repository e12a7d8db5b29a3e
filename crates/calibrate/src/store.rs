//! Hidden states of the calibration set, in memory up to a limit and in a temporary file beyond it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
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

#[derive(Clone, Copy)]
enum Shape {
    Hidden([usize; 3]),
    Image([usize; 4]),
    Vector([usize; 2]),
}

impl Shape {
    fn numel(self) -> usize {
        match self {
            Self::Hidden(d) => d.iter().product(),
            Self::Image(d) => d.iter().product(),
            Self::Vector(d) => d.iter().product(),
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
        let (shape, values) = match flow {
            Flow::Hidden(x) => (Shape::Hidden(x.dims()), host(x)),
            Flow::Image(x) => (Shape::Image(x.dims()), host(x)),
            Flow::Vector(x) => (Shape::Vector(x.dims()), host(x)),
            Flow::Tokens(_) => return Ok(()),
        };
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
            Slot::Memory(shape, values) => (*shape, values.clone()),
            Slot::Disk(shape, offset) => (*shape, self.read(*offset, shape.numel())?),
        };
        Ok(Some(match shape {
            Shape::Hidden(d) => Flow::Hidden(Tensor::from_data(TensorData::new(values, d), device)),
            Shape::Image(d) => Flow::Image(Tensor::from_data(TensorData::new(values, d), device)),
            Shape::Vector(d) => Flow::Vector(Tensor::from_data(TensorData::new(values, d), device)),
        }))
    }

    fn write(&mut self, offset: Option<u64>, values: &[f32]) -> Result<u64> {
        let fail = |folder: &Path, source| Error::Spill { path: folder.display().to_string(), source };
        if self.spill.is_none() {
            // An unlinked file: it vanishes with the process, however that ends.
            self.spill = Some(tempfile::tempfile_in(&self.folder).map_err(|e| fail(&self.folder, e))?);
        }
        let Some(file) = self.spill.as_mut() else { unreachable!("opened above") };
        let place = offset.map_or(SeekFrom::End(0), SeekFrom::Start);
        let at = file.seek(place).map_err(|e| fail(&self.folder, e))?;
        file.write_all(bytemuck::cast_slice(values)).map_err(|e| fail(&self.folder, e))?;
        Ok(at)
    }

    fn read(&self, offset: u64, numel: usize) -> Result<Vec<f32>> {
        let fail = |source| Error::Spill { path: self.folder.display().to_string(), source };
        let Some(mut file) = self.spill.as_ref() else { unreachable!("a slot on disk has a file") };
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
