//! Tokenizers there and back: the same ids for the same text.

use serde_json::{Map, Value, json};
use trimtab_io::gguf::{self, TokenizerFiles};
use trimtab_io::{Bytes, Tokenizer};

use super::models::{Model, llama, write};
use super::open;

const TEXTS: [&str; 5] =
    ["the cat sat", "  The 1234 cats,\n\nain't here ", "héllo wörld ✓", "", "<s>the</s>"];

/// The letters that stand for bytes.
fn letters() -> Vec<char> {
    let mut next = 256;
    (0..=255u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap()
            }
        })
        .collect()
}

/// A byte-level tokenizer with two merges and two special tokens, in 260 rows.
pub fn byte_level() -> TokenizerFiles {
    let mut vocab: Map<String, Value> =
        letters().into_iter().enumerate().map(|(id, letter)| (letter.to_string(), json!(id))).collect();
    vocab.insert("<s>".into(), json!(256));
    vocab.insert("</s>".into(), json!(257));
    vocab.insert("th".into(), json!(258));
    vocab.insert("the".into(), json!(259));
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(256, "<s>"), added(257, "</s>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [["t", "h"], ["th", "e"]]},
    });
    let config =
        json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "{{ messages }}"});
    TokenizerFiles { tokenizer: Some(tokenizer), config: Some(config), ..TokenizerFiles::default() }
}

fn added(id: usize, text: &str) -> Value {
    json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
           "special": true})
}

/// A SentencePiece-like tokenizer: pieces, bytes, and merges in the order of their ranks.
pub fn sentence_piece() -> TokenizerFiles {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    let merges = [["\u{2581}", "t"], ["h", "e"], ["\u{2581}t", "he"], ["c", "a"], ["ca", "t"]];
    tokens.extend(["\u{2581}", "t", "h", "e", "c", "a", "s"].map(String::from));
    tokens.extend(merges.iter().map(|[left, right]| format!("{left}{right}")));
    let vocab: Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges},
    });
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"});
    TokenizerFiles { tokenizer: Some(tokenizer), config: Some(config), ..TokenizerFiles::default() }
}

pub fn word_piece() -> TokenizerFiles {
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "##s", "sat", ",", "h", "##ello"];
    let vocab: Map<String, Value> =
        words.iter().enumerate().map(|(id, w)| (w.to_string(), json!(id))).collect();
    let special = |id: usize| json!({"id": words[id], "ids": [id], "tokens": [words[id]]});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": (0..4).map(|id| added(id, words[id])).collect::<Vec<_>>(),
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[CLS]": special(2), "[SEP]": special(3)}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    });
    let names =
        json!({"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"});
    TokenizerFiles { tokenizer: Some(tokenizer), config: Some(names), ..TokenizerFiles::default() }
}

/// A model with this tokenizer; tensors beyond the vocabulary do not matter here.
fn with(files: TokenizerFiles, vocab: usize) -> Model {
    let mut model = llama();
    model.files = files;
    model.config["vocab_size"] = json!(vocab);
    let values = vec![0.5; vocab * 8];
    model.tensors[0].1 =
        trimtab_io::RawTensor::from_f32(vec![vocab, 8], &values, trimtab_io::Dtype::F32).unwrap();
    model
}

/// Encodes with both, and returns how many ids were compared.
fn same_ids(files: TokenizerFiles, vocab: usize) -> usize {
    let original = Tokenizer::from_bytes(files.tokenizer.as_ref().unwrap().to_string().as_bytes()).unwrap();
    let checkpoint = open(write(&with(files, vocab))).unwrap();
    let read = Tokenizer::of(&checkpoint).unwrap();
    let mut count = 0;
    for text in TEXTS {
        for special in [false, true] {
            let (a, b) = (original.encode(text, special).unwrap(), read.encode(text, special).unwrap());
            assert_eq!(a, b, "{text:?}, {special}");
            count += a.len();
        }
    }
    assert_eq!(read.vocab_size(), vocab);
    count
}

#[test]
fn byte_level_bpe() {
    assert!(same_ids(byte_level(), 260) > 100);
    // The merges matter: without them "the" is three tokens.
    let read = Tokenizer::of(&open(write(&llama())).unwrap()).unwrap();
    assert_eq!(read.encode("the", true).unwrap(), [256, 259]);
    let checkpoint = open(write(&llama())).unwrap();
    let config: Value =
        serde_json::from_slice(&checkpoint.side_file("tokenizer_config.json").unwrap().unwrap()).unwrap();
    assert_eq!((&config["eos_token"], &config["chat_template"]), (&json!("</s>"), &json!("{{ messages }}")));
    assert_eq!(checkpoint.side_files().unwrap().len(), 2);
}

#[test]
fn sentence_piece_bpe() {
    assert!(same_ids(sentence_piece(), 271) > 100);
    let file = gguf::parse(&Bytes::from(write(&with(sentence_piece(), 271)))).unwrap();
    assert_eq!(file.get("tokenizer.ggml.model").unwrap().as_str(), Some("llama"));
    let scores = file.get("tokenizer.ggml.scores").unwrap().as_floats().unwrap();
    assert!(scores[266] > scores[267] && scores[267] > scores[268], "earlier merges score higher");
    let kinds = file.get("tokenizer.ggml.token_type").unwrap().as_integers().unwrap();
    assert_eq!(kinds[..4], [2, 3, 3, 6]);
}

#[test]
fn word_pieces() {
    // Padded to more rows than there are words.
    let files = word_piece();
    let original = Tokenizer::from_bytes(files.tokenizer.as_ref().unwrap().to_string().as_bytes()).unwrap();
    let read = Tokenizer::of(&open(write(&with(files, 16))).unwrap()).unwrap();
    for text in ["The cats sat, hello", "zebra", ""] {
        assert_eq!(original.encode(text, true).unwrap(), read.encode(text, true).unwrap(), "{text:?}");
    }
    assert_eq!(read.encode("cats", true).unwrap(), [2, 5, 6, 3]);
}

#[test]
fn what_cannot_be_expressed_is_said() {
    let mut files = byte_level();
    files.tokenizer.as_mut().unwrap()["pre_tokenizer"] =
        json!({"type": "Sequence", "pretokenizers": [{"type": "Metaspace"}, {"type": "ByteLevel"}]});
    let create = |files: &TokenizerFiles| {
        let dir = tempfile::tempdir().unwrap();
        let model = llama();
        gguf::GgufModelWriter::create(dir.path().join("m.gguf"), &model.config, files, None).map(drop)
    };
    let message = create(&files).unwrap_err().to_string();
    assert!(message.contains("no name is known") && message.contains("qwen2"), "{message}");
    files.pre = Some("superbpe".into());
    create(&files).unwrap();

    let mut model = llama();
    model.files = files;
    let checkpoint = open(write(&model)).unwrap();
    let message = checkpoint.side_file("tokenizer.json").unwrap_err().to_string();
    assert!(
        message.contains("\"superbpe\" is not known") && message.contains("hint: put the tokenizer.json"),
        "{message}"
    );
    assert!(checkpoint.tensor("model.norm.weight").is_ok(), "the rest is read all the same");
}
