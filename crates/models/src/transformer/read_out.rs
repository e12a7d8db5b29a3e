//! The last norm and the head.

use burn::module::Module;
use burn::tensor::Tensor;
use trimtab_nn::{Ctx, Error, Flow, Layer, LayerMut, Norm, Result, Site, Stage};

use super::plan::Blueprint;
use super::pool::AttentionPool;
use super::{Head, Pool};
use crate::load::Loader;

/// The last norm and the head.
#[derive(Module, Debug)]
pub struct ReadOut {
    norm: Option<Norm>,
    /// From the stream to the width of the embedding.
    projection: Option<Site>,
    /// `None` where the head borrows the embedding, and where there is none.
    site: Option<Site>,
    pool: Option<AttentionPool>,
    #[module(skip)]
    kind: Head,
    #[module(skip)]
    scale: Option<f32>,
    #[module(skip)]
    cap: Option<f32>,
    #[module(skip)]
    name: String,
}

impl ReadOut {
    pub(crate) fn load(plan: &Blueprint, loader: &Loader<'_>) -> crate::Result<Self> {
        let (c, head) = (&plan.config, plan.head());
        Ok(Self {
            norm: head.norm.as_ref().map(|norm| loader.norm(norm)).transpose()?,
            projection: head.projection.as_ref().map(|site| loader.site(site)).transpose()?,
            site: head.site.as_ref().map(|site| loader.site(site)).transpose()?,
            pool: head.pool.as_ref().map(|pool| AttentionPool::load(pool, c.heads, loader)).transpose()?,
            kind: c.head,
            scale: c.logit_scale,
            cap: c.logit_cap,
            name: head.name,
        })
    }

    fn logits(&self, x: Tensor<3>, ctx: &mut Ctx<'_>) -> Result<Tensor<3>> {
        let tied = ctx.tied.clone();
        let Some(site) = self.site.as_ref().or(tied.as_ref()) else {
            return Err(Error::Load(
                format!("head \"{}\" borrows a weight that no stage owns", self.name).into(),
            ));
        };
        let mut logits = site.forward(x, ctx);
        if let Some(scale) = self.scale {
            logits = logits * scale;
        }
        Ok(match self.cap {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        })
    }
}

/// The token that stands for the sequence, `[B, C]`.
fn pooled(x: Tensor<3>, pool: Pool, ctx: &Ctx<'_>) -> Tensor<2> {
    let [b, t, width] = x.dims();
    let at = |i: usize| x.clone().narrow(1, i, 1).reshape([b, width]);
    match (pool, &ctx.mask) {
        (Pool::First, _) => at(0),
        (Pool::Last, _) | (Pool::End, None) => at(t - 1),
        (Pool::End, Some(mask)) => {
            let keep: Vec<bool> = mask.clone().into_data().iter::<bool>().collect();
            let ends = keep.chunks_exact(t).map(|row| row.iter().rposition(|&keep| keep).unwrap_or(t - 1));
            let rows = ends.enumerate().map(|(i, end)| x.clone().narrow(0, i, 1).narrow(1, end, 1));
            Tensor::cat(rows.collect(), 0).reshape([b, width])
        }
    }
}

impl Stage for ReadOut {
    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow> {
        let mut x = flow.hidden(&self.name)?;
        if let Some(norm) = &self.norm {
            x = norm.forward(x, ctx);
        }
        if let Some(site) = &self.projection {
            x = site.forward(x, ctx);
        }
        match (self.kind, &self.site) {
            (Head::Language | Head::Tied, _) => self.logits(x, ctx).map(Flow::Hidden),
            (Head::Pooler, Some(site)) => {
                let [b, _, width] = x.dims();
                Ok(Flow::Vector(site.forward(x.narrow(1, 0, 1).reshape([b, width]), ctx).tanh()))
            }
            (Head::Pooled(pool), site) => {
                let token = pooled(x, pool, ctx);
                Ok(Flow::Vector(match site {
                    Some(site) => site.forward(token, ctx),
                    None => token,
                }))
            }
            (Head::Attended, _) => Ok(match &self.pool {
                Some(pool) => Flow::Vector(pool.forward(x, ctx)),
                None => Flow::Hidden(x),
            }),
            (Head::None | Head::Pooler, _) => Ok(Flow::Hidden(x)),
        }
    }

    fn layers(&self) -> Vec<Layer<'_>> {
        let sites = self.projection.iter().chain(&self.site).map(Layer::Site);
        let pool = self.pool.iter().flat_map(AttentionPool::layers);
        sites.chain(self.norm.iter().map(Layer::Norm)).chain(pool).collect()
    }

    fn layers_mut(&mut self) -> Vec<LayerMut<'_>> {
        let sites = self.projection.iter_mut().chain(&mut self.site).map(LayerMut::Site);
        let pool = self.pool.iter_mut().flat_map(AttentionPool::layers_mut);
        sites.chain(self.norm.iter_mut().map(LayerMut::Norm)).chain(pool).collect()
    }

    fn boxed_clone(&self) -> Box<dyn Stage> {
        Box::new(self.clone())
    }
}
