//! Two images in one: Mixup, CutMix, ResizeMix.
//!
//! Sources: Zhang et al., arXiv:1710.09412 (Mixup); Yun et al., arXiv:1905.04899 (CutMix); Qin et al., arXiv:2012.11101
//! (ResizeMix). The partner of each sample comes from one random permutation of the batch, lambda is drawn per sample.
//!
//! `lambda` is the share of a sample's own image, that of its partner is the rest. Where a box is pasted it is the exact
//! share of pixels, counted after the box is clipped.

use serde::{Deserialize, Serialize};
use trimtab_math::random::Stream;

use super::check;
use super::geometry::{Crop, resized_crop};
use super::image::{Element, Image};
use crate::error::{Error, Result};

/// How two images become one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Mixer {
    /// Weighted sum; lambda from Beta(alpha, alpha).
    Mixup {
        /// Parameter of the distribution, positive.
        alpha: f64,
    },
    /// A box of the partner at its own place; area `1 - lambda` before clipping, lambda from Beta(alpha, alpha).
    CutMix {
        /// Parameter of the distribution, positive.
        alpha: f64,
    },
    /// The whole partner, made smaller; its sides times a factor uniform in `scale`.
    ResizeMix {
        /// Least and greatest factor, in `(0, 1]`.
        scale: [f64; 2],
    },
}

/// A mixed batch of `n` images.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixed<T> {
    /// `n` images of one shape.
    pub images: Vec<Image<T>>,
    /// `[n]`, labels of the images' own.
    pub first: Vec<i64>,
    /// `[n]`, labels of the partners.
    pub second: Vec<i64>,
    /// `[n]`, share of the own image, in `[0, 1]`.
    pub lambda: Vec<f32>,
    /// `[n]`, index of the partner in the batch.
    pub partner: Vec<usize>,
}

impl Mixer {
    /// Mixes a batch. `images` and `labels`: one of each per sample, images of one shape.
    ///
    /// # Errors
    /// [`Error::Invalid`] for parameters out of their range, or images and labels that do not fit together.
    pub fn apply<T: Element>(
        &self,
        images: &[Image<T>],
        labels: &[i64],
        stream: &mut Stream,
    ) -> Result<Mixed<T>> {
        self.check()?;
        if images.len() != labels.len() {
            let message = format!("{} images with {} labels", images.len(), labels.len());
            return Err(Error::invalid("mixing", message));
        }
        if let Some(other) = images.iter().find(|image| image.shape() != images[0].shape()) {
            let message = format!("images of {:?} and {:?}", images[0].shape(), other.shape());
            return Err(Error::invalid("mixing", message));
        }
        let mut partner: Vec<usize> = (0..images.len()).collect();
        stream.shuffle(&mut partner);
        let mut mixed = Vec::with_capacity(images.len());
        let mut lambda = Vec::with_capacity(images.len());
        for (image, &other) in images.iter().zip(&partner) {
            let (image, share) = self.pair(image, &images[other], stream)?;
            mixed.push(image);
            lambda.push(share);
        }
        let second = partner.iter().map(|&i| labels[i]).collect();
        Ok(Mixed { images: mixed, first: labels.to_vec(), second, lambda, partner })
    }

    /// Whether the settings are in their ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the name of the field.
    pub fn check(&self) -> Result<()> {
        match *self {
            Self::Mixup { alpha } => check::positive("mixup.alpha", alpha),
            Self::CutMix { alpha } => check::positive("cut_mix.alpha", alpha),
            Self::ResizeMix { scale } if scale[1] > 1.0 => {
                let message = format!("the partner cannot grow, found {scale:?}");
                Err(Error::invalid("resize_mix.scale", message))
            }
            Self::ResizeMix { scale } => check::ascending("resize_mix.scale", scale),
        }
    }

    fn pair<T: Element>(
        &self,
        own: &Image<T>,
        other: &Image<T>,
        stream: &mut Stream,
    ) -> Result<(Image<T>, f32)> {
        let [_, height, width] = own.shape();
        match *self {
            Self::Mixup { alpha } => {
                let lambda = stream.beta(alpha, alpha) as f32;
                Ok((mixup(own, other, lambda), lambda))
            }
            Self::CutMix { alpha } => {
                let lambda = stream.beta(alpha, alpha);
                let centre = [stream.below(height), stream.below(width)];
                let area = clipped([height, width], centre, (1.0 - lambda).sqrt());
                Ok((cutmix(own, other, area), share_left([height, width], area)))
            }
            Self::ResizeMix { scale: [low, high] } => {
                let factor = stream.uniform_in(low, high);
                let side = |side: usize| ((side as f64 * factor) as usize).max(1);
                let (h, w) = (side(height), side(width));
                let small = resized_crop(other, Crop { top: 0, left: 0, height, width }, [h, w])?;
                let top = stream.below(height - h + 1);
                let left = stream.below(width - w + 1);
                let area = Crop { top, left, height: h, width: w };
                let pasted = paste(own, area, |c, y, x| small.at(c, y - top, x - left));
                Ok((pasted, share_left([height, width], area)))
            }
        }
    }
}

/// `lambda * own + (1 - lambda) * other`. Shapes must be equal.
fn mixup<T: Element>(own: &Image<T>, other: &Image<T>, lambda: f32) -> Image<T> {
    let mut mixed = own.clone();
    for (a, b) in mixed.pixels_mut().iter_mut().zip(other.pixels()) {
        *a = T::rounded(lambda * a.to_f32() + (1.0 - lambda) * b.to_f32());
    }
    mixed
}

/// `own` with `area` of `other`. Shapes must be equal.
fn cutmix<T: Element>(own: &Image<T>, other: &Image<T>, area: Crop) -> Image<T> {
    paste(own, area, |c, y, x| other.at(c, y, x))
}

fn paste<T: Element>(own: &Image<T>, area: Crop, f: impl Fn(usize, usize, usize) -> T) -> Image<T> {
    let (rows, columns) = (area.top..area.top + area.height, area.left..area.left + area.width);
    Image::from_fn(own.shape(), |c, y, x| {
        if rows.contains(&y) && columns.contains(&x) { f(c, y, x) } else { own.at(c, y, x) }
    })
}

/// A box around `centre` with `cut` of each side, without what lies outside the image.
fn clipped([height, width]: [usize; 2], centre: [usize; 2], cut: f64) -> Crop {
    let range = |side: usize, centre: usize| {
        let half = (side as f64 * cut) as usize / 2;
        let start = centre.saturating_sub(half);
        (start, (centre + half).min(side) - start)
    };
    let ((top, h), (left, w)) = (range(height, centre[0]), range(width, centre[1]));
    Crop { top, left, height: h, width: w }
}

/// Share of the pixels outside `area`.
fn share_left([height, width]: [usize; 2], area: Crop) -> f32 {
    let all = height * width;
    ((all - area.height * area.width) as f64 / all as f64) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Image `i` holds only the value `i + 1`.
    fn batch(n: u8) -> (Vec<Image<u8>>, Vec<i64>) {
        let image = |i| Image::new([2, 9, 7], vec![i + 1; 126]).unwrap();
        ((0..n).map(image).collect(), (0..i64::from(n)).collect())
    }

    #[test]
    fn lambda_is_the_exact_share_of_pixels() {
        let (images, labels) = batch(16);
        for mixer in [Mixer::CutMix { alpha: 1.0 }, Mixer::ResizeMix { scale: [0.1, 0.8] }] {
            let mut partly = 0;
            for item in 0..20 {
                let mixed = mixer.apply(&images, &labels, &mut Stream::new(1, "mix", 0, item)).unwrap();
                for i in (0..16).filter(|&i| mixed.partner[i] != i) {
                    let own = mixed.images[i].pixels().iter().filter(|&&v| v == i as u8 + 1).count();
                    assert_eq!(mixed.lambda[i], (own as f64 / 126.0) as f32);
                    let theirs =
                        mixed.images[i].pixels().iter().filter(|&&v| v == mixed.partner[i] as u8 + 1);
                    assert_eq!(theirs.count(), 126 - own);
                    assert_eq!((mixed.first[i], mixed.second[i]), (i as i64, mixed.partner[i] as i64));
                    partly += usize::from(own > 0 && own < 126);
                }
            }
            assert!(partly > 100, "{mixer:?}: {partly}");
        }
    }

    #[test]
    fn lambda_one_is_the_identity() {
        let (images, _) = batch(2);
        assert_eq!(mixup(&images[0], &images[1], 1.0), images[0]);
        assert_eq!(mixup(&images[0], &images[1], 0.0), images[1]);
        assert_ne!(mixup(&images[0], &images[1], 0.4), images[0]);
        let nothing = clipped([9, 7], [4, 3], 0.0);
        assert_eq!(
            (cutmix(&images[0], &images[1], nothing), share_left([9, 7], nothing)),
            (images[0].clone(), 1.0)
        );
        let whole = clipped([8, 8], [4, 4], 1.0);
        assert_eq!(share_left([8, 8], whole), 0.0);
    }

    #[test]
    fn batches_that_cannot_be_mixed() {
        let (images, labels) = batch(3);
        let mut stream = Stream::new(0, "mix", 0, 0);
        let mut refused = |mixer: Mixer, images: &[Image<u8>], labels: &[i64]| {
            mixer.apply(images, labels, &mut stream).is_err()
        };
        assert!(refused(Mixer::Mixup { alpha: 0.0 }, &images, &labels));
        assert!(refused(Mixer::CutMix { alpha: f64::NAN }, &images, &labels));
        assert!(refused(Mixer::ResizeMix { scale: [0.5, 1.5] }, &images, &labels));
        assert!(refused(Mixer::Mixup { alpha: 1.0 }, &images, &labels[..2]));
        let other = [images[0].clone(), Image::new([1, 1, 1], vec![0]).unwrap()];
        assert!(refused(Mixer::Mixup { alpha: 1.0 }, &other, &labels[..2]));
        assert!(!refused(Mixer::Mixup { alpha: 1.0 }, &[], &[]));
    }
}
