//! Tokens to hidden states.

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData, module::embedding};
use trimtab_nn::{Activation, Ctx, Error, Flow, Layer, LayerMut, Norm, Result, Site, Stage, Table};

use super::plan::Blueprint;
use super::{EmbedProjection, Head, Input, LearnedPositions};
use crate::load::Loader;

/// The embedding, what is added to it, its norm and its projection.
#[derive(Module, Debug)]
pub struct Embed {
    /// The embedding; the owner of a tied weight.
    pub site: Site,
    /// A second convolution.
    stem: Option<Site>,
    projection: Option<Site>,
    /// Tokens that stand before the patches.
    tokens: Vec<Table>,
    positions: Option<Table>,
    token_types: Option<Table>,
    norm: Option<Norm>,
    #[module(skip)]
    input: Input,
    /// Id of the tokens in whose place features stand.
    #[module(skip)]
    placeholder: Option<usize>,
    #[module(skip)]
    learned: Option<LearnedPositions>,
    #[module(skip)]
    projected: EmbedProjection,
    #[module(skip)]
    scale: Option<f32>,
    #[module(skip)]
    tied: bool,
    /// Whether the site is a copy of what another stage owns.
    #[module(skip)]
    borrowed: bool,
}

impl Embed {
    pub(crate) fn load(plan: &Blueprint, loader: &Loader<'_>) -> crate::Result<Self> {
        let (c, embed) = (&plan.config, plan.embed());
        Ok(Self {
            site: loader.site(&embed.site)?,
            stem: embed.stem.as_ref().map(|site| loader.site(site)).transpose()?,
            projection: embed.projection.as_ref().map(|site| loader.site(site)).transpose()?,
            tokens: embed.tokens.iter().map(|table| loader.table(table)).collect::<crate::Result<_>>()?,
            positions: embed.positions.as_ref().map(|table| loader.table(table)).transpose()?,
            token_types: embed.token_types.as_ref().map(|table| loader.table(table)).transpose()?,
            norm: embed.norm.as_ref().map(|norm| loader.norm(norm)).transpose()?,
            input: c.input,
            placeholder: c.placeholder,
            learned: c.positions,
            projected: c.embed_projection,
            scale: c.embed_scale,
            tied: c.head == Head::Tied || plan.lends,
            borrowed: embed.borrowed,
        })
    }

    fn add_tables(&self, mut x: Tensor<3>, ids: Option<&Tensor<2, Int>>, ctx: &Ctx<'_>) -> Result<Tensor<3>> {
        let [b, t, _] = x.dims();
        if let (Some(table), Some(learned)) = (&self.positions, &self.learned) {
            x = x + position_rows(table, *learned, ids, (ctx.position(), t))?;
        }
        if let Some(table) = &self.token_types {
            let types = ctx.token_types.clone().unwrap_or_else(|| Tensor::zeros([b, t], &x.device()));
            x = x + embedding(table.rows(), types);
        }
        Ok(x)
    }

    fn project(&self, x: Tensor<3>, place: EmbedProjection, ctx: &mut Ctx<'_>) -> Tensor<3> {
        match &self.projection {
            Some(site) if self.projected == place => site.forward(x, ctx),
            _ => x,
        }
    }

    /// Rows of the text with the features of images, in order, in place of the tokens that stand for them.
    fn put_features(
        &self,
        x: Tensor<3>,
        ids: &Tensor<2, Int>,
        token: usize,
        features: Tensor<3>,
    ) -> Result<Tensor<3>> {
        let [b, t, width] = x.dims();
        let [images, rows, _] = features.dims();
        let mut places = 0;
        let row = |(i, id): (usize, i64)| {
            let is_place = id == token as i64;
            places += usize::from(is_place);
            (if is_place { b * t + places - 1 } else { i }) as i64
        };
        let order: Vec<i64> = ids.clone().into_data().iter::<i64>().enumerate().map(row).collect();
        if places != images * rows {
            let stage = self.site.name().into();
            return Err(Error::Features { stage, token, places, features: images * rows });
        }
        let all = Tensor::cat(vec![x.reshape([b * t, width]), features.reshape([images * rows, width])], 0);
        let order = Tensor::<1, Int>::from_data(TensorData::new(order, [b * t]), &ids.device());
        Ok(all.select(0, order).reshape([b, t, width]))
    }

    /// Rows of the input before anything is added: tokens looked up, or patches after the tokens of the model's own.
    fn enter(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<(Tensor<3>, Option<Tensor<2, Int>>)> {
        let expected = match self.input {
            Input::Tokens { .. } => {
                let (flow, features) = match (flow, self.placeholder) {
                    (Flow::Pair(both), Some(token)) => {
                        (both.0, Some((token, both.1.hidden(self.site.name())?)))
                    }
                    (flow, _) => (flow, None),
                };
                let ids = flow.tokens(self.site.name())?;
                let lender = ctx.tied.clone().filter(|_| self.borrowed);
                let x = lender.as_ref().unwrap_or(&self.site).lookup(ids.clone(), ctx);
                let x = match features {
                    Some((token, features)) => self.put_features(x, &ids, token, features)?,
                    None => x,
                };
                return Ok((x, Some(ids)));
            }
            Input::Patches { image, channels, .. } => [channels, image, image],
            Input::Audio { mels, frames } => [mels, 1, frames],
        };
        let pixels = flow.image(self.site.name())?;
        let [b, c, h, w] = pixels.dims();
        if [c, h, w] != expected {
            return Err(Error::ImageSize { stage: self.site.name().into(), expected, found: [c, h, w] });
        }
        let mut patches = self.site.convolve(pixels, ctx)?;
        if let Some(stem) = &self.stem {
            // Both are followed by GELU, whatever the blocks have.
            let inner = Activation::Gelu.forward(patches);
            patches = Activation::Gelu.forward(stem.convolve(inner, ctx)?);
        }
        let [_, width, rows, columns] = patches.dims();
        let patches = patches.reshape([b, width, rows * columns]).swap_dims(1, 2);
        let own = self.tokens.iter().map(|token| {
            let token: Tensor<3> = token.rows().unsqueeze();
            token.expand([b, 1, width])
        });
        Ok((Tensor::cat(own.chain([patches]).collect(), 1), None))
    }
}

/// Rows of the table for `t` tokens, the first of which stands at position `start`: `[1 or B, T, C]`.
fn position_rows(
    table: &Table,
    learned: LearnedPositions,
    ids: Option<&Tensor<2, Int>>,
    (start, t): (usize, usize),
) -> Result<Tensor<3>> {
    let limit = learned.rows - learned.offset;
    if start + t > limit {
        return Err(Error::Positions { limit, found: start + t });
    }
    let (Some(padding), Some(ids)) = (learned.padding, ids) else {
        return Ok(table.rows().narrow(0, start + learned.offset, t).unsqueeze());
    };
    let [b, _] = ids.dims();
    let mut rows = Vec::with_capacity(b * t);
    for sequence in ids.clone().into_data().iter::<i64>().collect::<Vec<_>>().chunks_exact(t.max(1)) {
        let mut next = (start + learned.offset) as i64;
        for &id in sequence {
            let is_padding = id == padding as i64;
            rows.push(if is_padding { learned.offset as i64 - 1 } else { next });
            next += i64::from(!is_padding);
        }
    }
    Ok(embedding(table.rows(), Tensor::from_data(TensorData::new(rows, [b, t]), &ids.device())))
}

impl Stage for Embed {
    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow> {
        let (mut x, ids) = self.enter(flow, ctx)?;
        if let Some(scale) = self.scale {
            x = x * scale;
        }
        x = self.project(x, EmbedProjection::First, ctx);
        x = self.add_tables(x, ids.as_ref(), ctx)?;
        if let Some(norm) = &self.norm {
            x = norm.forward(x, ctx);
        }
        Ok(Flow::Hidden(self.project(x, EmbedProjection::Last, ctx)))
    }

    fn layers(&self) -> Vec<Layer<'_>> {
        let own = (!self.borrowed).then_some(&self.site);
        let sites = own.into_iter().chain(&self.stem).chain(&self.projection).map(Layer::Site);
        let tables = self.tokens.iter().chain(&self.positions).chain(&self.token_types).map(Layer::Table);
        sites.chain(self.norm.iter().map(Layer::Norm)).chain(tables).collect()
    }

    fn layers_mut(&mut self) -> Vec<LayerMut<'_>> {
        let own = (!self.borrowed).then_some(&mut self.site);
        let sites = own.into_iter().chain(&mut self.stem).chain(&mut self.projection).map(LayerMut::Site);
        let tables = self.tokens.iter_mut().chain(&mut self.positions).chain(&mut self.token_types);
        let norm = self.norm.iter_mut().map(LayerMut::Norm);
        sites.chain(norm).chain(tables.map(LayerMut::Table)).collect()
    }

    fn boxed_clone(&self) -> Box<dyn Stage> {
        Box::new(self.clone())
    }

    fn owner(&self) -> Option<&Site> {
        (self.tied && !self.borrowed).then_some(&self.site)
    }
}
