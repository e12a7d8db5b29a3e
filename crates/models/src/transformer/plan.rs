//! From options and names to the sites of every stage, without a number being read.

use std::sync::Arc;

use trimtab_nn::{Axis, Role, SiteKind, SiteMeta, Stage};

use super::stage_plan::{AttentionPlan, BlockPlan};
use super::{
    Block, Embed, Head, NormPlan, Parts, QkNorm, QkvKind, ReadOut, SitePlan, Start, TablePlan,
    TransformerConfig,
};
use crate::load::Loader;
use crate::spec::{CrossNames, Names};

/// Everything that is known of a transformer before its weights are read.
#[derive(Clone, Debug)]
pub(crate) struct Blueprint {
    pub config: Arc<TransformerConfig>,
    pub names: Names,
    pub prefix: String,
    /// What stands in place of the `/` of a root name: nothing, unless the transformer is part of another network.
    pub root: String,
    /// Whether there is a stage after the blocks, and the checkpoint has its tensors.
    pub has_head: bool,
    /// Whether the checkpoint has the linear map of the head.
    pub(super) has_head_site: bool,
    /// Whether another part of the network borrows the embedding.
    pub lends: bool,
    /// What stands before the names of axes that do not belong to one block, where the network has two parts.
    pub scope: &'static str,
    /// The table of `config.json` that describes it, where that is not the whole.
    pub section: Option<String>,
    /// What changes once a head that borrows the embedding is on its own.
    pub untied: Option<Untied>,
}

/// A head on its own in the place of one that borrows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Untied {
    /// The field of `config.json` that says which it is.
    pub field: String,
    /// Name of the head.
    pub head: Option<String>,
    /// What the logits are then no longer multiplied with.
    pub factor: f64,
}

impl Blueprint {
    /// Settles names and head; `roots` may stand before the prefixes of the family, `has` tells whether the checkpoint
    /// has a tensor.
    pub fn new(
        config: TransformerConfig,
        names: Names,
        roots: &[String],
        has: impl Fn(&str) -> bool,
    ) -> Self {
        // A root name says nothing about the prefix: then the first block decides.
        let first = match names.embed.starts_with('/') {
            true => format!("{}.{}", names.block.replace("{i}", "0"), names.o),
            false => names.embed.clone(),
        };
        let places: Vec<(&String, String)> = roots
            .iter()
            .flat_map(|root| names.prefixes.iter().map(move |prefix| (root, format!("{root}{prefix}"))))
            .collect();
        let place = places.iter().find(|(_, prefix)| has_module(&has, &format!("{prefix}{first}")));
        let (root, prefix) = place.or(places.first()).cloned().unzip();
        let prefix = prefix.unwrap_or_default();
        // What stands at the root of a model stands at the root of the part, or of the whole.
        let root = root.cloned().unwrap_or_default();
        let head = names.head.as_deref().and_then(|head| head.strip_prefix('/'));
        let at_part = head.is_some_and(|head| has_module(&has, &format!("{root}{head}")));
        let root = if at_part { root } else { String::new() };
        let config = Arc::new(config);
        let mut blueprint = Self {
            config,
            names,
            prefix,
            root,
            has_head: true,
            has_head_site: true,
            lends: false,
            scope: "",
            section: None,
            untied: None,
        };
        let head = blueprint.head();
        blueprint.has_head_site = head.site.as_ref().is_none_or(|site| has_module(&has, &site.meta.name));
        blueprint.has_head = match blueprint.config.head {
            Head::Pooler => blueprint.has_head_site || head.norm.is_some(),
            Head::None => head.norm.is_some(),
            _ => true,
        };
        blueprint
    }

    /// Full name of a module.
    pub fn module(&self, name: &str) -> String {
        match name.strip_prefix('/') {
            Some(name) => format!("{}{name}", self.root),
            None => format!("{}{name}", self.prefix),
        }
    }

    /// Full name of block `i`.
    pub fn block_name(&self, i: usize) -> String {
        self.module(&self.names.block.replace("{i}", &i.to_string()))
    }

    pub(super) fn axis(&self, name: &str, size: usize) -> Axis {
        Axis::new(format!("{}{name}", self.scope), size)
    }

    pub(super) fn residual(&self) -> Axis {
        self.axis("residual", self.config.width)
    }

    /// The axis of the token embedding; that of the stream unless a projection stands between them.
    pub(super) fn embedded(&self) -> Axis {
        match self.config.embed_width == self.config.width {
            true => self.residual(),
            false => self.axis("embedding", self.config.embed_width),
        }
    }

    pub(super) fn norm(&self, name: &Option<String>, axis: Axis) -> Option<NormPlan> {
        let name = name.as_ref()?;
        Some(NormPlan { name: self.module(name), style: self.style_on(&axis), axis })
    }

    pub fn block(&self, i: usize) -> BlockPlan {
        let (c, names, name) = (&self.config, &self.names, self.block_name(i));
        let norm = |part: &Option<String>| {
            let part = part.as_ref()?;
            let axis = self.residual();
            Some(NormPlan { name: format!("{name}.{part}"), style: self.style_on(&axis), axis })
        };
        let scale = |part: &Option<String>| {
            let tensor = format!("{name}.{}", part.as_ref()?);
            Some(TablePlan { tensor, shape: vec![c.width], start: Start::Constant(1.0) })
        };
        // All blocks read the table of the first.
        let relative = names.relative.as_ref().zip(c.relative).map(|(table, positions)| TablePlan {
            tensor: format!("{}.{table}.weight", self.block_name(0)),
            shape: vec![positions.buckets, c.heads],
            start: Start::Normal,
        });
        BlockPlan {
            attention: self.attention(i),
            cross: names.cross.as_ref().map(|cross| self.cross(i, cross)),
            cross_norm: norm(&names.cross.as_ref().map(|cross| cross.norm.clone())),
            relative,
            owns_relative: i == 0,
            feed: self.feed(i),
            attention_norm: norm(&names.attention_norm),
            attention_post_norm: norm(&names.attention_post_norm),
            mlp_norm: norm(&names.mlp_norm),
            mlp_post_norm: norm(&names.mlp_post_norm),
            attention_scale: scale(&names.attention_scale),
            mlp_scale: scale(&names.mlp_scale),
            name,
        }
    }

    pub(super) fn site(&self, i: usize, name: &str, reads: &str, axes: [&Axis; 2]) -> SiteMeta {
        let block = self.block_name(i);
        let mut meta = linear(format!("{block}.{name}"), &format!("{block}.{reads}"), axes[0], axes[1]);
        meta.transposed = self.config.stored_in_out;
        meta
    }

    pub(super) fn attention(&self, i: usize) -> AttentionPlan {
        let (c, names, block) = (&self.config, &self.names, self.block_name(i));
        let residual = self.residual();
        let heads = |name: &str, n: usize| {
            Axis::new(format!("{block}.{name}"), n * c.head_width).in_units_of(c.head_width)
        };
        let (q, k, v) =
            (heads("heads", c.heads), heads("key_heads", c.kv_heads), heads("value_heads", c.kv_heads));
        let biases = &c.biases;
        let split = |name: &Option<String>, axis: &Axis, bias: bool, start: Start| {
            let mut meta = self.site(i, name.as_ref()?, "attention_input", [&residual, axis]);
            meta.fused = Some(format!("{block}.qkv"));
            Some(SitePlan { meta, bias, start })
        };
        // The specification was checked when it was resolved: every name that the layout needs is there.
        let qkv = match (c.qkv, &names.qkv) {
            (QkvKind::Fused | QkvKind::Interleaved, Some(name)) => {
                let all = heads("query_key_value", c.heads + 2 * c.kv_heads);
                let meta = self.site(i, name, "attention_input", [&residual, &all]);
                vec![SitePlan { meta, bias: biases.qkv, start: Start::Normal }]
            }
            _ => [
                split(&names.q, &q, biases.qkv, Start::Queries),
                split(&names.k, &k, biases.key, Start::Normal),
                split(&names.v, &v, biases.qkv, Start::Normal),
            ]
            .into_iter()
            .flatten()
            .collect(),
        };
        let o = self.site(i, &names.o, "attention_output", [&q, &residual]);
        let norms = |name: &Option<String>, axis: &Axis, n: usize| {
            let (Some(name), Some((over, style))) = (name, c.qk_norm) else { return Vec::new() };
            let head = || Axis::new(format!("{}.head", axis.name()), c.head_width);
            let plan = |name: &str, axis| NormPlan { name: format!("{block}.{name}"), axis, style };
            match over {
                QkNorm::Full => vec![plan(name, axis.clone())],
                QkNorm::Head => vec![plan(name, head())],
                QkNorm::EachHead => {
                    (0..n).map(|h| plan(&name.replace("{h}", &h.to_string()), head())).collect()
                }
            }
        };
        AttentionPlan {
            o: SitePlan { meta: o, bias: biases.out, start: Start::Small },
            q_norms: norms(&names.q_norm, &q, c.heads),
            k_norms: norms(&names.k_norm, &k, c.kv_heads),
            qkv,
        }
    }

    /// Attention to what the first part of the network gives, which has the width of the stream.
    fn cross(&self, i: usize, names: &CrossNames) -> AttentionPlan {
        let (c, block) = (&self.config, self.block_name(i));
        let (residual, memory) = (self.residual(), self.residual());
        let heads = |name: &str, n: usize| {
            Axis::new(format!("{block}.{name}"), n * c.head_width).in_units_of(c.head_width)
        };
        let q = heads("cross_heads", c.heads);
        let (k, v) = (heads("cross_key_heads", c.kv_heads), heads("cross_value_heads", c.kv_heads));
        let plan = |name: &str, reads: &str, axes: [&Axis; 2], bias: bool| SitePlan {
            meta: self.site(i, name, reads, axes),
            bias,
            start: Start::Normal,
        };
        let biases = &c.biases;
        AttentionPlan {
            qkv: vec![
                SitePlan {
                    start: Start::Queries,
                    ..plan(&names.q, "cross_input", [&residual, &q], biases.qkv)
                },
                plan(&names.k, "memory", [&memory, &k], biases.key),
                plan(&names.v, "memory", [&memory, &v], biases.qkv),
            ],
            o: SitePlan {
                start: Start::Small,
                ..plan(&names.o, "cross_output", [&q, &residual], biases.out)
            },
            q_norms: Vec::new(),
            k_norms: Vec::new(),
        }
    }

    /// What every stage is made of: the embedding, the blocks, the head.
    pub fn parts(&self) -> Vec<(Role, String, Parts)> {
        let embed = self.embed();
        let mut stages = vec![(Role::Embed, embed.site.meta.name.clone(), embed.parts())];
        stages.extend((0..self.config.blocks.len()).map(|i| {
            let block = self.block(i);
            (Role::Block, block.name.clone(), block.parts())
        }));
        if self.has_head {
            let head = self.head();
            stages.push((Role::Head, head.name.clone(), head.parts()));
        }
        stages.into_iter().map(|(role, name, parts)| (role, name, parts.started(&self.config))).collect()
    }

    /// Number of stages.
    pub fn len(&self) -> usize {
        1 + self.config.blocks.len() + usize::from(self.has_head)
    }

    /// Loads one stage.
    pub fn load(&self, index: usize, loader: &Loader<'_>) -> crate::Result<Box<dyn Stage>> {
        Ok(match index.checked_sub(1) {
            None => Box::new(Embed::load(self, loader)?),
            Some(block) if block < self.config.blocks.len() => Box::new(Block::load(self, block, loader)?),
            Some(_) => Box::new(ReadOut::load(self, loader)?),
        })
    }
}

/// Whether a checkpoint has the weight of a module, as numbers or packed.
pub(super) fn has_module(has: &impl Fn(&str) -> bool, name: &str) -> bool {
    has(&format!("{name}.weight")) || has(&format!("{name}.weight_packed"))
}

pub(super) fn linear(name: String, reads: &str, input: &Axis, output: &Axis) -> SiteMeta {
    SiteMeta {
        name,
        kind: SiteKind::Linear,
        rows: output.size(),
        cols: input.size(),
        transposed: false,
        input: input.clone(),
        output: output.clone(),
        reads: reads.into(),
        fused: None,
    }
}
