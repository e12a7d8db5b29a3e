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
mod int2_1;
mod l_greco;
mod lamb;
mod lq_lora;
mod perceptron;
mod pictures;
mod rsq;
mod ul2;
mod wikilm;

pub use adadagrad::AdAdaGrad;
pub use augmented_hessian::AugmentedHessian;
pub use cda::Cda;
pub use dcl::Dcl;
pub use decoupled_mixup::DecoupledMixup;
pub use decoupleq::Decoupleq;
pub use eora::Eora;
pub use gradient_noise::GradientNoise;
pub use information::AdaptiveInformation;
pub use int2_1::Int21;
pub use l_greco::LGreco;
pub use lamb::Lamb;
pub use lq_lora::LqLora;
pub use rsq::Rsq;
pub use ul2::Ul2;
