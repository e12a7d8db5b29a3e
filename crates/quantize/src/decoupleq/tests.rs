use trimtab_math::gram::GramAccumulator;
use trimtab_math::random::Stream;

use super::*;
use crate::affine::ScaleDtype;
use crate::damage::output_error;
use crate::gptq::gptq;
use crate::rtn::{RtnSettings, rtn};
use trimtab_math::linalg::Square;

/// A weight and the second moment of correlated inputs of uneven power.
fn instance(rows: usize, n: usize, seed: u64) -> (Vec<f32>, Square) {
    let mut stream = Stream::new(seed, "test/decoupleq", rows as u64, n as u64);
    let weight = (0..rows * n).map(|_| stream.normal() as f32 * 0.1).collect();
    let powers: Vec<f32> = (0..n).map(|_| (stream.normal() * 0.7).exp() as f32).collect();
    let mut gram = GramAccumulator::new(n);
    for _ in 0..3 * n + 8 {
        let mut row: Vec<f32> = (0..n).map(|_| stream.normal() as f32).collect();
        (1..n).for_each(|j| row[j] += 0.8 * row[j - 1]);
        row.iter_mut().zip(&powers).for_each(|(x, power)| *x *= power);
        gram.add(&row, None).unwrap();
    }
    (weight, gram.mean().unwrap())
}

fn scheme(bits: u8, group_size: Option<usize>) -> WeightScheme {
    WeightScheme {
        bits,
        group_size,
        real_zero: true,
        scale_dtype: ScaleDtype::F32,
        ..WeightScheme::default()
    }
}

fn solve(weight: &[f32], h: &Square, scheme: &WeightScheme, settings: &DecoupleqSettings) -> Quantized {
    let layer = Layer::new(weight, weight.len() / h.n(), h.n(), Some(h)).unwrap();
    decoupleq(&layer, scheme, settings).unwrap()
}

fn damped(h: &Square) -> Square {
    let mut damped = h.clone();
    let shift = 0.01 * h.mean_diagonal();
    (0..h.n()).for_each(|i| damped.as_mut_slice()[i * h.n() + i] += shift);
    damped
}

/// `(q − w) H (q − w)ᵀ` of each row, the obvious loop.
fn row_errors(weight: &[f32], q: &[f32], h: &Square) -> Vec<f64> {
    weight.chunks(h.n()).zip(q.chunks(h.n())).map(|(w, q)| output_error(w, q, h).unwrap()).collect()
}

fn forms_of(weight: &[f32], h: &Square, scheme: &WeightScheme) -> Forms {
    let layer = Layer::new(weight, weight.len() / h.n(), h.n(), Some(h)).unwrap();
    Forms::new(&layer, 0.0, scheme).unwrap()
}

/// Numbers of codes with exact parameters, for derivatives finer than single precision.
fn error_at(weight: &[f32], codes: &[u8], h: &Square, bits: u8, width: usize, p: &[[f64; 2]]) -> f64 {
    let n = h.n();
    let middle = f64::from(1u8 << (bits - 1));
    let d: Vec<f64> = (0..n)
        .map(|i| p[i / width][0] * (f64::from(codes[i]) - middle) + p[i / width][1] - f64::from(weight[i]))
        .collect();
    (0..n).map(|i| d[i] * (0..n).map(|j| h.at(i, j) * d[j]).sum::<f64>()).sum()
}

#[test]
fn closed_form_has_no_gradient_and_beats_ten_thousand_others() {
    let (n, rows) = (24, 3);
    let (weight, h) = instance(rows, n, 1);
    for group_size in [None, Some(10)] {
        let scheme = scheme(3, group_size);
        let (width, groups) = (scheme.group_width(n), scheme.groups(n));
        let forms = forms_of(&weight, &h, &scheme);
        let mut stream = Stream::new(5, "test/decoupleq/codes", 0, 0);
        let codes: Vec<u8> = (0..rows * n).map(|_| stream.below(8) as u8).collect();
        let start = vec![RealZero { scale: 0.05, zero: 0.01 }; rows * groups];
        let (errors, refit) = forms.evaluate(&codes, &start).unwrap();
        for row in 0..rows {
            let (w, codes) = (&weight[row * n..(row + 1) * n], &codes[row * n..(row + 1) * n]);
            let exact = |found: &[RealZero]| -> Vec<[f64; 2]> {
                found.iter().map(|p| [f64::from(p.scale), f64::from(p.zero)]).collect()
            };
            let error = |p: &[[f64; 2]]| error_at(w, codes, &h, 3, width, p);
            let of_row = row * groups..(row + 1) * groups;
            let before = error(&exact(&start[of_row.clone()]));
            assert!((errors[row] / before - 1.0).abs() < 1e-10, "the error is the quadratic form");
            let best = exact(&refit.parameters[of_row.clone()]);
            assert!((refit.errors[row] / error(&best) - 1.0).abs() < 1e-10);
            // The gradient, central differences of a quadratic function being exact; steps were rounded to single precision, so
            // that their slope is what rounding leaves, while zeros were solved beside the rounded steps.
            let power = error(&vec![[0.0, 0.0]; groups]);
            let slope = |p: &[[f64; 2]], group: usize, part: usize| {
                let [mut up, mut down] = [p.to_vec(), p.to_vec()];
                up[group][part] += 0.01;
                down[group][part] -= 0.01;
                (error(&up) - error(&down)) / 0.02 * p[group][part].abs().max(0.01) / power
            };
            for group in 0..groups {
                assert!(slope(&best, group, 0).abs() < 1e-6 && slope(&best, group, 1).abs() < 1e-6);
                let mut off = best.clone();
                off[group][0] *= 1.01;
                assert!(slope(&off, group, 0).abs() > 1e-5, "control: one per cent off has a slope");
            }
            for _ in 0..10_000 / rows {
                let other: Vec<[f64; 2]> = best
                    .iter()
                    .map(|p| p.map(|x| x + 0.02 * stream.normal() * stream.uniform().powi(4)))
                    .collect();
                assert!(error(&other) >= refit.errors[row] * (1.0 - 1e-9));
            }
        }
    }
}

#[test]
fn errors_of_rows_never_rise_and_are_those_of_the_result() {
    let (weight, h) = instance(40, 48, 2);
    for (bits, group_size) in [(2, None), (2, Some(16)), (3, Some(20)), (4, None)] {
        for rounding in [Rounding::Gptq, Rounding::Train { before: 5, between: 3, rate: 1e-2 }] {
            let settings = DecoupleqSettings { rounding, ..DecoupleqSettings::default() };
            let layer = Layer::new(&weight, 40, 48, Some(&h)).unwrap();
            let mut seen: Vec<Vec<f64>> = Vec::new();
            let found =
                run(&layer, &scheme(bits, group_size), &settings, |errors| seen.push(errors.to_vec()))
                    .unwrap();
            assert!(seen.len() >= 4);
            for step in seen.windows(2) {
                assert!(step[0].iter().zip(&step[1]).all(|(before, after)| after <= before));
            }
            // By the obvious loop, on the numbers that are stored.
            let errors = row_errors(&weight, &found.dequantize(), &damped(&h));
            for (found, expected) in seen.last().unwrap().iter().zip(&errors) {
                assert!((found / expected - 1.0).abs() < 1e-4, "{found} {expected}");
            }
            let damage = output_error(&weight, &found.dequantize(), &h).unwrap();
            assert!((found.report.damage.unwrap() / damage - 1.0).abs() < 1e-4);
            let plain = rtn(&layer, &scheme(bits, group_size), &RtnSettings::default()).unwrap();
            let plain = output_error(&weight, &plain.dequantize(), &h).unwrap();
            assert!((found.report.rtn_damage.unwrap() / plain - 1.0).abs() < 1e-4);
            // Control: what is taken only if it helps does not always help.
            let total = |errors: &[f64]| errors.iter().sum::<f64>();
            assert!(total(seen.last().unwrap()) < 0.9 * total(&seen[0]));
        }
    }
}

#[test]
fn without_acceptance_rows_get_worse() {
    // Why rows take a step only if it helps: the integer step raises the error of some.
    let (weight, h) = instance(60, 24, 3);
    let scheme = scheme(2, None);
    let layer = Layer::new(&weight, 60, 24, Some(&h)).unwrap();
    let rounded = rtn(&layer, &scheme, &RtnSettings::default()).unwrap();
    let settings = GptqSettings { rtn_check: false, ..GptqSettings::default() };
    let by_gptq = gptq(&layer, &scheme, &settings).unwrap();
    let [before, after] = [rounded, by_gptq].map(|q| row_errors(&weight, &q.dequantize(), &damped(&h)));
    assert!(before.iter().zip(&after).any(|(before, after)| after > before));
}

#[test]
fn lies_between_the_best_of_all_integers_and_gptq() {
    // 40 rows of 8 weights and 2 bits: all 4^8 integers, each with its own best step and zero.
    const N: usize = 8;
    let mut ratios = [const { Vec::new() }; 3];
    for seed in 0..40 {
        let (weight, h) = instance(1, N, 100 + seed);
        let damped = damped(&h);
        let best = best_of_all(&weight, &damped);
        let scheme = scheme(2, None);
        let layer = Layer::new(&weight, 1, N, Some(&h)).unwrap();
        let of = |q: Quantized| output_error(&weight, &q.dequantize(), &damped).unwrap() / best;
        let settings = GptqSettings { rtn_check: false, ..GptqSettings::default() };
        ratios[0].push(of(decoupleq(&layer, &scheme, &DecoupleqSettings::default()).unwrap()));
        ratios[1].push(of(gptq(&layer, &scheme, &settings).unwrap()));
        ratios[2].push(of(rtn(&layer, &scheme, &RtnSettings::default()).unwrap()));
    }
    assert!(ratios.iter().flatten().all(|&ratio| ratio > 1.0 - 1e-4), "nothing beats all of them");
    let medians = ratios.map(|mut list| {
        list.sort_by(f64::total_cmp);
        list[20]
    });
    assert!(medians[0] <= 1.5 && medians[0] < medians[1] && medians[1] < medians[2], "{medians:?}");
    assert!(medians[1] > 1.5, "control: GPTQ from min-max is far away: {medians:?}");
}

fn best_of_all(weight: &[f32], h: &Square) -> f64 {
    let n = h.n();
    let w: Vec<f64> = weight.iter().map(|&w| f64::from(w)).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let times = |a: &[f64]| -> Vec<f64> { (0..n).map(|i| dot(h.row(i), a)).collect() };
    let (of_w, of_ones) = (times(&w), times(&vec![1.0; n]));
    let (ww, ones, w1) = (dot(&w, &of_w), of_ones.iter().sum::<f64>(), dot(&w, &of_ones));
    let mut least = ww - w1 * w1 / ones;
    for k in 0..1usize << (2 * n) {
        let a: Vec<f64> = (0..n).map(|i| (k >> (2 * i) & 3) as f64).collect();
        let (aa, a1, aw) = (dot(&a, &times(&a)), dot(&a, &of_ones), dot(&a, &of_w));
        let determinant = aa * ones - a1 * a1;
        if determinant > 1e-9 * aa * ones {
            let s = (aw * ones - a1 * w1) / determinant;
            let z = (w1 - s * a1) / ones;
            least = least.min(ww - s * aw - z * w1);
        }
    }
    least
}

/// A row whose min-max range has 0 exactly at an integer, so that integer and real zeros are the same.
fn on_the_grid(rows: usize, n: usize) -> Vec<f32> {
    let mut stream = Stream::new(9, "test/decoupleq/grid", rows as u64, n as u64);
    let mut weight: Vec<f32> = (0..rows * n).map(|_| stream.uniform() as f32 * 2.8 - 0.9).collect();
    for row in weight.chunks_mut(n) {
        (row[0], row[n - 1]) = (-1.0, 2.0);
    }
    weight
}

#[test]
fn one_iteration_from_min_max_is_gptq() {
    let (rows, n) = (50, 40);
    let weight = on_the_grid(rows, n);
    let (_, h) = instance(1, n, 4);
    let layer = Layer::new(&weight, rows, n, Some(&h)).unwrap();
    for order in [ColumnOrder::Natural, ColumnOrder::DescendingDiagonal] {
        let of_gptq =
            GptqSettings { order, groups: GroupFit::Static, rtn_check: false, ..GptqSettings::default() };
        let settings = |iterations| DecoupleqSettings { iterations, order, ..DecoupleqSettings::default() };
        let integer = WeightScheme {
            bits: 2,
            group_size: None,
            scale_dtype: ScaleDtype::F32,
            ..WeightScheme::default()
        };
        let expected = gptq(&layer, &integer, &of_gptq).unwrap();
        let rounded = rtn(&layer, &integer, &RtnSettings::default()).unwrap();
        let one = decoupleq(&layer, &scheme(2, None), &settings(1)).unwrap();
        let four = decoupleq(&layer, &scheme(2, None), &settings(4)).unwrap();
        let row_of = |codes: &[u8], row: usize| codes[row * n..(row + 1) * n].to_vec();
        let (mut same, mut kept) = (0, 0);
        for row in 0..rows {
            let found = row_of(&one.codes, row);
            same += usize::from(found == row_of(&expected.codes, row));
            kept += usize::from(found == row_of(&rounded.codes, row));
        }
        // Rows on which rounding is better keep it; the rest are GPTQ's.
        assert!(same >= 40 && same + kept >= rows, "{same} {kept}");
        assert!(
            (0..rows).filter(|&row| row_of(&four.codes, row) == row_of(&expected.codes, row)).count() < 10
        );
    }
}

#[test]
fn errs_less_than_gptq_from_min_max_and_from_shrunk_ranges() {
    let (weight, h) = instance(64, 64, 6);
    let layer = Layer::new(&weight, 64, 64, Some(&h)).unwrap();
    let damped = damped(&h);
    let error = |q: Quantized| output_error(&weight, &q.dequantize(), &damped).unwrap();
    for bits in [2, 3, 4] {
        let by_gptq = |range| {
            let settings = GptqSettings { range, rtn_check: false, ..GptqSettings::default() };
            error(gptq(&layer, &scheme(bits, None), &settings).unwrap())
        };
        let [plain, shrunk] = [RangeFinder::MinMax, RangeFinder::mse_weighted()].map(by_gptq);
        let found = error(decoupleq(&layer, &scheme(bits, None), &DecoupleqSettings::default()).unwrap());
        let ratios = [found / plain, found / shrunk];
        assert!(ratios[0] < 0.85 && ratios[1] < 0.95, "{bits} bits: {ratios:?}");
    }
}

#[test]
fn symmetric_codes_have_zeros_of_nothing_and_integer_zeros_are_refused() {
    let (weight, h) = instance(20, 32, 7);
    for group_size in [None, Some(8)] {
        let symmetric = WeightScheme { symmetric: true, real_zero: false, ..scheme(3, group_size) };
        let found = solve(&weight, &h, &symmetric, &DecoupleqSettings::default());
        assert!(found.real_zeros.is_none() && found.zeros.iter().all(|&zero| zero == 4));
        assert!(found.scales.iter().all(|&s| s > 0.0));
        let layer = Layer::new(&weight, 20, 32, Some(&h)).unwrap();
        let settings = GptqSettings { rtn_check: false, ..GptqSettings::default() };
        let plain = gptq(&layer, &symmetric, &settings).unwrap();
        let [found, plain] = [found, plain].map(|q| output_error(&weight, &q.dequantize(), &h).unwrap());
        assert!(found < 0.95 * plain, "{found} {plain}");
    }
    let layer = Layer::new(&weight, 20, 32, Some(&h)).unwrap();
    let refused = decoupleq(&layer, &WeightScheme::default(), &DecoupleqSettings::default()).unwrap_err();
    assert!(refused.to_string().contains("real zeros"), "{refused}");
    let blind = Layer::new(&weight, 20, 32, None).unwrap();
    let refused = decoupleq(&blind, &scheme(2, None), &DecoupleqSettings::default());
    assert!(matches!(refused, Err(Error::MissingHessian { .. })));
}

#[test]
fn steps_and_zeros_are_values_of_their_type_and_what_is_packed_is_what_was_judged() {
    let (weight, h) = instance(12, 40, 8);
    for scale_dtype in [ScaleDtype::F16, ScaleDtype::Bf16] {
        for group_size in [None, Some(16)] {
            let scheme = WeightScheme { scale_dtype, ..scheme(2, group_size) };
            let found = solve(&weight, &h, &scheme, &DecoupleqSettings::default());
            let stored = found.scales.iter().chain(found.real_zeros.as_ref().unwrap());
            assert!(stored.clone().all(|&x| scale_dtype.round_signed(x) == x));
            assert_eq!(found.pack().unwrap().dequantize(), found.dequantize());
            let zeros = found.real_zeros.as_ref().unwrap();
            let steps = zeros.iter().zip(&found.scales).map(|(z, s)| (z / s - (z / s).round()).abs());
            assert!(steps.fold(0.0, f32::max) > 0.1, "zeros between integers");
        }
    }
}

#[test]
fn same_bytes_at_any_number_of_threads_and_any_scale_of_the_second_moment() {
    let (weight, mut h) = instance(150, 70, 9);
    for k in 0..70 {
        h.as_mut_slice()[7 * 70 + k] = 0.0;
        h.as_mut_slice()[k * 70 + 7] = 0.0;
    }
    for group_size in [None, Some(32)] {
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| solve(&weight, &h, &scheme(2, group_size), &DecoupleqSettings::default()))
        };
        let one = on(1);
        assert_eq!(one, on(2));
        assert_eq!(one, on(3));
        assert_eq!(one.report.dead_columns, 1);
        let scaled = Square::new(70, h.as_slice().iter().map(|x| x * 1024.0).collect()).unwrap();
        let other = solve(&weight, &scaled, &scheme(2, group_size), &DecoupleqSettings::default());
        assert_eq!((&one.codes, &one.scales), (&other.codes, &other.scales));
    }
}

#[test]
fn training_rounds_at_least_as_well_as_nearest() {
    let (weight, h) = instance(16, 16, 10);
    let of = |rounding| {
        let settings = DecoupleqSettings { rounding, ..DecoupleqSettings::default() };
        output_error(&weight, &solve(&weight, &h, &scheme(2, None), &settings).dequantize(), &h).unwrap()
    };
    let [trained, by_gptq] = [of(Rounding::train()), of(Rounding::Gptq)];
    let idle = of(Rounding::Train { before: 0, between: 0, rate: 1e-3 });
    assert!(trained < 1.15 * by_gptq, "{trained} {by_gptq}");
    assert!(trained < idle, "control: without steps it is round-to-nearest: {trained} {idle}");
}

#[test]
fn degenerate_layers_and_bad_settings() {
    for (rows, n) in [(0, 0), (0, 3), (3, 0), (1, 1), (2, 5)] {
        for value in [0.5, 0.0] {
            let weight = vec![value; rows * n];
            let h = Square::identity(n);
            let layer = Layer::new(&weight, rows, n, Some(&h)).unwrap();
            let found = decoupleq(&layer, &scheme(2, None), &DecoupleqSettings::default()).unwrap();
            let far = found.dequantize().iter().map(|x| (x - value).abs()).fold(0.0, f32::max);
            assert!(far < 1e-3, "{rows} x {n} of {value}: {far}");
        }
    }
    let silent = Square::diagonal_matrix(&[0.0; 4]);
    assert_eq!(
        solve(&[1.0; 4], &silent, &scheme(2, None), &DecoupleqSettings::default()).report.dead_columns,
        4
    );
    let (weight, h) = instance(2, 4, 1);
    let layer = Layer::new(&weight, 2, 4, Some(&h)).unwrap();
    for settings in [
        DecoupleqSettings { iterations: 0, ..DecoupleqSettings::default() },
        DecoupleqSettings { tolerance: 2.0, ..DecoupleqSettings::default() },
        DecoupleqSettings {
            rounding: Rounding::Train { before: 1, between: 1, rate: 0.0 },
            ..DecoupleqSettings::default()
        },
    ] {
        assert!(matches!(decoupleq(&layer, &scheme(2, None), &settings), Err(Error::Setting { .. })));
    }
    let read: DecoupleqSettings =
        serde_json::from_str(r#"{"rounding": {"by": "train", "before": 9}}"#).unwrap();
    assert_eq!(read.rounding, Rounding::Train { before: 9, between: 50, rate: 1e-3 });
    assert!(serde_json::from_str::<DecoupleqSettings>(r#"{"iters": 3}"#).is_err());
}
