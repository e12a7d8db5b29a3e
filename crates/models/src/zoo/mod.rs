//! Networks for images by their sizes: what a recipe trains from nothing.
//!
//! The convolutional families read widths and depths off the tensors of a checkpoint (`specs/conv/*.toml`); this makes those
//! tensors. A vision transformer is made from its `config.json`.
//! Weights are normal with variance `2 / fan_in` (He et al., arXiv:1502.01852), gains and running variances 1, all else 0.

mod shapes;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trimtab_io::{Bytes, Checkpoint, Dtype, RawTensor, to_safetensors};
use trimtab_math::random::Stream;

use crate::conv::Normalization;
use crate::error::Result;

/// What stands for the network in messages; it has no path yet.
const NAME: &str = "(new network)";

/// A network that is not trained yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Zoo {
    /// Blocks of a convolution, a norm, a ReLU and a pool that halves the map: the small network of many papers.
    Convnet {
        /// Channels of each block.
        widths: Vec<usize>,
        /// What follows a convolution.
        #[serde(default)]
        norm: BlockNorm,
        /// Side of an image.
        #[serde(default = "cifar_side")]
        image: usize,
        /// Classes.
        classes: usize,
        /// Colours of an image.
        #[serde(default = "colours")]
        channels: usize,
    },
    /// Multilayer perceptron on the pixels.
    Mlp {
        /// Width of each hidden layer.
        hidden: Vec<usize>,
        /// Side of an image.
        image: usize,
        /// Classes.
        classes: usize,
        /// Colours of an image.
        #[serde(default = "colours")]
        channels: usize,
    },
    /// MobileNetV2 (Sandler et al., arXiv:1801.04381), layout of torchvision.
    MobilenetV2 {
        /// Factor of all widths; the results are multiples of 8.
        #[serde(default = "one")]
        width: f64,
        /// Classes.
        classes: usize,
        /// Colours of an image.
        #[serde(default = "colours")]
        channels: usize,
    },
    /// ResNet for large images (He et al., arXiv:1512.03385), layout of torchvision.
    Resnet {
        /// Layers: 18, 34, 50, 101 or 152.
        depth: usize,
        /// Channels of the first stage; doubled three times.
        #[serde(default = "resnet_width")]
        width: usize,
        /// Classes.
        classes: usize,
        /// Colours of an image.
        #[serde(default = "colours")]
        channels: usize,
    },
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
    /// VGG (Simonyan and Zisserman, arXiv:1409.1556), layout of torchvision.
    Vgg {
        /// Layers: 11, 13, 16 or 19.
        depth: usize,
        /// Whether a batch norm follows each convolution.
        #[serde(default)]
        batch_norm: bool,
        /// Channels of the first stage; doubled three times.
        #[serde(default = "resnet_width")]
        width: usize,
        /// Width of the two hidden linear maps.
        #[serde(default = "vgg_hidden")]
        hidden: usize,
        /// Side of the map that the first linear map reads: 7 for large images, 1 for those of 32 pixels.
        #[serde(default = "vgg_map")]
        map: usize,
        /// Classes.
        classes: usize,
        /// Colours of an image.
        #[serde(default = "colours")]
        channels: usize,
    },
    /// Vision transformer (Dosovitskiy et al., arXiv:2010.11929), layout of transformers.
    Vit {
        /// Side of an image.
        image: usize,
        /// Side of a patch.
        patch: usize,
        /// Width of the residual stream.
        width: usize,
        /// Blocks.
        blocks: usize,
        /// Heads of attention.
        heads: usize,
        /// Width of the hidden layer of a block; four times `width` if absent.
        #[serde(default)]
        hidden: Option<usize>,
        /// Classes.
        classes: usize,
        /// Colours of an image.
        #[serde(default = "colours")]
        channels: usize,
    },
}

/// The norm of a [`Zoo::Convnet`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockNorm {
    /// Over the batch.
    #[default]
    Batch,
    /// Over the channels of each pixel: the gradient of a sample depends on this sample alone.
    Layer,
    /// None; the convolution has a bias.
    None,
}

fn one() -> f64 {
    1.0
}

fn cifar_side() -> usize {
    32
}

fn cifar_width() -> usize {
    16
}

fn resnet_width() -> usize {
    64
}

fn vgg_hidden() -> usize {
    4096
}

fn vgg_map() -> usize {
    7
}

fn colours() -> usize {
    3
}

impl Zoo {
    /// Classes that the network tells apart.
    pub fn classes(&self) -> usize {
        match self {
            Self::Convnet { classes, .. }
            | Self::Mlp { classes, .. }
            | Self::MobilenetV2 { classes, .. }
            | Self::Resnet { classes, .. }
            | Self::ResnetCifar { classes, .. }
            | Self::Vgg { classes, .. }
            | Self::Vit { classes, .. } => *classes,
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
    /// [`Error::Config`](crate::Error::Config) for sizes that no network of the family has.
    pub fn checkpoint(&self, seed: u64, normalization: &Normalization) -> Result<Checkpoint> {
        let metadata = self.metadata(normalization);
        if let Some(config) = self.config()? {
            return crate::init::checkpoint_with(&config, seed, Dtype::F32, &metadata);
        }
        let tensors = self.shapes()?.into_iter().map(|(name, shape)| {
            let numbers = Bytes::from_numbers(start(&name, &shape, seed));
            Ok((name, RawTensor::new(Dtype::F32, shape, numbers)?))
        });
        let tensors = tensors.collect::<Result<Vec<_>>>()?;
        let bytes = to_safetensors(&tensors, &metadata)?;
        let files = vec![("model.safetensors".to_string(), Bytes::from(bytes))];
        Ok(Checkpoint::from_bytes(files)?.named(NAME))
    }
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
        let cifar = |depth, width| Zoo::ResnetCifar { depth, width, classes: 10, channels: 3 };
        let convnet =
            |widths, image| Zoo::Convnet { widths, norm: BlockNorm::Batch, image, classes: 10, channels: 3 };
        let vit = |image, patch, heads| Zoo::Vit {
            image,
            patch,
            width: 32,
            blocks: 2,
            heads,
            hidden: None,
            classes: 10,
            channels: 3,
        };
        let refused = [
            cifar(21, 16),
            cifar(2, 16),
            cifar(20, 0),
            cifar(20, usize::MAX),
            convnet(vec![], 32),
            convnet(vec![8; 6], 32),
            convnet(vec![8; 200], 32),
            Zoo::Resnet { depth: 19, width: 64, classes: 10, channels: 3 },
            Zoo::MobilenetV2 { width: f64::NAN, classes: 10, channels: 3 },
            Zoo::Mlp { hidden: vec![], image: 28, classes: 10, channels: 1 },
            vit(33, 8, 4),
            vit(32, 8, 5),
            vit(0, 8, 4),
        ];
        for zoo in refused {
            assert!(zoo.checkpoint(0, &colours()).is_err(), "{zoo:?}");
        }
    }

    /// Families, and the parameters that are known of their usual sizes (statistics of norms not among them).
    #[test]
    fn every_family_is_recognized_and_has_its_usual_size() {
        let known = [
            (Zoo::Resnet { depth: 18, width: 64, classes: 1000, channels: 3 }, "resnet", 11_689_512),
            (Zoo::Resnet { depth: 50, width: 64, classes: 1000, channels: 3 }, "resnet", 25_557_032),
            (Zoo::MobilenetV2 { width: 1.0, classes: 1000, channels: 3 }, "mobilenet_v2", 3_504_872),
            (Zoo::MobilenetV2 { width: 0.75, classes: 1000, channels: 3 }, "mobilenet_v2", 2_636_424),
            (
                Zoo::Vgg {
                    depth: 11,
                    batch_norm: true,
                    width: 64,
                    hidden: 4096,
                    map: 7,
                    classes: 1000,
                    channels: 3,
                },
                "vgg",
                132_868_840,
            ),
            (
                Zoo::Vgg {
                    depth: 16,
                    batch_norm: false,
                    width: 16,
                    hidden: 64,
                    map: 1,
                    classes: 10,
                    channels: 3,
                },
                "vgg",
                // Convolutions of 1/16 of the usual numbers, and the biases; maps of 128 to 64, 64 to 64, 64 to 10.
                (14_710_464 - 1728) / 16 + 432 + 1056 + 13_066,
            ),
            (
                Zoo::Convnet {
                    widths: vec![8, 16, 32],
                    norm: BlockNorm::Layer,
                    image: 28,
                    classes: 10,
                    channels: 1,
                },
                "convnet",
                72 + 1152 + 4608 + 2 * 56 + 10 * (32 * 9 + 1),
            ),
            (
                Zoo::Mlp { hidden: vec![100, 50], image: 28, classes: 10, channels: 1 },
                "mlp",
                100 * 785 + 50 * 101 + 510,
            ),
        ];
        for (zoo, family, params) in known {
            let channels = if matches!(family, "mlp" | "convnet") { 1 } else { 3 };
            let colours = Normalization { mean: vec![0.5; channels], std: vec![0.25; channels] };
            let model =
                Model::from_checkpoint(zoo.checkpoint(0, &colours).unwrap(), None, Device::flex()).unwrap();
            assert_eq!(model.family(), family, "{zoo:?}");
            let names: Vec<&str> =
                model.stages().iter().flat_map(|stage| stage.tensors.iter().map(String::as_str)).collect();
            let statistics: usize = names
                .iter()
                .filter(|name| name.contains("running_"))
                .map(|name| {
                    model.checkpoint().info(name).map_or(0, |info| info.shape.iter().product::<usize>())
                })
                .sum();
            let all: usize = model.stages().iter().map(|stage| stage.numel).sum();
            assert_eq!(all - statistics, params, "{zoo:?}");
        }
    }

    #[test]
    fn each_small_network_gives_a_score_a_class_on_its_images() {
        let networks = [
            Zoo::Convnet { widths: vec![4, 8], norm: BlockNorm::None, image: 28, classes: 7, channels: 1 },
            Zoo::Mlp { hidden: vec![12], image: 28, classes: 7, channels: 1 },
            Zoo::Vgg { depth: 11, batch_norm: true, width: 4, hidden: 8, map: 1, classes: 7, channels: 1 },
            Zoo::MobilenetV2 { width: 0.1, classes: 7, channels: 1 },
            Zoo::Resnet { depth: 18, width: 4, classes: 7, channels: 1 },
            Zoo::Vit {
                image: 28,
                patch: 7,
                width: 16,
                blocks: 2,
                heads: 2,
                hidden: None,
                classes: 7,
                channels: 1,
            },
        ];
        for zoo in networks {
            let side =
                if matches!(zoo, Zoo::Convnet { .. } | Zoo::Mlp { .. } | Zoo::Vit { .. }) { 28 } else { 32 };
            let colours = Normalization { mean: vec![0.5], std: vec![0.25] };
            let checkpoint = zoo.checkpoint(0, &colours).unwrap();
            let model = Model::from_checkpoint(checkpoint, None, Device::flex()).unwrap();
            assert_eq!(model.normalization().unwrap(), colours, "{zoo:?}");
            let images = Tensor::<4>::ones([2, 1, side, side], &Device::flex());
            let scores = model.network().unwrap().forward(Flow::Image(images), &mut Ctx::default()).unwrap();
            assert_eq!(scores.vector("test").unwrap().dims(), [2, 7], "{zoo:?}");
        }
    }
}
