//! From tensors in a checkpoint to sites and norms.

use std::sync::Arc;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use trimtab_io::{BranchFactors, Checkpoint, InputCode, Quantization, RawTensor, transpose};
use trimtab_nn::{
    ActivationQuantizer, AttentionQuantizer, Branch, Grid, InputOp, Norm, Signs, Site, SiteKind, SiteMeta,
    Table, Weight,
};

use crate::error::{Error, Result};
use crate::transformer::{NormPlan, SitePlan, TablePlan};

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
        if !tensor.dtype.is_float() {
            let message = format!(
                "tensor \"{name}\" holds {} codes, and no quantization_config says what they mean",
                tensor.dtype
            );
            return Err(Error::Config { model: self.model(), message });
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

    /// A site of a transformer.
    pub fn site(&self, plan: &SitePlan) -> Result<Site> {
        self.linear(plan.meta.clone(), plan.bias)
    }

    /// A site, in the code of the checkpoint where that holds it quantized.
    pub fn linear(&self, meta: SiteMeta, bias: bool) -> Result<Site> {
        let bias = bias.then(|| self.tensor(&format!("{}.bias", meta.name), [meta.rows])).transpose()?;
        let coded = match self.quantization {
            Some(quantization) => quantization.read(self.checkpoint, &meta.name)?,
            None => None,
        };
        let quantized = self.quantization.filter(|_| meta.kind != SiteKind::Embedding);
        let input = quantized.map(|q| q.input(&meta.name, coded.is_some())).transpose()?.flatten();
        let weight = match coded {
            Some(coded) => Weight::coded(coded),
            None => self.dense(&meta)?,
        };
        let branch = BranchFactors::read(self.checkpoint, &meta.name)?;
        let code = self.quantization.and_then(|quantization| quantization.input_code(&meta.name));
        let mut site = Site::new(meta, weight, bias)?;
        site.input.extend(code.map(|code| self.input_op(code)));
        if let Some(factors) = branch {
            site.set_branches(vec![Branch::of(&factors, self.device)])?;
        }
        if let Some(scheme) = input {
            let channels = site.meta().input_channels();
            let quantizer = ActivationQuantizer::read(self.checkpoint, site.name(), scheme, channels)?;
            site.set_activation(Some(quantizer))?;
        }
        Ok(site)
    }

    /// What rounds the operands of the attention of a block.
    pub fn attention(&self, block: &str) -> Result<Option<Arc<AttentionQuantizer>>> {
        let config = self.quantization.and_then(Quantization::attention);
        let Some(config) = config.filter(|config| config.blocks.contains(block)) else { return Ok(None) };
        Ok(Some(Arc::new(AttentionQuantizer::read(self.checkpoint, block, config)?)))
    }

    fn input_op(&self, code: InputCode) -> InputOp {
        match code {
            InputCode::Grid { step, low, high } => {
                let step = Tensor::from_data(TensorData::new(vec![step], [1]), self.device);
                InputOp::Grid(Grid::new(Param::from_tensor(step), [low, high]))
            }
            InputCode::Signs => InputOp::Signs(Signs::new()),
        }
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

    /// A norm.
    pub fn norm(&self, plan: &NormPlan) -> Result<Norm> {
        let (name, size, style) = (&plan.name, plan.axis.size(), plan.style);
        let gain = self.tensor(&format!("{name}.weight"), [size])?;
        let bias = style.bias.then(|| self.tensor(&format!("{name}.bias"), [size])).transpose()?;
        Ok(Norm::new(name, (style.kind, style.eps), plan.axis.clone(), gain, bias).with_offset(style.offset))
    }

    /// A tensor that is neither site nor norm.
    pub fn table(&self, plan: &TablePlan) -> Result<Table> {
        self.named_table(&plan.tensor, &plan.shape)
    }

    /// A tensor that is neither site nor norm, by its name and shape.
    pub fn named_table(&self, name: &str, shape: &[usize]) -> Result<Table> {
        let values = self.raw(name, shape)?.to_f32()?;
        let width = shape.last().copied().unwrap_or(1);
        let data = TensorData::new(values, [shape.iter().product::<usize>() / width.max(1), width]);
        Ok(Table::new(name.into(), shape.to_vec(), Tensor::from_data(data, self.device)))
    }
}
