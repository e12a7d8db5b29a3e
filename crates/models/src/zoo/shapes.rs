//! Names and shapes of the tensors of each family.

use serde_json::{Value, json};

use super::{BlockNorm, NAME, Zoo};
use crate::error::{Error, Result};

/// Largest size of anything: what is larger is a slip of the hand.
const LARGEST: usize = 10_000;

/// Name and shape of every tensor.
pub(super) type Shapes = Vec<(String, Vec<usize>)>;

impl Zoo {
    /// Its `config.json`, for a transformer.
    ///
    /// # Errors
    /// [`Error::Config`] for sizes that no network of the family has.
    pub fn config(&self) -> Result<Option<Value>> {
        let &Self::Vit { image, patch, width, blocks, heads, hidden, classes, channels } = self else {
            return Ok(None);
        };
        let hidden = hidden.unwrap_or(4 * width);
        sizes("a vision transformer", &[image, patch, width, blocks, heads, hidden, classes, channels])?;
        if !image.is_multiple_of(patch) || !width.is_multiple_of(heads) {
            return Err(refused(format!(
                "patches of {patch} cover images of {image} pixels, and {heads} heads share {width} numbers, only without remainder"
            )));
        }
        let label = |i: usize| (i.to_string(), Value::from(format!("LABEL_{i}")));
        let labels: serde_json::Map<String, Value> = (0..classes).map(label).collect();
        Ok(Some(json!({
            "architectures": ["ViTForImageClassification"],
            "model_type": "vit",
            "image_size": image,
            "patch_size": patch,
            "hidden_size": width,
            "num_hidden_layers": blocks,
            "num_attention_heads": heads,
            "intermediate_size": hidden,
            "num_channels": channels,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "qkv_bias": true,
            "id2label": labels,
        })))
    }

    /// Name and shape of every tensor of a network that has no `config.json`.
    pub(super) fn shapes(&self) -> Result<Shapes> {
        match self {
            Self::Convnet { widths, norm, image, classes, channels } => {
                let halved = image >> widths.len().min(usize::BITS as usize - 1);
                sizes("a convnet", &[&widths[..], &[*image, *classes, *channels]].concat())?;
                if widths.is_empty() || halved == 0 {
                    let found = widths.len();
                    return Err(refused(format!(
                        "a convnet has a block or more, and {found} halve a side of {image} pixels to nothing"
                    )));
                }
                Ok(convnet(widths, *norm, halved, *classes, *channels))
            }
            Self::Mlp { hidden, image, classes, channels } => {
                sizes("a perceptron", &[&hidden[..], &[*image, *classes, *channels]].concat())?;
                if hidden.is_empty() {
                    return Err(refused("a perceptron has a hidden layer or more".into()));
                }
                let mut all = Vec::new();
                let mut inputs = image * image * channels;
                for (i, &width) in hidden.iter().enumerate() {
                    all.extend(linear(&format!("layers.{i}"), [width, inputs]));
                    inputs = width;
                }
                all.extend(linear("head", [*classes, inputs]));
                Ok(all)
            }
            &Self::MobilenetV2 { width, classes, channels } => {
                sizes("MobileNetV2", &[classes, channels])?;
                if !(0.1..=10.0).contains(&width) {
                    return Err(refused(format!(
                        "the widths of MobileNetV2 are scaled by 0.1 to 10, found {width}"
                    )));
                }
                Ok(mobilenet_v2(width, classes, channels))
            }
            &Self::Resnet { depth, width, classes, channels } => {
                sizes("a ResNet", &[width, classes, channels])?;
                let (blocks, bottleneck) = match depth {
                    18 => ([2, 2, 2, 2], false),
                    34 => ([3, 4, 6, 3], false),
                    50 => ([3, 4, 6, 3], true),
                    101 => ([3, 4, 23, 3], true),
                    152 => ([3, 8, 36, 3], true),
                    _ => {
                        return Err(refused(format!(
                            "a ResNet has 18, 34, 50, 101 or 152 layers, found {depth}"
                        )));
                    }
                };
                Ok(resnet(blocks, bottleneck, width, classes, channels))
            }
            &Self::ResnetCifar { depth, width, classes, channels } => {
                sizes("a CIFAR ResNet", &[depth, width, classes, channels])?;
                if depth < 8 || depth % 6 != 2 {
                    return Err(refused(format!("a CIFAR ResNet has 6 n + 2 layers, found {depth}")));
                }
                Ok(resnet_cifar((depth - 2) / 6, width, classes, channels))
            }
            &Self::Vgg { depth, batch_norm, width, hidden, map, classes, channels } => {
                sizes("a VGG", &[width, hidden, map, classes, channels])?;
                let convs = match depth {
                    11 => [1, 1, 2, 2, 2],
                    13 => [2, 2, 2, 2, 2],
                    16 => [2, 2, 3, 3, 3],
                    19 => [2, 2, 4, 4, 4],
                    _ => return Err(refused(format!("a VGG has 11, 13, 16 or 19 layers, found {depth}"))),
                };
                let (mut all, last) = vgg(convs, batch_norm, width, channels);
                all.extend(linear("classifier.0", [hidden, last * map * map]));
                all.extend(linear("classifier.3", [hidden, hidden]));
                all.extend(linear("classifier.6", [classes, hidden]));
                Ok(all)
            }
            Self::Vit { .. } => unreachable!("a transformer is made from its configuration"),
        }
    }
}

fn refused(message: String) -> Error {
    Error::Config { model: NAME.into(), message }
}

/// Refuses sizes that are slips of the hand.
fn sizes(what: &str, all: &[usize]) -> Result<()> {
    match all.iter().find(|size| !(1..=LARGEST).contains(*size)) {
        Some(size) => Err(refused(format!("{what} has sizes from 1 to {LARGEST}, found {size}"))),
        None => Ok(()),
    }
}

fn conv(name: &str, [rows, inputs, side]: [usize; 3]) -> (String, Vec<usize>) {
    (format!("{name}.weight"), vec![rows, inputs, side, side])
}

fn linear(name: &str, shape: [usize; 2]) -> Shapes {
    vec![(format!("{name}.weight"), shape.into()), (format!("{name}.bias"), vec![shape[0]])]
}

fn layer_norm(name: &str, channels: usize) -> Shapes {
    ["weight", "bias"].map(|part| (format!("{name}.{part}"), vec![channels])).into()
}

fn batch_norm(name: &str, channels: usize) -> Shapes {
    let parts = ["weight", "bias", "running_mean", "running_var"];
    parts.map(|part| (format!("{name}.{part}"), vec![channels])).into()
}

fn convnet(widths: &[usize], norm: BlockNorm, map: usize, classes: usize, channels: usize) -> Shapes {
    let (mut all, mut inputs) = (Vec::new(), channels);
    for (i, &width) in widths.iter().enumerate() {
        let block = format!("blocks.{i}");
        all.push(conv(&format!("{block}.conv"), [width, inputs, 3]));
        match norm {
            BlockNorm::Batch => all.extend(batch_norm(&format!("{block}.bn"), width)),
            BlockNorm::Layer => all.extend(layer_norm(&format!("{block}.ln"), width)),
            BlockNorm::None => all.push((format!("{block}.conv.bias"), vec![width])),
        }
        inputs = width;
    }
    all.extend(linear("head", [classes, inputs * map * map]));
    all
}

fn resnet_cifar(blocks: usize, width: usize, classes: usize, channels: usize) -> Shapes {
    let mut all = vec![conv("conv1", [width, channels, 3])];
    all.extend(batch_norm("bn1", width));
    let mut inputs = width;
    for stage in 1..=3 {
        let outputs = width << (stage - 1);
        for block in 0..blocks {
            let name = format!("layer{stage}.{block}");
            for (part, inputs) in [(1, inputs), (2, outputs)] {
                all.push(conv(&format!("{name}.conv{part}"), [outputs, inputs, 3]));
                all.extend(batch_norm(&format!("{name}.bn{part}"), outputs));
            }
            inputs = outputs;
        }
    }
    all.extend(linear("linear", [classes, inputs]));
    all
}

fn resnet(blocks: [usize; 4], bottleneck: bool, width: usize, classes: usize, channels: usize) -> Shapes {
    let mut all = vec![conv("conv1", [width, channels, 7])];
    all.extend(batch_norm("bn1", width));
    let mut inputs = width;
    for (stage, &count) in blocks.iter().enumerate() {
        let inner = width << stage;
        let outputs = if bottleneck { 4 * inner } else { inner };
        for block in 0..count {
            let name = format!("layer{}.{block}", stage + 1);
            let parts = match bottleneck {
                true => vec![[inner, inputs, 1], [inner, inner, 3], [outputs, inner, 1]],
                false => vec![[inner, inputs, 3], [outputs, inner, 3]],
            };
            for (i, part) in parts.into_iter().enumerate() {
                all.push(conv(&format!("{name}.conv{}", i + 1), part));
                all.extend(batch_norm(&format!("{name}.bn{}", i + 1), part[0]));
            }
            if block == 0 && (stage > 0 || inputs != outputs) {
                all.push(conv(&format!("{name}.downsample.0"), [outputs, inputs, 1]));
                all.extend(batch_norm(&format!("{name}.downsample.1"), outputs));
            }
            inputs = outputs;
        }
    }
    all.extend(linear("fc", [classes, inputs]));
    all
}

/// The convolutions, and the channels that leave the last.
fn vgg(convs: [usize; 5], normed: bool, width: usize, channels: usize) -> (Shapes, usize) {
    let (mut all, mut inputs, mut place) = (Vec::new(), channels, 0);
    for (stage, &count) in convs.iter().enumerate() {
        let outputs = width << stage.min(3);
        for _ in 0..count {
            let name = format!("features.{place}");
            all.push(conv(&name, [outputs, inputs, 3]));
            all.push((format!("{name}.bias"), vec![outputs]));
            if normed {
                all.extend(batch_norm(&format!("features.{}", place + 1), outputs));
            }
            // The convolution, its norm and its ReLU.
            place += 2 + usize::from(normed);
            inputs = outputs;
        }
        // The pool.
        place += 1;
    }
    (all, inputs)
}

/// Table 2 of the paper: expansion, channels and blocks of each stage.
const INVERTED: [[usize; 3]; 7] =
    [[1, 16, 1], [6, 24, 2], [6, 32, 3], [6, 64, 4], [6, 96, 3], [6, 160, 3], [6, 320, 1]];

fn mobilenet_v2(width: f64, classes: usize, channels: usize) -> Shapes {
    let stem = divisible(32.0 * width);
    let mut all = vec![conv("features.0.0", [stem, channels, 3])];
    all.extend(batch_norm("features.0.1", stem));
    let (mut inputs, mut place) = (stem, 1);
    for [expansion, base, count] in INVERTED {
        let outputs = divisible(base as f64 * width);
        for _ in 0..count {
            let name = format!("features.{place}.conv");
            let inner = inputs * expansion;
            let mut next = 0;
            if expansion > 1 {
                all.push(conv(&format!("{name}.0.0"), [inner, inputs, 1]));
                all.extend(batch_norm(&format!("{name}.0.1"), inner));
                next = 1;
            }
            all.push(conv(&format!("{name}.{next}.0"), [inner, 1, 3]));
            all.extend(batch_norm(&format!("{name}.{next}.1"), inner));
            all.push(conv(&format!("{name}.{}", next + 1), [outputs, inner, 1]));
            all.extend(batch_norm(&format!("{name}.{}", next + 2), outputs));
            (inputs, place) = (outputs, place + 1);
        }
    }
    let last = divisible(1280.0 * width.max(1.0));
    all.push(conv(&format!("features.{place}.0"), [last, inputs, 1]));
    all.extend(batch_norm(&format!("features.{place}.1"), last));
    all.extend(linear("classifier.1", [classes, last]));
    all
}

/// The nearest multiple of 8, but not below 0.9 of the width.
fn divisible(width: f64) -> usize {
    let rounded = (((width + 4.0) / 8.0).floor() * 8.0).max(8.0);
    (if rounded < 0.9 * width { rounded + 8.0 } else { rounded }) as usize
}
