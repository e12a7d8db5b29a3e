//! From tensors in a checkpoint to sites and norms.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use trimtab_io::{Checkpoint, Quantization, RawTensor};
use trimtab_nn::{Norm, NormKind, Site, SiteMeta, Weight};

use crate::error::{Error, Result};
use crate::transformer::{Blueprint, TransformerConfig};

/// Reads what modules need, and checks it: shapes against `config.json`, numbers against NaN.
pub(crate) struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    quantization: Option<&'a Quantization>,
    device: &'a Device,
    /// Whether sites become parameters of the framework (to be trained) instead of views of the file.
    trainable: bool,
}

impl<'a> Loader<'a> {
    pub fn new(
        checkpoint: &'a Checkpoint,
        quantization: Option<&'a Quantization>,
        device: &'a Device,
        trainable: bool,
    ) -> Self {
        Self { checkpoint, quantization, device, trainable }
    }

    pub fn share(&self, config: &TransformerConfig) -> Arc<TransformerConfig> {
        Arc::new(config.clone())
    }

    fn model(&self) -> String {
        self.checkpoint.path().display().to_string()
    }

    /// A tensor of known shape, as it lies in the file.
    fn raw(&self, name: &str, expected: &[usize]) -> Result<RawTensor> {
        let tensor = self.checkpoint.tensor(name)?;
        if tensor.shape != expected {
            return Err(Error::Shape {
                model: self.model(),
                tensor: name.into(),
                found: tensor.shape,
                expected: expected.to_vec(),
            });
        }
        if let Some((index, value)) = tensor.first_non_finite() {
            return Err(Error::NotFinite { model: self.model(), tensor: name.into(), value, index });
        }
        Ok(tensor)
    }

    /// A tensor of the framework.
    pub fn tensor<const D: usize>(&self, name: &str, shape: [usize; D]) -> Result<Tensor<D>> {
        let values = self.raw(name, &shape)?.to_f32()?;
        Ok(Tensor::from_data(TensorData::new(values, shape), self.device))
    }

    /// A site, in the code of the checkpoint where that holds it quantized.
    pub fn site(&self, meta: SiteMeta, bias: bool) -> Result<Site> {
        let bias = bias.then(|| self.tensor(&format!("{}.bias", meta.name), [meta.rows])).transpose()?;
        let coded = match self.quantization {
            Some(quantization) => quantization.read(self.checkpoint, &meta.name)?,
            None => None,
        };
        let weight = match coded {
            Some(coded) => Weight::coded(coded),
            None => self.dense(&meta)?,
        };
        Ok(Site::new(meta, weight, bias)?)
    }

    fn dense(&self, meta: &SiteMeta) -> Result<Weight> {
        let mut tensor = self.raw(&meta.weight_name(), &meta.stored_shape())?;
        let dims = [meta.rows, meta.cols];
        if meta.transposed {
            let values = transpose(&tensor.to_f32()?, meta.cols, meta.rows);
            tensor = RawTensor::from_f32(dims.to_vec(), &values, trimtab_io::Dtype::F32)?;
        }
        tensor.shape = dims.to_vec();
        if self.trainable || *self.device != Device::flex() {
            return Ok(Weight::dense(Tensor::from_data(
                TensorData::new(tensor.to_f32()?, dims),
                self.device,
            )));
        }
        Ok(Weight::stored(tensor))
    }

    /// A norm along the residual stream.
    pub fn norm(&self, plan: &Blueprint, name: &str) -> Result<Norm> {
        let c = &plan.config;
        let gain = self.tensor(&format!("{name}.weight"), [c.width])?;
        let bias = match c.norm {
            NormKind::Layer => Some(self.tensor(&format!("{name}.bias"), [c.width])?),
            NormKind::Rms => None,
        };
        Ok(Norm::new(name, (c.norm, c.eps), plan.norm_axis(), gain, bias))
    }
}

/// `[rows, cols] -> [cols, rows]`, row-major.
pub(crate) fn transpose(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|c| (0..rows).map(move |r| values[r * cols + c])).collect()
}
