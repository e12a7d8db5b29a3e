//! Where pixels go: crops, flips, resizing and affine maps.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use trimtab_math::random::Stream;

use super::check;
use super::image::{Element, Image};
use crate::error::{Error, Result};

/// A part of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// Cuts `crop` out and resizes it to `[height, width]`: bilinear, without antialiasing, centres of pixels at halves (as
/// `align_corners=False`).
///
/// # Errors
/// [`Error::Invalid`] if the crop is empty or reaches out of the image, or a side of `size` is 0 or above 16,384.
pub fn resized_crop<T: Element>(image: &Image<T>, crop: Crop, size: [usize; 2]) -> Result<Image<T>> {
    let [channels, height, width] = image.shape();
    let inside = |start: usize, len: usize, side: usize| {
        len > 0 && start.checked_add(len).is_some_and(|end| end <= side)
    };
    if !inside(crop.top, crop.height, height) || !inside(crop.left, crop.width, width) {
        return Err(Error::invalid("crop", format!("{crop:?} of an image {height} by {width}")));
    }
    check::sides("size", size)?;
    if size == [crop.height, crop.width] {
        return Ok(Image::from_fn([channels, size[0], size[1]], |c, y, x| {
            image.at(c, crop.top + y, crop.left + x)
        }));
    }
    let rows = taps(crop.height, size[0], 0..size[0]);
    let columns = taps(crop.width, size[1], 0..size[1]);
    Ok(bilinear(image, [crop.top, crop.left], &rows, &columns))
}

/// For a place of the result the two source places and the share of the second.
pub type Tap = (usize, usize, f32);

/// The taps of the places `range` where `from` places (1 or more) become `to`, as in [`resized_crop`].
pub fn taps(from: usize, to: usize, range: Range<usize>) -> Vec<Tap> {
    let scale = from as f32 / to as f32;
    range
        .map(|i| {
            let source = (scale * (i as f32 + 0.5) - 0.5).max(0.0);
            let first = (source as usize).min(from - 1);
            (first, (first + 1).min(from - 1), source - first as f32)
        })
        .collect()
}

fn bilinear<T: Element>(
    image: &Image<T>,
    [top, left]: [usize; 2],
    rows: &[Tap],
    columns: &[Tap],
) -> Image<T> {
    Image::from_fn([image.shape()[0], rows.len(), columns.len()], |c, y, x| {
        let ((y0, y1, fy), (x0, x1, fx)) = (rows[y], columns[x]);
        let value = |y: usize, x: usize| image.at(c, top + y, left + x).to_f32();
        let upper = (1.0 - fx) * value(y0, x0) + fx * value(y0, x1);
        let lower = (1.0 - fx) * value(y1, x0) + fx * value(y1, x1);
        T::rounded((1.0 - fy) * upper + fy * lower)
    })
}

/// Resizes so that `size` is covered with the sides in proportion, then cuts out the centre.
///
/// # Errors
/// [`Error::Invalid`] if a side of `size` is 0 or above 16,384.
pub fn resize_centre<T: Element>(image: &Image<T>, size: [usize; 2]) -> Result<Image<T>> {
    check::sides("size", size)?;
    let [_, height, width] = image.shape();
    let scale = (size[0] as f64 / height as f64).max(size[1] as f64 / width as f64);
    let scaled = |side: usize, least: usize| ((side as f64 * scale).round() as usize).max(least);
    let covering = [scaled(height, size[0]), scaled(width, size[1])];
    // Only what is kept is computed: a strip one pixel high would cover a square by a thousand times its area.
    let taps = |side: usize, covering: usize, size: usize| {
        let start = (covering - size) / 2;
        taps(side, covering, start..start + size)
    };
    let rows = taps(height, covering[0], size[0]);
    Ok(bilinear(image, [0, 0], &rows, &taps(width, covering[1], size[1])))
}

/// Mirrors left and right.
pub fn flip<T: Element>(image: &mut Image<T>) {
    let width = image.shape()[2];
    image.pixels_mut().chunks_exact_mut(width).for_each(<[T]>::reverse);
}

/// Takes each pixel from `matrix * (x, y, 1)`, coordinates from the centre of the image; nearest, black outside.
///
/// Single precision, in the steps of torchvision (a grid in `[-1, 1]`, then pixels): what lies halfway between two pixels
/// falls to the same side.
pub(super) fn affine<T: Element>(image: &Image<T>, matrix: [[f64; 3]; 2]) -> Image<T> {
    let [_, height, width] = image.shape();
    let (half_w, half_h) = (width as f32 / 2.0, height as f32 / 2.0);
    let (to_x, to_y) = (matrix[0].map(|v| v as f32 / half_w), matrix[1].map(|v| v as f32 / half_h));
    Image::from_fn(image.shape(), |c, y, x| {
        let (px, py) = (x as f32 + 0.5 - half_w, y as f32 + 0.5 - half_h);
        let source = |row: [f32; 3], half: f32| {
            ((row[0] * px + row[1] * py + row[2] + 1.0) * half - 0.5).round_ties_even()
        };
        let (sx, sy) = (source(to_x, half_w), source(to_y, half_h));
        let inside = sx >= 0.0 && sy >= 0.0 && sx < width as f32 && sy < height as f32;
        if inside { image.at(c, sy as usize, sx as usize) } else { T::default() }
    })
}

/// Pads with black and cuts a random window of the old size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomCrop {
    /// Pixels on each side.
    pub padding: u16,
}

impl RandomCrop {
    /// Whether the settings are in their ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the name of the field.
    pub fn check(&self) -> Result<()> {
        match usize::from(self.padding) {
            0 => Ok(()),
            padding => check::side("random_crop.padding", padding),
        }
    }

    /// Changes the image.
    ///
    /// # Errors
    /// Those of [`Self::check`].
    pub fn apply<T: Element>(&self, image: &mut Image<T>, stream: &mut Stream) -> Result<()> {
        self.check()?;
        let [_, height, width] = image.shape();
        let padding = usize::from(self.padding);
        let (top, left) = (stream.below(2 * padding + 1), stream.below(2 * padding + 1));
        let source = |place: usize, shift: usize, side: usize| {
            (place + shift).checked_sub(padding).filter(|&place| place < side)
        };
        *image =
            Image::from_fn(image.shape(), |c, y, x| match (source(y, top, height), source(x, left, width)) {
                (Some(y), Some(x)) => image.at(c, y, x),
                _ => T::default(),
            });
        Ok(())
    }
}

/// Mirrors left and right with a probability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HorizontalFlip {
    /// Probability.
    pub p: f64,
}

impl Default for HorizontalFlip {
    fn default() -> Self {
        Self { p: 0.5 }
    }
}

impl HorizontalFlip {
    /// Whether the settings are in their ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the name of the field.
    pub fn check(&self) -> Result<()> {
        check::probability("horizontal_flip.p", self.p)
    }

    /// Changes the image, or not.
    ///
    /// # Errors
    /// Those of [`Self::check`].
    pub fn apply<T: Element>(&self, image: &mut Image<T>, stream: &mut Stream) -> Result<()> {
        self.check()?;
        if stream.uniform() < self.p {
            flip(image);
        }
        Ok(())
    }
}

/// A random part of the image, resized (Szegedy et al., arXiv:1409.4842): area uniform, ratio uniform in its logarithm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomResizedCrop {
    /// `[height, width]` of the result.
    pub size: [usize; 2],
    /// Least and greatest share of the area.
    #[serde(default = "default_scale")]
    pub scale: [f64; 2],
    /// Least and greatest width over height.
    #[serde(default = "default_ratio")]
    pub ratio: [f64; 2],
}

fn default_scale() -> [f64; 2] {
    [0.08, 1.0]
}

fn default_ratio() -> [f64; 2] {
    [3.0 / 4.0, 4.0 / 3.0]
}

impl RandomResizedCrop {
    /// The usual ranges: 8% to 100% of the area, 3:4 to 4:3.
    pub fn new(size: [usize; 2]) -> Self {
        Self { size, scale: default_scale(), ratio: default_ratio() }
    }

    /// Whether the settings are in their ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the name of the field.
    pub fn check(&self) -> Result<()> {
        check::sides("random_resized_crop.size", self.size)?;
        check::ascending("random_resized_crop.scale", self.scale)?;
        if self.scale[1] > 1.0 {
            let message = format!("shares of the area are at most 1, found {:?}", self.scale);
            return Err(Error::invalid("random_resized_crop.scale", message));
        }
        check::ascending("random_resized_crop.ratio", self.ratio)
    }

    /// The part of an image of `[height, width]` that is taken; the centre if ten draws do not fit.
    pub fn draw(&self, [height, width]: [usize; 2], stream: &mut Stream) -> Crop {
        let area = (height * width) as f64;
        for _ in 0..10 {
            let target = area * stream.uniform_in(self.scale[0], self.scale[1]);
            let ratio = stream.uniform_in(self.ratio[0].ln(), self.ratio[1].ln()).exp();
            let w = (target * ratio).sqrt().round_ties_even() as usize;
            let h = (target / ratio).sqrt().round_ties_even() as usize;
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let (top, left) = (stream.below(height - h + 1), stream.below(width - w + 1));
                return Crop { top, left, height: h, width: w };
            }
        }
        let whole = width as f64 / height as f64;
        let (h, w) = if whole < self.ratio[0] {
            ((width as f64 / self.ratio[0]).round_ties_even() as usize, width)
        } else if whole > self.ratio[1] {
            (height, (height as f64 * self.ratio[1]).round_ties_even() as usize)
        } else {
            (height, width)
        };
        let (h, w) = (h.clamp(1, height), w.clamp(1, width));
        Crop { top: (height - h) / 2, left: (width - w) / 2, height: h, width: w }
    }

    /// Changes the image to `size`.
    ///
    /// # Errors
    /// Those of [`Self::check`].
    pub fn apply<T: Element>(&self, image: &mut Image<T>, stream: &mut Stream) -> Result<()> {
        self.check()?;
        let [_, height, width] = image.shape();
        *image = resized_crop(image, self.draw([height, width], stream), self.size)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_centre_is_that_of_the_whole_image_resized() {
        let image = Image::from_fn([2, 7, 12], |c, y, x| (c * 100 + y * 13 + x * 9) as u8);
        let centre = resize_centre(&image, [14, 10]).unwrap();
        let whole = resized_crop(&image, Crop { top: 0, left: 0, height: 7, width: 12 }, [14, 24]).unwrap();
        let cut = resized_crop(&whole, Crop { top: 0, left: 7, height: 14, width: 10 }, [14, 10]).unwrap();
        assert_eq!(centre, cut);
        assert_eq!(resize_centre(&image, [7, 12]).unwrap(), image);
    }

    #[test]
    fn a_strip_costs_no_more_than_its_result() {
        let strip = Image::from_fn([1, 1, 16_384], |_, _, x| (x >= 8_192) as u8 * 200);
        let centre = resize_centre(&strip, [64, 64]).unwrap();
        // What is kept is as wide as one pixel of the strip: the slope between its two halves.
        assert_eq!([0, 31, 32, 63].map(|x| centre.at(0, 5, x)), [2, 98, 102, 198]);
    }

    #[test]
    fn sizes_are_bounded() {
        let image = Image::new([1, 1, 1], vec![0u8]).unwrap();
        let whole = Crop { top: 0, left: 0, height: 1, width: 1 };
        for size in [[0, 1], [1, 16_385], [usize::MAX, usize::MAX]] {
            assert!(resized_crop(&image, whole, size).is_err() && resize_centre(&image, size).is_err());
        }
        assert!(resized_crop(&image, Crop { top: usize::MAX, ..whole }, [1, 1]).is_err());
    }
}
