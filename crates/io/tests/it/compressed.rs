//! Packed matrices through files of the compressed-tensors format.

use proptest::prelude::*;
use serde_json::json;
use trimtab_io::{
    AffineScheme, AffineTensor, Checkpoint, Dtype, Error, QuantizationConfig, RawTensor, read_compressed,
    to_tensors,
};

use super::affine::{Case, case};
use super::{file, memory};

const MODULE: &str = "model.layers.0.mlp.up_proj";

pub fn through_a_file(tensors: &[(String, RawTensor)]) -> Checkpoint {
    let named: Vec<(&str, RawTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    memory(&[("model.safetensors", file(&named))]).unwrap()
}

fn matrix() -> AffineTensor {
    let scheme = AffineScheme { bits: 4, group_size: Some(8), symmetric: false };
    let codes: Vec<u8> = (0..32).map(|i| i % 16).collect();
    AffineTensor::from_codes(2, 16, scheme, &codes, vec![0.5; 4], Some(vec![3; 4]), None, Dtype::BF16)
        .unwrap()
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_has_the_predicted_size(case in case()) {
        let packed = case.pack().unwrap();
        let config = QuantizationConfig::of([(MODULE, &packed)], &[]);
        let config = QuantizationConfig::parse(&config.to_json()).unwrap();
        let tensors = to_tensors(MODULE, &packed).unwrap();
        let written: usize = tensors.iter().map(|(_, tensor)| tensor.bytes.len()).sum();
        prop_assert_eq!(packed.bytes(), written as u64);
        let read = read_compressed(&through_a_file(&tensors), MODULE, &config).unwrap().unwrap();
        let read = read.into_affine().unwrap();
        prop_assert_eq!(read.dequantize(), case.dequantize());
        prop_assert_eq!(&read.scales, &case.scales);
        prop_assert_eq!(&read.zeros, &case.zeros);
        prop_assert_eq!(read.scale_dtype, case.scale_dtype);
        // Consecutive groups need no list of them.
        let consecutive = |g: &Vec<u32>| g.iter().enumerate().all(|(i, &g)| g as usize == i / case.scheme.group_size.unwrap());
        prop_assert_eq!(&read.g_idx, &case.g_idx.clone().filter(|g| !consecutive(g)));
    }
}

#[test]
fn golden_word_of_the_format() {
    // Signed codes -8..-1 are unsigned 0..7.
    let scheme = AffineScheme { bits: 4, group_size: None, symmetric: true };
    let case = Case {
        rows: 1,
        cols: 8,
        scheme,
        codes: (0..8).collect(),
        scales: vec![1.0],
        zeros: None,
        g_idx: None,
        scale_dtype: Dtype::F32,
    };
    let packed = case.pack().unwrap();
    assert_eq!(packed.dequantize(), [-8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0]);
    let tensors = to_tensors("m", &packed).unwrap();
    assert_eq!(tensors[0].0, "m.weight_packed");
    assert_eq!(tensors[0].1.bytes.as_u32(), Some(&[0x7654_3210][..]));
    assert_eq!(tensors[2].1.to_i64().unwrap(), [1, 8]);
}

#[test]
fn dense_modules_and_contradictions() {
    let packed = matrix();
    let config = QuantizationConfig::of([(MODULE, &packed)], &["lm_head".into()]);
    let checkpoint = through_a_file(&to_tensors(MODULE, &packed).unwrap());
    assert!(read_compressed(&checkpoint, "model.norm", &config).unwrap().is_none());
    assert!(read_compressed(&checkpoint, "lm_head", &config).unwrap().is_none());

    let ignored = QuantizationConfig::of([("other", &packed)], &[MODULE.into()]);
    let error = read_compressed(&checkpoint, MODULE, &ignored).unwrap_err();
    assert!(error.to_string().contains("no group"), "{error}");

    let other =
        AffineTensor { scheme: AffineScheme { bits: 4, group_size: Some(4), symmetric: false }, ..matrix() };
    let named = QuantizationConfig::of([("model.absent", &packed), ("model.other", &other)], &[]);
    let error = read_compressed(&checkpoint, "model.absent", &named).unwrap_err();
    assert!(matches!(error, Error::MissingTensor { .. }), "listed by name, but not there: {error}");
}

#[test]
fn tensors_of_another_shape_than_the_configuration_says() {
    let tensors = to_tensors(MODULE, &matrix()).unwrap();
    let config = |weights: serde_json::Value| {
        QuantizationConfig::parse(&json!({
            "quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        }))
        .unwrap()
    };
    let asymmetric = json!({"num_bits": 4, "group_size": 8, "symmetric": false});
    let read = |tensors: &[(String, RawTensor)], weights: &serde_json::Value| {
        read_compressed(&through_a_file(tensors), MODULE, &config(weights.clone()))
    };
    assert!(read(&tensors, &asymmetric).unwrap().is_some());
    let wrong = [
        (
            json!({"num_bits": 8, "group_size": 8, "symmetric": false}),
            "weight_packed\": expected I32 [2, 4], found I32 [2, 2]",
        ),
        (json!({"num_bits": 4, "group_size": 4, "symmetric": false}), "weight_scale\": expected BF16 [2, 4]"),
        (json!({"num_bits": 4, "strategy": "tensor"}), "expected one number"),
        (json!({"num_bits": 4, "group_size": 8, "symmetric": false, "actorder": "group"}), "weight_g_idx"),
    ];
    for (weights, expected) in wrong {
        let message = read(&tensors, &weights).unwrap_err().to_string();
        assert!(message.contains(expected), "{weights}: {message}");
    }

    let replaced = |suffix: &str, tensor: RawTensor| {
        let mut tensors = tensors.clone();
        let place = tensors.iter_mut().find(|(name, _)| name.ends_with(suffix)).unwrap();
        place.1 = tensor;
        read(&tensors, &asymmetric).unwrap_err().to_string()
    };
    let i64s = |values: &[i64]| {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        RawTensor::new(Dtype::I64, vec![values.len()], bytes.into()).unwrap()
    };
    assert!(replaced("weight_shape", i64s(&[2, -16])).contains("expected [out, in], found [2, -16]"));
    assert!(replaced("weight_shape", i64s(&[2, 16, 1])).contains("[2, 16, 1]"));
    assert!(replaced("weight_shape", i64s(&[i64::MAX, 16])).contains("weight_packed"));
    assert!(replaced("weight_shape", i64s(&[2, i64::MAX])).contains("weight_shape"));
    let zeros = RawTensor::new(Dtype::I32, vec![2, 2], vec![0; 16].into()).unwrap();
    assert!(replaced("weight_zero_point", zeros).contains("expected I32 [1, 2], found I32 [2, 2]"));
    let nan = RawTensor::from_f32(vec![2, 2], &[1.0, f32::NAN, 1.0, 1.0], Dtype::BF16).unwrap();
    assert!(replaced("weight_scale", nan).contains("scale NaN at index 1"));
}
