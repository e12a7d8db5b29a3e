//! A mixture of experts: a router sends every token to a few of many feed-forward sublayers.
//!
//! Source: Jiang et al., "Mixtral of experts", arXiv:2401.04088; the shared expert as in Qwen1.5-MoE.

use burn::module::Module;
use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData, activation};
use trimtab_nn::{Ctx, Site, TapRows, host};

use super::ExpertOptions;
use super::mlp::Mlp;
use super::stage_plan::ExpertsPlan;
use crate::load::Loader;

/// Router, experts and the expert that sees every token.
#[derive(Module, Debug)]
pub struct Experts {
    /// Scores of the experts: an ordinary site that sees every token.
    router: Site,
    experts: Vec<Mlp>,
    shared: Option<Mlp>,
    /// How much of the shared expert a token gets, before the sigmoid.
    shared_gate: Option<Site>,
    #[module(skip)]
    options: ExpertOptions,
}

impl Experts {
    pub(crate) fn load(plan: &ExpertsPlan, loader: &Loader<'_>) -> crate::Result<Self> {
        let experts: crate::Result<_> = plan.experts.iter().map(|expert| Mlp::load(expert, loader)).collect();
        Ok(Self {
            router: loader.site(&plan.router)?,
            experts: experts?,
            shared: plan.shared.as_ref().map(|shared| Mlp::load(shared, loader)).transpose()?,
            shared_gate: plan.shared_gate.as_ref().map(|gate| loader.site(gate)).transpose()?,
            options: plan.options.clone(),
        })
    }

    /// `[B, T, width] -> [B, T, width]`. The taps of an expert see only the tokens that are sent to it.
    pub fn forward(&self, x: Tensor<3>, ctx: &mut Ctx<'_>) -> Tensor<3> {
        let [b, t, width] = x.dims();
        let (n, device) = (b * t, x.device());
        let rows = x.reshape([n, width]);
        let scores = activation::softmax(self.router.forward(rows.clone(), ctx), 1);
        let mut sum = self.shared(rows.clone(), ctx);
        let chosen = Routing::of(&host(scores.clone()), &self.options, ctx.row_weights, n);
        let weights = self.weights(scores, &chosen, &device);
        for (e, expert) in self.experts.iter().enumerate() {
            let tokens = &chosen.tokens[e];
            if tokens.is_empty() {
                show_nothing(expert, ctx);
                continue;
            }
            let mut inner = Ctx {
                taps: ctx.taps.as_deref_mut(),
                taps_only: ctx.taps_only,
                row_weights: chosen.row_weights.as_ref().map(|weights| weights[e].as_slice()),
                ..Ctx::default()
            };
            let index: Vec<i64> = tokens.iter().map(|&token| token as i64).collect();
            let index = Tensor::<1, Int>::from_data(TensorData::new(index, [tokens.len()]), &device);
            let out = expert.forward(rows.clone().select(0, index.clone()), &mut inner);
            let share = weights.clone().select(0, index.clone()).narrow(1, e, 1);
            sum = sum.select_assign(0, index, out * share, IndexingUpdateOp::Add);
        }
        sum.reshape([b, t, width])
    }

    /// What the shared expert gives, or zeros.
    fn shared(&self, rows: Tensor<2>, ctx: &mut Ctx<'_>) -> Tensor<2> {
        let Some(shared) = &self.shared else { return rows.zeros_like() };
        let out = shared.forward(rows.clone(), ctx);
        match &self.shared_gate {
            Some(gate) => out * activation::sigmoid(gate.forward(rows, ctx)),
            None => out,
        }
    }

    /// Weight of each expert for each token, 0 where it was not chosen, `[n, count]`.
    fn weights(&self, scores: Tensor<2>, chosen: &Routing, device: &Device) -> Tensor<2> {
        let [n, count] = scores.dims();
        let mut mask = vec![0.0f32; n * count];
        for (e, tokens) in chosen.tokens.iter().enumerate() {
            tokens.iter().for_each(|token| mask[token * count + e] = 1.0);
        }
        let kept = scores * Tensor::<2>::from_data(TensorData::new(mask, [n, count]), device);
        if self.options.normalize { kept.clone() / kept.sum_dim(1) } else { kept }
    }

    pub(crate) fn sites(&self) -> Vec<&Site> {
        let shared = self.shared.iter().flat_map(Mlp::sites).chain(&self.shared_gate);
        std::iter::once(&self.router).chain(shared).chain(self.experts.iter().flat_map(Mlp::sites)).collect()
    }

    pub(crate) fn sites_mut(&mut self) -> Vec<&mut Site> {
        let shared = self.shared.iter_mut().flat_map(Mlp::sites_mut).chain(&mut self.shared_gate);
        let experts = self.experts.iter_mut().flat_map(Mlp::sites_mut);
        std::iter::once(&mut self.router).chain(shared).chain(experts).collect()
    }
}

/// The taps of an expert without tokens see that there were none.
fn show_nothing(expert: &Mlp, ctx: &mut Ctx<'_>) {
    let Some(taps) = ctx.taps.as_deref_mut() else { return };
    for site in expert.sites().filter(|site| taps.observes(site.name())).collect::<Vec<_>>() {
        taps.input(site.meta(), TapRows::new(&[], site.meta().cols, None));
    }
}

/// Which tokens each expert gets.
struct Routing {
    /// By expert, in order.
    tokens: Vec<Vec<usize>>,
    /// Weights of those tokens for the taps.
    row_weights: Option<Vec<Vec<f64>>>,
}

impl Routing {
    /// Chooses the `per_token` largest scores of every token; of equal ones the first.
    fn of(scores: &[f32], options: &ExpertOptions, weights: Option<&[f64]>, n: usize) -> Self {
        let mut tokens = vec![Vec::new(); options.count];
        let mut order: Vec<usize> = Vec::with_capacity(options.count);
        for (token, row) in scores.chunks_exact(options.count).enumerate() {
            order.clear();
            order.extend(0..options.count);
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            order[..options.per_token].iter().for_each(|&e| tokens[e].push(token));
        }
        // One weight may stand for a run of tokens.
        let weights = weights.filter(|weights| !weights.is_empty());
        let of = |weights: &[f64], list: &Vec<usize>| {
            list.iter().map(|token| weights[token / (n / weights.len()).max(1)]).collect()
        };
        let row_weights = weights.map(|weights| tokens.iter().map(|list| of(weights, list)).collect());
        Self { tokens, row_weights }
    }
}
