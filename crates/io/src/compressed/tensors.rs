//! The tensors of one matrix, for reading.

use super::columns::unpack_columns;
use super::config::QuantizationConfig;
use super::float;
use super::format::CompressedFormat;
use super::group::{AffineGroup, ConfigGroup, GroupScheme};
use crate::affine::{AffineScheme, AffineTensor};
use crate::bits;
use crate::checkpoint::Checkpoint;
use crate::coded::Coded;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::module::ModuleTensors;
use crate::tensor::numbers;

/// A weight, and what the file says of the inputs of its module.
#[derive(Clone, Debug)]
pub struct CompressedWeight {
    /// The weight: [`Coded::Affine`] or [`Coded::Float`].
    pub matrix: Coded,
    /// The fixed scales of the inputs (`input_scale`), where an engine does not choose them while running.
    pub input_scale: Option<Vec<f32>>,
    /// Their signed zero points (`input_zero_point`).
    pub input_zero_point: Option<Vec<i64>>,
}

/// The quantized weight of `module`; `None` if the checkpoint holds it dense. Packed codes stay in the mapped file.
///
/// # Errors
/// [`crate::Error::Tensor`] if a tensor is missing or has another type or shape than the configuration says;
/// [`crate::Error::Quantization`] if no group, or several, mean the module.
pub fn read_compressed(
    checkpoint: &Checkpoint,
    module: &str,
    config: &QuantizationConfig,
) -> Result<Option<Coded>> {
    Ok(read_compressed_weight(checkpoint, module, config)?.map(|weight| weight.matrix))
}

/// The same, with the scales of the inputs.
///
/// # Errors
/// As [`read_compressed`].
pub fn read_compressed_weight(
    checkpoint: &Checkpoint,
    module: &str,
    config: &QuantizationConfig,
) -> Result<Option<CompressedWeight>> {
    let tensors = ModuleTensors::new(checkpoint, module);
    let Some(group) = config.group_of(module)? else {
        // What only a quantized weight has beside it.
        return match ["weight_packed", "weight_scale"].into_iter().find(|suffix| tensors.contains(suffix)) {
            Some(suffix) => {
                Err(tensors.wrong(suffix, "is there, but no group of quantization_config means the module"))
            }
            None => Ok(None),
        };
    };
    let sign = if group.format.is_packed() { "weight_packed" } else { "weight_scale" };
    if !tensors.contains(sign) && !holds_float_codes(&tensors)? {
        return match config.names_exactly(module) {
            true => tensors.tensor(sign).map(|_| None),
            false => Ok(None),
        };
    }
    read(tensors, group).map(Some)
}

/// Whether the weight has a type that means nothing without a scale.
fn holds_float_codes(tensors: &ModuleTensors<'_>) -> Result<bool> {
    Ok(tensors.contains("weight")
        && matches!(tensors.tensor("weight")?.dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2))
}

fn read(tensors: ModuleTensors<'_>, group: &ConfigGroup) -> Result<CompressedWeight> {
    let matrix = match group.scheme {
        GroupScheme::Affine(codes) => Coded::Affine(Reader { tensors, codes, format: group.format }.read()?),
        GroupScheme::Float(scheme) => Coded::Float(float::read(&tensors, scheme)?),
    };
    let input_scale = match tensors.contains("input_scale") {
        true => Some(input_scale(&tensors)?),
        false => None,
    };
    let input_zero_point = match tensors.contains("input_zero_point") {
        true => Some(
            tensors
                .tensor("input_zero_point")?
                .to_i64()
                .map_err(|e| tensors.wrong("input_zero_point", e.to_string()))?,
        ),
        false => None,
    };
    Ok(CompressedWeight { matrix, input_scale, input_zero_point })
}

fn input_scale(tensors: &ModuleTensors<'_>) -> Result<Vec<f32>> {
    let tensor = tensors.tensor("input_scale")?;
    let values = tensor.to_f32().map_err(|e| tensors.wrong("input_scale", e.to_string()))?;
    match values.iter().position(|scale| !scale.is_finite()) {
        None => Ok(values),
        Some(i) => Err(tensors.wrong("input_scale", format!("is {} at index {i}", values[i]))),
    }
}

/// Reads integer codes.
struct Reader<'a> {
    tensors: ModuleTensors<'a>,
    codes: AffineGroup,
    format: CompressedFormat,
}

impl Reader<'_> {
    fn read(&self) -> Result<AffineTensor> {
        match self.format {
            CompressedFormat::PackQuantized => self.packed(),
            _ => self.bytes(),
        }
    }

    fn packed(&self) -> Result<AffineTensor> {
        let scheme = self.codes.scheme;
        let packed = self.tensors.tensor("weight_packed")?;
        let [rows, cols] = self.shape()?;
        self.tensors.expect("weight_packed", &packed, Dtype::I32, &[rows, scheme.row_words(cols)])?;
        let (scales, scale_dtype) = self.scales(rows, cols)?;
        let zeros = if scheme.symmetric { None } else { Some(self.zeros(rows, cols)?) };
        let g_idx = self.g_idx(cols)?;
        AffineTensor::from_packed(rows, cols, scheme, packed.bytes, scales, zeros, g_idx, scale_dtype)
            .map_err(|e| self.tensors.wrong("weight_packed", e.to_string()))
    }

    /// Signed bytes, which are packed here.
    fn bytes(&self) -> Result<AffineTensor> {
        let scheme = self.codes.scheme;
        let weight = self.tensors.tensor("weight")?;
        let &[rows, cols] = &weight.shape[..] else {
            let message = format!("expected [out, in], found {:?}", weight.shape);
            return Err(self.tensors.wrong("weight", message));
        };
        self.tensors.expect("weight", &weight, Dtype::I8, &[rows, cols])?;
        if weight.bytes.is_empty() {
            return Err(self.tensors.wrong("weight", format!("has no codes: [{rows}, {cols}]")));
        }
        let codes: Vec<u8> = weight.bytes.iter().map(|byte| byte.wrapping_add(scheme.middle())).collect();
        if let Some(i) = codes.iter().position(|&code| code > scheme.max_code()) {
            let message =
                format!("code {} at index {i} has more than {} bits", weight.bytes[i] as i8, scheme.bits);
            return Err(self.tensors.wrong("weight", message));
        }
        let (scales, scale_dtype) = self.scales(rows, cols)?;
        let zeros = if scheme.symmetric { None } else { Some(self.zeros(rows, cols)?) };
        let g_idx = self.g_idx(cols)?;
        AffineTensor::from_codes(rows, cols, scheme, &codes, scales, zeros, g_idx, scale_dtype)
            .map_err(|e| self.tensors.wrong("weight", e.to_string()))
    }

    fn shape(&self) -> Result<[usize; 2]> {
        let tensor = self.tensors.tensor("weight_shape")?;
        let values = tensor.to_i64().map_err(|e| self.tensors.wrong("weight_shape", e.to_string()))?;
        let dims: Vec<usize> = values.iter().filter_map(|&dim| usize::try_from(dim).ok()).collect();
        // Rows have at most 8 bits a code: longer ones than this could not be in memory.
        match (values.len(), &dims[..]) {
            (2, &[rows, cols]) if rows > 0 && (1..usize::MAX / 8).contains(&cols) => Ok([rows, cols]),
            _ => Err(self.tensors.wrong("weight_shape", format!("expected [out, in], found {values:?}"))),
        }
    }

    /// Scales as `[rows, groups]`, and their type in the file.
    fn scales(&self, rows: usize, cols: usize) -> Result<(Vec<f32>, Dtype)> {
        let tensor = self.tensors.tensor("weight_scale")?;
        let scales = tensor.to_f32().map_err(|e| self.tensors.wrong("weight_scale", e.to_string()))?;
        if self.codes.per_tensor {
            return match scales[..] {
                [scale] => Ok((vec![scale; rows], tensor.dtype)),
                _ => {
                    let message = format!("expected one number, found {:?}", tensor.shape);
                    Err(self.tensors.wrong("weight_scale", message))
                }
            };
        }
        let expected = [rows, self.codes.scheme.n_groups(cols)];
        self.tensors.expect("weight_scale", &tensor, tensor.dtype, &expected)?;
        Ok((scales, tensor.dtype))
    }

    /// Unsigned zero points, `[rows, groups]`. Packed codes have them packed along the rows; one a tensor, those of bytes,
    /// and those of files of old versions of the library are signed bytes.
    fn zeros(&self, rows: usize, cols: usize) -> Result<Vec<u8>> {
        let AffineScheme { bits, .. } = self.codes.scheme;
        let tensor = self.tensors.tensor("weight_zero_point")?;
        let groups = self.codes.scheme.n_groups(cols);
        if tensor.dtype == Dtype::I8 || self.format != CompressedFormat::PackQuantized {
            let expected = if self.codes.per_tensor { vec![1] } else { vec![rows, groups] };
            self.tensors.expect("weight_zero_point", &tensor, Dtype::I8, &expected)?;
            let shift = |byte: &u8| byte.wrapping_add(self.codes.scheme.middle());
            let zeros: Vec<u8> = tensor.bytes.iter().map(shift).collect();
            return Ok(if self.codes.per_tensor { vec![zeros[0]; rows] } else { zeros });
        }
        let height = bits::packed_words(rows, bits);
        self.tensors.expect("weight_zero_point", &tensor, Dtype::I32, &[height, groups])?;
        Ok(unpack_columns(&numbers::<u32>(&tensor.bytes), rows, groups, bits))
    }

    /// Groups of the columns, where they are not consecutive. The library marks columns without an order by -1.
    fn g_idx(&self, cols: usize) -> Result<Option<Vec<u32>>> {
        let Some(size) = self.codes.scheme.group_size.filter(|_| self.codes.act_order) else {
            return Ok(None);
        };
        let tensor = self.tensors.sized("weight_g_idx", Dtype::I32, &[cols])?;
        let values = tensor.to_i64()?;
        if values.iter().all(|&group| group == -1) {
            return Ok(None);
        }
        let g_idx: Vec<u32> = values.iter().filter_map(|&group| u32::try_from(group).ok()).collect();
        if g_idx.len() != cols {
            return Err(self.tensors.wrong("weight_g_idx", "has negative groups"));
        }
        let consecutive = g_idx.iter().enumerate().all(|(i, &group)| group as usize == i / size);
        Ok((!consecutive).then_some(g_idx))
    }
}
