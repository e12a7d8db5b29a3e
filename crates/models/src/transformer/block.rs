//! The block.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Tensor;
use trimtab_nn::{AttentionQuantizer, Ctx, Flow, Layer, LayerMut, Norm, Result, Stage, Table};

use super::attention::Attention;
use super::mlp::Feed;
use super::plan::Blueprint;
use super::{NormPlace, TransformerConfig};
use crate::load::Loader;

/// Attention and the feed-forward sublayer, each with its norms and its way around.
#[derive(Module, Debug)]
pub struct Block {
    attention: Attention,
    /// Attention to what the first part of the network gives.
    cross: Option<Attention>,
    cross_norm: Option<Norm>,
    feed: Feed,
    attention_norm: Option<Norm>,
    attention_post_norm: Option<Norm>,
    mlp_norm: Option<Norm>,
    mlp_post_norm: Option<Norm>,
    /// Factors of the channels that the attention adds.
    attention_scale: Option<Table>,
    /// Factors of the channels that the feed-forward sublayer adds.
    mlp_scale: Option<Table>,
    #[module(skip)]
    name: String,
    #[module(skip)]
    config: Arc<TransformerConfig>,
}

impl Block {
    pub(crate) fn load(plan: &Blueprint, index: usize, loader: &Loader<'_>) -> crate::Result<Self> {
        let block = plan.block(index);
        let norm = |norm: &Option<_>| norm.as_ref().map(|norm| loader.norm(norm)).transpose();
        let table = |table: &Option<_>| table.as_ref().map(|table| loader.table(table)).transpose();
        Ok(Self {
            attention: {
                let relative = table(&block.relative)?;
                Attention::load(&block.attention, index, &plan.config, loader)?
                    .with_relative(relative, block.owns_relative)
            },
            cross: (block.cross.as_ref())
                .map(|cross| Attention::load(cross, index, &plan.config, loader))
                .transpose()?,
            cross_norm: norm(&block.cross_norm)?,
            feed: Feed::load(&block.feed, loader)?,
            attention_norm: norm(&block.attention_norm)?,
            attention_post_norm: norm(&block.attention_post_norm)?,
            mlp_norm: norm(&block.mlp_norm)?,
            mlp_post_norm: norm(&block.mlp_post_norm)?,
            attention_scale: table(&block.attention_scale)?,
            mlp_scale: table(&block.mlp_scale)?,
            name: block.name,
            config: Arc::clone(&plan.config),
        })
    }

    /// What the attention adds to the stream, given its normalized input.
    fn attend(&self, x: Tensor<3>, ctx: &mut Ctx<'_>) -> Tensor<3> {
        let y = self.attention.forward(x, ctx);
        let y = apply(&self.attention_post_norm, y, ctx);
        self.scaled(y, &self.attention_scale)
    }

    /// What the feed-forward sublayer adds to the stream, given its normalized input.
    fn feed(&self, x: Tensor<3>, ctx: &mut Ctx<'_>) -> Tensor<3> {
        let y = self.feed.forward(x, ctx);
        let y = apply(&self.mlp_post_norm, y, ctx);
        self.scaled(y, &self.mlp_scale)
    }

    /// The stream after the attention to `memory`, where the block has one.
    fn look_across(&self, x: Tensor<3>, memory: Option<&Tensor<3>>, ctx: &mut Ctx<'_>) -> Tensor<3> {
        let (Some(cross), Some(memory)) = (&self.cross, memory) else { return x };
        match self.config.norm_place {
            NormPlace::Before => {
                let input = apply(&self.cross_norm, x.clone(), ctx);
                x + cross.across(input, memory.clone(), ctx)
            }
            NormPlace::After => {
                let sum = x.clone() + cross.across(x, memory.clone(), ctx);
                apply(&self.cross_norm, sum, ctx)
            }
        }
    }

    /// One pass through the block: the stream, and what the first part of the network gave.
    fn pass(&self, x: Tensor<3>, memory: Option<&Tensor<3>>, ctx: &mut Ctx<'_>) -> Tensor<3> {
        match (self.config.norm_place, self.config.parallel) {
            (NormPlace::Before, false) => {
                let input = apply(&self.attention_norm, x.clone(), ctx);
                let x = x + self.attend(input, ctx);
                let x = self.look_across(x, memory, ctx);
                let input = apply(&self.mlp_norm, x.clone(), ctx);
                x + self.feed(input, ctx)
            }
            (NormPlace::Before, true) => {
                let input = apply(&self.attention_norm, x.clone(), ctx);
                // Without a norm of its own the feed-forward sublayer reads what the attention reads.
                let other = match &self.mlp_norm {
                    Some(norm) => norm.forward(x.clone(), ctx),
                    None => input.clone(),
                };
                x + self.attend(input, ctx) + self.feed(other, ctx)
            }
            (NormPlace::After, _) => {
                let sum = x.clone() + self.attend(x, ctx);
                let x = apply(&self.attention_norm, sum, ctx);
                let x = self.look_across(x, memory, ctx);
                let sum = x.clone() + self.feed(x, ctx);
                apply(&self.mlp_norm, sum, ctx)
            }
        }
    }

    fn scaled(&self, mut y: Tensor<3>, channels: &Option<Table>) -> Tensor<3> {
        if let Some(table) = channels {
            y = y * table.rows().unsqueeze();
        }
        match self.config.residual_scale {
            Some(scale) => y * scale,
            None => y,
        }
    }
}

fn apply(norm: &Option<Norm>, x: Tensor<3>, ctx: &mut Ctx<'_>) -> Tensor<3> {
    match norm {
        Some(norm) => norm.forward(x, ctx),
        None => x,
    }
}

impl Stage for Block {
    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow> {
        if self.cross.is_none() {
            let x = flow.hidden(&self.name)?;
            return Ok(Flow::Hidden(self.pass(x, None, ctx)));
        }
        let (memory, x) = flow.pair(&self.name)?;
        let (memory, x) = (memory.hidden(&self.name)?, x.hidden(&self.name)?);
        ctx.swap_inputs();
        let x = self.pass(x, Some(&memory), ctx);
        ctx.swap_inputs();
        Ok(Flow::both(Flow::Hidden(memory), Flow::Hidden(x)))
    }

    fn layers(&self) -> Vec<Layer<'_>> {
        let norms = [
            &self.attention_norm,
            &self.attention_post_norm,
            &self.cross_norm,
            &self.mlp_norm,
            &self.mlp_post_norm,
        ];
        let norms = norms.into_iter().flatten().map(Layer::Norm);
        let scales = [&self.attention_scale, &self.mlp_scale].into_iter().flatten().map(Layer::Table);
        let cross = self.cross.iter().flat_map(Attention::layers);
        let sublayers = self.attention.layers().chain(cross).chain(self.feed.layers());
        sublayers.chain(norms).chain(scales).collect()
    }

    fn layers_mut(&mut self) -> Vec<LayerMut<'_>> {
        let norms = [
            &mut self.attention_norm,
            &mut self.attention_post_norm,
            &mut self.cross_norm,
            &mut self.mlp_norm,
            &mut self.mlp_post_norm,
        ];
        let norms = norms.into_iter().flatten().map(LayerMut::Norm);
        let scales = [&mut self.attention_scale, &mut self.mlp_scale].into_iter().flatten();
        let cross = self.cross.iter_mut().flat_map(Attention::layers_mut);
        let sublayers = self.attention.layers_mut().chain(cross).chain(self.feed.layers_mut());
        sublayers.chain(norms).chain(scales.map(LayerMut::Table)).collect()
    }

    fn boxed_clone(&self) -> Box<dyn Stage> {
        Box::new(self.clone())
    }

    fn set_attention(&mut self, quantizer: Option<Arc<AttentionQuantizer>>) -> bool {
        self.attention.quantizer = quantizer;
        true
    }

    fn attention(&self) -> Option<&Arc<AttentionQuantizer>> {
        self.attention.quantizer.as_ref()
    }
}
