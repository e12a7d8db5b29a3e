//! Nothing that writes goes past the layer that the tests make fail.

use std::path::{Path, PathBuf};

/// Ways to change a disk, or to open a file for it, without the layer.
const PAST: [&str; 12] = [
    "fs::write(",
    "fs::rename(",
    "fs::copy(",
    "fs::hard_link(",
    "fs::create_dir(",
    "fs::create_dir_all(",
    "fs::remove_file(",
    "fs::remove_dir(",
    "fs::remove_dir_all(",
    "fs::set_permissions(",
    "OpenOptions",
    "File::create",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs")
            && !path.to_string_lossy().ends_with("tests.rs")
        {
            found.push(path);
        }
    }
}

#[test]
fn every_writer_goes_through_the_layer() {
    let crates = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&crates).unwrap() {
        let path = entry.unwrap().path();
        // The disk that fails is below the layer; experiments write pages of the documentation in their tests only.
        if path.join("src").is_dir() && !path.ends_with("faults") {
            sources(&path.join("src"), &mut files);
        }
    }
    assert!(files.len() > 100);
    let mut past = Vec::new();
    let is_test = |file: &Path| {
        file.components().skip_while(|part| part.as_os_str() != "src").any(|part| part.as_os_str() == "tests")
    };
    for file in files.iter().filter(|file| !file.ends_with("io/src/fs.rs") && !is_test(file)) {
        let text = std::fs::read_to_string(file).unwrap();
        // Tests stand at the end.
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let layered = code.contains("use crate::fs") || code.contains("use trimtab_io::fs");
        for (i, line) in code.lines().enumerate() {
            let called = PAST.iter().any(|way| line.contains(way) && (!layered || line.contains("std::")));
            if called && !line.contains("io::fs::") && !line.contains("crate::fs::") {
                past.push(format!("{}:{}: {}", file.display(), i + 1, line.trim()));
            }
        }
    }
    assert!(past.is_empty(), "written past the layer:\n{}", past.join("\n"));
}
