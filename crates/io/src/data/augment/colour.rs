//! Colours: the functions of torchvision's `transforms.functional`, and the random ones made of them.
//!
//! Bytes are rounded as torchvision rounds tensors of bytes. Images of one channel have no saturation and no hue.

use serde::{Deserialize, Serialize};
use trimtab_math::random::Stream;

use super::check;
use super::image::{Element, Image};
use crate::error::{Error, Result};

/// What blends a number with another by `factor`: `factor * a + (1 - factor) * b`, within the range.
///
/// The shares are rounded from `f64` one by one, as torchvision's are. One that is derived from the other moves bytes that
/// are near a whole number.
pub(super) fn blend<T: Element>(factor: f64) -> impl Fn(T, f32) -> T {
    let (own, other) = (factor as f32, (1.0 - factor) as f32);
    move |a, b| T::clamped(own * a.to_f32() + other * b)
}

/// Luma of ITU-R 601 at each pixel, `[height, width]`; the first channel where there are not three.
fn luma<T: Element>(image: &Image<T>) -> Vec<f32> {
    if image.shape()[0] != 3 {
        return image.plane(0).iter().map(|v| v.to_f32()).collect();
    }
    let (r, g, b) = (image.plane(0), image.plane(1), image.plane(2));
    let weighted = |i: usize| 0.2989 * r[i].to_f32() + 0.587 * g[i].to_f32() + 0.114 * b[i].to_f32();
    (0..r.len()).map(|i| T::clamped(weighted(i)).to_f32()).collect()
}

/// Scales intensities; 1 changes nothing, 0 is black.
pub fn brightness<T: Element>(image: &mut Image<T>, factor: f64) {
    let blend = blend(factor);
    image.pixels_mut().iter_mut().for_each(|v| *v = blend(*v, 0.0));
}

/// Spreads intensities around their mean luma; 1 changes nothing, 0 is grey.
pub fn contrast<T: Element>(image: &mut Image<T>, factor: f64) {
    let blend = blend(factor);
    let luma = luma(image);
    let mean = luma.iter().map(|&v| f64::from(v)).sum::<f64>() / luma.len() as f64;
    image.pixels_mut().iter_mut().for_each(|v| *v = blend(*v, mean as f32));
}

/// Spreads colours around their luma; 1 changes nothing, 0 is a grey image.
pub fn saturation<T: Element>(image: &mut Image<T>, factor: f64) {
    if image.shape()[0] != 3 {
        return;
    }
    let (luma, blend) = (luma(image), blend(factor));
    for plane in image.pixels_mut().chunks_exact_mut(luma.len()) {
        plane.iter_mut().zip(&luma).for_each(|(v, &grey)| *v = blend(*v, grey));
    }
}

/// Turns the hue by `shift` of a full circle.
pub fn hue<T: Element>(image: &mut Image<T>, shift: f64) {
    let shift = shift as f32;
    if image.shape()[0] != 3 {
        return;
    }
    let size = image.shape()[1] * image.shape()[2];
    let pixels = image.pixels_mut();
    for i in 0..size {
        let rgb = [0, 1, 2].map(|c| pixels[c * size + i].to_f32() / T::FULL);
        let [h, s, v] = to_hsv(rgb);
        let turned = to_rgb([(h + shift).rem_euclid(1.0), s, v]);
        (0..3).for_each(|c| pixels[c * size + i] = T::from_unit(turned[c]));
    }
}

fn to_hsv([r, g, b]: [f32; 3]) -> [f32; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    let range = most - least;
    if range == 0.0 {
        return [0.0, 0.0, most];
    }
    let [rc, gc, bc] = [r, g, b].map(|v| (most - v) / range);
    let h = if most == r {
        bc - gc
    } else if most == g {
        2.0 + rc - bc
    } else {
        4.0 + gc - rc
    };
    [(h / 6.0 + 1.0) % 1.0, range / most, most]
}

fn to_rgb([h, s, v]: [f32; 3]) -> [f32; 3] {
    let sector = (h * 6.0).floor();
    let f = h * 6.0 - sector;
    let p = (v * (1.0 - s)).clamp(0.0, 1.0);
    let q = (v * (1.0 - s * f)).clamp(0.0, 1.0);
    let t = (v * (1.0 - s * (1.0 - f))).clamp(0.0, 1.0);
    match sector as i32 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

/// Changes of brightness, contrast, saturation and hue, in a random order.
///
/// The first three factors are uniform in `[max(0, 1 - x), 1 + x]`, the shift of the hue in `[-hue, hue]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ColourJitter {
    /// Strength, from 0.
    pub brightness: f64,
    /// Strength, from 0.
    pub contrast: f64,
    /// Strength, from 0.
    pub saturation: f64,
    /// Part of a circle, in `[0, 0.5]`.
    pub hue: f64,
}

impl ColourJitter {
    /// Whether the settings are in their ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the name of the field.
    pub fn check(&self) -> Result<()> {
        check::strength("colour_jitter.brightness", self.brightness)?;
        check::strength("colour_jitter.contrast", self.contrast)?;
        check::strength("colour_jitter.saturation", self.saturation)?;
        if !(0.0..=0.5).contains(&self.hue) {
            return Err(Error::invalid(
                "colour_jitter.hue",
                format!("expected [0, 0.5], found {}", self.hue),
            ));
        }
        Ok(())
    }

    /// Changes the image.
    ///
    /// # Errors
    /// Those of [`Self::check`].
    pub fn apply<T: Element>(&self, image: &mut Image<T>, stream: &mut Stream) -> Result<()> {
        self.check()?;
        let mut order = [0, 1, 2, 3];
        stream.shuffle(&mut order);
        let mut factor = |x: f64| stream.uniform_in((1.0 - x).max(0.0), 1.0 + x);
        let factors = [factor(self.brightness), factor(self.contrast), factor(self.saturation)];
        let shift = stream.uniform_in(-self.hue, self.hue);
        for step in order {
            match step {
                0 if self.brightness > 0.0 => brightness(image, factors[0]),
                1 if self.contrast > 0.0 => contrast(image, factors[1]),
                2 if self.saturation > 0.0 => saturation(image, factors[2]),
                3 if self.hue > 0.0 => hue(image, shift),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Drops the colours with a probability; the number of channels stays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomGrayscale {
    /// Probability.
    pub p: f64,
}

impl Default for RandomGrayscale {
    fn default() -> Self {
        Self { p: 0.1 }
    }
}

impl RandomGrayscale {
    /// Whether the settings are in their ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the name of the field.
    pub fn check(&self) -> Result<()> {
        check::probability("random_grayscale.p", self.p)
    }

    /// Changes the image, or not.
    ///
    /// # Errors
    /// Those of [`Self::check`].
    pub fn apply<T: Element>(&self, image: &mut Image<T>, stream: &mut Stream) -> Result<()> {
        self.check()?;
        if stream.uniform() < self.p {
            saturation(image, 0.0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neutral_factors_change_nothing() {
        let image = Image::from_fn([3, 4, 5], |c, y, x| (c * 90 + y * 13 + x * 7) as u8);
        for change in [brightness, contrast, saturation] {
            let mut same = image.clone();
            change(&mut same, 1.0);
            assert_eq!(same, image);
            change(&mut same, 0.5);
            assert_ne!(same, image);
        }
        let mut turned = image.clone();
        ColourJitter::default().apply(&mut turned, &mut Stream::new(0, "t", 0, 0)).unwrap();
        assert_eq!(turned, image);
    }

    #[test]
    fn a_third_of_the_circle_turns_red_to_green() {
        let mut image = Image::new([3, 1, 1], vec![255u8, 0, 0]).unwrap();
        hue(&mut image, 1.0 / 3.0);
        let pixels = image.pixels();
        assert!(pixels[0] <= 1 && pixels[1] == 255 && pixels[2] == 0, "{pixels:?}");
    }
}
