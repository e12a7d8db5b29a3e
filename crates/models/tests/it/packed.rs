//! What is refused, and what a packed checkpoint computes.

use std::path::PathBuf;

use burn::tensor::Device;
use serde_json::json;
use trimtab_io::{Checkpoint, Dtype, RawTensor, to_safetensors};
use trimtab_models::{Error, Model};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama")
}

/// The llama fixture with changed tensors and configuration.
fn altered(
    change: impl Fn(&str, RawTensor) -> Option<RawTensor>,
    config: impl Fn(&mut serde_json::Value),
) -> Result<Model, Error> {
    let source = Checkpoint::open(folder().join("model.safetensors")).unwrap();
    let tensors: Vec<(String, RawTensor)> = source
        .names()
        .filter_map(|name| Some((name.to_string(), change(name, source.tensor(name).unwrap())?)))
        .collect();
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder().join("config.json")).unwrap()).unwrap();
    config(&mut json);
    let files = vec![
        ("config.json".to_string(), json.to_string().into_bytes().into()),
        ("model.safetensors".to_string(), to_safetensors(&tensors, &Default::default()).unwrap().into()),
    ];
    Model::from_checkpoint(Checkpoint::from_bytes(files)?, None, Device::flex())
}

fn message(model: Result<Model, Error>) -> String {
    match model.and_then(|model| model.network().map(drop)) {
        Ok(()) => panic!("should be refused"),
        Err(error) => error.to_string(),
    }
}

const Q: &str = "model.layers.1.self_attn.q_proj.weight";

#[test]
fn a_weight_that_is_no_number_is_named() {
    let broken = altered(
        |name, tensor| {
            let mut values = tensor.to_f32().unwrap();
            if name == Q {
                values[7] = f32::NAN;
            }
            Some(RawTensor::from_f32(tensor.shape, &values, Dtype::F32).unwrap())
        },
        |_| {},
    );
    let text = message(broken);
    assert!(text.contains(Q) && text.contains("NaN") && text.contains('7'), "{text}");
}

#[test]
fn a_missing_tensor_is_named_with_its_neighbours() {
    let text = message(altered(|name, tensor| (name != Q).then_some(tensor), |_| {}));
    assert!(text.contains(Q) && text.contains("model.layers.0.self_attn.q_proj.weight"), "{text}");
}

#[test]
fn a_wrong_shape_is_named_with_both_shapes() {
    let text = message(altered(|_, tensor| Some(tensor), |config| config["intermediate_size"] = json!(17)));
    assert!(text.contains("gate_proj") && text.contains("17"), "{text}");
}

#[test]
fn an_unknown_family_says_how_to_add_one() {
    let text = message(altered(|_, tensor| Some(tensor), |config| config["model_type"] = json!("mamba")));
    assert!(text.contains("mamba") && text.contains("--spec") && text.contains("llama"), "{text}");
}

#[test]
fn half_precision_is_read_as_it_is() {
    for dtype in [Dtype::BF16, Dtype::F16] {
        let model = altered(
            |_, tensor| {
                Some(RawTensor::from_f32(tensor.shape.clone(), &tensor.to_f32().unwrap(), dtype).unwrap())
            },
            |_| {},
        )
        .unwrap();
        let network = model.network().unwrap();
        for site in network.sites() {
            let tensor = model.checkpoint().tensor(&site.meta().weight_name()).unwrap();
            assert_eq!(site.weight.to_f32(), tensor.to_f32().unwrap(), "{}", site.name());
        }
    }
}
