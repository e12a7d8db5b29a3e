//! The tensors of one packed matrix.

use super::config::{ConfigGroup, QuantizationConfig};
use crate::affine::{AffineScheme, AffineTensor};
use crate::bits;
use crate::bytes::Bytes;
use crate::checkpoint::Checkpoint;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::tensor::RawTensor;

/// The tensors that hold `matrix` as the weight of `module`; together they take [`AffineTensor::bytes`].
///
/// # Errors
/// [`Error::Invalid`] if the fields of `matrix` do not fit together.
pub fn to_tensors(module: &str, matrix: &AffineTensor) -> Result<Vec<(String, RawTensor)>> {
    let AffineTensor { rows, cols, scheme, .. } = *matrix;
    let groups = scheme.n_groups(cols);
    let words = scheme.row_words(cols);
    let shape = Bytes::from_numbers(vec![rows as i64, cols as i64]);
    let mut tensors = vec![
        ("weight_packed", RawTensor::new(Dtype::I32, vec![rows, words], matrix.codes.clone())?),
        ("weight_scale", RawTensor::from_f32(vec![rows, groups], &matrix.scales, matrix.scale_dtype)?),
        ("weight_shape", RawTensor::new(Dtype::I64, vec![2], shape)?),
    ];
    if let Some(zeros) = &matrix.zeros {
        let packed = pack_columns(zeros, rows, groups, scheme.bits);
        let height = bits::packed_words(rows, scheme.bits);
        tensors.push((
            "weight_zero_point",
            RawTensor::new(Dtype::I32, vec![height, groups], Bytes::from_numbers(packed))?,
        ));
    }
    if let Some(g_idx) = &matrix.g_idx {
        tensors.push((
            "weight_g_idx",
            RawTensor::new(Dtype::I32, vec![cols], Bytes::from_numbers(g_idx.clone()))?,
        ));
    }
    Ok(tensors.into_iter().map(|(suffix, tensor)| (format!("{module}.{suffix}"), tensor)).collect())
}

/// The packed weight of `module`, over the mapped file; `None` if the checkpoint holds it dense.
///
/// # Errors
/// [`Error::Tensor`] if a tensor is missing or has another type or shape than the configuration says;
/// [`Error::Quantization`] if no group, or several, mean the module.
pub fn read_compressed(
    checkpoint: &Checkpoint,
    module: &str,
    config: &QuantizationConfig,
) -> Result<Option<AffineTensor>> {
    let reader = Reader { checkpoint, module };
    let Some(group) = config.group_of(module)? else {
        return match checkpoint.contains(&reader.name("weight_packed")) {
            true => {
                Err(reader.wrong("weight_packed", "is packed, but no group of quantization_config means it"))
            }
            false => Ok(None),
        };
    };
    if !checkpoint.contains(&reader.name("weight_packed")) {
        return match config.names_exactly(module) {
            true => checkpoint.tensor(&reader.name("weight_packed")).map(|_| None),
            false => Ok(None),
        };
    }
    reader.read(group).map(Some)
}

struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    module: &'a str,
}

impl Reader<'_> {
    fn read(&self, group: &ConfigGroup) -> Result<AffineTensor> {
        let scheme = group.scheme;
        let packed = self.checkpoint.tensor(&self.name("weight_packed"))?;
        let [rows, cols] = self.shape()?;
        self.expect("weight_packed", &packed, Dtype::I32, &[rows, scheme.row_words(cols)])?;
        let (scales, scale_dtype) = self.scales(group, rows, cols)?;
        let zeros = if scheme.symmetric { None } else { Some(self.zeros(group, rows, cols)?) };
        let g_idx = self.g_idx(group, cols)?;
        AffineTensor::from_packed(rows, cols, scheme, packed.bytes, scales, zeros, g_idx, scale_dtype)
            .map_err(|e| self.wrong("weight_packed", e.to_string()))
    }

    fn shape(&self) -> Result<[usize; 2]> {
        let tensor = self.checkpoint.tensor(&self.name("weight_shape"))?;
        let values = tensor.to_i64().map_err(|e| self.wrong("weight_shape", e.to_string()))?;
        let dims: Vec<usize> = values.iter().filter_map(|&dim| usize::try_from(dim).ok()).collect();
        // Rows have at most 8 bits a code: longer ones than this could not be in memory.
        match (values.len(), &dims[..]) {
            (2, &[rows, cols]) if cols < usize::MAX / 8 => Ok([rows, cols]),
            _ => Err(self.wrong("weight_shape", format!("expected [out, in], found {values:?}"))),
        }
    }

    /// Scales as `[rows, groups]`, and their type in the file.
    fn scales(&self, group: &ConfigGroup, rows: usize, cols: usize) -> Result<(Vec<f32>, Dtype)> {
        let tensor = self.checkpoint.tensor(&self.name("weight_scale"))?;
        let scales = tensor.to_f32().map_err(|e| self.wrong("weight_scale", e.to_string()))?;
        if group.per_tensor {
            return match scales[..] {
                [scale] => Ok((vec![scale; rows], tensor.dtype)),
                _ => {
                    Err(self.wrong("weight_scale", format!("expected one number, found {:?}", tensor.shape)))
                }
            };
        }
        let expected = [rows, group.scheme.n_groups(cols)];
        self.expect("weight_scale", &tensor, tensor.dtype, &expected)?;
        Ok((scales, tensor.dtype))
    }

    /// Unsigned zero points, `[rows, groups]`. They are packed along the rows; one a tensor, and files of old versions of
    /// the library, have signed bytes instead.
    fn zeros(&self, group: &ConfigGroup, rows: usize, cols: usize) -> Result<Vec<u8>> {
        let AffineScheme { bits, .. } = group.scheme;
        let tensor = self.checkpoint.tensor(&self.name("weight_zero_point"))?;
        let groups = group.scheme.n_groups(cols);
        if tensor.dtype == Dtype::I8 {
            let expected = if group.per_tensor { vec![1] } else { vec![rows, groups] };
            self.expect("weight_zero_point", &tensor, Dtype::I8, &expected)?;
            let shift = |&byte: &u8| (byte as i8).wrapping_add_unsigned(group.scheme.middle()) as u8;
            let zeros: Vec<u8> = tensor.bytes.iter().map(shift).collect();
            return Ok(if group.per_tensor { vec![zeros[0]; rows] } else { zeros });
        }
        self.expect("weight_zero_point", &tensor, Dtype::I32, &[bits::packed_words(rows, bits), groups])?;
        Ok(unpack_columns(&crate::tensor::numbers::<u32>(&tensor.bytes), rows, groups, bits))
    }

    /// Groups of the columns, where they are not consecutive. The library marks columns without an order by -1.
    fn g_idx(&self, group: &ConfigGroup, cols: usize) -> Result<Option<Vec<u32>>> {
        let Some(size) = group.scheme.group_size.filter(|_| group.act_order) else {
            return Ok(None);
        };
        let tensor = self.checkpoint.tensor(&self.name("weight_g_idx"))?;
        self.expect("weight_g_idx", &tensor, Dtype::I32, &[cols])?;
        let values = tensor.to_i64()?;
        if values.iter().all(|&group| group == -1) {
            return Ok(None);
        }
        let g_idx: Vec<u32> = values.iter().filter_map(|&group| u32::try_from(group).ok()).collect();
        if g_idx.len() != cols {
            return Err(self.wrong("weight_g_idx", "has negative groups"));
        }
        let consecutive = g_idx.iter().enumerate().all(|(i, &group)| group as usize == i / size);
        Ok((!consecutive).then_some(g_idx))
    }

    fn expect(&self, suffix: &str, tensor: &RawTensor, dtype: Dtype, shape: &[usize]) -> Result<()> {
        if tensor.dtype == dtype && tensor.shape == shape {
            return Ok(());
        }
        let message = format!("expected {dtype} {shape:?}, found {} {:?}", tensor.dtype, tensor.shape);
        Err(self.wrong(suffix, message))
    }

    fn name(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.module)
    }

    fn wrong(&self, suffix: &str, message: impl Into<String>) -> Error {
        Error::tensor(&self.checkpoint.path().display().to_string(), &self.name(suffix), message)
    }
}

/// Packs `[rows, groups]` along the rows: each column is a bit stream; `[packed_words(rows), groups]`.
fn pack_columns(values: &[u8], rows: usize, groups: usize, bits: u8) -> Vec<u32> {
    let height = bits::packed_words(rows, bits);
    let mut out = vec![0; height * groups];
    let mut stream = vec![0u32; height];
    for group in 0..groups {
        let column: Vec<u8> = (0..rows).map(|row| values[row * groups + group]).collect();
        bits::pack(&column, bits, bytemuck::cast_slice_mut(&mut stream));
        for (word, &packed) in stream.iter().enumerate() {
            out[word * groups + group] = packed;
        }
    }
    out
}

/// The inverse of [`pack_columns`].
fn unpack_columns(words: &[u32], rows: usize, groups: usize, bits: u8) -> Vec<u8> {
    let height = bits::packed_words(rows, bits);
    let mut out = vec![0; rows * groups];
    let mut column = vec![0; rows];
    for group in 0..groups {
        let stream: Vec<u32> = (0..height).map(|word| words[word * groups + group]).collect();
        bits::unpack(bytemuck::cast_slice(&stream), bits, &mut column);
        for (row, &value) in column.iter().enumerate() {
            out[row * groups + group] = value;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_points_are_streams_along_the_rows() {
        // Nine rows of two groups, 4 bits: one full word and one code each.
        let values: Vec<u8> = (0..9).flat_map(|row| [row, 15 - row]).collect();
        let packed = pack_columns(&values, 9, 2, 4);
        assert_eq!(packed, [0x7654_3210, 0x89ab_cdef, 0x8, 0x7]);
        assert_eq!(unpack_columns(&packed, 9, 2, 4), values);
    }
}
