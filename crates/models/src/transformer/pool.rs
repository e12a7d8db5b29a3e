//! A learned query that attends to all tokens: the head of SigLIP's vision tower (Zhai et al., arXiv:2303.15343).

use burn::module::Module;
use burn::tensor::Tensor;
use trimtab_nn::attention::{Scoring, Sight, attend};
use trimtab_nn::{Ctx, Layer, LayerMut, Norm, Site, Table};

use super::mlp::Mlp;
use super::stage_plan::PoolPlan;
use crate::load::Loader;

/// One query for all images, attention, and a feed-forward sublayer.
#[derive(Module, Debug)]
pub struct AttentionPool {
    probe: Table,
    in_weight: Table,
    in_bias: Table,
    out: Site,
    norm: Norm,
    mlp: Mlp,
    #[module(skip)]
    heads: usize,
}

impl AttentionPool {
    pub(crate) fn load(plan: &PoolPlan, heads: usize, loader: &Loader<'_>) -> crate::Result<Self> {
        Ok(Self {
            probe: loader.table(&plan.probe)?,
            in_weight: loader.table(&plan.in_weight)?,
            in_bias: loader.table(&plan.in_bias)?,
            out: loader.site(&plan.out)?,
            norm: loader.norm(&plan.norm)?,
            mlp: Mlp::load(&plan.mlp, loader)?,
            heads,
        })
    }

    /// `[B, T, C] -> [B, C]`.
    pub fn forward(&self, x: Tensor<3>, ctx: &mut Ctx<'_>) -> Tensor<2> {
        let [b, _, width] = x.dims();
        let probe: Tensor<3> = self.probe.rows().unsqueeze();
        let (weight, bias) = (self.in_weight.rows(), self.in_bias.rows());
        let part = |x: Tensor<3>, i: usize| {
            let weight = weight.clone().narrow(0, i * width, width).transpose();
            let y = x.matmul(weight.unsqueeze()) + bias.clone().narrow(1, i * width, width).unsqueeze();
            let [b, t, _] = y.dims();
            y.reshape([b, t, self.heads, width / self.heads]).swap_dims(1, 2)
        };
        let q = part(probe.expand([b, 1, width]), 0);
        let sight = Sight { causal: false, window: None };
        let qkv = [q, part(x.clone(), 1), part(x, 2)];
        let mixed = attend(qkv, sight, ctx.mask.clone(), None, &Scoring::default(), None);
        let pooled = self.out.forward(mixed.reshape([b, width]), ctx);
        let normalized = self.norm.forward(pooled.clone(), ctx);
        pooled + self.mlp.forward(normalized, ctx)
    }

    pub(crate) fn layers(&self) -> impl Iterator<Item = Layer<'_>> {
        let sites = std::iter::once(&self.out).chain(self.mlp.sites()).map(Layer::Site);
        let tables = [&self.probe, &self.in_weight, &self.in_bias].map(Layer::Table);
        sites.chain([Layer::Norm(&self.norm)]).chain(tables)
    }

    pub(crate) fn layers_mut(&mut self) -> impl Iterator<Item = LayerMut<'_>> {
        let sites = std::iter::once(&mut self.out).chain(self.mlp.sites_mut()).map(LayerMut::Site);
        let tables = [&mut self.probe, &mut self.in_weight, &mut self.in_bias].map(LayerMut::Table);
        sites.chain([LayerMut::Norm(&mut self.norm)]).chain(tables)
    }
}
