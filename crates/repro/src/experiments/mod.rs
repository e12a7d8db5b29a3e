//! The experiments: one file a paper.

mod adadagrad;
mod augmented_hessian;
mod cda;
mod dcl;
mod decoupled_mixup;
mod decoupleq;
mod eora;
mod features;
mod figures;
mod gradient_noise;
mod information;
mod l_greco;
mod lamb;
mod perceptron;
mod pictures;
mod rsq;
mod ul2;

pub use adadagrad::AdAdaGrad;
pub use augmented_hessian::AugmentedHessian;
pub use cda::Cda;
pub use dcl::Dcl;
pub use decoupled_mixup::DecoupledMixup;
pub use decoupleq::Decoupleq;
pub use eora::Eora;
pub use gradient_noise::GradientNoise;
pub use information::AdaptiveInformation;
pub use l_greco::LGreco;
pub use lamb::Lamb;
pub use rsq::Rsq;
pub use ul2::Ul2;
