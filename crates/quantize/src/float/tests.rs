use std::path::Path;

use trimtab_io::{Checkpoint, FloatElement, FloatScheme, ScaleFormat, ScaleGrid, decode_e8m0, float_tensors};
use trimtab_math::gram::GramAccumulator;
use trimtab_math::linalg::Square;
use trimtab_math::random::Stream;

use super::*;
use crate::damage::output_error;
use crate::error::Error;
use crate::gptq::{ColumnOrder, GptqSettings, GroupFit, gptq_float};

const N: usize = 64;

/// A weight with rows of uneven size, and the second moment of correlated inputs of uneven power.
fn instance(rows: usize, seed: u64) -> (Vec<f32>, Square) {
    let mut stream = Stream::new(seed, "test/float", rows as u64, N as u64);
    let mut weight: Vec<f32> = (0..rows * N).map(|_| stream.normal() as f32 * 0.1).collect();
    weight.chunks_mut(N).step_by(3).for_each(|row| row.iter_mut().for_each(|x| *x *= 7.0));
    let powers: Vec<f32> = (0..N).map(|_| (stream.normal() * 0.7).exp() as f32).collect();
    let mut gram = GramAccumulator::new(N);
    for _ in 0..2 * N + 8 {
        let mut row: Vec<f32> = (0..N).map(|_| stream.normal() as f32).collect();
        (1..N).for_each(|j| row[j] += 0.8 * row[j - 1]);
        row.iter_mut().zip(&powers).for_each(|(x, power)| *x *= power);
        gram.add(&row, None).unwrap();
    }
    (weight, gram.mean().unwrap())
}

fn schemes() -> Vec<FloatScheme> {
    let fp8 = |grid| FloatScheme { element: FloatElement::E4M3, grid, scale: ScaleFormat::BF16 };
    vec![
        fp8(ScaleGrid::Tensor),
        fp8(ScaleGrid::Channel),
        fp8(ScaleGrid::Block([10, 24])),
        FloatScheme { element: FloatElement::E5M2, ..FloatScheme::fp8(ScaleFormat::F32) },
        FloatScheme::MXFP8,
        FloatScheme::NVFP4,
        FloatScheme::MXFP4,
    ]
}

fn squares(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

#[test]
fn scales_and_codes_are_those_of_compressed_tensors() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../io/tests/fixtures/float_formats/cases.safetensors");
    let checkpoint = Checkpoint::open(path).unwrap();
    let weight = checkpoint.tensor("original").unwrap().to_f32().unwrap();
    let layer = Layer::new(&weight, 18, 96, None).unwrap();
    let fp8 = |grid| FloatScheme { element: FloatElement::E4M3, grid, scale: ScaleFormat::F32 };
    let cases = [
        ("fp8.tensor", fp8(ScaleGrid::Tensor)),
        ("fp8.channel", fp8(ScaleGrid::Channel)),
        ("fp8.group", fp8(ScaleGrid::Group(24))),
        ("fp8.block", fp8(ScaleGrid::Block([16, 32]))),
        ("nvfp4", FloatScheme::NVFP4),
    ];
    for (case, scheme) in cases {
        let found = float_rtn(&layer, &scheme, ScaleFinder::AbsMax).unwrap();
        let packed = found.pack().unwrap();
        for (name, tensor) in float_tensors(case, &packed).unwrap() {
            assert_eq!(tensor.bytes[..], checkpoint.tensor(&name).unwrap().bytes[..], "{name}");
        }
        assert_eq!(found.dequantize(), packed.dequantize(), "{case}: simulated is packed");
        let searched = float_rtn(&layer, &scheme, ScaleFinder::Mse).unwrap();
        assert_ne!(searched.scales, found.scales, "{case}");
    }
    // The library takes the next power of two from 1.75 on, the standard never.
    let stored = checkpoint.tensor("mxfp4.weight_scale").unwrap();
    let found = float_rtn(&layer, &FloatScheme::MXFP4, ScaleFinder::AbsMax).unwrap();
    let mut equal = 0;
    for (i, (scale, &byte)) in found.scales.iter().zip(stored.bytes.iter()).enumerate() {
        let absmax = weight[i * 32..(i + 1) * 32].iter().fold(0.0, |m: f32, x| m.max(x.abs()));
        let mantissa = f32::from_bits(absmax.to_bits() & 0x007f_ffff | 127 << 23);
        let factor = if mantissa >= 1.75 { 2.0 } else { 1.0 };
        assert_eq!(scale * factor, decode_e8m0(byte), "group {i}: {absmax}");
        equal += usize::from(factor == 1.0);
    }
    assert!((20..54).contains(&equal), "{equal} of 54");
}

#[test]
fn numbers_of_the_type_come_back_exactly() {
    let element = FloatElement::E2M1;
    // Each group of 16 has the largest code, and scales are powers of two that all types hold.
    let weight: Vec<f32> = (0..4 * N)
        .map(|i| {
            let code = if i % 16 == 0 { 7 } else { (i * 7 % 16) as u8 };
            element.decode(code) * [0.25, 0.5][i / 32 % 2]
        })
        .collect();
    let layer = Layer::new(&weight, 4, N, None).unwrap();
    for finder in [ScaleFinder::AbsMax, ScaleFinder::Mse] {
        for scheme in [FloatScheme::MXFP4, FloatScheme::MXFP8] {
            assert_eq!(float_rtn(&layer, &scheme, finder).unwrap().dequantize(), weight, "{scheme}");
        }
        // Of a matrix whose scales are not in steps of E4M3 from the largest, nothing comes back.
        let third: Vec<f32> = weight.iter().map(|x| x / 3.1).collect();
        let layer = Layer::new(&third, 4, N, None).unwrap();
        assert_ne!(float_rtn(&layer, &FloatScheme::MXFP4, finder).unwrap().dequantize(), third);
    }
    // 448 * 6 / 3 = 896: all products and quotients are exact.
    assert_eq!(float_rtn(&layer, &FloatScheme::NVFP4, ScaleFinder::AbsMax).unwrap().dequantize(), weight);
}

#[test]
fn the_search_finds_the_best_of_all_scales() {
    let (weight, h) = instance(12, 1);
    let power: Vec<f32> = h.diagonal().iter().map(|&x| x as f32).collect();
    let layer = Layer::new(&weight, 12, N, Some(&h)).unwrap();
    for (finder, power) in [(ScaleFinder::Mse, None), (ScaleFinder::MseWeighted, Some(&power))] {
        for scheme in [FloatScheme::MXFP4, FloatScheme::NVFP4] {
            let scaler = Scaler::new(&layer, scheme, finder);
            let all: Vec<f32> = match scheme.scale {
                ScaleFormat::E8M0 => (1..=254).map(decode_e8m0).collect(),
                _ => (1..=0x7e).map(|code| FloatElement::E4M3.decode(code)).collect(),
            };
            let [_, width] = scheme.extent(12, N);
            let (mut found_sum, mut best_sum, mut first_sum) = (0.0, 0.0, 0.0);
            for (i, values) in weight.chunks(width).enumerate() {
                let power = power.map(|power| &power[i * width % N..][..width]);
                let error = |stored: f32| -> f64 {
                    let scale = scaler.effective(stored);
                    let square = |(j, &x): (usize, &f32)| {
                        let error = f64::from(x - scheme.element.round(x / scale) * scale);
                        error * error * power.map_or(1.0, |power| f64::from(power[j]))
                    };
                    values.iter().enumerate().map(square).sum()
                };
                let best = all.iter().map(|&s| error(s)).fold(f64::INFINITY, f64::min);
                found_sum += error(scaler.fit(&[values], power));
                first_sum += error(Scaler { finder: ScaleFinder::AbsMax, ..scaler }.fit(&[values], power));
                best_sum += best;
            }
            assert!(found_sum <= 1.01 * best_sum, "{scheme}: {found_sum} against {best_sum}");
            assert!(found_sum < 0.97 * first_sum, "{scheme}: {found_sum} against {first_sum}");
        }
    }
}

#[test]
fn finer_formats_err_less() {
    let (weight, _) = instance(30, 2);
    let layer = Layer::new(&weight, 30, N, None).unwrap();
    let error = |scheme: FloatScheme, finder| {
        squares(&weight, &float_rtn(&layer, &scheme, finder).unwrap().dequantize())
    };
    use ScaleFinder::{AbsMax, Mse};
    let fp8 = FloatScheme::fp8(ScaleFormat::F32);
    assert!(error(FloatScheme::NVFP4, AbsMax) < error(FloatScheme::MXFP4, AbsMax));
    assert!(error(fp8, AbsMax) < 0.2 * error(FloatScheme::NVFP4, AbsMax));
    for scheme in schemes() {
        assert!(error(scheme, Mse) <= error(scheme, AbsMax) * (1.0 + 1e-6), "{scheme}");
    }
}

#[test]
fn gptq_with_uncorrelated_inputs_is_round_to_nearest() {
    let (weight, correlated) = instance(30, 3);
    let power: Vec<f64> = (0..N).map(|j| 1.0 + (j % 7) as f64).collect();
    for scheme in schemes() {
        for finder in [ScaleFinder::AbsMax, ScaleFinder::MseWeighted] {
            let h = Square::diagonal_matrix(&power);
            let layer = Layer::new(&weight, 30, N, Some(&h)).unwrap();
            let rounded = float_rtn(&layer, &scheme, finder).unwrap();
            for groups in [GroupFit::Static, GroupFit::Dynamic] {
                let settings = GptqSettings { groups, ..GptqSettings::default() };
                let found = gptq_float(&layer, &scheme, finder, &settings).unwrap();
                assert_eq!((&found.codes, &found.scales), (&rounded.codes, &rounded.scales), "{scheme}");
                let layer = Layer::new(&weight, 30, N, Some(&correlated)).unwrap();
                let other = gptq_float(&layer, &scheme, finder, &settings).unwrap();
                assert_ne!(other.codes, rounded.codes, "{scheme}");
            }
        }
    }
}

#[test]
fn gptq_does_less_damage_and_reports_it() {
    for scheme in schemes() {
        let (mut gptq_sum, mut rtn_sum) = (0.0, 0.0);
        for seed in 0..4 {
            let (weight, h) = instance(20, 10 + seed);
            let layer = Layer::new(&weight, 20, N, Some(&h)).unwrap();
            let found = gptq_float(&layer, &scheme, ScaleFinder::AbsMax, &GptqSettings::default()).unwrap();
            let rounded = float_rtn(&layer, &scheme, ScaleFinder::AbsMax).unwrap();
            let damage = output_error(&weight, &found.dequantize(), &h).unwrap();
            let rtn_damage = output_error(&weight, &rounded.dequantize(), &h).unwrap();
            let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-3;
            assert!(close(found.report.damage.unwrap(), damage), "{scheme}");
            assert!(close(found.report.rtn_damage.unwrap(), rtn_damage), "{scheme}");
            assert_eq!(found.dequantize(), found.pack().unwrap().dequantize(), "{scheme}");
            gptq_sum += damage;
            rtn_sum += rtn_damage;
        }
        assert!(gptq_sum < 0.8 * rtn_sum, "{scheme}: {gptq_sum} against {rtn_sum}");
    }
}

#[test]
fn same_bytes_at_any_number_of_threads_and_blocks_of_many_rows() {
    let (weight, h) = instance(700, 5);
    let scheme = FloatScheme { grid: ScaleGrid::Block([100, 24]), ..FloatScheme::fp8(ScaleFormat::F32) };
    let settings = GptqSettings {
        order: ColumnOrder::DescendingDiagonal,
        groups: GroupFit::Static,
        ..GptqSettings::default()
    };
    let on = |threads, scheme: FloatScheme| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let layer = Layer::new(&weight, 700, N, Some(&h)).unwrap();
        pool.install(|| gptq_float(&layer, &scheme, ScaleFinder::MseWeighted, &settings).unwrap())
    };
    for scheme in [scheme, FloatScheme::NVFP4] {
        let one = on(1, scheme);
        assert_eq!(one, on(2, scheme));
        assert_eq!(one, on(3, scheme));
        assert!(!one.report.fell_back, "{scheme}");
    }
}

#[test]
fn impossible_requests_and_degenerate_weights() {
    let (weight, h) = instance(4, 6);
    let layer = Layer::new(&weight, 4, N, Some(&h)).unwrap();
    let without = Layer::new(&weight, 4, N, None).unwrap();
    let settings = GptqSettings::default();
    let missing = float_rtn(&without, &FloatScheme::NVFP4, ScaleFinder::MseWeighted);
    assert!(matches!(missing, Err(Error::MissingHessian { .. })));
    let missing = gptq_float(&without, &FloatScheme::NVFP4, ScaleFinder::AbsMax, &settings);
    assert!(matches!(missing, Err(Error::MissingHessian { .. })));
    let ordered = GptqSettings { order: ColumnOrder::DescendingDiagonal, ..settings.clone() };
    let refused = gptq_float(&layer, &FloatScheme::NVFP4, ScaleFinder::AbsMax, &ordered);
    assert!(matches!(refused, Err(Error::Setting { what: "gptq: groups", .. })));
    let short = Layer::new(&weight[..40], 1, 40, None).unwrap();
    assert!(matches!(float_rtn(&short, &FloatScheme::MXFP4, ScaleFinder::AbsMax), Err(Error::Pack(_))));
    let loud = vec![1e9f32; 2];
    let loud = Layer::new(&loud, 1, 2, None).unwrap();
    let found = float_rtn(&loud, &FloatScheme::fp8(ScaleFormat::F16), ScaleFinder::Mse);
    assert!(matches!(found, Err(Error::Scale { row: 0, group: 0, .. })));

    for scheme in schemes() {
        for finder in [ScaleFinder::AbsMax, ScaleFinder::Mse] {
            for (rows, value) in [(2, 0.0f32), (0, 0.0), (2, 1e-30), (2, -3e30)] {
                let weight = vec![value; rows * N];
                let h = Square::identity(N);
                let layer = Layer::new(&weight, rows, N, Some(&h)).unwrap();
                for found in
                    [float_rtn(&layer, &scheme, finder), gptq_float(&layer, &scheme, finder, &settings)]
                {
                    let decoded = found.unwrap().pack().unwrap().dequantize();
                    assert!(
                        decoded.iter().all(|x| (x - value).abs() <= 0.26 * value.abs()),
                        "{scheme} {value}"
                    );
                }
            }
        }
        let empty = Layer::new(&[], 3, 0, None).unwrap();
        assert!(float_rtn(&empty, &scheme, ScaleFinder::AbsMax).unwrap().pack().is_ok(), "{scheme}");
    }
}
