//! A crop, a flip and a shift of a batch of images that gradients pass through.

use burn::tensor::{Device, Tensor, TensorData};
use trimtab_io::augment::{Crop, RandomResizedCrop, taps};
use trimtab_math::random::Stream;

/// A part of the images, resized to the whole (bilinear, without antialiasing), perhaps mirrored, and shifted in a circle:
/// one linear map of the rows and one of the columns.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// What is cut out.
    pub crop: Crop,
    /// Whether left and right change places.
    pub flip: bool,
    /// Rows and columns that the result is shifted by; what leaves at one end comes in at the other.
    pub shift: [usize; 2],
}

impl View {
    /// Draws a view of images of `size`: a crop of a share of the area between `least` and all, a flip half the time where
    /// `flip` allows it, a shift of up to `shift` pixels each way.
    pub fn draw(size: [usize; 2], least: f64, flip: bool, shift: usize, stream: &mut Stream) -> Self {
        let crop = RandomResizedCrop { scale: [least, 1.0], ..RandomResizedCrop::new(size) };
        let crop = crop.draw(size, stream);
        let flip = stream.uniform() < 0.5 && flip;
        Self { crop, flip, shift: [0; 2].map(|_| stream.below(shift + 1)) }
    }

    /// The view of `images`, `[B, C, H, W]`, as large as they are.
    pub fn apply(&self, images: Tensor<4>) -> Tensor<4> {
        let ([b, c, h, w], device) = (images.dims(), images.device());
        let columns = matrix(self.crop.left, self.crop.width, w, self.shift[1], self.flip, &device);
        let rows = matrix(self.crop.top, self.crop.height, h, self.shift[0], false, &device);
        let x = images.reshape([b * c * h, w]).matmul(columns);
        let x = x.reshape([b * c, h, w]).swap_dims(1, 2).reshape([b * c * w, h]).matmul(rows);
        x.reshape([b * c, w, h]).swap_dims(1, 2).reshape([b, c, h, w])
    }
}

/// `[side, side]`: the column of a place of the result holds the shares of the places that it is made of.
fn matrix(start: usize, length: usize, side: usize, shift: usize, flip: bool, device: &Device) -> Tensor<2> {
    let mut values = vec![0.0f32; side * side];
    for (place, (first, second, share)) in taps(length, side, 0..side).into_iter().enumerate() {
        let place = if flip { side - 1 - place } else { place };
        let place = (place + shift) % side;
        values[(start + first) * side + place] += 1.0 - share;
        values[(start + second) * side + place] += share;
    }
    Tensor::from_data(TensorData::new(values, [side, side]), device)
}

#[cfg(test)]
mod tests {
    use trimtab_io::augment::{Image, flip, resized_crop};

    use super::*;

    fn images() -> Vec<f32> {
        let mut stream = Stream::new(3, "test/view", 0, 0);
        (0..2 * 3 * 7 * 9).map(|_| stream.normal() as f32).collect()
    }

    /// The same by the augmentations of the data path, pixel by pixel.
    fn by_pixels(view: &View, values: &[f32]) -> Vec<f32> {
        let one = |values: &[f32]| {
            let image = Image::new([3, 7, 9], values.to_vec()).unwrap();
            let mut image = resized_crop(&image, view.crop, [7, 9]).unwrap();
            if view.flip {
                flip(&mut image);
            }
            let [down, right] = view.shift;
            Image::from_fn([3, 7, 9], |c, y, x| image.at(c, (y + 7 - down) % 7, (x + 9 - right) % 9))
                .into_pixels()
        };
        values.chunks_exact(3 * 7 * 9).flat_map(one).collect()
    }

    #[test]
    fn a_view_is_what_the_augmentations_make() {
        let values = images();
        let mut flips = 0;
        for i in 0..50 {
            let view = View::draw([7, 9], 0.08, true, 2, &mut Stream::new(5, "test/draw", i, 0));
            flips += usize::from(view.flip);
            let tensor =
                Tensor::<4>::from_data(TensorData::new(values.clone(), [2, 3, 7, 9]), &Device::flex());
            let found: Vec<f32> = view.apply(tensor).into_data().iter::<f32>().collect();
            let expected = by_pixels(&view, &values);
            let difference = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(difference < 1e-5, "{view:?}: {difference}");
        }
        assert!((10..40).contains(&flips), "{flips}");
        let whole = View { crop: Crop { top: 0, left: 0, height: 7, width: 9 }, flip: false, shift: [0, 1] };
        assert_ne!(by_pixels(&whole, &values), values, "the control: a shift is seen");
    }
}
