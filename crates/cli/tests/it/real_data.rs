//! Real models and data: the known figures of `TRIMTAB_DATA`.

use serde_json::Value;

use crate::run::{data, json, text};

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

#[test]
fn round_to_nearest_and_gptq_reproduce_the_known_divergences() {
    let Some(data) = data("round_to_nearest_and_gptq_reproduce_the_known_divergences") else { return };
    let figures: Value = serde_json::from_slice(&std::fs::read(data.join("figures.json")).unwrap()).unwrap();
    let (model, test) = (data.join("lm/wikilm"), data.join("text/reviews/test.txt"));
    let calibration = data.join("text/reviews/calibration.txt");
    let folder = tempfile::tempdir().unwrap();
    for (method, share) in [("rtn", 0.01), ("gptq", 0.05)] {
        let out = folder.path().join(method);
        let arguments =
            ["apply", "int3 g64", text(&model), "--method", method, "--range", "min-max", "-o", text(&out)];
        let calibrated =
            ["--calibration", text(&calibration), "--samples", "128", "--window", "256", "--sequential"];
        json(&[&arguments[..], &calibrated[..]].concat());
        let report =
            json(&["eval", text(&out), "--against", text(&model), "--text", text(&test), "--window", "256"]);
        let expected = figures[format!("wikilm_{method}3_g64")]["kl"].as_f64().unwrap();
        near(&report["kl"], expected, share, method);
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
