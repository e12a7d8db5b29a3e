//! How close an output is to that of the original, as signals: power of the noise, SQNR, SSIM.
//!
//! Source of their use as prices: MixDQ (Zhao et al., arXiv:2405.17873). SSIM is that of Wang et al. (2004) with one window, the whole picture,
//! all pixels alike: it tells whether the picture as a whole is the same one. (MixDQ takes a window of 511 on 512 pixels.)

/// Power of the difference over the power of the original, `|y - ŷ|² / |y|²`: `10^(-SQNR/10)`. Noises of several sites that do not
/// know of each other add up; their SQNRs do not. Not a number where there is no signal.
pub fn noise_power(original: &[f32], found: &[f32]) -> f64 {
    let pairs = original.iter().zip(found);
    let noise: f64 = pairs.map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    let signal: f64 = original.iter().map(|&a| f64::from(a).powi(2)).sum();
    if signal > 0.0 { noise / signal } else { f64::NAN }
}

/// The ratio of signal to quantization noise, in decibels; infinite where nothing differs.
pub fn sqnr(original: &[f32], found: &[f32]) -> f64 {
    -10.0 * noise_power(original, found).log10()
}

/// Structural similarity of two pictures of one channel over one window that holds all of both; `range` is the distance from black to
/// white. 1 for equal pictures, lower for others.
pub fn ssim_whole(a: &[f32], b: &[f32], range: f64) -> f64 {
    let n = a.len().max(1) as f64;
    let mean = |x: &[f32]| x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let (ma, mb) = (mean(a), mean(b));
    let product = |x: &[f32], mx: f64, y: &[f32], my: f64| {
        x.iter().zip(y).map(|(&x, &y)| (f64::from(x) - mx) * (f64::from(y) - my)).sum::<f64>() / n
    };
    let (va, vb, ab) = (product(a, ma, a, ma), product(b, mb, b, mb), product(a, ma, b, mb));
    let [c1, c2] = [0.01, 0.03].map(|k: f64| (k * range).powi(2));
    (2.0 * ma * mb + c1) * (2.0 * ab + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_hand() {
        let (y, near) = ([3.0, -4.0, 0.0], [3.0, -4.0, 0.5]);
        assert!((noise_power(&y, &near) - 0.01).abs() < 1e-12);
        assert!((sqnr(&y, &near) - 20.0).abs() < 1e-9);
        assert_eq!(sqnr(&y, &y), f64::INFINITY);
        assert!(noise_power(&[0.0; 3], &near).is_nan());
        // Ten times the noise is 20 dB less, and the power of two noises at once is the sum where they do not overlap.
        assert!((sqnr(&y, &[3.0, -4.0, 5.0]) - 0.0).abs() < 1e-9);
        let (one, other, both) = ([3.1, -4.0, 0.0], [3.0, -4.2, 0.0], [3.1, -4.2, 0.0]);
        let sum = noise_power(&y, &one) + noise_power(&y, &other);
        assert!((noise_power(&y, &both) - sum).abs() < 1e-9);
    }

    #[test]
    fn pictures_by_hand() {
        let a = [0.0, 1.0, 1.0, 0.0];
        assert!((ssim_whole(&a, &a, 1.0) - 1.0).abs() < 1e-12);
        // Two even grounds: only the means count.
        let expected = (2.0 * 0.2 * 0.6 + 1e-4) / (0.04 + 0.36 + 1e-4);
        assert!((ssim_whole(&[0.2; 9], &[0.6; 9], 1.0) - expected).abs() < 1e-6);
        // The negative has the same mean and variance, and the opposite structure.
        let negative = a.map(|x| 1.0 - x);
        let expected = (-2.0 * 0.25 + 9e-4) / (2.0 * 0.25 + 9e-4);
        assert!((ssim_whole(&a, &negative, 1.0) - expected).abs() < 1e-12);
        // In the scale of bytes it is the same number.
        let bytes = |x: &[f32; 4]| x.map(|x| 255.0 * x);
        let (near, far) = ([0.1, 0.9, 1.0, 0.0], [0.6, 0.5, 0.4, 0.5]);
        assert!((ssim_whole(&bytes(&a), &bytes(&near), 255.0) - ssim_whole(&a, &near, 1.0)).abs() < 1e-6);
        assert!(ssim_whole(&a, &near, 1.0) > ssim_whole(&a, &far, 1.0));
    }
}
