//! Losses beside the plain cross-entropy, each a function of what a network gives.

mod contrastive;
mod decoupled_mixup;
mod images;
mod masked;
mod teacher;

pub use contrastive::{Contrastive, ContrastiveKind, info_nce_share};
pub use decoupled_mixup::{DecoupledMixup, Head, Mode};
pub use images::{
    Classify, ImageBatch, Imitate, Listening, MixedLabel, Targets, Teach, ViewBatch, soft_cross_entropy,
};
pub use masked::log_sum_exp;
pub use teacher::{FollowTeacher, TaughtBatch, TaughtWindows};
