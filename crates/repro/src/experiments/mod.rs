//! The experiments: one file a paper.

mod gradient_noise;
mod information;
mod perceptron;
mod ul2;

pub use gradient_noise::GradientNoise;
pub use information::AdaptiveInformation;
pub use ul2::Ul2;
