//! The same codes in every format that holds them.

use proptest::prelude::*;
use serde_json::{Value, json};
use trimtab_io::{
    AffineFormat, AffineScheme, AffineTensor, AwqConfig, Coded, CompressedFormat, Dtype, Fidelity,
    GptqConfig, GptqFormat, Quantization, QuantizationConfig, RawTensor, awq_tensors, convert, fidelity,
    gptq_tensors, int_tensors, to_tensors,
};

use super::affine::shaped;
use super::compressed::through_a_file;

const MODULE: &str = "m.proj";
const FORMATS: [AffineFormat; 5] = [
    AffineFormat::PackQuantized,
    AffineFormat::IntQuantized,
    AffineFormat::Gptq(GptqFormat::V1),
    AffineFormat::Gptq(GptqFormat::V2),
    AffineFormat::Awq,
];

/// The tensors and the configuration of a checkpoint that holds one matrix.
fn write(matrix: &AffineTensor, format: AffineFormat) -> (Vec<(String, RawTensor)>, Value) {
    let compressed = || QuantizationConfig::of([(MODULE, matrix)], &[]);
    match format {
        AffineFormat::PackQuantized => (to_tensors(MODULE, matrix).unwrap(), compressed().to_json()),
        AffineFormat::IntQuantized => {
            let config = compressed().in_format(CompressedFormat::IntQuantized, None);
            (int_tensors(MODULE, matrix).unwrap(), config.to_json())
        }
        AffineFormat::Gptq(version) => {
            let config = GptqConfig::of(version, [(MODULE, matrix)], &[]).unwrap();
            (gptq_tensors(MODULE, matrix, version).unwrap(), config.to_json())
        }
        AffineFormat::Awq => {
            let config = AwqConfig::of([(MODULE, matrix)], &[]).unwrap();
            (awq_tensors(MODULE, matrix).unwrap(), config.to_json())
        }
    }
}

fn read(tensors: &[(String, RawTensor)], config: Value) -> Coded {
    let config = json!({"model_type": "llama", "quantization_config": config});
    let quantization = Quantization::of(&config).unwrap().unwrap();
    quantization.read(&through_a_file(tensors), MODULE).unwrap().unwrap()
}

proptest! {
    #[test]
    fn through_any_chain_of_formats_come_the_same_numbers(
        chain in prop::collection::vec(prop::sample::select(FORMATS.to_vec()), 1..5),
        group in prop::sample::select(vec![None, Some(32usize), Some(64)]),
        symmetric: bool,
        seed: u64,
    ) {
        let scheme = AffineScheme { bits: 4, group_size: group, symmetric };
        let mut case = shaped([32, 64], scheme, false, Dtype::F16, seed);
        // A zero point of 0 has no place in the first version of GPTQ.
        case.zeros.iter_mut().flatten().for_each(|zero| *zero = (*zero).max(1));
        let mut matrix = case.pack().unwrap();
        for format in chain {
            let (converted, fidelity) = convert(&matrix, format).unwrap();
            prop_assert_eq!(fidelity, Fidelity::Exact);
            let (tensors, config) = write(&converted, format);
            let Coded::Affine(read) = read(&tensors, config) else { panic!("affine codes") };
            prop_assert_eq!(read.dequantize(), case.dequantize(), "{}", format);
            matrix = read;
        }
    }
}

#[test]
fn what_rounding_loses_is_said() {
    let scheme = AffineScheme { bits: 4, group_size: Some(32), symmetric: true };
    let mut matrix = shaped([32, 64], scheme, false, Dtype::F32, 7).pack().unwrap();
    let gptq = AffineFormat::Gptq(GptqFormat::V2);
    for format in [AffineFormat::PackQuantized, AffineFormat::IntQuantized] {
        assert_eq!(fidelity(&matrix, format).unwrap(), Fidelity::Exact);
    }
    for format in [gptq, AffineFormat::Awq] {
        let (converted, lost) = convert(&matrix, format).unwrap();
        assert_eq!(lost, fidelity(&matrix, format).unwrap());
        let Fidelity::Lossy { from: Dtype::F32, to: Dtype::F16, largest_change } = lost else {
            panic!("{lost}")
        };
        // Half a unit in the last place of a half; scales below 6e-5 are subnormal and have fewer places.
        assert!(largest_change > 1e-5 && largest_change < 1e-2, "{largest_change}");
        let change = |(&a, &b): (&f32, &f32)| if a == 0.0 { 0.0 } else { ((b - a) / a).abs() };
        let largest = matrix.scales.iter().zip(&converted.scales).map(change).fold(0.0, f32::max);
        assert_eq!(largest, largest_change);
        assert!(lost.to_string().starts_with("lossy: scales F32 -> F16, largest relative change "), "{lost}");
        assert_eq!(&converted.codes[..], &matrix.codes[..]);
        write(&converted, format);
    }
    // Scales of a wide type that a narrow one holds are exact.
    matrix.scales.fill(0.25);
    assert_eq!(convert(&matrix, gptq).unwrap().1, Fidelity::Exact);
    for (scale, expected) in [(1e-9, "becomes 0 as F16"), (1e6, "becomes inf as F16")] {
        matrix.scales[3] = scale;
        let message = convert(&matrix, gptq).unwrap_err().to_string();
        assert!(message.starts_with("gptq_v2: ") && message.contains(expected), "{message}");
    }
}

#[test]
fn what_a_format_cannot_hold_is_refused_before_it_is_written() {
    let make = |bits: u8, group_size: Option<usize>, ordered: bool, zero: Option<u8>| {
        let scheme = AffineScheme { bits, group_size, symmetric: zero.is_none() };
        let mut case = shaped([32, 96], scheme, ordered, Dtype::F16, 9);
        if let (Some(zeros), Some(zero)) = (&mut case.zeros, zero) {
            zeros.fill(zero);
        }
        case.pack().unwrap()
    };
    let (v1, v2) = (AffineFormat::Gptq(GptqFormat::V1), AffineFormat::Gptq(GptqFormat::V2));
    let refused = |matrix: &AffineTensor, format: AffineFormat, expected: &str| {
        let message = fidelity(matrix, format).unwrap_err().to_string();
        assert!(message.contains(expected), "{format}: {message}");
        assert!(convert(matrix, format).is_err());
    };
    refused(&make(5, None, false, None), v2, "not 5");
    refused(&make(3, Some(32), false, None), AffineFormat::Awq, "not 3");
    refused(&make(4, Some(64), false, None), v1, "short last group");
    refused(&make(4, Some(32), false, Some(0)), v1, "use gptq_v2");
    refused(&make(4, Some(32), true, None), AffineFormat::Awq, "no order");
    assert_eq!(fidelity(&make(4, Some(32), false, Some(0)), v2).unwrap(), Fidelity::Exact);
    assert_eq!(fidelity(&make(4, Some(32), true, None), v1).unwrap(), Fidelity::Exact);
    for format in [AffineFormat::PackQuantized, AffineFormat::IntQuantized] {
        for matrix in [make(5, None, false, None), make(4, Some(64), true, Some(0))] {
            assert_eq!(fidelity(&matrix, format).unwrap(), Fidelity::Exact);
        }
    }
    refused(&make(4, Some(32), false, None), AffineFormat::Gptq(GptqFormat::Planar), "not written");
}
