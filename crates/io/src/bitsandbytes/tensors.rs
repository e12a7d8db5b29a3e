//! The tensors of one matrix.

use super::codebook::{CodebookTensor, ENTRIES};
use super::config::BnbConfig;
use super::state::{Nested, State};
use crate::affine::{AffineScheme, AffineTensor};
use crate::checkpoint::Checkpoint;
use crate::coded::Coded;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::module::ModuleTensors;

/// `1/127` as the library rounds it.
const INT8_STEP: f32 = 1.0 / 127.0;

/// The quantized weight of `module`, `[out, in]`; `None` if the checkpoint holds it dense.
///
/// A 4-bit matrix stays in the mapped file. The result is not rounded to the type in which the model was stored, as the
/// library does at the end. LLM.int8 becomes symmetric 8-bit codes with one scale a row, `SCB / 127`; the columns which
/// that method runs in half precision hold the same codes.
///
/// # Errors
/// [`crate::Error::Tensor`] if a tensor has another type or shape than the others say, or the configuration speaks of the
/// other width; [`crate::Error::MissingTensor`].
pub fn read_bitsandbytes(checkpoint: &Checkpoint, module: &str, config: &BnbConfig) -> Result<Option<Coded>> {
    let reader = Reader { tensors: ModuleTensors::new(checkpoint, module) };
    for kind in ["nf4", "fp4"] {
        let suffix = format!("weight.quant_state.bitsandbytes__{kind}");
        if reader.tensors.contains(&suffix) {
            return match config.four_bit {
                true => reader.four_bit(&suffix, kind).map(|matrix| Some(Coded::Codebook(matrix))),
                false => Err(reader.tensors.wrong(&suffix, "is of 4 bits, but load_in_8bit is true")),
            };
        }
    }
    match (reader.tensors.contains("SCB"), config.four_bit) {
        (false, _) => Ok(None),
        (true, false) => reader.int8().map(|matrix| Some(Coded::Affine(matrix))),
        (true, true) => Err(reader.tensors.wrong("SCB", "is of 8 bits, but load_in_4bit is true")),
    }
}

struct Reader<'a> {
    tensors: ModuleTensors<'a>,
}

impl Reader<'_> {
    fn four_bit(&self, suffix: &str, kind: &str) -> Result<CodebookTensor> {
        let state = self.tensors.tensor(suffix)?;
        self.tensors.expect(suffix, &state, Dtype::U8, &[state.numel()])?;
        let state =
            State::parse(&state.bytes, kind).map_err(|message| self.tensors.wrong(suffix, message))?;
        // The bytes may be stored as another type (bnb_4bit_quant_storage); they stay what they are.
        let weight = self.tensors.tensor("weight")?;
        let (map, _) = self.tensors.floats("weight.quant_map", &[ENTRIES])?;
        let codebook: [f32; ENTRIES] = map.try_into().expect("the shape was checked");
        let wrong = |e: crate::Error| self.tensors.wrong("weight", e.to_string());
        let (absmax, scale_bytes) = self.absmax(&state)?;
        let stored = weight.bytes.len() as u64 + scale_bytes + 4 * ENTRIES as u64;
        let matrix = CodebookTensor::new(state.dims, weight.bytes, state.block_size, absmax, codebook);
        Ok(matrix.map_err(wrong)?.stored_in(stored))
    }

    /// Magnitudes of the blocks, and the bytes that they take.
    fn absmax(&self, state: &State) -> Result<(Vec<f32>, u64)> {
        let tensor = self.tensors.tensor("weight.absmax")?;
        let stored = tensor.bytes.len() as u64;
        let Some(Nested { block_size, offset }) = state.nested else {
            let values = tensor.to_f32().map_err(|e| self.tensors.wrong("weight.absmax", e.to_string()))?;
            return Ok((values, stored));
        };
        self.tensors.expect("weight.absmax", &tensor, Dtype::U8, &[tensor.numel()])?;
        let blocks = tensor.numel().div_ceil(block_size);
        let (scales, _) = self.tensors.floats("weight.nested_absmax", &[blocks])?;
        let (map, _) = self.tensors.floats("weight.nested_quant_map", &[256])?;
        let values = tensor.bytes.chunks(block_size).zip(&scales);
        // Two roundings, as in the library: the product, then the sum.
        let values = values.flat_map(|(codes, &scale)| codes.iter().map(move |&code| (code, scale)));
        let values = values.map(|(code, scale)| map[usize::from(code)] * scale + offset).collect();
        Ok((values, stored + 4 * (blocks + map.len()) as u64))
    }

    fn int8(&self) -> Result<AffineTensor> {
        let weight = self.tensors.tensor("weight")?;
        let &[rows, cols] = &weight.shape[..] else {
            return Err(self
                .tensors
                .wrong("weight", format!("expected [out, in], found {:?}", weight.shape)));
        };
        self.tensors.expect("weight", &weight, Dtype::I8, &[rows, cols])?;
        if weight.bytes.is_empty() {
            return Err(self.tensors.wrong("weight", format!("has no codes: [{rows}, {cols}]")));
        }
        if self.tensors.contains("weight_format") {
            let format = self.tensors.tensor("weight_format")?.to_i64()?;
            if format != [0] {
                return Err(self.tensors.wrong("weight_format", format!("is {format:?}, expected 0 (rows)")));
            }
        }
        let (mut scales, _) = self.tensors.floats("SCB", &[rows])?;
        scales.iter_mut().for_each(|scale| *scale *= INT8_STEP);
        let scheme = AffineScheme { bits: 8, group_size: None, symmetric: true };
        let codes: Vec<u8> = weight.bytes.iter().map(|&code| code ^ 0x80).collect();
        AffineTensor::from_codes(rows, cols, scheme, &codes, scales, None, None, Dtype::F32)
            .map_err(|e| self.tensors.wrong("SCB", e.to_string()))
    }
}
