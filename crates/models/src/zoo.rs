//! Convolutional networks by their sizes: what a recipe trains from nothing.
//!
//! The families read widths and depths off the tensors of a checkpoint (`specs/conv/*.toml`); this makes those tensors.
//! Weights are normal with variance `2 / fan_in` (He et al., arXiv:1502.01852), gains and running variances 1, all else 0.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trimtab_io::{Bytes, Checkpoint, Dtype, RawTensor, to_safetensors};
use trimtab_math::random::Stream;

use crate::conv::Normalization;
use crate::error::{Error, Result};

/// What stands for the network in messages; it has no path yet.
const NAME: &str = "(new network)";

/// Largest size of anything: what is larger is a slip of the hand.
const LARGEST: usize = 10_000;

/// A convolutional network that is not trained yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Zoo {
    /// ResNet for small images (He et al., arXiv:1512.03385, section 4.2): `6 n + 2` layers, shortcut A.
    ResnetCifar {
        /// Layers: 20, 32, 44, 56, 110.
        depth: usize,
        /// Channels of the first stage; doubled twice.
        #[serde(default = "cifar_width")]
        width: usize,
        /// Classes.
        classes: usize,
        /// Colours of an image.
        #[serde(default = "colours")]
        channels: usize,
    },
}

fn cifar_width() -> usize {
    16
}

fn colours() -> usize {
    3
}

/// Name and shape of every tensor.
type Shapes = Vec<(String, Vec<usize>)>;

impl Zoo {
    /// Classes that the network tells apart.
    pub fn classes(&self) -> usize {
        match self {
            Self::ResnetCifar { classes, .. } => *classes,
        }
    }

    /// The metadata of its file: how colours are normalized.
    pub fn metadata(&self, normalization: &Normalization) -> BTreeMap<String, String> {
        let joined = |values: &[f32]| values.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
        BTreeMap::from([
            ("normalize.mean".to_string(), joined(&normalization.mean)),
            ("normalize.std".to_string(), joined(&normalization.std)),
        ])
    }

    /// A checkpoint in memory with initial weights.
    ///
    /// # Errors
    /// [`Error::Config`] for sizes that no network of the family has.
    pub fn checkpoint(&self, seed: u64, normalization: &Normalization) -> Result<Checkpoint> {
        let tensors = self.shapes()?.into_iter().map(|(name, shape)| {
            let tensor =
                RawTensor::new(Dtype::F32, shape.clone(), Bytes::from_numbers(start(&name, &shape, seed)))?;
            Ok((name, tensor))
        });
        let tensors = tensors.collect::<Result<Vec<_>>>()?;
        let bytes = to_safetensors(&tensors, &self.metadata(normalization))?;
        let files = vec![("model.safetensors".to_string(), Bytes::from(bytes))];
        Ok(Checkpoint::from_bytes(files)?.named(NAME))
    }

    fn shapes(&self) -> Result<Shapes> {
        match *self {
            Self::ResnetCifar { depth, width, classes, channels } => {
                let sizes = [width, classes, channels].iter().all(|n| (1..=LARGEST).contains(n));
                if !(8..=LARGEST).contains(&depth) || depth % 6 != 2 || !sizes {
                    let message = format!(
                        "a CIFAR ResNet has 6 n + 2 layers and sizes from 1 to {LARGEST}, found depth {depth}, width {width}, {classes} classes, {channels} colours"
                    );
                    return Err(Error::Config { model: NAME.into(), message });
                }
                Ok(resnet_cifar((depth - 2) / 6, width, classes, channels))
            }
        }
    }
}

fn norm(name: &str, channels: usize) -> Shapes {
    let parts = ["weight", "bias", "running_mean", "running_var"];
    parts.map(|part| (format!("{name}.{part}"), vec![channels])).into()
}

fn resnet_cifar(blocks: usize, width: usize, classes: usize, channels: usize) -> Shapes {
    let mut all = vec![("conv1.weight".to_string(), vec![width, channels, 3, 3])];
    all.extend(norm("bn1", width));
    let mut inputs = width;
    for stage in 1..=3 {
        let outputs = width << (stage - 1);
        for block in 0..blocks {
            let name = format!("layer{stage}.{block}");
            for (part, inputs) in [(1, inputs), (2, outputs)] {
                all.push((format!("{name}.conv{part}.weight"), vec![outputs, inputs, 3, 3]));
                all.extend(norm(&format!("{name}.bn{part}"), outputs));
            }
            inputs = outputs;
        }
    }
    all.push(("linear.weight".to_string(), vec![classes, inputs]));
    all.push(("linear.bias".to_string(), vec![classes]));
    all
}

/// The numbers of a new tensor. Each has a random stream of its own.
fn start(name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let numel = shape.iter().product();
    match shape {
        [_] if name.ends_with(".weight") || name.ends_with(".running_var") => vec![1.0; numel],
        [_] => vec![0.0; numel],
        _ => {
            let fan_in: usize = shape[1..].iter().product();
            let std = (2.0 / fan_in as f64).sqrt();
            let mut stream = Stream::new(seed, &format!("init/{name}"), 0, 0);
            (0..numel).map(|_| (std * stream.normal()) as f32).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use trimtab_nn::{Ctx, Flow, StageSource};

    use super::*;
    use crate::Model;

    fn colours() -> Normalization {
        Normalization { mean: vec![0.5; 3], std: vec![0.25; 3] }
    }

    #[test]
    fn a_new_network_is_of_its_family_and_runs() {
        let zoo = Zoo::ResnetCifar { depth: 20, width: 16, classes: 10, channels: 3 };
        let checkpoint = zoo.checkpoint(7, &colours()).unwrap();
        let conv = checkpoint.tensor("layer3.0.conv1.weight").unwrap().to_f32().unwrap();
        // 18432 numbers of variance 2 / (32 * 9): to half a percent; four of it.
        let variance = conv.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / conv.len() as f64;
        assert!((variance * 144.0 - 1.0).abs() < 0.05, "{variance}");
        assert_ne!(
            conv,
            zoo.checkpoint(8, &colours()).unwrap().tensor("layer3.0.conv1.weight").unwrap().to_f32().unwrap()
        );
        let model = Model::from_checkpoint(checkpoint, None, Device::flex()).unwrap();
        assert_eq!(model.family(), "resnet_cifar");
        // The parameters that are known of this network, and two statistics for each of 688 channels of norms.
        assert_eq!(model.stages().iter().map(|stage| stage.numel).sum::<usize>(), 269_722 + 2 * 688);
        assert_eq!(model.normalization().unwrap(), colours());
        let images = Tensor::<4>::ones([2, 3, 32, 32], &Device::flex());
        let logits = model.network().unwrap().forward(Flow::Image(images), &mut Ctx::default()).unwrap();
        assert_eq!(logits.vector("test").unwrap().dims(), [2, 10]);
    }

    #[test]
    fn sizes_that_no_network_has_are_refused() {
        for (depth, width) in [(21, 16), (2, 16), (20, 0), (20, usize::MAX)] {
            let zoo = Zoo::ResnetCifar { depth, width, classes: 10, channels: 3 };
            assert!(zoo.checkpoint(0, &colours()).is_err(), "{depth} {width}");
        }
    }
}
