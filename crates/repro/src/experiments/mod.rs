//! The experiments: one file a paper.

mod gradient_noise;
mod perceptron;

pub use gradient_noise::GradientNoise;
