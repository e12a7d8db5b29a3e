//! Real models and data: the known figures of `TRIMTAB_DATA`.

use std::path::Path;

use serde_json::Value;
use trimtab::floors::io::{Checkpoint, Dtype, RawTensor, to_safetensors};

use crate::run::{data, json, text};

/// Damages in block 0 of wikilm and KL on the reviews, int3 g64: `tools/peers/gptq_reference.py MODEL CALIBRATION TEST 3 64`
/// with PyTorch 2.11. In later blocks the two programs part, as GPTQ turns the last bits of its inputs into other codes.
const REFERENCE_DAMAGES: [(&str, f64); 7] = [
    ("self_attn.q_proj", 0.7414087809096486),
    ("self_attn.k_proj", 0.3619682257295208),
    ("self_attn.v_proj", 0.07516975127395975),
    ("self_attn.o_proj", 0.00465534525688178),
    ("mlp.gate_proj", 5.862358801212471),
    ("mlp.up_proj", 5.3552134700788425),
    ("mlp.down_proj", 5.391302094996959),
];
const REFERENCE_KL: f64 = 0.015153691656988448;

fn near(found: &Value, expected: f64, share: f64, what: &str) {
    let found = found.as_f64().unwrap_or(f64::NAN);
    assert!(
        (found / expected - 1.0).abs() <= share,
        "{what}: found {found}, expected {expected} within {share}"
    );
}

#[test]
fn wikilm_has_the_perplexity_that_transformers_measures() {
    let Some(data) = data("wikilm_has_the_perplexity_that_transformers_measures") else { return };
    let figures: Value = serde_json::from_slice(&std::fs::read(data.join("figures.json")).unwrap()).unwrap();
    let (model, test) = (data.join("lm/wikilm"), data.join("text/reviews/test.txt"));
    let report = json(&["eval", text(&model), "--text", text(&test), "--window", "256", "--stride", "256"]);
    let expected = figures["wikilm_reviews_test_perplexity_w256"].as_f64().unwrap();
    near(&report["perplexity"], expected, 1e-3, "perplexity");
}

/// The model in `f32`, so that scales are: the known figures were measured with scales in that type.
fn in_f32(model: &Path, out: &Path) {
    std::fs::create_dir(out).unwrap();
    for side in ["config.json", "tokenizer.json"] {
        std::fs::copy(model.join(side), out.join(side)).unwrap();
    }
    let source = Checkpoint::open(model).unwrap();
    let wide = |name: &str| {
        let tensor = source.tensor(name).unwrap();
        let values = tensor.to_f32().unwrap();
        (name.to_string(), RawTensor::from_f32(tensor.shape, &values, Dtype::F32).unwrap())
    };
    let tensors: Vec<_> = source.names().map(wide).collect();
    std::fs::write(out.join("model.safetensors"), to_safetensors(&tensors, &Default::default()).unwrap())
        .unwrap();
}

#[test]
fn round_to_nearest_and_gptq_reproduce_the_known_divergences() {
    let Some(data) = data("round_to_nearest_and_gptq_reproduce_the_known_divergences") else { return };
    let figures: Value = serde_json::from_slice(&std::fs::read(data.join("figures.json")).unwrap()).unwrap();
    let (model, test) = (data.join("lm/wikilm"), data.join("text/reviews/test.txt"));
    let calibration = data.join("text/reviews/calibration.txt");
    let folder = tempfile::tempdir().unwrap();
    let wide = folder.path().join("wide");
    in_f32(&model, &wide);
    for (method, share) in [("rtn", 1e-4), ("gptq", 0.05)] {
        let out = folder.path().join(method);
        let arguments =
            ["apply", "int3 g64", text(&wide), "--method", method, "--range", "min-max", "-o", text(&out)];
        let calibrated =
            ["--calibration", text(&calibration), "--samples", "128", "--window", "256", "--sequential"];
        let applied = json(&[&arguments[..], &calibrated[..]].concat());
        if method == "gptq" {
            for (site, (name, damage)) in applied["sites"].as_array().unwrap().iter().zip(REFERENCE_DAMAGES) {
                assert_eq!(site["site"], format!("model.layers.0.{name}"));
                near(&site["damage"], damage, 1e-4, name);
            }
        }
        let report =
            json(&["eval", text(&out), "--against", text(&model), "--text", text(&test), "--window", "256"]);
        let expected = figures[format!("wikilm_{method}3_g64")]["kl"].as_f64().unwrap();
        near(&report["kl"], expected, share, method);
        if method == "gptq" {
            near(&report["kl"], REFERENCE_KL, 0.02, "gptq beside tools/peers/gptq_reference.py");
        }
    }
}

#[test]
fn resnet20_classifies_as_known() {
    let Some(data) = data("resnet20_classifies_as_known") else { return };
    let (model, images) =
        (data.join("vision/resnet20_cifar10.safetensors"), data.join("vision/cifar10.safetensors"));
    let report = json(&["eval", text(&model), "--images", text(&images), "--limit", "2000"]);
    assert_eq!(report["accuracy"].as_f64(), Some(80.65));
}
