//! Adam on numbers of the host (Kingma and Ba, arXiv:1412.6980), for what is learned beside a tensor framework.

/// Running means of the gradient of some numbers and of its square.
#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    betas: [f64; 2],
    epsilon: f64,
    moments: [Vec<f32>; 2],
}

impl Adam {
    /// For `n` numbers: decays of both means, and what is added to the root of the second.
    pub fn new(n: usize, betas: [f64; 2], epsilon: f64) -> Self {
        Self { betas, epsilon, moments: [vec![0.0; n], vec![0.0; n]] }
    }

    /// Moves `values` against their gradient in step `step` of the run, which counts from 1.
    ///
    /// # Panics
    /// If there are not as many values and gradients as were announced.
    pub fn step(&mut self, step: i32, values: &mut [f32], gradient: &[f32], rate: f64) {
        let [first, second] = &mut self.moments;
        assert_eq!([values.len(), gradient.len()], [first.len(); 2], "Adam: values and gradients");
        let corrections = self.betas.map(|beta| 1.0 - beta.powi(step));
        let (rate, root) = ((rate / corrections[0]) as f32, corrections[1].sqrt() as f32);
        let ([b1, b2], epsilon) = (self.betas.map(|beta| beta as f32), self.epsilon as f32);
        for (((x, &g), m), v) in values.iter_mut().zip(gradient).zip(first).zip(second) {
            *m = b1 * *m + (1.0 - b1) * g;
            *v = b2 * *v + (1.0 - b2) * g * g;
            *x -= rate * *m / (v.sqrt() / root + epsilon);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_those_of_the_definition() {
        let (betas, epsilon, rate) = ([0.9, 0.99], 1e-6, 0.05);
        let gradients = [[1.0f32, -20.0], [0.5, 3.0], [-2.0, 0.0], [0.25, 7.0]];
        let mut adam = Adam::new(2, betas, epsilon);
        let mut found = [0.3f32, -1.0];
        let mut expected = found.map(f64::from);
        let mut moments = [[0.0f64; 2]; 2];
        for (t, gradient) in (1..).zip(gradients) {
            adam.step(t, &mut found, &gradient, rate);
            for i in 0..2 {
                let g = f64::from(gradient[i]);
                moments[i][0] = betas[0] * moments[i][0] + (1.0 - betas[0]) * g;
                moments[i][1] = betas[1] * moments[i][1] + (1.0 - betas[1]) * g * g;
                let [m, v] = [0, 1].map(|k| moments[i][k] / (1.0 - betas[k].powi(t)));
                expected[i] -= rate * m / (v.sqrt() + epsilon);
            }
        }
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} {expected}");
        }
        // The first step is the rate against the sign, whatever the size of the gradient.
        let mut one = [0.0f32];
        Adam::new(1, betas, 1e-12).step(1, &mut one, &[1e-3], rate);
        assert!((f64::from(one[0]) + rate).abs() < 1e-6);
    }
}
