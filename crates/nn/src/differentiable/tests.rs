//! Values and gradients against those of the framework.

use burn::tensor::module::conv2d as framework;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Tensor, activation};

use super::*;
use crate::conv::ConvGeometry;
use crate::kernels::ConvShape;
use crate::weight::host;

/// Whole numbers, so that sums are exact in any order.
fn whole<const D: usize>(step: usize, dims: [usize; D]) -> Tensor<D> {
    let n = dims.iter().product();
    let values = (0..n).map(|i: usize| ((i * step + i / 7) % 7) as f32 - 3.0).collect::<Vec<_>>();
    Tensor::from_data(TensorData::new(values, dims), &Device::flex().autodiff())
}

/// Output and gradients of `x`, `weight` and `bias`.
fn run(shape: &ConvShape, f: impl Fn(Tensor<4>, Tensor<2>, Tensor<1>) -> Tensor<4>) -> [Vec<f32>; 4] {
    let [h, w] = shape.input;
    let x = whole(5, [shape.batch, shape.channels, h, w]).require_grad();
    let weight = whole(3, [shape.rows, shape.cols()]).require_grad();
    let bias = whole(2, [shape.rows]).require_grad();
    let y = f(x.clone(), weight.clone(), bias.clone());
    let grads = (y.clone() * whole(4, y.dims())).sum().backward();
    let [dx, dw, db] =
        [host(x.grad(&grads).unwrap()), host(weight.grad(&grads).unwrap()), host(bias.grad(&grads).unwrap())];
    [host(y), dx, dw, db]
}

fn ours(shape: &ConvShape) -> [Vec<f32>; 4] {
    run(shape, |x, weight, bias| conv2d(x, weight, Some(bias), *shape))
}

fn theirs(shape: &ConvShape) -> [Vec<f32>; 4] {
    let ConvGeometry { kernel: [kh, kw], stride, padding, groups } = shape.geometry;
    run(shape, |x, weight, bias| {
        let weight = weight.reshape([shape.rows, shape.channels / groups, kh, kw]);
        framework(x, weight, Some(bias), ConvOptions::new(stride, padding, [1, 1], groups))
    })
}

#[test]
fn convolutions_and_their_gradients_equal_the_framework() {
    let mut seen = 0;
    for kernel in [1, 3, 5, 7] {
        for (stride, groups) in [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (2, 4), (3, 1)] {
            for padding in 0..=kernel / 2 {
                let geometry =
                    ConvGeometry { groups, padding: [padding; 2], ..ConvGeometry::same(kernel, stride) };
                // The rows of a group fill a block, or do not; with four groups the second is depthwise.
                for (image, rows) in [([3, 4, 9, 11], 12), ([2, 4, 7, 8], 4)] {
                    let shape = ConvShape::new(image, rows, geometry).unwrap();
                    assert_eq!(ours(&shape), theirs(&shape), "{shape:?}");
                    seen += 1;
                }
            }
        }
    }
    assert_eq!(seen, 7 * 2 * (1 + 2 + 3 + 4));
    // The comparison can fail: another padding of the same output has other gradients.
    let near = |padding| ConvGeometry { padding, ..ConvGeometry::same(3, 1) };
    let shapes = [[1, 1], [0, 2]].map(|padding| ConvShape::new([1, 2, 6, 6], 3, near(padding)).unwrap());
    assert_ne!(ours(&shapes[0])[1..], theirs(&shapes[1])[1..]);
}

#[test]
fn uneven_kernels_and_more_padding_than_the_kernel_reaches() {
    for (kernel, stride, padding) in [
        ([5, 3], [2, 1], [0, 2]),
        ([1, 1], [1, 1], [1, 2]),
        ([1, 1], [2, 2], [0, 0]),
        ([2, 4], [3, 4], [3, 1]),
    ] {
        let geometry = ConvGeometry { kernel, stride, padding, groups: 2 };
        let shape = ConvShape::new([2, 6, 10, 9], 8, geometry).unwrap();
        assert_eq!(ours(&shape), theirs(&shape), "{geometry:?}");
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    fn fraction<const D: usize>(step: usize, dims: [usize; D]) -> Tensor<D> {
        whole(step, dims) * 0.123 + 0.01
    }
    let shape = ConvShape::new([37, 6, 9, 10], 14, ConvGeometry::same(3, 2)).unwrap();
    let at = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let x = fraction(5, [37, 6, 9, 10]).require_grad();
            let weight = fraction(3, [14, 54]).require_grad();
            let [gain, bias] = [fraction(2, [14]), fraction(4, [14])].map(Tensor::require_grad);
            let y = conv2d(x.clone(), weight.clone(), Some(bias.clone()), shape);
            let (y, _) = batch_norm(y, gain.clone(), bias.clone(), 1e-5);
            let y = relu(y);
            let grads = (y.clone() * y).sum().backward();
            let all = [x.grad(&grads).map(host), weight.grad(&grads).map(host)];
            (all, [gain, bias].map(|param| param.grad(&grads).map(host)))
        })
    };
    let one = at(1);
    assert!(one == at(2) && one == at(3) && one == at(8));
    assert!(one.0[0].as_ref().unwrap().iter().any(|&v| v != 0.0));
}

#[test]
fn a_batch_norm_and_its_gradients_equal_the_framework() {
    for dims @ [_, c, ..] in [[3, 5, 4, 7], [4, 3, 1, 1], [2, 2, 16, 9]] {
        let run = |f: &dyn Fn(Tensor<4>, Tensor<1>, Tensor<1>) -> Tensor<4>| {
            let x = (whole(5, dims) * 0.3 + 2.0).require_grad();
            let [gain, bias] = [whole(2, [c]) + 0.5, whole(3, [c])].map(Tensor::require_grad);
            let y = f(x.clone(), gain.clone(), bias.clone());
            let grads = (y.clone() * whole(4, dims)).sum().backward();
            [
                host(y),
                host(x.grad(&grads).unwrap()),
                host(gain.grad(&grads).unwrap()),
                host(bias.grad(&grads).unwrap()),
            ]
        };
        let rows = |x: Tensor<1>| x.reshape([1, c, 1, 1]);
        let mean = |x: Tensor<4>| x.mean_dim(0).mean_dim(2).mean_dim(3);
        let plain = |through: bool| {
            run(&|x, gain, bias| {
                let centred = x.clone() - mean(x);
                let variance = mean(centred.clone().square());
                let variance = if through { variance } else { variance.detach() };
                centred / (variance + 1e-2).sqrt() * rows(gain) + rows(bias)
            })
        };
        let ours = run(&|x, gain, bias| batch_norm(x, gain, bias, 1e-2).0);
        let apart = |a: &[Vec<f32>; 4], b: &[Vec<f32>; 4]| {
            let all = a.iter().flatten().zip(b.iter().flatten());
            all.map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f32::max)
        };
        assert!(apart(&ours, &plain(true)) < 1e-4, "{dims:?}: {}", apart(&ours, &plain(true)));
        // Without the gradient through the variance, it is another one.
        assert!(apart(&ours, &plain(false)) > 1e-2, "{dims:?}");
    }
}

#[test]
fn the_sign_of_the_output_decides_what_comes_back() {
    let x = whole(5, [2, 3, 4]);
    for share in [false, true] {
        let run = |f: &dyn Fn(Tensor<3>) -> Tensor<3>| {
            let x = x.clone().require_grad();
            // The negative is nobody else's, so that it may be written over; a second use keeps what it was.
            let inner = -x.clone();
            let kept = share.then(|| inner.clone());
            let y = f(inner);
            let y = kept.into_iter().fold(y.clone(), |y, kept| y + kept * 2.0);
            let grads = (y.clone() * whole(2, [2, 3, 4])).sum().backward();
            (host(y), host(x.grad(&grads).unwrap()))
        };
        assert_eq!(run(&relu), run(&|x| activation::relu(x)));
        assert_ne!(run(&relu), run(&|x| x));
    }
    let nan = relu(Tensor::<1>::from_floats([f32::NAN, -1.0], &Device::flex()));
    let nan = host(nan);
    assert!(nan[0].is_nan() && nan[1] == 0.0);
}

mod codes {
    use trimtab_io::{AffineScheme, AffineTensor, Coded, Dtype, NormalFloatTensor, RawTensor, RealTensor};

    use super::*;
    use crate::Weight;
    use crate::ctx::Ctx;
    use crate::site::{Branch, LowRank, Site, SiteMeta};

    const ROWS: usize = 150;
    const COLS: usize = 72;

    fn kinds() -> Vec<(&'static str, Weight)> {
        let affine = |bits, symmetric, ordered: bool| {
            let scheme = AffineScheme { bits, group_size: Some(24), symmetric };
            let codes: Vec<u8> = (0..ROWS * COLS).map(|i| (i * 37 % 251) as u8 & scheme.max_code()).collect();
            let groups = ROWS * scheme.n_groups(COLS);
            let scales = (0..groups).map(|i| 0.125 * (1 + i % 5) as f32).collect();
            let zeros =
                (!symmetric).then(|| (0..groups).map(|i| (i % 4) as u8 & scheme.max_code()).collect());
            let order = ordered.then(|| (0..COLS).map(|j| (j * 5 % COLS / 24) as u32).collect());
            AffineTensor::from_codes(ROWS, COLS, scheme, &codes, scales, zeros, order, Dtype::F32).unwrap()
        };
        let numbers: Vec<f32> = (0..ROWS * COLS).map(|i| (i as f32 * 0.37).sin()).collect();
        let zeros = vec![0.3; ROWS * 3];
        let normal = NormalFloatTensor::encode(&numbers, ROWS, COLS, "nf3 b32".parse().unwrap()).unwrap();
        let stored = |dtype| Weight::stored(RawTensor::from_f32(vec![ROWS, COLS], &numbers, dtype).unwrap());
        vec![
            ("int3", Weight::packed(affine(3, false, false))),
            ("int8, ordered", Weight::packed(affine(8, true, true))),
            (
                "int3 real",
                Weight::coded(Coded::Real(RealTensor::new(affine(3, true, false), zeros).unwrap())),
            ),
            ("nf3", Weight::coded(Coded::NormalFloat(normal))),
            ("bf16", stored(Dtype::BF16)),
            ("f16", stored(Dtype::F16)),
        ]
    }

    fn site(weight: Weight, device: &Device) -> Site {
        let meta = SiteMeta::linear("up", ROWS, COLS);
        let mut site = Site::new(meta, weight, None).unwrap();
        let factor = |dims: [usize; 2], step: usize| {
            let values: Vec<f32> =
                (0..dims[0] * dims[1]).map(|i| ((i * step) % 13) as f32 / 30.0 - 0.2).collect();
            burn::module::Param::from_tensor(Tensor::from_data(TensorData::new(values, dims), device))
        };
        let (a, b) = (factor([5, COLS], 7), factor([ROWS, 5], 11));
        site.branches.push(Branch::LowRank(LowRank { a, b, scale: 2.0 }));
        site
    }

    /// Output, and gradients of the input and of both factors.
    fn gradients(weight: Weight) -> [Vec<f32>; 4] {
        let device = Device::flex().autodiff();
        let site = site(weight, &device);
        let x = (whole(5, [2, 9, COLS]) * 0.31 + 0.1).require_grad();
        let y = site.forward(x.clone(), &mut Ctx::default());
        let grads = (y.clone() * whole(3, y.dims()) * 0.2).sum().backward();
        let Branch::LowRank(branch) = &site.branches[0];
        let of = |factor: &burn::module::Param<Tensor<2>>| host(factor.val().grad(&grads).unwrap());
        [host(y), host(x.grad(&grads).unwrap()), of(&branch.a), of(&branch.b)]
    }

    fn apart(a: &[f32], b: &[f32]) -> f32 {
        let size = b.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size
    }

    #[test]
    fn codes_have_the_gradients_of_the_numbers_that_they_stand_for() {
        for (name, weight) in kinds() {
            let dense = Weight::dense(weight.to_tensor(&Device::flex()).autodiff());
            let (found, expected) = (gradients(weight), gradients(dense));
            for (what, (found, expected)) in ["y", "dx", "dA", "dB"].iter().zip(found.iter().zip(&expected)) {
                let far = apart(found, expected);
                assert!(far < 1e-6, "{name}, {what}: {far}");
            }
        }
        // The comparison can fail: other codes have other gradients.
        let all: Vec<[Vec<f32>; 4]> = kinds().into_iter().map(|(_, weight)| gradients(weight)).collect();
        assert!(apart(&all[0][1], &all[3][1]) > 1e-2);
    }

    #[test]
    fn gradients_through_codes_are_those_of_differences() {
        for (name, weight) in kinds() {
            let device = Device::flex();
            let site = site(weight.clone(), &device);
            let x: Vec<f64> =
                host(whole::<3>(5, [2, 9, COLS]) * 0.31 + 0.1).iter().map(|&x| x.into()).collect();
            // In double precision from the numbers, so that differences are exact enough.
            let matrix: Vec<f64> = site.to_f32().iter().map(|&w| w.into()).collect();
            let pull: Vec<f64> = host(whole::<3>(3, [2, 9, ROWS]) * 0.2).iter().map(|&x| x.into()).collect();
            let loss = |x: &[f64]| -> f64 {
                let rows = x.chunks(COLS).zip(pull.chunks(ROWS));
                let of = |(x, pull): (&[f64], &[f64])| -> f64 {
                    let out = matrix.chunks(COLS).zip(pull);
                    out.map(|(w, pull)| pull * w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>()).sum()
                };
                rows.map(of).sum()
            };
            let [_, dx, ..] = gradients(weight);
            let size = dx.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            for i in (0..x.len()).step_by(97) {
                let at = |by: f64| {
                    let mut moved = x.clone();
                    moved[i] += by;
                    loss(&moved)
                };
                let expected = (at(1e-3) - at(-1e-3)) / 2e-3;
                let far = (f64::from(dx[i]) - expected).abs() / f64::from(size);
                assert!(far < 1e-3, "{name}, {i}: {} {expected}", dx[i]);
            }
        }
    }

    #[test]
    fn threads_change_no_bit_of_the_way_back() {
        let at = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| kinds().into_iter().map(|(_, weight)| gradients(weight)).collect::<Vec<_>>())
        };
        assert!(at(1) == at(3));
    }
}
