//! The gradient, the least loss that rounding can have, and what comes out being what was judged.

use trimtab_calibrate::SecondMoment;
use trimtab_math::linalg::Square;
use trimtab_math::random::Stream;

use super::*;
use crate::damage::output_error;

fn numbers(n: usize, name: &str) -> Vec<f32> {
    let mut stream = Stream::new(7, name, 0, 0);
    (0..n).map(|_| stream.normal() as f32).collect()
}

/// `x w^T + b` in double precision, as single.
fn through(x: &[f32], w: &[f32], bias: Option<&[f32]>, n: usize) -> Vec<f32> {
    let m = w.len() / n;
    let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let row = |x: &[f32]| -> Vec<f32> {
        (0..m).map(|r| (dot(x, &w[r * n..][..n]) as f32) + bias.map_or(0.0, |b| b[r])).collect()
    };
    x.chunks_exact(n).flat_map(row).collect()
}

/// Inputs `[rows, n]` that go together, none negative: as after a ReLU.
fn inputs(rows: usize, n: usize) -> Vec<f32> {
    let (own, common) = (numbers(rows * n, "own"), numbers(rows, "common"));
    own.iter().enumerate().map(|(i, x)| (x + 1.5 * common[i / n] + 0.4).max(0.0)).collect()
}

fn scheme(bits: u8) -> WeightScheme {
    WeightScheme {
        bits,
        group_size: None,
        scale_dtype: crate::affine::ScaleDtype::F32,
        ..WeightScheme::default()
    }
}

fn tensor_scheme(bits: u8) -> ActivationScheme {
    ActivationScheme::new(bits, ActivationGranularity::Tensor)
}

/// The loss with every rounding replaced by what it adds at the start: smooth, and with the gradient that AdaQuant takes.
struct Frozen {
    w: Vec<f64>,
    x: Vec<f64>,
    targets: Vec<f64>,
    shape: [usize; 2],
    highest: [f64; 2],
    added: Vec<f64>,
}

impl Frozen {
    /// `record` notes what roundings add; otherwise what was noted is added.
    fn loss(&mut self, values: &[Vec<f64>], record: bool) -> f64 {
        let [m, n] = self.shape;
        let mut at = 0;
        let mut added = std::mem::take(&mut self.added);
        let mut round = |v: f64| {
            if record {
                added.push(v.round_ties_even() - v);
            }
            at += 1;
            v + added[at - 1]
        };
        let mut fake = |v: f64, step: f64, zero: f64, highest: f64| {
            step * round((v / step).max(-zero).min(highest - zero))
        };
        let (v, steps, lows, bias) = (&values[0], &values[1], &values[2], &values[3]);
        let whole = |low: f64, step: f64, highest: f64| (-low / step).clamp(0.0, highest);
        // Zeros are whole at the start, and move with what they are made of.
        let zeros: Vec<f64> = (0..m).map(|r| whole(lows[r], steps[r], self.highest[0])).collect();
        let zero = whole(values[5][0], values[4][0], self.highest[1]);
        let mut q = Vec::new();
        for i in 0..m * n {
            q.push(fake(self.w[i] + v[i], steps[i / n], zeros[i / n], self.highest[0]));
        }
        let x: Vec<f64> = self.x.iter().map(|&x| fake(x, values[4][0], zero, self.highest[1])).collect();
        let mut sum = 0.0;
        for (t, row) in x.chunks_exact(n).enumerate() {
            for r in 0..m {
                let y: f64 = row.iter().zip(&q[r * n..]).map(|(a, b)| a * b).sum::<f64>() + bias[r];
                sum += (y - self.targets[t * m + r]).powi(2);
            }
        }
        self.added = added;
        sum / self.targets.len() as f64
    }
}

#[test]
fn the_gradient_is_that_of_the_loss_with_frozen_roundings() {
    let (m, n, rows) = (2, 3, 6);
    let (w, bias) = (numbers(m * n, "w"), vec![0.1f32, -0.2]);
    // Some below 0: a zero at the end of its codes would lie on a kink of the loss.
    let x: Vec<f32> = inputs(rows, n).into_iter().map(|x| x - 0.4).collect();
    let targets = through(&x, &w, Some(&bias), n);
    let layer = Layer::new(&w, m, n, None).unwrap();
    let of = AdaquantLayer { layer, bias: Some(&bias), inputs: &x, targets: &targets };
    let (scheme, settings) = (scheme(3), AdaquantSettings::default());
    let mut learned = Learned::new(&of, &scheme, Some(tensor_scheme(4)), &settings).unwrap();
    let device = Device::flex().autodiff();
    let mut values = learned.start();
    // Ranges that clip something, so that their ends count; zeros stay whole.
    values[1].iter_mut().for_each(|s| *s *= 0.8);
    values[2].iter_mut().for_each(|low| *low *= 0.8);
    values[4][0] *= 0.8;
    values[5][0] *= 0.8;
    let leaves: Vec<Tensor<1>> =
        values.iter().map(|v| Tensor::from_floats(v.as_slice(), &device).require_grad()).collect();
    learned.install(&leaves).unwrap();
    let tensor = |v: &[f32], width: usize| {
        Flow::Vector(Tensor::from_data(TensorData::new(v.to_vec(), [v.len() / width, width]), &device))
    };
    let both = Flow::both(tensor(&x, n), tensor(&targets, m));
    let Flow::Vector(y) = learned.forward(both, &mut Ctx::default()).unwrap() else { panic!("vectors") };
    let Flow::Vector(t) = tensor(&targets, m) else { panic!("vectors") };
    let loss = (y - t).square().mean();
    let gradients = loss.backward();
    let wide = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let mut frozen = Frozen {
        w: wide(&w),
        x: wide(&x),
        targets: wide(&targets),
        shape: [m, n],
        highest: [7.0, 15.0],
        added: Vec::new(),
    };
    let start: Vec<Vec<f64>> = values.iter().map(|v| wide(v)).collect();
    let at_start = frozen.loss(&start, true);
    assert!((at_start - f64::from(loss.into_scalar::<f32>())).abs() < 1e-4 * at_start);
    let mut sizes = Vec::new();
    for (k, leaf) in leaves.iter().enumerate() {
        let slope: Vec<f32> = leaf.grad(&gradients).unwrap().into_data().iter::<f32>().collect();
        let mut size = 0.0f64;
        for (i, &slope) in slope.iter().enumerate() {
            let mut moved = |by: f64| {
                let mut values = start.clone();
                values[k][i] += by;
                frozen.loss(&values, false)
            };
            let numeric = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            let apart = (numeric - f64::from(slope)).abs();
            assert!(apart < 2e-3 * numeric.abs().max(0.1), "{k}, {i}: {slope} {numeric}");
            size = size.max(numeric.abs());
        }
        sizes.push(size);
    }
    assert!(sizes.iter().all(|&size| size > 1e-3), "all of them count: {sizes:?}");
}

/// The second moment of rows.
fn moment(x: &[f32], n: usize) -> Square {
    use trimtab_nn::{SiteMeta, Tap, TapRows};
    let meta = SiteMeta::linear("up", 1, n);
    let mut sums = SecondMoment::new(n, 1);
    sums.input(&meta, TapRows::new(x, n, None)).unwrap();
    sums.moment().unwrap().mean().clone()
}

#[test]
fn weights_alone_come_within_two_percent_of_the_best_rounding() {
    let (m, n, rows) = (6, 8, 2000);
    let (w, x) = (numbers(m * n, "rows"), inputs(rows, n));
    let h = moment(&x, n);
    let layer = Layer::new(&w, m, n, Some(&h)).unwrap();
    let scheme = scheme(3);
    let plain = rtn(&layer, &scheme, &RtnSettings { range: RangeFinder::MinMax }).unwrap();
    // Every weight goes up or down, 2^8 ways a row, on the grid of the extremes.
    let best = |r: usize| -> f64 {
        let (s, zero) = (plain.scales[r], f32::from(plain.zeros[r]));
        let row = &w[r * n..][..n];
        (0..1u32 << n)
            .map(|ways| {
                let q: Vec<f32> = (row.iter().enumerate())
                    .map(|(j, w)| {
                        let code = (w / s).floor() + ((ways >> j) & 1) as f32;
                        s * code.clamp(-zero, 7.0 - zero)
                    })
                    .collect();
                output_error(row, &q, &h).unwrap()
            })
            .fold(f64::INFINITY, f64::min)
    };
    let best: f64 = (0..m).map(best).sum();
    let how = AdaquantSettings {
        iterations: 3000,
        weight_rate: 2e-3,
        range_rate: 1e-3,
        ..AdaquantSettings::default()
    };
    // Row by row, as the best rounding is: the numbers that are kept are those of the best step.
    let found: f64 = (0..m)
        .map(|r| {
            let row = Layer::new(&w[r * n..][..n], 1, n, Some(&h)).unwrap();
            let found = adaquant_by_moment(&row, &scheme, &how).unwrap();
            output_error(&w[r * n..][..n], &found.pack().unwrap().dequantize(), &h).unwrap()
        })
        .sum();
    let nearest = output_error(&w, &plain.pack().unwrap().dequantize(), &h).unwrap();
    assert!(found <= 1.02 * best, "{found} {best} {nearest}");
    assert!(nearest > 1.3 * best, "control: nearest is not best: {nearest} {best}");
}

#[test]
fn what_comes_out_is_what_was_judged() {
    let (m, n, rows) = (4, 6, 512);
    let (w, bias) = (numbers(m * n, "judged"), numbers(m, "bias"));
    let x = inputs(rows, n);
    let targets = through(&x, &w, Some(&bias), n);
    let layer = Layer::new(&w, m, n, None).unwrap();
    let of = AdaquantLayer { layer, bias: Some(&bias), inputs: &x, targets: &targets };
    for (input, symmetric) in [(Some(tensor_scheme(4)), false), (None, false), (Some(tensor_scheme(5)), true)]
    {
        let scheme = WeightScheme { symmetric, ..scheme(4) };
        let how =
            AdaquantSettings { iterations: 200, rows: 64, weight_rate: 1e-3, ..AdaquantSettings::default() };
        let found = adaquant(&of, &scheme, input, &how).unwrap();
        assert!(found.after < 0.8 * found.before, "{} {}", found.after, found.before);
        let loss = |q: &Quantized, bias: &[f32], input: Option<&ActivationQuantizer>| {
            let held = 7 * 64;
            let mut x = x[held * n..].to_vec();
            if let Some(input) = input {
                let shape = [x.len() / n, n];
                let rows = Tensor::<2>::from_data(TensorData::new(x, shape), &Device::flex());
                x = input.rows(rows).into_data().iter::<f32>().collect();
            }
            let y = through(&x, &q.pack().unwrap().dequantize(), Some(bias), n);
            let apart = y.iter().zip(&targets[held * m..]).map(|(a, b)| f64::from(a - b).powi(2));
            apart.sum::<f64>() / y.len() as f64
        };
        let judged = loss(&found.weight, found.bias.as_ref().unwrap(), found.input.as_ref());
        assert!((judged - found.after).abs() < 1e-3 * judged, "{judged} {}", found.after);
        // Without a step it is rounding to the extremes.
        let none = adaquant(&of, &scheme, input, &AdaquantSettings { iterations: 0, ..how }).unwrap();
        let plain = rtn(&layer, &scheme, &RtnSettings { range: RangeFinder::MinMax }).unwrap();
        assert_eq!((none.weight.codes, none.weight.scales), (plain.codes, plain.scales));
        assert_eq!((none.weight.zeros, none.bias), (plain.zeros, Some(bias.clone())));
        assert_eq!(none.before, none.after);
    }
}

#[test]
fn rows_of_a_root_of_the_second_moment_stand_for_the_data() {
    let (m, n) = (3, 5);
    let (w, x) = (numbers(m * n, "root"), inputs(400, n));
    let h = moment(&x, n);
    let layer = Layer::new(&w, m, n, Some(&h)).unwrap();
    let how = AdaquantSettings { iterations: 300, weight_rate: 1e-3, ..AdaquantSettings::default() };
    let found = adaquant_by_moment(&layer, &scheme(3), &how).unwrap();
    let error = |q: &Quantized| output_error(&w, &q.pack().unwrap().dequantize(), &h).unwrap();
    let plain = rtn(&layer, &scheme(3), &RtnSettings { range: RangeFinder::MinMax }).unwrap();
    assert!(error(&found) < 0.9 * error(&plain), "{} {}", error(&found), error(&plain));
    let blind = Layer::new(&w, m, n, None).unwrap();
    assert!(adaquant_by_moment(&blind, &scheme(3), &how).unwrap_err().to_string().contains("second moment"));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let w = numbers(4, "refused");
    let layer = Layer::new(&w, 2, 2, None).unwrap();
    let of = AdaquantLayer { layer, bias: None, inputs: &w, targets: &w };
    let refused = |of: &AdaquantLayer<'_>, scheme: WeightScheme, input, how: AdaquantSettings| {
        adaquant(of, &scheme, input, &how).unwrap_err().to_string()
    };
    let how = AdaquantSettings::default;
    assert!(refused(&of, scheme(4), None, AdaquantSettings { bias_rate: 0.0, ..how() }).contains("rate"));
    let token = ActivationScheme::new(8, ActivationGranularity::Token);
    assert!(refused(&of, scheme(4), Some(token), how()).contains("whole tensor"));
    let short = AdaquantLayer { targets: &w[..2], ..of };
    assert!(refused(&short, scheme(4), None, how()).contains("targets"));
    let real = WeightScheme { real_zero: true, ..scheme(4) };
    assert!(refused(&of, real, None, how()).contains("scheme"));
}
