//! The tensors of one matrix, for writing.

use super::columns::pack_columns;
use crate::affine::AffineTensor;
use crate::bits;
use crate::bytes::Bytes;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::tensor::RawTensor;

/// The tensors that hold `matrix` as the weight of `module` in `pack-quantized`; together they take [`AffineTensor::bytes`].
///
/// # Errors
/// [`crate::Error::Invalid`] if the fields of `matrix` do not fit together.
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

/// The tensors that hold `matrix` in `int-quantized` or `naive-quantized`, a signed byte a code; together, without an
/// order of the columns, they take [`super::CompressedFormat::integer_bytes`].
///
/// # Errors
/// [`crate::Error::Invalid`] if the fields of `matrix` do not fit together.
pub fn int_tensors(module: &str, matrix: &AffineTensor) -> Result<Vec<(String, RawTensor)>> {
    let AffineTensor { rows, cols, scheme, .. } = *matrix;
    let groups = scheme.n_groups(cols);
    let signed = |values: &[u8]| -> Vec<i8> {
        values.iter().map(|&value| value.wrapping_sub(scheme.middle()) as i8).collect()
    };
    let mut codes = vec![0; rows * cols];
    if cols > 0 {
        codes.chunks_exact_mut(cols).enumerate().for_each(|(row, codes)| matrix.unpack_row(row, codes));
    }
    let bytes = |shape: [usize; 2], values: &[u8]| {
        RawTensor::new(Dtype::I8, shape.to_vec(), Bytes::from_numbers(signed(values)))
    };
    let mut tensors = vec![
        ("weight", bytes([rows, cols], &codes)?),
        ("weight_scale", RawTensor::from_f32(vec![rows, groups], &matrix.scales, matrix.scale_dtype)?),
    ];
    if let Some(zeros) = &matrix.zeros {
        tensors.push(("weight_zero_point", bytes([rows, groups], zeros)?));
    }
    if let Some(g_idx) = &matrix.g_idx {
        let g_idx = Bytes::from_numbers(g_idx.clone());
        tensors.push(("weight_g_idx", RawTensor::new(Dtype::I32, vec![cols], g_idx)?));
    }
    Ok(tensors.into_iter().map(|(suffix, tensor)| (format!("{module}.{suffix}"), tensor)).collect())
}
