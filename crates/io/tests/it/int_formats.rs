//! What the reference implementations packed is read to the same numbers, and written to the same bytes.

use std::path::Path;

use serde_json::{Value, json};
use trimtab_io::{
    AffineTensor, AwqConfig, Checkpoint, Coded, CompressedFormat, Dtype, GptqConfig, GptqFormat,
    Quantization, QuantizationConfig, RawTensor, awq_tensors, gptq_tensors, int_tensors, read_awq,
    read_compressed_weight, read_gptq, round_floats,
};

fn fixture() -> Checkpoint {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/int_formats/cases.safetensors");
    Checkpoint::open(path).unwrap()
}

/// Names of the cases that begin with `family`, and the number that there has to be at least.
fn cases(checkpoint: &Checkpoint, family: &str, at_least: usize) -> Vec<String> {
    let named = checkpoint.names().filter_map(|name| name.strip_suffix(".dequantized"));
    let found: Vec<String> = named.filter(|name| name.starts_with(family)).map(str::to_owned).collect();
    assert!(found.len() >= at_least, "{} cases of {family}", found.len());
    found
}

fn floats(checkpoint: &Checkpoint, case: &str) -> (Vec<f32>, Dtype) {
    let tensor = checkpoint.tensor(&format!("{case}.dequantized")).unwrap();
    (tensor.to_f32().unwrap(), tensor.dtype)
}

fn group_json(case: &str) -> Value {
    if case.contains(".g32") { json!(32) } else { json!(-1) }
}

/// Codes and zero points before they were packed.
fn check_codes(checkpoint: &Checkpoint, case: &str, matrix: &AffineTensor) {
    let expected = checkpoint.tensor(&format!("{case}.codes")).unwrap();
    let mut row = vec![0; matrix.cols];
    for (r, expected) in expected.bytes.chunks_exact(matrix.cols).enumerate() {
        matrix.unpack_row(r, &mut row);
        assert_eq!(row, expected, "{case}: row {r}");
    }
    let expected = checkpoint.tensor(&format!("{case}.zeros")).unwrap();
    match &matrix.zeros {
        Some(zeros) => assert_eq!(zeros[..], expected.bytes[..], "{case}"),
        None => assert!(expected.bytes.iter().all(|&zero| zero == matrix.scheme.middle()), "{case}"),
    }
}

/// Numbers in the type in which the library computes.
fn check_numbers(checkpoint: &Checkpoint, case: &str, mut numbers: Vec<f32>) {
    let (expected, dtype) = floats(checkpoint, case);
    round_floats(&mut numbers, dtype).unwrap();
    assert_eq!(numbers, expected, "{case}");
}

fn check_bytes(checkpoint: &Checkpoint, written: Vec<(String, RawTensor)>) {
    for (name, tensor) in written {
        let original = checkpoint.tensor(&name).unwrap();
        assert_eq!((tensor.dtype, &tensor.shape), (original.dtype, &original.shape), "{name}");
        assert_eq!(tensor.bytes[..], original.bytes[..], "{name}");
    }
}

#[test]
fn gptq_of_every_width_and_version() {
    let checkpoint = fixture();
    for case in cases(&checkpoint, "gptq.", 17) {
        let bits: u8 = case["gptq.b".len()..][..1].parse().unwrap();
        let config = |format: &str| {
            GptqConfig::parse(
                &json!({"bits": bits, "group_size": group_json(&case), "checkpoint_format": format,
                "sym": case.contains(".sym"), "desc_act": case.ends_with("g_idx")}),
            )
            .unwrap()
        };
        let matrix = read_gptq(&checkpoint, &case, &config("gptq_v2")).unwrap().unwrap();
        check_codes(&checkpoint, &case, &matrix);
        check_numbers(&checkpoint, &case, matrix.dequantize());
        assert_eq!(matrix.g_idx.is_some(), case.ends_with("g_idx"), "{case}");
        check_bytes(&checkpoint, gptq_tensors(&case, &matrix, GptqFormat::V2).unwrap());

        // The first version differs in its zero points only.
        let first = gptq_tensors(&case, &matrix, GptqFormat::V1).unwrap();
        let stored = checkpoint.tensor(&format!("{case}.qzeros_v1")).unwrap();
        assert_eq!(first[1].1.bytes[..], stored.bytes[..], "{case}");
        let as_v1 = super::compressed::through_a_file(&first);
        let back = read_gptq(&as_v1, &case, &config("gptq")).unwrap().unwrap();
        assert_eq!(back.dequantize(), matrix.dequantize(), "{case}");
    }
}

#[test]
fn planar_gptq_is_read() {
    let checkpoint = fixture();
    for case in cases(&checkpoint, "gptq_p.", 4) {
        let bits: u8 = case["gptq_p.b".len()..][..1].parse().unwrap();
        let config = |format: &str, bits: u8| {
            GptqConfig::parse(
                &json!({"bits": bits, "group_size": 32, "checkpoint_format": format, "sym": false}),
            )
        };
        let matrix = read_gptq(&checkpoint, &case, &config("gptq_p", bits).unwrap()).unwrap().unwrap();
        check_codes(&checkpoint, &case, &matrix);
        check_numbers(&checkpoint, &case, matrix.dequantize());
        if bits == 3 {
            // Words of three bits have two layouts: the other one gives other numbers.
            let dense = read_gptq(&checkpoint, &case, &config("gptq_v2", bits).unwrap()).unwrap().unwrap();
            assert_ne!(dense.dequantize(), matrix.dequantize());
        }
    }
}

#[test]
fn awq() {
    let checkpoint = fixture();
    for case in cases(&checkpoint, "awq.", 3) {
        let config = AwqConfig::parse(&json!({"bits": 4, "group_size": group_json(&case)})).unwrap();
        let matrix = read_awq(&checkpoint, &case, &config).unwrap().unwrap();
        check_codes(&checkpoint, &case, &matrix);
        check_numbers(&checkpoint, &case, matrix.dequantize());
        check_bytes(&checkpoint, awq_tensors(&case, &matrix).unwrap());
    }
}

#[test]
fn bitsandbytes() {
    let checkpoint = fixture();
    let config = |bits: u8| {
        let value =
            json!({"quant_method": "bitsandbytes", "load_in_4bit": bits == 4, "load_in_8bit": bits == 8});
        Quantization::parse(&value).unwrap()
    };
    for case in cases(&checkpoint, "bnb.", 6) {
        let bits = if case == "bnb.int8" { 8 } else { 4 };
        let matrix = config(bits).read(&checkpoint, &case).unwrap().unwrap();
        match &matrix {
            Coded::Codebook(_) => check_numbers(&checkpoint, &case, matrix.dequantize()),
            // `(code * SCB) / 127` there, `code * (SCB / 127)` here.
            Coded::Affine(_) => {
                let (expected, _) = floats(&checkpoint, &case);
                for (a, b) in matrix.dequantize().iter().zip(expected) {
                    assert!((a - b).abs() <= 2.0 * f32::EPSILON * b.abs(), "{a} is not {b}");
                }
            }
            Coded::Real(_) | Coded::NormalFloat(_) | Coded::Float(_) | Coded::Blocks(_) => {
                panic!("tables and integers only")
            }
        }
        let message = config(12 - bits).read(&checkpoint, &case).unwrap_err().to_string();
        assert!(message.contains(&format!("is of {bits} bits, but load_in_")), "{message}");
    }
    assert!(config(4).read(&checkpoint, "absent").unwrap().is_none());
}

#[test]
fn int_quantized() {
    let checkpoint = fixture();
    for case in cases(&checkpoint, "int.", 4) {
        let parts: Vec<&str> = case.split('.').collect();
        let bits: u8 = parts[1][1..].parse().unwrap();
        let size = (parts[3] == "group").then_some(32);
        let config = QuantizationConfig::parse(&json!({
            "quant_method": "compressed-tensors", "format": "int-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights":
                {"num_bits": bits, "symmetric": parts[2] == "sym", "strategy": parts[3], "group_size": size},
                "input_activations": {"num_bits": 8, "type": "int", "strategy": "tensor", "dynamic": false}}},
        }))
        .unwrap();
        let weight = read_compressed_weight(&checkpoint, &case, &config).unwrap().unwrap();
        assert_eq!(weight.input_scale, Some(vec![0.03125]), "{case}");
        check_numbers(&checkpoint, &case, weight.matrix.dequantize());
        // One scale a tensor is written as one a row, which is another file for the same matrix.
        if parts[3] != "tensor" {
            let matrix = weight.matrix.into_affine().unwrap();
            let tensors = int_tensors(&case, &matrix).unwrap();
            let written: usize = tensors.iter().map(|(_, tensor)| tensor.bytes.len()).sum();
            let (rows, cols, format) = (matrix.rows, matrix.cols, CompressedFormat::IntQuantized);
            let expected = format.integer_bytes(matrix.scheme, rows, cols, matrix.scale_dtype);
            assert_eq!(expected, Some(written as u64), "{case}");
            check_bytes(&checkpoint, tensors);
        }
    }
}
