//! The AWQ format in its GEMM version: 4-bit codes packed along the outputs, in an order of its own.
//!
//! Source: casper-hansen/AutoAWQ, `awq/modules/linear/gemm.py`, `awq/utils/packing_utils.py`, `awq/models/_config.py`.
//!
//! Of a matrix `[out, in]` with groups of `G` columns a file holds `.qweight` (I32 `[in, out/8]`), `.qzeros` (I32
//! `[in/G, out/8]`) and `.scales` (F16 `[in/G, out]`). Zero points are stored as they are.

use serde_json::{Value, json};

use crate::affine::{AffineScheme, AffineTensor};
use crate::bytes::Bytes;
use crate::checkpoint::Checkpoint;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::module::ModuleTensors;
use crate::tensor::{RawTensor, numbers};
use crate::transpose::transpose;

/// Field `k` of a word holds the output `ORDER[k]` of its eight.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
/// Outputs of a word.
const WORD: usize = ORDER.len();
const BITS: u8 = 4;
const USE_ORIGINAL: &str = "4 bits in the version gemm are read; use the original model instead";

/// How the matrices of an AWQ checkpoint are coded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwqConfig {
    /// Inputs that share a scale; `None`: all.
    pub group_size: Option<usize>,
    /// Modules that stay dense, by name or part of a name; `None`: the engine's own habit, which is the head.
    pub modules_to_not_convert: Option<Vec<String>>,
}

impl AwqConfig {
    /// Parses the object; `w_bit` and `q_group_size` are read as synonyms of `bits` and `group_size`, and `format` of
    /// `version`.
    ///
    /// # Errors
    /// [`Error::Quantization`] for another method, version or width.
    pub fn parse(value: &Value) -> Result<Self> {
        let fields = Fields::new("awq", value)?;
        if let Some(method) = fields.synonyms(&["quant_method", "method"])?.filter(|method| method != "awq") {
            return Err(fields.refuse(&format!("quant_method is \"{method}\""), "expected \"awq\""));
        }
        let version = fields.synonyms(&["version", "format", "checkpoint_format"])?;
        if let Some(version) = version.filter(|version| version != "gemm") {
            return Err(fields.refuse(&format!("version \"{version}\" is not read"), USE_ORIGINAL));
        }
        let bits = fields.bits("bits")?.or(fields.bits("w_bit")?).unwrap_or(BITS);
        if bits != BITS {
            return Err(fields.refuse(&format!("{bits} bits are not read"), USE_ORIGINAL));
        }
        let size = fields.group_size("group_size")?.or(fields.group_size("q_group_size")?);
        let modules_to_not_convert = match fields.get("modules_to_not_convert") {
            None => None,
            Some(_) => Some(fields.strings("modules_to_not_convert")?),
        };
        // 128 is the default of the reference implementation.
        Ok(Self { group_size: size.unwrap_or(Some(128)), modules_to_not_convert })
    }

    /// The configuration of a checkpoint with these matrices; `dense` lists all other linear maps.
    ///
    /// # Errors
    /// [`Error::Invalid`] if groups differ: the format has one size for all. If there is no matrix.
    pub fn of<'a>(
        modules: impl IntoIterator<Item = (&'a str, &'a AffineTensor)>,
        dense: &[String],
    ) -> Result<Self> {
        let mut first: Option<(&str, Option<usize>)> = None;
        for (module, matrix) in modules {
            let size = matrix.scheme.group_size;
            match first {
                Some((other, found)) if found != size => {
                    let name =
                        |size: Option<usize>| size.map_or("whole rows".into(), |size| size.to_string());
                    let (found, size) = (name(found), name(size));
                    return Err(refuse(format!(
                        "has one group size for all, found {found} in \"{other}\" and {size} in \"{module}\""
                    )));
                }
                Some(_) => {}
                None => first = Some((module, size)),
            }
        }
        let Some((_, group_size)) = first else {
            return Err(refuse("there is no quantized matrix to describe"));
        };
        Ok(Self { group_size, modules_to_not_convert: (!dense.is_empty()).then(|| dense.to_vec()) })
    }

    /// The object for `config.json`.
    pub fn to_json(&self) -> Value {
        json!({
            "quant_method": "awq",
            "bits": BITS,
            "group_size": self.group_size.map_or_else(|| json!(-1), |size| json!(size)),
            "zero_point": true,
            "version": "gemm",
            "modules_to_not_convert": self.modules_to_not_convert,
        })
    }

    /// Whether the format can hold such a matrix `[rows, cols]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the reason: other than 4 bits, outputs that are no multiple of 8, a short last group.
    pub fn check(scheme: AffineScheme, rows: usize, cols: usize) -> Result<()> {
        scheme.validate()?;
        if scheme.bits != BITS {
            return Err(refuse(format!("holds codes of 4 bits, not {}", scheme.bits)));
        }
        if !rows.is_multiple_of(WORD) || rows == 0 || cols == 0 {
            return Err(refuse(format!("outputs have to be a multiple of {WORD}, found [{rows}, {cols}]")));
        }
        match scheme.group_size {
            Some(size) if !cols.is_multiple_of(size) => {
                let last = cols % size;
                Err(refuse(format!("groups of {size} leave a short last group of {last} of {cols} inputs")))
            }
            _ => Ok(()),
        }
    }

    /// Bytes of the tensors of a matrix, which passed [`Self::check`].
    pub fn bytes(scheme: AffineScheme, rows: usize, cols: usize) -> u64 {
        let words = (rows / WORD) as u64;
        let groups = scheme.n_groups(cols) as u64;
        4 * words * (cols as u64 + groups) + Dtype::F16.size() as u64 * groups * rows as u64
    }
}

/// The quantized weight of `module`, `[out, in]`; `None` if the checkpoint has no `module.qweight`.
///
/// A matrix whose zero points are all 8 is read as symmetric.
///
/// # Errors
/// [`Error::Tensor`] if a tensor has another type or shape than follows from the configuration;
/// [`Error::MissingTensor`].
pub fn read_awq(checkpoint: &Checkpoint, module: &str, config: &AwqConfig) -> Result<Option<AffineTensor>> {
    let tensors = ModuleTensors::new(checkpoint, module);
    if !tensors.contains("qweight") {
        return Ok(None);
    }
    let (qweight, [cols, width]) = tensors.words("qweight")?;
    let rows = width * WORD;
    let scheme = AffineScheme { bits: BITS, group_size: config.group_size, symmetric: false };
    let groups = scheme.n_groups(cols);
    if let Some(size) = config.group_size.filter(|size| cols % size != 0) {
        return Err(tensors.wrong("qweight", format!("{cols} inputs are no multiple of group_size {size}")));
    }
    let codes = unpack(&numbers::<u32>(&qweight.bytes), cols, width);
    let qzeros = tensors.sized("qzeros", Dtype::I32, &[groups, width])?;
    let zeros = unpack(&numbers::<u32>(&qzeros.bytes), groups, width);
    let (scales, scale_dtype) = tensors.floats("scales", &[groups, rows])?;
    let scales = transpose(&scales, groups, rows);
    let symmetric = zeros.iter().all(|&zero| zero == scheme.middle());
    let scheme = AffineScheme { symmetric, ..scheme };
    let zeros = (!symmetric).then_some(zeros);
    AffineTensor::from_codes(rows, cols, scheme, &codes, scales, zeros, None, scale_dtype)
        .map(Some)
        .map_err(|e| tensors.wrong("scales", e.to_string()))
}

/// The tensors that hold `matrix` as the weight of `module`; together they take [`AwqConfig::bytes`].
///
/// # Errors
/// [`Error::Invalid`] for what the format cannot hold, by name: see [`AwqConfig::check`]; an order of the columns;
/// scales of another type than F16 ([`crate::convert()`] rounds them and says what that loses).
pub fn awq_tensors(module: &str, matrix: &AffineTensor) -> Result<Vec<(String, RawTensor)>> {
    check_codes(matrix)?;
    if matrix.scale_dtype != Dtype::F16 {
        let found = matrix.scale_dtype;
        return Err(refuse(format!("holds scales of type F16, found {found}: convert them first")));
    }
    let AffineTensor { rows, cols, scheme, .. } = *matrix;
    let groups = scheme.n_groups(cols);
    let width = rows / WORD;
    let mut codes = vec![0; rows * cols];
    codes.chunks_exact_mut(cols).enumerate().for_each(|(row, codes)| matrix.unpack_row(row, codes));
    let zeros = matrix.zeros.clone().unwrap_or_else(|| vec![scheme.middle(); rows * groups]);
    let words = |height: usize, values: &[u8]| {
        RawTensor::new(Dtype::I32, vec![height, width], Bytes::from_numbers(pack(values, height, width)))
    };
    let scales = transpose(&matrix.scales, rows, groups);
    Ok(vec![
        (format!("{module}.qweight"), words(cols, &codes)?),
        (format!("{module}.qzeros"), words(groups, &zeros)?),
        (format!("{module}.scales"), RawTensor::from_f32(vec![groups, rows], &scales, Dtype::F16)?),
    ])
}

/// Whether the format can hold the codes of this matrix; of the scales nothing is said.
pub(crate) fn check_codes(matrix: &AffineTensor) -> Result<()> {
    AwqConfig::check(matrix.scheme, matrix.rows, matrix.cols)?;
    match matrix.g_idx {
        None => Ok(()),
        Some(_) => Err(refuse("has no order of the columns (g_idx): use gptq with desc_act")),
    }
}

fn refuse(message: impl Into<String>) -> Error {
    Error::invalid("awq", message)
}

/// Words `[height, width]` to values `[8 width, height]`.
fn unpack(words: &[u32], height: usize, width: usize) -> Vec<u8> {
    let mut out = vec![0; WORD * width * height];
    for (column, outputs) in out.chunks_exact_mut(WORD * height).enumerate() {
        for i in 0..height {
            let word = words[i * width + column];
            for (field, output) in ORDER.into_iter().enumerate() {
                outputs[output * height + i] = (word >> (4 * field) & 15) as u8;
            }
        }
    }
    out
}

/// The inverse of [`unpack`].
fn pack(values: &[u8], height: usize, width: usize) -> Vec<u32> {
    let mut out = vec![0; width * height];
    for (column, outputs) in values.chunks_exact(WORD * height).enumerate() {
        for i in 0..height {
            let fields = ORDER.into_iter().enumerate();
            out[i * width + column] = fields
                .map(|(field, output)| u32::from(outputs[output * height + i]) << (4 * field))
                .sum::<u32>();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_word_of_the_format() {
        let values: Vec<u8> = (0..8).collect();
        assert_eq!(pack(&values, 1, 1), [0x7531_6420]);
        assert_eq!(unpack(&[0x7531_6420], 1, 1), values);
    }

    #[test]
    fn words_stand_by_input_and_outputs_by_row() {
        // Three inputs, sixteen outputs: code (output, input) is output * 3 + input modulo 16.
        let values: Vec<u8> = (0..48).map(|i| i % 16).collect();
        let words = pack(&values, 3, 2);
        assert_eq!(words.len(), 6);
        assert_eq!(words[2] & 15, 1, "input 1, outputs 0..8, the first field");
        assert_eq!(unpack(&words, 3, 2), values);
    }

    #[test]
    fn the_object() {
        let value = json!({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": true, "version": "GEMM",
                           "modules_to_not_convert": ["visual"]});
        let config = AwqConfig::parse(&value).unwrap();
        assert_eq!(config.group_size, Some(64));
        assert_eq!(AwqConfig::parse(&config.to_json()).unwrap(), config);
        let old = AwqConfig::parse(&json!({"w_bit": 4, "q_group_size": -1, "version": "gemm"})).unwrap();
        assert_eq!(old, AwqConfig { group_size: None, modules_to_not_convert: None });
        for (key, value, expected) in [
            ("bits", json!(3), "3 bits"),
            ("version", json!("gemv"), "version \"gemv\""),
            ("format", json!("marlin"), "two names of one thing"),
            ("quant_method", json!("gptq"), "quant_method is \"gptq\""),
            ("group_size", json!(0), "group_size is 0"),
            ("modules_to_not_convert", json!("lm_head"), "a list of strings"),
        ] {
            let mut changed = config.to_json();
            changed[key] = value;
            let message = AwqConfig::parse(&changed).unwrap_err().to_string();
            assert!(message.contains(expected), "{key}: {message}");
        }
    }
}
