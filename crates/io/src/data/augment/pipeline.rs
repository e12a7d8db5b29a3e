//! Augmentations in a row, as a recipe writes them.
//!
//! ```toml
//! [[augment]]
//! kind = "random_crop"
//! padding = 4
//!
//! [[augment]]
//! kind = "horizontal_flip"
//!
//! [normalize]
//! mean = [0.49, 0.48, 0.45]
//! std = [0.25, 0.24, 0.26]
//! ```

use serde::{Deserialize, Serialize};
use trimtab_math::random::Stream;

use super::image::{Element, Image};
use super::{
    ColourJitter, GaussianBlur, HorizontalFlip, RandAugment, RandomCrop, RandomGrayscale, RandomResizedCrop,
};
use crate::error::{Error, Result};

/// One augmentation of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Augment {
    /// See [`RandomCrop`].
    RandomCrop(RandomCrop),
    /// See [`HorizontalFlip`].
    HorizontalFlip(HorizontalFlip),
    /// See [`RandomResizedCrop`].
    RandomResizedCrop(RandomResizedCrop),
    /// See [`ColourJitter`].
    ColourJitter(ColourJitter),
    /// See [`RandomGrayscale`].
    RandomGrayscale(RandomGrayscale),
    /// See [`GaussianBlur`].
    GaussianBlur(GaussianBlur),
    /// See [`RandAugment`].
    RandAugment(RandAugment),
}

impl Augment {
    /// Changes the image.
    ///
    /// # Errors
    /// [`Error::Invalid`] for settings that do not fit the image.
    pub fn apply(&self, image: &mut Image<u8>, stream: &mut Stream) -> Result<()> {
        match self {
            Self::RandomCrop(a) => a.apply(image, stream),
            Self::HorizontalFlip(a) => a.apply(image, stream),
            Self::RandomResizedCrop(a) => return a.apply(image, stream),
            Self::ColourJitter(a) => a.apply(image, stream),
            Self::RandomGrayscale(a) => a.apply(image, stream),
            Self::GaussianBlur(a) => return a.apply(image, stream),
            Self::RandAugment(a) => return a.apply(image, stream),
        }
        Ok(())
    }
}

/// `(value - mean) / std` of each channel, values in `[0, 1]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalize {
    /// `[channels]`.
    pub mean: Vec<f32>,
    /// `[channels]`, positive.
    pub std: Vec<f32>,
}

impl Normalize {
    /// The image as floats, normalized.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless there is one mean and one positive deviation for each channel.
    pub fn apply<T: Element>(&self, image: &Image<T>) -> Result<Image<f32>> {
        let channels = image.shape()[0];
        let lengths = (self.mean.len(), self.std.len());
        if lengths != (channels, channels) || !self.std.iter().all(|&s| s > 0.0) {
            let message = format!("{channels} channels need as many means and positive deviations: {self:?}");
            return Err(Error::invalid("normalize", message));
        }
        Ok(Image::from_fn(image.shape(), |c, y, x| {
            (image.at(c, y, x).to_f32() / T::FULL - self.mean[c]) / self.std[c]
        }))
    }
}

/// Augmentations in their order, then floats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pipeline {
    /// In the order they are applied.
    pub augment: Vec<Augment>,
    /// Without it, colours are floats in `[0, 1]`.
    pub normalize: Option<Normalize>,
}

impl Pipeline {
    /// Augments item `item` in epoch `epoch`. The result depends on these two, `seed` and the image alone.
    ///
    /// # Errors
    /// [`Error::Invalid`] for settings that do not fit the image.
    pub fn apply(&self, mut image: Image<u8>, seed: u64, epoch: u64, item: u64) -> Result<Image<f32>> {
        let mut stream = Stream::new(seed, "augment", epoch, item);
        for augment in &self.augment {
            augment.apply(&mut image, &mut stream)?;
        }
        match &self.normalize {
            Some(normalize) => normalize.apply(&image),
            None => Ok(Image::from_fn(image.shape(), |c, y, x| image.at(c, y, x).to_f32() / 255.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = r#"
        augment = [
            { kind = "random_resized_crop", size = [8, 6] },
            { kind = "random_crop", padding = 2 },
            { kind = "horizontal_flip" },
            { kind = "colour_jitter", brightness = 0.4, contrast = 0.4, saturation = 0.4, hue = 0.1 },
            { kind = "random_grayscale", p = 0.2 },
            { kind = "gaussian_blur", kernel_size = 3 },
            { kind = "rand_augment", magnitude = 15 },
        ]
        normalize = { mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25] }
    "#;

    fn image() -> Image<u8> {
        Image::from_fn([3, 12, 10], |c, y, x| (c * 80 + y * 17 + x * 11) as u8)
    }

    #[test]
    fn a_recipe_is_read_and_written() {
        let pipeline: Pipeline = toml::from_str(ALL).unwrap();
        assert_eq!(pipeline.augment.len(), 7);
        assert_eq!(toml::from_str::<Pipeline>(&toml::to_string(&pipeline).unwrap()).unwrap(), pipeline);
        assert!(toml::from_str::<Pipeline>("[[augment]]\nkind = \"random_crop\"\npading = 4").is_err());
        assert!(toml::from_str::<Pipeline>("[[augment]]\nkind = \"mirror\"").is_err());
    }

    #[test]
    fn an_item_depends_on_its_name_alone() {
        let pipeline: Pipeline = toml::from_str(ALL).unwrap();
        let run = |seed, epoch, item| pipeline.apply(image(), seed, epoch, item).unwrap();
        let forward: Vec<_> = (0..20).map(|item| run(1, 2, item)).collect();
        let mut backward: Vec<_> = (0..20).rev().map(|item| run(1, 2, item)).collect();
        backward.reverse();
        assert_eq!(forward, backward);
        assert_eq!(forward[0].shape(), [3, 8, 6]);
        assert!(run(1, 3, 0) != forward[0] && run(2, 2, 0) != forward[0] && forward[1] != forward[0]);
    }

    #[test]
    fn normalize_needs_every_channel() {
        let one = Normalize { mean: vec![0.5], std: vec![0.5] };
        assert!(one.apply(&image()).is_err());
        let grey = Image::new([1, 1, 2], vec![0u8, 255]).unwrap();
        assert_eq!(one.apply(&grey).unwrap().pixels(), [-1.0, 1.0]);
        assert!(Normalize { mean: vec![0.5], std: vec![0.0] }.apply(&grey).is_err());
    }
}
