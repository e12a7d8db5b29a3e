//! From options and names to the sites of every stage, without a number being read.

use trimtab_nn::{Axis, Role, SiteKind, SiteMeta, StageInfo};

use super::{Head, MlpKind, Positions, TransformerConfig};
use crate::spec::Names;

/// Everything that is known of a transformer before its weights are read.
#[derive(Clone, Debug)]
pub(crate) struct Blueprint {
    pub config: TransformerConfig,
    pub names: Names,
    pub prefix: String,
    /// Whether the checkpoint has the tensors of the head.
    pub has_head: bool,
}

/// Sites of a block, by part.
pub(crate) struct BlockSites {
    /// Query, key, value; or the fused one alone.
    pub qkv: Vec<SiteMeta>,
    pub o: SiteMeta,
    /// Gate (if any), then up.
    pub up: Vec<SiteMeta>,
    pub down: SiteMeta,
}

impl Blueprint {
    pub fn new(config: TransformerConfig, names: Names, has: impl Fn(&str) -> bool) -> Self {
        let dense = |prefix: &String| has(&format!("{prefix}{}.weight", names.embed));
        let packed = |prefix: &String| has(&format!("{prefix}{}.weight_packed", names.embed));
        let prefix = names.prefixes.iter().find(|p| dense(p) || packed(p)).or(names.prefixes.first());
        let prefix = prefix.cloned().unwrap_or_default();
        let mut blueprint = Self { config, names, prefix, has_head: true };
        let head = blueprint.head_site();
        blueprint.has_head = match blueprint.config.head {
            Head::Pooler => has(&head.weight_name()) || has(&format!("{}.weight_packed", head.name)),
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

    fn residual(&self) -> Axis {
        Axis::new("residual", self.config.width)
    }

    pub fn norm_axis(&self) -> Axis {
        self.residual()
    }

    pub fn embed_site(&self) -> SiteMeta {
        SiteMeta {
            name: self.module(&self.names.embed),
            kind: SiteKind::Embedding,
            rows: self.config.vocab,
            cols: self.config.width,
            transposed: false,
            input: self.residual(),
            output: Axis::new("vocabulary", self.config.vocab),
            reads: "tokens".into(),
            fused: None,
        }
    }

    pub fn head_site(&self) -> SiteMeta {
        let (rows, output) = match self.config.head {
            Head::Pooler => (self.config.width, Axis::new("pooled", self.config.width)),
            _ => (self.config.vocab, Axis::new("vocabulary", self.config.vocab)),
        };
        SiteMeta {
            name: self.module(self.names.head.as_deref().unwrap_or("/lm_head")),
            kind: SiteKind::Linear,
            rows,
            cols: self.config.width,
            transposed: false,
            input: self.residual(),
            output,
            reads: "head".into(),
            fused: None,
        }
    }

    pub fn block_sites(&self, i: usize) -> BlockSites {
        let c = &self.config;
        let block = self.block_name(i);
        let site = |name: &str, reads: &str, input: &Axis, output: &Axis, fused: Option<&str>| SiteMeta {
            name: format!("{block}.{name}"),
            kind: SiteKind::Linear,
            rows: output.size(),
            cols: input.size(),
            transposed: c.stored_in_out,
            input: input.clone(),
            output: output.clone(),
            reads: format!("{block}.{reads}"),
            fused: fused.map(|f| format!("{block}.{f}")),
        };
        let residual = self.residual();
        let heads = |name: &str, n: usize| {
            Axis::new(format!("{block}.{name}"), n * c.head_width).in_units_of(c.head_width)
        };
        let (q, k, v) =
            (heads("heads", c.heads), heads("key_heads", c.kv_heads), heads("value_heads", c.kv_heads));
        let hidden = Axis::new(format!("{block}.hidden"), c.hidden);
        let names = &self.names;
        let qkv = match (&names.qkv, &names.q, &names.k, &names.v) {
            (Some(name), ..) if c.fused_qkv => {
                vec![site(
                    name,
                    "attention_input",
                    &residual,
                    &heads("query_key_value", c.heads + 2 * c.kv_heads),
                    None,
                )]
            }
            (_, Some(nq), Some(nk), Some(nv)) => [(nq, &q), (nk, &k), (nv, &v)]
                .map(|(name, axis)| site(name, "attention_input", &residual, axis, Some("qkv")))
                .into(),
            _ => Vec::new(), // the specification was checked when it was parsed
        };
        let gate = names.gate.as_ref().filter(|_| c.mlp == MlpKind::Gated);
        let fused = gate.map(|_| "gate_up");
        let up = gate.into_iter().chain([&names.up]);
        BlockSites {
            qkv,
            o: site(&names.o, "attention_output", &q, &residual, None),
            up: up.map(|name| site(name, "mlp_input", &residual, &hidden, fused)).collect(),
            down: site(&names.down, "mlp_hidden", &hidden, &residual, None),
        }
    }

    /// All stages: the embedding, the blocks, the head.
    pub fn stages(&self) -> Vec<StageInfo> {
        let blocks = (0..self.config.windows.len()).map(|i| self.block_info(i));
        let mut stages = vec![self.embed_info()];
        stages.extend(blocks);
        stages.extend(self.has_head.then(|| self.head_info()));
        stages
    }

    fn embed_info(&self) -> StageInfo {
        let c = &self.config;
        let site = self.embed_site();
        let mut tensors = vec![site.weight_name()];
        let mut numel = site.numel();
        if let (Some(name), Positions::Learned(n)) = (&self.names.positions, &c.positions) {
            tensors.push(format!("{}.weight", self.module(name)));
            numel += n * c.width;
        }
        if let (Some(name), Some(n)) = (&self.names.token_types, c.token_types) {
            tensors.push(format!("{}.weight", self.module(name)));
            numel += n * c.width;
        }
        self.push_norm(
            self.names.embed_norm.as_ref().map(|name| self.module(name)),
            &mut tensors,
            &mut numel,
        );
        StageInfo { role: Role::Embed, name: site.name.clone(), sites: vec![site], tensors, numel }
    }

    fn block_info(&self, i: usize) -> StageInfo {
        let c = &self.config;
        let sites = self.block_sites(i);
        let biased = [(&sites.qkv, c.qkv_bias), (&vec![sites.o.clone()], c.out_bias)]
            .into_iter()
            .chain([(&sites.up, c.mlp_bias), (&vec![sites.down.clone()], c.mlp_bias)])
            .flat_map(|(sites, bias)| sites.iter().map(move |site| (site.clone(), bias)))
            .collect::<Vec<_>>();
        let (mut tensors, mut numel) = (Vec::new(), 0);
        for (site, bias) in &biased {
            tensors.push(site.weight_name());
            numel += site.numel();
            if *bias {
                tensors.push(format!("{}.bias", site.name));
                numel += site.rows;
            }
        }
        let name = self.block_name(i);
        for norm in [&self.names.attention_norm, &self.names.mlp_norm] {
            self.push_norm(Some(format!("{name}.{norm}")), &mut tensors, &mut numel);
        }
        let sites = biased.into_iter().map(|(site, _)| site).collect();
        StageInfo { role: Role::Block, name, sites, tensors, numel }
    }

    fn head_info(&self) -> StageInfo {
        let site = self.head_site();
        let (mut tensors, mut numel) = (Vec::new(), 0);
        self.push_norm(
            self.names.final_norm.as_ref().map(|name| self.module(name)),
            &mut tensors,
            &mut numel,
        );
        let sites = match self.config.head {
            Head::Tied => Vec::new(),
            _ => vec![site.clone()],
        };
        if !sites.is_empty() {
            tensors.push(site.weight_name());
            numel += site.numel();
        }
        if self.config.head == Head::Pooler {
            tensors.push(format!("{}.bias", site.name));
            numel += site.rows;
        }
        StageInfo { role: Role::Head, name: site.name.clone(), sites, tensors, numel }
    }

    fn push_norm(&self, name: Option<String>, tensors: &mut Vec<String>, numel: &mut usize) {
        let Some(name) = name else { return };
        tensors.push(format!("{name}.weight"));
        *numel += self.config.width;
        if self.config.norm == trimtab_nn::NormKind::Layer {
            tensors.push(format!("{name}.bias"));
            *numel += self.config.width;
        }
    }
}
