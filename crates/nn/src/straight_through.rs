//! Steps that have no slope, with the slopes that training gives them.
//!
//! Sources: the straight-through estimator of Bengio, Léonard and Courville, arXiv:1308.3432; the step of LSQ by Esser et al.,
//! arXiv:1902.08153; signs with a window by Hubara et al., arXiv:1602.02830; thresholds of attention by He et al. (BiViT),
//! arXiv:2211.07091.
//!
//! All are made of [`through`]: the value of one tensor with the gradient of another. Without gradients they are the bare steps,
//! bit for bit the same values.

use burn::tensor::{Bool, Tensor};

use crate::differentiable;

/// `value` with the gradient of `carrier`, which has its shape. The values are exactly those of `value`, as long as `carrier` is
/// finite: zeros are added to them.
pub fn through<const D: usize>(value: Tensor<D>, carrier: Tensor<D>) -> Tensor<D> {
    if !carrier.device().is_autodiff() {
        return value;
    }
    value.detach() + (carrier.clone() - carrier.detach())
}

/// The nearest whole number, ties to the even one; the gradient passes as if nothing were rounded.
pub fn round<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    through(x.clone().round(), x)
}

/// The whole number below; the gradient passes as if nothing were rounded.
pub fn floor<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    through(x.clone().floor(), x)
}

/// `x` between two ends; the gradient is the true one, 0 beyond the ends and 1 on them.
pub fn clip<const D: usize>(x: Tensor<D>, low: f32, high: f32) -> Tensor<D> {
    x.clamp(low, high)
}

/// `x` with `factor` times its gradient: how LSQ keeps steps from moving faster than weights.
pub fn slowed<const D: usize>(x: Tensor<D>, factor: f64) -> Tensor<D> {
    if !x.device().is_autodiff() {
        return x;
    }
    through(x.clone(), x * factor)
}

/// The factor of LSQ for the gradient of a step that `numbers` numbers share, with `high` the largest code.
pub fn lsq_factor(numbers: usize, high: f32) -> f64 {
    1.0 / (numbers.max(1) as f64 * f64::from(high.max(1.0))).sqrt()
}

/// `clip(round(x / step), low, high) * step`; `step` can be broadcast to `x`. The gradient of `x` passes between the ends; that
/// of a step is `round(x / step) - x / step` there, and the code of the end beyond.
pub fn lsq<const D: usize>(x: Tensor<D>, step: Tensor<D>, low: f32, high: f32) -> Tensor<D> {
    round(clip(x / step.clone(), low, high)) * step
}

/// [`lsq`] with one step `[1]` for all numbers, whose gradient is `factor` times that of [`lsq`]. On the host it is one pass over the
/// numbers and one back.
pub fn lsq_whole<const D: usize>(
    x: Tensor<D>,
    step: Tensor<1>,
    [low, high]: [f32; 2],
    factor: f64,
) -> Tensor<D> {
    if differentiable::is_here(&x) && step.device() == x.device() {
        return differentiable::lsq(x, step, [low, high], factor as f32);
    }
    let step = slowed(step, factor).reshape([1; D]);
    lsq(x, step, low, high)
}

/// `-1` or `+1`, and `+1` for 0; the gradient passes where `|x| < 1`.
pub fn sign<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let signs = x.clone().lower_elem(0.0).float().mul_scalar(-2.0).add_scalar(1.0);
    if !x.device().is_autodiff() {
        return signs;
    }
    // The slope of a clip is 1 on its ends, too: what lies there is moved beyond.
    let ends = x.clone().abs().greater_equal_elem(1.0);
    through(signs, x.mask_fill(ends, 0.0))
}

/// 1 where `keep` is true and 0 elsewhere, with the gradient of the probabilities `p`.
pub fn kept<const D: usize>(p: Tensor<D>, keep: Tensor<D, Bool>) -> Tensor<D> {
    through(keep.float(), p)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData, activation};

    use super::*;
    use crate::weight::host;

    fn device() -> Device {
        Device::flex().autodiff()
    }

    fn row(values: &[f32]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len()]), &device()).require_grad()
    }

    const X: [f32; 9] = [-3.0, -1.0, -0.6, -0.26, 0.0, 0.3, 0.74, 1.0, 2.6];

    fn slope(x: &Tensor<2>, y: Tensor<2>) -> Vec<f32> {
        host(x.grad(&y.sum().backward()).unwrap())
    }

    #[test]
    fn values_are_those_of_the_step_and_slopes_those_of_the_carrier() {
        let x = row(&X);
        let rounded = round(x.clone());
        assert_eq!(host(rounded.clone()), X.map(f32::round_ties_even));
        assert_eq!(slope(&x, rounded), [1.0; 9]);
        let below = floor(x.clone());
        assert_eq!(host(below.clone()), X.map(f32::floor));
        assert_eq!(slope(&x, below), [1.0; 9]);
        // Control: the framework's own step has no slope.
        assert_eq!(slope(&x, x.clone().round()), [0.0; 9]);
        let clipped = clip(x.clone(), -1.0, 1.0);
        assert_eq!(slope(&x, clipped), [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
        let slow = slowed(x.clone(), 0.25);
        assert_eq!(host(slow.clone()), X);
        assert_eq!(slope(&x, slow), [0.25; 9]);
    }

    #[test]
    fn signs_have_a_window_and_none_is_zero() {
        let x = row(&X);
        let signs = sign(x.clone());
        assert_eq!(host(signs.clone()), [-1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(slope(&x, signs), [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
        let plain = Tensor::<2>::from_data(TensorData::new(X.to_vec(), [1, 9]), &Device::flex());
        assert_eq!(host(sign(plain)), [-1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn a_threshold_has_the_slope_of_the_softmax() {
        let weights = row(&[1.0, -2.0, 0.5, 3.0, 1.0, 0.0, 2.0, -1.0, 4.0]).detach();
        // A graph of its own for each backward pass.
        let made = |hard: bool| {
            let x = row(&X);
            let p = activation::softmax(x.clone(), 1);
            let keep: Tensor<2, Bool> = p.clone().greater_equal_elem(0.09);
            let y = if hard { kept(p, keep) } else { p };
            (host(y.clone()).iter().sum::<f32>(), slope(&x, y * weights.clone()))
        };
        let ((hard, found), (soft, expected)) = (made(true), made(false));
        assert_eq!((hard, found), (3.0, expected.clone()));
        assert!((soft - 1.0).abs() < 1e-6);
        assert!(expected.iter().any(|g| g.abs() > 1e-2));
    }

    /// `sum(w * lsq(x, s))`, and by differences what its smooth part does: codes stay, the step moves.
    #[test]
    fn the_step_of_lsq_has_the_gradient_of_its_rule() {
        let (low, high, s) = (-2.0f32, 1.0, 0.5f32);
        let x = row(&X);
        let step = Tensor::<1>::from_floats([s], &device()).require_grad();
        let weights = [1.0f32, 2.0, -1.0, 0.5, 1.0, 3.0, 1.0, -2.0, 1.5];
        let y = lsq(x.clone(), step.clone().reshape([1, 1]), low, high) * row(&weights).detach();
        let grads = y.clone().sum().backward();
        let rule = |x: f32| {
            let v = x / s;
            if v < low {
                low
            } else if v > high {
                high
            } else {
                v.round_ties_even() - v
            }
        };
        let expected: f32 = X.iter().zip(weights).map(|(x, w)| w * rule(*x)).sum();
        assert!((host(step.grad(&grads).unwrap())[0] - expected).abs() < 1e-5);
        let inside = X.map(|x| f32::from(u8::from((low..=high).contains(&(x / s)))));
        let slopes: Vec<f32> = inside.iter().zip(weights).map(|(i, w)| i * w).collect();
        assert_eq!(host(x.grad(&grads).unwrap()), slopes);
        // Beyond the ends the function is smooth in its step: by differences.
        let value = |s: f32| -> f32 {
            [-3.0f32, 2.6].iter().map(|x| (x / s).round_ties_even().clamp(low, high) * s).sum()
        };
        let by_differences = (value(s + 1e-3) - value(s - 1e-3)) / 2e-3;
        let ends = row(&[-3.0, 2.6]);
        let grads = lsq(ends, step.clone().reshape([1, 1]), low, high).sum().backward();
        assert!((host(step.grad(&grads).unwrap())[0] - by_differences).abs() < 1e-3);
    }

    #[test]
    fn the_fused_step_equals_its_parts() {
        let values: Vec<f32> = (0..3000).map(|i| ((i * 7919) % 1001) as f32 / 100.0 - 4.0).collect();
        let weights: Vec<f32> = (0..3000).map(|i| ((i * 37) % 11) as f32 - 5.0).collect();
        for (low, high, s) in [(0.0, 3.0, 0.7), (-8.0, 7.0, 0.31), (0.0, 255.0, 0.02)] {
            let run = |fused: bool| {
                let x = row(&values);
                let step = Tensor::<1>::from_floats([s], &device()).require_grad();
                let y = match fused {
                    true => lsq_whole(x.clone(), step.clone(), [low, high], 0.5),
                    false => lsq(x.clone(), slowed(step.clone(), 0.5).reshape([1, 1]), low, high),
                };
                let grads = (y.clone() * row(&weights).detach()).sum().backward();
                (host(y), host(x.grad(&grads).unwrap()), host(step.grad(&grads).unwrap())[0])
            };
            let ((y, dx, ds), (expected, dx_expected, ds_expected)) = (run(true), run(false));
            assert_eq!(y, expected);
            assert!(dx.iter().zip(&dx_expected).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs()));
            assert!((ds - ds_expected).abs() <= 1e-3 * ds_expected.abs().max(10.0), "{ds} {ds_expected}");
            let plain = Tensor::<2>::from_data(TensorData::new(values.clone(), [1, 3000]), &Device::flex());
            let step = Tensor::<1>::from_floats([s], &Device::flex());
            assert_eq!(
                host(lsq_whole(plain, step, [low, high], 0.5)),
                expected,
                "without gradients the same bits"
            );
        }
    }
}
