//! The tensors of one matrix.

use super::config::{BLOCK, GptqConfig, GptqFormat, GptqScheme};
use super::planes::{flatten_planes, unpack_planes};
use crate::affine::{AffineScheme, AffineTensor};
use crate::bits;
use crate::bytes::Bytes;
use crate::checkpoint::Checkpoint;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::module::ModuleTensors;
use crate::tensor::{RawTensor, numbers};
use crate::transpose::transpose;

/// The quantized weight of `module`, `[out, in]`; `None` if the checkpoint has no `module.qweight`.
///
/// The words are transposed into memory of their own, as large as the tensors. A v1 zero point is the stored field
/// plus 1 modulo `2^b`, field by field: a field of ones is a zero point of 0.
///
/// # Errors
/// [`crate::Error::Tensor`] if a tensor has another type or shape than follows from the configuration, if groups are
/// out of range, if zero points contradict `sym`, or if a rule of `dynamic` calls the module dense;
/// [`crate::Error::MissingTensor`].
pub fn read_gptq(checkpoint: &Checkpoint, module: &str, config: &GptqConfig) -> Result<Option<AffineTensor>> {
    let tensors = ModuleTensors::new(checkpoint, module);
    if !tensors.contains("qweight") {
        return Ok(None);
    }
    match config.scheme_of(module) {
        Some(scheme) => Reader { tensors, scheme, format: config.format }.read().map(Some),
        None => {
            Err(tensors.wrong("qweight", "is packed, but a \"-:\" rule of dynamic leaves the module dense"))
        }
    }
}

struct Reader<'a> {
    tensors: ModuleTensors<'a>,
    scheme: GptqScheme,
    format: GptqFormat,
}

impl Reader<'_> {
    fn read(&self) -> Result<AffineTensor> {
        let bits = self.scheme.bits;
        let (qweight, [height, rows]) = self.tensors.words("qweight")?;
        let cols = self.cols(height)?;
        let groups = self.affine().n_groups(cols);

        let mut codes = transpose(&numbers::<u32>(&qweight.bytes), height, rows);
        if self.planar() {
            flatten_planes(&mut codes, bits);
        }
        let (scales, scale_dtype) = self.tensors.floats("scales", &[groups, rows])?;
        let scales = transpose(&scales, groups, rows);
        let zeros = self.zeros(rows, groups)?;
        let scheme = AffineScheme { symmetric: zeros.is_none(), ..self.affine() };
        let g_idx = self.g_idx(cols, groups)?;
        let codes = Bytes::from_numbers(codes);
        AffineTensor::from_packed(rows, cols, scheme, codes, scales, zeros, g_idx, scale_dtype)
            .map_err(|e| self.tensors.wrong("scales", e.to_string()))
    }

    fn affine(&self) -> AffineScheme {
        AffineScheme { bits: self.scheme.bits, group_size: self.scheme.group_size, symmetric: true }
    }

    /// Whether codes lie in more than one plane; with one they are the dense stream.
    fn planar(&self) -> bool {
        self.format == GptqFormat::Planar && !matches!(self.scheme.bits, 2 | 4 | 8)
    }

    /// Inputs of a column of `height` words.
    fn cols(&self, height: usize) -> Result<usize> {
        let bits = usize::from(self.scheme.bits);
        let whole = matches!(bits, 2 | 4 | 8) || height.is_multiple_of(bits);
        let cols = height.checked_mul(BLOCK).filter(|_| whole).map(|n| n / bits);
        cols.filter(|&cols| cols < usize::MAX / 8).ok_or_else(|| {
            self.tensors.wrong("qweight", format!("{height} words a column are no codes of {bits} bits"))
        })
    }

    /// Unsigned zero points, `[rows, groups]`; `None` if all are `2^(b-1)`.
    fn zeros(&self, rows: usize, groups: usize) -> Result<Option<Vec<u8>>> {
        let bits = self.scheme.bits;
        if self.planar() && !rows.is_multiple_of(BLOCK) {
            let message = format!("{rows} outputs are no multiple of {BLOCK}, as planes of {bits} bits need");
            return Err(self.tensors.wrong("qzeros", message));
        }
        let width = bits::packed_words(rows, bits);
        let qzeros = self.tensors.sized("qzeros", Dtype::I32, &[groups, width])?;
        let mut stored = vec![0; groups * rows];
        for (words, zeros) in
            numbers::<u32>(&qzeros.bytes).chunks_exact(width).zip(stored.chunks_exact_mut(rows))
        {
            match self.planar() {
                true => unpack_planes(words, bits, zeros),
                false => bits::unpack(bytemuck::cast_slice(words), bits, zeros),
            }
        }
        let (middle, max) = (self.affine().middle(), self.affine().max_code());
        if self.format == GptqFormat::V1 {
            stored.iter_mut().for_each(|zero| *zero = (*zero).wrapping_add(1) & max);
        }
        let Some(other) = stored.iter().position(|&zero| zero != middle) else { return Ok(None) };
        if self.scheme.sym == Some(true) {
            return Err(self.tensors.wrong("qzeros", self.contradiction(&stored, other, rows)));
        }
        Ok(Some(transpose(&stored, groups, rows)))
    }

    /// What to say of zero points that are not in the middle although `sym` is set. Off by one everywhere is the usual
    /// cause: a file of one version that names the other.
    fn contradiction(&self, zeros: &[u8], first: usize, rows: usize) -> String {
        let middle = self.affine().middle();
        let (other, off) = match self.format {
            GptqFormat::V1 => (GptqFormat::V2, middle.wrapping_add(1)),
            _ => (GptqFormat::V1, middle.wrapping_sub(1)),
        };
        let mut message = format!(
            "sym is true, but the zero point of group {}, output {} is {}, expected {middle}",
            first / rows,
            first % rows,
            zeros[first]
        );
        if zeros.iter().all(|&zero| zero == off) {
            message += &format!(
                "; all are off by one: checkpoint_format is \"{}\", the file looks like \"{other}\"",
                self.format
            );
        }
        message
    }

    /// Groups of the columns, where they are not consecutive.
    fn g_idx(&self, cols: usize, groups: usize) -> Result<Option<Vec<u32>>> {
        // Some writers leave it out where the columns keep their order.
        if !self.tensors.contains("g_idx") && !self.scheme.desc_act {
            return Ok(None);
        }
        let values = self.tensors.sized("g_idx", Dtype::I32, &[cols])?.to_i64()?;
        let group = |value: i64| u32::try_from(value).ok().filter(|&group| (group as usize) < groups);
        if let Some(i) = values.iter().position(|&value| group(value).is_none()) {
            let message = format!("input {i} is in group {}, there are {groups}", values[i]);
            return Err(self.tensors.wrong("g_idx", message));
        }
        let g_idx: Vec<u32> = values.into_iter().filter_map(group).collect();
        let size = self.scheme.group_size.unwrap_or(cols);
        let consecutive = g_idx.iter().enumerate().all(|(i, &group)| group as usize == i / size);
        Ok((!consecutive).then_some(g_idx))
    }
}

/// The tensors that hold `matrix` as the weight of `module`; together they take [`GptqFormat::bytes`].
///
/// # Errors
/// [`crate::Error::Invalid`] for what the format cannot hold, by name: see [`GptqFormat::check`]; scales of another type
/// than F16 ([`crate::convert()`] rounds them and says what that loses); in v1 a zero point of 0, which would wrap.
pub fn gptq_tensors(
    module: &str,
    matrix: &AffineTensor,
    format: GptqFormat,
) -> Result<Vec<(String, RawTensor)>> {
    let AffineTensor { rows, cols, scheme, .. } = *matrix;
    check_values(matrix, format)?;
    let groups = scheme.n_groups(cols);
    let height = scheme.row_words(cols);
    let qweight = transpose(&numbers::<u32>(&matrix.codes), rows, height);
    let scales = transpose(&matrix.scales, rows, groups);

    let zeros = match &matrix.zeros {
        Some(zeros) => transpose(zeros, rows, groups),
        None => vec![scheme.middle(); groups * rows],
    };
    let less = u8::from(format == GptqFormat::V1);
    let width = bits::packed_words(rows, scheme.bits);
    let mut qzeros = vec![0u32; groups * width];
    for (zeros, words) in zeros.chunks_exact(rows).zip(qzeros.chunks_exact_mut(width)) {
        let stored: Vec<u8> = zeros.iter().map(|zero| zero - less).collect();
        bits::pack(&stored, scheme.bits, bytemuck::cast_slice_mut(words));
    }
    let size = scheme.group_size.unwrap_or(cols);
    let g_idx = matrix.g_idx.clone().unwrap_or_else(|| (0..cols).map(|i| (i / size) as u32).collect());

    let words =
        |shape: [usize; 2], words| RawTensor::new(Dtype::I32, shape.to_vec(), Bytes::from_numbers(words));
    Ok(vec![
        (format!("{module}.qweight"), words([height, rows], qweight)?),
        (format!("{module}.qzeros"), words([groups, width], qzeros)?),
        (format!("{module}.scales"), RawTensor::from_f32(vec![groups, rows], &scales, Dtype::F16)?),
        (format!("{module}.g_idx"), RawTensor::new(Dtype::I32, vec![cols], Bytes::from_numbers(g_idx))?),
    ])
}

/// Whether the file can hold exactly this matrix.
pub(crate) fn check_values(matrix: &AffineTensor, format: GptqFormat) -> Result<()> {
    check_codes(matrix, format)?;
    match matrix.scale_dtype {
        Dtype::F16 => Ok(()),
        other => Err(format.refuse(format!("holds scales of type F16, found {other}: convert them first"))),
    }
}

/// The same of all but the type of the scales.
pub(crate) fn check_codes(matrix: &AffineTensor, format: GptqFormat) -> Result<()> {
    format.check(matrix.scheme, matrix.rows, matrix.cols)?;
    let wraps = |zeros: &Vec<u8>| zeros.iter().position(|&zero| zero == 0);
    match matrix.zeros.as_ref().and_then(wraps) {
        Some(i) if format == GptqFormat::V1 => {
            let groups = matrix.scheme.n_groups(matrix.cols);
            let message = format!(
                "the zero point of output {}, group {} is 0 and would wrap when 1 is subtracted: use gptq_v2",
                i / groups,
                i % groups
            );
            Err(format.refuse(message))
        }
        _ => Ok(()),
    }
}
