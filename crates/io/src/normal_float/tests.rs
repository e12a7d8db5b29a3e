use std::collections::BTreeMap;

use super::*;
use crate::packed_config::PackedConfig;
use crate::write::to_safetensors;
use crate::{Coded, QuantizationConfig};

fn draws(n: usize) -> Vec<f32> {
    let mut stream = trimtab_math::random::Stream::new(25, "test/normal-float", 0, 0);
    (0..n).map(|i| stream.normal() as f32 * (1.0 + (i / 50 % 7) as f32)).collect()
}

#[test]
fn the_table_of_four_bits_is_that_of_qlora() {
    let published = [
        -1.0,
        -0.696_192_8,
        -0.525_073_05,
        -0.394_917_5,
        -0.284_441_38,
        -0.184_773_43,
        -0.091_050_036,
        0.0,
        0.079_580_3,
        0.160_930_2,
        0.246_112_3,
        0.337_915_24,
        0.440_709_83,
        0.562_617,
        0.722_956_84,
        1.0,
    ];
    let table = NormalFloatScheme::new(4).table();
    assert!(table.iter().zip(published).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6), "{table:?}");
}

#[test]
fn tables_are_sorted_quantiles_with_zero_and_ones() {
    for bits in [2u8, 3, 4, 8] {
        let table = NormalFloatScheme::new(bits).table();
        assert_eq!(table.len(), 1 << bits);
        assert!(table.windows(2).all(|pair| pair[0] < pair[1]), "{bits}: {table:?}");
        let half = 1 << (bits - 1);
        assert_eq!((table[half - 1], *table.last().unwrap()), (0.0, 1.0), "{bits}");
        assert!((table[0] + 1.0).abs() < 1e-6, "{bits}: {}", table[0]);
        // Equal steps of probability on either side of 0, by the integral of the density between neighbours.
        let largest = normal_quantile(OFFSET);
        let mass = |a: f32, b: f32| {
            let (a, b) = (f64::from(a) * largest, f64::from(b) * largest);
            let density = |i: usize| (-0.5 * (a + (b - a) * (i as f64 + 0.5) / 4000.0).powi(2)).exp();
            (0..4000).map(density).sum::<f64>() * (b - a) / 4000.0 / (2.0 * std::f64::consts::PI).sqrt()
        };
        for (i, pair) in table.windows(2).enumerate() {
            let parts = if i < half - 1 { half - 1 } else { half };
            let expected = (OFFSET - 0.5) / parts as f64;
            assert!((mass(pair[0], pair[1]) / expected - 1.0).abs() < 1e-4, "{bits}, {i}");
        }
    }
}

/// Step 2 of the paper, number by number, from its equations.
fn by_hand(weight: &[f32], scheme: NormalFloatScheme) -> Vec<f32> {
    let table = scheme.table();
    let largest: Vec<f32> =
        weight.chunks(scheme.block).map(|b| b.iter().map(|w| w.abs()).fold(0.0, f32::max)).collect();
    let offset = largest.iter().copied().fold(f32::MAX, f32::min);
    let levels = ((1u32 << scheme.scale_bits) - 1) as f32;
    let mut scales = Vec::new();
    for group in largest.chunks(scheme.group) {
        let mut m = [group.iter().map(|a| a - offset).fold(0.0, f32::max)];
        round_floats(&mut m, scheme.range_dtype).unwrap();
        for a in group {
            let c =
                if m[0] < 2f32.powi(-24) { 0.0 } else { ((a - offset) * levels / m[0]).round_ties_even() };
            scales.push(c.min(levels) * (m[0] / levels) + offset);
        }
    }
    let nearest = |(i, w): (usize, &f32)| {
        let scale = scales[i / scheme.block];
        let far = |t: &&f32| (w / scale - **t).abs();
        table.iter().min_by(|a, b| far(a).total_cmp(&far(b))).unwrap() * scale
    };
    weight.iter().enumerate().map(nearest).collect()
}

#[test]
fn coding_is_the_equations_of_the_paper_also_for_short_blocks() {
    for scheme in NormalFloatScheme::all().step_by(7) {
        for (rows, cols) in [(4, 64), (7, 33)] {
            let weight = draws(rows * cols);
            let matrix = NormalFloatTensor::encode(&weight, rows, cols, scheme).unwrap();
            let values = matrix.dequantize();
            assert_eq!(values, by_hand(&weight, scheme), "{scheme}");
            let mut row = vec![0.0; cols];
            matrix.dequantize_row(rows - 1, &mut row);
            assert_eq!(row, values[(rows - 1) * cols..], "{scheme}");
            let written: u64 =
                matrix.to_tensors("m").unwrap().iter().map(|(_, t)| t.bytes.len() as u64).sum();
            assert_eq!((written, scheme.bytes(rows, cols)), (matrix.bytes(), written));
        }
    }
}

#[test]
fn more_bits_and_finer_blocks_lose_less() {
    let weight = draws(64 * 96);
    let error = |text: &str| {
        let matrix = NormalFloatTensor::encode(&weight, 64, 96, text.parse().unwrap()).unwrap();
        weight.iter().zip(matrix.dequantize()).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
    };
    let errors = ["nf2 b64", "nf2 b16", "nf3 b64", "nf4 b64", "nf8 b64"].map(error);
    assert!(errors.windows(2).all(|pair| pair[1] < pair[0]), "{errors:?}");
    assert!(error("nf4 b64 s2") > 1.2 * error("nf4 b64"), "the scales of scales matter");
}

#[test]
fn bits_per_weight_are_those_of_the_paper_and_of_the_bytes() {
    let nf4 = NormalFloatScheme::new(4);
    assert!((nf4.bits_per_weight() - 4.127).abs() < 1e-3);
    assert_eq!(NormalFloatScheme::all().count(), 432);
    let mut seen: Vec<String> = NormalFloatScheme::all().map(|scheme| scheme.to_string()).collect();
    for scheme in NormalFloatScheme::all() {
        assert!(scheme.validate().is_ok());
        assert_eq!(scheme.to_string().parse::<NormalFloatScheme>().unwrap(), scheme);
        let exact = 8.0 * scheme.bytes(1024, 1024) as f64 / f64::from(1 << 20);
        assert!((exact - scheme.bits_per_weight()).abs() < 1e-3, "{scheme}");
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 432);
    for text in ["nf5", "nf4 b0", "nf4 s9", "nf4 b64 b64", "nf4 f64", "nf4 c16 s4", "nf", "int4", ""] {
        assert!(text.parse::<NormalFloatScheme>().is_err(), "{text}");
    }
}

#[test]
fn zeros_and_equal_blocks_stay_what_they_are() {
    let scheme = NormalFloatScheme::new(3);
    let zeros = NormalFloatTensor::encode(&[0.0; 200], 2, 100, scheme).unwrap();
    assert_eq!(zeros.dequantize(), [0.0; 200]);
    let alike: Vec<f32> = (0..200).map(|i| if i % 2 == 0 { 0.5 } else { -0.5 }).collect();
    let matrix = NormalFloatTensor::encode(&alike, 2, 100, scheme).unwrap();
    assert!(matrix.dequantize().iter().zip(&alike).all(|(a, b)| (a - b).abs() < 1e-6));
    assert!(NormalFloatTensor::encode(&[1.0, f32::NAN], 1, 2, scheme).is_err());
    assert!(NormalFloatTensor::encode(&[1.0; 3], 1, 2, scheme).is_err());
    assert!(NormalFloatTensor::encode(&[], 0, 2, scheme).is_err());
    let half = NormalFloatScheme { range_dtype: Dtype::F16, block: 2, ..scheme };
    let loud = NormalFloatTensor::encode(&[1e6, 1.0, 0.5, 0.5], 1, 4, half).unwrap_err().to_string();
    assert!(loud.contains("inf"), "{loud}");
}

#[test]
fn comes_back_from_a_file_that_names_its_scheme_and_from_no_other() {
    let scheme: NormalFloatScheme = "nf3 b16 s4 c4 bf16".parse().unwrap();
    let matrix = NormalFloatTensor::encode(&draws(12 * 20), 12, 20, scheme).unwrap();
    let file = |tensors: &[(String, RawTensor)]| {
        let bytes = Bytes::from(to_safetensors(tensors, &BTreeMap::new()).unwrap());
        Checkpoint::from_bytes(vec![("model.safetensors".into(), bytes)]).unwrap()
    };
    let config = |scheme: NormalFloatScheme| {
        let none = QuantizationConfig::of_codes([], &["m".to_string()]).unwrap();
        PackedConfig::new(none, []).with_normal_floats([("m".to_string(), scheme)])
    };
    let written = config(scheme).to_json();
    assert_eq!(written["quant_method"], "trimtab");
    let read = PackedConfig::parse(&written).unwrap();
    assert_eq!(read.to_json(), written);
    let tensors = matrix.to_tensors("m").unwrap();
    let Some(Coded::NormalFloat(back)) = read.read(&file(&tensors), "m").unwrap() else { panic!("codes") };
    assert_eq!(back.dequantize(), matrix.dequantize());
    assert!(read.read(&file(&tensors), "n").unwrap().is_none());
    // Another scheme than that of the tensors.
    for other in ["nf4 b16 s4 c4 bf16", "nf3 b32 s4 c4 bf16", "nf3 b16 s8 c4 bf16", "nf3 b16 s4 c4"] {
        let read = config(other.parse().unwrap()).read(&file(&tensors), "m");
        assert!(matches!(read, Err(Error::Tensor { .. })), "{other}: {read:?}");
    }
    let mut text = written.clone();
    text["normal_floats"]["m"] = "nf5 b2".into();
    assert!(PackedConfig::parse(&text).unwrap_err().to_string().contains("nf5"));
}
