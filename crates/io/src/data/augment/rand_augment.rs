//! RandAugment: a few random operations of one strength.
//!
//! Source: Cubuk, Zoph, Shlens, Le, arXiv:1909.13719. Operations and strengths are those of torchvision's
//! `transforms.RandAugment`: 14 operations, affine ones nearest with black outside.

use serde::{Deserialize, Serialize};
use trimtab_math::random::Stream;

use super::check;
use super::colour::{brightness, contrast, saturation};
use super::filter::sharpness;
use super::geometry::affine;
use super::image::Image;
use super::tone::{autocontrast, equalize, posterize, solarize};
use crate::error::{Error, Result};

/// An operation of RandAugment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RandOp {
    /// Nothing.
    Identity,
    /// Slant of columns; tangent of the angle.
    ShearX,
    /// Slant of rows; tangent of the angle.
    ShearY,
    /// To the right by whole pixels.
    TranslateX,
    /// Down by whole pixels.
    TranslateY,
    /// Against the clock, in degrees.
    Rotate,
    /// Factor minus 1.
    Brightness,
    /// Saturation, factor minus 1.
    Color,
    /// Factor minus 1.
    Contrast,
    /// Factor minus 1.
    Sharpness,
    /// Bits that are kept.
    Posterize,
    /// Values from this one on are inverted.
    Solarize,
    /// Full range for every channel.
    AutoContrast,
    /// Even histogram for every channel.
    Equalize,
}

/// All operations, in the order of torchvision.
pub const RAND_OPS: [RandOp; 14] = [
    RandOp::Identity,
    RandOp::ShearX,
    RandOp::ShearY,
    RandOp::TranslateX,
    RandOp::TranslateY,
    RandOp::Rotate,
    RandOp::Brightness,
    RandOp::Color,
    RandOp::Contrast,
    RandOp::Sharpness,
    RandOp::Posterize,
    RandOp::Solarize,
    RandOp::AutoContrast,
    RandOp::Equalize,
];

impl RandOp {
    /// The strength of bin `magnitude` of `bins` on an image of `[height, width]`, and whether its sign is random.
    /// Fewer than two bins have the first strength only.
    pub fn strength(self, magnitude: usize, bins: usize, [height, width]: [usize; 2]) -> (f64, bool) {
        let between = |start: f64, end: f64| spaced([start, end], magnitude, bins);
        match self {
            Self::Identity | Self::AutoContrast | Self::Equalize => (0.0, false),
            Self::ShearX | Self::ShearY => (between(0.0, 0.3), true),
            Self::TranslateX => (between(0.0, 150.0 / 331.0 * width as f64), true),
            Self::TranslateY => (between(0.0, 150.0 / 331.0 * height as f64), true),
            Self::Rotate => (between(0.0, 30.0), true),
            Self::Brightness | Self::Color | Self::Contrast | Self::Sharpness => (between(0.0, 0.9), true),
            Self::Posterize => {
                // Not by steps: half a bit has to be exactly that.
                let dropped = magnitude as f64 * 4.0 / bins.saturating_sub(1).max(1) as f64;
                (8.0 - dropped.round_ties_even(), false)
            }
            Self::Solarize => (between(255.0, 0.0), false),
        }
    }

    /// Changes the image with this strength, whose unit is the operation's.
    pub fn apply(self, image: &mut Image<u8>, strength: f64) {
        let [_, height, width] = image.shape();
        let factor = 1.0 + strength;
        match self {
            Self::Identity => {}
            // Slants are about the corner at the top left, as in the library of the paper.
            Self::ShearX => {
                *image = affine(image, [[1.0, strength, strength * height as f64 / 2.0], [0.0, 1.0, 0.0]]);
            }
            Self::ShearY => {
                *image = affine(image, [[1.0, 0.0, 0.0], [strength, 1.0, strength * width as f64 / 2.0]]);
            }
            Self::TranslateX => *image = affine(image, [[1.0, 0.0, -strength.trunc()], [0.0, 1.0, 0.0]]),
            Self::TranslateY => *image = affine(image, [[1.0, 0.0, 0.0], [0.0, 1.0, -strength.trunc()]]),
            Self::Rotate => {
                let (sin, cos) = strength.to_radians().sin_cos();
                *image = affine(image, [[cos, -sin, 0.0], [sin, cos, 0.0]]);
            }
            Self::Brightness => brightness(image, factor),
            Self::Color => saturation(image, factor),
            Self::Contrast => contrast(image, factor),
            Self::Sharpness => sharpness(image, factor),
            Self::Posterize => posterize(image, strength as u32),
            Self::Solarize => solarize(image, strength),
            Self::AutoContrast => autocontrast(image),
            Self::Equalize => equalize(image),
        }
    }
}

/// Number `index` of `count` from `start` to `end`: in single precision and from the nearer end, as `torch.linspace` does.
///
/// A threshold or a count of pixels is often a whole number there; a rounding error more would move it by one.
fn spaced([start, end]: [f64; 2], index: usize, count: usize) -> f64 {
    let (start, end, last) = (start as f32, end as f32, count.saturating_sub(1).max(1));
    let step = (end - start) / last as f32;
    f64::from(match index < count / 2 {
        true => start + step * index as f32,
        false => end - step * last.saturating_sub(index) as f32,
    })
}

/// `n` random operations of one strength.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandAugment {
    /// Operations for an image.
    pub n: usize,
    /// Bin of the strength, below `bins`.
    pub magnitude: usize,
    /// Bins of strength, at least 2.
    pub bins: usize,
}

impl Default for RandAugment {
    fn default() -> Self {
        Self { n: 2, magnitude: 9, bins: 31 }
    }
}

impl RandAugment {
    /// Whether the settings are in their ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the name of the field.
    pub fn check(&self) -> Result<()> {
        check::side("rand_augment.n", self.n.max(1))?;
        if self.bins < 2 {
            return Err(Error::invalid(
                "rand_augment.bins",
                format!("expected at least 2, found {}", self.bins),
            ));
        }
        check::side("rand_augment.bins", self.bins)?;
        if self.magnitude >= self.bins {
            let message = format!("expected less than bins, {}, found {}", self.bins, self.magnitude);
            return Err(Error::invalid("rand_augment.magnitude", message));
        }
        Ok(())
    }

    /// Changes the image.
    ///
    /// # Errors
    /// Those of [`Self::check`].
    pub fn apply(&self, image: &mut Image<u8>, stream: &mut Stream) -> Result<()> {
        self.check()?;
        for _ in 0..self.n {
            let op = *stream.choose(&RAND_OPS);
            let [_, height, width] = image.shape();
            let (strength, signed) = op.strength(self.magnitude, self.bins, [height, width]);
            let negative = stream.below(2) == 1;
            op.apply(image, if signed && negative { -strength } else { strength });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strengths_end_where_the_library_ends() {
        let end = |op: RandOp| op.strength(30, 31, [331, 331]).0;
        assert_eq!(
            [end(RandOp::ShearX), end(RandOp::Rotate), end(RandOp::Color)],
            [0.3f32, 30.0, 0.9].map(f64::from)
        );
        assert_eq!([end(RandOp::Posterize), end(RandOp::Solarize)], [4.0, 0.0]);
        assert!((end(RandOp::TranslateX) - 150.0).abs() < 1e-9);
        assert_eq!(RandOp::Posterize.strength(0, 31, [8, 8]).0, 8.0);
        // 0.5, 1.5 and 2.5 bits dropped: to even.
        assert_eq!([3, 9, 15].map(|bin| RandOp::Posterize.strength(bin, 25, [8, 8]).0), [8.0, 6.0, 6.0]);
        assert_eq!(RandOp::Solarize.strength(0, 1, [8, 8]).0, 255.0);
        assert_eq!(RandOp::Solarize.strength(0, 31, [8, 8]).0, 255.0);
    }

    #[test]
    fn translation_moves_by_whole_pixels() {
        let mut image = Image::new([1, 1, 4], vec![1u8, 2, 3, 4]).unwrap();
        RandOp::TranslateX.apply(&mut image, 1.9);
        assert_eq!(image.pixels(), [0, 1, 2, 3]);
        RandOp::TranslateX.apply(&mut image, -1.0);
        assert_eq!(image.pixels(), [1, 2, 3, 0]);
    }

    #[test]
    fn magnitudes_are_bins() {
        let mut image = Image::new([3, 8, 8], vec![9u8; 192]).unwrap();
        let mut stream = Stream::new(0, "t", 0, 0);
        for (magnitude, bins) in [(31, 31), (0, 1), (0, 0)] {
            assert!(RandAugment { n: 2, magnitude, bins }.apply(&mut image, &mut stream).is_err());
        }
        assert!(RandAugment::default().apply(&mut image, &mut stream).is_ok());
    }
}
