//! What single samples say about a step.

/// Two numbers a sample, summed: enough for every test of a batch (paper 41), without a gradient of a single sample.
///
/// `g_i` is the gradient of sample `i`, `g` their mean, `s_i = <g_i, g>`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SampleStatistics {
    /// Samples, `b`.
    pub samples: f64,
    /// `sum_i |g_i|^2`.
    pub squared_norms: f64,
    /// `|g|^2`.
    pub mean_squared_norm: f64,
    /// `sum_i s_i`.
    pub products: f64,
    /// `sum_i s_i^2`.
    pub squared_products: f64,
}

impl SampleStatistics {
    /// `|g|^2`, the squared norm of the mean gradient.
    pub fn signal(&self) -> f64 {
        self.mean_squared_norm
    }

    /// Variance of single gradients summed over all coordinates, unbiased; 0 for fewer than two samples.
    pub fn variance(&self) -> f64 {
        let b = self.samples;
        if b < 2.0 {
            return 0.0;
        }
        ((self.squared_norms - b * self.mean_squared_norm) / (b - 1.0)).max(0.0)
    }

    /// Variance of `s_i`, unbiased: deviations along the mean gradient, times its norm.
    pub fn variance_along(&self) -> f64 {
        let b = self.samples;
        if b < 2.0 {
            return 0.0;
        }
        ((self.squared_products - self.products * self.products / b) / (b - 1.0)).max(0.0)
    }

    /// Variance of the parts of `g_i` across the mean gradient. Their mean is 0, as `g` is the mean of the `g_i`.
    pub fn variance_across(&self) -> f64 {
        let b = self.samples;
        if b < 2.0 || self.mean_squared_norm == 0.0 {
            return 0.0;
        }
        ((self.squared_norms - self.squared_products / self.mean_squared_norm) / (b - 1.0)).max(0.0)
    }

    /// The simple noise scale `S / |g|^2` (McCandlish et al., arXiv:1812.06162): the batch at which noise and signal are equal.
    pub fn noise_scale(&self) -> f64 {
        self.variance() / self.signal().max(1e-30)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_numbers_give_all_variances() {
        let g = [[1.0, 2.0, -1.0], [0.5, 0.0, 3.0], [-2.0, 1.0, 1.0], [4.0, -1.0, 0.5f64]];
        let n = g.len() as f64;
        let dot = |a: &[f64; 3], b: &[f64; 3]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mean = [0, 1, 2].map(|j| g.iter().map(|g| g[j]).sum::<f64>() / n);
        let s: Vec<f64> = g.iter().map(|g| dot(g, &mean)).collect();
        let found = SampleStatistics {
            samples: n,
            squared_norms: g.iter().map(|g| dot(g, g)).sum(),
            mean_squared_norm: dot(&mean, &mean),
            products: s.iter().sum(),
            squared_products: s.iter().map(|s| s * s).sum(),
        };
        // From the definitions, coordinate by coordinate.
        let coordinates =
            (0..3).map(|j| g.iter().map(|g| (g[j] - mean[j]).powi(2)).sum::<f64>() / (n - 1.0)).sum::<f64>();
        assert!((found.variance() - coordinates).abs() < 1e-12);
        let middle = s.iter().sum::<f64>() / n;
        let along = s.iter().map(|s| (s - middle).powi(2)).sum::<f64>() / (n - 1.0);
        assert!((found.variance_along() - along).abs() < 1e-12);
        let rest = |(g, s): (&[f64; 3], &f64)| {
            let share = s / dot(&mean, &mean);
            (0..3).map(|j| (g[j] - share * mean[j]).powi(2)).sum::<f64>()
        };
        let across = g.iter().zip(&s).map(rest).sum::<f64>() / (n - 1.0);
        assert!((found.variance_across() - across).abs() < 1e-12);
        assert!(across < coordinates, "the part along the mean is missing");
        assert_eq!(SampleStatistics { samples: 1.0, ..found }.variance(), 0.0);
    }
}
