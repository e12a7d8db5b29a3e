//! ResNet for CIFAR: three stages of basic blocks, shortcut A (He et al., arXiv:1512.03385, section 4.2).
//!
//! Checkpoint layout: `conv1`, `bn1`, `layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2}`, `linear`. Where a block changes the
//! width, its shortcut takes every second pixel and pads the new channels with zeros, half before, half after.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use trimtab_io::Checkpoint;
use trimtab_nn::conv::ConvGeometry;
use trimtab_nn::{Axis, BatchNorm, Ctx, Flow, Result, Role, Site, SiteKind, SiteMeta, Stage, StageInfo};

use crate::error::Error;
use crate::load::Loader;

const BATCH_NORM_EPS: f64 = 1e-5;

/// What is known of a ResNet before its weights are read.
#[derive(Clone, Debug)]
pub(crate) struct ResNetPlan {
    /// Channels of the three stages.
    widths: Vec<usize>,
    /// Blocks of each stage.
    depths: Vec<usize>,
    channels: usize,
    classes: usize,
}

impl ResNetPlan {
    /// Recognizes the layout by its tensors; `None` if it is another.
    pub fn recognize(checkpoint: &Checkpoint) -> Option<Self> {
        let shape = |name: &str| checkpoint.info(name).map(|info| info.shape.clone());
        let first = shape("conv1.weight").filter(|s| s.len() == 4 && s[2] == 3)?;
        let linear = shape("linear.weight").filter(|s| s.len() == 2)?;
        // Dense and packed weights both have the output channels first.
        let rows = |conv: String| {
            let shape = shape(&format!("{conv}.weight")).or_else(|| shape(&format!("{conv}.weight_packed")));
            shape?.first().copied()
        };
        let (mut widths, mut depths) = (Vec::new(), Vec::new());
        while let Some(width) = rows(format!("layer{}.0.conv1", widths.len() + 1)) {
            widths.push(width);
            let stage = widths.len();
            depths.push((0..).take_while(|i| rows(format!("layer{stage}.{i}.conv1")).is_some()).count());
        }
        (!widths.is_empty()).then(|| Self { widths, depths, channels: first[1], classes: linear[0] })
    }

    /// Stage and index of every block, in order.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> {
        self.depths.iter().enumerate().flat_map(|(stage, &depth)| (0..depth).map(move |i| (stage, i)))
    }

    fn block_at(&self, index: usize) -> Option<BlockPlan> {
        let (stage, i) = self.blocks().nth(index)?;
        let changes = i == 0 && stage > 0;
        Some(BlockPlan {
            name: format!("layer{}.{i}", stage + 1),
            input: if changes { self.stage_axis(stage - 1) } else { self.stage_axis(stage) },
            output: self.stage_axis(stage),
            stride: if changes { 2 } else { 1 },
        })
    }

    fn stage_axis(&self, stage: usize) -> Axis {
        Axis::new(format!("stage{}", stage + 1), self.widths[stage])
    }

    fn stem_site(&self) -> SiteMeta {
        conv_site("conv1", "image", Axis::new("image", self.channels), self.stage_axis(0), 1)
    }

    fn linear_site(&self) -> SiteMeta {
        let input = self.stage_axis(self.widths.len() - 1);
        SiteMeta {
            name: "linear".into(),
            kind: SiteKind::Linear,
            rows: self.classes,
            cols: input.size(),
            transposed: false,
            input,
            output: Axis::new("classes", self.classes),
            reads: "pooled".into(),
            fused: None,
        }
    }

    /// All stages: the first convolution, the blocks, the classifier.
    pub fn stages(&self) -> Vec<StageInfo> {
        let blocks = (0..self.blocks().count()).filter_map(|i| self.block_at(i)).map(|b| b.info());
        let mut stages = vec![with_norms("conv1", Role::Embed, vec![(self.stem_site(), "bn1".to_string())])];
        stages.extend(blocks);
        let head = self.linear_site();
        stages.push(StageInfo {
            role: Role::Head,
            name: "linear".into(),
            tensors: vec!["linear.weight".into(), "linear.bias".into()],
            numel: head.numel() + head.rows,
            sites: vec![head],
        });
        stages
    }

    pub fn load(&self, index: usize, loader: &Loader<'_>) -> crate::Result<Box<dyn Stage>> {
        if index == 0 {
            return Ok(Box::new(Stem(ConvNorm::load(self.stem_site(), "bn1", loader)?)));
        }
        match self.block_at(index - 1) {
            Some(plan) => Ok(Box::new(plan.load(loader)?)),
            None => Ok(Box::new(Classifier(loader.linear(self.linear_site(), true)?))),
        }
    }
}

struct BlockPlan {
    name: String,
    input: Axis,
    output: Axis,
    stride: usize,
}

impl BlockPlan {
    fn sites(&self) -> [SiteMeta; 2] {
        let inner = Axis::new(format!("{}.inner", self.name), self.output.size());
        let conv = |k: usize, input: &Axis, output: &Axis, stride| {
            let name = format!("{}.conv{k}", self.name);
            conv_site(&name, &format!("{name}.input"), input.clone(), output.clone(), stride)
        };
        [conv(1, &self.input, &inner, self.stride), conv(2, &inner, &self.output, 1)]
    }

    fn info(&self) -> StageInfo {
        let [first, second] = self.sites();
        let norm = |k: usize| format!("{}.bn{k}", self.name);
        with_norms(&self.name, Role::Block, vec![(first, norm(1)), (second, norm(2))])
    }

    fn load(&self, loader: &Loader<'_>) -> crate::Result<BasicBlock> {
        let [first, second] = self.sites();
        Ok(BasicBlock {
            first: ConvNorm::load(first, &format!("{}.bn1", self.name), loader)?,
            second: ConvNorm::load(second, &format!("{}.bn2", self.name), loader)?,
            name: self.name.clone(),
            stride: self.stride,
        })
    }
}

fn conv_site(name: &str, reads: &str, input: Axis, output: Axis, stride: usize) -> SiteMeta {
    SiteMeta {
        name: name.into(),
        kind: SiteKind::Conv(ConvGeometry::same(3, stride)),
        rows: output.size(),
        cols: input.size() * 9,
        transposed: false,
        input,
        output,
        reads: reads.into(),
        fused: None,
    }
}

fn with_norms(name: &str, role: Role, parts: Vec<(SiteMeta, String)>) -> StageInfo {
    let (mut tensors, mut numel) = (Vec::new(), 0);
    for (site, norm) in &parts {
        tensors.push(site.weight_name());
        tensors
            .extend(["weight", "bias", "running_mean", "running_var"].map(|part| format!("{norm}.{part}")));
        numel += site.numel() + 4 * site.rows;
    }
    let sites = parts.into_iter().map(|(site, _)| site).collect();
    StageInfo { role, name: name.into(), sites, tensors, numel }
}

/// A convolution and its batch norm.
#[derive(Module, Debug)]
struct ConvNorm {
    site: Site,
    norm: BatchNorm,
}

impl ConvNorm {
    fn load(meta: SiteMeta, norm: &str, loader: &Loader<'_>) -> crate::Result<Self> {
        let part = |name: &str| loader.tensor(&format!("{norm}.{name}"), [meta.rows]);
        let parts = [part("weight")?, part("bias")?, part("running_mean")?, part("running_var")?];
        let norm = BatchNorm::new(norm, BATCH_NORM_EPS, meta.output.clone(), parts);
        Ok(Self { norm, site: loader.linear(meta, false)? })
    }

    fn forward(&self, x: Tensor<4>, ctx: &mut Ctx<'_>) -> Result<Tensor<4>> {
        Ok(self.norm.forward(self.site.convolve(x, ctx)?))
    }
}

struct Stem(ConvNorm);

impl Stage for Stem {
    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow> {
        Ok(Flow::Image(burn::tensor::activation::relu(self.0.forward(flow.image("conv1")?, ctx)?)))
    }

    fn sites(&self) -> Vec<&Site> {
        vec![&self.0.site]
    }

    fn sites_mut(&mut self) -> Vec<&mut Site> {
        vec![&mut self.0.site]
    }
}

struct BasicBlock {
    first: ConvNorm,
    second: ConvNorm,
    name: String,
    stride: usize,
}

impl BasicBlock {
    /// Shortcut A.
    fn shortcut(&self, x: Tensor<4>, rows: usize) -> Tensor<4> {
        if self.stride == 1 {
            return x;
        }
        let [b, c, h, w] = x.dims();
        let (half_h, half_w) = (h.div_ceil(2), w.div_ceil(2));
        let pad = |size: usize, full: usize| 2 * size - full;
        let even = x.pad((0, pad(half_w, w), 0, pad(half_h, h)), 0.0);
        let even =
            even.reshape([b * c, half_h, 2, half_w * 2]).slice([0..b * c, 0..half_h, 0..1, 0..half_w * 2]);
        let even = even.reshape([b * c, half_h, half_w, 2]).slice([0..b * c, 0..half_h, 0..half_w, 0..1]);
        let even = even.reshape([b, c, half_h, half_w]);
        let before = (rows - c) / 2;
        let zeros = |n: usize| Tensor::<4>::zeros([b, n, half_h, half_w], &even.device());
        Tensor::cat(vec![zeros(before), even.clone(), zeros(rows - c - before)], 1)
    }
}

impl Stage for BasicBlock {
    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow> {
        let x = flow.image(&self.name)?;
        let inner = burn::tensor::activation::relu(self.first.forward(x.clone(), ctx)?);
        let y = self.second.forward(inner, ctx)? + self.shortcut(x, self.second.site.meta().rows);
        Ok(Flow::Image(burn::tensor::activation::relu(y)))
    }

    fn sites(&self) -> Vec<&Site> {
        vec![&self.first.site, &self.second.site]
    }

    fn sites_mut(&mut self) -> Vec<&mut Site> {
        vec![&mut self.first.site, &mut self.second.site]
    }
}

struct Classifier(Site);

impl Stage for Classifier {
    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow> {
        let x = flow.image("linear")?;
        let [b, c, h, w] = x.dims();
        let pooled = x.reshape([b, c, h * w]).mean_dim(2).reshape([b, c]);
        Ok(Flow::Vector(self.0.forward(pooled, ctx)))
    }

    fn sites(&self) -> Vec<&Site> {
        vec![&self.0]
    }

    fn sites_mut(&mut self) -> Vec<&mut Site> {
        vec![&mut self.0]
    }
}

/// Mean and standard deviation of the colours, as the checkpoint's metadata states them.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    /// Per channel.
    pub mean: Vec<f32>,
    /// Per channel.
    pub std: Vec<f32>,
}

impl Normalization {
    /// Reads `normalize.mean` and `normalize.std`.
    pub fn of(checkpoint: &Checkpoint) -> crate::Result<Self> {
        let read = |key: &str| {
            let text = checkpoint.metadata().get(key).cloned();
            let values = text
                .as_deref()
                .map(|t| t.split(',').map(|v| v.trim().parse()).collect::<Result<Vec<f32>, _>>());
            match values {
                Some(Ok(values)) if !values.is_empty() => Ok(values),
                _ => Err(Error::Config {
                    model: checkpoint.path().display().to_string(),
                    message: format!("the file's metadata lacks \"{key}\" (numbers joined by commas)"),
                }),
            }
        };
        Ok(Self { mean: read("normalize.mean")?, std: read("normalize.std")? })
    }

    /// Bytes of images (`[n, C, H, W]`) to what the network takes.
    pub fn apply(&self, pixels: &[u8], [n, c, h, w]: [usize; 4], device: &Device) -> Tensor<4> {
        let values = pixels.iter().enumerate().map(|(i, &p)| {
            let channel = i / (h * w) % c;
            (f32::from(p) / 255.0 - self.mean[channel]) / self.std[channel]
        });
        Tensor::from_data(TensorData::new(values.collect::<Vec<f32>>(), [n, c, h, w]), device)
    }
}
