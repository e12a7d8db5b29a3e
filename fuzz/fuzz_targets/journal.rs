//! What an unfinished run left: its journal, its units, its shards.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use trimtab_fuzz::{folder, headed, parts};
use trimtab_io::{OutDir, sha256};

/// Names of the files of two units.
const UNITS: [&str; 2] = ["a.safetensors", "b.safetensors"];

fuzz_target!(|input: &[u8]| {
    let [journal, first, second, data] = parts(input);
    let files = [headed(first, data), headed(second, data)];
    let root = folder(&[]);
    let (out, partial) = (root.path().join("out"), root.path().join("out.partial"));
    for dir in ["units", "tree"] {
        std::fs::create_dir_all(partial.join(dir)).expect("a folder can be made");
    }
    // A journal is only believed if it has the hash of the file: `#0` and `#1` stand for those of the units, `%0` and
    // `%1` for their lengths.
    let mut text = String::from_utf8_lossy(journal).into_owned();
    for (i, (name, bytes)) in UNITS.iter().zip(&files).enumerate() {
        std::fs::write(partial.join("units").join(name), bytes).expect("a file can be written");
        std::fs::write(partial.join("tree").join(name), bytes).expect("a file can be written");
        text = text
            .replace(&format!("#{i}"), &sha256(bytes))
            .replace(&format!("%{i}"), &bytes.len().to_string());
    }
    std::fs::write(partial.join("lock"), b"").expect("a file can be written");
    std::fs::write(partial.join("journal.jsonl"), text).expect("a file can be written");
    let Ok(mut dir) = OutDir::create(&out, "job", false) else { return };
    for key in dir.units().map(String::from).collect::<Vec<_>>() {
        if let Ok(tensors) = dir.read_unit(&key) {
            assert!(
                tensors.iter().all(|(_, tensor)| tensor.bytes.len() == tensor.numel() * tensor.dtype.size())
            );
        }
    }
    if dir.finish_shards(64, &BTreeMap::new()).is_ok() {
        dir.finish().expect("whole shards can be finished");
    }
    // The folder beside is nobody's business.
    assert!(std::fs::read_dir(root.path()).expect("it is there").count() <= 2);
});
