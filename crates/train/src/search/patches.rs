//! Pairs of patches, small and large, and how near a network comes to the large ones.

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use trimtab_io::ImageSet;
use trimtab_math::random::Stream;
use trimtab_nn::host;

use super::genotype::COLOURS;
use super::network::Upscaler;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::objective::{Loss, Objective, Pass};
use crate::sampler::Item;

/// Patches and what they were made small from, numbers in `[0, 1]`.
#[derive(Clone, Debug)]
pub struct Pairs {
    /// `[B, 3, H, W]`.
    pub small: Tensor<4>,
    /// `[B, 3, scale H, scale W]`.
    pub large: Tensor<4>,
}

/// Pairs to learn weights from, and as many others to choose by.
#[derive(Clone, Debug)]
pub struct PatchBatch {
    /// For weights; for all, where nothing is chosen.
    pub first: Pairs,
    /// For the choice.
    pub second: Option<Pairs>,
}

/// Where patches lie in their pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Anywhere, drawn by pass and picture.
    Random,
    /// In the middle.
    Middle,
}

/// Square patches of pictures as a data set of the loop. A small patch has the mean of a square of pixels for each of its own.
pub struct Patches {
    images: ImageSet,
    side: usize,
    scale: usize,
    cut: Cut,
    seed: u64,
    halves: bool,
}

impl Patches {
    /// Patches of `side` pixels, which are made `scale` times smaller.
    ///
    /// # Errors
    /// [`Error::Setting`] for pictures that have not three colours or are smaller than a patch, a side that `scale` does not divide,
    /// and no pictures at all.
    pub fn new(images: ImageSet, [side, scale]: [usize; 2], cut: Cut, seed: u64) -> Result<Self> {
        let [n, channels, h, w] = images.shape;
        if channels != COLOURS || n == 0 {
            let message = format!("expected pictures of three colours, found {n} of {channels}");
            return Err(Error::setting("data.patches", message));
        }
        if scale == 0 || side == 0 || side % scale != 0 || side > h.min(w) {
            let message = format!(
                "must be a multiple of the scale, {scale}, up to the {h} x {w} of the pictures, found {side}"
            );
            return Err(Error::setting("data.patches.side", message));
        }
        Ok(Self { images, side, scale, cut, seed, halves: false })
    }

    /// The same pictures in two halves: an item is a picture of the first and one of the second.
    ///
    /// # Errors
    /// [`Error::Setting`] for a single picture.
    pub fn in_halves(self) -> Result<Self> {
        match self.images.len() {
            0 | 1 => Err(Error::setting("data.patches", "a search needs two pictures, one for each half")),
            _ => Ok(Self { halves: true, ..self }),
        }
    }

    /// The large patch of a picture, `[3, side, side]` in bytes.
    fn patch(&self, index: usize, epoch: u64) -> Vec<u8> {
        let [_, _, h, w] = self.images.shape;
        let room = [h - self.side, w - self.side];
        let [top, left] = match self.cut {
            Cut::Middle => room.map(|room| room / 2),
            Cut::Random => {
                let mut stream = Stream::new(self.seed, "search/patch", epoch, index as u64);
                room.map(|room| stream.below(room + 1))
            }
        };
        let pixels = self.images.pixels(index..index + 1);
        let row = |c: usize, y: usize| &pixels[(c * h + top + y) * w + left..][..self.side];
        (0..COLOURS).flat_map(|c| (0..self.side).flat_map(move |y| row(c, y))).copied().collect()
    }

    fn pairs(&self, at: &[(usize, u64)], device: &Device) -> Result<Pairs> {
        let patches: Vec<Vec<u8>> = at.par_iter().map(|&(index, epoch)| self.patch(index, epoch)).collect();
        let large =
            ImageSet::new([at.len(), COLOURS, self.side, self.side], vec![0; at.len()], patches.concat())?;
        let small = large.shrunk(self.scale)?;
        let tensor = |set: &ImageSet| {
            let values: Vec<f32> = set.pixels(0..set.len()).iter().map(|&p| f32::from(p) / 255.0).collect();
            Tensor::from_data(TensorData::new(values, set.shape), device)
        };
        Ok(Pairs { small: tensor(&small), large: tensor(&large) })
    }
}

impl Dataset for Patches {
    type Batch = PatchBatch;

    fn len(&self) -> usize {
        if self.halves { self.images.len() / 2 } else { self.images.len() }
    }

    fn batch(&self, items: &[Item], device: &Device) -> Result<PatchBatch> {
        let at = |shift: usize| -> Vec<(usize, u64)> {
            items.iter().map(|item| (item.index + shift, item.epoch)).collect()
        };
        let second = if self.halves { Some(self.pairs(&at(self.len()), device)?) } else { None };
        Ok(PatchBatch { first: self.pairs(&at(0), device)?, second })
    }
}

/// Mean absolute difference over all numbers, `[1]`.
pub(super) fn l1(found: Tensor<4>, wanted: Tensor<4>) -> Tensor<1> {
    (found - wanted).abs().mean()
}

/// Trains a network in its bits: the mean absolute difference to the large patches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restore;

impl Objective<Upscaler, PatchBatch> for Restore {
    fn loss(&self, model: &Upscaler, batch: &PatchBatch, pass: &mut Pass) -> Result<Loss> {
        let Pairs { small, large } = batch.first.clone();
        let terms = small.dims()[0];
        Ok(Loss::new(l1(model.forward(small, &mut pass.ctx()), large), terms))
    }
}

/// Peak signal-to-noise ratio of pictures against others, in dB, mean over the pictures: of colours that are clamped to `[0, 1]` and
/// rounded to 8 bits. Two pictures that are equal count as if one of their numbers differed by 1.
pub fn psnr_rgb8(found: &[f32], wanted: &[f32], numbers: usize) -> f64 {
    let byte = |v: f32| f64::from((v.clamp(0.0, 1.0) * 255.0).round());
    let one = |(a, b): (&[f32], &[f32])| {
        let squares: f64 = a.iter().zip(b).map(|(a, b)| (byte(*a) - byte(*b)).powi(2)).sum();
        10.0 * (255.0 * 255.0 * numbers as f64 / squares.max(1.0)).log10()
    };
    let all: Vec<f64> = found.chunks(numbers).zip(wanted.chunks(numbers)).map(one).collect();
    all.iter().sum::<f64>() / all.len() as f64
}

/// [`psnr_rgb8`] of what `enlarge` makes of all patches, `batch` at a time.
///
/// # Errors
/// What making a batch meets.
pub fn psnr(
    data: &Patches,
    batch: usize,
    device: &Device,
    enlarge: impl Fn(Tensor<4>) -> Tensor<4>,
) -> Result<f64> {
    let items: Vec<Item> = (0..data.len()).map(|index| Item { index, epoch: 0 }).collect();
    let mut sum = 0.0;
    for part in items.chunks(batch.max(1)) {
        let Pairs { small, large } = data.batch(part, device)?.first;
        let numbers = COLOURS * data.side * data.side;
        sum += psnr_rgb8(&host(enlarge(small)), &host(large), numbers) * part.len() as f64;
    }
    Ok(sum / items.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(n: usize, side: usize) -> ImageSet {
        let pixels = (0..n * 3 * side * side).map(|i| (i * 37 % 251) as u8).collect();
        ImageSet::new([n, 3, side, side], vec![0; n], pixels).unwrap()
    }

    #[test]
    fn small_patches_are_means_and_halves_do_not_meet() {
        let images = set(5, 6);
        let data = Patches::new(images.clone(), [4, 2], Cut::Middle, 0).unwrap();
        assert_eq!(data.len(), 5);
        let item = |index, epoch| Item { index, epoch };
        let Pairs { small, large } = data.batch(&[item(3, 0)], &Device::flex()).unwrap().first;
        assert_eq!((small.dims(), large.dims()), ([1, 3, 2, 2], [1, 3, 4, 4]));
        let (small, large) = (host(small), host(large));
        let pixels = images.pixels(3..4);
        assert_eq!((large[0] * 255.0).round(), f32::from(pixels[7]), "one pixel in from the corner");
        let mean = (large[0] + large[1] + large[4] + large[5]) / 4.0;
        assert!((small[0] - mean).abs() <= 0.5 / 255.0 + 1e-6);
        let halves = Patches::new(images.clone(), [4, 2], Cut::Middle, 0).unwrap().in_halves().unwrap();
        assert_eq!(halves.len(), 2);
        let batch = halves.batch(&[item(1, 0)], &Device::flex()).unwrap();
        let whole = data.batch(&[item(1, 0), item(3, 0)], &Device::flex()).unwrap();
        let both = [host(batch.first.large), host(batch.second.unwrap().large)].concat();
        assert_eq!(both, host(whole.first.large));
    }

    #[test]
    fn random_cuts_depend_on_the_pass_alone() {
        let data = Patches::new(set(3, 32), [16, 2], Cut::Random, 1).unwrap();
        assert_eq!(data.patch(1, 4), data.patch(1, 4));
        assert!((0..6).any(|epoch| data.patch(1, epoch) != data.patch(1, 6)));
    }

    #[test]
    fn pictures_that_do_not_fit_are_refused() {
        let error = |images, side, scale| {
            Patches::new(images, [side, scale], Cut::Middle, 0).map(drop).unwrap_err().to_string()
        };
        assert!(error(set(2, 8), 7, 2).contains("multiple of the scale"));
        assert!(error(set(2, 8), 16, 2).contains("8 x 8"));
        let grey = ImageSet::new([1, 1, 8, 8], vec![0], vec![0; 64]).unwrap();
        assert!(error(grey, 4, 2).contains("three colours"));
        assert!(Patches::new(set(1, 8), [4, 2], Cut::Middle, 0).unwrap().in_halves().is_err());
    }

    #[test]
    fn the_ratio_by_hand() {
        let white = vec![1.0f32; 12];
        let mut other = white.clone();
        other[3] = 0.0;
        let expected = 10.0 * 12f64.log10();
        assert!((psnr_rgb8(&other, &white, 12) - expected).abs() < 1e-9);
        other[3] = 1.3;
        let equal = psnr_rgb8(&other, &white, 12);
        assert!((equal - 10.0 * (255.0f64 * 255.0 * 12.0).log10()).abs() < 1e-9, "clamped: {equal}");
        let two = psnr_rgb8(&[0.0, 1.0], &[0.0, 0.0], 1);
        assert!((two - (20.0 * 255f64.log10()) / 2.0).abs() < 1e-9, "a mean over pictures: {two}");
    }
}
