//! What options and modules are called in different families.

type Words = &'static [(&'static str, &'static [&'static str])];

/// Fields of `config.json` by key.
pub(super) const KEYS: Words = &[
    ("width", &["hidden_size", "d_model", "n_embd", "n_embed", "dim", "embed_dim", "model_dim"]),
    ("blocks", &["num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth"]),
    ("heads", &["num_attention_heads", "n_head", "n_heads", "num_heads"]),
    (
        "kv_heads",
        &["num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_head_kv", "multi_query_group_num"],
    ),
    ("head_width", &["head_dim", "kv_channels", "d_head"]),
    (
        "hidden",
        &["intermediate_size", "ffn_hidden_size", "ffn_dim", "hidden_dim", "n_inner", "d_ff", "mlp_dim"],
    ),
    ("vocab", &["vocab_size", "n_vocab", "padded_vocab_size"]),
    ("eps", &["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps", "eps"]),
    ("activation", &["hidden_act", "activation_function", "hidden_activation", "activation", "act_fn"]),
    ("tied", &["tie_word_embeddings"]),
    ("positions", &["max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"]),
];

/// Last parts of names of modules in a block, by role. Roles of one kind stand in the order in which they are looked for.
pub(super) const NAMES: Words = &[
    ("qkv", &["query_key_value", "qkv_proj", "c_attn", "Wqkv", "qkv", "in_proj", "att_proj"]),
    ("q", &["q_proj", "query", "q_lin", "wq", "to_q", "q"]),
    ("k", &["k_proj", "key", "k_lin", "wk", "to_k", "k"]),
    ("v", &["v_proj", "value", "v_lin", "wv", "to_v", "v"]),
    (
        "o",
        &[
            "o_proj",
            "out_proj",
            "out_lin",
            "wo",
            "attn.c_proj",
            "attention.dense",
            "self_attention.dense",
            "attention.output.dense",
            "attn.dense",
            "attn_out",
            "to_out",
            "o",
            "attn.proj",
            "proj",
        ],
    ),
    ("gate_up", &["gate_up_proj", "w12", "wi_fused"]),
    ("gate", &["gate_proj", "w1", "wi_0", "gate"]),
    (
        "up",
        &[
            "up_proj",
            "w3",
            "fc1",
            "c_fc",
            "dense_h_to_4h",
            "fc_in",
            "lin1",
            "wi_1",
            "intermediate.dense",
            "up",
            "wi",
        ],
    ),
    (
        "down",
        &[
            "down_proj",
            "w2",
            "fc2",
            "mlp.c_proj",
            "dense_4h_to_h",
            "fc_out",
            "lin2",
            "output.dense",
            "down",
            "wo",
        ],
    ),
    ("q_norm", &["q_norm", "q_layernorm", "query_norm", "query_layernorm", "norm_q"]),
    ("k_norm", &["k_norm", "k_layernorm", "key_norm", "key_layernorm", "norm_k"]),
    (
        "attention_norm",
        &[
            "input_layernorm",
            "ln_1",
            "ln1",
            "norm1",
            "attention_norm",
            "attn_norm",
            "ln_attn",
            "pre_attention_layernorm",
            "self_attn_layer_norm",
            "sa_layer_norm",
            "norm_1",
            "attention.output.LayerNorm",
        ],
    ),
    (
        "mlp_norm",
        &[
            "post_attention_layernorm",
            "ln_2",
            "ln2",
            "norm2",
            "ffn_norm",
            "mlp_norm",
            "ln_mlp",
            "pre_feedforward_layernorm",
            "final_layer_norm",
            "output_layer_norm",
            "norm_2",
            "output.LayerNorm",
        ],
    ),
    ("attention_post_norm", &["post_attention_layernorm", "post_attention_norm", "post_attn_norm"]),
    (
        "mlp_post_norm",
        &["post_feedforward_layernorm", "post_mlp_layernorm", "post_ffw_norm", "post_feedforward_norm"],
    ),
];

/// Names outside of the blocks, by role; `/` stands for the root.
pub(super) const ROOT_NAMES: Words = &[
    (
        "embed",
        &[
            "embed_tokens",
            "wte",
            "tok_embeddings",
            "word_embeddings",
            "embed_in",
            "embeddings.word_embeddings",
            "embedding",
            "token_embedding",
            "/tok_embeddings",
            "/wte",
        ],
    ),
    ("positions", &["wpe", "embed_positions", "position_embeddings", "embeddings.position_embeddings"]),
    ("embed_norm", &["word_embeddings_layernorm", "embeddings.LayerNorm", "embed_norm"]),
    (
        "final_norm",
        &[
            "norm",
            "ln_f",
            "final_layernorm",
            "final_layer_norm",
            "norm_f",
            "final_norm",
            "ln_final",
            "/norm",
            "/final_norm",
        ],
    ),
    ("head", &["/lm_head", "/output", "/embed_out", "/head", "lm_head", "output"]),
];
