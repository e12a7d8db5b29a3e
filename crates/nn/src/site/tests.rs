use std::sync::Mutex;

use burn::tensor::TensorData;
use trimtab_io::{AffineScheme, AffineTensor};

use super::*;
use crate::activation::{ActivationGranularity, ActivationScheme};
use crate::tap::{Tap, TapSet};

fn tensor<const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), &Device::flex())
}

fn site(values: &[f32], rows: usize, cols: usize) -> Site {
    let meta = SiteMeta::linear("up", rows, cols);
    Site::new(meta, Weight::dense(tensor(values, [rows, cols])), None).unwrap()
}

#[test]
fn scale_and_low_rank_branch_add_up_as_written() {
    // W = [[1, 2]], s = [2, 1], x = [1, 1]: W(s x) = 4; branch: 0.5 * B(A (s x)) = 0.5 * 3 * (2 + 1) = 4.5.
    let mut site = site(&[1.0, 2.0], 1, 2);
    site.input.push(InputOp::Scale(Param::from_tensor(tensor(&[2.0, 1.0], [2]))));
    let a = Param::from_tensor(tensor(&[1.0, 1.0], [1, 2]));
    let b = Param::from_tensor(tensor(&[3.0], [1, 1]));
    site.branches.push(Branch::LowRank(LowRank { a, b, scale: 0.5 }));
    let y = site.forward(tensor(&[1.0, 1.0], [1, 1, 2]), &mut Ctx::default());
    assert_eq!(host(y), [8.5]);
}

#[test]
fn a_branch_of_a_file_is_in_the_whole_map_in_rows_by_index_and_in_convolutions() {
    // W = [[1, 2], [0, 1]], B A = [1, 3]^T [2, -1].
    let factors = BranchFactors::from_f32(&[2.0, -1.0], &[1.0, 3.0], 1, trimtab_io::Dtype::F32).unwrap();
    let branch = || Branch::of(&factors, &Device::flex());
    let mut site = site(&[1.0, 2.0, 0.0, 1.0], 2, 2);
    site.set_branches(vec![branch()]).unwrap();
    assert_eq!(site.to_f32(), [3.0, 1.0, 6.0, -2.0]);
    let y = site.forward(tensor(&[1.0, 1.0], [1, 1, 2]), &mut Ctx::default());
    assert_eq!(host(y), [4.0, 4.0]);
    let ids = Tensor::<2, Int>::from_data(TensorData::new(vec![1i64, 0], [1, 2]), &Device::flex());
    assert_eq!(host(site.lookup(ids, &mut Ctx::default())), [6.0, -2.0, 3.0, 1.0]);
    // One pixel of two channels, seen by a kernel of one: the same map.
    let geometry = ConvGeometry::same(1, 1);
    let meta = SiteMeta { kind: SiteKind::Conv(geometry), ..site.meta().clone() };
    let mut conv = Site::new(meta, site.weight.clone(), None).unwrap();
    let image = tensor(&[1.0, 1.0], [1, 2, 1, 1]);
    assert_eq!(host(conv.convolve(image.clone(), &mut Ctx::default()).unwrap()), [3.0, 1.0]);
    conv.set_branches(vec![branch()]).unwrap();
    assert_eq!(host(conv.convolve(image, &mut Ctx::default()).unwrap()), [4.0, 4.0]);
    let wide = BranchFactors::from_f32(&[1.0; 3], &[1.0; 2], 1, trimtab_io::Dtype::F32).unwrap();
    let refused = site.set_branches(vec![Branch::of(&wide, &Device::flex())]).unwrap_err();
    assert!(refused.to_string().contains("up, branch"), "{refused}");
}

#[test]
fn a_quantized_input_is_what_the_weight_the_branch_and_the_taps_see() {
    // [0, 30] in 4 bits: step 2, so [5, 30] is [4, 30]. W = [[1, 2]], branch 3 (x0 + x1).
    let scheme: ActivationScheme = "int4 token".parse().unwrap();
    let mut site = site(&[1.0, 2.0], 1, 2);
    site.set_activation(Some(ActivationQuantizer::dynamic(scheme).unwrap())).unwrap();
    let a = Param::from_tensor(tensor(&[1.0, 1.0], [1, 2]));
    let b = Param::from_tensor(tensor(&[3.0], [1, 1]));
    site.branches.push(Branch::LowRank(LowRank { a, b, scale: 1.0 }));
    let (y, sum) = summed(|ctx| site.forward(tensor(&[5.0, 30.0], [1, 1, 2]), ctx));
    assert_eq!((host(y), sum), (vec![64.0 + 102.0], 34.0));
    site.set_activation(None).unwrap();
    assert_eq!(host(site.forward(tensor(&[5.0, 30.0], [1, 1, 2]), &mut Ctx::default())), [170.0], "control");
    let steps = vec![scheme.step(0.0, 1.0); 3];
    let channel = ActivationScheme { granularity: ActivationGranularity::Channel, ..scheme };
    let refused = site.set_activation(Some(ActivationQuantizer::new(channel, steps).unwrap()));
    assert!(refused.unwrap_err().to_string().contains("2 channels"));
}

/// A site of codes with one scale a row multiplies integers: what comes out is the rounded exact sum, which floats would miss.
#[test]
fn codes_of_rows_and_weights_are_multiplied_as_integers() {
    let (n, rows, cols) = (5, 7, 203);
    let x: Vec<f32> = (0..n * cols).map(|i| ((i * 7919) % 1009) as f32 / 300.0 - 1.2).collect();
    let input = || tensor(&x, [1, n, cols]);
    for bits in [4, 8] {
        let scheme = AffineScheme { bits, group_size: None, symmetric: false };
        let codes: Vec<u8> = (0..rows * cols).map(|i| (i * 37 % 251) as u8 & scheme.max_code()).collect();
        let zeros: Vec<u8> = (0..rows).map(|o| (3 * o) as u8 & scheme.max_code()).collect();
        let scales: Vec<f32> = (0..rows).map(|o| 0.013 + 0.01 * o as f32).collect();
        let of = |scheme: AffineScheme, groups: usize| {
            let each = |values: &[f32]| values.iter().flat_map(|v| vec![*v; groups]).collect::<Vec<f32>>();
            let zeros = zeros.iter().flat_map(|z| vec![*z; groups]).collect();
            AffineTensor::from_codes(
                rows,
                cols,
                scheme,
                &codes,
                each(&scales),
                Some(zeros),
                None,
                trimtab_io::Dtype::F32,
            )
        };
        let packed = |scheme, groups| Weight::packed(of(scheme, groups).unwrap());
        let mut integers = Site::new(SiteMeta::linear("up", rows, cols), packed(scheme, 1), None).unwrap();
        // The same numbers with a scale for each half have no such kernel.
        let halves = AffineScheme { group_size: Some(cols.div_ceil(2)), ..scheme };
        let mut floats = Site::new(SiteMeta::linear("up", rows, cols), packed(halves, 2), None).unwrap();
        for words in ["int8 token", "int8 token sym", "int8 tensor", "int4 tensor dynamic", "int8 channel"] {
            let scheme: ActivationScheme = words.parse().unwrap();
            let steps = match scheme.granularity {
                ActivationGranularity::Tensor => vec![scheme.step(-1.0, 1.5)],
                ActivationGranularity::Channel => vec![scheme.step(-1.0, 1.5); cols],
                _ => Vec::new(),
            };
            let quantizer = ActivationQuantizer::new(scheme, steps).unwrap();
            let plain = host(floats.forward(input(), &mut Ctx::default()));
            for site in [&mut integers, &mut floats] {
                site.set_activation(Some(quantizer.clone())).unwrap();
            }
            let found = host(integers.forward(input(), &mut Ctx::default()));
            let simulated = host(floats.forward(input(), &mut Ctx::default()));
            floats.set_activation(None).unwrap();
            let size = simulated.iter().fold(0.0f32, |size, y| size.max(y.abs()));
            let far =
                |other: &[f32]| found.iter().zip(other).fold(0.0f32, |far, (a, b)| far.max((a - b).abs()));
            assert!(far(&simulated) < 2e-6 * size, "{words}, {bits} bits: {} of {size}", far(&simulated));
            assert!(far(&plain) > 1e-4 * size, "control: {words} rounds");
            let seen = summed(|ctx| host(integers.forward(input(), ctx)));
            let rounded = host(quantizer.rows(tensor(&x, [n, cols])));
            let sum: f64 = rounded.iter().map(|&x| f64::from(x)).sum();
            assert!(
                seen.0 == found && (seen.1 - sum).abs() < 1e-6,
                "taps see rounded rows, and change nothing"
            );
            let Some(coded) = quantizer.coded(&x, cols) else { continue };
            let view = coded.view();
            let exact = |at: usize| {
                let (t, o) = (at / rows, at % rows);
                let zero = i64::from(view.steps[t].zero);
                let q = view.codes[t * cols..][..cols].iter().map(|&q| i64::from(q) - zero);
                let w = codes[o * cols..][..cols].iter().map(|&u| i64::from(u) - i64::from(zeros[o]));
                q.zip(w).map(|(q, w)| q * w).sum::<i64>() as f32 * scales[o] * view.steps[t].scale
            };
            assert_eq!(found, (0..n * rows).map(exact).collect::<Vec<f32>>(), "{words}, {bits} bits");
        }
        // Behind another operation, and beside a branch, which reads what the weight reads.
        let quantizer = ActivationQuantizer::dynamic("int8 token".parse().unwrap()).unwrap();
        let half = Param::from_tensor(tensor(&vec![0.5; cols], [cols]));
        let a = Param::from_tensor(tensor(&x[..2 * cols], [2, cols]));
        let b = Param::from_tensor(tensor(&x[..2 * rows], [rows, 2]));
        for site in [&mut integers, &mut floats] {
            site.set_activation(None).unwrap();
            site.input.push(InputOp::Scale(half.clone()));
            site.set_activation(Some(quantizer.clone())).unwrap();
            site.set_branches(vec![Branch::LowRank(LowRank { a: a.clone(), b: b.clone(), scale: 1.0 })])
                .unwrap();
        }
        let run = |site: &Site| host(site.forward(input(), &mut Ctx::default()));
        let [found, simulated] = [&integers, &floats].map(run);
        let size = simulated.iter().fold(0.0f32, |size, y| size.max(y.abs()));
        let far = found.iter().zip(&simulated).fold(0.0f32, |far, (a, b)| far.max((a - b).abs()));
        assert!(far < 2e-6 * size, "{far} of {size}");
        for site in [&mut integers, &mut floats] {
            site.input.clear();
            site.set_branches(Vec::new()).unwrap();
        }
        let mut holed = x.clone();
        holed[cols + 3] = f32::NAN;
        integers
            .set_activation(Some(ActivationQuantizer::dynamic("int8 token".parse().unwrap()).unwrap()))
            .unwrap();
        let y = host(integers.forward(tensor(&holed, [1, n, cols]), &mut Ctx::default()));
        assert!(y.iter().enumerate().all(|(at, y)| y.is_nan() == (at / rows == 1)), "no number stays none");
    }
}

#[test]
fn a_convolution_quantizes_its_image_by_channel_and_pads_with_real_zeros() {
    // Channel 0 has the step 1 and the zero 3 (range [-3, 12]), channel 1 the step 10.
    let scheme = ActivationScheme::new(4, ActivationGranularity::Channel);
    let steps = vec![scheme.step(-3.0, 12.0), scheme.step(0.0, 150.0)];
    let quantizer = ActivationQuantizer::new(scheme, steps).unwrap();
    let image = [1.4, -2.6, 7.0, 0.4, 14.0, 16.0, 99.0, 1.0];
    let rounded = [1.0, -3.0, 7.0, 0.0, 10.0, 20.0, 100.0, 0.0];
    let meta = SiteMeta {
        kind: SiteKind::Conv(ConvGeometry::same(3, 1)),
        cols: 18,
        ..site(&[0.0; 18], 1, 18).meta().clone()
    };
    for device in [Device::flex(), Device::flex().autodiff()] {
        let of =
            |values: &[f32]| Tensor::<4>::from_data(TensorData::new(values.to_vec(), [1, 2, 2, 2]), &device);
        let kernel: Vec<f32> = (0..18).map(|i| (i % 7) as f32 - 2.0).collect();
        let kernel = Tensor::from_data(TensorData::new(kernel, [1, 18]), &device);
        let mut conv = Site::new(meta.clone(), Weight::dense(kernel), None).unwrap();
        let expected = host(conv.convolve(of(&rounded), &mut Ctx::default()).unwrap());
        let plain = host(conv.convolve(of(&image), &mut Ctx::default()).unwrap());
        conv.set_activation(Some(quantizer.clone())).unwrap();
        let (found, sum) = summed(|ctx| conv.convolve(of(&image), ctx).unwrap());
        let found = host(found);
        assert_eq!(found, expected);
        assert_ne!(found, plain, "control");
        // Every pixel is in four of the patches, the zeros beside them add nothing.
        assert_eq!(sum, 4.0 * f64::from(rounded.iter().sum::<f32>()));
    }
}

#[test]
fn a_weight_of_another_shape_is_refused() {
    let mut site = site(&[1.0, 2.0], 1, 2);
    let error = site.set_weight(Weight::dense(tensor(&[1.0, 2.0], [2, 1]))).unwrap_err();
    assert!(error.to_string().contains("\"up\""), "{error}");
}

#[derive(Default)]
struct Sum(f64);

impl Tap for Sum {
    fn input(&mut self, _: &SiteMeta, rows: TapRows<'_>) -> std::result::Result<(), String> {
        let weight = |row: usize| rows.weights.map_or(1.0, |w| w[row]);
        for (row, values) in rows.rows.chunks(rows.width).enumerate() {
            self.0 += weight(row) * values.iter().map(|&v| f64::from(v)).sum::<f64>();
        }
        Ok(())
    }
}

/// What a run gives, and the sum of what a tap sees meanwhile.
fn summed<T>(run: impl FnOnce(&mut Ctx<'_>) -> T) -> (T, f64) {
    let (sum, mut taps) = (Arc::new(Mutex::new(Sum::default())), TapSet::new());
    taps.attach("up", Arc::clone(&sum));
    let found = run(&mut Ctx { taps: Some(&mut taps), ..Ctx::default() });
    let sum = sum.lock().unwrap().0;
    (found, sum)
}

#[test]
fn taps_see_rows_with_their_weights() {
    let site = site(&[1.0, 2.0], 1, 2);
    let sum = Arc::new(Mutex::new(Sum::default()));
    let mut taps = TapSet::new();
    taps.attach("up", Arc::clone(&sum));
    let mut ctx = Ctx { taps: Some(&mut taps), row_weights: Some(&[1.0, 0.0]), ..Ctx::default() };
    site.forward(tensor(&[1.0, 2.0, 30.0, 40.0], [1, 2, 2]), &mut ctx);
    assert_eq!(sum.lock().unwrap().0, 3.0, "the second token is padding");
}

#[test]
fn a_step_on_a_tied_weight_sees_the_summed_gradient() {
    // y = sum(E[id] E^T): E is used as a table and as a head; its gradient is the sum of both uses.
    let device = Device::flex().autodiff();
    let values = [0.5f32, -1.0, 2.0, 0.25];
    let tied = Tensor::<2>::from_data(TensorData::new(values.to_vec(), [2, 2]), &device).require_grad();
    let site = Site::new(site(&values, 2, 2).meta().clone(), Weight::dense(tied), None).unwrap();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(vec![0i64], [1, 1]), &device);
    let loss = site.forward(site.lookup(ids, &mut Ctx::default()), &mut Ctx::default()).sum();
    let grads = loss.backward();
    let Weight::Dense(param) = &site.weight else { panic!("dense") };
    let gradient = host(param.val().grad(&grads).unwrap());
    // d/dE of sum_v e0 . e_v: row 0 gets (e0 + e1) as a table plus e0 as a head, row 1 gets e0.
    assert_eq!(gradient, [0.5 + 2.0 + 0.5, -1.0 + 0.25 - 1.0, 0.5, -1.0]);
}
