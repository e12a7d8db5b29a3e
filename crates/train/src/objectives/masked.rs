//! Sums of exponentials from which entries are left out: what decoupled losses divide by.

use burn::tensor::{Bool, Tensor};

/// `ln sum_j exp(x_j)` of each row over the entries that are not `left_out`, `[N, C] -> [N, 1]`.
///
/// What is left out is really left out: it gets no gradient, and no constant stands for it that a large score could outweigh. A
/// row of which nothing is left gives a number so low that its exponential is 0.
pub fn log_sum_exp(x: Tensor<2>, left_out: Tensor<2, Bool>) -> Tensor<2> {
    let kept = x.mask_fill(left_out, f32::MIN);
    // The shift cancels, so no gradient flows through it. It stays above what stands for nothing, whose exponential is then 0.
    let shift = kept.clone().detach().max_dim(1).clamp_min(f32::MIN / 2.0);
    let sum = (kept - shift.clone()).exp().sum_dim(1);
    sum.clamp_min(f32::MIN_POSITIVE).log() + shift
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[test]
    fn what_is_left_out_counts_for_nothing_however_large_it_is() {
        let device = Device::flex().autodiff();
        let x = Tensor::<2>::from_floats([[0.0, 200.0, 1.0], [3.0, -300.0, 3.0]], &device).require_grad();
        let mask = TensorData::from([[false, true, false], [false, true, false]]);
        let y = log_sum_exp(x.clone(), Tensor::from_data(mask, &device));
        let found: Vec<f32> = y.clone().into_data().iter::<f32>().collect();
        let expected = [(1.0f32 + 1f32.exp()).ln(), 3.0 + 2f32.ln()];
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
        let gradient: Vec<f32> = x.grad(&y.sum().backward()).unwrap().into_data().iter::<f32>().collect();
        assert_eq!((gradient[1], gradient[4]), (0.0, 0.0));
        assert!((gradient[0] + gradient[2] - 1.0).abs() < 1e-6 && (gradient[3] - 0.5).abs() < 1e-6);
        // Where nothing is left there is no sum and no gradient.
        let all = Tensor::from_data(TensorData::from([[true; 3], [false; 3]]), &device);
        let y = log_sum_exp(x.clone(), all);
        assert_eq!(y.clone().exp().into_data().iter::<f32>().next(), Some(0.0));
        let gradient: Vec<f32> = x.grad(&y.sum().backward()).unwrap().into_data().iter::<f32>().collect();
        assert_eq!(gradient[..3], [0.0; 3]);
    }
}
