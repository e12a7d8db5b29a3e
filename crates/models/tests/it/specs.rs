//! Families from files alone, and proposals for unknown ones.

use trimtab_models::spec::ModelSpec;

use crate::fixture::{Fixture, folder};

/// Llama under other names and with a mix of features that no built-in family has: the feed-forward sublayer reads what
/// the attention reads, logits are bent, the embedding is scaled.
fn renamed() -> String {
    let text = std::fs::read_to_string(folder("../../specs/llama.toml")).unwrap();
    let text = text
        .replace("name = \"llama\"\nmodel_types = [\"llama\"]", "name = \"mix\"\nmodel_types = [\"mix\"]");
    let text = text.replace("mlp_norm = \"post_attention_layernorm\"\n", "");
    let text = text.replace(
        "norm_place = \"before\"",
        "norm_place = \"before\"\nparallel = true\nembed_scale = \"sqrt_width\"",
    );
    text.replace(
        "tied = \"tie_word_embeddings\"",
        "tied = \"tie_word_embeddings\"\nlogit_cap = \"cap\"\nresidual_scale = 0.5",
    )
}

#[test]
fn a_family_is_added_by_a_file_alone() {
    let dir = tempfile::tempdir().unwrap();
    let source = trimtab_io::Checkpoint::open(folder("llama").join("model.safetensors")).unwrap();
    let tensors: Vec<_> = source
        .names()
        .filter(|name| !name.contains("post_attention_layernorm"))
        .map(|name| (name.to_string(), source.tensor(name).unwrap()))
        .collect();
    let bytes = trimtab_io::to_safetensors(&tensors, &Default::default()).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let config = std::fs::read_to_string(folder("llama").join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["model_type"] = "mix".into();
    config["cap"] = 2.0.into();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let file = dir.path().join("mix.toml");
    std::fs::write(&file, renamed()).unwrap();

    let path = dir.path().to_str().unwrap();
    let unknown = trimtab_models::Model::open(path, None).map(drop).unwrap_err().to_string();
    assert!(unknown.contains("mix") && unknown.contains("--spec"), "{unknown}");
    let model = trimtab_models::Model::open(path, Some(&file)).unwrap();
    assert_eq!(model.family(), "mix");
    assert!(model.unclaimed().is_empty());
    let ids = Fixture::open("llama").ids();
    let network = model.network().unwrap();
    let logits = network.forward(trimtab_nn::Flow::Tokens(ids), &mut trimtab_nn::Ctx::default()).unwrap();
    let logits = crate::fixture::numbers(logits);
    assert!(logits.iter().all(|v| v.abs() <= 2.0), "bent");
    assert!(logits.iter().any(|v| v.abs() > 0.1));
}

#[test]
fn mistakes_in_a_file_are_named() {
    let bad = |from: &str, to: &str, expected: &str| {
        let text = renamed().replace(from, to);
        assert_ne!(text, renamed());
        let message = ModelSpec::parse(&text, "mix.toml").unwrap_err().to_string();
        assert!(message.contains("mix.toml") && message.contains(expected), "{message}");
    };
    bad("parallel = true", "paralel = true", "paralel");
    bad("qkv = \"split\"", "qkv = \"fused\"", "qkv");
    bad("norm = \"rms\"", "norm = \"batch\"", "batch");
    bad("down = \"mlp.down_proj\"\n", "", "down");
    bad("block = \"layers.{i}\"", "block = \"layers\"", "{i}");
    let variant = "\n[[variants]]\nwhen = { a = 1 }\nlayout = { paralel = true }\n";
    let message = ModelSpec::parse(&(renamed() + variant), "mix.toml").unwrap_err().to_string();
    assert!(message.contains("paralel") && message.contains("\"a\":1"), "{message}");
}

#[test]
fn what_a_family_cannot_do_is_refused() {
    let folder = folder("bloom");
    let config = std::fs::read(folder.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    config["apply_residual_connection_post_layernorm"] = true.into();
    let spec = ModelSpec::built_in("bloom").unwrap().unwrap();
    let message = spec.configure(&config, "m").unwrap_err().to_string();
    assert!(message.contains("apply_residual_connection_post_layernorm"), "{message}");
}

/// Names, shapes and configuration of a fixture, with some words changed.
fn disguised(fixture: &str, words: &[(&str, &str)]) -> (serde_json::Value, Vec<(String, Vec<usize>)>) {
    let change = |text: &str| words.iter().fold(text.to_string(), |text, (from, to)| text.replace(from, to));
    let model = Fixture::open(fixture).model;
    let config = change(&model.checkpoint().config().unwrap().to_string());
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["model_type"] = "unheard_of".into();
    let checkpoint = model.checkpoint();
    let shapes = checkpoint.names().map(|name| (change(name), checkpoint.info(name).unwrap().shape.clone()));
    (config, shapes.collect())
}

#[test]
fn a_proposal_explains_a_renamed_model() {
    let words = [
        ("self_attn.q_proj", "attention.wq"),
        ("self_attn.k_proj", "attention.wk"),
        ("self_attn.v_proj", "attention.wv"),
        ("self_attn.o_proj", "attention.wo"),
        ("mlp.gate_proj", "feed_forward.w1"),
        ("mlp.up_proj", "feed_forward.w3"),
        ("mlp.down_proj", "feed_forward.w2"),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("embed_tokens", "tok_embeddings"),
        ("lm_head", "output"),
        ("num_key_value_heads", "n_kv_heads"),
        ("num_hidden_layers", "n_layers"),
        ("hidden_size", "dim"),
        ("rms_norm_eps", "norm_eps"),
    ];
    for fixture in ["llama", "qwen3"] {
        let (config, shapes) = disguised(fixture, &words);
        let proposal = trimtab_models::spec::propose_spec(&config, &shapes);
        assert!(proposal.contains("GUESS"), "{proposal}");
        assert!(proposal.contains(&format!("explains {0} of {0} tensors", shapes.len())), "{proposal}");
        let spec = ModelSpec::parse(&proposal, "proposal").unwrap();
        assert_eq!(spec.name, "unheard_of");
        spec.configure(&config, "m").unwrap();
    }
}

#[test]
fn a_proposal_for_an_unchanged_family_computes_the_same() {
    for fixture in ["llama", "gpt2", "gpt_neox", "olmo2", "bert", "mixtral"] {
        let (config, shapes) = disguised(fixture, &[]);
        let proposal = trimtab_models::spec::propose_spec(&config, &shapes);
        let spec = ModelSpec::parse(&proposal, "proposal").unwrap_or_else(|e| panic!("{e}\n{proposal}"));
        let (hidden, head) = Fixture::with(fixture, Some(spec), |_| {}).differences();
        assert!(
            hidden.max(head.unwrap()) < crate::parity::PARITY,
            "{fixture}: {hidden}, {head:?}\n{proposal}"
        );
    }
}

#[test]
fn a_proposal_says_what_it_leaves_open() {
    let (config, mut shapes) = disguised("llama", &[]);
    shapes.push(("model.layers.0.mamba.conv1d.weight".into(), vec![4, 1, 4]));
    let proposal = trimtab_models::spec::propose_spec(&config, &shapes);
    assert!(proposal.contains("# not explained: model.layers.0.mamba.conv1d.weight [4, 1, 4]"), "{proposal}");
    let nothing = trimtab_models::spec::propose_spec(&serde_json::json!({}), &[]);
    assert!(nothing.contains("GUESS"), "{nothing}");
}

#[test]
fn the_examples_in_the_guide_are_specifications() {
    let guide = std::fs::read_to_string(folder("../../../../docs/new-family.md")).unwrap();
    let blocks = guide.split("```toml\n").map(|part| part.split("```").next().unwrap());
    let names = blocks.filter(|block| block.starts_with("name = ")).map(|example| {
        let spec = trimtab_models::Spec::parse(example, "guide").unwrap_or_else(|e| panic!("{e}\n{example}"));
        match spec {
            trimtab_models::Spec::Transformer(spec) => spec.name,
            trimtab_models::Spec::Conv(spec) => spec.name,
        }
    });
    assert_eq!(names.collect::<Vec<_>>(), ["t5", "llava", "resnet_cifar", "mix"]);
}

#[test]
fn mistakes_in_parts_are_named() {
    let bad = |parts: &str, expected: &str| {
        let text = format!("name = \"x\"\nmodel_types = [\"x\"]\n{parts}");
        let message = ModelSpec::parse(&text, "x.toml").unwrap_err().to_string();
        assert!(message.contains("x.toml") && message.contains(expected), "{message}");
    };
    bad("parts = [\"clip_vision\"]", "not clip_vision");
    bad("parts = [\"clip_vision\", \"clip_txt\"]", "clip_txt");
    bad("parts = [\"clip_vision\", { section = \"text_config\" }]", "section and roots");
    bad("parts = [\"clip_vision\", { section = \"text_config\", roots = [\"text\"] }]", "end with a dot");
}
