//! Quantized checkpoints that are damaged: an error or sound numbers, never a panic.

use serde_json::{Value, json};
use trimtab_hostile::{Draws, INPUTS, mutate, storm};
use trimtab_io::{
    AffineScheme, AffineTensor, CompressedFormat, Dtype, FloatScheme, GptqConfig, GptqFormat,
    NormalFloatTensor, PackedConfig, Quantization, QuantizationConfig, RawTensor, RealTensor, awq_tensors,
    gptq_tensors, int_tensors, to_tensors,
};

use super::affine::shaped;
use super::{file, memory};

const MODULE: &str = "m.proj";

fn matrix(symmetric: bool, ordered: bool) -> AffineTensor {
    let scheme = AffineScheme { bits: 4, group_size: Some(32), symmetric };
    let mut case = shaped([32, 64], scheme, ordered, Dtype::F16, 4);
    case.zeros.iter_mut().flatten().for_each(|zero| *zero = (*zero).max(1));
    case.pack().unwrap()
}

/// A checkpoint of each kind: its tensors and its `quantization_config`.
fn kinds() -> Vec<(Vec<(String, RawTensor)>, Value)> {
    let (plain, ordered) = (matrix(false, false), matrix(true, true));
    let symmetric = matrix(true, false);
    let real = RealTensor::new(symmetric.clone(), vec![0.25; symmetric.scales.len()]).unwrap();
    let numbers: Vec<f32> = (0..12 * 40).map(|i| (i as f32 * 0.7).sin()).collect();
    let normal = NormalFloatTensor::encode(&numbers, 12, 40, "nf3 b16 s4 c8 bf16".parse().unwrap()).unwrap();
    let compressed = |matrix| QuantizationConfig::of([(MODULE, matrix)], &[]);
    let gptq =
        |format, matrix| GptqConfig::of(format, [(MODULE, matrix)], &["m.other".into()]).unwrap().to_json();
    let u8s =
        |text: &str| RawTensor::new(Dtype::U8, vec![text.len()], text.as_bytes().to_vec().into()).unwrap();
    let f32s = |n: usize| RawTensor::from_f32(vec![n], &vec![0.5; n], Dtype::F32).unwrap();
    let codes = |shape: Vec<usize>, dtype| {
        let n = shape.iter().product();
        RawTensor::new(dtype, shape, vec![0x5a; n].into()).unwrap()
    };
    let state = r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [12, 32], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.125}"#;
    let four = [
        ("weight", codes(vec![192, 1], Dtype::U8)),
        ("weight.absmax", codes(vec![6], Dtype::U8)),
        ("weight.quant_map", f32s(16)),
        ("weight.nested_absmax", f32s(1)),
        ("weight.nested_quant_map", f32s(256)),
        ("weight.quant_state.bitsandbytes__nf4", u8s(state)),
    ];
    let eight = [("weight", codes(vec![6, 10], Dtype::I8)), ("SCB", f32s(6))];
    let scales = |shape: Vec<usize>| {
        let n = shape.iter().product();
        RawTensor::from_f32(shape, &vec![0.5; n], Dtype::F32).unwrap()
    };
    let nvfp4 = [
        ("weight_packed", codes(vec![3, 16], Dtype::U8)),
        ("weight_scale", codes(vec![3, 2], Dtype::F8_E4M3)),
        ("weight_global_scale", f32s(1)),
    ];
    let named = |tensors: &[(&str, RawTensor)]| {
        tensors
            .iter()
            .map(|(suffix, tensor)| (format!("{MODULE}.{suffix}"), tensor.clone()))
            .collect::<Vec<_>>()
    };
    vec![
        (to_tensors(MODULE, &plain).unwrap(), compressed(&plain).to_json()),
        (to_tensors(MODULE, &ordered).unwrap(), compressed(&ordered).to_json()),
        (
            int_tensors(MODULE, &plain).unwrap(),
            compressed(&plain).in_format(CompressedFormat::IntQuantized, None).to_json(),
        ),
        (gptq_tensors(MODULE, &plain, GptqFormat::V1).unwrap(), gptq(GptqFormat::V1, &plain)),
        (gptq_tensors(MODULE, &ordered, GptqFormat::V2).unwrap(), gptq(GptqFormat::V2, &ordered)),
        (
            real.to_tensors(MODULE).unwrap(),
            PackedConfig::new(compressed(&symmetric), [MODULE.to_string()]).to_json(),
        ),
        (
            normal.to_tensors(MODULE).unwrap(),
            PackedConfig::new(QuantizationConfig::of_codes([], &[MODULE.to_string()]).unwrap(), [])
                .with_normal_floats([(MODULE.to_string(), normal.scheme())])
                .to_json(),
        ),
        (awq_tensors(MODULE, &plain).unwrap(), json!({"quant_method": "awq", "bits": 4, "group_size": 32})),
        (
            named(&four),
            json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}),
        ),
        (named(&eight), json!({"quant_method": "bitsandbytes", "load_in_8bit": true})),
        (
            named(&[
                ("weight", codes(vec![6, 10], Dtype::F8_E4M3)),
                ("weight_scale_inv", scales(vec![2, 3])),
            ]),
            json!({"quant_method": "fp8", "weight_block_size": [4, 4]}),
        ),
        (
            named(&nvfp4),
            QuantizationConfig::of_codes([(MODULE, FloatScheme::NVFP4.into())], &[]).unwrap().to_json(),
        ),
    ]
}

/// Reads and decodes; returns whether a matrix came out.
fn exhaust(weights: Vec<u8>, config: &[u8]) -> bool {
    let Ok(config) = serde_json::from_slice::<Value>(config) else { return false };
    let Ok(quantization) = Quantization::parse(&config) else { return false };
    let Ok(checkpoint) = memory(&[("model.safetensors", weights)]) else { return false };
    let Ok(Some(matrix)) = quantization.read(&checkpoint, MODULE) else { return false };
    let [rows, cols] = matrix.dims();
    // What is read is at most a few times what was given: a code has at least one bit.
    assert!(rows * cols <= 8 * checkpoint.total_bytes() as usize, "[{rows}, {cols}]");
    assert_eq!(matrix.dequantize().len(), rows * cols);
    assert!(matrix.bytes() > 0);
    true
}

fn bytes(tensors: &[(String, RawTensor)]) -> Vec<u8> {
    let named: Vec<(&str, RawTensor)> = tensors.iter().map(|(name, t)| (name.as_str(), t.clone())).collect();
    file(&named)
}

#[test]
fn mutated_checkpoints_do_no_harm() {
    for (k, (tensors, config)) in kinds().into_iter().enumerate() {
        let (whole, config) = (bytes(&tensors), config.to_string().into_bytes());
        assert!(exhaust(whole.clone(), &config), "kind {k} is sound");
        let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let damage = |draws: &mut Draws| {
            let mut weights = whole.clone();
            let mut object = config.clone();
            match draws.below(5) {
                0 => object = mutate(&config, draws),
                1 => {
                    // The header: shapes, types and names.
                    let mut changed = mutate(&whole[8..8 + header], draws);
                    weights = (changed.len() as u64).to_le_bytes().to_vec();
                    weights.append(&mut changed);
                    weights.extend_from_slice(&whole[8 + header..]);
                }
                2 => {
                    // The data, in place: codes, scales, groups, shapes that are stored as numbers.
                    for _ in 0..=draws.below(8) {
                        let place = 8 + header + draws.below(whole.len() - 8 - header);
                        weights[place] = draws.below(256) as u8;
                    }
                }
                3 => weights.truncate(draws.below(whole.len())),
                _ => swap(&tensors, &mut weights, draws),
            }
            (weights, object)
        };
        let read = storm(INPUTS, 10 + k as u64, damage, |(weights, object)| exhaust(weights.clone(), object));
        assert!((1..INPUTS).contains(&read), "kind {k}: {read} of {INPUTS} read");
    }
}

/// A sound file whose tensors have each other's shapes and types, where the bytes suffice.
fn swap(tensors: &[(String, RawTensor)], weights: &mut Vec<u8>, draws: &mut Draws) {
    let mut tensors = tensors.to_vec();
    let place = draws.below(tensors.len());
    let tensor = &tensors[place].1;
    let n = tensor.bytes.len();
    let dtype = Dtype::ALL[draws.below(Dtype::ALL.len())];
    let count = n / dtype.size();
    let shape = match draws.below(6) {
        0 => vec![count],
        1 => vec![1, count],
        2 => vec![count, 1],
        // No bytes at all, and yet a length to believe.
        3 => vec![0, 1 << 40],
        4 => vec![1 << 40, 0],
        _ => vec![1 << 20, 0, 1 << 30],
    };
    let kept = shape.iter().product::<usize>() * dtype.size();
    tensors[place].1 = RawTensor::new(dtype, shape, tensor.bytes.slice(0..kept).unwrap()).unwrap();
    *weights = bytes(&tensors);
}

#[test]
fn every_missing_tensor_is_an_error_or_a_dense_module() {
    for (k, (tensors, config)) in kinds().into_iter().enumerate() {
        let quantization = Quantization::parse(&config).unwrap();
        let mut refused = 0;
        for leave in 0..tensors.len() {
            let mut rest = tensors.clone();
            rest.remove(leave);
            let checkpoint = memory(&[("model.safetensors", bytes(&rest))]).unwrap();
            refused += usize::from(quantization.read(&checkpoint, MODULE).is_err());
        }
        assert!(refused >= 1, "kind {k}: {refused} of {} refused", tensors.len());
    }
}

#[test]
fn truncated_texts_are_errors() {
    for (tensors, config) in kinds() {
        let (whole, config) = (bytes(&tensors), config.to_string());
        for end in 0..config.len() {
            assert!(!exhaust(whole.clone(), &config.as_bytes()[..end]));
        }
        for end in (0..whole.len()).step_by(37) {
            assert!(!exhaust(whole[..end].to_vec(), config.as_bytes()));
        }
    }
}
