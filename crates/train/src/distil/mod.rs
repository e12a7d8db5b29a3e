//! Data sets that are made instead of collected: images that a trained network agrees with, and its own words about them.
//!
//! Three steps (SRe2L, Yin et al., NeurIPS 2023, arXiv:2306.13092; with the curriculum of CDA, Yin and Shen, TMLR 2024,
//! arXiv:2311.18838), after any training of a teacher with batch norms:
//!
//! | step | here |
//! |---|---|
//! | recover | [`Recovery`]: images from noise, by the gradient of the teacher's loss and of the distance between the statistics that its norms see and those that they remember |
//! | relabel | [`SoftLabels::of`]: what the teacher says of each image as each pass of a later training will see it |
//! | train | [`Pictures::with_soft_labels`](crate::Pictures::with_soft_labels) and [`Imitate`](crate::objectives::Imitate) |
//!
//! [`DistilledSet`] is the file between the second and the third. [`Zeroq`] makes images to calibrate on instead, without labels.

mod curriculum;
mod labels;
mod recover;
#[cfg(test)]
mod tests;
mod top_k;
mod view;
mod zeroq;

pub use curriculum::Curriculum;
pub use labels::{DistilledSet, Replay, SoftLabels};
pub use recover::{Recovery, RecoveryStep};
pub(crate) use top_k::order as largest;
pub use view::View;
pub use zeroq::{Remembered, Statistics, Zeroq};
