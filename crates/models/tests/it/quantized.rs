//! A checkpoint in any quantized format computes what its numbers compute when they are stored dense.

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData};
use serde_json::{Value, json};
use trimtab_io::{
    AffineScheme, AffineTensor, AwqConfig, Bytes, Checkpoint, CodebookTensor, CompressedFormat, Dtype,
    FloatScheme, FloatTensor, GptqConfig, GptqFormat, QuantizationConfig, RawTensor, ScaleFormat,
    awq_tensors, float_tensors, gptq_tensors, int_tensors, to_safetensors, to_tensors,
};
use trimtab_models::{Model, init};
use trimtab_nn::{Ctx, Flow, Weight, host};

/// Largest difference of logits: the kernels of packed weights add in another order.
const SAME: f32 = 1e-5;
const GROUP: usize = 32;
/// `nf4` and `fp4` have tables of sixteen; any other is as good for a test.
const TABLE: [f32; 16] =
    [-1.0, -0.7, -0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1.0];

type Tensors = Vec<(String, RawTensor)>;

fn llama() -> Value {
    json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
           "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 96,
           "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "max_position_embeddings": 64,
           "tie_word_embeddings": false, "dtype": "float32"})
}

/// Round to nearest, one scale a group; zero points differ where `symmetric` is false.
fn quantize(values: &[f32], rows: usize, cols: usize, bits: u8, symmetric: bool) -> AffineTensor {
    let scheme = AffineScheme { bits, group_size: Some(GROUP), symmetric };
    let (middle, max) = (f32::from(scheme.middle()), f32::from(scheme.max_code()));
    let (mut codes, mut scales, mut zeros) = (Vec::new(), Vec::new(), Vec::new());
    for (g, group) in values.chunks(GROUP).enumerate() {
        let largest = group.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
        let scale = half(2.0 * largest / max);
        let zero = if symmetric { middle } else { middle - (g % 2) as f32 };
        codes.extend(group.iter().map(|x| (x / scale + zero).round().clamp(0.0, max) as u8));
        scales.push(scale);
        zeros.push(zero as u8);
    }
    let zeros = (!symmetric).then_some(zeros);
    AffineTensor::from_codes(rows, cols, scheme, &codes, scales, zeros, None, Dtype::F16).unwrap()
}

fn half(x: f32) -> f32 {
    let mut one = [x];
    trimtab_io::round_floats(&mut one, Dtype::F16).unwrap();
    one[0]
}

/// Round to nearest, scales from the largest magnitude of a region.
fn floats(values: &[f32], rows: usize, cols: usize, scheme: FloatScheme) -> FloatTensor {
    let [height, width] = scheme.extent(rows, cols);
    let [down, across] = scheme.scale_shape(rows, cols);
    let global = scheme.scale.has_global().then_some(1e4);
    let mut largest = vec![1e-3f32; down * across];
    for (i, x) in values.iter().enumerate() {
        let region = i / cols / height * across + i % cols / width;
        largest[region] = largest[region].max(x.abs());
    }
    let stored = |m: &f32| scheme.scale.round(m / scheme.element.max() * global.unwrap_or(1.0));
    let scales: Vec<f32> = largest.iter().map(stored).collect();
    let code = |(i, x): (usize, &f32)| {
        let scale = scales[i / cols / height * across + i % cols / width] / global.unwrap_or(1.0);
        scheme.element.encode(x / scale)
    };
    let codes: Vec<u8> = values.iter().enumerate().map(code).collect();
    FloatTensor::from_codes(rows, cols, scheme, &codes, &scales, global).unwrap()
}

/// A matrix as the method `fp8` stores it.
fn fine_grained(module: &str, matrix: &FloatTensor) -> Tensors {
    let FloatTensor { rows, cols, scheme, .. } = *matrix;
    let codes = RawTensor::new(Dtype::F8_E4M3, vec![rows, cols], matrix.codes.clone()).unwrap();
    let shape = scheme.scale_shape(rows, cols).to_vec();
    let scales = RawTensor::new(Dtype::F32, shape, matrix.scales.clone()).unwrap();
    vec![(format!("{module}.weight"), codes), (format!("{module}.weight_scale_inv"), scales)]
}

/// The tensors of a 4-bit matrix of bitsandbytes, and its numbers.
fn codebook(module: &str, values: &[f32], rows: usize, cols: usize) -> (Tensors, Vec<f32>) {
    let absmax: Vec<f32> = values.chunks(64).map(|b| b.iter().fold(1e-3f32, |m, x| m.max(x.abs()))).collect();
    let nearest = |x: f32| {
        (0..16u8).min_by(|&a, &b| {
            let off = |i: u8| (TABLE[usize::from(i)] - x).abs();
            off(a).total_cmp(&off(b))
        })
    };
    let codes: Vec<u8> =
        values.iter().enumerate().map(|(i, x)| nearest(x / absmax[i / 64]).unwrap()).collect();
    let bytes: Vec<u8> = codes.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    let matrix = CodebookTensor::new([rows, cols], bytes.clone().into(), 64, absmax.clone(), TABLE).unwrap();
    let state =
        json!({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [rows, cols]}).to_string();
    let u8s = |shape, bytes: Vec<u8>| RawTensor::new(Dtype::U8, shape, Bytes::from(bytes)).unwrap();
    let f32s = |values: &[f32]| RawTensor::from_f32(vec![values.len()], values, Dtype::F32).unwrap();
    let name = |suffix: &str| format!("{module}.{suffix}");
    let tensors = vec![
        (name("weight"), u8s(vec![bytes.len(), 1], bytes)),
        (name("weight.absmax"), f32s(&absmax)),
        (name("weight.quant_map"), f32s(&TABLE)),
        (name("weight.quant_state.bitsandbytes__nf4"), u8s(vec![state.len()], state.into_bytes())),
    ];
    (tensors, matrix.dequantize())
}

fn open(tensors: &Tensors, quantization: Option<Value>) -> Model {
    let mut config = llama();
    if let Some(value) = quantization {
        config["quantization_config"] = value;
    }
    let files = vec![
        ("config.json".to_string(), config.to_string().into_bytes().into()),
        ("model.safetensors".to_string(), to_safetensors(tensors, &BTreeMap::new()).unwrap().into()),
    ];
    Model::from_checkpoint(Checkpoint::from_bytes(files).unwrap(), None, Device::flex()).unwrap()
}

fn logits(model: &Model) -> Vec<f32> {
    let ids: Vec<i64> = (0..24).map(|i| i * 7 % 96).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [2, 12]), &Device::flex());
    match model.network().unwrap().forward(Flow::Tokens(ids), &mut Ctx::default()).unwrap() {
        Flow::Hidden(x) => host(x),
        other => panic!("unexpected {}", other.kind()),
    }
}

/// What a format makes of one matrix: its tensors and the numbers that they stand for.
type Code = dyn Fn(&str, &[f32], usize, usize) -> (Tensors, Vec<f32>);

/// The model with every linear map of the blocks in the code, and the same with the numbers stored dense.
fn both(code: &Code, config: Value) -> (Model, Model) {
    let source = init::checkpoint(&llama(), 5, Dtype::F32).unwrap();
    let (mut coded, mut dense) = (Tensors::new(), Tensors::new());
    for name in source.names() {
        let tensor = source.tensor(name).unwrap();
        let module = name.strip_suffix(".weight").filter(|module| module.ends_with("_proj"));
        let (Some(module), &[rows, cols]) = (module, &tensor.shape[..]) else {
            coded.push((name.to_string(), tensor.clone()));
            dense.push((name.to_string(), tensor));
            continue;
        };
        let (tensors, numbers) = code(module, &tensor.to_f32().unwrap(), rows, cols);
        coded.extend(tensors);
        dense.push((name.to_string(), RawTensor::from_f32(vec![rows, cols], &numbers, Dtype::F32).unwrap()));
    }
    (open(&coded, Some(config)), open(&dense, None))
}

#[test]
fn every_format_computes_what_its_numbers_compute() {
    let affine = |bits: u8, symmetric: bool, write: fn(&str, &AffineTensor) -> Tensors| {
        Box::new(move |module: &str, values: &[f32], rows: usize, cols: usize| {
            let matrix = quantize(values, rows, cols, bits, symmetric);
            (write(module, &matrix), matrix.dequantize())
        }) as Box<Code>
    };
    let float = |scheme: FloatScheme, write: fn(&str, &FloatTensor) -> Tensors| {
        Box::new(move |module: &str, values: &[f32], rows: usize, cols: usize| {
            let matrix = floats(values, rows, cols, scheme);
            (write(module, &matrix), matrix.dequantize())
        }) as Box<Code>
    };
    let of_floats = |scheme: FloatScheme| {
        QuantizationConfig::of_codes([("m", scheme.into())], &["lm_head".into()]).unwrap().to_json()
    };
    let (fp8, block) = (FloatScheme::fp8(ScaleFormat::BF16), FloatScheme::fp8_block128(ScaleFormat::F32));
    // A matrix like all of them, for the configuration.
    let like = |bits: u8, symmetric: bool| quantize(&[0.5; 32 * 32], 32, 32, bits, symmetric);
    let gptq = |format, bits, symmetric| {
        GptqConfig::of(format, [("m", &like(bits, symmetric))], &[]).unwrap().to_json()
    };
    let compressed = |bits| QuantizationConfig::of([("m", &like(bits, true))], &["lm_head".into()]);
    let bytes = compressed(8).in_format(CompressedFormat::IntQuantized, None).to_json();
    let cases: Vec<(&str, Box<Code>, Value)> = vec![
        ("pack-quantized", affine(3, true, |m, t| to_tensors(m, t).unwrap()), compressed(3).to_json()),
        ("int-quantized", affine(8, true, |m, t| int_tensors(m, t).unwrap()), bytes),
        (
            "gptq",
            affine(4, true, |m, t| gptq_tensors(m, t, GptqFormat::V1).unwrap()),
            gptq(GptqFormat::V1, 4, true),
        ),
        (
            "gptq_v2",
            affine(3, false, |m, t| gptq_tensors(m, t, GptqFormat::V2).unwrap()),
            gptq(GptqFormat::V2, 3, false),
        ),
        (
            "awq",
            affine(4, false, |m, t| awq_tensors(m, t).unwrap()),
            AwqConfig::of([("m", &like(4, false))], &["lm_head".into()]).unwrap().to_json(),
        ),
        (
            "bitsandbytes",
            Box::new(codebook) as Box<Code>,
            json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
        ),
        ("fp8 rows", float(fp8, |m, t| float_tensors(m, t).unwrap()), of_floats(fp8)),
        (
            "nvfp4",
            float(FloatScheme::NVFP4, |m, t| float_tensors(m, t).unwrap()),
            of_floats(FloatScheme::NVFP4),
        ),
        ("fp8", float(block, fine_grained), json!({"quant_method": "fp8", "weight_block_size": [128, 128]})),
    ];
    let coded_as_they_are = ["bitsandbytes", "fp8 rows", "nvfp4", "fp8"];
    let mut seen: Vec<Vec<f32>> = Vec::new();
    for (name, code, config) in cases {
        let (coded, dense) = both(&code, config);
        assert!(coded.quantization().is_some() && dense.quantization().is_none());
        let network = coded.network().unwrap();
        let held = network.sites().filter(|site| match site.weight {
            Weight::Packed(_) => !coded_as_they_are.contains(&name),
            Weight::Coded(_) => coded_as_they_are.contains(&name),
            _ => false,
        });
        assert_eq!(held.count(), 14, "{name}: seven linear maps in each of two blocks");
        let (a, b) = (logits(&coded), logits(&dense));
        let difference = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference < SAME, "{name}: {difference}");
        // The formats differ by far more than that: the comparison can fail.
        for other in &seen {
            let difference = a.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(difference > 10.0 * SAME, "{name}: {difference}");
        }
        seen.push(a);
    }
}

#[test]
fn codes_without_a_configuration_are_refused() {
    let code = |module: &str, values: &[f32], rows: usize, cols: usize| {
        let matrix = floats(values, rows, cols, FloatScheme::fp8(ScaleFormat::F32));
        (float_tensors(module, &matrix).unwrap(), matrix.dequantize())
    };
    let (_, dense) = both(&code, json!({"quant_method": "fp8"}));
    assert!(dense.network().is_ok());
    let (coded, _) = both(&code, Value::Null);
    let message = coded.network().expect_err("an error").to_string();
    assert!(message.contains("holds F8_E4M3 codes, and no quantization_config says"), "{message}");
}
