//! One stage of a convolutional network.

use burn::tensor::Tensor;
use trimtab_nn::{self as nn, Activation, Ctx, Flow, Result, Stage};

use super::layer::{Features, Layer};
use super::op::Op;
use super::plan::{Piece, Shortcut};
use crate::load::Loader;

/// Layers, and what is added to what they give.
#[derive(Clone)]
pub(super) struct Block {
    name: String,
    main: Vec<Layer>,
    shortcut: Path,
    after: Option<Activation>,
    then: Vec<Layer>,
}

#[derive(Clone)]
enum Path {
    None,
    Identity,
    Pad { stride: usize, rows: usize },
    Layers(Vec<Layer>),
}

impl Block {
    pub fn load(piece: &Piece, loader: &Loader<'_>) -> crate::Result<Self> {
        let all =
            |ops: &[Op]| ops.iter().map(|op| Layer::load(op, loader)).collect::<crate::Result<Vec<_>>>();
        let shortcut = match &piece.shortcut {
            Shortcut::None => Path::None,
            Shortcut::Identity => Path::Identity,
            Shortcut::Pad { stride, rows } => Path::Pad { stride: *stride, rows: *rows },
            Shortcut::Layers(ops) => Path::Layers(all(ops)?),
        };
        let (main, then) = (all(&piece.main)?, all(&piece.then)?);
        Ok(Self { name: piece.name.clone(), main, shortcut, after: piece.after, then })
    }

    fn run(&self, layers: &[Layer], x: Features, ctx: &mut Ctx<'_>) -> Result<Features> {
        layers.iter().try_fold(x, |x, layer| layer.forward(x, ctx, &self.name))
    }
}

impl Stage for Block {
    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow> {
        let x = Features::of(flow, &self.name)?;
        let shortcut = (!matches!(self.shortcut, Path::None)).then(|| x.clone());
        let mut y = self.run(&self.main, x, ctx)?;
        if let Some(x) = shortcut {
            let x = match &self.shortcut {
                Path::Pad { stride, rows } => Features::Planes(subsample(x.planes(), *stride, *rows)),
                Path::Layers(layers) => self.run(layers, x, ctx)?,
                Path::Identity | Path::None => x,
            };
            y = y.add(x, &self.name)?;
        }
        let y = self.after.into_iter().fold(y, Features::act);
        Ok(self.run(&self.then, y, ctx)?.into_flow())
    }

    fn layers(&self) -> Vec<nn::Layer<'_>> {
        let side = match &self.shortcut {
            Path::Layers(layers) => &layers[..],
            _ => &[],
        };
        self.main.iter().chain(side).chain(&self.then).flat_map(Layer::layers).collect()
    }

    fn layers_mut(&mut self) -> Vec<nn::LayerMut<'_>> {
        let side = match &mut self.shortcut {
            Path::Layers(layers) => &mut layers[..],
            _ => &mut [],
        };
        self.main.iter_mut().chain(side).chain(&mut self.then).flat_map(Layer::layers_mut).collect()
    }

    fn boxed_clone(&self) -> Box<dyn Stage> {
        Box::new(self.clone())
    }
}

/// Every `stride`-th pixel of `[B, C, H, W]`, with channels of zeros up to `rows`, half before, half after: shortcut A of
/// He et al., arXiv:1512.03385, section 3.3.
fn subsample(x: Tensor<4>, stride: usize, rows: usize) -> Tensor<4> {
    let [b, c, h, w] = x.dims();
    let (few_h, few_w) = (h.div_ceil(stride), w.div_ceil(stride));
    let mut x = x;
    if stride > 1 {
        x = x.pad((0, stride * few_w - w, 0, stride * few_h - h), 0.0);
        x = x.reshape([b * c, few_h, stride, stride * few_w]).narrow(2, 0, 1);
        x = x.reshape([b * c, few_h, few_w, stride]).narrow(3, 0, 1).reshape([b, c, few_h, few_w]);
    }
    let before = (rows - c) / 2;
    let zeros = |n: usize| Tensor::<4>::zeros([b, n, few_h, few_w], &x.device());
    let parts = [
        (before > 0).then(|| zeros(before)),
        Some(x.clone()),
        (rows - c > before).then(|| zeros(rows - c - before)),
    ];
    Tensor::cat(parts.into_iter().flatten().collect(), 1)
}
