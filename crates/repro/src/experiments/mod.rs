//! The experiments: one file a paper.

mod adadagrad;
mod adapt;
mod augmented_hessian;
mod bivit;
mod cda;
mod dcl;
mod decoupled_mixup;
mod decoupleq;
mod double_rounding;
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
pub use adapt::Adapt;
pub use augmented_hessian::AugmentedHessian;
pub use bivit::Bivit;
pub use cda::Cda;
pub use dcl::Dcl;
pub use decoupled_mixup::DecoupledMixup;
pub use decoupleq::Decoupleq;
pub use double_rounding::DoubleRounding;
pub use eora::Eora;
pub use gradient_noise::GradientNoise;
pub use information::AdaptiveInformation;
pub use l_greco::LGreco;
pub use lamb::Lamb;
pub use rsq::Rsq;
pub use ul2::Ul2;
