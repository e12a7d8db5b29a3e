//! ResNet-20 on CIFAR-10 in few bits: what experiments on post-training quantization of images share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use burn::tensor::{Device, Tensor, TensorData};
use trimtab::calibration::image_batch;
use trimtab::floors::calibrate::{ActivationRanges, Batch, RangeRule};
use trimtab::floors::io::ImageSet;
use trimtab::floors::math::random::Stream;
use trimtab::floors::models::{Model, Normalization};
use trimtab::floors::nn::{
    ActivationGranularity, ActivationQuantizer, ActivationScheme, Ctx, Flow, Network, SiteMeta, TapSet,
    Weight,
};
use trimtab::floors::quantize::affine::ScaleDtype;
use trimtab::floors::quantize::layer::Layer;
use trimtab::floors::quantize::range::RangeFinder;
use trimtab::floors::quantize::rtn::{RtnSettings, rtn};
use trimtab::floors::quantize::scheme::WeightScheme;
use trimtab::judge::Judge;
use trimtab::monitor::Quiet;

use super::pictures::{Cause, first};
use crate::lab::Lab;

/// The network and its data.
pub struct FewBits {
    /// The trained network.
    pub model: Model,
    /// It in memory.
    pub network: Network,
    normalization: Normalization,
    train: ImageSet,
    judge: Judge,
}

/// Quantizers of inputs by site.
pub type Inputs = BTreeMap<String, ActivationQuantizer>;

impl FewBits {
    /// Reads it; accuracies are over the first `test` test images.
    pub fn open(lab: &Lab<'_>, test: usize) -> Result<Self, Cause> {
        let path = lab.file("vision/resnet20_cifar10.safetensors")?;
        let model = Model::open(&path.display().to_string(), None)?;
        let set = |split: &str| -> Result<ImageSet, Cause> {
            Ok(ImageSet::read(&lab.file("vision/cifar10.safetensors")?, split)?)
        };
        let (network, normalization) = (model.network()?, model.normalization()?);
        let judge = Judge::Images { set: first(&set("test")?, test) };
        Ok(Self { model, network, normalization, train: set("train")?, judge })
    }

    /// Images to calibrate on: some of the training set, drawn anew for each seed and purpose.
    pub fn real(&self, n: usize, purpose: &str, seed: u64) -> Result<Vec<Batch>, Cause> {
        let mut order: Vec<usize> = (0..self.train.len()).collect();
        Stream::new(seed, purpose, 0, 0).shuffle(&mut order);
        let set = self.train.select(&order[..n]);
        Ok(vec![image_batch(&set, &self.normalization, 0..n, self.model.device())?])
    }

    /// Images that were made.
    pub fn made(images: Tensor<4>) -> Vec<Batch> {
        vec![Batch { input: Flow::Image(images), mask: None, row_weights: None }]
    }

    /// Percent of the test images that are classified right.
    pub fn accuracy(&self, network: &Network) -> Result<f64, Cause> {
        let quality = self.judge.score(&self.model, network, &mut Quiet::default())?;
        quality.accuracy.ok_or_else(|| "no accuracy".into())
    }

    /// Sites in the order in which they run.
    pub fn sites(&self) -> Vec<SiteMeta> {
        self.network.sites().map(|site| site.meta().clone()).collect()
    }

    /// What reads the image itself.
    pub fn first_site(&self) -> String {
        self.network.sites().next().map(|site| site.name().to_string()).unwrap_or_default()
    }

    /// Quantizers of the inputs of all sites but the first, of one step each, between the least and the largest that the network
    /// gives on these batches.
    pub fn ranges(&self, batches: &[Batch], bits: u8) -> Result<Inputs, Cause> {
        let scheme = ActivationScheme::new(bits, ActivationGranularity::Tensor);
        let mut taps = TapSet::new();
        let mut seen = Vec::new();
        let first = self.first_site();
        for site in self.sites().into_iter().filter(|site| site.name != first) {
            let ranges = ActivationRanges::new(&site, scheme, RangeRule::MinMax)?;
            let ranges = Arc::new(Mutex::new(ranges));
            taps.attach(&site.name, Arc::clone(&ranges));
            seen.push((site.name, ranges));
        }
        for batch in batches {
            let mut ctx = Ctx { taps: Some(&mut taps), ..batch.ctx() };
            self.network.forward(batch.input.clone(), &mut ctx)?;
        }
        let quantizer = |(name, ranges): (String, Arc<Mutex<ActivationRanges>>)| {
            let ranges = ranges.lock().map_err(|e| e.to_string())?;
            Ok((name, ranges.quantizer()?))
        };
        seen.into_iter().map(quantizer).collect()
    }
}

/// Rows of one step each, between their extremes; steps in single precision.
pub fn scheme(bits: u8) -> WeightScheme {
    WeightScheme { bits, group_size: None, scale_dtype: ScaleDtype::F32, ..WeightScheme::default() }
}

/// The weight of a site rounded to nearest between the extremes of each row.
pub fn rounded(meta: &SiteMeta, weight: &[f32], bits: u8) -> Result<Vec<f32>, Cause> {
    let layer = Layer::new(weight, meta.rows, meta.cols, None)?;
    let found = rtn(&layer, &scheme(bits), &RtnSettings { range: RangeFinder::MinMax })?;
    Ok(found.pack()?.dequantize())
}

/// Numbers as the weight of a site.
pub fn dense(meta: &SiteMeta, values: Vec<f32>) -> Weight {
    Weight::dense(Tensor::from_data(TensorData::new(values, [meta.rows, meta.cols]), &Device::flex()))
}

/// The network with the weight of each site rounded to as many bits as `bits` says.
pub fn with_weights(network: &Network, bits: impl Fn(&SiteMeta) -> u8) -> Result<Network, Cause> {
    let mut treated = network.clone();
    for meta in network.sites().map(|site| site.meta().clone()) {
        let Some((_, site)) = treated.site_mut(&meta.name) else { continue };
        let values = rounded(&meta, &site.to_f32(), bits(&meta))?;
        site.set_weight(dense(&meta, values))?;
    }
    Ok(treated)
}

/// The network with these quantizers of inputs.
pub fn with_inputs(network: &Network, inputs: &Inputs) -> Result<Network, Cause> {
    let mut treated = network.clone();
    for (name, quantizer) in inputs {
        let (_, site) = treated.site_mut(name).ok_or_else(|| format!("no site {name}"))?;
        site.set_activation(Some(quantizer.clone()))?;
    }
    Ok(treated)
}
