//! The specifications that come with the crate.

macro_rules! specs {
    ($($name:literal),* $(,)?) => {
        /// Name and text of every built-in family.
        pub(super) const BUILT_IN: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../specs/", $name, ".toml")))),*];
    };
}

specs!(
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
    "phi",
    "phi3",
    "granite",
    "olmo2",
    "stablelm",
    "starcoder2",
    "falcon",
    "gpt2",
    "gpt_neox",
    "gptj",
    "opt",
    "bloom",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "bert",
    "roberta",
    "distilbert",
    "electra",
    "vit",
    "deit",
    "dinov2",
    "clip_text",
    "clip_vision",
    "siglip_text",
    "siglip_vision",
    "t5_encoder",
    "t5_decoder",
    "t5",
    "clip",
    "siglip",
    "whisper_encoder",
    "whisper_decoder",
    "whisper",
    "llava",
);
