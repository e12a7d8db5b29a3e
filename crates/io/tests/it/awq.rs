//! Packed matrices through files of the AWQ format.

use proptest::prelude::*;
use trimtab_io::{AffineScheme, AwqConfig, Dtype, RawTensor, awq_tensors, read_awq};

use super::affine::{Case, shaped};
use super::compressed::through_a_file;

const MODULE: &str = "model.layers.0.mlp.up_proj";

fn case() -> impl Strategy<Value = Case> {
    let group = prop::sample::select(vec![None, Some(1usize), Some(16), Some(48)]);
    (1usize..9, 1usize..4, group, any::<bool>(), any::<u64>()).prop_map(
        |(rows, cols, group_size, symmetric, seed)| {
            let scheme = AffineScheme { bits: 4, group_size, symmetric };
            shaped([8 * rows, 48 * cols], scheme, false, Dtype::F16, seed)
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_has_the_predicted_size(case in case()) {
        let packed = case.pack().unwrap();
        let config = AwqConfig::of([(MODULE, &packed)], &[]).unwrap();
        let config = AwqConfig::parse(&config.to_json()).unwrap();
        let tensors = awq_tensors(MODULE, &packed).unwrap();
        let written: usize = tensors.iter().map(|(_, tensor)| tensor.bytes.len()).sum();
        prop_assert_eq!(AwqConfig::bytes(case.scheme, case.rows, case.cols), written as u64);
        let read = read_awq(&through_a_file(&tensors), MODULE, &config).unwrap().unwrap();
        prop_assert_eq!(read.dequantize(), case.dequantize());
        prop_assert_eq!(&read.codes[..], &packed.codes[..]);
        prop_assert_eq!(read.zeros, case.zeros.filter(|zeros| zeros.iter().any(|&zero| zero != 8)));
    }
}

#[test]
fn what_the_format_cannot_hold_is_named() {
    let refuse = |dims: [usize; 2],
                  bits: u8,
                  group_size: Option<usize>,
                  ordered: bool,
                  dtype: Dtype,
                  expected: &str| {
        let scheme = AffineScheme { bits, group_size, symmetric: false };
        let packed = shaped(dims, scheme, ordered, dtype, 2).pack().unwrap();
        let message = awq_tensors("m", &packed).unwrap_err().to_string();
        assert!(message.starts_with("awq: ") && message.contains(expected), "{expected}: {message}");
    };
    refuse([8, 64], 3, Some(32), false, Dtype::F16, "4 bits, not 3");
    refuse([12, 64], 4, Some(32), false, Dtype::F16, "a multiple of 8, found [12, 64]");
    refuse([8, 72], 4, Some(32), false, Dtype::F16, "short last group of 8 of 72 inputs");
    refuse([8, 64], 4, Some(32), true, Dtype::F16, "no order of the columns");
    refuse([8, 64], 4, Some(32), false, Dtype::F32, "F16, found F32");
    let scheme = |group_size| AffineScheme { bits: 4, group_size, symmetric: false };
    let (a, b) = (scheme(Some(32)), scheme(None));
    let pack = |scheme| shaped([8, 64], scheme, false, Dtype::F16, 2).pack().unwrap();
    let message = AwqConfig::of([("m.a", &pack(a)), ("m.b", &pack(b))], &[]).unwrap_err().to_string();
    assert!(message.contains("found 32 in \"m.a\" and whole rows in \"m.b\""), "{message}");
    assert!(AwqConfig::of([], &[]).is_err());
}

#[test]
fn tensors_that_contradict_the_configuration() {
    let scheme = AffineScheme { bits: 4, group_size: Some(32), symmetric: false };
    let packed = shaped([16, 64], scheme, false, Dtype::F16, 5).pack().unwrap();
    let tensors = awq_tensors(MODULE, &packed).unwrap();
    let read = |tensors: &[(String, RawTensor)], group_size: Option<usize>| {
        read_awq(&through_a_file(tensors), MODULE, &AwqConfig { group_size, modules_to_not_convert: None })
    };
    assert!(read(&tensors, Some(32)).unwrap().is_some());
    assert!(read(&tensors[1..], Some(32)).unwrap().is_none(), "dense");
    for (group, expected) in [
        (Some(16), "qzeros\": expected I32 [4, 2], found I32 [2, 2]"),
        (Some(48), "64 inputs are no multiple of group_size 48"),
        (None, "expected I32 [1, 2]"),
    ] {
        let message = read(&tensors, group).unwrap_err().to_string();
        assert!(message.contains(expected), "{group:?}: {message}");
    }
    let message = read(&tensors[..2], Some(32)).unwrap_err().to_string();
    assert!(message.contains("no tensor \"model.layers.0.mlp.up_proj.scales\""), "{message}");
}
