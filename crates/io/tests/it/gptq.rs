//! Packed matrices through files of the GPTQ format.

use proptest::prelude::*;
use serde_json::json;
use trimtab_io::{
    AffineScheme, AffineTensor, Dtype, GptqConfig, GptqFormat, RawTensor, gptq_tensors, read_gptq,
};

use super::affine::{Case, shaped};
use super::compressed::through_a_file;

const MODULE: &str = "model.layers.0.mlp.up_proj";

/// A matrix that the format holds: sides in multiples of 32, whole groups, F16 scales, zero points that do not wrap.
fn case() -> impl Strategy<Value = (Case, GptqFormat)> {
    let bits = prop::sample::select(vec![2u8, 3, 4, 8]);
    let group = prop::sample::select(vec![None, Some(16usize), Some(32), Some(96)]);
    let format = prop::sample::select(vec![GptqFormat::V1, GptqFormat::V2]);
    (1usize..4, 1usize..3, bits, group, any::<bool>(), any::<bool>(), format, any::<u64>()).prop_map(
        |(rows, cols, bits, group_size, symmetric, ordered, format, seed)| {
            let scheme = AffineScheme { bits, group_size, symmetric };
            let mut case = shaped([32 * rows, 96 * cols], scheme, ordered, Dtype::F16, seed);
            if format == GptqFormat::V1 {
                case.zeros.iter_mut().flatten().for_each(|zero| *zero = (*zero).max(1));
            }
            (case, format)
        },
    )
}

fn config(matrix: &AffineTensor, format: GptqFormat) -> GptqConfig {
    let config = GptqConfig::of(format, [(MODULE, matrix)], &[]).unwrap();
    GptqConfig::parse(&config.to_json()).unwrap()
}

fn words(tensors: &[(String, RawTensor)], suffix: &str) -> Vec<u32> {
    let (_, tensor) = tensors.iter().find(|(name, _)| name.ends_with(suffix)).unwrap();
    tensor.bytes.as_u32().unwrap().to_vec()
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_has_the_predicted_size((case, format) in case()) {
        let packed = case.pack().unwrap();
        let tensors = gptq_tensors(MODULE, &packed, format).unwrap();
        let written: usize = tensors.iter().map(|(_, tensor)| tensor.bytes.len()).sum();
        prop_assert_eq!(format.bytes(case.scheme, case.rows, case.cols), written as u64);
        let read = read_gptq(&through_a_file(&tensors), MODULE, &config(&packed, format)).unwrap().unwrap();
        prop_assert_eq!(read.dequantize(), case.dequantize());
        prop_assert_eq!(&read.codes[..], &packed.codes[..]);
        prop_assert_eq!(read.scales, case.scales);
        let middle = case.scheme.middle();
        prop_assert_eq!(read.zeros, case.zeros.filter(|zeros| zeros.iter().any(|&zero| zero != middle)));
    }
}

/// 32 outputs and inputs of 4 bits with the codes and zero points given.
fn matrix(bits: u8, codes: impl Fn(usize, usize) -> u8, zeros: Option<Vec<u8>>) -> AffineTensor {
    let scheme = AffineScheme { bits, group_size: None, symmetric: zeros.is_none() };
    let codes: Vec<u8> = (0..32 * 32).map(|i| codes(i / 32, i % 32)).collect();
    AffineTensor::from_codes(32, 32, scheme, &codes, vec![0.5; 32], zeros, None, Dtype::F16).unwrap()
}

#[test]
fn golden_words_of_the_format() {
    let four = matrix(4, |_, input| (input % 8) as u8, None);
    let v1 = gptq_tensors("m", &four, GptqFormat::V1).unwrap();
    assert_eq!(words(&v1, ".qweight")[0], 0x7654_3210);
    assert!(words(&v1, ".qzeros").iter().all(|&word| word == 0x7777_7777));
    let v2 = gptq_tensors("m", &four, GptqFormat::V2).unwrap();
    assert!(words(&v2, ".qzeros").iter().all(|&word| word == 0x8888_8888));
    let three = gptq_tensors("m", &matrix(3, |_, input| (input % 8) as u8, None), GptqFormat::V2).unwrap();
    let qweight = words(&three, ".qweight");
    // The three words of an output stand below each other.
    assert_eq!([qweight[0], qweight[32], qweight[64]], [0x88fa_c688, 0xc688_fac6, 0xfac6_88fa]);
}

#[test]
fn a_stored_zero_point_of_ones_is_zero_in_v1() {
    let zeros: Vec<u8> = (0..32).map(|output| output % 16).collect();
    let matrix = matrix(4, |output, input| ((output + input) % 16) as u8, Some(zeros.clone()));
    let message = gptq_tensors("m", &matrix, GptqFormat::V1).unwrap_err().to_string();
    assert!(
        message.contains("zero point of output 0, group 0 is 0") && message.contains("gptq_v2"),
        "{message}"
    );
    // The file that another writer makes of it, field by field.
    let mut tensors = gptq_tensors(MODULE, &matrix, GptqFormat::V2).unwrap();
    let stored: Vec<u32> = (0..4)
        .map(|word| (0..8).map(|k| (u32::from(zeros[8 * word + k]).wrapping_sub(1) & 15) << (4 * k)).sum())
        .collect();
    assert_eq!(stored[0] & 15, 15, "the first wraps");
    let bytes: Vec<u8> = stored.iter().flat_map(|word| word.to_le_bytes()).collect();
    tensors[1].1 = RawTensor::new(Dtype::I32, vec![1, 4], bytes.into()).unwrap();
    let read =
        |format| read_gptq(&through_a_file(&tensors), MODULE, &config(&matrix, format)).unwrap().unwrap();
    assert_eq!(read(GptqFormat::V1).zeros, Some(zeros));
    assert_ne!(
        read(GptqFormat::V2).dequantize(),
        matrix.dequantize(),
        "the other version reads other numbers"
    );
}

#[test]
fn a_file_that_names_the_wrong_version_is_caught() {
    let matrix = matrix(4, |_, input| (input % 16) as u8, None);
    for (written, said) in [(GptqFormat::V1, GptqFormat::V2), (GptqFormat::V2, GptqFormat::V1)] {
        let checkpoint = through_a_file(&gptq_tensors(MODULE, &matrix, written).unwrap());
        let message = read_gptq(&checkpoint, MODULE, &config(&matrix, said)).unwrap_err().to_string();
        let expected = format!("checkpoint_format is \"{said}\", the file looks like \"{written}\"");
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn what_the_format_cannot_hold_is_named() {
    let refuse = |case: Case, format: GptqFormat, expected: &str| {
        let message = gptq_tensors("m", &case.pack().unwrap(), format).unwrap_err().to_string();
        assert!(message.starts_with(format.name()) && message.contains(expected), "{expected}: {message}");
    };
    let make = |dims: [usize; 2], bits: u8, group_size: Option<usize>, dtype: Dtype| {
        shaped(dims, AffineScheme { bits, group_size, symmetric: true }, false, dtype, 1)
    };
    for bits in [1, 5, 6, 7] {
        let expected = format!("2, 3, 4 or 8 bits, not {bits}");
        refuse(make([32, 64], bits, None, Dtype::F16), GptqFormat::V2, &expected);
    }
    refuse(make([32, 40], 4, None, Dtype::F16), GptqFormat::V1, "multiples of 32, found [32, 40]");
    refuse(make([40, 32], 4, None, Dtype::F16), GptqFormat::V1, "multiples of 32, found [40, 32]");
    refuse(make([32, 96], 4, Some(64), Dtype::F16), GptqFormat::V1, "short last group of 32 of 96 inputs");
    refuse(make([32, 64], 4, Some(32), Dtype::BF16), GptqFormat::V1, "F16, found BF16");
    refuse(make([32, 64], 4, Some(32), Dtype::F16), GptqFormat::Planar, "not written");
}

#[test]
fn the_object_and_its_synonyms() {
    let parse = |value: serde_json::Value| GptqConfig::parse(&value);
    let config = parse(json!({"quant_method": "gptq", "bits": 4, "group_size": -1, "checkpoint_format": "gptq_v2",
        "desc_act": true, "sym": false, "lm_head": true, "pack_dtype": "int32", "damp_percent": 0.01, "meta": {}}))
    .unwrap();
    assert_eq!((config.format, config.lm_head), (GptqFormat::V2, true));
    let scheme = config.scheme_of("anything").unwrap();
    assert_eq!((scheme.bits, scheme.group_size, scheme.desc_act, scheme.sym), (4, None, true, Some(false)));
    assert_eq!(parse(config.to_json()).unwrap().to_json(), config.to_json());
    let old = parse(json!({"method": "gptq", "format": "gptq", "bits": 8})).unwrap();
    assert_eq!((old.format, old.scheme.group_size, old.scheme.sym), (GptqFormat::V1, Some(128), None));
    assert_eq!(parse(json!({"bits": 5, "format": "gptq_p"})).unwrap().format, GptqFormat::Planar);
    for (value, expected) in [
        (json!({"bits": 5}), "gptq with 5 bits"),
        (json!({"bits": 1, "format": "gptq_p"}), "gptq_p with 1 bits"),
        (json!({}), "bits is missing"),
        (json!({"bits": 4, "checkpoint_format": "marlin"}), "checkpoint_format \"marlin\""),
        (json!({"bits": 4, "is_marlin_format": true}), "Marlin"),
        (json!({"bits": 4, "pack_dtype": "int64"}), "pack_dtype \"int64\""),
        (json!({"bits": 4, "quant_method": "awq"}), "quant_method is \"awq\""),
        (json!({"bits": 4, "quant_method": "gptq", "method": "awq"}), "two names of one thing"),
        (json!({"bits": 4, "format": "gptq", "checkpoint_format": "gptq_v2"}), "two names of one thing"),
        (json!({"bits": 4, "group_size": 0}), "group_size is 0"),
        (json!({"bits": 4, "dynamic": []}), "dynamic is no object"),
        (json!({"bits": 4, "dynamic": {"+:(": {}}}), "dynamic \"(\""),
        (json!({"bits": 4, "dynamic": {"+:a": {"bits": 6}}}), "gptq with 6 bits"),
        (json!({"bits": 4, "dynamic": {"+:a": {"format": "gptq_v2"}}}), "differs from that of the whole"),
        (json!({"bits": 4, "dynamic": {"+:a": 4}}), "is no object"),
    ] {
        let message = parse(value.clone()).unwrap_err().to_string();
        assert!(message.contains(expected), "{value}: {message}");
    }
}

#[test]
fn exceptions_are_asked_in_order() {
    let config = GptqConfig::parse(&json!({"bits": 4, "group_size": 64, "sym": true, "dynamic": {
        "+:.*down": {"bits": 8, "group_size": 32},
        ".*\\.0\\..*": {"desc_act": true},
        "-:model\\.0\\.attn": {},
    }}))
    .unwrap();
    let of = |module: &str| config.scheme_of(module).map(|s| (s.bits, s.group_size, s.desc_act));
    assert_eq!(of("model.0.mlp.down"), Some((8, Some(32), false)), "the first that matches");
    assert_eq!(of("model.0.mlp.up"), Some((4, Some(64), true)));
    assert_eq!(of("model.0.attn.q"), None, "what stays dense goes first");
    assert_eq!(of("the.model.0.attn.q"), Some((4, Some(64), true)), "from the start of the name");
    assert_eq!(of("model.1.mlp.up"), Some((4, Some(64), false)));
    let back = GptqConfig::parse(&config.to_json()).unwrap();
    for module in ["model.0.mlp.down", "model.0.mlp.up", "model.0.attn.q", "model.1.mlp.up"] {
        assert_eq!(back.scheme_of(module), config.scheme_of(module), "{module}");
    }
}

#[test]
fn several_schemes_become_exceptions_by_name() {
    let make = |bits: u8, symmetric: bool| {
        let scheme = AffineScheme { bits, group_size: Some(32), symmetric };
        shaped([32, 64], scheme, false, Dtype::F16, 3).pack().unwrap()
    };
    let (four, eight, asym) = (make(4, true), make(8, true), make(4, false));
    let modules = [("m.0.a", &eight), ("m.0.b", &four), ("m.1.b", &four), ("lm_head", &asym)];
    let config = GptqConfig::of(GptqFormat::V2, modules, &["m.1.a".into()]).unwrap();
    let json = config.to_json();
    assert_eq!((&json["bits"], &json["lm_head"]), (&json!(4), &json!(true)));
    assert_eq!(json["modules_in_block_to_quantize"], json!([["m.0.a", "m.0.b", "m.1.b"]]));
    assert!(!config.is_uniform());
    let config = GptqConfig::parse(&json).unwrap();
    assert!(!config.is_uniform());
    let of = |module: &str| config.scheme_of(module).map(|s| (s.bits, s.sym.unwrap()));
    assert_eq!(of("m.0.a"), Some((8, true)));
    assert_eq!(of("m.0.ab"), Some((4, true)), "the name is matched whole");
    assert_eq!(of("m.1.b"), Some((4, true)));
    assert_eq!(of("lm_head"), Some((4, false)));
    assert_eq!(of("m.1.a"), None);
    assert_eq!(of("m.10a"), Some((4, true)), "a dot is a dot");
    assert!(GptqConfig::of(GptqFormat::V2, [], &[]).is_err());

    // A head that stays dense lies outside the blocks; zero points alone make no other layout.
    let modules = [("m.0.b", &four), ("m.1.b", &asym)];
    let config = GptqConfig::of(GptqFormat::V2, modules, &["lm_head".into()]).unwrap();
    assert!(config.is_uniform());
    assert!(config.to_json().get("modules_in_block_to_quantize").is_none());
}

#[test]
fn tensors_that_contradict_the_configuration() {
    let scheme = AffineScheme { bits: 4, group_size: Some(32), symmetric: true };
    let packed = shaped([32, 64], scheme, false, Dtype::F16, 5).pack().unwrap();
    let tensors = gptq_tensors(MODULE, &packed, GptqFormat::V1).unwrap();
    let read = |tensors: &[(String, RawTensor)], config: serde_json::Value| {
        read_gptq(&through_a_file(tensors), MODULE, &GptqConfig::parse(&config).unwrap())
    };
    let sound = json!({"bits": 4, "group_size": 32, "sym": true});
    assert!(read(&tensors, sound.clone()).unwrap().is_some());
    for (config, expected) in [
        (json!({"bits": 8, "group_size": 32}), "scales\": expected F16 [1, 32]"),
        (json!({"bits": 3, "group_size": 32}), "8 words a column are no codes of 3 bits"),
        (json!({"bits": 4, "group_size": 64}), "scales\": expected F16 [1, 32], found F16 [2, 32]"),
        (json!({"bits": 4, "group_size": 32, "dynamic": {"-:model": {}}}), "leaves the module dense"),
    ] {
        let message = read(&tensors, config.clone()).unwrap_err().to_string();
        assert!(message.contains(expected), "{config}: {message}");
    }
    let replaced = |suffix: &str, tensor: Option<RawTensor>, config: &serde_json::Value| {
        let mut tensors = tensors.clone();
        let place = tensors.iter().position(|(name, _)| name.ends_with(suffix)).unwrap();
        match tensor {
            Some(tensor) => tensors[place].1 = tensor,
            None => drop(tensors.remove(place)),
        }
        read(&tensors, config.clone())
    };
    let i32s = |shape: Vec<usize>, value: i32| {
        let n = shape.iter().product();
        let bytes: Vec<u8> = std::iter::repeat_n(value, n).flat_map(i32::to_le_bytes).collect();
        RawTensor::new(Dtype::I32, shape, bytes.into()).unwrap()
    };
    let message = |result: trimtab_io::Result<Option<AffineTensor>>| result.unwrap_err().to_string();
    assert!(message(replaced("g_idx", Some(i32s(vec![64], 2)), &sound)).contains("in group 2, there are 2"));
    assert!(message(replaced("g_idx", Some(i32s(vec![64], -1)), &sound)).contains("in group -1"));
    assert!(message(replaced("qzeros", Some(i32s(vec![2, 4], 0)), &sound)).contains("sym is true"));
    assert!(message(replaced("qweight", Some(i32s(vec![0, 32], 0)), &sound)).contains("expected I32 words"));
    assert!(message(replaced("qzeros", None, &sound)).contains("no tensor"));
    assert!(replaced("g_idx", None, &sound).unwrap().is_some(), "columns in their order need no list");
    let ordered = json!({"bits": 4, "group_size": 32, "desc_act": true});
    assert!(message(replaced("g_idx", None, &ordered)).contains("g_idx"));
    assert!(replaced("qweight", None, &sound).unwrap().is_none(), "dense");
    let all_in_one = replaced("g_idx", Some(i32s(vec![64], 1)), &sound).unwrap().unwrap();
    assert_eq!(all_in_one.g_idx, Some(vec![1; 64]));
}

#[test]
fn a_quantize_config_beside_a_config_that_says_nothing() {
    let scheme = AffineScheme { bits: 4, group_size: Some(32), symmetric: true };
    let packed = shaped([32, 64], scheme, false, Dtype::F16, 5).pack().unwrap();
    let tensors = gptq_tensors(MODULE, &packed, GptqFormat::V1).unwrap();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let weights = || super::file(&tensors);
    let beside = br#"{"bits":4,"group_size":32,"desc_act":false,"sym":true,"model_file_base_name":"model"}"#;
    let open = |config: &str, beside: &[u8], weights: Vec<u8>| {
        super::memory(&[
            ("config.json", config.into()),
            ("quantize_config.json", beside.to_vec()),
            ("gptq_model-4bit-32g.safetensors", weights),
        ])
    };
    let read = |checkpoint: &trimtab_io::Checkpoint| {
        let quantization = trimtab_io::Quantization::of(checkpoint.config().unwrap()).unwrap()?;
        quantization.read(checkpoint, MODULE).unwrap()
    };
    let checkpoint = open("{}", beside, weights()).unwrap();
    let Some(trimtab_io::Coded::Affine(found)) = read(&checkpoint) else { panic!("not read") };
    assert_eq!(found.dequantize(), packed.dequantize());
    // What config.json says goes first.
    let config = r#"{"quantization_config":{"quant_method":"gptq","bits":4,"group_size":32}}"#;
    let first = open(config, br#"{"bits":8}"#, weights()).unwrap();
    assert!(read(&first).is_some());
    // Left over beside dense numbers, it says nothing; broken, it is named.
    let dense = super::file(&[("a", super::tensor(&[2], 1.0, Dtype::F32))]);
    assert!(read(&open("{}", beside, dense).unwrap()).is_none());
    let error = open("{}", b"no", weights()).unwrap_err().to_string();
    assert!(error.contains("quantize_config.json") && error.contains("not JSON"), "{error}");
    let other = open("{}", br#"{"bits":4,"group_size":32,"sym":true,"x":1}"#, weights()).unwrap();
    assert_ne!(other.fingerprint(), checkpoint.fingerprint());
}
