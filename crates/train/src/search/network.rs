//! The network for super-resolution: cells of edges, then pixels for channels.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use trimtab_io::Checkpoint;
use trimtab_nn::Ctx;

use super::edge::{Draws, Edge, Named};
use super::genotype::{CHAIN, COLOURS, EdgeSpec, Genotype, SIDES, Skeleton};
use crate::error::{Error, Result};

/// A network that makes images larger: `[B, 3, H, W]` in `[0, 1]` to `[B, 3, scale H, scale W]`.
///
/// Channels are colours, repeated. In a cell four edges follow one another, three more look at what comes between, and one joins
/// what the sides and the chain have; the cell adds its input. Then channels become pixels, a last edge passes over them, and the
/// image with its pixels repeated is added.
#[derive(Module, Debug)]
pub struct Upscaler {
    edges: Vec<Edge>,
    #[module(skip)]
    skeleton: Skeleton,
}

/// Channels as pixels: `[B, C r r, H, W] -> [B, C, r H, r W]`.
pub fn pixel_shuffle(x: Tensor<4>, scale: usize) -> Tensor<4> {
    let [b, c, h, w] = x.dims();
    let channels = c / (scale * scale);
    x.reshape([b, channels, scale, scale, h, w]).permute([0, 1, 4, 2, 5, 3]).reshape([
        b,
        channels,
        h * scale,
        w * scale,
    ])
}

/// Each channel so many times in a row: `[B, C, H, W] -> [B, C times, H, W]`.
fn repeated(x: Tensor<4>, times: usize) -> Tensor<4> {
    let [b, c, h, w] = x.dims();
    x.reshape([b, c, 1, h, w]).repeat_dim(2, times).reshape([b, c * times, h, w])
}

/// Each pixel as a square of `scale` by `scale`.
pub fn nearest(x: Tensor<4>, scale: usize) -> Tensor<4> {
    pixel_shuffle(repeated(x, scale * scale), scale)
}

impl Upscaler {
    /// A new network of these edges; `stepped` if it is to be rounded.
    pub(super) fn new(
        skeleton: Skeleton,
        edges: Vec<EdgeSpec>,
        stepped: bool,
        seed: u64,
        device: &Device,
    ) -> Self {
        let edge = |(i, spec)| Edge::new(i, spec, stepped, seed, device);
        Self { edges: edges.into_iter().enumerate().map(edge).collect(), skeleton }
    }

    /// A new network of a genotype, in its bits, with initial weights by `seed`.
    ///
    /// # Errors
    /// Those of [`Genotype::edges`].
    pub fn of(genotype: &Genotype, seed: u64, device: &Device) -> Result<Self> {
        Ok(Self::new(genotype.skeleton, genotype.edges()?, true, seed, device))
    }

    /// The network of a genotype as it was written.
    ///
    /// # Errors
    /// Those of [`Genotype::edges`], and tensors that are missing or have another shape.
    pub fn read(genotype: &Genotype, checkpoint: &Checkpoint, device: &Device) -> Result<Self> {
        let mut network = Self::of(genotype, 0, device)?;
        let read = |name: &str, shape: &[usize]| -> Result<Vec<f32>> {
            let tensor = checkpoint.tensor(name)?;
            if tensor.shape != shape {
                let message = format!("tensor \"{name}\" has shape {:?}, expected {shape:?}", tensor.shape);
                return Err(Error::setting(checkpoint.path().display().to_string(), message));
            }
            Ok(tensor.to_f32()?)
        };
        network.edges =
            network.edges.into_iter().map(|edge| edge.filled(device, read)).collect::<Result<_>>()?;
        Ok(network)
    }

    /// How many times larger images become.
    pub fn scale(&self) -> usize {
        self.skeleton.scale
    }

    /// Larger images, by a network in its bits.
    pub fn forward(&self, x: Tensor<4>, ctx: &mut Ctx<'_>) -> Tensor<4> {
        self.mixture(x, None, None, ctx)
    }

    /// [`Upscaler::forward`] with coefficients for each edge; by noise, or rounded.
    pub(super) fn mixture(
        &self,
        image: Tensor<4>,
        alphas: Option<&[Tensor<1>]>,
        draws: Option<&Draws>,
        ctx: &mut Ctx<'_>,
    ) -> Tensor<4> {
        let mut next = 0;
        let mut edge = |x: Tensor<4>| {
            let here = next;
            next += 1;
            self.edges[here].forward(x, alphas.map(|alphas| &alphas[here]), draws, ctx)
        };
        let Skeleton { channels, cells, scale } = self.skeleton;
        let mut x = repeated(image.clone(), channels / COLOURS);
        for _ in 0..cells {
            let (mut y, mut joined) = (x.clone(), Vec::new());
            for i in 0..CHAIN {
                if i < SIDES {
                    joined.push(edge(y.clone()));
                }
                y = edge(y);
            }
            joined.push(y);
            x = x + edge(Tensor::cat(joined, 1));
        }
        let large = pixel_shuffle(edge(x), scale);
        edge(large) + nearest(image, scale)
    }

    /// What stands at its edges.
    pub(super) fn specs(&self) -> impl Iterator<Item = &EdgeSpec> {
        self.edges.iter().map(|edge| &*edge.spec)
    }

    /// All numbers by their names: of a network in its bits, weights as it multiplies with them, with the steps that they are whole
    /// numbers of.
    pub fn tensors(&self) -> Vec<Named> {
        self.edges.iter().flat_map(Edge::tensors).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use burn::tensor::TensorData;
    use trimtab_io::{Dtype, RawTensor, to_safetensors};
    use trimtab_math::random::Stream;
    use trimtab_nn::host;

    use super::super::genotype::{Choice, Operation};
    use super::*;

    fn images(n: usize, side: usize, device: &Device) -> Tensor<4> {
        let mut stream = Stream::new(2, "images", 0, 0);
        let values = (0..n * 3 * side * side).map(|_| stream.uniform() as f32).collect::<Vec<_>>();
        Tensor::from_data(TensorData::new(values, [n, 3, side, side]), device)
    }

    #[test]
    fn channels_become_pixels_in_the_usual_order() {
        let x: Vec<f32> = (0..8).map(|i| i as f32).collect();
        let x = Tensor::<4>::from_data(TensorData::new(x, [1, 4, 1, 2]), &Device::flex());
        assert_eq!(host(pixel_shuffle(x, 2)), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        let x = Tensor::<4>::from_data(TensorData::new(vec![1.0f32, 2.0], [1, 1, 1, 2]), &Device::flex());
        assert_eq!(host(nearest(x, 2)), [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0]);
    }

    #[test]
    fn what_was_written_computes_the_same_and_in_codes() {
        let device = Device::flex();
        let mut genotype = Genotype::uniform(Skeleton::default(), Choice { op: Operation::Conv3, bits: 4 });
        for (i, choice) in genotype.edges.values_mut().enumerate() {
            if i % 3 == 0 && choice.op == Operation::Conv3 {
                *choice = Choice { op: Operation::Growth3, bits: 8 };
            }
        }
        let network = Upscaler::of(&genotype, 4, &device).unwrap();
        let x = images(2, 6, &device);
        let y = network.forward(x.clone(), &mut Ctx::default());
        assert_eq!(y.dims(), [2, 3, 12, 12]);
        let tensors = network.tensors();
        let by_name: BTreeMap<&str, &[f32]> =
            tensors.iter().map(|(name, _, v)| (&name[..], &v[..])).collect();
        let (weight, steps) = (by_name["tail.conv3.0.weight"], by_name["tail.conv3.0.step.int4"]);
        for (row, step) in weight.chunks(27).zip(steps) {
            assert!(
                row.iter().all(|w| ((w / step).round() * step - w).abs() < 1e-6 && (w / step).abs() < 8.5)
            );
        }
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, keep: &dyn Fn(&str) -> bool| {
            let raw: Vec<(String, RawTensor)> = tensors
                .iter()
                .filter(|(name, ..)| keep(name))
                .map(|(name, shape, v)| {
                    (name.clone(), RawTensor::from_f32(shape.clone(), v, Dtype::F32).unwrap())
                })
                .collect();
            let path = dir.path().join(name);
            std::fs::write(&path, to_safetensors(&raw, &Default::default()).unwrap()).unwrap();
            Checkpoint::open(&path).unwrap()
        };
        let read = Upscaler::read(&genotype, &write("all.safetensors", &|_| true), &device).unwrap();
        assert_eq!(host(read.forward(x.clone(), &mut Ctx::default())), host(y.clone()));
        // Controls: another network, and a file that lacks something.
        let other = Upscaler::of(&genotype, 5, &device).unwrap();
        assert_ne!(host(other.forward(x, &mut Ctx::default())), host(y));
        let missing = write("some.safetensors", &|name| name != "tail.deviation");
        let error = Upscaler::read(&genotype, &missing, &device).unwrap_err().to_string();
        assert!(error.contains("tail.deviation"), "{error}");
        let wide = Genotype { skeleton: Skeleton { channels: 24, ..genotype.skeleton }, ..genotype };
        let error = Upscaler::read(&wide, &write("again.safetensors", &|_| true), &device).unwrap_err();
        assert!(error.to_string().contains("expected [24]"), "{error}");
    }
}
