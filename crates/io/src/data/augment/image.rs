//! An image as its numbers.

use crate::error::{Error, Result};

/// What a colour can be stored as: a byte, or a float in `[0, 1]`.
pub trait Element: Copy + PartialOrd + Default + Send + Sync + 'static {
    /// Full intensity.
    const FULL: f32;

    /// The number, in `[0, FULL]`.
    fn to_f32(self) -> f32;

    /// Clamps to `[0, FULL]`; bytes drop the fraction, as a cast of torchvision does.
    fn clamped(value: f32) -> Self;

    /// Clamps to `[0, FULL]`; bytes are rounded to nearest, ties to even, as torchvision does after a filter.
    fn rounded(value: f32) -> Self;

    /// From an intensity in `[0, 1]`; 256 intervals of one width become bytes.
    fn from_unit(value: f32) -> Self;
}

impl Element for u8 {
    const FULL: f32 = 255.0;

    fn to_f32(self) -> f32 {
        f32::from(self)
    }

    fn clamped(value: f32) -> Self {
        // A cast of a float to an integer saturates.
        value as u8
    }

    fn rounded(value: f32) -> Self {
        value.round_ties_even() as u8
    }

    fn from_unit(value: f32) -> Self {
        (value * 255.999) as u8
    }
}

impl Element for f32 {
    const FULL: f32 = 1.0;

    fn to_f32(self) -> f32 {
        self
    }

    fn clamped(value: f32) -> Self {
        value.clamp(0.0, 1.0)
    }

    fn rounded(value: f32) -> Self {
        value
    }

    fn from_unit(value: f32) -> Self {
        value
    }
}

/// One image, `[channels, height, width]`, none of which is 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Image<T> {
    shape: [usize; 3],
    pixels: Vec<T>,
}

impl<T: Element> Image<T> {
    /// An image of these numbers, row by row, channel by channel.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a side is 0 or there are not `channels * height * width` numbers.
    pub fn new(shape: [usize; 3], pixels: Vec<T>) -> Result<Self> {
        let expected = shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side));
        if expected != Some(pixels.len()) || pixels.is_empty() {
            return Err(Error::invalid("image", format!("shape {shape:?} with {} numbers", pixels.len())));
        }
        Ok(Self { shape, pixels })
    }

    /// An image whose number at `(channel, row, column)` is what `f` says. No side may be 0.
    pub fn from_fn(shape: [usize; 3], mut f: impl FnMut(usize, usize, usize) -> T) -> Self {
        let [channels, height, width] = shape;
        let mut pixels = Vec::with_capacity(channels * height * width);
        for c in 0..channels {
            for y in 0..height {
                pixels.extend((0..width).map(|x| f(c, y, x)));
            }
        }
        Self { shape, pixels }
    }

    /// `[channels, height, width]`.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The numbers, `[channels, height, width]`.
    pub fn pixels(&self) -> &[T] {
        &self.pixels
    }

    /// The numbers, to be changed.
    pub fn pixels_mut(&mut self) -> &mut [T] {
        &mut self.pixels
    }

    /// Gives the numbers back.
    pub fn into_pixels(self) -> Vec<T> {
        self.pixels
    }

    /// One channel, `[height, width]`. The channel must exist.
    pub(super) fn plane(&self, channel: usize) -> &[T] {
        let size = self.shape[1] * self.shape[2];
        &self.pixels[channel * size..(channel + 1) * size]
    }

    /// The number of a channel at a row and a column, which must exist.
    pub fn at(&self, channel: usize, y: usize, x: usize) -> T {
        self.pixels[(channel * self.shape[1] + y) * self.shape[2] + x]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_to_fit() {
        assert!(Image::new([1, 2, 2], vec![0u8; 4]).is_ok());
        assert!(Image::new([1, 2, 2], vec![0u8; 5]).is_err());
        assert!(Image::<u8>::new([1, 0, 2], vec![]).is_err());
        assert!(Image::new([usize::MAX, 2, 2], vec![0u8; 4]).is_err());
    }
}
