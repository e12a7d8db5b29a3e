//! The tensors of one matrix of float codes.
//!
//! | format | codes | scales |
//! |---|---|---|
//! | `float-quantized`, `naive-quantized` | `.weight` F8_E4M3 `[out, in]` | `.weight_scale` `[1]`, `[out, 1]`, `[out, in/g]` or per block |
//! | `mxfp8-quantized` | the same | `.weight_scale` U8 `[out, in/32]` |
//! | `nvfp4-pack-quantized` | `.weight_packed` U8 `[out, in/2]` | `.weight_scale` F8_E4M3 `[out, in/16]`, `.weight_global_scale` F32 `[1]` |
//! | `mxfp4-pack-quantized` | the same | `.weight_scale` U8 `[out, in/32]` |
//!
//! Source: vllm-project/compressed-tensors 0.20, `compressors/{naive_quantized,nvfp4,mxfp4,mxfp8}/base.py`,
//! `compressors/mx_utils.py`.

use super::format::CompressedFormat;
use crate::bytes::Bytes;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::float::{FloatElement, FloatScheme, FloatTensor, ScaleFormat, ScaleGrid};
use crate::module::ModuleTensors;
use crate::tensor::RawTensor;

/// Suffix and type of the codes.
fn codes_of(element: FloatElement) -> (&'static str, Dtype) {
    match element {
        FloatElement::E4M3 => ("weight", Dtype::F8_E4M3),
        FloatElement::E5M2 => ("weight", Dtype::F8_E5M2),
        FloatElement::E2M1 => ("weight_packed", Dtype::U8),
    }
}

/// The tensors that hold `matrix` as the weight of `module`; together they take [`FloatTensor::bytes`].
///
/// # Errors
/// [`Error::Invalid`] if no format holds the scheme, or the fields of `matrix` do not fit together.
pub fn float_tensors(module: &str, matrix: &FloatTensor) -> Result<Vec<(String, RawTensor)>> {
    let FloatTensor { rows, cols, scheme, .. } = *matrix;
    if CompressedFormat::of_floats(&scheme).is_none() {
        return Err(no_format(module, &scheme));
    }
    let (suffix, dtype) = codes_of(scheme.element);
    let shape = vec![rows, scheme.row_bytes(cols)];
    let mut tensors = vec![
        (suffix, RawTensor::new(dtype, shape, matrix.codes.clone())?),
        ("weight_scale", matrix.scale_tensor()?),
    ];
    if let Some(global) = matrix.global_scale {
        let bytes = Bytes::from_numbers(vec![global]);
        tensors.push(("weight_global_scale", RawTensor::new(Dtype::F32, vec![1], bytes)?));
    }
    Ok(tensors.into_iter().map(|(suffix, tensor)| (format!("{module}.{suffix}"), tensor)).collect())
}

/// What to say of a scheme that cannot be written.
pub(super) fn no_format(module: &str, scheme: &FloatScheme) -> Error {
    let message = format!(
        "compressed-tensors cannot hold {scheme}\nhint: use fp8 with F32, F16 or BF16 scales, mxfp8, nvfp4 or mxfp4"
    );
    Error::invalid(module, message)
}

/// Reads the codes and scales of a module, over the mapped file.
pub(super) fn read(tensors: &ModuleTensors<'_>, scheme: FloatScheme) -> Result<FloatTensor> {
    let (suffix, dtype) = codes_of(scheme.element);
    let codes = tensors.tensor(suffix)?;
    let (rows, cols) = match codes.shape[..] {
        [rows, row_bytes] if codes.dtype == dtype && !codes.bytes.is_empty() => {
            (rows, row_bytes * (8 / usize::from(scheme.element.bits())))
        }
        _ => {
            let message = format!("expected {dtype} [out, in], found {} {:?}", codes.dtype, codes.shape);
            return Err(tensors.wrong(suffix, message));
        }
    };
    scheme.validate(rows, cols).map_err(|e| tensors.wrong(suffix, e.to_string()))?;
    let scales = tensors.tensor("weight_scale")?;
    let scheme = FloatScheme { scale: scale_format(tensors, scheme, &scales)?, ..scheme };
    check_shape(tensors, scheme, [rows, cols], &scales)?;
    let global = if scheme.scale.has_global() { Some(global_scale(tensors)?) } else { None };
    let matrix = FloatTensor::new(rows, cols, scheme, codes.bytes, scales.bytes, global)
        .map_err(|e| tensors.wrong("weight_scale", e.to_string()))?;
    matrix.check_finite().map_err(|e| tensors.wrong(suffix, e.to_string()))?;
    Ok(matrix)
}

fn check_shape(
    tensors: &ModuleTensors<'_>,
    scheme: FloatScheme,
    dims: [usize; 2],
    scales: &RawTensor,
) -> Result<()> {
    let [height, width] = scheme.scale_shape(dims[0], dims[1]);
    // One number a tensor has also been written without a dimension, one a row without the second.
    let shapes = match scheme.grid {
        ScaleGrid::Tensor => vec![vec![1], vec![], vec![1, 1]],
        ScaleGrid::Channel => vec![vec![height, 1], vec![height]],
        _ => vec![vec![height, width]],
    };
    if shapes.contains(&scales.shape) {
        return Ok(());
    }
    let message = format!("expected {:?} for {scheme}, found {:?}", shapes[0], scales.shape);
    Err(tensors.wrong("weight_scale", message))
}

fn global_scale(tensors: &ModuleTensors<'_>) -> Result<f32> {
    let tensor = tensors.tensor("weight_global_scale")?;
    match tensor.to_f32().as_deref() {
        Ok(&[number]) => Ok(number),
        _ => {
            let message = format!("expected one float, found {} {:?}", tensor.dtype, tensor.shape);
            Err(tensors.wrong("weight_global_scale", message))
        }
    }
}

/// How the scales of the file are stored: as the scheme says, or as any float type where it says only that.
fn scale_format(tensors: &ModuleTensors<'_>, scheme: FloatScheme, scales: &RawTensor) -> Result<ScaleFormat> {
    let expected = match (scheme.scale, scales.dtype) {
        (ScaleFormat::E4M3, Dtype::F8_E4M3) | (ScaleFormat::E8M0, Dtype::U8 | Dtype::F8_E8M0) => {
            return Ok(scheme.scale);
        }
        (ScaleFormat::E4M3, _) => "F8_E4M3",
        (ScaleFormat::E8M0, _) => "U8",
        (_, dtype @ (Dtype::F32 | Dtype::F16 | Dtype::BF16)) => return ScaleFormat::of(dtype),
        _ => "F32, F16 or BF16",
    };
    Err(tensors.wrong("weight_scale", format!("expected {expected}, found {}", scales.dtype)))
}
