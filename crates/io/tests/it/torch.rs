//! PyTorch files: what `torch.save` wrote reads to the same numbers; what is no file of tensors is refused.

use std::path::{Path, PathBuf};

use trimtab_hostile::{Draws, INPUTS, storm};
use trimtab_io::{Bytes, Checkpoint, Dtype};

use super::pickle::{Pickle, legacy, zip};
use super::{memory, tree};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch")
}

/// How two checkpoints differ; `None` if they hold the same tensors, to the last bit.
pub fn difference(found: &Checkpoint, expected: &Checkpoint) -> Option<String> {
    let names = |checkpoint: &Checkpoint| checkpoint.names().map(String::from).collect::<Vec<_>>();
    if names(found) != names(expected) {
        return Some(format!("{:?} and {:?}", names(found), names(expected)));
    }
    expected.names().find_map(|name| {
        let (a, b) = (found.tensor(name).unwrap(), expected.tensor(name).unwrap());
        let same = a.dtype == b.dtype && a.shape == b.shape && a.bytes[..] == b.bytes[..];
        (!same).then(|| format!("{name}: {a:?} {:?} and {b:?} {:?}", &a.bytes[..], &b.bytes[..]))
    })
}

/// What opening `weights.pt` with this content says.
fn refusal(bytes: Vec<u8>) -> String {
    match memory(&[("weights.pt", bytes)]) {
        Ok(checkpoint) => panic!("accepted, with {:?}", checkpoint.names().collect::<Vec<_>>()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_layout_reads_to_the_same_tensors() {
    let expected = Checkpoint::open(fixtures().join("expected.safetensors")).unwrap();
    assert!(expected.len() >= 18);
    for file in ["zip.pt", "legacy.pt", "protocol4.pt", "protocol5.pt", "legacy4.pt", "training.th"] {
        let path = fixtures().join(file);
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(difference(&checkpoint, &expected), None, "{file}");
        assert_eq!(checkpoint.total_bytes(), expected.total_bytes(), "{file}");
        assert_eq!(checkpoint.info("views.transposed").unwrap().numel(), 48);
        // The same bytes in memory.
        let held = memory(&[(file, std::fs::read(&path).unwrap())]).unwrap();
        assert_eq!(difference(&held, &expected), None, "{file} in memory");
        assert_eq!(held.fingerprint(), checkpoint.fingerprint());
    }
    let files = |name: &str| Checkpoint::open(fixtures().join(name)).unwrap();
    assert_ne!(files("zip.pt").fingerprint(), files("protocol4.pt").fingerprint());
}

#[test]
fn a_changed_number_is_seen() {
    let expected = Checkpoint::open(fixtures().join("expected.safetensors")).unwrap();
    let mut bytes = std::fs::read(fixtures().join("zip.pt")).unwrap();
    let number = expected.tensor("views.whole").unwrap();
    let at = bytes.windows(number.bytes.len()).position(|part| part == &number.bytes[..]).unwrap();
    bytes[at] ^= 1;
    let changed = memory(&[("zip.pt", bytes)]).unwrap();
    assert!(difference(&changed, &expected).is_some_and(|text| text.starts_with("views.")));
}

#[test]
fn storages_are_borrowed_and_shared() {
    let bytes = Bytes::from(std::fs::read(fixtures().join("zip.pt")).unwrap()).aligned();
    let (start, len) = (bytes.as_ptr() as usize, bytes.len());
    let checkpoint = Checkpoint::from_bytes(vec![("zip.pt".into(), bytes)]).unwrap();
    let place = |name: &str| checkpoint.tensor(name).unwrap().bytes.as_ptr() as usize;
    assert!((start..start + len).contains(&place("views.whole")));
    assert_eq!(place("views.rows"), place("views.whole") + 2 * 8 * 4, "one storage, not two copies");
    assert!(!(start..start + len).contains(&place("views.transposed")), "a view in another order is copied");
    assert!(checkpoint.tensor("views.transposed").unwrap().bytes.as_f32().is_some());
}

#[test]
fn directories_of_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| std::fs::copy(fixtures().join(from), dir.path().join(to)).map(drop);
    copy("zip.pt", "pytorch_model.bin").unwrap();
    std::fs::write(dir.path().join("training_args.bin"), "anything").unwrap();
    std::fs::write(dir.path().join("config.json"), r#"{"model_type":"llama"}"#).unwrap();
    let expected = Checkpoint::open(fixtures().join("expected.safetensors")).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(difference(&checkpoint, &expected), None);
    assert_eq!(checkpoint.config().unwrap()["model_type"], "llama");

    // Two shards through an index; then safetensors, which go first.
    std::fs::rename(dir.path().join("pytorch_model.bin"), dir.path().join("pytorch_model-1.bin")).unwrap();
    std::fs::write(
        dir.path().join("pytorch_model-2.bin"),
        zip(&Pickle::new().state(&["w"]), &[("0", &[0; 16])]),
    )
    .unwrap();
    let mut map: serde_json::Map<String, serde_json::Value> =
        expected.names().map(|name| (name.to_owned(), "pytorch_model-1.bin".into())).collect();
    map.insert("w".into(), "pytorch_model-2.bin".into());
    let index = serde_json::json!({"weight_map": map}).to_string();
    std::fs::write(dir.path().join("pytorch_model.bin.index.json"), index).unwrap();
    let sharded = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(sharded.len(), expected.len() + 1);
    assert_eq!(sharded.tensor("w").unwrap().to_f32().unwrap(), [0.0; 4]);
    copy("expected.safetensors", "model.safetensors").unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().len(), expected.len());
    assert_eq!(tree(dir.path()).len(), 6, "nothing is written beside the weights");
}

#[test]
fn a_pickle_that_would_run_code_is_refused_by_name() {
    let arguments = |p: Pickle| p.text("echo harm").op(b"\x85");
    let cases: [(&str, Pickle); 12] = [
        ("GLOBAL os.system at byte 2", arguments(Pickle::new().global("os", "system")).op(b"R")),
        ("GLOBAL posix.system at byte 2", Pickle::new().global("posix", "system")),
        ("GLOBAL builtins.eval at byte 2", arguments(Pickle::new().global("builtins", "eval")).op(b"R")),
        ("INST os.system at byte 12", Pickle::new().op(b"(").text("echo").op(b"ios\nsystem\n")),
        (
            "OBJ collections.OrderedDict at byte",
            Pickle::new().op(b"(").global("collections", "OrderedDict").op(b"o"),
        ),
        ("NEWOBJ torch.Size at byte", Pickle::new().global("torch", "Size").op(b")").op(b"\x81")),
        ("NEWOBJ_EX torch.Size at byte", Pickle::new().global("torch", "Size").op(b")}").op(b"\x92")),
        ("STACK_GLOBAL os.system at byte", Pickle::new().text("os").text("system").op(b"\x93")),
        // Names that lead from a harmless module to another, as Python's own lookup allows.
        ("STACK_GLOBAL torch.os.system at byte", Pickle::new().text("torch").text("os.system").op(b"\x93")),
        ("REDUCE torch storage of float32", Pickle::new().global("torch", "FloatStorage").op(b")R")),
        ("BUILD torch.Size at byte", Pickle::new().global("torch", "Size").op(b"}b")),
        ("EXT1 of the extension registry at byte 2", Pickle::new().op(b"\x82\x01")),
    ];
    for (expected, pickle) in cases {
        let program = pickle.op(b".").bytes();
        for file in [zip(&program, &[]), legacy(&program, b"\x80\x02].", &[])] {
            let message = refusal(file);
            // In an old file the place counts from its beginning.
            let expected = if message.contains("data.pkl") {
                expected
            } else {
                expected.split(" at byte").next().unwrap()
            };
            assert!(message.contains(expected), "{expected}: {message}");
            assert!(message.contains("would execute code; only tensors are read"), "{message}");
        }
    }
    // What runs code under an allowed name would have to get there through a memo: no value but a global is called.
    let through_memo = Pickle::new().text("os").op(b"q\x00)R.").bytes();
    assert!(refusal(zip(&through_memo, &[])).contains("REDUCE a string at byte"));
    // A key of the state dict cannot put control characters on the terminal.
    let escape = Pickle::new().op(b"cos\x1b[2J\nsystem\n.").bytes();
    assert!(!refusal(zip(&escape, &[])).contains('\x1b'));
}

#[test]
fn unsound_pickles_are_refused() {
    let program = |p: Pickle| zip(&p.op(b".").bytes(), &[("0", &[0; 16])]);
    let tensor = |shape: &[i32], strides: &[i32], offset: i32| {
        let p = Pickle::new().op(b"}").text("w").tensor("0", 4, shape, strides, offset);
        program(p.op(b"s"))
    };
    assert!(memory(&[("w.pt", tensor(&[2, 2], &[2, 1], 0))]).is_ok());
    assert!(memory(&[("w.pt", tensor(&[3], &[1], 1))]).is_ok());
    let cases = [
        (tensor(&[2, 2], &[2, 1], 1), "reach past its storage of 4 elements"),
        (tensor(&[2, 2], &[3, 1], 0), "reach past its storage"),
        (tensor(&[4], &[1], -1), "reach past its storage"),
        (tensor(&[-4], &[1], 0), "not negative"),
        (tensor(&[4], &[-1], 3), "not negative"),
        (tensor(&[2, 2], &[1], 0), "differ in length"),
        (tensor(&[i32::MAX, i32::MAX, i32::MAX], &[0, 0, 0], 0), "more bytes than the file has"),
        (tensor(&[100_000], &[0], 0), "more bytes than the file has"),
        (tensor(&[1; 17], &[1; 17], 0), "at most 16"),
        (
            program(Pickle::new().op(b"}").text("w").tensor("1", 4, &[4], &[1], 0).op(b"s")),
            "data/1) are not in",
        ),
        (
            program(Pickle::new().op(b"}").text("w").tensor("0", 5, &[4], &[1], 0).op(b"s")),
            "16 bytes, 5 elements",
        ),
        (program(Pickle::new().op(b"K\x01")), "holds an integer"),
        (program(Pickle::new().op(b"}").text("epoch").op(b"K\x01s")), "the keys are \"epoch\""),
        (program(Pickle::new().op(b"0")), "empty stack"),
        (program(Pickle::new().op(b"h\x07")), "memo 7 is empty"),
        (program(Pickle::new().op(b"u")), "mark that is not there"),
        (program(Pickle::new().op(b"(K\x01t0(0e")), "mark that is not there"),
        (program(Pickle::new().op(b"}(K\x01u")), "sets 1 keys and values"),
        (program(Pickle::new().op(b"K\x01K\x02a")), "appends to an integer"),
        (program(Pickle::new().op(b"\xff")), "0xff is not an opcode"),
        (program(Pickle::new().op(b"F1.5\n")), "FLOAT is not written by torch.save"),
        (program(Pickle::new().op(b"X\xff\xff\xff\x7fabc")), "truncated: 2147483647 bytes announced"),
        (zip(b"\x80\x06N.", &[]), "protocol 6"),
        (zip(b"\x80\x02", &[]), "truncated"),
        (program(Pickle::new().text("x").op(b"Q")), "no storage as torch.save describes it"),
    ];
    for (file, expected) in cases {
        let message = refusal(file);
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn the_weights_are_found_in_a_training_state() {
    let names = |p: Pickle| {
        let file = zip(&p.op(b".").bytes(), &[("0", &[0; 16])]);
        memory(&[("w.pt", file)]).map(|checkpoint| checkpoint.names().map(String::from).collect::<Vec<_>>())
    };
    let tensor = |p: Pickle, name: &str| p.text(name).tensor("0", 4, &[4], &[1], 0).op(b"s");
    let dict = |p: Pickle, names: &[&str]| names.iter().fold(p.op(b"}"), |p, name| tensor(p, name));
    // {"best": tensor, "model": {"module": {...}}, "optimizer": {...}}
    let nested = |inner: &[&str]| {
        let p = tensor(Pickle::new().op(b"}"), "best").text("model").op(b"}").text("module");
        let p = dict(p, inner).op(b"ss").text("optimizer");
        dict(p, &["momentum"]).op(b"s")
    };
    assert_eq!(names(nested(&["a.w", "b.w"])).unwrap(), ["a.w", "b.w"]);
    assert_eq!(names(nested(&["module.a", "module.b"])).unwrap(), ["a", "b"]);
    assert_eq!(names(nested(&["module._orig_mod.a", "module._orig_mod.b"])).unwrap(), ["a", "b"]);
    assert_eq!(names(nested(&["module.a", "b"])).unwrap(), ["b", "module.a"], "only where all have it");
    assert_eq!(names(dict(Pickle::new(), &["x"]).text("epoch").op(b"K\x03s")).unwrap(), ["x"]);
    assert!(names(dict(Pickle::new(), &["x", "x"])).unwrap_err().to_string().contains("is there twice"));
    assert!(names(Pickle::new().op(b"}")).unwrap().is_empty());
}

#[test]
fn archives_that_are_no_pytorch_files() {
    let sound = zip(&Pickle::new().state(&["w"]), &[("0", &[0; 16])]);
    assert!(memory(&[("w.pt", sound.clone())]).is_ok());
    for len in 0..sound.len() {
        refusal(sound[..len].to_vec());
    }
    // The first central entry is 22 + its names before the end; its fields are changed in place.
    let central = sound.windows(4).position(|part| part == b"PK\x01\x02").unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = sound.clone();
        bytes[central + at] = byte;
        refusal(bytes)
    };
    assert!(with(10, 8).contains("is compressed"), "{}", with(10, 8));
    assert!(with(8, 1).contains("is encrypted"));
    assert!(with(24, 1).contains("two different lengths"));
    assert!(with(44, 0xff).contains("outside the file"));
    let big = zip_with(b"big");
    assert!(refusal(big).contains("byte order"));
    assert!(
        refusal(b"hello, this is no model".to_vec()).contains("not a PyTorch file: starts with 68 65 6c 6c")
    );
}

fn zip_with(order: &[u8]) -> Vec<u8> {
    super::pickle::archive(&[
        ("a/data.pkl", &Pickle::new().state(&["w"])),
        ("a/byteorder", order),
        ("a/data/0", &[0; 16]),
    ])
}

#[test]
fn bombs_cost_no_more_than_their_length() {
    // Each list holds the one before ten times: read naively it has 10^50 entries.
    let mut p = Pickle::new().op(b"]q\x00");
    for _ in 0..50 {
        p = p.op(b"]q\x01(").op(&b"h\x00".repeat(10)).op(b"eq\x00");
    }
    assert!(refusal(zip(&p.op(b".").bytes(), &[])).contains("holds a list"));
    // A million nested tuples.
    let deep = Pickle::new().op(b")").op(&b"\x85".repeat(1_000_000)).op(b".").bytes();
    assert!(refusal(zip(&deep, &[])).contains("holds a tuple"));
    // A long list, turned into a dictionary again and again.
    let mut p = Pickle::new().global("collections", "OrderedDict").op(b"q\x01](");
    p = p.op(&b"K\x01K\x02\x86".repeat(50_000)).op(b"e\x85q\x00");
    let p = p.op(&b"0h\x01h\x00R".repeat(200)).op(b".").bytes();
    assert!(refusal(zip(&p, &[])).contains("more than 4000000 steps"));
    let long = Pickle::new().op(&b"N0".repeat(3_000_000)).op(b".").bytes();
    assert!(refusal(zip(&long, &[])).contains("more than 4000000 steps"));
}

/// One to five changes; mostly of a bit, a byte, or an opcode.
fn damage(whole: &[u8], draws: &mut Draws) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..=draws.below(4) {
        let at = draws.below(bytes.len());
        match draws.below(5) {
            0 => bytes[at] ^= 1 << draws.below(8),
            1 => bytes[at] = draws.below(256) as u8,
            2 => bytes[at] = b"(.0R}])tusbcioQqhK\x81\x93\x95"[draws.below(21)],
            3 => bytes.truncate(at.max(1)),
            _ => drop(bytes.splice(at..at, [draws.below(256) as u8])),
        }
    }
    bytes
}

#[test]
fn mutated_files_do_no_harm() {
    let read = |names: &[&str]| -> Vec<Vec<u8>> {
        names.iter().map(|name| std::fs::read(fixtures().join(name)).unwrap()).collect()
    };
    let mut new = read(&["zip.pt", "protocol4.pt", "protocol5.pt", "training.th"]);
    new.push(zip(&Pickle::new().state(&["w", "v"]), &[("0", &[0; 16])]));
    let old = read(&["legacy.pt", "legacy4.pt"]);
    for (seed, sound) in [(3, new), (4, old)] {
        let make = |draws: &mut Draws| damage(&sound[draws.below(sound.len())], draws);
        let opened = storm(INPUTS, seed, make, |bytes| {
            let Ok(checkpoint) = memory(&[("w.pt", bytes.clone())]) else { return false };
            for name in checkpoint.names() {
                let tensor = checkpoint.tensor(name).unwrap();
                assert_eq!(tensor.bytes.len(), tensor.shape.iter().product::<usize>() * tensor.dtype.size());
                let _ = tensor.to_f32();
            }
            true
        });
        assert!((1..INPUTS).contains(&opened), "{opened} of {INPUTS} opened");
    }
}

#[test]
fn types_that_are_not_read_are_named() {
    let p = Pickle::new().op(b"}").text("w").op(b"(").text("storage").global("torch", "ComplexFloatStorage");
    let p = p.text("0").text("cpu").op(b"K\x02tQ.").bytes();
    assert!(refusal(zip(&p, &[("0", &[0; 16])])).contains("torch.complex64 are not read"));
    // `_rebuild_tensor_v3` says itself what the bytes are.
    let typed = |number: &str| {
        let p = Pickle::new().op(b"}").text("w").global("torch._utils", "_rebuild_tensor_v3").op(b"((");
        let p =
            p.text("storage").global("torch.storage", "UntypedStorage").text("0").text("cpu").op(b"K\x10tQ");
        let p = p.op(b"K\x01K\x02\x85K\x01\x85\x89N").global("torch", number).op(b"tRs.").bytes();
        memory(&[("w.pt", zip(&p, &[("0", &[1; 16])]))])
    };
    let checkpoint = typed("int32").unwrap();
    let tensor = checkpoint.tensor("w").unwrap();
    assert_eq!((tensor.dtype, tensor.shape.as_slice()), (Dtype::I32, &[2][..]));
    assert_eq!(tensor.to_i64().unwrap(), [0x01010101; 2]);
    assert!(typed("complex64").unwrap_err().to_string().contains("torch.complex64 are not read"));
}
