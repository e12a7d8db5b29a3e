//! What the found network rounds by: weights with a trained step for each row (LSQ, Esser et al., arXiv:1902.08153), inputs between 0
//! and a fixed end (HWGQ, Cai et al., arXiv:1702.00953).

use burn::tensor::Tensor;
use trimtab_nn::straight_through::{lsq, lsq_factor, lsq_whole, slowed};

/// The best step for the positive half of a standard normal variable, by bits.
const STEPS: [(u8, f32); 6] =
    [(1, 1.057_65), (2, 0.635_64), (3, 0.372_06), (4, 0.213_06), (8, 0.020_300_6), (16, 9.714_8e-5)];

/// Steps below this one are taken for it: a step that training moves through 0 stays a step.
const LEAST: f32 = 1e-8;

/// The step of inputs of so many bits; `None` for bits without a published one.
pub fn hwgq_step(bits: u8) -> Option<f32> {
    STEPS.iter().find(|(known, _)| *known == bits).map(|(_, step)| *step)
}

/// `step * clip(round(x / step), 0, 2^bits - 1)`: a ReLU, a clip and a rounding. The gradient passes between the ends. Meant for numbers
/// that are about standard normal.
pub(super) fn hwgq<const D: usize>(x: Tensor<D>, bits: u8, step: f32) -> Tensor<D> {
    let step = Tensor::from_floats([step], &x.device());
    lsq_whole(x, step, [0.0, 2f32.powi(i32::from(bits)) - 1.0], 1.0)
}

/// The largest code of a weight.
fn highest(bits: u8) -> f32 {
    2f32.powi(i32::from(bits) - 1) - 1.0
}

/// The steps that the rows of a matrix begin with: `2 mean|w| / sqrt(highest code)`.
pub fn lsq_start(weight: &[f32], rows: usize, bits: u8) -> Vec<f32> {
    let cols = (weight.len() / rows.max(1)).max(1);
    let mean = |row: &[f32]| row.iter().map(|w| w.abs()).sum::<f32>() / cols as f32;
    weight.chunks(cols).map(|row| (2.0 * mean(row) / highest(bits).sqrt()).max(LEAST)).collect()
}

/// Steps as they count, `[rows]`.
pub(super) fn positive(steps: Tensor<1>) -> Tensor<1> {
    steps.abs().clamp_min(LEAST)
}

/// A matrix `[rows, cols]` rounded by steps `[rows]` to signed codes of so many bits.
pub(super) fn lsq_rows(weight: Tensor<2>, steps: Tensor<1>, bits: u8) -> Tensor<2> {
    let ([rows, cols], high) = (weight.dims(), highest(bits));
    // By the numbers of the whole matrix, as published.
    let steps = slowed(positive(steps), lsq_factor(rows * cols, high)).reshape([rows, 1]);
    lsq(weight, steps, -(high + 1.0), high)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use trimtab_math::random::Stream;
    use trimtab_nn::host;

    use super::*;

    fn row(values: &[f32]) -> Tensor<1> {
        Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &Device::flex().autodiff())
    }

    #[test]
    fn inputs_are_positive_codes_of_the_published_step() {
        let x = row(&[-1.0, 0.0, 0.1, 0.12, 1.0, 3.1, 9.0]).require_grad();
        let step = hwgq_step(4).unwrap();
        let y = hwgq(x.clone(), 4, step);
        let codes: Vec<f32> = host(y.clone()).iter().map(|y| y / step).collect();
        let expected = [0.0, 0.0, 0.0, 1.0, 5.0, 15.0, 15.0];
        assert!(codes.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{codes:?}");
        assert_eq!(host(x.grad(&y.sum().backward()).unwrap()), [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
        assert_eq!(hwgq_step(5), None);
    }

    #[test]
    fn published_steps_are_about_the_best_for_half_a_normal_variable() {
        let mut stream = Stream::new(5, "normal", 0, 0);
        let x: Vec<f32> = (0..40_000).map(|_| (stream.normal() as f32).max(0.0)).collect();
        for bits in [2, 3, 4] {
            let error = |step: f32| -> f64 {
                let high = 2f32.powi(i32::from(bits)) - 1.0;
                x.iter().map(|x| f64::from((x / step).round().clamp(0.0, high) * step - x).powi(2)).sum()
            };
            let step = hwgq_step(bits).unwrap();
            assert!(error(step) < error(1.2 * step) && error(step) < error(step / 1.2), "{bits}");
        }
    }

    #[test]
    fn rows_have_steps_of_their_own_that_learn_slowly() {
        let weight = [0.3, -0.5, 0.1, 3.0, -5.0, 1.0f32];
        let start = lsq_start(&weight, 2, 4);
        assert!(
            (start[0] - 2.0 * 0.3 / 7f32.sqrt()).abs() < 1e-6 && (start[1] / start[0] - 10.0).abs() < 1e-4
        );
        let (w, steps) = (row(&weight).reshape([2, 3]), row(&[0.1, 1.0]).require_grad());
        let y = lsq_rows(w, steps.clone(), 4);
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(close(&host(y.clone()), &weight), "each number is a code: {y}");
        let more = lsq_rows(row(&[0.9, 0.26]).reshape([1, 2]), row(&[0.1]), 4);
        assert!(close(&host(more), &[0.7, 0.3]), "7 is the largest code");
        // By hand: 0.9 lies beyond and gives the largest code, 0.26 gives 3 - 2.6; the factor is 1 / sqrt(7 * 2).
        let steps = row(&[0.1]).require_grad();
        let sum = lsq_rows(row(&[0.9, 0.26]).reshape([1, 2]), steps.clone(), 4).sum();
        let slope = host(steps.grad(&sum.backward()).unwrap())[0];
        assert!((slope - 7.4 / 14f32.sqrt()).abs() < 1e-4, "{slope}");
        // A step that went through 0 rounds as its magnitude does.
        let turned = lsq_rows(row(&[0.9, 0.26]).reshape([1, 2]), row(&[-0.1]), 4);
        assert!(close(&host(turned), &[0.7, 0.3]));
        assert_eq!(lsq_start(&[0.0; 4], 2, 8), [LEAST; 2]);
    }
}
