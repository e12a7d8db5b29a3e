//! Models of every layout there and back, and blocks in the order of their rows.

use serde_json::{Value, json};
use trimtab_io::gguf::{self, GgufModelWriter, GgufTensor, GgufType, TokenizerFiles};
use trimtab_io::{Bytes, Checkpoint, Dtype, RawTensor};

use super::open;
use super::tokenizers::byte_level;

/// A model in memory.
pub struct Model {
    pub config: Value,
    pub files: TokenizerFiles,
    pub tensors: Vec<(String, RawTensor)>,
}

/// Numbers that tell where they are.
fn model(config: Value, shapes: &[(&str, &[usize])]) -> Model {
    let make = |(i, (name, shape)): (usize, &(&str, &[usize]))| {
        let count = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..count).map(|k| (100 * i) as f32 + k as f32 / 8.0).collect();
        (name.to_string(), RawTensor::from_f32(shape.to_vec(), &values, Dtype::F32).unwrap())
    };
    Model { config, files: TokenizerFiles::default(), tensors: shapes.iter().enumerate().map(make).collect() }
}

fn writer(model: &Model, path: &std::path::Path) -> trimtab_io::Result<GgufModelWriter> {
    GgufModelWriter::create(path, &model.config, &model.files, Some("a model"))
}

fn try_write(model: &Model) -> trimtab_io::Result<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut writer = writer(model, &path)?;
    for (name, tensor) in &model.tensors {
        writer.append(name, tensor)?;
    }
    writer.finish()?;
    Ok(std::fs::read(&path).unwrap())
}

pub fn write(model: &Model) -> Vec<u8> {
    try_write(model).unwrap()
}

fn llama_config() -> Value {
    json!({"model_type": "llama", "hidden_size": 8, "intermediate_size": 32, "num_attention_heads": 2,
           "num_key_value_heads": 1, "num_hidden_layers": 1, "vocab_size": 260, "max_position_embeddings": 64,
           "rms_norm_eps": 1e-5, "hidden_act": "silu", "rope_theta": 5e5, "tie_word_embeddings": true,
           "bos_token_id": 256, "eos_token_id": 257})
}

const LLAMA: [(&str, &[usize]); 11] = [
    ("model.embed_tokens.weight", &[260, 8]),
    ("model.norm.weight", &[8]),
    ("model.layers.0.input_layernorm.weight", &[8]),
    ("model.layers.0.self_attn.q_proj.weight", &[8, 8]),
    ("model.layers.0.self_attn.k_proj.weight", &[4, 8]),
    ("model.layers.0.self_attn.v_proj.weight", &[4, 8]),
    ("model.layers.0.self_attn.o_proj.weight", &[8, 8]),
    ("model.layers.0.post_attention_layernorm.weight", &[8]),
    ("model.layers.0.mlp.gate_proj.weight", &[32, 8]),
    ("model.layers.0.mlp.up_proj.weight", &[32, 8]),
    ("model.layers.0.mlp.down_proj.weight", &[8, 32]),
];

pub fn llama() -> Model {
    Model { files: byte_level(), ..model(llama_config(), &LLAMA) }
}

/// Writes, reads and compares every tensor and every field; returns what was read.
fn there_and_back(model: &Model, fields: &[&str]) -> Checkpoint {
    let checkpoint = open(write(model)).unwrap();
    assert_eq!(checkpoint.len(), model.tensors.len(), "{:?}", checkpoint.names().collect::<Vec<_>>());
    for (name, tensor) in &model.tensors {
        let found = checkpoint.tensor(name).unwrap();
        assert_eq!(found.shape, tensor.shape, "{name}");
        assert_eq!(found.to_f32().unwrap(), tensor.to_f32().unwrap(), "{name}");
        let info = checkpoint.info(name).unwrap();
        assert_eq!((info.dtype, info.numel()), (found.dtype, found.numel()), "{name}");
    }
    let config = checkpoint.config().unwrap();
    for field in fields {
        assert_eq!(config[field], model.config[field], "{field}");
    }
    checkpoint
}

#[test]
fn llama_with_reordered_rows() {
    let model = llama();
    let fields = [
        "model_type",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "num_hidden_layers",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "hidden_act",
        "rope_theta",
        "tie_word_embeddings",
        "bos_token_id",
        "eos_token_id",
    ];
    let checkpoint = there_and_back(&model, &fields);
    assert_eq!(checkpoint.config().unwrap()["architectures"], json!(["LlamaForCausalLM"]));
    assert_eq!(checkpoint.metadata()["general.name"], "a model");
    assert!(checkpoint.fingerprint().starts_with("sha256:"));
    assert!(checkpoint.require("model.norm.wieght").unwrap_err().to_string().contains("model.norm.weight"));

    // In the file, rows 0 and 2 of a head of four are neighbours: without reordering the test above would not see it.
    let file = gguf::parse(&Bytes::from(write(&model))).unwrap();
    let stored = file.tensor("blk.0.attn_q.weight").unwrap().dequantize();
    let original = model.tensors[3].1.to_f32().unwrap();
    for (new, old) in [0, 2, 1, 3, 4, 6, 5, 7].into_iter().enumerate() {
        assert_eq!(stored[8 * new..][..8], original[8 * old..][..8], "row {new}");
    }
}

#[test]
fn blocks_keep_the_order_of_hugging_face() {
    let mut config = llama_config();
    config["hidden_size"] = json!(32);
    let shapes: Vec<(&str, Vec<usize>)> =
        LLAMA.iter().map(|(n, s)| (*n, s.iter().map(|&d| if d == 8 { 32 } else { d }).collect())).collect();
    let shapes: Vec<(&str, &[usize])> = shapes.iter().map(|(n, s)| (*n, &s[..])).collect();
    let mut model = model(config, &shapes);
    // Four rows of keys are one head of four.
    model.config["head_dim"] = json!(4);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mut packed = Vec::new();
    for (name, tensor) in &model.tensors {
        if let [rows, cols] = tensor.shape[..] {
            let values = tensor.to_f32().unwrap();
            packed.push((name, GgufTensor::encode(&values, rows, cols, GgufType::Q4_0, None).unwrap()));
        }
    }
    let mut out = writer(&model, &path).unwrap();
    for (name, tensor) in model.tensors.iter().filter(|(_, tensor)| tensor.shape.len() == 1) {
        out.append(name, tensor).unwrap();
    }
    for (name, blocks) in &packed {
        out.append_blocks(name, blocks).unwrap();
    }
    out.finish().unwrap();

    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.path(), dir.path());
    for (name, blocks) in &packed {
        let found = checkpoint.blocks(name).unwrap().unwrap();
        assert_eq!((found.ty, &found.data[..]), (GgufType::Q4_0, &blocks.data[..]), "{name}");
        let info = checkpoint.info(name).unwrap();
        assert_eq!((info.block_type(), info.dtype), (Some(GgufType::Q4_0), Dtype::F32), "{name}");
        assert_eq!(info.bytes, blocks.bytes());
        assert_eq!(checkpoint.tensor(name).unwrap().to_f32().unwrap(), blocks.dequantize(), "{name}");
    }
    assert!(checkpoint.blocks("model.norm.weight").unwrap().is_none());
    let file = gguf::open(&path).unwrap();
    assert_eq!(file.get("general.file_type").unwrap().as_u64(), Some(2));
    assert_eq!(file.get("general.quantization_version").unwrap().as_u64(), Some(2));
}

#[test]
fn mixtral_with_stacked_experts() {
    let mut config = llama_config();
    config["model_type"] = json!("mixtral");
    config["num_local_experts"] = json!(2);
    config["num_experts_per_tok"] = json!(1);
    let mut shapes: Vec<(&str, &[usize])> = LLAMA[..8].to_vec();
    shapes.extend([
        ("model.layers.0.block_sparse_moe.gate.weight", &[2usize, 8][..]),
        ("model.layers.0.block_sparse_moe.experts.1.w1.weight", &[32, 8]),
        ("model.layers.0.block_sparse_moe.experts.0.w1.weight", &[32, 8]),
        ("model.layers.0.block_sparse_moe.experts.0.w2.weight", &[8, 32]),
        ("model.layers.0.block_sparse_moe.experts.1.w2.weight", &[8, 32]),
        ("model.layers.0.block_sparse_moe.experts.0.w3.weight", &[32, 8]),
        ("model.layers.0.block_sparse_moe.experts.1.w3.weight", &[32, 8]),
    ]);
    let mut model = model(config, &shapes);
    let checkpoint = there_and_back(&model, &["model_type", "num_local_experts", "num_experts_per_tok"]);
    let info = checkpoint.info("model.layers.0.block_sparse_moe.experts.1.w1.weight").unwrap();
    assert_eq!(info.bytes, 4 * 32 * 8);
    model.tensors.pop();
    assert!(try_write(&model).unwrap_err().to_string().contains("part 1 of 2 is missing"));
}

#[test]
fn gemma_stores_norms_with_one_added() {
    let config = json!({"model_type": "gemma", "hidden_size": 8, "intermediate_size": 32, "num_attention_heads": 2,
        "num_key_value_heads": 1, "num_hidden_layers": 1, "vocab_size": 260, "max_position_embeddings": 64, "head_dim": 4,
        "rms_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": true});
    let model = model(config, &LLAMA);
    there_and_back(&model, &["model_type", "head_dim", "tie_word_embeddings"]);
    let file = gguf::parse(&Bytes::from(write(&model))).unwrap();
    let stored = file.tensor("output_norm.weight").unwrap().dequantize();
    assert_eq!(stored[0], model.tensors[1].1.to_f32().unwrap()[0] + 1.0);
    assert_eq!(
        file.tensor("blk.0.attn_q.weight").unwrap().dequantize(),
        model.tensors[3].1.to_f32().unwrap()
    );
}

#[test]
fn gpt2_turns_its_matrices_around() {
    let config = json!({"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 16,
        "vocab_size": 260, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true});
    let mut model = model(
        config,
        &[
            ("transformer.wte.weight", &[260, 8]),
            ("transformer.wpe.weight", &[16, 8]),
            ("transformer.ln_f.weight", &[8]),
            ("transformer.ln_f.bias", &[8]),
            ("transformer.h.0.ln_1.weight", &[8]),
            ("transformer.h.0.attn.c_attn.weight", &[8, 24]),
            ("transformer.h.0.attn.c_attn.bias", &[24]),
            ("transformer.h.0.mlp.c_proj.weight", &[32, 8]),
        ],
    );
    let checkpoint =
        there_and_back(&model, &["model_type", "n_embd", "n_layer", "n_positions", "layer_norm_epsilon"]);
    assert_eq!(checkpoint.config().unwrap()["n_inner"], 32);
    let file = gguf::parse(&Bytes::from(write(&model))).unwrap();
    assert_eq!(file.info("blk.0.attn_qkv.weight").unwrap().shape, [24, 8]);
    // Buffers and the other style of names.
    for (name, _) in &mut model.tensors {
        *name = name.trim_start_matches("transformer.").into();
    }
    model.tensors.push(("h.0.attn.bias".into(), model.tensors[0].1.clone()));
    assert_eq!(write(&model), file_bytes(&checkpoint));
}

fn file_bytes(checkpoint: &Checkpoint) -> Vec<u8> {
    checkpoint.side_file("model.gguf").unwrap().unwrap().to_vec()
}

#[test]
fn falcon_ungroups_its_fused_rows() {
    let config = json!({"model_type": "falcon", "hidden_size": 8, "num_attention_heads": 4, "num_kv_heads": 2,
        "new_decoder_architecture": true, "num_hidden_layers": 1, "vocab_size": 260, "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": false});
    let model = model(
        config,
        &[
            ("transformer.word_embeddings.weight", &[260, 8]),
            ("lm_head.weight", &[260, 8]),
            ("transformer.ln_f.weight", &[8]),
            ("transformer.h.0.ln_mlp.weight", &[8]),
            ("transformer.h.0.ln_attn.weight", &[8]),
            ("transformer.h.0.self_attention.query_key_value.weight", &[16, 8]),
        ],
    );
    there_and_back(&model, &["num_kv_heads", "new_decoder_architecture", "tie_word_embeddings"]);
}

#[test]
fn the_rest_of_the_table_in_short() {
    let bert = model(
        json!({"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1,
            "intermediate_size": 32, "vocab_size": 260, "max_position_embeddings": 16, "type_vocab_size": 2,
            "layer_norm_eps": 1e-12, "hidden_act": "gelu"}),
        &[
            ("embeddings.word_embeddings.weight", &[260, 8]),
            ("embeddings.token_type_embeddings.weight", &[2, 8]),
            ("encoder.layer.0.attention.self.query.bias", &[8]),
            ("encoder.layer.0.output.dense.weight", &[8, 32]),
        ],
    );
    there_and_back(&bert, &["type_vocab_size", "layer_norm_eps", "hidden_act"]);
    let mut config = llama_config();
    config["model_type"] = json!("qwen2_moe");
    for (field, value) in [("num_experts", 1), ("num_experts_per_tok", 1), ("moe_intermediate_size", 32)] {
        config[field] = json!(value);
    }
    let qwen = model(
        config,
        &[
            LLAMA[0],
            ("model.layers.0.mlp.shared_expert_gate.weight", &[1, 8]),
            ("model.layers.0.mlp.experts.0.up_proj.weight", &[32, 8]),
            ("model.layers.0.self_attn.q_proj.bias", &[8]),
        ],
    );
    there_and_back(&qwen, &["num_experts", "moe_intermediate_size"]);
    let mut config = llama_config();
    config["rope_parameters"] = json!({"rope_type": "llama3", "rope_theta": 2e6, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    let scaled = model(config, &LLAMA);
    let checkpoint = there_and_back(&scaled, &["hidden_size"]);
    assert_eq!(checkpoint.config().unwrap()["rope_parameters"], scaled.config["rope_parameters"]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let refuse = |change: &dyn Fn(&mut Model)| {
        let mut model = llama();
        change(&mut model);
        try_write(&model).unwrap_err().to_string()
    };
    let unknown = refuse(&|m| m.tensors[3].0 = "model.layers.0.self_attn.rotary.weight".into());
    assert!(unknown.contains("no counterpart in the architecture llama"), "{unknown}");
    let rows = refuse(&|m| m.config["vocab_size"] = json!(300));
    assert!(rows.contains("has 260 rows, vocab_size is 300"), "{rows}");
    let blocks = refuse(&|m| m.config["num_hidden_layers"] = json!(2));
    assert!(blocks.contains("2 blocks, tensors are of 1"), "{blocks}");
    let embedding = refuse(&|m| drop(m.tensors.remove(0)));
    assert!(embedding.contains("embedding is missing"), "{embedding}");
    let heads = refuse(&|m| m.config["num_key_value_heads"] = json!(3));
    assert!(heads.contains("4 rows do not fit 2 heads and 3"), "{heads}");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let mut writer = gguf::GgufWriter::create(&path).unwrap();
    writer.append("a", &[1], GgufType::F32, &[0; 4]).unwrap();
    writer.finish(&[("general.architecture".into(), "rwkv6".into())]).unwrap();
    let message = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(message.contains("\"rwkv6\" is not known; known are llama"), "{message}");
}
