//! Rewrites of a network that leave its function as it is.
//!
//! A rewrite changes the weights of several maps so that what one does more, others do less: a norm's gain moves into the maps
//! that read it, a rotation of the residual stream is undone by every reader. What quantization makes of the weights afterwards
//! is another matter, and the reason for it all.
//!
//! A pass is one file in [`passes`] that implements [`EquivalentRewrite`]. It asks the wiring of the network
//! ([`trimtab_nn::Wiring`]) which edges there are, and edits a [`Draft`] of the checkpoint: vectors are changed at once, matrices
//! get a list of edits that are carried out in `f64` when a tensor is read, one tensor at a time. So passes may follow one another
//! and round once, and nothing but one tensor is in memory. Families and names are none of a pass's business; what a network is
//! not wired for, it refuses, and says why.

pub mod check;
pub mod draft;
pub mod edit;
pub mod error;
pub mod pass;
pub mod passes;

pub use check::{Change, compare};
pub use draft::Draft;
pub use edit::Edit;
pub use error::{Error, Result};
pub use pass::{Applied, EquivalentRewrite, Pass, PassSettings, Ranges, apply_passes};
