//! Filters over neighbouring pixels: blur, sharpness.

use serde::{Deserialize, Serialize};
use trimtab_math::random::Stream;

use super::check;
use super::colour::blend;
use super::image::{Element, Image};
use crate::error::{Error, Result};

/// Convolves with a Gaussian of `kernel_size` (odd) and `sigma` pixels; borders are mirrored without repeating the edge.
///
/// # Errors
/// [`Error::Invalid`] for an even kernel, one that reaches past the mirrored border (a side must be longer than half of
/// it), or a sigma that is not positive.
pub fn gaussian_blur<T: Element>(image: &Image<T>, kernel_size: usize, sigma: f32) -> Result<Image<T>> {
    let [channels, height, width] = image.shape();
    let half = kernel_size / 2;
    if kernel_size.is_multiple_of(2) || half >= height.min(width) {
        let message = format!("kernel of {kernel_size} on an image {height} by {width}");
        return Err(Error::invalid("gaussian blur", message));
    }
    if !(sigma > 0.0 && sigma.is_finite()) {
        return Err(Error::invalid("gaussian blur", format!("sigma must be positive, found {sigma}")));
    }
    let bell: Vec<f32> =
        (0..kernel_size).map(|i| (-0.5 * ((i as f32 - half as f32) / sigma).powi(2)).exp()).collect();
    let sum: f32 = bell.iter().sum();
    let mirrored = |place: usize, side: usize| {
        let place = place.abs_diff(half);
        if place < side { place } else { 2 * (side - 1) - place }
    };
    let weights = |f: &dyn Fn(usize) -> f32| -> f32 { (0..kernel_size).map(|i| bell[i] / sum * f(i)).sum() };
    // Rows first; what lies between stays a float.
    let rows: Vec<f32> = (0..channels * height)
        .flat_map(|row| (0..width).map(move |x| (row, x)))
        .map(|(row, x)| {
            weights(&|i| {
                // `place` counts from the mirrored border, so columns left of the image do not go below zero.
                image.pixels()[row * width + mirrored(x + i, width)].to_f32()
            })
        })
        .collect();
    Ok(Image::from_fn([channels, height, width], |c, y, x| {
        T::rounded(weights(&|i| rows[(c * height + mirrored(y + i, height)) * width + x]))
    }))
}

/// Sharpens (above 1) or softens (below 1, with a kernel of 3 by 3 whose centre weighs 5 of 13); 1 changes nothing.
pub fn sharpness<T: Element>(image: &mut Image<T>, factor: f64) {
    let [_, height, width] = image.shape();
    if height <= 2 || width <= 2 {
        return;
    }
    let soft = Image::from_fn(image.shape(), |c, y, x| {
        if y == 0 || x == 0 || y == height - 1 || x == width - 1 {
            return image.at(c, y, x);
        }
        let around: f32 = (y - 1..=y + 1)
            .flat_map(|row| (x - 1..=x + 1).map(move |column| (row, column)))
            .map(|(row, column)| image.at(c, row, column).to_f32())
            .sum();
        T::rounded((around + 4.0 * image.at(c, y, x).to_f32()) / 13.0)
    });
    let (soft, blend) = (soft.pixels(), blend(factor));
    image.pixels_mut().iter_mut().zip(soft).for_each(|(v, s)| *v = blend(*v, s.to_f32()));
}

/// Blurs with a random sigma and a probability (SimCLR, arXiv:2002.05709, appendix A: p 0.5, sigma 0.1 to 2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GaussianBlur {
    /// Side of the kernel in pixels, odd.
    pub kernel_size: usize,
    /// Least and greatest sigma in pixels.
    #[serde(default = "default_sigma")]
    pub sigma: [f64; 2],
    /// Probability.
    #[serde(default = "default_p")]
    pub p: f64,
}

fn default_sigma() -> [f64; 2] {
    [0.1, 2.0]
}

fn default_p() -> f64 {
    0.5
}

impl GaussianBlur {
    /// Whether the settings are in their ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the name of the field.
    pub fn check(&self) -> Result<()> {
        check::side("gaussian_blur.kernel_size", self.kernel_size)?;
        if self.kernel_size.is_multiple_of(2) {
            let message = format!("expected an odd number, found {}", self.kernel_size);
            return Err(Error::invalid("gaussian_blur.kernel_size", message));
        }
        check::ascending("gaussian_blur.sigma", self.sigma)?;
        check::probability("gaussian_blur.p", self.p)
    }

    /// Changes the image, or not.
    ///
    /// # Errors
    /// Those of [`Self::check`] and [`gaussian_blur`].
    pub fn apply<T: Element>(&self, image: &mut Image<T>, stream: &mut Stream) -> Result<()> {
        self.check()?;
        let (draw, sigma) = (stream.uniform(), stream.uniform_in(self.sigma[0], self.sigma[1]));
        if draw < self.p {
            *image = gaussian_blur(image, self.kernel_size, sigma as f32)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_image_stays_and_a_point_spreads_evenly() {
        let flat = Image::new([1, 4, 5], vec![77u8; 20]).unwrap();
        assert_eq!(gaussian_blur(&flat, 5, 1.3).unwrap(), flat);
        let point = Image::from_fn([1, 7, 7], |_, y, x| if (y, x) == (3, 3) { 1.0f32 } else { 0.0 });
        let blurred = gaussian_blur(&point, 3, 1.0).unwrap();
        assert_eq!(blurred.at(0, 2, 3), blurred.at(0, 3, 2));
        assert!((blurred.pixels().iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(blurred.at(0, 2, 2) > 0.0 && blurred.at(0, 1, 1) == 0.0);
    }

    #[test]
    fn kernels_that_do_not_fit_are_refused() {
        let image = Image::new([1, 2, 9], vec![0u8; 18]).unwrap();
        assert!(gaussian_blur(&image, 3, 1.0).is_ok());
        for (kernel, sigma) in [(5, 1.0), (2, 1.0), (0, 1.0), (3, 0.0), (3, f32::NAN)] {
            assert!(gaussian_blur(&image, kernel, sigma).is_err(), "{kernel} {sigma}");
        }
    }
}
