//! Float codes in the compressed-tensors formats: read, written, contradicted and damaged.

use serde_json::{Value, json};
use trimtab_io::{
    AffineGroup, AffineScheme, Checkpoint, Coded, CompressedFormat, Error, FloatScheme, FloatTensor,
    GroupScheme, Quantization, QuantizationConfig, RawTensor, ScaleFormat, float_tensors, read_compressed,
};

use super::Draws;
use super::floats::{CASES, cases, damage, numbers, patterns, random_matrix, through_a_file};

/// The `weights` and the format of the group of a case of the fixture.
fn written(case: &str) -> (Value, &'static str) {
    let float = |bits: u8, strategy: &str| json!({"num_bits": bits, "type": "float", "strategy": strategy});
    let with = |mut value: Value, key: &str, more: Value| {
        value[key] = more;
        value
    };
    let group = |bits, size: usize| with(float(bits, "group"), "group_size", size.into());
    match case {
        "fp8.tensor" => (float(8, "tensor"), "float-quantized"),
        "fp8.channel" => (float(8, "channel"), "naive-quantized"),
        "fp8.group" => (group(8, 24), "naive-quantized"),
        "fp8.block" => (with(float(8, "block"), "block_structure", json!([16, 32])), "float-quantized"),
        "mxfp8" => (with(group(8, 32), "scale_dtype", "torch.uint8".into()), "mxfp8-quantized"),
        "mxfp4" => (group(4, 32), "mxfp4-pack-quantized"),
        "nvfp4" => (with(float(4, "tensor_group"), "group_size", 16.into()), "nvfp4-pack-quantized"),
        _ => panic!("no case {case}"),
    }
}

fn object(module: &str, weights: &Value, format: &str) -> Value {
    json!({
        "quant_method": "compressed-tensors", "format": format,
        "config_groups": {"group_0": {"targets": [module], "weights": weights, "format": format}},
    })
}

fn config(module: &str, weights: &Value, format: &str) -> QuantizationConfig {
    QuantizationConfig::parse(&object(module, weights, format)).unwrap()
}

fn read(checkpoint: &Checkpoint, module: &str, config: &QuantizationConfig) -> FloatTensor {
    read_compressed(checkpoint, module, config).unwrap().unwrap().into_float().unwrap()
}

#[test]
fn every_case_of_the_library_is_read_and_written_to_the_same_bytes() {
    let checkpoint = cases();
    for (case, scheme) in CASES {
        let (weights, format) = written(case);
        let config = config(case, &weights, format);
        let matrix = read(&checkpoint, case, &config);
        assert_eq!((matrix.rows, matrix.cols, matrix.scheme), (18, 96, scheme), "{case}");
        let expected = numbers(&checkpoint, &format!("{case}.dequantized"));
        assert_eq!(patterns(&matrix.dequantize()), patterns(&expected), "{case}");

        let mut bytes = 0;
        for (name, written) in float_tensors(case, &matrix).unwrap() {
            let stored = checkpoint.tensor(&name).unwrap();
            assert_eq!((written.dtype, &written.shape), (stored.dtype, &stored.shape), "{name}");
            assert_eq!(written.bytes[..], stored.bytes[..], "{name}");
            bytes += stored.bytes.len() as u64;
        }
        assert_eq!((matrix.bytes(), scheme.bytes(18, 96)), (bytes, bytes), "{case}");

        let object = QuantizationConfig::of_codes([(case, scheme.into())], &[]).unwrap().to_json();
        let back = QuantizationConfig::parse(&object).unwrap();
        assert_eq!(back.group_of(case).unwrap().unwrap().scheme, GroupScheme::Float(scheme), "{case}");
        assert_eq!(patterns(&read(&checkpoint, case, &back).dequantize()), patterns(&expected), "{case}");

        let quantization = Quantization::parse(&object).unwrap();
        let coded = quantization.read(&checkpoint, case).unwrap().unwrap();
        assert!(matches!(coded, Coded::Float(_)));
        assert_eq!((coded.dims(), coded.bytes()), ([18, 96], bytes));
        assert_eq!(patterns(&coded.dequantize()), patterns(&expected));
    }
}

#[test]
fn any_scheme_comes_back_or_is_refused() {
    let mut draws = Draws(8);
    let (mut sound, mut refused, mut special) = (0, 0, 0);
    for _ in 0..600 {
        let matrix = random_matrix(&mut draws);
        let scheme = matrix.scheme;
        match float_tensors("m", &matrix) {
            Ok(tensors) => {
                let checkpoint = through_a_file(&tensors);
                let config = QuantizationConfig::of_codes([("m", scheme.into())], &[]).unwrap();
                let config = QuantizationConfig::parse(&config.to_json()).unwrap();
                let found = read_compressed(&checkpoint, "m", &config);
                if matrix.first_non_finite().is_some() {
                    special += 1;
                    assert!(found.unwrap_err().to_string().contains("is not finite"));
                    continue;
                }
                sound += 1;
                let found = found.unwrap().unwrap().into_float().unwrap();
                assert_eq!((found.rows, found.cols, found.scheme), (matrix.rows, matrix.cols, scheme));
                assert_eq!(patterns(&found.dequantize()), patterns(&matrix.dequantize()), "{scheme}");
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("compressed-tensors cannot hold"), "{error}");
                let error =
                    QuantizationConfig::of_codes([("m", GroupScheme::Float(scheme))], &[]).unwrap_err();
                assert!(error.to_string().contains("compressed-tensors cannot hold"), "{error}");
            }
        }
    }
    assert!(
        sound > 30 && refused > 60 && special > 30,
        "{sound} sound, {refused} refused, {special} special"
    );
}

#[test]
fn files_that_contradict_their_configuration() {
    let checkpoint = cases();
    let read = |case: &str, weights: Value, format: &str| {
        read_compressed(&checkpoint, case, &config(case, &weights, format)).unwrap_err().to_string()
    };
    let float = |bits: u8, strategy: &str| json!({"num_bits": bits, "type": "float", "strategy": strategy});
    let mut nvfp4 = float(4, "tensor_group");
    nvfp4["group_size"] = 32.into();
    assert!(
        read("nvfp4", nvfp4.clone(), "nvfp4-pack-quantized")
            .contains("expected [18, 3] for fp4 g32 e4m3, found [18, 6]")
    );
    assert!(
        read("fp8.channel", float(8, "tensor"), "float-quantized")
            .contains("expected [1] for fp8 tensor, found [18, 1]")
    );
    nvfp4["group_size"] = 16.into();
    assert!(read("mxfp4", nvfp4.clone(), "nvfp4-pack-quantized").contains("expected F8_E4M3, found U8"));
    assert!(
        read("fp8.channel", nvfp4, "nvfp4-pack-quantized").contains("weight_packed"),
        "named, but not there"
    );
    assert!(read("nvfp4", float(8, "channel"), "float-quantized").contains("nvfp4.weight"));

    let parse = |weights: Value, format: &str| {
        let value = json!({
            "quant_method": "compressed-tensors", "format": format,
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "format": format,
                                          "input_activations": {"num_bits": 8, "dynamic": true}}},
        });
        QuantizationConfig::parse(&value)
    };
    let good = parse(float(8, "channel"), "float-quantized").unwrap();
    assert_eq!(good.groups()[0].input_activations, Some(json!({"num_bits": 8, "dynamic": true})));
    let mut mxfp4 = float(4, "group");
    mxfp4["group_size"] = 32.into();
    assert!(parse(mxfp4.clone(), "mxfp4-pack-quantized").is_ok());
    mxfp4["group_size"] = 64.into();
    let message = parse(mxfp4.clone(), "mxfp4-pack-quantized").unwrap_err().to_string();
    assert!(message.contains("num_bits 4 by group 64 in the format \"mxfp4-pack-quantized\""), "{message}");
    let with = |key: &str, value: Value| {
        let mut weights = float(8, "channel");
        weights[key] = value;
        weights
    };
    let refused = [
        (json!({"num_bits": 6, "type": "float", "group_size": 32}), "num_bits 6 by group 32"),
        (json!({"num_bits": 4, "type": "float", "group_size": 32}), "in the format \"float-quantized\""),
        (
            json!({"num_bits": 8, "type": "float", "strategy": "tensor_group", "group_size": 16}),
            "tensor_group 16",
        ),
        (json!({"num_bits": 8, "type": "float", "strategy": "block"}), "without a block_structure"),
        (json!({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [0, 8]}), "[0,8]"),
        (with("block_structure", json!([8, 8])), "block_structure with strategy \"channel\""),
        (with("symmetric", json!(false)), "symmetric false"),
        (with("actorder", json!("group")), "actorder"),
        (with("dynamic", json!(true)), "dynamic"),
        (with("group_size", json!(32)), "with group_size 32"),
        (json!({"num_bits": 8, "type": "int", "strategy": "channel"}), "int8 row sym codes in the format"),
    ];
    for (weights, expected) in refused {
        let message = parse(weights.clone(), "float-quantized").unwrap_err().to_string();
        assert!(message.contains(expected), "{weights}: {message}");
    }
}

#[test]
fn a_code_without_its_scales_is_never_taken_for_a_dense_weight() {
    let original = cases();
    let (weights, format) = written("fp8.channel");
    let tensors = vec![("m.weight".to_string(), original.tensor("fp8.channel.weight").unwrap())];
    let mut object = object("m", &weights, format);
    object["config_groups"]["group_0"]["targets"] = json!(["Linear"]);
    let config = QuantizationConfig::parse(&object).unwrap();
    let error = read_compressed(&through_a_file(&tensors), "m", &config).unwrap_err();
    assert!(matches!(error, Error::MissingTensor { .. }), "{error}");
    assert!(read_compressed(&through_a_file(&tensors), "other", &config).unwrap().is_none());
}

#[test]
fn mixed_groups_name_their_formats() {
    let scheme = AffineScheme { bits: 4, group_size: Some(32), symmetric: true };
    let integers = GroupScheme::Affine(AffineGroup { scheme, per_tensor: false, act_order: false });
    let [bf16, f32] =
        [ScaleFormat::BF16, ScaleFormat::F32].map(|scale| GroupScheme::from(FloatScheme::fp8(scale)));
    let modules = [("a", integers), ("b", FloatScheme::NVFP4.into()), ("c", bf16), ("d", f32)];
    let config = QuantizationConfig::of_codes(modules, &["lm_head".into()]).unwrap();
    let json = config.to_json();
    assert_eq!(json["format"], "mixed-precision");
    assert_eq!(json["config_groups"]["group_1"]["format"], "nvfp4-pack-quantized");
    assert_eq!(json["config_groups"]["group_2"]["targets"], json!(["c", "d"]), "scale types are no groups");
    let back = QuantizationConfig::parse(&json).unwrap();
    assert_eq!(back.to_json(), json);
    let float = |module: &str| back.group_of(module).unwrap().unwrap().scheme.float();
    assert_eq!((float("a"), float("b")), (None, Some(FloatScheme::NVFP4)));
    assert_eq!(float("c"), Some(FloatScheme::fp8(ScaleFormat::F32)));
    // Another format is for the groups that it can hold.
    let inputs = json!({"num_bits": 8, "type": "float", "strategy": "token", "dynamic": true});
    let eight = back.in_format(CompressedFormat::FloatQuantized, Some(&inputs));
    let formats: Vec<&str> = eight.groups().iter().map(|group| group.format.name()).collect();
    assert_eq!(formats, ["pack-quantized", "nvfp4-pack-quantized", "float-quantized"]);
}

#[test]
fn damaged_files_and_configurations_do_no_harm() {
    let original = cases();
    let mut draws = Draws(11);
    let (mut sound, mut refused) = (0, 0);
    for round in 0..10_000 {
        let (case, _) = CASES[round % CASES.len()];
        let (mut weights, format) = written(case);
        // The tensors of one case, with a wrong length, shape, type or byte.
        let prefix = format!("{case}.");
        let names: Vec<&str> = original
            .names()
            .filter(|name| name.starts_with(&prefix) && !name.ends_with("dequantized"))
            .collect();
        let mut tensors: Vec<(String, RawTensor)> =
            names.iter().map(|name| (name.to_string(), original.tensor(name).unwrap())).collect();
        let at = draws.below(tensors.len());
        damage(&mut tensors, at, &mut draws);
        if draws.below(3) == 0 {
            let keys = ["group_size", "num_bits", "strategy", "block_structure", "scale_dtype", "symmetric"];
            let values =
                [json!(null), json!(0), json!(-1), json!(4), json!(u64::MAX), json!("group"), json!([1, 1])];
            weights[keys[draws.below(6)]] = values[draws.below(7)].clone();
        }
        let checkpoint = through_a_file(&tensors);
        let value = json!({
            "quant_method": "compressed-tensors", "format": format,
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        });
        let read =
            QuantizationConfig::parse(&value).and_then(|config| read_compressed(&checkpoint, case, &config));
        match read {
            Ok(Some(matrix)) => {
                sound += 1;
                let [rows, cols] = matrix.dims();
                let numbers = matrix.dequantize();
                assert_eq!(numbers.len(), rows * cols);
                assert!(numbers.iter().all(|x| x.is_finite()));
            }
            Ok(None) => {}
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().is_empty());
            }
        }
    }
    assert!(sound > 1000 && refused > 3000, "{sound} sound, {refused} refused");
}
