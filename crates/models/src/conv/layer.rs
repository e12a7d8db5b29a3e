//! Layers with their numbers.

use burn::tensor::Tensor;
use burn::tensor::module::{adaptive_avg_pool2d, avg_pool2d, max_pool2d};
use burn::tensor::ops::{AvgPoolOptions, MaxPoolOptions};
use trimtab_nn::conv::ConvGeometry;
use trimtab_nn::{
    self as nn, Activation, BatchNorm, Ctx, Error, Flow, Norm, NormKind, Result, Site, SiteKind, Table,
};

use super::op::Op;
use crate::load::Loader;

/// What flows between layers. Linear maps and layer norms leave their channels last, and only a layer that needs them
/// first moves them back.
#[derive(Clone)]
pub(super) enum Features {
    /// `[B, C, H, W]`.
    Planes(Tensor<4>),
    /// `[B, H, W, C]`.
    Pixels(Tensor<4>),
    /// `[B, C]`.
    Vector(Tensor<2>),
}

/// One layer.
#[derive(Clone)]
pub(super) enum Layer {
    Conv {
        site: Site,
        same: bool,
    },
    Linear(Site),
    BatchNorm(BatchNorm),
    /// Over the channels.
    Norm(Norm),
    Act(Activation),
    Max(ConvGeometry),
    Average(ConvGeometry),
    Global,
    Flatten(usize),
    Squeeze {
        reduce: Box<Layer>,
        expand: Box<Layer>,
        act: Activation,
        gate: Activation,
    },
    /// One factor a channel.
    Scale(Table),
}

impl Features {
    /// The flow between stages as features.
    pub fn of(flow: Flow, stage: &str) -> Result<Self> {
        Ok(match flow {
            Flow::Vector(x) => Self::Vector(x),
            other => Self::Planes(other.image(stage)?),
        })
    }

    /// The features as a flow between stages.
    pub fn into_flow(self) -> Flow {
        match self {
            Self::Vector(x) => Flow::Vector(x),
            other => Flow::Image(other.planes()),
        }
    }

    /// Channels first; a vector is an image of one pixel.
    pub fn planes(self) -> Tensor<4> {
        match self {
            Self::Planes(x) => x,
            Self::Pixels(x) => x.permute([0, 3, 1, 2]),
            Self::Vector(x) => {
                let [b, c] = x.dims();
                x.reshape([b, c, 1, 1])
            }
        }
    }

    /// The sum of two of one shape; `stage` is for messages.
    pub fn add(self, other: Self, stage: &str) -> Result<Self> {
        let (a, b) = match (self, other) {
            (Self::Vector(a), Self::Vector(b)) if a.dims() == b.dims() => return Ok(Self::Vector(a + b)),
            (Self::Pixels(a), Self::Pixels(b)) if a.dims() == b.dims() => return Ok(Self::Pixels(a + b)),
            (a, b) => (a.planes(), b.planes()),
        };
        if a.dims() != b.dims() {
            let (a, b) = (a.dims(), b.dims());
            let message = format!("block \"{stage}\": its layers give {a:?}, but its shortcut {b:?}");
            return Err(Error::Load(message.into()));
        }
        Ok(Self::Planes(a + b))
    }

    pub fn act(self, act: Activation) -> Self {
        match self {
            Self::Planes(x) => Self::Planes(act.forward(x)),
            Self::Pixels(x) => Self::Pixels(act.forward(x)),
            Self::Vector(x) => Self::Vector(act.forward(x)),
        }
    }

    /// Channels last: what linear maps and layer norms run on.
    fn rows(self) -> Self {
        match self {
            Self::Planes(x) => Self::Pixels(x.permute([0, 2, 3, 1])),
            other => other,
        }
    }
}

impl Layer {
    pub fn load(op: &Op, loader: &Loader<'_>) -> crate::Result<Self> {
        Ok(match op {
            Op::Conv { site, bias, same } => {
                Self::Conv { site: loader.linear(site.clone(), *bias)?, same: *same }
            }
            Op::Linear { site, bias } => Self::Linear(loader.linear(site.clone(), *bias)?),
            Op::BatchNorm { name, axis, eps, .. } => {
                let part = |part: &str| loader.tensor(&format!("{name}.{part}"), [axis.size()]);
                let parts = [part("weight")?, part("bias")?, part("running_mean")?, part("running_var")?];
                Self::BatchNorm(BatchNorm::new(name.as_str(), *eps, axis.clone(), parts))
            }
            Op::LayerNorm { name, axis, eps } => {
                let part = |part: &str| loader.tensor(&format!("{name}.{part}"), [axis.size()]);
                let (gain, bias) = (part("weight")?, part("bias")?);
                Self::Norm(Norm::new(name.as_str(), (NormKind::Layer, *eps), axis.clone(), gain, Some(bias)))
            }
            Op::Act(act) => Self::Act(*act),
            Op::Max(window) => Self::Max(*window),
            Op::Average(window) => Self::Average(*window),
            Op::Global => Self::Global,
            Op::Flatten(size) => Self::Flatten(*size),
            Op::Squeeze { reduce, expand, act, gate } => Self::Squeeze {
                reduce: Box::new(Self::load(reduce, loader)?),
                expand: Box::new(Self::load(expand, loader)?),
                act: *act,
                gate: *gate,
            },
            Op::Scale { name, shape } => Self::Scale(loader.named_table(name, shape)?),
        })
    }

    /// `stage` is for messages.
    pub fn forward(&self, x: Features, ctx: &mut Ctx<'_>, stage: &str) -> Result<Features> {
        Ok(match self {
            Self::Conv { site, same } => {
                let x = x.planes();
                let x = if *same { pad_to_same(x, site) } else { x };
                Features::Planes(site.convolve(x, ctx)?)
            }
            Self::Linear(site) => match x.rows() {
                Features::Vector(x) => Features::Vector(site.forward(x, ctx)),
                other => {
                    let Features::Pixels(x) = other.rows() else {
                        unreachable!("rows are pixels or a vector")
                    };
                    Features::Pixels(site.forward(x, ctx))
                }
            },
            Self::BatchNorm(norm) => match x {
                Features::Vector(x) => {
                    let [b, c] = x.dims();
                    Features::Vector(norm.forward(x.reshape([b, c, 1, 1]), ctx).reshape([b, c]))
                }
                other => Features::Planes(norm.forward(other.planes(), ctx)),
            },
            Self::Norm(norm) => match x.rows() {
                Features::Vector(x) => Features::Vector(norm.forward(x, ctx)),
                Features::Planes(x) | Features::Pixels(x) => Features::Pixels(norm.forward(x, ctx)),
            },
            Self::Act(act) => x.act(*act),
            Self::Max(window) => {
                let x = self.windowed(x, window, stage)?;
                let options = MaxPoolOptions::new(window.kernel)
                    .with_stride(window.stride)
                    .with_padding(window.padding);
                Features::Planes(max_pool2d(x, options))
            }
            Self::Average(window) => {
                let x = self.windowed(x, window, stage)?;
                let options = AvgPoolOptions::new(window.kernel)
                    .with_stride(window.stride)
                    .with_padding(window.padding);
                Features::Planes(avg_pool2d(x, options))
            }
            Self::Global => Features::Vector(mean(x.planes())),
            Self::Flatten(size) => {
                let x = x.planes();
                let [b, c, h, w] = x.dims();
                let x = if [h, w] == [*size; 2] { x } else { adaptive_avg_pool2d(x, [*size; 2]) };
                let [h, w] = [*size; 2];
                Features::Vector(x.reshape([b, c * h * w]))
            }
            Self::Squeeze { reduce, expand, act, gate } => {
                let x = x.planes();
                let inner = reduce.forward(Features::Vector(mean(x.clone())), ctx, stage)?;
                let inner = expand.forward(inner.into_vector().act(*act), ctx, stage)?;
                let gates = inner.into_vector().act(*gate).planes();
                Features::Planes(x * gates)
            }
            Self::Scale(scale) => match x {
                Features::Vector(x) => Features::Vector(x * scale.rows().reshape([1, -1])),
                Features::Pixels(x) => Features::Pixels(x * scale.rows().reshape([1, 1, 1, -1])),
                Features::Planes(x) => Features::Planes(x * scale.rows().reshape([1, -1, 1, 1])),
            },
        })
    }

    fn windowed(&self, x: Features, window: &ConvGeometry, stage: &str) -> Result<Tensor<4>> {
        let x = x.planes();
        let [_, c, h, w] = x.dims();
        let least = [0, 1].map(|i| window.kernel[i].saturating_sub(2 * window.padding[i]).max(1));
        let misfit = || Error::Image { site: stage.into(), channels: c, least, found: [c, h, w] };
        window.output([h, w]).map(|_| x).ok_or_else(misfit)
    }

    pub fn layers(&self) -> Vec<nn::Layer<'_>> {
        match self {
            Self::Conv { site, .. } | Self::Linear(site) => vec![nn::Layer::Site(site)],
            Self::BatchNorm(norm) => vec![nn::Layer::BatchNorm(norm)],
            Self::Norm(norm) => vec![nn::Layer::Norm(norm)],
            Self::Scale(table) => vec![nn::Layer::Table(table)],
            Self::Squeeze { reduce, expand, .. } => [reduce.layers(), expand.layers()].concat(),
            Self::Act(_) | Self::Max(_) | Self::Average(_) | Self::Global | Self::Flatten(_) => Vec::new(),
        }
    }

    pub fn layers_mut(&mut self) -> Vec<nn::LayerMut<'_>> {
        match self {
            Self::Conv { site, .. } | Self::Linear(site) => vec![nn::LayerMut::Site(site)],
            Self::BatchNorm(norm) => vec![nn::LayerMut::BatchNorm(norm)],
            Self::Norm(norm) => vec![nn::LayerMut::Norm(norm)],
            Self::Scale(table) => vec![nn::LayerMut::Table(table)],
            Self::Squeeze { reduce, expand, .. } => {
                reduce.layers_mut().into_iter().chain(expand.layers_mut()).collect()
            }
            Self::Act(_) | Self::Max(_) | Self::Average(_) | Self::Global | Self::Flatten(_) => Vec::new(),
        }
    }
}

impl Features {
    /// An image of one pixel as a vector.
    fn into_vector(self) -> Self {
        match self {
            Self::Vector(x) => Self::Vector(x),
            other => Self::Vector(mean(other.planes())),
        }
    }
}

/// Mean over the pixels: `[B, C, H, W] -> [B, C]`.
fn mean(x: Tensor<4>) -> Tensor<2> {
    let [b, c, h, w] = x.dims();
    x.reshape([b, c, h * w]).mean_dim(2).reshape([b, c])
}

/// Zeros on the sides, so that a convolution gives `size / stride` pixels, rounded up; the odd zero at the end.
fn pad_to_same(x: Tensor<4>, site: &Site) -> Tensor<4> {
    let SiteKind::Conv(ConvGeometry { kernel, stride, .. }) = site.meta().kind else { return x };
    let [_, _, h, w] = x.dims();
    let zeros = |size: usize, i: usize| {
        let total = ((size.div_ceil(stride[i]).max(1) - 1) * stride[i] + kernel[i]).saturating_sub(size);
        (total / 2, total - total / 2)
    };
    let ((top, bottom), (left, right)) = (zeros(h, 0), zeros(w, 1));
    x.pad((left, right, top, bottom), 0.0)
}
