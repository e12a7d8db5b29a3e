//! The tensors of one module, by suffix.

use crate::checkpoint::Checkpoint;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::tensor::RawTensor;

/// Reads `module.suffix` for a few suffixes; messages name the checkpoint and the tensor.
#[derive(Clone, Copy)]
pub(crate) struct ModuleTensors<'a> {
    checkpoint: &'a Checkpoint,
    module: &'a str,
}

impl<'a> ModuleTensors<'a> {
    pub fn new(checkpoint: &'a Checkpoint, module: &'a str) -> Self {
        Self { checkpoint, module }
    }

    pub fn name(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.module)
    }

    pub fn contains(&self, suffix: &str) -> bool {
        self.checkpoint.contains(&self.name(suffix))
    }

    pub fn tensor(&self, suffix: &str) -> Result<RawTensor> {
        self.checkpoint.tensor(&self.name(suffix))
    }

    /// A tensor of known type and shape.
    pub fn sized(&self, suffix: &str, dtype: Dtype, shape: &[usize]) -> Result<RawTensor> {
        let tensor = self.tensor(suffix)?;
        self.expect(suffix, &tensor, dtype, shape)?;
        Ok(tensor)
    }

    /// A matrix of packed 32-bit words, and its shape. It has at least one word.
    pub fn words(&self, suffix: &str) -> Result<(RawTensor, [usize; 2])> {
        let tensor = self.tensor(suffix)?;
        match (tensor.dtype, &tensor.shape[..]) {
            (Dtype::I32, &[height, width]) if height > 0 && width > 0 => Ok((tensor, [height, width])),
            _ => {
                let found = format!("{} {:?}", tensor.dtype, tensor.shape);
                Err(self.wrong(suffix, format!("expected I32 words in two dimensions, found {found}")))
            }
        }
    }

    /// Numbers of a float type, and that type.
    pub fn floats(&self, suffix: &str, shape: &[usize]) -> Result<(Vec<f32>, Dtype)> {
        let tensor = self.tensor(suffix)?;
        self.expect(suffix, &tensor, tensor.dtype, shape)?;
        let values = tensor.to_f32().map_err(|e| self.wrong(suffix, e.to_string()))?;
        Ok((values, tensor.dtype))
    }

    pub fn expect(&self, suffix: &str, tensor: &RawTensor, dtype: Dtype, shape: &[usize]) -> Result<()> {
        if tensor.dtype == dtype && tensor.shape == shape {
            return Ok(());
        }
        let message = format!("expected {dtype} {shape:?}, found {} {:?}", tensor.dtype, tensor.shape);
        Err(self.wrong(suffix, message))
    }

    pub fn wrong(&self, suffix: &str, message: impl Into<String>) -> Error {
        Error::tensor(&self.checkpoint.path().display().to_string(), &self.name(suffix), message)
    }
}
