//! Matrices of 8 and 4 bit floats: what the libraries wrote is read to the same numbers.

use std::path::Path;

use serde_json::{Value, json};
use trimtab_io::{
    Bytes, Checkpoint, Dtype, Error, FineGrainedConfig, FloatElement, FloatScheme, FloatTensor, RawTensor,
    ScaleFormat, ScaleGrid, decode_e8m0, read_fine_grained, read_gpt_oss, sha256,
};

use super::Draws;

fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/float_formats")
}

pub(super) fn cases() -> Checkpoint {
    Checkpoint::open(fixtures().join("cases.safetensors")).unwrap()
}

pub(super) fn numbers(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    checkpoint.tensor(name).unwrap().to_f32().unwrap()
}

/// The numbers that the script of the fixture draws: random patterns, every second one near the range of the types.
fn random_inputs() -> Vec<f32> {
    let mut state = 1u64;
    let draw = |_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        f32::from_bits(((x ^ (x >> 31)) >> 32) as u32)
    };
    let mut all: Vec<f32> = (0..1 << 20).map(draw).collect();
    for (i, x) in all.iter_mut().step_by(2).enumerate() {
        let finite = if x.is_nan() { 0.0 } else { x.clamp(-f32::MAX, f32::MAX) };
        let normal = if finite.is_subnormal() { finite * 2f32.powi(24) } else { finite };
        let mantissa = f32::from_bits(normal.to_bits() & 0x807f_ffff | 126 << 23);
        *x = if finite == 0.0 { finite } else { mantissa * 2f32.powi((i % 32) as i32 - 18) };
    }
    all
}

#[test]
fn codes_are_those_of_the_libraries_for_every_half_and_bfloat16() {
    let text = std::fs::read_to_string(fixtures().join("elements.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let inputs = [
        ("f16", (0..=u16::MAX).map(|bits| half::f16::from_bits(bits).to_f32()).collect::<Vec<f32>>()),
        ("bf16", (0..=u16::MAX).map(|bits| half::bf16::from_bits(bits).to_f32()).collect()),
        ("f32", random_inputs()),
    ];
    for (name, inputs) in inputs {
        for (element, key) in FloatElement::ALL.into_iter().zip(["e4m3", "e5m2", "e2m1"]) {
            let encode = |&x: &f32| match element {
                FloatElement::E2M1 if x == 0.0 => 0,
                _ => element.encode(x),
            };
            let codes: Vec<u8> = inputs.iter().map(encode).collect();
            assert_eq!(sha256(&codes), expected[name][key].as_str().unwrap(), "{key} of {name}");
            // One code that is off by a bit is another hash.
            let mut other = codes;
            other[12345] ^= 1;
            assert_ne!(sha256(&other), expected[name][key].as_str().unwrap());
        }
    }
    type Decode = fn(u8) -> f32;
    let tables: [(&str, Decode); 3] = [
        ("values.e4m3", |code| FloatElement::E4M3.decode(code)),
        ("values.e5m2", |code| FloatElement::E5M2.decode(code)),
        ("values.e8m0", decode_e8m0),
    ];
    for (key, decode) in tables {
        let one_nan = |x: f32| if x.is_nan() { f32::from_bits(0x7fc0_0000) } else { x };
        let bytes: Vec<u8> = (0..=255).flat_map(|code| one_nan(decode(code)).to_le_bytes()).collect();
        assert_eq!(sha256(&bytes), expected[key].as_str().unwrap(), "{key}");
    }
}

/// Name of a case of the fixture and its scheme.
pub(super) const CASES: [(&str, FloatScheme); 7] = [
    ("fp8.tensor", fp8(ScaleGrid::Tensor)),
    ("fp8.channel", fp8(ScaleGrid::Channel)),
    ("fp8.group", fp8(ScaleGrid::Group(24))),
    ("fp8.block", fp8(ScaleGrid::Block([16, 32]))),
    ("mxfp8", FloatScheme::MXFP8),
    ("mxfp4", FloatScheme::MXFP4),
    ("nvfp4", FloatScheme::NVFP4),
];

const fn fp8(grid: ScaleGrid) -> FloatScheme {
    FloatScheme { element: FloatElement::E4M3, grid, scale: ScaleFormat::F32 }
}

/// A case of the fixture, put together by hand.
fn stored(checkpoint: &Checkpoint, case: &str, scheme: FloatScheme) -> FloatTensor {
    let tensor = |suffix: &str| checkpoint.tensor(&format!("{case}.{suffix}")).unwrap();
    let codes = tensor(if scheme.element == FloatElement::E2M1 { "weight_packed" } else { "weight" });
    let global = scheme.scale.has_global().then(|| tensor("weight_global_scale").to_f32().unwrap()[0]);
    FloatTensor::new(18, 96, scheme, codes.bytes, tensor("weight_scale").bytes, global).unwrap()
}

/// Bit patterns, which tell zeros of different sign and NaNs apart.
pub(super) fn patterns(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_case_of_the_library() {
    let checkpoint = cases();
    let original = numbers(&checkpoint, "original");
    for (case, scheme) in CASES {
        let matrix = stored(&checkpoint, case, scheme);
        let expected = numbers(&checkpoint, &format!("{case}.dequantized"));
        assert_eq!(patterns(&matrix.dequantize()), patterns(&expected), "{case}");
        assert_eq!(matrix.first_non_finite(), None);
        assert_eq!(matrix.bytes(), scheme.bytes(18, 96));

        // The codes of the original weights for the library's scales are the library's codes.
        let (width, _) = matrix.groups();
        let mut row = vec![0; 96];
        for r in 0..18 {
            matrix.unpack_row(r, &mut row);
            let scales = matrix.row_scales(r);
            let own: Vec<u8> =
                (0..96).map(|c| scheme.element.encode(original[r * 96 + c] / scales[c / width])).collect();
            assert_eq!(own, row, "{case}, row {r}");
        }
    }
}

#[test]
fn another_half_of_a_byte_scale_or_grid_is_another_matrix() {
    let checkpoint = cases();
    let matrix = stored(&checkpoint, "nvfp4", FloatScheme::NVFP4);
    let expected = numbers(&checkpoint, "nvfp4.dequantized");
    let turned: Vec<u8> = matrix.codes.iter().map(|byte| byte.rotate_left(4)).collect();
    let turned = FloatTensor { codes: Bytes::from(turned), ..matrix.clone() };
    assert_ne!(turned.dequantize(), expected);
    let global = matrix.global_scale.map(|scale| scale * 2.0);
    assert_ne!(FloatTensor { global_scale: global, ..matrix }.dequantize(), expected);
    let block = stored(&checkpoint, "fp8.block", fp8(ScaleGrid::Block([16, 32])));
    let other = FloatTensor { scheme: fp8(ScaleGrid::Block([9, 32])), ..block };
    assert_ne!(other.dequantize(), numbers(&checkpoint, "fp8.block.dequantized"));
}

#[test]
fn the_methods_of_transformers() {
    let checkpoint = cases();
    let parse = |value: Value| FineGrainedConfig::parse(&value).unwrap();
    let blocks =
        parse(json!({"quant_method": "fp8", "weight_block_size": [16, 32], "activation_scheme": "dynamic"}));
    for (case, scale) in [("fine", ScaleFormat::F32), ("fine_ue8m0", ScaleFormat::E8M0)] {
        let matrix = read_fine_grained(&checkpoint, case, &blocks).unwrap().unwrap();
        assert_eq!((matrix.rows, matrix.cols, matrix.scheme.scale), (18, 90, scale));
        assert_eq!(matrix.dequantize(), numbers(&checkpoint, &format!("{case}.dequantized")), "{case}");
        assert_ne!(matrix.dequantize(), numbers(&checkpoint, "original")[..18 * 90]);
    }
    let whole = parse(json!({"quant_method": "fp8", "weight_block_size": null}));
    assert!(read_fine_grained(&checkpoint, "fine", &whole).unwrap_err().to_string().contains("found [2, 3]"));
    let error = read_fine_grained(&checkpoint, "fp8.channel", &blocks).unwrap_err();
    assert!(matches!(error, Error::MissingTensor { .. }), "{error}");

    let experts = read_gpt_oss(&checkpoint, "experts.up").unwrap().unwrap();
    let expected = numbers(&checkpoint, "experts.dequantized");
    assert_eq!((experts.count, experts.matrix.rows, experts.matrix.cols), (2, 6, 64));
    let found: Vec<f32> = (0..2).flat_map(|i| experts.expert(i).dequantize()).collect();
    assert_eq!(experts.matrix.dequantize(), expected);
    assert_ne!(experts.expert(0).dequantize(), expected[3 * 64..]);
    assert_eq!(found, expected);
    assert!(read_gpt_oss(&checkpoint, "experts.down").unwrap().is_none());
}

/// A random matrix of any scheme.
pub(super) fn random_matrix(draws: &mut Draws) -> FloatTensor {
    let element = FloatElement::ALL[draws.below(3)];
    let (rows, cols) = (1 + draws.below(9), 2 * (1 + draws.below(24)));
    let divisors: Vec<usize> = (1..=cols).filter(|size| cols.is_multiple_of(*size)).collect();
    let grid = match draws.below(4) {
        0 => ScaleGrid::Tensor,
        1 => ScaleGrid::Channel,
        2 => ScaleGrid::Group(divisors[draws.below(divisors.len())]),
        _ => ScaleGrid::Block([1 + draws.below(5), 1 + draws.below(20)]),
    };
    let formats =
        [ScaleFormat::F32, ScaleFormat::F16, ScaleFormat::BF16, ScaleFormat::E4M3, ScaleFormat::E8M0];
    let scheme = FloatScheme { element, grid, scale: formats[draws.below(5)] };
    let max = 1usize << element.bits();
    let codes: Vec<u8> = (0..rows * cols).map(|_| draws.below(max) as u8).collect();
    let [height, width] = scheme.scale_shape(rows, cols);
    let scale = |_| scheme.scale.round((1 + draws.below(4000)) as f32 * 1e-2);
    let scales: Vec<f32> = (0..height * width).map(scale).collect();
    let global = scheme.scale.has_global().then_some(37.5);
    let matrix = FloatTensor::from_codes(rows, cols, scheme, &codes, &scales, global).unwrap();

    // The definition, element by element.
    let [region_rows, region_cols] = scheme.extent(rows, cols);
    let found = matrix.dequantize();
    for (i, (x, &code)) in found.iter().zip(&codes).enumerate() {
        let scale = scales[i / cols / region_rows * width + i % cols / region_cols] / global.unwrap_or(1.0);
        let expected = element.decode(code) * scale;
        assert!(*x == expected || x.is_nan() && expected.is_nan(), "{scheme} at {i}: {x} for {expected}");
    }
    matrix
}

#[test]
fn codes_and_scales_come_back_for_any_scheme() {
    let mut draws = Draws(7);
    for _ in 0..600 {
        let matrix = random_matrix(&mut draws);
        let parts = [matrix.codes.len(), matrix.scales.len(), matrix.global_scale.map_or(0, |_| 4)];
        assert_eq!(parts.iter().sum::<usize>() as u64, matrix.bytes());
        assert_eq!(matrix.scheme.to_string().parse::<FloatScheme>().unwrap(), matrix.scheme);
    }
}

pub(super) fn through_a_file(tensors: &[(String, RawTensor)]) -> Checkpoint {
    let named: Vec<(&str, RawTensor)> = tensors.iter().map(|(name, t)| (name.as_str(), t.clone())).collect();
    super::memory(&[("model.safetensors", super::file(&named))]).unwrap()
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let scheme = FloatScheme::NVFP4;
    let make = |rows, cols, codes: usize, scales: &[f32], global| {
        FloatTensor::from_codes(rows, cols, scheme, &vec![1; codes], scales, global).unwrap_err().to_string()
    };
    assert!(make(1, 16, 15, &[1.0], Some(1.0)).contains("codes for [1, 16]: expected 16, found 15"));
    assert!(make(1, 24, 24, &[1.0], Some(1.0)).contains("24 columns are no multiple of the group_size 16"));
    assert!(make(1, 16, 16, &[1.0, 1.0], Some(1.0)).contains("scales for [1, 1]: expected 1, found 2"));
    assert!(
        make(1, 16, 16, &[1.05], Some(1.0))
            .contains("scale 1.05 at index 0 is no finite number of type E4M3")
    );
    assert!(make(1, 16, 16, &[1.0], None).contains("nvfp4 needs a global scale"));
    assert!(make(1, 16, 16, &[1.0], Some(0.0)).contains("global scale 0"));
    assert!(make(1, 16, 16, &[448.0], Some(1e-38)).contains("scale 448 over global scale"));
    let wide = FloatTensor::from_codes(1, 16, scheme, &[16; 16], &[1.0], Some(1.0)).unwrap_err();
    assert!(wide.to_string().contains("code 16 at index 0 has more than 4 bits"));
    let nan =
        FloatTensor::new(1, 32, FloatScheme::MXFP4, vec![0; 16].into(), vec![255].into(), None).unwrap_err();
    assert!(nan.to_string().contains("scale NaN at index 0 is not finite"));
    let given = FloatTensor::new(1, 32, FloatScheme::MXFP4, vec![0; 16].into(), vec![1].into(), Some(1.0));
    assert!(given.unwrap_err().to_string().contains("no global scale"));
    let codes = FloatTensor::new(
        1,
        2,
        FloatScheme::fp8(ScaleFormat::BF16),
        vec![0, 0x7f].into(),
        vec![0x80, 0x3f].into(),
        None,
    );
    assert!(matches!(codes.unwrap().first_non_finite(), Some((0, 1, x)) if x.is_nan()));
}

/// Damaged files of the methods of transformers are refused, or read as a whole matrix.
#[test]
fn damaged_files_of_transformers_do_no_harm() {
    let original = cases();
    let mut draws = Draws(13);
    let (mut sound, mut refused) = (0, 0);
    for round in 0..6000 {
        let (prefix, name) =
            [("fine.", "fine"), ("fine_ue8m0.", "fine_ue8m0"), ("experts.up", "experts.up")][round % 3];
        let mut tensors: Vec<(String, RawTensor)> = original
            .names()
            .filter(|name| name.starts_with(prefix) && !name.ends_with("dequantized"))
            .map(|name| (name.to_string(), original.tensor(name).unwrap()))
            .collect();
        let at = draws.below(tensors.len());
        damage(&mut tensors, at, &mut draws);
        let checkpoint = through_a_file(&tensors);
        let matrices = if name == "experts.up" {
            read_gpt_oss(&checkpoint, name)
                .map(|experts| experts.into_iter().map(|e| e.matrix).collect::<Vec<_>>())
        } else {
            let config = FineGrainedConfig { block: [Some([16, 32]), None][draws.below(2)] };
            read_fine_grained(&checkpoint, name, &config).map(|matrix| matrix.into_iter().collect())
        };
        match matrices {
            Ok(matrices) => {
                sound += 1;
                assert!(matrices.iter().all(|m| m.dequantize().len() == m.rows * m.cols));
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains(name), "{error}");
            }
        }
    }
    assert!(sound > 500 && refused > 2000, "{sound} sound, {refused} refused");
}

/// One change of a tensor: gone, cut, reshaped, of another type, or with another byte.
pub(super) fn damage(tensors: &mut Vec<(String, RawTensor)>, at: usize, draws: &mut Draws) {
    let tensor = &mut tensors[at].1;
    let mut bytes = tensor.bytes.to_vec();
    match draws.below(6) {
        0 => drop(tensors.remove(at)),
        1 => {
            let rows = draws.below(tensor.shape[0] + 2);
            let row = bytes.len() / tensor.shape[0].max(1);
            bytes.resize(rows * row, 0x7f);
            let mut shape = tensor.shape.clone();
            shape[0] = rows;
            *tensor = RawTensor::new(tensor.dtype, shape, bytes.into()).unwrap();
        }
        2 => tensor.shape.reverse(),
        3 => tensor.shape = vec![tensor.numel()],
        4 => {
            let dtypes: Vec<Dtype> =
                Dtype::ALL.into_iter().filter(|dtype| dtype.size() == tensor.dtype.size()).collect();
            tensor.dtype = dtypes[draws.below(dtypes.len())];
        }
        _ => {
            for _ in 0..=draws.below(3) {
                let i = draws.below(bytes.len());
                bytes[i] = [0x00, 0x7f, 0xff, 0x80, 0x7e, draws.below(256) as u8][draws.below(6)];
            }
            *tensor = RawTensor::new(tensor.dtype, tensor.shape.clone(), bytes.into()).unwrap();
        }
    }
}
