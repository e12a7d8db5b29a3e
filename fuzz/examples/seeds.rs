//! Makes the seed corpora, `fuzz/corpus/TARGET/`, out of the fixtures of the tests and a few files made here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use trimtab_fuzz::SEPARATOR;
use trimtab_io::gguf::{GgufModelWriter, TokenizerFiles};
use trimtab_io::{
    AffineScheme, AffineTensor, Checkpoint, CompressedFormat, Dtype, FloatScheme, GptqConfig, GptqFormat,
    QuantizationConfig, RawTensor, awq_tensors, gptq_tensors, int_tensors, to_safetensors, to_tensors,
};
use trimtab_plan::{Plan, PlanHeader, PriceList, SiteOption, SitePrices, SolveOptions, Totals, solve};

type AnyResult<T = ()> = Result<T, Box<dyn std::error::Error>>;
type Tensors = Vec<(String, RawTensor)>;

const MODULE: &str = "m.proj";

fn main() -> AnyResult {
    safetensors()?;
    gguf()?;
    torch()?;
    quantized()?;
    adapter()?;
    tokenizer()?;
    plan()?;
    journal()?;
    data()?;
    spec()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn seed(target: &str, name: &str, parts: &[&[u8]]) -> AnyResult {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(format!("seed-{name}")), parts.join(SEPARATOR))?;
    Ok(())
}

/// Tensors as lines for `described`, and their numbers one after the other.
fn describe(tensors: &Tensors) -> (Vec<u8>, Vec<u8>) {
    let sorted: BTreeMap<_, _> = tensors.iter().map(|(name, tensor)| (name, tensor)).collect();
    let (mut lines, mut data) = (String::new(), Vec::new());
    for (name, tensor) in sorted {
        lines += &format!("{name} {}", tensor.dtype);
        tensor.shape.iter().for_each(|len| lines += &format!(" {len}"));
        lines.push('\n');
        data.extend_from_slice(&tensor.bytes);
    }
    (lines.into_bytes(), data)
}

fn all(path: impl AsRef<Path>) -> AnyResult<Tensors> {
    let checkpoint = Checkpoint::open(path)?;
    let tensors = checkpoint.names().map(|name| Ok((name.to_owned(), checkpoint.tensor(name)?)));
    Ok(tensors.collect::<trimtab_io::Result<_>>()?)
}

fn floats(shape: &[usize], dtype: Dtype) -> RawTensor {
    let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| i as f32 / 8.0).collect();
    RawTensor::from_f32(shape.to_vec(), &values, dtype).expect("as many numbers as the shape has")
}

fn bytes(shape: &[usize], dtype: Dtype) -> RawTensor {
    let size = shape.iter().product::<usize>() * dtype.size();
    let bytes: Vec<u8> = (0..size).map(|i| (i * 37 % 251) as u8).collect();
    RawTensor::new(dtype, shape.to_vec(), bytes.into()).expect("as many bytes as the shape has")
}

/// Header and data of a file.
fn halves(tensors: &Tensors) -> AnyResult<(Vec<u8>, Vec<u8>)> {
    let file = to_safetensors(tensors, &BTreeMap::from([("format".into(), "pt".into())]))?;
    let (length, rest) = file.split_at(8);
    let length = u64::from_le_bytes(length.try_into()?) as usize;
    Ok((rest[..length].to_vec(), rest[length..].to_vec()))
}

fn safetensors() -> AnyResult {
    let tensors = vec![
        ("a.weight".into(), floats(&[3, 4], Dtype::F32)),
        ("a.bias".into(), floats(&[3], Dtype::BF16)),
        ("h".into(), floats(&[2, 2], Dtype::F16)),
        ("i".into(), bytes(&[2], Dtype::I64)),
        ("f8".into(), bytes(&[4], Dtype::F8_E4M3)),
        ("empty".into(), floats(&[0, 5], Dtype::F32)),
    ];
    let (header, data) = halves(&tensors)?;
    seed("safetensors", "header", &[&header, &data, b"", b"", br#"{"model_type":"llama"}"#])?;
    seed("safetensors", "file", &[&to_safetensors(&tensors, &BTreeMap::new())?])?;
    let (first, data) = halves(&vec![("a".into(), floats(&[2], Dtype::F32))])?;
    let (second, _) = halves(&vec![("b".into(), floats(&[4], Dtype::F16))])?;
    let index = br#"{"metadata":{"total_size":16},"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    seed("safetensors", "shards", &[&first, &data, index, &second])?;
    let images = vec![
        ("test.images".into(), bytes(&[2, 1, 2, 2], Dtype::U8)),
        ("test.labels".into(), bytes(&[2], Dtype::U8)),
    ];
    let (header, data) = halves(&images)?;
    seed("safetensors", "images", &[&header, &data])
}

fn added(id: usize, text: &str) -> Value {
    json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
           "special": true})
}

/// Tokenizers of every kind, small.
fn tokenizers() -> Vec<(&'static str, Value, usize)> {
    let vocab = |words: &[String]| -> Map<String, Value> {
        words.iter().enumerate().map(|(id, word)| (word.clone(), json!(id))).collect()
    };
    let of = |model: Value, pre: Value, normalizer: Value, decoder: Value, special: &[&str]| {
        let first = special.first().copied().unwrap_or("<s>");
        let processor = json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": first, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {first: {"id": first, "ids": [0], "tokens": [first]}}});
        json!({"version": "1.0", "truncation": null, "padding": null,
            "added_tokens": special.iter().enumerate().map(|(id, text)| added(id, text)).collect::<Vec<_>>(),
            "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": processor, "decoder": decoder,
            "model": model})
    };
    // The letters that stand for bytes.
    let mut next = 255;
    let letters: Vec<String> = (0..=255u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte).to_string(),
            _ => {
                next += 1;
                char::from_u32(next).expect("below the surrogates").to_string()
            }
        })
        .collect();
    let words = |words: &[&str]| -> Vec<String> { words.iter().map(|word| word.to_string()).collect() };
    let level = [words(&["<s>", "</s>"]), letters, words(&["th", "the"])].concat();
    let bytes: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
    let pieces =
        [words(&["<unk>", "<s>", "</s>"]), bytes, words(&["▁", "t", "h", "e", "▁t", "he", "▁the"])].concat();
    let short = words(&["[UNK]", "[CLS]", "the", "cat", "##s", "sat", ",", "h", "##ello"]);
    let bpe = |vocab: Map<String, Value>, merges: Value, fallback: bool| {
        json!({"type": "BPE", "dropout": null, "unk_token": fallback.then_some("<unk>"), "fuse_unk": fallback,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "byte_fallback": fallback,
            "ignore_merges": false, "vocab": vocab, "merges": merges})
    };
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let split = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}|[^\\r\\n]?\\p{L}+|\\s+(?!\\S)|\\s+"},
         "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]});
    let prepend = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    let bert = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
        "strip_accents": null, "lowercase": true});
    let level_merges = json!([["t", "h"], ["th", "e"]]);
    let piece_merges = json!([["▁", "t"], ["h", "e"], ["▁t", "he"]]);
    let unigram = json!({"type": "Unigram", "unk_id": 0, "byte_fallback": false,
        "vocab": [["<unk>", 0.0], ["<s>", 0.0], ["▁", -1.0], ["t", -2.0], ["he", -1.5], ["▁the", -0.5]]});
    let metaspace =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let (level_len, piece_len) = (level.len(), pieces.len());
    vec![
        (
            "byte_level",
            of(
                bpe(vocab(&level), level_merges.clone(), false),
                byte_level.clone(),
                Value::Null,
                byte_level.clone(),
                &["<s>", "</s>"],
            ),
            level_len,
        ),
        (
            "split",
            of(bpe(vocab(&level[2..]), level_merges, false), split, json!({"type": "NFC"}), byte_level, &[]),
            level_len - 2,
        ),
        (
            "pieces",
            of(
                bpe(vocab(&pieces), piece_merges, true),
                Value::Null,
                prepend,
                Value::Null,
                &["<unk>", "<s>", "</s>"],
            ),
            piece_len,
        ),
        (
            "word_piece",
            of(
                json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                    "max_input_chars_per_word": 100, "vocab": vocab(&short)}),
                json!({"type": "BertPreTokenizer"}),
                bert,
                json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
                &["[UNK]", "[CLS]"],
            ),
            short.len(),
        ),
        (
            "word_level",
            of(
                json!({"type": "WordLevel", "vocab": vocab(&short), "unk_token": "[UNK]"}),
                json!({"type": "Whitespace"}),
                json!({"type": "Lowercase"}),
                Value::Null,
                &["[UNK]"],
            ),
            short.len(),
        ),
        ("unigram", of(unigram, metaspace.clone(), Value::Null, metaspace, &["<unk>", "<s>"]), 6),
    ]
}

fn tokenizer() -> AnyResult {
    for (name, json, _) in tokenizers() {
        seed("tokenizer", name, &[json.to_string().as_bytes(), "the cats sat, hé 12\n".as_bytes()])?;
    }
    Ok(())
}

fn gguf() -> AnyResult {
    let fixtures = repository().join("crates/io/tests/fixtures/gguf");
    seed("gguf", "tiny", &[&fs::read(fixtures.join("tiny.gguf"))?])?;
    for (name, tokenizer, vocab) in tokenizers() {
        let config = json!({"model_type": "llama", "hidden_size": 4, "intermediate_size": 8, "num_attention_heads": 1,
            "num_key_value_heads": 1, "num_hidden_layers": 1, "vocab_size": vocab, "max_position_embeddings": 64,
            "rms_norm_eps": 1e-5, "hidden_act": "silu", "rope_theta": 1e4, "tie_word_embeddings": true});
        let names = json!({"bos_token": "<s>", "unk_token": "[UNK]", "cls_token": "[CLS]"});
        let files =
            TokenizerFiles { tokenizer: Some(tokenizer), config: Some(names), ..TokenizerFiles::default() };
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("m.gguf");
        // Not every tokenizer can be expressed in this format.
        let Ok(mut writer) = GgufModelWriter::create(&path, &config, &files, Some("m")) else { continue };
        let block = |name: &str| format!("model.layers.0.{name}.weight");
        writer.append("model.embed_tokens.weight", &floats(&[vocab, 4], Dtype::F16))?;
        writer.append("model.norm.weight", &floats(&[4], Dtype::F32))?;
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            writer.append(&block(norm), &floats(&[4], Dtype::F32))?;
        }
        for head in ["q", "k", "v", "o"] {
            writer.append(&block(&format!("self_attn.{head}_proj")), &floats(&[4, 4], Dtype::F32))?;
        }
        writer.append(&block("mlp.gate_proj"), &floats(&[8, 4], Dtype::F32))?;
        writer.append(&block("mlp.up_proj"), &floats(&[8, 4], Dtype::F32))?;
        writer.append(&block("mlp.down_proj"), &floats(&[4, 8], Dtype::F32))?;
        writer.finish()?;
        seed("gguf", name, &[&fs::read(&path)?])?;
    }
    Ok(())
}

fn torch() -> AnyResult {
    let fixtures = repository().join("crates/io/tests/fixtures/torch");
    for name in ["zip.pt", "legacy.pt", "legacy4.pt", "protocol4.pt", "protocol5.pt", "training.th"] {
        seed("torch", name, &[&fs::read(fixtures.join(name))?])?;
    }
    Ok(())
}

/// A matrix of 4-bit codes that every format can hold.
fn matrix(symmetric: bool, ordered: bool) -> trimtab_io::Result<AffineTensor> {
    let (rows, cols, groups) = (32, 64, 2);
    let scheme = AffineScheme { bits: 4, group_size: Some(32), symmetric };
    let codes: Vec<u8> = (0..rows * cols).map(|i| (i * 7 % 16) as u8).collect();
    let zeros = (!symmetric).then(|| (0..rows * groups).map(|i| (1 + i % 15) as u8).collect());
    let order = ordered.then(|| (0..cols).map(|i| (i % groups) as u32).collect());
    AffineTensor::from_codes(rows, cols, scheme, &codes, vec![0.25; rows * groups], zeros, order, Dtype::F16)
}

fn quantized() -> AnyResult {
    let (plain, ordered) = (matrix(false, false)?, matrix(true, true)?);
    let compressed = |matrix| QuantizationConfig::of([(MODULE, matrix)], &[]);
    let gptq = |format, matrix| GptqConfig::of(format, [(MODULE, matrix)], &["m.other".into()]);
    let text = r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [12, 32], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.125}"#;
    let state = RawTensor::new(Dtype::U8, vec![text.len()], text.as_bytes().to_vec().into())?;
    let named = |tensors: Vec<(&str, RawTensor)>| -> Tensors {
        tensors.into_iter().map(|(suffix, tensor)| (format!("{MODULE}.{suffix}"), tensor)).collect()
    };
    let float = |scheme: FloatScheme| -> AnyResult<Value> {
        Ok(QuantizationConfig::of_codes([(MODULE, scheme.into())], &[])?.to_json())
    };
    let cases: Vec<(&str, Tensors, Value)> = vec![
        ("pack", to_tensors(MODULE, &plain)?, compressed(&plain).to_json()),
        ("pack_ordered", to_tensors(MODULE, &ordered)?, compressed(&ordered).to_json()),
        (
            "int",
            int_tensors(MODULE, &plain)?,
            compressed(&plain).in_format(CompressedFormat::IntQuantized, None).to_json(),
        ),
        ("gptq", gptq_tensors(MODULE, &plain, GptqFormat::V1)?, gptq(GptqFormat::V1, &plain)?.to_json()),
        (
            "gptq_v2",
            gptq_tensors(MODULE, &ordered, GptqFormat::V2)?,
            gptq(GptqFormat::V2, &ordered)?.to_json(),
        ),
        ("awq", awq_tensors(MODULE, &plain)?, json!({"quant_method": "awq", "bits": 4, "group_size": 32})),
        (
            "bnb4",
            named(vec![
                ("weight", bytes(&[192, 1], Dtype::U8)),
                ("weight.absmax", bytes(&[6], Dtype::U8)),
                ("weight.quant_map", floats(&[16], Dtype::F32)),
                ("weight.nested_absmax", floats(&[1], Dtype::F32)),
                ("weight.nested_quant_map", floats(&[256], Dtype::F32)),
                ("weight.quant_state.bitsandbytes__nf4", state),
            ]),
            json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}),
        ),
        (
            "bnb8",
            named(vec![("weight", bytes(&[6, 10], Dtype::I8)), ("SCB", floats(&[6], Dtype::F32))]),
            json!({"quant_method": "bitsandbytes", "load_in_8bit": true}),
        ),
        (
            "fp8",
            named(vec![
                ("weight", bytes(&[6, 10], Dtype::F8_E4M3)),
                ("weight_scale_inv", floats(&[2, 3], Dtype::F32)),
            ]),
            json!({"quant_method": "fp8", "weight_block_size": [4, 4]}),
        ),
        (
            "nvfp4",
            named(vec![
                ("weight_packed", bytes(&[3, 16], Dtype::U8)),
                ("weight_scale", bytes(&[3, 2], Dtype::F8_E4M3)),
                ("weight_global_scale", floats(&[1], Dtype::F32)),
            ]),
            float(FloatScheme::NVFP4)?,
        ),
        (
            "mxfp4",
            vec![
                ("m.experts.gate_up_proj_blocks".into(), bytes(&[2, 4, 2, 16], Dtype::U8)),
                ("m.experts.gate_up_proj_scales".into(), bytes(&[2, 4, 2], Dtype::U8)),
                ("m.experts.gate_up_proj_bias".into(), floats(&[2, 4], Dtype::BF16)),
            ],
            json!({"quant_method": "mxfp4"}),
        ),
    ];
    for (name, tensors, config) in cases {
        let (lines, data) = describe(&tensors);
        let config = json!({"quantization_config": config}).to_string();
        seed("quantized", name, &[config.as_bytes(), &lines, &data])?;
    }
    Ok(())
}

fn adapter() -> AnyResult {
    let fixtures = repository().join("crates/io/tests/fixtures/peft");
    for name in
        ["small.lora", "small.dora", "llama.lora", "llama.rslora", "llama.saved", "gpt2.lora", "gpt2.dora"]
    {
        let config = fs::read(fixtures.join(name).join("adapter_config.json"))?;
        let (adapter, data) = describe(&all(fixtures.join(name).join("adapter_model.safetensors"))?);
        let base = name.split('.').next().unwrap_or(name);
        let (model, _) = describe(&all(fixtures.join(base).join("model.safetensors"))?);
        seed("adapter", name, &[&config, &adapter, &model, &data[..data.len().min(512)]])?;
    }
    Ok(())
}

fn plan() -> AnyResult {
    let options = |damage: f64| {
        vec![SiteOption::new("int4 g32", 32, damage), SiteOption::new("int8 row", 64, damage / 256.0)]
    };
    let mut up = SitePrices::new("layers.0.up", 64, options(0.02));
    up.pinned = Some("int8 row".into());
    up.options[0].params.insert("bits".into(), 4.into());
    up.options[0].costs.macs = Some(9);
    up.options[0].costs.latency_s = Some(1e-3);
    up.options[1].costs.macs = Some(9);
    up.options[1].costs.latency_s = Some(2e-3);
    let mut down = SitePrices::new("layers.0.down", 64, options(0.50));
    down.group = Some("g".into());
    for (name, sites) in [("plain", vec![SitePrices::new("a", 64, options(0.1)), down]), ("costs", vec![up])]
    {
        let prices = PriceList::new("kl", sites)?;
        let totals = Totals { treated_weights: prices.weights(), ..Totals::default() };
        for (i, budget) in
            ["8bpw", "90%", "200kB, latency=12ms", "macs=1M,params=50%"].into_iter().enumerate()
        {
            let limits = "8bpw".parse::<trimtab_plan::Budget>()?.limits(&totals)?;
            let found = solve(&prices, &limits, &SolveOptions::default())?;
            let header = PlanHeader {
                model: "m".into(),
                budget: Some(budget.parse()?),
                totals: totals.clone(),
                ..PlanHeader::default()
            };
            let text = Plan::new(header, prices.clone(), &found)?.to_toml()?;
            let rest: [&[u8]; 3] = [budget.as_bytes(), b"*.down=int8 row", b"model.{a,layers}.[0-9]*.up"];
            seed("plan", &format!("{name}-{i}"), &[text.as_bytes(), rest[0], rest[1], rest[2]])?;
        }
    }
    Ok(())
}

fn journal() -> AnyResult {
    let (first, data) = halves(&vec![("a".into(), floats(&[2], Dtype::F32))])?;
    let (second, _) = halves(&vec![("b".into(), floats(&[4], Dtype::F16))])?;
    let file =
        |i: usize| format!(r##"{{"name":"{}.safetensors","bytes":%{i},"sha256":"#{i}"}}"##, ["a", "b"][i]);
    let unit = |i: usize| {
        format!(r#"{{"unit":{{"key":"block.{i}","file":{},"tensors":["{}"]}}}}"#, file(i), ["a", "b"][i])
    };
    let units = format!("{{\"job\":\"job\"}}\n{}\n{}\n", unit(0), unit(1));
    seed("journal", "units", &[units.as_bytes(), &first, &second, &data])?;
    let shards = format!("{units}{{\"shards\":[{},{}]}}\n", file(0), file(1));
    seed("journal", "shards", &[shards.as_bytes(), &first, &second, &data])?;
    seed("journal", "other", &[b"{\"job\":\"other\"}\n", &first, &second, &data])
}

fn data() -> AnyResult {
    seed("data", "quotes", &[b"sentence1,sentence2,score\n\"a, b\",c,2.5\nd,\"e \"\"f\"\"\",0\n"])?;
    seed("data", "plain", &[b"a,b,1\nc,d,4.75\r\n"])?;
    seed("data", "latin", &[b"caf\xe9 x"])?;
    seed("data", "series", &[b"date,a,b\n2016-07-01,5.8,-2.0e1\n2016-07-02,\"1\",3\n"])?;
    seed("data", "bmp", &[&bmp()])?;
    seed("data", "wav-i16", &[&wav(1, 2, 16, &[1, 2, 3, 4, 5, 6, 7, 8])])?;
    seed("data", "wav-i24", &[&wav(1, 1, 24, &[9; 12])])?;
    seed("data", "wav-f32", &[&wav(3, 1, 32, &[0, 0, 0, 0x3f, 0, 0, 0x80, 0xbf])])
}

/// Two by two pixels of three bytes, rows padded to four.
fn bmp() -> Vec<u8> {
    let mut file = b"BM".to_vec();
    file.extend([70u32, 0, 54, 40, 2, 2].map(u32::to_le_bytes).concat());
    file.extend([1u16, 24].map(u16::to_le_bytes).concat());
    file.extend([0u32, 16, 2835, 2835, 0, 0].map(u32::to_le_bytes).concat());
    file.extend([[10, 20, 30, 40, 50, 60, 0, 0], [70, 80, 90, 255, 0, 128, 0, 0]].concat());
    file
}

/// `format` is 1 for integers, 3 for floats.
fn wav(format: u16, channels: u16, bits: u16, data: &[u8]) -> Vec<u8> {
    let block = channels * bits / 8;
    let mut file = b"RIFF".to_vec();
    file.extend((36 + data.len() as u32).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16u32.to_le_bytes());
    file.extend([format, channels].map(u16::to_le_bytes).concat());
    file.extend([8000, 8000 * u32::from(block)].map(u32::to_le_bytes).concat());
    file.extend([block, bits].map(u16::to_le_bytes).concat());
    file.extend(b"data");
    file.extend((data.len() as u32).to_le_bytes());
    file.extend(data);
    file
}

fn spec() -> AnyResult {
    let models = repository().join("crates/models");
    let fixtures = models.join("tests/fixtures");
    for (specs, folder) in [("specs", fixtures.clone()), ("specs/conv", fixtures.join("conv"))] {
        for entry in fs::read_dir(models.join(specs))? {
            let path = entry?.path();
            if path.extension().is_none_or(|end| end != "toml") {
                continue;
            }
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let fixture =
                folder.join(if name == "t5_encoder" || name == "t5_decoder" { "t5" } else { &name });
            let fixture = match fixture.is_dir() {
                true => fixture,
                false => folder.join(name.split('_').next().unwrap_or(&name)),
            };
            let config = fs::read(fixture.join("config.json")).unwrap_or_default();
            let lines = match all(fixture.join("model.safetensors")) {
                Ok(tensors) => describe(&tensors).0,
                Err(_) => continue,
            };
            seed("spec", &name, &[&fs::read(&path)?, &config, &lines])?;
            seed("spec", &format!("{name}-built-in"), &[b"", &config, &lines])?;
        }
    }
    Ok(())
}
