//! Networks that are searched: what stands where, and in how many bits, is learned with the weights.
//!
//! Here are networks for super-resolution (QuantNAS, paper 60). [`Supernet`] and [`Bilevel`] search; what they find is a [`Genotype`], a
//! small file that can as well be written by hand; [`Upscaler`] and [`Restore`] train the network that it describes, in its bits.
//! Noise in place of rounding ([`noise`], [`mixed`]) and the steps of inputs ([`hwgq_step`]) know nothing of super-resolution.

mod edge;
mod genotype;
mod network;
mod noise;
mod patches;
mod rounding;
mod supernet;

pub use genotype::{Choice, EdgeSpec, Genotype, Operation, Skeleton};
pub use network::{Upscaler, nearest, pixel_shuffle};
pub use noise::{NoiseGradient, NoiseKind, full_share, mixed, noise};
pub use patches::{Cut, Pairs, PatchBatch, Patches, Restore, psnr, psnr_rgb8};
pub use rounding::{hwgq_step, lsq_start};
pub use supernet::{Bilevel, QuantNas, SearchBy, Supernet, entropy_weight};
