//! Opening checkpoints of every kind.

use std::fs;

use trimtab_io::{Bytes, Checkpoint, Dtype, Error};

use super::{file, memory, tensor};

const TWO_SHARDS: &str =
    r#"{"metadata":{"total_size":1},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#;

fn two_shards(index: &str) -> trimtab_io::Result<Checkpoint> {
    memory(&[
        ("model.safetensors.index.json", index.into()),
        ("m-1.safetensors", file(&[("a", tensor(&[2], 1.0, Dtype::F32))])),
        ("m-2.safetensors", file(&[("b", tensor(&[3], 5.0, Dtype::BF16))])),
    ])
}

#[test]
fn a_directory_with_spaces_and_unicode_and_no_write_permission() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("mein modell ü 模型");
    fs::create_dir(&dir).unwrap();
    let weights = dir.join("model.safetensors");
    fs::write(&weights, file(&[("x.weight", tensor(&[2, 2], 1.0, Dtype::F16))])).unwrap();
    fs::write(dir.join("config.json"), r#"{"model_type":"llama"}"#).unwrap();
    fs::write(dir.join("tokenizer.json"), "{}").unwrap();
    let set_readonly = |readonly: bool| {
        for path in [&weights, &dir] {
            let mut permissions = fs::metadata(path).unwrap().permissions();
            permissions.set_readonly(readonly);
            fs::set_permissions(path, permissions).unwrap();
        }
    };
    set_readonly(true);
    let before = fs::metadata(&weights).unwrap().modified().unwrap();
    let checkpoint = Checkpoint::open(&dir).unwrap();
    assert_eq!(checkpoint.config().unwrap()["model_type"], "llama");
    assert_eq!(checkpoint.tensor("x.weight").unwrap().to_f32().unwrap(), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(checkpoint.metadata()["format"], "pt");
    assert_eq!(checkpoint.total_bytes(), 8);
    assert_eq!(checkpoint.files()[0].bytes, fs::metadata(&weights).unwrap().len());
    assert_eq!(&checkpoint.side_file("tokenizer.json").unwrap().unwrap()[..], b"{}");
    assert!(checkpoint.side_file("merges.txt").unwrap().is_none());
    assert_eq!(checkpoint.side_files().unwrap().len(), 1, "config.json is not copied unchanged");
    assert_eq!(fs::metadata(&weights).unwrap().modified().unwrap(), before);

    let single = Checkpoint::open(&weights).unwrap();
    assert_eq!(single.dir(), Some(dir.as_path()));
    assert_eq!(single.fingerprint(), checkpoint.fingerprint());
    set_readonly(false);
}

#[test]
fn memory_and_disk_agree_and_fingerprints_tell_models_apart() {
    let dir = tempfile::tempdir().unwrap();
    let weights = file(&[("a", tensor(&[3], 1.0, Dtype::F32))]);
    let config = br#"{"x":1}"#.to_vec();
    fs::write(dir.path().join("model.safetensors"), &weights).unwrap();
    fs::write(dir.path().join("config.json"), &config).unwrap();
    let disk = Checkpoint::open(dir.path()).unwrap();
    let held = memory(&[("model.safetensors", weights.clone()), ("config.json", config)]).unwrap();
    assert_eq!(held.fingerprint(), disk.fingerprint());
    let hash = |checkpoint: &Checkpoint| checkpoint.content_sha256("model.safetensors").unwrap();
    assert_eq!(hash(&held), hash(&disk));
    assert!(disk.content_sha256("other").is_err());

    let other_config = memory(&[("model.safetensors", weights), ("config.json", b"{}".to_vec())]).unwrap();
    assert_ne!(other_config.fingerprint(), disk.fingerprint());
    let changed = memory(&[("model.safetensors", file(&[("a", tensor(&[3], 2.0, Dtype::F32))]))]).unwrap();
    assert_ne!(hash(&changed), hash(&disk), "only the data differ");
    assert_eq!(held.named("@pico").path().to_str(), Some("@pico"));
}

#[test]
fn weights_in_memory_are_aligned_once() {
    let mut shifted = vec![0u8];
    shifted.extend(file(&[("a", tensor(&[3], 1.0, Dtype::F32))]));
    let len = shifted.len();
    let bytes = Bytes::from(shifted).slice(1..len).unwrap();
    let checkpoint = Checkpoint::from_bytes(vec![("model.safetensors".into(), bytes)]).unwrap();
    assert!(checkpoint.tensor("a").unwrap().bytes.as_f32().is_some());
}

#[test]
fn an_unpadded_header_gives_copies_with_the_same_numbers() {
    let mut raw = br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#.to_vec();
    while raw.len() % 4 != 1 {
        raw.push(b' ');
    }
    let mut bytes = (raw.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut raw);
    bytes.extend([1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()));
    let tensor = memory(&[("model.safetensors", bytes)]).unwrap().tensor("a").unwrap();
    assert!(tensor.bytes.as_f32().is_none());
    assert_eq!(tensor.as_f32_cow().unwrap()[..], [1.5, -2.0]);
}

#[test]
fn missing_names_come_with_their_neighbours() {
    let names = ["model.layers.0.q_proj.weight", "model.layers.1.q_proj.weight", "model.norm.weight"];
    let tensors: Vec<_> = names.iter().map(|&name| (name, tensor(&[1], 0.0, Dtype::F32))).collect();
    let checkpoint = memory(&[("model.safetensors", file(&tensors))]).unwrap();
    let error = checkpoint.tensor("layers.1.q_proj.weight").unwrap_err();
    let Error::MissingTensor { nearest, .. } = &error else { panic!("{error}") };
    assert_eq!(nearest[0], names[1]);
    assert!(error.to_string().contains("nearest: \"model.layers.1"), "{error}");
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), names);
}

#[test]
fn shards_are_found_through_the_index() {
    let checkpoint = two_shards(TWO_SHARDS).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(checkpoint.info("b").unwrap().file, "m-2.safetensors");
    assert_eq!(checkpoint.info("b").unwrap().bytes, 6);
    assert_eq!(checkpoint.info("b").unwrap().numel(), 3);
    assert_eq!(checkpoint.tensor("b").unwrap().to_f32().unwrap(), [5.0, 6.0, 7.0]);
    assert_eq!(checkpoint.files().len(), 2);
}

#[test]
fn index_and_shards_must_agree() {
    let cases = [
        // The other shard is then never opened.
        (r#"{"weight_map":{"a":"m-1.safetensors"}}"#, None),
        (
            r#"{"weight_map":{"a":"m-1.safetensors","b":"m-3.safetensors"}}"#,
            Some("shard m-3.safetensors for 1 tensors"),
        ),
        (
            r#"{"weight_map":{"a":"m-1.safetensors","b":"m-1.safetensors"}}"#,
            Some("listed in m-1.safetensors, but is not"),
        ),
        (
            r#"{"weight_map":{"a":"m-2.safetensors","b":"m-2.safetensors"}}"#,
            Some("listed in m-2.safetensors, but is not"),
        ),
        (r#"{"weight_map":{"b":"m-1.safetensors","a":"m-2.safetensors"}}"#, Some("found in")),
        (r#"{"weight_map":{"c":"m-1.safetensors","b":"m-2.safetensors"}}"#, Some("\"c\"")),
        (r#"{"weight_map":{"a":"../m-1.safetensors"}}"#, Some("leads out")),
        (r#"{"weight_map":{"a":1}}"#, Some("must be a string")),
        (r#"{"weight_map":{"a":"m-1.safetensors","a":"m-2.safetensors"}}"#, Some("listed twice")),
        (r#"{"weights":{}}"#, Some("weight_map")),
        ("{", Some("not a shard index")),
    ];
    for (index, expected) in cases {
        match (two_shards(index), expected) {
            (Ok(_), None) => {}
            (Err(error), Some(text)) => assert!(error.to_string().contains(text), "{index}: {error}"),
            (result, _) => panic!("{index}: {result:?}"),
        }
    }
}

#[test]
fn a_tensor_belongs_to_one_shard_and_to_the_index() {
    let index = r#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#;
    let with = |second: &[(&str, trimtab_io::RawTensor)]| {
        memory(&[
            ("model.safetensors.index.json", index.into()),
            ("m-1.safetensors", file(&[("a", tensor(&[2], 1.0, Dtype::F32))])),
            ("m-2.safetensors", file(second)),
        ])
    };
    let b = ("b", tensor(&[1], 0.0, Dtype::F32));
    assert!(with(std::slice::from_ref(&b)).is_ok());
    let twice = with(&[b.clone(), ("a", tensor(&[2], 1.0, Dtype::F32))]).unwrap_err().to_string();
    assert!(twice.contains("is also in m-1.safetensors"), "{twice}");
    let extra = with(&[b, ("z", tensor(&[2], 1.0, Dtype::F32))]).unwrap_err().to_string();
    assert!(extra.contains("\"z\": is in m-2.safetensors, but not in the index"), "{extra}");
}

#[test]
fn what_is_no_checkpoint_is_said() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Checkpoint::open(dir.path().join("absent")), Err(Error::NotACheckpoint { .. })));
    assert!(matches!(Checkpoint::open(dir.path()), Err(Error::NotACheckpoint { .. })));
    fs::write(dir.path().join("pytorch_model.bin"), b"PK").unwrap();
    assert!(matches!(Checkpoint::open(dir.path().join("pytorch_model.bin")), Err(Error::Malformed { .. })));
    fs::write(dir.path().join("model.safetensors"), b"").unwrap();
    assert!(matches!(Checkpoint::open(dir.path()), Err(Error::Malformed { .. })));
    let broken = memory(&[("model.safetensors", file(&[])), ("config.json", b"{".to_vec())]).unwrap_err();
    assert!(broken.to_string().starts_with("config.json: not JSON"), "{broken}");
}
