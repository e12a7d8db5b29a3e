//! Blocks against the `gguf` Python package and llama.cpp, bit for bit.

use super::super::Draws;
use super::fixtures;
use proptest::prelude::*;
use trimtab_io::gguf::{GgufTensor, GgufType};
use trimtab_io::{Checkpoint, Dtype};

fn cases() -> Checkpoint {
    Checkpoint::open(fixtures().join("cases.safetensors")).unwrap()
}

fn floats(cases: &Checkpoint, name: &str) -> Vec<f32> {
    cases.tensor(name).unwrap().to_f32().unwrap()
}

/// Encodes the numbers of the fixture; with its importance if `weighted`.
fn encode(cases: &Checkpoint, ty: GgufType, weighted: bool) -> GgufTensor {
    let tensor = cases.tensor("encode.values").unwrap();
    let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
    let importance = floats(cases, "encode.importance");
    let importance = weighted.then_some(&importance[..]);
    GgufTensor::encode(&tensor.to_f32().unwrap(), rows, cols, ty, importance).unwrap()
}

fn squared_error(values: &[f32], tensor: &GgufTensor, importance: &[f32]) -> f64 {
    let decoded = tensor.dequantize();
    let weights = importance.iter().cycle();
    let errors = values.iter().zip(&decoded).zip(weights);
    errors.map(|((a, b), w)| f64::from(*w) * f64::from(a - b).powi(2)).sum()
}

#[test]
fn random_blocks_decode_to_the_same_bits() {
    let cases = cases();
    for ty in GgufType::ALL {
        let blocks = cases.tensor(&format!("decode.{ty}.blocks")).unwrap().bytes;
        let expected = floats(&cases, &format!("decode.{ty}.values"));
        let rows = expected.len() / ty.block_len();
        let tensor = GgufTensor::new(ty, rows, ty.block_len(), blocks.clone()).unwrap();
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&tensor.dequantize()), bits(&expected), "{ty}");
        let mut row = vec![0.0; ty.block_len()];
        tensor.dequantize_row(rows - 1, &mut row);
        assert_eq!(bits(&row), bits(&expected[expected.len() - ty.block_len()..]), "{ty}");
        // The test sees a changed bit.
        let mut changed = blocks.to_vec();
        let middle = ty.block_bytes() / 2;
        changed[middle] ^= 0x11;
        let changed = GgufTensor::new(ty, rows, ty.block_len(), changed.into()).unwrap();
        assert_ne!(bits(&changed.dequantize()), bits(&expected), "{ty}");
    }
}

#[test]
fn the_older_types_encode_to_the_bytes_of_the_package() {
    let cases = cases();
    for ty in [GgufType::BF16, GgufType::Q8_0, GgufType::Q4_0, GgufType::Q4_1, GgufType::Q5_0, GgufType::Q5_1]
    {
        let expected = cases.tensor(&format!("encode.{ty}.package")).unwrap().bytes;
        assert_eq!(encode(&cases, ty, false).data[..], expected[..], "{ty}");
    }
}

#[test]
fn every_type_encodes_to_the_bytes_of_llama_cpp() {
    let cases = cases();
    for ty in GgufType::ALL.into_iter().filter(|ty| ty.is_blocks()) {
        for (suffix, weighted) in [("plain", false), ("weighted", true)] {
            let expected = cases.tensor(&format!("encode.{ty}.{suffix}")).unwrap().bytes;
            let found = encode(&cases, ty, weighted);
            let blocks = found.data.chunks(ty.block_bytes()).zip(expected.chunks(ty.block_bytes()));
            let differ: Vec<usize> =
                blocks.enumerate().filter(|(_, (a, b))| a != b).map(|(i, _)| i).collect();
            assert_eq!(differ, [0; 0], "{ty} {suffix}: blocks that differ");
        }
    }
}

#[test]
fn importance_lowers_the_weighted_error_and_raises_the_plain_one() {
    let cases = cases();
    let values = floats(&cases, "encode.values");
    let importance = floats(&cases, "encode.importance");
    let ones = vec![1.0; importance.len()];
    for ty in [GgufType::Q4_0, GgufType::Q5_1, GgufType::Q2_K, GgufType::Q3_K, GgufType::Q4_K, GgufType::Q5_K]
    {
        let (plain, weighted) = (encode(&cases, ty, false), encode(&cases, ty, true));
        let error = |tensor: &GgufTensor| squared_error(&values, tensor, &importance);
        assert!(error(&weighted) < error(&plain), "{ty}: {} {}", error(&weighted), error(&plain));
        assert_ne!(squared_error(&values, &weighted, &ones), squared_error(&values, &plain, &ones), "{ty}");
    }
    let same = (encode(&cases, GgufType::Q8_0, false), encode(&cases, GgufType::Q8_0, true));
    assert_eq!(same.0.data[..], same.1.data[..], "Q8_0 knows no importance");
}

#[test]
fn golden_words_of_the_format() {
    let x: Vec<f32> = (0..32).map(|i| (i as f32 - 16.0) / 4.0).collect();
    let hex = |ty: GgufType| {
        let tensor = GgufTensor::encode(&x, 1, 32, ty, None).unwrap();
        tensor.data.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    assert_eq!(hex(GgufType::Q4_0), "0038809191a2a2b3b3c4c4d5d5e6e6f7f7f8");
    let q8_0 = "082881899199a1a9b1b9c0c8d0d8e0e8f0f8000810182028303840474f575f676f77";
    assert_eq!(hex(GgufType::Q8_0), q8_0);
}

#[test]
fn more_bits_less_error() {
    let mut draws = Draws(7);
    let values: Vec<f32> =
        (0..8 * 256).map(|_| (0..6).map(|_| draws.below(1000) as f32).sum::<f32>() / 1e3 - 3.0).collect();
    let ones = vec![1.0; 256];
    let order =
        [GgufType::Q2_K, GgufType::Q3_K, GgufType::Q4_K, GgufType::Q5_K, GgufType::Q6_K, GgufType::Q8_0];
    let errors: Vec<f64> = order
        .iter()
        .map(|&ty| squared_error(&values, &GgufTensor::encode(&values, 8, 256, ty, None).unwrap(), &ones))
        .collect();
    assert!(errors.windows(2).all(|pair| pair[1] < 0.5 * pair[0]), "{errors:?}");
    for ty in [GgufType::F32, GgufType::Q6_K] {
        let once = GgufTensor::encode(&values, 8, 256, ty, None).unwrap();
        assert_eq!(once.bytes(), 8 * ty.row_bytes(256).unwrap() as u64);
    }
    let exact = GgufTensor::encode(&values, 8, 256, GgufType::F32, None).unwrap();
    assert_eq!(exact.dequantize(), values);
}

#[test]
fn degenerate_numbers_and_bad_input() {
    for ty in GgufType::ALL {
        for value in [0.0f32, -0.0, 1e-30, 1e-42, -3.5] {
            let values = vec![value; 256];
            let decoded = GgufTensor::encode(&values, 1, 256, ty, None).unwrap().dequantize();
            let close = |v: &f32| (v - value).abs() <= 0.01 * value.abs() + 1e-7;
            assert!(decoded.iter().all(close), "{ty} {value}: {:?}", &decoded[..4]);
            let weighted = GgufTensor::encode(&values, 1, 256, ty, Some(&[0.0; 256])).unwrap();
            assert!(weighted.dequantize().iter().all(|v| v.is_finite()), "{ty} {value} without importance");
        }
        assert_eq!(GgufTensor::encode(&[], 0, 256, ty, None).unwrap().bytes(), 0);
    }
    let refuse = |values: &[f32], cols: usize, ty, importance: Option<&[f32]>| {
        GgufTensor::encode(values, 1, cols, ty, importance).unwrap_err().to_string()
    };
    let mut values = vec![1.0; 256];
    assert!(refuse(&values[..96], 96, GgufType::Q4_K, None).contains("rows of 96 numbers cannot be Q4_K"));
    assert!(refuse(&values, 128, GgufType::Q4_0, None).contains("does not have 256 numbers"));
    assert!(refuse(&values, 256, GgufType::Q4_K, Some(&[1.0])).contains("1 weights of importance"));
    let mut negative = vec![1.0; 256];
    negative[9] = -1.0;
    assert!(refuse(&values, 256, GgufType::Q4_K, Some(&negative)).contains("column 9 is -1"));
    values[70] = 1e6;
    assert!(refuse(&values, 256, GgufType::F16, None).contains("too large for F16"));
    assert!(GgufTensor::encode(&values, 1, 256, GgufType::Q8_0, None).is_ok(), "its scale is small enough");
    values[70] = f32::NAN;
    assert!(refuse(&values, 256, GgufType::Q8_0, None).contains("column 70 is NaN"));
}

#[test]
fn rows_move_without_being_decoded() {
    let values: Vec<f32> = (0..4 * 32).map(|i| i as f32).collect();
    let tensor = GgufTensor::encode(&values, 4, 32, GgufType::Q4_1, None).unwrap();
    let moved = tensor.select_rows(&[2, 0, 3, 1]);
    let (before, after) = (tensor.dequantize(), moved.dequantize());
    assert_eq!(after[..32], before[64..96]);
    assert_eq!(after[96..], before[32..64]);
    assert_eq!(cases().info("encode.values").unwrap().dtype, Dtype::F32);
}

/// Rows of one block each: plain numbers, outliers, rows of one value, of next to nothing.
fn rows_of(ty: GgufType) -> impl Strategy<Value = (usize, Vec<f32>)> {
    (1usize..4).prop_flat_map(move |rows| {
        let row = (0usize..4, proptest::collection::vec(-1f32..1.0, ty.block_len()), -8i32..8);
        let row = row.prop_map(|(kind, mut row, exponent)| {
            let scale = 2f32.powi(exponent);
            row.iter_mut().for_each(|x| *x *= scale);
            match kind {
                0 => {}
                1 => row[0] *= 50.0,
                2 => row.fill(scale),
                _ => row[1..].fill(0.0),
            }
            row
        });
        proptest::collection::vec(row, rows).prop_map(|all| (all.len(), all.concat()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_row_is_its_own_and_is_no_worse_than_zeros(
        (ty, (rows, values)) in proptest::sample::select(&GgufType::ALL[..]).prop_flat_map(|ty| {
            rows_of(ty).prop_map(move |rows| (ty, rows))
        })
    ) {
        let cols = ty.block_len();
        let whole = GgufTensor::encode(&values, rows, cols, ty, None).unwrap();
        let decoded = whole.dequantize();
        for (row, numbers) in values.chunks(cols).enumerate() {
            let alone = GgufTensor::encode(numbers, 1, cols, ty, None).unwrap();
            prop_assert_eq!(&alone.data[..], whole.row(row), "{}", ty);
            let energy = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| f64::from(x).powi(2)).sum::<f64>();
            let error = energy(&mut numbers.iter().zip(&decoded[row * cols..]).map(|(x, y)| x - y));
            let allowed = energy(&mut numbers.iter().copied());
            prop_assert!(error <= allowed, "{}: an error of {} in {}", ty, error, allowed);
        }
    }
}
