//! Self-attention of a block.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Tensor;
use trimtab_nn::attention::{Scoring, Sight, attend, attend_and_weigh, attend_in_bits, weights};
use trimtab_nn::{AttentionQuantizer, Ctx, Layer, LayerMut, Norm, Operand, Site, Table, host};

use super::relative;
use super::stage_plan::AttentionPlan;
use super::{NormPlan, QkNorm, QkvKind, TransformerConfig};
use crate::load::Loader;

/// Query, key, value and output, with what happens between them.
#[derive(Module, Debug)]
pub struct Attention {
    /// Query, key, value; or the fused one alone.
    qkv: Vec<Site>,
    o: Site,
    /// Norms of the queries: none, one, or one a head.
    q_norms: Vec<Norm>,
    /// Norms of the keys.
    k_norms: Vec<Norm>,
    /// Positions by distance.
    relative: Option<Table>,
    /// What rounds the operands, where something does.
    #[module(skip)]
    pub(crate) quantizer: Option<Arc<AttentionQuantizer>>,
    #[module(skip)]
    owns_relative: bool,
    #[module(skip)]
    index: usize,
    #[module(skip)]
    config: Arc<TransformerConfig>,
}

impl Attention {
    pub(crate) fn load(
        plan: &AttentionPlan,
        index: usize,
        config: &Arc<TransformerConfig>,
        loader: &Loader<'_>,
    ) -> crate::Result<Self> {
        let norms =
            |plans: &[NormPlan]| plans.iter().map(|norm| loader.norm(norm)).collect::<crate::Result<_>>();
        Ok(Self {
            qkv: plan.qkv.iter().map(|site| loader.site(site)).collect::<crate::Result<_>>()?,
            o: loader.site(&plan.o)?,
            q_norms: norms(&plan.q_norms)?,
            k_norms: norms(&plan.k_norms)?,
            relative: None,
            quantizer: None,
            owns_relative: false,
            index,
            config: Arc::clone(config),
        })
    }

    /// The same attention with a table of positions, which it owns or has a copy of.
    pub(crate) fn with_relative(self, relative: Option<Table>, owns: bool) -> Self {
        Self { owns_relative: owns && relative.is_some(), relative, ..self }
    }

    /// `[B, T, width] -> [B, T, width]`.
    pub fn forward(&self, x: Tensor<3>, ctx: &mut Ctx<'_>) -> Tensor<3> {
        let c = &self.config;
        let [b, t, width] = x.dims();
        let (mut q, mut k, mut v) = match self.qkv.as_slice() {
            [fused] => self.parts(fused.forward(x, ctx)),
            sites => {
                let [q, k, v] = [0, 1, 2].map(|i| sites[i].forward(x.clone(), ctx));
                if ctx.is_done() {
                    return Tensor::zeros([b, t, width], &v.device());
                }
                let full = matches!(c.qk_norm, Some((QkNorm::Full, _)));
                let mut whole = |x: Tensor<3>, norms: &[Norm]| match norms {
                    [norm] if full => norm.forward(x, ctx),
                    _ => x,
                };
                let (q, k) = (whole(q, &self.q_norms), whole(k, &self.k_norms));
                (self.heads(q, c.heads), self.heads(k, c.kv_heads), self.heads(v, c.kv_heads))
            }
        };
        if ctx.is_done() {
            return Tensor::zeros([b, t, width], &v.device());
        }
        if matches!(c.qk_norm, Some((QkNorm::Head | QkNorm::EachHead, _))) {
            (q, k) = (head_norm(q, &self.q_norms, ctx), head_norm(k, &self.k_norms, ctx));
        }
        let options = &c.blocks[self.index];
        if let Some(rotary) = &options.rotary {
            let (cos, sin) = rotary.tables(ctx.position(), t, &q.device());
            (q, k) = (rotary.turn(q, cos.clone(), sin.clone()), rotary.turn(k, cos, sin));
        }
        if let Some(cache) = ctx.cache.as_deref_mut() {
            (k, v) = cache.append(self.index, k, v);
        }
        let sight = Sight { causal: c.causal, window: options.window };
        if self.owns_relative {
            ctx.relative.clone_from(&self.relative);
        }
        // Without the block that owns the table before it, as when blocks are run one by one, a block has its copy.
        let table = ctx.relative.as_ref().or(self.relative.as_ref());
        let bias = table
            .zip(c.relative)
            .map(|(table, positions)| relative::bias(table, positions, c.causal, [t, k.dims()[2]]));
        if let Some(binary) = ctx.binary_attention {
            let mixed =
                attend_in_bits([q, k, v], sight, ctx.mask.clone(), ctx.seen.clone(), &c.scoring, binary);
            return self.o.forward(mixed, ctx);
        }
        let (keep, seen, mass) = (ctx.mask.clone(), ctx.seen.clone(), ctx.attention_mass.as_deref_mut());
        if let Some(record) = ctx.attention_operands.as_deref_mut() {
            let operands = [Operand::Queries, Operand::Keys, Operand::Values].into_iter().zip([&q, &k, &v]);
            record.extend(operands.map(|(operand, x)| (operand, host(x.clone()))));
            let qk = [q.clone(), k.clone()];
            let shown = weights(qk, sight, keep.clone(), seen.clone(), &c.scoring, bias.clone());
            record.push((Operand::Weights, host(shown)));
        }
        let scoring = match &self.quantizer {
            Some(quantizer) => &Scoring { quantizer: Some(Arc::clone(quantizer)), ..c.scoring.clone() },
            None => &c.scoring,
        };
        let mixed = attend_and_weigh([q, k, v], sight, keep, seen, scoring, bias, mass);
        self.o.forward(mixed, ctx)
    }

    /// Attention of `x` (`[B, T, width]`) to `memory` (`[B, S, width]`); the context has the inputs of `x` first.
    pub fn across(&self, x: Tensor<3>, memory: Tensor<3>, ctx: &mut Ctx<'_>) -> Tensor<3> {
        let c = &self.config;
        let q = self.heads(self.qkv[0].forward(x, ctx), c.heads);
        ctx.swap_inputs();
        let k = self.heads(self.qkv[1].forward(memory.clone(), ctx), c.kv_heads);
        let v = self.heads(self.qkv[2].forward(memory, ctx), c.kv_heads);
        let keep = ctx.mask.clone();
        ctx.swap_inputs();
        let sight = Sight { causal: false, window: None };
        let mixed = attend([q, k, v], sight, keep, None, &c.scoring, None);
        self.o.forward(mixed, ctx)
    }

    /// `[B, T, heads * d] -> [B, heads, T, d]`.
    fn heads(&self, x: Tensor<3>, heads: usize) -> Tensor<4> {
        let [b, t, _] = x.dims();
        x.reshape([b, t, heads, self.config.head_width]).swap_dims(1, 2)
    }

    /// Query, key and value (each `[B, heads, T, d]`) of the fused site.
    fn parts(&self, all: Tensor<3>) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
        let c = &self.config;
        let (d, kv) = (c.head_width, c.kv_heads);
        if c.qkv == QkvKind::Interleaved {
            let [b, t, _] = all.dims();
            let group = c.heads / kv;
            let all = all.reshape([b, t, kv, group + 2, d]);
            let part = |first: usize, n: usize| {
                all.clone().narrow(3, first, n).reshape([b, t, kv * n, d]).swap_dims(1, 2)
            };
            return (part(0, group), part(group, 1), part(group + 1, 1));
        }
        let part =
            |first: usize, heads: usize| self.heads(all.clone().narrow(2, first * d, heads * d), heads);
        (part(0, c.heads), part(c.heads, kv), part(c.heads + kv, kv))
    }

    pub(crate) fn layers(&self) -> impl Iterator<Item = Layer<'_>> {
        let norms = self.q_norms.iter().chain(&self.k_norms).map(Layer::Norm);
        let table = self.relative.iter().filter(|_| self.owns_relative).map(Layer::Table);
        self.qkv.iter().chain([&self.o]).map(Layer::Site).chain(norms).chain(table)
    }

    pub(crate) fn layers_mut(&mut self) -> impl Iterator<Item = LayerMut<'_>> {
        let norms = self.q_norms.iter_mut().chain(&mut self.k_norms).map(LayerMut::Norm);
        let table = self.relative.iter_mut().filter(|_| self.owns_relative).map(LayerMut::Table);
        self.qkv.iter_mut().chain([&mut self.o]).map(LayerMut::Site).chain(norms).chain(table)
    }
}

/// Normalizes the channels of every head, with one norm for all heads or one for each.
fn head_norm(x: Tensor<4>, norms: &[Norm], ctx: &mut Ctx<'_>) -> Tensor<4> {
    match norms {
        [] => x,
        [norm] => norm.forward(x, ctx),
        norms => {
            let heads =
                norms.iter().enumerate().map(|(h, norm)| norm.forward(x.clone().narrow(1, h, 1), ctx));
            Tensor::cat(heads.collect(), 1)
        }
    }
}
