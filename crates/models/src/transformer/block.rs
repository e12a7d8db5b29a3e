//! The modules of the transformer and what they compute.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use trimtab_nn::attention::{Sight, attend};
use trimtab_nn::rotary::rotate;
use trimtab_nn::{Ctx, Error, Flow, Norm, Result, Site, Stage};

use super::plan::Blueprint;
use super::{Head, NormPlace, Positions, TransformerConfig};
use crate::load::Loader;

/// The whole network as one module of the framework: what is trained.
#[derive(Module, Debug)]
pub struct Transformer {
    /// Turns tokens into hidden states.
    pub embed: Embed,
    /// The blocks.
    pub blocks: Vec<Block>,
    /// Reads out.
    pub head: Option<ReadOut>,
}

impl Transformer {
    pub(crate) fn load(plan: &Blueprint, loader: &Loader<'_>) -> crate::Result<Self> {
        Ok(Self {
            embed: Embed::load(plan, loader)?,
            blocks: (0..plan.config.windows.len())
                .map(|i| Block::load(plan, i, loader))
                .collect::<crate::Result<_>>()?,
            head: plan.has_head.then(|| ReadOut::load(plan, loader)).transpose()?,
        })
    }

    /// Runs the network on token ids `[B, T]`; returns what the head gives, or the last hidden states.
    pub fn forward(&self, ids: Tensor<2, Int>, ctx: &mut Ctx<'_>) -> Result<Flow> {
        ctx.tied = self.embed.owner().cloned();
        let flow = self.embed.forward(Flow::Tokens(ids), ctx)?;
        let flow = self.blocks.iter().try_fold(flow, |flow, block| block.forward(flow, ctx))?;
        self.head.iter().try_fold(flow, |flow, head| head.forward(flow, ctx))
    }

    /// The stages in order.
    pub fn stages(&self) -> impl Iterator<Item = &dyn Stage> {
        let blocks = self.blocks.iter().map(|block| block as &dyn Stage);
        std::iter::once(&self.embed as &dyn Stage)
            .chain(blocks)
            .chain(self.head.iter().map(|h| h as &dyn Stage))
    }

    /// Every tensor by its name in the checkpoint.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let mut out = Vec::new();
        let mut push = |name: String, shape: Vec<usize>, tensor: TensorData| {
            out.push((name, shape, tensor.try_into_vec().expect("the house computes in f32")));
        };
        for site in self.stages().flat_map(|stage| stage.sites()) {
            let weight = TensorData::new(site.weight.to_f32(), site.weight.dims());
            let meta = site.meta();
            let stored = meta.stored_shape();
            let weight = match meta.transposed {
                true => transpose(weight),
                false => weight,
            };
            push(meta.weight_name(), stored, weight);
            if let Some(bias) = &site.bias {
                push(format!("{}.bias", meta.name), vec![meta.rows], bias.val().into_data());
            }
        }
        let norms =
            self.embed.norm.iter().chain(self.blocks.iter().flat_map(|b| [&b.attention_norm, &b.mlp_norm]));
        for norm in norms.chain(self.head.iter().filter_map(|head| head.norm.as_ref())) {
            let size = norm.axis().size();
            push(format!("{}.weight", norm.name()), vec![size], norm.gain.val().into_data());
            if let Some(bias) = &norm.bias {
                push(format!("{}.bias", norm.name()), vec![size], bias.val().into_data());
            }
        }
        for table in [&self.embed.positions, &self.embed.token_types].into_iter().flatten() {
            let values = table.values.val();
            push(format!("{}.weight", table.name), values.dims().to_vec(), values.into_data());
        }
        out
    }
}

fn transpose(matrix: TensorData) -> TensorData {
    let device = burn::tensor::Device::flex();
    Tensor::<2>::from_data(matrix, &device).transpose().into_data()
}

/// A table that is added to the embedding.
#[derive(Module, Debug)]
pub struct Table {
    values: Param<Tensor<2>>,
    #[module(skip)]
    name: String,
}

/// Tokens to hidden states.
#[derive(Module, Debug)]
pub struct Embed {
    /// The embedding; the owner of a tied weight.
    pub site: Site,
    positions: Option<Table>,
    token_types: Option<Table>,
    norm: Option<Norm>,
    #[module(skip)]
    tied: bool,
}

impl Embed {
    pub(crate) fn load(plan: &Blueprint, loader: &Loader<'_>) -> crate::Result<Self> {
        let c = &plan.config;
        let table = |name: &Option<String>, rows: Option<usize>| -> crate::Result<Option<Table>> {
            let (Some(name), Some(rows)) = (name, rows) else { return Ok(None) };
            let name = plan.module(name);
            let values = Param::from_tensor(loader.tensor(&format!("{name}.weight"), [rows, c.width])?);
            Ok(Some(Table { values, name }))
        };
        let positions = match c.positions {
            Positions::Learned(rows) => Some(rows),
            Positions::Rotary(_) => None,
        };
        Ok(Self {
            site: loader.site(plan.embed_site(), false)?,
            positions: table(&plan.names.positions, positions)?,
            token_types: table(&plan.names.token_types, c.token_types)?,
            norm: plan
                .names
                .embed_norm
                .as_ref()
                .map(|name| loader.norm(plan, &plan.module(name)))
                .transpose()?,
            tied: c.head == Head::Tied,
        })
    }

    fn add_tables(&self, mut x: Tensor<3>, ctx: &Ctx<'_>) -> Result<Tensor<3>> {
        let [b, t, width] = x.dims();
        if let Some(table) = &self.positions {
            let values = table.values.val();
            let (start, [limit, _]) = (ctx.position(), values.dims());
            if start + t > limit {
                return Err(Error::Positions { limit, found: start + t });
            }
            x = x + values.slice([start..start + t, 0..width]).unsqueeze();
        }
        if let Some(table) = &self.token_types {
            let types = ctx.token_types.clone().unwrap_or_else(|| Tensor::zeros([b, t], &x.device()));
            x = x + burn::tensor::module::embedding(table.values.val(), types);
        }
        Ok(x)
    }
}

impl Stage for Embed {
    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow> {
        let ids = flow.tokens(self.site.name())?;
        let x = self.add_tables(self.site.lookup(ids), ctx)?;
        Ok(Flow::Hidden(match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        }))
    }

    fn sites(&self) -> Vec<&Site> {
        vec![&self.site]
    }

    fn sites_mut(&mut self) -> Vec<&mut Site> {
        vec![&mut self.site]
    }

    fn owner(&self) -> Option<&Site> {
        self.tied.then_some(&self.site)
    }
}

/// Attention, then the feed-forward sublayer, each with its norm and its way around.
#[derive(Module, Debug)]
pub struct Block {
    /// Query, key, value; or the fused one alone.
    qkv: Vec<Site>,
    o: Site,
    /// Gate (if any), then up.
    up: Vec<Site>,
    down: Site,
    attention_norm: Norm,
    mlp_norm: Norm,
    #[module(skip)]
    index: usize,
    #[module(skip)]
    name: String,
    #[module(skip)]
    config: std::sync::Arc<TransformerConfig>,
}

impl Block {
    pub(crate) fn load(plan: &Blueprint, index: usize, loader: &Loader<'_>) -> crate::Result<Self> {
        let c = &plan.config;
        let sites = plan.block_sites(index);
        let name = plan.block_name(index);
        let load = |metas: Vec<_>, bias| metas.into_iter().map(|meta| loader.site(meta, bias)).collect();
        let qkv: crate::Result<_> = load(sites.qkv, c.qkv_bias);
        let up: crate::Result<_> = load(sites.up, c.mlp_bias);
        Ok(Self {
            qkv: qkv?,
            o: loader.site(sites.o, c.out_bias)?,
            up: up?,
            down: loader.site(sites.down, c.mlp_bias)?,
            attention_norm: loader.norm(plan, &format!("{name}.{}", plan.names.attention_norm))?,
            mlp_norm: loader.norm(plan, &format!("{name}.{}", plan.names.mlp_norm))?,
            index,
            name,
            config: loader.share(c),
        })
    }

    fn attention(&self, x: Tensor<3>, ctx: &mut Ctx<'_>) -> Tensor<3> {
        let c = &self.config;
        let [b, t, width] = x.dims();
        let (q_width, kv_width) = (c.heads * c.head_width, c.kv_heads * c.head_width);
        let [q, k, v] = match self.qkv.as_slice() {
            [fused] => {
                let all = fused.forward(x, ctx);
                let part = |from: usize, width: usize| all.clone().slice([0..b, 0..t, from..from + width]);
                [part(0, q_width), part(q_width, kv_width), part(q_width + kv_width, kv_width)]
            }
            sites => [0, 1, 2].map(|i| sites[i].forward(x.clone(), ctx)),
        };
        if ctx.is_done() {
            return Tensor::zeros([b, t, width], &k.device());
        }
        let split = |x: Tensor<3>, heads: usize| x.reshape([b, t, heads, c.head_width]).swap_dims(1, 2);
        let (mut q, mut k, mut v) = (split(q, c.heads), split(k, c.kv_heads), split(v, c.kv_heads));
        if let Positions::Rotary(rotary) = &c.positions {
            let (cos, sin) = rotary.tables(ctx.position(), t, &q.device());
            (q, k) = (rotate(q, cos.clone(), sin.clone()), rotate(k, cos, sin));
        }
        if let Some(cache) = ctx.cache.as_deref_mut() {
            (k, v) = cache.append(self.index, k, v);
        }
        let sight = Sight { causal: c.causal, window: c.windows[self.index] };
        let mixed = attend(q, k, v, sight, ctx.mask.clone());
        self.o.forward(mixed, ctx)
    }

    fn mlp(&self, x: Tensor<3>, ctx: &mut Ctx<'_>) -> Tensor<3> {
        let activation = self.config.activation;
        let hidden = match self.up.as_slice() {
            [gate, up] => activation.forward(gate.forward(x.clone(), ctx)) * up.forward(x, ctx),
            sites => activation.forward(sites[0].forward(x, ctx)),
        };
        self.down.forward(hidden, ctx)
    }
}

impl Stage for Block {
    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow> {
        let x = flow.hidden(&self.name)?;
        Ok(Flow::Hidden(match self.config.norm_place {
            NormPlace::Before => {
                let x = x.clone() + self.attention(self.attention_norm.forward(x), ctx);
                x.clone() + self.mlp(self.mlp_norm.forward(x), ctx)
            }
            NormPlace::After => {
                let x = self.attention_norm.forward(x.clone() + self.attention(x, ctx));
                self.mlp_norm.forward(x.clone() + self.mlp(x, ctx))
            }
        }))
    }

    fn sites(&self) -> Vec<&Site> {
        self.qkv.iter().chain([&self.o]).chain(&self.up).chain([&self.down]).collect()
    }

    fn sites_mut(&mut self) -> Vec<&mut Site> {
        let (qkv, up) = (self.qkv.iter_mut(), self.up.iter_mut());
        qkv.chain([&mut self.o]).chain(up).chain([&mut self.down]).collect()
    }
}

/// The last norm and the head.
#[derive(Module, Debug)]
pub struct ReadOut {
    norm: Option<Norm>,
    /// `None` where the head borrows the embedding.
    site: Option<Site>,
    #[module(skip)]
    kind: Head,
    #[module(skip)]
    name: String,
}

impl ReadOut {
    pub(crate) fn load(plan: &Blueprint, loader: &Loader<'_>) -> crate::Result<Self> {
        let kind = plan.config.head;
        let site = plan.head_site();
        Ok(Self {
            norm: plan
                .names
                .final_norm
                .as_ref()
                .map(|name| loader.norm(plan, &plan.module(name)))
                .transpose()?,
            name: site.name.clone(),
            site: (kind != Head::Tied).then(|| loader.site(site, kind == Head::Pooler)).transpose()?,
            kind,
        })
    }
}

impl Stage for ReadOut {
    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> Result<Flow> {
        let mut x = flow.hidden(&self.name)?;
        if let Some(norm) = &self.norm {
            x = norm.forward(x);
        }
        let tied = ctx.tied.clone();
        let Some(site) = self.site.as_ref().or(tied.as_ref()) else {
            return Err(Error::Load(
                format!("head \"{}\" borrows a weight that no stage owns", self.name).into(),
            ));
        };
        Ok(match self.kind {
            Head::Pooler => {
                let [b, _, width] = x.dims();
                let first = x.slice([0..b, 0..1, 0..width]).reshape([b, width]);
                Flow::Vector(site.forward(first, ctx).tanh())
            }
            Head::Language | Head::Tied => Flow::Hidden(site.forward(x, ctx)),
        })
    }

    fn sites(&self) -> Vec<&Site> {
        self.site.iter().collect()
    }

    fn sites_mut(&mut self) -> Vec<&mut Site> {
        self.site.iter_mut().collect()
    }
}
