//! Low-rank branches beside a weight, as the house's own form of a checkpoint holds them.
//!
//! A module `m` with a branch has two tensors more, `m.lora_A.weight` `[rank, in]` and `m.lora_B.weight` `[out, rank]`, and
//! computes `W x + B (A x)`; the scale is 1. The names are those of PEFT without its prefix, the shapes those of a linear
//! map, also where the module is a convolution (then `in` is a patch) or its weight is stored transposed. What the weight
//! itself is stored as does not matter.

use crate::adapter::LowRank;
use crate::checkpoint::Checkpoint;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::tensor::RawTensor;

const A: &str = "lora_A.weight";
const B: &str = "lora_B.weight";

/// The factors of a branch, `B A`.
#[derive(Clone, Debug)]
pub struct BranchFactors {
    a: RawTensor,
    b: RawTensor,
}

impl BranchFactors {
    /// Rounds factors `a` `[rank, d_input]` and `b` `[d_output, rank]` to the type in which they are stored.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the lengths are no multiples of the rank, or a number leaves the range of the type.
    pub fn from_f32(a: &[f32], b: &[f32], rank: usize, dtype: Dtype) -> Result<Self> {
        if rank == 0 || !a.len().is_multiple_of(rank) || !b.len().is_multiple_of(rank) {
            let message = format!("{} and {} numbers make no branch of rank {rank}", a.len(), b.len());
            return Err(Error::invalid("branch", message));
        }
        let a = RawTensor::from_f32(vec![rank, a.len() / rank], a, dtype)?;
        Self::new("branch", a, RawTensor::from_f32(vec![b.len() / rank, rank], b, dtype)?)
    }

    /// Takes tensors as they lie in a file; `label` names it in messages.
    ///
    /// # Errors
    /// [`Error::Invalid`] for shapes that do not belong together, integers, or numbers that are not finite.
    pub fn new(label: &str, a: RawTensor, b: RawTensor) -> Result<Self> {
        let wrong = |message: String| Err(Error::invalid(label, message));
        match (a.shape.as_slice(), b.shape.as_slice()) {
            ([rank, _], [_, inner]) if rank == inner && *rank > 0 => {}
            (a, b) => return wrong(format!("factors of shapes {a:?} and {b:?} make no branch")),
        }
        for (tensor, part) in [(&a, A), (&b, B)] {
            if !tensor.dtype.is_float() {
                return wrong(format!("{part} holds {}, expected floats", tensor.dtype));
            }
            if let Some((index, value)) = tensor.first_non_finite() {
                return wrong(format!("{part} holds {value} at index {index}, expected finite numbers"));
            }
        }
        Ok(Self { a, b })
    }

    /// The branch of a module, if the checkpoint has one.
    ///
    /// # Errors
    /// [`Error::Invalid`] if only one factor is there, or as [`Self::new`].
    pub fn read(checkpoint: &Checkpoint, module: &str) -> Result<Option<Self>> {
        let [a, b] = Self::names(module);
        match (checkpoint.contains(&a), checkpoint.contains(&b)) {
            (false, false) => Ok(None),
            (true, true) => Self::new(module, checkpoint.tensor(&a)?, checkpoint.tensor(&b)?).map(Some),
            (has_a, _) => {
                let message =
                    format!("has {} without {}", if has_a { A } else { B }, if has_a { B } else { A });
                Err(Error::invalid(module, message))
            }
        }
    }

    /// The names of the two tensors of a module.
    pub fn names(module: &str) -> [String; 2] {
        [A, B].map(|part| format!("{module}.{part}"))
    }

    /// Both tensors as they go into a file.
    pub fn tensors(&self, module: &str) -> Vec<(String, RawTensor)> {
        Self::names(module).into_iter().zip([self.a.clone(), self.b.clone()]).collect()
    }

    /// `[rank, d_input]`.
    pub fn a(&self) -> &RawTensor {
        &self.a
    }

    /// `[d_output, rank]`.
    pub fn b(&self) -> &RawTensor {
        &self.b
    }

    /// Inner dimension.
    pub fn rank(&self) -> usize {
        self.a.shape[0]
    }

    /// `[d_output, d_input]`, the shape of the weight beside it.
    pub fn dims(&self) -> [usize; 2] {
        [self.b.shape[0], self.a.shape[1]]
    }

    /// Bytes of a branch of rank `rank` beside a weight of these dimensions.
    pub fn byte_count(rank: usize, [d_output, d_input]: [usize; 2], dtype: Dtype) -> u64 {
        (rank * (d_output + d_input) * dtype.size()) as u64
    }

    /// Adds `B A` to a weight `[d_output, d_input]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a weight of another length.
    pub fn merge_into(&self, weight: &mut [f32]) -> Result<()> {
        let [d_output, d_input] = self.dims();
        if weight.len() != d_output * d_input {
            let message = format!("{} numbers are no weight of {d_output} x {d_input}", weight.len());
            return Err(Error::invalid("branch", message));
        }
        let (a, b, rank) = (self.a.to_f32()?, self.b.to_f32()?, self.rank());
        let all = LowRank {
            a,
            b,
            rank,
            d_input,
            d_output,
            scale: 1.0,
            magnitude: None,
            bias: None,
            transposed: false,
        };
        weight.iter_mut().zip(all.product()).for_each(|(w, change)| *w += change);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::bytes::Bytes;
    use crate::write::to_safetensors;

    fn checkpoint(tensors: &[(String, RawTensor)]) -> Checkpoint {
        let file = Bytes::from(to_safetensors(tensors, &BTreeMap::new()).unwrap());
        Checkpoint::from_bytes(vec![("model.safetensors".into(), file)]).unwrap()
    }

    #[test]
    fn comes_back_from_its_file_and_merges_by_hand() {
        // [1, 10]ᵀ [1, 2, 3] beside zeros and ones.
        let branch = BranchFactors::from_f32(&[1.0, 2.0, 3.0], &[1.0, 10.0], 1, Dtype::BF16).unwrap();
        let file = checkpoint(&branch.tensors("m"));
        let read = BranchFactors::read(&file, "m").unwrap().unwrap();
        assert_eq!((read.rank(), read.dims()), (1, [2, 3]));
        let mut weight = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0];
        read.merge_into(&mut weight).unwrap();
        assert_eq!(weight, [1.0, 2.0, 3.0, 11.0, 21.0, 31.0]);
        assert!(BranchFactors::read(&file, "n").unwrap().is_none());
        assert_eq!(BranchFactors::byte_count(1, [2, 3], Dtype::BF16), 10);
        assert!(read.merge_into(&mut weight[1..]).is_err());
    }

    #[test]
    fn halves_and_what_is_no_branch_are_refused() {
        let branch = BranchFactors::from_f32(&[1.0, 2.0], &[1.0, 10.0, 4.0], 1, Dtype::F32).unwrap();
        let half = checkpoint(&branch.tensors("m")[..1]);
        let message = BranchFactors::read(&half, "m").unwrap_err().to_string();
        assert!(message.contains("lora_A.weight without lora_B.weight"), "{message}");
        let [a, b] = [branch.a().clone(), branch.b().clone()];
        assert!(BranchFactors::new("m", b.clone(), b.clone()).is_err(), "inner dimensions differ");
        let codes = RawTensor::new(Dtype::U8, vec![3, 1], Bytes::from(vec![1u8; 3])).unwrap();
        assert!(BranchFactors::new("m", a, codes).unwrap_err().to_string().contains("floats"));
        assert!(
            BranchFactors::from_f32(&[1e6], &[1.0], 1, Dtype::F16).unwrap_err().to_string().contains("inf")
        );
        assert!(BranchFactors::from_f32(&[], &[], 0, Dtype::F16).is_err());
    }
}
