//! Hidden states and logits equal those of transformers, and decoding with a cache equals the full pass.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use trimtab_io::{Bytes, Checkpoint, Dtype, RawTensor, to_safetensors};
use trimtab_models::Model;
use trimtab_nn::{Ctx, Flow, LayerMut, Network, StageSource, Table, Task, host};

use crate::fixture::{
    DECODERS, ENCODERS, Fixture, MULTIMODAL, PAIRS, TOWERS, all, each, largest_difference, numbers, trace,
};

/// Largest difference to the reference, both in f32.
pub const PARITY: f32 = 1e-4;
/// Largest difference between a cached and a full pass.
pub const DECODE: f32 = 1e-5;

#[test]
fn every_family_equals_transformers() {
    each(all(), |fixture| {
        let (hidden, head) = fixture.differences();
        assert!(hidden < PARITY, "hidden states: {hidden}");
        assert!(head.unwrap_or(0.0) < PARITY, "head: {head:?}");
    });
}

#[test]
fn networks_of_two_parts_equal_transformers() {
    each(PAIRS, |fixture| {
        let (hidden, end) = fixture.pair_differences();
        assert!(hidden < PARITY, "hidden states: {hidden}");
        assert!(end < PARITY, "outputs: {end}");
        assert_eq!(fixture.model.task(), Task::Pairs);
        let error = fixture.network().forward(fixture.input(), &mut Ctx::default()).unwrap_err().to_string();
        assert!(error.contains("a pair"), "{error}");
    });
}

#[test]
fn a_decoder_that_looks_across_decodes_with_a_cache() {
    each(&["t5", "t5_gated", "whisper"], |fixture| {
        let difference = fixture.pair_decode_difference();
        assert!(difference < DECODE, "{difference}");
    });
}

#[test]
fn tasks_follow_from_the_head() {
    for name in DECODERS {
        assert_eq!(Fixture::open(name).model.task(), Task::Language, "{name}");
    }
    for name in ENCODERS.iter().chain(TOWERS) {
        assert_eq!(Fixture::open(name).model.task(), Task::Encoder, "{name}");
    }
}

#[test]
fn a_padding_mask_is_seen() {
    // Without the mask the padding is seen, and the numbers are others: the comparison can fail.
    for name in ENCODERS {
        let fixture = Fixture::open(name);
        let unmasked = trace(&fixture.network(), Flow::Tokens(fixture.ids()), Ctx::default);
        assert!(largest_difference(&unmasked[2], &fixture.expected("hidden_2")) > 10.0 * PARITY, "{name}");
    }
}

#[test]
fn an_option_that_is_ignored_would_be_noticed() {
    // Negative controls: the fixture of a family under a changed configuration is another function.
    let changes: [(&str, &str, serde_json::Value); 9] = [
        ("gemma2", "attn_logit_softcapping", 20.0.into()),
        ("gemma2", "final_logit_softcapping", 30.0.into()),
        ("gemma3", "sliding_window", 3.into()),
        ("granite", "residual_multiplier", 0.7.into()),
        ("granite", "attention_multiplier", 0.3.into()),
        ("gptj", "rotary_dim", 8.into()),
        ("gpt_neox", "use_parallel_residual", false.into()),
        ("mixtral", "num_experts_per_tok", 1.into()),
        ("qwen2_moe", "norm_topk_prob", true.into()),
    ];
    for (name, field, value) in changes {
        let fixture = Fixture::with(name, None, |config| config[field] = value.clone());
        let (hidden, head) = fixture.differences();
        assert!(hidden.max(head.unwrap_or(0.0)) > 10.0 * PARITY, "{name}, {field}: {hidden}, {head:?}");
    }
}

#[test]
fn decoding_with_a_cache_equals_the_full_pass() {
    each(DECODERS, |fixture| {
        let difference = fixture.decode_difference();
        assert!(difference < DECODE, "{difference}");
    });
}

#[test]
fn the_trainable_module_computes_the_same() {
    each(DECODERS, |fixture| {
        let name = &fixture.name;
        // With gradients the framework computes, not the kernels of the house.
        for device in [Device::flex(), Device::flex().autodiff()] {
            let module = fixture.model.trainable(&device).unwrap();
            let ids = Tensor::from_data(fixture.ids().into_data(), &device);
            let logits = numbers(module.forward(Flow::Tokens(ids), &mut Ctx::default()).unwrap());
            let difference = largest_difference(&logits, &fixture.expected("logits"));
            assert!(difference < PARITY, "{name}: {difference}");
            // And it gives back every tensor that it was made of.
            let mut names = Vec::new();
            for (tensor, shape, values) in module.tensors() {
                let stored = fixture.model.checkpoint().tensor(&tensor).unwrap();
                assert_eq!(
                    (stored.shape.clone(), stored.to_f32().unwrap()),
                    (shape, values),
                    "{name}: {tensor}"
                );
                names.push(tensor);
            }
            names.sort();
            let all: Vec<String> = fixture.model.checkpoint().names().map(str::to_string).collect();
            assert_eq!(names, all, "{name}");
        }
    });
}

/// Begins of names of tensors that stand behind the features of a vision tower: nothing reads them.
fn unread(fixture: &str) -> &'static [&'static str] {
    match fixture {
        "llava" => &["vision_tower.encoder.layers.2.", "vision_tower.post_layernorm."],
        "llava_siglip" => &["vision_tower.post_layernorm."],
        _ => &[],
    }
}

#[test]
fn every_tensor_belongs_to_exactly_one_stage() {
    each(all().chain(PAIRS).chain(MULTIMODAL), |fixture| {
        let model = &fixture.model;
        let unread = unread(&fixture.name);
        let mut known: Vec<String> = model.stages().iter().flat_map(|s| s.tensors.clone()).collect();
        known.sort();
        // What replaces masked patches in training is the one tensor that no stage reads.
        let names = model.checkpoint().names().filter(|name| !name.ends_with("mask_token"));
        let names = names.filter(|name| !name.starts_with("logit_"));
        let is_unread = |name: &str| unread.iter().any(|part| name.starts_with(part));
        let names: Vec<String> = names.filter(|name| !is_unread(name)).map(str::to_string).collect();
        assert_eq!(known, names, "{}", fixture.name);
        let unclaimed = model.unclaimed();
        assert!(unclaimed.iter().all(|name| is_unread(name)), "{}: {unclaimed:?}", fixture.name);
        assert_eq!(unclaimed.is_empty(), unread.is_empty(), "{}", fixture.name);
        for stage in model.stages() {
            let stored: usize =
                stage.tensors.iter().map(|name| model.checkpoint().info(name).unwrap().numel()).sum();
            assert_eq!(stage.numel, stored, "{}: {}", fixture.name, stage.name);
        }
        let loaded = fixture.network();
        for (stage, info) in loaded.stages().iter().zip(model.stages()) {
            let sites: Vec<&str> = stage.sites().iter().map(|site| site.name()).collect();
            let planned: Vec<&str> = info.sites.iter().map(|site| site.name.as_str()).collect();
            assert_eq!(sites, planned, "{}: {}", fixture.name, info.name);
        }
    });
}

#[test]
fn a_network_gives_back_its_tensors() {
    each(all().chain(PAIRS).chain(MULTIMODAL), |fixture| {
        let name = &fixture.name;
        let module = fixture.model.trainable(&Device::flex()).unwrap();
        let tensors = module.tensors().into_iter().map(|(tensor, shape, values)| {
            let stored = fixture.model.checkpoint().tensor(&tensor).unwrap();
            assert_eq!((stored.shape.clone(), stored.to_f32().unwrap()), (shape, values), "{name}: {tensor}");
            tensor
        });
        let claimed: usize = fixture.model.stages().iter().map(|stage| stage.tensors.len()).sum();
        assert_eq!(tensors.count(), claimed, "{name}");
    });
}

#[test]
fn a_new_model_has_the_tensors_of_the_reference() {
    each(all(), |fixture| {
        let config = fixture.model.checkpoint().config().unwrap();
        let new = trimtab_models::init::checkpoint(config, 0, trimtab_io::Dtype::F32).unwrap();
        let shapes = |checkpoint: &trimtab_io::Checkpoint| -> Vec<(String, Vec<usize>)> {
            let names = checkpoint.names().filter(|name| !name.ends_with("mask_token"));
            // A bare model has no prefix.
            let bare = |name: &str| {
                let prefixes = ["bert.", "roberta.", "distilbert.", "electra.", "vit.", "deit.", "dinov2."];
                let towers = ["vision_model.", "text_model."];
                let mut all = prefixes.iter().chain(&towers);
                all.find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name).to_string()
            };
            names.map(|name| (bare(name), checkpoint.info(name).unwrap().shape.clone())).collect()
        };
        assert_eq!(shapes(&new), shapes(fixture.model.checkpoint()), "{}", fixture.name);
    });
}

#[test]
fn images_of_another_size_are_refused() {
    let fixture = Fixture::open("vit");
    let image = Tensor::zeros([1, 3, 16, 8], &Device::flex());
    let error = fixture.network().forward(Flow::Image(image), &mut Ctx::default()).unwrap_err().to_string();
    assert!(error.contains("[3, 16, 8]") && error.contains("resize"), "{error}");
    let error =
        fixture.network().forward(Flow::Vector(Tensor::zeros([1, 3], &Device::flex())), &mut Ctx::default());
    assert!(error.unwrap_err().to_string().contains("images"));
}

#[test]
fn both_spellings_of_rotary_settings_mean_the_same() {
    let old = std::fs::read(crate::fixture::folder("llama3").join("config.old_style.json")).unwrap();
    let old: serde_json::Value = serde_json::from_slice(&old).unwrap();
    let fixture = Fixture::with("llama3", None, |config| *config = old.clone());
    let (hidden, logits) = fixture.differences();
    assert!(hidden.max(logits.unwrap()) < PARITY);
}

#[test]
fn all_blocks_of_a_part_follow_a_change_of_its_table_of_positions() {
    let fixture = Fixture::open("t5");
    let is_table = |name: &str| name.ends_with("relative_attention_bias.weight");
    let changed = |values: Vec<f32>| -> Vec<f32> { values.iter().map(|v| 1.0 - 2.0 * v).collect() };
    // In memory: the first block of each part holds the table.
    let mut network = fixture.network();
    for stage in 0..network.stages().len() {
        for layer in network.stage_mut(stage).layers_mut() {
            if let LayerMut::Table(table) = layer
                && is_table(table.name())
            {
                let [rows, heads] = table.rows().dims();
                let values = TensorData::new(changed(host(table.rows())), [rows, heads]);
                let values = Tensor::from_data(values, &Device::flex());
                *table = Table::new(table.name().into(), vec![rows, heads], values);
            }
        }
    }
    // In the file: every block reads it.
    let source = fixture.model.checkpoint();
    let tensors = source.names().map(|name| {
        let raw = source.tensor(name).unwrap();
        let raw = match is_table(name) {
            true => {
                let values = changed(raw.to_f32().unwrap());
                RawTensor::from_f32(raw.shape, &values, Dtype::F32).unwrap()
            }
            false => raw,
        };
        (name.to_string(), raw)
    });
    let tensors: Vec<_> = tensors.collect();
    let files = vec![
        ("config.json".to_string(), Bytes::from(source.config().unwrap().to_string().into_bytes())),
        ("model.safetensors".to_string(), Bytes::from(to_safetensors(&tensors, &BTreeMap::new()).unwrap())),
    ];
    let written =
        Model::from_checkpoint(Checkpoint::from_bytes(files).unwrap(), None, Device::flex()).unwrap();
    let run = |network: &Network| {
        let (_, logits) =
            network.forward(fixture.pair(), &mut fixture.pair_ctx()).unwrap().pair("test").unwrap();
        host(logits.hidden("test").unwrap())
    };
    let [a, b, before] =
        [network, written.network().unwrap(), fixture.network()].map(|network| run(&network));
    assert!(largest_difference(&a, &b) < 1e-5, "{}", largest_difference(&a, &b));
    assert!(largest_difference(&a, &before) > 1e-2, "the change is seen");
}
