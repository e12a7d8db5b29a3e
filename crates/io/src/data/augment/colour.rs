//! Colours: the functions of torchvision's `transforms.functional`, and the random ones made of them.
//!
//! Bytes are rounded as torchvision rounds tensors of bytes. Images of one channel have no saturation and no hue.

use serde::{Deserialize, Serialize};
use trimtab_math::random::Stream;

use super::image::{Element, Image};

/// `ratio * a + (1 - ratio) * b`, within the range.
pub(super) fn blend<T: Element>(a: T, b: f32, ratio: f32) -> T {
    T::clamped(ratio * a.to_f32() + (1.0 - ratio) * b)
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
pub fn brightness<T: Element>(image: &mut Image<T>, factor: f32) {
    image.pixels_mut().iter_mut().for_each(|v| *v = blend(*v, 0.0, factor));
}

/// Spreads intensities around their mean luma; 1 changes nothing, 0 is grey.
pub fn contrast<T: Element>(image: &mut Image<T>, factor: f32) {
    let luma = luma(image);
    let mean = luma.iter().map(|&v| f64::from(v)).sum::<f64>() / luma.len() as f64;
    image.pixels_mut().iter_mut().for_each(|v| *v = blend(*v, mean as f32, factor));
}

/// Spreads colours around their luma; 1 changes nothing, 0 is a grey image.
pub fn saturation<T: Element>(image: &mut Image<T>, factor: f32) {
    if image.shape()[0] != 3 {
        return;
    }
    let luma = luma(image);
    for plane in image.pixels_mut().chunks_exact_mut(luma.len()) {
        plane.iter_mut().zip(&luma).for_each(|(v, &grey)| *v = blend(*v, grey, factor));
    }
}

/// Turns the hue by `shift` of a full circle.
pub fn hue<T: Element>(image: &mut Image<T>, shift: f32) {
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
    pub brightness: f32,
    /// Strength, from 0.
    pub contrast: f32,
    /// Strength, from 0.
    pub saturation: f32,
    /// Part of a circle, in `[0, 0.5]`.
    pub hue: f32,
}

impl ColourJitter {
    /// Changes the image.
    pub fn apply<T: Element>(&self, image: &mut Image<T>, stream: &mut Stream) {
        let mut order = [0, 1, 2, 3];
        stream.shuffle(&mut order);
        let mut factor = |x: f32| stream.uniform_in(f64::from((1.0 - x).max(0.0)), f64::from(1.0 + x)) as f32;
        let factors = [factor(self.brightness), factor(self.contrast), factor(self.saturation)];
        let shift = stream.uniform_in(-f64::from(self.hue), f64::from(self.hue)) as f32;
        for step in order {
            match step {
                0 if self.brightness > 0.0 => brightness(image, factors[0]),
                1 if self.contrast > 0.0 => contrast(image, factors[1]),
                2 if self.saturation > 0.0 => saturation(image, factors[2]),
                3 if self.hue > 0.0 => hue(image, shift),
                _ => {}
            }
        }
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
    /// Changes the image, or not.
    pub fn apply<T: Element>(&self, image: &mut Image<T>, stream: &mut Stream) {
        if stream.uniform() < self.p {
            saturation(image, 0.0);
        }
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
        ColourJitter::default().apply(&mut turned, &mut Stream::new(0, "t", 0, 0));
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
