//! Damaged files of a directory, a data set, a tokenizer, an unfinished run: an error or sound content, within limits.

use std::collections::BTreeMap;
use std::path::Path;

use tempfile::TempDir;
use trimtab_hostile::{Draws, INPUTS, mutate, storm, storm_of};
use trimtab_io::{
    Adapter, Bytes, Checkpoint, Dtype, ImageSet, OutDir, RawTensor, Tokenizer, read_latin1, read_pairs,
    read_text, sha256,
};

use super::gguf::tokenizers::{byte_level, sentence_piece, word_piece};
use super::{file, tensor, tree};

/// A folder in memory where the system has such: thousands are made, and some of them synced.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// Reads every tensor; returns whether there was something to open.
fn exhaust(checkpoint: trimtab_io::Result<Checkpoint>) -> bool {
    let Ok(checkpoint) = checkpoint else { return false };
    for name in checkpoint.names() {
        let tensor = checkpoint.tensor(name).unwrap();
        assert_eq!(tensor.bytes.len(), tensor.numel() * tensor.dtype.size());
        let _ = (tensor.to_f32(), tensor.to_i64(), tensor.first_non_finite());
    }
    true
}

#[test]
fn mutated_directories_do_no_harm() {
    let dir = folder();
    let put = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    let whole = file(&[("a", tensor(&[2, 3], 1.0, Dtype::F32)), ("b", tensor(&[4], 1.0, Dtype::BF16))]);
    let index =
        br#"{"metadata":{"total_size":32},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#;
    put("m-1.safetensors", &file(&[("a", tensor(&[2, 3], 1.0, Dtype::F32))]));
    put("m-2.safetensors", &file(&[("b", tensor(&[4], 1.0, Dtype::BF16))]));
    storm_of(index, 21, |index| {
        put("m.safetensors.index.json", index);
        exhaust(Checkpoint::open(dir.path()))
    });
    storm_of(&whole, 22, |bytes| {
        put("model.safetensors", bytes);
        exhaust(Checkpoint::open(dir.path()))
    });
}

#[test]
fn mutated_adapters_do_no_harm() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/peft");
    let fixture = |name: &str| std::fs::read(fixtures.join(name)).unwrap();
    let config = fixture("llama.lora/adapter_config.json");
    let weights = fixture("llama.lora/adapter_model.safetensors");
    let base = Checkpoint::open(fixtures.join("llama")).unwrap();
    let merge = |config: &[u8], weights: &[u8]| {
        let files = vec![
            ("adapter_model.safetensors".to_owned(), Bytes::from(weights.to_vec())),
            ("adapter_config.json".to_owned(), Bytes::from(config.to_vec())),
        ];
        let adapter = Checkpoint::from_bytes(files).and_then(Adapter::from_checkpoint);
        exhaust(adapter.and_then(|adapter| base.clone().with_adapter(adapter)))
    };
    storm_of(&config, 23, |config| merge(config, &weights));
    // Names and shapes: mutations of the whole would mostly hit numbers.
    let header = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    storm_of(&weights[8..header], 24, |text| {
        let mut changed = (text.len() as u64).to_le_bytes().to_vec();
        changed.extend_from_slice(text);
        changed.extend_from_slice(&weights[header..]);
        merge(&config, &changed)
    });
    assert!(tree(&fixtures).len() > 20, "nothing is removed");
}

/// A tokenizer with little vocabulary, so that changes hit what it is made of.
const SMALL: &str = r###"{
    "version": "1.0", "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
    "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": 8, "pad_id": 0, "pad_type_id": 0, "pad_token": "[P]"},
    "added_tokens": [{"id": 1, "content": "[C]", "single_word": false, "lstrip": false, "rstrip": true, "normalized": false, "special": true}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": "a{1,3}b?"}, "content": "x"}]},
    "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}|\\s+(?!\\S)|\\w+"}, "behavior": "Isolated", "invert": false},
    "post_processor": {"type": "BertProcessing", "sep": ["[S]", 2], "cls": ["[C]", 1]},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": "?", "continuing_subword_prefix": "##", "end_of_word_suffix": null,
        "fuse_unk": true, "byte_fallback": false, "ignore_merges": false,
        "vocab": {"?": 0, "[C]": 1, "[S]": 2, "x": 3, "##x": 4, "xx": 5}, "merges": ["x ##x"]}
}"###;

#[test]
fn mutated_tokenizers_do_no_harm() {
    let use_it = |json: &[u8]| {
        let Ok(tokenizer) = Tokenizer::from_bytes(json) else { return false };
        for special in [false, true] {
            if let Ok(ids) = tokenizer.encode("the aab  cats, h\u{e9} 12\n", special) {
                let _ = tokenizer.decode(&ids, special);
            }
            let _ = tokenizer.encode_batch(&["the cat", ""], special, 4);
        }
        true
    };
    let made =
        [byte_level(), sentence_piece(), word_piece()].map(|files| files.tokenizer.unwrap().to_string());
    for (k, json) in made.iter().map(String::as_str).chain([SMALL]).enumerate() {
        storm_of(json.as_bytes(), 30 + k as u64, use_it);
    }
}

#[test]
fn mutated_data_sets_do_no_harm() {
    let dir = folder();
    let (images, table) = (dir.path().join("set.safetensors"), dir.path().join("table.csv"));
    let bytes = |shape: &[usize]| {
        let n = shape.iter().product::<usize>();
        RawTensor::new(Dtype::U8, shape.to_vec(), vec![3; n].into()).unwrap()
    };
    let set = file(&[("test.images", bytes(&[4, 3, 2, 2])), ("test.labels", bytes(&[4]))]);
    storm_of(&set, 41, |set| {
        std::fs::write(&images, set).unwrap();
        let Ok(set) = ImageSet::read(&images, "test") else { return false };
        let all: Vec<usize> = (0..set.len().min(1000)).collect();
        assert_eq!(
            set.select(&all).pixels(0..all.len()).len(),
            all.len() * set.shape[1..].iter().product::<usize>()
        );
        true
    });
    let rows = "first,second,score\n\"a, b\",c,2.5\nd,\"e \"\"f\"\"\",0\nh\u{e9},i,5\n";
    storm_of(rows.as_bytes(), 42, |rows| {
        std::fs::write(&table, rows).unwrap();
        let text = read_text(&table);
        assert!(text.is_err() || text.unwrap().as_bytes() == rows);
        assert_eq!(read_latin1(&table).unwrap().chars().count(), rows.len());
        read_pairs(&table).is_ok_and(|pairs| pairs.iter().all(|pair| pair.score.is_finite()))
    });
}

#[test]
fn labels_of_images_that_take_no_bytes_are_not_believed() {
    let dir = folder();
    let path = dir.path().join("set.safetensors");
    let empty = |shape: &[usize]| RawTensor::new(Dtype::U8, shape.to_vec(), Vec::new().into()).unwrap();
    std::fs::write(&path, file(&[("t.images", empty(&[1 << 40, 0, 0, 0])), ("t.labels", empty(&[0]))]))
        .unwrap();
    assert!(ImageSet::read(&path, "t").unwrap_err().to_string().contains("one label an image"));
}

/// Two units of an unfinished run, and its journal.
fn unfinished() -> (Vec<(&'static str, Vec<u8>)>, String) {
    let units = vec![
        ("a.safetensors", file(&[("a", tensor(&[3], 1.0, Dtype::F32))])),
        (
            "b.safetensors",
            file(&[("b", tensor(&[2, 2], 1.0, Dtype::BF16)), ("c", tensor(&[], 1.0, Dtype::F32))]),
        ),
    ];
    let mut journal = "{\"job\":\"job\"}\n".to_owned();
    for (i, (name, bytes)) in units.iter().enumerate() {
        let tensors = [r#"["a"]"#, r#"["c","b"]"#][i];
        let file = format!(r#"{{"name":"{name}","bytes":{},"sha256":"{}"}}"#, bytes.len(), sha256(bytes));
        journal += &format!("{{\"unit\":{{\"key\":\"block.{i}\",\"file\":{file},\"tensors\":{tensors}}}}}\n");
    }
    (units, journal)
}

/// Takes an unfinished run up and ends it; returns how many of its units were taken over.
fn resume(units: &[(&str, Vec<u8>)], journal: &[u8]) -> usize {
    let root = folder();
    let partial = root.path().join("out.partial");
    for place in ["units", "tree"] {
        std::fs::create_dir_all(partial.join(place)).unwrap();
    }
    for (name, bytes) in units {
        std::fs::write(partial.join("units").join(name), bytes).unwrap();
    }
    std::fs::write(partial.join("lock"), b"").unwrap();
    std::fs::write(partial.join("journal.jsonl"), journal).unwrap();
    let Ok(mut dir) = OutDir::create(root.path().join("out"), "job", false) else { return 0 };
    let keys: Vec<String> = dir.units().map(String::from).collect();
    for key in &keys {
        if let Ok(tensors) = dir.read_unit(key) {
            assert!(tensors.iter().all(|(_, t)| t.bytes.len() == t.numel() * t.dtype.size()));
        }
    }
    if dir.finish_shards(16, &BTreeMap::new()).is_ok() {
        assert!(dir.finish().unwrap().join("model.safetensors").exists() || !keys.is_empty());
    }
    keys.len()
}

#[test]
fn mutated_journals_and_units_do_no_harm() {
    let (units, journal) = unfinished();
    assert_eq!(resume(&units, journal.as_bytes()), 2);
    storm_of(journal.as_bytes(), 51, |journal| resume(&units, journal) == 2);
    // A unit of another content is done again, whatever is in it.
    let damage = |draws: &mut Draws| {
        let mut units = units.clone();
        let victim = draws.below(units.len());
        units[victim].1 = mutate(&units[victim].1, draws);
        units
    };
    let whole = storm(INPUTS, 52, damage, |changed| {
        let taken = resume(changed, journal.as_bytes());
        assert_eq!(taken == 2, *changed == units, "a changed unit is not taken over");
        taken == 2
    });
    assert!(whole < INPUTS / 10, "{whole} of {INPUTS} as they were");
}
