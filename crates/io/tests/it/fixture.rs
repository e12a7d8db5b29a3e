//! What the compressed-tensors library wrote is read to the same numbers, and written to the same bytes.

use std::path::Path;

use serde_json::json;
use trimtab_io::{Checkpoint, Dtype, QuantizationConfig, read_compressed, to_tensors};

/// `[bits, symmetry, strategy, ..]` of a case's name, as a configuration that names the case.
fn config(case: &str) -> (QuantizationConfig, bool) {
    let parts: Vec<&str> = case.split('.').collect();
    let bits: u8 = parts[0][1..].parse().unwrap();
    let mut weights = json!({"num_bits": bits, "symmetric": parts[1] == "sym", "strategy": parts[2]});
    if parts[2] == "group" {
        weights["group_size"] = 32.into();
    }
    if parts.contains(&"g_idx") {
        weights["actorder"] = "group".into();
    }
    let config = QuantizationConfig::parse(&json!({
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": [case], "weights": weights}},
    }));
    (config.unwrap(), parts[2] == "tensor")
}

#[test]
fn every_case_of_the_library() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/compressed_tensors/cases.safetensors");
    let checkpoint = Checkpoint::open(path).unwrap();
    let cases: Vec<&str> =
        checkpoint.names().filter_map(|name| name.strip_suffix(".weight_packed")).collect();
    assert!(cases.len() >= 48, "{} cases", cases.len());
    let mut ordered = 0;
    for case in cases {
        let (config, per_tensor) = config(case);
        let matrix = read_compressed(&checkpoint, case, &config).unwrap().unwrap().into_affine().unwrap();
        let ints = |suffix: &str| checkpoint.tensor(&format!("{case}.{suffix}")).unwrap().to_i64().unwrap();
        let middle = i64::from(matrix.scheme.middle());

        let mut row = vec![0; matrix.cols];
        let mut codes = Vec::new();
        for r in 0..matrix.rows {
            matrix.unpack_row(r, &mut row);
            codes.extend(row.iter().map(|&u| i64::from(u) - middle));
        }
        assert_eq!(codes, ints("codes"), "{case}");
        if let Some(zeros) = &matrix.zeros {
            let zeros: Vec<i64> = zeros.iter().map(|&z| i64::from(z) - middle).collect();
            let expected = ints("zero_point");
            if per_tensor {
                assert!(zeros.iter().all(|&z| z == expected[0]), "{case}");
            } else {
                assert_eq!(zeros, expected, "{case}");
            }
        }
        let expected = checkpoint.tensor(&format!("{case}.dequantized")).unwrap().to_f32().unwrap();
        assert_eq!(matrix.dequantize(), expected, "{case}");
        ordered += usize::from(matrix.g_idx.is_some());

        // One scale a tensor is written as one a row, which is another file for the same matrix.
        if !per_tensor {
            let mut bytes = 0;
            for (name, written) in to_tensors(case, &matrix).unwrap() {
                let original = checkpoint.tensor(&name).unwrap();
                assert_eq!((written.dtype, &written.shape), (original.dtype, &original.shape), "{name}");
                assert_eq!(written.bytes[..], original.bytes[..], "{name}");
                bytes += original.bytes.len() as u64;
            }
            assert_eq!(matrix.bytes(), bytes, "{case}");
        }
    }
    assert_eq!(ordered, 1, "one case has an order of its columns");
}

#[test]
fn a_wrong_width_is_seen() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/compressed_tensors/cases.safetensors");
    let checkpoint = Checkpoint::open(path).unwrap();
    let matrix = |bits: u8| {
        let weights = json!({"num_bits": bits, "strategy": "channel"});
        let config = QuantizationConfig::parse(&json!({
            "quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        }))
        .unwrap();
        read_compressed(&checkpoint, "b3.sym.channel.7x64", &config)
    };
    assert_eq!(matrix(3).unwrap().unwrap().into_affine().unwrap().scale_dtype, Dtype::F32);
    assert!(matrix(4).is_err());
}
