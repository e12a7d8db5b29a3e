//! Decoders that read images: a vision tower, a projector, and a decoder, each as its table in `config.json` says.

use burn::tensor::{Bool, Device, Tensor};
use serde_json::{Value, json};
use trimtab_nn::{Ctx, Flow, Role, StageSource, Task};

use crate::fixture::{Fixture, MULTIMODAL, each, largest_difference, numbers};
use crate::parity::{DECODE, PARITY};

#[test]
fn images_beside_a_text_equal_transformers() {
    each(MULTIMODAL, |fixture| {
        let (hidden, logits) = fixture.multimodal_differences();
        assert!(hidden < PARITY, "hidden states: {hidden}");
        assert!(logits < PARITY, "logits: {logits}");
        let decode = fixture.multimodal_decode_difference();
        assert!(decode < DECODE, "decode: {decode}");
        assert_eq!(fixture.model.task(), Task::Language);
    });
}

#[test]
fn both_layouts_of_names_are_read() {
    // That of transformers 4 has the models inside of the towers, that of transformers 5 has none and a root of its own.
    let towers = |name: &str| name.replace("vision_tower.", "vision_tower.vision_model.");
    let roots = |name: &str| match name.strip_prefix("language_model.") {
        Some("lm_head.weight") => "lm_head.weight".to_string(),
        Some(rest) => format!("model.language_model.{}", rest.trim_start_matches("model.")),
        None => format!("model.{name}"),
    };
    let both = |name: &str| roots(&towers(name));
    for name in MULTIMODAL {
        let renamed =
            [Fixture::renamed(name, towers), Fixture::renamed(name, roots), Fixture::renamed(name, both)];
        for fixture in renamed {
            let (hidden, logits) = fixture.multimodal_differences();
            assert!(hidden.max(logits) < PARITY, "{name}: {hidden}, {logits}");
        }
    }
}

#[test]
fn a_text_alone_passes_the_tower_by() {
    each(MULTIMODAL, |fixture| {
        let network = fixture.network();
        let run = |flow: Flow, ctx: &mut Ctx<'_>| numbers(network.forward(flow, ctx).unwrap());
        let alone = run(Flow::Tokens(fixture.ids()), &mut Ctx::default());
        let start = fixture.model.stages().iter().rposition(|stage| stage.role == Role::Embed).unwrap();
        let text = network.forward_from(start, Flow::Tokens(fixture.ids()), &mut Ctx::default()).unwrap();
        assert_eq!(alone, numbers(text));
        let seen = run(fixture.text_and_images(), &mut Ctx::default());
        assert!(largest_difference(&alone, &seen) > 0.1, "images matter");
        // The mask is that of the text; the tower sees whole images.
        let mask = Tensor::<2, Bool>::full(fixture.ids().dims(), true, &Device::flex());
        let masked = run(fixture.text_and_images(), &mut Ctx { mask: Some(mask), ..Ctx::default() });
        assert!(largest_difference(&seen, &masked) < PARITY);
    });
}

#[test]
fn the_parts_have_axes_of_their_own() {
    let model = Fixture::open("llava").model;
    let site = |name: &str| {
        let mut sites = model.stages().iter().flat_map(|stage| &stage.sites);
        sites.find(|site| site.name.ends_with(name)).unwrap().clone()
    };
    let (up, down) = (site("linear_1"), site("linear_2"));
    assert_eq!(up.input, site("vision_tower.encoder.layers.1.mlp.fc2").output);
    assert_eq!(up.output, down.input);
    assert_eq!(down.output, site("language_model.model.layers.0.self_attn.q_proj").input);
    assert_ne!(up.input, down.output);
    // The last block of the tower stands behind the features.
    let blocks = model.stages().iter().filter(|stage| stage.name.starts_with("vision_tower.encoder")).count();
    assert_eq!(blocks, 2);
}

#[test]
fn tokens_and_features_have_to_match() {
    let fixture = Fixture::open("llava");
    let images = Tensor::<4>::zeros([1, 3, 8, 8], &Device::flex());
    let flow = Flow::both(Flow::Tokens(fixture.ids()), Flow::Image(images));
    let error = fixture.network().forward(flow, &mut Ctx::default()).unwrap_err().to_string();
    assert!(
        error.contains("12 tokens") && error.contains("4 features") && error.contains("id 40"),
        "{error}"
    );
}

/// What opening the fixture under a changed configuration says.
fn refused(change: impl Fn(&mut Value)) -> String {
    let open = || Fixture::with("llava", None, &change);
    let cause = std::panic::catch_unwind(std::panic::AssertUnwindSafe(open)).map(drop).unwrap_err();
    cause.downcast_ref::<String>().cloned().unwrap()
}

#[test]
fn what_is_not_known_is_refused() {
    let said = |field: &str, value: Value, expected: &str| {
        let message = refused(|config| config[field] = value.clone());
        assert!(message.contains(expected), "{message}");
    };
    said("vision_feature_layer", json!(-5), "a tower with 3 blocks");
    said("vision_feature_layer", json!([-2, -1]), "lists 2 layers");
    said("vision_feature_select_strategy", json!("cls"), "\"full\"");
    said("image_token_index", json!(48), "vocabulary of 48");
    said("vision_config", Value::Null, "vision_config");
    let inner = |table: &'static str, kind: &'static str| {
        refused(move |config| config[table]["model_type"] = kind.into())
    };
    assert!(inner("vision_config", "pixtral").contains("\"pixtral\""));
    assert!(inner("vision_config", "llava").contains("\"llava\""));
    let message = refused(|config| config["vision_config"] = config["text_config"].clone());
    assert!(message.contains("takes no images"), "{message}");
    let message = refused(|config| config["text_config"] = config["vision_config"].clone());
    assert!(message.contains("no decoder of text"), "{message}");
}
