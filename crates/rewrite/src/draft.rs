//! A checkpoint that is being rewritten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use trimtab_io::{Bytes, Checkpoint, Dtype, RawTensor, to_safetensors, transpose};
use trimtab_math::rotation::Rotation;
use trimtab_nn::{MatrixPart, NormEdge, Wiring, Writer};

use crate::edit::{Edit, center, turn};
use crate::error::{Error, Result};

/// Rows of a matrix that are in double precision at a time.
const ROWS: usize = 4096;

fn single(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

/// A checkpoint with the changes that passes made to it, and how the network is wired after them.
///
/// Vectors (gains, biases, statistics) are in memory, changed. Matrices are not: their edits wait for the tensor to be read.
pub struct Draft<'a> {
    checkpoint: &'a Checkpoint,
    /// How the network is wired now.
    pub wiring: Wiring,
    vectors: BTreeMap<String, Vec<f64>>,
    edits: BTreeMap<String, Vec<Edit>>,
    layouts: BTreeMap<String, ([usize; 2], bool)>,
    /// Tensors that the checkpoint does not have, and the ones whose numbers they begin with.
    copies: BTreeMap<String, String>,
    config: BTreeMap<Vec<String>, bool>,
    /// The type in which changed tensors are stored; `None` keeps that of each.
    pub dtype: Option<Dtype>,
}

impl<'a> Draft<'a> {
    /// A draft without changes.
    pub fn new(checkpoint: &'a Checkpoint, wiring: Wiring) -> Self {
        Self {
            checkpoint,
            wiring,
            vectors: BTreeMap::new(),
            edits: BTreeMap::new(),
            layouts: BTreeMap::new(),
            copies: BTreeMap::new(),
            config: BTreeMap::new(),
            dtype: None,
        }
    }

    /// Names of tensors that the checkpoint does not have.
    pub fn added(&self) -> impl Iterator<Item = &str> {
        self.copies.keys().map(String::as_str)
    }

    /// Names of all tensors that differ from those of the checkpoint, or are new.
    pub fn changed(&self) -> BTreeSet<&str> {
        let names = self.vectors.keys().chain(self.edits.keys()).chain(self.copies.keys());
        names.map(String::as_str).collect()
    }

    /// A vector of `size` numbers, as it is now.
    ///
    /// # Errors
    /// A tensor that is missing or of another length.
    pub fn vector(&mut self, name: &str, size: usize) -> Result<&mut Vec<f64>> {
        if !self.vectors.contains_key(name) {
            let values: Vec<f64> =
                self.checkpoint.tensor(name)?.to_f32()?.into_iter().map(f64::from).collect();
            if values.len() != size {
                return Err(Error::Shape { tensor: name.into(), found: values.len(), expected: size });
            }
            self.vectors.insert(name.into(), values);
        }
        Ok(self.vectors.entry(name.into()).or_default())
    }

    /// A vector, without a change being meant.
    ///
    /// # Errors
    /// As [`Self::vector`].
    pub fn peek(&self, name: &str, size: usize) -> Result<Vec<f64>> {
        if let Some(values) = self.vectors.get(name) {
            return Ok(values.clone());
        }
        let values: Vec<f64> = self.checkpoint.tensor(name)?.to_f32()?.into_iter().map(f64::from).collect();
        if values.len() != size {
            return Err(Error::Shape { tensor: name.into(), found: values.len(), expected: size });
        }
        Ok(values)
    }

    /// Adds an edit of a matrix.
    pub fn edit(&mut self, part: &MatrixPart, edit: Edit) {
        self.layouts.insert(part.tensor.clone(), (part.dims, part.transposed));
        self.edits.entry(part.tensor.clone()).or_default().push(edit);
    }

    /// A whole matrix `[rows, cols]` as it is now, row-major.
    ///
    /// # Errors
    /// A tensor that is missing, quantized, or of another size.
    pub fn matrix(&self, part: &MatrixPart) -> Result<Vec<f64>> {
        self.numbers(&part.tensor, part.dims, part.transposed)
    }

    fn numbers(&self, name: &str, [rows, cols]: [usize; 2], transposed: bool) -> Result<Vec<f64>> {
        let source = self.copies.get(name).map_or(name, String::as_str);
        let tensor = self.checkpoint.tensor(source)?;
        let mut values = tensor.to_f32()?;
        if values.len() != rows * cols {
            return Err(Error::Shape { tensor: name.into(), found: values.len(), expected: rows * cols });
        }
        if transposed {
            values = transpose(&values, cols, rows);
        }
        let mut data: Vec<f64> = values.into_iter().map(f64::from).collect();
        // What a copy begins with is what its source had become.
        let edits = self.edits.get(name);
        edits.into_iter().flatten().for_each(|edit| edit.apply(&mut data, cols, 0));
        Ok(data)
    }

    /// A tensor as it is to be stored.
    ///
    /// # Errors
    /// A tensor that is missing, or that its type cannot hold.
    pub fn tensor(&self, name: &str) -> Result<RawTensor> {
        let source = self.copies.get(name).map_or(name, String::as_str);
        let info = self.checkpoint.require(source)?;
        let changed = self.vectors.contains_key(name) || self.edits.contains_key(name);
        if !changed {
            return Ok(self.checkpoint.tensor(source)?);
        }
        let dtype = self.dtype.unwrap_or(info.dtype);
        let values = match (self.vectors.get(name), self.layouts.get(name)) {
            (Some(values), _) => values.clone(),
            (None, Some(&([rows, cols], transposed))) => {
                let values = match transposed {
                    false => self.by_rows(name, source, [rows, cols])?,
                    true => transpose(&single(&self.numbers(name, [rows, cols], true)?), rows, cols),
                };
                return Ok(RawTensor::from_f32(info.shape.clone(), &values, dtype)?);
            }
            (None, None) => return Ok(self.checkpoint.tensor(source)?),
        };
        Ok(RawTensor::from_f32(info.shape.clone(), &single(&values), dtype)?)
    }

    /// A changed matrix, some rows at a time in `f64` where every edit goes by rows: an embedding is large.
    fn by_rows(&self, name: &str, source: &str, [rows, cols]: [usize; 2]) -> Result<Vec<f32>> {
        let edits = self.edits.get(name).map_or(&[][..], Vec::as_slice);
        if !edits.iter().all(Edit::is_by_row) {
            return Ok(single(&self.numbers(name, [rows, cols], false)?));
        }
        let mut values = self.checkpoint.tensor(source)?.to_f32()?;
        if values.len() != rows * cols {
            return Err(Error::Shape { tensor: name.into(), found: values.len(), expected: rows * cols });
        }
        for (i, part) in values.chunks_mut(ROWS * cols.max(1)).enumerate() {
            let mut data: Vec<f64> = part.iter().map(|&x| f64::from(x)).collect();
            edits.iter().for_each(|edit| edit.apply(&mut data, cols, i * ROWS));
            part.iter_mut().zip(data).for_each(|(x, y)| *x = y as f32);
        }
        Ok(values)
    }

    /// Gives a tensor a copy under another name; what is done to one from now on is not done to the other.
    pub fn copy(&mut self, from: &MatrixPart, to: &str) -> MatrixPart {
        let part = MatrixPart { tensor: to.into(), ..from.clone() };
        self.copies.insert(to.into(), from.tensor.clone());
        self.layouts.insert(to.into(), (from.dims, from.transposed));
        if let Some(edits) = self.edits.get(&from.tensor).cloned() {
            self.edits.insert(to.into(), edits);
        }
        part
    }

    /// Sets a switch in `config.json`.
    pub fn set_config(&mut self, field: &[String], value: bool) {
        self.config.insert(field.to_vec(), value);
    }

    /// `config.json` after the changes; `None` where the checkpoint has none.
    pub fn config(&self) -> Option<Value> {
        let mut config = self.checkpoint.config()?.clone();
        for (path, &value) in &self.config {
            let Some((field, tables)) = path.split_last() else { continue };
            // A switch that the whole passes on to its parts would win over theirs.
            if !tables.is_empty()
                && let Some(whole) = config.get_mut(field)
            {
                *whole = value.into();
            }
            let table = tables.iter().try_fold(&mut config, |table, name| table.get_mut(name));
            if let Some(table) = table.and_then(Value::as_object_mut) {
                table.insert(field.clone(), value.into());
            }
        }
        Some(config)
    }

    /// The rewritten model in memory.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn to_checkpoint(&self) -> Result<Checkpoint> {
        let names = self.checkpoint.names().filter(|name| !self.copies.contains_key(*name));
        let tensors: Vec<(String, RawTensor)> = (names.chain(self.added()))
            .map(|name| Ok((name.to_string(), self.tensor(name)?)))
            .collect::<Result<_>>()?;
        let weights = to_safetensors(&tensors, self.checkpoint.metadata())?;
        let mut files: Vec<(String, Bytes)> = vec![("model.safetensors".into(), weights.into())];
        for (name, bytes) in self.checkpoint.side_files()? {
            if name != "config.json" {
                files.push((name, bytes));
            }
        }
        if let Some(config) = self.config() {
            files.push(("config.json".into(), config.to_string().into_bytes().into()));
        }
        Ok(Checkpoint::from_bytes(files)?)
    }

    /// Forgets what was to be done to a matrix: what a rewrite would be that left it out. For negative controls.
    pub fn forget(&mut self, tensor: &str) -> bool {
        self.edits.remove(tensor).is_some()
    }

    // What passes have in common.

    /// Moves a diagonal map over the edge of a norm: the gain and the bias of channel `c` are divided by `factors[c]`, what reads
    /// them is multiplied with it. A gain that is divided by itself is one, also where it is zero.
    ///
    /// # Errors
    /// As [`Self::vector`].
    pub(crate) fn absorb(&mut self, norm: &NormEdge, factors: &Arc<[f64]>) -> Result<()> {
        let (size, offset) = (norm.axis.size(), norm.offset);
        let gain = self.vector(&norm.gain, size)?;
        for (gain, factor) in gain.iter_mut().zip(&factors[..]) {
            let whole = *gain + offset;
            *gain = if whole == *factor { 1.0 - offset } else { whole / factor - offset };
        }
        if let Some(bias) = &norm.bias {
            let bias = self.vector(bias, size)?;
            bias.iter_mut().zip(&factors[..]).filter(|(b, _)| **b != 0.0).for_each(|(b, f)| *b /= f);
        }
        for reader in &norm.readers {
            self.edit(reader, Edit::scale_channels(reader, factors));
        }
        Ok(())
    }

    /// What a norm multiplies with.
    ///
    /// # Errors
    /// As [`Self::vector`].
    pub fn gain(&self, norm: &NormEdge) -> Result<Vec<f64>> {
        let stored = self.peek(&norm.gain, norm.axis.size())?;
        Ok(stored.into_iter().map(|gain| gain + norm.offset).collect())
    }

    /// Whether a norm multiplies with nothing but one.
    ///
    /// # Errors
    /// As [`Self::vector`].
    pub fn has_unit_gain(&self, norm: &NormEdge) -> Result<bool> {
        Ok(self.gain(norm)?.iter().all(|gain| (gain - 1.0).abs() < 1e-6))
    }

    /// Multiplies the output of a map, its bias included, row by row.
    pub(crate) fn scale_output(&mut self, part: &MatrixPart, factors: &Arc<[f64]>) -> Result<()> {
        self.edit(part, Edit::scale_rows(part, Arc::clone(factors)));
        if let Some(bias) = &part.bias {
            let bias = &mut self.vector(bias, part.dims[0])?[part.rows.clone()];
            bias.iter_mut().zip(&factors[..]).for_each(|(b, f)| *b *= f);
        }
        Ok(())
    }

    /// Rotates what a map gives, its bias included.
    pub(crate) fn rotate_output(&mut self, part: &MatrixPart, by: &Arc<Rotation>, back: bool) -> Result<()> {
        self.edit(part, Edit::rotate_rows(part, by, back));
        if let Some(bias) = &part.bias {
            turn(by, back, &mut self.vector(bias, part.dims[0])?[part.rows.clone()]);
        }
        Ok(())
    }

    /// Rotates what is added to a stream.
    pub(crate) fn rotate_writer(&mut self, writer: &Writer, by: &Arc<Rotation>, back: bool) -> Result<()> {
        match writer {
            Writer::Map(part) => self.rotate_output(part, by, back)?,
            Writer::Table(part) => self.edit(part, Edit::rotate_cols(part, by, back)),
        }
        Ok(())
    }

    /// Takes the mean over the stream from what is added to it.
    pub(crate) fn center_writer(&mut self, writer: &Writer) -> Result<()> {
        match writer {
            Writer::Map(part) => {
                self.edit(part, Edit::center_rows(part));
                if let Some(bias) = &part.bias {
                    center(&mut self.vector(bias, part.dims[0])?[part.rows.clone()]);
                }
            }
            Writer::Table(part) => self.edit(part, Edit::center_cols(part)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use trimtab_math::random::Stream;
    use trimtab_math::rotation::RotationKind;

    #[test]
    fn some_rows_at_a_time_come_to_the_same() {
        let (rows, cols) = (2 * ROWS + 5, 3);
        let values: Vec<f32> = (0..rows * cols).map(|i| (i * 31 % 97) as f32 - 48.0).collect();
        let tensor = RawTensor::from_f32(vec![rows, cols], &values, Dtype::F32).unwrap();
        let file = to_safetensors(&[("w".to_string(), tensor)], &BTreeMap::new()).unwrap();
        let files: Vec<(String, Bytes)> = vec![("model.safetensors".into(), file.into())];
        let checkpoint = Checkpoint::from_bytes(files).unwrap();
        let mut draft = Draft::new(&checkpoint, Wiring::default());
        let whole = MatrixPart::whole("w", [rows, cols]);
        let rotation = Rotation::draw(cols, RotationKind::Orthogonal, &mut Stream::new(1, "test", 0, 0));
        let factors: Arc<[f64]> = (0..ROWS + 7).map(|i| i as f64).collect();
        for part in [whole.clone().with_rows(0..7), whole.clone().with_rows(ROWS - 3..2 * ROWS + 4)] {
            draft.edit(&part, Edit::scale_rows(&part, Arc::clone(&factors)));
        }
        draft.edit(&whole, Edit::rotate_cols(&whole, &Arc::new(rotation), false));
        let part = whole.clone().with_rows(ROWS..ROWS + 1).with_cols(1..2);
        draft.edit(&part, Edit::scale(&part, -5.0));
        let (found, expected) = (draft.tensor("w").unwrap().to_f32().unwrap(), draft.matrix(&whole).unwrap());
        assert_eq!(found, single(&expected));
        assert_eq!(&found[7 * cols..8 * cols], {
            let mut row: Vec<f64> = values[7 * cols..8 * cols].iter().map(|&x| f64::from(x)).collect();
            Rotation::draw(cols, RotationKind::Orthogonal, &mut Stream::new(1, "test", 0, 0)).apply(&mut row);
            single(&row)
        });
    }
}
