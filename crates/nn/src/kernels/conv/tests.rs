//! Convolutions against their definition.

use super::*;
use crate::kernels::tests::{Rng, size};

/// Unit roundoff of `f32`.
const EPS: f64 = 1.0 / (1u64 << 24) as f64;

/// One output and the sum of the magnitudes, by the definition.
fn exact(s: &ConvShape, weight: &[f32], x: &[f32], [b, o, i, j]: [usize; 4]) -> (f64, f64) {
    let ConvGeometry { kernel: [kh, kw], stride, padding, groups } = s.geometry;
    let (in_group, [h, w]) = (s.channels / groups, s.input);
    let (mut sum, mut size) = (0.0, 0.0);
    for k in 0..s.cols() {
        let (c, di, dj) = (k / (kh * kw), k / kw % kh, k % kw);
        let c = o / (s.rows / groups) * in_group + c;
        let (i, j) =
            ((i * stride[0] + di).wrapping_sub(padding[0]), (j * stride[1] + dj).wrapping_sub(padding[1]));
        if i < h && j < w {
            let term =
                f64::from(weight[o * s.cols() + k]) * f64::from(x[((b * s.channels + c) * h + i) * w + j]);
            sum += term;
            size += term.abs();
        }
    }
    (sum, size)
}

fn shapes() -> Vec<ConvShape> {
    let shape = |image, rows, kernel, stride, padding, groups| {
        ConvShape::new(image, rows, ConvGeometry { kernel, stride, padding, groups }).unwrap()
    };
    let all = [
        shape([1, 1, 1, 1], 1, [1, 1], [1, 1], [0, 0], 1),
        shape([3, 3, 9, 17], 16, [3, 3], [1, 1], [1, 1], 1),
        shape([2, 4, 8, 8], 13, [3, 3], [2, 2], [1, 1], 1),
        shape([1, 5, 7, 6], 7, [1, 1], [1, 1], [0, 0], 1),
        shape([2, 5, 7, 9], 3, [1, 1], [2, 2], [0, 0], 1),
        shape([2, 6, 11, 10], 6, [5, 3], [2, 1], [2, 0], 6),
        shape([2, 6, 12, 23], 18, [3, 5], [1, 3], [0, 2], 2),
        shape([1, 2, 14, 30], 5, [4, 4], [4, 4], [0, 0], 1),
        shape([1, 3, 20, 20], 8, [7, 7], [2, 2], [3, 3], 1),
    ];
    let products = |s: &ConvShape| s.batch * s.rows * s.positions() * s.cols();
    all.into_iter().filter(|s| products(s) <= size(usize::MAX, 40_000)).collect()
}

#[test]
fn outputs_are_within_the_bound_of_the_definition() {
    let mut rng = Rng::new(3);
    for shape in shapes() {
        let mut numbers = |n: usize| (0..n).map(|_| rng.number()).collect::<Vec<f32>>();
        let weight = numbers(shape.rows * shape.cols());
        let bias = numbers(shape.rows);
        let x = numbers(shape.batch * shape.image_len());
        let [h, w] = shape.output;
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let mut y = vec![f32::NAN; shape.batch * shape.rows * h * w];
            conv2d_with(isa, &shape, &weight, Some(&bias), &x, &mut y).unwrap();
            for (n, &found) in y.iter().enumerate() {
                let at = [n / (shape.rows * h * w), n / (h * w) % shape.rows, n / w % h, n % w];
                let (sum, size) = exact(&shape, &weight, &x, at);
                let bias = f64::from(bias[at[1]]);
                let bound = (shape.cols() + 1) as f64 * EPS * (size + bias.abs());
                assert!((f64::from(found) - sum - bias).abs() <= bound, "{isa} {shape:?} {at:?}");
            }
        }
    }
}

#[test]
fn a_convolution_is_its_weight_on_patches() {
    let mut rng = Rng::new(4);
    for shape in shapes() {
        let x: Vec<f32> = (0..shape.batch * shape.image_len()).map(|_| rng.below(9) as f32 - 4.0).collect();
        let weight: Vec<f32> = (0..shape.rows * shape.cols()).map(|_| rng.below(9) as f32 - 4.0).collect();
        let mut y = vec![0.0; shape.batch * shape.rows * shape.positions()];
        conv2d(&shape, &weight, None, &x, &mut y).unwrap();
        let (cols, groups, positions) = (shape.cols(), shape.geometry.groups, shape.positions());
        let rows = patches(&shape, &x).unwrap();
        for (n, found) in y.iter().enumerate() {
            let [b, o, p] = [n / (shape.rows * positions), n / positions % shape.rows, n % positions];
            let group = o / (shape.rows / groups);
            let patch = &rows[((b * groups + group) * positions + p) * cols..][..cols];
            let sum: f32 = patch.iter().zip(&weight[o * cols..]).map(|(x, w)| x * w).sum();
            assert_eq!(*found, sum, "{shape:?} {n}"); // whole numbers: exact
        }
    }
}

#[test]
fn threads_and_batches_do_not_change_a_bit() {
    let mut rng = Rng::new(5);
    let shape = ConvShape::new([5, 6, 9, 10], 14, ConvGeometry::same(3, 1)).unwrap();
    let x: Vec<f32> = (0..5 * shape.image_len()).map(|_| rng.number()).collect();
    let weight: Vec<f32> = (0..14 * 54).map(|_| rng.number()).collect();
    let run = |threads: usize, batch: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let part = ConvShape { batch, ..shape };
        let images = x.chunks(batch * shape.image_len());
        pool.install(|| {
            let one = |x: &[f32]| {
                let mut y = vec![0.0; batch * 14 * 90];
                conv2d(&part, &weight, None, x, &mut y).unwrap();
                y
            };
            images.flat_map(one).collect::<Vec<f32>>()
        })
    };
    let whole = run(1, 5);
    assert!(whole == run(3, 5) && whole == run(8, 5) && whole == run(2, 1));
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let geometry = ConvGeometry::same(3, 1);
    let shape = ConvShape::new([1, 2, 4, 4], 3, geometry).unwrap();
    let (w, x) = (vec![0.0; 54], vec![0.0; 32]);
    assert!(conv2d(&shape, &w[1..], None, &x, &mut [0.0; 48]).unwrap_err().to_string().contains('W'));
    assert!(conv2d(&shape, &w, Some(&[0.0; 2]), &x, &mut [0.0; 48]).is_err());
    assert!(conv2d(&shape, &w, None, &x[1..], &mut [0.0; 48]).is_err());
    assert!(conv2d(&shape, &w, None, &x, &mut [0.0; 47]).is_err());
    assert!(patches(&shape, &x[1..]).is_err());
    assert_eq!(ConvShape::new([1, 1, 2, 2], 1, ConvGeometry { kernel: [5, 5], ..geometry }), None);
    assert_eq!(ConvShape::new([1, 3, 4, 4], 4, ConvGeometry { groups: 2, ..geometry }), None);
}
