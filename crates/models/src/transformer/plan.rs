//! From options and names to the sites of every stage, without a number being read.

use std::sync::Arc;

use trimtab_nn::conv::ConvGeometry;
use trimtab_nn::{Axis, Role, SiteKind, SiteMeta, StageInfo};

use super::stage_plan::{AttentionPlan, BlockPlan, EmbedPlan};
use super::{
    EmbedProjection, Head, Input, NormPlan, Parts, QkNorm, QkvKind, SitePlan, Start, TableForm, TablePlan,
    TransformerConfig,
};
use crate::spec::Names;

/// Everything that is known of a transformer before its weights are read.
#[derive(Clone, Debug)]
pub(crate) struct Blueprint {
    pub config: Arc<TransformerConfig>,
    pub names: Names,
    pub prefix: String,
    /// Whether there is a stage after the blocks, and the checkpoint has its tensors.
    pub has_head: bool,
    /// Whether the checkpoint has the linear map of the head.
    pub(super) has_head_site: bool,
}

impl Blueprint {
    pub fn new(config: TransformerConfig, names: Names, has: impl Fn(&str) -> bool) -> Self {
        let dense = |prefix: &String| has(&format!("{prefix}{}.weight", names.embed));
        let packed = |prefix: &String| has(&format!("{prefix}{}.weight_packed", names.embed));
        let prefix = names.prefixes.iter().find(|p| dense(p) || packed(p)).or(names.prefixes.first());
        let prefix = prefix.cloned().unwrap_or_default();
        let config = Arc::new(config);
        let mut blueprint = Self { config, names, prefix, has_head: true, has_head_site: true };
        let head = blueprint.head();
        blueprint.has_head_site = head.site.as_ref().is_none_or(|site| {
            has(&site.meta.weight_name()) || has(&format!("{}.weight_packed", site.meta.name))
        });
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
            Some(root) => root.to_string(),
            None => format!("{}{name}", self.prefix),
        }
    }

    /// Full name of block `i`.
    pub fn block_name(&self, i: usize) -> String {
        self.module(&self.names.block.replace("{i}", &i.to_string()))
    }

    pub(super) fn residual(&self) -> Axis {
        Axis::new("residual", self.config.width)
    }

    /// The axis of the token embedding; that of the stream unless a projection stands between them.
    pub(super) fn embedded(&self) -> Axis {
        match self.config.embed_width == self.config.width {
            true => self.residual(),
            false => Axis::new("embedding", self.config.embed_width),
        }
    }

    pub(super) fn norm(&self, name: &Option<String>, axis: Axis) -> Option<NormPlan> {
        let name = name.as_ref()?;
        Some(NormPlan { name: self.module(name), axis, style: self.config.norm })
    }

    pub fn embed(&self) -> EmbedPlan {
        let (c, names) = (&self.config, &self.names);
        let (embedded, residual) = (self.embedded(), self.residual());
        let site = self.entrance(embedded.clone());
        let projection = names.embed_projection.as_ref().filter(|_| c.embed_width != c.width).map(|name| {
            let meta = linear(self.module(name), "embedded", &embedded, &residual);
            SitePlan { meta, bias: c.biases.embed_projection, writes: false }
        });
        let inner = match c.embed_projection {
            EmbedProjection::First => residual,
            EmbedProjection::Last => embedded,
        };
        let table = |name: &Option<String>, rows: Option<usize>, form: TableForm| {
            let (name, rows, width) = (self.module(name.as_ref()?), rows?, inner.size());
            let (tensor, shape) = match form {
                TableForm::Module => (format!("{name}.weight"), vec![rows, width]),
                TableForm::Batched => (name, vec![1, rows, width]),
                TableForm::Vector => (name, vec![width]),
            };
            Some(TablePlan { tensor, shape, start: Start::Normal })
        };
        let tokens = names.tokens.iter().map(|name| Some(name.clone()));
        EmbedPlan {
            site: SitePlan { meta: site, bias: c.biases.embed, writes: false },
            projection,
            tokens: tokens.filter_map(|name| table(&name, Some(1), c.token_form)).collect(),
            positions: table(&names.positions, c.positions.map(|learned| learned.rows), c.position_form),
            token_types: table(&names.token_types, c.token_types, TableForm::Module),
            norm: self.norm(&names.embed_norm, inner.clone()),
        }
    }

    /// The site that turns the input into rows.
    fn entrance(&self, embedded: Axis) -> SiteMeta {
        let name = self.module(&self.names.embed);
        match self.config.input {
            Input::Tokens { vocab } => SiteMeta {
                name,
                kind: SiteKind::Embedding,
                rows: vocab,
                cols: embedded.size(),
                transposed: false,
                input: embedded,
                output: Axis::new("vocabulary", vocab),
                reads: "tokens".into(),
                fused: None,
            },
            Input::Patches { patch, channels, .. } => SiteMeta {
                name,
                kind: SiteKind::Conv(ConvGeometry {
                    kernel: [patch; 2],
                    stride: [patch; 2],
                    padding: [0; 2],
                    groups: 1,
                }),
                rows: embedded.size(),
                cols: channels * patch * patch,
                transposed: false,
                input: Axis::new("image", channels),
                output: embedded,
                reads: "image".into(),
                fused: None,
            },
        }
    }

    pub fn block(&self, i: usize) -> BlockPlan {
        let (c, names, name) = (&self.config, &self.names, self.block_name(i));
        let norm = |part: &Option<String>| {
            let part = part.as_ref()?;
            Some(NormPlan { name: format!("{name}.{part}"), axis: self.residual(), style: c.norm })
        };
        let scale = |part: &Option<String>| {
            let tensor = format!("{name}.{}", part.as_ref()?);
            Some(TablePlan { tensor, shape: vec![c.width], start: Start::Constant(1.0) })
        };
        BlockPlan {
            attention: self.attention(i),
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

    fn attention(&self, i: usize) -> AttentionPlan {
        let (c, names, block) = (&self.config, &self.names, self.block_name(i));
        let residual = self.residual();
        let heads = |name: &str, n: usize| {
            Axis::new(format!("{block}.{name}"), n * c.head_width).in_units_of(c.head_width)
        };
        let (q, k, v) =
            (heads("heads", c.heads), heads("key_heads", c.kv_heads), heads("value_heads", c.kv_heads));
        let biases = &c.biases;
        let split = |name: &Option<String>, axis: &Axis, bias: bool| {
            let mut meta = self.site(i, name.as_ref()?, "attention_input", [&residual, axis]);
            meta.fused = Some(format!("{block}.qkv"));
            Some(SitePlan { meta, bias, writes: false })
        };
        // The specification was checked when it was resolved: every name that the layout needs is there.
        let qkv = match (c.qkv, &names.qkv) {
            (QkvKind::Fused | QkvKind::Interleaved, Some(name)) => {
                let all = heads("query_key_value", c.heads + 2 * c.kv_heads);
                let meta = self.site(i, name, "attention_input", [&residual, &all]);
                vec![SitePlan { meta, bias: biases.qkv, writes: false }]
            }
            _ => [
                split(&names.q, &q, biases.qkv),
                split(&names.k, &k, biases.key),
                split(&names.v, &v, biases.qkv),
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
            o: SitePlan { meta: o, bias: biases.out, writes: true },
            q_norms: norms(&names.q_norm, &q, c.heads),
            k_norms: norms(&names.k_norm, &k, c.kv_heads),
            qkv,
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
        stages
    }

    /// What is known of every stage before it is loaded.
    pub fn stages(&self) -> Vec<StageInfo> {
        self.parts().into_iter().map(|(role, name, parts)| parts.info(role, name)).collect()
    }
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
