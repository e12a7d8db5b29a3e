//! The experiments: one file a paper.

mod figures;
mod gradient_noise;
mod l_greco;
mod lamb;
mod perceptron;

pub use gradient_noise::GradientNoise;
pub use l_greco::LGreco;
pub use lamb::Lamb;
