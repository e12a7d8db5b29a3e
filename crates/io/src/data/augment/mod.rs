//! Augmentation of images on the CPU. What is random comes from a stream named by seed, epoch and item.
//!
//! Operations on bytes give the bytes of torchvision on tensors, resized crops within one level at ties; the draws are
//! our own.

pub(super) mod check;
mod colour;
mod filter;
mod geometry;
mod image;
mod mix;
mod pipeline;
mod rand_augment;
mod tone;

pub use colour::{ColourJitter, RandomGrayscale, brightness, contrast, hue, saturation};
pub use filter::{GaussianBlur, gaussian_blur, sharpness};
pub use geometry::{
    Crop, HorizontalFlip, RandomCrop, RandomResizedCrop, Tap, flip, resize_centre, resized_crop, taps,
};
pub use image::{Element, Image};
pub use mix::{Mixed, Mixer};
pub use pipeline::{Augment, Normalize, Pipeline};
pub use rand_augment::{RAND_OPS, RandAugment, RandOp};
pub use tone::{autocontrast, equalize, posterize, solarize};
