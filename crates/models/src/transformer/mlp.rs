//! The feed-forward sublayer.

use burn::module::Module;
use burn::tensor::Tensor;
use trimtab_nn::{Activation, Ctx, Layer, LayerMut, Site};

use super::experts::Experts;
use super::stage_plan::{FeedPlan, MlpPlan};
use crate::load::Loader;

/// `down(act(gate x) * up x)` or `down(act(up x))`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// Gate (if any), then up; or both in one site, gate first.
    up: Vec<Site>,
    down: Site,
    #[module(skip)]
    gated: bool,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    pub(crate) fn load(plan: &MlpPlan, loader: &Loader<'_>) -> crate::Result<Self> {
        Ok(Self {
            up: plan.up.iter().map(|site| loader.site(site)).collect::<crate::Result<_>>()?,
            down: loader.site(&plan.down)?,
            gated: plan.gated,
            activation: plan.activation,
        })
    }

    /// `[.., width] -> [.., width]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, ctx: &mut Ctx<'_>) -> Tensor<D> {
        let act = self.activation;
        let hidden = match self.up.as_slice() {
            [gate, up] => act.forward(gate.forward(x.clone(), ctx)) * up.forward(x, ctx),
            [both, ..] if self.gated => {
                let both = both.forward(x, ctx);
                let hidden = both.dims()[D - 1] / 2;
                act.forward(both.clone().narrow(D - 1, 0, hidden)) * both.narrow(D - 1, hidden, hidden)
            }
            sites => act.forward(sites[0].forward(x, ctx)),
        };
        self.down.forward(hidden, ctx)
    }

    pub(crate) fn sites(&self) -> impl Iterator<Item = &Site> {
        self.up.iter().chain([&self.down])
    }

    pub(crate) fn sites_mut(&mut self) -> impl Iterator<Item = &mut Site> {
        self.up.iter_mut().chain([&mut self.down])
    }
}

/// What stands in the place of the feed-forward sublayer.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one a block, and modules cannot be boxed")]
pub enum Feed {
    /// One for all tokens.
    Mlp(Mlp),
    /// A few of many for each token.
    Experts(Experts),
}

impl Feed {
    pub(crate) fn load(plan: &FeedPlan, loader: &Loader<'_>) -> crate::Result<Self> {
        Ok(match plan {
            FeedPlan::Mlp(plan) => Self::Mlp(Mlp::load(plan, loader)?),
            FeedPlan::Experts(plan) => Self::Experts(Experts::load(plan, loader)?),
        })
    }

    /// `[B, T, width] -> [B, T, width]`.
    pub fn forward(&self, x: Tensor<3>, ctx: &mut Ctx<'_>) -> Tensor<3> {
        match self {
            Self::Mlp(mlp) => mlp.forward(x, ctx),
            Self::Experts(experts) => experts.forward(x, ctx),
        }
    }

    pub(crate) fn layers(&self) -> Vec<Layer<'_>> {
        match self {
            Self::Mlp(mlp) => mlp.sites().map(Layer::Site).collect(),
            Self::Experts(experts) => experts.sites().into_iter().map(Layer::Site).collect(),
        }
    }

    pub(crate) fn layers_mut(&mut self) -> Vec<LayerMut<'_>> {
        match self {
            Self::Mlp(mlp) => mlp.sites_mut().map(LayerMut::Site).collect(),
            Self::Experts(experts) => experts.sites_mut().into_iter().map(LayerMut::Site).collect(),
        }
    }
}
