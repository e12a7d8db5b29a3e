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
    /// Whether the settings are in their ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the name of the field.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::RandomCrop(a) => a.check(),
            Self::HorizontalFlip(a) => a.check(),
            Self::RandomResizedCrop(a) => a.check(),
            Self::ColourJitter(a) => a.check(),
            Self::RandomGrayscale(a) => a.check(),
            Self::GaussianBlur(a) => a.check(),
            Self::RandAugment(a) => a.check(),
        }
    }

    /// Changes the image.
    ///
    /// # Errors
    /// [`Error::Invalid`] for settings out of their ranges, or that do not fit the image.
    pub fn apply(&self, image: &mut Image<u8>, stream: &mut Stream) -> Result<()> {
        match self {
            Self::RandomCrop(a) => a.apply(image, stream),
            Self::HorizontalFlip(a) => a.apply(image, stream),
            Self::RandomResizedCrop(a) => a.apply(image, stream),
            Self::ColourJitter(a) => a.apply(image, stream),
            Self::RandomGrayscale(a) => a.apply(image, stream),
            Self::GaussianBlur(a) => a.apply(image, stream),
            Self::RandAugment(a) => a.apply(image, stream),
        }
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
    /// Whether the settings are in their ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the name of the field.
    pub fn check(&self) -> Result<()> {
        if !self.mean.iter().all(|m| m.is_finite()) {
            let message = format!("expected finite numbers, found {:?}", self.mean);
            return Err(Error::invalid("normalize.mean", message));
        }
        if !self.std.iter().all(|&s| s > 0.0 && s.is_finite()) || self.std.len() != self.mean.len() {
            let message = format!("expected {} positive numbers, found {:?}", self.mean.len(), self.std);
            return Err(Error::invalid("normalize.std", message));
        }
        Ok(())
    }

    /// The image as floats, normalized.
    ///
    /// # Errors
    /// Those of [`Self::check`]; [`Error::Invalid`] unless there is one mean for each channel.
    pub fn apply<T: Element>(&self, image: &Image<T>) -> Result<Image<f32>> {
        self.check()?;
        let channels = image.shape()[0];
        if self.mean.len() != channels {
            let message = format!("{channels} channels need as many means: {:?}", self.mean);
            return Err(Error::invalid("normalize.mean", message));
        }
        Ok(Image::from_fn(image.shape(), |c, y, x| {
            (image.at(c, y, x).to_f32() / T::FULL - self.mean[c]) / self.std[c]
        }))
    }
}

/// Augmentations in their order, then floats. One that is read from a recipe has been checked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Pipeline {
    /// In the order they are applied.
    pub augment: Vec<Augment>,
    /// Without it, colours are floats in `[0, 1]`.
    pub normalize: Option<Normalize>,
}

/// A [`Pipeline`] as it is written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Unchecked {
    augment: Vec<Augment>,
    normalize: Option<Normalize>,
}

impl TryFrom<Unchecked> for Pipeline {
    type Error = Error;

    fn try_from(Unchecked { augment, normalize }: Unchecked) -> Result<Self> {
        let pipeline = Self { augment, normalize };
        pipeline.check()?;
        Ok(pipeline)
    }
}

impl Pipeline {
    /// Whether all settings are in their ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the name of the field.
    pub fn check(&self) -> Result<()> {
        self.augment.iter().try_for_each(Augment::check)?;
        self.normalize.as_ref().map_or(Ok(()), Normalize::check)
    }

    /// Augments item `item` in epoch `epoch`. The result depends on these two, `seed` and the image alone.
    ///
    /// # Errors
    /// [`Error::Invalid`] for settings out of their ranges, or that do not fit the image.
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
    fn settings_out_of_range_are_refused_by_name() {
        let cases = [
            ("horizontal_flip", "p = 1.5", "horizontal_flip.p: expected [0, 1], found 1.5"),
            ("horizontal_flip", "p = nan", "horizontal_flip.p: "),
            ("random_grayscale", "p = -0.1", "random_grayscale.p: "),
            ("random_crop", "padding = 16385", "random_crop.padding: expected 1 to 16384, found 16385"),
            ("random_resized_crop", "size = [0, 8]", "random_resized_crop.size: "),
            ("random_resized_crop", "size = [8, 16385]", "random_resized_crop.size: "),
            (
                "random_resized_crop",
                "size = [8, 8], scale = [0.9, 0.1]",
                "random_resized_crop.scale: expected positive numbers, ascending, found [0.9, 0.1]",
            ),
            ("random_resized_crop", "size = [8, 8], scale = [0, 1]", "random_resized_crop.scale: "),
            ("random_resized_crop", "size = [8, 8], scale = [8, 100]", "random_resized_crop.scale: "),
            ("random_resized_crop", "size = [8, 8], ratio = [1, inf]", "random_resized_crop.ratio: "),
            (
                "colour_jitter",
                "brightness = -0.1",
                "colour_jitter.brightness: expected a number from 0, found -0.1",
            ),
            ("colour_jitter", "contrast = inf", "colour_jitter.contrast: "),
            ("colour_jitter", "saturation = nan", "colour_jitter.saturation: "),
            ("colour_jitter", "hue = 0.6", "colour_jitter.hue: expected [0, 0.5], found 0.6"),
            ("gaussian_blur", "kernel_size = 4", "gaussian_blur.kernel_size: "),
            ("gaussian_blur", "kernel_size = 16385", "gaussian_blur.kernel_size: "),
            ("gaussian_blur", "kernel_size = 3, sigma = [2, 1]", "gaussian_blur.sigma: "),
            ("gaussian_blur", "kernel_size = 3, p = 2", "gaussian_blur.p: "),
            ("rand_augment", "n = 16385", "rand_augment.n: "),
            ("rand_augment", "bins = 1", "rand_augment.bins: "),
            (
                "rand_augment",
                "magnitude = 31",
                "rand_augment.magnitude: expected less than bins, 31, found 31",
            ),
        ];
        for (kind, settings, expected) in cases {
            let text = format!("augment = [{{ kind = \"{kind}\", {settings} }}]");
            let error = toml::from_str::<Pipeline>(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{settings}: {error}");
        }
        for (settings, expected) in [
            ("mean = [nan], std = [1]", "normalize.mean: "),
            ("mean = [0], std = [0]", "normalize.std: expected 1 positive numbers, found [0.0]"),
            ("mean = [0, 0], std = [1]", "normalize.std: expected 2 positive numbers"),
        ] {
            let error = toml::from_str::<Pipeline>(&format!("normalize = {{ {settings} }}")).unwrap_err();
            assert!(error.to_string().contains(expected), "{settings}: {error}");
        }
    }

    #[test]
    fn settings_made_by_hand_are_checked_where_they_are_used() {
        let jitter = Augment::ColourJitter(ColourJitter { hue: f64::NAN, ..ColourJitter::default() });
        let pipeline = Pipeline { augment: vec![jitter], normalize: None };
        assert!(matches!(pipeline.apply(image(), 0, 0, 0), Err(Error::Invalid { .. })));
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
