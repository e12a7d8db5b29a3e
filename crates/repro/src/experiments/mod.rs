//! The experiments: one file a paper.

mod adadagrad;
mod dcl;
mod decoupled_mixup;
mod features;
mod gradient_noise;
mod perceptron;
mod pictures;

pub use adadagrad::AdAdaGrad;
pub use dcl::Dcl;
pub use decoupled_mixup::DecoupledMixup;
pub use gradient_noise::GradientNoise;
