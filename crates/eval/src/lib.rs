//! How good a network is, and how far a treated one is from its original.

pub mod divergence;
pub mod error;
pub mod images;
pub mod language;
pub mod pairs;
pub mod rows;

pub use divergence::{Divergence, Reference};
pub use error::{Error, Result};
pub use language::{LanguageScore, Windows};

/// Called after every batch with the items done and the items in all.
pub type Progress<'p> = &'p mut dyn FnMut(usize, usize);
