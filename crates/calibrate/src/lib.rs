//! Watching a network block by block, and changing it block by block.
//!
//! [`stream`] runs calibration batches through one block at a time and holds nothing else; [`moment`] is the tap that
//! folds what a site sees into a second moment; [`mod@reconstruct`] trains numbers of a block until it gives what the original gives,
//! [`steps`] are such numbers: those of frozen codes; [`fisher`] is what single samples say of single weights; [`treatment`] is what a method has to be so that it can be planned
//! and applied to any site of any model.

pub mod batch;
pub mod error;
pub mod fisher;
pub mod importance;
pub mod memory;
pub mod moment;
pub mod norms;
pub mod outputs;
pub mod ranges;
pub mod reconstruct;
pub mod steps;
pub mod store;
pub mod stream;
pub mod treatment;

pub use batch::Batch;
pub use error::{Error, Result};
pub use fisher::{Fisher, empirical_fisher};
pub use importance::{Control, Importance, Strategy};
pub use memory::MemoryPrediction;
pub use moment::{Moment, SecondMoment};
pub use outputs::{Output, outputs};
pub use ranges::{ActivationRanges, Histogram, RangeRule};
pub use reconstruct::{Part, ReconstructSettings, Reconstructed, Reconstruction, reconstruct};
pub use steps::Steps;
pub use stream::{BlockRun, FirstHalf, Inputs, Moments, Stream, StreamSettings};
pub use treatment::{Outcome, SiteEvidence, Treated, Treatment};
