//! Architectures: networks built from sites.
//!
//! A family of transformers is a TOML file ([`spec::ModelSpec`]) over one kind of block ([`transformer::Block`]), one of
//! convolutional networks a TOML file ([`ConvSpec`]) over another, and both are made of the same sites. [`Model`] is a
//! checkpoint with its architecture, not yet loaded; it loads whole or stage by stage.

mod conv;
pub mod error;
pub mod init;
mod load;
pub mod model;
pub mod pico;
mod probe;
pub mod spec;
pub mod transformer;
pub mod zoo;

pub use conv::{ConvSpec, Normalization};
pub use error::{Error, Result};
pub use model::{Model, Spec};
pub use zoo::Zoo;
