//! The one transformer: decoder or encoder, with every choice of layout an option.

mod attention;
mod block;
mod embed;
mod experts;
mod mlp;
mod network;
mod options;
mod parts;
mod plan;
mod plan_embed;
mod plan_feed;
mod pool;
mod projector;
mod read_out;
mod relative;
mod stage_plan;
mod wiring;

pub use attention::Attention;
pub use block::Block;
pub use embed::Embed;
pub use experts::Experts;
pub use mlp::{Feed, Mlp};
pub(crate) use network::NetworkPlan;
pub use options::{
    Biases, BlockOptions, EmbedProjection, ExpertOptions, Head, Initial, Input, LearnedPositions, MlpKind,
    NormPlace, NormStyle, Pool, ProjectorOptions, QkNorm, QkvKind, RelativePositions, TableForm,
    TransformerConfig,
};
pub(crate) use parts::{Blank, NormPlan, Parts, SitePlan, Start, TablePlan};
pub(crate) use plan::{Blueprint, Untied};
pub use pool::AttentionPool;
pub use projector::Projector;
pub use read_out::ReadOut;
pub(crate) use wiring::CENTERED;
