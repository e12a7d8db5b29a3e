//! A plan of every stage, by part, and the list of tensors that it comes to.

use trimtab_nn::Activation;

use super::{ExpertOptions, NormPlan, Parts, SitePlan, TablePlan};

/// The embedding, by part.
pub(crate) struct EmbedPlan {
    pub site: SitePlan,
    /// Whether the site belongs to another stage.
    pub borrowed: bool,
    /// A second convolution.
    pub stem: Option<SitePlan>,
    pub projection: Option<SitePlan>,
    /// Tokens that stand before the patches.
    pub tokens: Vec<TablePlan>,
    pub positions: Option<TablePlan>,
    pub token_types: Option<TablePlan>,
    pub norm: Option<NormPlan>,
}

/// A block, by part.
pub(crate) struct BlockPlan {
    pub name: String,
    pub attention: AttentionPlan,
    /// Attention to what the first part of the network gives.
    pub cross: Option<AttentionPlan>,
    pub cross_norm: Option<NormPlan>,
    /// The table of positions; it belongs to the first block.
    pub relative: Option<TablePlan>,
    pub owns_relative: bool,
    pub feed: FeedPlan,
    pub attention_norm: Option<NormPlan>,
    pub attention_post_norm: Option<NormPlan>,
    pub mlp_norm: Option<NormPlan>,
    pub mlp_post_norm: Option<NormPlan>,
    pub attention_scale: Option<TablePlan>,
    pub mlp_scale: Option<TablePlan>,
}

/// The attention of a block.
pub(crate) struct AttentionPlan {
    /// Query, key, value; or the fused one alone.
    pub qkv: Vec<SitePlan>,
    pub o: SitePlan,
    pub q_norms: Vec<NormPlan>,
    pub k_norms: Vec<NormPlan>,
}

/// A feed-forward sublayer.
pub(crate) struct MlpPlan {
    /// Gate (if any), then up; or both in one.
    pub up: Vec<SitePlan>,
    pub down: SitePlan,
    pub gated: bool,
    pub activation: Activation,
}

/// What stands in the place of the feed-forward sublayer.
pub(crate) enum FeedPlan {
    Mlp(Box<MlpPlan>),
    Experts(Box<ExpertsPlan>),
}

/// A mixture of experts.
pub(crate) struct ExpertsPlan {
    pub router: SitePlan,
    pub shared: Option<MlpPlan>,
    pub shared_gate: Option<SitePlan>,
    pub experts: Vec<MlpPlan>,
    pub options: ExpertOptions,
}

/// What reads out.
pub(crate) struct HeadPlan {
    pub name: String,
    pub norm: Option<NormPlan>,
    pub projection: Option<SitePlan>,
    pub site: Option<SitePlan>,
    pub pool: Option<PoolPlan>,
}

/// A learned query and what it reads.
pub(crate) struct PoolPlan {
    pub probe: TablePlan,
    /// Query, key and value in one, `[3 C, C]`.
    pub in_weight: TablePlan,
    pub in_bias: TablePlan,
    pub out: SitePlan,
    pub norm: NormPlan,
    pub mlp: MlpPlan,
}

impl EmbedPlan {
    pub fn parts(&self) -> Parts {
        Parts {
            sites: std::iter::once(&self.site)
                .filter(|_| !self.borrowed)
                .chain(&self.stem)
                .chain(&self.projection)
                .cloned()
                .collect(),
            tables: self.tokens.iter().chain(&self.positions).chain(&self.token_types).cloned().collect(),
            norms: self.norm.iter().cloned().collect(),
        }
    }
}

impl BlockPlan {
    pub fn parts(&self) -> Parts {
        let own = [
            &self.attention_norm,
            &self.attention_post_norm,
            &self.cross_norm,
            &self.mlp_norm,
            &self.mlp_post_norm,
        ];
        let relative = self.relative.iter().filter(|_| self.owns_relative);
        let a = &self.attention;
        let cross = self.cross.iter().flat_map(|cross| cross.qkv.iter().chain([&cross.o]));
        let sites = a.qkv.iter().chain([&a.o]).chain(cross).cloned();
        Parts {
            sites: sites.chain(self.feed.sites().into_iter().cloned()).collect(),
            tables: relative.chain(&self.attention_scale).chain(&self.mlp_scale).cloned().collect(),
            norms: a.q_norms.iter().chain(&a.k_norms).chain(own.into_iter().flatten()).cloned().collect(),
        }
    }
}

impl FeedPlan {
    fn sites(&self) -> Vec<&SitePlan> {
        match self {
            Self::Mlp(mlp) => mlp.sites().collect(),
            Self::Experts(e) => {
                let shared = e.shared.iter().flat_map(MlpPlan::sites).chain(&e.shared_gate);
                let experts = e.experts.iter().flat_map(MlpPlan::sites);
                std::iter::once(&e.router).chain(shared).chain(experts).collect()
            }
        }
    }
}

impl MlpPlan {
    pub fn sites(&self) -> impl Iterator<Item = &SitePlan> {
        self.up.iter().chain([&self.down])
    }
}

impl HeadPlan {
    pub fn parts(&self) -> Parts {
        let pool = self.pool.as_ref();
        let pool_sites = pool.into_iter().flat_map(|pool| std::iter::once(&pool.out).chain(pool.mlp.sites()));
        let pool_tables = pool.into_iter().flat_map(|pool| [&pool.probe, &pool.in_weight, &pool.in_bias]);
        Parts {
            sites: self.projection.iter().chain(&self.site).chain(pool_sites).cloned().collect(),
            tables: pool_tables.cloned().collect(),
            norms: self.norm.iter().chain(pool.map(|pool| &pool.norm)).cloned().collect(),
        }
    }
}
