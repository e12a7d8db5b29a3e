//! Mending: what makes up for a changed weight, whatever changed it.
//!
//! A method of this crate sees the weight of a site as it was and as it now is, and what is known of its inputs. It does not
//! know how the weight was changed: codes, pruning and factoring are mended alike, so none of their crates has to know it.
//!
//! | module | paper |
//! |---|---|
//! | [`eora`] | EoRA, arXiv 2410.21271: a low-rank branch that takes most off the output error |
//! | [`lq`] | LQ-LoRA, arXiv 2311.12023: codes and branch found by turns |
//! | [`tuning_norm`] | arXiv 2006.10518: a batch norm that is put where one was folded, tuned, and folded again |

mod error;
mod measure;

pub mod eora;
pub mod lq;
pub mod tuning_norm;

pub use error::{Error, Result};
