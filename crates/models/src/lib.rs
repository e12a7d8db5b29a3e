//! Architectures: networks built from sites.
//!
//! A family of transformers is a TOML file ([`spec::ModelSpec`]) over one module ([`transformer::Transformer`]);
//! convolutional networks are modules over the same sites. [`Model`] is a checkpoint with its architecture, not yet
//! loaded; it loads whole or stage by stage.

pub mod error;
pub mod init;
mod load;
pub mod model;
pub mod pico;
pub mod resnet;
pub mod spec;
pub mod transformer;

pub use error::{Error, Result};
pub use model::Model;
pub use resnet::Normalization;
