//! The experiments: one file a paper.

mod adadagrad;
mod dcl;
mod decoupled_mixup;
mod features;
mod gradient_noise;
mod information;
mod perceptron;
mod pictures;
mod ul2;

pub use adadagrad::AdAdaGrad;
pub use dcl::Dcl;
pub use decoupled_mixup::DecoupledMixup;
pub use gradient_noise::GradientNoise;
pub use information::AdaptiveInformation;
pub use ul2::Ul2;
