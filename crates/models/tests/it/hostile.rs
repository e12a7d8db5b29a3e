//! Damaged specifications and configurations: an error or a network, within the limits of time and memory.

use burn::tensor::Device;
use trimtab_hostile::{Draws, INPUTS, change_text, storm};
use trimtab_io::{Bytes, Checkpoint};
use trimtab_models::spec::propose_spec;
use trimtab_models::{ConvSpec, Model, Spec};

use crate::fixture::folder;

/// A fixture: specification, `config.json` and weights.
struct Whole {
    spec: String,
    config: Option<String>,
    weights: Bytes,
}

fn wholes(specs: &str, fixtures: &str, names: &[&str]) -> Vec<Whole> {
    let read = |name: &&str| {
        let fixture = folder(fixtures).join(name);
        Whole {
            spec: std::fs::read_to_string(folder("../../specs").join(specs).join(format!("{name}.toml")))
                .unwrap(),
            config: std::fs::read_to_string(fixture.join("config.json")).ok(),
            weights: Bytes::from(std::fs::read(fixture.join("model.safetensors")).unwrap()),
        }
    };
    names.iter().map(read).collect()
}

fn transformers() -> Vec<Whole> {
    let names = ["gemma3", "falcon", "phi3", "bert", "opt", "bloom", "mixtral", "dinov2", "clip_text", "vit"];
    wholes("", "", &names)
}

fn convolutional() -> Vec<Whole> {
    wholes("conv", "conv", &["resnet_cifar", "vgg", "convnext", "resnet_hf", "efficientnet_lite"])
}

/// Builds the network; returns whether that was possible.
fn build(whole: &Whole, spec: Option<&str>, config: Option<&str>) -> bool {
    let spec = match spec.map(|text| Spec::parse(text, "s.toml")).transpose() {
        Ok(spec) => spec,
        Err(error) => {
            assert!(error.to_string().contains("s.toml"), "{error}");
            return false;
        }
    };
    let mut files = vec![("model.safetensors".to_owned(), whole.weights.clone())];
    files.extend(config.map(|text| ("config.json".to_owned(), Bytes::from(text.as_bytes().to_vec()))));
    let Ok(checkpoint) = Checkpoint::from_bytes(files) else { return false };
    let Ok(model) = Model::from_checkpoint(checkpoint, spec, Device::flex()) else { return false };
    let _ = (model.task(), model.vocab(), model.tied(), model.normalization(), model.unclaimed());
    model.network().is_ok()
}

/// Changes the specifications of `wholes`, then their configurations.
fn damage(wholes: &[Whole], seed: u64) {
    for whole in wholes {
        assert!(build(whole, Some(&whole.spec), whole.config.as_deref()), "{}", whole.spec);
    }
    let specs = |draws: &mut Draws| {
        let k = draws.below(wholes.len());
        (k, change_text(&wholes[k].spec, draws))
    };
    let built =
        storm(INPUTS, seed, specs, |(k, spec)| build(&wholes[*k], Some(spec), wholes[*k].config.as_deref()));
    assert!((100..INPUTS - 100).contains(&built), "{built} of {INPUTS} specifications make a network");
    let described: Vec<&Whole> = wholes.iter().filter(|whole| whole.config.is_some()).collect();
    let configs = |draws: &mut Draws| {
        let k = draws.below(described.len());
        (k, change_text(described[k].config.as_deref().unwrap(), draws))
    };
    let built = storm(INPUTS, seed + 1, configs, |(k, config)| {
        let whole = described[*k];
        let with = build(whole, Some(&whole.spec), Some(config));
        build(whole, None, Some(config)) | with
    });
    assert!((100..INPUTS - 100).contains(&built), "{built} of {INPUTS} configurations make a network");
}

#[test]
fn damaged_transformers_do_no_harm() {
    damage(&transformers(), 1);
}

#[test]
fn damaged_convolutional_networks_do_no_harm() {
    damage(&convolutional(), 3);
}

#[test]
fn proposals_for_damaged_configurations_do_no_harm() {
    let wholes = transformers();
    let shapes: Vec<Vec<(String, Vec<usize>)>> = wholes
        .iter()
        .map(|whole| {
            let files = vec![("model.safetensors".to_owned(), whole.weights.clone())];
            let checkpoint = Checkpoint::from_bytes(files).unwrap();
            checkpoint
                .names()
                .map(|name| (name.into(), checkpoint.info(name).unwrap().shape.clone()))
                .collect()
        })
        .collect();
    let make = |draws: &mut Draws| {
        let k = draws.below(wholes.len());
        (k, change_text(wholes[k].config.as_deref().unwrap(), draws))
    };
    // A proposal tries every family, so there are fewer.
    let proposed = storm(INPUTS / 10, 5, make, |(k, config)| {
        let Ok(config) = serde_json::from_str(config) else { return false };
        !propose_spec(&config, &shapes[*k]).is_empty()
    });
    assert!(proposed > 100, "{proposed}");
    assert!(ConvSpec::built_in().is_ok());
}
