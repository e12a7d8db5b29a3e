//! The one convolutional network: a family is a TOML file (`specs/conv/*.toml`) in the language of [`ConvSpec`].

mod block;
mod build;
mod layer;
mod name;
mod normalization;
mod op;
mod plan;
mod shapes;
mod spec;
mod wiring;

pub use normalization::Normalization;
pub(crate) use plan::ConvPlan;
pub use spec::ConvSpec;
