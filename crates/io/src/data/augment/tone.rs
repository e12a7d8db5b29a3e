//! Curves over the values of a byte: posterize, solarize, autocontrast, equalize.

use super::image::Image;

/// Keeps the highest `bits` of each value, at most 8.
pub fn posterize(image: &mut Image<u8>, bits: u32) {
    let dropped = 8 - bits.min(8);
    let mask = (0xFFu32 << dropped) as u8;
    image.pixels_mut().iter_mut().for_each(|v| *v &= mask);
}

/// Inverts values from `threshold` on.
pub fn solarize(image: &mut Image<u8>, threshold: f64) {
    image.pixels_mut().iter_mut().filter(|v| f64::from(**v) >= threshold).for_each(|v| *v = 255 - *v);
}

/// Stretches every channel to the full range; a channel of one value stays.
pub fn autocontrast(image: &mut Image<u8>) {
    by_channel(image, |plane| {
        let (least, most) = plane.iter().fold((255u8, 0u8), |(a, b), &v| (a.min(v), b.max(v)));
        if least < most {
            let scale = 255.0 / (f32::from(most) - f32::from(least));
            plane.iter_mut().for_each(|v| *v = ((f32::from(*v) - f32::from(least)) * scale) as u8);
        }
    });
}

/// Makes the histogram of every channel as even as a curve can; a channel with hardly any variation stays.
pub fn equalize(image: &mut Image<u8>) {
    by_channel(image, |plane| {
        let mut counts = [0usize; 256];
        plane.iter().for_each(|&v| counts[usize::from(v)] += 1);
        let last = counts.iter().rev().find(|&&count| count > 0).copied().unwrap_or(0);
        let step = (plane.len() - last) / 255;
        if step == 0 {
            return;
        }
        let mut below = 0;
        let curve = counts.map(|count| {
            let value = (below + step / 2) / step;
            below += count;
            value.min(255) as u8
        });
        plane.iter_mut().for_each(|v| *v = curve[usize::from(*v)]);
    });
}

fn by_channel(image: &mut Image<u8>, f: impl FnMut(&mut [u8])) {
    let size = image.shape()[1] * image.shape()[2];
    image.pixels_mut().chunks_exact_mut(size).for_each(f);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[u8]) -> Image<u8> {
        Image::new([1, 1, values.len()], values.to_vec()).unwrap()
    }

    #[test]
    fn curves() {
        let mut image = row(&[0, 100, 255]);
        posterize(&mut image, 8);
        solarize(&mut image, 256.0);
        assert_eq!(image.pixels(), [0, 100, 255], "neutral");
        posterize(&mut image, 2);
        assert_eq!(image.pixels(), [0, 64, 192]);
        posterize(&mut image, 0);
        assert_eq!(image.pixels(), [0, 0, 0]);
        let mut image = row(&[0, 100, 255]);
        solarize(&mut image, 100.0);
        assert_eq!(image.pixels(), [0, 155, 0]);
        let mut image = row(&[50, 60, 100]);
        autocontrast(&mut image);
        assert_eq!(image.pixels(), [0, 51, 255]);
    }
}
